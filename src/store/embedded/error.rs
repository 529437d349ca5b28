//! What can go wrong with the private Postgres cluster, each with the way out in its own words.
//!
//! Deliberately absent: classification into transient and permanent. A start that fails is told to a person.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the private cluster could not be started, joined or stopped.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// No directory held both `initdb` and `postgres`.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) of version {minimum} or newer in: {searched}. \
         Install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; \
         macOS: brew install postgresql@17) or set DATABASE_URL to a server of your own"
    )]
    NoPrograms {
        /// The directories that were looked into, for a person to read.
        searched: String,
        /// The oldest major version that serves.
        minimum: u32,
    },
    /// The cluster was made by another major version than any that was found.
    #[error(
        "the cluster in {cluster} was made by PostgreSQL {wanted}, but only {found} was found. Install version \
         {wanted} (Debian, Ubuntu: apt-get install postgresql-{wanted}), or move the data with pg_upgrade"
    )]
    WrongVersion {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that made the cluster.
        wanted: u32,
        /// The major versions that were found, for a person to read.
        found: String,
    },
    /// Another process holds the data directory.
    #[error(
        "the data directory {data_dir} is in use by another careforall process{holder}. Stop it first, or give this \
         one a directory of its own (CAREFORALL_DATA_DIR)"
    )]
    InUse {
        /// The directory that is held.
        data_dir: PathBuf,
        /// The holder's process id in words, or nothing when it is unknown.
        holder: String,
    },
    /// Root found neither `postgres` nor `nobody` in the list of users.
    #[error("PostgreSQL refuses to run as root, and neither the user postgres nor nobody exists: add one of them")]
    NoServiceUser,
    /// The cluster belongs to another user.
    #[error("the cluster in {cluster} belongs to the user with uid {owner}: start as that user, or as root")]
    NotOurs {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The user id that owns it.
        owner: u32,
    },
    /// The data directory says that its cluster lies elsewhere, but nothing is there.
    #[error(
        "{pointer} says that the database lies in {home}, but that directory is gone. Bring it back, or remove the \
         file {pointer} to begin with an empty database"
    )]
    Lost {
        /// The file in the data directory that names the place.
        pointer: PathBuf,
        /// The place that it names.
        home: PathBuf,
    },
    /// The directory for the socket exists, but is open to others.
    #[error("the socket directory {dir} exists, but does not belong to the database's user alone: remove it")]
    UnsafeSocketDir {
        /// The directory below `/tmp`.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// `initdb` failed; nothing half made was left behind.
    #[error("initdb could not make a cluster in {cluster}: {detail}")]
    InitFailed {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The end of what `initdb` said.
        detail: String,
    },
    /// The server went away while it was starting.
    #[error("postgres ended while it was starting ({status}): {detail}. Its log lies in {log}")]
    Exited {
        /// How it ended.
        status: String,
        /// The end of what it said.
        detail: String,
        /// The directory with its log.
        log: PathBuf,
    },
    /// The server did not answer in time.
    #[error("postgres (process {pid}) did not answer on {socket_dir} within {seconds} s. Its log lies in {log}")]
    NoAnswer {
        /// The postmaster's process id; 0 when none was ever seen.
        pid: i32,
        /// The directory of the socket.
        socket_dir: PathBuf,
        /// How long we waited, in seconds.
        seconds: u64,
        /// The directory with its log.
        log: PathBuf,
    },
    /// The server outlived both ways to stop it.
    #[error("postgres (process {pid}) did not stop within {seconds} s")]
    StillRunning {
        /// The postmaster's process id.
        pid: i32,
        /// How long we waited, in seconds.
        seconds: u64,
    },
    /// The server answered, but refused us.
    #[error("the private Postgres refused: {0}")]
    Database(#[from] tokio_postgres::Error),
}

impl EmbeddedError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
