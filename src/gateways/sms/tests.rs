//! Text messages over real sockets, to a double of Twilio.

use std::time::Duration;

use super::super::delivery::testing::{Double, Play, install_crypto};
use super::*;

const SID: &str = "AC0123456789abcdef0123456789abcdef";
const PATIENT: Duration = Duration::from_secs(10);

fn settings(api_base: &str) -> SmsSettings {
    SmsSettings {
        account_sid: SID.to_owned(),
        auth_token: "s3cret".to_owned(),
        api_base: api_base.to_owned(),
        from: "+15005550006".to_owned(),
    }
}

fn sms(double: &Double, timeout: Duration) -> Sms {
    install_crypto();
    Sms::with_timeout(settings(&double.url()), timeout).unwrap()
}

fn message() -> TextMessage {
    TextMessage {
        to: "+491711234567".to_owned(),
        text: "Danke – 7,00 € sind da.".to_owned(),
        status_callback: Some("https://care.example/webhooks/twilio".to_owned()),
    }
}

#[tokio::test]
async fn a_message_reaches_twilio_with_its_credentials_and_its_sid_comes_back() {
    let double = Double::start([Play::answer(201, r#"{"sid":"SM1","status":"queued"}"#)]).await;
    let accepted = sms(&double, PATIENT).send(&message()).await.unwrap();
    assert_eq!(accepted, Accepted { provider_id: Some("SM1".into()), code: Some("201".into()) });
    let seen = &double.seen()[0];
    assert_eq!(seen.request, format!("POST /2010-04-01/Accounts/{SID}/Messages.json HTTP/1.1"));
    // base64 of AC…:s3cret
    assert_eq!(seen.header("authorization"), Some("Basic QUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjpzM2NyZXQ="));
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        seen.form(),
        [
            field("To", "+491711234567"),
            field("From", "+15005550006"),
            field("Body", "Danke – 7,00 € sind da."),
            field("StatusCallback", "https://care.example/webhooks/twilio"),
        ]
    );
}

#[tokio::test]
async fn a_messaging_service_sends_in_its_own_name() {
    let double = Double::start([Play::answer(201, "{}")]).await;
    let from = "MG0123456789abcdef0123456789abcdef".to_owned();
    install_crypto();
    let sms = Sms::new(SmsSettings { from: from.clone(), ..settings(&double.url()) }).unwrap();
    sms.send(&TextMessage { status_callback: None, ..message() }).await.unwrap();
    let names: Vec<String> = double.seen()[0].form().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["To", "MessagingServiceSid", "Body"]);
    assert!(double.seen()[0].form().contains(&("MessagingServiceSid".to_owned(), from)));
}

#[tokio::test]
async fn twilios_refusals_are_told_apart_over_the_wire() {
    let opted_out = r#"{"code":21610,"message":"Attempt to send to unsubscribed recipient +491711234567"}"#;
    let double = Double::start([
        Play::answer(400, opted_out),
        Play::answer(429, r#"{"code":20429}"#).header("retry-after", "7"),
        Play::answer(500, "<html>"),
        Play::answer(302, "").header("location", "http://127.0.0.1:1/"),
    ])
    .await;
    let sms = sms(&double, PATIENT);
    let gone = sms.send(&message()).await.unwrap_err();
    assert_eq!((gone.label(), gone.code()), ("refused", "21610"));
    assert!(!gone.to_string().contains("1711234567"), "{gone}");
    let busy = sms.send(&message()).await.unwrap_err();
    let DeliveryError::Transient { code, retry_after, .. } = busy else { panic!("{busy}") };
    assert_eq!((code.as_str(), retry_after), ("429", Some(Duration::from_secs(7))));
    for (label, code) in [("unknown", "500"), ("transient", "302")] {
        let error = sms.send(&message()).await.unwrap_err();
        assert_eq!((error.label(), error.code()), (label, code));
    }
    assert_eq!(double.seen().len(), 4);
}

#[tokio::test]
async fn a_request_that_was_sent_and_not_answered_is_of_unknown_outcome() {
    for play in [Play::Hang, Play::TrickleHead, Play::Drop] {
        let timeout = if matches!(play, Play::Drop) { PATIENT } else { Duration::from_secs(1) };
        let double = Double::start([play.clone()]).await;
        let error = sms(&double, timeout).send(&message()).await.unwrap_err();
        let code = if matches!(play, Play::Drop) { "connection" } else { "timeout" };
        assert_eq!((error.label(), error.code()), ("unknown", code), "{play:?}");
        assert_eq!(double.seen().len(), 1, "it is not sent again by itself");
    }
}

#[tokio::test]
async fn a_taken_message_stays_taken_when_the_answers_body_never_ends() {
    for play in [Play::TrickleBody(201), Play::Flood(201)] {
        let double = Double::start([play.clone()]).await;
        let accepted = sms(&double, Duration::from_secs(1)).send(&message()).await;
        assert_eq!(accepted, Ok(Accepted { provider_id: None, code: Some("201".into()) }), "{play:?}");
        double.cut().await;
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connection_that_did_nothing() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    install_crypto();
    let sms = Sms::new(settings(&format!("http://{nobody}"))).unwrap();
    let error = sms.send(&message()).await.unwrap_err();
    assert_eq!((error.label(), error.code()), ("transient", "connection"));
}

#[tokio::test]
async fn what_twilio_would_refuse_is_not_sent() {
    let double = Double::start([]).await;
    let sms = sms(&double, PATIENT);
    for (bad, code) in [
        (TextMessage { to: "01711234567".into(), ..message() }, "address"),
        (TextMessage { to: "+0171".into(), ..message() }, "address"),
        (TextMessage { to: "+49171123456789012".into(), ..message() }, "address"),
        (TextMessage { to: "+49 171 1234567".into(), ..message() }, "address"),
        (TextMessage { text: " ".into(), ..message() }, "message"),
        (TextMessage { text: "é".repeat(MAXIMUM_TEXT_CHARS + 1), ..message() }, "message"),
    ] {
        let error = sms.send(&bad).await.unwrap_err();
        assert_eq!((error.label(), error.code()), ("permanent", code), "{}", bad.to);
    }
    assert_eq!(double.connections(), 0);
}

#[test]
fn settings_that_cannot_work_are_told_without_the_token() {
    install_crypto();
    let good = settings(API_BASE);
    assert!(Sms::new(good.clone()).is_ok());
    for bad in [
        SmsSettings { account_sid: "nonsense/../x".into(), ..good.clone() },
        SmsSettings { auth_token: String::new(), ..good.clone() },
        SmsSettings { from: "CareForAll".into(), ..good.clone() },
        SmsSettings { api_base: "http://api.twilio.com".into(), ..good.clone() },
        SmsSettings { api_base: "not a url".into(), ..good.clone() },
        SmsSettings { api_base: "https://u:s3cret@api.twilio.com".into(), ..good.clone() },
    ] {
        let error = Sms::new(bad).map(drop).unwrap_err();
        assert_eq!((error.label(), error.code()), ("permanent", "settings"));
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let shown = format!("{:?} {:?} {:?}", good, Sms::new(good.clone()).unwrap(), message());
    assert!(!shown.contains("s3cret") && !shown.contains("1711234567") && !shown.contains("Danke"), "{shown}");
}
