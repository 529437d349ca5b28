//! How Postgres is reached where `DATABASE_URL` names several hosts: the one that takes writes, and of several that do the
//! one of the newest timeline.
//!
//! Every promotion begins a new timeline. An old primary that came back, or that a parted network left behind, still
//! takes writes: its timeline gives it away. Each host has a time of its own, so that one that takes connections and says
//! nothing does not use up another's. When another host has become the one, sessions with the host before it are cut:
//! what hangs there would hang for ever, and its callers send it again.
//!
//! One host alone is reached as ever. Deliberately absent: TLS, and reading from standbys beside the primary.

use std::cmp::Reverse;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use super::StoreError;

/// How long one of several hosts may take to connect and to say what it is.
pub const HOST: Duration = Duration::from_secs(2);
/// How often it is looked which of several hosts takes writes.
pub const LOOK: Duration = Duration::from_secs(3);
/// How long connecting may take, where a pool does not say so.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first eight digits name the timeline. A standby has no such place, and says so.
const TIMELINE: &str = "select pg_walfile_name(pg_current_wal_lsn())";
const TIMELINE_DIGITS: usize = 8;

/// The hosts of one database. Clones share what is known of them.
#[derive(Clone)]
pub struct Hosts {
    /// Each of one host.
    hosts: Vec<Config>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    leader: Option<Leader>,
    /// Who is connected to which host.
    sessions: Vec<(usize, AbortHandle)>,
}

/// The host that takes writes.
#[derive(Clone, Copy)]
struct Leader {
    at: usize,
    timeline: u32,
}

/// A connection and the task that drives it.
pub struct Session {
    /// Speaks to the server.
    pub client: Client,
    /// Ends with the connection.
    pub connection: JoinHandle<()>,
}

/// A session with a host that takes writes.
struct Candidate {
    session: Session,
    host: Leader,
}

/// Why nobody was reached; `None`: nobody answered in time.
type Silence = Option<Error>;

impl Hosts {
    /// The hosts of `config`.
    pub fn new(config: &Config) -> Self {
        Self { hosts: split(config), known: Arc::default() }
    }

    /// The same hosts, for sessions of another name and with further options.
    pub fn named(&self, name: &str, options: &str) -> Self {
        let mut hosts = self.hosts.clone();
        for host in &mut hosts {
            let given = host.get_options().map_or_else(|| options.to_owned(), |given| format!("{given} {options}"));
            host.options(given).application_name(name);
        }
        Self { hosts, known: Arc::clone(&self.known) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Connects, in bounded time.
    pub async fn connect(&self) -> Result<Session, StoreError> {
        match timeout(PATIENCE, self.open()).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(Some(error))) => Err(error.into()),
            Ok(Err(None)) | Err(_) => Err(StoreError::Unavailable("no answer while connecting".to_owned())),
        }
    }

    /// Looks which host takes writes, and cuts sessions with others when it is another one now. What cannot be reached
    /// changes nothing.
    pub async fn look(&self) {
        drop(self.survey().await);
    }

    async fn open(&self) -> Result<Session, Silence> {
        if let [only] = self.hosts.as_slice() {
            return session(only).await.map_err(Some);
        }
        if !self.hosts.iter().all(|host| host.get_target_session_attrs() == TargetSessionAttrs::ReadWrite) {
            return self.first().await;
        }
        // The same again, unless it is gone or left behind: asking all each time would wait for those that are away.
        let leader = self.known().leader;
        if let Some(leader) = leader
            && let Ok(again) = self.candidate(leader.at).await
            && again.host.timeline >= leader.timeline
        {
            return Ok(self.enter(again));
        }
        self.survey().await.map(|found| self.enter(found))
    }

    /// For those who read: the first that answers and is as the URL wants it.
    async fn first(&self) -> Result<Session, Silence> {
        let mut silence = None;
        for host in &self.hosts {
            match timeout(HOST, session(host)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => silence = Some(error),
                Err(_) => {}
            }
        }
        Err(silence)
    }

    /// Asks all at once, and believes the newest timeline.
    async fn survey(&self) -> Result<Candidate, Silence> {
        let mut silence = None;
        let mut found = Vec::new();
        for answer in join_all((0..self.hosts.len()).map(|at| self.candidate(at))).await {
            match answer {
                Ok(candidate) => found.push(candidate),
                Err(error) => silence = error.or(silence),
            }
        }
        let before = self.known().leader;
        let stays = |host: Leader| before.is_some_and(|before| before.at == host.at);
        let best = found.into_iter().max_by_key(|it| (it.host.timeline, stays(it.host), Reverse(it.host.at)));
        let best = best.ok_or(silence)?;
        if before.is_some_and(|before| best.host.timeline < before.timeline) {
            tracing::warn!(
                host = self.name(best.host.at),
                timeline = best.host.timeline,
                "a failover left this server behind, and it takes writes still; it is not used: fence it"
            );
            best.session.connection.abort();
            // The error of a session that has ended.
            return Err(best.session.client.simple_query("").await.err());
        }
        self.follow(best.host);
        Ok(best)
    }

