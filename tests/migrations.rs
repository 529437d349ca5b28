//! Programs of two releases on one schema, and migrations that hold nobody up.
//!
//! Deliberately absent: what each migration does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use careforall::store::migrate::migrate;
use futures::future::join_all;
use tokio_postgres::Client;

use crate::support::services::{TestDatabase, create_database, wait_until};
use crate::support::{DEADLINE, Setup};

mod embedded {
    refinery::embed_migrations!("sql/migrations");
}

/// A database as the program left it whose newest migration was number `version`.
async fn database_of_version(version: i32) -> TestDatabase {
    let database = create_database(None).await;
    let mut client = database.connect().await;
    let runner = embedded::migrations::runner().set_target(refinery::Target::Version(version));
    runner.run_async(&mut client).await.unwrap();
    database
}

fn newest() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(refinery::Migration::version).max().unwrap()
}

async fn applied(client: &Client) -> Vec<i32> {
    let rows = client.query("select version from refinery_schema_history order by version", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What a newer release does to the schema: it adds.
async fn migrate_further(client: &Client) {
    let sql = format!(
        "alter table donations.campaigns add column colour text;
         insert into refinery_schema_history (version, name, applied_on, checksum)
         values ({}, 'colours', '2030-01-01T00:00:00Z', '1')",
        newest() + 1
    );
    client.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_program_of_the_release_before_starts_on_the_schema_of_the_newer_one_and_does_its_work() {
    let setup = Setup::new().await;
    migrate_further(&setup.database.connect().await).await;
    let (code, out, err) = setup.run(&["migrate"]).await;
    assert_eq!((code, out.trim()), (0, "up to date"), "{err}");
    let app = setup.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    app.finish().await;
}

#[tokio::test]
async fn a_migration_that_is_numbered_below_an_applied_one_is_refused_and_not_passed_over() {
    let database = database_of_version(newest()).await;
    let client = database.connect().await;
    migrate_further(&client).await;
    client.execute("delete from refinery_schema_history where version = $1", &[&newest()]).await.unwrap();
    let refusal = migrate(&database.url().parse().unwrap()).await.unwrap_err().to_string();
    assert!(refusal.contains("numbered below"), "{refusal}");
}

#[tokio::test]
async fn many_processes_may_start_at_once_on_an_empty_database() {
    let database = create_database(None).await;
    let config = database.url().parse().unwrap();
    let starts = join_all((0..6).map(|_| migrate(&config))).await;
    let names: Vec<String> = starts.into_iter().flat_map(|applied| applied.unwrap()).collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (newest() as usize, newest() as usize), "{names:?}");
    assert_eq!(applied(&database.connect().await).await, (1..=newest()).collect::<Vec<_>>());
}

/// Whether a migration waits for the table of messages.
async fn waits(client: &Client) -> bool {
    let sql = "select count(*) from pg_locks where not granted and relation = 'notifications.notifications'::regclass
                  and mode = 'AccessExclusiveLock'";
    client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

#[tokio::test]
async fn a_migration_gives_way_to_those_who_use_its_table_and_goes_on_when_a_backup_is_done() {
    let database = database_of_version(2).await;
    let (backup, donor) = (database.connect().await, database.connect().await);
    // As `pg_dump` does, for as long as it reads.
    backup.batch_execute("begin; lock table notifications.notifications in access share mode").await.unwrap();
    let config = database.url().parse().unwrap();
    let migrating = tokio::spawn(async move { migrate(&config).await });
    wait_until("the migration waits", DEADLINE, async || waits(&donor).await).await;
    // A donor comes after it, with the patience that every statement of ours has.
    donor.batch_execute("set lock_timeout = '5s'; select count(*) from notifications.notifications").await.unwrap();
    backup.batch_execute("commit").await.unwrap();
    let names = migrating.await.unwrap().unwrap();
    assert_eq!(names.len(), newest() as usize - 2, "{names:?}");
    assert_eq!(applied(&donor).await, (1..=newest()).collect::<Vec<_>>());
}
