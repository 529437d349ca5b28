//! Webhooks over real sockets: what the receiver sees, what its answers mean, and where no connection ever goes.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use reqwest::header::{HeaderMap, HeaderName};
use standardwebhooks::Webhook;

use super::super::delivery::testing::{Authority, Canary, Double, Play, Seen, install_crypto};
use super::*;
use crate::clock::Clock;

const BODY: &str = r#"{"type":"payment.completed","data":{"amount_minor":2500,"message":"für alle — 水"}}"#;
const HOST: &str = "hooks.partner.example";
/// Global unicast, allocated to nobody: as good as any other address to the guard, and nobody is there.
const PUBLIC: &str = "2000::1";
const PATIENT: Duration = Duration::from_secs(10);
/// For those who never answer; whoever does answer has all the time of a slow machine.
const IMPATIENT: Duration = Duration::from_secs(1);

/// This machine may be reached, and over http.
fn development() -> CallbackSettings {
    install_crypto();
    CallbackSettings { allow_http: true, allow_private: true, timeout: PATIENT, ..CallbackSettings::default() }
}

fn production() -> CallbackSettings {
    CallbackSettings { allow_http: false, allow_private: false, ..development() }
}

fn callbacks(settings: CallbackSettings) -> Callbacks {
    Callbacks::new(settings).unwrap()
}

fn secret() -> EndpointSecret {
    EndpointSecret::generate().unwrap()
}

fn callback(url: &str, secrets: &[&EndpointSecret]) -> Callback {
    Callback {
        url: url.to_owned(),
        id: "msg_01938f00".to_owned(),
        at: Clock::System.now(),
        body: BODY.to_owned(),
        secrets: secrets.iter().map(|&secret| secret.clone()).collect(),
    }
}

/// One webhook to a server that plays `play`.
async fn sent_to(play: Play) -> (Result<Accepted, DeliveryError>, Double) {
    let double = Double::start([play]).await;
    let sent = callbacks(development()).send(&callback(&double.url(), &[&secret()])).await;
    (sent, double)
}

