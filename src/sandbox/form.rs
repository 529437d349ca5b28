//! Stripe's request format: form-encoded pairs whose keys nest by brackets, such as `metadata[payment_id]`.
//!
//! Deliberately absent: JSON bodies and files.

use super::collection::{DEFAULT_PAGE, MAX_PAGE, Page};
use super::errors::StripeError;
use super::metadata::Metadata;
use crate::domain::money::{AmountError, Currency};

/// The parameters of one request, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Form {
    pairs: Vec<(String, String)>,
}

impl Form {
    /// Decodes a body or a query string.
    pub fn parse(text: &[u8]) -> Result<Self, StripeError> {
        let pairs = serde_urlencoded::from_bytes(text)
            .map_err(|_| StripeError::parameter("", "Invalid request: the parameters could not be decoded."))?;
        Ok(Self { pairs })
    }

    /// The pairs in a canonical order, for fingerprints.
    pub fn canonical(&self) -> Vec<&(String, String)> {
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort();
        pairs
    }

    /// Refuses a parameter whose first name is not among `known`.
    pub fn allow(&self, known: &[&str]) -> Result<(), StripeError> {
        for (key, _) in &self.pairs {
            let name = key.split('[').next().unwrap_or(key);
            if !known.contains(&name) && name != "expand" {
                return Err(StripeError::parameter_code(
                    "parameter_unknown",
                    key,
                    format!("Received unknown parameter: {key}"),
                ));
            }
        }
        Ok(())
    }

    /// A parameter's value; an empty one counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// A text that is kept as it is.
    pub fn text(&self, key: &str) -> Option<Box<str>> {
        self.get(key).map(Box::from)
    }

    /// A parameter that must be there.
    pub fn required(&self, key: &str) -> Result<&str, StripeError> {
        self.get(key).ok_or_else(|| StripeError::parameter_missing(key))
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, StripeError> {
        match self.get(key) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(StripeError::parameter(key, &format!("Invalid boolean: {other}"))),
        }
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, StripeError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let invalid =
            |_| StripeError::parameter_code("parameter_invalid_integer", key, format!("Invalid integer: {text}"));
        text.parse().map(Some).map_err(invalid)
    }

    /// An amount above zero, in minor units.
    pub fn amount(&self, key: &str) -> Result<Option<i64>, StripeError> {
        match self.integer(key)? {
            Some(amount) if amount < 1 => Err(StripeError::parameter_code(
                "parameter_invalid_integer",
                key,
                "This value must be greater than or equal to 1.",
            )),
            amount => Ok(amount),
        }
    }

    /// One of a few words, read by serde.
    pub fn choice<T: serde::de::DeserializeOwned>(&self, key: &str, words: &str) -> Result<Option<T>, StripeError> {
        let Some(word) = self.get(key) else { return Ok(None) };
        let value = serde_json::Value::String(word.to_owned());
        serde_json::from_value(value)
            .map(Some)
            .map_err(|_| StripeError::parameter(key, &format!("Invalid {key}: must be one of {words}")))
    }

    /// Every value of `key[]` or `key[0]`, `key[1]`, …
    pub fn list<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| member(name, key).is_some()).map(|(_, value)| value.as_str())
    }

    /// The pairs of `metadata[…]`.
    pub fn metadata(&self) -> Result<Metadata, StripeError> {
        let named = |(name, value): &'_ (String, String)| -> Option<(usize, usize)> {
            member(name, "metadata").map(|inner| (inner.len(), value.len()))
        };
        if !self.pairs.iter().any(|pair| named(pair).is_some()) {
            return Ok(Metadata::default());
        }
        Metadata::from_pairs(
            self.pairs.iter().filter_map(|(name, value)| Some((member(name, "metadata")?, value.as_str()))),
        )
    }

    /// The `amount` and `currency` of a charge, within Stripe's limits.
    pub fn charge_amount(&self) -> Result<(i64, Currency), StripeError> {
        let amount = self.amount("amount")?.ok_or_else(|| StripeError::parameter_missing("amount"))?;
        let code = self.required("currency")?;
        let currency = Currency::parse(code).ok_or_else(|| {
            StripeError::parameter("currency", &format!("Invalid currency: {code}. Stripe does not support it."))
        })?;
        currency.check_charge(amount).map_err(|error| out_of_limits(&error))?;
        Ok((amount, currency))
    }

    /// `limit`, `starting_after`, `ending_before`.
    pub fn page(&self) -> Result<Page, StripeError> {
        let limit = self.integer("limit")?.map_or(Ok(DEFAULT_PAGE), usize::try_from).unwrap_or(0);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(StripeError::parameter("limit", "This value must be between 1 and 100."));
        }
        let cursor = |key| self.get(key).map(str::to_owned);
        Ok(Page { limit, starting_after: cursor("starting_after"), ending_before: cursor("ending_before") })
    }
}

fn out_of_limits(error: &AmountError) -> StripeError {
    let code = match error {
        AmountError::TooSmall { .. } => "amount_too_small",
        AmountError::TooLarge { .. } => "amount_too_large",
        AmountError::NotPositive | AmountError::LastDigitNotZero { .. } => "parameter_invalid_integer",
    };
    StripeError::parameter_code(code, "amount", format!("Amount {error}"))
}

/// The `x` of `key[x]`.
fn member<'a>(name: &'a str, key: &str) -> Option<&'a str> {
    name.strip_prefix(key)?.strip_prefix('[')?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        Form::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn nested_keys_are_read_plain_or_percent_encoded() {
        let form =
            form("metadata[payment_id]=p%201&metadata%5Btrace%5D=t&expand[]=latest_charge.refunds&expand%5B1%5D=x");
        let metadata = serde_json::to_value(form.metadata().unwrap()).unwrap();
        assert_eq!(metadata, serde_json::json!({"payment_id": "p 1", "trace": "t"}));
        assert_eq!(form.list("expand").collect::<Vec<_>>(), ["latest_charge.refunds", "x"]);
        assert!(form.allow(&["metadata"]).is_ok());
        assert!(form.allow(&["amount"]).is_err());
    }

    #[test]
    fn amounts_are_checked_against_the_currencys_limits() {
        for (text, code) in [
            ("currency=eur", "parameter_missing"),
            ("amount=500", "parameter_missing"),
            ("amount=49&currency=eur", "amount_too_small"),
            ("amount=100000000&currency=eur", "amount_too_large"),
            ("amount=-1&currency=eur", "parameter_invalid_integer"),
            ("amount=1.5&currency=eur", "parameter_invalid_integer"),
            ("amount=1001&currency=kwd", "parameter_invalid_integer"),
        ] {
            let error = form(text).charge_amount().unwrap_err();
            let body: serde_json::Value = serde_json::from_slice(&error.body()).unwrap();
            assert_eq!((error.status(), body["error"]["code"].as_str()), (400, Some(code)), "{text}");
        }
        assert_eq!(form("amount=500&currency=usd").charge_amount().unwrap().0, 500);
        assert!(form("amount=500&currency=xxx").charge_amount().is_err());
    }

    #[test]
    fn a_page_has_at_most_a_hundred_objects() {
        assert_eq!(form("").page().unwrap().limit, 10);
        assert_eq!(form("limit=100").page().unwrap().limit, 100);
        assert!(form("limit=101").page().is_err());
        assert!(form("limit=0").page().is_err());
    }
}
