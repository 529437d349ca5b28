//! What an event of the provider does to a payment: one pure function, used wherever a verdict is needed.
//!
//! Precedence: duplicate (by the event's id, known to the store, not here) → stale → rejected → applied.
//!
//! The rule in one breath: refunds and disputes are merged by their own ids and only move forward, so their order does
//! not matter; a status is decided by the newest *provider* time; a tie in one second is decided by what is known of
//! the states; money that moved does not un-move; and where events alone cannot decide, the provider is asked and its
//! answer decides. The local clock decides nothing.
//!
//! Deliberately absent: I/O, clocks, identifiers.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::{Payment, PaymentStatus};
use crate::domain::provider::{DisputeFact, IntentSnapshot, IntentStatus, ProviderChange, ProviderEvent, RefundFact};

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It changed what is known of the payment.
    Applied,
    /// Its id was handled before.
    Duplicate,
    /// Older than what is known, or nothing new.
    Stale,
    /// No path of the machine leads where it says, or its amounts are not ours.
    Rejected,
    /// It is for a payment that is not here yet; it waits.
    Parked,
    /// It is none of ours.
    Ignored,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 6] =
        [Self::Applied, Self::Duplicate, Self::Stale, Self::Rejected, Self::Parked, Self::Ignored];

    /// The name in the API, the database and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Rejected => "rejected",
            Self::Parked => "parked",
            Self::Ignored => "ignored",
        }
    }
}

/// The outcome of deciding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A verdict, with the change that it brings: always for `Applied`, sometimes (a flag) for `Rejected`.
    Settled {
        /// The verdict.
        verdict: Verdict,
        /// The rule that led to it, for people.
        reason: String,
        /// What is to be committed with it.
        change: Option<Box<Change>>,
    },
    /// The events alone cannot decide: ask the provider for the intent and decide again with its answer.
    AskProvider,
}

/// Decides what `event` does to `payment`. `answer` is the provider's own view, where it had to be asked.
pub fn decide(payment: &Payment, event: &ProviderEvent, answer: Option<&IntentSnapshot>) -> Decision {
    match &event.change {
        ProviderChange::Refund(refund) => merge_refunds(payment, std::slice::from_ref(refund)),
        ProviderChange::Dispute(dispute) => merge_disputes(payment, std::slice::from_ref(dispute)),
        ProviderChange::RefundedInTotal { total_minor, refunds } => {
            decide_total(payment, *total_minor, refunds, event.created, answer)
        }
        ProviderChange::Captured { received_minor, currency } => {
            decide_capture(payment, event.created, *received_minor, currency, answer)
        }
        ProviderChange::Processing => decide_status(payment, event.created, PaymentStatus::Processing, answer),
        ProviderChange::AttemptFailed { .. } => decide_status(payment, event.created, PaymentStatus::Failed, answer),
        ProviderChange::Authorized { .. } => decide_status(payment, event.created, PaymentStatus::Authorized, answer),
        // A released or expired authorization is a cancellation, whichever of its events comes first.
        ProviderChange::Canceled | ProviderChange::Released | ProviderChange::Expired => {
            decide_status(payment, event.created, PaymentStatus::Canceled, answer)
        }
    }
}

/// Takes the provider's own view of the payment over, as far as it says more than we know. `at` is the provider time of
/// the event that made us ask, if one did.
pub fn adopt(payment: &Payment, snapshot: &IntentSnapshot, at: Option<i64>) -> Decision {
    let mut after = payment.clone();
    let target = match snapshot.status {
        IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction => {
            was_declined(payment, snapshot).then_some(PaymentStatus::Failed)
        }
        IntentStatus::Processing => Some(PaymentStatus::Processing),
        IntentStatus::RequiresCapture => Some(PaymentStatus::Authorized),
        IntentStatus::Canceled => Some(PaymentStatus::Canceled),
        IntentStatus::Succeeded => Some(PaymentStatus::Captured),
    };
    if target == Some(PaymentStatus::Captured) && payment.captured_minor == 0 {
        if let Some(mismatch) = mismatch(payment, snapshot.received_minor, &snapshot.currency) {
            return flagged(payment, mismatch);
        }
        after.captured_minor = snapshot.received_minor;
    }
    for refund in &snapshot.refunds {
        merge_refund(&mut after.refunds, refund);
    }
    for dispute in &snapshot.disputes {
        merge_dispute(&mut after.disputes, dispute);
    }
    let moves_on = target.is_some_and(|target| target != payment.status && !payment.status.has_captured());
    if !moves_on && after == *payment {
        return stale("the provider was asked and says nothing new");
    }
    after.provider_at = after.provider_at.max(at);
    let target = if moves_on { target } else { None };
    apply(payment, after, target, "as the provider says when asked")
}

