//! The payment's row: how it is written, and what a write must never do to it.
//!
//! Deliberately absent: who writes (see `world`).

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use super::history::AMOUNT_MINOR;
use crate::domain::fact::FactKind;
use crate::domain::money::Currency;
use crate::domain::payment::change::Change;
use crate::domain::payment::{Payment, PaymentStatus};

/// How the store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Only where the row still has the version that was decided upon, and claim and effect together.
    Checked,
    /// A mutant: whatever the version.
    Blind,
    /// A mutant: the effect without the claim.
    Unclaimed,
}

/// The payment's row, or what a replica believes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Arc<Payment>);

impl Row {
    pub fn new(payment: Payment) -> Self {
        Self(Arc::new(payment))
    }
}

impl Deref for Row {
    type Target = Payment;

    fn deref(&self) -> &Payment {
        &self.0
    }
}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let it = &self.0;
        (it.status, it.version, it.provider_at, it.captured_minor, &it.flag).hash(state);
        for refund in &it.refunds {
            (&refund.id, refund.amount_minor, refund.status.rank()).hash(state);
        }
        for dispute in &it.disputes {
            (&dispute.id, dispute.amount_minor, dispute.status.rank()).hash(state);
        }
    }
}

/// What a change does that none may do.
pub fn misdeed(row: &Payment, change: &Change) -> Option<&'static str> {
    let (mut here, mut version) = (row.status, row.version);
    for step in &change.steps {
        version += 1;
        if step.version != version {
            return Some("versions have a gap");
        }
        if step.from != here || (step.from != step.to && !step.from.next().contains(&step.to)) {
            return Some("a status changed where there is no edge");
        }
        here = step.to;
    }
    let after = &change.after;
    if (here, version) != (after.status, after.version) {
        return Some("the steps do not lead where the change does");
    }
    if after.captured_minor < row.captured_minor || (row.status.has_captured() && !after.status.has_captured()) {
        return Some("captured money was un-captured");
    }
    if row.captured_minor > 0 && change.facts.contains(&FactKind::PaymentCompleted) {
        return Some("a payment is told to be completed twice");
    }
    None
}

/// What is left of the money that moved to us.
pub fn net_minor(payment: &Payment) -> i64 {
    payment.captured_minor - payment.refunded_minor() - payment.disputed_minor()
}

/// The payment as it is before anything is heard of it.
pub fn recorded(manual_capture: bool) -> Payment {
    Payment {
        id: uuid::Uuid::from_u128(1).into(),
        donation_id: uuid::Uuid::from_u128(2).into(),
        campaign_id: uuid::Uuid::from_u128(3).into(),
        amount_minor: AMOUNT_MINOR,
        currency: Currency::parse("EUR").expect("a known currency"),
        manual_capture,
        status: PaymentStatus::Initiated,
        version: 1,
        provider_at: None,
        intent_id: Some("pi_1".to_owned()),
        client_secret: None,
        captured_minor: 0,
        refunds: vec![],
        disputes: vec![],
        flag: None,
        traceparent: None,
        checks: 0,
        updated_at: time::OffsetDateTime::UNIX_EPOCH,
    }
}
