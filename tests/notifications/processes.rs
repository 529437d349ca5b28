//! Couriers of several processes, and of one that is killed: nothing lost, nothing doubled without a record of it.

use super::*;

#[tokio::test]
async fn two_processes_share_the_work_and_double_nothing() {
    let relay = Relay::start(Duration::from_millis(5)).await;
    let setup = Setup::new().await.with("SMTP_URL", &relay.url).with("CAREFORALL_MAIL_RATE", "off");
    let first = setup.start().await;
    let second = first.second().await;
    many_receipts(&first, 1000).await;
    all_sent(&first).await;
    assert_eq!((relay.mails(), relay.taken().len()), (1001, 1001));
    let attempts = "select count(*) from notifications.delivery_logs where outcome = 'ACCEPTED'";
    assert_eq!(first.count(attempts).await, 1001);
    second.finish().await;
    first.finish().await;
}

#[tokio::test]
async fn a_process_that_loses_its_sessions_keeps_its_number_and_nothing_is_doubled() {
    let relay = Relay::start(Duration::from_millis(400)).await;
    let app = Setup::new().await.with("SMTP_URL", &relay.url).start().await;
    let other = app.second().await;
    many_receipts(&app, 60).await;
    wait_until("some are on their way", DEADLINE, async || relay.mails() > 20).await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
    assert!(app.count(cut).await >= 2);
    all_sent(&app).await;
    assert_eq!((relay.mails(), relay.taken().len()), (61, 61));
    assert_eq!(app.count("select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN'").await, 0);
    other.finish().await;
    app.finish().await;
}

/// `CAREFORALL_TEST_KILLS=50 CAREFORALL_TEST_NOTICES=2000` for the long run.
#[tokio::test]
async fn kills_in_mid_delivery_lose_no_mail_and_what_was_doubled_is_on_record() {
    let kills = from_environment("CAREFORALL_TEST_KILLS", 5);
    let notices = from_environment("CAREFORALL_TEST_NOTICES", 300);
    let relay = Relay::start(Duration::from_millis(3)).await;
    let mut setup = Setup::new().await.with("SMTP_URL", &relay.url).with("CAREFORALL_MAIL_RATE", "off");
    for kill in 0..kills {
        let app = setup.start().await;
        if kill == 0 {
            many_receipts(&app, notices).await;
        }
        // A moment that falls anywhere in claim, conversation and settlement.
        let enough = (kill + 1) * notices / (kills + 1);
        wait_until("enough is taken", DEADLINE, async || relay.mails() >= enough || pending(&app).await == 0).await;
        app.kill_now();
        setup = app.kill();
    }
    let app = setup.start().await;
    all_sent(&app).await;
    let taken = relay.taken();
    let doubled = taken.values().filter(|times| **times > 1).count();
    assert_eq!(taken.len(), notices + 1, "every mail arrived");
    let unknown = app.count("select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN'").await;
    let more = relay.mails() - taken.len();
    assert!(more <= usize::try_from(unknown).unwrap(), "{more} doubled mails, {unknown} attempts of unknown end");
    let client = app.setup.database.connect().await;
    for (id, times) in taken.iter().filter(|(_, times)| **times > 1) {
        let row = "select count(*) from notifications.delivery_logs where outcome = 'UNKNOWN' and notification_id = $1";
        let unknown: i64 = client.query_one(row, &[&id.parse::<Uuid>().unwrap()]).await.unwrap().get(0);
        assert!(usize::try_from(unknown).unwrap() + 1 >= *times, "{id} came {times} times, {unknown} unknown");
    }
    assert_eq!(app.count("select count(*) from notifications.delivery_logs where outcome = 'STARTED'").await, 0);
    println!("{kills} kills, {notices} mails: 0 lost, {doubled} doubled, {unknown} attempts of unknown end");
    app.finish().await;
}

/// `CAREFORALL_TEST_NOTICES=20000` for figures.
#[tokio::test]
async fn three_channels_drain_side_by_side_each_message_once() {
    let count = from_environment("CAREFORALL_TEST_NOTICES", 300);
    let relay = Relay::start(Duration::ZERO).await;
    let twilio = Server::start(|_| ("201 Created", "", r#"{"sid": "SM1", "status": "queued"}"#)).await;
    let partner = Server::start(|_| OK).await;
    let setup = open_minded()
        .await
        .with("SMTP_URL", &relay.url)
        .with("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001")
        .with("TWILIO_AUTH_TOKEN", "token")
        .with("TWILIO_FROM", "+15005550006")
        .with("TWILIO_API_BASE", &twilio.url)
        .with("CAREFORALL_MAIL_RATE", "off")
        .with("CAREFORALL_SMS_RATE", "off")
        .with("CAREFORALL_WEBHOOK_RATE", "off");
    let app = setup.start().await;
    many_receipts(&app, 0).await;
    let endpoint = endpoint(&store(&app), &partner.url, &[]).await;
    for (channel, kind, recipient, endpoint, payload) in [
        ("EMAIL", "PAYMENT_CONFIRMED", "donor", "null".to_owned(), "null"),
        ("SMS", "PAYMENT_CONFIRMED", "+49151", "null".to_owned(), "null"),
        ("WEBHOOK", "EVENT", "to", format!("'{endpoint}'"), "'{}'"),
    ] {
        let domain = if channel == "EMAIL" { "@example.org" } else { "" };
        let sql = format!(
            "insert into notifications.notifications (id, event_id, kind, channel, recipient, endpoint_id, payload,
                    donation_id, payment_id, amount_minor, currency, status, next_attempt_at, created_at)
             select gen_random_uuid(), gen_random_uuid(), '{kind}', '{channel}', '{recipient}' || n || '{domain}',
                    {endpoint}::uuid, {payload}::text, donation_id, payment_id, 2500, 'EUR', 'PENDING', now(), now()
               from notifications.notifications cross join generate_series(100001, 100000 + {count}) n
              where kind = 'DONATION_RECEIVED'"
        );
        let began = tokio::time::Instant::now();
        app.sql(&sql).await;
        all_sent(&app).await;
        let seconds = began.elapsed().as_secs_f64();
        println!("{channel}: {count} in {seconds:.2} s, {:.0} a second", count as f64 / seconds);
    }
    assert_eq!((relay.mails(), relay.taken().len()), (count + 1, count + 1));
    assert_eq!((twilio.seen().len(), partner.seen().len()), (count, count));
    let once = "select count(*) from notifications.delivery_logs where outcome = 'ACCEPTED' and attempt = 1";
    assert_eq!(usize::try_from(app.count(once).await).unwrap(), 3 * count + 1);
    app.finish().await;
}
