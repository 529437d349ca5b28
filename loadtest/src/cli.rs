//! The command line.
//!
//! Exit codes: 0 done and nothing wrong, 1 something failed or was lost, 64 bad usage (sysexits' EX_USAGE).

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bench;
use crate::clock::unix_millis;
use crate::database::connect;
use crate::machine::{Machine, raise_open_files};
use crate::plan::DURATION_MAX;
use crate::progress::say;
use crate::report::{Report, html, json, table};
use crate::scenarios::{self, Bounds, Kind, Session};
use crate::stop::Stop;
use crate::target::{Orders, Target, end_all_now};
use crate::{audit, measure};

/// Bad usage.
const EX_USAGE: u8 = 64;

#[derive(Parser)]
#[command(
    name = "careforall-loadtest",
    version,
    about = "Loads CareForAll, measures it, and audits that nothing was lost."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one scenario.
    Run {
        /// Which.
        scenario: Kind,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        output: Output,
    },
    /// Run every scenario shortly: one process for most, then two for the totals.
    All {
        #[command(flatten)]
        place: Place,
        /// Seconds for each scenario.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Ledger lines of totals-live.
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
        lines: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Compare our durable create, the usual way, pgbench and a bare handler, in one run.
    Bench {
        #[command(flatten)]
        place: Place,
        /// Seconds for each part of each round.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Rounds, interleaved; the median counts.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
        rounds: u64,
        /// Write the figures here, as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Serve one JSON answer with actix-web and nothing else: what `bench` compares with.
    #[command(hide = true)]
    Bare,
}

/// Where the server is.
#[derive(Args)]
struct Place {
    /// Load this server; without it one is started for the run, with rate limits off.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// The target is on another machine, and it is mine.
    #[arg(long)]
    i_own_this_target: bool,
    /// The server's program [default: beside this one, or target/release/careforall].
    #[arg(long, value_name = "PATH", conflicts_with = "target")]
    server: Option<PathBuf>,
    /// Processes to start [default: 1; totals-watch: 2].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), conflicts_with = "target")]
    replicas: Option<u8>,
    /// With --target its database, to audit; otherwise a cluster in which a database is made and dropped [default: embedded].
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Redis of the servers that are started [default: none; the local one for two processes].
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,
    /// RabbitMQ of the servers that are started [default: none; the local one for two processes].
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL")]
    amqp_url: Option<String>,
    /// An operator's key of the target.
    #[arg(long, env = "CAREFORALL_ADMIN_KEY", hide_env_values = true, value_name = "KEY")]
    admin_key: Option<String>,
    /// The webhook secret of the target [default: the sandbox's].
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET")]
    webhook_secret: Option<String>,
    /// No line a second.
    #[arg(long)]
    quiet: bool,
}

/// How much, and for how long.
#[derive(Args)]
struct Load {
    /// Requests a second that are due, whatever becomes of those before [default: the rate of the scenario's target].
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// So many connections that ask without pause, instead of a rate: finds capacity.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "rate")]
    closed: Option<u16>,
    /// Connections, which bound what is in flight at a rate.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Threads that send [default: half the cores].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    threads: Option<u8>,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=DURATION_MAX.as_secs()))]
    duration: u64,
    /// Seconds at full rate before that.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=DURATION_MAX.as_secs()))]
    warm_up: u64,
    /// Seconds before those in which the rate rises.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=DURATION_MAX.as_secs()))]
    ramp: u64,
    /// Seconds after which a request is given up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
    /// Campaigns that the load is spread over.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    campaigns: u16,
    /// Ledger lines of totals-live, donations of scale.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    lines: u64,
    /// History rows of each donation of scale.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..=100))]
    history: u64,
    /// Captures a second of totals-watch.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    captures: f64,
    /// Open streams of streams.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    streams: u64,
    /// Send donations under an Idempotency-Key.
    #[arg(long)]
    keys: bool,
    /// create: take the answer right after the commit (Prefer: respond-async), not when the provider has opened the payment.
    #[arg(long)]
    no_wait: bool,
}

/// Where the report goes.
#[derive(Args)]
struct Output {
    /// Write the report here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report here, as one page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Deletes one acknowledged donation before the audit, which must find it: proves that it would.
    #[arg(long, hide = true)]
    lose_one: bool,
}

/// A rate that a machine could know.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.1..=1_000_000.0).contains(rate));
    rate.ok_or_else(|| "must be between 0.1 and 1,000,000 a second".to_owned())
}

