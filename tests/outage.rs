//! Whatever the program depends on may go away and come back: it says so, answers what it can, and catches up.

use std::time::Duration;

use bb8_redis::redis;
use futures::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::crash::broker_behind_a_proxy;
use crate::support::crowd::{all_is_due, books_hold, completed, donate_as, events, gift, intents, sandbox_books};
use crate::support::proxy::TcpProxy;
use crate::support::services::{database_url, redis_url, wait_until};
use crate::support::{DEADLINE, Setup, TestApp, broker, read, text};

async fn readiness(app: &TestApp) -> (StatusCode, String) {
    let (status, body) = app.get("/health/ready").await;
    (status, text(&body["status"]).to_owned())
}

async fn until_ready(app: &TestApp) {
    wait_until("it is ready", DEADLINE, async || readiness(app).await.1 == "ready").await;
}

async fn until_degraded_by(app: &TestApp, dependency: &str) {
    wait_until(&format!("{dependency} is down"), DEADLINE, async || {
        let (status, body) = app.get("/health/ready").await;
        let checks = body["checks"].as_array().unwrap();
        let down = checks.iter().any(|check| check["name"] == dependency && check["status"] == "down");
        down && status == StatusCode::OK && body["status"] == "degraded"
    })
    .await;
}

#[tokio::test]
async fn donations_go_on_while_the_broker_is_away_and_everything_is_published_when_it_is_back() {
    let (mut proxy, url) = broker_behind_a_proxy().await;
    let app = Setup::new().await.with_amqp().with("AMQP_URL", url).start().await;
    until_ready(&app).await;
    let campaign = app.campaign().await;
    let mut facts = 0;
    for round in 0..3 {
        if round == 1 {
            proxy.freeze();
        } else {
            proxy.cut().await;
        }
        for donor in 0..4 {
            completed(&app, &campaign, 1000, &format!("donor{round}{donor}@example.org")).await;
        }
        facts += 8;
        if round != 1 {
            until_degraded_by(&app, "rabbitmq").await;
        }
        proxy.restore().unwrap();
        wait_until("everything is published and audited", DEADLINE, async || {
            app.count("select count(*) from donations.audit_logs").await == facts
                && app.count("select count(*) from donations.outbox_events").await == 0
        })
        .await;
        until_ready(&app).await;
    }
    for queue in ["totals.queue", "notifications.queue", "audit.queue"] {
        let name = format!("{}{queue}", app.setup.prefix());
        wait_until("the queues are drained", DEADLINE, async || broker::waiting(&name).await == 0).await;
    }
    assert_eq!(app.totals(&campaign).await["raised_minor"], 12_000);
    books_hold(&app).await;
    assert_eq!(app.mails().len(), 24, "no mail twice");
    app.finish().await;
}

/// Donations are made and paid, webhooks are repeated, totals are read: all of it exactly, none of it with a 5xx.
async fn live_without_redis(app: &TestApp, campaign: &Value, raised: &mut i64) {
    for donor in 0..3 {
        let donation = completed(app, campaign, 500, &format!("donor{donor}@example.org")).await;
        *raised += 500;
        wait_until("it is counted", DEADLINE, async || app.totals(campaign).await["raised_minor"] == *raised).await;
        let intent = &donation["payment"]["intent_id"];
        let all = events(app).await;
        let paid =
            all.iter().find(|it| it["type"] == "payment_intent.succeeded" && it["data"]["object"]["id"] == *intent);
        let (status, answer) = app.webhook(paid.unwrap()).await;
        assert_eq!((status, &answer["verdict"]), (StatusCode::OK, &json!("duplicate")), "{answer}");
    }
}

async fn forget_everything_of(prefix: &str) {
    for db in [1, 2] {
        let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(redis_url()).unwrap();
        info = info.clone().set_redis_settings(info.redis_settings().clone().set_db(db));
        let mut redis = redis::Client::open(info).unwrap().get_multiplexed_async_connection().await.unwrap();
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}*")).query_async(&mut redis).await.unwrap();
        for key in keys {
            let _: i64 = redis::cmd("DEL").arg(key).query_async(&mut redis).await.unwrap();
        }
    }
}

