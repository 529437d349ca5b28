//! A power cut at any moment loses nothing that was acknowledged, and doubles nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::crowd::{all_is_due, books_hold, donate_as, gift, intents, sandbox_books};
use crate::support::proxy::TcpProxy;
use crate::support::services::{amqp_url, wait_until};
use crate::support::{DEADLINE, Setup, TestApp, now, read, text};

/// The tests' RabbitMQ, as it is reached through `proxy`.
pub async fn broker_behind_a_proxy() -> (TcpProxy, String) {
    let url = amqp_url();
    let (credentials, rest) = url.split_once('@').unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let upstream = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:5672") };
    let proxy = TcpProxy::start(&upstream).await.unwrap();
    let behind = format!("{credentials}@{}/{path}", proxy.addr());
    (proxy, behind)
}

async fn readiness(app: &TestApp) -> Value {
    app.get("/health/ready").await.1
}

#[tokio::test]
async fn committed_facts_survive_a_kill_before_they_are_published() {
    let (mut broker, url) = broker_behind_a_proxy().await;
    let app = Setup::new().await.with_amqp().with("AMQP_URL", url).start().await;
    wait_until("the broker is up", DEADLINE, async || readiness(&app).await["status"] == "ready").await;
    let campaign = app.campaign().await;
    broker.cut().await;
    for donor in 0..5 {
        let donation = donate_as(&app, &campaign, 1000 + donor, &format!("donor{donor}@example.org")).await;
        app.pay(&donation, "pm_card_visa").await;
        app.settle(&donation, "COMPLETED").await;
    }
    assert_eq!(app.count("select count(*) from donations.outbox_events").await, 10, "nothing is published");
    assert!(app.mails().is_empty());

    let setup = app.kill();
    broker.restore().unwrap();
    let app = setup.start().await;
    wait_until("every fact is audited", DEADLINE, async || {
        app.count("select count(*) from donations.audit_logs").await == 10
    })
    .await;
    all_is_due(&app).await;
    // The queue of notices may be behind the one of the audit.
    wait_until("every mail is written", DEADLINE, async || app.mails().len() >= 10).await;
    books_hold(&app).await;
    for donor in 0..5 {
        let address = format!("donor{donor}@example.org");
        let mails = app.mails().iter().filter(|mail| mail.contains(&address)).count();
        assert_eq!(mails, 2, "{address}: one thank-you, one receipt");
    }
    let once = "select count(*) from (select aggregate_id, event_type from donations.audit_logs
                                       group by 1, 2 having count(*) = 1) as fact";
    assert_eq!(app.count(once).await, 10, "each fact of each payment once");
    assert_eq!(app.totals(&campaign).await["raised_minor"], 5010);
    app.finish().await;
}

/// What donors were told, for sure.
#[derive(Default)]
struct Told {
    donations: Vec<Value>,
    paid: BTreeSet<String>,
}

/// One donor who gives and pays, again and again, until nobody answers any more.
async fn give_until_nobody_answers(app: &TestApp, campaign: &Value, donor: usize, told: &Mutex<Told>) {
    for at in 0.. {
        let key = format!("{}-{donor}-{at}", app.url);
        let email = format!("donor{donor}@example.org");
        let request = gift(app, campaign, 100, &email).header("Idempotency-Key", key);
        let Some((StatusCode::CREATED, donation)) = try_read(request).await else { return };
        let intent = donation["payment"]["intent_id"].as_str().map(str::to_owned);
        told.lock().unwrap().donations.push(donation);
        let Some(intent) = intent else { continue };
        let path = format!("/sandbox/stripe/v1/payment_intents/{intent}/confirm");
        let confirm = app.request(Method::POST, &path).bearer_auth(crate::support::SANDBOX_KEY);
        let Some((StatusCode::OK, _)) = try_read(confirm.form(&[("payment_method", "pm_card_visa")])).await else {
            return;
        };
        told.lock().unwrap().paid.insert(intent);
    }
}

/// Status and JSON, unless the process dies meanwhile.
async fn try_read(request: RequestBuilder) -> Option<(StatusCode, Value)> {
    let response = request.send().await.ok()?;
    let status = response.status();
    Some((status, response.json().await.ok()?))
}