fn given(lookup: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Resolver {
    Resolver::Given(Arc::new(move |name| io::Result::Ok(lookup(name))))
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn hostile_urls(port: u16) -> impl Iterator<Item = String> {
    let lines = include_str!("hostile_urls.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(move |line| line.replace("{port}", &port.to_string()))
}

/// Every name leads to this machine, and nobody asks whether it may.
struct Home;

impl reqwest::dns::Resolve for Home {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let home: reqwest::dns::Addrs = Box::new(std::iter::once(([127, 0, 0, 1], 0).into()));
        Box::pin(std::future::ready(Ok(home)))
    }
}

fn verifies(seen: &Seen, secret: &EndpointSecret) -> bool {
    let headers: HeaderMap = seen
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    Webhook::new(secret.expose()).unwrap().verify(seen.body.as_bytes(), &headers).is_ok()
}

#[tokio::test]
async fn the_standards_own_library_verifies_before_and_during_a_rotation() {
    let double = Double::start([]).await;
    let (old, new) = (secret(), secret());
    let out = callbacks(development());
    out.send(&callback(&double.url(), &[&old])).await.unwrap();
    out.send(&callback(&double.url(), &[&new, &old])).await.unwrap();
    out.send(&callback(&double.url(), &[&new])).await.unwrap();
    let seen = double.seen();
    let verified: Vec<_> = seen.iter().map(|one| (verifies(one, &old), verifies(one, &new))).collect();
    assert_eq!(verified, [(true, false), (true, true), (false, true)]);
    let changed = Seen { body: BODY.replace("2500", "2501"), ..seen[1].clone() };
    assert!(!verifies(&changed, &old) && !verifies(&changed, &new));
}

#[tokio::test]
async fn a_webhook_is_a_post_of_its_body_with_the_standards_headers() {
    let (sent, double) = sent_to(Play::answer(204, "")).await;
    assert_eq!(sent, Ok(Accepted { provider_id: None, code: Some("204".into()) }));
    let seen = &double.seen()[0];
    assert_eq!((seen.request.as_str(), seen.body.as_str()), ("POST / HTTP/1.1", BODY));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("webhook-id"), Some("msg_01938f00"));
    assert!(seen.header("user-agent").unwrap().starts_with("CareForAll/"));
    let now = Clock::System.unix_seconds();
    let timestamp: i64 = seen.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((now - 60..=now).contains(&timestamp));
}

#[tokio::test]
async fn each_answer_has_its_class() {
    for (status, label, code) in [
        (410, "gone", "410"),
        (400, "transient", "400"),
        (401, "transient", "401"),
        (404, "transient", "404"),
        (429, "transient", "429"),
        (500, "transient", "500"),
        (503, "transient", "503"),
    ] {
        let (sent, _double) = sent_to(Play::answer(status, "no")).await;
        let error = sent.unwrap_err();
        assert_eq!((error.label(), error.code()), (label, code));
    }
}

#[tokio::test]
async fn a_wait_is_obeyed_in_seconds_and_as_a_date() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:07 GMT");
    for (status, header, seconds) in [(429, "7", 7), (503, "Sun, 06 Nov 1994 08:49:37 GMT", 30)] {
        let play = Play::answer(status, "").header("retry-after", header).header(date.0, date.1);
        let (sent, _double) = sent_to(play).await;
        let Err(DeliveryError::Transient { retry_after, .. }) = sent else { panic!("{sent:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(seconds)), "{header}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_nobody_goes_there() {
    let canary = Canary::start().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://127.0.0.1:{}/", canary.port);
        let (sent, double) = sent_to(Play::answer(status, "").header("location", location)).await;
        let error = sent.unwrap_err();
        assert_eq!((error.label(), error.code()), ("transient", status.to_string().as_str()));
        assert_eq!(double.seen().len(), 1);
    }
    assert_eq!(canary.visits().await, 0);
}

#[tokio::test]
async fn whoever_takes_too_long_is_cut_off_and_gets_the_same_webhook_again() {
    for play in [Play::Hang, Play::TrickleHead] {
        let double = Double::start([play.clone()]).await;
        let one = callback(&double.url(), &[&secret()]);
        let out = callbacks(CallbackSettings { timeout: IMPATIENT, ..development() });
        let error = out.send(&one).await.unwrap_err();
        assert_eq!((error.label(), error.code()), ("unknown", "timeout"), "{play:?}");
        double.cut().await;
        callbacks(development()).send(&Callback { at: one.at + Duration::from_secs(5), ..one }).await.unwrap();
        let seen = double.seen();
        let ids: Vec<_> = seen.iter().map(|one| one.header("webhook-id")).collect();
        assert_eq!(ids, [Some("msg_01938f00"); 2]);
        assert_ne!(seen[0].header("webhook-timestamp"), seen[1].header("webhook-timestamp"));
    }
}

#[tokio::test]
async fn a_body_that_never_ends_changes_nothing_about_the_status() {
    for (play, delivered) in [
        (Play::TrickleBody(200), true),
        (Play::Flood(200), true),
        (Play::TrickleBody(500), false),
        (Play::Flood(500), false),
    ] {
        let (sent, double) = sent_to(play.clone()).await;
        assert_eq!(sent.is_ok(), delivered, "{play:?} {sent:?}");
        double.cut().await;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_tried_again_at_another_time() {
    let (sent, _double) = sent_to(Play::Drop).await;
    let error = sent.unwrap_err();
    assert_eq!((error.label(), error.code()), ("unknown", "connection"), "the request was out");
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = callbacks(development()).send(&callback(&format!("http://{nobody}"), &[&secret()])).await.unwrap_err();
    assert_eq!((error.label(), error.code()), ("transient", "connection"));
}

#[tokio::test]
async fn connections_are_kept_for_one_endpoint_and_never_shared_between_names() {
    let double = Double::start([]).await;
    let resolver = given(|_| addresses(&["127.0.0.1"]));
    let out = callbacks(CallbackSettings { resolver, ..development() });
    for host in ["one.example", "one.example", "other.example"] {
        let url = format!("http://{host}:{}/", double.address.port());
        out.send(&callback(&url, &[&secret()])).await.unwrap();
    }
    assert_eq!((double.seen().len(), double.connections()), (3, 2));
    let hosts: Vec<_> = double.seen().iter().map(|one| one.header("host").unwrap().to_owned()).collect();
    assert!(hosts[0].starts_with("one.example:") && hosts[2].starts_with("other.example:"), "{hosts:?}");
}

#[tokio::test]
async fn over_tls_the_name_is_asked_for_and_the_checked_address_is_spoken_to() {
    let authority = Authority::new();
    let double = Double::start_tls([], &authority.certify(HOST)).await;
    let resolver = given(|_| addresses(&["127.0.0.1"]));
    let settings = CallbackSettings { resolver, roots: vec![authority.pem()], allow_http: false, ..development() };
    let url = format!("https://{HOST}:{}/hook", double.address.port());
    callbacks(settings).send(&callback(&url, &[&secret()])).await.unwrap();
    let seen = &double.seen()[0];
    assert_eq!(seen.server_name.as_deref(), Some(HOST));
    assert_eq!(seen.header("host"), Some(format!("{HOST}:{}", double.address.port()).as_str()));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_or_for_another_name_hears_nothing() {
    let (known, unknown) = (Authority::new(), Authority::new());
    for certificate in [unknown.certify(HOST), known.certify("other.example")] {
        let double = Double::start_tls([], &certificate).await;
        let resolver = given(|_| addresses(&["127.0.0.1"]));
        let settings = CallbackSettings { resolver, roots: vec![known.pem()], ..development() };
        let url = format!("https://{HOST}:{}/hook", double.address.port());
        let error = callbacks(settings).send(&callback(&url, &[&secret()])).await.unwrap_err();
        assert_eq!((error.label(), error.code()), ("transient", "tls"), "{error}");
        assert!(double.seen().is_empty());
    }
}

#[tokio::test]
async fn no_hostile_address_reaches_this_machine() {
    let canary = Canary::start().await;
    assert!(hostile_urls(canary.port).count() >= 100);
    let home = || given(|_| addresses(&["127.0.0.1", "::1"]));
    // The more is allowed, the more the guard itself is what holds.
    for allow_http in [false, true] {
        let out = callbacks(CallbackSettings { allow_http, resolver: home(), ..production() });
        for url in hostile_urls(canary.port) {
            let error = out.send(&callback(&url, &[&secret()])).await.unwrap_err();
            assert!(["url", "address"].contains(&error.code()), "{url}: {error}");
            assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        }
    }
    assert_eq!(canary.visits().await, 0);
}

#[tokio::test]
async fn the_canary_would_have_sung() {
    let canary = Canary::start().await;
    let resolver = given(|_| addresses(&["127.0.0.1"]));
    let out = callbacks(CallbackSettings { resolver, ..development() });
    for host in ["127.0.0.1", "2130706433", "partner.example"] {
        let url = format!("http://{host}:{}/", canary.port);
        // It hangs up on whoever comes.
        assert_eq!(out.send(&callback(&url, &[&secret()])).await.unwrap_err().code(), "connection");
    }
    assert_eq!(canary.visits().await, 3);
}

#[tokio::test]
async fn the_hostile_addresses_do_reach_this_machine_where_nobody_stands_in_the_way() {
    let canary = Canary::start().await;
    install_crypto();
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = builder.dns_resolver(Home).timeout(PATIENT).build().unwrap();
    for text in hostile_urls(canary.port) {
        let Ok(url) = text.parse::<reqwest::Url>() else { continue };
        let host = url.host_str().unwrap_or_default();
        // Other networks' addresses are left alone: there may be somebody.
        let home = ["127.0.0.1", "[::1]", "[::ffff:7f00:1]"].contains(&host) || url.domain().is_some();
        if home && url.port() == Some(canary.port) {
            // The canary hangs up on whoever comes.
            assert!(client.post(url).send().await.is_err(), "{text}");
        }
    }
    let visits = canary.visits().await;
    assert!(visits >= 60, "only {visits} came");
}

#[tokio::test]
async fn a_resolver_that_changes_its_answer_is_asked_once_for_a_connection_and_judged_each_time() {
    let canary = Canary::start().await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let resolver = given(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        addresses(if first { &[PUBLIC] } else { &["127.0.0.1"] })
    });
    let out = callbacks(CallbackSettings { resolver, timeout: IMPATIENT, ..production() });
    let one = callback(&format!("https://{HOST}:{}/", canary.port), &[&secret()]);
    let first = out.send(&one).await.unwrap_err();
    assert!(["connection", "timeout"].contains(&first.code()), "the public address was gone for: {first}");
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    for _ in 0..5 {
        assert_eq!(out.send(&one).await.unwrap_err().code(), "address");
    }
    assert_eq!((lookups.load(Ordering::SeqCst), canary.visits().await), (6, 0));
}

#[tokio::test]
async fn a_name_with_one_bad_address_is_not_reached_at_its_good_ones() {
    let canary = Canary::start().await;
    for answer in [[PUBLIC, "127.0.0.1"], ["::1", PUBLIC], ["::ffff:127.0.0.1", PUBLIC]] {
        let resolver = given(move |_| addresses(&answer));
        let out = callbacks(CallbackSettings { resolver, ..production() });
        let error = out.send(&callback(&format!("https://{HOST}:{}/", canary.port), &[&secret()])).await.unwrap_err();
        assert_eq!((error.label(), error.code()), ("transient", "address"), "{error}");
    }
    // With the development switch a mixed name may come home, but never to a metadata service.
    let resolver = given(|_| addresses(&["127.0.0.1", "169.254.169.254"]));
    let out = callbacks(CallbackSettings { resolver, ..development() });
    let error = out.send(&callback(&format!("http://{HOST}:{}/", canary.port), &[&secret()])).await.unwrap_err();
    assert_eq!(error.code(), "address");
    assert_eq!(canary.visits().await, 0);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_may_do_so_later() {
    let out = callbacks(CallbackSettings { resolver: given(|_| Vec::new()), ..production() });
    let error = out.send(&callback(&format!("https://{HOST}/"), &[&secret()])).await.unwrap_err();
    assert_eq!((error.label(), error.code()), ("transient", "dns"));
}

#[tokio::test]
async fn what_can_never_be_sent_is_permanent_and_is_not_sent() {
    let double = Double::start([]).await;
    let out = callbacks(development());
    let good = callback(&double.url(), &[&secret()]);
    for (bad, code) in [
        (Callback { url: "ftp://partner.example/?key=secret".into(), ..good.clone() }, "url"),
        (Callback { body: "x".repeat(MAXIMUM_BODY_BYTES + 1), ..good.clone() }, "message"),
        (Callback { id: "a.b".into(), ..good.clone() }, "message"),
        (Callback { secrets: Vec::new(), ..good.clone() }, "settings"),
    ] {
        let error = out.send(&bad).await.unwrap_err();
        assert_eq!((error.label(), error.code()), ("permanent", code));
        assert!(!error.to_string().contains("secret=") && !error.to_string().contains("key"), "{error}");
    }
    assert_eq!(double.connections(), 0);
}

#[test]
fn a_webhook_never_shows_its_address_its_body_or_its_secrets() {
    let secret = secret();
    let shown = format!("{:?}", callback("https://partner.example/token", &[&secret]));
    assert_eq!(shown, r#"Callback { id: "msg_01938f00", .. }"#);
}

#[test]
fn settings_that_no_client_can_be_made_of_are_told() {
    let settings = CallbackSettings { roots: vec!["not a certificate".into()], ..development() };
    assert_eq!(Callbacks::new(settings).map(drop).unwrap_err().code(), "settings");
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_taken_stays_what_it_is(text in "(https?:/{0,3})?\\PC{0,40}") {
        if let Ok(url) = EndpointUrl::parse(&text, true) {
            prop_assert_eq!(EndpointUrl::parse(url.as_str(), true), Ok(url));
        }
    }

    #[test]
    fn no_number_is_an_address_of_this_machine(bits in 0x7f00_0000_u32..=0x7fff_ffff) {
        for host in [bits.to_string(), format!("{bits:#x}"), format!("{bits:#o}").replace("0o", "0")] {
            let url = EndpointUrl::parse(&format!("https://{host}/"), false);
            prop_assert_eq!(url, Err(UrlError::Address("loopback")));
        }
    }
}
