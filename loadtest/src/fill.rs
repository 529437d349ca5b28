//! Fills campaigns with money that was given long ago: one payment goes the whole road through the server, and is cloned in
//! SQL with its donation, history, ledger line, donor and stored answer, so that every clone is as consistent as the first.
//!
//! `careforall verify` finds nothing wrong with them. Deliberately absent: rows that only the totals would believe.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::future::try_join_all;
use tokio::time::Instant;
use tokio_postgres::{Client, Config};
use uuid::Uuid;

use crate::database::{connect, told};
use crate::measure::thousands;
use crate::progress::say;
use crate::stop::Stop;

const BEGIN_CLONES: &str = include_str!("../sql/fill/begin_clones.sql");
const NAME_CLONES: &str = include_str!("../sql/fill/name_clones.sql");
const CLONE_DONATIONS: &str = include_str!("../sql/fill/clone_donations.sql");
const CLONE_PAYMENTS: &str = include_str!("../sql/fill/clone_payments.sql");
const CLONE_HISTORY: &str = include_str!("../sql/fill/clone_history.sql");
const CLONE_LINES: &str = include_str!("../sql/fill/clone_lines.sql");
const CLONE_KEYS: &str = include_str!("../sql/fill/clone_keys.sql");
const CLONE_DONORS: &str = include_str!("../sql/fill/clone_donors.sql");
/// What autovacuum would do within minutes, in the middle of what is measured next.
const SETTLE: [&str; 6] = [
    "vacuum (analyze) payments.ledger_entries",
    "vacuum (analyze) payments.payment_transactions",
    "vacuum (analyze) payments.payment_state_history",
    "vacuum (analyze) payments.idempotency_keys",
    "vacuum (analyze) payments.campaign_donors",
    "vacuum (analyze) donations.donations",
];

/// Clones in one transaction.
const BATCH: i64 = 10_000;
/// Sessions that clone at the same time, if there are cores for them.
const SESSIONS_MAX: usize = 4;

/// What is cloned, how often and where to.
struct Fill<'a> {
    template: Uuid,
    campaigns: &'a [Uuid],
    tag: String,
    lines: i64,
    /// Clones that somebody has taken on.
    taken: AtomicI64,
    done: AtomicI64,
    stop: &'a Stop,
}

/// Clones the captured payment `template` `lines` times over `campaigns`.
pub async fn fill(
    config: &Config,
    template: Uuid,
    campaigns: &[Uuid],
    lines: u64,
    stop: &Stop,
) -> Result<String, String> {
    let began = Instant::now();
    let tag = format!("{:08x}", rand::random::<u32>());
    let lines = i64::try_from(lines).unwrap_or(i64::MAX);
    let (taken, done) = (AtomicI64::new(0), AtomicI64::new(0));
    let fill = Fill { template, campaigns, tag, lines, taken, done, stop };
    let sessions = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(SESSIONS_MAX);
    try_join_all((0..sessions).map(|_| fill.share(config))).await?;
    let client = connect(config).await?;
    for statement in SETTLE {
        client.batch_execute(statement).await.map_err(|error| told(&error))?;
    }
    // Only a superuser may; where we are none, one will come when it comes.
    let _ = client.batch_execute("checkpoint").await;
    let filled = thousands(fill.done.into_inner().unsigned_abs());
    Ok(format!(
        "filled with {filled} captured payments, each cloned from one that went the whole road, in {:.1} s",
        began.elapsed().as_secs_f64()
    ))
}

impl Fill<'_> {
    /// One session: clones batches until none is left.
    async fn share(&self, config: &Config) -> Result<(), String> {
        let mut client = connect(config).await?;
        let mut told_at = Instant::now();
        loop {
            let from = self.taken.fetch_add(BATCH, Ordering::Relaxed);
            if from >= self.lines || self.stop.is_wished() {
                return Ok(());
            }
            let until = self.lines.min(from + BATCH);
            self.batch(&mut client, from, until).await.map_err(|error| told(&error))?;
            let done = self.done.fetch_add(until - from, Ordering::Relaxed) + until - from;
            if told_at.elapsed().as_secs() >= 1 {
                told_at = Instant::now();
                let [done, lines] = [done, self.lines].map(|count| thousands(count.unsigned_abs()));
                say(&format!("fill: {done} of {lines} payments"));
            }
        }
    }

    async fn batch(&self, client: &mut Client, from: i64, until: i64) -> Result<(), tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        transaction.batch_execute(BEGIN_CLONES).await?;
        let names: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.template.to_string(), &self.campaigns, &self.tag, &from, &until];
        transaction.execute(NAME_CLONES, &names).await?;
        for clone in [CLONE_DONATIONS, CLONE_PAYMENTS, CLONE_HISTORY, CLONE_LINES, CLONE_KEYS] {
            transaction.execute(clone, &[&self.template]).await?;
        }
        transaction.execute(CLONE_DONORS, &[]).await?;
        transaction.commit().await
    }
}
