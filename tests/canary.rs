//! No donor's data and no secret in logs, metrics and traces: everything that a donor or an operator can say is marked and
//! sent through every route and into every failure, and then the marks are looked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use careforall::gateways::links::Links;
use careforall::store::Store;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use reqwest::{Method, StatusCode};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
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
const TWILIO_TOKEN: &str = "canarytoken";
/// Where Twilio is told to report.
const PUBLIC_URL: &str = "https://give.example.org";

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

/// Links of mails, those that open something and those that do not. What must be told nowhere.
async fn links(app: &TestApp, donation: &Value) -> Vec<String> {
    let store = Store::new(app.setup.database.url().parse().unwrap()).unwrap();
    let secret = store.share_secret("mail_links", b"there is one").await.unwrap();
    let links = Links::new(&secret, "").unwrap();
    for (email, status) in [(MAIL, 202), ("nobody.canary@example.org", 202), ("canarymail@@example.org", 422)] {
        let request = app.request(Method::POST, "/api/v1/donors/me/link").json(&json!({ "email": email }));
        assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{email}");
    }
    let client = app.setup.database.connect().await;
    let id = async |sql: String| -> uuid::Uuid { client.query_one(&sql, &[]).await.unwrap().get(0) };
    let of = |kind: &str| format!("select id from notifications.notifications where kind = '{kind}' limit 1");
    let thanked = id(of("DONATION_RECEIVED")).await;
    let asked = id(of("DONOR_HISTORY")).await;
    let (unsubscribe, list) = (links.unsubscribe(thanked.into()), links.donations(asked.into()));
    for (method, path, status) in [
        (Method::GET, unsubscribe.as_str(), 200),
        (Method::POST, &unsubscribe, 200),
        (Method::GET, "/unsubscribe/canarylink", 404),
        (Method::POST, "/unsubscribe/canarylink", 404),
        (Method::DELETE, "/unsubscribe/canarylink", 405),
        (Method::GET, &list, 200),
        (Method::GET, "/api/v1/donors/me/donations?token=canarylink", 401),
        (Method::GET, "/api/v1/donors/me/donations?canary=canarylink", 400),
        (Method::GET, "/api/v1/donors/me/donations", 401),
    ] {
        let answer = app.request(method.clone(), path).bearer_auth("canarylink").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
    }
    // The wall and the stream are for everybody, with a name and a message on them.
    let campaign = format!("/api/v1/campaigns/{}", text(&donation["campaign_id"]));
    let (status, wall) = app.get(&format!("{campaign}/donations")).await;
    assert!(status == StatusCode::OK && wall.to_string().contains("canarymessage"), "{wall}");
    assert!(app.get(&format!("{campaign}/donations?cursor=canarycursor")).await.0.is_client_error());
    let stream = app.request(Method::GET, &format!("{campaign}/totals/stream")).header("Last-Event-ID", "canaryid");
    assert_eq!(stream.send().await.unwrap().status(), StatusCode::OK);
    [unsubscribe, list].map(|link| link.rsplit(['/', '=']).next().unwrap().to_owned()).into()
}

/// What operators do with messages, partners and dead letters. What must be told nowhere.
async fn operators(app: &TestApp, partner: &Server) -> Vec<String> {
    let send = async |method: Method, path: &str, body: Value| {
        let request = app.request(method, &format!("/api/v1{path}")).bearer_auth(ADMIN).json(&body);
        read(request.header("Idempotency-Key", format!("canary{path}{body}").replace(' ', ""))).await
    };
    let hook = json!({"url": format!("{}/canaryhook?key=canarykey", partner.url), "description": "canarydescription",
                      "event_types": ["donation.created", "payment.completed"]});
    let (status, endpoint) = send(Method::POST, "/webhook-endpoints", hook).await;
    assert_eq!(status, StatusCode::CREATED, "{endpoint}");
    let path = format!("/webhook-endpoints/{}", text(&endpoint["id"]));
    let mut secrets = vec![text(&endpoint["secret"]).to_owned()];
    for (method, path, body, is_taken) in [
        (Method::POST, "/webhook-endpoints", json!({"url": "https://canaryuser:canarykey@partner.example/"}), false),
        (Method::POST, "/webhook-endpoints", json!({"url": "canaryurl"}), false),
        (Method::GET, "/webhook-endpoints?cursor=canarycursor", json!({}), true),
        (Method::GET, &path, json!({}), true),
        (Method::PATCH, &path, json!({"description": "another canarydescription", "status": "canarystatus"}), false),
        (Method::PATCH, &path, json!({"description": "another canarydescription"}), true),
        (Method::POST, &format!("{path}/test"), json!({}), true),
    ] {
        let (status, answer) = send(method.clone(), path, body).await;
        let is_told = if is_taken { status.is_success() } else { status.is_client_error() };
        assert!(is_told && status != StatusCode::UNAUTHORIZED, "{method} {path}: {status} {answer}");
    }
    let (_, rotated) = send(Method::POST, &format!("{path}/rotate"), json!({"overlap_hours": 1})).await;
    secrets.push(text(&rotated["secret"]).to_owned());
    wait_until("the partner has refused something", DEADLINE, async || !partner.seen().is_empty()).await;

    let (status, page) = send(Method::GET, &format!("/notifications?recipient={MAIL}"), json!({})).await;
    let id = text(&page["items"][0]["id"]).to_owned();
    assert_eq!(status, StatusCode::OK, "{page}");
    let (_, overview) = send(Method::GET, "/dead-letters", json!({})).await;
    assert!(overview["notifications"]["count"].as_i64() > Some(0), "{overview}");
    let one = json!({ "ids": [id] });
    let bad = json!({"ids": ["canaryid"]});
    let queue = json!({"queue": "audit.queue"});
    for (method, path, body) in [
        (Method::GET, "/notifications?kind=canarykind", json!({})),
        (Method::GET, &format!("/notifications/{id}"), json!({})),
        (Method::GET, "/notifications/canaryid", json!({})),
        (Method::POST, &format!("/notifications/{id}/resend"), json!({})),
        (Method::POST, &format!("/notifications/{id}/resend"), json!({"canary": "canary"})),
        (Method::GET, "/dead-letters/notifications", json!({})),
        (Method::GET, "/dead-letters/outbox?cursor=canary", json!({})),
        (Method::POST, "/dead-letters/notifications/replay", one.clone()),
        (Method::POST, "/dead-letters/notifications/replay", bad.clone()),
        (Method::POST, "/dead-letters/notifications/discard", bad.clone()),
        (Method::POST, "/dead-letters/outbox/replay", bad.clone()),
        (Method::POST, "/dead-letters/outbox/discard", bad),
        (Method::POST, "/dead-letters/queues/replay", queue.clone()),
        (Method::POST, "/dead-letters/queues/replay", json!({"queue": "canaryqueue"})),
    ] {
        let (status, answer) = send(method.clone(), path, body).await;
        assert!(!status.is_server_error() && status != StatusCode::UNAUTHORIZED, "{method} {path}: {status} {answer}");
    }
    // What was put back is refused again.
    wait_until("they are dead letters once more", DEADLINE, async || {
        crate::support::broker::dead_letters(app.setup.prefix()).await == 2
    })
    .await;
    let (status, discarded) = send(Method::POST, "/dead-letters/queues/discard", queue).await;
    assert_eq!(status, StatusCode::OK, "{discarded}");
    assert_eq!(send(Method::DELETE, &path, json!({})).await.0, StatusCode::NO_CONTENT);
    secrets
}