fn half_the_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

impl Place {
    fn orders(&self, replicas: usize) -> Orders {
        Orders {
            url: self.target.clone(),
            is_mine: self.i_own_this_target,
            server: self.server.clone(),
            replicas,
            database_url: self.database_url.clone(),
            redis_url: self.redis_url.clone(),
            amqp_url: self.amqp_url.clone(),
            admin_key: self.admin_key.clone(),
            webhook_secret: self.webhook_secret.clone(),
        }
    }

    fn replicas(&self, usual: usize) -> usize {
        self.replicas.map_or(usual, usize::from)
    }
}

impl Load {
    fn bounds(&self) -> Bounds {
        Bounds {
            rate: self.rate,
            closed: self.closed.map(usize::from),
            connections: usize::from(self.connections),
            threads: self.threads.map_or_else(half_the_cores, usize::from),
            duration: Duration::from_secs(self.duration),
            warm_up: Duration::from_secs(self.warm_up),
            ramp: Duration::from_secs(self.ramp),
            patience: Duration::from_secs(self.patience),
            lines: self.lines,
            history: self.history,
            captures: self.captures,
            streams: self.streams,
            campaigns: usize::from(self.campaigns),
            with_keys: self.keys,
            waits: !self.no_wait,
        }
    }
}

/// Parses the command, runs it, and says how it ended.
pub fn run() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody may be reading
            return if error.use_stderr() { EX_USAGE } else { 0 };
        }
    };
    if let Command::Bare = cli.command {
        return ended(bench::bare::serve());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime {
        Ok(runtime) => ended(runtime.block_on(command(cli.command))),
        Err(error) => ended(Err(error.to_string())),
    }
}

fn ended(outcome: Result<(), String>) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(problem) => {
            say(&problem);
            1
        }
    }
}

async fn command(command: Command) -> Result<(), String> {
    raise_open_files();
    let stop = Stop::default();
    let at_once = || {
        end_all_now();
        say("ended without an audit; what the servers wrote is left behind");
    };
    stop.on_signals(at_once).map_err(|error| error.to_string())?;
    match command {
        Command::Run { scenario, place, load, output } => {
            let usual = if scenario == Kind::TotalsWatch { 2 } else { 1 };
            let part = Part { replicas: place.replicas(usual), legs: vec![(scenario, load.bounds())] };
            measured(&place, vec![part], &output, &stop).await
        }
        Command::All { place, seconds, lines, output } => {
            measured(&place, everything(seconds, lines), &output, &stop).await
        }
        Command::Bench { place, seconds, rounds, json } => {
            let orders = place.orders(1);
            bench::run(&orders, Duration::from_secs(seconds), rounds, json.as_deref(), place.quiet, &stop).await
        }
        Command::Bare => Ok(()),
    }
}

/// Scenarios on one server.
struct Part {
    replicas: usize,
    legs: Vec<(Kind, Bounds)>,
}

/// Donations a second whose donors wait for the intent.
const OPENED: f64 = 500.0;

