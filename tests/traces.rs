//! One trace for one donation, told to a receiver that may be away.

use std::collections::{BTreeMap, BTreeSet};

use careforall::clock::Clock;
use careforall::domain::ids::NoticeId;
use careforall::store::Store;
use careforall::store::endpoints::NewEndpoint;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::collector::{Collector, Seen};
use crate::support::post::Server;
use crate::support::services::wait_until;
use crate::support::tools::{free_port, venv_tool};
use crate::support::{DEADLINE, Setup, TestApp, donation_body, now, read, signature, text};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-{flags}")
}

async fn traced(collector: &Collector) -> Setup {
    Setup::new().await.with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
}

/// A paid donation whose donor came with that `traceparent`.
async fn life(app: &TestApp, traceparent: &str) -> Value {
    let campaign = app.campaign().await;
    let mut body = donation_body(&campaign, 2500);
    body["donor"]["phone"] = json!("+4915112345678");
    let request = app.request(Method::POST, "/api/v1/donations").header("traceparent", traceparent).json(&body);
    let (status, donation) = read(request).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    wait_until("everybody was told", DEADLINE, async || {
        app.count("select count(*) from donations.outbox_events").await == 0
            && app.count("select count(*) from donations.audit_logs").await >= 2
            && app.count("select count(*) from notifications.notifications where status = 'PENDING'").await == 0
            && app.count("select count(*) from notifications.notifications").await >= 4
    })
    .await;
    donation
}

/// The trace as an outline: two blanks deeper is a child. Of equal siblings the one with the longest story stands for all.
fn outline(spans: &[Seen], parent: &str) -> Vec<String> {
    let mut children: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.parent_id == parent) {
        let routing_key = span.attributes.get("messaging.rabbitmq.destination.routing_key");
        let fact = span.attributes.get("careforall.fact").or(routing_key);
        let line = fact.map_or_else(|| span.name.clone(), |fact| format!("{} ({fact})", span.name));
        let below = outline(spans, &span.span_id);
        let longest = children.entry(line).or_default();
        if below.len() > longest.len() {
            *longest = below;
        }
    }
    let indented = |(line, below): (String, Vec<String>)| {
        std::iter::once(line).chain(below.into_iter().map(|line| format!("  {line}"))).collect::<Vec<_>>()
    };
    children.into_iter().flat_map(indented).collect()
}

const OUTLINE: &str = "\
POST /api/v1/donations
  POST /v1/payment_intents
  apply payment_intent.succeeded
    send payments.events (payment.completed)
      process audit.queue (payment.completed)
      process notifications.queue (payment.completed)
        deliver EMAIL
        deliver SMS
        deliver WEBHOOK
      process totals.queue (payment.completed)
  send donations.events (donation.created)
    process audit.queue (donation.created)
    process notifications.queue (donation.created)
      deliver EMAIL";

/// From the donor's request to the last message, and Stripe's own trace linked to it.
async fn one_donations_life(setup: Setup, collector: Collector) {
    let (twilio, partner) = (
        Server::start(|_| ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#)).await,
        Server::start(|_| ("200 OK", "", "")).await,
    );
    let setup = setup
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url)
        .with("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on")
        .with("OTEL_SERVICE_NAME", "careforall-test");
    let app = setup.start().await;
    let now = Clock::System.now();
    let endpoint = NewEndpoint {
        id: NoticeId::at(now).uuid(),
        url: format!("{}/hook", partner.url),
        description: None,
        event_types: vec!["payment.completed".to_owned()],
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
        created_at: now,
    };
    let store = Store::new(app.setup.database.url().parse().unwrap()).unwrap();
    assert!(store.create_endpoint(&endpoint).await.unwrap());
    life(&app, &traceparent("01")).await;
    // The end of the process flushes what was recorded.
    app.finish().await;

    let spans = collector.trace(TRACE);
    let mut lines = outline(&spans, "00f067aa0ba902b7");
    // In one process every consumer is handed every fact; the broker hands each what it is bound to.
    lines.retain(|line| !line.ends_with("process totals.queue (donation.created)"));
    assert_eq!(lines.join("\n"), OUTLINE);
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    for span in &spans {
        let is_root = span.parent_id == "00f067aa0ba902b7";
        assert!(is_root || known.contains(span.parent_id.as_str()), "a span hangs in the air: {span:?}");
        assert!(!span.failed && span.resource["service.name"] == "careforall-test", "{span:?}");
    }
    let root = spans.iter().find(|span| span.parent_id == "00f067aa0ba902b7").unwrap();
    let shown = ["http.request.method", "http.route", "http.response.status_code"].map(|name| &root.attributes[name]);
    assert_eq!(shown, ["POST", "/api/v1/donations", "201"]);

    // Stripe's request has a trace of its own; it points to the donor's, and what it did there points back.
    let all = collector.spans();
    let find = |name: &str| all.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"));
    let decided = find("decide payment_intent.succeeded");
    assert_ne!(decided.trace_id, TRACE);
    assert!(decided.links.iter().any(|(trace, _)| trace == TRACE), "{decided:?}");
    let request = all.iter().find(|span| span.span_id == decided.parent_id).unwrap();
    assert_eq!((request.name.as_str(), request.parent_id.as_str()), ("POST /webhooks/stripe", ""));
    let applied = find("apply payment_intent.succeeded");
    assert_eq!(applied.trace_id, TRACE);
    assert_eq!(applied.links, [(decided.trace_id.clone(), decided.span_id.clone())]);

    // A commit is for many: a trace of its own, linked to each item's.
    for (name, of) in [("commit creations", root), ("commit moves", applied)] {
        let links = (of.trace_id.clone(), of.span_id.clone());
        let commit = all.iter().find(|span| span.name == name && span.links.contains(&links));
        assert!(commit.is_some_and(|span| span.parent_id.is_empty()), "{name}");
    }
}

