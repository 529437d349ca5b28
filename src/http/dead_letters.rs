//! What lies dead, for operators: messages, facts that the outbox set aside, and the broker's dead letters, side by side.
//!
//! An order takes a bounded number at once and may be repeated as it is: what is replayed or discarded is dead no more. To
//! discard a fact loses it for whoever waits for it, so it is done by name only, and the audit log keeps it; it keeps what
//! is discarded from a queue too. Deliberately absent: bodies. Messages hold donors' data, and facts are found by the
//! payment that they are about.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout;
use uuid::Uuid;

use super::AppState;
use super::access::operator;
use super::campaigns::Page;
use super::extract::{Json, limit, query};
use super::notifications::wake_couriers;
use super::problem::{FieldError, Problem};
use crate::domain::notice::NoticeStatus;
use crate::gateways::broker::dead_letters::{self, DeadLetter, Letters};
use crate::gateways::broker::{BrokerError, BrokerSettings};
use crate::gateways::topology::ConsumerQueue;
use crate::store::audit::DiscardedLetter;
use crate::store::dead_letters::{Chosen, DEAD_LETTERS_AT_ONCE};
use crate::store::notices::NoticeFilter;

const READ: &str = "dead_letters:read";
const WRITE: &str = "dead_letters:write";
/// How long the broker may take to count; the database's part of the answer does not wait for longer.
const COUNT_WAIT: Duration = Duration::from_secs(5);
/// Dead letters of a queue that one order replays or discards, at most: each is an exchange with the broker.
const QUEUE_AT_ONCE: u32 = 1000;

#[derive(Serialize)]
struct Overview {
    notifications: Heap,
    outbox: Heap,
    /// `null` where there is no broker to ask.
    queues: Option<Vec<QueueHeap>>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    queues_reason: Option<String>,
}

#[derive(Serialize)]
struct Heap {
    count: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    oldest_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct QueueHeap {
    queue: &'static str,
    count: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticesQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    limit: Option<i64>,
    cursor: Option<i64>,
}

/// Which dead letters: by name, or the oldest thousand.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection<T> {
    ids: Option<Vec<T>>,
    #[serde(default)]
    all: bool,
}

/// Which facts are lost: by name only.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedOnly {
    ids: Vec<i64>,
}

/// Which queue's dead letters: so many of the oldest, or by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfQueue {
    queue: String,
    limit: Option<u32>,
    ids: Option<Vec<Uuid>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LettersQuery {
    limit: Option<i64>,
}

/// A dead letter as operators see it.
#[derive(Serialize)]
struct LetterRow {
    message_id: Option<Uuid>,
    event_type: String,
    #[serde(with = "time::serde::rfc3339::option")]
    died_at: Option<OffsetDateTime>,
    deaths: i64,
    reason: Option<String>,
}

impl From<DeadLetter> for LetterRow {
    fn from(it: DeadLetter) -> Self {
        let DeadLetter { message_id, event_type, died_at, deaths, reason, body: _ } = it;
        Self { message_id, event_type, died_at, deaths, reason }
    }
}

/// What came of an order.
#[derive(Serialize)]
struct Done<T> {
    /// How many were replayed, or discarded.
    count: usize,
    /// Those that were named and are not dead, or cannot be delivered because their endpoint is disabled.
    skipped: Vec<T>,
    /// How many still lie dead.
    remaining: i64,
}

#[derive(Serialize)]
struct QueueDone {
    queue: &'static str,
    count: u32,
    /// Those that were named and are not among the oldest dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<Vec<Uuid>>,
}

/// `GET /dead-letters`
pub async fn overview(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, READ).await?;
    let (measured, queues) = tokio::join!(state.store.measure_dead_letters(), count_queues(&state));
    let measured = measured?;
    let (queues, queues_reason) = match queues {
        Ok(queues) => (Some(queues), None),
        Err(reason) => (None, Some(reason)),
    };
    Ok(HttpResponse::Ok().json(Overview {
        notifications: Heap { count: measured.notices, oldest_at: measured.oldest_notice },
        outbox: Heap { count: measured.events, oldest_at: measured.oldest_event },
        queues,
        queues_reason,
    }))
}

