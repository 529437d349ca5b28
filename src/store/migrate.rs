//! Migrations, under a lock, so that any number of processes may start at once; and whether a database that takes no writes,
//! such as a standby, is as we know it.
//!
//! A schema that is newer than this program is left as it is: migrations only add (`docs/operating.md`, "Upgrade"), so a
//! replica of the release before may start beside the new ones, and a release may be taken back.
//!
//! Deliberately absent: waiting long for a table. Whoever waits for one holds up everybody who comes after.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

use super::hosts::Session;
use super::{Hosts, StoreError};

mod embedded_migrations {
    #![allow(missing_docs, reason = "generated")]
    refinery::embed_migrations!("sql/migrations");
}

/// The lock alone is waited for without an end: whoever holds it is bounded, and the server frees it when he is gone.
const PATIENT: &str = "set statement_timeout = 0; set lock_timeout = 0";
/// A number of ours in the one space of advisory locks: "CFA" and the lock's own number.
const LOCK_MIGRATIONS: &str = "select pg_advisory_lock(1128678255, 2000)";
/// Donors who come after a waiting migration wait behind it, and give up after 5 s (`store::pool`): it gives way before.
const IMPATIENT: &str = "set lock_timeout = '3s'";

/// How often all of it is tried where somebody holds a table, and the pauses in between: ten minutes, all in all. A backup
/// holds every table for as long as it reads.
const TRIES: u32 = 60;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Which cluster the ledger's transaction numbers belong to; the first process writes it down.
const REMEMBER_CLUSTER: &str = "insert into donations.secrets (name, value) \
    select 'cluster', convert_to(system_identifier::text, 'UTF8') from pg_control_system() on conflict (name) do nothing";
const IS_REMEMBERED_CLUSTER: &str = "select value = convert_to(system_identifier::text, 'UTF8') \
    from donations.secrets, pg_control_system() where name = 'cluster'";

/// Ledger lines remember the transaction that wrote them. In a cluster that was restored from a dump those numbers belong
/// to another cluster's past, and a line "from the future" would count twice: they are made lines of long ago.
const ADOPT_LEDGER: &str = "
    update payments.ledger_entries set xact_id = '3'::xid8;
    delete from payments.ledger_checkpoints;
    refresh materialized view payments.campaign_totals;
    update donations.secrets set value = (select convert_to(system_identifier::text, 'UTF8') from pg_control_system())
     where name = 'cluster';";

const IS_READ_ONLY: &str = "select current_setting('transaction_read_only')::boolean";
/// Refinery's own table. On a database without a schema the question is an error, and that is an answer too.
const NEWEST: &str = "select max(version) from public.refinery_schema_history";

/// What a database is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schema {
    /// It takes writes and is up to date; the names of what was applied just now.
    Migrated(Vec<String>),
    /// It takes no writes, and is up to date.
    ReadOnly,
}

/// Brings the schema up to date; returns the names of what was applied.
///
/// # Errors
/// [`StoreError::Locked`] where somebody held a table through all tries; what was applied by then stays.
pub async fn migrate(config: &Config) -> Result<Vec<String>, StoreError> {
    match prepare(config).await? {
        Schema::Migrated(applied) => Ok(applied),
        Schema::ReadOnly => Err(StoreError::Refused(
            "it takes no writes; a standby, if it is one, serves `verify`, `explain` and `doctor` alone".to_owned(),
        )),
    }
}

/// Brings the schema up to date, or, where nothing can be written, looks whether it is.
///
/// # Errors
/// As those of [`migrate`].
pub async fn prepare(config: &Config) -> Result<Schema, StoreError> {
    let Session { mut client, connection } = Hosts::new(config).connect().await?;
    client.batch_execute(PATIENT).await?;
    let schema = if client.query_one(IS_READ_ONLY, &[]).await?.get(0) {
        is_known(&client).await?;
        Schema::ReadOnly
    } else {
        client.batch_execute(LOCK_MIGRATIONS).await?;
        client.batch_execute(IMPATIENT).await?;
        let mut applied = Vec::new();
        insist(&mut client, &mut applied).await?;
        Schema::Migrated(applied)
    };
    drop(client); // ends the session, and with it the lock
    let _ = connection.await;
    Ok(schema)
}