/// Everything, shortly.
fn everything(seconds: u64, lines: u64) -> Vec<Part> {
    let usual = Bounds {
        rate: None,
        closed: None,
        connections: 256,
        threads: half_the_cores(),
        duration: Duration::from_secs(seconds),
        warm_up: Duration::from_secs(1),
        ramp: Duration::from_secs(1),
        patience: Duration::from_secs(10),
        lines,
        history: 10,
        captures: 200.0,
        streams: 5_000,
        campaigns: 20,
        with_keys: false,
        waits: true,
    };
    let capacity = Bounds { closed: Some(64), ramp: Duration::ZERO, ..usual };
    // What is promised is that a donation is recorded; whoever waits for the intent waits for the provider, here the sandbox.
    let recorded = |bounds| Bounds { waits: false, ..bounds };
    let one = vec![
        (Kind::Create, recorded(usual)),
        (Kind::Create, Bounds { rate: Some(OPENED), ..usual }),
        (Kind::Create, recorded(capacity)),
        (Kind::WebhooksNew, usual),
        (Kind::WebhooksDuplicate, usual),
        (Kind::WebhooksDuplicate, capacity),
        (Kind::TotalsHot, usual),
        (Kind::TotalsHot, capacity),
        (Kind::TotalsCold, usual),
        (Kind::Lifecycle, usual),
        (Kind::Viral, usual),
        (Kind::Storm, usual),
        (Kind::Mixed, usual),
    ];
    let two = vec![(Kind::TotalsWatch, usual), (Kind::TotalsLive, usual)];
    vec![Part { replicas: 1, legs: one }, Part { replicas: 2, legs: two }]
}

/// Runs all parts, audits each server, and reports.
async fn measured(place: &Place, parts: Vec<Part>, output: &Output, stop: &Stop) -> Result<(), String> {
    let (machine, targets, runs, audits) = (Machine::here(), Vec::new(), Vec::new(), Vec::new());
    let mut report = Report { machine, targets, made_at_ms: unix_millis(), runs, audits, is_interrupted: false };
    let mut problems = Vec::new();
    for part in parts {
        if stop.is_wished() {
            break;
        }
        let target = Target::open(&place.orders(part.replicas)).await?;
        let session = Session::new(target, stop.clone(), place.quiet);
        let outcome = on_one(&session, &part.legs, output.lose_one, &mut report).await;
        session.target.close().await;
        problems.extend(outcome.err());
    }
    report.is_interrupted = stop.is_wished();
    print(&table::render(&report));
    if let Some(file) = &output.json {
        json::write(&report, file)?;
    }
    if let Some(file) = &output.html {
        html::write(&report, file)?;
        say(&format!("the page: {}", file.display()));
    }
    problems.extend(report.faults().iter().map(|fault| (*fault).to_owned()));
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

async fn on_one(session: &Session, legs: &[(Kind, Bounds)], lose_one: bool, report: &mut Report) -> Result<(), String> {
    let words = session.target.words();
    say(&words);
    report.targets.push(words);
    let (status, said) = session.office().ready().await?;
    if status != 200 {
        return Err(format!("the target is not ready ({status}): {said}"));
    }
    if let Some(config) = &session.target.database {
        let client = connect(config).await?;
        report.machine =
            Machine { is_local: session.target.is_local(), ..report.machine.clone() }.with_database(&client).await?;
    }
    let mut problems = Vec::new();
    for (kind, bounds) in legs {
        if session.stop.is_wished() {
            break;
        }
        match scenarios::run(*kind, session, bounds).await {
            Ok(run) => {
                run.measures.iter().for_each(|measure| {
                    let rate = measure::thousands(measure.per_second.round() as u64);
                    say(&format!(
                        "  {} {}: {rate}/s, p95 {}",
                        measure.scenario,
                        measure.what,
                        measure::milliseconds(measure.latency.p95_us)
                    ));
                });
                report.runs.push(run);
            }
            // What was acknowledged until then is audited all the same.
            Err(problem) => problems.push(problem),
        }
        session.rest().await?;
    }
    if lose_one {
        audit::lose_one(&session.target, &session.books).await?;
    }
    say("audit");
    report.audits.extend(audit::audit(&session.target, &session.books).await?);
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

#[allow(clippy::print_stdout, reason = "the report is what this program is for")]
pub(crate) fn print(text: &str) {
    print!("{text}");
}
