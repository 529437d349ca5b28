//! The totals are exact at every level, whoever reads them and whenever.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use bb8_redis::redis;
use careforall::clock::Clock;
use careforall::domain::ids::CampaignId;
use careforall::domain::money::Currency;
use careforall::domain::totals::Totals;
use careforall::store::Store;
use careforall::store::cache::Cache;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::crowd::{books_hold, completed};
use crate::support::services::{redis_url, unique_prefix, wait_until};
use crate::support::{DEADLINE, Setup, TestApp, read, text};

/// The picture's Redis database of totals.
const TOTALS_DB: i64 = 2;
const REFRESH: &str = "refresh materialized view concurrently payments.campaign_totals";

async fn totals_from(app: &TestApp, campaign: &Value, min_version: i64) -> Value {
    let path = format!("/api/v1/campaigns/{}/totals?min_version={min_version}", text(&campaign["id"]));
    let (status, totals) = read(app.request(Method::GET, &path)).await;
    assert_eq!(status, StatusCode::OK, "{totals}");
    totals
}

/// What the database says, whatever is remembered.
async fn fresh(app: &TestApp, campaign: &Value) -> Value {
    let path = format!("/api/v1/campaigns/{}/totals?fresh=true", text(&campaign["id"]));
    let (status, totals) = read(app.request(Method::GET, &path)).await;
    assert!(status == StatusCode::OK && ["view", "realtime"].contains(&text(&totals["source"])), "{status} {totals}");
    totals
}

fn version(totals: &Value) -> i64 {
    totals["version"].as_i64().unwrap()
}

/// Waits until a read comes from below memory, and shows that read.
async fn from_below_memory(app: &TestApp, campaign: &Value) -> Value {
    let mut seen = Value::Null;
    let last = std::sync::Mutex::new(&mut seen);
    wait_until("memory expires", DEADLINE, async || {
        let totals = app.totals(campaign).await;
        let below = totals["source"] != "memory";
        **last.lock().unwrap() = totals;
        below
    })
    .await;
    seen
}

async fn sql(app: &TestApp, statement: &str) {
    app.setup.database.connect().await.batch_execute(statement).await.unwrap();
}

fn amounts(totals: &Value) -> (i64, i64, i64, i64) {
    let number = |name: &str| totals[name].as_i64().unwrap();
    (number("raised_minor"), number("donation_count"), number("donor_count"), number("version"))
}

async fn readers_see_versions_rise_only(setup: Setup) {
    let app = setup.start().await;
    let campaign = app.campaign().await;
    let done = AtomicBool::new(false);
    let reader = async |asks: bool| {
        let (mut newest, mut raised) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let totals = totals_from(&app, &campaign, if asks { newest } else { 0 }).await;
            assert!(version(&totals) >= newest, "version {newest} was seen before {totals}");
            // There are only captures here: more versions mean more money.
            assert!(totals["raised_minor"].as_i64().unwrap() >= raised, "{raised} was seen before {totals}");
            (newest, raised) = (version(&totals), totals["raised_minor"].as_i64().unwrap());
        }
        newest
    };
    let captures = async {
        let one = async |at: i64| {
            for round in 0..5 {
                let email = format!("donor{at}@example.org");
                completed(&app, &campaign, 100 + at, &email).await;
                // The donor who just gave asks for no less than what is counted already.
                assert!(version(&totals_from(&app, &campaign, round).await) >= round);
            }
        };
        futures::future::join_all((0..8).map(one)).await;
        wait_until("all is counted", DEADLINE, async || version(&app.totals(&campaign).await) == 40).await;
        done.store(true, Ordering::Relaxed);
    };
    let readers = futures::future::join_all([true, false, true, false].map(reader));
    let (newest, ()) = tokio::join!(readers, captures);
    assert!(newest.iter().all(|version| *version <= 40));
    let raised: i64 = (0..8).map(|at| 5 * (100 + at)).sum();
    assert_eq!(amounts(&app.totals(&campaign).await), (raised, 40, 8, 40));
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn no_reader_sees_the_totals_go_back_while_money_comes_in() {
    readers_see_versions_rise_only(Setup::new().await).await;
}

#[tokio::test]
async fn no_reader_sees_the_totals_go_back_with_redis_in_between() {
    readers_see_versions_rise_only(Setup::new().await.with_redis()).await;
}

