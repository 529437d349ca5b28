//! A hundred thousand payment actors: what one weighs while it idles, and that memory comes back into use once they retired.
//!
//! Through the registry, on a real Postgres with real payments: an actor that has not loaded its payment weighs nothing.
//! Deliberately absent: a provider; nobody is opened here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Arbiter};
use careforall::actors::committer::{CommitCreation, Committer};
use careforall::actors::payment::{Command, Tools};
use careforall::actors::pressure::Pressure;
use careforall::actors::registry::Payments;
use careforall::clock::Clock;
use careforall::domain::ids::PaymentId;
use careforall::gateways::stripe::{Stripe, StripeSettings};
use careforall::metrics::METRICS;
use careforall::store::migrate::migrate;
use careforall::store::{CreationOutcome, Store};
use futures::{StreamExt, TryStreamExt};
use tokio_postgres::NoTls;

use crate::budget::Budget;
use crate::gifts::{campaign, creation};
use crate::postgres::on_own_postgres;
use crate::say;

/// Donations that are recorded, and commands that are sent, at the same time.
const AT_ONCE: usize = 256;
/// Actors that live before the first look at the memory: pools, buffers and thread-locals are there by then.
const WARM: usize = 2000;
/// The second crowd may need this much more than the first, in percent.
const GROWTH_MAX: u64 = 15;
/// In a smaller crowd what all share, buffers and pools, weighs as much as the actors: it is not held against the budget.
const CROWD_MIN: usize = 50_000;
/// Retiring is looked for every few seconds.
const RETIRE_SLACK: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// As they are once the provider opened them, and without due checks: those would wake actors that are to idle.
const OPENED: &str = "update payments.payment_transactions
       set check_at = null, version = 2, intent_id = 'pi_' || right(replace(id::text, '-', ''), 24),
           client_secret = 'pi_' || right(replace(id::text, '-', ''), 24) || '_secret_' || left(md5(id::text), 25)";

/// Runs it on a Postgres of its own.
pub fn run(count: u32, idle: Duration) -> Result<(), String> {
    let budget = Budget::committed()?.actor.bytes;
    on_own_postgres(async |config| weigh(config, count as usize, idle, budget).await)
}

async fn weigh(config: tokio_postgres::Config, count: usize, idle: Duration, budget: u64) -> Result<(), String> {
    migrate(&config).await.map_err(|error| error.to_string())?;
    let tools = tools(&config)?;
    let began = Instant::now();
    let ids = record(&tools, count + WARM).await?;
    say(&format!("{} payments were recorded in {:.1} s", ids.len(), began.elapsed().as_secs_f64()));
    pretend_opened(&config).await?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let arbiters: Vec<Arbiter> = (0..cores).map(|_| Arbiter::new()).collect();
    let payments = Payments::start(&arbiters, Arc::clone(&tools), Some(idle));
    let (warm, crowd) = ids.split_at(WARM);
    bring_to_life(&payments, warm).await?;
    retired(idle).await?;
    let before = resident_kib()?;
    let first = wave(&payments, crowd, idle, before, "first").await?;
    let second = wave(&payments, crowd, idle, before, "second").await?;
    let mut problems = Vec::new();
    if crowd.len() >= CROWD_MIN && first.bytes_each > budget {
        problems.push(format!("an idle actor weighs {} bytes, the budget is {budget}", first.bytes_each));
    }
    if second.peak_kib * 100 > first.peak_kib * (100 + GROWTH_MAX) {
        problems.push(format!(
            "memory grows: {} KiB with the first crowd, {} KiB with the second",
            first.peak_kib, second.peak_kib
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// What a crowd of actors came to.
struct Wave {
    peak_kib: u64,
    bytes_each: u64,
}

/// Brings all of them to life, weighs them, and waits until they retired.
async fn wave(payments: &Payments, ids: &[PaymentId], idle: Duration, before: u64, name: &str) -> Result<Wave, String> {
    let began = Instant::now();
    bring_to_life(payments, ids).await?;
    let took = began.elapsed();
    let (alive, peak_kib) = (METRICS.payment_actors.get(), resident_kib()?);
    if usize::try_from(alive) != Ok(ids.len()) {
        return Err(format!(
            "{alive} of {} actors live after {:.1} s: give them a longer --idle",
            ids.len(),
            took.as_secs_f64()
        ));
    }
    let bytes_each = peak_kib.saturating_sub(before) * 1024 / ids.len().max(1) as u64;
    say(&format!(
        "{name} crowd: {alive} actors live after {:.1} s ({} µs each, loaded from Postgres), {} MiB before, {} MiB now: {bytes_each} bytes each",
        took.as_secs_f64(),
        took.as_micros() / ids.len().max(1) as u128,
        before / 1024,
        peak_kib / 1024
    ));
    let retired_in = retired(idle).await?;
    say(&format!("{name} crowd: all retired within {:.1} s, {} MiB", retired_in.as_secs_f64(), resident_kib()? / 1024));
    Ok(Wave { peak_kib, bytes_each })
}

async fn bring_to_life(payments: &Payments, ids: &[PaymentId]) -> Result<(), String> {
    let lives = futures::stream::iter(ids).map(|id| payments.send(*id, Command::Get));
    lives.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await.map_err(|error| error.to_string())
}

/// Waits until no actor lives.
async fn retired(idle: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    while METRICS.payment_actors.get() > 0 {
        if began.elapsed() > idle + RETIRE_SLACK {
            return Err(format!("{} actors never retired", METRICS.payment_actors.get()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(began.elapsed())
}

fn tools(config: &tokio_postgres::Config) -> Result<Arc<Tools>, String> {
    let clock = Clock::System;
    let store = Store::new(config.clone()).map_err(|error| error.to_string())?;
    let (moved, _) = tokio::sync::broadcast::channel(16);
    let committer = Committer::new(store.clone(), clock.clone(), moved).start();
    // It is asked nothing; another provider of cryptography may have been installed, and is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stripe = Stripe::new(StripeSettings::new("sk_test_nobody", "http://127.0.0.1:9".to_owned()));
    let stripe = stripe.map_err(|error| error.to_string())?;
    Ok(Arc::new(Tools { store, committer, stripe, clock, pressure: Pressure::default() }))
}

async fn record(tools: &Tools, count: usize) -> Result<Vec<PaymentId>, String> {
    let campaign = campaign(&tools.clock, "actors")?;
    tools.store.create_campaign(&campaign).await.map_err(|error| error.to_string())?;
    let one = |_| async {
        let creation = creation(&campaign, &tools.clock, "jo@load.invalid".to_owned());
        let id = creation.donation.payment_id;
        match tools.committer.send(CommitCreation(creation)).await {
            Ok(Ok(CreationOutcome::Recorded { .. })) => Ok(id),
            other => Err(format!("a donation was not recorded: {other:?}")),
        }
    };
    futures::stream::iter(0..count).map(one).buffer_unordered(AT_ONCE).try_collect().await
}

async fn pretend_opened(config: &tokio_postgres::Config) -> Result<(), String> {
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    let connection = actix_rt::spawn(connection);
    let done = client.batch_execute(OPENED).await.map_err(|error| error.to_string());
    drop(client);
    let _ = connection.await; // the update was answered
    done
}

fn resident_kib() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).ok_or_else(|| "no VmRSS".to_owned())
}
