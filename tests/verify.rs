//! `careforall verify`: histories against what is stored.

use reqwest::Method;
use serde_json::{Value, json};

use crate::explain::eventful_life;
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, now, text};

async fn paid(app: &TestApp, campaign: &Value) -> String {
    let donation = app.donate(campaign, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    text(&donation["payment"]["id"]).to_owned()
}

#[tokio::test]
async fn lives_of_every_kind_replay_to_what_is_stored() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    eventful_life(&app, &campaign).await;
    paid(&app, &campaign).await;
    app.sql("refresh materialized view payments.campaign_totals").await;
    let refunded = paid(&app, &campaign).await;
    app.post(&format!("/api/v1/payments/{refunded}/refunds"), json!({})).await;
    // Reserved, taken in part.
    let manual = app.campaign_with(json!({"manual_capture": true})).await;
    let reserved = app.donate(&manual, 2500).await;
    app.pay(&reserved, "pm_card_visa").await;
    wait_until("it is reserved", DEADLINE, async || app.payment(&reserved).await["status"] == "AUTHORIZED").await;
    let capture = format!("/api/v1/payments/{}/capture", text(&reserved["payment"]["id"]));
    app.post(&capture, json!({"amount_minor": 2000})).await;
    // Called off; never paid; of a wrong amount, and so flagged.
    let canceled = app.donate(&campaign, 2500).await;
    app.post(&format!("/api/v1/payments/{}/cancel", text(&canceled["payment"]["id"])), json!({})).await;
    let unpaid = app.donate(&campaign, 2500).await;
    let mut wrong = crate::support::intent_event(&unpaid, "payment_intent.succeeded", now(), json!({}));
    wrong["data"]["object"]["amount_received"] = json!(1);
    assert_eq!(app.webhook(&wrong).await.1["verdict"], "rejected");
    app.settle(&canceled, "CANCELLED").await;
    let (_, intents) = app.stripe(Method::GET, "/v1/payment_intents", &[]).await;
    assert_eq!(intents["data"].as_array().unwrap().len(), 6);

    let verified = app.command(&["verify"]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(verified.out.starts_with("no difference: 6 payments, "), "{}", verified.out);
    assert!(verified.out.contains("ledger lines, 2 campaigns; "), "{}", verified.out);
    let one = app.command(&["verify", "--campaign", text(&manual["id"])]).await;
    assert!(one.out.starts_with("no difference: 1 payment, "), "{one:?}");
    let one = app.command(&["verify", "--payment", &refunded]).await;
    assert!(one.out.starts_with("no difference: 1 payment, "), "{one:?}");
    app.finish().await;
}

#[tokio::test]
async fn every_hand_in_the_tables_is_found() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let tables = [
        (
            "update payments.payment_transactions set status = 'REFUNDED' where id = $",
            "status: the history leads to CAPTURED",
        ),
        ("update payments.payment_transactions set version = 9 where id = $", "version: the history leads to 4"),
        (
            "update payments.payment_transactions set refunded_minor = 1 where id = $",
            "refunded: should be 0, stored is 1",
        ),
        ("update payments.payment_transactions set receipt_number = null where id = $", "has no receipt number"),
        (
            "delete from payments.payment_state_history where version = 2 and payment_id = $",
            "after version 1: the steps",
        ),
        (
            "delete from payments.payment_state_history where version = 4 and payment_id = $",
            "after version 2: the steps",
        ),
        (
            "update payments.payment_state_history set detail = jsonb_set(detail, '{event,event,change,captured,received_minor}', '7') \
             where version = 3 and payment_id = $",
            "the verdict: replayed rejected, recorded applied",
        ),
        (
            "update payments.payment_state_history set detail = null where version = 3 and payment_id = $",
            "cannot be read",
        ),
        ("update payments.ledger_entries set amount_minor = 2501 where payment_id = $", "stored is CAPTURE 2501"),
        (
            "update donations.donations set status = 'PENDING' where payment_id = $",
            "donation's status: should be COMPLETED",
        ),
        ("update donations.donations set amount_minor = 1 where payment_id = $", "donation's amount: should be 2500"),
        (
            "insert into payments.refunds values ('re_x', $, 100, 'SUCCEEDED', now(), now())",
            "refunds: the history leads to [], stored is [re_x 100 SUCCEEDED]",
        ),
    ];
    let mut payments = Vec::new();
    for (statement, _) in tables {
        let payment = paid(&app, &campaign).await;
        app.sql(&statement.replace('$', &format!("'{payment}'"))).await;
        payments.push(payment);
    }
    app.sql("update payments.campaign_donors set gifts = gifts + 1").await;
    let verified = app.command(&["verify"]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    for ((_, told), payment) in tables.iter().zip(&payments) {
        let subject = format!("payment {payment}: ");
        let found = verified.out.lines().any(|line| line.starts_with(&subject) && line.contains(told));
        assert!(found, "{subject}{told}\n{}", verified.out);
    }
    assert!(verified.out.contains("1 donor with another number of gifts"), "{}", verified.out);
    assert!(verified.out.contains("the payments say"), "{}", verified.out);
    app.finish().await;
}

#[tokio::test]
async fn a_stale_view_or_checkpoint_is_no_difference_and_a_wrong_one_is() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    paid(&app, &campaign).await;
    app.sql("refresh materialized view payments.campaign_totals").await;
    let checkpoint = include_str!("../sql/queries/totals/write_checkpoint.sql");
    let id = format!("'{}'", text(&campaign["id"]));
    app.sql(&checkpoint.replace("$1", &id).replace("$2", "now()")).await;
    paid(&app, &campaign).await;
    assert_eq!(app.command(&["verify"]).await.code, Some(0));
    // What the view has seen changes under it: no refresh, no new line.
    app.sql("update payments.ledger_entries set amount_minor = amount_minor + 1").await;
    let verified = app.command(&["verify"]).await;
    assert!(verified.out.contains("the view with what it has not seen says"), "{}", verified.out);
    assert!(verified.out.contains("the checkpoint with what it has not seen says"), "{}", verified.out);
    app.finish().await;
}
