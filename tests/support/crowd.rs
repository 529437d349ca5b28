//! Many donors at once, two processes, and what must hold of the books once everything is at rest.
//!
//! Deliberately absent: what happens to the program meanwhile.

use std::sync::Arc;
use tokio_postgres::error::SqlState;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::services::wait_until;
use super::{DEADLINE, SANDBOX_KEY, Setup, TestApp, donation_body, read, text};

/// What must be nothing, whatever happened.
const MUST_BE_NONE: [(&str, &str); 8] = [
    (
        "payments whose history is not 1, 2, 3, … to their version",
        "select count(*) from payments.payment_transactions p
           left join (select payment_id, count(*) as rows, count(distinct version) as versions, max(version) as newest
                        from payments.payment_state_history where verdict = 'applied' group by payment_id) h
             on h.payment_id = p.id
          where h.rows is distinct from p.version or h.versions <> h.rows or h.newest <> p.version",
    ),
    (
        "payments whose amounts are not their ledger lines",
        "select count(*) from payments.payment_transactions p
          where captured_minor - refunded_minor - disputed_minor
                <> (select coalesce(sum(amount_minor), 0) from payments.ledger_entries where payment_id = p.id)",
    ),
    (
        "payments whose refunds are not their refunded amount",
        "select count(*) from payments.payment_transactions p
          where captured_minor > 0 and refunded_minor
                <> (select coalesce(sum(amount_minor), 0) from payments.refunds
                     where payment_id = p.id and status not in ('FAILED', 'CANCELED'))",
    ),
    (
        "donations that do not stand where their payment stands",
        "select count(*) from donations.donations d join payments.payment_transactions p on p.donation_id = d.id
          where d.version <> p.version or d.status <> case p.status
                when 'CAPTURED' then 'COMPLETED' when 'REFUNDED' then 'REFUNDED' when 'CANCELED' then 'CANCELLED'
                when 'FAILED' then 'FAILED' else 'PENDING' end",
    ),
    (
        "donations without a payment, or payments without a donation",
        "select count(*) from donations.donations d full join payments.payment_transactions p on p.donation_id = d.id
          where d.id is null or p.id is null",
    ),
    (
        "campaigns whose donors are not counted once",
        "select count(*) from (
             select l.campaign_id, sum(l.donors_delta) as counted,
                    (select count(*) from (
                        select p.donor_key from payments.ledger_entries g
                          join payments.payment_transactions p on p.id = g.payment_id
                         where g.campaign_id = l.campaign_id
                         group by p.donor_key having sum(g.donations_delta) > 0) as donor) as donors
               from payments.ledger_entries l group by l.campaign_id) as campaign
          where counted <> donors",
    ),
    (
        "intents that two payments share",
        "select count(*) from (select intent_id from payments.payment_transactions where intent_id is not null
                                group by intent_id having count(*) > 1) as shared",
    ),
    ("facts that wait", "select count(*) from donations.outbox_events"),
];

/// Waits until the outbox is empty and every mail is sent, then holds the books against each other.
pub async fn books_hold(app: &TestApp) {
    wait_until("everything is told and mailed", DEADLINE, async || {
        app.count(
            "select (select count(*) from donations.outbox_events)
                  + (select count(*) from notifications.notifications where status = 'PENDING')",
        )
        .await
            == 0
    })
    .await;
    for (what, sql) in MUST_BE_NONE {
        assert_eq!(app.count(sql).await, 0, "{what}");
    }
}

/// A donation of one donor of many, not sent yet.
pub fn gift(app: &TestApp, campaign: &Value, amount_minor: i64, email: &str) -> RequestBuilder {
    let mut body = donation_body(campaign, amount_minor);
    body["donor"]["email"] = json!(email);
    app.request(Method::POST, "/api/v1/donations").json(&body)
}

/// A donation of one donor of many that the sandbox knows.
pub async fn donate_as(app: &TestApp, campaign: &Value, amount_minor: i64, email: &str) -> Value {
    let (status, donation) = read(gift(app, campaign, amount_minor, email)).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    assert!(donation["payment"]["intent_id"].is_string(), "the sandbox answered in time: {donation}");
    donation
}

/// A donation of one donor of many that is paid and completed; its donor may still look at it.
pub async fn completed(app: &TestApp, campaign: &Value, amount_minor: i64, email: &str) -> Value {
    let donation = donate_as(app, campaign, amount_minor, email).await;
    let (status, intent) = app.pay(&donation, "pm_card_visa").await;
    assert_eq!(status, StatusCode::OK, "{intent}");
    let mut seen = app.settle(&donation, "COMPLETED").await;
    seen["access_token"] = donation["access_token"].clone();
    seen
}

/// The sandbox's books in euros.
pub async fn sandbox_books(app: &TestApp) -> Value {
    let (status, books) = read(app.request(Method::GET, "/sandbox/control/books")).await;
    assert_eq!(status, StatusCode::OK, "{books}");
    books["EUR"].clone()
}

/// Every intent of the sandbox.
pub async fn intents(app: &TestApp) -> Vec<Value> {
    all_of(app, "payment_intents").await
}

/// Every event that the sandbox made about a payment, as it would be posted, oldest first.
pub async fn events(app: &TestApp) -> Vec<Value> {
    let mut events = all_of(app, "events").await;
    events.reverse();
    events
}

async fn all_of(app: &TestApp, what: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::<Value>::new(), String::new());
    loop {
        let path = format!("/sandbox/stripe/v1/{what}?limit=100{cursor}");
        let (status, page) = read(app.request(Method::GET, &path).bearer_auth(SANDBOX_KEY)).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        all.extend(page["data"].as_array().expect("a page").iter().cloned());
        if page["has_more"] != true {
            return all;
        }
        cursor = format!("&starting_after={}", text(&all[all.len() - 1]["id"]));
    }
}

/// How often at most [`all_is_due`] begins.
const DUE_TRIES: usize = 5;

/// Moves what payments ask the provider by themselves, and mails whose sender died, to now.
pub async fn all_is_due(app: &TestApp) {
    let client = app.setup.database.connect().await;
    let sql = "update payments.payment_transactions set check_at = now() where check_at is not null;
               update notifications.notifications set next_attempt_at = now() where status = 'PENDING'";
    // It takes rows in any order, and whoever writes some of them at that moment may hold one: then once more, a few times.
    let mut tries = 1;
    while let Err(error) = client.batch_execute(sql).await {
        let is_deadlock = error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
        assert!(is_deadlock && tries < DUE_TRIES, "what waits, {tries} times: {error:?}");
        tries += 1;
    }
}

/// A second process on the database, queues and sandbox of the first, with a directory of its own.
pub async fn beside(first: &TestApp) -> TestApp {
    let sandbox = format!("{}/sandbox/stripe", first.url);
    let mut setup: Setup = first.setup.clone().with("STRIPE_API_BASE", sandbox).with("STRIPE_SECRET_KEY", SANDBOX_KEY);
    setup.data_dir = Arc::new(tempfile::tempdir().expect("a directory"));
    setup.start().await
}
