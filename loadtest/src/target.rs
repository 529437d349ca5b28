//! The server that is loaded: one that runs somewhere, or one or two that are started for the run and stopped after it.
//!
//! Whatever happens to us, a server that we started is stopped and what it wrote is removed (but for SIGKILL, which
//! nobody hears). Deliberately absent: a target on another machine without its owner's word.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::Config;

use crate::api::SANDBOX_KEY;
use crate::broker;
use crate::database;
use crate::progress::say;
use crate::stripe::SANDBOX_WEBHOOK_SECRET;

/// The server's own shutdown takes no longer than this.
const STOP_DEADLINE: Duration = Duration::from_secs(28);
const STOP_POLL: Duration = Duration::from_millis(20);
/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";
const LOCAL_REDIS: &str = "redis://127.0.0.1:6379";
const LOCAL_AMQP: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Every process that was started and not yet ended, for an end in a hurry.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Asks every server that we started to end, and does not wait. What they wrote stays.
pub fn end_all_now() {
    for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = kill_process(pid, Signal::TERM); // it may have ended by itself
        let _ = kill_process(pid, Signal::CONT); // one that is held hears nothing
    }
}

/// Where to find or how to start it.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    /// A server that runs; without it one is started.
    pub url: Option<String>,
    /// A target on another machine is meant.
    pub is_mine: bool,
    /// The program, if it is not beside us.
    pub server: Option<PathBuf>,
    /// One or two processes.
    pub replicas: usize,
    /// The database of a running server; or the cluster in which one is made for the run.
    pub database_url: Option<String>,
    /// For the servers that are started.
    pub redis_url: Option<String>,
    /// For the servers that are started.
    pub amqp_url: Option<String>,
    /// An operator's key of a running server.
    pub admin_key: Option<String>,
    /// The webhook secret of a running server.
    pub webhook_secret: Option<String>,
}

/// Something that we started and must end.
#[derive(Debug)]
struct Started {
    children: Vec<Child>,
    directory: TempDir,
    /// Where the mails go: a relay would not be on this disk, and a run that removes thousands of files slows the next one down.
    mails: Option<TempDir>,
    prefix: String,
    redis_url: Option<String>,
    amqp_url: Option<String>,
    /// The database that was made for the run, and the cluster that it is in.
    scratch: Option<(Config, String)>,
    /// What `careforall verify` must be run with.
    environment: BTreeMap<String, OsString>,
}

/// The server.
#[derive(Debug)]
pub struct Target {
    /// Each process of it.
    pub replicas: Vec<SocketAddr>,
    /// An operator's key.
    pub admin_key: String,
    /// Signs webhooks.
    pub webhook_secret: String,
    /// Its database, where we may look into it.
    pub database: Option<Config>,
    /// Whether facts reach every replica by a broker, and whether there is a Redis between them.
    pub has_redis: bool,
    /// The server's program, where it was found.
    program: Option<PathBuf>,
    started: Option<Started>,
}

impl Target {
    /// Finds it or starts it.
    pub async fn open(orders: &Orders) -> Result<Self, String> {
        match &orders.url {
            Some(url) => Self::running(url, orders),
            None => start(orders).await,
        }
    }

    fn running(url: &str, orders: &Orders) -> Result<Self, String> {
        let address = address(url)?;
        if !address.ip().is_loopback() && !orders.is_mine {
            return Err(format!(
                "{url} is not on this machine: a load test of somebody else's server is an attack; \
                 with --i-own-this-target you say that it is yours"
            ));
        }
        let admin_key =
            orders.admin_key.clone().ok_or("--target needs an operator's key: --admin-key or CAREFORALL_ADMIN_KEY")?;
        let database = orders.database_url.as_ref().map(|url| parse(url)).transpose()?;
        Ok(Self {
            replicas: vec![address],
            admin_key,
            webhook_secret: orders.webhook_secret.clone().unwrap_or_else(|| SANDBOX_WEBHOOK_SECRET.to_owned()),
            database,
            has_redis: orders.redis_url.is_some(),
            program: program(orders).ok(),
            started: None,
        })
    }

