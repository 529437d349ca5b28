//! The whole life of one donation.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, text};

async fn live_one_life(app: &TestApp) {
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    assert_eq!((text(&donation["status"]), text(&donation["payment"]["status"])), ("PENDING", "INITIATED"));
    assert_eq!(app.totals(&campaign).await["raised_minor"], 0);
    app.pay(&donation, "pm_card_visa").await;
    let paid = app.settle(&donation, "COMPLETED").await;
    assert_eq!(paid["payment"]["status"], "CAPTURED");
    wait_until("the totals include the gift", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 2500)
        .await;
    let totals = app.totals(&campaign).await;
    assert_eq!((&totals["donation_count"], &totals["donor_count"]), (&json!(1), &json!(1)));
    let receipt = text(&paid["receipt_number"]).to_owned();
    wait_until("the receipt is mailed", DEADLINE, async || app.mails().iter().any(|mail| mail.contains(&receipt)))
        .await;
    assert_eq!(app.mails().len(), 2, "one thank-you, one receipt");
    let audited = format!(
        "select count(*) from donations.audit_logs where aggregate_id = '{}'",
        text(&donation["payment"]["id"])
    );
    wait_until("both facts are audited", DEADLINE, async || app.count(&audited).await == 2).await;
}

#[tokio::test]
async fn a_donation_is_made_paid_counted_and_receipted_with_nothing_configured_but_a_database() {
    let app = Setup::new().await.start().await;
    live_one_life(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn the_same_life_on_real_redis_and_rabbitmq() {
    let app = Setup::new().await.with_redis().with_amqp().start().await;
    live_one_life(&app).await;
    wait_until("every dependency is up", DEADLINE, async || app.get("/health/ready").await.1["status"] == "ready")
        .await;
    app.finish().await;
}

#[tokio::test]
async fn the_first_version_of_every_step_is_in_the_history_without_a_gap() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    let applied: Vec<(Value, Value, Value)> = app
        .timeline(&donation)
        .await
        .into_iter()
        .filter(|row| row["verdict"] == "applied")
        .map(|row| (row["from"].clone(), row["to"].clone(), row["version"].clone()))
        .collect();
    let expected = [
        (Value::Null, json!("INITIATED"), json!(1)),
        (json!("INITIATED"), json!("INITIATED"), json!(2)),
        (json!("INITIATED"), json!("AUTHORIZED"), json!(3)),
        (json!("AUTHORIZED"), json!("CAPTURED"), json!(4)),
    ];
    assert_eq!(applied, expected);
    app.finish().await;
}

#[tokio::test]
async fn the_same_post_with_the_same_key_gives_the_byte_equal_answer() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let send = async || app.donation(&campaign, 2500).header("Idempotency-Key", "one").send().await.unwrap();
    let first = send().await;
    assert_eq!((first.status(), first.headers().get("Idempotent-Replayed")), (StatusCode::CREATED, None));
    let first = first.bytes().await.unwrap();
    let second = send().await;
    assert_eq!(
        (second.status(), second.headers()["Idempotent-Replayed"].to_str().unwrap()),
        (StatusCode::CREATED, "true")
    );
    assert_eq!(second.bytes().await.unwrap(), first);
    let other = app.donation(&campaign, 2600).header("Idempotency-Key", "one").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(app.count("select count(*) from donations.donations").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn fifty_posts_of_one_key_at_once_on_two_processes_make_one_donation() {
    let first = Setup::new().await.start().await;
    let sandbox = format!("{}/sandbox/stripe", first.url);
    let second = first.setup.clone().with("STRIPE_API_BASE", sandbox).with("STRIPE_SECRET_KEY", "sk_test_sandbox");
    let second = second.start().await;
    let campaign = first.campaign().await;
    let posts = (0..50).map(|at| {
        let app = if at % 2 == 0 { &first } else { &second };
        app.donation(&campaign, 2500).header("Idempotency-Key", "one").send()
    });
    let mut bodies = std::collections::BTreeSet::new();
    for answer in futures::future::join_all(posts).await {
        let answer = answer.unwrap();
        match answer.status() {
            StatusCode::CREATED => drop(bodies.insert(answer.bytes().await.unwrap())),
            status => assert_eq!(status, StatusCode::CONFLICT),
        }
    }
    assert_eq!(bodies.len(), 1, "every answer is the same, byte for byte");
    assert_eq!(first.count("select count(*) from donations.donations").await, 1);
    let (_, intents) = first.stripe(Method::GET, "/v1/payment_intents", &[]).await;
    assert_eq!(intents["data"].as_array().unwrap().len(), 1);
    second.finish().await;
    first.finish().await;
}

#[tokio::test]
async fn a_long_poll_answers_as_soon_as_there_is_a_newer_version() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let path = format!("/api/v1/donations/{}?after_version={}&wait=30", text(&donation["id"]), donation["version"]);
    let poll = app.request(Method::GET, &path).bearer_auth(text(&donation["access_token"])).send();
    let (answer, _) = tokio::join!(poll, app.pay(&donation, "pm_card_visa"));
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert!(answer["version"].as_i64() > donation["version"].as_i64(), "{answer}");
    app.finish().await;
}

#[tokio::test]
async fn an_operator_captures_refunds_in_part_and_in_full_and_the_totals_follow() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign_with(json!({"manual_capture": true})).await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    wait_until("the money is reserved", DEADLINE, async || app.payment(&donation).await["status"] == "AUTHORIZED")
        .await;
    let (status, problem) = app.post(&format!("{payment}/refunds"), json!({})).await;
    assert_eq!((status, text(&problem["type"])), (StatusCode::CONFLICT, "urn:careforall:problem:wrong-status"));
    let (status, captured) = app.post(&format!("{payment}/capture"), json!({"amount_minor": 2000})).await;
    assert_eq!((status, &captured["captured_minor"]), (StatusCode::OK, &json!(2000)));
    let refund = async |body: Value, key: &str| {
        let request = app.operator(Method::POST, &format!("{payment}/refunds")).header("Idempotency-Key", key);
        let answer = request.json(&body).send().await.unwrap();
        let replayed = answer.headers().contains_key("Idempotent-Replayed");
        (answer.status(), replayed, answer.json::<Value>().await.unwrap())
    };
    let (status, replayed, first) = refund(json!({"amount_minor": 500}), "r1").await;
    assert_eq!((status, replayed, &first["refunded_minor"]), (StatusCode::CREATED, false, &json!(500)));
    assert_eq!(refund(json!({"amount_minor": 500}), "r1").await, (StatusCode::CREATED, true, first));
    assert_eq!(refund(json!({"amount_minor": 600}), "r1").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refund(json!({"amount_minor": 1501}), "r2").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    wait_until("the totals follow", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 1500).await;
    let (status, _, full) = refund(json!({"reason": "requested_by_customer"}), "r3").await;
    assert_eq!((status, text(&full["status"])), (StatusCode::CREATED, "REFUNDED"));
    app.settle(&donation, "REFUNDED").await;
    wait_until("the totals follow", DEADLINE, async || {
        let totals = app.totals(&campaign).await;
        (&totals["raised_minor"], &totals["donation_count"], &totals["donor_count"])
            == (&json!(0), &json!(0), &json!(0))
    })
    .await;
    app.finish().await;
}

#[tokio::test]
async fn a_payment_that_is_not_paid_can_be_canceled_once() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let cancel = format!("/api/v1/payments/{}/cancel", text(&donation["payment"]["id"]));
    let (status, canceled) = app.post(&cancel, json!({})).await;
    assert_eq!((status, text(&canceled["status"])), (StatusCode::OK, "CANCELED"));
    assert_eq!(app.post(&cancel, json!({})).await.0, StatusCode::CONFLICT);
    app.settle(&donation, "CANCELLED").await;
    app.finish().await;
}

#[tokio::test]
async fn a_donation_is_never_lost_when_the_provider_is_away_and_is_opened_when_it_is_back() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    app.control("/faults", json!({"mode": "error_500", "on": "create", "times": 4})).await;
    let answer =
        app.request(Method::POST, "/api/v1/donations").json(&donation_body(&campaign, 2500)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let donation: Value = answer.json().await.unwrap();
    assert_eq!(donation["status"], "PENDING");
    wait_until("the intent is there", DEADLINE, async || {
        app.donation_now(&donation).await["payment"]["client_secret"].is_string()
    })
    .await;
    app.finish().await;
}
