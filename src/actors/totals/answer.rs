//! What readers of totals are told: JSON that is rendered once for everybody, or why it cannot be told.

use actix_web::http::header::HeaderValue;
use actix_web::web::Bytes;
use serde::Serialize;

use crate::domain::totals::{Source, Totals};
use crate::store::StoreError;

/// Totals as they are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalsAnswer {
    /// The ledger version in it.
    pub version: i64,
    /// What is hoped for, in minor units: the one part that changes without a ledger line.
    pub goal_minor: Option<i64>,
    /// The level that answered.
    pub source: Source,
    /// The body, as JSON.
    pub body: Bytes,
    /// The entity tag: its version and its goal. A weak one, for who answered, and when, may differ.
    pub tag: HeaderValue,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    totals: &'a Totals,
    source: Source,
}

impl TotalsAnswer {
    /// What is told of `totals` by the level `source`.
    ///
    /// # Errors
    /// [`TotalsError::Internal`] where they cannot be rendered.
    pub fn of(totals: &Totals, source: Source) -> Result<Self, TotalsError> {
        let body =
            serde_json::to_vec(&Shown { totals, source }).map_err(|error| TotalsError::Internal(error.to_string()))?;
        let goal = totals.goal_minor.map_or_else(String::new, |goal| goal.to_string());
        let tag = HeaderValue::try_from(format!("W/\"{}.{goal}\"", totals.version))
            .map_err(|error| TotalsError::Internal(error.to_string()))?;
        Ok(Self { version: totals.version, goal_minor: totals.goal_minor, source, body: body.into(), tag })
    }
}

/// Why totals cannot be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TotalsError {
    /// There is no such campaign.
    #[error("there is no such campaign")]
    NotFound,
    /// Nobody knows the version that was asked for: a replica of the database lags, or lost it, or it never was.
    #[error("the newest version that is known is {version}")]
    Behind {
        /// The newest version.
        version: i64,
    },
    /// The database is away or busy, or the process is about to end.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours.
    #[error("internal error")]
    Internal(String),
}

impl From<StoreError> for TotalsError {
    fn from(error: StoreError) -> Self {
        if error.is_passing() { Self::Unavailable(error.to_string()) } else { Self::Internal(error.to_string()) }
    }
}
