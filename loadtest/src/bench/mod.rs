//! What our way costs beside others, in one run on one machine: rounds of all of them in turn, and the median counts.
//!
//! Ratios are the result: the machine is in both. Deliberately absent: figures of other machines.

pub mod bare;
mod hold;
mod pgbench;
mod road;
mod usual;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Config;

use crate::api::Newness;
use crate::audit;
use crate::cli::print;
use crate::client::{Wire, request};
use crate::database::connect;
use crate::engine::{Scenario, Turn};
use crate::machine::Machine;
use crate::measure::{Promise, Run, milliseconds, thousands};
use crate::plan::{Pace, Plan};
use crate::progress::say;
use crate::recording::Outcome;
use crate::scenarios::Session;
use crate::scenarios::create::{Create, amount};
use crate::scenarios::totals::Reads;
use crate::stop::Stop;
use crate::target::{Orders, Target};

use hold::Held;
use road::Road;

/// Callers at once.
const CALLERS: usize = 64;
/// More of them: group commit shares one commit among whoever waits.
const CROWD: usize = 256;
const WARM_UP: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// One way, measured in each round.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Way {
    /// What it is.
    pub name: String,
    /// Done a second, round by round.
    pub per_second: Vec<f64>,
    /// p95 in microseconds, round by round; empty where it is not known.
    pub p95_us: Vec<u64>,
}

impl Way {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    fn add(&mut self, figure: Figure) {
        self.per_second.push(figure.per_second);
        self.p95_us.extend(figure.p95_us);
    }

    /// The median of the rounds, a second.
    pub fn median(&self) -> f64 {
        let mut sorted = self.per_second.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn median_p95(&self) -> Option<u64> {
        let mut sorted = self.p95_us.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// What one round of one way came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    per_second: f64,
    p95_us: Option<u64>,
}

/// One way set against another.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    what: String,
    ratio: f64,
    /// What it should be at least.
    target: Option<f64>,
}

#[derive(Serialize)]
struct Written<'a> {
    machine: &'a Machine,
    ways: &'a [Way],
    ratios: &'a [Ratio],
}

/// The ways, each in its place.
struct Ways {
    ours: Way,
    ours_crowd: Way,
    road: Way,
    road_crowd: Way,
    usual: Way,
    usual_crowd: Way,
    usual_http: Way,
    usual_http_crowd: Way,
    pgbench: Way,
    totals: Way,
    bare: Way,
}

/// Runs all rounds and shows the table.
pub async fn run(
    orders: &Orders,
    part: Duration,
    rounds: u64,
    json: Option<&Path>,
    is_quiet: bool,
    stop: &Stop,
) -> Result<(), String> {
    if orders.url.is_some() {
        return Err("bench starts a server of its own: it writes tables beside the server's".to_owned());
    }
    let target = Target::open(orders).await?;
    let session = Session::new(target, stop.clone(), is_quiet);
    let outcome = on_one(&session, part, rounds, json).await;
    session.target.close().await;
    outcome
}

async fn on_one(session: &Session, part: Duration, rounds: u64, json: Option<&Path>) -> Result<(), String> {
    say(&session.target.words());
    let config = session.target.database.clone().ok_or("no database")?;
    let mut road = Road::find(&config);
    if road.is_none() {
        say(
            "careforall-benches is not beside this program: ours without HTTP is left out (build it, or use `make bench`)",
        );
    }
    let outcome = measured(session, &config, road.as_mut(), part, rounds, json).await;
    match road {
        Some(road) => {
            let closed = road.close().await;
            outcome.and(closed)
        }
        None => outcome,
    }
}

