//! The events that no endpoint of ours accepted: found in Stripe's list, and taken in as if their webhooks had come.
//!
//! Page by page, so that memory is bounded; within a page the oldest first, though any order ends the same. Deliberately
//! absent: events that were accepted. What they say is compared with the payments themselves.

use futures::StreamExt;

use super::{Report, SIDE_BY_SIDE, Tools};
use crate::actors::payment::EVENT_SCOPE;
use crate::domain::payment::decide::Verdict;
use crate::domain::provider::ProviderEvent;
use crate::gateways::stripe::event::WebhookEvent;
use crate::gateways::stripe::{EventPage, EventQuery, ListedEvent};
use crate::store::StoreError;

/// What became of one event.
enum Fate {
    /// It was handled before.
    Known,
    /// It is new to us: taken in, or it would be.
    Missed(String),
    /// Its payment is not here.
    Stranger,
    /// It could not be understood or taken in.
    Failed(String),
}

/// Takes in what was missed; only looks, if there are no hands.
pub async fn back_fill(tools: &Tools, report: &mut Report) -> Result<(), String> {
    let mut query = EventQuery {
        created_gte: Some(tools.since.unix_timestamp()),
        delivery_success: Some(false),
        ..EventQuery::default()
    };
    loop {
        let EventPage { events, next } = tools
            .pace
            .ask(async || tools.stripe.list_events(&query).await)
            .await
            .map_err(|error| format!("Stripe does not list its events: {error}"))?;
        let fates = futures::stream::iter(events.iter().rev()).map(|listed| fate(tools, listed));
        let fates: Vec<Fate> = fates.buffered(SIDE_BY_SIDE).collect().await;
        for fate in fates {
            book(report, fate);
        }
        if next.is_none() {
            return Ok(());
        }
        query.starting_after = next;
    }
}

fn book(report: &mut Report, fate: Fate) {
    match fate {
        Fate::Known => {}
        Fate::Stranger => report.strangers += 1,
        Fate::Missed(line) => {
            report.missed += 1;
            report.tell(report.missed, &line);
        }
        Fate::Failed(line) => {
            report.failed += 1;
            report.tell(report.failed, &line);
        }
    }
}

async fn fate(tools: &Tools, listed: &ListedEvent) -> Fate {
    let id = listed.event.id().unwrap_or("without an id").to_owned();
    match look_at(tools, listed).await {
        Ok(fate) => fate,
        Err(error) => Fate::Failed(format!("event {id}: {error}")),
    }
}

async fn look_at(tools: &Tools, listed: &ListedEvent) -> Result<Fate, String> {
    let event = match &listed.event {
        WebhookEvent::Known(event) => event,
        WebhookEvent::Unrelated { .. } => return Ok(Fate::Known),
        WebhookEvent::Malformed(event) => return Err(format!("cannot be understood: {}", event.reason)),
    };
    let known = tools.store.load_answer(EVENT_SCOPE, &event.id).await.map_err(|error| error.to_string())?;
    if known.is_some_and(|known| known.answer.is_some()) {
        return Ok(Fate::Known);
    }
    let subject = format!("event {} {}", event.id, event.kind);
    let Some(hands) = &tools.hands else {
        let is_ours = is_ours(tools, event).await.map_err(|error| error.to_string())?;
        return Ok(if is_ours { Fate::Missed(format!("{subject}: never arrived")) } else { Fate::Stranger });
    };
    let answer = hands.take_in(listed).await.map_err(|error| error.to_string())?;
    Ok(match answer.verdict {
        Verdict::Duplicate => Fate::Known,
        Verdict::Parked => Fate::Stranger,
        Verdict::Applied | Verdict::Stale | Verdict::Rejected | Verdict::Ignored => {
            Fate::Missed(format!("{subject}: {}, {}", answer.verdict.as_str(), answer.reason))
        }
    })
}

async fn is_ours(tools: &Tools, event: &ProviderEvent) -> Result<bool, StoreError> {
    if let Some(id) = event.payment_id {
        return Ok(tools.store.load_payment(id.into()).await?.is_some());
    }
    let Some(intent) = &event.intent_id else { return Ok(false) };
    Ok(tools.store.find_payment_by_intent(intent).await?.is_some())
}