async fn count_queues(state: &AppState) -> Result<Vec<QueueHeap>, String> {
    let Some(broker) = &state.broker else { return Err("there is no broker: facts stay in this process".to_owned()) };
    let counts = timeout(COUNT_WAIT, dead_letters::counts(broker)).await;
    let counts = counts.map_err(|_| "the broker did not answer in time".to_owned())?;
    // What exactly keeps us from it is for the log: it names machines.
    let counts = counts.map_err(|error| {
        tracing::warn!(%error, "the broker's dead letters cannot be counted");
        "the broker is away".to_owned()
    })?;
    Ok(counts.into_iter().map(|(queue, count)| QueueHeap { queue: queue.name(), count }).collect())
}

/// `GET /dead-letters/notifications`: newest first, as all messages are listed.
pub async fn notices(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, READ).await?;
    let asked: NoticesQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let dead = NoticeFilter { status: Some(NoticeStatus::Dead), ..NoticeFilter::default() };
    let items = state.store.list_notices(&dead, asked.cursor, limit + 1).await?;
    Ok(HttpResponse::Ok().json(Page::of(items, limit, |notice| notice.id.to_string())))
}

/// `GET /dead-letters/outbox`: in the order in which they are to leave.
pub async fn events(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, READ).await?;
    let asked: EventsQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let items = state.store.list_dead_events(asked.cursor.unwrap_or(0), limit + 1).await?;
    Ok(HttpResponse::Ok().json(Page::of(items, limit, |event| event.seq.to_string())))
}

/// `POST /dead-letters/notifications/replay`
pub async fn replay_notices(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<Selection<Uuid>>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let done = state.store.replay_notices(body.value.chosen()?, state.clock.now()).await?;
    tracing::info!(operator = operator.name, count = done.len(), "dead messages were replayed");
    wake_couriers(&state);
    let remaining = state.store.measure_dead_letters().await?.notices;
    Ok(HttpResponse::Ok().json(body.value.done(&done, remaining)))
}

/// `POST /dead-letters/notifications/discard`
pub async fn discard_notices(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<Selection<Uuid>>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let done = state.store.discard_notices(body.value.chosen()?).await?;
    tracing::warn!(operator = operator.name, count = done.len(), "dead messages were discarded");
    let remaining = state.store.measure_dead_letters().await?.notices;
    Ok(HttpResponse::Ok().json(body.value.done(&done, remaining)))
}

/// `POST /dead-letters/outbox/replay`: the outbox finds them at its next look, within a second.
pub async fn replay_events(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<Selection<i64>>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let done = state.store.replay_events(body.value.chosen()?).await?;
    tracing::info!(operator = operator.name, count = done.len(), "events that were set aside are due again");
    let remaining = state.store.measure_dead_letters().await?.events;
    Ok(HttpResponse::Ok().json(body.value.done(&done, remaining)))
}

/// `POST /dead-letters/outbox/discard`
pub async fn discard_events(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<NamedOnly>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let named = Selection { ids: Some(body.value.ids), all: false };
    named.chosen()?;
    let ids = named.ids.as_deref().unwrap_or_default();
    let done = state.store.discard_events(ids, &operator.name, state.clock.now()).await?;
    tracing::warn!(operator = operator.name, count = done.len(), "events were discarded; the audit log has them");
    let remaining = state.store.measure_dead_letters().await?.events;
    Ok(HttpResponse::Ok().json(named.done(&done, remaining)))
}

/// `GET /dead-letters/queues/{queue}`: the oldest; they stay where they are.
pub async fn letters(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, READ).await?;
    let asked: LettersQuery = query(&request)?;
    let limit = u32::try_from(limit(asked.limit)?).unwrap_or(dead_letters::SHOWN_MAX);
    let queue = request.match_info().get("queue").and_then(ConsumerQueue::parse);
    let queue = queue.ok_or_else(|| Problem::not_found("queue"))?;
    let letters = dead_letters::list(broker(&state)?, queue, limit).await?;
    let items: Vec<LetterRow> = letters.into_iter().map(LetterRow::from).collect();
    Ok(HttpResponse::Ok().json(Page { items, next_cursor: None }))
}

fn broker(state: &AppState) -> Result<&BrokerSettings, Problem> {
    let broker = state.broker.as_ref();
    broker.ok_or_else(|| Problem::conflict("no-broker", "There is no broker, so there are no queues."))
}

