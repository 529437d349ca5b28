//! Messages arrive, once, and can be answered for: over every channel, past limping providers, kills and second processes.

use std::time::Duration;

use careforall::clock::Clock;
use careforall::domain::ids::NoticeId;
use careforall::domain::notice::{Channel, NoticeStatus};
use careforall::store::Store;
use careforall::store::dead_letters::Chosen;
use careforall::store::endpoints::{EndpointChange, EndpointStatus, NewEndpoint};
use careforall::store::notices::{Feedback, Named, NoticeFilter};
use careforall::store::suppressions::SuppressionReason;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::post::{Relay, Server};
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, from_environment, read};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OK: (&str, &str, &str) = ("200 OK", "", "");

fn store(app: &TestApp) -> Store {
    Store::new(app.setup.database.url().parse().unwrap()).unwrap()
}

/// An installation that may call this machine.
async fn open_minded() -> Setup {
    Setup::new().await.with("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on")
}

async fn endpoint(store: &Store, url: &str, event_types: &[&str]) -> Uuid {
    let now = Clock::System.now();
    let id = NoticeId::at(now).uuid();
    let endpoint = NewEndpoint {
        id,
        url: format!("{url}/hook"),
        description: None,
        event_types: event_types.iter().map(|it| (*it).to_owned()).collect(),
        secret: SECRET.to_owned(),
        created_at: now,
    };
    assert!(store.create_endpoint(&endpoint).await.unwrap());
    id
}

/// So many receipts to as many addresses, all due, about one donation.
async fn many_receipts(app: &TestApp, count: usize) {
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    wait_until("the thank-you is recorded", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications").await == 1
    })
    .await;
    // In one statement that the couriers see when it is committed.
    app.sql(&format!(
        "insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id,
                                                  amount_minor, currency, status, next_attempt_at, created_at)
         select gen_random_uuid(), gen_random_uuid(), 'PAYMENT_CONFIRMED', 'EMAIL', 'donor' || n || '@example.org',
                '{}', '{}', 2500, 'EUR', 'PENDING', now(), now()
           from generate_series(1, {count}) n",
        donation["id"].as_str().unwrap(),
        donation["payment"]["id"].as_str().unwrap(),
    ))
    .await;
}

async fn pending(app: &TestApp) -> i64 {
    app.count("select count(*) from notifications.notifications where status = 'PENDING'").await
}

async fn all_sent(app: &TestApp) {
    wait_until("nothing waits any more", DEADLINE * 4, async || pending(app).await == 0).await;
}

async fn only(store: &Store, filter: NoticeFilter) -> (Uuid, Value, Vec<Value>) {
    let found = store.list_notices(&filter, None, 10).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let (notice, attempts) = store.load_notice(found[0].id.into()).await.unwrap().unwrap();
    let attempts = attempts.iter().map(|it| serde_json::to_value(it).unwrap()).collect();
    (found[0].id, serde_json::to_value(notice).unwrap(), attempts)
}

fn to_endpoint(endpoint: Uuid) -> NoticeFilter {
    NoticeFilter { endpoint_id: Some(endpoint), ..NoticeFilter::default() }
}

