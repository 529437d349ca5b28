//! The usual way: each donation is a transaction of its own, BEGIN, two inserts, COMMIT, over a pool of 20 connections.
//!
//! Into tables of the same shape as ours, without history, outbox and provider. By itself it has no HTTP and no JSON either: all
//! that is in its favour. Behind HTTP ([`super::bare`]) it is what a donor's request would meet.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

use super::{Figure, WARM_UP};
use crate::database::{connect, told};

const MAKE_TABLES: &str = include_str!("../../sql/bench/make_tables.sql");
const INSERT_DONATION: &str = include_str!("../../sql/bench/insert_donation.sql");
const INSERT_PAYMENT: &str = include_str!("../../sql/bench/insert_payment.sql");
const POOL: usize = 20;

/// Makes the tables anew.
pub async fn make_tables(config: &Config) -> Result<(), String> {
    connect(config).await?.batch_execute(MAKE_TABLES).await.map_err(|error| told(&error))
}

/// So many callers for so long.
pub async fn run(config: &Config, callers: usize, part: Duration) -> Result<Figure, String> {
    make_tables(config).await?;
    let pool = pool(config)?;
    let measured = Instant::now() + WARM_UP;
    let end = measured + part;
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let pool = pool.clone();
        running.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                let donor = format!("donor-{}@load.invalid", rand::random::<u32>());
                give(&pool, Uuid::nil(), rand::random_range(500..10_000), &donor).await?;
                if began >= measured {
                    latencies.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
            }
            Ok::<_, String>(latencies)
        });
    }
    let mut histogram = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
    while let Some(joined) = running.join_next().await {
        for latency in joined.map_err(|error| error.to_string())?? {
            histogram.record(latency).map_err(|error| error.to_string())?;
        }
    }
    pool.close();
    Ok(Figure {
        per_second: histogram.len() as f64 / part.as_secs_f64(),
        p95_us: Some(histogram.value_at_quantile(0.95)),
    })
}

/// The usual pool.
pub fn pool(config: &Config) -> Result<Pool, String> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let pool = Pool::builder(Manager::from_config(config.clone(), NoTls, recycling)).max_size(POOL).build();
    pool.map_err(|error| error.to_string())
}

/// Records one donation with its payment; their identifiers.
pub async fn give(pool: &Pool, campaign: Uuid, amount_minor: i64, donor: &str) -> Result<(Uuid, Uuid), String> {
    let mut client = pool.get().await.map_err(|error| error.to_string())?;
    let (donation, payment) = (Uuid::from_u128(rand::random()), Uuid::from_u128(rand::random()));
    let work = async {
        let transaction = client.transaction().await?;
        let insert = transaction.prepare_cached(INSERT_DONATION).await?;
        transaction.execute(&insert, &[&donation, &payment, &campaign, &amount_minor, &donor]).await?;
        let insert = transaction.prepare_cached(INSERT_PAYMENT).await?;
        transaction.execute(&insert, &[&payment, &donation, &campaign, &donor, &amount_minor]).await?;
        transaction.commit().await
    };
    work.await.map_err(|error: tokio_postgres::Error| told(&error))?;
    Ok((donation, payment))
}
