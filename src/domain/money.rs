//! Money: integer minor units with an ISO 4217 currency and that currency's own exponent.
//!
//! Deliberately absent: floats, a default exponent of two, and any conversion between currencies.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// The largest amount that Stripe takes in one charge, in minor units
/// (<https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts>).
pub const MAXIMUM_CHARGE_MINOR: i64 = 99_999_999;

#[derive(Debug, PartialEq, Eq)]
struct Row {
    code: &'static str,
    exponent: u8,
    minimum_minor: i64,
}

const fn row(code: &'static str, exponent: u8, minimum_minor: i64) -> Row {
    Row { code, exponent, minimum_minor }
}

/// Code, exponent, smallest charge in minor units. Exponents: <https://docs.stripe.com/currencies#zero-decimal>;
/// minimums where Stripe publishes one, otherwise one minor unit (ten where Stripe wants the last digit to be 0).
/// Sorted by code, so that a look-up is a binary search.
static CURRENCIES: &[Row] = &[
    row("AED", 2, 200),
    row("AUD", 2, 50),
    row("BGN", 2, 100),
    row("BHD", 3, 10),
    row("BIF", 0, 1),
    row("BRL", 2, 50),
    row("CAD", 2, 50),
    row("CHF", 2, 50),
    row("CLP", 0, 1),
    row("COP", 2, 1),
    row("CZK", 2, 1500),
    row("DJF", 0, 1),
    row("DKK", 2, 250),
    row("EUR", 2, 50),
    row("GBP", 2, 30),
    row("GNF", 0, 1),
    row("HKD", 2, 400),
    row("HUF", 2, 17_500),
    row("IDR", 2, 1),
    row("ILS", 2, 1),
    row("INR", 2, 50),
    row("JOD", 3, 10),
    row("JPY", 0, 50),
    row("KES", 2, 1),
    row("KMF", 0, 1),
    row("KRW", 0, 1),
    row("KWD", 3, 10),
    row("MGA", 0, 1),
    row("MXN", 2, 1000),
    row("MYR", 2, 200),
    row("NGN", 2, 1),
    row("NOK", 2, 300),
    row("NZD", 2, 50),
    row("OMR", 3, 10),
    row("PHP", 2, 1),
    row("PLN", 2, 200),
    row("PYG", 0, 1),
    row("RON", 2, 200),
    row("RWF", 0, 1),
    row("SEK", 2, 300),
    row("SGD", 2, 50),
    row("THB", 2, 1000),
    row("TND", 3, 10),
    row("TRY", 2, 1),
    row("UAH", 2, 1),
    row("UGX", 0, 1),
    row("USD", 2, 50),
    row("VND", 0, 1),
    row("VUV", 0, 1),
    row("XAF", 0, 1),
    row("XOF", 0, 1),
    row("XPF", 0, 1),
    row("ZAR", 2, 1),
];

/// An ISO 4217 currency that the provider can charge in.
#[derive(Clone, Copy)]
pub struct Currency(&'static Row);

impl Currency {
    /// Looks a three-letter code up, upper or lower case.
    pub fn parse(code: &str) -> Option<Self> {
        let upper = code.to_ascii_uppercase();
        CURRENCIES.binary_search_by(|row| row.code.cmp(upper.as_str())).ok().map(|at| Self(&CURRENCIES[at]))
    }

    /// The code in upper case, as ISO 4217 writes it.
    pub fn code(self) -> &'static str {
        self.0.code
    }

    /// How many digits the minor unit has: 2 for EUR, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u8 {
        self.0.exponent
    }

    /// The smallest amount that can be charged, in minor units.
    pub fn minimum_charge_minor(self) -> i64 {
        self.0.minimum_minor
    }

    /// Whether `amount_minor` can be charged in this currency; the error says which rule it breaks.
    pub fn check_charge(self, amount_minor: i64) -> Result<(), AmountError> {
        if amount_minor <= 0 {
            return Err(AmountError::NotPositive);
        }
        if amount_minor > MAXIMUM_CHARGE_MINOR {
            return Err(AmountError::TooLarge { maximum_minor: MAXIMUM_CHARGE_MINOR });
        }
        let minimum_minor = self.minimum_charge_minor();
        if amount_minor < minimum_minor {
            return Err(AmountError::TooSmall { currency: self, minimum_minor });
        }
        if self.exponent() == 3 && amount_minor % 10 != 0 {
            return Err(AmountError::LastDigitNotZero { currency: self });
        }
        Ok(())
    }

    /// The amount as people write it: `12.50 EUR`, `500 JPY`, `-1.230 KWD`.
    pub fn format(self, amount_minor: i64) -> String {
        let digits = usize::from(self.exponent());
        let sign = if amount_minor < 0 { "-" } else { "" };
        let text = format!("{:0width$}", amount_minor.unsigned_abs(), width = digits + 1);
        let (major, minor) = text.split_at(text.len() - digits);
        let point = if digits == 0 { "" } else { "." };
        format!("{sign}{major}{point}{minor} {}", self.code())
    }
}

