//! `careforall serve`: starts, shows where to look, waits for a signal, ends in order.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::app::App;
use crate::app::ending::Watchdog;
use crate::config::Config;
use crate::domain::campaign::{Campaign, CampaignStatus};
use crate::domain::ids::CampaignId;
use crate::domain::money::Currency;
use crate::trace;

/// The seeded campaign.
const SEED_SLUG: &str = "clean-water";

pub async fn run(config: Config, seed: bool) -> Result<(), String> {
    let (data_dir, wait, watchdog) = (config.data_dir.clone(), config.drain_wait, Watchdog::default());
    if let Some(traces) = &config.traces {
        trace::start(traces).map_err(|error| error.to_string())?;
    }
    // Before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut starting = std::pin::pin!(App::start(config));
    let mut app = tokio::select! {
        started = &mut starting => started.map_err(|error| error.to_string())?,
        // What is half started cannot be stopped in order: the start is finished first.
        _ = signalled(&mut terminate, &mut interrupt) => {
            watchdog.start();
            watchdog.enter("the start");
            if let Ok(app) = starting.await {
                app.stop(&watchdog).await;
            }
            return Ok(());
        }
    };
    if seed {
        plant(&app).await?;
    }
    show(&app, seed, &data_dir);
    let (broken, wait) = tokio::select! {
        told = signalled(&mut terminate, &mut interrupt) => match told {
            Told::Terminate => (None, wait),
            Told::Interrupt => (None, Duration::ZERO),
        },
        reason = app.broken() => (Some(reason), Duration::ZERO),
    };
    watchdog.start();
    app.announce_end();
    // Whoever is impatient says it again.
    let _ = timeout(wait, signalled(&mut terminate, &mut interrupt)).await;
    app.stop(&watchdog).await;
    watchdog.enter("the last spans");
    let _ = tokio::task::spawn_blocking(trace::stop).await;
    broken.map_or(Ok(()), Err)
}

/// How the process is told to end.
enum Told {
    /// By an orchestrator, behind whose gateway others stand ready.
    Terminate,
    /// By a person at the terminal, who does not want to wait.
    Interrupt,
}

async fn signalled(terminate: &mut Signal, interrupt: &mut Signal) -> Told {
    tokio::select! {
        _ = terminate.recv() => Told::Terminate,
        _ = interrupt.recv() => Told::Interrupt,
    }
}

async fn plant(app: &App) -> Result<(), String> {
    let now = app.clock.now();
    let currency = Currency::parse("EUR").ok_or("the currency table has no EUR")?;
    let campaign = Campaign {
        id: CampaignId::at(now),
        slug: SEED_SLUG.to_owned(),
        title: "Clean water for Turkana".to_owned(),
        description: Some("Wells and pumps for eleven villages.".to_owned()),
        goal_minor: Some(2_500_000),
        currency,
        manual_capture: false,
        status: CampaignStatus::Active,
        starts_at: None,
        ends_at: None,
        created_at: now,
        updated_at: now,
    };
    app.store.create_campaign(&campaign).await.map(drop).map_err(|error| error.to_string())
}

#[allow(clippy::print_stdout, reason = "what a person at the terminal looks for")]
fn show(app: &App, seeded: bool, data_dir: &Path) {
    let url = &app.url;
    println!("CareForAll is ready at {url} (listening on {})", app.address);
    println!("  health   {url}/health/ready");
    println!("  metrics  {url}/metrics");
    println!("  data     {}", data_dir.display());
    if let Some(made) = &app.made_admin_key {
        println!("  operator key, shown this once: {}", made.key);
        println!("  and kept in {}, which only you can read", made.file.display());
    }
    if seeded {
        println!("First look:\n  curl {url}/api/v1/campaigns/{SEED_SLUG}/totals");
    }
}
