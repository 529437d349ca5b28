//! `careforall explain`: the story of one payment.

use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, text};

/// Declined, then paid, 5.00 given back, and what is left lost in a dispute.
pub async fn eventful_life(app: &TestApp, campaign: &Value) -> Value {
    let donation = app.donate(campaign, 2500).await;
    app.pay(&donation, "pm_card_chargeDeclinedInsufficientFunds").await;
    app.settle(&donation, "FAILED").await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    let refunds = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
    app.post(&refunds, json!({"amount_minor": 500})).await;
    let dispute = app.control(&format!("/payment_intents/{}/dispute", intent(&donation)), json!({})).await;
    app.control(&format!("/disputes/{}", text(&dispute["id"])), json!({"status": "lost"})).await;
    wait_until("the dispute is lost", DEADLINE, async || {
        app.count("select count(*) from payments.disputes where status = 'LOST'").await == 1
    })
    .await;
    donation
}

/// Nothing more comes of an eventful life: Stripe has said all of the dispute (opened, withdrawn, lost; in any order),
/// and both donor and operators have been told.
async fn story_is_over(app: &TestApp) {
    wait_until("the story is over", DEADLINE, async || {
        let heard = "select count(*) from payments.payment_state_history where kind like 'charge.dispute.%'";
        let told = "select count(*) from notifications.notifications where status = 'SENT'";
        app.count(heard).await == 3 && app.count(told).await == 5
    })
    .await;
}

fn intent(donation: &Value) -> &str {
    text(&donation["payment"]["intent_id"])
}

#[tokio::test]
async fn the_story_of_a_payment_is_told_in_order_with_verdicts_rules_amounts_and_what_it_waits_for() {
    let app = Setup::new().await.start().await;
    let donation = eventful_life(&app, &app.campaign().await).await;
    story_is_over(&app).await;
    let payment = text(&donation["payment"]["id"]);
    let told = app.command(&["explain", payment]).await;
    assert_eq!(told.code, Some(0), "{told:?}");
    let mut rest = told.out.as_str();
    for phrase in [
        "The donor gave 25.00 EUR.",
        "We asked Stripe: it created the intent pi_",
        "Stripe said: an attempt was declined (insufficient_funds).",
        "INITIATED → FAILED, version 2 → 3",
        "Stripe said: 25.00 EUR moved to us.",
        "FAILED → AUTHORIZED → CAPTURED, version 3 → 5",
        "captured 25.00 EUR; net 25.00 EUR",
        "An operator ordered: refund re_",
        "captured 25.00 EUR, refunded 5.00 EUR; net 20.00 EUR",
        "is LOST.",
        "Now: CAPTURED, version",
        "receipt CF-",
        "It waits for nothing; refunds and disputes may still come.",
        "Ledger",
        "CAPTURE",
        "DISPUTE",
        "Notices",
    ] {
        let at = rest.find(phrase).unwrap_or_else(|| panic!("{phrase:?} is not there, or not in order:\n{}", told.out));
        rest = &rest[at + phrase.len()..];
    }
    assert!(told.out.lines().all(|line| line.chars().count() <= 100), "{}", told.out);
    assert!(!told.out.contains("jo@example.org") && !told.out.contains("Jo Donor"), "{}", told.out);
    assert!(!told.out.contains('\u{1b}') && !told.out.contains("does not lead to"), "{}", told.out);
    for name in [text(&donation["id"]), intent(&donation)] {
        assert_eq!(app.command(&["explain", name]).await.out, told.out);
    }
    let story: Value = serde_json::from_str(&app.command(&["explain", payment, "--json"]).await.out).unwrap();
    assert_eq!(story["now"]["amounts"]["net_minor"], 0);
    assert_eq!((&story["doubts"], &story["chapters"][0]["who"]), (&json!([]), &json!("The donor")));
    app.finish().await;
}

#[tokio::test]
async fn a_payment_that_waits_says_for_what_and_a_strange_name_is_refused() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    let told = app.command(&["explain", intent(&donation)]).await;
    assert!(told.out.contains("It waits for the donor, to pay."), "{}", told.out);
    assert!(told.out.contains("It asks Stripe by itself at 20"), "{}", told.out);
    let strange = app.command(&["explain", "pi_nobody"]).await;
    assert_eq!((strange.code, strange.out.as_str()), (Some(1), ""));
    assert!(strange.err.contains("there is no payment, donation or intent pi_nobody"), "{}", strange.err);
    assert_eq!(app.command(&["explain"]).await.code, Some(64));
    app.finish().await;
}

#[tokio::test]
async fn a_hand_in_the_tables_is_pointed_out() {
    let app = Setup::new().await.start().await;
    let donation = app.donate(&app.campaign().await, 2500).await;
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    let client = app.setup.database.connect().await;
    client.execute("update payments.payment_transactions set captured_minor = 2400", &[]).await.unwrap();
    let told = app.command(&["explain", intent(&donation)]).await;
    assert!(told.out.contains("captured: the history leads to 2500, stored is 2400"), "{}", told.out);
    app.finish().await;
}
