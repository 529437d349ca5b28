//! No donor's data and no secret in logs, metrics and traces: everything that a donor or an operator can say is marked and
//! sent through every route and into every failure, and then the marks are looked for.

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::outage::postgres_behind_a_proxy;
use crate::support::collector::Collector;
use crate::support::post::Server;
use crate::support::redis::RedisServer;
use crate::support::services::{amqp_url, wait_until};
use crate::support::{DEADLINE, TestApp, event, intent_event, now, read, signature, text};

/// In every marked text, but not in a phone number.
const MARK: &str = "canary";
const PHONE: &str = "+4915177700177";
const MAIL: &str = "canarymail@example.org";
const ADMIN: &str = "canary-admin-key-0123456789";
const SECRET: &str = "whsec_canarysecret";
const STRIPE_KEY: &str = "sk_test_canarykey";

fn body(campaign: &Value) -> Value {
    json!({
        "campaign_id": campaign["id"], "amount_minor": 2500, "currency": "EUR", "message": "canarymessage to you all",
        "donor": {"name": "Canaryname O'Quux", "email": MAIL, "phone": PHONE},
    })
}

fn donate(app: &TestApp, body: &Value) -> reqwest::RequestBuilder {
    app.request(Method::POST, "/api/v1/donations").header("Idempotency-Key", "canaryidempotency").json(body)
}

/// A relay that repeats every address it refuses.
async fn rude_relay() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(refuse(stream));
        }
    });
    format!("smtp://{address}")
}

