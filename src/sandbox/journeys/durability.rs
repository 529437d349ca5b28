//! What a restart keeps.

use serde_json::json;

use super::{Bench, text};

#[actix_web::test]
async fn a_restart_keeps_objects_events_answers_and_books() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    let key = [("amount", "300"), ("currency", "usd")];
    let first = bench.post_with_key("k-1", "/payment_intents", &key).await.ok();
    let declined = bench.create(&[]).await;
    assert_eq!(bench.confirm(&declined, "pm_card_chargeDeclined").await.status, 402);
    let intent = bench.paid("pm_card_visa").await;
    let refund = bench.post_with_key("k-2", "/refunds", &[("payment_intent", &intent), ("amount", "1")]).await.ok();
    bench.webhook("refund.created").await;
    let before = (bench.intent(&intent).await, bench.emitted().await, bench.books("EUR").await);
    bench.stop().await;

    for _ in 0..2 {
        let bench = Bench::start_in(Some(directory.path().to_owned())).await;
        let after = (bench.intent(&intent).await, bench.emitted().await, bench.books("EUR").await);
        assert_eq!(before, after);
        assert_eq!(bench.post_with_key("k-1", "/payment_intents", &key).await.ok(), first);
        let again = bench.post_with_key("k-2", "/refunds", &[("payment_intent", &intent), ("amount", "1")]).await;
        assert_eq!(again.ok(), refund);
        assert_eq!(bench.books("USD").await["intents"], 1);
        bench.stop().await;
    }
}

#[actix_web::test]
async fn undelivered_webhooks_are_sent_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    bench.control("/webhooks", json!({"enabled": false})).await.ok();
    let intent = bench.paid("pm_card_visa").await;
    bench.stop().await;
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    let event = bench.webhook("payment_intent.succeeded").await;
    assert_eq!(text(&event["data"]["object"]["id"]), intent);
    bench.stop().await;
}

#[actix_web::test]
async fn what_was_to_follow_follows_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    bench.paid("pm_card_createDispute").await;
    let intent = bench.create(&[]).await;
    bench.confirm(&intent, "pm_usBankAccount_success").await.ok();
    bench.stop().await;
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    bench.webhook("charge.dispute.created").await;
    bench
        .eventually("the debit", || {
            bench.received().into_iter().find(|event| {
                event["type"] == "payment_intent.succeeded" && event["data"]["object"]["id"] == json!(intent)
            })
        })
        .await;
    bench.stop().await;
}

#[actix_web::test]
async fn a_stopped_sandbox_answers_that_it_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start_in(Some(directory.path().to_owned())).await;
    bench.sandbox.stop().await;
    assert_eq!(bench.post("/payment_intents", &[("amount", "300"), ("currency", "usd")]).await.status, 500);
    bench.stop().await;
}
