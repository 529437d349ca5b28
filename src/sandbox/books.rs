//! The sandbox's own books, added up from its objects: what anyone else's books must agree with.
//!
//! Deliberately absent: fees, payouts and exchange rates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::collection::Collection;
use super::objects::{Charge, Dispute, IntentStatus, PaymentIntent, Refund};
use crate::domain::money::Currency;

/// The books of all currencies, by upper-case ISO 4217 code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Books(BTreeMap<String, Sums>);

/// The books of one currency. Amounts in minor units.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Money that moved to us, before refunds and disputes.
    pub captured_minor: i64,
    /// Refunds that neither failed nor were called off.
    pub refunded_minor: i64,
    /// Disputes that withhold money now.
    pub disputed_minor: i64,
    /// Captured less refunded less disputed.
    pub net_minor: i64,
    /// Authorized and waiting for capture.
    pub capturable_minor: i64,
    /// How many payment intents there are.
    pub intents: u64,
    /// How many of them succeeded.
    pub succeeded: u64,
    /// How many of them were canceled.
    pub canceled: u64,
    /// How many refunds there are, of any status.
    pub refunds: u64,
    /// How many disputes there are, of any status.
    pub disputes: u64,
}

impl Books {
    fn of(&mut self, currency: Currency) -> &mut Sums {
        self.0.entry(currency.code().to_owned()).or_default()
    }

    /// Adds all objects.
    pub fn add_all(
        &mut self,
        intents: &Collection<PaymentIntent>,
        charges: &Collection<Charge>,
        refunds: &Collection<Refund>,
        disputes: &Collection<Dispute>,
    ) {
        intents.iter().for_each(|intent| self.add_intent(intent));
        charges.iter().for_each(|charge| self.add_charge(charge));
        refunds.iter().for_each(|refund| self.add_refund(refund));
        disputes.iter().for_each(|dispute| self.add_dispute(dispute));
    }

    /// Adds a payment intent.
    pub fn add_intent(&mut self, intent: &PaymentIntent) {
        let sums = self.of(intent.currency);
        sums.intents += 1;
        sums.capturable_minor += intent.amount_capturable;
        sums.succeeded += u64::from(intent.status == IntentStatus::Succeeded);
        sums.canceled += u64::from(intent.status == IntentStatus::Canceled);
    }

    /// Adds what a charge captured.
    pub fn add_charge(&mut self, charge: &Charge) {
        let sums = self.of(charge.currency);
        sums.captured_minor += charge.amount_captured;
        sums.net_minor += charge.amount_captured;
    }

    /// Adds what a refund gave back.
    pub fn add_refund(&mut self, refund: &Refund) {
        let given_back = if refund.status.counts() { refund.amount } else { 0 };
        let sums = self.of(refund.currency);
        sums.refunds += 1;
        sums.refunded_minor += given_back;
        sums.net_minor -= given_back;
    }

    /// Adds what a dispute withholds.
    pub fn add_dispute(&mut self, dispute: &Dispute) {
        let withheld = if dispute.status.withholds() { dispute.amount } else { 0 };
        let sums = self.of(dispute.currency);
        sums.disputes += 1;
        sums.disputed_minor += withheld;
        sums.net_minor -= withheld;
    }
}
