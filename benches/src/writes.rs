//! The write road alone: how many donations a second the committer records for so many callers, without HTTP.
//!
//! What the load test's `bench` sets beside the usual way without HTTP: the whole record (donation, payment, first history row,
//! event), and the caller goes on when it is durable. Deliberately absent: what follows a donation (openings, facts, messages).

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter};
use careforall::actors::committer::{CommitCreation, Committer};
use careforall::clock::Clock;
use careforall::domain::campaign::Campaign;
use careforall::store::migrate::migrate;
use careforall::store::{CreationOutcome, Store};
use futures::future::try_join_all;
use tokio_postgres::NoTls;

use crate::gifts::{campaign, creation};
use crate::postgres::on_own_postgres;
use crate::say;

/// As many as the load test gives to.
const CAMPAIGNS: usize = 20;
/// Connections are opened and statements prepared by then.
const WARM_UP: Duration = Duration::from_millis(500);
/// Nobody's books are written into.
const HAS_BOOKS: &str =
    "select exists (select from pg_namespace where nspname in ('donations', 'payments', 'notifications'))";

/// So many callers for so long, in the database of `url` (refused where there are tables of ours), or on a Postgres of its own; says
/// the figures as one line of JSON.
pub fn run(callers: usize, part: Duration, url: Option<&str>) -> Result<(), String> {
    match url {
        None => on_own_postgres(async |config| measure(config, callers, part).await),
        Some(url) => {
            let config = url.parse().map_err(|error: tokio_postgres::Error| error.to_string())?;
            actix_rt::System::new().block_on(async {
                refuse_books(&config).await?;
                measure(config, callers, part).await
            })
        }
    }
}

async fn refuse_books(config: &tokio_postgres::Config) -> Result<(), String> {
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    let connection = actix_rt::spawn(connection);
    let row = client.query_one(HAS_BOOKS, &[]).await.map_err(|error| error.to_string())?;
    drop(client);
    let _ = connection.await; // the question was answered
    if row.get(0) { Err("that database has books in it: name an empty one".to_owned()) } else { Ok(()) }
}

async fn measure(config: tokio_postgres::Config, callers: usize, part: Duration) -> Result<(), String> {
    migrate(&config).await.map_err(|error| error.to_string())?;
    let store = Store::new(config).map_err(|error| error.to_string())?;
    let mut campaigns = Vec::new();
    for number in 0..CAMPAIGNS {
        let campaign = campaign(&Clock::System, &format!("writes-{number}"))?;
        store.create_campaign(&campaign).await.map_err(|error| error.to_string())?;
        campaigns.push(campaign);
    }
    let (moved, _) = tokio::sync::broadcast::channel(16);
    let arbiter = Arbiter::new();
    let made = Committer::new(store.clone(), Clock::System, moved);
    // A thread of its own, as in the server.
    let committer = Committer::start_in_arbiter(&arbiter.handle(), |_| made);
    let measured = Instant::now() + WARM_UP;
    let next = Rc::new(Cell::new(0));
    let each = (0..callers).map(|_| call(&committer, &campaigns, Rc::clone(&next), measured, measured + part));
    let mut latencies: Vec<u128> = try_join_all(each).await?.concat();
    arbiter.stop();
    store.pools.close();
    latencies.sort_unstable();
    let p95 = latencies.get(latencies.len() * 95 / 100).ok_or("nothing was recorded")?;
    say(&format!("{{\"recorded\":{},\"seconds\":{},\"p95_us\":{p95}}}", latencies.len(), part.as_secs()));
    Ok(())
}

/// One caller: gives, waits until it is committed, gives again. What each took, in microseconds.
async fn call(
    committer: &Addr<Committer>,
    campaigns: &[Campaign],
    next: Rc<Cell<usize>>,
    measured: Instant,
    end: Instant,
) -> Result<Vec<u128>, String> {
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let number = next.replace(next.get() + 1);
        let gift = creation(&campaigns[number % CAMPAIGNS], &Clock::System, format!("donor-{number}@load.invalid"));
        match committer.send(CommitCreation(gift)).await {
            Ok(Ok(CreationOutcome::Recorded { .. })) => {}
            other => return Err(format!("a donation was not recorded: {other:?}")),
        }
        if began >= measured {
            latencies.push(began.elapsed().as_micros());
        }
    }
    Ok(latencies)
}
