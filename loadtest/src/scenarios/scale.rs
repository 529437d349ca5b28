//! Every hot path on an empty database and, in the same run, on a full one: the ratio is the result.
//!
//! Each path is asked by a few connections without pause. Then everything runs at once, and the database says how large its
//! tables are and which of their indexes nobody read. Needs the database. Deliberately absent: a judgement of the ratios.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;
use tokio_postgres::{Client, Config};
use uuid::Uuid;

use super::create::Create;
use super::levels::captured;
use super::totals::{Reads, with_gifts};
use super::webhooks::{Event, handled, new_ones, payables_of};
use super::{Bounds, Kind, Session, mixed};
use crate::api::{self, Gift, Newness};
use crate::client::{Wire, request};
use crate::database::{connect, told};
use crate::engine::{Scenario, Turn};
use crate::fill::fill;
use crate::measure::{Latency, Measure, Promise, Run, milliseconds, thousands};
use crate::plan::Plan;
use crate::recording::Outcome;

const COUNT_HISTORY: &str = include_str!("../../sql/scale/count_history.sql");
const SAMPLE_PAYMENTS: &str = include_str!("../../sql/scale/sample_payments.sql");
const SAMPLE_INTENTS: &str = include_str!("../../sql/scale/sample_intents.sql");
const SIZES: &str = include_str!("../../sql/scale/sizes.sql");
const INDEXES: &str = include_str!("../../sql/scale/indexes.sql");
/// Statements of the server's own timers, which no request shows.
const POLLS: [(&str, &str); 2] = [
    ("outbox poll", include_str!("../../sql/scale/poll_outbox.sql")),
    ("due checks poll", include_str!("../../sql/scale/poll_checks.sql")),
];

/// Few enough that what is measured is the work and not the queue.
const CONNECTIONS: usize = 8;
/// Each path gets this part of the time.
const PATHS: u32 = 10;
/// New webhooks need a payment each: so many are prepared for a second of them.
const NEW_A_SECOND: f64 = 2000.0;
/// Donations that are looked at, payments that are looked at.
const GIFTS: u64 = 100;
const SAMPLED: i64 = 2000;
/// Polls that are timed.
const POLLED: usize = 200;
/// Tables that are named with their sizes.
const TABLES: i64 = 8;

/// One path in one state of the database.
struct Figure {
    what: &'static str,
    per_second: f64,
    latency: Latency,
}

/// Where a phase is measured.
struct Phase<'a> {
    session: &'a Session,
    bounds: &'a Bounds,
    client: &'a Client,
    campaigns: &'a [Uuid],
    /// `empty` or `full`.
    state: &'static str,
    figures: Vec<Figure>,
    run: &'a mut Run,
}

/// Runs it.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::Scale.name();
    let config = session.target.database.as_ref().ok_or("scale needs the database: give --database-url")?;
    let client = connect(config).await?;
    let campaigns = with_gifts(session, bounds, name, bounds.campaigns).await?;
    let mut run = Run::default();
    let empty = phase(session, bounds, &client, &campaigns, "empty", &mut run).await?;
    if session.stop.is_wished() {
        return Ok(run);
    }
    let filled = filled(session, bounds, config, &client, &campaigns).await?;
    session.rest().await?;
    let full = phase(session, bounds, &client, &campaigns, "full", &mut run).await?;
    run.notes.push(filled);
    run.notes.push("empty → full (× = full : empty)".to_owned());
    run.notes.extend(empty.iter().filter_map(|before| compared(before, &full)));
    if !session.stop.is_wished() {
        let everything = mixed::run(session, &Bounds { closed: None, rate: None, ..part_of(bounds) }).await?;
        run.faults.extend(everything.faults);
        run.complaints.extend(everything.complaints);
    }
    run.notes.extend(sizes(&client).await?);
    run.notes.extend(unread(&client).await?);
    Ok(run)
}