#[tokio::test]
async fn the_ledger_answers_first_then_memory_then_the_view_once_it_knows_the_campaign() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    completed(&app, &campaign, 2500, "jo@example.org").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 2500).await;
    let below = from_below_memory(&app, &campaign).await;
    assert_eq!((text(&below["source"]), amounts(&below)), ("realtime", (2500, 1, 1, 1)));
    let again = app.totals(&campaign).await;
    assert_eq!((text(&again["source"]), amounts(&again)), ("memory", amounts(&below)));
    sql(&app, REFRESH).await;
    wait_until("the view answers", DEADLINE, async || from_below_memory(&app, &campaign).await["source"] == "view")
        .await;
    // What came after the refresh is in the view's answer too.
    completed(&app, &campaign, 500, "mo@example.org").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 3000).await;
    let below = from_below_memory(&app, &campaign).await;
    assert_eq!((text(&below["source"]), amounts(&below)), ("view", (3000, 2, 2, 2)));
    app.finish().await;
}

#[tokio::test]
async fn a_fresh_process_answers_from_redis_whose_key_lives_for_thirty_seconds_at_most() {
    let app = Setup::new().await.with_redis().start().await;
    let campaign = app.campaign().await;
    completed(&app, &campaign, 2500, "jo@example.org").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 2500).await;
    let key = format!("{}totals:{}", app.setup.prefix(), text(&campaign["id"]));
    let mut redis = redis_totals().await;
    let ttl: i64 = redis::cmd("TTL").arg(&key).query_async(&mut redis).await.unwrap();
    assert!((1..=30).contains(&ttl), "{ttl}");
    // A fact that came once more after the restart would fill memory.
    books_hold(&app).await;
    let app = app.stop().await.start().await;
    let totals = app.totals(&campaign).await;
    assert_eq!((text(&totals["source"]), amounts(&totals)), ("redis", (2500, 1, 1, 1)));
    // Nobody is given less than he asks for: what Redis has is too old then, and the database is asked.
    let path = format!("/api/v1/campaigns/{}/totals?min_version=2", text(&campaign["id"]));
    let (status, _) = read(app.request(Method::GET, &path)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    completed(&app, &campaign, 500, "mo@example.org").await;
    assert_eq!(amounts(&totals_from(&app, &campaign, 2).await), (3000, 2, 2, 2));
    app.finish().await;
}

#[tokio::test]
async fn a_version_that_nobody_knows_is_not_answered_with_an_older_one_and_costs_one_read() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    completed(&app, &campaign, 2500, "jo@example.org").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["version"] == 1).await;
    let reads = async || {
        let of = async |level| app.metric(&format!("careforall_totals_answers_total{{source=\"{level}\"}}")).await;
        of("view").await + of("realtime").await
    };
    let path = format!("/api/v1/campaigns/{}/totals", text(&campaign["id"]));
    for silly in [2, i64::MAX] {
        let before = reads().await;
        let answer = app.request(Method::GET, &format!("{path}?min_version={silly}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("Retry-After"));
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(text(&problem["type"]), "urn:careforall:problem:totals-behind", "{problem}");
        assert_eq!(reads().await - before, 1.0, "{silly}");
    }
    // It is answered as soon as it is known.
    completed(&app, &campaign, 500, "mo@example.org").await;
    assert_eq!(amounts(&totals_from(&app, &campaign, 2).await), (3000, 2, 2, 2));
    app.finish().await;
}

/// A campaign's totals as they were read so many seconds ago.
fn read_ago(seconds: i64, version: i64, goal_minor: i64) -> Totals {
    Totals {
        campaign_id: CampaignId::from(uuid::Uuid::from_u128(1)),
        currency: Currency::parse("EUR").unwrap(),
        raised_minor: 100 * version,
        donation_count: version,
        donor_count: version,
        goal_minor: Some(goal_minor),
        version,
        as_of: Clock::System.now() - time::Duration::seconds(seconds),
    }
}

#[tokio::test]
async fn what_redis_has_expires_thirty_seconds_after_it_was_read_however_late_it_came_there() {
    let prefix = unique_prefix();
    let cache = Cache::new(Some(&redis_url()), &prefix).unwrap();
    let late = read_ago(20, 7, 100);
    wait_until("Redis has it", DEADLINE, async || cache.store_totals(&late).await).await;
    let key = format!("{prefix}totals:{}", late.campaign_id);
    let ttl_ms: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut redis_totals().await).await.unwrap();
    assert!((1..=10_000).contains(&ttl_ms), "{ttl_ms}");
    // What is older than that does not even begin.
    wait_until("Redis has dropped it", DEADLINE, async || cache.store_totals(&read_ago(40, 8, 100)).await).await;
    assert_eq!(cache.load_totals(late.campaign_id).await, None);
}