#[tokio::test]
async fn five_kills_in_a_stream_of_twenty_donors_lose_nothing_and_double_nothing() {
    let mut setup = Setup::new().await;
    let told = Mutex::new(Told::default());
    let mut campaign = Value::Null;
    for round in 0..5_usize {
        let app = setup.clone().start().await;
        if round == 0 {
            campaign = app.campaign().await;
        }
        let acknowledged = || told.lock().unwrap().donations.len();
        // A moment that falls anywhere between a commit, an answer and a webhook.
        let enough = acknowledged() + 20 + usize::try_from(now()).unwrap() * (round + 7) % 41;
        let donors =
            futures::future::join_all((0..20).map(|donor| give_until_nobody_answers(&app, &campaign, donor, &told)));
        let kill = async {
            wait_until("enough is acknowledged", DEADLINE, async || acknowledged() >= enough).await;
            app.kill_now();
        };
        tokio::join!(donors, kill);
        setup = app.kill();
    }

    let app = setup.start().await;
    let told = told.into_inner().unwrap();
    all_is_due(&app).await;
    wait_until("every payment is known to the sandbox", DEADLINE, async || {
        app.count("select count(*) from payments.payment_transactions where intent_id is null").await == 0
    })
    .await;
    let intents = intents(&app).await;
    let paid: BTreeSet<&str> =
        intents.iter().filter(|it| it["status"] == "succeeded").map(|it| text(&it["id"])).collect();
    assert!(told.paid.iter().all(|intent| paid.contains(intent.as_str())), "the sandbox forgot a payment");
    let captured = "select count(*) from payments.payment_transactions where status = 'CAPTURED'";
    wait_until("every paid intent is captured here", DEADLINE, async || {
        usize::try_from(app.count(captured).await).unwrap() == paid.len()
    })
    .await;
    for donation in &told.donations {
        let seen = app.donation_now(donation).await;
        if paid.contains(text(&seen["payment"]["intent_id"])) {
            assert_eq!(seen["status"], "COMPLETED");
        }
    }
    let payments = app.count("select count(*) from payments.payment_transactions").await;
    assert_eq!(usize::try_from(payments).unwrap(), intents.len(), "one intent for each payment");
    books_hold(&app).await;
    let books = sandbox_books(&app).await;
    wait_until("the totals are the sandbox's books", DEADLINE, async || {
        app.totals(&campaign).await["raised_minor"] == books["net_minor"]
    })
    .await;
    let notices = app.count("select count(*) from notifications.notifications").await;
    assert_eq!(usize::try_from(notices).unwrap(), app.mails().len(), "one mail for each notice");
    assert_eq!(notices, payments + i64::try_from(paid.len()).unwrap());
    let facts = app.count("select count(*) from donations.audit_logs").await;
    assert_eq!(facts, payments + i64::try_from(paid.len()).unwrap(), "each fact is audited once");
    app.finish().await;
}

/// A donation that is recorded while the sandbox keeps its intent waiting, and then the power is cut.
async fn killed_before_the_intent(key: Option<&str>) -> (Setup, Value) {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    app.control("/faults", json!({"mode": "hang", "on": "create", "times": 1})).await;
    let request = app.donation(&campaign, 2500);
    let request = match key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    };
    let post = tokio::spawn(request.send());
    wait_until("it is recorded", DEADLINE, async || app.count("select count(*) from donations.donations").await == 1)
        .await;
    let setup = app.kill();
    assert!(post.await.unwrap().is_err(), "it was never answered");
    (setup, campaign)
}

#[tokio::test]
async fn a_key_whose_first_request_was_killed_is_answered_with_its_donation_once_its_lease_is_over() {
    let (setup, campaign) = killed_before_the_intent(Some("one")).await;
    let app = setup.start().await;
    let recorded = app.setup.database.connect().await;
    let recorded: uuid::Uuid = recorded.query_one("select id from donations.donations", &[]).await.unwrap().get(0);
    let send = async || app.donation(&campaign, 2500).header("Idempotency-Key", "one").send().await.unwrap();
    let early = send().await;
    assert_eq!(early.status(), StatusCode::CONFLICT);
    assert!(early.headers().contains_key("Retry-After"));

    let client = app.setup.database.connect().await;
    let over = "update payments.idempotency_keys set locked_until = now() - interval '1 second' where key = 'one'";
    assert_eq!(client.execute(over, &[]).await.unwrap(), 1);
    let first = send().await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let first = first.bytes().await.unwrap();
    let donation: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(text(&donation["id"]), recorded.to_string());
    let second = send().await;
    assert_eq!(second.headers()["Idempotent-Replayed"], "true");
    assert_eq!(second.bytes().await.unwrap(), first);
    assert_eq!(app.count("select count(*) from donations.donations").await, 1);
    assert_eq!(intents(&app).await.len(), 1);
    app.pay(&donation, "pm_card_visa").await;
    app.settle(&donation, "COMPLETED").await;
    all_is_due(&app).await;
    books_hold(&app).await;
    app.finish().await;
}

