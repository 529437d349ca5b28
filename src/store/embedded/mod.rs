//! A private Postgres cluster in the data directory, for whoever sets no `DATABASE_URL`: made at the first start,
//! started and stopped with the process, reached over a Unix socket that nobody else can open.
//!
//! Read in this order: `programs` (which server), `place` (where, whose, locked), `postmaster` (made, started, recognised,
//! stopped), then [`Embedded::start`] here, which puts them together.
//!
//! Deliberately absent: Windows, TCP, passwords, and any setting that trades durability for speed. A process that is
//! killed leaves its server running; the next start finds it by its pid file and goes on with it.

mod error;
mod place;
mod postmaster;
mod programs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

pub use self::error::EmbeddedError;
use self::place::{Locks, Place};
use self::postmaster::{Postmaster, StartDeadline, USER};
use self::programs::Programs;

const DATABASE: &str = "careforall";
const MAINTENANCE_DATABASE: &str = "postgres";
const PORT: u16 = 5432;

/// Recovery after a crash may have to read gigabytes of log.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// A warm start takes a tenth of a second: asking often is what makes it feel so.
const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// A server that is shutting down, or a crashed one's backends, hold the cluster for a second or two.
const HELD_PAUSE: Duration = Duration::from_millis(100);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What may be chosen about the private cluster.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The directory of `initdb` and `postgres`; `None` looks in `PATH` and in the packagers' places.
    pub bin_dir: Option<PathBuf>,
    /// Where the cluster goes when root starts us and the server's unprivileged user cannot reach the data directory.
    pub fallback_dir: PathBuf,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self { bin_dir: None, fallback_dir: PathBuf::from("/var/lib/careforall") }
    }
}

/// A running private cluster.
///
/// Dropped without [`Embedded::stop`], the server lives on and the next start adopts it.
#[derive(Debug)]
pub struct Embedded {
    place: Place,
    postmaster: Postmaster,
    _locks: Option<Locks>,
}

/// What the server answers to a knock.
enum Knock {
    Welcome,
    NoDatabase,
    NotYet,
}

impl Embedded {
    /// Starts the cluster of this data directory, makes it first where there is none, and adopts a server that an
    /// earlier run left behind.
    ///
    /// # Errors
    /// [`EmbeddedError::InUse`] when another process holds the directory; every other error names its way out.
    pub async fn start(data_dir: &Path, settings: EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let began = Instant::now();
        let asked = data_dir.to_owned();
        let (place, locks, programs) = off_the_runtime(data_dir, move || {
            let (place, locks) = Place::claim(&asked, &settings.fallback_dir)?;
            let programs = Programs::find(settings.bin_dir.as_deref(), &place.cluster, place.cluster_version())?;
            Ok((place, locks, programs))
        })
        .await?;
        if place.cluster_version().is_none() {
            tracing::info!(cluster = %place.cluster.display(), "making a private Postgres cluster");
            postmaster::init_cluster(&place, &programs).await?;
        }
        let postmaster = bring_up(&place, &programs).await?;
        let took_ms = began.elapsed().as_millis();
        let adopted = matches!(postmaster, Postmaster::Adopted(_));
        tracing::info!(cluster = %place.cluster.display(), adopted, took_ms, "private Postgres is ready");
        Ok(Self { place, postmaster, _locks: Some(locks) })
    }

    /// For commands that look at the data beside a running program: uses the cluster that another process serves, and
    /// starts it only when nobody does. [`Embedded::stop`] then stops what was started here and nothing else.
    ///
    /// # Errors
    /// As [`Embedded::start`], save that a directory in use is none.
    pub async fn join(data_dir: &Path, settings: EmbeddedSettings) -> Result<Self, EmbeddedError> {
        match Self::start(data_dir, settings).await {
            Err(EmbeddedError::InUse { .. }) => {}
            other => return other,
        }
        let asked = data_dir.to_owned();
        let place = off_the_runtime(data_dir, move || Place::of_running(&asked)).await?;
        let deadline = StartDeadline::after(START_DEADLINE);
        while !matches!(knock(&place, DATABASE).await?, Knock::Welcome) {
            deadline.pause(HELD_PAUSE, &place, None).await?;
        }
        Ok(Self { place, postmaster: Postmaster::Borrowed, _locks: None })
    }

    /// The directory of the Unix socket, as `host` of a connection.
    pub fn socket_dir(&self) -> &Path {
        &self.place.socket_dir
    }

