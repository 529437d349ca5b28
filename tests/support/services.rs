//! Where the tests' servers are, and a corner of each for one test alone.
//!
//! The URLs come from the environment, as `scripts/start-test-services` prints them; without it, the usual ports on
//! loopback. Deliberately absent: starting servers, and what a test does with its corner.

#![allow(dead_code, reason = "not every test uses every server")]
#![allow(clippy::expect_used, clippy::print_stderr, reason = "a test that has no server says so and ends")]

use std::env;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

/// How often a condition is asked.
const POLL: Duration = Duration::from_millis(10);
/// Making a database copies some megabytes; many tests do so at once.
const DATABASE_DEADLINE: Duration = Duration::from_secs(60);
/// Two processes may not make one template at the same time; the number names their lock.
const TEMPLATE_LOCK: i64 = 0x0043_4152_4546_4f52;

/// A database whose user may make databases.
pub fn database_url() -> String {
    env::var("DATABASE_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

/// A Redis.
pub fn redis_url() -> String {
    env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned())
}

/// A RabbitMQ.
pub fn amqp_url() -> String {
    env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// A prefix for Redis keys, queues and exchanges that no other test has.
pub fn unique_prefix() -> String {
    format!("t{}", Uuid::new_v4().simple())
}

/// Waits until the condition holds. The deadline is for a test that fails: be generous.
///
/// # Panics
/// When the deadline passes, naming what was waited for.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, deadline: Duration, mut condition: impl FnMut() -> F) {
    let holds = async {
        while !condition().await {
            sleep(POLL).await;
        }
    };
    assert!(timeout(deadline, holds).await.is_ok(), "waited {deadline:?} in vain until {what}");
}

/// A database of one test. Dropped with it; kept, and named, when the test fails.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    /// On the tests' server; none of a server that the test has made for itself, and that ends with it.
    name: Option<String>,
}

impl TestDatabase {
    /// One on a server that the test has made for itself.
    pub fn elsewhere(url: String) -> Self {
        Self { url, name: None }
    }

    /// Its name on the tests' server.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A connection to it.
    pub async fn connect(&self) -> Client {
        connect(&self.url()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.url);
            return;
        }
        let Some(name) = &self.name else { return };
        let statement = format!("drop database if exists {name} with (force)");
        // A runtime cannot be entered twice: the statement runs on a thread with one of its own.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { connect(&database_url()).await.batch_execute(&statement).await })
        });
        if let Ok(Err(error)) = dropping.join() {
            eprintln!("could not drop {name}: {error}");
        }
    }
}

/// A database for one test: a copy of `template`, or an empty one.
pub async fn create_database(template: Option<&str>) -> TestDatabase {
    let name = unique_prefix();
    let client = connect(&database_url()).await;
    copy(&client, template.unwrap_or("template0"), &name).await;
    TestDatabase { url: url_of(&name), name: Some(name) }
}

/// The template of this name, made once by whoever comes first: `migrate` gets the URL of an empty database and closes
/// its connections. Let the name change with the migrations, as by a hash of them.
pub async fn template<F: Future<Output = ()>>(name: &str, migrate: impl FnOnce(String) -> F) -> String {
    let client = connect(&database_url()).await;
    client.execute("select pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.expect("the template's lock");
    let found = client.query_opt("select 1 from pg_database where datname = $1", &[&name]).await;
    if found.expect("the list of databases").is_none() {
        let draft = format!("{name}_draft");
        client.batch_execute(&format!("drop database if exists {draft} with (force)")).await.expect("no draft");
        copy(&client, "template0", &draft).await;
        migrate(url_of(&draft)).await;
        // Under its own name only when it is whole.
        while_in_use(&client, &format!("alter database {draft} rename to {name}")).await;
    }
    // The lock goes with the connection.
    name.to_owned()
}

async fn copy(client: &Client, from: &str, name: &str) {
    while_in_use(client, &format!("create database {name} template {from}")).await;
}

/// A connection that was just closed holds its database for a moment longer.
async fn while_in_use(client: &Client, statement: &str) {
    let end = Instant::now() + DATABASE_DEADLINE;
    loop {
        match client.batch_execute(statement).await {
            Ok(()) => return,
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < end => sleep(POLL).await,
            Err(error) => panic!("{statement}: {error:?}"),
        }
    }
}

/// The tests' server with another database.
fn url_of(database: &str) -> String {
    let url = database_url();
    let (before, query) = url.split_once('?').map_or((url.as_str(), String::new()), |(b, q)| (b, format!("?{q}")));
    let authority = before.find("://").map_or(0, |at| at + 3);
    let end = before[authority..].find('/').map_or(before.len(), |at| authority + at);
    format!("{}/{database}{query}", &before[..end])
}

/// A connection to a database.
pub async fn connect(url: &str) -> Client {
    let mut config: Config = url.parse().expect("DATABASE_URL is a Postgres URL");
    config.connect_timeout(Duration::from_secs(10));
    let end = Instant::now() + DATABASE_DEADLINE;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            // Other tests are using them all; they end.
            Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) && Instant::now() < end => {
                sleep(POLL).await;
            }
            Err(error) => panic!("the tests need a Postgres: see `make test`: {error:?}"),
        }
    }
}
