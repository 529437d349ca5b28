//! Donations: recorded many at a time, read one at a time.

use std::collections::HashMap;

use deadpool_postgres::Object;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{query, query_opt};
use super::{Store, StoreError};
use crate::domain::donation::NewDonation;
use crate::domain::fact::Fact;
use crate::domain::ids::{DonationId, MoveId};

const CREATE: &str = include_str!("../../sql/queries/donations/create_donations.sql");
const LOAD: &str = include_str!("../../sql/queries/donations/load_donation.sql");

/// A donation that waits to be recorded, with everything that is recorded together with it.
#[derive(Clone, Debug)]
pub struct Creation {
    /// The donation.
    pub donation: NewDonation,
    /// `donation.created`.
    pub fact: Fact,
    /// The identifier of the first row of history.
    pub move_id: MoveId,
    /// The key that its request came with.
    pub key: Option<ClaimedKey>,
}

/// An idempotency key, composed with its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedKey {
    /// Who called, and what for.
    pub scope: String,
    /// The key as it was sent.
    pub key: String,
    /// SHA-256 of method, path and body.
    pub fingerprint: [u8; 32],
}

/// What became of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreationOutcome {
    /// It is recorded.
    Recorded {
        /// Whether the campaign wants its donations captured by hand.
        manual_capture: bool,
    },
    /// The campaign does not take donations now, or not in this currency.
    NotOpen,
    /// Its key was used before.
    KeyTaken,
}

/// Records all of `batch` in one statement: all or none, but for those that are refused one by one.
pub async fn create_donations(client: &Object, batch: &[Creation]) -> Result<Vec<CreationOutcome>, StoreError> {
    let each = || batch.iter().map(|creation| &creation.donation);
    let keys = || batch.iter().map(|creation| creation.key.as_ref());
    let ids: Vec<Uuid> = each().map(|it| it.id.uuid()).collect();
    let payment_ids: Vec<Uuid> = each().map(|it| it.payment_id.uuid()).collect();
    let campaign_ids: Vec<Uuid> = each().map(|it| it.campaign_id.uuid()).collect();
    let amounts: Vec<i64> = each().map(|it| it.amount_minor).collect();
    let currencies: Vec<&str> = each().map(|it| it.currency.code()).collect();
    let names: Vec<&str> = each().map(|it| it.donor.name.as_str()).collect();
    let emails: Vec<&str> = each().map(|it| it.donor.email.as_str()).collect();
    let phones: Vec<Option<&str>> = each().map(|it| it.donor.phone.as_deref()).collect();
    let anonymous: Vec<bool> = each().map(|it| it.anonymous).collect();
    let messages: Vec<Option<&str>> = each().map(|it| it.message.as_deref()).collect();
    let created: Vec<OffsetDateTime> = each().map(|it| it.created_at).collect();
    let fact_ids: Vec<Uuid> = batch.iter().map(|it| it.fact.id.uuid()).collect();
    let bodies = batch.iter().map(|it| fact_body(&it.fact)).collect::<Result<Vec<String>, _>>()?;
    let traces: Vec<Option<&str>> = batch.iter().map(|it| it.fact.traceparent.as_deref()).collect();
    let partitions: Vec<i16> = batch.iter().map(|it| partition(it.fact.subject.uuid())).collect();
    let scopes: Vec<Option<&str>> = keys().map(|key| key.map(|key| key.scope.as_str())).collect();
    let names_of_keys: Vec<Option<&str>> = keys().map(|key| key.map(|key| key.key.as_str())).collect();
    let fingerprints: Vec<Option<&[u8]>> = keys().map(|key| key.map(|key| &key.fingerprint[..])).collect();
    let moves: Vec<Uuid> = batch.iter().map(|it| it.move_id.uuid()).collect();
    let rows = query(
        client,
        CREATE,
        &[
            &ids,
            &payment_ids,
            &campaign_ids,
            &amounts,
            &currencies,
            &names,
            &emails,
            &phones,
            &anonymous,
            &messages,
            &created,
            &fact_ids,
            &bodies,
            &traces,
            &partitions,
            &scopes,
            &names_of_keys,
            &fingerprints,
            &moves,
        ],
    )
    .await?;
    let outcomes: HashMap<Uuid, CreationOutcome> = rows.iter().map(|row| (row.get("id"), outcome(row))).collect();
    ids.iter().map(|id| outcomes.get(id).copied().ok_or_else(missing)).collect()
}

fn outcome(row: &Row) -> CreationOutcome {
    match (row.get("is_open"), row.get("is_recorded")) {
        (false, _) => CreationOutcome::NotOpen,
        (true, false) => CreationOutcome::KeyTaken,
        (true, true) => CreationOutcome::Recorded { manual_capture: row.get("manual_capture") },
    }
}

fn missing() -> StoreError {
    StoreError::corrupt("create_donations", "id", "a donation is missing in the answer")
}

/// A fact as it is stored and sent.
pub(super) fn fact_body(fact: &Fact) -> Result<String, StoreError> {
    serde_json::to_string(fact).map_err(|error| StoreError::Refused(error.to_string()))
}

/// How many partitions the outbox has.
pub const OUTBOX_PARTITIONS: u8 = 16;

/// The outbox partition of an aggregate: from the random end of its identifier.
pub(super) fn partition(aggregate: Uuid) -> i16 {
    i16::from(aggregate.as_bytes()[15] % OUTBOX_PARTITIONS)
}

/// A donation as its donor sees it.
#[derive(Clone, Debug, Serialize)]
pub struct DonationView {
    /// Its identifier.
    pub id: Uuid,
    /// What it is for.
    pub campaign_id: Uuid,
    /// In minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Where it stands.
    pub status: String,
    /// Rises with every change; the version of its payment.
    pub version: i64,
    /// Whether the public wall keeps the name back.
    pub anonymous: bool,
    /// A word to the public.
    pub message: Option<String>,
    /// The receipt's number, once money arrived.
    pub receipt_number: Option<String>,
    /// The version of the campaign's totals from which on this gift is counted; only once money moved. Ask for totals with
    /// `min_version` of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals_version: Option<i64>,
    /// The token with which the donor may read it; only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// How it is paid.
    pub payment: DonationPayment,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// The payment of a donation as its donor sees it.
#[derive(Clone, Debug, Serialize)]
pub struct DonationPayment {
    /// Its identifier.
    pub id: Uuid,
    /// Where it stands.
    pub status: String,
    /// Who moves the money.
    pub provider: String,
    /// The provider's identifier; `null` until the provider has answered.
    pub intent_id: Option<String>,
    /// With this the donor's browser confirms; `null` until the provider has answered.
    pub client_secret: Option<String>,
}

impl Store {
    /// One donation.
    pub async fn load_donation(&self, id: DonationId) -> Result<Option<DonationView>, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, LOAD, &[&id.uuid()]).await?;
        Ok(row.map(|row| view(&row)))
    }
}

fn view(row: &Row) -> DonationView {
    let receipt: Option<i64> = row.get("receipt_number");
    DonationView {
        id: row.get("id"),
        campaign_id: row.get("campaign_id"),
        amount_minor: row.get("amount_minor"),
        currency: row.get("currency"),
        status: row.get("status"),
        version: row.get("version"),
        anonymous: row.get("anonymous"),
        message: row.get("message"),
        receipt_number: receipt.map(crate::domain::notice::receipt_label),
        totals_version: None,
        access_token: None,
        payment: DonationPayment {
            id: row.get("payment_id"),
            status: row.get("payment_status"),
            provider: row.get("provider"),
            intent_id: row.get("intent_id"),
            client_secret: row.get("client_secret"),
        },
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
