//! What the test cards let happen to a payment, and what the books say in the end.

use serde_json::json;

use super::{Bench, text};

#[actix_web::test]
async fn automatic_capture_pays_at_once_and_copies_the_metadata() {
    let bench = Bench::start().await;
    let intent = bench.paid("pm_card_visa").await;
    let event = bench.webhook("payment_intent.succeeded").await;
    let object = &event["data"]["object"];
    assert_eq!((object["id"].as_str(), &object["amount_received"]), (Some(&*intent), &json!(2500)));
    assert_eq!((&event["api_version"], &event["livemode"]), (&json!("2024-06-20"), &json!(false)));
    assert_eq!(object["metadata"], json!({"payment_id": "p-1"}));
    assert!(event["request"]["id"].as_str().unwrap().starts_with("req_"));
    let charge = bench.webhook("charge.succeeded").await["data"]["object"].clone();
    assert_eq!((&charge["captured"], &charge["metadata"]["payment_id"]), (&json!(true), &json!("p-1")));
    assert_eq!(object["latest_charge"], charge["id"]);
    assert_eq!(bench.emitted().await, ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]);
    assert_eq!(bench.books("EUR").await["net_minor"], 2500);
    bench.stop().await;
}

#[actix_web::test]
async fn manual_capture_authorizes_first_and_may_capture_less() {
    let bench = Bench::start().await;
    let intent = bench.create(&[("capture_method", "manual")]).await;
    let authorized = bench.confirm(&intent, "pm_card_mastercard").await.ok();
    assert_eq!((&authorized["status"], &authorized["amount_capturable"]), (&json!("requires_capture"), &json!(2500)));
    assert_eq!(bench.books("EUR").await["capturable_minor"], 2500);
    let capture = format!("/payment_intents/{intent}/capture");
    bench.post(&capture, &[("amount_to_capture", "2501")]).await.refused(400, "amount_too_large");
    let captured = bench.post(&capture, &[("amount_to_capture", "2000")]).await.ok();
    assert_eq!((&captured["status"], &captured["amount_received"]), (&json!("succeeded"), &json!(2000)));
    bench.post(&capture, &[]).await.refused(400, "payment_intent_unexpected_state");
    let charge = bench.webhook("charge.captured").await["data"]["object"].clone();
    assert_eq!((&charge["amount_captured"], &charge["amount_refunded"]), (&json!(2000), &json!(0)));
    assert_eq!(bench.webhook("payment_intent.amount_capturable_updated").await["data"]["object"]["amount_received"], 0);
    assert_eq!(bench.books("EUR").await["captured_minor"], 2000);
    bench.stop().await;
}

#[actix_web::test]
async fn a_declined_card_leaves_the_intent_open_for_another() {
    let bench = Bench::start().await;
    let intent = bench.create(&[]).await;
    let error = bench.confirm(&intent, "pm_card_chargeDeclinedInsufficientFunds").await.refused(402, "card_declined");
    assert_eq!((&error["type"], &error["decline_code"]), (&json!("card_error"), &json!("insufficient_funds")));
    assert_eq!(error["payment_intent"]["status"], "requires_payment_method");
    assert_eq!(error["payment_intent"]["last_payment_error"]["code"], "card_declined");
    let failed = bench.webhook("payment_intent.payment_failed").await;
    assert_eq!(failed["data"]["object"]["last_payment_error"]["charge"], error["charge"]);
    let paid = bench.confirm(&intent, "pm_card_visa").await.ok();
    assert_eq!((&paid["status"], &paid["last_payment_error"]), (&json!("succeeded"), &json!(null)));
    let error = bench.confirm(&intent, "pm_card_visa").await.refused(400, "payment_intent_unexpected_state");
    assert_eq!(error["payment_intent"]["id"], json!(intent));
    bench.stop().await;
}

