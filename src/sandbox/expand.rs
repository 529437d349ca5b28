//! `expand[]`: objects put in place of their ids (<https://docs.stripe.com/api/expanding_objects>).
//!
//! Deliberately absent: paths that lead to objects which the sandbox does not keep, such as `customer`.

use std::sync::Arc;

use super::errors::StripeError;
use super::form::Form;
use super::objects::{Charge, Dispute, Object, PaymentIntent, Refund};
use super::state::State;

/// What is to be expanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expand {
    charge: bool,
    refunds: bool,
    dispute: bool,
    intent: bool,
}

impl Expand {
    /// Reads `expand[]`; the `data.` of lists is understood.
    pub fn from_form(form: &Form) -> Result<Self, StripeError> {
        let mut expand = Self::default();
        for path in form.list("expand") {
            expand.add(path)?;
        }
        Ok(expand)
    }

    fn add(&mut self, path: &str) -> Result<(), StripeError> {
        match path.strip_prefix("data.").unwrap_or(path) {
            "latest_charge" | "charge" => self.charge = true,
            "latest_charge.refunds" | "charge.refunds" => (self.charge, self.refunds) = (true, true),
            "latest_charge.dispute" | "charge.dispute" => (self.charge, self.dispute) = (true, true),
            "refunds" => self.refunds = true,
            "dispute" => self.dispute = true,
            "payment_intent" => self.intent = true,
            _ => {
                let message = format!("This property cannot be expanded ({path}).");
                return Err(StripeError::parameter("expand", &message));
            }
        }
        Ok(())
    }

    /// Whether anything is to be expanded.
    pub fn is_wanted(self) -> bool {
        self != Self::default()
    }
}

/// The objects around one object, as far as they were asked for.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub charge: Option<Arc<Charge>>,
    pub intent: Option<Arc<PaymentIntent>>,
    pub refunds: Option<Vec<Arc<Refund>>>,
    pub dispute: Option<Arc<Dispute>>,
}

impl Expanded {
    /// Nothing expanded.
    pub const NOTHING: Self = Self { charge: None, intent: None, refunds: None, dispute: None };

    /// Gathers what `expand` asks for around `object`.
    pub fn gather(state: &State, object: &Object, expand: Expand) -> Self {
        if !expand.is_wanted() {
            return Self::NOTHING;
        }
        let (charge, intent) = neighbours(state, object);
        let around = charge.as_deref();
        Self {
            refunds: around.filter(|_| expand.refunds).map(|charge| refunds(state, charge)),
            dispute: around.filter(|_| expand.dispute).and_then(|charge| dispute(state, charge)),
            charge: charge.filter(|_| expand.charge),
            intent: intent.filter(|_| expand.intent),
        }
    }
}

fn neighbours(state: &State, object: &Object) -> (Option<Arc<Charge>>, Option<Arc<PaymentIntent>>) {
    let charge = |id: &str| state.charges.get(id).cloned();
    let intent = |id: &str| state.intents.get(id).cloned();
    match object {
        Object::PaymentIntent(of) => (of.latest_charge().and_then(|id| charge(id)), None),
        Object::Charge(of) => (Some(of.clone()), intent(&of.intent)),
        Object::Refund(of) => (charge(&of.charge), intent(&of.intent)),
        Object::Dispute(of) => (charge(&of.charge), intent(&of.intent)),
    }
}

fn refunds(state: &State, charge: &Charge) -> Vec<Arc<Refund>> {
    charge.refunds.iter().rev().filter_map(|id| state.refunds.get(id).cloned()).collect()
}

fn dispute(state: &State, charge: &Charge) -> Option<Arc<Dispute>> {
    state.disputes.get(charge.dispute.as_deref()?).cloned()
}
