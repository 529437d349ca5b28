//! The outbox: committed facts onto the bus, in the order of versions for each payment.
//!
//! A commit wakes it; a poll is the safety net. An event is forgotten only when every queue (or, in one process, every
//! consumer) has it, so a crash at any line publishes again and loses nothing. An event that is refused is tried by a
//! schedule and then set aside; it holds back its own payment's later events and nobody else's.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::FutureExt;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::facts::{Take, TakeError, Wake, hand_to};
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::domain::fact::Fact;
use crate::domain::retry::{PUBLISH, wait_after};
use crate::gateways::broker::{Outgoing, PublishOutcome, Publisher};
use crate::gateways::topology::{ConsumerQueue, Exchange};
use crate::metrics::METRICS;
use crate::store::outbox::{OutboxEvent, Postponed, claim_events, delete_published, postpone};
use crate::store::{Store, StoreError};
use crate::trace::{Kind, Span};

/// Events in one round at most: a larger one keeps a core busy for so long that donors notice.
const BATCH: i64 = 200;
/// The same where events are late: larger rounds cost less.
const LATE_BATCH: i64 = 500;
/// The safety net under the wake after a commit.
const POLL: Duration = Duration::from_secs(1);
/// How long the outbox waits when the bus or the database is away.
const AWAY: Duration = Duration::from_millis(500);
/// While donors wait too long, the outbox rests so many times what its round took, and no longer than this.
const RESTS_TIMES: u32 = 8;
const RESTS_AT_MOST: Duration = Duration::from_millis(300);
/// An event that waited so long is late: whatever the crowd, a fact must not wait for the end of it.
const LATE: time::Duration = time::Duration::seconds(3);
/// The rest between two rounds while donors wait too long and events are late.
const RESTS_WHEN_LATE: Duration = Duration::from_millis(50);

/// Where facts go.
pub enum Bus {
    /// Straight to the consumers of this process, each of which must take a fact before it counts as published.
    InProcess(Vec<(ConsumerQueue, Recipient<Take>)>),
    /// To RabbitMQ.
    Broker(Box<Publisher>),
}

/// What became of one event.
enum Delivery {
    Published,
    /// Refused as it is: by schedule, then aside.
    Refused(String),
    /// The bus is away: as it is, later.
    Later,
}

/// The actor.
pub struct Outbox {
    store: Store,
    bus: Arc<Bus>,
    clock: Clock,
    pressure: Pressure,
    working: bool,
    woken: bool,
    /// The round before met events that were late.
    is_late: bool,
}

impl Outbox {
    /// An outbox over `bus`, whose rounds give way to donors.
    pub fn new(store: Store, bus: Arc<Bus>, clock: Clock, pressure: Pressure) -> Self {
        Self { store, bus, clock, pressure, working: false, woken: false, is_late: false }
    }

    fn work(&mut self, ctx: &mut Context<Self>) {
        if self.working {
            self.woken = true;
            return;
        }
        self.working = true;
        self.woken = false;
        let (store, bus, clock) = (self.store.clone(), Arc::clone(&self.bus), self.clock.clone());
        // A panic must not end the only road for facts; the events stay where they are.
        let began = Instant::now();
        let limit = if self.is_late { LATE_BATCH } else { BATCH };
        let round = async move {
            AssertUnwindSafe(relay_round(&store, &bus, &clock, limit)).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a round of the outbox panicked; its events are tried again");
                Ok(Round::Away)
            })
        };
        ctx.spawn(round.into_actor(self).map(move |round, act, ctx| act.rest(round, began.elapsed(), ctx)));
    }

    /// After a round that took so long: the next one at once if there is more, or after a rest.
    fn rest(&mut self, round: Result<Round, StoreError>, took: Duration, ctx: &mut Context<Self>) {
        self.working = false;
        match round {
            Ok(Round::Done { is_full, is_late }) => {
                self.is_late = is_late;
                if is_full || self.woken {
                    let rest = rest_after(took, self.pressure.is_high(), is_late);
                    self.working = true;
                    ctx.run_later(rest, |act, ctx| {
                        act.working = false;
                        act.work(ctx);
                    });
                }
            }
            Ok(Round::Away) => {
                ctx.run_later(AWAY, Self::work);
            }
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read; it is tried again");
                ctx.run_later(AWAY, Self::work);
            }
        }
    }
}

/// How long the outbox rests between two rounds. Half of the time is its own where nobody waits too long; in a crowd, fewer
/// rounds of more events cost the database less, and donors wait for it.
fn rest_after(took: Duration, is_crowd: bool, is_late: bool) -> Duration {
    match (is_crowd, is_late) {
        (false, false) => took.min(RESTS_WHEN_LATE),
        (false, true) => Duration::ZERO,
        (true, false) => (took * RESTS_TIMES).clamp(RESTS_WHEN_LATE, RESTS_AT_MOST),
        (true, true) => RESTS_WHEN_LATE,
    }
}

