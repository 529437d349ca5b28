//! Migrations, under a lock, so that any number of processes may start at once.
//!
//! A schema that is newer than this program is left as it is: migrations only add (`docs/operating.md`, "Upgrade"), so a
//! replica of the release before may start beside the new ones, and a release may be taken back.

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
    let runner = embedded_migrations::migrations::runner().set_abort_missing(false);
    let report = runner.run_async(&mut client).await.map_err(failed)?;
    nothing_was_passed_over(&runner, &mut client).await?;
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
    StoreError::Refused(format!("migration failed: {error}"))
}
