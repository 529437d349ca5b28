//! Reading JSON strictly where it matters: located errors without values, borrowed text, usable identifiers and
//! amounts.
//!
//! Limits: `serde_json` refuses more than 128 levels in fields that we read and skips any depth elsewhere without
//! recursion; the text's size is bounded by whoever received it. Ids are bounded and plain ASCII, for they become
//! database keys.
//!
//! Deliberately absent: Stripe's objects (`objects`).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// The longest id or name that is taken, in bytes; Stripe promises at most 255 (<https://docs.stripe.com/upgrades>).
const MAXIMUM_IDENTIFIER_LENGTH: usize = 255;
/// How much of an unknown value is shown, in characters.
const SHOWN_VALUE_LENGTH: usize = 64;

/// Why a JSON text is not the object that it should be. Shows places and unknown statuses, never other values.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// Not JSON, or another type of value than expected.
    #[error("unexpected JSON at `{path}` (line {line}, column {column})")]
    Json {
        /// The field, from the outermost object inwards.
        path: String,
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
    },
    /// A field that we cannot do without is absent or null.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A status that did not exist when this was written.
    #[error("`{field}` has the unknown value {value:?}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its value, cut short.
        value: String,
    },
    /// Empty, too long, or with characters that no id of Stripe's has.
    #[error("`{0}` is not a usable identifier")]
    Identifier(&'static str),
    /// Below zero.
    #[error("`{0}` is negative")]
    Negative(&'static str),
    /// An id where we asked for the object itself.
    #[error("`{0}` was not expanded")]
    NotExpanded(&'static str),
}

/// Reads one object. Only a failure pays for finding out where it is.
pub(super) fn decode<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ShapeError> {
    serde_json::from_slice(json).map_err(|error| locate::<T>(json, &error))
}

fn locate<'a, T: Deserialize<'a>>(json: &'a [u8], error: &serde_json::Error) -> ShapeError {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let located = serde_path_to_error::deserialize::<_, T>(&mut deserializer);
    let path = located.err().map_or_else(|| ".".to_owned(), |error| error.path().to_string());
    ShapeError::Json { path, line: error.line(), column: error.column() }
}

/// A text that is borrowed from the body unless it was escaped there.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As an id or name that may become a key.
    pub fn identifier(&self, field: &'static str) -> Result<String, ShapeError> {
        if is_identifier(&self.0) { Ok(self.0.clone().into_owned()) } else { Err(ShapeError::Identifier(field)) }
    }
}

fn is_identifier(text: &str) -> bool {
    (1..=MAXIMUM_IDENTIFIER_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The value of a field that must be there.
pub(super) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, ShapeError> {
    value.ok_or(ShapeError::Missing(field))
}

/// An amount in minor units, which Stripe never writes below zero.
pub(super) fn amount(value: Option<i64>, field: &'static str) -> Result<i64, ShapeError> {
    let minor = required(value, field)?;
    if minor < 0 { Err(ShapeError::Negative(field)) } else { Ok(minor) }
}

/// The error for a status that we do not know.
pub(super) fn unknown(field: &'static str, value: &str) -> ShapeError {
    ShapeError::UnknownValue { field, value: value.chars().take(SHOWN_VALUE_LENGTH).collect() }
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// A page of objects that are read one by one, so that a strange one spoils none of its neighbours.
#[derive(Debug, Deserialize)]
pub(super) struct RawList<'a> {
    #[serde(borrow)]
    pub data: Vec<&'a RawValue>,
    #[serde(default)]
    pub has_more: bool,
}

/// An object, or only its id where it was not expanded.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Expandable<T> {
    #[allow(dead_code, reason = "only a text may stand for an object; anything else is an error")]
    Id(String),
    Object(T),
}

impl<T> Expandable<T> {
    /// The object, which we asked to be expanded.
    pub fn object(&self, field: &'static str) -> Result<&T, ShapeError> {
        match self {
            Self::Object(object) => Ok(object),
            Self::Id(_) => Err(ShapeError::NotExpanded(field)),
        }
    }
}
