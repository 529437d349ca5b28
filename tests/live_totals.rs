//! Whoever watches a campaign sees it change, on every replica, and never goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::Actor;
use careforall::actors::facts::Take;
use careforall::actors::totals::{DropTotals, TotalsActor, TotalsMemory};
use careforall::clock::Clock;
use careforall::domain::fact::Fact;
use careforall::store::Store;
use careforall::store::cache::Cache;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crash::broker_behind_a_proxy;
use crate::support::crowd::{beside, books_hold, completed};
use crate::support::redis::RedisServer;
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, read, text};

/// An open stream, read event by event.
struct Stream {
    response: reqwest::Response,
    unread: String,
}

/// What a stream said.
#[derive(Debug)]
struct Event {
    id: i64,
    totals: Value,
}

impl Stream {
    async fn open(app: &TestApp, campaign: &Value, last_event_id: Option<i64>) -> Self {
        let path = format!("/api/v1/campaigns/{}/totals/stream", text(&campaign["slug"]));
        let request = app.request(Method::GET, &path);
        let request = match last_event_id {
            Some(id) => request.header("Last-Event-ID", id),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { response, unread: String::new() }
    }

    /// The next event; `None` when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        let next = async {
            loop {
                if let Some((block, rest)) = self.unread.split_once("\n\n") {
                    let event = parse(block);
                    self.unread = rest.to_owned();
                    if event.is_some() {
                        return event;
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.unwrap()?;
                self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(DEADLINE, next).await.expect("an event, or the end")
    }

    /// Reads until the totals have that version.
    async fn until(&mut self, version: i64) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            assert!(event.id <= version, "{event:?}");
            if event.id == version {
                return event;
            }
        }
    }
}

/// `None` for a heartbeat or a word to the browser.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let totals: Value = serde_json::from_str(field("data: ")?).unwrap();
    assert_eq!(field("event: "), Some("totals"));
    let id = field("id: ").unwrap().parse().unwrap();
    assert_eq!(totals["version"], id);
    Some(Event { id, totals })
}

async fn totals_of(app: &TestApp, campaign: &Value, min_version: i64) -> Value {
    let path = format!("/api/v1/campaigns/{}/totals?min_version={min_version}", text(&campaign["id"]));
    let (status, totals) = read(app.request(Method::GET, &path)).await;
    assert_eq!(status, StatusCode::OK, "{totals}");
    totals
}

#[tokio::test]
async fn a_stream_tells_the_present_total_then_every_change_and_ends_when_the_process_does() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let mut stream = Stream::open(&app, &campaign, None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id, &first.totals["raised_minor"]), (0, &json!(0)));
    for gift in 1..=3 {
        let donation = completed(&app, &campaign, 1000, "jo@example.org").await;
        assert_eq!(stream.until(gift).await.totals["raised_minor"], 1000 * gift);
        // The donor is told from which version on the gift is counted, and asks for it.
        assert_eq!(app.donation_now(&donation).await["totals_version"], gift);
        assert_eq!(totals_of(&app, &campaign, gift).await["raised_minor"], 1000 * gift);
    }
    // Another goal is told too, though no money moved.
    let path = format!("/api/v1/campaigns/{}", text(&campaign["id"]));
    let (status, _) = read(app.operator(Method::PATCH, &path).json(&json!({"goal_minor": 777}))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(stream.until(3).await.totals["goal_minor"], 777);
    assert_eq!(app.metric("careforall_totals_streams").await, 1.0);
    books_hold(&app).await;
    let ended = async {
        assert!(stream.next().await.is_none(), "the stream ends with the process");
    };
    tokio::join!(ended, app.finish());
}

#[tokio::test]
async fn whoever_comes_back_is_told_only_what_is_new() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    completed(&app, &campaign, 1000, "jo@example.org").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["version"] == 1).await;
    let mut stream = Stream::open(&app, &campaign, Some(1)).await;
    completed(&app, &campaign, 500, "mo@example.org").await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id, &first.totals["raised_minor"]), (2, &json!(1500)));
    // What was missed is told at once; what is no version of ours is as good as nothing.
    for last in [Some(1), Some(-7), Some(i64::MAX), Some(99)] {
        assert_eq!(Stream::open(&app, &campaign, last).await.next().await.unwrap().id, 2, "{last:?}");
    }
    let (status, problem) =
        read(app.request(Method::GET, "/api/v1/campaigns/019371ab-0000-7000-8000-000000000000/totals/stream")).await;
    assert_eq!((status, text(&problem["title"])), (StatusCode::NOT_FOUND, "Not found"));
    drop(stream);
    // A client that went away is noticed by the second heartbeat.
    wait_until("nobody watches", 2 * DEADLINE, async || app.metric("careforall_totals_streams").await == 0.0).await;
    app.finish().await;
}