enum Round {
    Done {
        /// There may be more.
        is_full: bool,
        /// Its first event had waited too long.
        is_late: bool,
    },
    /// The bus is away.
    Away,
}

async fn relay_round(store: &Store, bus: &Bus, clock: &Clock, limit: i64) -> Result<Round, StoreError> {
    let mut client = store.pools.reader().await?;
    let transaction = client.transaction().await?;
    let now = clock.now();
    let events = claim_events(&transaction, now, limit).await?;
    if events.is_empty() {
        drop(transaction);
        bus.keep_connected().await;
        return Ok(Round::Done { is_full: false, is_late: false });
    }
    let is_full = events.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let is_late = events.iter().any(|event| event.attempts == 0 && now - event.created_at > LATE);
    let (published, postponed, away) = relay(bus, events, now).await;
    METRICS.outbox_publishes.with_label_values(&["published"]).inc_by(published.len() as u64);
    METRICS.outbox_publishes.with_label_values(&["refused"]).inc_by(postponed.len() as u64);
    if !published.is_empty() {
        delete_published(&transaction, &published).await?;
    }
    if !postponed.is_empty() {
        postpone(&transaction, &postponed).await?;
    }
    transaction.commit().await?;
    Ok(if away { Round::Away } else { Round::Done { is_full, is_late } })
}

/// Sends events in waves: of each payment one event at a time, so that one that is refused is not overtaken.
async fn relay(bus: &Bus, events: Vec<OutboxEvent>, now: OffsetDateTime) -> (Vec<i64>, Vec<Postponed>, bool) {
    let (mut published, mut postponed, mut away) = (Vec::new(), Vec::new(), false);
    let mut held: HashSet<Uuid> = HashSet::new();
    for wave in waves(events) {
        let mut wave: Vec<OutboxEvent> = wave.into_iter().filter(|event| !held.contains(&event.aggregate_id)).collect();
        let deliveries = bus.deliver(&mut wave).await;
        for (event, delivery) in wave.iter().zip(deliveries) {
            match delivery {
                Delivery::Published => published.push(event.seq),
                Delivery::Later => {
                    held.insert(event.aggregate_id);
                    away = true;
                }
                Delivery::Refused(error) => {
                    held.insert(event.aggregate_id);
                    postponed.push(refused(event, error, now));
                }
            }
        }
        if away {
            break;
        }
    }
    (published, postponed, away)
}

fn waves(events: Vec<OutboxEvent>) -> Vec<Vec<OutboxEvent>> {
    let mut places: HashMap<Uuid, usize> = HashMap::new();
    let mut waves: Vec<Vec<OutboxEvent>> = Vec::new();
    for event in events {
        let place = places.entry(event.aggregate_id).or_default();
        if waves.len() == *place {
            waves.push(Vec::new());
        }
        let wave = *place;
        *place += 1;
        waves[wave].push(event);
    }
    waves
}

fn refused(event: &OutboxEvent, error: String, now: OffsetDateTime) -> Postponed {
    let wait = wait_after(PUBLISH, u32::try_from(event.attempts).unwrap_or(u32::MAX), 0);
    let next_attempt_at = wait.map(|wait| now + wait);
    if next_attempt_at.is_none() {
        tracing::error!(event = %event.id, event_type = event.event_type, error, "an event is set aside");
    }
    Postponed { seq: event.seq, next_attempt_at, dead_at: next_attempt_at.is_none().then_some(now), error }
}

impl Bus {
    /// Delivers a wave. Each event's journey is a span below what caused it, and what consumers do is below that.
    async fn deliver(&self, events: &mut [OutboxEvent]) -> Vec<Delivery> {
        let mut spans: Vec<Span> = events.iter_mut().map(|event| self.publish_span(event)).collect();
        let deliveries = match self {
            Self::InProcess(consumers) => hand_over(consumers, events).await,
            Self::Broker(publisher) => publish(publisher, events).await,
        };
        for (span, delivery) in spans.iter_mut().zip(&deliveries) {
            match delivery {
                Delivery::Published => {}
                Delivery::Refused(_) => span.fail("refused"),
                Delivery::Later => span.fail("away"),
            }
        }
        deliveries
    }

    fn publish_span(&self, event: &mut OutboxEvent) -> Span {
        let exchange = exchange_of(event).base_name();
        let mut span = Span::below(Kind::Producer, event.traceparent.as_deref(), || format!("send {exchange}"));
        if let Some(traceparent) = span.traceparent() {
            let system = match self {
                Self::InProcess(_) => "in_process",
                Self::Broker(_) => "rabbitmq",
            };
            span.set("messaging.system", system);
            span.set("messaging.operation.type", "send");
            span.set("messaging.operation.name", "publish");
            span.set("messaging.destination.name", exchange);
            span.set("messaging.rabbitmq.destination.routing_key", event.event_type.clone());
            span.set("messaging.message.id", event.id.to_string());
            event.traceparent = Some(traceparent);
        }
        span
    }

