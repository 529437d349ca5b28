//! What can go wrong between us and the database, classified once.

use deadpool_postgres::PoolError;
use thiserror::Error;
use tokio_postgres::error::SqlState;

/// A failed read or write.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database was not reached, or went away while it worked: the outcome of a write is not known.
    #[error("the database is away: {0}")]
    Unavailable(String),
    /// The database, or our pool of connections to it, has no room now; nothing was written.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// Somebody holds a row of ours for long; nothing was written.
    #[error("a row is locked: {0}")]
    Locked(String),
    /// A row does not hold what its column should.
    #[error("corrupt row in {table}, column {column}: {detail}")]
    Corrupt {
        /// The table or query.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The database refuses the statement; nothing was written.
    #[error("the database refuses: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Busy(_) | Self::Locked(_) => true,
            Self::Corrupt { .. } | Self::Refused(_) => false,
        }
    }

    /// The error of a column that does not hold what it should.
    pub fn corrupt(table: &'static str, column: &'static str, detail: impl ToString) -> Self {
        Self::Corrupt { table, column, detail: detail.to_string() }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Not an answer of the server: the connection broke, or a value does not fit its column.
            let text = describe(&error);
            return if error.is_closed() || is_io(&error) { Self::Unavailable(text) } else { Self::Refused(text) };
        };
        let text = format!("{} ({})", db.message(), db.code().code());
        match db.code() {
            &SqlState::LOCK_NOT_AVAILABLE => Self::Locked(text),
            &SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE => {
                Self::Busy(text)
            }
            code if code.code().starts_with("08") || code.code().starts_with("57P") => Self::Unavailable(text),
            // Class 53 is a server without room (disk, memory, connections): it passes, and nothing was written.
            code if code.code().starts_with("53") => Self::Busy(text),
            // Class 58 is the machine under the server, such as a disk that fails.
            code if code.code().starts_with("58") => Self::Unavailable(text),
            // Read-only: a standby, or a primary that just became one.
            &SqlState::READ_ONLY_SQL_TRANSACTION => Self::Unavailable(text),
            _ => Self::Refused(text),
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The error and its causes in one line: tokio-postgres says only "error connecting to server" by itself.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(kind) => match kind {
                deadpool_postgres::TimeoutType::Wait => Self::Busy("no connection is free".to_owned()),
                deadpool_postgres::TimeoutType::Create | deadpool_postgres::TimeoutType::Recycle => {
                    Self::Unavailable("connecting takes too long".to_owned())
                }
            },
            PoolError::Backend(error) => match Self::from(error) {
                Self::Refused(text) => Self::Unavailable(text),
                other => other,
            },
            other => Self::Unavailable(describe(&other)),
        }
    }
}