#[tokio::test]
async fn a_text_message_goes_to_a_donor_who_gave_a_phone_and_to_nobody_else() {
    let twilio = Server::start(|n| match n {
        0 => ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#),
        _ => ("400 Bad Request", "", r#"{"code": 21610, "message": "Attempt to send to unsubscribed recipient"}"#),
    })
    .await;
    let setup = Setup::new()
        .await
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url);
    let app = setup.start().await;
    let campaign = app.campaign().await;
    for phone in [json!(null), json!("+4915112345678"), json!("+4915112345679")] {
        let body = json!({"campaign_id": campaign["id"], "amount_minor": 2500, "currency": "EUR",
                          "donor": {"name": "Jo Donor", "email": "jo@example.org", "phone": phone}});
        let mut body = body;
        if phone.is_null() {
            body["donor"].as_object_mut().unwrap().remove("phone");
        }
        let (status, donation) = read(app.request(reqwest::Method::POST, "/api/v1/donations").json(&body)).await;
        assert_eq!(status, 201, "{donation}");
        app.pay(&donation, "pm_card_visa").await;
        app.settle(&donation, "COMPLETED").await;
        all_sent(&app).await;
    }
    wait_until("six mails and two text messages are on record", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status <> 'PENDING'").await == 8
    })
    .await;
    let seen = twilio.seen();
    assert_eq!(seen.len(), 2, "what Twilio refuses is not tried again: {seen:?}");
    assert!(seen[0].body.contains("To=%2B4915112345678"), "{}", seen[0].body);
    assert!(seen[0].body.contains("Receipt+CF-"), "{}", seen[0].body);
    let store = store(&app);
    let sms = |status| NoticeFilter { channel: Some(Channel::Sms), status: Some(status), ..NoticeFilter::default() };
    let (_, sent, _) = only(&store, sms(NoticeStatus::Sent)).await;
    assert_eq!(sent["provider_id"], "SM1");
    let (_, dead, attempts) = only(&store, sms(NoticeStatus::Dead)).await;
    assert_eq!((&dead["attempts"], &attempts[0]["outcome"]), (&json!(1), &json!("PERMANENT")), "{attempts:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_partner_gets_the_facts_it_subscribed_to_signed_and_once() {
    let partner = Server::start(|_| OK).await;
    let app = open_minded().await.start().await;
    let store = store(&app);
    let endpoint = endpoint(&store, &partner.url, &["payment.completed"]).await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    wait_until("the partner heard of it", DEADLINE, async || !partner.seen().is_empty()).await;
    all_sent(&app).await;
    let seen = partner.seen();
    assert_eq!(seen.len(), 1);
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["moved_minor"]), (&json!("payment.completed"), &json!(2500)));
    assert!(!seen[0].body.contains("example.org"), "no donor's data");
    verify(&seen[0].headers, &seen[0].body);

    // Sent once more by an operator, it is the same message to whoever drops what it has seen.
    let (id, _, attempts) = only(&store, to_endpoint(endpoint)).await;
    assert_eq!((attempts.len(), &attempts[0]["outcome"], &attempts[0]["code"]), (1, &json!("ACCEPTED"), &json!("200")));
    let (status, _) = app.post(&format!("/api/v1/notifications/{id}/resend"), json!({})).await;
    assert_eq!(status, 201);
    wait_until("it came again", DEADLINE, async || partner.seen().len() == 2).await;
    let again = &partner.seen()[1];
    assert_eq!((&again.body, &again.headers["webhook-id"]), (&seen[0].body, &seen[0].headers["webhook-id"]));
    all_sent(&app).await;
    app.finish().await;
}

fn verify(headers: &std::collections::HashMap<String, String>, body: &str) {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let pairs = names.map(|name| (name.parse().unwrap(), headers[name].parse().unwrap()));
    let map: reqwest::header::HeaderMap = pairs.into_iter().collect();
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(body.as_bytes(), &map).unwrap();
}