fn part_of(bounds: &Bounds) -> Bounds {
    Bounds { duration: bounds.duration / PATHS, ramp: Duration::ZERO, warm_up: Duration::ZERO, ..*bounds }
}

/// Fills the database with a payment that went the whole road and then heard the same again, until its history is long enough.
async fn filled(
    session: &Session,
    bounds: &Bounds,
    config: &Config,
    client: &Client,
    campaigns: &[Uuid],
) -> Result<String, String> {
    let payable = captured(session, bounds, Kind::Scale.name()).await?;
    let mut wire = Wire::new(session.first(), bounds.patience);
    let template = payable.payment;
    let rows = async || -> Result<i64, String> {
        Ok(client.query_one(COUNT_HISTORY, &[&template]).await.map_err(|error| told(&error))?.get(0))
    };
    let wanted = i64::try_from(bounds.history).unwrap_or(i64::MAX);
    let mut before = rows().await?;
    while before < wanted {
        let event = Event::of(&session.books, payable.clone());
        let said = event.tell(&session.target.webhook_secret, &session.books, &mut wire).await;
        let (verdict, _) = said.map_err(|outcome| format!("the payment to clone: {outcome:?}"))?;
        let after = rows().await?;
        if after <= before {
            return Err(format!("the payment to clone: an event that was {verdict} left no row in the history"));
        }
        before = after;
    }
    let told = fill(config, template, campaigns, bounds.lines, &session.stop).await?;
    Ok(format!("{told}; {before} history rows each"))
}

async fn phase(
    session: &Session,
    bounds: &Bounds,
    client: &Client,
    campaigns: &[Uuid],
    state: &'static str,
    run: &mut Run,
) -> Result<Vec<Figure>, String> {
    let mut phase = Phase { session, bounds, client, campaigns, state, figures: Vec::new(), run };
    phase.writes().await?;
    phase.reads().await?;
    for (what, sql) in POLLS {
        phase.poll(what, sql).await?;
    }
    Ok(phase.figures)
}

