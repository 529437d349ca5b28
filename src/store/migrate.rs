//! Migrations, under a lock, so that any number of processes may start at once.

use tokio_postgres::{Config, NoTls};

use super::StoreError;

mod embedded_migrations {
    #![allow(missing_docs, reason = "generated")]
    refinery::embed_migrations!("sql/migrations");
}

/// A number of ours in the one space of advisory locks: "CFA" and the lock's own number.
const LOCK_MIGRATIONS: &str = "select pg_advisory_lock(1128678255, 2000)";

/// Ledger lines remember the transaction that wrote them. In a cluster that was restored from a dump those numbers
/// belong to another cluster's past: lines "from the future" would count twice, so they are made lines of long ago.
const ADOPT_RESTORED_LINES: &str = "update payments.ledger_entries set xact_id = '3'::xid8 \
    where xact_id >= pg_snapshot_xmax(pg_current_snapshot())";

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
    client.batch_execute(ADOPT_RESTORED_LINES).await?;
    drop(client); // ends the session, and with it the lock
    let _ = connection.await;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}