/// Opens streams until one is refused: how many there were, and what the refused one was told.
async fn open_until_refused(app: &TestApp, campaign: &Value) -> (Vec<reqwest::Response>, reqwest::Response) {
    let path = format!("/api/v1/campaigns/{}/totals/stream", text(&campaign["id"]));
    let mut open = Vec::new();
    loop {
        let response = app.request(Method::GET, &path).send().await.unwrap();
        if response.status() != StatusCode::OK {
            return (open, response);
        }
        open.push(response);
        assert!(open.len() <= 1000, "no end of streams");
    }
}

async fn is_refused_with(refused: reqwest::Response, status: StatusCode, kind: &str) {
    assert_eq!(refused.status(), status);
    assert!(refused.headers().contains_key("Retry-After"));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(text(&problem["type"]), format!("urn:careforall:problem:{kind}"), "{problem}");
}

#[tokio::test]
async fn one_client_has_so_many_streams_and_no_more_and_others_are_not_concerned() {
    let setup = Setup::new().await.with("CAREFORALL_RATE_LIMIT", "10000/min");
    let app = setup.with("CAREFORALL_TRUSTED_PROXIES", "127.0.0.1").start().await;
    let campaign = app.campaign().await;
    let (open, refused) = open_until_refused(&app, &campaign).await;
    assert_eq!(open.len(), 100);
    is_refused_with(refused, StatusCode::TOO_MANY_REQUESTS, "rate-limited").await;
    let path = format!("/api/v1/campaigns/{}/totals/stream", text(&campaign["id"]));
    let other = app.request(Method::GET, &path).header("X-Forwarded-For", "192.0.2.7").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    // What else the client asks for is answered.
    assert_eq!(app.totals(&campaign).await["raised_minor"], 0);
    drop((open, other));
    app.finish().await;
}

#[tokio::test]
async fn where_all_streams_are_taken_the_next_is_refused_and_everything_else_is_served() {
    let app = Setup::new().await.with_open_files(300).start().await;
    let campaign = app.campaign().await;
    let (open, refused) = open_until_refused(&app, &campaign).await;
    assert_eq!(open.len(), 150, "half of what may be open");
    is_refused_with(refused, StatusCode::SERVICE_UNAVAILABLE, "unavailable").await;
    completed(&app, &campaign, 1000, "jo@example.org").await;
    assert_eq!(app.metric("careforall_totals_streams").await, 150.0);
    drop(open);
    app.finish().await;
}

async fn every_replica_hears_of_a_gift(setup: Setup) {
    let first = setup.start().await;
    let second = beside(&first).await;
    let campaign = first.campaign().await;
    for app in [&first, &second] {
        wait_until("news are heard", DEADLINE, async || {
            app.request(Method::GET, "/health/ready").send().await.unwrap().text().await.unwrap().contains("\"ready\"")
        })
        .await;
    }
    let mut streams = [Stream::open(&first, &campaign, None).await, Stream::open(&second, &campaign, None).await];
    for gift in 1..=5 {
        for app in [&first, &second] {
            assert_eq!(app.totals(&campaign).await["version"], gift - 1, "now both remember");
        }
        completed(&first, &campaign, 100, "jo@example.org").await;
        for (app, stream) in [&first, &second].into_iter().zip(&mut streams) {
            stream.until(gift).await;
            wait_until("the news is taken", DEADLINE, async || {
                app.metric("careforall_consumer_events_total{consumer=\"news\",outcome=\"taken\"}").await >= gift as f64
            })
            .await;
            // From then on nobody is shown the old total, whatever memory and Redis had.
            assert_eq!(app.totals(&campaign).await["raised_minor"], 100 * gift);
        }
    }
    drop(streams);
    books_hold(&first).await;
    second.finish().await;
    first.finish().await;
}

#[tokio::test]
async fn every_replica_hears_of_a_gift_and_shows_the_old_total_no_more() {
    every_replica_hears_of_a_gift(Setup::new().await.with_amqp()).await;
}

#[tokio::test]
async fn every_replica_hears_of_a_gift_with_redis_in_between() {
    every_replica_hears_of_a_gift(Setup::new().await.with_amqp().with_redis()).await;
}