async fn refuse(stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 relay.example ESMTP\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer = match line.strip_prefix("RCPT TO:") {
            Some(address) => format!("550 5.1.1 {address} is unknown here, canarydetail\r\n"),
            None => "250 Ok\r\n".to_owned(),
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn webhook(app: &TestApp, event: &Value) -> (StatusCode, Value) {
    let body = event.to_string();
    let header = signature(SECRET, now(), body.as_bytes());
    let (status, _, answer) = app.webhook_with(Some(&header), body).await;
    (status, answer)
}

/// What donors and strangers send.
async fn strangers(app: &TestApp, campaign: &Value) {
    for (pointer, value) in [
        ("/donor/name", json!("Canaryname\u{7}".repeat(100))),
        ("/donor/email", json!("canarymail@@example.org")),
        ("/donor/phone", json!("canaryphone")),
        ("/donor", json!("canaryname")),
        ("/amount_minor", json!("canaryamount")),
        ("/currency", json!("canarycurrency")),
        ("/message", json!("canarymessage\0")),
        ("/campaign_id", json!("canarycampaign")),
        ("/anonymous", json!({"canaryfield": "canaryvalue"})),
    ] {
        let mut bad = body(campaign);
        *bad.pointer_mut(pointer).unwrap_or(&mut Value::Null) = value.clone();
        if pointer == "/anonymous" {
            bad["anonymous"] = value;
        }
        assert!(donate(app, &bad).send().await.unwrap().status().is_client_error(), "{bad}");
    }
    for path in ["/api/v1/donations", "/api/v1/campaigns", "/api/v1/payments/x/refunds", "/canarypath?q=canaryquery"] {
        for raw in ["{\"donor\": \"canaryname", "canarybody", "{\"canaryfield\": 1}"] {
            let request = app.request(Method::POST, path).header("Content-Type", "application/json");
            let answer = request.bearer_auth("canarytoken").body(raw).send().await.unwrap();
            assert!(answer.status().is_client_error(), "{path}");
        }
    }
    for path in ["/api/v1/payments?cursor=canarycursor", "/api/v1/campaigns/canaryslug/totals?min_version=canary"] {
        assert!(app.request(Method::GET, path).bearer_auth(ADMIN).send().await.unwrap().status().is_client_error());
    }
    app.speak("POST /canarypath HTTP/1.1\r\nHost: canaryhost\r\nX: canary\r\nContent-Length: x\r\n\r\ncanarybody")
        .await;
}

/// What Stripe, and whoever says so, sends.
async fn events(app: &TestApp, donation: &Value) {
    let (status, ..) = app.webhook_with(Some("t=1,v1=canarysignature"), "canarybody").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let private =
        json!({"receipt_email": MAIL, "description": "canarydescription", "shipping": {"name": "Canaryname"}});
    for (kind, more) in [
        ("payment_intent.processing", json!({"last_payment_error": {"message": "canaryerror", "code": "canarycode"}})),
        ("payment_intent.payment_failed", json!({"last_payment_error": {"message": "canaryerror"}})),
        ("payment_intent.succeeded", private.clone()),
    ] {
        let (status, answer) = webhook(app, &intent_event(donation, kind, now(), more)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let malformed = json!({"id": ["canaryid"], "amount": "canaryamount", "billing_details": {"email": MAIL}});
    for (kind, object) in [
        ("payment_intent.succeeded", malformed.clone()),
        ("charge.refunded", malformed.clone()),
        ("customer.created", private.clone()),
        ("payment_intent.succeeded", json!({"id": "pi_canary", "metadata": {"payment_id": "canarypayment"}})),
    ] {
        webhook(app, &event(kind, now(), object)).await;
    }
}

/// A message that is no fact, in our own queue.
async fn dead_letter(app: &TestApp) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = format!("{}audit.queue", app.setup.prefix());
    for body in [json!({"specversion": "1.0", "type": "canarytype"}), json!("canarybody")] {
        let (options, body) = (BasicPublishOptions::default(), body.to_string());
        let properties = BasicProperties::default().with_message_id("canaryid".into());
        let sent = channel.basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    }
    wait_until("they are dead letters", DEADLINE, async || {
        crate::support::broker::dead_letters(app.setup.prefix()).await == 2
    })
    .await;
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn no_donors_data_and_no_secret_is_in_logs_metrics_and_traces() {
    let (collector, redis) = (Collector::start().await, RedisServer::start().await);
    let twilio = Server::start(|_| {
        (
            "400 Bad Request",
            "",
            r#"{"code": 21211, "message": "'To' +4915177700177 canarymail@example.org is no number"}"#,
        )
    })
    .await;
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let url = setup.env["DATABASE_URL"].replacen("postgres@", "postgres:canarypassword@", 1);
    let setup = setup
        .with_amqp()
        .with("DATABASE_URL", url)
        .with("REDIS_URL", redis.url())
        .with("SMTP_URL", rude_relay().await)
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "canarytoken")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url)
        .with("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on")
        .with("CAREFORALL_ADMIN_KEY", ADMIN)
        .with("CAREFORALL_LOG_FORMAT", "json")
        .with("STRIPE_WEBHOOK_SECRET", SECRET)
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .with("RUST_LOG", "debug,careforall=trace");
    let sandbox = setup.start().await;
    let second = sandbox.setup.clone().with("STRIPE_SECRET_KEY", STRIPE_KEY);
    let app = second.with("STRIPE_API_BASE", format!("{}/sandbox/stripe", sandbox.url)).start().await;

    let campaign = json!({"slug": format!("c{}", now()), "title": "Wells", "currency": "EUR"});
    let request = app.request(Method::POST, "/api/v1/campaigns").bearer_auth(ADMIN).json(&campaign);
    let (status, campaign) = read(request).await;
    assert_eq!(status, StatusCode::CREATED, "{campaign}");
    let (status, donation) = read(donate(&app, &body(&campaign))).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    assert_eq!(read(donate(&app, &body(&campaign))).await.1, donation, "replayed");
    strangers(&app, &campaign).await;
    events(&app, &donation).await;
    app.settle(&donation, "COMPLETED").await;
    let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
    for (path, order) in [
        ("refunds", json!({"amount_minor": 500, "reason": "canaryreason"})),
        ("refunds", json!({"amount_minor": 500, "reason": "requested_by_customer"})),
        ("refunds", json!({"amount_minor": 999_999_999})),
        ("capture", json!({})),
        ("cancel", json!({})),
    ] {
        let request = app.request(Method::POST, &format!("{payment}/{path}")).bearer_auth(ADMIN).json(&order);
        request.header("Idempotency-Key", "canaryorder").send().await.unwrap();
    }
    let secrets = [text(&donation["access_token"]), text(&donation["payment"]["client_secret"])].map(str::to_owned);
    dead_letter(&app).await;
    wait_until("mails and text messages are refused", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'DEAD'").await >= 3
    })
    .await;

    redis.kill();
    app.totals(&campaign).await;
    donate(&app, &body(&campaign)).send().await.unwrap();
    proxy.cut().await;
    for _ in 0..3 {
        let answer = app.request(Method::POST, "/api/v1/donations").json(&body(&campaign)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        let event = intent_event(&donation, "payment_intent.processing", now(), json!({"receipt_email": MAIL}));
        assert_eq!(webhook(&app, &event).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    proxy.restore().unwrap();
    wait_until("it is back", DEADLINE, async || {
        donate(&app, &body(&campaign)).send().await.is_ok_and(|answer| answer.status() == StatusCode::CREATED)
    })
    .await;

    let mut told = Vec::new();
    for app in [&app, &sandbox] {
        told.push(("metrics", app.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()));
    }
    app.stop().await;
    let setup = sandbox.stop().await;
    crate::support::broker::remove(setup.prefix()).await;
    let log = std::fs::read_to_string(setup.data_dir.path().join("log")).unwrap();
    assert!(log.contains("\"level\":\"DEBUG\"") && log.contains("it becomes a dead letter"));
    told.push(("the log", log));
    assert!(collector.spans().len() > 30);
    told.push(("the traces", String::from_utf8_lossy(&collector.bytes()).into_owned()));
    let marks = [MARK, &PHONE[1..], "O'Quux", &secrets[0], &secrets[1]].map(str::to_lowercase);
    let mut found = Vec::new();
    for (place, text) in &told {
        let lines = text.lines().filter(|line| marks.iter().any(|mark| line.to_lowercase().contains(mark)));
        found.extend(lines.map(|line| format!("{place}: {line}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
