//! The look into the database at the end: is everything there that was acknowledged, and do the sums agree?
//!
//! Anything that is lost makes the run fail and is named. Deliberately absent: mending, and excuses.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::api::Newness;
use crate::books::Books;
use crate::database::{connect, told};
use crate::office::{Office, Totals};
use crate::progress::say;
use crate::stripe::event_id;
use crate::target::Target;

const MISSING_DONATIONS: &str = include_str!("../sql/missing_donations.sql");
const MISSING_EVENTS: &str = include_str!("../sql/missing_events.sql");
const MISSING_COMPLETIONS: &str = include_str!("../sql/missing_completions.sql");
const COMPARE_SUMS: &str = include_str!("../sql/compare_sums.sql");
const COUNT_WAITING: &str = include_str!("../sql/count_waiting.sql");

/// So many are asked for in one statement.
const BATCH: usize = 10_000;
/// Each of them is looked for by its key. The planner would rather read the whole table for each batch.
const BY_KEYS: &str = "set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off";
/// So many of what is missing are named; the rest is counted.
const NAMED: usize = 5;
/// After a storm the outbox takes its time.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);
/// What is shown is no older than the memory's second; a busy machine gets some more.
const SHOWN_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Campaigns whose totals are also asked for over HTTP; the sums are compared for all.
const ASKED: usize = 200;

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// What held, each a sentence.
    pub held: Vec<String>,
    /// What did not: any makes the run fail.
    pub faults: Vec<String>,
}

impl Findings {
    fn judge(&mut self, what: &str, count: usize, missing: &[String]) {
        if missing.is_empty() {
            return self.held.push(format!("{} {what}: all there", crate::measure::thousands(count as u64)));
        }
        let named: Vec<&str> = missing.iter().take(NAMED).map(String::as_str).collect();
        let more = if missing.len() > NAMED { ", …" } else { "" };
        self.faults.push(format!("LOST: {} of {count} {what}: {}{more}", missing.len(), named.join(", ")));
    }
}

/// Audits the run. `None` where we may not look into the database.
pub async fn audit(target: &Target, books: &Books) -> Result<Option<Findings>, String> {
    let Some(config) = &target.database else { return Ok(None) };
    let client = connect(config).await?;
    let mut findings = Findings::default();
    drained(&client, &mut findings).await?;
    acknowledged(&client, books, &mut findings).await?;
    sums(&client, target, books, &mut findings).await?;
    match target.verify().await {
        None => findings.held.push("careforall verify was not run: there is no program to run".to_owned()),
        Some(Ok(said)) => findings.held.push(format!("careforall verify: {said}")),
        Some(Err(said)) => findings.faults.push(format!("careforall verify: {said}")),
    }
    Ok(Some(findings))
}

