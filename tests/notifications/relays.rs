//! Mails arrive, past relays that are away, limp, hang or refuse: a real SMTP server over TLS among them.

use super::*;
use crate::support::real_relay::RealRelay;

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

/// Steps of a conversation have fifteen seconds, so the one that hangs and the one that trickles take that long, side by side.
#[tokio::test]
async fn a_real_relay_over_tls_that_limps_gets_each_mail_once_and_twice_only_where_nobody_knew() {
    let Some(relay) = RealRelay::start().await else { return };
    let setup = Setup::new().await.with("SMTP_URL", &relay.url).with("SMTP_CA_FILE", relay.ca_file.display());
    let app = setup.start().await;
    many_receipts(&app, 0).await;
    let limping: [(&str, &[(&str, &str)]); 9] = [
        ("cut@example.org", &[("UNKNOWN", "connection"), ("ACCEPTED", "250")]),
        ("reset@example.org", &[("TRANSIENT", "connection"), ("ACCEPTED", "250")]),
        ("hang@example.org", &[("TRANSIENT", "timeout"), ("ACCEPTED", "250")]),
        ("trickle@example.org", &[("TRANSIENT", "timeout"), ("ACCEPTED", "250")]),
        ("busy@example.org", &[("TRANSIENT", "451"), ("ACCEPTED", "250")]),
        ("full@example.org", &[("TRANSIENT", "452"), ("ACCEPTED", "250")]),
        ("policy@example.org", &[("TRANSIENT", "550"), ("ACCEPTED", "250")]),
        ("nobody@example.org", &[("PERMANENT", "550")]),
        ("spam@example.org", &[("PERMANENT", "554")]),
    ];
    due(&app, "EMAIL", &limping.map(|(recipient, _)| recipient)).await;
    all_sent(&app).await;
    let taken = relay.taken();
    for (recipient, expected) in limping {
        assert_eq!(attempts_at(&app, recipient).await, told(expected), "{recipient}");
        let times = taken.get(recipient).map_or(0, Vec::len);
        let accepted = usize::from(expected.ends_with(&[("ACCEPTED", "250")]));
        assert_eq!(times, accepted + usize::from(recipient.starts_with("cut")), "{recipient}");
    }
    let cut = &taken["cut@example.org"];
    assert_eq!(cut[0].message_id, cut[1].message_id, "whoever got it twice can see that");
    let silenced = "select count(*) from notifications.suppressions where reason = 'BOUNCE'";
    assert_eq!(app.count(silenced).await, 1, "nobody@example.org alone");

    // Over connections that are kept, one mail after the other, with refusals in between.
    let many: Vec<String> = (0..60).map(|n| format!("{}{n}@example.org", ["good", "good", "spam"][n % 3])).collect();
    due(&app, "EMAIL", &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    all_sent(&app).await;
    for recipient in &many {
        let refused = recipient.starts_with("spam");
        let expected = if refused { ("PERMANENT", "554") } else { ("ACCEPTED", "250") };
        assert_eq!(attempts_at(&app, recipient).await, told(&[expected]), "{recipient}");
        assert_eq!(relay.taken().get(recipient).map_or(0, Vec::len), usize::from(!refused), "{recipient}");
    }
    let connections: std::collections::BTreeSet<u16> =
        relay.taken().values().flatten().map(|mail| mail.connection).collect();
    assert!(connections.len() < relay.taken().len(), "{connections:?}");
    app.sql("update notifications.notifications set status = 'DISCARDED' where status = 'DEAD'").await;
    app.finish().await;
}