    /// The process ids of the servers that we started.
    pub fn pids(&self) -> Vec<u32> {
        self.started.iter().flat_map(|started| started.children.iter().map(Child::id)).collect()
    }

    /// Whether we started it.
    pub fn is_ours(&self) -> bool {
        self.started.is_some()
    }

    /// Whether it runs on this machine.
    pub fn is_local(&self) -> bool {
        self.replicas.iter().all(|address| address.ip().is_loopback())
    }

    /// In a few words.
    pub fn words(&self) -> String {
        let addresses: Vec<String> = self.replicas.iter().map(SocketAddr::to_string).collect();
        let Some(started) = &self.started else { return format!("the server at {}", addresses.join(", ")) };
        let database = if started.scratch.is_some() { "a database of its own" } else { "embedded PostgreSQL" };
        let redis = if started.redis_url.is_some() { "Redis" } else { "no Redis" };
        let bus = if started.amqp_url.is_some() { "RabbitMQ" } else { "in-process bus" };
        let count = self.replicas.len();
        let processes = if count == 1 { "1 process".to_owned() } else { format!("{count} processes") };
        format!("{processes} started for this run, {database}, {redis}, {bus}, sandbox Stripe")
    }

    /// Runs `careforall verify`: whether it found nothing, and what it said. Nothing where there is no way to run it.
    pub async fn verify(&self) -> Option<Result<String, String>> {
        let program = self.program.as_ref()?;
        let environment = match (&self.started, &self.database) {
            (Some(started), _) => started.environment.clone(),
            (None, Some(config)) => {
                BTreeMap::from([("DATABASE_URL".to_owned(), OsString::from(database::url(config)?))])
            }
            (None, None) => return None,
        };
        let mut command = tokio::process::Command::new(program);
        command.arg("verify").env_clear().envs(environment).stdin(Stdio::null()).kill_on_drop(true);
        let output = match command.output().await {
            Ok(output) => output,
            Err(error) => return Some(Err(format!("{}: {error}", program.display()))),
        };
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        // Its progress is on standard error too; the last line there is its judgement.
        let last = err.lines().last().unwrap_or_default();
        Some(if output.status.success() { Ok(out) } else { Err(format!("{out}\n{last}").trim().to_owned()) })
    }

    /// Stops what was started and removes what it wrote.
    pub async fn close(mut self) {
        let Some(mut started) = self.started.take() else { return };
        let ended = tokio::task::spawn_blocking(move || {
            started.stop();
            started
        });
        let Ok(started) = ended.await else { return };
        let mut left = Vec::new();
        if let Some(url) = &started.amqp_url {
            left.extend(broker::remove_queues(url, &started.prefix).await.err());
        }
        if let Some(url) = &started.redis_url {
            left.extend(broker::forget_keys(url, &started.prefix).await.err());
        }
        if let Some((cluster, name)) = &started.scratch {
            left.extend(database::drop(cluster, name).await.err());
        }
        left.iter().for_each(|problem| say(&format!("not everything could be cleared away: {problem}")));
    }
}

impl Started {
    /// Ends the processes in order, the first one (whose database the others use) last.
    fn stop(&mut self) {
        while let Some(mut child) = self.children.pop() {
            let pid = Pid::from_child(&child);
            let _ = kill_process(pid, Signal::TERM); // it may have ended by itself
            let _ = kill_process(pid, Signal::CONT); // one that is held hears nothing
            let deadline = Instant::now() + STOP_DEADLINE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(STOP_POLL);
            }
            let _ = child.kill();
            let _ = child.wait();
            RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|running| *running != pid);
        }
    }
}

/// On a panic, and wherever nobody closed the target.
impl Drop for Started {
    fn drop(&mut self) {
        self.stop();
    }
}

fn parse(url: &str) -> Result<Config, String> {
    url.parse().map_err(|_| "--database-url: must be postgres://user:password@host:port/database".to_owned())
}

