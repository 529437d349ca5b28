//! One call to Stripe: attempts under one idempotency key, the shared circuit breaker, one deadline over it all.
//!
//! Deliberately absent: what the calls mean (`intents`, `refunds`, `backfill`) and what a failure means (`answer`).

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, Url};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::CallPolicy;
use super::answer::Failure;
use super::call::Call;
use super::connection::client;
use super::json::ShapeError;
use super::settings::{SettingsError, StripeSettings, is_loopback};
use crate::gateways::breaker::{Breaker, BreakerState};
use crate::gateways::error::GatewayError;
use crate::metrics::METRICS;
use crate::trace::{Kind, Span};

/// The longest answer that is read, in bytes: a page of a hundred events is below 1 MiB.
pub(super) const MAXIMUM_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Attempts under way at once, over all callers; more wait for their turn within their own deadline.
pub(super) const MAXIMUM_IN_FLIGHT: usize = 64;

/// The connections, the breaker and the limits; shared by its clones.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    client: Client,
    base: Url,
    request_timeout: Duration,
    policy: CallPolicy,
    breaker: Breaker,
    in_flight: Arc<Semaphore>,
}

impl Transport {
    pub fn new(settings: &StripeSettings, policy: CallPolicy) -> Result<Self, SettingsError> {
        let base = settings.base()?;
        Ok(Self {
            client: client(settings, is_loopback(&base))?,
            base,
            request_timeout: settings.request_timeout,
            policy,
            breaker: Breaker::new(policy.failures_to_open, policy.cool_down),
            in_flight: Arc::new(Semaphore::new(MAXIMUM_IN_FLIGHT)),
        })
    }

    pub fn breaker_state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Sends a call and reads its answer with `read`.
    pub async fn fetch<T>(
        &self,
        call: &Call,
        read: impl FnOnce(&[u8]) -> Result<T, ShapeError>,
    ) -> Result<T, GatewayError> {
        let body = self.send(call).await?;
        read(&body).map_err(|error| Failure::unreadable(error.to_string(), call.changes()).error)
    }

    /// Sends a call and gives its answer's bytes.
    pub async fn send(&self, call: &Call) -> Result<Vec<u8>, GatewayError> {
        let began = Instant::now();
        let _under_way = UnderWay::begin();
        let mut span = self.span(call);
        let answer = span.around(self.send_until_settled(call)).await;
        let outcome = answer.as_ref().map_or_else(GatewayError::label, |_| "answered");
        METRICS.stripe_calls.with_label_values(&[call.operation(), outcome]).inc();
        METRICS.stripe_seconds.observe(began.elapsed().as_secs_f64());
        if answer.is_err() {
            span.fail(outcome);
        }
        answer
    }

    /// One span for a call with all its attempts. Stripe is not told of our trace; what comes back brings it.
    fn span(&self, call: &Call) -> Span {
        let mut span = Span::here(Kind::Client, || format!("{} {}", call.method, call.template()));
        if span.is_recorded() {
            span.set("http.request.method", call.method.to_string());
            span.set("url.template", call.template());
            span.set("server.address", self.base.host_str().unwrap_or_default().to_owned());
            span.set("server.port", i64::from(self.base.port_or_known_default().unwrap_or_default()));
        }
        span
    }

    async fn send_until_settled(&self, call: &Call) -> Result<Vec<u8>, GatewayError> {
        call.check().map_err(|failure| failure.error)?;
        let deadline = Instant::now() + self.policy.deadline;
        let mut doubt = Doubt::default();
        let mut attempt = 0;
        loop {
            let failure = match self.guarded_attempt(call, deadline).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(pause) = self.policy.pause(attempt, &failure, left) else {
                return Err(doubt.settle(failure.error));
            };
            tracing::debug!(path = call.path, attempt, error = %failure.error, "Stripe will be asked again");
            doubt.remember(failure.error);
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// One attempt with the breaker's leave; the breaker learns how it went.
    async fn guarded_attempt(&self, call: &Call, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let slot = timeout_at(deadline, self.in_flight.acquire()).await;
        let Ok(Ok(_slot)) = slot else { return Err(Failure::busy()) };
        let permit = self.breaker.admit().map_err(|retry_after| Failure {
            error: GatewayError::CircuitOpen { retry_after },
            worth_retry: false,
            alive: false,
        })?;
        let outcome = self.attempt(call, deadline).await;
        if outcome.as_ref().is_err_and(|failure| !failure.alive) {
            permit.fail()
        } else {
            permit.succeed()
        }
        outcome
    }

    async fn attempt(&self, call: &Call, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = self.request(call).timeout(self.request_timeout.min(left));
        let changes = call.changes();
        let response = request.send().await.map_err(|error| Failure::unanswered(&error, changes))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_bounded(response, changes).await;
        if status.is_success() {
            return body;
        }
        Err(Failure::refused(status, &headers, &body.unwrap_or_default(), changes))
    }

    fn request(&self, call: &Call) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/v1/{}", self.base.path().trim_end_matches('/'), call.path));
        if !call.changes() {
            if !call.fields.is_empty() {
                url.query_pairs_mut().extend_pairs(&call.fields);
            }
            return self.client.get(url);
        }
        let request = self.client.request(call.method.clone(), url).form(&call.fields);
        match &call.idempotency_key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }
}

/// A call under way, until it is dropped: its caller may go away in the middle.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        METRICS.stripe_in_flight.inc();
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        METRICS.stripe_in_flight.dec();
    }
}