    /// A broker that came back is found again though nothing is to be published.
    async fn keep_connected(&self) {
        match self {
            Self::InProcess(_) => {}
            Self::Broker(publisher) if publisher.connected() => {}
            // Where it is away still, the next poll tries again.
            Self::Broker(publisher) => drop(publisher.connect().await),
        }
    }

    /// Ends the connection to the broker, if there is one.
    pub async fn close(&self) {
        match self {
            Self::InProcess(_) => {}
            Self::Broker(publisher) => publisher.close().await,
        }
    }
}

async fn publish(publisher: &Publisher, events: &[OutboxEvent]) -> Vec<Delivery> {
    let batch: Vec<Outgoing> = events.iter().map(outgoing).collect();
    match publisher.publish_batch(&batch).await {
        Ok(outcomes) => outcomes.into_iter().map(delivery).collect(),
        Err(error) => {
            tracing::debug!(%error, "the broker is away; events wait in the outbox");
            events.iter().map(|_| Delivery::Later).collect()
        }
    }
}

fn exchange_of(event: &OutboxEvent) -> Exchange {
    if event.event_type.starts_with("donation.") { Exchange::Donations } else { Exchange::Payments }
}

fn outgoing(event: &OutboxEvent) -> Outgoing {
    Outgoing {
        message_id: event.id,
        exchange: exchange_of(event),
        routing_key: event.event_type.clone(),
        body: event.body.clone().into_bytes(),
        traceparent: event.traceparent.clone(),
    }
}

fn delivery(outcome: PublishOutcome) -> Delivery {
    match outcome {
        PublishOutcome::Published => Delivery::Published,
        PublishOutcome::Unroutable => Delivery::Refused("no queue is bound for it".to_owned()),
        // A full queue passes; it is no fault of this event.
        PublishOutcome::Nacked | PublishOutcome::Unknown => Delivery::Later,
    }
}

/// Hands a wave to every consumer; where one refuses it, event by event, so that only the one at fault is held back.
async fn hand_over(consumers: &[(ConsumerQueue, Recipient<Take>)], events: &[OutboxEvent]) -> Vec<Delivery> {
    match hand_over_all(consumers, events).await {
        Ok(()) => events.iter().map(|_| Delivery::Published).collect(),
        Err(TakeError::Passing(error)) => {
            tracing::warn!(error, "a consumer is away; events wait in the outbox");
            events.iter().map(|_| Delivery::Later).collect()
        }
        Err(TakeError::Refused(error)) if events.len() == 1 => vec![Delivery::Refused(error)],
        Err(TakeError::Refused(_)) => {
            let mut deliveries = Vec::with_capacity(events.len());
            for event in events {
                deliveries.push(match hand_over_all(consumers, std::slice::from_ref(event)).await {
                    Ok(()) => Delivery::Published,
                    Err(TakeError::Passing(_)) => Delivery::Later,
                    Err(TakeError::Refused(error)) => Delivery::Refused(error),
                });
            }
            deliveries
        }
    }
}

async fn hand_over_all(
    consumers: &[(ConsumerQueue, Recipient<Take>)],
    events: &[OutboxEvent],
) -> Result<(), TakeError> {
    let facts = events.iter().map(fact_of).collect::<Result<Vec<Fact>, TakeError>>()?;
    for (queue, consumer) in consumers {
        hand_to(consumer, *queue, facts.clone()).await?;
    }
    Ok(())
}

/// The body says what caused it, the event where its publishing stands in that trace.
fn fact_of(event: &OutboxEvent) -> Result<Fact, TakeError> {
    let fact: Fact = serde_json::from_str(&event.body).map_err(|error| TakeError::Refused(error.to_string()))?;
    Ok(Fact { traceparent: event.traceparent.clone().or(fact.traceparent), ..fact })
}

impl Actor for Outbox {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(POLL, Self::work);
    }
}

impl Supervised for Outbox {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        self.working = false;
    }
}

impl Handler<Wake> for Outbox {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.work(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outbox_gives_way_to_a_crowd_by_a_bound_and_less_when_events_are_late() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(ms(20), false, false), ms(20), "half of the time is its own");
        assert_eq!(rest_after(ms(900), false, false), ms(50), "a broker that is slow is no reason to rest");
        assert_eq!(rest_after(ms(900), false, true), Duration::ZERO);
        assert_eq!(rest_after(ms(1), true, false), ms(50));
        assert_eq!(rest_after(ms(20), true, false), ms(160));
        assert_eq!(rest_after(ms(900), true, false), ms(300));
        assert_eq!(rest_after(ms(900), true, true), ms(50));
    }
}