#[tokio::test]
async fn redis_may_be_emptied_cut_off_or_frozen_and_every_answer_stays_exact() {
    let upstream = redis_url().trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let mut proxy = TcpProxy::start(&upstream).await.unwrap();
    let app = Setup::new().await.with("REDIS_URL", format!("redis://{}", proxy.addr())).start().await;
    let campaign = app.campaign().await;
    let mut raised = 0;
    until_ready(&app).await;
    live_without_redis(&app, &campaign, &mut raised).await;
    forget_everything_of(app.setup.prefix()).await;
    live_without_redis(&app, &campaign, &mut raised).await;
    proxy.cut().await;
    live_without_redis(&app, &campaign, &mut raised).await;
    until_degraded_by(&app, "redis").await;
    proxy.restore().unwrap();
    until_ready(&app).await;
    live_without_redis(&app, &campaign, &mut raised).await;
    proxy.freeze();
    live_without_redis(&app, &campaign, &mut raised).await;
    until_degraded_by(&app, "redis").await;
    proxy.restore().unwrap();
    until_ready(&app).await;
    live_without_redis(&app, &campaign, &mut raised).await;
    books_hold(&app).await;
    app.finish().await;
}

/// A program whose Postgres is reached over a wire that can be cut.
pub async fn postgres_behind_a_proxy() -> (TcpProxy, Setup) {
    let setup = Setup::new().await;
    let url = setup.database.url();
    let base = database_url();
    let authority = base.split("://").nth(1).unwrap().split('/').next().unwrap();
    let (credentials, host) = authority.rsplit_once('@').map_or((None, authority), |(c, host)| (Some(c), host));
    let upstream = if host.contains(':') { host.to_owned() } else { format!("{host}:5432") };
    let proxy = TcpProxy::start(&upstream).await.unwrap();
    let there = credentials.map_or(proxy.addr().to_string(), |c| format!("{c}@{}", proxy.addr()));
    let behind = url.replacen(authority, &there, 1);
    let setup = setup.with("DATABASE_URL", behind);
    (proxy, setup)
}

async fn is_503_that_says_when(request: RequestBuilder) {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("Retry-After"));
    assert_eq!(answer.headers()["Content-Type"], "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((&problem["status"], text(&problem["type"])), (&json!(503), "urn:careforall:problem:unavailable"));
}

#[tokio::test]
async fn without_postgres_everything_is_503_and_once_it_is_back_the_same_webhook_is_applied() {
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let app = setup.start().await;
    app.control("/webhooks", json!({"enabled": false})).await;
    let campaign = app.campaign().await;
    let donation = donate_as(&app, &campaign, 2500, "jo@example.org").await;
    app.pay(&donation, "pm_card_visa").await;
    let paid = events(&app).await.into_iter().find(|event| event["type"] == "payment_intent.succeeded").unwrap();
    until_ready(&app).await;

    proxy.cut().await;
    is_503_that_says_when(app.donation(&campaign, 500).header("Idempotency-Key", "one")).await;
    let totals = format!("/api/v1/campaigns/{}/totals?min_version=7", text(&campaign["id"]));
    is_503_that_says_when(app.request(Method::GET, &totals)).await;
    is_503_that_says_when(app.operator(Method::GET, "/api/v1/payments")).await;
    let (status, problem) = app.webhook(&paid).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    let (status, body) = read(app.request(Method::GET, "/health/ready")).await;
    assert_eq!((status, text(&body["status"])), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    assert_eq!(app.request(Method::GET, "/health/live").send().await.unwrap().status(), StatusCode::OK);

    proxy.restore().unwrap();
    until_ready(&app).await;
    let (status, answer) = app.webhook(&paid).await;
    assert_eq!((status, &answer["verdict"]), (StatusCode::OK, &json!("applied")), "{answer}");
    let (_, answer) = app.webhook(&paid).await;
    assert_eq!(answer["verdict"], "duplicate");
    app.settle(&donation, "COMPLETED").await;
    let again = app.donation(&campaign, 500).header("Idempotency-Key", "one").send().await.unwrap();
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(app.count("select count(*) from donations.donations").await, 2);
    all_is_due(&app).await;
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_postgres_that_hangs_is_down_for_readiness_and_in_the_metrics_and_nobody_waits_for_it() {
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let app = setup.start().await;
    until_ready(&app).await;
    assert_eq!(app.metric("careforall_dependency_up{dependency=\"postgres\"}").await, 1.0);
    proxy.freeze();
    // A client's patience is far below the minutes after which the connection itself would break.
    let answer = app.request(Method::GET, "/health/ready").timeout(DEADLINE).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["checks"][0]["name"], &body["checks"][0]["status"]), (&json!("postgres"), &json!("down")));
    assert_eq!(app.metric("careforall_dependency_up{dependency=\"postgres\"}").await, 0.0);
    proxy.restore().unwrap();
    until_ready(&app).await;
    assert_eq!(app.metric("careforall_dependency_up{dependency=\"postgres\"}").await, 1.0);
    app.finish().await;
}