/// What Twilio and SendGrid, or whoever says so, report.
async fn reports(app: &TestApp, key: &EcdsaKeyPair) {
    let url = format!("{PUBLIC_URL}/webhooks/twilio/status?notice=canarynotice");
    let form = [("MessageSid", "SMcanary"), ("MessageStatus", "failed"), ("To", PHONE), ("Body", "canarybody")];
    let mut sorted = form;
    sorted.sort_unstable();
    let signed = sorted.iter().fold(url.clone(), |text, (name, value)| text + name + value);
    let token = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, TWILIO_TOKEN.as_bytes());
    let good = STANDARD.encode(hmac::sign(&token, signed.as_bytes()));
    for (signature, status) in [("canarysignature", 400), (good.as_str(), 204)] {
        let request = app.request(Method::POST, url.strip_prefix(PUBLIC_URL).unwrap()).form(&form);
        let answer = request.header("X-Twilio-Signature", signature).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{signature}");
    }
    let event = json!([{"event": "bounce", "email": MAIL, "timestamp": now(), "smtp-id": "<canaryid@canary.example>",
                        "reason": format!("550 <{MAIL}> is unknown, canaryreason")}]);
    for (body, status) in [(event.to_string(), 204), ("canarybody".to_owned(), 400), ("[\"canary\"]".to_owned(), 204)] {
        let random = SystemRandom::new();
        let signature = STANDARD.encode(key.sign(&random, format!("1700000000{body}").as_bytes()).unwrap());
        for (signature, status) in [("canarysignature", 400), (signature.as_str(), status)] {
            let request = app.request(Method::POST, "/webhooks/sendgrid/events").body(body.clone());
            let request = request.header("X-Twilio-Email-Event-Webhook-Signature", signature);
            let answer = request.header("X-Twilio-Email-Event-Webhook-Timestamp", "1700000000").send().await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{body}");
        }
    }
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
    let partner = Server::start(|_| ("500 Internal Server Error", "", "canaryanswer of the partner")).await;
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let sendgrid = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
    // SubjectPublicKeyInfo of a point on P-256 (RFC 5480).
    let header = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    let public_key = STANDARD.encode([&header, sendgrid.public_key().as_ref()].concat());
    let (mut proxy, setup) = postgres_behind_a_proxy().await;
    let url = setup.env["DATABASE_URL"].replacen("postgres@", "postgres:canarypassword@", 1);
    let setup = setup
        .with_amqp()
        .with("DATABASE_URL", url)
        .with("REDIS_URL", redis.url())
        .with("SMTP_URL", rude_relay().await)
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", TWILIO_TOKEN)
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url)
        .with("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on")
        .with("SENDGRID_WEBHOOK_PUBLIC_KEY", public_key)
        .with("CAREFORALL_PUBLIC_URL", PUBLIC_URL)
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
    let mut secrets =
        [text(&donation["access_token"]), text(&donation["payment"]["client_secret"])].map(str::to_owned).to_vec();
    dead_letter(&app).await;
    wait_until("mails and text messages are refused", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'DEAD'").await >= 3
    })
    .await;
    secrets.extend(links(&app, &donation).await);
    secrets.extend(operators(&app, &partner).await);
    reports(&app, &sendgrid).await;

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
    let marks = [MARK, &PHONE[1..], "O'Quux"].into_iter().chain(secrets.iter().map(String::as_str));
    let marks: Vec<String> = marks.map(str::to_lowercase).collect();
    let mut found = Vec::new();
    for (place, text) in &told {
        let lines = text.lines().filter(|line| marks.iter().any(|mark| line.to_lowercase().contains(mark)));
        found.extend(lines.map(|line| format!("{place}: {line}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