    fn follow(&self, host: Leader) {
        let mut known = self.known();
        let before = known.leader.replace(host);
        if before.is_some_and(|before| before.at != host.at) {
            tracing::warn!(host = self.name(host.at), timeline = host.timeline, "another server takes writes now");
            known.sessions.retain(|(at, session)| {
                if *at != host.at {
                    session.abort();
                }
                *at == host.at
            });
        }
    }

    fn enter(&self, candidate: Candidate) -> Session {
        let mut known = self.known();
        known.sessions.retain(|(_, session)| !session.is_finished());
        known.sessions.push((candidate.host.at, candidate.session.connection.abort_handle()));
        candidate.session
    }

    async fn candidate(&self, at: usize) -> Result<Candidate, Silence> {
        let asked = async {
            let session = session(&self.hosts[at]).await?;
            let timeline = timeline(&session.client).await?;
            Ok(Candidate { session, host: Leader { at, timeline } })
        };
        timeout(HOST, asked).await.map_err(|_| None)?.map_err(Some)
    }

    fn name(&self, at: usize) -> String {
        self.hosts.get(at).map(name).unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl deadpool_postgres::Connect for Hosts {
    fn connect(
        &self,
        _config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            match self.open().await {
                Ok(session) => Ok((session.client, session.connection)),
                Err(Some(error)) => Err(error),
                // The pool has a limit of its own, and says so.
                Err(None) => std::future::pending().await,
            }
        })
    }
}

async fn session(config: &Config) -> Result<Session, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "a connection to the database ended");
        }
    });
    Ok(Session { client, connection })
}

async fn timeline(client: &Client) -> Result<u32, Error> {
    let answer = client.simple_query(TIMELINE).await?;
    let name = answer.iter().find_map(|it| if let SimpleQueryMessage::Row(row) = it { row.get(0) } else { None });
    let digits = name.and_then(|name| name.get(..TIMELINE_DIGITS));
    Ok(digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default())
}

/// `host:port`, as an operator knows it.
pub fn name(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(host)), _) => format!("{host}:{port}"),
        #[cfg(unix)]
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => "nowhere".to_owned(),
    }
}

/// One configuration for each host. A `Config` only takes further hosts, so that all else is carried over.
pub fn split(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    if count < 2 {
        return vec![config.clone()];
    }
    let one = |at: usize| {
        let mut one = Config::new();
        match hosts.get(at) {
            Some(Host::Tcp(host)) => drop(one.host(host)),
            #[cfg(unix)]
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(at) {
            one.hostaddr(*address);
        }
        one.port(ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432));
        carry_over(config, &mut one);
        one
    };
    (0..count).map(one).collect()
}

fn carry_over(from: &Config, to: &mut Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(database) = from.get_dbname() {
        to.dbname(database);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    if let Some(wait) = from.get_connect_timeout() {
        to.connect_timeout(*wait);
    }
    if let Some(wait) = from.get_tcp_user_timeout() {
        to.tcp_user_timeout(*wait);
    }
    if let Some(interval) = from.get_keepalives_interval() {
        to.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        to.keepalives_retries(retries);
    }
    to.keepalives(from.get_keepalives()).keepalives_idle(from.get_keepalives_idle());
    to.ssl_mode(from.get_ssl_mode()).ssl_negotiation(from.get_ssl_negotiation());
    to.channel_binding(from.get_channel_binding()).target_session_attrs(from.get_target_session_attrs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_keeps_its_port_and_all_that_the_url_says() {
        let url = "postgres://jo:secret@one:5433,two/books?target_session_attrs=read-write&options=-cjit%3Doff";
        let hosts = split(&url.parse().unwrap());
        assert_eq!(hosts.iter().map(name).collect::<Vec<_>>(), ["one:5433", "two:5432"]);
        for host in &hosts {
            assert_eq!((host.get_user(), host.get_password()), (Some("jo"), Some(&b"secret"[..])));
            assert_eq!((host.get_dbname(), host.get_options()), (Some("books"), Some("-cjit=off")));
            assert_eq!(host.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        }
        assert_eq!(split(&"postgres://one/books".parse().unwrap()).len(), 1);
        let named = Hosts::new(&url.parse().unwrap()).named("jo", "-c a=b");
        for host in &named.hosts {
            assert_eq!((host.get_application_name(), host.get_options()), (Some("jo"), Some("-cjit=off -c a=b")));
        }
    }
}
