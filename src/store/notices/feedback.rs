//! What providers say became of a message, after they took it.
//!
//! Deliberately absent: how they say it; their signatures and formats are the gateways'.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::ids::NoticeId;
use crate::domain::notice::{Channel, NoticeStatus};
use crate::store::pool::{execute, query_opt};
use crate::store::suppressions::SuppressionReason;
use crate::store::{Store, StoreError};

const RECORD: &str = include_str!("../../../sql/queries/notices/record_feedback.sql");
const SUPPRESS: &str = include_str!("../../../sql/queries/notices/suppress_recipient.sql");

/// How a provider names a message.
#[derive(Clone, Debug)]
pub enum Named {
    /// By our identifier, which we gave it.
    ByUs(NoticeId),
    /// By the provider's own identifier.
    ByProvider(String),
}

impl Named {
    fn columns(&self) -> (Option<Uuid>, Option<&str>) {
        match self {
            Self::ByUs(id) => (Some(id.uuid()), None),
            Self::ByProvider(id) => (None, Some(id)),
        }
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

impl Store {
    /// Takes a provider's word; returns whether it moved the message. Old news and news of messages that we do not know
    /// move nothing.
    pub async fn record_feedback(&self, it: &Feedback) -> Result<bool, StoreError> {
        let mut client = self.pools.reader().await?;
        let (ours, theirs) = it.notice.columns();
        let channel = it.channel.as_str();
        let transaction = client.transaction().await?;
        if let Some((reason, source)) = &it.suppress {
            let suppress = transaction.prepare_cached(SUPPRESS).await?;
            transaction.execute(&suppress, &[&channel, &ours, &theirs, &reason.as_str(), source, &it.at]).await?;
        }
        let record = transaction.prepare_cached(RECORD).await?;
        let moved = transaction
            .execute(&record, &[&channel, &ours, &theirs, &it.status.as_str(), &it.provider_status, &it.at, &it.detail])
            .await?;
        transaction.commit().await?;
        Ok(moved > 0)
    }

    /// Nothing goes any more to where this message went: the donor, or whoever holds the mail, unsubscribed. Returns
    /// whether the message is known.
    pub async fn suppress_recipient(
        &self,
        channel: Channel,
        notice: NoticeId,
        reason: SuppressionReason,
        source: &str,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let by_provider: Option<&str> = None;
        execute(
            &client,
            SUPPRESS,
            &[&channel.as_str(), &Some(notice.uuid()), &by_provider, &reason.as_str(), &source, &now],
        )
        .await?;
        let known = query_opt(&client, super::operations::LOAD, &[&notice.uuid()]).await?;
        Ok(known.is_some())
    }
}
