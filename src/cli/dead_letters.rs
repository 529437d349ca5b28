//! `careforall dead-letters`: what lies dead, in the database and in the broker's queues; replay or discard it.
//!
//! Works on the database and on the broker themselves, so it may run beside the server, which finds what was replayed at
//! its next look, or without it. Deliberately absent: bodies, which hold donors' data.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{counted, say, with_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::notice::NoticeStatus;
use crate::gateways::broker::BrokerSettings;
use crate::gateways::broker::dead_letters::{self, DeadLetter, Letters};
use crate::gateways::topology::ConsumerQueue;
use crate::store::Store;
use crate::store::audit::DiscardedLetter;
use crate::store::dead_letters::{Chosen, DEAD_LETTERS_AT_ONCE};
use crate::store::notices::NoticeFilter;

/// Who discards a fact from here, in the audit log.
const OPERATOR: &str = "careforall dead-letters";
/// Rows of a list, if the caller does not say; a page of the database's at most.
const LISTED: u32 = 100;
/// The most that one order may ask for.
const LIMIT_MAX: i64 = 100_000;

#[derive(Subcommand)]
pub enum Action {
    /// Count what lies dead; with --source, list it.
    List {
        /// List what lies dead there. Of a queue a thousand at most, the oldest first.
        #[arg(long)]
        source: Option<Source>,
        /// So many rows at most.
        #[arg(long, default_value_t = LISTED, value_parser = clap::value_parser!(u32).range(1..=LIMIT_MAX))]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try again: messages begin their schedule anew, facts leave the outbox, letters go back to their queue.
    Replay {
        #[command(flatten)]
        chosen: Choice,
    },
    /// Give up for good. A fact of the outbox is lost to whoever waits for it: name each by --id. The audit log keeps facts
    /// and what was in a queue.
    Discard {
        #[command(flatten)]
        chosen: Choice,
        /// Yes, it cannot be undone.
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Args)]
pub struct Choice {
    /// Where they lie.
    #[arg(long)]
    source: Source,
    /// This one: a message's identifier, an event's place (seq) in the outbox, or the message id of a queue's letter. May be
    /// given several times.
    #[arg(long = "id", value_name = "ID", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of them, the oldest first.
    #[arg(long, required_unless_present = "ids")]
    all: bool,
    /// With --all: so many at most.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=LIMIT_MAX), conflicts_with = "ids")]
    limit: Option<u32>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// Messages whose last try failed.
    Notifications,
    /// Facts that the outbox set aside.
    Outbox,
    /// What the totals could not take.
    #[value(name = "totals.queue")]
    Totals,
    /// What became no message.
    #[value(name = "notifications.queue")]
    NotificationsQueue,
    /// What the audit log could not take.
    #[value(name = "audit.queue")]
    Audit,
}

/// Where a source lies.
enum Place {
    Notifications,
    Outbox,
    Queue(ConsumerQueue),
}

impl Source {
    fn place(self) -> Place {
        match self {
            Self::Notifications => Place::Notifications,
            Self::Outbox => Place::Outbox,
            Self::Totals => Place::Queue(ConsumerQueue::Totals),
            Self::NotificationsQueue => Place::Queue(ConsumerQueue::Notifications),
            Self::Audit => Place::Queue(ConsumerQueue::Audit),
        }
    }
}

pub async fn run(config: Config, action: Option<Action>) -> Result<(), String> {
    let action = action.unwrap_or(Action::List { source: None, limit: LISTED, json: false });
    with_store(&config, async |store| act(&store, config.broker.as_ref(), action).await).await
}

async fn act(store: &Store, broker: Option<&BrokerSettings>, action: Action) -> Result<(), String> {
    match action {
        Action::List { source: None, json, .. } => overview(store, broker, json).await,
        Action::List { source: Some(source), limit, json } => match source.place() {
            Place::Notifications => list_notices(store, limit, json).await,
            Place::Outbox => list_events(store, limit, json).await,
            Place::Queue(queue) => list_queue(broker, queue, limit, json).await,
        },
        Action::Replay { chosen } => {
            let done = replay(store, broker, &chosen).await?;
            conclude("replayed", done, chosen.ids.len(), chosen.json)
        }
        Action::Discard { chosen, yes: _ } => {
            let done = discard(store, broker, &chosen).await?;
            conclude("discarded", done, chosen.ids.len(), chosen.json)
        }
    }
}

async fn overview(store: &Store, broker: Option<&BrokerSettings>, as_json: bool) -> Result<(), String> {
    let measured = store.measure_dead_letters().await.map_err(|error| error.to_string())?;
    let queues = match broker {
        Some(broker) => dead_letters::counts(broker).await.map_err(|error| error.to_string()),
        None => Err("AMQP_URL is not set: there are no queues".to_owned()),
    };
    if as_json {
        let shown = queues.as_ref().ok().map(|queues| {
            let row = |(queue, count): &(ConsumerQueue, u32)| json!({"queue": queue.name(), "count": count});
            queues.iter().map(row).collect::<Vec<Value>>()
        });
        return say_json(&json!({
            "notifications": {"count": measured.notices, "oldest_at": stamp(measured.oldest_notice)},
            "outbox": {"count": measured.events, "oldest_at": stamp(measured.oldest_event)},
            "queues": shown,
            "queues_reason": queues.err(),
        }));
    }
    let row = |name: &str, count: i64, oldest: Option<OffsetDateTime>| {
        let oldest = stamp(oldest).map(|at| format!("  since {at}")).unwrap_or_default();
        say(&format!("{name:<20} {count:>7}{oldest}\n"));
    };
    row("notifications", measured.notices, measured.oldest_notice);
    row("outbox", measured.events, measured.oldest_event);
    match queues {
        Ok(queues) => queues.into_iter().for_each(|(queue, count)| row(queue.name(), count.into(), None)),
        Err(reason) => say(&format!("queues: {reason}\n")),
    }
    Ok(())
}

async fn list_notices(store: &Store, limit: u32, as_json: bool) -> Result<(), String> {
    let dead = NoticeFilter { status: Some(NoticeStatus::Dead), ..NoticeFilter::default() };
    let rows = store.list_notices(&dead, None, limit.into()).await.map_err(|error| error.to_string())?;
    if as_json {
        return say_json(&json!(rows));
    }
    for row in rows {
        let (at, error) = (stamp(Some(row.created_at)).unwrap_or_default(), row.last_error.unwrap_or_default());
        say(&format!("{}  {at}  {:<7} {:<18} {error}\n", row.id, row.channel, row.kind));
    }
    Ok(())
}

async fn list_events(store: &Store, limit: u32, as_json: bool) -> Result<(), String> {
    let rows = store.list_dead_events(0, limit.into()).await.map_err(|error| error.to_string())?;
    if as_json {
        return say_json(&json!(rows));
    }
    for row in rows {
        let (at, error) = (stamp(Some(row.dead_at)).unwrap_or_default(), row.last_error.unwrap_or_default());
        say(&format!("{:>10}  {at}  {:<24} {error}\n", row.seq, row.event_type));
    }
    Ok(())
}

async fn list_queue(
    broker: Option<&BrokerSettings>,
    queue: ConsumerQueue,
    limit: u32,
    as_json: bool,
) -> Result<(), String> {
    let letters = dead_letters::list(known(broker)?, queue, limit).await.map_err(|error| error.to_string())?;
    if as_json {
        let row = |it: &DeadLetter| {
            json!({"message_id": it.message_id, "event_type": it.event_type, "died_at": stamp(it.died_at),
                   "deaths": it.deaths, "reason": it.reason})
        };
        return say_json(&json!(letters.iter().map(row).collect::<Vec<Value>>()));
    }
    for it in letters {
        let id = it.message_id.map_or_else(|| "without an id".to_owned(), |id| id.to_string());
        let (at, reason) = (stamp(it.died_at).unwrap_or_default(), it.reason.unwrap_or_default());
        say(&format!("{id:<36}  {at}  {:<24} {:>3} {reason}\n", it.event_type, it.deaths));
    }
    Ok(())
}

async fn replay(store: &Store, broker: Option<&BrokerSettings>, chosen: &Choice) -> Result<usize, String> {
    let now = Clock::System.now();
    let dead = store.measure_dead_letters().await.map_err(|error| error.to_string())?;
    match chosen.source.place() {
        Place::Notifications => {
            in_parts(chosen, chosen.parsed::<Uuid>()?, dead.notices, async |part| store.replay_notices(part, now).await)
                .await
        }
        Place::Outbox => {
            in_parts(chosen, chosen.parsed::<i64>()?, dead.events, async |part| store.replay_events(part).await).await
        }
        Place::Queue(queue) => {
            let ids = chosen.parsed::<Uuid>()?;
            let done = dead_letters::replay(known(broker)?, queue, chosen.of_queue(&ids)).await;
            done.map(|done| in_all(&done)).map_err(|error| error.to_string())
        }
    }
}

async fn discard(store: &Store, broker: Option<&BrokerSettings>, chosen: &Choice) -> Result<usize, String> {
    let dead = store.measure_dead_letters().await.map_err(|error| error.to_string())?;
    match chosen.source.place() {
        Place::Notifications => {
            in_parts(chosen, chosen.parsed::<Uuid>()?, dead.notices, async |part| store.discard_notices(part).await)
                .await
        }
        Place::Outbox if chosen.all => {
            Err("facts are discarded by --id only: each is lost to whoever waits for it".to_owned())
        }
        Place::Outbox => {
            let done = store.discard_events(&chosen.parsed::<i64>()?, OPERATOR, Clock::System.now()).await;
            done.map(|done| done.len()).map_err(|error| error.to_string())
        }
        Place::Queue(queue) => {
            let ids = chosen.parsed::<Uuid>()?;
            let keep = async |letter: &DeadLetter| {
                let (message_id, body) = (letter.message_id, letter.body.as_slice());
                let it = DiscardedLetter { operator: OPERATOR, queue: queue.name(), message_id, body };
                store.record_discarded(it, Clock::System.now()).await.map_err(|error| error.to_string())
            };
            let done = dead_letters::discard(known(broker)?, queue, chosen.of_queue(&ids), keep).await;
            done.map(|done| in_all(&done)).map_err(|error| error.to_string())
        }
    }
}

/// Those that are named, or so many as lay dead at the beginning, in parts that the store takes at once: what dies again
/// meanwhile is for another time.
async fn in_parts<T>(
    chosen: &Choice,
    ids: Vec<T>,
    dead: i64,
    order: impl AsyncFn(Chosen<'_, T>) -> Result<Vec<T>, crate::store::StoreError>,
) -> Result<usize, String> {
    let size = usize::try_from(DEAD_LETTERS_AT_ONCE).unwrap_or(usize::MAX);
    let mut done = 0;
    for part in ids.chunks(size) {
        done += order(Chosen::These(part)).await.map_err(|error| error.to_string())?.len();
    }
    let mut rest = if chosen.all { dead.min(chosen.limit.map_or(LIMIT_MAX, i64::from)) } else { 0 };
    while rest > 0 {
        let part = order(Chosen::Oldest(rest)).await.map_err(|error| error.to_string())?.len();
        if part == 0 {
            break;
        }
        done += part;
        rest -= i64::try_from(part).unwrap_or(rest);
    }
    Ok(done)
}

impl Choice {
    fn parsed<T: std::str::FromStr>(&self) -> Result<Vec<T>, String> {
        let parse = |id: &String| id.trim().parse().map_err(|_| format!("--id {id:?} names nothing of that source"));
        self.ids.iter().map(parse).collect()
    }

    fn of_queue<'a>(&self, ids: &'a [Uuid]) -> Letters<'a> {
        if self.all { Letters::Oldest(self.limit.unwrap_or(dead_letters::MAX_AT_ONCE)) } else { Letters::These(ids) }
    }
}

fn in_all(done: &dead_letters::Done) -> usize {
    usize::try_from(done.count).unwrap_or(usize::MAX)
}

fn known(broker: Option<&BrokerSettings>) -> Result<&BrokerSettings, String> {
    broker.ok_or_else(|| "AMQP_URL is not set: there are no queues".to_owned())
}

/// `named`: how many were asked for by name; fewer done than that is a failure.
fn conclude(word: &str, done: usize, named: usize, as_json: bool) -> Result<(), String> {
    if as_json {
        say_json(&json!({"count": done}))?;
    } else {
        say(&format!("{} {word}\n", counted(done, "dead letter")));
    }
    if done < named {
        let left = named - done;
        return Err(format!("{left} of those named: not dead, or of an endpoint that is disabled"));
    }
    Ok(())
}

fn say_json(value: &Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    say(&format!("{text}\n"));
    Ok(())
}

fn stamp(at: Option<OffsetDateTime>) -> Option<String> {
    at.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
}
