//! The intake of the provider's events: whose is it, and was it here before?
//!
//! Memory and Redis only remember answers that Postgres has committed; the claim that decides lies in the same
//! transaction as the effect. Deliberately absent: signatures (HTTP checks them on the raw body) and rules.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::committer::{CommitVerdict, Committer};
use super::payment::{Command, EventAnswer, PaymentError, Reply, duplicate_of, event_answer};
use super::registry::Payments;
use crate::clock::Clock;
use crate::domain::ids::PaymentId;
use crate::domain::payment::decide::Verdict;
use crate::domain::provider::ProviderEvent;
use crate::gateways::stripe::event::WebhookEvent;
use crate::metrics::METRICS;
use crate::store::Store;
use crate::store::cache::Cache;
use crate::trace::{self, Current, Kind, Span, current};

/// Answers in memory at most, the oldest are dropped first.
const REMEMBERED: usize = 50_000;

/// The intake.
#[derive(Clone)]
pub struct Intake {
    store: Store,
    cache: Cache,
    committer: Addr<Committer>,
    payments: Payments,
    clock: Clock,
    remembered: Arc<Mutex<Answers>>,
}

/// The answers to the latest events, by event.
#[derive(Default)]
struct Answers {
    by_event: HashMap<String, EventAnswer>,
    order: VecDeque<String>,
}

impl Answers {
    fn insert(&mut self, event_id: &str, answer: EventAnswer) {
        if self.by_event.insert(event_id.to_owned(), answer).is_none() {
            self.order.push_back(event_id.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_event.remove(&oldest);
        }
    }
}

impl Intake {
    /// An intake that hands events to `payments`.
    pub fn new(store: Store, cache: Cache, committer: Addr<Committer>, payments: Payments, clock: Clock) -> Self {
        Self { store, cache, committer, payments, clock, remembered: Arc::default() }
    }

    /// Takes an authentic event in; `body` is what is kept if it must wait.
    pub async fn take_in(&self, event: WebhookEvent, body: &str) -> Result<EventAnswer, PaymentError> {
        if let Some(id) = event.id()
            && let Some(answer) = self.known(id).await?
        {
            METRICS.webhook_verdicts.with_label_values(&[answer.verdict.as_str()]).inc();
            return Ok(answer);
        }
        let answer = match event {
            WebhookEvent::Known(event) => self.take_in_known(event, body).await?,
            WebhookEvent::Unrelated { id, kind, .. } => {
                self.record(&id, Verdict::Ignored, format!("events of type {kind} are none of ours")).await?
            }
            WebhookEvent::Malformed(event) => {
                METRICS.webhook_malformed.inc();
                tracing::error!(reason = %event.reason, kind = event.kind, "a webhook of unknown shape");
                // Not remembered: once we understand the shape, a redelivery should be understood.
                EventAnswer {
                    verdict: Verdict::Rejected,
                    reason: format!("unknown shape: {}", event.reason),
                    payment_id: None,
                    status: None,
                    version: None,
                }
            }
        };
        METRICS.webhook_verdicts.with_label_values(&[answer.verdict.as_str()]).inc();
        Ok(answer)
    }

