//! Webhooks: signed, sent with bounded concurrency, tried again with backoff; never on the way of an API answer.
//!
//! Deliberately absent: TLS (the endpoint is this very server, on loopback) and more than one endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::SandboxError;
use super::due::DueQueue;
use super::engine::Engine;
use super::events::{Delivery, Event};
use super::ids::Id;
use super::render::EventView;
use super::rules::WebhookRules;

/// How many webhooks are under way at once.
const MAX_IN_FLIGHT: u32 = 32;
/// How many attempts may wait; the events beyond it are held in the event list until there is room.
const MAX_QUEUED: usize = 200_000;
/// How long the endpoint may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The first retry comes after about this; each further one after twice the time.
const FIRST_RETRY_MS: u64 = 500;
/// No retry waits longer than about this.
const MAX_RETRY_MS: u64 = 60_000;
/// An event is given up after this many tries: about 16 hours.
const MAX_TRIES: u32 = 1000;
/// Within this time reordered events overtake each other.
const REORDER_WINDOW_MS: u64 = 500;
/// How long a stop waits for those under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How newly made events are sent, as the rules stood when they were made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    copies: u8,
    delay: Duration,
    reorder: bool,
}

impl Manner {
    /// What the rules say.
    pub fn of(rules: &WebhookRules) -> Self {
        Self { copies: rules.duplicate, delay: Duration::from_millis(rules.delay_ms), reorder: rules.reorder }
    }

    fn delay(self) -> Duration {
        let shuffle_ms = if self.reorder { rand::random_range(0..REORDER_WINDOW_MS) } else { 0 };
        self.delay + Duration::from_millis(shuffle_ms)
    }
}

/// One sending of one event.
#[derive(Debug)]
struct Attempt {
    event: Id,
    tries: u32,
    /// Sent even while webhooks are disabled.
    forced: bool,
    /// Sent whether or not the event was delivered, and not tried again.
    copy: bool,
}

impl Attempt {
    fn first(event: Id) -> Self {
        Self { event, tries: 0, forced: false, copy: false }
    }
}

/// What waits to be sent, and what was.
#[derive(Debug)]
pub(super) struct Deliveries {
    secret: String,
    client: reqwest::Client,
    queue: DueQueue<Attempt>,
    in_flight: Arc<Semaphore>,
    overflowed: AtomicBool,
    delivered: AtomicU64,
    failed: AtomicU64,
}

/// How the deliveries stand, for the control.
#[derive(Debug, serde::Serialize)]
pub(super) struct Counts {
    queued: usize,
    in_flight: usize,
    delivered: u64,
    failed_attempts: u64,
}

