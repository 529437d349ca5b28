//! What partners' programs are told: bodies as Standard Webhooks recommends them (`type`, `timestamp`, `data`).
//!
//! A body is made once, when the message is recorded, so that its bytes, and with them its signature's input, are the
//! same at every try. Deliberately absent: donors. A body says what the fact says.

use serde::Serialize;
use serde::ser::Serializer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::domain::fact::Fact;

/// What a webhook is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallbackKind {
    /// A fact.
    Event,
    /// An operator tests an endpoint.
    Test,
}

impl CallbackKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Event, Self::Test];

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "EVENT",
            Self::Test => "TEST",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

#[derive(Serialize)]
struct Body<'a, D> {
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(serialize_with = "rfc3339")]
    timestamp: OffsetDateTime,
    data: D,
}

#[derive(Serialize)]
struct Tested {
    endpoint_id: Uuid,
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

/// The body that tells of a fact.
pub fn fact_body(fact: &Fact) -> String {
    body(&Body { event_type: fact.kind.event_type(), timestamp: fact.time, data: &fact.data })
}

/// The body that tests an endpoint.
pub fn test_body(endpoint_id: Uuid, now: OffsetDateTime) -> String {
    body(&Body { event_type: "webhook.test", timestamp: now, data: Tested { endpoint_id } })
}

/// Plain structs of strings and numbers always serialise; were it ever otherwise, a partner would see an empty object.
fn body<D: Serialize>(body: &Body<'_, D>) -> String {
    serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::fact::FactKind;

    #[test]
    fn a_body_has_type_time_and_what_the_fact_carries() {
        let fact = super::super::tests::fact(FactKind::PaymentCompleted);
        let body: Value = serde_json::from_str(&fact_body(&fact)).unwrap();
        assert_eq!(body["type"], "payment.completed");
        assert_eq!(body["timestamp"], "2026-11-22T10:00:00.25Z");
        assert_eq!(body["data"], serde_json::to_value(&fact.data).unwrap());
        assert_eq!(body.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_test_says_that_it_is_one() {
        let body: Value = serde_json::from_str(&test_body(Uuid::nil(), OffsetDateTime::UNIX_EPOCH)).unwrap();
        assert_eq!(body["type"], "webhook.test");
        assert_eq!(body["data"]["endpoint_id"], Uuid::nil().to_string());
    }
}
