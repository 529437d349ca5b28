//! Fills campaigns with money that was given long ago: one payment goes the whole road through the server, and is cloned in
//! SQL with its donation, history, ledger line and donor, so that every clone is as consistent as the first.
//!
//! `careforall verify` finds nothing wrong with them. Deliberately absent: rows that only the totals would believe.

use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::database::told;
use crate::measure::thousands;
use crate::progress::say;
use crate::stop::Stop;

const BEGIN_CLONES: &str = include_str!("../sql/fill/begin_clones.sql");
const NAME_CLONES: &str = include_str!("../sql/fill/name_clones.sql");
const CLONE_DONATIONS: &str = include_str!("../sql/fill/clone_donations.sql");
const CLONE_PAYMENTS: &str = include_str!("../sql/fill/clone_payments.sql");
const CLONE_HISTORY: &str = include_str!("../sql/fill/clone_history.sql");
const CLONE_LINES: &str = include_str!("../sql/fill/clone_lines.sql");
const CLONE_DONORS: &str = include_str!("../sql/fill/clone_donors.sql");
/// What autovacuum would do within minutes: reads then need the index alone.
const SETTLE: [&str; 4] = [
    "vacuum (analyze) payments.ledger_entries",
    "analyze payments.payment_transactions",
    "analyze payments.payment_state_history",
    "analyze donations.donations",
];

/// Clones in one transaction.
const BATCH: i64 = 25_000;

/// Clones the captured payment `template` `lines` times over `campaigns`.
pub async fn fill(
    client: &mut Client,
    template: Uuid,
    campaigns: &[Uuid],
    lines: u64,
    stop: &Stop,
) -> Result<String, String> {
    let began = Instant::now();
    let tag = format!("{:08x}", rand::random::<u32>());
    let lines = i64::try_from(lines).unwrap_or(i64::MAX);
    let mut from = 0;
    let mut told_at = began;
    while from < lines && !stop.is_wished() {
        let until = lines.min(from + BATCH);
        batch(client, template, campaigns, &tag, from, until).await.map_err(|error| told(&error))?;
        from = until;
        if told_at.elapsed().as_secs() >= 1 {
            told_at = Instant::now();
            say(&format!("fill: {} of {} payments", thousands(from.unsigned_abs()), thousands(lines.unsigned_abs())));
        }
    }
    for statement in SETTLE {
        client.batch_execute(statement).await.map_err(|error| told(&error))?;
    }
    let filled = thousands(from.unsigned_abs());
    Ok(format!(
        "filled with {filled} captured payments, each cloned from one that went the whole road, in {:.1} s",
        began.elapsed().as_secs_f64()
    ))
}

async fn batch(
    client: &mut Client,
    template: Uuid,
    campaigns: &[Uuid],
    tag: &str,
    from: i64,
    until: i64,
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(BEGIN_CLONES).await?;
    transaction.execute(NAME_CLONES, &[&template.to_string(), &campaigns, &tag, &from, &until]).await?;
    for clone in [CLONE_DONATIONS, CLONE_PAYMENTS, CLONE_HISTORY, CLONE_LINES] {
        transaction.execute(clone, &[&template]).await?;
    }
    transaction.execute(CLONE_DONORS, &[]).await?;
    transaction.commit().await
}