#[tokio::test]
async fn a_partner_that_asks_for_an_hour_gets_it_and_its_next_message_is_not_an_attempt() {
    let partner = Server::start(|_| ("429 Too Many Requests", "Retry-After: 3600\r\n", "")).await;
    let app = open_minded().await.start().await;
    let store = store(&app);
    let endpoint = endpoint(&store, &partner.url, &["donation.created"]).await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await;
    wait_until("it was refused and written down", DEADLINE, async || {
        app.count("select count(*) from notifications.delivery_logs where outcome = 'TRANSIENT'").await == 1
    })
    .await;
    let wait = "select extract(epoch from next_attempt_at - now())::bigint from notifications.notifications
                 where channel = 'WEBHOOK'";
    let wait = app.count(wait).await;
    assert!((3500..=3600).contains(&wait), "{wait} s");
    let (_, notice, attempts) = only(&store, to_endpoint(endpoint)).await;
    assert_eq!((&notice["status"], &attempts[0]["code"]), (&json!("PENDING"), &json!("429")));
    app.donate(&campaign, 2500).await;
    wait_until("the second is recorded", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where channel = 'WEBHOOK'").await == 2
    })
    .await;
    wait_until("the mails are sent", DEADLINE, async || pending(&app).await == 2).await;
    assert_eq!(partner.seen().len(), 1, "whoever asked to wait is left alone");
    app.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_what_waited_for_it_can_be_replayed() {
    let partner = Server::start(|n| if n == 0 { ("410 Gone", "", "") } else { OK }).await;
    let app = open_minded().await.start().await;
    let store = store(&app);
    let endpoint_id = endpoint(&store, &partner.url, &[]).await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await;
    wait_until("it is disabled", DEADLINE, async || {
        app.count("select count(*) from notifications.webhook_endpoints where disabled_reason = 'GONE'").await == 1
    })
    .await;
    let (id, notice, attempts) = only(&store, to_endpoint(endpoint_id)).await;
    assert_eq!((&notice["status"], &attempts[0]["code"]), (&json!("DEAD"), &json!("410")));
    let now = Clock::System.now();
    let dead = Chosen::These(&[id][..]);
    assert!(store.replay_notices(dead, now).await.unwrap().is_empty(), "not to a disabled endpoint");
    let change = EndpointChange { status: Some(EndpointStatus::Enabled), ..EndpointChange::default() };
    assert!(store.update_endpoint(endpoint_id, &change, now).await.unwrap().is_some());
    assert_eq!(store.replay_notices(dead, now).await.unwrap(), [id]);
    wait_until("it arrived", DEADLINE, async || partner.seen().len() == 2).await;
    all_sent(&app).await;
    let (_, notice, attempts) = only(&store, to_endpoint(endpoint_id)).await;
    assert_eq!((&notice["status"], attempts.len()), (&json!("SENT"), 2));
    app.finish().await;
}

#[tokio::test]
async fn one_endpoint_that_hangs_holds_up_no_other_and_a_test_is_tried_once() {
    let partner = Server::start(|_| OK).await;
    let failing = Server::start(|_| ("500 Internal Server Error", "", "")).await;
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = open_minded().await.start().await;
    let store = store(&app);
    endpoint(&store, &format!("http://{}", silent.local_addr().unwrap()), &[]).await;
    endpoint(&store, &partner.url, &[]).await;
    let failing_id = endpoint(&store, &failing.url, &["payment.flagged"]).await;
    let campaign = app.campaign().await;
    for _ in 0..40 {
        app.donate(&campaign, 2500).await;
    }
    wait_until("the partner heard of all", DEADLINE, async || partner.seen().len() == 40).await;
    assert_eq!(
        app.count("select count(*) from notifications.notifications where channel = 'WEBHOOK' and status = 'SENT'")
            .await,
        40
    );
    let (status, _) = app.post(&format!("/api/v1/webhook-endpoints/{failing_id}/test"), json!({})).await;
    assert_eq!(status, 202);
    wait_until("the test is dead", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where kind = 'TEST' and status = 'DEAD'").await == 1
    })
    .await;
    assert_eq!(failing.seen().len(), 1);
    let failing_since = "select count(*) from notifications.webhook_endpoints where failing_since is not null";
    assert!(app.count(failing_since).await >= 1);
    app.stop().await;
}

#[tokio::test]
async fn behind_an_open_breaker_no_attempt_is_used_up_and_all_goes_out_when_the_relay_is_back() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = Setup::new().await.with("SMTP_URL", format!("smtp://{port}")).start().await;
    many_receipts(&app, 200).await;
    wait_until("the circuit is open", DEADLINE, async || {
        let (_, ready) = app.get("/health/ready").await;
        ready["checks"].as_array().unwrap().iter().any(|it| it["name"] == "email" && it["status"] == "down")
    })
    .await;
    let tried = app.count("select count(*) from notifications.notifications where attempts > 0").await;
    assert!(tried <= 40, "{tried} of 201 were tried against a relay that is away");
    let relay = Relay::start_at(&port.to_string(), Duration::ZERO).await;
    all_sent(&app).await;
    assert_eq!((relay.mails(), relay.taken().len()), (201, 201));
    let most = app.count("select max(attempts)::bigint from notifications.notifications").await;
    assert!(most <= 3, "{most} attempts");
    app.finish().await;
}

