//! The kinds of load, one a file; what they share: the server, the books, the bounds of a run.

pub mod create;
pub mod levels;
pub mod lifecycle;
pub mod mixed;
pub mod overload;
pub mod scale;
pub mod storm;
pub mod streams;
pub mod totals;
pub mod watch;
pub mod webhooks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use futures::future::join_all;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::books::Books;
use crate::database::{connect, told};
use crate::engine::{self, Scenario};
use crate::machine::resident_kib;
use crate::measure::{Promise, Run, measures};
use crate::office::{Office, metric};
use crate::plan::{Pace, Plan};
use crate::progress::{Progress, Watcher};
use crate::stop::Stop;
use crate::target::Target;

/// Between two scenarios the outbox empties and payments are opened; a load beyond capacity may leave more than that.
const UNOPENED: &str = include_str!("../../sql/unopened.sql");
const REST: Duration = Duration::from_secs(120);
/// Connections of a preparation.
const PREPARING: usize = 64;

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Donations are created, over many campaigns.
    Create,
    /// Signed webhooks of Stripe that were never seen, each capturing a payment.
    WebhooksNew,
    /// The same few webhooks, again and again.
    WebhooksDuplicate,
    /// Totals of a few campaigns: from memory.
    TotalsHot,
    /// Totals of so many campaigns that memory has forgotten each before it is asked for again.
    TotalsCold,
    /// Totals of one campaign with a long ledger, each level by itself, and the refresh of the view.
    TotalsLive,
    /// Captures and readers on two processes: nobody may see a total go back.
    TotalsWatch,
    /// Thousands of open streams of one campaign's totals: what they weigh, and how soon all hear of a gift.
    Streams,
    /// Donors give, pay at the sandbox, and wait until they see their donation completed.
    Lifecycle,
    /// Everybody gives to one campaign and looks at it.
    Viral,
    /// Whole lives while the sandbox sends its webhooks several times and in any order.
    Storm,
    /// All of it at once.
    Mixed,
    /// Every hot path on an empty database and on a full one, side by side.
    Scale,
    /// Ten times what the server can do, and what became of it afterwards.
    Overload,
}

impl Kind {
    /// As it is named on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::WebhooksNew => "webhooks-new",
            Self::WebhooksDuplicate => "webhooks-duplicate",
            Self::TotalsHot => "totals-hot",
            Self::TotalsCold => "totals-cold",
            Self::TotalsLive => "totals-live",
            Self::TotalsWatch => "totals-watch",
            Self::Streams => "streams",
            Self::Lifecycle => "lifecycle",
            Self::Viral => "viral",
            Self::Storm => "storm",
            Self::Mixed => "mixed",
            Self::Scale => "scale",
            Self::Overload => "overload",
        }
    }

    /// The rate that the targets are stated at, or what a small machine can bear.
    fn usual_rate(self) -> f64 {
        match self {
            Self::Create => 3000.0,
            Self::WebhooksNew => 2000.0,
            Self::WebhooksDuplicate | Self::TotalsHot => 10_000.0,
            Self::TotalsCold => 2000.0,
            // Their parts have paces of their own.
            Self::TotalsLive | Self::Streams | Self::Scale | Self::Overload => 0.0,
            Self::TotalsWatch => 5000.0,
            Self::Lifecycle | Self::Storm => 200.0,
            Self::Viral | Self::Mixed => 1000.0,
        }
    }
}

/// What a run may be told.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests a second; the scenario's own where nothing is said.
    pub rate: Option<f64>,
    /// Connections without pause instead of a rate.
    pub closed: Option<usize>,
    /// Connections that a rate may use.
    pub connections: usize,
    /// Threads that send.
    pub threads: usize,
    /// Measured time.
    pub duration: Duration,
    /// Before it, at full rate.
    pub warm_up: Duration,
    /// Before that, while the rate rises.
    pub ramp: Duration,
    /// No request waits longer.
    pub patience: Duration,
    /// Ledger lines of `totals-live`, donations of `scale`.
    pub lines: u64,
    /// History rows of each donation of `scale`.
    pub history: u64,
    /// Captures a second of `totals-watch`.
    pub captures: f64,
    /// Open streams of `streams`.
    pub streams: u64,
    /// Campaigns that load is spread over.
    pub campaigns: usize,
    /// Whether donations are sent under an `Idempotency-Key`.
    pub with_keys: bool,
    /// Whether donors wait for the provider.
    pub waits: bool,
}