#[actix_web::test]
async fn an_authorization_is_released_by_a_cancel_or_by_time() {
    let bench = Bench::start().await;
    let canceled =
        bench.create(&[("capture_method", "manual"), ("confirm", "true"), ("payment_method", "pm_card_visa")]);
    let canceled = canceled.await;
    let cancel = format!("/payment_intents/{canceled}/cancel");
    let answer = bench.post(&cancel, &[("cancellation_reason", "abandoned")]).await;
    assert_eq!(answer.ok()["cancellation_reason"], "abandoned");
    let released = bench.webhook("charge.refunded").await["data"]["object"].clone();
    assert_eq!((&released["captured"], &released["refunded"]), (&json!(false), &json!(true)));
    assert_eq!(released["amount_refunded"], 2500);
    let expired =
        bench.create(&[("capture_method", "manual"), ("confirm", "true"), ("payment_method", "pm_card_visa")]);
    let expired = expired.await;
    bench.control(&format!("/payment_intents/{expired}/expire"), json!({})).await.ok();
    assert_eq!(bench.webhook("charge.expired").await["data"]["object"]["payment_intent"], json!(expired));
    assert_eq!(bench.intent(&expired).await["status"], "canceled");
    bench.post("/refunds", &[("payment_intent", &expired)]).await.refused(400, "payment_intent_unexpected_state");
    let books = bench.books("EUR").await;
    assert_eq!((&books["captured_minor"], &books["net_minor"], &books["canceled"]), (&json!(0), &json!(0), &json!(2)));
    bench.stop().await;
}

#[actix_web::test]
async fn authentication_is_asked_for_and_decides() {
    let bench = Bench::start().await;
    let intent = bench.create(&[]).await;
    let path = format!("/payment_intents/{intent}/authenticate");
    for (outcome, status) in [("fail", "requires_payment_method"), ("succeed", "succeeded")] {
        let asked = bench.confirm(&intent, "pm_card_authenticationRequired").await.ok();
        assert_eq!(
            (&asked["status"], &asked["next_action"]["type"]),
            (&json!("requires_action"), &json!("use_stripe_sdk"))
        );
        assert_eq!(bench.control(&path, json!({"outcome": outcome})).await.ok()["status"], status);
    }
    bench.control(&path, json!({"outcome": "succeed"})).await.refused(400, "payment_intent_unexpected_state");
    bench.webhook("payment_intent.requires_action").await;
    bench.webhook("payment_intent.payment_failed").await;
    bench.stop().await;
}

#[actix_web::test]
async fn bank_debits_settle_fail_or_wait_to_be_told() {
    let bench = Bench::start().await;
    let [settles, fails, waits] = [bench.create(&[]).await, bench.create(&[]).await, bench.create(&[]).await];
    for (intent, method) in [
        (&settles, "pm_usBankAccount_success"),
        (&fails, "pm_usBankAccount_accountClosed"),
        (&waits, "pm_usBankAccount_processing"),
    ] {
        assert_eq!(bench.confirm(intent, method).await.ok()["status"], "processing");
    }
    assert_eq!(bench.webhook("payment_intent.succeeded").await["data"]["object"]["id"], json!(settles));
    let failed = bench.webhook("payment_intent.payment_failed").await["data"]["object"].clone();
    assert_eq!((&failed["id"], &failed["last_payment_error"]["code"]), (&json!(fails), &json!("account_closed")));
    assert_eq!(bench.intent(&waits).await["status"], "processing");
    let told = bench.control(&format!("/payment_intents/{waits}/process"), json!({"outcome": "succeed"})).await.ok();
    assert_eq!(told["amount_received"], 2500);
    bench.stop().await;
}

#[actix_web::test]
async fn partial_refunds_add_up_until_nothing_is_left() {
    let bench = Bench::start().await;
    let intent = bench.paid("pm_card_visa").await;
    let refund = |amount: &'static str| [("payment_intent", intent.clone()), ("amount", amount.into())];
    let refund = async |amount| {
        let form = refund(amount);
        let form: Vec<(&str, &str)> = form.iter().map(|(key, value)| (*key, value.as_str())).collect();
        bench.post("/refunds", &form).await
    };
    assert_eq!(refund("1000").await.ok()["status"], "succeeded");
    refund("1501").await.refused(400, "amount_too_large");
    refund("0").await.refused(400, "parameter_invalid_integer");
    assert_eq!(refund("1500").await.ok()["amount"], 1500);
    refund("1").await.refused(400, "charge_already_refunded");
    let charge = bench.intent(&intent).await["latest_charge"].clone();
    assert_eq!((&charge["amount_refunded"], &charge["refunded"]), (&json!(2500), &json!(true)));
    let amounts: Vec<_> = charge["refunds"]["data"].as_array().unwrap().iter().map(|r| r["amount"].clone()).collect();
    assert_eq!(amounts, [1500, 1000]);
    let first = bench.webhook("charge.refunded").await;
    assert_eq!(first["data"]["object"]["amount_refunded"], 1000);
    assert_eq!(first["data"]["previous_attributes"]["amount_refunded"], 0);
    let listed = bench.get(&format!("/refunds?payment_intent={intent}")).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert_eq!(bench.books("EUR").await["net_minor"], 0);
    bench.stop().await;
}