#[tokio::test]
async fn of_two_totals_of_one_version_redis_keeps_the_one_that_was_read_later() {
    let cache = Cache::new(Some(&redis_url()), &unique_prefix()).unwrap();
    let goal = async || cache.load_totals(read_ago(0, 7, 0).campaign_id).await.unwrap().goal_minor;
    let whole = read_ago(5, 7, 100);
    let whole = Totals { as_of: whole.as_of.replace_nanosecond(0).unwrap(), ..whole };
    let tenths = |tenths: u32, goal_minor: i64| Totals {
        as_of: whole.as_of.replace_nanosecond(tenths * 100_000_000).unwrap(),
        goal_minor: Some(goal_minor),
        ..whole.clone()
    };
    for (totals, expected) in [
        (tenths(5, 500), 500),
        (whole.clone(), 500),
        (tenths(4, 400), 500),
        (Totals { as_of: tenths(5, 0).as_of + time::Duration::microseconds(10), ..tenths(5, 501) }, 501),
        (tenths(5, 500), 501),
        (Totals { version: 6, ..read_ago(0, 6, 600) }, 501),
        (Totals { version: 8, ..tenths(1, 800) }, 800),
    ] {
        wait_until("Redis is asked", DEADLINE, async || cache.store_totals(&totals).await).await;
        assert_eq!(goal().await, Some(expected), "{totals:?}");
    }
}

async fn redis_totals() -> redis::aio::MultiplexedConnection {
    let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(redis_url()).unwrap();
    info = info.clone().set_redis_settings(info.redis_settings().clone().set_db(TOTALS_DB));
    redis::Client::open(info).unwrap().get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn a_line_that_was_written_before_a_refresh_and_committed_after_it_is_counted() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let id = text(&campaign["id"]);
    let insert = |amount: i64| {
        format!(
            "insert into payments.ledger_entries (campaign_id, payment_id, kind, amount_minor, currency,
                 donations_delta, donors_delta, version, created_at)
             values ('{id}', gen_random_uuid(), 'CAPTURE', {amount}, 'EUR', 1, 1, 4, now())"
        )
    };
    sql(&app, &insert(100)).await;
    let slow = app.setup.database.connect().await;
    slow.batch_execute(&format!("begin; {}", insert(20))).await.unwrap();
    // A later transaction commits before: ids and times cannot tell who was seen.
    sql(&app, &insert(3)).await;
    sql(&app, REFRESH).await;
    wait_until("the view answers", DEADLINE, async || {
        let totals = from_below_memory(&app, &campaign).await;
        assert_eq!(totals["raised_minor"], 103, "what is not committed is not counted");
        totals["source"] == "view"
    })
    .await;
    slow.batch_execute("commit").await.unwrap();
    let totals = totals_from(&app, &campaign, 3).await;
    assert_eq!((text(&totals["source"]), amounts(&totals)), ("view", (123, 3, 3, 3)));
    sql(&app, REFRESH).await;
    wait_until("the next refresh has it once", DEADLINE, async || {
        let totals = from_below_memory(&app, &campaign).await;
        assert_eq!(amounts(&totals), (123, 3, 3, 3));
        totals["source"] == "view"
    })
    .await;
    app.finish().await;
}

