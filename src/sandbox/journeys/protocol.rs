//! Stripe's manners: keys, errors, idempotency, expansion, lists, and faults to order.

use std::time::Duration;

use serde_json::json;

use super::{Bench, text};

const EUR_25: &[(&str, &str)] = &[("amount", "2500"), ("currency", "eur")];

#[actix_web::test]
async fn the_same_key_gives_the_same_answer_and_nothing_twice() {
    let bench = Bench::start().await;
    let first = bench.post_with_key("k-1", "/payment_intents", EUR_25).await;
    let again = bench.post_with_key("k-1", "/payment_intents", EUR_25).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert!(!first.headers.contains_key("idempotent-replayed"));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.headers["original-request"], first.headers["request-id"]);
    assert_ne!(again.headers["request-id"], first.headers["request-id"]);
    let other = bench.post_with_key("k-1", "/payment_intents", &[("amount", "2501"), ("currency", "eur")]).await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &json!("idempotency_error")));
    assert_eq!(bench.books("EUR").await["intents"], 1);
    bench.stop().await;
}

#[actix_web::test]
async fn a_declined_attempt_is_replayed_but_a_malformed_request_is_not() {
    let bench = Bench::start().await;
    let intent = bench.create(&[]).await;
    let path = format!("/payment_intents/{intent}/confirm");
    let declined = [("payment_method", "pm_card_chargeDeclined")];
    let first = bench.post_with_key("k-1", &path, &declined).await;
    let again = bench.post_with_key("k-1", &path, &declined).await;
    assert_eq!((again.status, &again.body), (402, &first.body));
    let failed = bench.emitted().await.iter().filter(|kind| *kind == "payment_intent.payment_failed").count();
    assert_eq!(failed, 1);
    bench.post_with_key("k-2", "/payment_intents", &[("amount", "1")]).await.refused(400, "parameter_missing");
    bench.post_with_key("k-2", "/payment_intents", EUR_25).await.ok();
    bench.stop().await;
}

#[actix_web::test]
async fn a_key_in_flight_is_refused_until_its_answer_is_there() {
    let bench = Bench::start().await;
    bench.control("/faults", json!({"mode": "slow_ms", "delay_ms": 400, "on": "create"})).await.ok();
    let slow = bench.post_with_key("k-1", "/payment_intents", EUR_25);
    let meanwhile = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let reply = bench.post_with_key("k-1", "/payment_intents", &[("amount", "9"), ("currency", "eur")]).await;
            // A mismatch shows that the key is held; only then is the same request made once more.
            if reply.body["error"]["type"] == "idempotency_error" {
                return bench.post_with_key("k-1", "/payment_intents", EUR_25).await;
            }
            assert!(tokio::time::Instant::now() < deadline);
        }
    };
    let (slow, meanwhile) = tokio::join!(slow, meanwhile);
    meanwhile.refused(409, "idempotency_key_in_use");
    let replay = bench.post_with_key("k-1", "/payment_intents", EUR_25).await.ok();
    assert_eq!(replay["id"], slow.ok()["id"]);
    bench.stop().await;
}

#[actix_web::test]
async fn keys_and_client_secrets_open_what_they_should() {
    let bench = Bench::start().await;
    let created = bench.post("/payment_intents", EUR_25).await.ok();
    let (intent, secret) = (text(&created["id"]), text(&created["client_secret"]));
    let path = format!("/payment_intents/{intent}/confirm");
    assert_eq!(bench.send(bench.request("/payment_intents", EUR_25)).await.status, 401);
    let live = bench.request("/payment_intents", EUR_25).bearer_auth("sk_live_x");
    assert_eq!(bench.send(live).await.status, 401);
    let publishable = bench.request("/payment_intents", EUR_25).bearer_auth("pk_test_x");
    bench.send(publishable).await.refused(403, "secret_key_required");
    let wrong = [("payment_method", "pm_card_visa"), ("client_secret", "pi_x_secret_y")];
    bench.send(bench.request(&path, &wrong)).await.refused(400, "payment_intent_invalid_parameter");
    let right = [("payment_method", "pm_card_visa"), ("client_secret", secret.as_str()), ("key", "pk_test_x")];
    assert_eq!(bench.send(bench.request(&path, &right)).await.ok()["status"], "succeeded");
    let basic = bench.client.get(format!("{}/sandbox/stripe/v1/balance", bench.base)).basic_auth("sk_test_x", Some(""));
    assert_eq!(bench.send(basic).await.ok()["object"], "balance");
    bench.stop().await;
}