impl PartialEq for Currency {
    fn eq(&self, other: &Self) -> bool {
        self.code() == other.code()
    }
}

impl Eq for Currency {}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::parse(&code).ok_or_else(|| serde::de::Error::custom(format!("unknown currency {code:?}")))
    }
}

/// Why an amount cannot be charged.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AmountError {
    /// Zero or below.
    #[error("must be greater than zero")]
    NotPositive,
    /// Below the provider's smallest charge.
    #[error("must be at least {minimum_minor} minor units ({})", currency.format(*minimum_minor))]
    TooSmall {
        /// The currency whose minimum it is.
        currency: Currency,
        /// The minimum in minor units.
        minimum_minor: i64,
    },
    /// Above the provider's largest charge.
    #[error("must be at most {maximum_minor} minor units")]
    TooLarge {
        /// The maximum in minor units.
        maximum_minor: i64,
    },
    /// The provider wants three-decimal amounts to end in 0.
    #[error("must end in 0: {currency} is charged in steps of ten minor units")]
    LastDigitNotZero {
        /// The three-decimal currency.
        currency: Currency,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn currency(code: &str) -> Currency {
        Currency::parse(code).unwrap()
    }

    #[test]
    fn the_table_is_sorted_so_that_every_currency_is_found() {
        assert!(CURRENCIES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for row in CURRENCIES {
            assert_eq!(currency(&row.code.to_lowercase()).code(), row.code);
        }
        assert_eq!(Currency::parse("XXX"), None);
        assert_eq!(Currency::parse(""), None);
    }

    #[test]
    fn amounts_are_written_with_the_currencys_own_exponent() {
        for (code, minor, text) in [
            ("EUR", 1250, "12.50 EUR"),
            ("EUR", 5, "0.05 EUR"),
            ("EUR", -5, "-0.05 EUR"),
            ("JPY", 500, "500 JPY"),
            ("KWD", 1230, "1.230 KWD"),
        ] {
            assert_eq!(currency(code).format(minor), text);
        }
    }

    #[test]
    fn a_charge_keeps_to_the_providers_limits() {
        assert_eq!(currency("EUR").check_charge(50), Ok(()));
        assert_eq!(currency("EUR").check_charge(99_999_999), Ok(()));
        assert_eq!(currency("EUR").check_charge(0), Err(AmountError::NotPositive));
        assert_eq!(currency("EUR").check_charge(-1), Err(AmountError::NotPositive));
        assert!(matches!(currency("EUR").check_charge(49), Err(AmountError::TooSmall { .. })));
        assert!(matches!(currency("JPY").check_charge(49), Err(AmountError::TooSmall { .. })));
        assert!(matches!(currency("EUR").check_charge(100_000_000), Err(AmountError::TooLarge { .. })));
        assert!(matches!(currency("KWD").check_charge(1001), Err(AmountError::LastDigitNotZero { .. })));
        assert_eq!(currency("KWD").check_charge(1000), Ok(()));
    }
}