impl Deliveries {
    /// Nothing to send yet; `secret` signs.
    pub fn new(secret: String) -> Result<Self, SandboxError> {
        Ok(Self {
            secret,
            client: client()?,
            queue: DueQueue::new(MAX_QUEUED),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
            overflowed: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Puts events into the queue; hands back those for which there is no room.
    pub fn enqueue(&self, events: Vec<Id>, manner: Manner) -> Vec<Id> {
        let overflow: Vec<Id> = events.into_iter().filter_map(|event| self.enqueue_one(event, manner).err()).collect();
        if !overflow.is_empty() {
            self.overflowed.store(true, Ordering::Release);
        }
        overflow
    }

    fn enqueue_one(&self, event: Id, manner: Manner) -> Result<(), Id> {
        for _ in 0..manner.copies {
            let copy = Attempt { copy: true, ..Attempt::first(event.clone()) };
            self.queue.push(manner.delay(), copy).map_err(|attempt| attempt.event)?;
        }
        self.queue.push(manner.delay(), Attempt::first(event)).map_err(|attempt| attempt.event)
    }

    /// Sends one event once more, at once.
    pub fn resend(&self, event: Id) -> bool {
        let attempt = Attempt { forced: true, copy: true, ..Attempt::first(event) };
        self.queue.push(Duration::ZERO, attempt).is_ok()
    }

    /// Makes everything in the queue due now, even while webhooks are disabled.
    pub fn rush(&self) -> usize {
        self.queue.rush(|attempt| attempt.forced = true)
    }

    /// Puts held events into the queue, due now.
    pub fn enqueue_held(&self, events: Vec<Id>, forced: bool) -> Vec<Id> {
        let push = |event| self.queue.push(Duration::ZERO, Attempt { forced, ..Attempt::first(event) });
        events.into_iter().filter_map(|event| push(event).err()).map(|attempt| attempt.event).collect()
    }

    /// How things stand.
    pub fn counts(&self) -> Counts {
        Counts {
            queued: self.queue.len(),
            in_flight: MAX_IN_FLIGHT as usize - self.in_flight.available_permits().min(MAX_IN_FLIGHT as usize),
            delivered: self.delivered.load(Ordering::Relaxed),
            failed_attempts: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Waits for those under way, within bounds.
    pub async fn drain(&self) {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.in_flight.acquire_many(MAX_IN_FLIGHT)).await;
    }

    /// Whether held events should be looked for, because there is room again.
    fn has_room_again(&self) -> bool {
        self.queue.len() < MAX_QUEUED / 2 && self.overflowed.swap(false, Ordering::AcqRel)
    }

    async fn post(&self, url: &str, event: &Event, unix_seconds: i64) -> bool {
        let body = serde_json::to_vec(&EventView::new(event)).unwrap_or_default();
        let request = self
            .client
            .post(url)
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
            .header("stripe-signature", signature(&self.secret, unix_seconds, &body))
            .body(body);
        match request.send().await {
            Ok(response) => response.status().is_success(),
            Err(error) => {
                tracing::debug!(%error, event = %event.id, "a webhook was not taken");
                false
            }
        }
    }
}

/// Built with an explicit provider, so that none need be installed for the process: plain HTTP is all it speaks.
pub(super) fn client() -> Result<reqwest::Client, SandboxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SandboxError::Tls)?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_TIMEOUT)
        .build()
        .map_err(SandboxError::Client)
}

/// `Stripe-Signature` (<https://docs.stripe.com/webhooks#verify-manually>): the key is the whole secret.
pub(super) fn signature(secret: &str, unix_seconds: i64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("{unix_seconds}.").as_bytes());
    mac.update(body);
    format!("t={unix_seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// About twice as long after each try, a quarter more or less by chance.
fn retry_delay(tries: u32) -> Duration {
    let full_ms = FIRST_RETRY_MS.saturating_mul(1 << tries.min(16)).min(MAX_RETRY_MS);
    Duration::from_millis(full_ms * 3 / 4 + rand::random_range(0..=full_ms / 2))
}

impl Engine {
    /// Sends what is due to `url` until the sandbox stops.
    pub async fn run_deliveries(self: Arc<Self>, url: String) {
        let url: Arc<str> = url.into();
        loop {
            let Ok(permit) = self.deliveries.in_flight.clone().acquire_owned().await else { return };
            let attempt = tokio::select! {
                attempt = self.deliveries.queue.next() => attempt,
                () = self.stopped() => return,
            };
            tokio::spawn(self.clone().deliver(url.clone(), attempt, permit));
            if self.deliveries.has_room_again() {
                self.release_held(false);
            }
        }
    }

    /// Queues the held events; says how many. `forced` sends them even while webhooks are disabled.
    pub fn release_held(&self, forced: bool) -> usize {
        let mut state = self.state();
        let held = state.events_in(|delivery| delivery == Delivery::Held);
        let count = held.len();
        held.iter().for_each(|event| state.set_delivery(event, Delivery::Queued));
        for event in self.deliveries.enqueue_held(held, forced) {
            state.set_delivery(&event, Delivery::Held);
            self.deliveries.overflowed.store(true, Ordering::Release);
        }
        count
    }

    /// Queues the lost events after all; says how many.
    pub fn release_lost(&self) -> usize {
        let mut state = self.state();
        let lost = state.events_in(|delivery| delivery == Delivery::Lost);
        lost.iter().for_each(|event| state.set_delivery(event, Delivery::Held));
        lost.len()
    }

    async fn deliver(self: Arc<Self>, url: Arc<str>, attempt: Attempt, permit: OwnedSemaphorePermit) {
        if let Some(event) = self.event_to_send(&attempt) {
            let taken = self.deliveries.post(&url, &event, self.clock.unix_seconds()).await;
            self.settle(attempt, taken).await;
        }
        drop(permit);
    }

    fn event_to_send(&self, attempt: &Attempt) -> Option<Arc<Event>> {
        let mut state = self.state();
        let event = state.events.get(&attempt.event)?.clone();
        if !state.rules.enabled && !attempt.forced {
            if event.delivery.is_waiting() {
                state.set_delivery(&event.id, Delivery::Held);
            }
            return None;
        }
        // A copy may have been taken before the first try; only a retry is spared by that.
        (attempt.copy || attempt.tries == 0 || event.delivery.is_waiting()).then_some(event)
    }

    async fn settle(&self, attempt: Attempt, taken: bool) {
        if taken {
            self.deliveries.delivered.fetch_add(1, Ordering::Relaxed);
            self.record_delivery(&attempt.event, Delivery::Delivered).await;
            return;
        }
        self.deliveries.failed.fetch_add(1, Ordering::Relaxed);
        if attempt.copy {
            return;
        }
        let tries = attempt.tries + 1;
        if tries >= MAX_TRIES {
            self.record_delivery(&attempt.event, Delivery::Lost).await;
        } else if let Err(attempt) =
            self.deliveries.queue.push(retry_delay(attempt.tries), Attempt { tries, ..attempt })
        {
            self.state().set_delivery(&attempt.event, Delivery::Held);
            self.deliveries.overflowed.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_an_hmac_over_time_and_body() {
        let mac = |text: &str| signature("test_secret", 1, text.as_bytes());
        assert!(mac("{}").starts_with("t=1,v1="));
        assert_eq!(mac("{}").len(), "t=1,v1=".len() + 64);
        assert_ne!(mac("{}"), mac("{ }"));
        assert_ne!(mac("{}"), signature("other", 1, b"{}"));
    }

    #[test]
    fn retries_are_quick_at_first_and_at_most_a_minute_and_a_quarter_apart() {
        for tries in 0..MAX_TRIES {
            let full_ms = FIRST_RETRY_MS.saturating_mul(1 << tries.min(10)).min(MAX_RETRY_MS);
            let delay = retry_delay(tries);
            assert!(delay >= Duration::from_millis(full_ms * 3 / 4) && delay <= Duration::from_millis(full_ms * 5 / 4));
        }
    }
}