#[tokio::test]
async fn two_processes_share_the_work_and_double_nothing() {
    let relay = Relay::start(Duration::from_millis(5)).await;
    let setup = Setup::new().await.with("SMTP_URL", &relay.url).with("CAREFORALL_MAIL_RATE", "off");
    let first = setup.start().await;
    let second = first.second().await;
    many_receipts(&first, 1000).await;
    all_sent(&first).await;
    assert_eq!((relay.mails(), relay.taken().len()), (1001, 1001));
    let attempts = "select count(*) from notifications.delivery_logs where outcome = 'ACCEPTED'";
    assert_eq!(first.count(attempts).await, 1001);
    second.finish().await;
    first.finish().await;
}

#[tokio::test]
async fn a_process_that_loses_its_sessions_keeps_its_number_and_nothing_is_doubled() {
    let relay = Relay::start(Duration::from_millis(400)).await;
    let app = Setup::new().await.with("SMTP_URL", &relay.url).start().await;
    let other = app.second().await;
    many_receipts(&app, 60).await;
    wait_until("some are on their way", DEADLINE, async || relay.mails() > 20).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
    assert!(app.count(cut).await >= 2);
    all_sent(&app).await;
    assert_eq!((relay.mails(), relay.taken().len()), (61, 61));
    assert_eq!(app.count("select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN'").await, 0);
    other.finish().await;
    app.finish().await;
}

#[tokio::test]
async fn what_providers_say_moves_messages_forward_only_and_a_bounce_silences_the_address() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    wait_until("the thank-you is sent", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'SENT'").await == 1
    })
    .await;
    let store = store(&app);
    let (id, ..) = only(&store, NoticeFilter::default()).await;
    let said = |status, word: &str, suppress| Feedback {
        channel: Channel::Email,
        notice: Named::ByUs(id.into()),
        status,
        provider_status: word.to_owned(),
        at: Clock::System.now(),
        detail: None,
        suppress,
    };
    let bounce = Some((SuppressionReason::Bounce, "sendgrid".to_owned()));
    for (feedback, moves, expected) in [
        (said(NoticeStatus::Delivered, "delivered", None), true, "DELIVERED"),
        (said(NoticeStatus::Delivered, "delivered", None), false, "DELIVERED"),
        (said(NoticeStatus::Sent, "processed", None), false, "DELIVERED"),
        (said(NoticeStatus::Undelivered, "bounce", bounce), true, "UNDELIVERED"),
        (said(NoticeStatus::Delivered, "delivered", None), false, "UNDELIVERED"),
    ] {
        assert_eq!(store.record_feedback(&feedback).await.unwrap(), moves, "{}", feedback.provider_status);
        assert_eq!(only(&store, NoticeFilter::default()).await.1["status"], expected);
    }
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    wait_until("the receipt is suppressed, on record", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status = 'SUPPRESSED'").await == 1
    })
    .await;
    assert_eq!(app.mails().len(), 1);
    assert!(store.lift_suppression(Channel::Email, "JO@example.org", None).await.unwrap());
    app.finish().await;
}