#[tokio::test]
async fn whoever_tells_what_was_seen_is_told_nothing_older_by_another_replica() {
    // No broker: the second replica hears nothing, and remembers for as long as it may.
    let first = Setup::new().await.start().await;
    let second = beside(&first).await;
    let campaign = first.campaign().await;
    let path = format!("/api/v1/campaigns/{}/totals", text(&campaign["id"]));
    let tag = |response: &reqwest::Response| response.headers()["etag"].to_str().unwrap().to_owned();
    completed(&first, &campaign, 100, "jo@example.org").await;
    let stale = tag(&second.request(Method::GET, &path).send().await.unwrap());
    for gift in 2..=20 {
        second.request(Method::GET, &path).send().await.unwrap();
        completed(&first, &campaign, 100, "jo@example.org").await;
        let seen = tag(&first.request(Method::GET, &format!("{path}?min_version={gift}")).send().await.unwrap());
        let same = second.request(Method::GET, &path).header("If-None-Match", &seen).send().await.unwrap();
        assert_eq!((same.status(), tag(&same)), (StatusCode::NOT_MODIFIED, seen));
        let several = second.request(Method::GET, &path).header("If-None-Match", format!("{stale}, W/\"x\""));
        assert_eq!(several.send().await.unwrap().status(), StatusCode::OK);
    }
    // A tag that nobody gave out asks for nothing.
    let made_up = second.request(Method::GET, &path).header("If-None-Match", "W/\"999999.\"").send().await.unwrap();
    assert_eq!(made_up.status(), StatusCode::OK);
    second.finish().await;
    books_hold(&first).await;
    first.finish().await;
}

/// That a payment of the campaign was completed.
fn completed_fact(campaign: &str) -> Fact {
    let id = "019371ab-0000-7000-8000-000000000007";
    let data = json!({
        "payment_id": id, "donation_id": id, "campaign_id": campaign, "status": "CAPTURED", "version": 4,
        "amount_minor": 100, "currency": "EUR", "moved_minor": 100, "captured_minor": 100, "refunded_minor": 0,
        "disputed_minor": 0,
    });
    let fact = json!({
        "specversion": "1.0", "id": id, "source": "/careforall", "type": "payment.completed", "subject": id,
        "time": "2030-01-01T00:00:00Z", "datacontenttype": "application/json", "data": data,
    });
    serde_json::from_value(fact).unwrap()
}

