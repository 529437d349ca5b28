//! The rule under test, and rules that are wrong on purpose: a check that does not fail them proves nothing.

use crate::domain::payment::change::Change;
use crate::domain::payment::decide::{Decision, Verdict, decide};
use crate::domain::payment::status::EDGES;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::{IntentSnapshot, ProviderChange, ProviderEvent};

/// The edges of the picture, and the one that its refunds need.
const DRAWN: &[(PaymentStatus, &[PaymentStatus])] = &[
    (PaymentStatus::Initiated, &[PaymentStatus::Authorized, PaymentStatus::Failed]),
    (PaymentStatus::Authorized, &[PaymentStatus::Captured, PaymentStatus::Refunded, PaymentStatus::Failed]),
    (PaymentStatus::Captured, &[PaymentStatus::Refunded]),
];

/// How events are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The one that we use.
    Ours,
    /// The picture's: older than the row's time is ignored, then one edge or nothing; ties by arrival; refunds and
    /// disputes by the event's name and its cumulative amount.
    Picture,
    /// The same with all the edges of our own machine.
    PictureWithOurEdges,
    /// Ours, but of two events of one second the later arrival wins.
    TiesByArrival,
    /// Ours, but only where one edge leads to the target.
    WithoutPaths,
    /// Ours, but what the provider would have to be asked counts as stale.
    WithoutAsking,
    /// Ours, but a decline of what is declined already is nothing new.
    DeclinesOnce,
    /// Ours, but the latest arrival says how a refund stands.
    RefundsByArrival,
}

impl Rule {
    /// The verdict of this rule.
    pub fn decide(self, payment: &Payment, event: &ProviderEvent, answer: Option<&IntentSnapshot>) -> Decision {
        match self {
            Self::Ours => decide(payment, event, answer),
            Self::Picture => picture(DRAWN, payment, event),
            Self::PictureWithOurEdges => picture(EDGES, payment, event),
            Self::TiesByArrival => ties_by_arrival(payment, event, answer),
            Self::WithoutPaths => keep_if(decide(payment, event, answer), |change| edges_walked(change) <= 1),
            Self::WithoutAsking => match decide(payment, event, answer) {
                Decision::AskProvider => nothing(Verdict::Stale),
                decision => decision,
            },
            Self::DeclinesOnce => keep_if(decide(payment, event, answer), |change| {
                change.after.status != PaymentStatus::Failed || payment.status != PaymentStatus::Failed
            }),
            Self::RefundsByArrival => refunds_by_arrival(payment, event, answer),
        }
    }
}

fn picture(edges: &[(PaymentStatus, &[PaymentStatus])], payment: &Payment, event: &ProviderEvent) -> Decision {
    if payment.provider_at.is_some_and(|newest| event.created < newest) {
        return nothing(Verdict::Stale);
    }
    let mut after = Payment { provider_at: Some(event.created), ..payment.clone() };
    let target = match &event.change {
        ProviderChange::Processing => PaymentStatus::Processing,
        ProviderChange::AttemptFailed { .. } => PaymentStatus::Failed,
        ProviderChange::Authorized { .. } => PaymentStatus::Authorized,
        ProviderChange::Canceled | ProviderChange::Released | ProviderChange::Expired => PaymentStatus::Canceled,
        ProviderChange::Captured { received_minor, .. } => {
            after.captured_minor = *received_minor;
            PaymentStatus::Captured
        }
        // Its one column: what is refunded, whichever event names an amount.
        ProviderChange::Refund(refund) => {
            after.refunds = vec![refund.clone()];
            PaymentStatus::Refunded
        }
        ProviderChange::RefundedInTotal { refunds, .. } => {
            after.refunds.clone_from(refunds);
            PaymentStatus::Refunded
        }
        ProviderChange::Dispute(dispute) => {
            after.disputes = vec![dispute.clone()];
            PaymentStatus::Refunded
        }
    };
    let allowed = edges.iter().any(|(from, to)| *from == payment.status && to.contains(&target));
    match Change::between(payment, after, Some(target)).filter(|_| allowed) {
        None => nothing(Verdict::Rejected),
        Some(mut change) => {
            change.after.status = target;
            change.steps.truncate(1);
            change.steps[0].to = target;
            change.after.version = change.steps[0].version;
            settled(Verdict::Applied, Some(change))
        }
    }
}

fn ties_by_arrival(payment: &Payment, event: &ProviderEvent, answer: Option<&IntentSnapshot>) -> Decision {
    if payment.provider_at != Some(event.created) {
        return decide(payment, event, answer);
    }
    let untied = Payment { provider_at: Some(event.created - 1), ..payment.clone() };
    decide(&untied, event, answer)
}

fn refunds_by_arrival(payment: &Payment, event: &ProviderEvent, answer: Option<&IntentSnapshot>) -> Decision {
    let ProviderChange::Refund(said) = &event.change else { return decide(payment, event, answer) };
    let mut after = payment.clone();
    after.refunds.retain(|known| known.id != said.id);
    after.refunds.push(said.clone());
    settled(Verdict::Applied, Change::between(payment, after, None))
}

fn keep_if(decision: Decision, keeps: impl FnOnce(&Change) -> bool) -> Decision {
    match decision {
        Decision::Settled { change: Some(change), .. } if !keeps(&change) => nothing(Verdict::Rejected),
        decision => decision,
    }
}

fn edges_walked(change: &Change) -> usize {
    change.steps.iter().filter(|step| step.from != step.to).count()
}

fn nothing(verdict: Verdict) -> Decision {
    settled(verdict, None)
}

fn settled(verdict: Verdict, change: Option<Change>) -> Decision {
    Decision::Settled { verdict, reason: String::new(), change: change.map(Box::new) }
}