impl Phase<'_> {
    fn plan(&self) -> Plan {
        self.bounds.closed_plan(CONNECTIONS, self.bounds.duration / PATHS)
    }

    /// Donations and webhooks, old and new.
    async fn writes(&mut self) -> Result<(), String> {
        let (session, plan, name) = (self.session, self.plan(), Kind::Scale.name());
        let create = Arc::new(Create::new(session, self.campaigns.to_vec(), false));
        self.measure("create", plan, &create).await?;
        session.rest().await?;
        let count = (NEW_A_SECOND * plan.duration.as_secs_f64()).ceil() as u64;
        let payables = payables_of(session, self.bounds, name, count, self.campaigns.to_vec()).await?;
        session.rest().await?;
        // The same number of them in both states; it takes as long as it takes.
        let new = Plan { count: Some(payables.len() as u64), warm_up: Duration::ZERO, duration: plan.patience, ..plan };
        self.measure("new webhook", new, &new_ones(session, payables)).await?;
        session.rest().await?;
        let repeats = Arc::new(handled(session, self.bounds, name).await?);
        self.measure("duplicate webhook", plan, &repeats).await
    }

    /// Everything that is looked at, by donors and by operators.
    async fn reads(&mut self) -> Result<(), String> {
        let (plan, campaigns) = (self.plan(), self.campaigns.to_vec());
        self.measure("totals (any level)", plan, &Arc::new(Reads::new(&campaigns, Newness::Any))).await?;
        self.measure("totals (database)", plan, &Arc::new(Reads::new(&campaigns, Newness::Fresh))).await?;
        let gifts = self.gifts().await?;
        self.get("donation", gifts.iter().map(api::show).collect()).await?;
        self.get_paths("wall", campaigns.iter().map(|id| format!("/api/v1/campaigns/{id}/donations"))).await?;
        self.get_paths("payments", ["/api/v1/payments".to_owned()]).await?;
        self.get_paths(
            "payments of a campaign",
            campaigns.iter().map(|id| format!("/api/v1/payments?campaign_id={id}")),
        )
        .await?;
        let intents: Vec<String> = self.sample(SAMPLE_INTENTS).await?;
        self.get_paths("payments by intent", intents.iter().map(|id| format!("/api/v1/payments?intent_id={id}")))
            .await?;
        self.get_paths("payments that are flagged", ["/api/v1/payments?flagged=true".to_owned()]).await?;
        let payments: Vec<Uuid> = self.sample(SAMPLE_PAYMENTS).await?;
        self.get_paths("payment", payments.iter().map(|id| format!("/api/v1/payments/{id}"))).await?;
        self.get_paths("timeline", payments.iter().map(|id| format!("/api/v1/payments/{id}/timeline"))).await
    }

    /// Donations whose donors look at them.
    async fn gifts(&self) -> Result<Vec<Gift>, String> {
        let create = Create::new(self.session, self.campaigns.to_vec(), false);
        let mut wire = Wire::new(self.session.first(), self.bounds.patience);
        let mut gifts = Vec::new();
        for number in 0..GIFTS {
            let given = create.give(&mut wire, number).await;
            gifts.push(given.map_err(|outcome| format!("a donation to look at: {outcome:?}"))?);
        }
        Ok(gifts)
    }

    async fn sample<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> Result<Vec<T>, String> {
        let all: i64 = (self.client.query_one("select count(*) from payments.payment_transactions", &[]))
            .await
            .map_err(|error| told(&error))?
            .get(0);
        // Somewhat more than is kept, so that the last part of the table is in it, too.
        let percent = (110.0 * SAMPLED as f64 / all.max(1) as f64).min(100.0) as f32;
        let rows = self.client.query(sql, &[&percent, &SAMPLED]).await.map_err(|error| told(&error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn get_paths(&mut self, what: &'static str, paths: impl IntoIterator<Item = String>) -> Result<(), String> {
        let authorization = format!("Bearer {}", self.session.target.admin_key);
        let headers = [("Authorization", &*authorization)];
        let requests = paths.into_iter().map(|path| request("GET", &path, &headers, None)).collect();
        self.get(what, requests).await
    }

    async fn get(&mut self, what: &'static str, requests: Vec<Vec<u8>>) -> Result<(), String> {
        if requests.is_empty() {
            return Err(format!("{what}: there is nothing to look at"));
        }
        self.measure(what, self.plan(), &Arc::new(Gets(requests))).await
    }

    /// Measures one path; what fails on it is a fault.
    async fn measure<S: Scenario>(&mut self, what: &'static str, plan: Plan, scenario: &Arc<S>) -> Result<(), String> {
        if self.session.stop.is_wished() {
            return Ok(());
        }
        let name = format!("scale: {what}, {}", self.state);
        let run = self.session.load(&name, plan, scenario, |_| Promise::default()).await?.must_not_fail(&name);
        // Totals come from several levels; the fullest stands for the path, as its latencies do.
        let Some(fullest) = run.measures.iter().max_by_key(|measure| measure.done) else {
            self.run.faults.push(format!("{name}: nothing was done"));
            return Ok(());
        };
        let manner = format!("{}, {CONNECTIONS} without pause", self.state);
        let (scenario, per_second) = (Kind::Scale.name().to_owned(), run.per_second());
        self.figures.push(Figure { what, per_second, latency: fullest.latency });
        let measure = Measure { scenario, what: what.to_owned(), manner, per_second, ..fullest.clone() };
        self.run.measures.push(measure);
        self.run.complaints.extend(run.complaints);
        self.run.faults.extend(run.faults);
        Ok(())
    }

    /// Times a statement of the server's own.
    async fn poll(&mut self, what: &'static str, sql: &str) -> Result<(), String> {
        let statement = self.client.prepare(sql).await.map_err(|error| told(&error))?;
        let mut took = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
        let all = Instant::now();
        for _ in 0..POLLED {
            let began = Instant::now();
            self.client.query(&statement, &[]).await.map_err(|error| told(&error))?;
            took.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        let per_second = POLLED as f64 / all.elapsed().as_secs_f64();
        self.figures.push(Figure { what, per_second, latency: Latency::of(&took) });
        Ok(())
    }
}

/// The same path in the other state, in one line.
fn compared(before: &Figure, full: &[Figure]) -> Option<String> {
    let after = full.iter().find(|after| after.what == before.what)?;
    let times =
        |before: f64, after: f64| if before > 0.0 { format!("×{:.2}", after / before) } else { "–".to_owned() };
    let latency = |name: &str, of: fn(&Latency) -> u64| {
        let (before, after) = (of(&before.latency), of(&after.latency));
        let ratio = times(before as f64, after as f64);
        format!("{name} {:>8} → {:>8} {ratio:>6}", milliseconds(before), milliseconds(after))
    };
    let rate = |per_second: f64| thousands(per_second.round() as u64);
    Some(format!(
        "{:<26} {}   {}   {:>7}/s → {:>7}/s {:>6}",
        before.what,
        latency("p50", |latency| latency.p50_us),
        latency("p95", |latency| latency.p95_us),
        rate(before.per_second),
        rate(after.per_second),
        times(before.per_second, after.per_second),
    ))
}

async fn sizes(client: &Client) -> Result<Vec<String>, String> {
    let rows = client.query(SIZES, &[&TABLES]).await.map_err(|error| told(&error))?;
    let line = |row: &tokio_postgres::Row| {
        format!(
            "{:<38} about {:>11} rows, {:>6} MiB, indexes {:>6} MiB",
            row.get::<_, String>("name"),
            thousands(row.get::<_, i64>("rows").unsigned_abs()),
            mib(row.get("table_bytes")),
            mib(row.get("index_bytes"))
        )
    };
    Ok(rows.iter().map(line).collect())
}

/// Indexes that nobody read since the database was made; those that keep something unique work without being read.
async fn unread(client: &Client) -> Result<Vec<String>, String> {
    let rows = client.query(INDEXES, &[]).await.map_err(|error| told(&error))?;
    let never = rows.iter().filter(|row| row.get::<_, i64>("scans") == 0);
    let (unique, idle): (Vec<_>, Vec<_>) = never.partition(|row| row.get("is_unique"));
    let named = |rows: Vec<&tokio_postgres::Row>| {
        let each = rows.iter().map(|row| format!("{} ({} MiB)", row.get::<_, String>("name"), mib(row.get("bytes"))));
        let all = each.collect::<Vec<_>>().join(", ");
        if all.is_empty() { "none".to_owned() } else { all }
    };
    Ok(vec![
        format!("indexes that nobody read: {}", named(idle)),
        format!("unique indexes that nobody read (they still refuse repetitions): {}", named(unique)),
    ])
}

fn mib(bytes: i64) -> String {
    thousands(bytes.unsigned_abs() / 1024 / 1024)
}

/// Asks for each of these in turn.
struct Gets(Vec<Vec<u8>>);

impl Scenario for Gets {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        &["get"]
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let at = usize::try_from(turn.number).unwrap_or(0) % self.0.len();
        match wire.call(&self.0[at]).await {
            Ok(answer) => (0, api::outcome(&answer, 200)),
            Err(error) => (0, Outcome::Failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(what: &'static str, p50_us: u64, per_second: f64) -> Figure {
        Figure { what, per_second, latency: Latency { p50_us, p95_us: 2 * p50_us, ..Latency::default() } }
    }

    #[test]
    fn a_path_is_set_beside_itself_and_one_that_was_not_measured_again_beside_nothing() {
        let full = [figure("wall", 3000, 500.0), figure("create", 1500, 4000.0)];
        let line = compared(&figure("create", 1000, 5000.0), &full).unwrap();
        for part in ["create", "1.00 ms", "1.50 ms", "×1.50", "5,000/s", "4,000/s", "×0.80"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(compared(&figure("timeline", 1, 1.0), &full), None);
    }
}
