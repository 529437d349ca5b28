//! An event in Stripe's JSON.

use serde::Serialize;

use super::{API_VERSION, ObjectView};
use crate::sandbox::events::{Delivery, Event};
use crate::sandbox::expand::Expanded;

/// An event (<https://docs.stripe.com/api/events/object>).
#[derive(Serialize)]
pub(in crate::sandbox) struct EventView<'a> {
    id: &'a str,
    object: &'static str,
    api_version: &'static str,
    created: i64,
    data: EventData<'a>,
    livemode: bool,
    pending_webhooks: u8,
    request: RequestView<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct EventData<'a> {
    object: ObjectView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_attributes: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

#[derive(Serialize)]
struct RequestView<'a> {
    id: Option<&'a str>,
    idempotency_key: Option<&'a str>,
}

impl<'a> EventView<'a> {
    /// The event with its object as it stood then.
    pub fn new(event: &'a Event) -> Self {
        static NOTHING: Expanded = Expanded::NOTHING;
        Self {
            id: &event.id,
            object: "event",
            api_version: API_VERSION,
            created: event.created,
            data: EventData {
                object: ObjectView::new(&event.object, &NOTHING),
                previous_attributes: event.previous.as_deref(),
            },
            livemode: false,
            pending_webhooks: u8::from(event.delivery.is_waiting() || event.delivery == Delivery::Lost),
            request: RequestView {
                id: event.origin.request.as_deref(),
                idempotency_key: event.origin.idempotency_key.as_deref(),
            },
            kind: event.kind.as_str(),
        }
    }
}
