//! What providers say became of a message, after they took it.
//!
//! Deliberately absent: how they say it; their signatures and formats are the gateways'.

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::domain::ids::NoticeId;
use crate::domain::notice::{Audience, Channel, NoticeKind, NoticeStatus};
use crate::store::pool::{execute, query_opt};
use crate::store::suppressions::SuppressionReason;
use crate::store::{Store, StoreError};

const RECORD: &str = include_str!("../../../sql/queries/notices/record_feedback.sql");
const SUPPRESS: &str = include_str!("../../../sql/queries/notices/suppress_recipient.sql");

/// How a provider names a message: any of these is enough.
#[derive(Clone, Debug)]
pub struct Named {
    /// Our identifier, which we gave it.
    pub by_us: Option<NoticeId>,
    /// The provider's own identifiers.
    pub by_provider: Vec<String>,
}

impl Named {
    /// By our identifier.
    pub fn by_us(id: NoticeId) -> Self {
        Self { by_us: Some(id), by_provider: Vec::new() }
    }

    /// By the provider's.
    pub fn by_provider(id: String) -> Self {
        Self { by_us: None, by_provider: vec![id] }
    }

    fn columns(&self) -> (Option<Uuid>, &[String]) {
        (self.by_us.map(NoticeId::uuid), &self.by_provider)
    }
}

/// A provider's word about a message.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// How it travelled.
    pub channel: Channel,
    /// Which message.
    pub notice: Named,
    /// What became of it: `Sent`, `Delivered` or `Undelivered`.
    pub status: NoticeStatus,
    /// The provider's own word, such as `delivered` or `bounce`.
    pub provider_status: String,
    /// When, as the provider says.
    pub at: OffsetDateTime,
    /// Why it did not arrive, without donor data.
    pub detail: Option<String>,
    /// Why nothing more is to be sent to that address, and who says so.
    pub suppress: Option<(SuppressionReason, String)>,
}

/// Kinds whose recipient is never suppressed: to lose the operators' own mails over one bounce is to lose alarms.
pub(super) fn spared() -> Vec<&'static str> {
    let to_operators = |kind: &NoticeKind| kind.audience() == Audience::Operators;
    NoticeKind::ALL.into_iter().filter(to_operators).map(NoticeKind::as_str).collect()
}

impl Store {
    /// Takes a provider's words, all or none; returns of each whether it moved its message. Old news and news of messages
    /// that we do not know move nothing.
    pub async fn record_feedback(&self, items: &[Feedback]) -> Result<Vec<bool>, StoreError> {
        let mut client = self.pools.reader().await?;
        let transaction = client.transaction().await?;
        let suppress = transaction.prepare_cached(SUPPRESS).await?;
        let record = transaction.prepare_cached(RECORD).await?;
        let mut moved = Vec::with_capacity(items.len());
        for it in items {
            let (ours, theirs) = it.notice.columns();
            let channel = it.channel.as_str();
            if let Some((reason, source)) = &it.suppress {
                let spared = spared();
                let params: [&(dyn ToSql + Sync); 7] =
                    [&channel, &ours, &theirs, &reason.as_str(), source, &it.at, &spared];
                transaction.execute(&suppress, &params).await?;
            }
            let params: [&(dyn ToSql + Sync); 7] =
                [&channel, &ours, &theirs, &it.status.as_str(), &it.provider_status, &it.at, &it.detail];
            moved.push(transaction.execute(&record, &params).await? > 0);
        }
        transaction.commit().await?;
        Ok(moved)
    }

    /// Nothing goes any more to where this message went: the donor, or whoever holds the mail, unsubscribed, or there is no
    /// such mailbox. Returns whether the message is known.
    pub async fn suppress_recipient(
        &self,
        channel: Channel,
        notice: NoticeId,
        reason: SuppressionReason,
        source: &str,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let (ours, theirs) = (Some(notice.uuid()), Vec::<String>::new());
        let params: [&(dyn ToSql + Sync); 7] =
            [&channel.as_str(), &ours, &theirs, &reason.as_str(), &source, &now, &spared()];
        execute(&client, SUPPRESS, &params).await?;
        let known = query_opt(&client, super::operations::LOAD, &[&notice.uuid()]).await?;
        Ok(known.is_some())
    }
}