async fn drained(client: &Client, findings: &mut Findings) -> Result<(), String> {
    let began = Instant::now();
    let mut told_at = began;
    loop {
        let waiting: i64 = client.query_one(COUNT_WAITING, &[]).await.map_err(|error| told(&error))?.get(0);
        if waiting == 0 {
            findings.held.push(format!("the outbox is empty ({:.1} s after the load)", began.elapsed().as_secs_f64()));
            return Ok(());
        }
        if began.elapsed() > DRAIN_DEADLINE {
            findings
                .faults
                .push(format!("{waiting} events still wait in the outbox after {} s", DRAIN_DEADLINE.as_secs()));
            return Ok(());
        }
        if told_at.elapsed() > Duration::from_secs(1) {
            told_at = Instant::now();
            say(&format!("audit: {waiting} events wait in the outbox"));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn acknowledged(client: &Client, books: &Books, findings: &mut Findings) -> Result<(), String> {
    client.batch_execute(BY_KEYS).await.map_err(|error| told(&error))?;
    let given = books.given();
    let mut missing = Vec::new();
    for batch in given.chunks(BATCH) {
        let donations: Vec<Uuid> = batch.iter().map(|given| given.donation).collect();
        let payments: Vec<Uuid> = batch.iter().map(|given| given.payment).collect();
        let rows = query(client, MISSING_DONATIONS, &[&donations, &payments]).await?;
        missing.extend(rows.iter().map(|row| row.get::<_, Uuid>(0).to_string()));
    }
    findings.judge("acknowledged donations", given.len(), &missing);
    let heard = books.heard();
    let mut missing = Vec::new();
    for batch in heard.chunks(BATCH) {
        let events: Vec<String> = batch.iter().map(|heard| event_id(books.tag, heard.event)).collect();
        let payments: Vec<Uuid> = batch.iter().map(|heard| heard.payment).collect();
        let applied: Vec<bool> = batch.iter().map(|heard| heard.is_applied).collect();
        let rows = query(client, MISSING_EVENTS, &[&events, &payments, &applied]).await?;
        missing.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    findings.judge("acknowledged webhooks", heard.len(), &missing);
    let completed = books.completed();
    let mut missing = Vec::new();
    for batch in completed.chunks(BATCH) {
        let rows = query(client, MISSING_COMPLETIONS, &[&batch]).await?;
        missing.extend(rows.iter().map(|row| row.get::<_, Uuid>(0).to_string()));
    }
    findings.judge("donations that were shown as completed", completed.len(), &missing);
    client
        .batch_execute("reset enable_hashjoin; reset enable_mergejoin; reset enable_seqscan")
        .await
        .map_err(|error| told(&error))
}

async fn query(
    client: &Client,
    sql: &str,
    arguments: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, String> {
    client.query(sql, arguments).await.map_err(|error| told(&error))
}

/// What a campaign's ledger sums up to.
#[derive(Clone, Debug)]
pub struct Sum {
    /// The campaign.
    pub campaign: Uuid,
    /// The ledger's sum.
    pub raised_minor: i64,
    /// Its completed donations.
    pub donations: i64,
    /// Its donors.
    pub donors: i64,
    /// Its lines.
    pub lines: i64,
    /// What the payments say.
    pub paid_minor: i64,
}

impl Sum {
    /// Whether `totals` say the same.
    pub fn is(&self, totals: &Totals) -> bool {
        (self.raised_minor, self.donations, self.donors, self.lines)
            == (totals.raised_minor, totals.donation_count, totals.donor_count, totals.version)
    }
}

/// The full sums of these campaigns.
pub async fn full_sums(client: &Client, campaigns: &[Uuid]) -> Result<Vec<Sum>, String> {
    let rows = query(client, COMPARE_SUMS, &[&campaigns]).await?;
    Ok(rows
        .iter()
        .map(|row| Sum {
            campaign: row.get("id"),
            raised_minor: row.get("ledger_raised"),
            donations: row.get("ledger_donations"),
            donors: row.get("ledger_donors"),
            lines: row.get("ledger_lines"),
            paid_minor: row.get("paid_raised"),
        })
        .collect())
}

async fn sums(client: &Client, target: &Target, books: &Books, findings: &mut Findings) -> Result<(), String> {
    let sums = full_sums(client, &books.campaigns()).await?;
    let before = findings.faults.len();
    for sum in sums.iter().filter(|sum| sum.paid_minor != sum.raised_minor) {
        findings.faults.push(format!(
            "campaign {}: the ledger sums up to {} minor units, captured − refunded − disputed to {}",
            sum.campaign, sum.raised_minor, sum.paid_minor
        ));
    }
    // The fullest first: a campaign without money proves little.
    let mut asked: Vec<&Sum> = sums.iter().collect();
    asked.sort_by_key(|sum| std::cmp::Reverse(sum.lines));
    asked.truncate(ASKED);
    for address in &target.replicas {
        let mut office = Office::new(*address, &target.admin_key);
        for sum in &asked {
            if let Some(shown) = never_shown(&mut office, sum).await? {
                findings
                    .faults
                    .push(format!("campaign {} is shown as {shown:?} by {address}, its sum is {sum:?}", sum.campaign));
            }
        }
    }
    if findings.faults.len() == before {
        let raised: i64 = sums.iter().map(|sum| sum.raised_minor).sum();
        findings.held.push(format!(
            "{} campaigns: ledger = payments, and the {} fullest are shown so by each process ({raised} minor units)",
            sums.len(),
            asked.len()
        ));
    }
    Ok(())
}

/// Waits until the campaign is shown as it sums up; what is shown instead, if it never is.
async fn never_shown(office: &mut Office, sum: &Sum) -> Result<Option<Totals>, String> {
    let deadline = Instant::now() + SHOWN_DEADLINE;
    loop {
        let shown = office.totals(sum.campaign, Newness::Any).await?;
        if sum.is(&shown) {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Ok(Some(shown));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Deletes an acknowledged donation behind the server's back: for the proof that the audit finds what is lost.
pub async fn lose_one(target: &Target, books: &Books) -> Result<(), String> {
    let config =
        target.database.as_ref().filter(|_| target.is_ours()).ok_or("only in a database that was made for the run")?;
    let given = books.given().into_iter().next().ok_or("nothing was acknowledged")?;
    let client = connect(config).await?;
    let lost = client.execute("delete from donations.donations where id = $1", &[&given.donation]).await;
    match lost.map_err(|error| told(&error))? {
        1 => Ok(()),
        _ => Err(format!("the donation {} was not there", given.donation)),
    }
}