/// `CAREFORALL_TEST_KILLS=50 CAREFORALL_TEST_NOTICES=2000` for the long run.
#[tokio::test]
async fn kills_in_mid_delivery_lose_no_mail_and_what_was_doubled_is_on_record() {
    let kills = from_environment("CAREFORALL_TEST_KILLS", 5);
    let notices = from_environment("CAREFORALL_TEST_NOTICES", 300);
    let relay = Relay::start(Duration::from_millis(3)).await;
    let mut setup = Setup::new().await.with("SMTP_URL", &relay.url).with("CAREFORALL_MAIL_RATE", "off");
    for kill in 0..kills {
        let app = setup.start().await;
        if kill == 0 {
            many_receipts(&app, notices).await;
        }
        // A moment that falls anywhere in claim, conversation and settlement.
        let enough = (kill + 1) * notices / (kills + 1);
        wait_until("enough is taken", DEADLINE, async || relay.mails() >= enough || pending(&app).await == 0).await;
        app.kill_now();
        setup = app.kill();
    }
    let app = setup.start().await;
    all_sent(&app).await;
    let taken = relay.taken();
    let doubled = taken.values().filter(|times| **times > 1).count();
    assert_eq!(taken.len(), notices + 1, "every mail arrived");
    let unknown = app.count("select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN'").await;
    let more = relay.mails() - taken.len();
    assert!(more <= usize::try_from(unknown).unwrap(), "{more} doubled mails, {unknown} attempts of unknown end");
    let client = app.setup.database.connect().await;
    for (id, times) in taken.iter().filter(|(_, times)| **times > 1) {
        let row = "select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN' and notification_id = $1";
        let unknown: i64 = client.query_one(row, &[&id.parse::<Uuid>().unwrap()]).await.unwrap().get(0);
        assert!(usize::try_from(unknown).unwrap() + 1 >= *times, "{id} came {times} times, {unknown} unknown");
    }
    assert_eq!(app.count("select count(*) from notifications.delivery_logs where outcome = 'STARTED'").await, 0);
    println!("{kills} kills, {notices} mails: 0 lost, {doubled} doubled, {unknown} attempts of unknown end");
    app.finish().await;
}

/// `CAREFORALL_TEST_NOTICES=20000` for figures.
#[tokio::test]
async fn three_channels_drain_side_by_side_each_message_once() {
    let count = from_environment("CAREFORALL_TEST_NOTICES", 300);
    let relay = Relay::start(Duration::ZERO).await;
    let twilio = Server::start(|_| ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#)).await;
    let partner = Server::start(|_| OK).await;
    let setup = open_minded()
        .await
        .with("SMTP_URL", &relay.url)
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url)
        .with("CAREFORALL_MAIL_RATE", "off")
        .with("CAREFORALL_SMS_RATE", "off")
        .with("CAREFORALL_WEBHOOK_RATE", "off");
    let app = setup.start().await;
    many_receipts(&app, 0).await;
    let endpoint = endpoint(&store(&app), &partner.url, &[]).await;
    for (channel, kind, recipient, endpoint, payload) in [
        ("EMAIL", "PAYMENT_CONFIRMED", "donor", "null".to_owned(), "null"),
        ("SMS", "PAYMENT_CONFIRMED", "+49151", "null".to_owned(), "null"),
        ("WEBHOOK", "EVENT", "to", format!("'{endpoint}'"), "'{}'"),
    ] {
        let domain = if channel == "EMAIL" { "@example.org" } else { "" };
        let sql = format!(
            "insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload,
                    donation_id, payment_id, amount_minor, currency, status, next_attempt_at, created_at)
             select gen_random_uuid(), gen_random_uuid(), '{kind}', '{channel}', '{recipient}' || n || '{domain}',
                    {endpoint}::uuid, {payload}::text, donation_id, payment_id, 2500, 'EUR', 'PENDING', now(), now()
               from notifications.notifications cross join generate_series(100001, 100000 + {count}) n
              where kind = 'DONATION_RECEIVED'"
        );
        let began = tokio::time::Instant::now();
        app.sql(&sql).await;
        all_sent(&app).await;
        let seconds = began.elapsed().as_secs_f64();
        println!("{channel}: {count} in {seconds:.2} s, {:.0} a second", count as f64 / seconds);
    }
    assert_eq!((relay.mails(), relay.taken().len()), (count + 1, count + 1));
    assert_eq!((twilio.seen().len(), partner.seen().len()), (count, count));
    let once = "select count(*) from notifications.delivery_logs where outcome = 'ACCEPTED' and attempt = 1";
    assert_eq!(usize::try_from(app.count(once).await).unwrap(), 3 * count + 1);
    app.finish().await;
}