#[actix::test]
async fn what_redis_is_owed_is_brought_there_though_news_came_while_it_was_read() {
    let redis = RedisServer::start().await;
    redis.kill();
    let setup = Setup::new().await;
    let holder = setup.database.connect().await;
    let id = "019371ab-0000-7000-8000-000000000001";
    let sql = format!(
        "insert into donations.campaigns (id, slug, title, currency, status, created_at, updated_at)
         values ('{id}', 'wells', 'Wells', 'EUR', 'ACTIVE', now(), now());
         begin; lock table payments.ledger_checkpoints in access exclusive mode"
    );
    holder.batch_execute(&sql).await.unwrap();
    let store = Store::new(setup.database.url().parse().unwrap()).unwrap();
    let cache = Cache::new(Some(&redis.url()), setup.prefix()).unwrap();
    let totals = TotalsActor::new(store, cache, Clock::System, TotalsMemory::default()).start();
    let taking = tokio::spawn(totals.send(Take(vec![completed_fact(id)])));
    wait_until("the read is under way", DEADLINE, async || {
        let sql =
            "select count(*) from pg_locks where not granted and relation = 'payments.ledger_checkpoints'::regclass";
        holder.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    totals.send(DropTotals(vec![id.parse().unwrap()])).await.unwrap();
    holder.batch_execute("commit").await.unwrap();
    taking.await.unwrap().unwrap().unwrap();
    redis.start_again().await;
    let key = format!("{}totals:{id}", setup.prefix());
    wait_until("Redis has it", DEADLINE, async || redis.totals(&key).await.is_some()).await;
}

#[tokio::test]
async fn without_redis_and_without_news_no_replica_shows_an_old_total_but_from_memory() {
    let redis = RedisServer::start().await;
    let (mut broker, amqp) = broker_behind_a_proxy().await;
    let setup = Setup::new().await.with_amqp().with("AMQP_URL", amqp).with("REDIS_URL", redis.url());
    let first = setup.start().await;
    let second = beside(&first).await;
    let campaign = first.campaign().await;
    for app in [&first, &second] {
        wait_until("it is ready", DEADLINE, async || app.get("/health/ready").await.1["status"] == "ready").await;
    }
    redis.kill();
    broker.cut().await;
    for gift in 1..=3 {
        for app in [&first, &second] {
            // Now both remember what is about to be old.
            assert_eq!(app.totals(&campaign).await["version"], gift - 1);
        }
        completed(&first, &campaign, 100, "jo@example.org").await;
        for app in [&first, &second] {
            wait_until("memory's time is over", DEADLINE, async || {
                let totals = app.totals(&campaign).await;
                let is_new = totals["version"] == gift && totals["raised_minor"] == 100 * gift;
                // Only what was remembered may be old, and what was read from below after the gift never is.
                assert!(is_new || (totals["source"] == "memory" && totals["version"] == gift - 1), "{totals}");
                is_new
            })
            .await;
            assert_eq!(app.totals(&campaign).await["version"], gift, "and it does not go back");
        }
    }
    broker.restore().unwrap();
    redis.start_again().await;
    books_hold(&first).await;
    second.finish().await;
    first.finish().await;
}

/// Reads without pause and holds that nothing goes back: a reader of two replicas by turns asks for what it has seen.
async fn read_on(apps: [&TestApp; 2], campaign: &Value, reads: &AtomicU64, done: &AtomicBool) {
    let (mut newest, mut raised) = (0, 0);
    let mut own = [0, 0];
    for turn in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let at = turn % 2;
        let asks = turn % 3 == 0;
        let totals = totals_of(apps[at], campaign, if asks { newest } else { 0 }).await;
        let (version, now_raised) = (totals["version"].as_i64().unwrap(), totals["raised_minor"].as_i64().unwrap());
        assert!(version >= own[at], "replica {at} showed version {} before {totals}", own[at]);
        assert!(!asks || version >= newest, "version {newest} was asked for: {totals}");
        // There are only captures here, of a cent a line: version and money are one.
        assert_eq!(now_raised, version * 100, "{totals}");
        assert!(now_raised >= raised || !asks, "{raised} was seen before {totals}");
        own[at] = version;
        newest = newest.max(version);
        raised = raised.max(now_raised);
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long the storm lasts; longer by `CAREFORALL_TOTALS_STORM_S`.
fn storm_seconds() -> u64 {
    std::env::var("CAREFORALL_TOTALS_STORM_S").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[tokio::test]
async fn redis_is_killed_frozen_and_flushed_while_two_replicas_are_read_and_nothing_goes_back_or_fails() {
    let redis = Arc::new(RedisServer::start().await);
    let first = Setup::new().await.with_amqp().with("REDIS_URL", redis.url()).start().await;
    let second = beside(&first).await;
    let campaign = first.campaign().await;
    let (done, calm) = (AtomicBool::new(false), AtomicBool::new(false));
    let reads = AtomicU64::new(0);
    let readers = join_all((0..6).map(|_| read_on([&first, &second], &campaign, &reads, &done)));
    let donors = join_all((0..4).map(|donor| {
        let (first, campaign, calm) = (&first, &campaign, &calm);
        async move {
            let mut gifts = 0;
            while !calm.load(Ordering::Relaxed) {
                completed(first, campaign, 100, &format!("donor{donor}@example.org")).await;
                gifts += 1;
            }
            gifts
        }
    }));
    let trouble = async {
        let part = Duration::from_secs(storm_seconds()) / 6;
        redis.flush().await;
        tokio::time::sleep(part).await; // how long each trouble lasts; nothing waits for it
        redis.freeze();
        tokio::time::sleep(part).await;
        redis.thaw();
        redis.flush().await;
        tokio::time::sleep(part).await;
        redis.kill();
        tokio::time::sleep(part).await;
        redis.start_again().await;
        tokio::time::sleep(part * 2).await;
        calm.store(true, Ordering::Relaxed);
    };
    let run = async {
        let (gifts, ()) = tokio::join!(donors, trouble);
        let gifts: i64 = gifts.into_iter().sum();
        for app in [&first, &second] {
            wait_until("all is counted", DEADLINE, async || app.totals(&campaign).await["version"] == gifts).await;
        }
        done.store(true, Ordering::Relaxed);
        gifts
    };
    let (_, gifts) = tokio::join!(readers, run);
    assert!(gifts > 0 && reads.load(Ordering::Relaxed) > 0);
    for app in [&first, &second] {
        // Memory, then the database, then Redis: all say what the ledger says.
        assert_eq!(app.totals(&campaign).await["raised_minor"], 100 * gifts);
        let fresh = format!("/api/v1/campaigns/{}/totals?fresh=true", text(&campaign["id"]));
        assert_eq!(read(app.request(Method::GET, &fresh)).await.1["raised_minor"], 100 * gifts);
    }
    wait_until("Redis has it", DEADLINE, async || {
        let key = format!("{}totals:{}", first.setup.prefix(), text(&campaign["id"]));
        redis.totals(&key).await.is_some_and(|known| known["raised_minor"] == 100 * gifts)
    })
    .await;
    assert_eq!(first.count("select sum(amount_minor)::bigint from payments.ledger_entries").await, 100 * gifts);
    eprintln!("{gifts} gifts, {} reads", reads.load(Ordering::Relaxed));
    books_hold(&first).await;
    second.finish().await;
    first.finish().await;
}