#[tokio::test]
async fn one_donations_life_is_one_trace_and_the_webhooks_trace_is_linked_to_it() {
    let collector = Collector::start().await;
    one_donations_life(traced(&collector).await, collector).await;
}

#[tokio::test]
async fn so_it_is_when_the_facts_go_through_rabbitmq() {
    let collector = Collector::start().await;
    one_donations_life(traced(&collector).await.with_amqp(), collector).await;
}

#[tokio::test]
async fn a_trace_that_its_caller_does_not_record_is_recorded_nowhere_and_one_that_it_does_is_recorded_in_any_case() {
    let collector = Collector::start().await;
    let app = traced(&collector).await.start().await;
    let donation = life_without_phone(&app, &traceparent("00")).await;
    app.finish().await;
    assert_eq!(collector.trace(TRACE).len(), 0, "of {donation}");
    assert!(collector.spans().iter().any(|span| span.name == "POST /api/v1/campaigns"), "others are");

    let collector = Collector::start().await;
    let app = traced(&collector).await.with("OTEL_TRACES_SAMPLER", "parentbased_always_off").start().await;
    life_without_phone(&app, &traceparent("01")).await;
    app.finish().await;
    let spans = collector.spans();
    let others: Vec<&Seen> =
        spans.iter().filter(|it| it.trace_id != TRACE && !it.name.starts_with("commit ")).collect();
    assert!(spans.iter().any(|span| span.name == "deliver EMAIL") && others.is_empty(), "{others:#?}");
}

async fn life_without_phone(app: &TestApp, traceparent: &str) -> Value {
    let campaign = app.campaign().await;
    let (status, donation) = read(app.donation(&campaign, 2500).header("traceparent", traceparent)).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    wait_until("both mails are written", DEADLINE, async || app.mails().len() == 2).await;
    donation
}

/// Whatever becomes of the receiver, donors do not notice; the operator is told once.
async fn donors_do_not_notice(endpoint: String) {
    let app = Setup::new().await.with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).start().await;
    let campaign = app.campaign().await;
    let lost = "careforall_trace_spans_total{outcome=\"lost\"}";
    wait_until("spans are lost", DEADLINE, async || {
        app.donate(&campaign, 2500).await;
        app.metric(lost).await > 0.0
    })
    .await;
    for _ in 0..20 {
        app.donate(&campaign, 2500).await;
    }
    let warnings = app.log().matches("spans are not taken").count();
    assert_eq!(warnings, 1, "{}", app.log());
    app.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_away_has_no_effect() {
    // Bound and closed again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    donors_do_not_notice(format!("http://{address}")).await;
}

#[tokio::test]
async fn a_receiver_that_hangs_has_no_effect_and_does_not_hold_up_the_end() {
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    donors_do_not_notice(format!("http://{}", silent.local_addr().unwrap())).await;
}