/// The address in `http://host:port`.
fn address(url: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let wrong = || format!("--target {url}: must be http://host:port");
    let place = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
    let place = if place.contains(':') { place.to_owned() } else { format!("{place}:80") };
    let mut found = place.to_socket_addrs().map_err(|error| format!("--target {url}: {error}"))?;
    found.next().ok_or_else(wrong)
}

/// The server's program: as named, beside us, or in the workspace's `target/release`.
fn program(orders: &Orders) -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join("careforall")));
    let places = match &orders.server {
        Some(path) => vec![path.clone()],
        None => beside.into_iter().chain([PathBuf::from("target/release/careforall")]).collect(),
    };
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        format!(
            "there is no server at {}: build it (cargo build --release) or name it with --server",
            places[0].display()
        )
    })
}

async fn start(orders: &Orders) -> Result<Target, String> {
    let program = program(orders)?;
    let number: u32 = rand::random();
    let prefix = format!("lt-{number:08x}-");
    let mut builder = tempfile::Builder::new();
    // Where root starts us the database runs as another user, who must be able to reach it.
    builder.prefix("careforall-load-").permissions(Permissions::from_mode(0o755));
    let directory = builder.tempdir().map_err(|error| format!("a directory for the run: {error}"))?;
    let scratch = match &orders.database_url {
        None => None,
        Some(url) => {
            let (cluster, name) = (parse(url)?, format!("careforall_load_{number:08x}"));
            database::create(&cluster, &name).await?;
            Some((cluster, name))
        }
    };
    let (redis_url, amqp_url) = services(orders).await;
    let admin_key = format!("load-{:032x}", rand::random::<u128>());
    let mut environment = BTreeMap::from([("PATH".to_owned(), std::env::var_os("PATH").unwrap_or_default())]);
    let mut set = |name: &str, value: &str| drop(environment.insert(name.to_owned(), value.into()));
    set("CAREFORALL_LISTEN", "127.0.0.1:0");
    set("CAREFORALL_DATA_DIR", &directory.path().join("0").to_string_lossy());
    set("CAREFORALL_ADMIN_KEY", &admin_key);
    set("CAREFORALL_RATE_LIMIT", "off");
    // Nobody stands before it.
    set("CAREFORALL_DRAIN_WAIT_S", "0");
    set("CAREFORALL_PREFIX", &prefix);
    set("STRIPE_WEBHOOK_SECRET", SANDBOX_WEBHOOK_SECRET);
    set("RUST_LOG", &std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()));
    redis_url.iter().for_each(|url| set("REDIS_URL", url));
    amqp_url.iter().for_each(|url| set("AMQP_URL", url));
    if let Some((cluster, name)) = &scratch {
        let mut config = cluster.clone();
        set("DATABASE_URL", &database::url(config.dbname(name)).ok_or("--database-url: names no host or user")?);
    }
    let has_redis = redis_url.is_some();
    let children = Vec::new();
    let mails = tempfile::Builder::new().prefix("careforall-load-mails-").tempdir_in(MEMORY).ok();
    let mut started = Started { children, directory, mails, prefix, redis_url, amqp_url, scratch, environment };
    let mut replicas = Vec::new();
    for number in 0..orders.replicas.max(1) {
        match started.another(&program, number, replicas.first().copied()).await {
            Ok(address) => replicas.push(address),
            Err(error) => {
                // The scratch database and what else was made go with it.
                let target = Target {
                    replicas,
                    admin_key,
                    webhook_secret: String::new(),
                    database: None,
                    has_redis,
                    program: None,
                    started: Some(started),
                };
                target.close().await;
                return Err(error);
            }
        }
    }
    let database = Some(started.database()?);
    let webhook_secret = SANDBOX_WEBHOOK_SECRET.to_owned();
    Ok(Target {
        replicas,
        admin_key,
        webhook_secret,
        database,
        has_redis,
        program: Some(program),
        started: Some(started),
    })
}

