//! One campaign with a long ledger: what each level of its totals costs, and the refresh of the view.
//!
//! A level is made to answer by passing by those above it: `fresh=true` asks neither memory nor Redis; before its refresh the
//! view does not know the campaign. Redis answers for many campaigns in turn, as in
//! `totals-cold`. Needs the database.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use super::create::Payable;
use super::totals::{Reads, answers, promise, run_cold, shares};
use super::webhooks::{Event, payables};
use super::{Bounds, Kind, Session};
use crate::api::Newness;
use crate::client::Wire;
use crate::database::{connect, told};
use crate::fill::fill;
use crate::measure::{Measure, Run, milliseconds, thousands};
use crate::plan::Plan;

const REFRESH: &str = "refresh materialized view concurrently payments.campaign_totals";
/// Refreshes that are timed.
const REFRESHES: usize = 3;
/// One reader shows what a read costs; several share the read that is in flight, as they do in life.
const READERS: [usize; 2] = [1, 32];
const MEMORY_READERS: usize = 64;

/// Runs it.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::TotalsLive.name();
    let config = session.target.database.as_ref().ok_or("totals-live needs the database: give --database-url")?;
    let client = connect(config).await?;
    let campaign = session.campaigns(1).await?[0];
    let template = captured(session, bounds, name).await?.payment;
    let filled = fill(config, template, &[campaign], bounds.lines, &session.stop).await?;
    let before = answers(session).await?;
    let mut run = Run::default();
    run.notes.push(filled);
    let part = bounds.duration / 2;
    for readers in READERS {
        level(session, bounds.closed_plan(readers, part), campaign, Newness::Fresh, "realtime", &mut run).await?;
    }
    run.notes.push(refreshes(&client).await?);
    for readers in READERS {
        level(session, bounds.closed_plan(readers, part), campaign, Newness::Fresh, "view", &mut run).await?;
    }
    level(session, bounds.closed_plan(MEMORY_READERS, part), campaign, Newness::Any, "memory", &mut run).await?;
    if session.target.has_redis {
        let cold = run_cold(session, &Bounds { duration: part, closed: None, rate: None, ..*bounds }).await?;
        run.measures.extend(cold.measures.into_iter().map(|measure| Measure { scenario: name.to_owned(), ..measure }));
        run.complaints.extend(cold.complaints);
        run.notes.extend(cold.notes);
        run.faults.extend(cold.faults);
    } else {
        run.notes.push("no Redis: level 1 is skipped (--redis-url)".to_owned());
    }
    run.notes.push(shares(session, before).await?);
    Ok(run)
}

/// A payment that went the whole road, in a campaign of its own.
pub async fn captured(session: &Session, bounds: &Bounds, name: &str) -> Result<Payable, String> {
    let one = Bounds { campaigns: 1, ..*bounds };
    let payable = payables(session, &one, name, 1).await?;
    let payable = payable.into_iter().next().ok_or("the sandbox did not answer in time")?;
    let mut wire = Wire::new(session.first(), bounds.patience);
    let event = Event::of(&session.books, payable.clone());
    let posted = event.post(&session.target.webhook_secret, &session.books, &mut wire).await;
    posted.map(|_| payable).map_err(|outcome| format!("the payment to clone: {outcome:?}"))
}

/// Measures one level. Answers of another one are shown beside it: by its time to live memory asks below now and then.
async fn level(
    session: &Session,
    plan: Plan,
    campaign: Uuid,
    newness: Newness,
    expected: &str,
    run: &mut Run,
) -> Result<(), String> {
    if session.stop.is_wished() {
        return Ok(());
    }
    let scenario = Arc::new(Reads::new(&[campaign], newness));
    let name = format!("{} ({expected})", Kind::TotalsLive.name());
    let measured = session.load(&name, plan, &scenario, promise).await?;
    if !measured.measures.iter().any(|measure| measure.what == expected) {
        run.faults.push(format!("{name}: the level never answered"));
    }
    let kept = measured.measures.into_iter().filter(|measure| measure.what == expected);
    run.measures.extend(kept.map(|measure| Measure { scenario: Kind::TotalsLive.name().to_owned(), ..measure }));
    run.complaints.extend(measured.complaints);
    run.faults.extend(measured.faults);
    Ok(())
}

async fn refreshes(client: &Client) -> Result<String, String> {
    let mut took = Vec::new();
    for _ in 0..REFRESHES {
        let began = Instant::now();
        client.batch_execute(REFRESH).await.map_err(|error| told(&error))?;
        took.push(began.elapsed());
    }
    let lines: i64 = client
        .query_one("select coalesce(sum(version), 0)::bigint from payments.campaign_totals", &[])
        .await
        .map_err(|error| told(&error))?
        .get(0);
    let shown: Vec<String> =
        took.iter().map(|took: &Duration| milliseconds(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))).collect();
    Ok(format!("{REFRESH} over {} lines: {}", thousands(lines.unsigned_abs()), shown.join(", ")))
}
