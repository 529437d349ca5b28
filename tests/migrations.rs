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

/// The first migration that meets replicas of the release before it.
const FIRST_UNDER_RULE: i32 = 5;
/// Tables that stay small: locking one while an index is made, or a column checked, takes no time.
const SMALL: [&str; 5] = [
    "donations.campaigns",
    "donations.api_keys",
    "donations.secrets",
    "notifications.webhook_endpoints",
    "notifications.suppressions",
];

/// The statements of a migration in lower case, without comments, with single spaces.
fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> = sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let words = code.join(" ").to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    words.split(';').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
}

/// The word after `before` in a statement.
fn word_after<'a>(statement: &'a str, before: &str) -> Option<&'a str> {
    let rest = &statement[statement.find(before)? + before.len()..];
    rest.split([' ', '(']).find(|word| !word.is_empty() && !["if", "not", "exists", "only"].contains(word))
}

/// What of a migration could not run beside the release before it, or would hold donors up, and how it is done instead.
/// A file named `…contract_…` may take away what the release before uses no more.
fn faults(file: &str, sql: &str) -> Vec<String> {
    let all = statements(sql);
    let made: Vec<&str> = all.iter().filter_map(|it| word_after(it, "create table ")).collect();
    let is_big = |table: &str| !SMALL.contains(&table) && !made.contains(&table);
    let mut faults = Vec::new();
    for it in &all {
        let mut fault = |instead: &str| faults.push(format!("{file}: {it}\n    {instead}"));
        let dropping = it.replace(" drop not null", "");
        if (dropping.starts_with("drop ") || dropping.contains(" drop ")) && !file.contains("contract_") {
            fault("drop it a release later, in a file named V<n>__contract_<what>.sql");
        }
        if it.contains(" rename ") {
            fault("add the new name, write both, and drop the old one a release later");
        }
        if it.contains("alter column") && it.contains(" type ") {
            fault("add a column of the new type, write both, and drop the old one a release later");
        }
        let table = word_after(it, "alter table ");
        if it.contains("set not null") {
            fault("add `check (it is not null) not valid`; a release later `validate constraint` it");
        }
        if it.contains("add column") && it.contains(" not null") && !it.contains(" default ") {
            fault("the release before does not write it: give it a default, or let it be null");
        }
        if table.is_some_and(is_big) && it.contains("add constraint") && !it.contains("not valid") {
            fault("add it `not valid`; a release later `validate constraint` it");
        }
        let index = it.starts_with("create index") || it.starts_with("create unique index");
        if index && word_after(it, " on ").is_some_and(is_big) && !is_made_by_hand_before(it, sql) {
            fault(
                "say `create index if not exists`, and above it, in a comment, the same `create index concurrently \
                   if not exists` that the operator runs before the upgrade",
            );
        }
    }
    faults
}

/// Whether the comments of the migration say the same statement as one that locks nobody out.
fn is_made_by_hand_before(statement: &str, sql: &str) -> bool {
    let comments: Vec<&str> = sql.lines().filter_map(|line| line.trim().strip_prefix("--")).collect();
    let said = comments.join(" ").to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    statement.contains("index if not exists") && said.contains(&statement.replacen("index", "index concurrently", 1))
}

#[test]
fn migrations_only_add_and_hold_nobody_up() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations"));
    for it in embedded::migrations::runner().get_migrations().iter().filter(|it| it.version() >= FIRST_UNDER_RULE) {
        let file = format!("{it}.sql");
        let faults = faults(&file, &std::fs::read_to_string(directory.join(&file)).unwrap());
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

#[test]
fn the_rule_for_migrations_knows_what_it_refuses() {
    for bad in [
        "alter table donations.donations drop column message;",
        "drop index donations.donations_wall;",
        "ALTER TABLE donations.donations\n    RENAME COLUMN message TO words;",
        "alter table donations.campaigns alter column goal_minor type numeric;",
        "alter table donations.campaigns alter column goal_minor set not null;",
        "alter table donations.donations add column colour text not null;",
        "alter table donations.donations add constraint colourful check (amount_minor > 1);",
        "create index donations_email on donations.donations (donor_email); -- for a look",
        "create index if not exists donations_email on donations.donations (donor_email);",
    ] {
        assert_eq!(faults("V5__bad.sql", bad).len(), 1, "{bad}: {:?}", faults("V5__bad.sql", bad));
    }
    for good in [
        "-- drop table donations.donations is what we do not do\nalter table donations.donations add column colour text;",
        "alter table donations.donations add column colour text not null default 'none';",
        "alter table donations.donations alter column donor_name drop not null;",
        "alter table donations.donations add constraint colourful check (amount_minor > 1) not valid;",
        "create table donations.colours (name text not null); create index colours_name on donations.colours (name);",
        "create index campaigns_status on donations.campaigns (status);",
        "-- Before the upgrade: create index concurrently if not exists donations_email on donations.donations\n\
         -- (donor_email)\n\
         create index if not exists donations_email on donations.donations (donor_email);",
    ] {
        assert_eq!(faults("V5__good.sql", good), Vec::<String>::new());
    }
    assert_eq!(faults("V6__contract_colours.sql", "drop table donations.colours;"), Vec::<String>::new());
}
