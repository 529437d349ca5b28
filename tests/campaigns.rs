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

#[tokio::test]
async fn a_campaign_and_the_answer_under_its_key_are_there_both_or_none() {
    let app = Setup::new().await.start().await;
    let client = app.setup.database.connect().await;
    let trouble = "create function trouble() returns trigger language plpgsql as $$
                   begin raise exception 'no room' using errcode = '53100'; end $$;
                   create trigger trouble before insert or update on payments.idempotency_keys
                       for each row execute function trouble();";
    client.batch_execute(trouble).await.unwrap();
    let body = json!({"slug": "wells", "title": "Wells", "currency": "EUR"});
    let request = || app.operator(Method::POST, "/api/v1/campaigns").header("Idempotency-Key", "one").json(&body);
    let (status, problem) = read(request()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    client.batch_execute("drop trigger trouble on payments.idempotency_keys").await.unwrap();
    let (status, made) = read(request()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(read(request()).await, (StatusCode::CREATED, made));
    // Another campaign with the slug is refused, and its key is free for another try.
    let other = async |slug: &str| {
        let body = json!({"slug": slug, "title": "Other wells", "currency": "EUR"});
        let request = app.operator(Method::POST, "/api/v1/campaigns").header("Idempotency-Key", "two");
        read(request.json(&body)).await
    };
    let (status, problem) = other("wells").await;
    assert_eq!((status, text(&problem["type"])), (StatusCode::CONFLICT, "urn:careforall:problem:slug-taken"));
    assert_eq!(other("other-wells").await.0, StatusCode::CREATED);
    app.finish().await;
}

#[tokio::test]
async fn null_takes_away_what_a_campaign_may_be_without_and_what_is_absent_stays() {
    let app = Setup::new().await.start().await;
    let all = json!({
        "description": "for the dry season", "goal_minor": 1000, "starts_at": "2001-01-01T00:00:00Z",
        "ends_at": "2999-01-01T00:00:00Z",
    });
    let campaign = app.campaign_with(all.clone()).await;
    let (status, seen) = patch(&app, &campaign, json!({"title": "Deeper wells"})).await;
    assert_eq!(status, StatusCode::OK, "{seen}");
    for (name, value) in all.as_object().unwrap() {
        assert_eq!(&seen[name], value, "{name} was not spoken of");
        let (status, seen) = patch(&app, &campaign, json!({name: null})).await;
        assert_eq!((status, &seen[name]), (StatusCode::OK, &Value::Null), "{seen}");
        assert_eq!(now(&app, &campaign).await[name], Value::Null);
    }
    assert_eq!(now(&app, &campaign).await["title"], "Deeper wells");
    // What is wrong is refused as before.
    for bad in [json!({"goal_minor": 0}), json!({"ends_at": "1969-01-01T00:00:00Z"})] {
        assert_eq!(patch(&app, &campaign, bad.clone()).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    app.finish().await;
}
