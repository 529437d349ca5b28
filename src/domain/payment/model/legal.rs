//! Legal histories, made from a grammar: what the provider may do next depends on how its object stands.
//!
//! attempts: (decline | processing | authentication begun | touched)*, then an authorization (manual) or a capture;
//! authorized: capture in full or in part, cancellation with its release before or after, or expiry;
//! captured: refunds that go pending → succeeded → failed and skip what they like, told one by one and in total,
//! and one dispute that may begin as an inquiry. Deliberately absent: chance; the caller brings it as numbers.

use super::history::{AMOUNT_MINOR, History};
use crate::domain::provider::DisputeStatus::{
    Lost, NeedsResponse, Prevented, UnderReview, WarningClosed, WarningNeedsResponse, WarningUnderReview, Won,
};
use crate::domain::provider::{DisputeStatus, IntentStatus, RefundStatus};

/// A production of the grammar.
type Step = Box<dyn FnOnce(History) -> History>;

/// The history that these choices make; shorter where it comes to an end of its own.
pub fn legal_history(manual_capture: bool, choices: &[u8]) -> History {
    let mut history = History::new(&format!("made of {choices:?}"), manual_capture);
    for choice in choices {
        let mut steps = steps_from(&history);
        if steps.is_empty() {
            break;
        }
        let chosen = steps.swap_remove(usize::from(*choice) % steps.len());
        history = chosen(history);
    }
    history
}

fn steps_from(history: &History) -> Vec<Step> {
    match history.now().status {
        IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation => {
            waiting().into_iter().chain(attempt_ends(history.manual_capture)).collect()
        }
        IntentStatus::RequiresAction => attempt_ends(history.manual_capture),
        IntentStatus::Processing => bank_decides(history.manual_capture),
        IntentStatus::RequiresCapture => authorized(),
        IntentStatus::Canceled => vec![],
        IntentStatus::Succeeded => after_capture(history),
    }
}

fn step(step: impl FnOnce(History) -> History + 'static) -> Step {
    Box::new(step)
}

fn waiting() -> Vec<Step> {
    vec![step(History::authentication_begun), step(History::touched)]
}

fn attempt_ends(manual_capture: bool) -> Vec<Step> {
    let mut steps = bank_decides(manual_capture);
    steps.extend([step(History::processing), step(History::canceled)]);
    steps
}

fn bank_decides(manual_capture: bool) -> Vec<Step> {
    if manual_capture {
        vec![step(History::authorized), step(History::declined)]
    } else {
        vec![step(|it| it.captured(AMOUNT_MINOR)), step(History::declined)]
    }
}

fn authorized() -> Vec<Step> {
    vec![
        step(|it| it.captured(AMOUNT_MINOR)),
        step(|it| it.captured(600).rest_released()),
        step(|it| it.captured(1)),
        step(|it| it.canceled().released()),
        step(|it| it.released().canceled()),
        step(|it| it.expired().canceled()),
        step(|it| it.canceled().expired()),
    ]
}

fn after_capture(history: &History) -> Vec<Step> {
    let object = history.now();
    let mut steps = vec![];
    let standing = object.refunds.iter().filter(|refund| refund.status.stands());
    let left = object.received_minor - standing.map(|refund| refund.amount_minor).sum::<i64>();
    let id = format!("re_{}", object.refunds.len());
    for amount in [left, left / 2].into_iter().filter(|amount| *amount > 0) {
        for status in [RefundStatus::Pending, RefundStatus::Succeeded] {
            let id = id.clone();
            steps.push(step(move |it| it.refund(&id, amount, status)));
        }
    }
    for refund in object.refunds.clone() {
        steps.extend(refund_goes_on(refund.status).iter().map(|&status| {
            let refund = refund.clone();
            step(move |it| it.refund(&refund.id, refund.amount_minor, status))
        }));
    }
    if !object.refunds.is_empty() {
        steps.extend([step(|it| it.refunded_in_total(true)), step(|it| it.refunded_in_total(false))]);
    }
    let dispute = object.disputes.first();
    let amount = dispute.map_or(object.received_minor, |dispute| dispute.amount_minor);
    let stages = dispute_goes_on(dispute.map(|dispute| dispute.status));
    steps.extend(stages.iter().map(|&status| step(move |it| it.disputed(amount, status))));
    steps
}

fn refund_goes_on(status: RefundStatus) -> &'static [RefundStatus] {
    match status {
        RefundStatus::Pending => &[RefundStatus::Succeeded, RefundStatus::Failed, RefundStatus::RequiresAction],
        RefundStatus::RequiresAction => &[RefundStatus::Succeeded, RefundStatus::Failed, RefundStatus::Canceled],
        RefundStatus::Succeeded => &[RefundStatus::Failed],
        RefundStatus::Failed | RefundStatus::Canceled => &[],
    }
}

fn dispute_goes_on(status: Option<DisputeStatus>) -> &'static [DisputeStatus] {
    match status {
        None => &[WarningNeedsResponse, NeedsResponse, Prevented],
        Some(WarningNeedsResponse) => &[WarningUnderReview, WarningClosed, NeedsResponse],
        Some(WarningUnderReview) => &[WarningClosed, NeedsResponse],
        Some(NeedsResponse) => &[UnderReview, Lost],
        Some(UnderReview) => &[Won, Lost],
        Some(Lost) => &[Won],
        Some(WarningClosed | Prevented | Won) => &[],
    }
}