/// What two replicas need between them, and what was asked for.
async fn services(orders: &Orders) -> (Option<String>, Option<String>) {
    let (mut redis, mut amqp) = (orders.redis_url.clone(), orders.amqp_url.clone());
    if orders.replicas > 1 {
        if redis.is_none() && broker::listens(LOCAL_REDIS, 6379).await {
            redis = Some(LOCAL_REDIS.to_owned());
        }
        if amqp.is_none() && broker::listens(LOCAL_AMQP, 5672).await {
            amqp = Some(LOCAL_AMQP.to_owned());
        }
        for (is_missing, name) in [(redis.is_none(), "Redis"), (amqp.is_none(), "RabbitMQ")] {
            if is_missing {
                say(&format!("no {name} here: the two replicas run without it"));
            }
        }
    }
    (redis, amqp)
}

impl Started {
    fn database(&self) -> Result<Config, String> {
        match &self.scratch {
            Some((cluster, name)) => {
                let mut config = cluster.clone();
                config.dbname(name);
                Ok(config)
            }
            None => database::embedded(&self.directory.path().join("0")),
        }
    }

    /// Starts process `number`; every one after the first uses the first one's database and sandbox.
    async fn another(
        &mut self,
        program: &Path,
        number: usize,
        first: Option<SocketAddr>,
    ) -> Result<SocketAddr, String> {
        let data_dir = self.directory.path().join(number.to_string());
        let failed = |error| format!("{}: {error}", data_dir.display());
        std::fs::create_dir(&data_dir).map_err(failed)?;
        if let Some(mails) = &self.mails {
            symlink(mails.path(), data_dir.join("mail")).map_err(failed)?;
        }
        let mut environment = self.environment.clone();
        environment.insert("CAREFORALL_DATA_DIR".to_owned(), data_dir.into());
        if let Some(first) = first {
            let url = database::url(&self.database()?).ok_or("the database has no URL")?;
            environment.insert("DATABASE_URL".to_owned(), url.into());
            environment.insert("STRIPE_API_BASE".to_owned(), format!("http://{first}/sandbox/stripe").into());
            environment.insert("STRIPE_SECRET_KEY".to_owned(), SANDBOX_KEY.into());
        }
        let log = self.directory.path().join(format!("{number}.log"));
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = Command::new(program);
        command.arg("serve").env_clear().envs(environment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        // A group of its own: Ctrl-C is for us, and we end it once we have looked into its books.
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let stdout = child.stdout.take();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(Pid::from_child(&child));
        self.children.push(child);
        let first_line = tokio::task::spawn_blocking(move || first_line(stdout)).await.unwrap_or_default();
        let address = first_line.rsplit_once("listening on ").map(|(_, rest)| rest.trim_end_matches(')'));
        address.and_then(|address| address.trim().parse().ok()).ok_or_else(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            format!("the server did not start:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
    }
}

/// The first line of what it says; the rest is read and dropped, so that it never waits for us.
fn first_line(stdout: Option<std::process::ChildStdout>) -> String {
    let Some(stdout) = stdout else { return String::new() };
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(url: &str) -> Orders {
        Orders { url: Some(url.to_owned()), admin_key: Some("k".to_owned()), replicas: 1, ..Orders::default() }
    }

    #[tokio::test]
    async fn a_target_on_another_machine_needs_its_owners_word() {
        let refused = Target::open(&orders("http://192.0.2.1:8080")).await.unwrap_err();
        assert!(refused.contains("--i-own-this-target"), "{refused}");
        let meant = Orders { is_mine: true, ..orders("http://192.0.2.1:8080") };
        assert!(Target::open(&meant).await.is_ok_and(|target| !target.is_local()));
        assert!(Target::open(&orders("http://127.0.0.1:8080")).await.is_ok_and(|target| target.is_local()));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_the_shape_that_it_should_have() {
        for url in ["127.0.0.1:8080", "https://127.0.0.1", "http://", "http://127.0.0.1:x"] {
            assert!(Target::open(&orders(url)).await.is_err_and(|error| error.contains("--target")), "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let nowhere = Orders { server: Some("/nowhere/careforall".into()), replicas: 1, ..Orders::default() };
        let error = Target::open(&nowhere).await.unwrap_err();
        assert!(error.contains("/nowhere/careforall"), "{error}");
    }
}