/// Whether an intent that waits for the donor was declined. Its error alone does not tell: the provider forgets it when
/// the next attempt begins or the object is touched. But from the bank's work only a decline leads back to the donor.
fn was_declined(payment: &Payment, snapshot: &IntentSnapshot) -> bool {
    let says_so = snapshot.status == IntentStatus::RequiresPaymentMethod && snapshot.last_error.is_some();
    says_so || payment.status == PaymentStatus::Processing
}

fn decide_status(payment: &Payment, created: i64, target: PaymentStatus, answer: Option<&IntentSnapshot>) -> Decision {
    let newest = payment.provider_at.unwrap_or(i64::MIN);
    match created.cmp(&newest) {
        Ordering::Less => return stale("older than the newest provider time that was applied"),
        Ordering::Equal => match tie(payment.status, target) {
            Tie::Keep => return stale("same second, and what is known outranks it"),
            Tie::Take => {}
            Tie::Ask => match answer {
                None => return Decision::AskProvider,
                Some(snapshot) => return adopt(payment, snapshot, Some(created)),
            },
        },
        Ordering::Greater if target == payment.status && !payment.status.is_open() => {
            return stale("the payment already stands there");
        }
        Ordering::Greater => {}
    }
    let mut after = payment.clone();
    after.provider_at = Some(created);
    let reason = if target == payment.status { "said again" } else { "newer, and a path leads there" };
    apply(payment, after, Some(target), reason)
}

enum Tie {
    Keep,
    Take,
    Ask,
}

/// Two different things were said of one second. Final outranks open, an authorization outranks a declined attempt and
/// the processing that led to it; whether processing or the decline came last, only the provider knows.
fn tie(known: PaymentStatus, said: PaymentStatus) -> Tie {
    use PaymentStatus::{Authorized, Canceled, Captured, Failed, Initiated, Processing, Refunded};
    match (known, said) {
        (Captured | Refunded | Canceled, _) => Tie::Keep,
        // Taken, though nothing changes but the version: whoever decides at this moment by an older answer of the
        // provider must meet a conflict and ask again.
        (known, said) if known == said => Tie::Take,
        (_, Captured | Refunded | Canceled) | (Initiated, _) => Tie::Take,
        (_, Authorized) => Tie::Take,
        (Authorized, _) => Tie::Keep,
        (Processing | Failed, _) => Tie::Ask,
    }
}

fn decide_capture(
    payment: &Payment,
    created: i64,
    received_minor: i64,
    currency: &str,
    answer: Option<&IntentSnapshot>,
) -> Decision {
    if payment.captured_minor > 0 {
        return stale("this capture is already booked");
    }
    if payment.provider_at.is_some_and(|newest| created < newest) {
        // No legal history has a success before a later decline. Never overwrite by arrival, never lose money: ask.
        return match answer {
            _ if !payment.status.is_open() => stale("older than the newest provider time that was applied"),
            None => Decision::AskProvider,
            Some(snapshot) => adopt(payment, snapshot, None),
        };
    }
    if let Some(mismatch) = mismatch(payment, received_minor, currency) {
        return flagged(payment, mismatch);
    }
    let mut after = payment.clone();
    after.captured_minor = received_minor;
    after.provider_at = Some(created);
    apply(payment, after, Some(PaymentStatus::Captured), "money moved, and a path leads there")
}

