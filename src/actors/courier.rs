//! The mail courier: claims due messages by lease, delivers them, writes every attempt down.
//!
//! A crash between delivery and the log row delivers once more after the lease, with the same `Message-ID`; nothing is lost.
//! Deliberately absent: what messages are due (the notification consumer) and their words (`domain::notice`).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix::prelude::*;
use futures::{FutureExt, StreamExt};
use rand::Rng;
use tokio::time::Instant;

use super::facts::Wake;
use crate::clock::Clock;
use crate::domain::retry::{MAIL, wait_after};
use crate::gateways::delivery::{Accepted, DeliveryError};
use crate::gateways::mailer::{Mail, Mailer, message_id};
use crate::metrics::METRICS;
use crate::store::notices::{Attempt, DueNotice};
use crate::store::{Store, StoreError};

const CHANNEL: &str = "EMAIL";
/// Messages that are claimed at a time, and delivered side by side.
const BATCH: i64 = 64;
const SIDE_BY_SIDE: usize = 8;
/// Longer than a batch takes when every delivery runs into its timeout.
const LEASE_S: i64 = 600;
/// How often an attempt that could not be written down is written again, and the first pause, which doubles.
const SETTLE_RETRIES: u32 = 6;
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// The safety net under the wake, and the clock of retries.
const POLL: Duration = Duration::from_secs(2);
/// How much of a provider's words is kept.
const DETAIL_MAX_CHARS: usize = 500;

/// The actor.
pub struct Courier {
    store: Store,
    mailer: Mailer,
    from: String,
    clock: Clock,
    working: bool,
    woken: bool,
}

impl Courier {
    /// A courier of mails from the address `from`.
    pub fn new(store: Store, mailer: Mailer, from: String, clock: Clock) -> Self {
        Self { store, mailer, from, clock, working: false, woken: false }
    }

    fn work(&mut self, ctx: &mut Context<Self>) {
        if self.working {
            self.woken = true;
            return;
        }
        self.working = true;
        self.woken = false;
        let desk = Desk {
            store: self.store.clone(),
            mailer: self.mailer.clone(),
            from: self.from.clone(),
            clock: self.clock.clone(),
        };
        // A panic over one message must not end all mail; its lease runs out and it is tried again.
        let round = async move {
            AssertUnwindSafe(desk.round()).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a round of deliveries panicked");
                Ok(false)
            })
        };
        ctx.spawn(round.into_actor(self).map(|round, act, ctx| {
            act.working = false;
            match round {
                Ok(more) if more || act.woken => act.work(ctx),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "messages cannot be claimed; it is tried again"),
            }
        }));
    }
}

/// What one round of deliveries needs.
struct Desk {
    store: Store,
    mailer: Mailer,
    from: String,
    clock: Clock,
}

impl Desk {
    /// Delivers what is due; returns whether there may be more.
    async fn round(&self) -> Result<bool, StoreError> {
        let due = self.store.claim_due_notices(CHANNEL, self.clock.now(), LEASE_S, BATCH).await?;
        let full = due.len() == usize::try_from(BATCH).unwrap_or(usize::MAX);
        futures::stream::iter(due).for_each_concurrent(SIDE_BY_SIDE, |notice| self.deliver(notice)).await;
        Ok(full)
    }

    async fn deliver(&self, notice: DueNotice) {
        let began = Instant::now();
        let sent = self.mailer.send(&self.mail(&notice)).await;
        let duration_ms = i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX);
        let attempt = self.judge(&notice, sent, duration_ms);
        METRICS.notification_attempts.with_label_values(&[CHANNEL, attempt.outcome]).inc();
        // Should this fail, the lease runs out and the message is sent again: at least once.
        if let Err(error) = self.settle(&attempt).await {
            tracing::warn!(%error, notice = %notice.id, "an attempt cannot be written down; the message may go out again");
        }
    }

    /// Writes an attempt down, more than once if need be: writing it twice changes nothing, sending a mail twice does.
    async fn settle(&self, attempt: &Attempt) -> Result<(), StoreError> {
        let mut pause = SETTLE_PAUSE;
        for _ in 0..SETTLE_RETRIES {
            match self.store.settle_notice(attempt).await {
                Err(error) if error.is_passing() => tokio::time::sleep(pause).await,
                settled => return settled,
            }
            pause *= 2;
        }
        self.store.settle_notice(attempt).await
    }

    fn mail(&self, notice: &DueNotice) -> Mail {
        let words = notice.kind.words(&notice.context);
        Mail {
            message_id: message_id(notice.id.uuid(), &self.from),
            from: self.from.clone(),
            to: notice.recipient.clone(),
            subject: words.subject,
            text: words.text,
            html: None,
            headers: Vec::new(),
            written_at: self.clock.now(),
        }
    }

    fn judge(&self, notice: &DueNotice, sent: Result<Accepted, DeliveryError>, duration_ms: i32) -> Attempt {
        let now = self.clock.now();
        let base = Attempt {
            id: notice.id,
            attempt: notice.attempt,
            at: now,
            outcome: "DELIVERED",
            code: None,
            detail: None,
            duration_ms,
            provider_id: None,
            status: "SENT",
            next_attempt_at: None,
        };
        match sent {
            Ok(accepted) => Attempt { provider_id: accepted.provider_id, code: accepted.code, ..base },
            Err(DeliveryError::Transient { code, detail, retry_after }) => {
                let tried = u32::try_from(notice.attempt - 1).unwrap_or(u32::MAX);
                let wait = wait_after(MAIL, tried, rand::rng().random_range(0..1000));
                let wait = wait.map(|wait| wait.max(retry_after.unwrap_or_default()));
                let status = if wait.is_some() { "PENDING" } else { "DEAD" };
                let next_attempt_at = wait.map(|wait| now + wait);
                Attempt {
                    outcome: "TRANSIENT",
                    code: Some(code),
                    detail: Some(shorten(&detail)),
                    status,
                    next_attempt_at,
                    ..base
                }
            }
            Err(error @ (DeliveryError::Permanent { .. } | DeliveryError::Gone)) => {
                let code = error.code().to_owned();
                tracing::warn!(notice = %notice.id, code, "a message can never be delivered");
                Attempt {
                    outcome: "PERMANENT",
                    code: Some(code),
                    detail: Some(shorten(&error.to_string())),
                    status: "DEAD",
                    ..base
                }
            }
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(DETAIL_MAX_CHARS).collect()
}

impl Actor for Courier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(POLL, Self::work);
    }
}

impl Supervised for Courier {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        self.working = false;
    }
}

impl Handler<Wake> for Courier {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.work(ctx);
    }
}
