//! A rolling restart: three replicas behind the real gateway are restarted one after the other under a steady stream of
//! donations, and no donor notices.
//!
//! `make drill` is the long run, with a release build: `CAREFORALL_TEST_ROUNDS=20 CAREFORALL_TEST_RATE=150`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::support::crowd::beside;
use crate::support::gateway::Gateway;
use crate::support::services::wait_until;
use crate::support::tools::free_port;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, from_environment, text};

/// Donations that one address makes before the next takes over: as many at once as the gateway lets through.
const OF_ONE_ADDRESS: usize = 20;
/// The gateway takes a replica out for 10 s after five failures: then it must have come back to it.
const TAKEN_BACK: Duration = Duration::from_secs(60);

/// How one donation went.
struct Outcome {
    /// Since it was due, whether or not those before it were answered.
    took: Duration,
    /// The donation, or what the donor saw instead.
    seen: Result<String, String>,
}

async fn give(client: Client, url: String, body: Value, due: Instant) -> Outcome {
    let answer = async {
        let answer = client.post(url).json(&body).send().await.map_err(|error| format!("{error:?}"))?;
        let (status, body) = (answer.status(), answer.text().await.map_err(|error| format!("{error:?}"))?);
        match serde_json::from_str::<Value>(&body) {
            Ok(donation) if status == StatusCode::CREATED => Ok(text(&donation["id"]).to_owned()),
            _ => Err(format!("{status} {body}")),
        }
    };
    let seen = answer.await;
    Outcome { took: due.elapsed(), seen }
}

/// Sends so many donations a second until it is told to stop, each when it is due, from the donor `first` on.
async fn stream(gateway: &Gateway, campaign: &Value, rate: usize, first: usize, enough: &AtomicBool) -> Vec<Outcome> {
    let mut due = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    let url = format!("{}/api/v1/donations", gateway.url);
    let (mut given, mut client) = (JoinSet::new(), Client::new());
    for at in first.. {
        let now = due.tick().await;
        if enough.load(Ordering::Relaxed) {
            break;
        }
        if at == first || at % OF_ONE_ADDRESS == 0 {
            client = from_address(at / OF_ONE_ADDRESS);
        }
        let mut body = donation_body(campaign, 500);
        body["donor"]["email"] = json!(format!("donor{at}@example.org"));
        given.spawn(give(client.clone(), url.clone(), body, now));
    }
    given.join_all().await
}

/// A donor's machine. It says nothing twice by itself.
fn from_address(number: usize) -> Client {
    let [_, high, middle, low] = u32::try_from(number).unwrap().to_be_bytes();
    let address = std::net::IpAddr::from([127, 64 + high, middle, low]);
    let client = Client::builder().local_address(address).retry(reqwest::retry::never()).timeout(DEADLINE);
    client.build().expect("a client")
}

async fn until_ready(app: &TestApp) {
    wait_until("it is ready", DEADLINE, async || {
        let answer = app.request(Method::GET, "/health/ready").send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
}

/// A replica on a port of its own, as a gateway knows it, with the wait that is the default for one that has a gateway.
async fn replica(stripe: &TestApp) -> TestApp {
    let mut setup = beside(stripe).await.stop().await;
    setup = setup.with("CAREFORALL_LISTEN", format!("127.0.0.1:{}", free_port())).with("CAREFORALL_DRAIN_WAIT_S", 2);
    let app = setup.start().await;
    until_ready(&app).await;
    app
}

fn address(app: &TestApp) -> &str {
    app.url.trim_start_matches("http://")
}

/// Whether a line of the gateway's log tells of a donation that it sent to this replica of its own accord. An attempt to connect
/// that was left unanswered while the replica before was ending is repeated after a second, and may reach the new one though
/// the gateway leaves it alone still.
fn was_sent_to(address: &str, line: &str) -> bool {
    let Some((before, _)) = line.split_once(&format!(" {address} 201 ")) else { return false };
    before.rsplit(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).is_some_and(|seconds| seconds < 0.5)
}

/// Restarts it, and waits until it is ready and the gateway sends donors to it again.
async fn restart(app: TestApp, gateway: &Gateway) -> TestApp {
    let app = app.stop().await.start().await;
    until_ready(&app).await;
    let logged = gateway.logged();
    wait_until("the gateway has taken it back", TAKEN_BACK, async || {
        gateway.access_log_since(logged).lines().any(|line| was_sent_to(address(&app), line))
    })
    .await;
    app
}

/// What so many of a thousand were faster than, in milliseconds.
fn quantile(sorted: &[Outcome], of_thousand: usize) -> u128 {
    let at = (sorted.len() * of_thousand / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0, |it| it.took.as_millis())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_are_restarted_one_after_the_other_under_load_and_no_donation_fails() {
    let (rounds, rate) = (from_environment("CAREFORALL_TEST_ROUNDS", 1), from_environment("CAREFORALL_TEST_RATE", 20));
    // It plays Stripe, and is not restarted.
    let stripe = Setup::new().await.with("CAREFORALL_TRUSTED_PROXIES", "127.0.0.1").start().await;
    let campaign = stripe.campaign().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(replica(&stripe).await);
    }
    let addresses: Vec<String> = replicas.iter().map(|it| address(it).to_owned()).collect();
    let started = Gateway::start(&addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let Some(gateway) = started else {
        for app in replicas {
            app.stop().await;
        }
        return stripe.finish().await;
    };
    let (mut given, mut failed, mut due) = (Vec::new(), 0, 0);
    for round in 1..=rounds {
        let (enough, began) = (AtomicBool::new(false), Instant::now());
        let restarts = async {
            let mut restarted = Vec::new();
            for app in replicas.drain(..) {
                restarted.push(restart(app, &gateway).await);
            }
            enough.store(true, Ordering::Relaxed);
            restarted
        };
        let (restarted, mut outcomes) = tokio::join!(restarts, stream(&gateway, &campaign, rate, due, &enough));
        replicas = restarted;
        // No address gives again: within a minute the gateway would refuse it.
        due += outcomes.len().next_multiple_of(OF_ONE_ADDRESS);
        outcomes.sort_by_key(|it| it.took);
        let wrong: Vec<&String> = outcomes.iter().filter_map(|it| it.seen.as_ref().err()).collect();
        println!(
            "round {round}: 3 restarts in {} s, {} donations, {} failed, p50 {} ms, p99 {} ms, longest {} ms{}",
            began.elapsed().as_secs(),
            outcomes.len(),
            wrong.len(),
            quantile(&outcomes, 500),
            quantile(&outcomes, 990),
            quantile(&outcomes, 1000),
            wrong.first().map(|it| format!("; {it}")).unwrap_or_default(),
        );
        failed += wrong.len();
        given.extend(outcomes.into_iter().filter_map(|it| it.seen.ok()));
    }
    println!("{rounds} rounds at {rate}/s: {} donations answered with 201, {failed} failed", given.len());
    assert_eq!(failed, 0);
    let kept = stripe.count("select count(*) from donations.donations").await;
    assert_eq!(usize::try_from(kept).unwrap(), given.len(), "each once");
    drop(gateway);
    for app in replicas {
        app.stop().await;
    }
    stripe.finish().await;
}
