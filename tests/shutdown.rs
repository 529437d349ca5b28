//! The end in order: a gateway sees it coming, whoever was let in is answered, and nothing that hangs holds it up.

use std::time::Duration;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::outage::postgres_behind_a_proxy;
use crate::support::post::Relay;
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, donation_body, read, text};

/// What is promised, whatever hangs.
const END: Duration = Duration::from_secs(28);
const DONORS: usize = 8;

/// Takes connections and says nothing.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// Gives again and again over one kept connection until the answer says that it closes; the donations that were answered.
async fn give_until_sent_away(url: &str, campaign: &Value) -> Vec<String> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(1).retry(reqwest::retry::never()).build().unwrap();
    let mut given = Vec::new();
    loop {
        let request = client.post(format!("{url}/api/v1/donations")).json(&donation_body(campaign, 500));
        let answer = request.send().await.expect("nobody is cut off");
        let closes = answer.headers().get("connection").is_some_and(|value| value == "close");
        assert_eq!(answer.status(), StatusCode::CREATED);
        let donation: Value = answer.json().await.expect("a whole answer");
        given.push(text(&donation["id"]).to_owned());
        if closes {
            return given;
        }
    }
}

#[tokio::test]
async fn under_load_whoever_is_connected_is_answered_and_sent_away_and_nothing_answered_is_lost() {
    let app = Setup::new().await.with("CAREFORALL_DRAIN_WAIT_S", 5).start().await;
    let campaign = app.campaign().await;
    let ended = async {
        wait_until("the load is on", DEADLINE, async || {
            app.count("select count(*) from donations.donations").await > 50
        })
        .await;
        app.signal(Signal::TERM);
    };
    let donors = join_all((0..DONORS).map(|_| give_until_sent_away(&app.url, &campaign)));
    let (given, ()) = tokio::join!(donors, ended);
    let given: Vec<String> = given.concat();
    let (setup, code, _) = app.ended().await;
    assert_eq!(code, Some(0));
    let app = setup.start().await;
    let ids = given.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    let kept = app.count(&format!("select count(*) from donations.donations where id in ({ids})")).await;
    assert_eq!(usize::try_from(kept).unwrap(), given.len());
    app.finish().await;
}

#[tokio::test]
async fn who_waits_for_news_of_a_donation_is_told_how_it_stands_when_the_process_ends() {
    let app = Setup::new().await.start().await;
    let campaign = app.campaign().await;
    let donation = app.donate(&campaign, 2500).await;
    // Longer than the end may take.
    let path = format!("/api/v1/donations/{}?after_version=99&wait=30", text(&donation["id"]));
    let poll = app.request(Method::GET, &path).bearer_auth(text(&donation["access_token"])).send();
    let poll = tokio::spawn(poll);
    wait_until("the poll waits", DEADLINE, async || {
        // The question itself is under way, too.
        app.metric("careforall_http_requests_in_flight").await > 1.0
    })
    .await;
    app.signal(Signal::TERM);
    let answer = poll.await.unwrap().expect("nobody is cut off");
    assert_eq!((answer.status(), &answer.headers()["connection"]), (StatusCode::OK, &"close".parse().unwrap()));
    let seen: Value = answer.json().await.expect("a whole answer");
    assert_eq!((&seen["id"], &seen["status"]), (&donation["id"], &donation["status"]));
    let (_, code, log) = app.ended().await;
    assert!(code == Some(0) && !log.contains("requests were cut off"), "{code:?}\n{log}");
}

