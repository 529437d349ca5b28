//! Webhooks: which are believed, what becomes of each, and that neither copies, nor order, nor a second process changes
//! where a payment ends.

use std::path::Path;
use std::process::Stdio;

use bb8_redis::redis;
use careforall::domain::payment::PaymentStatus;
use careforall::domain::payment::status::EDGES;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::services::{redis_url, wait_until};
use crate::support::{
    DEADLINE, Setup, TestApp, WEBHOOK_SECRET, donation_body, event, intent_event, now, signature, text,
};

const PROCESSING: &str = "payment_intent.processing";
const AUTHORIZED: &str = "payment_intent.amount_capturable_updated";
const FAILED: &str = "payment_intent.payment_failed";
const SUCCEEDED: &str = "payment_intent.succeeded";
const CANCELED: &str = "payment_intent.canceled";

/// Delivers it and gives its verdict; the answer must be a 200.
pub async fn verdict(app: &TestApp, event: &Value) -> String {
    let (status, answer) = app.webhook(event).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    text(&answer["verdict"]).to_owned()
}

/// Delivers it: its verdict, and whether the answer was marked as replayed.
async fn deliver(app: &TestApp, event: &Value) -> (String, bool) {
    let body = event.to_string();
    let header = signature(WEBHOOK_SECRET, now(), body.as_bytes());
    let (status, replayed, answer) = app.webhook_with(Some(&header), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    (text(&answer["verdict"]).to_owned(), replayed)
}

pub async fn status(app: &TestApp, donation: &Value) -> String {
    text(&app.payment(donation).await["status"]).to_owned()
}

/// What the events wrote: (status before, status after, verdict), oldest first, without the opening.
async fn steps(app: &TestApp, donation: &Value) -> Vec<(String, String, String)> {
    let from_webhooks = app.timeline(donation).await.into_iter().filter(|row| row["source"] == "webhook");
    from_webhooks
        .map(|row| (text(&row["from"]).to_owned(), text(&row["to"]).to_owned(), text(&row["verdict"]).to_owned()))
        .collect()
}

/// Rows of all that a webhook could leave behind.
async fn rows(app: &TestApp) -> i64 {
    app.count(
        "select (select count(*) from payments.payment_state_history) + (select count(*) from payments.parked_events)
              + (select count(*) from payments.idempotency_keys) + (select count(*) from payments.ledger_entries)",
    )
    .await
}

async fn ledger(app: &TestApp, donation: &Value) -> Vec<(String, i64)> {
    let client = app.setup.database.connect().await;
    let sql = format!(
        "select kind, amount_minor from payments.ledger_entries where payment_id = '{}' order by id",
        text(&donation["payment"]["id"])
    );
    client.query(&sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn totals_become(app: &TestApp, campaign: &Value, raised_minor: i64, donation_count: i64) {
    wait_until(&format!("{raised_minor} raised by {donation_count}"), DEADLINE, async || {
        let totals = app.totals(campaign).await;
        (&totals["raised_minor"], &totals["donation_count"]) == (&json!(raised_minor), &json!(donation_count))
    })
    .await;
}

/// The sandbox keeps its events to itself, so that a test sends them as it likes.
pub async fn hold_events(app: &TestApp) {
    app.control("/webhooks", json!({"enabled": false})).await;
}

/// Every event that the sandbox made, oldest first.
pub async fn sandbox_events(app: &TestApp) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        let after = events.last().map(|event| format!("&starting_after={}", text(&event["id"]))).unwrap_or_default();
        let (status, page) = app.stripe(Method::GET, &format!("/v1/events?limit=100{after}"), &[]).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        events.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["has_more"] != true {
            break;
        }
    }
    events.reverse();
    events
}

// Signatures -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_webhook_that_is_not_stripes_is_refused_and_leaves_nothing_behind() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let body = intent_event(&donation, SUCCEEDED, now(), json!({})).to_string();
    let before = rows(&app).await;
    let good = |timestamp| signature(WEBHOOK_SECRET, timestamp, body.as_bytes());
    let digest = good(now()).split_once("v1=").unwrap().1.to_owned();
    let changed = body.replacen("2500", "2501", 1);
    let cases = [
        ("no header", None, body.clone(), None),
        ("an empty header", Some(String::new()), body.clone(), None),
        ("another secret", Some(signature("whsec_other", now(), body.as_bytes())), body.clone(), Some("mismatch")),
        ("a changed byte", Some(good(now())), changed, Some("mismatch")),
        ("a byte more", Some(good(now())), format!("{body} "), None),
        ("another time", Some(format!("t={},v1={digest}", now() + 1)), body.clone(), None),
        ("only an old scheme", Some(format!("t={},v0={digest}", now())), body.clone(), Some("no_signature")),
        ("no time", Some(format!("v1={digest}")), body.clone(), Some("missing_timestamp")),
        ("rubbish", Some("rubbish".to_owned()), body.clone(), None),
        ("301 s old", Some(good(now() - 301)), body.clone(), Some("too_old")),
        ("a year old", Some(good(now() - 365 * 24 * 3600)), body.clone(), None),
    ];
    for (case, header, sent, reason) in cases {
        let counter =
            format!("careforall_webhook_signature_failures_total{{reason=\"{}\"}}", reason.unwrap_or_default());
        let counted = app.metric(&counter).await;
        let (status, _, problem) = app.webhook_with(header.as_deref(), sent).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{case}: {problem}");
        assert_eq!(problem["type"], "urn:careforall:problem:malformed-request", "{case}");
        assert_eq!(problem["errors"][0]["pointer"], "/headers/Stripe-Signature", "{case}");
        assert!(reason.is_none() || app.metric(&counter).await > counted, "{case} is counted");
    }
    assert_eq!(rows(&app).await, before, "nothing is stored");
    assert_eq!(status(&app, &donation).await, "INITIATED");
    app.finish().await;
}

