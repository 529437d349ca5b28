//! Text messages arrive, once where Twilio says so, past a Twilio that limps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::*;
use crate::support::post::{DROP, HANG, Seen, TRICKLE};

#[tokio::test]
async fn a_text_message_goes_to_a_donor_who_gave_a_phone_and_to_nobody_else() {
    let twilio = Server::start(|n| match n {
        0 => ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#),
        _ => ("400 Bad Request", "", r#"{"code": 21610, "message": "Attempt to send to unsubscribed recipient"}"#),
    })
    .await;
    let setup = Setup::new()
        .await
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url);
    let app = setup.start().await;
    let campaign = app.campaign().await;
    for phone in [json!(null), json!("+4915112345678"), json!("+4915112345679")] {
        let body = json!({"campaign_id": campaign["id"], "amount_minor": 2500, "currency": "EUR",
                          "donor": {"name": "Jo Donor", "email": "jo@example.org", "phone": phone}});
        let mut body = body;
        if phone.is_null() {
            body["donor"].as_object_mut().unwrap().remove("phone");
        }
        let (status, donation) = read(app.request(reqwest::Method::POST, "/api/v1/donations").json(&body)).await;
        assert_eq!(status, 201, "{donation}");
        app.pay(&donation, "pm_card_visa").await;
        app.settle(&donation, "COMPLETED").await;
        all_sent(&app).await;
    }
    wait_until("six mails and two text messages are on record", DEADLINE, async || {
        app.count("select count(*) from notifications.notifications where status <> 'PENDING'").await == 8
    })
    .await;
    let seen = twilio.seen();
    assert_eq!(seen.len(), 2, "what Twilio refuses is not tried again: {seen:?}");
    assert!(seen[0].body.contains("To=%2B4915112345678"), "{}", seen[0].body);
    assert!(seen[0].body.contains("Receipt+CF-"), "{}", seen[0].body);
    let store = store(&app);
    let sms = |status| NoticeFilter { channel: Some(Channel::Sms), status: Some(status), ..NoticeFilter::default() };
    let (_, sent, _) = only(&store, sms(NoticeStatus::Sent)).await;
    assert_eq!(sent["provider_id"], "SM1");
    let (_, dead, attempts) = only(&store, sms(NoticeStatus::Dead)).await;
    assert_eq!((&dead["attempts"], &attempts[0]["outcome"]), (&json!(1), &json!("PERMANENT")), "{attempts:?}");
    app.stop().await;
}

/// An attempt has ten seconds, so those that hang and trickle take that long, side by side.
#[tokio::test]
async fn a_twilio_that_limps_takes_each_text_message_once_and_twice_only_where_nobody_knew() {
    const TAKEN: Answer = ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#);
    let firsts: BTreeMap<&str, Limping> = BTreeMap::from([
        ("+4915100000001", (TAKEN, &[("ACCEPTED", "201")][..])),
        ("+4915100000002", (("500 Internal Server Error", "", ""), &[("UNKNOWN", "500"), ("ACCEPTED", "201")])),
        ("+4915100000003", (DROP, &[("UNKNOWN", "connection"), ("ACCEPTED", "201")])),
        ("+4915100000004", (HANG, &[("UNKNOWN", "timeout"), ("ACCEPTED", "201")])),
        ("+4915100000005", (TRICKLE, &[("UNKNOWN", "timeout"), ("ACCEPTED", "201")])),
        (
            "+4915100000006",
            (("429 Too Many Requests", "Retry-After: 2\r\n", ""), &[("TRANSIENT", "429"), ("ACCEPTED", "201")]),
        ),
        (
            "+4915100000007",
            (("302 Found", "Location: http://127.0.0.1:1/\r\n", ""), &[("TRANSIENT", "302"), ("ACCEPTED", "201")]),
        ),
        ("+4915100000008", (("400 Bad Request", "", r#"{"code": 21614}"#), &[("PERMANENT", "21614")])),
    ]);
    let limping = firsts.clone();
    let asked: Mutex<BTreeSet<String>> = Mutex::default();
    let twilio = Server::judging(move |_, seen| {
        let phone = phone_of(seen);
        let is_first = asked.lock().unwrap().insert(phone.clone());
        if is_first { limping[phone.as_str()].0 } else { TAKEN }
    })
    .await;
    let setup = Setup::new()
        .await
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url);
    let app = setup.start().await;
    many_receipts(&app, 0).await;
    due(&app, "SMS", &firsts.keys().copied().collect::<Vec<_>>()).await;
    all_sent(&app).await;
    for (phone, (_, expected)) in firsts {
        assert_eq!(attempts_at(&app, phone).await, told(expected), "{phone}");
        let times = twilio.seen().iter().filter(|seen| phone_of(seen) == phone).count();
        assert_eq!(times, expected.len(), "{phone}");
    }
    app.sql("update notifications.notifications set status = 'DISCARDED' where status = 'DEAD'").await;
    app.finish().await;
}

fn phone_of(seen: &Seen) -> String {
    let to = seen.body.split('&').find_map(|field| field.strip_prefix("To=%2B")).unwrap();
    format!("+{to}")
}