#[tokio::test]
async fn a_statement_that_a_scrape_gave_up_is_called_off_and_holds_up_nobody_who_comes_after() {
    // The server itself would let it wait for ever.
    let setup = Setup::new().await;
    let url = format!("{}?options=-c%20lock_timeout%3D0%20-c%20statement_timeout%3D0", setup.database.url());
    let app = setup.with("DATABASE_URL", url).start().await;
    let holder = app.setup.database.connect().await;
    holder.batch_execute("begin; lock table notifications.delivery_logs in access exclusive mode").await.unwrap();
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                      and query like '%log.outcome = ''UNKNOWN''%' and pid <> pg_backend_pid()";
    app.request(Method::GET, "/metrics").send().await.unwrap();
    wait_until("nothing waits any more", DEADLINE, async || app.count(waiting).await == 0).await;
    // More readers than there are connections, one of which would be the one that waits.
    let looks = join_all((0..28).map(|_| app.get("/api/v1/campaigns"))).await;
    assert!(looks.iter().all(|(status, _)| *status == StatusCode::OK), "{looks:?}");
    holder.batch_execute("commit").await.unwrap();
    app.finish().await;
}

/// Posts with one key until it is answered with 201, as a careful client does.
async fn insist(app: &TestApp, campaign: &Value, donor: usize, at: usize) -> Value {
    let created = std::sync::Mutex::new(None);
    let key = format!("{donor}-{at}");
    wait_until("the donation is taken", DEADLINE, async || {
        let request = gift(app, campaign, 100, &format!("donor{donor}@example.org"));
        let (status, answer) = read(request.header("Idempotency-Key", &key)).await;
        if status == StatusCode::CREATED {
            *created.lock().unwrap() = Some(answer);
            return true;
        }
        assert!(matches!(status.as_u16(), 409 | 503), "{status} {answer}");
        false
    })
    .await;
    created.into_inner().unwrap().unwrap()
}

