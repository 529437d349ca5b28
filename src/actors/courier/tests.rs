//! A courier on a real Postgres: what it is asked to finish, what it cannot write down, whom it gives up.

use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::actors::testing::{World, wait_until};
use crate::gateways::delivery::testing::{Double, Play, install_crypto};
use crate::gateways::links::Links;
use crate::gateways::mailer::Mailer;
use crate::gateways::sms::{Sms, SmsSettings};

/// For a test that fails.
const DEADLINE: Duration = Duration::from_secs(20);

struct Stage {
    world: World,
    courier: Addr<Courier>,
    _mails: tempfile::TempDir,
}

impl Stage {
    async fn new(way: impl FnOnce(&std::path::Path) -> Way) -> Self {
        let (world, mails) = (World::new().await, tempfile::tempdir().unwrap());
        let (store, clock) = (world.tools.store.clone(), world.tools.clock.clone());
        let presence = Presence::start(store.pools.hosts());
        presence.gained().await;
        let courier = Courier::new(Tools { store, clock, presence }, way(mails.path()), None, Breaker::default());
        Self { world, courier: courier.start(), _mails: mails }
    }

    async fn sql(&self, sql: &str) {
        self.world.tools.store.pools.reader().await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn count(&self, sql: &str) -> i64 {
        self.world.count(&format!("select count(*) from {sql}")).await
    }

    /// A message that is due, recorded `age` ago.
    async fn due(&self, kind: &str, channel: &str, recipient: &str, age: &str) {
        let payment = self.world.payment().await;
        self.sql(&format!(
            "insert into notifications.notifications (id, event_id, kind, channel, recipient, donation_id, payment_id,
                    amount_minor, currency, status, next_attempt_at, created_at)
             values (gen_random_uuid(), gen_random_uuid(), '{kind}', '{channel}', '{recipient}', '{}', '{}', 2500, 'EUR',
                     'PENDING', now(), now() - interval '{age}')",
            payment.donation_id.uuid(),
            payment.id.uuid(),
        ))
        .await;
        self.courier.send(Wake).await.unwrap();
    }

    async fn becomes(&self, status: &str, count: i64) {
        let are = format!("notifications.notifications where status = '{status}' and claimed_by is null");
        wait_until(&format!("{count} are {status}"), DEADLINE, async || self.count(&are).await == count).await;
    }
}

fn files(dir: &std::path::Path) -> Way {
    Way::Email {
        mailer: Mailer::from_url(None, &[], dir.to_owned()).unwrap(),
        from: "thanks@care.example".to_owned(),
        links: Links::new(&[7; 32], "https://care.example").unwrap(),
    }
}

fn twilio(double: &Double) -> Way {
    install_crypto();
    let settings = SmsSettings {
        account_sid: "AC00000000000000000000000000000001".to_owned(),
        auth_token: "token".to_owned(),
        api_base: double.url(),
        from: "+15005550006".to_owned(),
    };
    Way::Sms { sms: Sms::new(settings).unwrap(), reports_to: None }
}

#[actix::test]
async fn who_asks_to_finish_hears_of_it_only_after_what_a_claim_under_way_brings() {
    let stage = Stage::new(files).await;
    stage.due("PAYMENT_CONFIRMED", "EMAIL", "a@example.org", "1 second").await;
    stage.becomes("SENT", 1).await;
    // It is due once more, and whoever claims it waits for us.
    let mut client = stage.world.tools.store.pools.writer().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let again = "lock table notifications.notifications in access exclusive mode;
                 update notifications.notifications set status = 'PENDING', next_attempt_at = now()";
    transaction.batch_execute(again).await.unwrap();
    stage.courier.send(Wake).await.unwrap();
    let waits = "pg_locks where not granted and relation = 'notifications.notifications'::regclass";
    wait_until("a claim waits", DEADLINE, async || stage.count(waits).await >= 1).await;
    let mut finished = Box::pin(stage.courier.send(Finish));
    // The order was taken once the message after it is answered.
    assert!((&mut finished).now_or_never().is_none());
    stage.courier.send(Wake).await.unwrap();
    assert!((&mut finished).now_or_never().is_none(), "a claim is under way");
    transaction.commit().await.unwrap();
    finished.await.unwrap();
    assert_eq!(stage.count("notifications.notifications where claimed_by is not null").await, 0);
    assert_eq!(stage.count("notifications.delivery_logs where outcome = 'STARTED'").await, 0);
    assert_eq!(stage.count("notifications.delivery_logs where outcome = 'ACCEPTED'").await, 2);
}

#[actix::test]
async fn an_attempt_whose_words_cannot_be_stored_is_settled_without_them() {
    let stage = Stage::new(files).await;
    let nothing =
        "alter table notifications.notifications add constraint nothing check (provider_id is null) not valid";
    stage.sql(nothing).await;
    stage.due("PAYMENT_CONFIRMED", "EMAIL", "a@example.org", "1 second").await;
    stage.due("PAYMENT_CONFIRMED", "EMAIL", "b@example.org", "1 second").await;
    stage.becomes("SENT", 2).await;
    assert_eq!(stage.count("notifications.delivery_logs where outcome = 'ACCEPTED'").await, 2);
    stage.courier.send(Finish).await.unwrap();
}

#[actix::test]
async fn an_address_that_is_refused_when_it_is_sent_to_gets_nothing_more() {
    let stop = json!({"code": 21610, "message": "unsubscribed"}).to_string();
    let landline = json!({"code": 21614, "message": "not a mobile number"}).to_string();
    let double = Double::start([Play::answer(400, stop), Play::answer(400, landline)]).await;
    let stage = Stage::new(|_| twilio(&double)).await;
    for (number, phone) in ["+4915112345678", "+4915112345679"].into_iter().enumerate() {
        let sent = i64::try_from(number).unwrap() + 1;
        stage.due("PAYMENT_CONFIRMED", "SMS", phone, "1 second").await;
        stage.becomes("DEAD", sent).await;
        stage.due("REFUNDED", "SMS", phone, "1 second").await;
        stage.becomes("SUPPRESSED", sent).await;
    }
    assert_eq!(double.seen().len(), 2);
    for (phone, reason) in [("+4915112345678", "UNSUBSCRIBE"), ("+4915112345679", "BOUNCE")] {
        let row = format!(
            "notifications.suppressions where address = '{phone}' and reason = '{reason}' and source = '{AT_SENDING}'"
        );
        assert_eq!(stage.count(&row).await, 1, "{phone}");
    }
    stage.courier.send(Finish).await.unwrap();
}

#[actix::test]
async fn a_link_that_opens_nothing_any_more_is_not_mailed() {
    let stage = Stage::new(files).await;
    stage.due("DONOR_HISTORY", "EMAIL", "a@example.org", "59 minutes").await;
    stage.becomes("SENT", 1).await;
    stage.due("DONOR_HISTORY", "EMAIL", "a@example.org", "60 minutes").await;
    stage.becomes("DEAD", 1).await;
    assert_eq!(stage.count("notifications.delivery_logs where code = 'expired'").await, 1);
    stage.courier.send(Finish).await.unwrap();
}
