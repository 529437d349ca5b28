//! Mails arrive, past relays that are away, limp, hang or refuse: a real SMTP server over TLS among them.

use super::*;

#[tokio::test]
async fn behind_an_open_breaker_no_attempt_is_used_up_and_all_goes_out_when_the_relay_is_back() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = Setup::new().await.with("SMTP_URL", format!("smtp://{port}")).start().await;
    many_receipts(&app, 200).await;
    wait_until("the circuit is open", DEADLINE, async || {
        let (_, ready) = app.get("/health/ready").await;
        ready["checks"].as_array().unwrap().iter().any(|it| it["name"] == "email" && it["status"] == "down")
    })
    .await;
    let tried = app.count("select count(*) from notifications.notifications where attempts > 0").await;
    assert!(tried <= 40, "{tried} of 201 were tried against a relay that is away");
    let relay = Relay::start_at(&port.to_string(), Duration::ZERO).await;
    all_sent(&app).await;
    assert_eq!((relay.mails(), relay.taken().len()), (201, 201));
    let most = app.count("select max(attempts)::bigint from notifications.notifications").await;
    assert!(most <= 3, "{most} attempts");
    app.finish().await;
}
