//! The events that Stripe keeps for 30 days, page by page: for those whose webhook never reached us
//! (<https://docs.stripe.com/api/events/list>).
//!
//! Deliberately absent: applying them. They go the road of webhooks, where duplicates are recognised.

use serde_json::value::RawValue;

use super::call::Call;
use super::event::{self, WebhookEvent};
use super::json::{RawList, ShapeError, decode};
use super::{GatewayError, Stripe};

/// The most objects that Stripe puts on one page.
pub const MAXIMUM_PAGE: u8 = 100;

/// Which events to list. The default lists all of the types that we act on.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Only these types; Stripe takes at most 20, and an empty list means all.
    pub types: Vec<String>,
    /// Only those made at this Unix second or later.
    pub created_gte: Option<i64>,
    /// `false`: only those that an endpoint has not accepted.
    pub delivery_success: Option<bool>,
    /// The page after this event: [`EventPage::next`] of the page before.
    pub starting_after: Option<String>,
    /// How many on a page, at most [`MAXIMUM_PAGE`].
    pub limit: u8,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self {
            types: event::KNOWN_KINDS.map(str::to_owned).to_vec(),
            created_gte: None,
            delivery_success: None,
            starting_after: None,
            limit: MAXIMUM_PAGE,
        }
    }
}

impl EventQuery {
    fn call(&self) -> Call {
        Call::get("events")
            .with([("limit", self.limit.clamp(1, MAXIMUM_PAGE).to_string())])
            .with(self.types.iter().map(|kind| ("types[]", kind.clone())))
            .with(self.created_gte.map(|second| ("created[gte]", second.to_string())))
            .with(self.delivery_success.map(|success| ("delivery_success", success.to_string())))
            .with(self.starting_after.clone().map(|id| ("starting_after", id)))
    }
}

/// One event as Stripe keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEvent {
    /// Read as a webhook is.
    pub event: WebhookEvent,
    /// What the webhook's body would be: kept if the event must wait for its payment.
    pub body: String,
}

/// One page of events, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// Read one by one; a strange one spoils none.
    pub events: Vec<ListedEvent>,
    /// The [`EventQuery::starting_after`] of the next page; `None` on the last one.
    pub next: Option<String>,
}

impl EventPage {
    fn read(json: &[u8]) -> Result<Self, ShapeError> {
        let list: RawList<'_> = decode(json)?;
        let listed =
            |raw: &&RawValue| ListedEvent { event: event::parse(raw.get().as_bytes()), body: raw.get().to_owned() };
        let events: Vec<_> = list.data.iter().map(listed).collect();
        let last = events.last().and_then(|listed| listed.event.id()).map(str::to_owned);
        Ok(Self { next: last.filter(|_| list.has_more), events })
    }
}

impl Stripe {
    /// One page of the events that Stripe keeps.
    pub async fn list_events(&self, query: &EventQuery) -> Result<EventPage, GatewayError> {
        self.transport.fetch(&query.call(), EventPage::read).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeStripe, Reply};
    use super::*;
    use crate::domain::provider::ProviderChange;

    #[actix_web::test]
    async fn events_are_listed_page_by_page_and_a_strange_one_spoils_none() {
        let page = r#"{"object":"list","has_more":true,"data":[
            {"id":"evt_2","type":"payment_intent.canceled","created":7,"data":{"object":{"id":"pi_1"}}},
            {"id":"evt_1","type":"charge.dispute.created","created":6,"data":{"object":{}}}]}"#;
        let server =
            FakeStripe::start([Reply::json(200, page), Reply::json(200, r#"{"data":[],"has_more":false}"#)]).await;
        let stripe = server.client();
        let mut query = EventQuery {
            types: vec!["payment_intent.canceled".into(), "charge.dispute.created".into()],
            created_gte: Some(5),
            delivery_success: Some(false),
            ..EventQuery::default()
        };
        let first = stripe.list_events(&query).await.unwrap();
        assert!(
            matches!(&first.events[0].event, WebhookEvent::Known(event) if event.change == ProviderChange::Canceled)
        );
        assert!(matches!(&first.events[1].event, WebhookEvent::Malformed(_)));
        assert!(first.events[1].body.starts_with(r#"{"id":"evt_1""#));
        query.starting_after = first.next;
        assert_eq!(stripe.list_events(&query).await.unwrap(), EventPage { events: Vec::new(), next: None });
        let asked = server.seen().remove(1);
        assert_eq!(asked.path, "/sandbox/stripe/v1/events");
        let expected = [
            ("limit", "100"),
            ("types[]", "payment_intent.canceled"),
            ("types[]", "charge.dispute.created"),
            ("created[gte]", "5"),
            ("delivery_success", "false"),
            ("starting_after", "evt_1"),
        ];
        assert_eq!(asked.query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_kinds_that_we_act_on_fit_into_one_query() {
        assert!(event::KNOWN_KINDS.len() <= 20);
    }
}
