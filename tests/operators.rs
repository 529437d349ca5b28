//! What operators see of messages and do about them: notifications, webhook endpoints, dead letters, and the reports of
//! providers, over HTTP and on the command line.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use careforall::gateways::topology::{ConsumerQueue, DELIVERY_LIMIT, Exchange, Topology};
use reqwest::{Method, StatusCode};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::post::{Seen, Server};
use crate::support::services::wait_until;
use crate::support::{ADMIN_KEY, DEADLINE, Setup, TestApp, broker, now, read, text};

const OK: (&str, &str, &str) = ("200 OK", "", "");
const PUBLIC_URL: &str = "https://give.example.org";
const TOKEN: &str = "twilio-token";
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn send(app: &TestApp, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    read(app.operator(method, &format!("/api/v1{path}")).json(&body)).await
}

async fn items(app: &TestApp, path: &str) -> Vec<Value> {
    let (status, page) = app.get(&format!("/api/v1{path}")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// A donation whose thank-you is sent.
async fn thanked(app: &TestApp) -> Value {
    let donation = app.donate(&app.campaign().await, 2500).await;
    let path = format!("/notifications?status=SENT&donation_id={}", text(&donation["id"]));
    wait_until("the thank-you is sent", DEADLINE, async || items(app, &path).await.len() == 1).await;
    items(app, &path).await.remove(0)
}

/// An installation that may call this machine.
async fn open_minded() -> Setup {
    Setup::new().await.with("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on")
}

async fn endpoint(app: &TestApp, url: &str, event_types: Value) -> Value {
    let body = json!({"url": format!("{url}/hook"), "event_types": event_types});
    let (status, made) = send(app, Method::POST, "/webhook-endpoints", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

/// Whether the standard's own library believes what was posted under this secret.
fn verifies(secret: &str, seen: &Seen) -> bool {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let map = names.map(|name| (name.parse().unwrap(), seen.headers[name].parse().unwrap())).into_iter().collect();
    standardwebhooks::Webhook::new(secret).unwrap().verify(seen.body.as_bytes(), &map).is_ok()
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"]
        .as_array()
        .map(|errors| errors.iter().map(|it| text(&it["pointer"])).collect())
        .unwrap_or_default()
}

// Who may, and what is refused -------------------------------------------------------------------------------------

#[tokio::test]
async fn each_route_wants_its_scope_and_no_other_opens_it() {
    let app = Setup::new().await.start().await;
    let (none, some) = (json!({}), json!({"ids": [1]}));
    let (all, queue) = (json!({"all": true}), json!({"queue": "audit.queue"}));
    let partner = json!({"url": "https://partner.example/hook"});
    let endpoint = format!("/webhook-endpoints/{NOBODY}");
    let routes = [
        (Method::GET, "/notifications".to_owned(), &none, "notifications:read"),
        (Method::GET, format!("/notifications/{NOBODY}"), &none, "notifications:read"),
        (Method::POST, format!("/notifications/{NOBODY}/resend"), &none, "notifications:write"),
        (Method::GET, "/webhook-endpoints".to_owned(), &none, "webhooks:read"),
        (Method::GET, endpoint.clone(), &none, "webhooks:read"),
        (Method::POST, "/webhook-endpoints".to_owned(), &partner, "webhooks:write"),
        (Method::PATCH, endpoint.clone(), &none, "webhooks:write"),
        (Method::DELETE, endpoint.clone(), &none, "webhooks:write"),
        (Method::POST, format!("{endpoint}/rotate"), &none, "webhooks:write"),
        (Method::POST, format!("{endpoint}/test"), &none, "webhooks:write"),
        (Method::GET, "/suppressions".to_owned(), &none, "notifications:read"),
        (Method::DELETE, "/suppressions?channel=EMAIL&address=a".to_owned(), &none, "notifications:write"),
        (Method::GET, "/dead-letters".to_owned(), &none, "dead_letters:read"),
        (Method::GET, "/dead-letters/queues/audit.queue".to_owned(), &none, "dead_letters:read"),
        (Method::GET, "/dead-letters/notifications".to_owned(), &none, "dead_letters:read"),
        (Method::GET, "/dead-letters/outbox".to_owned(), &none, "dead_letters:read"),
        (Method::POST, "/dead-letters/notifications/replay".to_owned(), &all, "dead_letters:write"),
        (Method::POST, "/dead-letters/notifications/discard".to_owned(), &all, "dead_letters:write"),
        (Method::POST, "/dead-letters/outbox/replay".to_owned(), &all, "dead_letters:write"),
        (Method::POST, "/dead-letters/outbox/discard".to_owned(), &some, "dead_letters:write"),
        (Method::POST, "/dead-letters/queues/replay".to_owned(), &queue, "dead_letters:write"),
        (Method::POST, "/dead-letters/queues/discard".to_owned(), &queue, "dead_letters:write"),
    ];
    let mut keys: HashMap<&str, String> = HashMap::new();
    for (_, _, _, scope) in &routes {
        if !keys.contains_key(scope) {
            let made = app.command(&["api-keys", "create", "Clerk", "--scope", scope]).await;
            assert_eq!(made.code, Some(0), "{made:?}");
            keys.insert(scope, made.out.trim().to_owned());
        }
    }
    for (method, path, body, scope) in &routes {
        let case = format!("{method} {path}");
        let request = || app.request(method.clone(), &format!("/api/v1{path}")).json(body);
        assert_eq!(read(request()).await.0, StatusCode::UNAUTHORIZED, "{case}");
        for (name, key) in &keys {
            let (status, answer) = read(request().bearer_auth(key)).await;
            assert_eq!(status == StatusCode::FORBIDDEN, name != scope, "{case} with {name}: {status} {answer}");
            let is_read = [200, 201, 204, 403, 404, 409].contains(&status.as_u16());
            assert!(is_read, "{case} with {name}: {status} {answer}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn what_is_wrong_is_pointed_to() {
    let app = Setup::new().await.start().await;
    let many: Vec<i64> = (0..1001).collect();
    for (method, path, body, status, expected) in [
        (Method::GET, "/notifications?status=LOST", json!({}), 422, "/status"),
        (Method::GET, "/notifications?channel=PIGEON", json!({}), 422, "/channel"),
        (Method::GET, "/notifications?kind=LOVE_LETTER", json!({}), 422, "/kind"),
        (Method::GET, "/notifications?recipient=a%00b", json!({}), 422, "/recipient"),
        (Method::GET, "/notifications?limit=101", json!({}), 422, "/limit"),
        (Method::GET, "/notifications?colour=red", json!({}), 400, "/colour"),
        (Method::POST, "/webhook-endpoints", json!({}), 400, "/url"),
        (Method::POST, "/webhook-endpoints", json!({"url": "http://partner.example/"}), 422, "/url"),
        (Method::POST, "/webhook-endpoints", json!({"url": "https://169.254.169.254/"}), 422, "/url"),
        (Method::POST, "/webhook-endpoints", json!({"url": "https://localhost/"}), 422, "/url"),
        (Method::POST, "/webhook-endpoints", json!({"url": "https://p.example/", "colour": 1}), 400, "/colour"),
        (
            Method::POST,
            "/webhook-endpoints",
            json!({"url": "https://p.example/", "event_types": ["payment.completed", "payment.sung"]}),
            422,
            "/event_types/1",
        ),
        (
            Method::POST,
            "/webhook-endpoints",
            json!({"url": "https://p.example/", "description": "x\u{7}"}),
            422,
            "/description",
        ),
        (Method::POST, "/dead-letters/notifications/replay", json!({}), 422, "/ids"),
        (Method::POST, "/dead-letters/notifications/replay", json!({"ids": []}), 422, "/ids"),
        (Method::POST, "/dead-letters/notifications/replay", json!({"ids": ["x"]}), 400, "/ids/0"),
        (Method::POST, "/dead-letters/notifications/discard", json!({"ids": [NOBODY], "all": true}), 422, "/ids"),
        (Method::POST, "/dead-letters/outbox/replay", json!({"ids": many}), 422, "/ids"),
        (Method::POST, "/dead-letters/outbox/discard", json!({"all": true}), 400, "/all"),
        (Method::POST, "/dead-letters/queues/replay", json!({"queue": "tea.queue"}), 422, "/queue"),
        (Method::POST, "/dead-letters/queues/replay", json!({"queue": "audit.queue", "limit": 0}), 422, "/limit"),
    ] {
        let (answered, problem) = send(&app, method.clone(), path, body.clone()).await;
        assert_eq!((answered.as_u16(), pointers(&problem)), (status, vec![expected]), "{method} {path} {body}");
    }
    let made = endpoint(&app, "https://partner.example", json!([])).await;
    let path = format!("/webhook-endpoints/{}", text(&made["id"]));
    for (method, path, body, expected) in [
        (Method::PATCH, path.clone(), json!({"url": "https://10.0.0.1/"}), "/url"),
        (Method::PATCH, path.clone(), json!({"status": "ASLEEP"}), "/status"),
        (Method::POST, format!("{path}/rotate"), json!({"overlap_hours": 169}), "/overlap_hours"),
        (Method::POST, format!("{path}/rotate"), json!({"overlap_hours": -1}), "/overlap_hours"),
    ] {
        let (status, problem) = send(&app, method, &path, body).await;
        assert_eq!((status.as_u16(), pointers(&problem)), (422, vec![expected]), "{path}: {problem}");
    }
    for (method, path) in [
        (Method::GET, format!("/notifications/{NOBODY}")),
        (Method::POST, format!("/notifications/{NOBODY}/resend")),
        (Method::GET, format!("/webhook-endpoints/{NOBODY}")),
        (Method::PATCH, format!("/webhook-endpoints/{NOBODY}")),
        (Method::DELETE, format!("/webhook-endpoints/{NOBODY}")),
        (Method::POST, format!("/webhook-endpoints/{NOBODY}/rotate")),
        (Method::POST, format!("/webhook-endpoints/{NOBODY}/test")),
    ] {
        let (status, problem) = send(&app, method, &path, json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
    }
    let (status, problem) =
        send(&app, Method::POST, "/dead-letters/queues/replay", json!({"queue": "audit.queue"})).await;
    assert_eq!((status.as_u16(), text(&problem["type"])), (409, "urn:careforall:problem:no-broker"));
    app.finish().await;
}

// Messages ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn messages_are_found_by_what_they_are_page_by_page_newest_first() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    app.donate(&campaign, 700).await;
    wait_until("three mails are sent", DEADLINE, async || items(&app, "/notifications?status=SENT").await.len() == 3)
        .await;
    let all = items(&app, "/notifications").await;
    let mut walked = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = app.get(&format!("/api/v1/notifications?limit=1{cursor}")).await;
        walked.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(walked, all);
    assert!(all.is_sorted_by(|one, other| text(&one["created_at"]) >= text(&other["created_at"])), "{all:?}");
    let (donation_id, payment_id) = (text(&donation["id"]), text(&donation["payment"]["id"]));
    for (filter, count) in [
        (format!("donation_id={donation_id}"), 2),
        (format!("payment_id={payment_id}&kind=PAYMENT_CONFIRMED"), 1),
        ("kind=DONATION_RECEIVED&channel=EMAIL".to_owned(), 2),
        ("recipient=JO@example.org".to_owned(), 3),
        ("recipient=jo@example.com".to_owned(), 0),
        ("channel=SMS".to_owned(), 0),
        ("status=DEAD".to_owned(), 0),
    ] {
        assert_eq!(items(&app, &format!("/notifications?{filter}")).await.len(), count, "{filter}");
    }
    let (status, shown) = app.get(&format!("/api/v1/notifications/{}", text(&all[0]["id"]))).await;
    assert_eq!((status.as_u16(), &shown["attempts"], &shown["status"]), (200, &json!(1), &json!("SENT")));
    assert_eq!(shown["delivery_log"][0]["outcome"], "ACCEPTED", "{shown}");
    app.finish().await;
}

#[tokio::test]
async fn a_message_is_sent_once_more_for_one_key_and_marked_and_not_where_it_could_only_end() {
    let app = Setup::new().await.start().await;
    let notice = thanked(&app).await;
    let path = format!("/api/v1/notifications/{}/resend", text(&notice["id"]));
    let order = async || {
        let answer = app.operator(Method::POST, &path).header("Idempotency-Key", "again-1").json(&json!({})).send();
        let answer = answer.await.unwrap();
        let replayed = answer.headers().contains_key("Idempotent-Replayed");
        (answer.status().as_u16(), replayed, answer.text().await.unwrap())
    };
    let answers = futures::future::join_all((0..8).map(|_| order())).await;
    assert_eq!(answers.iter().filter(|(status, replayed, _)| *status == 201 && !replayed).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|(status, _, body)| *status == 201 && *body == answers[0].2), "{answers:?}");
    let duplicate: Value = serde_json::from_str(&answers[0].2).unwrap();
    assert_eq!((&duplicate["duplicate_of"], &duplicate["status"]), (&notice["id"], &json!("PENDING")));
    wait_until("two mails", DEADLINE, async || app.mails().len() == 2).await;
    assert_eq!(items(&app, "/notifications").await.len(), 2);
    let other = json!({"x": 1});
    let other = read(app.operator(Method::POST, &path).header("Idempotency-Key", "again-1").json(&other)).await;
    assert_eq!(other.0, StatusCode::BAD_REQUEST, "unknown fields come first");
    let elsewhere = format!("/api/v1/notifications/{}/resend", text(&duplicate["id"]));
    let (status, problem) =
        read(app.operator(Method::POST, &elsewhere).header("Idempotency-Key", "again-1").json(&json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "the same key for another message: {problem}");
    let refused = async || {
        let (status, problem) = app.post(&path, json!({})).await;
        (status.as_u16(), text(&problem["type"]).to_owned())
    };
    app.sql("insert into notifications.suppressions values ('EMAIL', 'jo@example.org', 'BOUNCE', 'test', now())").await;
    assert_eq!(refused().await, (409, "urn:careforall:problem:recipient-suppressed".to_owned()));
    app.sql("update notifications.suppressions set reason = 'UNSUBSCRIBE'").await;
    assert_eq!(refused().await, (409, "urn:careforall:problem:recipient-suppressed".to_owned()), "a courtesy");
    // A message about one's money is none; and what is on its way needs no help.
    app.sql(
        "update notifications.notifications set kind = 'PAYMENT_CONFIRMED' where duplicate_of is null;
         update notifications.notifications set status = 'PENDING', next_attempt_at = now() + interval '1 hour'
          where duplicate_of is not null",
    )
    .await;
    let (status, problem) = app.post(&elsewhere, json!({})).await;
    assert_eq!((status.as_u16(), text(&problem["type"])), (409, "urn:careforall:problem:notification-pending"));
    let (status, again) = app.post(&path, json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{again}");
    wait_until("three mails", DEADLINE, async || app.mails().len() == 3).await;
    app.finish().await;
}

#[tokio::test]
async fn suppressed_addresses_are_listed_and_lifted_and_the_operators_own_is_never_one() {
    let app = Setup::new().await.start().await;
    app.sql(
        "insert into notifications.suppressions values
             ('EMAIL', 'a:b@example.org', 'BOUNCE', 'sendgrid', now()), ('EMAIL', 'jo@example.org', 'BOUNCE', 'sending', now()),
             ('EMAIL', 'jo@example.org', 'COMPLAINT', 'sendgrid', now()), ('SMS', '+4915112345678', 'UNSUBSCRIBE', 'twilio', now())",
    )
    .await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = app.get(&format!("/api/v1/suppressions?limit=1{cursor}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let it = &page["items"][0];
        seen.push(format!("{} {} {}", text(&it["channel"]), text(&it["address"]), text(&it["reason"])));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={}", next.replace('+', "%2B"));
    }
    let jo = ["EMAIL jo@example.org BOUNCE", "EMAIL jo@example.org COMPLAINT"];
    assert_eq!(seen, ["EMAIL a:b@example.org BOUNCE", jo[0], jo[1], "SMS +4915112345678 UNSUBSCRIBE"]);
    for (query, expected) in [
        ("channel=EMAIL&address=JO@example.org&reason=BOUNCE", 204),
        ("channel=EMAIL&address=JO@example.org&reason=BOUNCE", 404),
        ("channel=EMAIL&address=jo@example.org", 204),
        ("channel=SMS&address=%2B4915112345678", 204),
        ("channel=PIGEON&address=jo@example.org", 422),
        ("channel=EMAIL&address=jo@example.org&reason=WHIM", 422),
    ] {
        let (status, _) = send(&app, Method::DELETE, &format!("/suppressions?{query}"), json!({})).await;
        assert_eq!(status.as_u16(), expected, "{query}");
    }
    let (_, page) = app.get("/api/v1/suppressions").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");

    // A mail to the operators bounces, and one to a donor with the operators' address did before.
    let notice = thanked(&app).await;
    app.sql("update notifications.notifications set kind = 'DISPUTE_OPENED'").await;
    let store = careforall::store::Store::new(app.setup.database.url().parse().unwrap()).unwrap();
    let (id, now) = (text(&notice["id"]).parse::<uuid::Uuid>().unwrap(), careforall::clock::Clock::System.now());
    let bounce = careforall::store::suppressions::SuppressionReason::Bounce;
    let channel = careforall::domain::notice::Channel::Email;
    assert!(store.suppress_recipient(channel, id.into(), bounce, "test", now).await.unwrap(), "it is known");
    assert_eq!(app.count("select count(*) from notifications.suppressions").await, 1, "and not suppressed");
    store.suppress(channel, "jo@example.org", bounce, "test", now).await.unwrap();
    app.sql("update notifications.notifications set status = 'PENDING', next_attempt_at = now()").await;
    let sent = "select count(*) from notifications.notifications where status = 'SENT' and attempts = 2";
    wait_until("it goes out all the same", DEADLINE, async || app.count(sent).await == 1).await;
    app.finish().await;
}

// Endpoints --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_secret_is_shown_once_and_both_sign_while_it_is_rotated() {
    let partner = Server::start(|_| OK).await;
    let app = open_minded().await.start().await;
    let create = async || {
        let body = json!({"url": format!("{}/hook", partner.url), "description": "CRM"});
        let request = app.operator(Method::POST, "/api/v1/webhook-endpoints").header("Idempotency-Key", "crm");
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        read_answer(answer).await
    };
    let (status, replayed, made) = create().await;
    assert_eq!((status, replayed), (201, false), "{made}");
    let first = text(&made["secret"]).to_owned();
    let (status, replayed, again) = create().await;
    assert_eq!((status, replayed, &again["id"], &again["secret"]), (201, true, &made["id"], &Value::Null));
    let path = format!("/webhook-endpoints/{}", text(&made["id"]));

    let (status, sent) = send(&app, Method::POST, &format!("{path}/test"), json!({})).await;
    assert_eq!((status.as_u16(), &sent["kind"]), (202, &json!("TEST")), "{sent}");
    wait_until("the test came", DEADLINE, async || partner.seen().len() == 1).await;
    assert!(verifies(&first, &partner.seen()[0]));
    let body: Value = serde_json::from_str(&partner.seen()[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["endpoint_id"]), (&json!("webhook.test"), &made["id"]));
    let test = format!("/api/v1/notifications/{}", text(&sent["id"]));
    wait_until("its attempt is on record", DEADLINE, async || {
        app.get(&test).await.1["delivery_log"][0]["outcome"] == "ACCEPTED"
    })
    .await;

    let rotate = async |body: Value, key: &str| {
        let request = app.operator(Method::POST, &format!("/api/v1{path}/rotate")).header("Idempotency-Key", key);
        read_answer(request.json(&body).send().await.unwrap()).await
    };
    let (status, _, rotated) = rotate(json!({}), "r1").await;
    assert_eq!(status, 200, "{rotated}");
    let second = text(&rotated["secret"]).to_owned();
    assert!(first != second && rotated["previous_until"].is_string());
    let (_, replayed, again) = rotate(json!({}), "r1").await;
    assert_eq!((replayed, &again["secret"]), (true, &Value::Null), "a repetition rotates nothing");
    let deliver = async |count: usize| {
        send(&app, Method::POST, &format!("{path}/test"), json!({})).await;
        wait_until("a test came", DEADLINE, async || partner.seen().len() == count).await;
        partner.seen()[count - 1].clone()
    };
    let seen = deliver(2).await;
    assert!(verifies(&first, &seen) && verifies(&second, &seen), "both sign while they overlap");
    let (_, _, rotated) = rotate(json!({"overlap_hours": 0}), "r2").await;
    let third = text(&rotated["secret"]).to_owned();
    let seen = deliver(3).await;
    assert!(verifies(&third, &seen) && !verifies(&second, &seen) && !verifies(&first, &seen), "no overlap");

    // Nowhere else: in no list, no log, no kept answer.
    let (_, list) = app.get("/api/v1/webhook-endpoints").await;
    let (_, one) = app.get(&format!("/api/v1{path}")).await;
    let client = app.setup.database.connect().await;
    let kept = client.query("select coalesce(body, '') from payments.idempotency_keys", &[]).await.unwrap();
    let kept: String = kept.iter().map(|row| row.get::<_, String>(0)).collect();
    assert!(kept.contains("\"secret\":null"), "{kept}");
    for secret in [&first, &second, &third] {
        let bare = secret.trim_start_matches("whsec_");
        for place in [list.to_string(), one.to_string(), kept.clone(), app.log()] {
            assert!(!place.contains(bare), "{place}");
        }
    }
    assert!(one.get("secret").is_none() && list["items"][0].get("secret").is_none(), "{list}");
    app.finish().await;
}

async fn read_answer(answer: reqwest::Response) -> (u16, bool, Value) {
    let replayed = answer.headers().contains_key("Idempotent-Replayed");
    (answer.status().as_u16(), replayed, answer.json().await.unwrap())
}

#[tokio::test]
async fn an_endpoint_is_changed_disabled_by_410_enabled_by_an_operator_and_deleted() {
    let partner = Server::start(|n| if n == 0 { ("410 Gone", "", "") } else { OK }).await;
    let app = open_minded().await.start().await;
    let made = endpoint(&app, &partner.url, json!(["payment.completed", "payment.completed"])).await;
    assert_eq!(made["event_types"], json!(["payment.completed"]));
    let path = format!("/webhook-endpoints/{}", text(&made["id"]));
    let (status, changed) =
        send(&app, Method::PATCH, &path, json!({"event_types": ["donation.created"], "description": "CRM"})).await;
    assert_eq!((status.as_u16(), &changed["event_types"]), (200, &json!(["donation.created"])));
    let (_, changed) = send(&app, Method::PATCH, &path, json!({"description": ""})).await;
    assert_eq!((&changed["description"], &changed["url"]), (&Value::Null, &made["url"]));

    app.donate(&app.campaign().await, 2500).await;
    let shown = async || app.get(&format!("/api/v1{path}")).await.1;
    wait_until("it is disabled", DEADLINE, async || shown().await["disabled_reason"] == "GONE").await;
    let dead = items(&app, "/dead-letters/notifications").await;
    assert_eq!((dead.len(), &dead[0]["endpoint_id"]), (1, &made["id"]), "{dead:?}");
    let resend = format!("/notifications/{}/resend", text(&dead[0]["id"]));
    for path in [format!("{path}/test"), resend] {
        let (status, problem) = send(&app, Method::POST, &path, json!({})).await;
        assert_eq!((status.as_u16(), text(&problem["type"])), (409, "urn:careforall:problem:endpoint-disabled"));
    }
    let replay = async || {
        let body = json!({"ids": [dead[0]["id"]]});
        send(&app, Method::POST, "/dead-letters/notifications/replay", body).await.1
    };
    assert_eq!(replay().await, json!({"count": 0, "skipped": [dead[0]["id"]], "remaining": 1}));
    let (_, enabled) = send(&app, Method::PATCH, &path, json!({"status": "ENABLED"})).await;
    assert_eq!((&enabled["status"], &enabled["disabled_reason"]), (&json!("ENABLED"), &Value::Null));
    assert_eq!(replay().await, json!({"count": 1, "skipped": [], "remaining": 0}));
    wait_until("it came", DEADLINE, async || partner.seen().len() == 2).await;
    let (_, disabled) = send(&app, Method::PATCH, &path, json!({"status": "DISABLED"})).await;
    assert_eq!(disabled["disabled_reason"], "OPERATOR");

    let (status, _) = send(&app, Method::DELETE, &path, json!({})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, _) = send(&app, Method::DELETE, &path, json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(items(&app, "/webhook-endpoints").await.is_empty());
    app.finish().await;
}

#[tokio::test]
async fn there_are_fifty_endpoints_at_most_also_when_they_are_made_at_once() {
    let app = Setup::new().await.start().await;
    let make = |n: usize| {
        let body = json!({"url": format!("https://partner-{n}.example/hook")});
        let app = &app;
        async move { send(app, Method::POST, "/webhook-endpoints", body).await }
    };
    for n in 0..46 {
        assert_eq!(make(n).await.0, StatusCode::CREATED);
    }
    let answers = futures::future::join_all((46..56).map(make)).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!((made.len(), refused.len()), (4, 6));
    for (status, problem) in refused {
        assert_eq!((status.as_u16(), text(&problem["type"])), (409, "urn:careforall:problem:too-many-endpoints"));
    }
    assert_eq!(items(&app, "/webhook-endpoints").await.len(), 50);
    app.finish().await;
}

// What providers report --------------------------------------------------------------------------------------------

fn twilio_signature(url: &str, form: &[(&str, &str)]) -> String {
    let mut sorted = form.to_vec();
    sorted.sort_unstable();
    let text = sorted.into_iter().fold(url.to_owned(), |text, (name, value)| text + name + value);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, TOKEN.as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

#[tokio::test]
async fn twilio_moves_its_messages_forward_only_and_a_stop_silences_the_phone() {
    let twilio = Server::start(|_| ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#)).await;
    let setup = Setup::new()
        .await
        .with("CAREFORALL_PUBLIC_URL", PUBLIC_URL)
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", TOKEN)
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url);
    let app = setup.start().await;
    let body = json!({"campaign_id": app.campaign().await["id"], "amount_minor": 2500, "currency": "EUR",
                      "donor": {"name": "Jo", "email": "jo@example.org", "phone": "+4915112345678"}});
    let (_, donation) = app.post("/api/v1/donations", body).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    let status = async || items(&app, "/notifications?channel=SMS").await.first().map(|it| it["status"].clone());
    wait_until("the text message is sent", DEADLINE, async || status().await == Some(json!("SENT"))).await;
    let asked: HashMap<String, String> = serde_urlencoded::from_str(&twilio.seen()[0].body).unwrap();
    let url = &asked["StatusCallback"];
    let route = url.strip_prefix(PUBLIC_URL).expect("where the world reaches us").to_owned();
    assert!(route.starts_with("/webhooks/twilio/status?notice="), "{route}");
    let report = async |form: &[(&str, &str)], signature: &str| {
        let request = app.request(Method::POST, &route).header("X-Twilio-Signature", signature).form(form);
        request.send().await.unwrap().status().as_u16()
    };
    let delivered = [("MessageSid", "SM1"), ("MessageStatus", "delivered")];
    let good = twilio_signature(url, &delivered);
    let elsewhere = twilio_signature(&format!("{}{route}", app.url), &delivered);
    for signature in ["", "nonsense", &elsewhere, &twilio_signature(PUBLIC_URL, &delivered)] {
        assert_eq!(report(&delivered, signature).await, 400, "{signature}");
    }
    assert_eq!(report(&[("MessageSid", "SM1"), ("MessageStatus", "failed")], &good).await, 400);
    assert_eq!(status().await, Some(json!("SENT")), "nothing of it is believed");
    let steps: [(&[(&str, &str)], &str); 5] = [
        (&delivered, "DELIVERED"),
        (&[("MessageSid", "SM1"), ("MessageStatus", "sent")], "DELIVERED"),
        (&[("MessageSid", "SM1"), ("MessageStatus", "teleported")], "DELIVERED"),
        (&[("MessageSid", "SM1"), ("MessageStatus", "undelivered"), ("ErrorCode", "21610")], "UNDELIVERED"),
        (&delivered, "UNDELIVERED"),
    ];
    for (form, expected) in steps {
        assert_eq!(report(form, &twilio_signature(url, form)).await, 204, "{form:?}");
        assert_eq!(status().await, Some(json!(expected)), "{form:?}");
    }
    let silenced = "select count(*) from notifications.suppressions
                     where channel = 'SMS' and address = '+4915112345678' and reason = 'UNSUBSCRIBE'";
    assert_eq!(app.count(silenced).await, 1);
    // By Twilio's own name, where the address says nothing.
    let bare = format!("{PUBLIC_URL}/webhooks/twilio/status");
    let form = [("MessageSid", "SM-unknown"), ("MessageStatus", "sent")];
    let request = app.request(Method::POST, "/webhooks/twilio/status").form(&form);
    let answer = request.header("X-Twilio-Signature", twilio_signature(&bare, &form)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT, "nobody learns which messages there are");
    app.finish().await;
}

#[tokio::test]
async fn sendgrid_moves_its_mails_forward_only_and_bounces_and_complaints_silence_the_address() {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
    // SubjectPublicKeyInfo of a point on P-256 (RFC 5480).
    let header = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    let public_key = STANDARD.encode([&header, pair.public_key().as_ref()].concat());
    let app = Setup::new().await.with("SENDGRID_WEBHOOK_PUBLIC_KEY", public_key).start().await;
    let notice = thanked(&app).await;
    let status = async || app.get(&format!("/api/v1/notifications/{}", text(&notice["id"]))).await.1["status"].clone();
    let event = |name: &str| {
        json!({"event": name, "email": "jo@example.org", "timestamp": now(), "reason": "550 <jo@example.org> \0unknown",
               "smtp-id": format!("<{}@example.org>", text(&notice["id"]))})
    };
    let report = async |body: String, signed: &str| {
        let signature = STANDARD.encode(pair.sign(&random, format!("1700000000{signed}").as_bytes()).unwrap());
        let request = app.request(Method::POST, "/webhooks/sendgrid/events").body(body);
        let request = request.header("X-Twilio-Email-Event-Webhook-Signature", signature);
        let answer = request.header("X-Twilio-Email-Event-Webhook-Timestamp", "1700000000").send().await.unwrap();
        answer.status().as_u16()
    };
    let batch = |events: &[Value]| json!(events).to_string();
    let bounce = batch(&[event("bounce")]);
    assert_eq!(report(bounce.clone(), "something else").await, 400);
    let unsigned = app.request(Method::POST, "/webhooks/sendgrid/events").body(bounce.clone()).send().await.unwrap();
    assert_eq!(unsigned.status(), StatusCode::BAD_REQUEST);
    assert_eq!(status().await, "SENT", "nothing of it is believed");
    assert_eq!(app.count("select count(*) from notifications.suppressions").await, 0);
    for (events, expected) in [
        (vec![event("delivered"), event("processed"), event("telepathy")], "DELIVERED"),
        (vec![event("processed"), event("deferred")], "DELIVERED"),
        (vec![event("spamreport")], "DELIVERED"),
        (vec![event("bounce"), event("delivered")], "UNDELIVERED"),
        (vec![event("delivered")], "UNDELIVERED"),
    ] {
        let body = batch(&events);
        assert_eq!(report(body.clone(), &body).await, 204, "{body}");
        assert_eq!(status().await, expected, "{body}");
    }
    let silenced = "select count(*) from notifications.suppressions
                     where address = 'jo@example.org' and reason in ('BOUNCE', 'COMPLAINT') and source = 'sendgrid'";
    assert_eq!(app.count(silenced).await, 2);
    let (_, shown) = app.get(&format!("/api/v1/notifications/{}", text(&notice["id"]))).await;
    assert_eq!(shown["last_error"], "550 <address> unknown", "no address in reasons");
    // As many as fit: the bytes are bounded, the events are not. SendGrid's own names are looked for too.
    app.sql("update notifications.notifications set status = 'SENT', provider_id = 'LRzXl_NH'").await;
    let theirs = json!({"event": "delivered", "email": "jo@example.org", "timestamp": now(), "smtp-id": "<LR@sendgrid.net>",
                        "sg_message_id": "LRzXl_NH.filter1.0"});
    let mut many = vec![json!({"event": "open", "email": "a@b.example", "timestamp": 1, "smtp-id": "<x@y>"}); 1700];
    many.push(theirs);
    let body = batch(&many);
    assert_eq!(report(body.clone(), &body).await, 204);
    assert_eq!(status().await, "DELIVERED");
    let long = format!("[{}]", " ".repeat(1024 * 1024));
    assert_eq!(report(long.clone(), &long).await, 413);
    assert_eq!(report("{}".to_owned(), "{}").await, 400);
    app.finish().await;
}

#[tokio::test]
async fn where_a_provider_is_not_configured_there_is_no_route_for_its_reports() {
    let app = Setup::new().await.with("CAREFORALL_PUBLIC_URL", PUBLIC_URL).start().await;
    for path in ["/webhooks/twilio/status", "/webhooks/sendgrid/events"] {
        let (status, problem) = read(app.request(Method::POST, path).body("[]")).await;
        assert_eq!((status.as_u16(), text(&problem["title"])), (404, "Not found"), "{path}");
    }
    app.finish().await;
}

// Dead letters -----------------------------------------------------------------------------------------------------

/// Makes so many messages dead: of as many donations, thanked.
async fn dead_notices(app: &TestApp, count: usize) {
    for _ in 0..count {
        thanked(app).await;
    }
    app.sql("update notifications.notifications set status = 'DEAD', last_error = '550 no'").await;
}

#[tokio::test]
async fn dead_messages_are_counted_listed_replayed_and_discarded_over_http() {
    let app = Setup::new().await.start().await;
    dead_notices(&app, 5).await;
    let (_, overview) = app.get("/api/v1/dead-letters").await;
    assert_eq!((&overview["notifications"]["count"], &overview["outbox"]["count"]), (&json!(5), &json!(0)));
    assert!(overview["notifications"]["oldest_at"].is_string() && overview["outbox"]["oldest_at"].is_null());
    assert!(overview["queues"].is_null() && text(&overview["queues_reason"]).contains("no broker"), "{overview}");
    let (_, page) = app.get("/api/v1/dead-letters/notifications?limit=2").await;
    let next = format!("/dead-letters/notifications?cursor={}", text(&page["next_cursor"]));
    let (first, rest) = (page["items"].as_array().unwrap().clone(), items(&app, &next).await);
    assert_eq!((first.len(), rest.len()), (2, 3));
    let order = async |what: &str, body: Value| {
        send(&app, Method::POST, &format!("/dead-letters/notifications/{what}"), body).await.1
    };
    let body = json!({"ids": [first[0]["id"], NOBODY]});
    assert_eq!(order("discard", body).await, json!({"count": 1, "skipped": [NOBODY], "remaining": 4}));
    assert_eq!(
        order("replay", json!({"ids": [first[1]["id"]]})).await,
        json!({"count": 1, "skipped": [], "remaining": 3})
    );
    assert_eq!(order("replay", json!({"all": true})).await, json!({"count": 3, "skipped": [], "remaining": 0}));
    assert_eq!(order("discard", json!({"all": true})).await, json!({"count": 0, "skipped": [], "remaining": 0}));
    wait_until("they went out", DEADLINE, async || items(&app, "/notifications?status=SENT").await.len() == 4).await;
    assert_eq!(items(&app, "/notifications?status=DISCARDED").await.len(), 1);
    app.finish().await;
}

/// Sets aside the events of so many new donations, which the audit log refuses.
async fn dead_events(app: &TestApp, count: usize) -> Vec<Value> {
    app.sql("alter table donations.audit_logs add constraint nothing check (false) not valid").await;
    let campaign = app.campaign().await;
    for _ in 0..count {
        app.donate(&campaign, 2500).await;
    }
    let refused = format!("select count(*) from donations.outbox_events where attempts > 0 having count(*) = {count}");
    wait_until("all are refused", DEADLINE, async || {
        let client = app.setup.database.connect().await;
        !client.query(&refused, &[]).await.unwrap().is_empty()
    })
    .await;
    // What many refusals over hours come to.
    app.sql("update donations.outbox_events set dead_at = now(), next_attempt_at = null").await;
    items(app, "/dead-letters/outbox").await
}

#[tokio::test]
async fn facts_that_were_set_aside_leave_when_they_are_replayed_and_a_discarded_one_is_in_the_audit_log() {
    let app = Setup::new().await.start().await;
    let dead = dead_events(&app, 4).await;
    assert_eq!(dead.len(), 4, "{dead:?}");
    assert!(dead.is_sorted_by_key(|it| it["seq"].as_i64()) && !json!(dead).to_string().contains("example.org"));
    let (_, page) = app.get("/api/v1/dead-letters/outbox?limit=3").await;
    let next = format!("/dead-letters/outbox?cursor={}", text(&page["next_cursor"]));
    assert_eq!(items(&app, &next).await, dead[3..]);
    let (_, overview) = app.get("/api/v1/dead-letters").await;
    assert_eq!(overview["outbox"]["count"], 4);
    app.sql("alter table donations.audit_logs drop constraint nothing").await;

    let order =
        async |what: &str, body: Value| send(&app, Method::POST, &format!("/dead-letters/outbox/{what}"), body).await.1;
    let seq = |n: usize| dead[n]["seq"].clone();
    assert_eq!(
        order("discard", json!({"ids": [seq(0), -7]})).await,
        json!({"count": 1, "skipped": [-7], "remaining": 3})
    );
    let client = app.setup.database.connect().await;
    let row = client.query_one("select aggregate_id, body::text from donations.audit_logs", &[]).await.unwrap();
    let kept: Value = serde_json::from_str(row.get(1)).unwrap();
    let lost: Value = serde_json::from_str(text(&kept["event"])).unwrap();
    assert_eq!((&kept["operator"], &lost["id"]), (&json!("CAREFORALL_ADMIN_KEY"), &dead[0]["id"]));
    assert_eq!(row.get::<_, uuid::Uuid>(0).to_string(), text(&dead[0]["aggregate_id"]));

    assert_eq!(order("replay", json!({"ids": [seq(1)]})).await, json!({"count": 1, "skipped": [], "remaining": 2}));
    assert_eq!(order("replay", json!({"all": true})).await, json!({"count": 2, "skipped": [], "remaining": 0}));
    wait_until("three facts are in the audit log", DEADLINE, async || {
        app.count("select count(*) from donations.audit_logs where event_type = 'donation.created'").await == 3
    })
    .await;
    app.finish().await;
}

#[tokio::test]
async fn the_command_lists_replays_and_discards_beside_the_server() {
    let app = Setup::new().await.start().await;
    dead_notices(&app, 3).await;
    let command = async |words: &str| {
        let words: Vec<&str> = std::iter::once("dead-letters").chain(words.split_whitespace()).collect();
        app.command(&words).await
    };
    let told = command("").await;
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.out.starts_with("notifications              3  since 20") && told.out.contains("outbox "), "{told:?}");
    assert!(told.out.contains("AMQP_URL is not set"), "{told:?}");
    let told = command("list --json").await;
    let overview: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((&overview["notifications"]["count"], &overview["queues"]), (&json!(3), &Value::Null));
    let told = command("list --source notifications --json").await;
    let rows: Vec<Value> = serde_json::from_str(&told.out).unwrap();
    let ids: Vec<&str> = rows.iter().map(|row| text(&row["id"])).collect();
    let told = command("list --source notifications --limit 2").await;
    assert!(told.out.lines().count() == 2 && told.out.contains("550 no") && told.out.contains(ids[0]), "{told:?}");

    for wrong in [
        "replay",
        "replay --source notifications",
        "replay --source teapot --all",
        "replay --source notifications --all --id x",
        "discard --source notifications --all",
        "bury",
    ] {
        assert_eq!(command(wrong).await.code, Some(64), "{wrong}");
    }
    for (failed, why) in [
        ("replay --source notifications --id x".to_owned(), "--id \"x\" names nothing"),
        (format!("replay --source notifications --id {NOBODY}"), "not dead"),
        ("discard --source outbox --all --yes".to_owned(), "by --id only"),
        ("replay --source audit.queue --all".to_owned(), "AMQP_URL is not set"),
    ] {
        let told = command(&failed).await;
        assert!(told.code == Some(1) && told.err.contains(why), "{failed}: {told:?}");
    }
    let help = command("--help").await;
    assert!(help.code == Some(0) && help.out.contains("replay") && help.out.contains("discard"), "{help:?}");

    let told = command(&format!("discard --source notifications --id {} --yes", ids[0])).await;
    assert_eq!((told.code, told.out.as_str()), (Some(0), "1 dead letter discarded\n"));
    let told = command("replay --source notifications --all --limit 1 --json").await;
    assert_eq!(serde_json::from_str::<Value>(&told.out).unwrap(), json!({"count": 1}));
    let told = command("replay --source notifications --all").await;
    assert_eq!(told.out, "1 dead letter replayed\n", "{told:?}");
    wait_until("they went out", DEADLINE, async || items(&app, "/notifications?status=SENT").await.len() == 2).await;

    let dead = dead_events(&app, 2).await;
    app.sql("alter table donations.audit_logs drop constraint nothing").await;
    let told = command("list --source outbox").await;
    assert!(told.out.lines().count() == 2 && told.out.contains("donation.created"), "{told:?}");
    let told = command(&format!("discard --source outbox --yes --id {}", dead[0]["seq"])).await;
    assert_eq!(told.out, "1 dead letter discarded\n", "{told:?}");
    let lost = "select count(*) from donations.audit_logs
                 where event_type = 'outbox.discarded' and body->>'operator' = 'careforall dead-letters'";
    assert_eq!(app.count(lost).await, 1);
    assert_eq!(command("replay --source outbox --all").await.out, "1 dead letter replayed\n");
    app.finish().await;
}

#[tokio::test]
async fn poison_ends_in_the_dead_letter_queue_and_is_replayed_by_the_route_and_by_the_command() {
    let app = Setup::new().await.with_amqp().start().await;
    let topology = Topology::with_prefix(app.setup.prefix());
    let dead = topology.dead_letter_queue(ConsumerQueue::Audit);
    let lying = async |count: u32| {
        wait_until(&format!("{count} dead letters"), DEADLINE * 3, async || broker::waiting(&dead).await == count)
            .await;
    };
    let audited = async |count: i64| {
        wait_until(&format!("{count} audited"), DEADLINE, async || {
            app.count("select count(*) from donations.audit_logs").await == count
        })
        .await;
    };
    let queues = async || app.get("/api/v1/dead-letters").await.1["queues"].clone();
    let counts = |audit: u32| {
        json!([{"queue": "totals.queue", "count": 0}, {"queue": "notifications.queue", "count": 0},
               {"queue": "audit.queue", "count": audit}])
    };
    // A fact that the consumer can read and the database refuses: returned until the delivery limit, a second apart.
    app.sql("alter table donations.audit_logs add constraint nothing check (false) not valid").await;
    app.donate(&app.campaign().await, 2500).await;
    lying(1).await;
    let retried = app.metric("careforall_consumer_events_total{consumer=\"audit\",outcome=\"retried\"}").await;
    assert!(retried >= f64::from(DELIVERY_LIMIT), "{retried}");
    assert_eq!(queues().await, counts(1));
    let (status, shown) = app.get("/api/v1/dead-letters/queues/audit.queue").await;
    let letter = &shown["items"][0];
    assert_eq!(
        (status.as_u16(), &letter["event_type"], &letter["deaths"]),
        (200, &json!("donation.created"), &json!(1))
    );
    assert_eq!(letter["reason"], "delivery_limit", "{shown}");
    assert!(letter["died_at"].is_string() && !shown.to_string().contains("example.org"), "{shown}");
    let id = text(&letter["message_id"]).to_owned();
    let told = app.command(&["dead-letters", "list", "--source", "audit.queue"]).await;
    assert!(told.out.starts_with(&id) && told.out.contains("donation.created"), "{told:?}");
    lying(1).await;
    app.sql("alter table donations.audit_logs drop constraint nothing").await;
    let order =
        async |what: &str, body: Value| send(&app, Method::POST, &format!("/dead-letters/queues/{what}"), body).await;
    let (status, done) = order("replay", json!({"queue": "audit.queue", "ids": [NOBODY]})).await;
    assert_eq!((status.as_u16(), done), (200, json!({"queue": "audit.queue", "count": 0, "skipped": [NOBODY]})));
    let (status, done) = order("replay", json!({"queue": "audit.queue", "ids": [id]})).await;
    assert_eq!((status.as_u16(), done), (200, json!({"queue": "audit.queue", "count": 1, "skipped": []})));
    audited(1).await;
    lying(0).await;
    // Another one, as if it had come the same way.
    let client = app.setup.database.connect().await;
    let row = client.query_one("select body::text from donations.audit_logs", &[]).await.unwrap();
    let mut fact: Value = serde_json::from_str(row.get(0)).unwrap();
    fact["id"] = json!(NOBODY);
    broker::publish("", &dead, fact.to_string().as_bytes()).await;
    lying(1).await;
    let told = app.command(&["dead-letters", "replay", "--source", "audit.queue", "--all"]).await;
    assert_eq!((told.code, told.out.as_str()), (Some(0), "1 dead letter replayed\n"), "{told:?}");
    audited(2).await;
    lying(0).await;

    // What nobody can read is set aside at once. One order takes it round once, not for ever.
    for _ in 0..2 {
        broker::publish(&topology.exchange(Exchange::Donations), "donation.created", b"no fact at all").await;
    }
    lying(2).await;
    let (_, done) = order("replay", json!({"queue": "audit.queue"})).await;
    assert_eq!(done["count"], 2);
    lying(2).await;
    let told = app.command(&["dead-letters", "list", "--source", "audit.queue", "--json"]).await;
    let listed: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["message_id"]), (2, &Value::Null), "{listed}");
    let (_, done) = order("discard", json!({"queue": "audit.queue", "limit": 1})).await;
    assert_eq!(done["count"], 1);
    let kept = "select count(*) from donations.audit_logs where event_type = 'queue.discarded'
                   and body->>'event' = 'no fact at all' and body->>'queue' = 'audit.queue'";
    assert_eq!(app.count(kept).await, 1, "it was nowhere else");
    for queue in ["audit.queue", "notifications.queue"] {
        let told = app.command(&["dead-letters", "discard", "--source", queue, "--all", "--yes"]).await;
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    assert_eq!(queues().await, counts(0));
    assert!(!app.log().contains(ADMIN_KEY));
    app.finish().await;
}
