//! What test methods let happen by itself a little later: disputes open, refunds turn, bank debits settle.
//!
//! What is to follow can be told from an object alone, so nothing of this is written down: after a restart every
//! object is looked at once more. A follow-up that has been overtaken comes to nothing.

use std::time::Duration;

use super::cards::{Behaviour, DEBIT_SETTLES_AFTER, DISPUTE_OPENS_AFTER, REFUND_TURNS_AFTER};
use super::errors::StripeError;
use super::ids::Id;
use super::objects::{Charge, ChargeStatus, DisputeStatus, IntentStatus, Object, PaymentIntent, Refund};
use super::work::Work;
use super::{disputes, intents, refunds};

/// One thing that is to follow.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FollowUp {
    /// A dispute about this charge opens.
    OpenDispute(Id, DisputeStatus),
    /// This refund turns into what was planned.
    TurnRefund(Id),
    /// The bank decides about this intent's debit.
    DecideDebit(Id, bool),
}

impl FollowUp {
    /// What follows from an object as it stands, and after how long.
    pub fn of(object: &Object) -> Option<(Duration, Self)> {
        match object {
            Object::PaymentIntent(intent) => Self::of_intent(intent),
            Object::Charge(charge) => Self::of_charge(charge),
            Object::Refund(refund) => Self::of_refund(refund),
            Object::Dispute(_) => None,
        }
    }

    fn of_intent(intent: &PaymentIntent) -> Option<(Duration, Self)> {
        let method = intent.method.filter(|_| intent.status == IntentStatus::Processing)?;
        let pays = match method.behaviour() {
            Behaviour::DebitSettles => true,
            Behaviour::DebitFails { .. } => false,
            _ => return None,
        };
        Some((DEBIT_SETTLES_AFTER, Self::DecideDebit(intent.id.clone(), pays)))
    }

    fn of_charge(charge: &Charge) -> Option<(Duration, Self)> {
        let Behaviour::Disputes(status) = charge.method.behaviour() else { return None };
        let disputable = charge.captured && charge.status == ChargeStatus::Succeeded && charge.dispute.is_none();
        disputable.then(|| (DISPUTE_OPENS_AFTER, Self::OpenDispute(charge.id.clone(), *status)))
    }

    fn of_refund(refund: &Refund) -> Option<(Duration, Self)> {
        refund.planned.map(|_| (REFUND_TURNS_AFTER, Self::TurnRefund(refund.id.clone())))
    }

    /// Does it. An error says that something else came first.
    pub fn run(&self, work: &mut Work<'_>) -> Result<Object, StripeError> {
        match self {
            Self::OpenDispute(charge, status) => disputes::open(work, charge, *status).map(Object::from),
            Self::DecideDebit(intent, pays) => intents::process(work, intent, *pays).map(Object::from),
            Self::TurnRefund(id) => {
                let refund = work.refund(id)?;
                let Some(status) = refund.planned else { return Ok(Object::from(refund)) };
                refunds::turn(work, id, status).map(Object::from)
            }
        }
    }
}
