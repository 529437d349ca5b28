//! The command line: one file for each subcommand.
//!
//! Exit codes: 0 done, 1 failed, 64 bad configuration or usage (sysexits' EX_USAGE).

mod api_keys;
mod dead_letters;
mod doctor;
mod explain;
mod migrate;
mod progress;
mod reconcile;
mod serve;
mod verify;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::app::database;
use crate::config::{Config, SETTINGS};
use crate::store::embedded::{Embedded, EmbeddedSettings};
use crate::store::migrate::{migrate, prepare};
use crate::store::{Store, StoreError};

/// Bad configuration or usage.
const EX_USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "careforall", version, about = "The payment heart of a fundraising platform, as one process.", after_long_help = settings_help())]
struct Cli {
    /// A TOML file with settings; the environment wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default).
    #[command(after_long_help = settings_help())]
    Serve {
        /// Make a campaign to try things out with, unless there is one, and show the first steps.
        #[arg(long)]
        seed: bool,
    },
    /// Bring the database's schema up to date, and end.
    Migrate,
    /// Check every dependency, the clock, and the shape of secrets and keys: OK or the fix.
    Doctor,
    /// Tell why a payment stands where it stands: every event and order, the verdict and the rule.
    Explain(explain::Subject),
    /// Replay all histories through the rule and compare states, ledger and totals; changes nothing.
    Verify(verify::Scope),
    /// Compare payments with Stripe and find events that never arrived; with --apply, mend what differs.
    Reconcile(reconcile::Orders),
    /// Count, list, replay and discard what lies dead: messages, facts of the outbox, the broker's dead letters.
    DeadLetters {
        #[command(subcommand)]
        action: Option<dead_letters::Action>,
    },
    /// Make, list and revoke operators' API keys.
    ApiKeys {
        #[command(subcommand)]
        action: api_keys::Action,
    },
}

fn settings_help() -> String {
    let mut help = "Settings (environment, or --config FILE in lower case without CAREFORALL_):\n".to_owned();
    for setting in SETTINGS {
        help.push_str(&format!("  {:<34} {} [default: {}]\n", setting.name, setting.help, setting.default));
    }
    help
}

/// Parses the command, runs it, and says how it ended.
#[allow(clippy::print_stderr, reason = "what is wrong must be seen even where logging is not set up")]
pub fn run() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EX_USAGE } else { 0 };
        }
    };
    actix_web::rt::System::new().block_on(async {
        let config = match Config::load(cli.config.as_deref()) {
            Ok(config) => config,
            Err(problems) => {
                for problem in problems {
                    eprintln!("{problem}");
                }
                return EX_USAGE;
            }
        };
        crate::telemetry::start(config.log_json);
        match run_command(cli.command.unwrap_or(Command::Serve { seed: false }), config).await {
            Ok(()) => 0,
            Err(problem) => {
                eprintln!("{problem}");
                1
            }
        }
    })
}

async fn run_command(command: Command, config: Config) -> Result<(), String> {
    match command {
        Command::Serve { seed } => serve::run(config, seed).await,
        Command::Migrate => migrate::run(config).await,
        Command::Doctor => doctor::run(config).await,
        Command::Explain(subject) => explain::run(config, subject).await,
        Command::Verify(scope) => verify::run(config, scope).await,
        Command::Reconcile(orders) => reconcile::run(config, orders).await,
        Command::DeadLetters { action } => dead_letters::run(config, action).await,
        Command::ApiKeys { action } => api_keys::run(config, action).await,
    }
}

/// The database of a command that may run beside the server.
async fn beside_the_server(config: &Config) -> Result<(tokio_postgres::Config, Option<Embedded>), String> {
    if config.database.is_some() {
        return database(config).await.map_err(|error| error.to_string());
    }
    let embedded = Embedded::join(&config.data_dir, EmbeddedSettings::default()).await;
    let embedded = embedded.map_err(|error| error.to_string())?;
    Ok((embedded.config(), Some(embedded)))
}

/// Runs `work` on the database, and leaves it as it was found: running or stopped.
async fn with_store(config: &Config, work: impl AsyncFnOnce(Store) -> Result<(), String>) -> Result<(), String> {
    on_database(config, async |database| migrate(database).await.map(drop), work).await
}

/// The same for work that only reads: a standby will do.
async fn with_store_to_read(
    config: &Config,
    work: impl AsyncFnOnce(Store) -> Result<(), String>,
) -> Result<(), String> {
    on_database(config, async |database| prepare(database).await.map(drop), work).await
}

async fn on_database(
    config: &Config,
    prepare: impl AsyncFnOnce(&tokio_postgres::Config) -> Result<(), StoreError>,
    work: impl AsyncFnOnce(Store) -> Result<(), String>,
) -> Result<(), String> {
    let (database, embedded) = beside_the_server(config).await?;
    prepare(&database).await.map_err(|error| error.to_string())?;
    let store = Store::new(database).map_err(|error| error.to_string())?;
    let done = work(store.clone()).await;
    store.pools.close();
    if let Some(embedded) = embedded {
        embedded.stop().await.map_err(|error| error.to_string())?;
    }
    done
}

/// Writes a result to standard output. Whoever reads it may stop reading, as `head` does: that is no failure.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// `1 payment`, `2 payments`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
