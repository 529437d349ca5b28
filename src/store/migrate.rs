//! Migrations, under a lock, so that any number of processes may start at once.

use tokio_postgres::{Config, NoTls};

use super::StoreError;

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

/// Brings the schema up to date; returns the names of what was applied.
pub async fn migrate(config: &Config) -> Result<Vec<String>, StoreError> {
    let mut config = config.clone();
    config.options("-c lock_timeout=0 -c statement_timeout=0");
    let (mut client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(LOCK_MIGRATIONS).await?;
    let report = embedded_migrations::migrations::runner()
        .run_async(&mut client)
        .await
        .map_err(|error| StoreError::Refused(format!("migration failed: {error}")))?;
    client.execute(REMEMBER_CLUSTER, &[]).await?;
    let is_remembered: bool = client.query_one(IS_REMEMBERED_CLUSTER, &[]).await?.get(0);
    if !is_remembered {
        tracing::warn!("this database was restored into another cluster; the ledger is taken over");
        client.batch_execute(ADOPT_LEDGER).await?;
    }
    drop(client); // ends the session, and with it the lock
    let _ = connection.await;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}
