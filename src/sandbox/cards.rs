//! The test payment methods, named as Stripe's (<https://docs.stripe.com/testing>): the method decides what happens.
//!
//! `pm_card_slow` is our own. Deliberately absent: card numbers. Only the ready-made `pm_…` names are taken.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::objects::{DisputeStatus, RefundStatus};

/// How long `pm_card_slow` keeps a confirm waiting.
pub(super) const SLOW_CARD_TAKES: Duration = Duration::from_secs(3);
/// How long after the payment `pm_card_createDispute` opens its dispute.
pub(super) const DISPUTE_OPENS_AFTER: Duration = Duration::from_secs(1);
/// How long after its making the refund of `pm_card_refundFail` or `pm_card_pendingRefund` turns.
pub(super) const REFUND_TURNS_AFTER: Duration = Duration::from_secs(1);
/// How long a bank debit stays in `processing` before it settles by itself.
pub(super) const DEBIT_SETTLES_AFTER: Duration = Duration::from_secs(2);

/// What a payment method does when it is charged.
#[derive(Debug, PartialEq)]
pub(super) enum Behaviour {
    /// Pays.
    Pays,
    /// Pays, but the bank takes its time to say so.
    PaysSlowly,
    /// Is declined with this code and decline code.
    Declines { code: &'static str, decline_code: &'static str, message: &'static str },
    /// Wants the donor to authenticate, then pays.
    WantsAuthentication,
    /// Pays; a dispute with this first status opens.
    Disputes(DisputeStatus),
    /// Pays; a refund starts with the first status and turns into the second.
    Refunds(RefundStatus, RefundStatus),
    /// A bank debit: processing, then paid.
    DebitSettles,
    /// A bank debit: processing until it is told otherwise by the control.
    DebitStays,
    /// A bank debit: processing, then failed with this code.
    DebitFails { code: &'static str, message: &'static str },
}

/// One row of the table of test payment methods.
#[derive(Debug)]
struct Row {
    name: &'static str,
    brand: &'static str,
    last4: &'static str,
    behaviour: Behaviour,
}

const fn card(name: &'static str, last4: &'static str, behaviour: Behaviour) -> Row {
    Row { name, brand: "visa", last4, behaviour }
}

const fn bank(name: &'static str, last4: &'static str, behaviour: Behaviour) -> Row {
    Row { name, brand: "", last4, behaviour }
}

const DECLINED: Behaviour =
    Behaviour::Declines { code: "card_declined", decline_code: "generic_decline", message: "Your card was declined." };
const INSUFFICIENT_FUNDS: Behaviour = Behaviour::Declines {
    code: "card_declined",
    decline_code: "insufficient_funds",
    message: "Your card has insufficient funds.",
};
const LOST_CARD: Behaviour =
    Behaviour::Declines { code: "card_declined", decline_code: "lost_card", message: "Your card was declined." };
const STOLEN_CARD: Behaviour =
    Behaviour::Declines { code: "card_declined", decline_code: "stolen_card", message: "Your card was declined." };
const EXPIRED_CARD: Behaviour =
    Behaviour::Declines { code: "expired_card", decline_code: "expired_card", message: "Your card has expired." };
const INCORRECT_CVC: Behaviour = Behaviour::Declines {
    code: "incorrect_cvc",
    decline_code: "incorrect_cvc",
    message: "Your card's security code is incorrect.",
};
const PROCESSING_ERROR: Behaviour = Behaviour::Declines {
    code: "processing_error",
    decline_code: "processing_error",
    message: "An error occurred while processing your card. Try again in a little bit.",
};
const ACCOUNT_CLOSED: Behaviour =
    Behaviour::DebitFails { code: "account_closed", message: "The customer's bank account has been closed." };

static TABLE: &[Row] = &[
    card("pm_card_visa", "4242", Behaviour::Pays),
    Row { name: "pm_card_mastercard", brand: "mastercard", last4: "4444", behaviour: Behaviour::Pays },
    Row { name: "pm_card_amex", brand: "amex", last4: "8431", behaviour: Behaviour::Pays },
    card("pm_card_slow", "0101", Behaviour::PaysSlowly),
    card("pm_card_chargeDeclined", "0002", DECLINED),
    card("pm_card_visa_chargeDeclined", "0002", DECLINED),
    card("pm_card_chargeDeclinedInsufficientFunds", "9995", INSUFFICIENT_FUNDS),
    card("pm_card_visa_chargeDeclinedInsufficientFunds", "9995", INSUFFICIENT_FUNDS),
    card("pm_card_chargeCustomerFail", "0341", DECLINED),
    card("pm_card_chargeDeclinedLostCard", "9987", LOST_CARD),
    card("pm_card_visa_chargeDeclinedLostCard", "9987", LOST_CARD),
    card("pm_card_chargeDeclinedStolenCard", "9979", STOLEN_CARD),
    card("pm_card_visa_chargeDeclinedStolenCard", "9979", STOLEN_CARD),
    card("pm_card_chargeDeclinedExpiredCard", "0069", EXPIRED_CARD),
    card("pm_card_chargeDeclinedIncorrectCvc", "0127", INCORRECT_CVC),
    card("pm_card_chargeDeclinedProcessingError", "0119", PROCESSING_ERROR),
    card("pm_card_authenticationRequired", "3184", Behaviour::WantsAuthentication),
    card("pm_card_authenticationRequiredOnSetup", "3155", Behaviour::WantsAuthentication),
    card("pm_card_threeDSecure2Required", "3220", Behaviour::WantsAuthentication),
    card("pm_card_createDispute", "0259", Behaviour::Disputes(DisputeStatus::NeedsResponse)),
    card("pm_card_createDisputeInquiry", "1976", Behaviour::Disputes(DisputeStatus::WarningNeedsResponse)),
    card("pm_card_refundFail", "5126", Behaviour::Refunds(RefundStatus::Succeeded, RefundStatus::Failed)),
    card("pm_card_pendingRefund", "7726", Behaviour::Refunds(RefundStatus::Pending, RefundStatus::Succeeded)),
    bank("pm_usBankAccount_success", "6789", Behaviour::DebitSettles),
    bank("pm_usBankAccount_processing", "0009", Behaviour::DebitStays),
    bank("pm_usBankAccount_accountClosed", "2227", ACCOUNT_CLOSED),
];

/// One of the test payment methods.
#[derive(Clone, Copy)]
pub(super) struct TestMethod(&'static Row);

impl TestMethod {
    /// Looks a method up by its Stripe name, such as `pm_card_visa`.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What it does when it is charged.
    pub fn behaviour(self) -> &'static Behaviour {
        &self.0.behaviour
    }

    /// The card's brand; empty for a bank account.
    pub fn brand(self) -> &'static str {
        self.0.brand
    }

    /// The last four digits.
    pub fn last4(self) -> &'static str {
        self.0.last4
    }

    /// `card` or `us_bank_account`.
    pub fn kind(self) -> &'static str {
        if self.0.brand.is_empty() { "us_bank_account" } else { "card" }
    }

    /// How long a confirm with it takes.
    pub fn confirm_takes(self) -> Duration {
        if self.0.behaviour == Behaviour::PaysSlowly { SLOW_CARD_TAKES } else { Duration::ZERO }
    }
}

impl fmt::Debug for TestMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for TestMethod {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Serialize for TestMethod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for TestMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown payment method {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once() {
        for row in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        }
        assert!(TestMethod::parse("pm_card_visa").is_some_and(|method| method.last4() == "4242"));
        assert!(TestMethod::parse("pm_unknown").is_none());
    }
}