#[tokio::test]
async fn a_signature_of_299_seconds_is_young_enough_and_one_from_the_future_is_accepted_and_counted() {
    let app = Setup::new().await.start().await;
    loop {
        let unrelated = event("customer.created", now(), json!({"id": "cus_1"}));
        let signed_at = now() - 299;
        let (status, answer) = app.webhook_signed(unrelated.to_string(), signed_at).await;
        // A machine so slow that two seconds passed meanwhile has shown nothing.
        if now() - signed_at <= 300 {
            assert_eq!((status, text(&answer["verdict"])), (StatusCode::OK, "ignored"));
            break;
        }
    }
    for ahead in [299, 600, 24 * 3600] {
        let unrelated = event("customer.created", now(), json!({"id": "cus_1"}));
        assert_eq!(app.webhook_signed(unrelated.to_string(), now() + ahead).await.0, StatusCode::OK, "{ahead}");
    }
    assert!((app.metric("careforall_webhook_clock_ahead_total").await - 2.0).abs() < 0.1);
    app.finish().await;
}

#[tokio::test]
async fn while_a_secret_is_rolled_either_may_sign_and_any_v1_may_match() {
    let setup = Setup::new().await.with("STRIPE_WEBHOOK_SECRET", "whsec_new, whsec_old");
    let app = setup.start().await;
    let send = async |sign: &dyn Fn(&[u8]) -> String| {
        let body = event("customer.created", now(), json!({"id": "cus_1"})).to_string();
        app.webhook_with(Some(&sign(body.as_bytes())), body).await.0
    };
    let digest = |secret: &str, body: &[u8]| signature(secret, now(), body).split_once("v1=").unwrap().1.to_owned();
    assert_eq!(send(&|body| signature("whsec_new", now(), body)).await, 200);
    assert_eq!(send(&|body| signature("whsec_old", now(), body)).await, 200);
    for secrets in [["whsec_old", "whsec_gone"], ["whsec_gone", "whsec_old"], ["whsec_new", "whsec_old"]] {
        let both =
            |body: &[u8]| format!("t={},v1={},v1={},v0=00", now(), digest(secrets[0], body), digest(secrets[1], body));
        assert_eq!(send(&both).await, 200, "{secrets:?}");
    }
    assert_eq!(send(&|body| signature("whsec_gone", now(), body)).await, 400);
    assert_eq!(send(&|body| signature("whsec_new, whsec_old", now(), body)).await, 400);
    // The sandbox of this process signs as well: the whole road works while a secret is rolled.
    let donation = app.donate(&app.campaign().await, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    app.finish().await;
}

/// Stripe's own library for Python: what it signs we accept, and what the sandbox signs it accepts.
#[tokio::test]
async fn stripes_own_library_and_we_agree_about_signatures() {
    const SIGN: &str = "
import stripe, sys, time
body, secret = sys.stdin.read(), sys.argv[1]
at = int(time.time())
digest = stripe.WebhookSignature._compute_signature(f'{at}.{body}', secret)
header = f't={at},v1={digest}'
stripe.Webhook.construct_event(body, header, secret)
try:
    stripe.Webhook.construct_event(body + ' ', header, secret)
    sys.exit('a changed body passes')
except stripe.SignatureVerificationError:
    pass
ours = sys.argv[2]
stripe.WebhookSignature.verify_header(body, ours, secret, tolerance=300)
print(header)
";
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: {} is not there; scripts/make-test-venv makes it", python.display());
        return;
    }
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let body = intent_event(&donation, SUCCEEDED, now(), json!({"description": "Wells für alle — 水"})).to_string();
    let ours = signature(WEBHOOK_SECRET, now(), body.as_bytes());
    let mut command = tokio::process::Command::new(python);
    command
        .args(["-c", SIGN, WEBHOOK_SECRET, &ours])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, body.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let header = String::from_utf8(output.stdout).unwrap();
    let changed = body.replacen("2500", "2501", 1);
    assert_eq!(app.webhook_with(Some(header.trim()), changed).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(status(&app, &donation).await, "INITIATED");
    let (status, _, answer) = app.webhook_with(Some(header.trim()), body).await;
    assert_eq!((status, text(&answer["verdict"])), (StatusCode::OK, "applied"));
    app.settle(&donation, "COMPLETED").await;
    app.finish().await;
}

// Verdicts ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn one_event_of_an_automatic_capture_walks_two_steps_in_one_commit() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let paid = intent_event(&donation, SUCCEEDED, now(), json!({}));
    assert_eq!(verdict(&app, &paid).await, "applied");
    let rows: Vec<Value> =
        app.timeline(&donation).await.into_iter().filter(|row| row["event_id"] == paid["id"]).collect();
    let walked: Vec<_> = rows.iter().map(|row| (text(&row["from"]), text(&row["to"]))).collect();
    assert_eq!(walked, [("INITIATED", "AUTHORIZED"), ("AUTHORIZED", "CAPTURED")]);
    assert_eq!(rows[0]["at"], rows[1]["at"]);
    assert_eq!(rows[1]["version"].as_i64(), rows[0]["version"].as_i64().map(|version| version + 1));
    assert_eq!(ledger(&app, &donation).await, [("CAPTURE".to_owned(), 2500)]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

async fn a_repeated_event_changes_nothing(setup: Setup) {
    let app = setup.start().await;
    let second = app.second().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let paid = intent_event(&donation, SUCCEEDED, now(), json!({}));
    let older = intent_event(&donation, FAILED, now() - 60, json!({}));
    assert_eq!(deliver(&app, &paid).await, ("applied".to_owned(), false));
    assert_eq!(deliver(&app, &older).await, ("stale".to_owned(), false));
    for process in [&app, &second, &app, &second] {
        for event in [&paid, &older] {
            assert_eq!(deliver(process, event).await, ("duplicate".to_owned(), true));
        }
    }
    second.finish().await;
    // Its memory is cold afterwards.
    let app = app.stop().await.start().await;
    for event in [&paid, &older] {
        assert_eq!(deliver(&app, event).await, ("duplicate".to_owned(), true));
    }
    // An event with the same id is the same event, whatever else it says.
    let mut forged = intent_event(&donation, CANCELED, now() + 5, json!({}));
    forged["id"] = paid["id"].clone();
    assert_eq!(deliver(&app, &forged).await, ("duplicate".to_owned(), true));
    assert_eq!(steps(&app, &donation).await.len(), 3, "two steps of the first event, one row of the second");
    assert_eq!(ledger(&app, &donation).await, [("CAPTURE".to_owned(), 2500)]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn a_repeated_event_changes_nothing_on_any_process_nor_after_a_restart() {
    a_repeated_event_changes_nothing(Setup::new().await).await;
}

#[tokio::test]
async fn a_repeated_event_changes_nothing_with_redis_either() {
    a_repeated_event_changes_nothing(Setup::new().await.with_redis()).await;
}

#[tokio::test]
async fn an_event_older_than_what_is_known_is_stale_and_kept_in_the_history() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let at = now();
    assert_eq!(verdict(&app, &intent_event(&donation, AUTHORIZED, at, json!({}))).await, "applied");
    for kind in [PROCESSING, FAILED, CANCELED] {
        assert_eq!(verdict(&app, &intent_event(&donation, kind, at - 1, json!({}))).await, "stale", "{kind}");
    }
    assert_eq!(status(&app, &donation).await, "AUTHORIZED");
    let history = steps(&app, &donation).await;
    assert_eq!(history.len(), 4);
    assert!(history[1..].iter().all(|(from, to, verdict)| from == to && verdict == "stale"), "{history:?}");
    assert!(app.timeline(&donation).await.iter().all(|row| !text(&row["reason"]).is_empty()));
    app.finish().await;
}

#[tokio::test]
async fn money_that_is_not_what_was_asked_for_is_flagged_and_never_booked() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for (case, more) in [
        ("too little", json!({"amount_received": 2499})),
        ("too much", json!({"amount_received": 250_000})),
        ("nothing", json!({"amount_received": 0})),
        ("another currency", json!({"currency": "usd"})),
    ] {
        let donation = app.donate(&campaign, 2500).await;
        let received = intent_event(&donation, SUCCEEDED, now(), more);
        assert_eq!(deliver(&app, &received).await, ("rejected".to_owned(), false), "{case}");
        assert_eq!(deliver(&app, &received).await, ("duplicate".to_owned(), true), "{case}");
        let payment = app.payment(&donation).await;
        assert_eq!((text(&payment["status"]), &payment["captured_minor"]), ("INITIATED", &json!(0)), "{case}");
        assert!(text(&payment["flag"]).contains("asked for"), "{case}: {payment}");
        assert_eq!(ledger(&app, &donation).await, [], "{case}");
        assert_eq!(app.donation_now(&donation).await["status"], "PENDING", "{case}");
    }
    assert!((app.metric("careforall_payments_flagged_total").await - 4.0).abs() < 0.1);
    let (_, flagged) = app.get("/api/v1/payments?flagged=true").await;
    assert_eq!(flagged["items"].as_array().unwrap().len(), 4);
    assert_eq!(app.totals(&campaign).await["raised_minor"], 0);
    app.finish().await;
}

#[tokio::test]
async fn an_event_that_names_our_payment_but_another_intent_is_rejected() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let other = intent_event(&donation, SUCCEEDED, now(), json!({"id": "pi_other"}));
    assert_eq!(verdict(&app, &other).await, "rejected");
    assert_eq!(status(&app, &donation).await, "INITIATED");
    app.finish().await;
}

#[tokio::test]
async fn an_event_that_is_none_of_ours_is_ignored_once_and_a_duplicate_afterwards() {
    let app = Setup::new().await.start().await;
    let unrelated = event("customer.created", now(), json!({"id": "cus_1"}));
    assert_eq!(deliver(&app, &unrelated).await, ("ignored".to_owned(), false));
    assert_eq!(deliver(&app, &unrelated).await, ("duplicate".to_owned(), true));
    assert_eq!(app.count("select count(*) from payments.idempotency_keys").await, 1);
    for verdict in ["ignored", "duplicate"] {
        let counter = format!("careforall_webhook_events_total{{verdict=\"{verdict}\"}}");
        assert!((app.metric(&counter).await - 1.0).abs() < 0.1, "{verdict}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_event_of_unknown_shape_is_rejected_counted_and_never_a_panic() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let before = rows(&app).await;
    let good = intent_event(&donation, SUCCEEDED, now(), json!({}));
    let dispute = event("charge.dispute.created", now(), json!({"id": "du_1", "amount": 1, "status": "perplexed"}));
    let mut shapes = vec![json!(null), json!(17), json!([]), json!({}), json!({"id": 1, "type": SUCCEEDED}), dispute];
    for (at, value) in [
        ("/data", Value::Null),
        ("/data/object", json!("pi_1")),
        ("/data/object/id", json!(17)),
        ("/data/object/amount_received", json!(-1)),
        ("/data/object/amount_received", json!(10.5)),
        ("/data/object/amount_received", json!("2500")),
        ("/data/object/currency", json!("euros")),
        ("/created", json!("today")),
    ] {
        let mut shape = good.clone();
        *shape.pointer_mut(at).unwrap() = value;
        shapes.push(shape);
    }
    for (number, shape) in (1_u32..).zip(&shapes) {
        for _ in 0..2 {
            assert_eq!(deliver(&app, shape).await, ("rejected".to_owned(), false), "{shape}");
        }
        let counted = app.metric("careforall_webhook_malformed_total").await;
        assert!((counted - f64::from(2 * number)).abs() < 0.1, "{shape}: {counted}");
    }
    assert_eq!(rows(&app).await, before, "nothing is stored: once we understand it, it is to be understood");
    assert_eq!(verdict(&app, &good).await, "applied", "the event that was sent broken is no duplicate");
    app.finish().await;
}

#[tokio::test]
async fn versions_and_fields_of_the_api_that_are_not_known_are_no_concern() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for version in [json!("2031-12-31.zebra"), json!(17), json!({"a": 1}), Value::Null] {
        let donation = app.donate(&campaign, 2500).await;
        let mut paid = intent_event(&donation, SUCCEEDED, now(), json!({"new": {"deep": [1, {"a": null}]}}));
        paid["api_version"] = version.clone();
        paid["more"] = json!([[], {}]);
        assert_eq!(verdict(&app, &paid).await, "applied", "{version}");
    }
    totals_become(&app, &campaign, 10_000, 4).await;
    app.finish().await;
}

#[tokio::test]
async fn a_body_that_is_no_text_or_too_large_is_refused_though_it_is_signed() {
    let app = Setup::new().await.start().await;
    let good = event("customer.created", now(), json!({"id": "cus_1"})).to_string();
    let large = format!("{good}{}", " ".repeat(512 * 1024));
    for (case, body, expected) in [
        ("not UTF-8", [good.as_bytes(), b"\xff"].concat(), 400),
        ("a NUL", [good.as_bytes(), b"\0"].concat(), 400),
        ("too large", large.into_bytes(), 413),
    ] {
        let header = signature(WEBHOOK_SECRET, now(), &body);
        let (status, _, problem) = app.webhook_with(Some(&header), body).await;
        assert_eq!((status.as_u16(), &problem["status"]), (expected, &json!(expected)), "{case}: {problem}");
    }
    assert_eq!(rows(&app).await, 0);
    app.finish().await;
}

// Parked -----------------------------------------------------------------------------------------------------------

/// A donation whose intent the sandbox has, while we do not know it: `fault` keeps the answer from us.
async fn donation_without_its_intent(app: &TestApp, campaign: &Value, fault: Value) -> (Value, Value) {
    app.control("/faults", fault).await;
    let listed = async || app.stripe(Method::GET, "/v1/payment_intents", &[]).await.1["data"][0].clone();
    let post = app.request(Method::POST, "/api/v1/donations").json(&donation_body(campaign, 2500)).send();
    let (answer, ()) =
        tokio::join!(post, wait_until("the sandbox has the intent", DEADLINE, async || listed().await.is_object()));
    let donation: Value = answer.unwrap().json().await.unwrap();
    assert!(donation["id"].is_string() && donation["payment"]["intent_id"].is_null(), "{donation}");
    (donation, listed().await)
}

/// The first answer comes late: the actor waits for it.
fn held() -> Value {
    json!({"mode": "timeout_after_effect", "on": "create", "delay_ms": 4000})
}

/// No answer comes at all: the actor has given up for now.
fn lost() -> Value {
    json!({"mode": "timeout_after_effect", "on": "create", "delay_ms": 10, "times": 1000})
}

/// The success of an intent, without the metadata that names our payment.
fn nameless_success(intent: &Value) -> Value {
    let mut object = intent.clone();
    object["status"] = json!("succeeded");
    object["amount_received"] = object["amount"].clone();
    object["metadata"] = json!({});
    event(SUCCEEDED, now(), object)
}

#[tokio::test]
async fn an_event_for_a_payment_that_is_not_here_is_parked_once() {
    let app = Setup::new().await.start().await;
    let stranger = json!({
        "id": "pi_stranger", "object": "payment_intent", "amount": 2500, "currency": "eur", "status": "requires_capture",
    });
    let nameless = nameless_success(&stranger);
    let mut named = nameless_success(&stranger);
    named["data"]["object"]["metadata"] = json!({"payment_id": "01980000-0000-7000-8000-000000000000"});
    for event in [&nameless, &named] {
        for _ in 0..3 {
            assert_eq!(deliver(&app, event).await, ("parked".to_owned(), false));
        }
    }
    assert_eq!(rows(&app).await, 2, "two parked events and nothing else");
    assert_eq!(app.count("select count(*) from payments.parked_events").await, 2);
    app.finish().await;
}

#[tokio::test]
async fn a_parked_event_is_applied_when_its_payment_learns_its_intent() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (donation, intent) = donation_without_its_intent(&app, &campaign, held()).await;
    let paid = nameless_success(&intent);
    assert_eq!(deliver(&app, &paid).await, ("parked".to_owned(), false));
    app.settle(&donation, "COMPLETED").await;
    wait_until("the event waits no more", DEADLINE, async || {
        app.count("select count(*) from payments.parked_events").await == 0
    })
    .await;
    assert_eq!(deliver(&app, &paid).await, ("duplicate".to_owned(), true));
    assert_eq!(ledger(&app, &donation).await, [("CAPTURE".to_owned(), 2500)]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn a_parked_event_that_comes_again_when_the_intent_is_known_is_applied() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (donation, intent) = donation_without_its_intent(&app, &campaign, lost()).await;
    let paid = nameless_success(&intent);
    assert_eq!(deliver(&app, &paid).await, ("parked".to_owned(), false));
    let client = app.setup.database.connect().await;
    let sql = "update payments.payment_transactions set intent_id = $1";
    assert_eq!(client.execute(sql, &[&text(&intent["id"])]).await.unwrap(), 1);
    assert_eq!(deliver(&app, &paid).await, ("applied".to_owned(), false));
    assert_eq!(deliver(&app, &paid).await, ("duplicate".to_owned(), true));
    assert_eq!(app.count("select count(*) from payments.parked_events").await, 0);
    app.settle(&donation, "COMPLETED").await;
    assert_eq!(ledger(&app, &donation).await, [("CAPTURE".to_owned(), 2500)]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn an_event_that_beats_our_own_commit_of_the_intent_is_applied_by_its_metadata() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (donation, intent) = donation_without_its_intent(&app, &campaign, lost()).await;
    let mut paid = nameless_success(&intent);
    paid["data"]["object"]["metadata"] = intent["metadata"].clone();
    assert_eq!(deliver(&app, &paid).await, ("applied".to_owned(), false));
    let settled = app.settle(&donation, "COMPLETED").await;
    assert_eq!(settled["payment"]["intent_id"], intent["id"]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn a_refund_that_comes_before_we_know_the_intent_counts_once_an_event_tells_it() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (donation, intent) = donation_without_its_intent(&app, &campaign, lost()).await;
    let refund = json!({
        "id": "re_early", "object": "refund", "amount": 700, "currency": "eur", "payment_intent": intent["id"],
        "status": "succeeded", "metadata": {},
    });
    let refunded = event("refund.created", now() + 1, refund);
    assert_eq!(deliver(&app, &refunded).await, ("parked".to_owned(), false));
    let mut paid = nameless_success(&intent);
    paid["data"]["object"]["metadata"] = intent["metadata"].clone();
    assert_eq!(deliver(&app, &paid).await, ("applied".to_owned(), false));
    app.settle(&donation, "COMPLETED").await;
    totals_become(&app, &campaign, 1800, 1).await;
    assert_eq!(app.count("select count(*) from payments.parked_events").await, 0);
    assert_eq!(deliver(&app, &refunded).await, ("duplicate".to_owned(), true));
    app.finish().await;
}

// Order ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn in_one_second_an_authorization_outranks_a_decline_in_either_order() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for order in [[AUTHORIZED, FAILED], [FAILED, AUTHORIZED]] {
        let donation = app.donate(&campaign, 2500).await;
        let at = now();
        for kind in order {
            verdict(&app, &intent_event(&donation, kind, at, json!({}))).await;
        }
        assert_eq!(status(&app, &donation).await, "AUTHORIZED", "{order:?}");
    }
    app.finish().await;
}

#[tokio::test]
async fn in_one_second_final_outranks_open_in_either_order() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for (last, end) in [(SUCCEEDED, "CAPTURED"), (CANCELED, "CANCELED")] {
        for open in [PROCESSING, FAILED, AUTHORIZED] {
            for order in [[open, last], [last, open]] {
                let donation = app.donate(&campaign, 2500).await;
                let at = now();
                for kind in order {
                    verdict(&app, &intent_event(&donation, kind, at, json!({}))).await;
                }
                assert_eq!(status(&app, &donation).await, end, "{order:?}");
            }
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn in_one_second_the_provider_decides_between_processing_and_failed() {
    let app = Setup::new().await.start().await;
    hold_events(&app).await;
    let campaign = app.campaign().await;
    for (method, end) in [("pm_usBankAccount_processing", "PROCESSING"), ("pm_card_chargeDeclined", "FAILED")] {
        for order in [[PROCESSING, FAILED], [FAILED, PROCESSING]] {
            let donation = app.donate(&campaign, 2500).await;
            app.pay(&donation, method).await;
            let at = now();
            for kind in order {
                verdict(&app, &intent_event(&donation, kind, at, json!({}))).await;
            }
            assert_eq!(status(&app, &donation).await, end, "{order:?} of {method}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn a_decline_that_comes_after_the_capture_does_not_undo_it() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let at = now();
    assert_eq!(verdict(&app, &intent_event(&donation, SUCCEEDED, at, json!({}))).await, "applied");
    assert_eq!(verdict(&app, &intent_event(&donation, FAILED, at - 5, json!({}))).await, "stale");
    assert_eq!(verdict(&app, &intent_event(&donation, FAILED, at, json!({}))).await, "stale");
    assert_eq!(verdict(&app, &intent_event(&donation, FAILED, at + 5, json!({}))).await, "rejected");
    assert_eq!(verdict(&app, &intent_event(&donation, CANCELED, at + 6, json!({}))).await, "rejected");
    app.settle(&donation, "COMPLETED").await;
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

// The state table --------------------------------------------------------------------------------------------------

/// The event by which Stripe says that a payment stands at `to`; `None` where it has none.
fn event_to(donation: &Value, to: PaymentStatus, at: i64, from: PaymentStatus) -> Option<Value> {
    let kind = match to {
        PaymentStatus::Initiated => return None,
        PaymentStatus::Processing => PROCESSING,
        PaymentStatus::Authorized => AUTHORIZED,
        PaymentStatus::Failed => FAILED,
        PaymentStatus::Canceled => CANCELED,
        // The bank sent the refund back.
        PaymentStatus::Captured if from == PaymentStatus::Refunded => return Some(refund(donation, at, "failed")),
        PaymentStatus::Captured => SUCCEEDED,
        PaymentStatus::Refunded => return Some(refund(donation, at, "succeeded")),
    };
    Some(intent_event(donation, kind, at, json!({})))
}

/// A refund of everything.
fn refund(donation: &Value, at: i64, status: &str) -> Value {
    let intent = &donation["payment"]["intent_id"];
    let object = json!({
        "id": format!("re_{}", text(intent)), "object": "refund", "amount": donation["amount_minor"],
        "currency": "eur", "payment_intent": intent, "status": status, "metadata": {},
    });
    event(if status == "failed" { "refund.failed" } else { "refund.created" }, at, object)
}

#[tokio::test]
async fn every_edge_and_every_non_edge_of_the_state_table_holds_for_real_webhooks() {
    use PaymentStatus::{Captured, Initiated, Refunded};
    let app = Setup::new().await.start().await;
    hold_events(&app).await;
    let campaign = app.campaign().await;
    let mut walked = std::collections::BTreeSet::new();
    for from in PaymentStatus::ALL {
        for to in PaymentStatus::ALL {
            let case = format!("{from:?} to {to:?}");
            let donation = app.donate(&campaign, 2500).await;
            let Some(event) = event_to(&donation, to, now() + 2, from) else { continue };
            if from == Refunded {
                let paid = event_to(&donation, Captured, now(), Initiated).unwrap();
                assert_eq!(verdict(&app, &paid).await, "applied", "{case}");
            }
            if from == Refunded || from == Captured {
                // Refunds say nothing before a capture.
                let paid = event_to(&donation, Captured, now(), Initiated).unwrap();
                verdict(&app, &paid).await;
            }
            if let Some(start) = event_to(&donation, from, now() + 1, Initiated).filter(|_| from != Captured) {
                assert_eq!(verdict(&app, &start).await, "applied", "{case}");
            }
            assert_eq!(status(&app, &donation).await, from.as_str(), "{case}");
            let before = steps(&app, &donation).await.len();
            let got = verdict(&app, &event).await;
            let (end, expected) = expected(from, to);
            assert_eq!(
                (status(&app, &donation).await.as_str(), got.as_str()),
                (end.as_str(), expected),
                "{case}: {:?}",
                app.timeline(&donation).await
            );
            let rows = steps(&app, &donation).await;
            let moves: Vec<_> = rows[before..].iter().filter(|(from, to, _)| from != to).collect();
            let length = if end == from { 0 } else { from.path_to(end).unwrap().len() };
            assert_eq!(moves.len(), length, "{case}: {rows:?}");
            for (from, to, _) in rows.iter().filter(|(from, to, _)| from != to) {
                let (from, to) = (PaymentStatus::parse(from).unwrap(), PaymentStatus::parse(to).unwrap());
                assert!(EDGES.iter().any(|(at, next)| *at == from && next.contains(&to)), "{case}: {from:?} to {to:?}");
                walked.insert(format!("{from:?} to {to:?}"));
            }
        }
    }
    let all = EDGES.iter().flat_map(|(from, to)| to.iter().map(move |to| format!("{from:?} to {to:?}")));
    let never: Vec<String> = all.filter(|edge| !walked.contains(edge)).collect();
    // Stripe writes a released authorization as a cancellation: no event of its own walks this edge.
    assert_eq!(never, ["Authorized to Refunded"]);
    app.finish().await;
}

/// Where an event that says `to` leads a payment that stands at `from`, and by what verdict.
fn expected(from: PaymentStatus, to: PaymentStatus) -> (PaymentStatus, &'static str) {
    use PaymentStatus::{Canceled, Captured, Refunded};
    match (from, to) {
        (Captured | Canceled | Refunded, _) if from == to => (from, "stale"),
        (Refunded, Captured) | (Captured, Refunded) => (to, "applied"),
        // Money that moved does not un-move.
        (Captured | Refunded, _) => (from, "rejected"),
        // A refund before its capture is kept, and counts once the capture is known.
        (_, Refunded) => (from, "applied"),
        (Canceled, _) => (from, "rejected"),
        (_, _) => (to, "applied"),
    }
}

#[tokio::test]
async fn a_released_authorization_ends_canceled_in_either_order_of_its_events() {
    let app = Setup::new().await.start().await;
    hold_events(&app).await;
    let campaign = app.campaign_with(json!({"manual_capture": true})).await;
    for reversed in [false, true] {
        let donation = app.donate(&campaign, 2500).await;
        let intent = text(&donation["payment"]["intent_id"]).to_owned();
        app.pay(&donation, "pm_card_visa").await;
        app.stripe(Method::POST, &format!("/v1/payment_intents/{intent}/cancel"), &[]).await;
        let mut events = sandbox_events(&app).await;
        events.retain(|event| event.to_string().contains(&intent));
        if reversed {
            events.reverse();
        }
        for event in &events {
            verdict(&app, event).await;
        }
        assert_eq!(status(&app, &donation).await, "CANCELED", "reversed: {reversed}");
        assert_eq!(ledger(&app, &donation).await, []);
    }
    app.finish().await;
}

// Refunds, disputes, debits ----------------------------------------------------------------------------------------

async fn paid(app: &TestApp, campaign: &Value, method: &str) -> Value {
    let donation = app.donate(campaign, 2500).await;
    app.pay(&donation, method).await;
    app.settle(&donation, "COMPLETED").await;
    donation
}

pub async fn refund_at_stripe(app: &TestApp, donation: &Value, amount: &str) -> Value {
    let form = [("payment_intent", text(&donation["payment"]["intent_id"])), ("amount", amount)];
    let (status, refund) = app.stripe(Method::POST, "/v1/refunds", &form).await;
    assert_eq!(status, StatusCode::OK, "{refund}");
    refund
}

#[tokio::test]
async fn refunds_made_in_stripes_dashboard_are_followed_part_by_part() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = paid(&app, &campaign, "pm_card_visa").await;
    refund_at_stripe(&app, &donation, "700").await;
    totals_become(&app, &campaign, 1800, 1).await;
    refund_at_stripe(&app, &donation, "800").await;
    totals_become(&app, &campaign, 1000, 1).await;
    assert_eq!(status(&app, &donation).await, "CAPTURED");
    refund_at_stripe(&app, &donation, "1000").await;
    app.settle(&donation, "REFUNDED").await;
    totals_become(&app, &campaign, 0, 0).await;
    let lines: Vec<i64> = ledger(&app, &donation).await.into_iter().map(|(_, amount)| amount).collect();
    assert_eq!(lines, [2500, -700, -800, -1000]);
    app.finish().await;
}

#[tokio::test]
async fn a_refund_that_fails_gives_the_money_back_to_the_total() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = paid(&app, &campaign, "pm_card_refundFail").await;
    refund_at_stripe(&app, &donation, "2500").await;
    wait_until("the refund failed", DEADLINE, async || ledger(&app, &donation).await.len() == 3).await;
    let lines = [("CAPTURE", 2500), ("REFUND", -2500), ("REFUND_FAILED", 2500)];
    assert_eq!(ledger(&app, &donation).await, lines.map(|(kind, amount)| (kind.to_owned(), amount)));
    app.settle(&donation, "COMPLETED").await;
    assert_eq!(app.payment(&donation).await["refunded_minor"], 0);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn a_dispute_takes_the_money_away_and_gives_it_back_when_it_is_won() {
    let app = Setup::new().await.start().await;
    for (end, raised) in [("won", 2500), ("lost", 0)] {
        let campaign = app.campaign().await;
        let donation = paid(&app, &campaign, "pm_card_createDispute").await;
        totals_become(&app, &campaign, 0, 1).await;
        assert_eq!(app.payment(&donation).await["disputed_minor"], 2500);
        let client = app.setup.database.connect().await;
        let sql = format!("select id from payments.disputes where payment_id = '{}'", text(&donation["payment"]["id"]));
        let dispute: String = client.query_one(&sql, &[]).await.unwrap().get(0);
        for stage in ["under_review", end] {
            app.control(&format!("/disputes/{dispute}"), json!({"status": stage})).await;
        }
        let stage =
            format!("select count(*) from payments.disputes where id = '{dispute}' and status = upper('{end}')");
        wait_until("the dispute is over", DEADLINE, async || app.count(&stage).await == 1).await;
        totals_become(&app, &campaign, raised, 1).await;
        let sum: i64 = ledger(&app, &donation).await.iter().map(|(_, amount)| amount).sum();
        assert_eq!((sum, status(&app, &donation).await.as_str()), (raised, "CAPTURED"), "{end}");
    }
    app.finish().await;
}

#[tokio::test]
async fn an_inquiry_takes_no_money_away() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = paid(&app, &campaign, "pm_card_createDisputeInquiry").await;
    wait_until("the inquiry is known", DEADLINE, async || {
        app.count("select count(*) from payments.disputes where status = 'WARNING_NEEDS_RESPONSE'").await == 1
    })
    .await;
    assert_eq!(ledger(&app, &donation).await, [("CAPTURE".to_owned(), 2500)]);
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn a_refunded_charge_that_does_not_list_its_refunds_makes_us_ask_for_them() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = paid(&app, &campaign, "pm_card_visa").await;
    hold_events(&app).await;
    refund_at_stripe(&app, &donation, "700").await;
    let refunded = sandbox_events(&app).await.into_iter().find(|event| event["type"] == "charge.refunded").unwrap();
    let refunds = refunded["data"]["object"].get("refunds");
    assert!(refunds.is_none_or(Value::is_null), "an event's charge lists no refunds: {refunds:?}");
    assert_eq!(verdict(&app, &refunded).await, "applied");
    assert_eq!(app.payment(&donation).await["refunded_minor"], 700);
    totals_become(&app, &campaign, 1800, 1).await;
    app.control("/webhooks", json!({})).await;
    wait_until("the refund's own event came", DEADLINE, async || {
        app.timeline(&donation).await.iter().any(|row| row["kind"] == "refund.created")
    })
    .await;
    assert_eq!(ledger(&app, &donation).await.len(), 2, "it is booked once");
    app.finish().await;
}

#[tokio::test]
async fn a_bank_debit_is_processing_for_days_and_then_paid_or_failed() {
    let app = Setup::new().await.start().await;
    for (outcome, end, raised) in [("succeed", "COMPLETED", 2500), ("fail", "FAILED", 0)] {
        let campaign = app.campaign().await;
        let donation = app.donate(&campaign, 2500).await;
        app.pay(&donation, "pm_usBankAccount_processing").await;
        wait_until("the bank is at work", DEADLINE, async || status(&app, &donation).await == "PROCESSING").await;
        let path = format!("/payment_intents/{}/process", text(&donation["payment"]["intent_id"]));
        app.control(&path, json!({"outcome": outcome})).await;
        app.settle(&donation, end).await;
        totals_become(&app, &campaign, raised, raised / 2500).await;
    }
    app.finish().await;
}

#[tokio::test]
async fn a_declined_donor_may_try_again_with_the_same_intent() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_chargeDeclined").await;
    app.settle(&donation, "FAILED").await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}

#[tokio::test]
async fn an_event_that_redis_calls_done_while_postgres_was_rolled_back_is_still_handled() {
    let app = Setup::new().await.with_redis().start().await;
    hold_events(&app).await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    let event = intent_event(&donation, SUCCEEDED, now(), json!({}));
    let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(redis_url()).unwrap();
    info = info.clone().set_redis_settings(info.redis_settings().clone().set_db(1));
    let mut redis = redis::Client::open(info).unwrap().get_multiplexed_async_connection().await.unwrap();
    let key = format!("{}webhook:{}", app.setup.prefix(), text(&event["id"]));
    let done = json!({"verdict": "applied", "reason": "in a database that is gone"}).to_string();
    let _: () = redis::cmd("SET").arg(&key).arg(done).arg("EX").arg(60).query_async(&mut redis).await.unwrap();
    assert_eq!(verdict(&app, &event).await, "applied");
    assert_eq!(verdict(&app, &event).await, "duplicate");
    totals_become(&app, &campaign, 2500, 1).await;
    app.finish().await;
}