/// `POST /dead-letters/queues/replay`: back to the end of the queue, each with a fresh count of deliveries.
pub async fn replay_queue(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<OfQueue>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let (broker, queue, letters) = body.value.check(&state)?;
    let done = dead_letters::replay(broker, queue, letters).await?;
    tracing::info!(operator = operator.name, queue = queue.name(), count = done.count, "dead letters were put back");
    Ok(HttpResponse::Ok().json(body.value.done(queue, &done)))
}

/// `POST /dead-letters/queues/discard`: the audit log keeps what is dropped, for it is nowhere else.
pub async fn discard_queue(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<OfQueue>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, WRITE).await?;
    let (broker, queue, letters) = body.value.check(&state)?;
    let keep = async |letter: &DeadLetter| {
        let (message_id, body) = (letter.message_id, letter.body.as_slice());
        let it = DiscardedLetter { operator: &operator.name, queue: queue.name(), message_id, body };
        state.store.record_discarded(it, state.clock.now()).await.map_err(|error| error.to_string())
    };
    let done = dead_letters::discard(broker, queue, letters, keep).await?;
    let count = done.count;
    tracing::warn!(
        operator = operator.name,
        queue = queue.name(),
        count,
        "dead letters were discarded; the audit log has them"
    );
    Ok(HttpResponse::Ok().json(body.value.done(queue, &done)))
}

impl<T: Copy + PartialEq> Selection<T> {
    fn chosen(&self) -> Result<Chosen<'_, T>, Problem> {
        let detail = match (&self.ids, self.all) {
            (None, true) => return Ok(Chosen::Oldest(DEAD_LETTERS_AT_ONCE)),
            (Some(ids), false) if ids.is_empty() => "must name at least one".to_owned(),
            (Some(ids), false) if i64::try_from(ids.len()).is_ok_and(|count| count <= DEAD_LETTERS_AT_ONCE) => {
                return Ok(Chosen::These(ids));
            }
            (Some(_), false) => format!("must name at most {DEAD_LETTERS_AT_ONCE}"),
            (Some(_), true) | (None, false) => "must be sent, or all: true instead".to_owned(),
        };
        Err(Problem::invalid(vec![FieldError::new("/ids", detail)]))
    }

    fn done(&self, done: &[T], remaining: i64) -> Done<T> {
        let named = self.ids.iter().flatten().copied();
        Done { count: done.len(), skipped: named.filter(|id| !done.contains(id)).collect(), remaining }
    }
}

impl OfQueue {
    fn check<'a>(&'a self, state: &'a AppState) -> Result<(&'a BrokerSettings, ConsumerQueue, Letters<'a>), Problem> {
        let mut errors = Vec::new();
        let queue = ConsumerQueue::parse(&self.queue);
        if queue.is_none() {
            let known = ConsumerQueue::ALL.map(ConsumerQueue::name).join(", ");
            errors.push(FieldError::new("/queue", format!("must be one of {known}")));
        }
        let limit = self.limit.unwrap_or(QUEUE_AT_ONCE);
        if !(1..=QUEUE_AT_ONCE).contains(&limit) {
            errors.push(FieldError::new("/limit", format!("must be from 1 to {QUEUE_AT_ONCE}")));
        }
        let letters = match &self.ids {
            None => Letters::Oldest(limit),
            Some(ids) => {
                if ids.is_empty() || ids.len() > QUEUE_AT_ONCE as usize || self.limit.is_some() {
                    let detail = format!("must name from 1 to {QUEUE_AT_ONCE}, without a limit");
                    errors.push(FieldError::new("/ids", detail));
                }
                Letters::These(ids)
            }
        };
        let Some(queue) = queue.filter(|_| errors.is_empty()) else { return Err(Problem::invalid(errors)) };
        Ok((broker(state)?, queue, letters))
    }

    fn done(&self, queue: ConsumerQueue, done: &dead_letters::Done) -> QueueDone {
        let skipped = |ids: &Vec<Uuid>| ids.iter().copied().filter(|id| !done.ids.contains(id)).collect();
        QueueDone { queue: queue.name(), count: done.count, skipped: self.ids.as_ref().map(skipped) }
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match &error {
            BrokerError::Unreachable { .. }
            | BrokerError::Topology(_)
            | BrokerError::Lost(_)
            | BrokerError::NotKept(_)
            | BrokerError::Unavailable { .. } => Self::unavailable(error),
            BrokerError::Settings(_) | BrokerError::BatchTooLarge { .. } | BrokerError::Closed => Self::internal(error),
        }
    }
}
