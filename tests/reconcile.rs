//! `careforall reconcile`: what was missed is found and mended beside the running server.

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Ended, Setup, TestApp, text};

const PAYMENTS: usize = 200;
const FIFTH: i64 = 40;

/// Pays, declines, refunds and disputes in the sandbox alone, while none of its webhooks comes through.
async fn live_unheard(app: &TestApp, campaign: &Value, at: usize) {
    let donation = app.donate(campaign, 2500).await;
    let intent = text(&donation["payment"]["intent_id"]);
    let card = if at % 5 == 1 { "pm_card_chargeDeclined" } else { "pm_card_visa" };
    app.pay(&donation, card).await;
    match at % 5 {
        2 => drop(app.stripe(Method::POST, "/v1/refunds", &[("payment_intent", intent), ("amount", "500")]).await),
        3 => drop(app.stripe(Method::POST, "/v1/refunds", &[("payment_intent", intent)]).await),
        4 => {
            let dispute = app.control(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
            let outcome = if at % 10 == 4 { "lost" } else { "won" };
            app.control(&format!("/disputes/{}", text(&dispute["id"])), json!({"status": outcome})).await;
        }
        _ => {}
    }
}

async fn missed(app: &TestApp, campaign: &Value, webhooks: Value) {
    app.control("/webhooks", webhooks).await;
    futures::stream::iter(0..PAYMENTS).map(|at| live_unheard(app, campaign, at)).buffer_unordered(4).count().await;
}

async fn versions(app: &TestApp) -> i64 {
    app.count("select sum(version)::bigint from payments.payment_transactions").await
}

async fn reconcile(app: &TestApp, apply: bool) -> Ended {
    let words: &[&str] =
        if apply { &["reconcile", "--rate", "1000", "--apply"] } else { &["reconcile", "--rate", "1000"] };
    app.command(words).await
}

/// Of five payments one is declined, one refunded in part, one in full, one disputed (lost or won in turn), one just
/// paid; see `live_unheard`.
async fn assert_all_final(app: &TestApp, campaign: &Value) {
    let by_status = "select count(*) from payments.payment_transactions where status = ";
    for (status, count) in [("CAPTURED", 3 * FIFTH), ("FAILED", FIFTH), ("REFUNDED", FIFTH)] {
        assert_eq!(app.count(&format!("{by_status}'{status}'")).await, count, "{status}");
    }
    let raised = 3 * FIFTH * 2500 - FIFTH * 500 - FIFTH / 2 * 2500;
    crate::support::services::wait_until("the totals are exact", crate::support::DEADLINE, async || {
        app.totals(campaign).await["raised_minor"] == raised
    })
    .await;
    let verified = app.command(&["verify"]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let again = reconcile(app, true).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.starts_with("nothing to do: 200 payments compared"), "{}", again.out);
    assert_eq!(reconcile(app, false).await.out, again.out);
}

#[tokio::test]
async fn webhooks_that_never_came_are_found_first_and_mended_on_order_and_then_there_is_nothing_to_do() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    missed(&app, &campaign, json!({"enabled": false})).await;
    let before = versions(&app).await;
    let dry = reconcile(&app, false).await;
    assert_eq!(dry.code, Some(1), "{dry:?}");
    assert!(dry.out.contains("INITIATED → CAPTURED, captured 0.00 EUR → 25.00 EUR"), "{}", dry.out);
    assert!(dry.out.contains("payment_intent.succeeded: never arrived"), "{}", dry.out);
    assert!(dry.err.contains("200 payments that differ") && dry.err.contains("nothing was changed"), "{}", dry.err);
    assert_eq!(versions(&app).await, before);
    let mended = reconcile(&app, true).await;
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(mended.out.contains("200 payments compared: "), "{}", mended.out);
    assert_all_final(&app, &campaign).await;
    app.finish().await;
}

#[tokio::test]
async fn payments_are_mended_by_comparison_where_stripe_lists_no_events() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    // Stripe believes that these were delivered: nobody listens for any event.
    missed(&app, &campaign, json!({"enabled_events": ["account.updated"]})).await;
    let mended = reconcile(&app, true).await;
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(mended.out.contains("200 payments mended, 0 for a person to look at, 0 failed"), "{}", mended.out);
    assert_all_final(&app, &campaign).await;
    app.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_does_not_answer_is_told_in_one_line() {
    let app = Setup::new().await.start().await;
    let mut elsewhere = app.setup.clone();
    elsewhere.env.insert("CAREFORALL_LISTEN".into(), "127.0.0.1:1".into());
    let refused = app.command_as(&elsewhere, &["reconcile"]).await;
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
    assert!(refused.err.contains("http://127.0.0.1:1/sandbox/stripe does not answer"), "{}", refused.err);
    assert_eq!(app.command(&["reconcile", "--since", "yesterday"]).await.code, Some(64));
    app.finish().await;
}