    /// The answer to an event that was handled before, if one of the caches remembers.
    async fn known(&self, event_id: &str) -> Result<Option<EventAnswer>, PaymentError> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).by_event.get(event_id).cloned();
        if let Some(answer) = remembered {
            return Ok(Some(answer));
        }
        // Redis says where it is worth to look; only Postgres says what is. A database that was rolled back under a Redis
        // that was not must not lose the event.
        if self.cache.load_answer(event_id).await.is_none() {
            return Ok(None);
        }
        let stored = self.store.load_answer(super::payment::EVENT_SCOPE, event_id).await?;
        let Some((_, body)) = stored.and_then(|known| known.answer) else {
            tracing::warn!(event_id, "Redis remembers an event that Postgres does not know; it is handled");
            return Ok(None);
        };
        let answer = duplicate_of(&body)?;
        self.remember(event_id, &answer);
        Ok(Some(answer))
    }

    fn remember(&self, event_id: &str, duplicate: &EventAnswer) {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).insert(event_id, duplicate.clone());
    }

    /// Stripe's request has a trace of its own; the donor's, which came back with the event, is linked to it.
    async fn take_in_known(&self, event: ProviderEvent, body: &str) -> Result<EventAnswer, PaymentError> {
        let mut span =
            Span::here_linked(Kind::Internal, event.traceparent.as_deref(), || format!("decide {}", event.kind));
        let answer = span.around(self.decide(event, body)).await;
        match &answer {
            Ok(answer) => span.set("careforall.verdict", answer.verdict.as_str()),
            Err(_) => span.fail("undecided"),
        }
        answer
    }

    async fn decide(&self, event: ProviderEvent, body: &str) -> Result<EventAnswer, PaymentError> {
        let event = Arc::new(event);
        match self.payment_of(&event).await? {
            Some(payment) => match self.apply(payment, &event).await {
                Err(PaymentError::NotFound) => self.park(&event, body).await,
                other => other,
            },
            None => self.park(&event, body).await,
        }
    }

    async fn payment_of(&self, event: &ProviderEvent) -> Result<Option<PaymentId>, PaymentError> {
        if let Some(id) = event.payment_id {
            return Ok(Some(id.into()));
        }
        let Some(intent) = &event.intent_id else { return Ok(None) };
        Ok(self.store.find_payment_by_intent(intent).await?)
    }

    async fn apply(&self, payment: PaymentId, event: &Arc<ProviderEvent>) -> Result<EventAnswer, PaymentError> {
        // In the donor's trace, and with all that follows from it.
        let decided = current();
        let cause = decided.as_ref().filter(|_| trace::is_on()).map(Current::traceparent);
        let span =
            Span::below_linked(Kind::Internal, event.traceparent.as_deref(), cause, || format!("apply {}", event.kind));
        let traceparent = span.traceparent().or_else(|| event.traceparent.clone());
        let command = Command::Apply { event: Arc::clone(event), traceparent };
        match self.payments.send(payment, command).await? {
            Reply::Verdict(answer) => {
                self.remember_committed(&event.id, &answer).await?;
                Ok(answer)
            }
            Reply::State(_) | Reply::Answer { .. } => Err(PaymentError::Internal("not a verdict".to_owned())),
        }
    }

    /// An event may be for a payment that is on its way here. It is kept first and looked for once more afterwards: either
    /// this look sees the payment, or the payment, which looks for parked events after it is committed, sees the event.
    async fn park(&self, event: &Arc<ProviderEvent>, body: &str) -> Result<EventAnswer, PaymentError> {
        self.store.park_event(event, body, self.clock.now()).await?;
        if let Some(payment) = self.payment_of(event).await? {
            match self.apply(payment, event).await {
                Err(PaymentError::NotFound) => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    self.store.unpark_event(&event.id).await?;
                    return Ok(answer);
                }
            }
        }
        Ok(EventAnswer {
            verdict: Verdict::Parked,
            reason: "no payment of ours is known for it yet; it is applied when the payment appears".to_owned(),
            payment_id: None,
            status: None,
            version: None,
        })
    }

    async fn record(&self, event_id: &str, verdict: Verdict, reason: String) -> Result<EventAnswer, PaymentError> {
        if let Some(known) = self.store.load_answer(super::payment::EVENT_SCOPE, event_id).await?
            && let Some((_, body)) = known.answer
        {
            return duplicate_of(&body);
        }
        let answer = EventAnswer { verdict, reason, payment_id: None, status: None, version: None };
        let stored = event_answer(event_id, &answer, self.clock.now())?;
        self.committer
            .send(CommitVerdict(stored))
            .await
            .map_err(|error| PaymentError::Unavailable(error.to_string()))??;
        self.remember_committed(event_id, &answer).await?;
        Ok(answer)
    }

    /// Remembers an answer that Postgres has committed.
    async fn remember_committed(&self, event_id: &str, answer: &EventAnswer) -> Result<(), PaymentError> {
        let body = serde_json::to_string(answer).map_err(|error| PaymentError::Internal(error.to_string()))?;
        let duplicate = if answer.verdict == Verdict::Duplicate { answer.clone() } else { duplicate_of(&body)? };
        self.remember(event_id, &duplicate);
        if answer.verdict != Verdict::Duplicate {
            self.cache.store_answer(event_id, &body).await;
        }
        Ok(())
    }
}