#[actix_web::test]
async fn what_does_not_exist_is_missing() {
    let bench = Bench::start().await;
    for path in ["/payment_intents/pi_x", "/charges/ch_x", "/refunds/re_x", "/disputes/du_x", "/events/evt_x"] {
        bench.get(path).await.refused(404, "resource_missing");
    }
    bench.post("/payment_intents/pi_x/capture", &[]).await.refused(404, "resource_missing");
    bench.post("/refunds", &[("payment_intent", "pi_x")]).await.refused(400, "resource_missing");
    let form = [EUR_25, &[("payment_method", "pm_x")]].concat();
    bench.post("/payment_intents", &form).await.refused(400, "resource_missing");
    let form = [EUR_25, &[("colour", "red")]].concat();
    bench.post("/payment_intents", &form).await.refused(400, "parameter_unknown");
    assert_eq!(bench.get("/nonsense").await.status, 404);
    bench.stop().await;
}

#[actix_web::test]
async fn a_charge_is_an_id_unless_it_is_expanded() {
    let bench = Bench::start().await;
    let intent = bench.paid("pm_card_visa").await;
    let plain = bench.get(&format!("/payment_intents/{intent}")).await.ok();
    let charge = text(&plain["latest_charge"]);
    let expanded = bench.get(&format!("/payment_intents/{intent}?expand[]=latest_charge.refunds")).await.ok();
    assert_eq!(expanded["latest_charge"]["id"], json!(charge));
    assert_eq!(expanded["latest_charge"]["refunds"]["object"], "list");
    assert_eq!(bench.get(&format!("/charges/{charge}")).await.ok().get("refunds"), None);
    let refund = [("charge", charge.as_str()), ("expand[]", "payment_intent")];
    let refund = bench.post_with_key("k", "/refunds", &refund).await.ok();
    assert_eq!(refund["payment_intent"]["id"], json!(intent));
    assert_eq!(bench.get(&format!("/payment_intents/{intent}?expand[]=moon")).await.status, 400);
    bench.stop().await;
}

#[actix_web::test]
async fn events_are_listed_newest_first_by_page_type_and_delivery() {
    let bench = Bench::start().await;
    bench.control("/webhooks", json!({"lose": 1})).await.ok();
    bench.paid("pm_card_visa").await;
    let all = bench.get("/events?limit=2").await.ok();
    assert_eq!((&all["object"], &all["has_more"]), (&json!("list"), &json!(true)));
    let last = text(&all["data"][1]["id"]);
    let rest = bench.get(&format!("/events?starting_after={last}")).await.ok();
    assert_eq!((&rest["has_more"], &rest["data"][0]["type"]), (&json!(false), &json!("payment_intent.created")));
    let query = "/events?types[]=payment_intent.succeeded&types[]=charge.failed&delivery_success=false&created[gte]=1";
    let lost = bench.get(query).await.ok();
    assert_eq!(lost["data"].as_array().unwrap().len(), 1);
    assert_eq!(lost["data"][0]["data"]["object"]["status"], "succeeded");
    assert_eq!(bench.get("/events?type=payment_intent.succeeded&delivery_success=true").await.ok()["data"], json!([]));
    let intents = bench.get("/payment_intents?limit=1&expand[]=data.latest_charge").await.ok();
    assert_eq!(intents["data"][0]["latest_charge"]["object"], "charge");
    bench.stop().await;
}

#[actix_web::test]
async fn ordered_faults_hit_and_leave_the_key_usable() {
    let bench = Bench::start().await;
    for (fault, status) in [
        (json!({"mode": "error_500", "on": "create", "times": 1}), 500),
        (json!({"mode": "rate_limit_429", "on": "any", "times": 1}), 429),
        (json!({"mode": "hang", "delay_ms": 1, "times": 1}), 504),
    ] {
        bench.control("/faults", fault).await.ok();
        assert_eq!(bench.post_with_key("k-1", "/payment_intents", EUR_25).await.status, status);
    }
    assert_eq!(bench.books("EUR").await, json!(null));
    bench.control("/faults", json!({"mode": "timeout_after_effect", "delay_ms": 1})).await.ok();
    assert_eq!(bench.post_with_key("k-1", "/payment_intents", EUR_25).await.status, 504);
    let replay = bench.post_with_key("k-1", "/payment_intents", EUR_25).await;
    assert_eq!((replay.status, replay.headers["idempotent-replayed"].to_str().unwrap()), (200, "true"));
    assert_eq!(bench.books("EUR").await["intents"], 1);
    assert_eq!(bench.control("/faults", json!({"mode": "explode"})).await.status, 400);
    bench.stop().await;
}