async fn read_bounded(mut response: Response, changes: bool) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::unanswered(&error, changes))? {
        if body.len() + chunk.len() > MAXIMUM_ANSWER_BYTES {
            return Err(Failure::unreadable(format!("the answer exceeds {MAXIMUM_ANSWER_BYTES} bytes"), changes));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Remembers that an earlier attempt may have taken effect: a later one that was merely not let through does not undo
/// that.
#[derive(Debug, Default)]
struct Doubt(Option<GatewayError>);

impl Doubt {
    fn remember(&mut self, error: GatewayError) {
        if error.is_outcome_unknown() {
            self.0 = Some(error);
        }
    }

    /// What the caller is told when `last` ended the call. A plain refusal is Stripe's word on the whole request, for
    /// every attempt went out under one idempotency key.
    fn settle(self, last: GatewayError) -> GatewayError {
        let retry_after = last.retry_after();
        match (self.0, last) {
            (Some(GatewayError::Unknown { reason, .. }), GatewayError::Transient { .. })
            | (Some(GatewayError::Unknown { reason, .. }), GatewayError::CircuitOpen { .. }) => {
                GatewayError::Unknown { reason, retry_after }
            }
            (_, last) => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::{FakeStripe, INTENT, Reply};
    use super::*;

    fn charge() -> Call {
        Call::post("things", "key-1").with([("amount", "5".to_owned())])
    }

    #[actix_web::test]
    async fn a_500_is_tried_again_under_the_same_key_with_the_same_body() {
        let server =
            FakeStripe::start([Reply::json(500, "{}"), Reply::json(503, "{}"), Reply::json(200, INTENT)]).await;
        server.client().transport.send(&charge()).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|one| one.header("idempotency-key") == Some("key-1") && one.body == "amount=5"));
    }

    #[actix_web::test]
    async fn a_lasting_500_ends_after_two_retries_with_an_unknown_outcome() {
        let server = FakeStripe::start([Reply::json(500, "{}"), Reply::json(500, "{}"), Reply::json(500, "{}")]).await;
        let error = server.client().transport.send(&charge()).await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{error}");
        assert_eq!(server.seen().len(), 3);
    }

    #[actix_web::test]
    async fn refusals_are_not_tried_again() {
        for status in [400, 402, 403, 404] {
            let refusal = r#"{"error":{"type":"card_error","code":"card_declined","message":"Declined."}}"#;
            let server = FakeStripe::start([Reply::json(status, refusal)]).await;
            let error = server.client().transport.send(&charge()).await.unwrap_err();
            let code = Some("card_declined".to_owned());
            let kind = Some("card_error".to_owned());
            assert_eq!(error, GatewayError::Permanent { status, code, message: "Declined.".into(), kind });
            assert_eq!(server.seen().len(), 1, "{status}");
        }
    }

    #[actix_web::test]
    async fn a_connection_dropped_after_the_effect_is_tried_again_under_the_same_key() {
        let server = FakeStripe::start([Reply::Drop, Reply::BreakOff, Reply::json(200, INTENT)]).await;
        server.client().transport.send(&charge()).await.unwrap();
        let keys: Vec<_> = server.seen().iter().map(|one| one.header("idempotency-key").map(str::to_owned)).collect();
        assert_eq!(keys, vec![Some("key-1".to_owned()); 3]);
    }

    #[actix_web::test]
    async fn a_hanging_answer_is_unknown_for_a_change_and_transient_for_a_read() {
        let server = FakeStripe::start([Reply::Hang, Reply::Hang]).await;
        let policy = CallPolicy { retries: 0, ..FakeStripe::policy() };
        let transport = server.client_with(policy, Duration::from_millis(50)).transport;
        assert_eq!(transport.send(&charge()).await.unwrap_err().label(), "unknown");
        assert_eq!(transport.send(&Call::get("things")).await.unwrap_err().label(), "transient");
    }

    #[actix_web::test]
    async fn nobody_listening_is_transient() {
        let transport = FakeStripe::nowhere().transport;
        assert_eq!(transport.send(&charge()).await.unwrap_err().label(), "transient");
    }

    #[actix_web::test]
    async fn a_doubt_outlives_a_later_attempt_that_was_not_let_through() {
        let policy = CallPolicy { failures_to_open: 1, ..FakeStripe::policy() };
        let server = FakeStripe::start([Reply::Drop]).await;
        let transport = server.client_with(policy, Duration::from_secs(5)).transport;
        assert_eq!(transport.send(&charge()).await.unwrap_err().label(), "unknown");
        assert_eq!(transport.send(&charge()).await.unwrap_err().label(), "circuit_open");
        assert_eq!(server.seen().len(), 1);
    }

    #[actix_web::test]
    async fn a_short_retry_after_is_waited_for_and_a_long_one_handed_on() {
        let wait = |seconds: &'static str| Reply::json(429, "{}").header("retry-after", seconds);
        let server = FakeStripe::start([wait("0"), Reply::json(200, INTENT), wait("60")]).await;
        let transport = server.client().transport;
        transport.send(&charge()).await.unwrap();
        let error = transport.send(&charge()).await.unwrap_err();
        assert_eq!((error.label(), error.retry_after()), ("transient", Some(Duration::from_secs(60))));
        assert_eq!(server.seen().len(), 3);
    }

    #[actix_web::test]
    async fn a_key_in_use_and_a_lock_timeout_are_tried_again() {
        let in_use = r#"{"error":{"code":"idempotency_key_in_use"}}"#;
        let locked = r#"{"error":{"code":"lock_timeout"}}"#;
        let server =
            FakeStripe::start([Reply::json(409, in_use), Reply::json(409, locked), Reply::json(200, INTENT)]).await;
        server.client().transport.send(&charge()).await.unwrap();
        assert_eq!(server.seen().len(), 3);
    }

    #[actix_web::test]
    async fn stripe_should_retry_is_obeyed() {
        let no = Reply::json(500, "{}").header("stripe-should-retry", "false");
        let server = FakeStripe::start([no]).await;
        assert!(server.client().transport.send(&charge()).await.unwrap_err().is_outcome_unknown());
        assert_eq!(server.seen().len(), 1);
    }

    #[actix_web::test]
    async fn the_breaker_opens_after_five_failures() {
        let broken = std::iter::repeat_n(Reply::json(500, "{}"), 5);
        let server = FakeStripe::start(broken).await;
        let policy = CallPolicy { retries: 0, ..FakeStripe::policy() };
        let transport = server.client_with(policy, Duration::from_secs(5)).transport;
        for _ in 0..5 {
            assert!(transport.send(&charge()).await.unwrap_err().is_outcome_unknown());
        }
        let open = transport.send(&charge()).await.unwrap_err();
        assert!(open.retry_after().is_some_and(|wait| wait <= policy.cool_down), "{open}");
        assert_eq!((transport.breaker_state(), server.seen().len()), (BreakerState::Open, 5));
    }

    #[actix_web::test]
    async fn after_the_cool_down_a_good_probe_closes_the_breaker() {
        let server = FakeStripe::start(std::iter::repeat_n(Reply::json(500, "{}"), 5)).await;
        let policy = CallPolicy { retries: 0, cool_down: Duration::ZERO, ..FakeStripe::policy() };
        let transport = server.client_with(policy, Duration::from_secs(5)).transport;
        for _ in 0..5 {
            transport.send(&charge()).await.unwrap_err();
        }
        assert_eq!(transport.breaker_state(), BreakerState::HalfOpen);
        transport.send(&charge()).await.unwrap();
        assert_eq!(transport.breaker_state(), BreakerState::Closed);
    }

    #[actix_web::test]
    async fn refusals_prove_that_the_provider_is_alive() {
        let server = FakeStripe::start(std::iter::repeat_n(Reply::json(402, "{}"), 9)).await;
        let transport = server.client().transport;
        for _ in 0..9 {
            transport.send(&charge()).await.unwrap_err();
        }
        assert_eq!(transport.breaker_state(), BreakerState::Closed);
    }

    #[actix_web::test]
    async fn a_cancelled_call_does_not_wedge_the_breaker() {
        let server = FakeStripe::start([Reply::json(500, "{}"), Reply::Hang]).await;
        let policy = CallPolicy { retries: 0, failures_to_open: 1, cool_down: Duration::ZERO, ..FakeStripe::policy() };
        let transport = server.client_with(policy, Duration::from_secs(5)).transport;
        transport.send(&charge()).await.unwrap_err();
        let probe = tokio::time::timeout(Duration::from_millis(50), transport.send(&charge())).await;
        assert!(probe.is_err());
        transport.send(&charge()).await.unwrap();
        assert_eq!(transport.breaker_state(), BreakerState::Closed);
    }

    #[actix_web::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        let server = FakeStripe::start([Reply::Flood]).await;
        let error = server.client().transport.send(&charge()).await.unwrap_err();
        assert!(error.is_outcome_unknown() && error.to_string().contains("exceeds"), "{error}");
    }
}