    /// `PGDATA`: in the data directory, or where the unprivileged user of the server can reach it.
    pub fn cluster_dir(&self) -> &Path {
        &self.place.cluster
    }

    /// The directory with the server's log: one file a weekday.
    pub fn log_dir(&self) -> PathBuf {
        self.place.log_dir()
    }

    /// The superuser of the cluster. It has no password: the socket is the key.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The database, made at the first start.
    pub fn database(&self) -> &'static str {
        DATABASE
    }

    /// The port that names the socket; nothing listens on TCP.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The postmaster's process id, while it is ours to stop.
    pub fn pid(&self) -> Option<i32> {
        self.postmaster.pid().map(|pid| pid.as_raw_nonzero().get())
    }

    /// How to connect.
    pub fn config(&self) -> tokio_postgres::Config {
        config(&self.place, DATABASE)
    }

    /// Stops the server, unless another process serves it: a fast shutdown, after 10 s an immediate one.
    ///
    /// # Errors
    /// [`EmbeddedError::StillRunning`] when it outlives both.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.postmaster.stop(&self.place.cluster).await
    }
}

/// Preparations touch the disk and run `postgres --version`.
async fn off_the_runtime<T: Send + 'static>(
    data_dir: &Path,
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(EmbeddedError::io("prepare", data_dir)(std::io::Error::other(error))),
    }
}

async fn bring_up(place: &Place, programs: &Programs) -> Result<Postmaster, EmbeddedError> {
    let deadline = StartDeadline::after(START_DEADLINE);
    loop {
        let up = match postmaster::living(&place.cluster) {
            Some(_) => adopt(place, &deadline).await?,
            None => launch(place, programs, &deadline).await?,
        };
        if let Some(postmaster) = up {
            return Ok(postmaster);
        }
        deadline.pause(HELD_PAUSE, place, None).await?;
    }
}

/// Goes on with a server that is there; `None` when it goes away meanwhile.
async fn adopt(place: &Place, deadline: &StartDeadline) -> Result<Option<Postmaster>, EmbeddedError> {
    while let Some(pid) = postmaster::living(&place.cluster) {
        if answers(place).await? {
            return Ok(Some(Postmaster::Adopted(pid)));
        }
        deadline.pause(PROBE_PAUSE, place, Some(pid)).await?;
    }
    Ok(None)
}

/// Starts a server; `None` when what is left of another one still holds the cluster.
async fn launch(
    place: &Place,
    programs: &Programs,
    deadline: &StartDeadline,
) -> Result<Option<Postmaster>, EmbeddedError> {
    let mut child = postmaster::spawn(place, programs)?;
    loop {
        if let Some(status) = child.try_wait().map_err(EmbeddedError::io("watch", &programs.postgres()))? {
            postmaster::still_held(place, status)?;
            return Ok(None);
        }
        if answers(place).await? {
            return Ok(Some(Postmaster::Started(child)));
        }
        let pid = postmaster::living(&place.cluster);
        if let Err(late) = deadline.pause(PROBE_PAUSE, place, pid).await {
            Postmaster::Started(child).stop(&place.cluster).await?;
            return Err(late);
        }
    }
}

fn config(place: &Place, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(&place.socket_dir).port(PORT).user(USER).dbname(database);
    config.connect_timeout(PROBE_TIMEOUT).application_name("careforall");
    config
}

/// Whether the database can be used; makes it where the server has none yet.
async fn answers(place: &Place) -> Result<bool, EmbeddedError> {
    match knock(place, DATABASE).await? {
        Knock::Welcome => Ok(true),
        Knock::NotYet => Ok(false),
        Knock::NoDatabase => create_database(place).await.map(|()| true),
    }
}

async fn knock(place: &Place, database: &str) -> Result<Knock, EmbeddedError> {
    let error = match config(place, database).connect(NoTls).await {
        Ok(_) => return Ok(Knock::Welcome),
        Err(error) => error,
    };
    match error.code() {
        None => Ok(Knock::NotYet),
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => Ok(Knock::NotYet),
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => Ok(Knock::NoDatabase),
        Some(_) => Err(error.into()),
    }
}

async fn create_database(place: &Place) -> Result<(), EmbeddedError> {
    let (client, connection) = config(place, MAINTENANCE_DATABASE).connect(NoTls).await?;
    let driving = tokio::spawn(connection);
    let created = client.batch_execute("create database careforall").await;
    drop(client);
    // It ends by itself once its client is gone; what it could report, the statement has reported.
    let _ = driving.await;
    Ok(created?)
}

#[cfg(test)]
mod tests;