impl Bounds {
    /// The plan of a run of `kind`.
    pub fn plan(&self, kind: Kind) -> Plan {
        let open = Pace::Open { rate: self.rate.unwrap_or(kind.usual_rate()) };
        let (pace, connections) = match self.closed {
            Some(connections) => (Pace::Closed, connections),
            None => (open, self.connections),
        };
        Plan {
            pace,
            connections,
            threads: self.threads,
            ramp: self.ramp,
            warm_up: self.warm_up,
            duration: self.duration,
            patience: self.patience,
            count: None,
        }
    }

    /// A plan of connections without pause, for a part of the time.
    pub fn closed_plan(&self, connections: usize, duration: Duration) -> Plan {
        let zero = Duration::ZERO;
        let warm_up = Duration::from_millis(500).min(duration);
        Plan { pace: Pace::Closed, connections, duration, warm_up, ramp: zero, ..self.plan(Kind::TotalsHot) }
    }
}

/// Enough for every request of `plan` that needs something prepared, at `rate` a second.
pub fn needed(plan: &Plan, rate: f64) -> u64 {
    let full = plan.warm_up + plan.duration;
    (rate * (plan.ramp.as_secs_f64() / 2.0 + full.as_secs_f64())).ceil() as u64 + 1
}

/// What the scenarios of one command share.
pub struct Session {
    /// The server.
    pub target: Target,
    /// What it acknowledged.
    pub books: Arc<Books>,
    /// The wish to end early.
    pub stop: Stop,
    /// No lines while it runs.
    pub is_quiet: bool,
    /// Campaigns that were made, for their slugs.
    made: AtomicU64,
}

/// The server's memory while a run is on.
struct Memory {
    pids: Vec<u32>,
    peak_kib: Arc<AtomicU64>,
}

impl Watcher for Memory {
    fn look(&mut self) {
        let all = self.pids.iter().filter_map(|pid| resident_kib(*pid)).sum();
        self.peak_kib.fetch_max(all, Ordering::Relaxed);
    }
}

impl Session {
    /// On this server.
    pub fn new(target: Target, stop: Stop, is_quiet: bool) -> Self {
        Self { target, books: Arc::default(), stop, is_quiet, made: AtomicU64::new(0) }
    }

    /// The first process: the sandbox runs there.
    pub fn first(&self) -> SocketAddr {
        self.target.replicas[0]
    }

    /// Speaks to the first process.
    pub fn office(&self) -> Office {
        Office::new(self.first(), &self.target.admin_key)
    }

    /// Makes so many campaigns.
    pub async fn campaigns(&self, count: usize) -> Result<Vec<Uuid>, String> {
        let offices = 16.min(count);
        let share = |number: usize| async move {
            let mut office = self.office();
            let mut made = Vec::new();
            for _ in (number..count).step_by(offices) {
                let serial = self.made.fetch_add(1, Ordering::Relaxed);
                let campaign = office.campaign(&format!("load-{:08x}-{serial}", self.books.tag)).await?;
                self.books.campaign(campaign);
                made.push(campaign);
            }
            Ok::<_, String>(made)
        };
        let mut all = Vec::with_capacity(count);
        for made in join_all((0..offices).map(share)).await {
            all.extend(made?);
        }
        Ok(all)
    }