#[tokio::test]
async fn a_gateway_sees_the_end_coming_while_all_is_served_and_the_impatient_say_it_again() {
    let app = Setup::new().await.with("CAREFORALL_DRAIN_WAIT_S", 10).start().await;
    let campaign = app.campaign().await;
    let began = Instant::now();
    app.signal(Signal::TERM);
    wait_until("it is not ready", DEADLINE, async || {
        app.get("/health/ready").await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    app.donate(&campaign, 2500).await;
    app.signal(Signal::TERM);
    let (_, code, log) = app.ended().await;
    assert!(code == Some(0) && began.elapsed() < Duration::from_secs(10), "{code:?}\n{log}");
}

#[tokio::test]
async fn a_person_at_the_terminal_does_not_wait() {
    let app = Setup::new().await.with("CAREFORALL_DRAIN_WAIT_S", 10).start().await;
    let began = Instant::now();
    app.signal(Signal::INT);
    let (_, code, log) = app.ended().await;
    assert!(code == Some(0) && began.elapsed() < Duration::from_secs(10), "{code:?}\n{log}");
}

/// It ends in time, and says what was left.
async fn ends_saying(app: TestApp, what: &str) {
    let began = Instant::now();
    app.signal(Signal::TERM);
    let (_, _, log) = app.ended().await;
    assert!(began.elapsed() < END, "{:?}\n{log}", began.elapsed());
    assert!(log.contains(what), "{log}");
}

#[tokio::test]
async fn a_relay_that_hangs_does_not_hold_up_the_end() {
    // It has the mail and does not say so: the one step that may outlast the end.
    let relay = Relay::start(Duration::from_secs(3600)).await;
    let app = Setup::new().await.with("SMTP_URL", &relay.url).start().await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await;
    wait_until("it has the mail", DEADLINE, async || relay.mails() == 1).await;
    ends_saying(app, "messages were being sent still").await;
}

#[tokio::test]
async fn a_provider_that_hangs_does_not_hold_up_the_end() {
    let (stripe, address) = silent().await;
    let setup = Setup::new().await.with("STRIPE_SECRET_KEY", "sk_test_x");
    let app = setup.with("STRIPE_API_BASE", format!("http://{address}")).start().await;
    let campaign = app.campaign().await;
    let (status, _) = read(app.donation(&campaign, 2500)).await;
    assert_eq!(status, StatusCode::CREATED);
    let _held = stripe.accept().await.unwrap();
    ends_saying(app, "the provider was being asked still").await;
}

#[tokio::test]
async fn a_database_that_hangs_does_not_hold_up_the_end() {
    let (proxy, setup) = postgres_behind_a_proxy().await;
    let app = setup.start().await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await;
    proxy.freeze();
    let donors = (0..DONORS).map(|_| tokio::spawn(app.donation(&campaign, 500).send())).collect::<Vec<_>>();
    wait_until("donors wait", DEADLINE, async || {
        // The first to ask waits for the database itself, and those after it do not.
        let in_flight = timeout(Duration::from_millis(500), app.metric("careforall_http_requests_in_flight")).await;
        in_flight.is_ok_and(|count| count > 1.0)
    })
    .await;
    ends_saying(app, "the database does not say what waits in the outbox").await;
    for donor in donors {
        let answer = donor.await.unwrap();
        assert!(answer.is_err() || answer.is_ok_and(|it| it.status() == StatusCode::SERVICE_UNAVAILABLE));
    }
}

#[tokio::test]
async fn after_an_end_that_was_cut_short_the_next_start_goes_on() {
    let (relay, address) = silent().await;
    let setup = Setup::new().await.with("SMTP_URL", format!("smtp://{address}"));
    let app = setup.start().await;
    let campaign = app.campaign().await;
    app.donate(&campaign, 2500).await;
    let _held = relay.accept().await.unwrap();
    app.signal(Signal::TERM);
    let (mut setup, _, _) = app.ended().await;
    setup.env.remove("SMTP_URL");
    let app = setup.start().await;
    wait_until("the mail is written", DEADLINE, async || app.mails().len() == 1).await;
    let (status, _) = read(app.operator(Method::GET, "/api/v1/payments")).await;
    assert_eq!(status, StatusCode::OK);
    app.finish().await;
}