#[actix_web::test]
async fn a_refund_that_fails_gives_the_money_back() {
    let bench = Bench::start().await;
    let intent = bench.paid("pm_card_refundFail").await;
    let refund = bench.post("/refunds", &[("payment_intent", &intent), ("amount", "700")]).await.ok();
    assert_eq!(refund["status"], "succeeded");
    let failed = bench.webhook("refund.failed").await["data"]["object"].clone();
    assert_eq!((&failed["id"], &failed["status"]), (&refund["id"], &json!("failed")));
    assert_eq!(bench.intent(&intent).await["latest_charge"]["amount_refunded"], 0);
    assert_eq!(bench.books("EUR").await["net_minor"], 2500);
    bench.stop().await;
}

#[actix_web::test]
async fn a_pending_refund_counts_and_is_turned_by_time_or_by_the_control() {
    let bench = Bench::start().await;
    let intent = bench.paid("pm_card_pendingRefund").await;
    let first = bench.post("/refunds", &[("payment_intent", &intent), ("amount", "700")]).await.ok();
    assert_eq!(first["status"], "pending");
    assert_eq!(bench.books("EUR").await["refunded_minor"], 700);
    let updated = bench.webhook("refund.updated").await;
    assert_eq!(updated["data"]["object"]["status"], "succeeded");
    assert_eq!(updated["data"]["previous_attributes"]["status"], "pending");
    let second = text(&bench.post("/refunds", &[("payment_intent", &intent)]).await.ok()["id"]);
    let canceled = bench.control(&format!("/refunds/{second}"), json!({"status": "canceled"})).await.ok();
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(bench.books("EUR").await["net_minor"], 1800);
    bench.stop().await;
}

#[actix_web::test]
async fn disputes_withhold_the_money_until_they_are_won() {
    let bench = Bench::start().await;
    for (status, net) in [("won", 2500), ("lost", 2500)] {
        let intent = bench.paid("pm_card_createDispute").await;
        let dispute = bench
            .eventually("a dispute", || {
                let received = bench.received();
                let about = received.into_iter().find(|event| {
                    event["type"] == "charge.dispute.funds_withdrawn"
                        && event["data"]["object"]["payment_intent"] == json!(intent)
                });
                about.map(|event| text(&event["data"]["object"]["id"]))
            })
            .await;
        bench.post("/refunds", &[("payment_intent", &intent)]).await.refused(400, "charge_disputed");
        let path = format!("/disputes/{dispute}");
        assert_eq!(bench.control(&path, json!({"status": "under_review"})).await.ok()["status"], "under_review");
        assert_eq!(bench.control(&path, json!({"status": status})).await.ok()["status"], status);
        bench.control(&path, json!({"status": "won"})).await.refused(400, "dispute_unexpected_state");
        assert_eq!(bench.intent(&intent).await["latest_charge"]["dispute"]["status"], status);
        assert_eq!(bench.books("EUR").await["net_minor"], net);
    }
    let kinds = bench.emitted().await;
    let count = |kind| kinds.iter().filter(|other| *other == kind).count();
    assert_eq!(count("charge.dispute.created"), 2);
    assert_eq!(count("charge.dispute.closed"), 2);
    assert_eq!(count("charge.dispute.funds_reinstated"), 1);
    bench.stop().await;
}

#[actix_web::test]
async fn an_inquiry_withholds_nothing_and_an_accepted_dispute_is_lost() {
    let bench = Bench::start().await;
    let inquiry = bench.paid("pm_card_visa").await;
    let opened = bench.control(&format!("/payment_intents/{inquiry}/dispute"), json!({"inquiry": true})).await.ok();
    assert_eq!((&opened["status"], &opened["is_charge_refundable"]), (&json!("warning_needs_response"), &json!(true)));
    let dispute = format!("/disputes/{}", text(&opened["id"]));
    bench.control(&dispute, json!({"status": "warning_closed"})).await.ok();
    assert_eq!(bench.books("EUR").await["net_minor"], 2500);
    let accepted = bench.paid("pm_card_visa").await;
    let opened = bench.control(&format!("/payment_intents/{accepted}/dispute"), json!({})).await.ok();
    let lost = bench.post(&format!("/disputes/{}/close", text(&opened["id"])), &[]).await.ok();
    assert_eq!(lost["status"], "lost");
    let books = bench.books("EUR").await;
    assert_eq!((&books["disputed_minor"], &books["net_minor"]), (&json!(2500), &json!(2500)));
    bench.stop().await;
}