    /// Runs load and makes figures of it.
    pub async fn load<S: Scenario>(
        &self,
        name: &str,
        plan: Plan,
        scenario: &Arc<S>,
        promise: impl Fn(&str) -> Promise,
    ) -> Result<Run, String> {
        let peak_kib = Arc::new(AtomicU64::new(0));
        let pids = self.target.pids();
        let before_kib: u64 = pids.iter().filter_map(|pid| resident_kib(*pid)).sum();
        let mut progress = Progress::new(name, self.is_quiet);
        if !pids.is_empty() {
            progress = progress.with(Box::new(Memory { pids, peak_kib: Arc::clone(&peak_kib) }));
        }
        let scenario = Arc::clone(scenario);
        let recording = engine::run(plan, &self.target.replicas, scenario, &self.stop, &mut progress).await?;
        let mut run = measures(name, &plan, &recording, promise);
        // A short run may be over before anybody looked.
        let at_the_end: u64 = self.target.pids().iter().filter_map(|pid| resident_kib(*pid)).sum();
        let peak_kib = peak_kib.load(Ordering::Relaxed).max(at_the_end);
        if peak_kib > 0 {
            run.memory_kib = Some((before_kib, peak_kib));
            run.notes.push(format!(
                "the server's memory: {} MiB before, {} MiB at most",
                before_kib / 1024,
                peak_kib / 1024
            ));
        }
        Ok(run)
    }

    /// Waits until what the last load left behind is told to everybody, so that the next one is not measured in its wake.
    pub async fn rest(&self) -> Result<(), String> {
        let mut office = self.office();
        let deadline = Instant::now() + REST;
        while !self.stop.is_wished() && Instant::now() < deadline {
            let is_told = metric(&office.metrics().await?, "careforall_outbox_waiting") == 0.0;
            if is_told && self.unopened().await? == 0 {
                return Ok(());
            }
            // The server counts its outbox once a second.
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// Payments that the provider is still to open, where the database can be asked.
    async fn unopened(&self) -> Result<i64, String> {
        let Some(config) = &self.target.database else { return Ok(0) };
        let client = connect(config).await?;
        let count = client.query_one(UNOPENED, &[]).await.map_err(|error| told(&error))?;
        Ok(count.get(0))
    }

    /// Runs a preparation: so many requests, unmeasured. What fails in it is a fault of the run.
    pub async fn prepare<S: Scenario>(
        &self,
        name: &str,
        bounds: &Bounds,
        count: u64,
        scenario: &Arc<S>,
    ) -> Result<(), String> {
        let plan = Plan { count: Some(count), ..bounds.closed_plan(PREPARING, Duration::from_secs(1)) };
        let mut progress = Progress::new(&format!("{name}: preparing"), self.is_quiet);
        let scenario = Arc::clone(scenario);
        let recording = engine::run(plan, &self.target.replicas, scenario, &self.stop, &mut progress).await?;
        match recording.complaints.iter().next() {
            Some((complaint, count)) if !self.stop.is_wished() => {
                Err(format!("{name}: preparing: {complaint} ({count} times)"))
            }
            _ => Ok(()),
        }
    }
}

/// Runs one scenario.
pub async fn run(kind: Kind, session: &Session, bounds: &Bounds) -> Result<Run, String> {
    match kind {
        Kind::Create => create::run(session, bounds).await,
        Kind::WebhooksNew => webhooks::run_new(session, bounds).await,
        Kind::WebhooksDuplicate => webhooks::run_duplicate(session, bounds).await,
        Kind::TotalsHot => totals::run_hot(session, bounds).await,
        Kind::TotalsCold => totals::run_cold(session, bounds).await,
        Kind::TotalsLive => levels::run(session, bounds).await,
        Kind::TotalsWatch => watch::run(session, bounds).await,
        Kind::Streams => streams::run(session, bounds).await,
        Kind::Lifecycle => lifecycle::run(session, bounds).await,
        Kind::Viral => mixed::run_viral(session, bounds).await,
        Kind::Storm => storm::run(session, bounds).await,
        Kind::Mixed => mixed::run(session, bounds).await,
        Kind::Scale => scale::run(session, bounds).await,
        Kind::Overload => overload::run(session, bounds).await,
    }
}
