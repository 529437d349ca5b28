//! View or checkpoint plus unseen lines is the full sum, whatever commits when.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use crate::support::Setup;

const READ: &str = include_str!("../sql/queries/totals/read_totals.sql");
const CHECKPOINT: &str = include_str!("../sql/queries/totals/write_checkpoint.sql");
const REFRESH: &str = include_str!("../sql/queries/totals/refresh_view.sql");
const FULL: &str = "select coalesce(sum(amount_minor), 0)::bigint, coalesce(sum(donations_delta), 0)::bigint,
                           coalesce(sum(donors_delta), 0)::bigint, count(*)
                      from payments.ledger_entries where campaign_id = $1";
/// Campaigns, writers, transactions of each writer, lines of one transaction at most.
const CAMPAIGNS: u32 = 3;
const WRITERS: u64 = 8;
const TRANSACTIONS: usize = 60;
const LINES: i64 = 5;
const READERS: u64 = 4;

fn campaign(number: u32) -> uuid::Uuid {
    uuid::Uuid::from_u128(1 + u128::from(number))
}

/// Lines for one campaign, of one random transaction.
async fn insert(client: &Client, random: &mut StdRng) {
    let lines = random.random_range(1..=LINES);
    let (amount, delta) = (random.random_range(1..500_i64), random.random_range(-1..=1_i32));
    let sql = "insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency,
                   donations_delta, donors_delta, version, created_at)
               select $1, gen_random_uuid(), 'CAPTURE', $2, 'EUR', $3::int::smallint, $3::int::smallint, 4, now()
                 from generate_series(1, $4)";
    let id = campaign(random.random_range(0..CAMPAIGNS));
    client.execute(sql, &[&id, &amount, &delta, &i32::try_from(lines).unwrap()]).await.unwrap();
}

/// Transactions that take their number early, write late, commit slowly, roll back or use savepoints.
async fn write(client: Client, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..TRANSACTIONS {
        client.batch_execute("begin").await.unwrap();
        if random.random_bool(0.5) {
            client.batch_execute("select pg_current_xact_id()").await.unwrap();
            pause(&client, &mut random).await;
        }
        insert(&client, &mut random).await;
        if random.random_bool(0.3) {
            client.batch_execute("savepoint here").await.unwrap();
            insert(&client, &mut random).await;
            client
                .batch_execute(if random.random_bool(0.5) { "rollback to here" } else { "release here" })
                .await
                .unwrap();
        }
        pause(&client, &mut random).await;
        client.batch_execute(if random.random_bool(0.2) { "rollback" } else { "commit" }).await.unwrap();
    }
}

/// Now and then a transaction is long: others begin and commit meanwhile.
async fn pause(client: &Client, random: &mut StdRng) {
    let seconds = if random.random_bool(0.1) { 0.2 } else { random.random_range(0.0..0.01) };
    client.execute("select pg_sleep($1)", &[&seconds]).await.unwrap();
}

/// Compares under one snapshot, until told to end; returns how many times and how often there was something unseen.
async fn compare(client: Client, seed: u64, done: &AtomicBool, sources: &[AtomicU32; 2]) -> u32 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut compared = 0;
    while !done.load(Ordering::Relaxed) {
        client.batch_execute("begin isolation level repeatable read read only").await.unwrap();
        let id = campaign(random.random_range(0..CAMPAIGNS));
        let shown = client.query_one(READ, &[&id]).await.unwrap();
        // Long after the snapshot was taken, when others have committed: the same lines are in it.
        pause(&client, &mut random).await;
        let full = client.query_one(FULL, &[&id]).await.unwrap();
        let row = |row: &tokio_postgres::Row| [0, 1, 2, 3].map(|at| row.get::<_, i64>(at));
        let source: &str = shown.get("source");
        assert_eq!(row(&shown), row(&full), "{source} of {id}");
        sources[usize::from(source == "view")].fetch_add(1, Ordering::Relaxed);
        client.batch_execute("commit").await.unwrap();
        compared += 1;
    }
    compared
}

#[tokio::test(flavor = "multi_thread")]
async fn view_or_checkpoint_and_unseen_lines_are_the_full_sum_in_every_snapshot() {
    let setup = Setup::new().await;
    let client = setup.database.connect().await;
    for number in 0..CAMPAIGNS {
        let sql = "insert into donations.campaigns (id, slug, title, currency, status, created_at, updated_at)
                   values ($1, $2, 'C', 'EUR', 'ACTIVE', now(), now())";
        client.execute(sql, &[&campaign(number), &format!("c{number}")]).await.unwrap();
    }
    let done = AtomicBool::new(false);
    let sources = [AtomicU32::new(0), AtomicU32::new(0)];
    let writers = async {
        join_all((0..WRITERS).map(async |seed| write(setup.database.connect().await, seed).await)).await;
        done.store(true, Ordering::Relaxed);
    };
    let readers = join_all(
        (0..READERS).map(async |seed| compare(setup.database.connect().await, 100 + seed, &done, &sources).await),
    );
    let refreshes = async {
        let client = setup.database.connect().await;
        let mut random = StdRng::seed_from_u64(7);
        while !done.load(Ordering::Relaxed) {
            if random.random_bool(0.3) {
                client.batch_execute(REFRESH).await.unwrap();
            }
            let now = time::OffsetDateTime::UNIX_EPOCH;
            client.execute(CHECKPOINT, &[&campaign(random.random_range(0..CAMPAIGNS)), &now]).await.unwrap();
            pause(&client, &mut random).await;
        }
    };
    let rival = async {
        let client = setup.database.connect().await;
        while !done.load(Ordering::Relaxed) {
            for number in 0..CAMPAIGNS {
                client.execute(CHECKPOINT, &[&campaign(number), &time::OffsetDateTime::UNIX_EPOCH]).await.unwrap();
            }
            client.batch_execute("select pg_sleep(0.05)").await.unwrap();
        }
    };
    let ((), compared, (), ()) = tokio::join!(writers, readers, refreshes, rival);
    assert!(compared.iter().all(|count| *count > 0), "{compared:?}");
    let [realtime, view] = sources.map(AtomicU32::into_inner);
    assert!(realtime > 0 && view > 0, "{realtime} from the ledger, {view} from the view");
    // At rest every way of counting is one.
    for number in 0..CAMPAIGNS {
        let shown = client.query_one(READ, &[&campaign(number)]).await.unwrap();
        let full = client.query_one(FULL, &[&campaign(number)]).await.unwrap();
        assert_eq!(shown.get::<_, i64>("version"), full.get::<_, i64>(3));
    }
}
