//! The gateway: `deploy/nginx/nginx.conf` in a real nginx before real replicas.
//!
//! A client is an address: each test takes its own out of 127.0.0.0/8, so that nobody uses up another's share.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::crowd::{beside, completed};
use crate::support::gateway::{Config, Gateway};
use crate::support::services::wait_until;
use crate::support::tools::{file, free_port, tool};
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
    // SendGrid puts many reports into one body.
    let reports = async |size: usize| {
        let url = format!("{}/webhooks/sendgrid/events", gateway.url);
        stripe.post(url).body("x".repeat(size)).send().await.unwrap().status()
    };
    assert_ne!(reports(900 * 1024).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reports(1025 * 1024).await, StatusCode::PAYLOAD_TOO_LARGE);
    // They hold donors' data, which belong on no disk of the gateway.
    assert!(!gateway.error_log().contains("temporary file"), "{}", gateway.error_log());
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
    // nginx writes its line once the answer is out.
    let is_logged = async || gateway.access_log().contains("/api/v1/campaigns");
    wait_until("the last request is in the log", DEADLINE, is_logged).await;
    let log = gateway.access_log();
    assert!(!log.contains("hunter2"), "{log}");
    drop(gateway);
    app.finish().await;
}

async fn say(url: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
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

/// Somebody who stands in a replica's place, and how often he was spoken to.
struct Impostor {
    address: String,
    manner: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

/// Answers.
const KIND: u8 = 0;
/// Hangs up.
const RUDE: u8 = 1;
/// Listens, and says nothing.
const SILENT: u8 = 2;

impl Impostor {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (manner, asked) = (Arc::new(AtomicU8::new(KIND)), Arc::new(AtomicUsize::new(0)));
        let (how, count) = (Arc::clone(&manner), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::answer(stream, Arc::clone(&how), Arc::clone(&count)));
            }
        });
        Self { address, manner, asked }
    }

    async fn answer(mut stream: TcpStream, manner: Arc<AtomicU8>, asked: Arc<AtomicUsize>) -> Option<()> {
        stream.read(&mut [0; 4096]).await.ok().filter(|length| *length > 0)?;
        asked.fetch_add(1, Ordering::AcqRel);
        match manner.load(Ordering::Acquire) {
            KIND => {
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.ok()?;
            }
            SILENT => drop(stream.read(&mut [0; 4096]).await),
            _ => {}
        }
        Some(())
    }

    fn turn(&self, manner: u8) {
        self.manner.store(manner, Ordering::Release);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

#[tokio::test]
async fn a_replica_that_says_nothing_is_passed_over_for_readers_and_no_post_is_sent_twice() {
    let text = file("deploy/nginx/nginx.conf");
    for timeout in ["proxy_send", "proxy_read", "client_header", "client_body", "send", "keepalive"] {
        assert!(text.contains(&format!("    {timeout}_timeout 30s;\n")), "{timeout}");
    }
    let (one, two) = (Impostor::start().await, Impostor::start().await);
    let quick = |config: &mut Config| {
        config.replace("    proxy_read_timeout 30s;", "    proxy_read_timeout 1s;");
    };
    let Some(gateway) = Gateway::start_changed(&[&one.address, &two.address], quick).await else { return };
    one.turn(SILENT);
    let visitor = client([127, 0, 7, 1]);
    for _ in 0..2 {
        let answer = visitor.get(format!("{}/api/v1/campaigns", gateway.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "one of the two would have been the silent one's");
    }
    two.turn(SILENT);
    let before = one.asked() + two.asked();
    let began = Instant::now();
    let (status, problem) = read(visitor.post(format!("{}/api/v1/donations", gateway.url)).body("{}")).await;
    assert_eq!((status, &problem["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(503)));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(one.asked() + two.asked(), before + 1, "it may have moved money");
}

#[tokio::test]
async fn a_replica_is_left_out_after_five_failures_and_comes_back_after_ten_seconds() {
    let (sick, sound) = (Impostor::start().await, Impostor::start().await);
    let Some(gateway) = Gateway::start(&[&sick.address, &sound.address]).await else { return };
    let http = client([127, 0, 7, 2]);
    let get = async || {
        let answer = http.get(format!("{}/health/live", gateway.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "the other one answers");
    };
    sick.turn(RUDE);
    let before = sick.asked();
    let began = Instant::now();
    for _ in 0..40 {
        get().await;
    }
    assert_eq!(sick.asked() - before, 5, "five failures, and it is left alone");
    assert!(began.elapsed() < Duration::from_secs(8), "or this says nothing: {:?}", began.elapsed());
    sick.turn(KIND);
    wait_until("it is asked again", DEADLINE, async || {
        get().await;
        sick.asked() - before > 5
    })
    .await;
    let away = began.elapsed();
    assert!((9..13).contains(&away.as_secs()), "{away:?}");
    for _ in 0..10 {
        get().await;
    }
    assert!(sick.asked() - before >= 10, "it has its share again");
}

#[tokio::test]
async fn a_body_that_comes_slowly_costs_no_replica_anything_until_it_is_whole() {
    let replica = Impostor::start().await;
    let Some(gateway) = Gateway::start(&[&replica.address]).await else { return };
    let before = replica.asked();
    let mut stream = TcpStream::connect(gateway.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /webhooks/stripe HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[b'x'; 30_000]).await.unwrap();
    // Whoever comes after it is answered.
    say(&gateway.url, "/health/live").await;
    assert_eq!(replica.asked(), before + 1);
    stream.write_all(&[b'x'; 10_000]).await.unwrap();
    let mut answer = String::new();
    let whole = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an end");
    assert!(whole.is_ok() || !answer.is_empty(), "{whole:?}");
    assert_eq!(replica.asked(), before + 2);
}

#[tokio::test]
async fn no_token_is_in_the_gateways_logs_even_while_no_replica_answers() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let Some(gateway) = Gateway::begin(&[&nobody], |_| {}).await else { return };
    let visitor = client([127, 0, 7, 3]);
    for path in ["/unsubscribe/hunter2", "//unsubscribe//hunter2", "/api/v1/donors/me/donations?token=hunter2"] {
        for method in [Method::GET, Method::POST] {
            let answer = visitor.request(method, format!("{}{path}", gateway.url)).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    visitor.get(format!("{}/api/v1/campaigns", gateway.url)).send().await.unwrap();
    let is_logged = async || gateway.access_log().contains("/api/v1/campaigns");
    wait_until("the last request is in the log", DEADLINE, is_logged).await;
    let (requests, errors) = (gateway.access_log(), gateway.error_log());
    assert!(requests.contains("\"GET /unsubscribe/-\" 503"), "{requests}");
    assert!(errors.contains("/api/v1/campaigns"), "what has no token is reported: {errors}");
    assert!(!requests.contains("hunter2") && !errors.contains("hunter2"), "{requests}\n{errors}");
}

#[tokio::test]
async fn an_office_that_watches_comes_back_all_at_once_but_not_without_bound() {
    let app = behind_a_gateway().await.start().await;
    let campaign = app.campaign().await;
    let Some(gateway) = Gateway::start(&[address(&app)]).await else { return app.finish().await };
    let url = format!("{}/api/v1/campaigns/{}/totals/stream", gateway.url, text(&campaign["id"]));
    let office = client([127, 0, 7, 4]);
    let mut streams = Vec::new();
    for at in 0..100 {
        let answer = office.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "stream {at}");
        streams.push(answer);
    }
    let answer = office.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    // Each is two connections of a worker.
    assert!(file("deploy/nginx/nginx.conf").contains("worker_connections 32768;"));
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if most.is_none_or(|most| most >= 65_536) {
        for worker in gateway.workers() {
            let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
            let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(files.split_whitespace().nth(3), Some("65536"), "{files}");
        }
    }
    drop(streams);
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn behind_a_load_balancer_that_is_named_its_clients_are_counted_and_not_itself() {
    let app = behind_a_gateway().await.with("CAREFORALL_RATE_LIMIT", "3/hour").start().await;
    let named = |config: &mut Config| {
        config.replace("# set_real_ip_from 10.0.0.0/8;", "set_real_ip_from 127.0.7.5;");
        config.replace("# real_ip_header", "real_ip_header");
        config.replace("# real_ip_recursive", "real_ip_recursive");
    };
    let Some(gateway) = Gateway::start_changed(&[address(&app)], named).await else { return app.finish().await };
    let url = format!("{}/api/v1/campaigns", gateway.url);
    let get = async |client: &Client, of: &str| {
        client.get(&url).header("X-Forwarded-For", of).send().await.unwrap().status().as_u16()
    };
    let (balancer, liar) = (client([127, 0, 7, 5]), client([127, 0, 7, 6]));
    let mut statuses = Vec::new();
    // What the client said before the balancer is not believed: the last address is the balancer's word.
    for at in 0..4 {
        statuses.push(get(&balancer, &format!("198.51.100.{at}, 203.0.113.1")).await);
    }
    statuses.push(get(&balancer, "203.0.113.2").await);
    assert_eq!(statuses, [200, 200, 200, 429, 200]);
    let mut statuses = Vec::new();
    for at in 0..4 {
        statuses.push(get(&liar, &format!("203.0.113.{at}")).await);
    }
    assert_eq!(statuses, [200, 200, 200, 429], "who is not the balancer is himself");
    drop(gateway);
    app.finish().await;
}

#[tokio::test]
async fn the_tls_example_is_taken_and_speaks_1_2_and_1_3_with_forward_secrecy_and_nothing_older() {
    let Some(openssl) = tool("openssl") else { return };
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (place("fullchain.pem"), place("privkey.pem"));
    let mut make = Command::new(&openssl);
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    let made = make.args(["-keyout", &key, "-out", &certificate]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let replica = Impostor::start().await;
    let port = free_port();
    let with_tls = |config: &mut Config| {
        let example = file("deploy/nginx/tls.conf.example");
        let example = example
            .replace("listen 443 ssl http2;", &format!("listen 127.0.0.1:{port} ssl http2;"))
            .replace("listen [::]:443 ssl http2;\n", "")
            .replace("/etc/nginx/tls/fullchain.pem", &certificate)
            .replace("/etc/nginx/tls/privkey.pem", &key);
        config.replace("        server_name _;\n", &format!("        server_name _;\n{example}"));
    };
    let Some(_gateway) = Gateway::start_changed(&[&replica.address], with_tls).await else { return };
    let shake = |words: &[&str]| {
        let mut command = Command::new(&openssl);
        command.args(["s_client", "-brief", "-connect", &format!("127.0.0.1:{port}")]).args(words);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (words, protocol) in [(&["-tls1_2"][..], "TLSv1.2"), (&["-tls1_3"], "TLSv1.3")] {
        let (taken, said) = shake(words);
        assert!(taken && said.contains(protocol), "{said}");
    }
    // The client is told to lower its own guard, so that it is the gateway that refuses.
    for words in [
        &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
        &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"],
    ] {
        let (taken, said) = shake(words);
        assert!(!taken && said.contains("alert"), "{words:?}: {said}");
    }
}
