//! Webhooks arrive, signed and at least once, past partners that limp, hang, move away or are no more.

use careforall::store::endpoints::Health;

use super::*;
use crate::support::post::{DROP, HANG, TRICKLE};

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
    let sent = "select count(*) from notifications.notifications where channel = 'WEBHOOK' and status = 'SENT'";
    wait_until("all of that is on record", DEADLINE, async || app.count(sent).await == 40).await;
    let (status, _) = app.post(&format!("/api/v1/webhook-endpoints/{failing_id}/test"), json!({})).await;
    assert_eq!(status, 202);
    wait_until("the test is dead", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where kind = 'TEST' and status = 'DEAD'").await == 1
    })
    .await;
    assert_eq!(failing.seen().len(), 1);
    let failing_since = "select count(*) from notifications.webhook_endpoints where failing_since is not null";
    wait_until("it is known to fail", DEADLINE, async || app.count(failing_since).await >= 1).await;
    app.stop().await;
}

/// An attempt has ten seconds, so those that hang and trickle take that long, side by side.
#[tokio::test]
async fn partners_that_limp_get_the_same_webhook_again_and_each_attempt_is_on_record() {
    let limping: [Limping; 8] = [
        (OK, &[("ACCEPTED", "200")]),
        (DROP, &[("UNKNOWN", "connection"), ("ACCEPTED", "200")]),
        (HANG, &[("UNKNOWN", "timeout"), ("ACCEPTED", "200")]),
        (TRICKLE, &[("UNKNOWN", "timeout"), ("ACCEPTED", "200")]),
        (("500 Internal Server Error", "", ""), &[("TRANSIENT", "500"), ("ACCEPTED", "200")]),
        (("429 Too Many Requests", "Retry-After: 2\r\n", ""), &[("TRANSIENT", "429"), ("ACCEPTED", "200")]),
        (
            ("307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n", ""),
            &[("TRANSIENT", "307"), ("ACCEPTED", "200")],
        ),
        (("410 Gone", "", ""), &[("PERMANENT", "410")]),
    ];
    let app = open_minded().await.start().await;
    many_receipts(&app, 0).await;
    let store = store(&app);
    let mut partners = Vec::new();
    for (first, expected) in limping {
        let server = Server::start(move |n| if n == 0 { first } else { OK }).await;
        let id = endpoint(&store, &server.url, &["payment.flagged"]).await.to_string();
        partners.push((server, id, expected));
    }
    due(&app, "WEBHOOK", &partners.iter().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>()).await;
    all_sent(&app).await;
    for (server, id, expected) in &partners {
        assert_eq!(attempts_at(&app, id).await, told(expected));
        let ids: Vec<String> = server.seen().iter().map(|seen| seen.headers["webhook-id"].clone()).collect();
        assert_eq!(ids.len(), expected.len());
        assert!(ids.iter().all(|it| *it == ids[0]), "the same message to whoever drops what it has seen: {ids:?}");
    }
    app.sql("update notifications.notifications set status = 'DISCARDED' where status = 'DEAD'").await;
    app.finish().await;
}

#[tokio::test]
async fn only_failures_of_five_days_without_a_pause_disable_an_endpoint() {
    let setup = Setup::new().await;
    let store = Store::new(setup.database.url().parse().unwrap()).unwrap();
    let (it, other) =
        (endpoint(&store, "https://a.example", &[]).await, endpoint(&store, "https://b.example", &[]).await);
    let start = Clock::System.now();
    let fared = async |endpoint_id: Uuid, succeeded: bool, hours: i64| {
        let health = Health { endpoint_id, succeeded, gone: false };
        store.record_endpoint_health(&[health], start + time::Duration::hours(hours)).await.unwrap()
    };
    // A failure each day: five days of it are too many.
    for day in 0..5 {
        assert!(fared(it, false, day * 24).await.is_empty(), "day {day}");
    }
    assert_eq!(fared(it, false, 5 * 24).await, [(it, "FAILING".to_owned())]);
    // One failure now and then is not: nothing was sent in between, or nobody knows how it would have gone.
    for week in 0..4 {
        assert!(fared(other, false, week * 7 * 24).await.is_empty(), "week {week}");
    }
    // A success ends it.
    assert!(fared(other, true, 3 * 7 * 24 + 1).await.is_empty());
    assert!(store.load_endpoint(other).await.unwrap().unwrap().failing_since.is_none());
    for hours in [1000, 1024, 1048, 1072, 1096] {
        assert!(fared(other, false, hours).await.is_empty());
    }
    assert!(fared(other, true, 1119).await.is_empty());
    assert!(fared(other, false, 1120).await.is_empty());
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_deleted_or_died_before_is_discarded() {
    let partner = Server::start(|_| ("500 Internal Server Error", "", "")).await;
    let app = open_minded().await.start().await;
    let store = store(&app);
    let endpoint_id = endpoint(&store, &partner.url, &["payment.flagged"]).await;
    many_receipts(&app, 0).await;
    let id = endpoint_id.to_string();
    due(&app, "WEBHOOK", &[&id]).await;
    let count = async |status: &str| {
        app.count(&format!("select count(*) from notifications.notifications where endpoint_id = '{id}' and {status}"))
            .await
    };
    wait_until("it failed once", DEADLINE, async || count("status = 'PENDING' and attempts = 1").await == 1).await;
    app.sql("update notifications.notifications set status = 'DEAD' where channel = 'WEBHOOK' and claimed_by is null")
        .await;
    due(&app, "WEBHOOK", &[&id]).await;
    wait_until("another failed", DEADLINE, async || {
        count("status = 'PENDING' and attempts = 1 and claimed_by is null").await == 1
    })
    .await;
    assert!(store.delete_endpoint(endpoint_id).await.unwrap());
    wait_until("both are discarded", DEADLINE, async || count("status = 'DISCARDED'").await == 2).await;
    app.finish().await;
}
