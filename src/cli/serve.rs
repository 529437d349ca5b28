//! `careforall serve`: starts, shows where to look, waits for a signal, ends in order.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::Config;
use crate::domain::campaign::{Campaign, CampaignStatus};
use crate::domain::ids::CampaignId;
use crate::domain::money::Currency;

/// The seeded campaign.
const SEED_SLUG: &str = "clean-water";
/// The operator key that the first start made, readable by us alone.
const KEY_FILE: &str = "admin-key";

pub async fn run(config: Config, seed: bool) -> Result<(), String> {
    let data_dir = config.data_dir.clone();
    // Before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut app = tokio::select! {
        started = App::start(config) => started.map_err(|error| error.to_string())?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let key_file = app.made_admin_key.as_deref().map(|key| keep_key(&data_dir, key)).transpose()?;
    if seed {
        plant(&app).await?;
    }
    show(&app, seed, key_file.as_deref(), &data_dir);
    let broken = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        reason = app.broken() => Some(reason),
    };
    app.stop().await;
    broken.map_or(Ok(()), Err)
}

fn keep_key(data_dir: &Path, key: &str) -> Result<PathBuf, String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = data_dir.join(KEY_FILE);
    let write = || {
        std::fs::create_dir_all(data_dir)?;
        let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        file.write_all(key.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
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
fn show(app: &App, seeded: bool, key_file: Option<&Path>, data_dir: &Path) {
    let url = &app.url;
    println!("CareForAll is ready at {url} (listening on {})", app.address);
    println!("  health   {url}/health/ready");
    println!("  metrics  {url}/metrics");
    println!("  data     {}", data_dir.display());
    if let Some(key) = &app.made_admin_key {
        println!("  operator key, shown this once: {key}");
    }
    if let Some(path) = key_file {
        println!("  and kept in {}, which only you can read", path.display());
    }
    if seeded {
        println!("First look:\n  curl {url}/api/v1/campaigns/{SEED_SLUG}/totals");
    }
}