async fn is_known(client: &Client) -> Result<(), StoreError> {
    const ON_THE_PRIMARY: &str = "run `careforall migrate` on its primary";
    let ours =
        embedded_migrations::migrations::runner().get_migrations().iter().map(refinery::Migration::version).max();
    let theirs = client.query_one(NEWEST, &[]).await.ok().and_then(|row| row.get::<_, Option<i32>>(0));
    // A newer one has only more in it.
    if theirs < ours {
        let [ours, theirs] = [ours, theirs].map(|it| it.map_or_else(|| "none".to_owned(), |it| it.to_string()));
        return Err(StoreError::Refused(format!(
            "it takes no writes, and its schema is of version {theirs} instead of {ours}: {ON_THE_PRIMARY}"
        )));
    }
    if !client.query_one(IS_REMEMBERED_CLUSTER, &[]).await?.get::<_, bool>(0) {
        return Err(StoreError::Refused(format!("it takes no writes, and was restored from a dump: {ON_THE_PRIMARY}")));
    }
    Ok(())
}

async fn insist(client: &mut Client, applied: &mut Vec<String>) -> Result<(), StoreError> {
    let mut pause = FIRST_PAUSE;
    for left in (0..TRIES).rev() {
        match attempt(client, applied).await {
            Err(StoreError::Locked(reason)) if left > 0 => {
                tracing::warn!(reason, left, "a migration gives way to whoever holds its table, and tries again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            ended => return ended,
        }
    }
    Ok(())
}

/// Each migration is a transaction of its own: what an attempt has applied stays, and the next one goes on after it.
async fn attempt(client: &mut Client, applied: &mut Vec<String>) -> Result<(), StoreError> {
    let runner = embedded_migrations::migrations::runner().set_abort_missing(false);
    let outcome = runner.run_async(client).await;
    let report = outcome.as_ref().map_or_else(refinery::Error::report, Some);
    applied.extend(report.into_iter().flat_map(|report| report.applied_migrations()).map(ToString::to_string));
    outcome.map_err(failed)?;
    nothing_was_passed_over(&runner, client).await?;
    client.execute(REMEMBER_CLUSTER, &[]).await?;
    let is_remembered: bool = client.query_one(IS_REMEMBERED_CLUSTER, &[]).await?.get(0);
    if !is_remembered {
        tracing::warn!("this database was restored into another cluster; the ledger is taken over");
        let transaction = client.transaction().await?;
        transaction.batch_execute(ADOPT_LEDGER).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// A migration of ours that is numbered below an applied one would be passed over in silence.
async fn nothing_was_passed_over(runner: &refinery::Runner, client: &mut Client) -> Result<(), StoreError> {
    let known = runner.get_applied_migrations_async(client).await.map_err(failed)?;
    let newest = |of: &[refinery::Migration]| of.iter().map(refinery::Migration::version).max();
    if newest(&known) > newest(runner.get_migrations()) {
        tracing::info!("the schema is newer than this program, which goes on with it as it is");
    }
    let is_missing = |ours: &&refinery::Migration| known.iter().all(|it| it.version() != ours.version());
    match runner.get_migrations().iter().find(is_missing) {
        Some(ours) => Err(StoreError::Refused(format!("migration {ours} is numbered below one that was applied"))),
        None => Ok(()),
    }
}

fn failed(error: refinery::Error) -> StoreError {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    if cause.and_then(tokio_postgres::Error::code) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return StoreError::Locked(error.to_string());
    }
    StoreError::Refused(format!("migration failed: {error}"))
}
