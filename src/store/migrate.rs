//! Migrations, under a lock, so that any number of processes may start at once; and whether a database that takes no
//! writes, such as a standby, is as we know it.

use tokio_postgres::{Client, Config};

use super::hosts::Session;
use super::{Hosts, StoreError};

mod embedded_migrations {
    #![allow(missing_docs, reason = "generated")]
    refinery::embed_migrations!("sql/migrations");
}

/// A number of ours in the one space of advisory locks: "CFA" and the lock's own number.
const LOCK_MIGRATIONS: &str = "select pg_advisory_lock(1128678255, 2000)";

/// Which cluster the ledger's transaction numbers belong to; the first process writes it down.
const REMEMBER_CLUSTER: &str = "insert into donations.secrets (name, value) \
    select 'cluster', convert_to(system_identifier::text, 'UTF8') from pg_control_system() on conflict (name) do nothing";
const IS_REMEMBERED_CLUSTER: &str = "select value = convert_to(system_identifier::text, 'UTF8') \
    from donations.secrets, pg_control_system() where name = 'cluster'";

/// Ledger lines remember the transaction that wrote them. In a cluster that was restored from a dump those numbers belong
/// to another cluster's past, and a line "from the future" would count twice: they are made lines of long ago.
const ADOPT_LEDGER: &str = "begin;
    update payments.ledger_entries set xact_id = '3'::xid8;
    delete from payments.ledger_checkpoints;
    refresh materialized view payments.campaign_totals;
    update donations.secrets set value = (select convert_to(system_identifier::text, 'UTF8') from pg_control_system())
     where name = 'cluster';
    commit;";

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
pub async fn migrate(config: &Config) -> Result<Vec<String>, StoreError> {
    match prepare(config).await? {
        Schema::Migrated(applied) => Ok(applied),
        Schema::ReadOnly => Err(StoreError::Refused(
            "it takes no writes; a standby, if it is one, serves `verify`, `explain` and `doctor` alone".to_owned(),
        )),
    }
}

/// Brings the schema up to date, or, where nothing can be written, looks whether it is.
pub async fn prepare(config: &Config) -> Result<Schema, StoreError> {
    let mut config = config.clone();
    config.options("-c lock_timeout=0 -c statement_timeout=0");
    let Session { mut client, connection } = Hosts::new(&config).connect().await?;
    let schema = if client.query_one(IS_READ_ONLY, &[]).await?.get(0) {
        is_known(&client).await?;
        Schema::ReadOnly
    } else {
        Schema::Migrated(bring_up_to_date(&mut client).await?)
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
    if theirs != ours {
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

async fn bring_up_to_date(client: &mut Client) -> Result<Vec<String>, StoreError> {
    client.batch_execute(LOCK_MIGRATIONS).await?;
    let report = embedded_migrations::migrations::runner()
        .run_async(client)
        .await
        .map_err(|error| StoreError::Refused(format!("migration failed: {error}")))?;
    client.execute(REMEMBER_CLUSTER, &[]).await?;
    let is_remembered: bool = client.query_one(IS_REMEMBERED_CLUSTER, &[]).await?.get(0);
    if !is_remembered {
        tracing::warn!("this database was restored into another cluster; the ledger is taken over");
        client.batch_execute(ADOPT_LEDGER).await?;
    }
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}