async fn measured(
    session: &Session,
    config: &Config,
    mut road: Option<&mut Road>,
    part: Duration,
    rounds: u64,
    json: Option<&Path>,
) -> Result<(), String> {
    let client = connect(config).await?;
    let machine = Machine::here().with_database(&client).await?;
    let bare = bare::Server::start(config).await?;
    let program = pgbench::find();
    if program.is_none() {
        say("pgbench was not found: that way is left out (Debian: apt-get install postgresql-contrib)");
    }
    let campaigns = session.campaigns(20).await?;
    // The durable path is what is compared: the provider opens the payments behind it, at the expense of the same cores.
    let create = Arc::new(Create::new(session, campaigns.clone(), false).not_waiting());
    let totals = Arc::new(Reads::new(&campaigns[..1], Newness::Any));
    let mut ways = Ways {
        ours: Way::named("ours: POST /donations, 64 callers"),
        ours_crowd: Way::named("ours: POST /donations, 256 callers"),
        road: Way::named("ours without HTTP: the committer, 64 callers"),
        road_crowd: Way::named("ours without HTTP: the committer, 256 callers"),
        usual: Way::named("usual: a transaction each, pool of 20, 64 callers"),
        usual_crowd: Way::named("usual: a transaction each, pool of 20, 256 callers"),
        usual_http: Way::named("usual, behind the same HTTP, 64 callers"),
        usual_http_crowd: Way::named("usual, behind the same HTTP, 256 callers"),
        pgbench: Way::named("pgbench -M prepared -c 20, the same two inserts"),
        totals: Way::named("totals from memory, 64 connections"),
        bare: Way::named("bare actix-web handler, 64 connections"),
    };
    for round in 1..=rounds {
        if session.stop.is_wished() {
            break;
        }
        say(&format!("round {round} of {rounds}"));
        ways.ours.add(over_http(session, "ours, 64", CALLERS, part, &create).await?);
        session.rest().await?;
        let held = Held::still(&session.target)?;
        ways.usual.add(usual::run(config, CALLERS, part).await?);
        if let Some(road) = &mut road {
            ways.road.add(road.run(CALLERS, part).await?);
        }
        ways.usual_http.add(of_usual(session, bare.address, CALLERS, part).await?);
        held.release().await;
        ways.ours_crowd.add(over_http(session, "ours, 256", CROWD, part, &create).await?);
        session.rest().await?;
        let held = Held::still(&session.target)?;
        ways.usual_crowd.add(usual::run(config, CROWD, part).await?);
        if let Some(road) = &mut road {
            ways.road_crowd.add(road.run(CROWD, part).await?);
        }
        ways.usual_http_crowd.add(of_usual(session, bare.address, CROWD, part).await?);
        if let Some(program) = &program {
            ways.pgbench.add(pgbench::run(program, config, part).await?);
        }
        held.release().await;
        // Our server at work on what the rounds left behind is beside both of these.
        ways.totals.add(over_http(session, "totals", CALLERS, part, &totals).await?);
        ways.bare.add(of_bare(session, bare.address, part).await?);
    }
    let Ways {
        ours,
        ours_crowd,
        road,
        road_crowd,
        usual,
        usual_crowd,
        usual_http,
        usual_http_crowd,
        pgbench,
        totals,
        bare,
    } = ways;
    let ratios = [
        // Ours has HTTP in it and the usual way has none: the hardest comparison. Then both without, and both behind it.
        ratio("durable creates, ours over HTTP : usual, 64 callers", &ours, &usual, Some(3.0)),
        ratio("durable creates, ours over HTTP : usual, 256 callers", &ours_crowd, &usual_crowd, Some(3.0)),
        ratio("both without HTTP, 64 callers", &road, &usual, Some(3.0)),
        ratio("both without HTTP, 256 callers", &road_crowd, &usual_crowd, Some(3.0)),
        ratio("both over HTTP, 64 callers", &ours, &usual_http, Some(3.0)),
        ratio("both over HTTP, 256 callers", &ours_crowd, &usual_http_crowd, Some(3.0)),
        ratio("durable creates, ours (256 callers) : pgbench", &ours_crowd, &pgbench, None),
        ratio("totals from memory : bare handler", &totals, &bare, Some(0.5)),
    ];
    let ratios: Vec<Ratio> = ratios.into_iter().flatten().collect();
    let ways =
        [ours, ours_crowd, road, road_crowd, usual, usual_crowd, usual_http, usual_http_crowd, pgbench, totals, bare];
    print(&table(&machine, &ways, &ratios));
    if let Some(file) = json {
        let written = Written { machine: &machine, ways: &ways, ratios: &ratios };
        let text = serde_json::to_string_pretty(&written).map_err(|error| error.to_string())?;
        std::fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let findings = audit::audit(&session.target, &session.books).await?.unwrap_or_default();
    if findings.faults.is_empty() { Ok(()) } else { Err(findings.faults.join("\n")) }
}

fn plan(callers: usize, part: Duration) -> Plan {
    Plan {
        pace: Pace::Closed,
        connections: callers,
        threads: 1,
        ramp: Duration::ZERO,
        warm_up: WARM_UP,
        duration: part,
        patience: PATIENCE,
        count: None,
    }
}

async fn over_http<S: Scenario>(
    session: &Session,
    name: &str,
    callers: usize,
    part: Duration,
    scenario: &Arc<S>,
) -> Result<Figure, String> {
    let run = session.load(name, plan(callers, part), scenario, |_| Promise::default()).await?;
    figure(name, &run)
}

/// All kinds of answers together: a total that memory has just forgotten is a total, too.
fn figure(name: &str, run: &Run) -> Result<Figure, String> {
    if let Some((complaint, count)) = run.complaints.first() {
        return Err(format!("{name}: {complaint} ({count} times)"));
    }
    let fullest =
        run.measures.iter().max_by_key(|measure| measure.done).ok_or_else(|| format!("{name}: nothing was done"))?;
    let per_second = run.measures.iter().map(|measure| measure.per_second).sum();
    Ok(Figure { per_second, p95_us: Some(fullest.latency.p95_us) })
}

/// The bare handler's load is ours in everything but the address.
async fn of_bare(session: &Session, address: SocketAddr, part: Duration) -> Result<Figure, String> {
    let scenario = Arc::new(Get(request("GET", "/", &[], None)));
    let mut progress = crate::progress::Progress::new("bare handler", session.is_quiet);
    let plan = plan(CALLERS, part);
    let recording = crate::engine::run(plan, &[address], scenario, &session.stop, &mut progress).await?;
    figure("bare handler", &crate::measure::measures("bare", &plan, &recording, |_| Promise::default()))
}

/// The usual way takes the very requests that ours does.
async fn of_usual(session: &Session, address: SocketAddr, callers: usize, part: Duration) -> Result<Figure, String> {
    let name = format!("usual over HTTP, {callers}");
    let mut progress = crate::progress::Progress::new(&name, session.is_quiet);
    let plan = plan(callers, part);
    let recording = crate::engine::run(plan, &[address], Arc::new(Post), &session.stop, &mut progress).await?;
    figure(&name, &crate::measure::measures(&name, &plan, &recording, |_| Promise::default()))
}

struct Post;

impl Scenario for Post {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        &["post"]
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let bytes = crate::api::create(uuid::Uuid::nil(), amount(turn.number), turn.number, None, false);
        match wire.call(&bytes).await {
            Ok(answer) => (0, crate::api::outcome(&answer, 201)),
            Err(error) => (0, Outcome::Failed(error.to_string())),
        }
    }
}

