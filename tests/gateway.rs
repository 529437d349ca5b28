//! The gateway: `deploy/nginx/nginx.conf` in a real nginx before real replicas.
//!
//! A client is an address: each test takes its own out of 127.0.0.0/8, so that nobody uses up another's share.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::crowd::{beside, completed};
use crate::support::gateway::Gateway;
use crate::support::{DEADLINE, Setup, TestApp, WEBHOOK_SECRET, intent_event, now, read, signature, text};

/// Requests that one client may make at once: the burst, and the one that is always let through.
const AT_ONCE: usize = 21;

/// A client at an address of this machine.
fn client(address: [u8; 4]) -> Client {
    let client = Client::builder().local_address(std::net::IpAddr::from(address)).timeout(DEADLINE);
    client.build().expect("a client")
}

fn address(app: &TestApp) -> &str {
    app.url.trim_start_matches("http://")
}

/// Believes the gateway, as an installation does.
async fn behind_a_gateway() -> Setup {
    Setup::new().await.with("CAREFORALL_TRUSTED_PROXIES", "127.0.0.1")
}

#[test]
fn nginx_takes_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let Some(output) = Gateway::check(directory.path()) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("[warn]"), "{said}");
}

#[tokio::test]
async fn a_client_is_told_to_wait_after_its_burst_and_the_others_are_not() {
    let app = behind_a_gateway().await.start().await;
    let campaign = app.campaign().await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let url = format!("{}/api/v1/campaigns/{}/totals", gateway.url, text(&campaign["id"]));

    let eager = client([127, 0, 1, 1]);
    let mut refused = 0;
    for at in 0..2 * AT_ONCE {
        // An address that the client makes up is nobody's.
        let answer = eager.get(&url).header("X-Forwarded-For", format!("198.51.100.{at}"));
        let answer = answer.header("Forwarded", format!("for=198.51.100.{at}")).send().await.unwrap();
        if answer.status() == StatusCode::OK {
            continue;
        }
        refused += 1;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["retry-after"], "1");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!((&problem["status"], text(&problem["title"])), (&json!(429), "Too many requests"));
    }
    assert!(refused > 0, "{AT_ONCE} at once, then 100 a minute");
    let answer = client([127, 0, 1, 2]).get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "another client is not refused");
    assert_eq!(answer.headers()["x-frame-options"], "DENY");
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn the_program_counts_the_clients_that_the_gateway_sees_whatever_they_say_of_themselves() {
    let app = behind_a_gateway().await.with("CAREFORALL_RATE_LIMIT", "3/hour").start().await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let url = format!("{}/api/v1/campaigns", gateway.url);
    let liar = client([127, 0, 2, 1]);
    let mut statuses = Vec::new();
    for at in 0..5 {
        let made_up = format!("203.0.113.{at}");
        let answer = liar.get(&url).header("X-Forwarded-For", &made_up).header("Forwarded", format!("for={made_up}"));
        let answer = answer.send().await.unwrap();
        assert!(answer.headers().contains_key("ratelimit"), "it is the program that counts");
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let other = client([127, 0, 2, 2]).get(&url).send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK, "clients behind the gateway are not one client");
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn stripe_is_never_told_to_go_away_and_large_events_pass() {
    let app = behind_a_gateway().await.start().await;
    app.control("/webhooks", json!({"enabled": false})).await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let stripe = client([127, 0, 3, 1]);
    let post = async |body: String| {
        let header = signature(WEBHOOK_SECRET, now(), body.as_bytes());
        let url = format!("{}/webhooks/stripe", gateway.url);
        read(stripe.post(url).header("Stripe-Signature", header).body(body)).await
    };
    let event = intent_event(&donation, "payment_intent.succeeded", now(), json!({})).to_string();
    for at in 0..5 * AT_ONCE {
        let (status, answer) = post(event.clone()).await;
        let verdict = if at == 0 { "applied" } else { "duplicate" };
        assert_eq!((status, text(&answer["verdict"])), (StatusCode::OK, verdict));
    }
    // The bytes that were signed are the bytes that arrive, many as they are.
    let ballast = json!({"description": "x".repeat(300 * 1024)});
    let large = intent_event(&donation, "payment_intent.succeeded", now(), ballast).to_string();
    assert_eq!(post(large).await.0, StatusCode::OK);
    assert_eq!(post("x".repeat(513 * 1024)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    app.settle(&donation, "COMPLETED").await;
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn what_is_not_for_the_public_is_not_there_however_it_is_spelled() {
    let app = behind_a_gateway().await.start().await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let paths = [
        "/metrics",
        "//metrics",
        "/%6detrics",
        "/api/../metrics",
        "/sandbox/control/books",
        "/sandbox%2fcontrol/books",
        "/%73andbox/control/books",
        "/health/../sandbox/control/books",
        "/health/ready",
    ];
    for (at, path) in paths.into_iter().enumerate() {
        // Said by hand: a client would tidy the path up.
        let answer = say(&gateway.url, path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{at} {path}: {answer}");
        assert!(!answer.contains("careforall_") && !answer.contains("net_minor"), "{path}: {answer}");
    }
    let visitor = client([127, 0, 4, 1]);
    assert!(visitor.get(format!("{}/health/live", gateway.url)).send().await.unwrap().status().is_success());
    let (status, problem) =
        read(visitor.post(format!("{}/api/v1/donations", gateway.url)).body("x".repeat(70_000))).await;
    assert_eq!((status, &problem["status"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(413)));
    // Links carry tokens: what follows the question mark is in no log.
    visitor.get(format!("{}/api/v1/campaigns?secret=hunter2", gateway.url)).send().await.unwrap();
    let log = gateway.access_log();
    assert!(log.contains("/api/v1/campaigns") && !log.contains("hunter2"), "{log}");
    drop(gateway);
    app.finish().await;
}

async fn say(url: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an end").unwrap();
    answer
}

#[tokio::test]
async fn a_replica_that_is_killed_under_load_costs_no_reader_an_answer() {
    let first = behind_a_gateway().await.start().await;
    let (second, third) = (beside(&first).await, beside(&first).await);
    let campaign = first.campaign().await;
    let replicas = [address(&first), address(&second), address(&third)].map(str::to_owned);
    let started = Gateway::start(&replicas.each_ref().map(String::as_str)).await;
    let Some(gateway) = started else {
        third.finish().await;
        second.finish().await;
        return first.finish().await;
    };
    let url = format!("{}/api/v1/campaigns/{}/totals", gateway.url, text(&campaign["id"]));
    let (enough, done) = (AtomicBool::new(false), AtomicU8::new(0));
    let reader = async |lane: u8| {
        let mut answers = 0_usize;
        for address in 1.. {
            // As many from one address as the gateway lets through.
            let reader = client([127, 0, 16 + lane, address]);
            for _ in 0..AT_ONCE - 1 {
                let answer = reader.get(&url).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK, "lane {lane}, answer {answers}");
                answers += 1;
            }
            done.fetch_max(address, Ordering::Relaxed);
            if enough.load(Ordering::Relaxed) || address == 250 {
                break;
            }
        }
        answers
    };
    let killing = async {
        let until = async |rounds: u8| {
            while done.load(Ordering::Relaxed) < rounds {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        until(3).await;
        third.kill_now();
        until(done.load(Ordering::Relaxed) + 6).await;
        enough.store(true, Ordering::Relaxed);
    };
    let (a, b, c, d, ()) = tokio::join!(reader(0), reader(1), reader(2), reader(3), killing);
    assert!(a + b + c + d > 4 * 9 * (AT_ONCE - 1) / 2, "{a} {b} {c} {d}");
    let log = gateway.access_log();
    for replica in &replicas {
        assert!(log.contains(replica), "{replica} had no share");
    }
    drop(gateway);
    third.kill();
    second.finish().await;
    first.finish().await;
}

#[tokio::test]
async fn a_stream_of_totals_is_passed_on_as_it_is_told_and_json_is_compressed() {
    let app = behind_a_gateway().await.start().await;
    let campaign = app.campaign_with(json!({"description": "w".repeat(2000)})).await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let watcher = client([127, 0, 5, 1]);
    let path = format!("{}/api/v1/campaigns/{}", gateway.url, text(&campaign["id"]));
    let mut stream =
        watcher.get(format!("{path}/totals/stream")).header("Accept-Encoding", "gzip").send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert!(stream.headers().get("content-encoding").is_none_or(|it| it == "identity"));
    let mut told = String::new();
    for gift in 0..=3_i64 {
        if gift > 0 {
            completed(&app, &campaign, 1000, "jo@example.org").await;
        }
        // A gateway that kept back a few bytes would keep them until the stream ends, which it does not.
        let heard = async {
            while !told.contains(&format!("id: {gift}\n")) {
                told.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().expect("it goes on")).unwrap());
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("the gift is told while the stream is open");
    }
    let answer = watcher.request(Method::GET, &path).header("Accept-Encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    drop(stream);
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn without_any_replica_the_gateway_says_when_to_come_again() {
    let app = behind_a_gateway().await.start().await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    app.finish().await;
    let answer = client([127, 0, 6, 1]).get(format!("{}/api/v1/campaigns", gateway.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(answer.headers().contains_key("retry-after"));
}
