//! Messages arrive, once, and can be answered for: over every channel, past limping providers, kills and second processes.
//!
//! This file has what the others share; each of those is about one road, `processes` about who goes it.

mod partners;
mod processes;
mod relays;
mod texts;

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

use crate::support::post::{Answer, Relay, Server};
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
        notice: Named::by_us(id.into()),
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
        assert_eq!(
            store.record_feedback(std::slice::from_ref(&feedback)).await.unwrap(),
            [moves],
            "{}",
            feedback.provider_status
        );
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

/// How a provider behaves at first, and what is on record then: each attempt's outcome and code.
type Limping = (Answer, &'static [(&'static str, &'static str)]);

/// What became of each attempt at the messages to `recipient`, oldest first: outcome and code.
async fn attempts_at(app: &TestApp, recipient: &str) -> Vec<(String, String)> {
    let sql = "select log.outcome, coalesce(log.code, '')
                 from notifications.delivery_logs log
                 join notifications.notifications notice on notice.id = log.notification_id
                where notice.recipient = $1
                order by log.at, log.attempt";
    let client = app.setup.database.connect().await;
    let rows = client.query(sql, &[&recipient]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A due message for each recipient, about one donation: of receipts, or the like of a partner's.
async fn due(app: &TestApp, channel: &str, recipients: &[&str]) {
    let (kind, endpoint, payload) = match channel {
        "WEBHOOK" => ("EVENT", "it::uuid", "'{}'"),
        _ => ("PAYMENT_CONFIRMED", "null::uuid", "null"),
    };
    let it = recipients.iter().map(|it| format!("('{it}')")).collect::<Vec<_>>().join(", ");
    app.sql(&format!(
        "insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload,
                donation_id, payment_id, amount_minor, currency, status, next_attempt_at, created_at)
         select gen_random_uuid(), gen_random_uuid(), '{kind}', '{channel}', it, {endpoint}, {payload}::text,
                donation_id, payment_id, 2500, 'EUR', 'PENDING', now(), now()
           from notifications.notifications cross join (values {it}) as recipients(it)
          where kind = 'DONATION_RECEIVED'"
    ))
    .await;
}

/// Outcomes and codes, as a test writes them.
fn told(attempts: &[(&str, &str)]) -> Vec<(String, String)> {
    attempts.iter().map(|(outcome, code)| ((*outcome).to_owned(), (*code).to_owned())).collect()
}