#[tokio::test]
async fn connections_that_break_during_commits_leave_one_donation_for_each_key() {
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let app = setup.start().await;
    let campaign = app.campaign().await;
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let donor = async |donor: usize| {
        for at in 0..8 {
            let donation = insist(&app, &campaign, donor, at).await;
            assert_eq!(donation["amount_minor"], 100);
            answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let cuts = async {
        for cut in 1..=6 {
            let reached = || answered.load(std::sync::atomic::Ordering::Relaxed) >= cut * 30;
            wait_until("some are answered", DEADLINE, async || reached()).await;
            proxy.cut().await;
            proxy.restore().unwrap();
        }
    };
    tokio::join!(join_all((0..30).map(donor)), cuts);
    assert_eq!(app.count("select count(*) from donations.donations").await, 240);
    let keys = "select count(distinct key) from payments.idempotency_keys where scope = 'api:donor' and status = 201";
    assert_eq!(app.count(keys).await, 240);
    all_is_due(&app).await;
    wait_until("every payment is opened", DEADLINE, async || {
        app.count("select count(*) from payments.payment_transactions where intent_id is null").await == 0
    })
    .await;
    assert_eq!(intents(&app).await.len(), 240, "one intent for each");
    books_hold(&app).await;
    assert_eq!(app.count("select count(*) from donations.audit_logs").await, 240);
    app.finish().await;
}

#[tokio::test]
async fn payments_that_are_told_while_connections_break_are_booked_once() {
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let app = setup.start().await;
    app.control("/webhooks", json!({"enabled": false})).await;
    let campaign = app.campaign().await;
    for donor in 0..40 {
        let donation = donate_as(&app, &campaign, 100, &format!("donor{donor}@example.org")).await;
        app.pay(&donation, "pm_card_visa").await;
    }
    let all = events(&app).await;
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let stripe = async |event: &Value| {
        wait_until("Stripe is answered", DEADLINE, async || {
            let (status, answer) = app.webhook(event).await;
            assert!(matches!(status.as_u16(), 200 | 503), "{status} {answer}");
            status == StatusCode::OK
        })
        .await;
        answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let cuts = async {
        for cut in 1..=3 {
            let reached = || answered.load(std::sync::atomic::Ordering::Relaxed) >= cut * all.len() / 8;
            wait_until("some are answered", DEADLINE, async || reached()).await;
            proxy.cut().await;
            proxy.restore().unwrap();
        }
    };
    tokio::join!(join_all(all.iter().map(stripe)), cuts);
    assert_eq!(app.count("select count(*) from payments.ledger_entries").await, 40);
    all_is_due(&app).await;
    books_hold(&app).await;
    assert_eq!(app.totals(&campaign).await["raised_minor"], 4000);
    app.finish().await;
}

async fn fault(app: &TestApp, mode: &str, on: &str, times: u64, delay_ms: u64) {
    app.control("/faults", json!({"mode": mode, "on": on, "times": times, "delay_ms": delay_ms})).await;
}

async fn order(app: &TestApp, path: &str, body: Value, key: &str) -> (StatusCode, Value) {
    read(app.operator(Method::POST, path).header("Idempotency-Key", key).json(&body)).await
}

/// One order fails by every fault in turn, and succeeds with the same key afterwards.
async fn fails_then_succeeds_with_the_same_key(app: &TestApp, path: &str, on: &str, body: &Value, key: &str) {
    // Three attempts are one call. A refusal for now is 503; where it may have happened, 504.
    for (mode, expected) in [("rate_limit_429", 503), ("error_500", 504), ("timeout_after_effect", 504)] {
        fault(app, mode, on, 3, 10).await;
        let (status, problem) = order(app, path, body.clone(), key).await;
        assert_eq!(status.as_u16(), expected, "{mode}: {problem}");
        let kind = text(&problem["type"]).rsplit(':').next().unwrap().to_owned();
        let expected = if expected == 503 { "provider-away" } else { "provider-outcome-unknown" };
        assert_eq!(kind, expected, "{mode}");
        // A success between them keeps the circuit closed.
        let (status, _) = app.stripe(Method::GET, "/v1/payment_intents", &[]).await;
        assert_eq!(status, StatusCode::OK);
        closed_circuit(app).await;
    }
    let (status, answer) = order(app, path, body.clone(), key).await;
    assert!(status.is_success(), "{status} {answer}");
}

/// Another donation goes through to the sandbox: failures in a row are counted from zero again.
async fn closed_circuit(app: &TestApp) {
    let campaign = app.campaign().await;
    donate_as(app, &campaign, 100, "other@example.org").await;
}

#[tokio::test]
async fn a_refund_that_the_provider_fails_in_every_way_happens_once_under_its_key() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = completed(&app, &campaign, 2500, "jo@example.org").await;
    app.control("/webhooks", json!({"enabled": false})).await;
    let path = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
    fails_then_succeeds_with_the_same_key(&app, &path, "refund", &json!({"amount_minor": 700}), "r1").await;
    assert_eq!(app.payment(&donation).await["refunded_minor"], 700);
    let books = sandbox_books(&app).await;
    assert_eq!((&books["refunded_minor"], &books["refunds"]), (&json!(700), &json!(1)));
    app.control("/webhooks", json!({"enabled": true})).await;
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_capture_that_the_provider_fails_in_every_way_happens_once_under_its_key() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign_with(json!({"manual_capture": true})).await;
    let donation = donate_as(&app, &campaign, 2500, "jo@example.org").await;
    app.pay(&donation, "pm_card_visa").await;
    wait_until("it is reserved", DEADLINE, async || app.payment(&donation).await["status"] == "AUTHORIZED").await;
    app.control("/webhooks", json!({"enabled": false})).await;
    let path = format!("/api/v1/payments/{}/capture", text(&donation["payment"]["id"]));
    fails_then_succeeds_with_the_same_key(&app, &path, "capture", &json!({"amount_minor": 2000}), "c1").await;
    app.settle(&donation, "COMPLETED").await;
    assert_eq!(sandbox_books(&app).await["captured_minor"], 2000);
    app.control("/webhooks", json!({"enabled": true})).await;
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn an_order_whose_outcome_is_unknown_is_found_out_by_the_payments_own_check() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign_with(json!({"manual_capture": true})).await;
    let donation = donate_as(&app, &campaign, 2500, "jo@example.org").await;
    app.pay(&donation, "pm_card_visa").await;
    wait_until("it is reserved", DEADLINE, async || app.payment(&donation).await["status"] == "AUTHORIZED").await;
    // Its webhooks are lost.
    app.control("/webhooks", json!({"enabled": false})).await;
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    fault(&app, "timeout_after_effect", "capture", 3, 10).await;
    let (status, problem) = order(&app, &format!("{payment}/capture"), json!({}), "c1").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{problem}");
    assert_eq!(app.payment(&donation).await["status"], "AUTHORIZED", "an unknown outcome is never guessed");
    all_is_due(&app).await;
    app.settle(&donation, "COMPLETED").await;

    fault(&app, "timeout_after_effect", "refund", 3, 10).await;
    let (status, problem) = order(&app, &format!("{payment}/refunds"), json!({"amount_minor": 700}), "r1").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{problem}");
    all_is_due(&app).await;
    wait_until("the refund is found", DEADLINE, async || app.payment(&donation).await["refunded_minor"] == 700).await;
    // The operator repeats the order, not knowing that it was found out.
    let (status, answer) = order(&app, &format!("{payment}/refunds"), json!({"amount_minor": 700}), "r1").await;
    assert_eq!((status, &answer["refunded_minor"]), (StatusCode::CREATED, &json!(700)), "{answer}");
    // And then its webhooks do come.
    app.control("/webhooks", json!({"enabled": true})).await;
    books_hold(&app).await;
    assert_eq!(sandbox_books(&app).await["net_minor"], 1800);
    let due = "select count(*) from payments.payment_transactions where check_at is not null";
    wait_until("a settled payment asks no more", DEADLINE, async || app.count(due).await == 0).await;
    app.finish().await;
}

#[tokio::test]
async fn a_provider_that_hangs_is_left_alone_in_time_and_the_order_is_done_once_later() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = completed(&app, &campaign, 2500, "jo@example.org").await;
    let path = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
    // Each attempt is given up after ten seconds, the order after twenty-five.
    fault(&app, "hang", "refund", 3, 11_000).await;
    let began = std::time::Instant::now();
    let (status, problem) = order(&app, &path, json!({"amount_minor": 700}), "r1").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{problem}");
    assert!(began.elapsed() < Duration::from_secs(29), "{:?}", began.elapsed());
    fault(&app, "none", "any", 0, 0).await;
    let (status, answer) = order(&app, &path, json!({"amount_minor": 700}), "r1").await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(sandbox_books(&app).await["refunded_minor"], 700);
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn five_failures_open_the_circuit_and_what_waited_is_opened_when_the_provider_is_back() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    fault(&app, "error_500", "create", 100_000, 0).await;
    let mut waiting = Vec::new();
    for donor in 0..6 {
        let (status, donation) = read(gift(&app, &campaign, 500, &format!("donor{donor}@example.org"))).await;
        assert_eq!(status, StatusCode::CREATED, "{donation}");
        assert_eq!((text(&donation["status"]), &donation["payment"]["client_secret"]), ("PENDING", &Value::Null));
        waiting.push(donation);
    }
    until_degraded_by(&app, "stripe").await;
    fault(&app, "none", "any", 0, 0).await;
    for donation in &waiting {
        wait_until("it is opened", DEADLINE, async || {
            app.donation_now(donation).await["payment"]["client_secret"].is_string()
        })
        .await;
    }
    until_ready(&app).await;
    assert_eq!(intents(&app).await.len(), 6);
    books_hold(&app).await;
    app.finish().await;
}
