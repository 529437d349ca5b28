//! Connections to Postgres: two pools, so that readers never keep a writer waiting.
//!
//! A statement whose future is dropped runs on at the server, and whatever comes next on its connection waits for it: such a
//! connection goes to nobody any more.
//!
//! Deliberately absent: textual `BEGIN`. A transaction whose future is dropped half-way would poison its connection;
//! a statement that writes everything by itself cannot be half-way.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};

use super::StoreError;
use super::hosts::{HOST, Hosts};

/// Connections for reads and small writes.
const READERS: usize = 14;
/// How many batches of the committer are written at the same time. Measured: two or three are best.
pub const WRITERS: usize = 3;
/// Connections of one process: both pools, and the one that shows that it lives. One more comes and goes: at the start, and
/// where it is looked which of several hosts takes writes.
pub const CONNECTIONS: usize = READERS + WRITERS + 1;

const WAIT: Duration = Duration::from_millis(500);
const CREATE: Duration = Duration::from_secs(2);
const RECYCLE: Duration = Duration::from_secs(1);
/// How long a connection may be silent before the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// A dropped future does not cancel its statement, so the server must.
///
/// Plans are kept for as long as their connection, and those of the first minutes are made when the tables are nearly empty and
/// reading a whole table looks cheapest; autovacuum mends that only when it comes by. Our statements go by keys, so they are told
/// to from the start (which makes costs that the compiler of expressions would take for long statements). Measured on an empty
/// database: the first 20,000 donations cost Postgres several times as much without it.
///
/// They go by the same plan whatever their values are, so none is made anew for them: for statements of few rows the planner
/// would do that for ever, as it takes every array for ten. Measured: half of what settling a message cost was its plan. Where
/// values do decide, [`query_planned_anew`].
///
/// None is given to parallel workers: such a plan expects a third of a campaign's ledger beyond its checkpoint, where there are
/// a few lines, and starting workers took 8 ms of a read that takes 0.13 ms.
const SESSION: &str = "-c statement_timeout=20000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000 \
     -c enable_seqscan=off -c jit=off -c plan_cache_mode=force_generic_plan -c max_parallel_workers_per_gather=0";

/// The two pools.
#[derive(Clone)]
pub struct Pools {
    hosts: Hosts,
    readers: Pool,
    writers: Pool,
}

/// How one pool is used at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// `readers` or `writers`.
    pub pool: &'static str,
    /// Connections in use.
    pub used: usize,
    /// Connections at most.
    pub size: usize,
    /// Work that waits for a connection.
    pub waiting: usize,
}

impl Pools {
    /// Pools that connect when they are first used.
    pub fn new(mut config: Config) -> Result<Self, StoreError> {
        // What the URL says comes last, and wins.
        let options = config.get_options().map_or_else(|| SESSION.to_owned(), |given| format!("{SESSION} {given}"));
        config.options(options);
        if config.get_application_name().is_none() {
            config.application_name("careforall");
        }
        config.connect_timeout(CREATE);
        // A server that vanished without a word would otherwise hold every statement, and so every writer, for hours.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE * 2);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_idle(SILENCE).keepalives_interval(SILENCE / 3).keepalives_retries(3);
        }
        let hosts = Hosts::new(&config);
        Ok(Self { readers: pool(&config, &hosts, READERS)?, writers: pool(&config, &hosts, WRITERS)?, hosts })
    }

    /// How to reach the database, for those who need a connection of their own.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// A connection for reads and small writes.
    pub async fn reader(&self) -> Result<Object, StoreError> {
        Ok(self.readers.get().await?)
    }

    /// A connection for the committer.
    pub async fn writer(&self) -> Result<Object, StoreError> {
        Ok(self.writers.get().await?)
    }

    /// How the two pools are used: one may be exhausted while the other is idle.
    pub fn usage(&self) -> [PoolUsage; 2] {
        [("readers", &self.readers), ("writers", &self.writers)].map(|(pool, it)| {
            let status = it.status();
            let used = status.size.saturating_sub(status.available);
            PoolUsage { pool, used, size: status.max_size, waiting: status.waiting }
        })
    }

    /// Closes all connections.
    pub fn close(&self) {
        self.readers.close();
        self.writers.close();
    }
}

fn pool(config: &Config, hosts: &Hosts, size: usize) -> Result<Pool, StoreError> {
    let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_connect(config.clone(), hosts.clone(), settings);
    // Of several hosts the known one is asked first, then all of them.
    let create = if hosts.count() > 1 { CREATE + HOST * 2 } else { CREATE };
    Pool::builder(manager)
        .max_size(size)
        .timeouts(Timeouts { wait: Some(WAIT), create: Some(create), recycle: Some(RECYCLE) })
        .runtime(Runtime::Tokio1)
        .pre_recycle(Hook::sync_fn(|client: &mut ClientWrapper, _| {
            if abandoned().remove(&name_of(client)) {
                return Err(HookError::message("a statement on it was given up"));
            }
            Ok(())
        }))
        .build()
        .map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// Connections on which a statement was given up half-way, until the pool has looked at them. Names of connections may come
/// again; at worst a good one is replaced.
static ABANDONED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

fn abandoned() -> MutexGuard<'static, BTreeSet<usize>> {
    // Nothing can panic under the lock.
    ABANDONED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of a connection while it lives: where its statements are kept.
fn name_of(client: &ClientWrapper) -> usize {
    Arc::as_ptr(&client.statement_cache).addr()
}

/// A connection that was taken out of the pool is asked after by nobody.
pub(super) fn forget(client: &Object) {
    abandoned().remove(&name_of(client));
}

/// A statement that is under way on a connection.
struct UnderWay(Option<usize>);

impl UnderWay {
    fn on(client: &Object) -> Self {
        Self(Some(name_of(client)))
    }

    fn over(mut self) {
        self.0 = None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(name) = self.0 {
            abandoned().insert(name);
        }
    }
}

/// Waits for what is asked of a connection; whoever does not wait for the end spoils the connection.
async fn to_its_end<T>(client: &Object, asked: impl Future<Output = T>) -> T {
    let under_way = UnderWay::on(client);
    let answer = asked.await;
    under_way.over();
    answer
}

/// Runs one prepared statement and returns its rows.
pub async fn query(client: &Object, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
    to_its_end(client, async {
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, params).await?)
    })
    .await
}

/// The same with a plan made for these values: of a list's filters only those that are given count, and which index is best
/// depends on them.
pub async fn query_planned_anew(
    client: &mut Object,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepare_cached(sql).await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute("set local plan_cache_mode = force_custom_plan").await?;
    let rows = transaction.query(&statement, params).await?;
    transaction.commit().await?;
    Ok(rows)
}

/// Runs one prepared statement that answers with one row or none.
pub async fn query_opt(client: &Object, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, StoreError> {
    to_its_end(client, async {
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_opt(&statement, params).await?)
    })
    .await
}

/// Runs one prepared statement and returns how many rows it touched.
pub async fn execute(client: &Object, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, StoreError> {
    to_its_end(client, async {
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, params).await?)
    })
    .await
}
