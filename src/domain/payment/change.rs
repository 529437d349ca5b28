//! A change of a payment, ready to be committed: the steps, the ledger lines and the facts that follow from it.
//!
//! Lines and facts are derived from the difference of two states and from nothing else, so that no road to a state can
//! forget one. Deliberately absent: identifiers and times, which whoever commits adds.

use super::{Payment, PaymentStatus};
use crate::domain::fact::FactKind;
use crate::domain::provider::{DisputeFact, RefundFact};

/// From one state to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state afterwards.
    pub after: Payment,
    /// One entry for each version that it adds, in order: from where to where.
    pub steps: Vec<Step>,
    /// What is added to the ledger.
    pub lines: Vec<LedgerLine>,
    /// What others are told.
    pub facts: Vec<FactKind>,
    /// Refunds that are new or moved forward.
    pub refunds: Vec<RefundFact>,
    /// Disputes that are new or moved forward.
    pub disputes: Vec<DisputeFact>,
}

/// One row of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The status before.
    pub from: PaymentStatus,
    /// The status after; the same where only amounts or knowledge changed.
    pub to: PaymentStatus,
    /// The version after.
    pub version: i64,
}

/// One line of the append-only ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    /// What it is for.
    pub kind: LineKind,
    /// Positive for money to us, negative for money from us; minor units.
    pub amount_minor: i64,
    /// By how much the number of gifts changes.
    pub donations_delta: i16,
}

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// To us.
    Capture,
    /// Back to the donor.
    Refund,
    /// A refund came back.
    RefundFailed,
    /// Withheld by a dispute.
    Dispute,
    /// A dispute ended in our favour.
    Reinstated,
}

impl LineKind {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "CAPTURE",
            Self::Refund => "REFUND",
            Self::RefundFailed => "REFUND_FAILED",
            Self::Dispute => "DISPUTE",
            Self::Reinstated => "REINSTATED",
        }
    }
}

impl Change {
    /// The change from `before` to `after`, walking the machine to `target` on the way (money states follow from the
    /// amounts by themselves). `None` where no path leads there. The version and the status of `after` are set here.
    pub fn between(before: &Payment, mut after: Payment, target: Option<PaymentStatus>) -> Option<Self> {
        let walk = walk(before, &after, target)?;
        let mut steps = Vec::with_capacity(walk.len().max(1));
        let (mut here, mut version) = (before.status, before.version);
        for to in walk {
            version += 1;
            steps.push(Step { from: here, to, version });
            here = to;
        }
        if steps.is_empty() {
            version += 1;
            steps.push(Step { from: here, to: here, version });
        }
        after.status = here;
        after.version = version;
        after.checks = 0;
        Some(Self {
            lines: lines(before, &after),
            facts: facts(before, &after),
            refunds: after.refunds.iter().filter(|refund| !before.refunds.contains(refund)).cloned().collect(),
            disputes: after.disputes.iter().filter(|dispute| !before.disputes.contains(dispute)).cloned().collect(),
            steps,
            after,
        })
    }
}

fn walk(before: &Payment, after: &Payment, target: Option<PaymentStatus>) -> Option<Vec<PaymentStatus>> {
    if after.captured_minor == 0 {
        return before.status.path_to(target.unwrap_or(before.status));
    }
    if target.is_some_and(|target| !target.has_captured()) {
        return None; // money that moved does not un-move
    }
    let mut walk =
        if before.status.has_captured() { Vec::new() } else { before.status.path_to(PaymentStatus::Captured)? };
    let here = walk.last().copied().unwrap_or(before.status);
    let end =
        if after.refunded_minor() == after.captured_minor { PaymentStatus::Refunded } else { PaymentStatus::Captured };
    if end != here {
        walk.push(end);
    }
    Some(walk)
}

fn lines(before: &Payment, after: &Payment) -> Vec<LedgerLine> {
    let captured = after.captured_minor - before.captured_minor;
    let refunded = after.refunded_minor() - before.refunded_minor();
    let disputed = after.disputed_minor() - before.disputed_minor();
    let refund_kind = if refunded > 0 { LineKind::Refund } else { LineKind::RefundFailed };
    let dispute_kind = if disputed > 0 { LineKind::Dispute } else { LineKind::Reinstated };
    let mut lines: Vec<LedgerLine> =
        [(LineKind::Capture, captured), (refund_kind, -refunded), (dispute_kind, -disputed)]
            .into_iter()
            .filter(|(_, amount_minor)| *amount_minor != 0)
            .map(|(kind, amount_minor)| LedgerLine { kind, amount_minor, donations_delta: 0 })
            .collect();
    // Whether a gift counts changes only with money, so there is a line to carry it.
    if let Some(first) = lines.first_mut() {
        first.donations_delta = i16::from(after.counts_as_gift()) - i16::from(before.counts_as_gift());
    }
    lines
}

fn facts(before: &Payment, after: &Payment) -> Vec<FactKind> {
    let mut facts = Vec::new();
    if after.captured_minor > before.captured_minor {
        facts.push(FactKind::PaymentCompleted);
    }
    if after.status != before.status {
        match after.status {
            PaymentStatus::Authorized => facts.push(FactKind::PaymentAuthorized),
            PaymentStatus::Failed => facts.push(FactKind::PaymentFailed),
            PaymentStatus::Canceled => facts.push(FactKind::PaymentCanceled),
            PaymentStatus::Initiated
            | PaymentStatus::Processing
            | PaymentStatus::Captured
            | PaymentStatus::Refunded => {}
        }
    }
    match after.refunded_minor() - before.refunded_minor() {
        0 => {}
        more if more > 0 => facts.push(FactKind::PaymentRefunded),
        _ => facts.push(FactKind::PaymentRefundFailed),
    }
    match after.disputed_minor() - before.disputed_minor() {
        0 => {}
        more if more > 0 => facts.push(FactKind::PaymentDisputeOpened),
        _ => facts.push(FactKind::PaymentDisputeClosed),
    }
    if after.flag != before.flag && after.flag.is_some() {
        facts.push(FactKind::PaymentFlagged);
    }
    facts
}
