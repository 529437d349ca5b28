//! `careforall verify`: replays every history through the rule and compares what follows with what is stored.
//!
//! Payments are read in batches, each in one read-only transaction of its own (REPEATABLE READ), so a payment is always
//! seen whole and no snapshot is held for long; the books of campaigns are compared in one statement. It may run beside
//! the server. Deliberately absent: mending. A difference is a fault of ours, or somebody's hand in the tables, and is
//! looked into by a person.

mod judge;

use clap::Args;
use uuid::Uuid;

use super::progress::Progress;
use super::{counted, say, with_store_to_read};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::ids::PaymentId;
use crate::store::dossiers::Walk;
use crate::store::verify::{CampaignBooks, Strays, Sum};
use crate::store::{Store, StoreError};
use judge::differences;

/// Payments in one transaction.
const BATCH: i64 = 1000;
/// Differences that are printed at most; the rest is counted.
const PRINTED: usize = 200;
/// An event that is parked for longer while its payment is here was forgotten.
const PARKED_LATE: time::Duration = time::Duration::minutes(5);

#[derive(Args)]
pub struct Scope {
    /// Only the payments and the books of this campaign.
    #[arg(long, value_name = "ID", conflicts_with = "payment")]
    campaign: Option<Uuid>,
    /// Only this payment (its own identifier, its donation's, or Stripe's); campaigns are left out.
    #[arg(long, value_name = "ID")]
    payment: Option<String>,
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Findings {
    payments: usize,
    moves: usize,
    lines: usize,
    differences: usize,
}

impl Findings {
    fn report(&mut self, subject: &str, differences: Vec<String>) {
        for difference in differences {
            self.differences += 1;
            if self.differences <= PRINTED {
                say(&format!("{subject}: {difference}\n"));
            }
        }
    }

    fn so_far(&self) -> String {
        counted(self.differences, "difference")
    }
}

pub async fn run(config: Config, scope: Scope) -> Result<(), String> {
    with_store_to_read(&config, async |store| verify(&store, scope).await).await
}

async fn verify(store: &Store, scope: Scope) -> Result<(), String> {
    let mut findings = Findings::default();
    let words = match scope.payment {
        Some(name) => one_payment(store, &name, &mut findings).await?,
        None => everything(store, scope.campaign, &mut findings).await.map_err(|error| error.to_string())?,
    };
    let looked_at = format!(
        "{}, {}, {}{words}",
        counted(findings.payments, "payment"),
        counted(findings.moves, "move"),
        counted(findings.lines, "ledger line"),
    );
    if findings.differences == 0 {
        say(&format!("no difference: {looked_at}\n"));
        return Ok(());
    }
    let more = findings.differences.saturating_sub(PRINTED);
    let more = if more > 0 { format!(" ({more} of them not printed)") } else { String::new() };
    Err(format!("{}{more} in {looked_at}", findings.so_far()))
}

async fn one_payment(store: &Store, name: &str, findings: &mut Findings) -> Result<String, String> {
    let found = store.find_payment(name).await.map_err(|error| error.to_string())?;
    let id = found.ok_or_else(|| format!("there is no payment, donation or intent {name}"))?;
    judge_batch(store, &[id], findings).await.map_err(|error| error.to_string())?;
    Ok(String::new())
}

async fn everything(store: &Store, campaign: Option<Uuid>, findings: &mut Findings) -> Result<String, StoreError> {
    let now = Clock::System.now();
    let walk = Walk { campaign_id: campaign, until: Some(now), ..Walk::default() };
    let mut progress = Progress::of("payments", store.count_walk(&walk).await?);
    let mut last = Uuid::nil();
    loop {
        let ids = store.walk_payments(&walk, last, BATCH).await?;
        let Some(end) = ids.last() else { break };
        last = end.uuid();
        judge_batch(store, &ids, findings).await?;
        progress.add(ids.len(), || findings.so_far());
    }
    let rate = progress.rate();
    let (books, differing) = store.compare_campaigns(campaign, i64::try_from(PRINTED).unwrap_or(i64::MAX)).await?;
    for it in &books {
        findings.report(&format!("campaign {}", it.id), campaign_differences(it));
    }
    findings.differences += usize::try_from(differing).unwrap_or(usize::MAX).saturating_sub(books.len());
    if campaign.is_some() {
        return Ok(format!(", 1 campaign; {rate} payments/s, {}", progress.took()));
    }
    let strays = store.count_strays(now - PARKED_LATE).await?;
    findings.report("all", stray_differences(&strays));
    let campaigns = counted(usize::try_from(strays.campaigns).unwrap_or(0), "campaign");
    let parked = if strays.parked_strange > 0 {
        format!("; {} parked events wait for payments that are not here", strays.parked_strange)
    } else {
        String::new()
    };
    Ok(format!(", {campaigns}; {rate} payments/s, {}{parked}", progress.took()))
}

async fn judge_batch(store: &Store, ids: &[PaymentId], findings: &mut Findings) -> Result<(), StoreError> {
    for dossier in store.load_dossiers(ids).await? {
        findings.payments += 1;
        findings.moves += dossier.moves.len();
        findings.lines += dossier.lines.len();
        findings.report(&format!("payment {}", dossier.payment.id), differences(&dossier));
    }
    Ok(())
}

fn campaign_differences(books: &CampaignBooks) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, other: Sum| {
        if other != books.ledger {
            found.push(format!("the ledger says {}, {name} {}", shown(books.ledger), shown(other)));
        }
    };
    compare("the payments say", books.payments);
    if let Some(sum) = books.shown {
        compare("the view with what it has not seen says", sum);
    }
    if let Some(sum) = books.reckoned {
        compare("the checkpoint with what it has not seen says", sum);
    }
    if books.miscounted_donors > 0 {
        let donors = counted(usize::try_from(books.miscounted_donors).unwrap_or(0), "donor");
        found.push(format!("{donors} with another number of gifts than of captured payments"));
    }
    if found.is_empty() {
        found.push("view or checkpoint counts another number of ledger lines than there are".to_owned());
    }
    found
}

fn shown(sum: Sum) -> String {
    format!("{} minor units, {} gifts, {} donors", sum.raised_minor, sum.donations, sum.donors)
}

fn stray_differences(strays: &Strays) -> Vec<String> {
    [
        (strays.dead_facts, "events set aside in the outbox"),
        (strays.parked_late, "parked events whose payment is here"),
        (strays.lone_donations, "donations without their payment"),
        (strays.lone_history, "history rows without a payment"),
        (strays.lone_lines, "ledger lines without a payment"),
        (strays.lone_refunds, "refunds without a payment"),
        (strays.lone_disputes, "disputes without a payment"),
        (strays.repeated_receipts, "receipt numbers given twice"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}