/// What is wrong with the money that the provider says it received, if anything is.
fn mismatch(payment: &Payment, received_minor: i64, currency: &str) -> Option<String> {
    let asked = payment.currency.format(payment.amount_minor);
    if !currency.eq_ignore_ascii_case(payment.currency.code()) {
        return Some(format!("received {received_minor} minor units of {currency}, asked for {asked}"));
    }
    let fits = if payment.manual_capture {
        received_minor > 0 && received_minor <= payment.amount_minor
    } else {
        received_minor == payment.amount_minor
    };
    (!fits).then(|| format!("received {}, asked for {asked}", payment.currency.format(received_minor)))
}

fn decide_total(
    payment: &Payment,
    total_minor: i64,
    listed: &[RefundFact],
    created: i64,
    answer: Option<&IntentSnapshot>,
) -> Decision {
    let sum: i64 = listed.iter().filter(|refund| refund.status.stands()).map(|refund| refund.amount_minor).sum();
    if !listed.is_empty() && sum == total_minor {
        return merge_refunds(payment, listed);
    }
    if payment.captured_minor > 0 && payment.standing_refunds_minor() == total_minor {
        return stale("every refund in this total is known");
    }
    match answer {
        None => Decision::AskProvider,
        Some(snapshot) => adopt(payment, snapshot, (!payment.status.has_captured()).then_some(created)),
    }
}

fn merge_refunds(payment: &Payment, refunds: &[RefundFact]) -> Decision {
    let mut after = payment.clone();
    for refund in refunds {
        merge_refund(&mut after.refunds, refund);
    }
    merged(payment, after, "refund merged by its id")
}

fn merge_disputes(payment: &Payment, disputes: &[DisputeFact]) -> Decision {
    let mut after = payment.clone();
    for dispute in disputes {
        merge_dispute(&mut after.disputes, dispute);
    }
    merged(payment, after, "dispute merged by its id and status")
}

fn merged(payment: &Payment, after: Payment, reason: &str) -> Decision {
    if after == *payment {
        return stale("this stage is already known");
    }
    let reason = if payment.captured_minor == 0 {
        format!("{reason}; counts once the capture is known")
    } else {
        reason.to_owned()
    };
    apply(payment, after, None, &reason)
}

fn merge_refund(known: &mut Vec<RefundFact>, said: &RefundFact) {
    match known.iter_mut().find(|refund| refund.id == said.id) {
        None => known.push(said.clone()),
        Some(refund) if said.status.rank() > refund.status.rank() => refund.status = said.status,
        Some(_) => {}
    }
}

fn merge_dispute(known: &mut Vec<DisputeFact>, said: &DisputeFact) {
    match known.iter_mut().find(|dispute| dispute.id == said.id) {
        None => known.push(said.clone()),
        Some(dispute) if said.status.rank() > dispute.status.rank() => *dispute = said.clone(),
        Some(_) => {}
    }
}

fn apply(payment: &Payment, after: Payment, target: Option<PaymentStatus>, reason: &str) -> Decision {
    match Change::between(payment, after, target) {
        Some(change) => {
            Decision::Settled { verdict: Verdict::Applied, reason: reason.to_owned(), change: Some(Box::new(change)) }
        }
        None => Decision::Settled {
            verdict: Verdict::Rejected,
            reason: format!(
                "no path leads from {} to {}",
                payment.status.as_str(),
                target.unwrap_or(PaymentStatus::Captured).as_str()
            ),
            change: None,
        },
    }
}

fn flagged(payment: &Payment, mismatch: String) -> Decision {
    let mut after = payment.clone();
    after.flag = Some(mismatch.clone());
    let change = if after.flag == payment.flag { None } else { Change::between(payment, after, None).map(Box::new) };
    Decision::Settled { verdict: Verdict::Rejected, reason: format!("amount mismatch: {mismatch}"), change }
}

fn stale(reason: &str) -> Decision {
    Decision::Settled { verdict: Verdict::Stale, reason: reason.to_owned(), change: None }
}

#[cfg(test)]
mod tests;