#[tokio::test]
async fn after_three_hundred_captures_and_refunds_every_level_says_what_the_ledger_says() {
    let app = Setup::new().await.with_redis().start().await;
    let campaign = app.campaign().await;
    // Twenty donors, ten gifts each; every other gift is refunded, some in part and some in full.
    let donor = async |at: i64| {
        for round in 0..10_i64 {
            let amount = 100 + 37 * ((at * 7 + round * 3) % 11);
            let donation = completed(&app, &campaign, amount, &format!("donor{at}@example.org")).await;
            if round % 2 == 1 {
                continue;
            }
            let body = if (at + round) % 3 == 0 { json!({}) } else { json!({"amount_minor": amount / 3}) };
            let path = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
            let (status, answer) = app.post(&path, body).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
    };
    futures::future::join_all((0..20).map(donor)).await;
    books_hold(&app).await;
    assert_eq!(app.count("select count(*) from payments.ledger_entries").await, 300);
    let raised = app.count("select sum(amount_minor)::bigint from payments.ledger_entries").await;
    let gifts = app.count("select sum(donations_delta)::bigint from payments.ledger_entries").await;
    let donors = app.count("select sum(donors_delta)::bigint from payments.ledger_entries").await;
    let exact = (raised, gifts, donors, 300);
    let mut sources = BTreeSet::new();
    wait_until("every totals fact is taken", DEADLINE, async || version(&app.totals(&campaign).await) == 300).await;
    for refresh in [false, true] {
        if refresh {
            sql(&app, REFRESH).await;
        }
        let totals = fresh(&app, &campaign).await;
        assert_eq!(amounts(&totals), exact, "{totals}");
        sources.insert(text(&totals["source"]).to_owned());
    }
    let memory = app.totals(&campaign).await;
    assert_eq!((text(&memory["source"]), amounts(&memory)), ("memory", exact));
    // Redis is left alone for a moment whenever it is slow; whoever answers instead says the same.
    wait_until("Redis answers", DEADLINE, async || {
        let below = from_below_memory(&app, &campaign).await;
        assert_eq!(amounts(&below), exact, "{below}");
        below["source"] == "redis"
    })
    .await;
    assert!(sources.contains("view"), "{sources:?}");
    app.finish().await;
}

#[tokio::test]
async fn a_donor_who_gave_thrice_and_got_one_gift_back_is_one_donor() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let mut gifts = Vec::new();
    // One person, however the address is spelt.
    for email in ["jo@example.org", "Jo@example.org", "JO@EXAMPLE.ORG"] {
        gifts.push(completed(&app, &campaign, 1000, email).await);
    }
    let counted = async |expected: (i64, i64, i64, i64)| {
        wait_until("the totals follow", DEADLINE, async || amounts(&app.totals(&campaign).await) == expected).await;
    };
    counted((3000, 3, 1, 3)).await;
    for (at, expected) in [(2000, 2, 1, 4), (1000, 1, 1, 5), (0, 0, 0, 6)].into_iter().enumerate() {
        let path = format!("/api/v1/payments/{}/refunds", text(&gifts[at]["payment"]["id"]));
        assert_eq!(app.post(&path, json!({})).await.0, StatusCode::CREATED);
        counted(expected).await;
    }
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_refresh_that_is_given_up_leaves_its_lock_to_the_next_replica() {
    let setup = Setup::new().await;
    let store = || Store::new(setup.database.url().parse().unwrap()).unwrap();
    let (first, second) = (store(), store());
    let holder = setup.database.connect().await;
    // A comment locks the view against a refresh, and is the least that does.
    holder.batch_execute("begin; comment on materialized view payments.campaign_totals is 'held'").await.unwrap();
    let waits = async || {
        let sql = "select count(*) from pg_locks where not granted and relation = 'payments.campaign_totals'::regclass";
        holder.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    };
    let refreshing = {
        let first = first.clone();
        tokio::spawn(async move { first.refresh_totals_view().await })
    };
    wait_until("the first waits for the view", DEADLINE, async || waits().await).await;
    assert!(!second.refresh_totals_view().await.unwrap(), "the other one is at it");
    refreshing.abort();
    assert!(refreshing.await.unwrap_err().is_cancelled());
    holder.batch_execute("commit").await.unwrap();
    wait_until("the second refreshes", DEADLINE, async || second.refresh_totals_view().await.unwrap()).await;
    // The connection of the first, which went back to its pool, has neither the lock nor the settings.
    assert!(first.refresh_totals_view().await.unwrap());
    let client = first.pools.reader().await.unwrap();
    let timeout: String = client.query_one("show statement_timeout", &[]).await.unwrap().get(0);
    assert_eq!(timeout, "20s");
}

#[tokio::test]
async fn of_two_replicas_one_refreshes_the_view_and_the_other_leaves_it_to_it() {
    let setup = Setup::new().await;
    let holder = setup.database.connect().await;
    // As a replica that is at it.
    holder.batch_execute("select pg_advisory_lock(1128678255, 1000)").await.unwrap();
    let app = setup.start().await;
    let refreshes =
        async |outcome: &str| app.metric(&format!("careforall_totals_refreshes_total{{outcome=\"{outcome}\"}}")).await;
    wait_until("it looked at the view", DEADLINE, async || refreshes("elsewhere").await == 1.0).await;
    assert_eq!(refreshes("refreshed").await, 0.0);
    holder.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
    let second = app.second().await;
    let name = "careforall_totals_refreshes_total{outcome=\"refreshed\"}";
    wait_until("the second refreshes", DEADLINE, async || second.metric(name).await == 1.0).await;
    second.finish().await;
    app.finish().await;
}