#[tokio::test]
async fn every_json_line_of_a_request_bears_its_trace() {
    let app = Setup::new().await.with("CAREFORALL_LOG_FORMAT", "json").start().await;
    let body = json!({"id": "evt_1", "object": "event", "type": "payment_intent.succeeded", "created": now(),
                      "data": {"object": {"id": 42}}})
    .to_string();
    let header = signature(crate::support::WEBHOOK_SECRET, now(), body.as_bytes());
    let request = app.request(Method::POST, "/webhooks/stripe").header("Stripe-Signature", header);
    let (status, answer) = read(request.header("traceparent", traceparent("01")).body(body)).await;
    assert_eq!((status, &answer["verdict"]), (StatusCode::OK, &json!("rejected")));
    let log = app.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_the_request: Vec<&Value> =
        lines.iter().filter(|line| line["fields"]["message"] == "a webhook of unknown shape").collect();
    let [line] = of_the_request[..] else { panic!("{log}") };
    assert_eq!(line["trace_id"], TRACE);
    assert!(line["span_id"].as_str().is_some_and(|id| id.len() == 16), "{line}");
    assert!(lines[0].get("trace_id").is_none(), "nobody's work: {}", lines[0]);
    app.finish().await;
}

#[tokio::test]
async fn doctor_says_whether_spans_are_taken() {
    let collector = Collector::start().await;
    let (_, out, _) = traced(&collector).await.run(&["doctor"]).await;
    assert!(out.contains(&format!("OK    traces     {} takes spans", collector.url)), "{out}");
    let (code, out, _) =
        Setup::new().await.with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").run(&["doctor"]).await;
    assert!(code == 1 && out.contains("FAIL  traces"), "{out}");
}

/// A receiver of somebody else's, which tells what it understood: a span a line.
struct Stranger {
    url: String,
    told: tempfile::NamedTempFile,
    child: std::process::Child,
}

impl Stranger {
    async fn start() -> Option<Self> {
        let program = venv_tool("oteltap")?;
        let (port, told) = (free_port(), tempfile::NamedTempFile::new().unwrap());
        let mut command = std::process::Command::new(program);
        command.args(["--port", &port.to_string()]).env("PYTHONUNBUFFERED", "1").stdin(std::process::Stdio::null());
        let child = command.stdout(told.reopen().unwrap()).spawn().unwrap();
        let stranger = Self { url: format!("http://127.0.0.1:{port}"), told, child };
        wait_until("it listens", DEADLINE, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
            .await;
        Some(stranger)
    }

    fn spans(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.told.path()).unwrap();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_receiver_that_others_wrote_reads_the_same_trace() {
    let Some(stranger) = Stranger::start().await else { return };
    let setup = Setup::new().await.with("OTEL_EXPORTER_OTLP_ENDPOINT", &stranger.url);
    let app = setup.start().await;
    let body = donation_body(&app.campaign().await, 2500);
    let request = app.request(Method::POST, "/api/v1/donations").header("traceparent", traceparent("01"));
    let (status, donation) = read(request.json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    app.finish().await;

    let of_the_trace =
        || -> Vec<Value> { stranger.spans().into_iter().filter(|span| span["traceId"] == TRACE).collect() };
    let is_there = |name: &str| of_the_trace().iter().any(|span| span["name"] == name);
    wait_until("it has told everything", DEADLINE, async || {
        ["POST /api/v1/donations", "POST /v1/payment_intents", "apply payment_intent.succeeded", "deliver EMAIL"]
            .iter()
            .all(|name| is_there(name))
            && stranger.spans().iter().any(|span| span["name"] == "decide payment_intent.succeeded")
    })
    .await;
    let spans = of_the_trace();
    let known: BTreeSet<&str> = spans.iter().filter_map(|span| span["spanId"].as_str()).collect();
    for span in &spans {
        let parent = text(&span["parentSpanId"]);
        assert!(known.contains(parent) || parent == "00f067aa0ba902b7", "a span hangs in the air: {span}");
        let [began, ended] = ["startTimeUnixNano", "endTimeUnixNano"].map(|at| text(&span[at]).parse::<u64>().unwrap());
        assert!(began > 0 && began <= ended, "{span}");
    }
    let root = spans.iter().find(|span| span["parentSpanId"] == "00f067aa0ba902b7").unwrap();
    let status = json!({"key": "http.response.status_code", "value": {"intValue": "201"}});
    assert!(root["attributes"].as_array().unwrap().contains(&status) && root["kind"] == 2, "{root}");
    let all = stranger.spans();
    let decided = all.iter().find(|span| span["name"] == "decide payment_intent.succeeded").unwrap();
    assert_eq!(decided["links"][0]["traceId"], TRACE);
}
