//! More than can be done: some are asked to come later, at once, and nobody who was told that it is done is lost.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use futures::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::support::crowd::books_hold;
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, text};

/// Far more than are recorded in the time that a donor may wait, however fast the machine.
const DONORS: usize = 800;

#[tokio::test]
async fn when_more_give_than_can_be_recorded_some_are_asked_to_come_later_and_all_others_are_recorded() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let (recorded, refused) = (AtomicI64::new(0), AtomicI64::new(0));
    let until = Instant::now() + DEADLINE;
    let give = async || {
        let answer = app.donation(&campaign, 2500).header("Prefer", "respond-async").send().await.unwrap();
        if answer.status() == StatusCode::CREATED {
            recorded.fetch_add(1, Relaxed);
            return true;
        }
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["Retry-After"], "3");
        assert!(!answer.headers().contains_key("Connection"), "a new connection would cost more than the refusal");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(text(&problem["type"]), "urn:careforall:problem:overloaded");
        refused.fetch_add(1, Relaxed);
        false
    };
    let donors =
        (0..DONORS).map(async |_| while refused.load(Relaxed) == 0 && Instant::now() < until && give().await {});
    join_all(donors).await;
    assert!(refused.load(Relaxed) > 0, "{recorded:?} were recorded and nobody was refused");

    wait_until("everybody is taken in again", DEADLINE, give).await;
    assert_eq!(app.count("select count(*) from donations.donations").await, recorded.load(Relaxed));
    let metrics = app.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("careforall_http_refused_total{class=\"donation\"}"), "{metrics}");
    books_hold(&app).await;
    app.finish().await;
}

/// Looks in a round: far more than are read for at a time.
const LOOKS: usize = 50;

#[tokio::test]
async fn while_only_the_database_is_slow_totals_in_memory_are_told_to_all_and_other_looks_to_a_few() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await; // what a commit takes here is known
    app.sql(
        "create function donations.trouble() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.3); return null; end $$;
         create trigger trouble before insert on donations.donations
             for each statement execute function donations.trouble()",
    )
    .await;
    let totals = format!("/api/v1/campaigns/{}/totals", text(&campaign["id"]));
    let look = async |path: &str| app.request(Method::GET, path).send().await.unwrap().status();
    let is_over = AtomicBool::new(false);
    let donors = (0..2 * LOOKS).map(async |_| {
        while !is_over.load(Relaxed) {
            let _ = app.donation(&campaign, 2500).header("Prefer", "respond-async").send().await.unwrap();
        }
    });
    let lookers = async {
        // On a busy machine threads may be late now and then, and others be refused for that.
        wait_until("reads are refused in part and nobody who looks at totals", DEADLINE, async || {
            if look(&totals).await != StatusCode::OK {
                return false;
            }
            let remembered = join_all((0..LOOKS).map(|_| look(&totals))).await;
            let read = join_all((0..LOOKS).map(|_| look("/api/v1/campaigns"))).await;
            let count = |all: &[StatusCode], status| all.iter().filter(|it| **it == status).count();
            assert_eq!(count(&read, StatusCode::OK) + count(&read, StatusCode::SERVICE_UNAVAILABLE), LOOKS);
            count(&remembered, StatusCode::OK) == LOOKS
                && (1..LOOKS).contains(&count(&read, StatusCode::SERVICE_UNAVAILABLE))
        })
        .await;
        is_over.store(true, Relaxed);
    };
    join(join_all(donors), lookers).await;
    assert!(app.metric("careforall_http_refused_total{class=\"read\"}").await > 0.0);
    app.finish().await;
}
