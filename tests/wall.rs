//! The public wall, and what a campaign's dates and its end mean.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::crowd::books_hold;
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, read, text};

async fn gift(app: &TestApp, campaign: &Value, more: Value) -> Value {
    let mut body = donation_body(campaign, 2500);
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let (status, donation) = read(app.request(Method::POST, "/api/v1/donations").json(&body)).await;
    assert_eq!(status, StatusCode::CREATED, "{donation}");
    donation
}

async fn paid(app: &TestApp, campaign: &Value, more: Value) -> Value {
    let donation = gift(app, campaign, more).await;
    assert_eq!(app.pay(&donation, "pm_card_visa").await.0, StatusCode::OK);
    app.settle(&donation, "COMPLETED").await
}

async fn wall(app: &TestApp, campaign: &Value, query: &str) -> (StatusCode, Value) {
    read(app.request(Method::GET, &format!("/api/v1/campaigns/{}/donations{query}", text(&campaign["slug"])))).await
}

#[tokio::test]
async fn the_wall_shows_first_names_and_words_and_nothing_else_of_a_donor() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let words = "<script>alert('hi')</script> & all the best";
    let donor = json!({"name": "Maria Lopez-Secret", "email": "maria.secret@example.org", "phone": "+4915112345678"});
    paid(&app, &campaign, json!({"donor": donor, "message": words})).await;
    let hidden = json!({"name": "Hidden Person", "email": "hidden@example.org"});
    paid(&app, &campaign, json!({"donor": hidden, "anonymous": true, "message": "for the wells"})).await;
    // Who has not paid, or was declined, or got all back, is not on it.
    gift(&app, &campaign, json!({})).await;
    let declined = gift(&app, &campaign, json!({})).await;
    app.pay(&declined, "pm_card_chargeDeclined").await;
    let refunded = paid(&app, &campaign, json!({})).await;
    let path = format!("/api/v1/payments/{}/refunds", text(&refunded["payment"]["id"]));
    assert_eq!(app.post(&path, json!({})).await.0, StatusCode::CREATED);
    let path = format!("/api/v1/campaigns/{}/donations", text(&campaign["id"]));
    let raw = app.request(Method::GET, &path).send().await.unwrap().text().await.unwrap();
    for kept_back in ["Secret", "secret", "Hidden", "Person", "example.org", "+49", "<script>", "intent", "token"] {
        assert!(!raw.contains(kept_back), "{kept_back}: {raw}");
    }
    let page: Value = serde_json::from_str(&raw).unwrap();
    let shown: Vec<_> = page["items"].as_array().unwrap().iter().map(|it| (&it["name"], &it["message"])).collect();
    assert_eq!(shown, [(&json!("Anonymous"), &json!("for the wells")), (&json!("Maria"), &json!(words))]);
    assert_eq!((&page["items"][0]["anonymous"], &page["items"][1]["amount_minor"]), (&json!(true), &json!(2500)));
    // The anonymous gift counts like any other.
    wait_until("both are counted", DEADLINE, async || app.totals(&campaign).await["donation_count"] == 2).await;
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn the_wall_shows_what_is_given_and_not_what_went_back_or_is_withheld() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let mut gifts = Vec::new();
    for amount in [1000, 2000, 3000] {
        gifts.push(paid(&app, &campaign, json!({"amount_minor": amount})).await);
    }
    let refunds = format!("/api/v1/payments/{}/refunds", text(&gifts[1]["payment"]["id"]));
    assert_eq!(app.post(&refunds, json!({"amount_minor": 400})).await.0, StatusCode::CREATED);
    let intent = text(&gifts[2]["payment"]["intent_id"]);
    let dispute = app.control(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
    let amounts = async |query: &str| {
        let (_, page) = wall(&app, &campaign, query).await;
        let amounts: Vec<i64> =
            page["items"].as_array().unwrap().iter().map(|it| it["amount_minor"].as_i64().unwrap()).collect();
        (amounts, page["next_cursor"].as_str().map(str::to_owned))
    };
    wait_until("the dispute is booked", DEADLINE, async || app.payment(&gifts[2]).await["disputed_minor"] == 3000)
        .await;
    assert_eq!(amounts("").await.0, [1600, 1000]);
    let (first, cursor) = amounts("?limit=1").await;
    assert_eq!(first, [1600]);
    // What comes back to the wall is no reason to show a page's items again.
    app.control(&format!("/disputes/{}", text(&dispute["id"])), json!({"status": "won"})).await;
    wait_until("the dispute is won", DEADLINE, async || app.payment(&gifts[2]).await["disputed_minor"] == 0).await;
    assert_eq!(amounts(&format!("?limit=1&cursor={}", cursor.unwrap())).await, (vec![1000], None));
    assert_eq!(amounts("").await.0, [3000, 1600, 1000]);
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn the_wall_is_read_page_by_page_and_no_gift_twice_or_left_out_while_gifts_come_in() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    for amount in 1..=7 {
        paid(&app, &campaign, json!({"amount_minor": 100 * amount})).await;
    }
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let (status, page) = wall(&app, &campaign, &query).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        seen.extend(page["items"].as_array().unwrap().iter().map(|it| it["amount_minor"].as_i64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=3&cursor={cursor}");
        paid(&app, &campaign, json!({"amount_minor": 9900})).await;
    }
    assert_eq!(seen, [700, 600, 500, 400, 300, 200, 100]);
    for bad in ["?limit=0", "?limit=101", "?cursor=nonsense", "?page=2"] {
        assert!(wall(&app, &campaign, bad).await.0.is_client_error(), "{bad}");
    }
    let (status, _) = wall(&app, &json!({"slug": "no-such-campaign"}), "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_closed_campaign_takes_no_donation_but_a_capture_that_comes_late_counts() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let late = gift(&app, &campaign, json!({})).await;
    let path = format!("/api/v1/campaigns/{}/close", text(&campaign["slug"]));
    let (status, _) = read(app.request(Method::POST, &path)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    for _ in 0..2 {
        let (status, closed) = app.post(&path, json!({})).await;
        assert_eq!((status, &closed["status"]), (StatusCode::OK, &json!("COMPLETED")), "{closed}");
    }
    let (status, problem) = read(app.donation(&campaign, 2500)).await;
    assert_eq!((status, &problem["detail"]), (StatusCode::CONFLICT, &json!("the campaign is completed")));
    assert_eq!(app.pay(&late, "pm_card_visa").await.0, StatusCode::OK);
    app.settle(&late, "COMPLETED").await;
    wait_until("it counts", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 2500).await;
    assert_eq!(wall(&app, &campaign, "").await.1["items"].as_array().unwrap().len(), 1);
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_campaign_opens_and_ends_by_its_dates_and_has_one_currency() {
    let app = Setup::new().await.start().await;
    for (more, reason) in [
        (json!({"starts_at": "2999-01-01T00:00:00Z"}), "the campaign has not started yet"),
        (json!({"starts_at": "2001-01-01T00:00:00Z", "ends_at": "2002-01-01T00:00:00Z"}), "the campaign has ended"),
    ] {
        let campaign = app.campaign_with(more).await;
        let (status, problem) = read(app.donation(&campaign, 2500)).await;
        assert_eq!((status, &problem["detail"]), (StatusCode::CONFLICT, &json!(reason)));
    }
    let open = json!({"starts_at": "2001-01-01T00:00:00Z", "ends_at": "2999-01-01T00:00:00Z"});
    let campaign = app.campaign_with(open).await;
    let mut body = donation_body(&campaign, 2500);
    body["currency"] = json!("USD");
    let (status, problem) = read(app.request(Method::POST, "/api/v1/donations").json(&body)).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/currency")));
    paid(&app, &campaign, json!({})).await;
    books_hold(&app).await;
    app.finish().await;
}
