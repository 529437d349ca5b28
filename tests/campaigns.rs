//! Campaigns as operators make and change them: nothing is lost, nothing is made twice.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, read, text};

async fn patch(app: &TestApp, campaign: &Value, change: Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/campaigns/{}", text(&campaign["id"]));
    read(app.operator(Method::PATCH, &path).json(&change)).await
}

async fn now(app: &TestApp, campaign: &Value) -> Value {
    app.get(&format!("/api/v1/campaigns/{}", text(&campaign["id"]))).await.1
}

#[tokio::test]
async fn changes_at_once_are_all_kept_and_a_closed_campaign_stays_closed() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    // Whoever changes it has read it before, and all write when the row is free.
    let holder = app.setup.database.connect().await;
    holder.batch_execute("begin; select 1 from donations.campaigns for update").await.unwrap();
    let close = format!("/api/v1/campaigns/{}/close", text(&campaign["id"]));
    let free = async {
        wait_until("all wait for the row", DEADLINE, async || {
            app.count("select count(*) from pg_locks where not granted").await > 0
                && app
                    .count(
                        "select count(*) from pg_stat_activity where datname = current_database()
                            and wait_event_type = 'Lock' and query like '%update donations.campaigns%'",
                    )
                    .await
                    == 3
        })
        .await;
        holder.batch_execute("commit").await.unwrap();
    };
    let (title, goal, closed, ()) = tokio::join!(
        patch(&app, &campaign, json!({"title": "Deeper wells"})),
        patch(&app, &campaign, json!({"goal_minor": 777})),
        app.post(&close, json!({})),
        free
    );
    for (status, answer) in [&title, &goal, &closed] {
        assert_eq!(*status, StatusCode::OK, "{answer}");
    }
    let seen = now(&app, &campaign).await;
    let expected = (&json!("Deeper wells"), &json!(777), &json!("COMPLETED"));
    assert_eq!((&seen["title"], &seen["goal_minor"], &seen["status"]), expected, "{seen}");
    app.finish().await;
}