#[tokio::test]
async fn a_donation_that_was_killed_before_it_was_opened_is_opened_by_its_own_check() {
    let (setup, _) = killed_before_the_intent(None).await;
    let app = setup.start().await;
    all_is_due(&app).await;
    wait_until("it is opened", DEADLINE, async || {
        app.count("select count(*) from payments.payment_transactions where intent_id is not null").await == 1
    })
    .await;
    assert_eq!(intents(&app).await.len(), 1);
    books_hold(&app).await;
    app.finish().await;
}

/// The private Postgres of a data directory. Nothing of it is left behind, not even by a test that fails.
struct Private(PathBuf);

impl Private {
    /// Of a data directory that every user can reach, so that the cluster lies in it.
    fn of(setup: &Setup) -> Self {
        let dir = setup.data_dir.path();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir.canonicalize().unwrap().join("postgres"))
    }

    fn postmaster(&self) -> Option<i32> {
        let file = std::fs::read_to_string(self.0.join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// Processes that were started on this cluster.
    fn processes(&self) -> Vec<String> {
        let cluster = self.0.to_string_lossy();
        let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let command = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&command).replace('\0', " "))
        });
        commands.filter(|command| command.contains("postgres") && command.contains(&*cluster)).collect()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
    }
}

#[tokio::test]
async fn the_private_postgres_starts_cold_and_warm_survives_a_kill_and_leaves_nobody_behind() {
    let setup = Setup::new().await.with("DATABASE_URL", "");
    let private = Private::of(&setup);
    let app = setup.start().await;
    let campaign = app.campaign().await;
    let first = donate_as(&app, &campaign, 2500, "jo@example.org").await;
    app.pay(&first, "pm_card_visa").await;
    app.settle(&first, "COMPLETED").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 2500).await;
    let setup = app.stop().await;
    assert_eq!(private.processes(), Vec::<String>::new(), "Postgres ends with the program");

    let app = setup.start().await;
    assert_eq!(app.donation_now(&first).await["status"], "COMPLETED");
    assert_eq!(app.totals(&campaign).await["raised_minor"], 2500);
    let second = donate_as(&app, &campaign, 500, "jo@example.org").await;
    wait_until("the thank-you is mailed", DEADLINE, async || app.mails().len() == 3).await;
    let postmaster = private.postmaster();
    let setup = app.kill();
    assert_eq!(private.postmaster(), postmaster, "a kill leaves Postgres running");

    let app = setup.start().await;
    assert_eq!(private.postmaster(), postmaster, "the same Postgres is taken up again");
    app.pay(&second, "pm_card_visa").await;
    app.settle(&second, "COMPLETED").await;
    wait_until("it is counted", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == 3000).await;
    wait_until("four mails are written", DEADLINE, async || app.mails().len() == 4).await;
    let log = app.log();
    let _setup = app.stop().await;
    assert!(!log.contains("panicked at"), "{log}");
    assert_eq!(private.processes(), Vec::<String>::new(), "nobody is left behind");
    assert!(private.postmaster().is_none());
}

#[tokio::test]
async fn a_kill_while_the_private_postgres_works_loses_no_acknowledged_donation() {
    let setup = Setup::new().await.with("DATABASE_URL", "");
    let private = Private::of(&setup);
    let app = setup.start().await;
    let campaign = app.campaign().await;
    let told = Mutex::new(Told::default());
    let donors =
        futures::future::join_all((0..20).map(|donor| give_until_nobody_answers(&app, &campaign, donor, &told)));
    let kill = async {
        wait_until("some are acknowledged", DEADLINE, async || told.lock().unwrap().donations.len() >= 60).await;
        app.kill_now();
    };
    tokio::join!(donors, kill);
    let app = app.kill().start().await;
    let told = told.into_inner().unwrap();
    for donation in &told.donations {
        let path = format!("/api/v1/donations/{}", text(&donation["id"]));
        let (status, seen) = read(app.request(Method::GET, &path).bearer_auth(text(&donation["access_token"]))).await;
        assert_eq!(status, StatusCode::OK, "{seen}");
        if donation["payment"]["intent_id"].as_str().is_some_and(|intent| told.paid.contains(intent)) {
            app.settle(donation, "COMPLETED").await;
        }
    }
    wait_until("the totals are the sandbox's books", DEADLINE, async || {
        app.totals(&campaign).await["raised_minor"] == sandbox_books(&app).await["net_minor"]
    })
    .await;
    let _setup = app.stop().await;
    assert_eq!(private.processes(), Vec::<String>::new(), "nobody is left behind");
}
