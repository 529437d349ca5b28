//! Failover: the primary dies or falls silent under load, its standby is promoted, and the same process goes on by itself.
//!
//! Replication is synchronous, so whatever was acknowledged is on both. `docs/operating.md` gives the same commands.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::crowd::{all_is_due, books_hold, gift};
use crate::support::proxy::TcpProxy;
use crate::support::services::{connect, wait_until};
use crate::support::{DEADLINE, Setup, TestApp, WEBHOOK_SECRET, intent_event, now, signature, text};

const DONORS: usize = 6;
const AMOUNT_MINOR: i64 = 500;
/// Acknowledged before the failover, and after it, at least.
const SOME: usize = 25;

/// A primary that acknowledges what its standby has, too; `None` where there are no server programs.
async fn pair() -> Option<(Cluster, Cluster)> {
    let primary = Cluster::start_with(&["wal_log_hints=on"]).await?;
    let standby = primary.standby().await;
    wait_for_each_other(&primary).await;
    Some((primary, standby))
}

async fn wait_for_each_other(primary: &Cluster) {
    let client = connect(&primary.url()).await;
    client.batch_execute("alter system set synchronous_standby_names = '*'").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    wait_until("replication is synchronous", DEADLINE, async || {
        let sql = "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = 'sync'";
        let row = client.query_one(sql, &[]).await;
        row.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

fn setup(first: impl std::fmt::Display, second: u16) -> Setup {
    Setup::elsewhere(format!("postgres://postgres@{first},127.0.0.1:{second}/postgres?target_session_attrs=read-write"))
        .with_redis()
}

/// Donors who give and pay, and Stripe, who tells of it. What was refused is done again at the end, as they would.
struct Crowd<'a> {
    app: &'a TestApp,
    campaign: Value,
    enough: AtomicBool,
    /// Answered with 201.
    given: Mutex<Vec<Value>>,
    /// Keys of donations that were refused.
    refused: Mutex<Vec<String>>,
    /// Events that were answered with 200.
    told: Mutex<Vec<String>>,
    /// Donations that could not be paid yet, for want of their intent.
    unpaid: Mutex<Vec<Value>>,
    /// Donations that are paid, and Stripe could not tell of it yet.
    untold: Mutex<Vec<Value>>,
    refusals: AtomicUsize,
}

impl<'a> Crowd<'a> {
    async fn of(app: &'a TestApp) -> Self {
        app.control("/webhooks", json!({"enabled": false})).await;
        Self {
            app,
            campaign: app.campaign().await,
            enough: AtomicBool::new(false),
            given: Mutex::default(),
            refused: Mutex::default(),
            told: Mutex::default(),
            unpaid: Mutex::default(),
            untold: Mutex::default(),
            refusals: AtomicUsize::new(0),
        }
    }

    async fn give(&self) {
        join_all((0..DONORS).map(async |donor| {
            for at in 0.. {
                if self.enough.load(Ordering::Relaxed) {
                    break;
                }
                self.give_one(&format!("donor{donor}-{at}")).await;
            }
        }))
        .await;
    }

    /// Whether the donation was taken.
    async fn give_one(&self, key: &str) -> bool {
        let request = gift(self.app, &self.campaign, AMOUNT_MINOR, &format!("{key}@example.org"));
        let answer = request.header("Idempotency-Key", key).send().await.expect("an answer, whatever happens");
        // A repetition may find that the first request is believed to be under way still.
        if answer.status() == StatusCode::CONFLICT || self.is_refusal(&answer) {
            self.refused.lock().unwrap().push(key.to_owned());
            return false;
        }
        assert_eq!(answer.status(), StatusCode::CREATED);
        let donation: Value = answer.json().await.unwrap();
        self.given.lock().unwrap().push(donation.clone());
        self.pay(donation).await;
        true
    }

    /// A 503 that says when to come again. No other failure is one that a client may see.
    fn is_refusal(&self, answer: &Response) -> bool {
        let refuses = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        if refuses {
            assert!(answer.headers().contains_key("retry-after"));
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        refuses
    }

    async fn pay(&self, donation: Value) {
        if donation["payment"]["intent_id"].is_null() {
            return self.unpaid.lock().unwrap().push(donation);
        }
        let (status, intent) = self.app.pay(&donation, "pm_card_visa").await;
        assert_eq!(status, StatusCode::OK, "{intent}");
        self.tell(donation).await;
    }

    async fn tell(&self, donation: Value) {
        let event = intent_event(&donation, "payment_intent.succeeded", now(), json!({}));
        let body = event.to_string();
        let header = signature(WEBHOOK_SECRET, now(), body.as_bytes());
        let request = self.app.request(Method::POST, "/webhooks/stripe").header("Stripe-Signature", header);
        let answer = request.body(body).send().await.expect("an answer, whatever happens");
        if self.is_refusal(&answer) {
            return self.untold.lock().unwrap().push(donation);
        }
        assert_eq!(answer.status(), StatusCode::OK);
        let verdict: Value = answer.json().await.unwrap();
        // Stripe may tell of one payment by two events, and the first of them may have been believed unheard.
        assert!(matches!(text(&verdict["verdict"]), "applied" | "stale"), "{verdict}");
        self.told.lock().unwrap().push(text(&event["id"]).to_owned());
    }

    fn acknowledged(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    async fn until_acknowledged(&self, more: usize) {
        let enough = self.acknowledged() + more;
        wait_until("some are acknowledged", DEADLINE * 2, async || self.acknowledged() >= enough).await;
    }

    fn until_enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// What was refused comes again, until all is given, paid and told.
    async fn come_again(&self) {
        // Keys of requests that were cut off are theirs for half a minute; it is over.
        self.app.sql("update payments.idempotency_keys set locked_until = now() where status is null").await;
        let refused: Vec<String> = take(&self.refused);
        join_all(refused.iter().map(async |key| {
            wait_until("it is taken", DEADLINE * 2, async || self.give_one(key).await).await;
        }))
        .await;
        all_is_due(self.app).await;
        wait_until("all is paid and told", DEADLINE, async || {
            for donation in take(&self.unpaid) {
                let mut seen = self.app.donation_now(&donation).await;
                seen["access_token"] = donation["access_token"].clone();
                self.pay(seen).await;
            }
            for donation in take(&self.untold) {
                self.tell(donation).await;
            }
            self.unpaid.lock().unwrap().is_empty() && self.untold.lock().unwrap().is_empty()
        })
        .await;
    }

    /// Everything that was acknowledged is there, once, and has had all of its effects.
    async fn is_remembered(&self) {
        books_hold(self.app).await;
        let quoted = |ids: Vec<String>| ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        let given: Vec<String> = self.given.lock().unwrap().iter().map(|it| text(&it["id"]).to_owned()).collect();
        let count = i64::try_from(given.len()).unwrap();
        let completed = "select count(*) from donations.donations where status = 'COMPLETED'";
        let kept = self.app.count(&format!("{completed} and id in ({})", quoted(given))).await;
        assert_eq!(kept, count, "acknowledged donations");
        assert_eq!(self.app.count("select count(*) from donations.donations").await, count, "one for each key");
        let told = self.told.lock().unwrap().clone();
        let kept = "select count(distinct event_id) from payments.payment_state_history where event_id in";
        let kept = self.app.count(&format!("{kept} ({})", quoted(told.clone()))).await;
        assert_eq!(kept, i64::try_from(told.len()).unwrap(), "acknowledged webhooks");
        wait_until("every fact is written down", DEADLINE, async || {
            self.app.count("select count(*) from donations.audit_logs").await == 2 * count
        })
        .await;
        let sent = "select count(*) from notifications.notifications where status = 'SENT'";
        assert_eq!(self.app.count(sent).await, 2 * count, "one thank-you and one receipt each");
        assert_eq!(i64::try_from(self.app.mails().len()).unwrap(), 2 * count, "no mail twice");
        wait_until("the total is the ledger's", DEADLINE, async || {
            self.app.totals(&self.campaign).await["raised_minor"] == count * AMOUNT_MINOR
        })
        .await;
        no_difference(self.app, &self.app.setup).await;
    }
}

fn take<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *list.lock().unwrap())
}

async fn no_difference(app: &TestApp, setup: &Setup) {
    let verified = app.command_as(setup, &["verify"]).await;
    assert!(verified.code == Some(0) && verified.out.contains("no difference"), "{verified:?}");
}

/// What an operator reads on a standby while the primary is at work, and what cannot be done there.
async fn read_from(standby: &Cluster, crowd: &Crowd<'_>) {
    let (app, there) = (crowd.app, crowd.app.setup.clone().with("DATABASE_URL", standby.url()));
    no_difference(app, &there).await;
    let payment = text(&crowd.given.lock().unwrap()[0]["payment"]["id"]).to_owned();
    let explained = app.command_as(&there, &["explain", &payment]).await;
    assert!(explained.code == Some(0) && explained.out.contains("The donor gave"), "{explained:?}");
    let doctor = app.command_as(&there, &["doctor"]).await;
    assert!(doctor.out.contains("a standby, to be read"), "{doctor:?}");
    for words in [&["migrate"][..], &["dead-letters", "list"], &["serve"]] {
        let refused = app.command_as(&there.clone().with("CAREFORALL_LISTEN", "127.0.0.1:0"), words).await;
        assert_eq!(refused.code, Some(1), "{words:?}: {refused:?}");
        assert_eq!(refused.err.lines().count(), 1, "{words:?}: {refused:?}");
        assert!(refused.err.contains("it takes no writes"), "{words:?}: {refused:?}");
    }
}

#[tokio::test]
async fn the_primary_dies_its_standby_is_promoted_and_the_same_process_goes_on_with_all_that_was_acknowledged() {
    let Some((first, second)) = pair().await else { return };
    let app = setup(format!("127.0.0.1:{}", first.port), second.port).start().await;
    let crowd = Crowd::of(&app).await;
    let failover = async {
        crowd.until_acknowledged(SOME).await;
        read_from(&second, &crowd).await;
        first.crash().await;
        wait_until("they are refused", DEADLINE, async || crowd.refusals.load(Ordering::Relaxed) > 2 * DONORS).await;
        let (status, _) = app.get("/health/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        second.promote().await;
        crowd.until_acknowledged(SOME).await;
        crowd.until_enough();
    };
    tokio::join!(crowd.give(), failover);
    crowd.come_again().await;
    crowd.is_remembered().await;
    let refusals = crowd.refusals.load(Ordering::Relaxed);
    println!("{} donations acknowledged, {refusals} times 503, 0 lost", crowd.given.lock().unwrap().len());

    // The old primary comes back as if nothing had happened. It takes writes, and acknowledges none.
    first.launch(&["wal_log_hints=on"]).await;
    let hanging = connect(&first.url()).await;
    let hanging = tokio::spawn(async move { hanging.batch_execute("create table never_acknowledged ()").await });
    let stale = connect(&first.url()).await;
    wait_until("its commit waits for a standby", DEADLINE, async || {
        let row = stale.query_one("select count(*) from pg_stat_activity where wait_event = 'SyncRep'", &[]).await;
        row.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    drop(stale);
    // A process that knows nothing of the failover finds the right one, although the other is named first.
    let (campaign, setup) = (crowd.campaign, app.stop().await);
    let app = setup.start().await;
    let donation = app.donate(&campaign, AMOUNT_MINOR).await;
    let there = format!("select count(*) from donations.donations where id = '{}'", text(&donation["id"]));
    assert_eq!(connect(&second.url()).await.query_one(&there, &[]).await.unwrap().get::<_, i64>(0), 1);
    let doctor = app.command(&["doctor"]).await;
    assert!(doctor.code == Some(1) && doctor.out.contains("was left behind by a failover"), "{doctor:?}");
    assert!(!hanging.is_finished());

    // It is made the standby of the new one.
    first.stop().await;
    assert!(hanging.await.unwrap().is_err());
    first.rewind_to(&second).await;
    wait_for_each_other(&second).await;
    wait_until("doctor finds them well", DEADLINE, async || {
        let doctor = app.command(&["doctor"]).await;
        doctor.out.contains("replicates synchronously") && doctor.out.contains("1 replica runs")
    })
    .await;
    no_difference(&app, &app.setup.clone().with("DATABASE_URL", first.url())).await;
    app.donate(&campaign, AMOUNT_MINOR).await;
    app.finish().await;
}

#[tokio::test]
async fn a_primary_that_falls_silent_is_left_for_the_promoted_standby_though_nobody_closes_a_connection() {
    let Some((first, second)) = pair().await else { return };
    let mut proxy = TcpProxy::start(&format!("127.0.0.1:{}", first.port)).await.unwrap();
    let app = setup(proxy.addr(), second.port).start().await;
    let crowd = Crowd::of(&app).await;
    let failover = async {
        crowd.until_acknowledged(SOME).await;
        proxy.freeze();
        second.promote().await;
        crowd.until_acknowledged(SOME).await;
        crowd.until_enough();
    };
    tokio::join!(crowd.give(), failover);
    // From here on the old one is fenced.
    proxy.cut().await;
    crowd.come_again().await;
    crowd.is_remembered().await;
    assert!(app.log().contains("another server takes writes now"));
    app.finish().await;
}
