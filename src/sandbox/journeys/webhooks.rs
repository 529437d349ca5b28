//! Webhooks that come late, twice, in any order, or never.

use std::collections::HashSet;

use serde_json::json;

use super::{Bench, text};

#[actix_web::test]
async fn a_refused_webhook_comes_again() {
    let bench = Bench::start().await;
    bench.inbox.0.lock().unwrap().refusals_left = 3;
    bench.paid("pm_card_visa").await;
    bench.webhook("payment_intent.succeeded").await;
    bench.webhook("charge.succeeded").await;
    assert_eq!(bench.received().len(), 2);
    bench.stop().await;
}

#[actix_web::test]
async fn duplicates_are_the_same_event_sent_more_often() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"duplicate": 2, "enabled_events": ["payment_intent.succeeded"]})).await.ok();
    bench.paid("pm_card_visa").await;
    bench.webhooks(3).await;
    let ids: HashSet<String> = bench.received_ids().into_iter().collect();
    assert_eq!(ids.len(), 1);
    bench.stop().await;
}

#[actix_web::test]
async fn lost_webhooks_are_listed_and_can_be_sent_after_all() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"lose": {"every": 2}, "enabled_events": ["payment_intent.*"]})).await.ok();
    bench.paid("pm_card_visa").await;
    bench.webhook("payment_intent.created").await;
    let lost = bench.get("/events?delivery_success=false&type=payment_intent.succeeded").await.ok();
    let id = text(&lost["data"][0]["id"]);
    assert!(!bench.received_ids().contains(&id));
    bench.control(&format!("/events/{id}/deliver"), json!({})).await;
    assert_eq!(bench.webhook("payment_intent.succeeded").await["id"], json!(id));
    bench.stop().await;
}

#[actix_web::test]
async fn disabled_webhooks_wait_until_they_are_flushed_or_enabled() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"enabled": false})).await.ok();
    bench.paid("pm_card_visa").await;
    assert_eq!(bench.get("/events?delivery_success=false").await.ok()["data"].as_array().unwrap().len(), 2);
    assert_eq!(bench.control("/events/flush", json!({})).await.body["released"], 2);
    bench.webhooks(2).await;
    bench.paid("pm_card_visa").await;
    assert_eq!(bench.received().len(), 2);
    bench.control("/webhooks", json!({})).await.ok();
    bench.webhooks(4).await;
    bench.stop().await;
}

#[actix_web::test]
async fn delayed_webhooks_can_be_flushed() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"delay_ms": 600_000})).await.ok();
    bench.paid("pm_card_visa").await;
    assert_eq!(bench.control("/events/flush", json!({})).await.body["released"], 2);
    bench.webhooks(2).await;
    bench.stop().await;
}

#[actix_web::test]
async fn reordered_webhooks_overtake_each_other() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"reorder": true, "enabled_events": ["payment_intent.created"]})).await.ok();
    let mut made = Vec::new();
    for _ in 0..20 {
        made.push(bench.create(&[]).await);
    }
    bench.webhooks(20).await;
    let came: Vec<String> = bench.received().iter().map(|event| text(&event["data"]["object"]["id"])).collect();
    assert_ne!(came, made);
    assert_eq!(came.iter().collect::<HashSet<_>>(), made.iter().collect());
    bench.stop().await;
}

#[actix_web::test]
async fn all_events_of_an_intent_can_share_its_second() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"same_second": true})).await.ok();
    let intent = bench.paid("pm_card_refundFail").await;
    bench.post("/refunds", &[("payment_intent", &intent)]).await.ok();
    bench.webhook("refund.failed").await;
    let seconds: HashSet<i64> = bench.received().iter().map(|event| event["created"].as_i64().unwrap()).collect();
    assert_eq!(seconds.len(), 1);
    bench.stop().await;
}

#[actix_web::test]
async fn rules_beyond_their_limits_are_refused() {
    let bench = Bench::start().await;
    for rules in [json!({"duplicate": 21}), json!({"delay_ms": 600_001}), json!({"lose": "all"}), json!({"loose": 1})] {
        assert_eq!(bench.control("/webhooks", rules.clone()).await.status, 400, "{rules}");
    }
    bench.stop().await;
}