struct Get(Vec<u8>);

impl Scenario for Get {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        &["get"]
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, _: Turn<'_>) -> (usize, Outcome) {
        match wire.call(&self.0).await {
            Ok(answer) => (0, crate::api::outcome(&answer, 200)),
            Err(error) => (0, Outcome::Failed(error.to_string())),
        }
    }
}

fn ratio(what: &str, ours: &Way, theirs: &Way, target: Option<f64>) -> Option<Ratio> {
    let (ours, theirs) = (ours.median(), theirs.median());
    (ours > 0.0 && theirs > 0.0).then(|| Ratio { what: what.to_owned(), ratio: ours / theirs, target })
}

fn table(machine: &Machine, ways: &[Way], ratios: &[Ratio]) -> String {
    let mut text = format!("\n{}\n\n{:<54} {:>10} {:>10}   rounds\n", machine.line(), "way", "median/s", "p95");
    for way in ways {
        let rounds: Vec<String> = way.per_second.iter().map(|rate| thousands(rate.round() as u64)).collect();
        let p95 = way.median_p95().map_or_else(|| "–".to_owned(), milliseconds);
        let median = if rounds.is_empty() { "–".to_owned() } else { thousands(way.median().round() as u64) };
        text.push_str(&format!("{:<54} {median:>10} {p95:>10}   {}\n", way.name, rounds.join(" ")));
    }
    text.push('\n');
    for it in ratios {
        let target = match it.target {
            Some(target) if it.ratio >= target => format!("   (at least {target}: met)"),
            Some(target) => format!("   (at least {target}: NOT MET)"),
            None => String::new(),
        };
        text.push_str(&format!("{:<54} {:>10.2}{target}\n", it.what, it.ratio));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_round_counts() {
        let way = Way { per_second: vec![5.0, 1.0, 3.0], p95_us: vec![30, 10, 20], ..Way::default() };
        assert_eq!((way.median(), way.median_p95()), (3.0, Some(20)));
        assert_eq!((Way::default().median(), Way::default().median_p95()), (0.0, None));
    }

    #[test]
    fn a_way_that_was_left_out_makes_no_ratio() {
        let way = Way { per_second: vec![5.0], ..Way::default() };
        assert!(ratio("x", &way, &Way::default(), None).is_none());
        assert!(ratio("x", &way, &way, None).is_some_and(|it| (it.ratio - 1.0).abs() < 1e-9));
    }
}
