//! One payment: what is stored of it against what its history leads to.
//!
//! Deliberately absent: the database. A dossier is judged as it was read.

use crate::domain::donation::DonationStatus;
use crate::domain::payment::Payment;
use crate::domain::payment::change::LedgerLine;
use crate::domain::payment::replay::{Replay, compare_states};
use crate::store::dossiers::{Dossier, StoredDonation, StoredLine};

/// Every difference, a phrase for each; none where all is well.
pub fn differences(dossier: &Dossier) -> Vec<String> {
    let payment = &dossier.payment;
    let mut found = replayed(dossier);
    compare(&mut found, "refunded", payment.refunded_minor(), dossier.refunded_minor);
    compare(&mut found, "disputed", payment.disputed_minor(), dossier.disputed_minor);
    found.extend(misplaced(payment, &dossier.lines));
    match &dossier.donation {
        None => found.push("its donation is missing".to_owned()),
        Some(donation) => donation_differences(&mut found, payment, donation),
    }
    match (payment.captured_minor > 0, dossier.receipt_number) {
        (true, None) => found.push("captured, and has no receipt number".to_owned()),
        (false, Some(number)) => found.push(format!("not captured, and has the receipt number {number}")),
        (true, Some(_)) | (false, None) => {}
    }
    found
}

/// History → state and ledger. After a divergence only the sum of the ledger can still be compared.
fn replayed(dossier: &Dossier) -> Vec<String> {
    let mut replay = Replay::of(&dossier.payment);
    if dossier.moves.is_empty() {
        return vec!["it has no history".to_owned()];
    }
    for it in &dossier.moves {
        if let Err(divergence) = replay.take(&it.recorded) {
            let mut found = vec![format!("history, {divergence} ({} at {})", it.kind, it.at)];
            let net = net_minor(&dossier.payment);
            compare(&mut found, "the ledger's sum", net, dossier.lines.iter().map(|line| line.amount_minor).sum());
            return found;
        }
    }
    let mut found = compare_states(&replay.payment, &dossier.payment);
    let ours: Vec<String> = replay.lines.iter().map(|(version, line)| replayed_line(*version, line)).collect();
    let theirs: Vec<String> = dossier.lines.iter().map(stored_line).collect();
    compare(&mut found, "ledger", ours.join(", "), theirs.join(", "));
    found
}

/// What the payment adds to its campaign's total, in minor units.
fn net_minor(payment: &Payment) -> i64 {
    payment.captured_minor - payment.refunded_minor() - payment.disputed_minor()
}

fn replayed_line(version: i64, line: &LedgerLine) -> String {
    line_words(line.kind.as_str(), line.amount_minor, line.donations_delta, version)
}

fn stored_line(line: &StoredLine) -> String {
    line_words(&line.kind, line.amount_minor, line.donations_delta, line.version)
}

fn line_words(kind: &str, amount_minor: i64, donations_delta: i16, version: i64) -> String {
    format!("{kind} {amount_minor} ({donations_delta:+} gifts, version {version})")
}

fn misplaced(payment: &Payment, lines: &[StoredLine]) -> Option<String> {
    let strange = lines
        .iter()
        .filter(|line| line.currency != payment.currency.code() || line.campaign_id != payment.campaign_id.uuid())
        .count();
    (strange > 0).then(|| format!("{strange} ledger lines in another currency or for another campaign"))
}

fn donation_differences(found: &mut Vec<String>, payment: &Payment, donation: &StoredDonation) {
    let status = DonationStatus::from(payment.status).as_str();
    compare(found, "donation's status", status, donation.status.as_str());
    compare(found, "donation's version", payment.version, donation.version);
    compare(found, "donation's amount", payment.amount_minor, donation.amount_minor);
    compare(found, "donation's currency", payment.currency.code(), donation.currency.as_str());
    compare(found, "donation's campaign", payment.campaign_id.uuid(), donation.campaign_id);
    compare(found, "donation's payment", payment.id.uuid(), donation.payment_id);
}

fn compare<T: PartialEq + std::fmt::Display>(found: &mut Vec<String>, what: &str, expected: T, stored: T) {
    if expected != stored {
        found.push(format!("{what}: should be {expected}, stored is {stored}"));
    }
}
