//! Loading, deciding, committing: one command's work on one payment.

use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::{Command, EventAnswer, PaymentError, Reply, Tools};
use crate::actors::committer::CommitMove;
use crate::domain::fact::Fact;
use crate::domain::ids::{MoveId, PaymentId};
use crate::domain::payment::change::Change;
use crate::domain::payment::decide::{Decision, Verdict};
use crate::domain::payment::evidence::Evidence;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::ProviderEvent;
use crate::domain::retry::{CHECK_PAYMENT, wait_after};
use crate::metrics::METRICS;
use crate::store::{Answer, Cause, ClaimedKey, Move, MoveOutcome};

/// How often a payment that another process keeps moving is decided anew before the caller is told.
pub(super) const DECISIONS: usize = 8;
/// How long the answer to an event is kept: longer than Stripe repeats and lists events.
const EVENT_ANSWER_DAYS: i64 = 35;
/// How long the answer to an operator's request is kept.
pub(super) const ORDER_ANSWER_HOURS: i64 = 24;
/// The scope of the keys of the provider's events.
pub const EVENT_SCOPE: &str = "stripe";

/// One command's work. `payment` is what the actor believes; `None` until it is loaded.
pub(super) struct Work {
    pub id: PaymentId,
    pub tools: Arc<Tools>,
    pub payment: Option<Payment>,
}

impl Work {
    pub async fn run(&mut self, command: Command) -> Result<Reply, PaymentError> {
        match command {
            Command::Open { fresh } => self.open(fresh).await,
            Command::Apply { event, traceparent } => self.take_in(&event, traceparent).await.map(Reply::Verdict),
            Command::Capture { amount_minor, order } => self.capture(amount_minor, order).await,
            Command::Cancel { order } => self.cancel(order).await,
            Command::Refund { amount_minor, reason, order } => self.refund(amount_minor, reason, order).await,
            Command::TakeUpParked => {
                self.take_up_parked().await?;
                Ok(Reply::State(Box::new(self.load().await?.clone())))
            }
            Command::Check => self.check().await,
            Command::Get => Ok(Reply::State(Box::new(self.load().await?.clone()))),
            #[cfg(test)]
            Command::Panic { times } => {
                use std::sync::atomic::Ordering::Relaxed;
                let again = times.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                assert!(!again, "told to panic");
                Ok(Reply::State(Box::new(self.load().await?.clone())))
            }
        }
    }

    /// What is believed, loaded first if need be.
    pub async fn load(&mut self) -> Result<&Payment, PaymentError> {
        if self.payment.is_none() {
            self.payment = self.tools.store.load_payment(self.id).await?;
        }
        self.payment.as_ref().ok_or(PaymentError::NotFound)
    }

    /// What Postgres says now: an order must not be refused for a state that another process has moved on from.
    pub async fn load_anew(&mut self) -> Result<&Payment, PaymentError> {
        self.payment = None;
        self.load().await
    }

    /// Applies an event. One that tells us our intent is followed by those that were parked for want of it.
    async fn take_in(
        &mut self,
        event: &Arc<ProviderEvent>,
        traceparent: Option<String>,
    ) -> Result<EventAnswer, PaymentError> {
        let had_intent = self.load().await?.intent_id.is_some();
        let answer = self.apply(event, traceparent).await?;
        if !had_intent && self.load().await?.intent_id.is_some() {
            self.take_up_parked().await?;
        }
        Ok(answer)
    }

    /// Applies an event, asking the provider where events alone cannot decide.
    pub async fn apply(
        &mut self,
        event: &Arc<ProviderEvent>,
        traceparent: Option<String>,
    ) -> Result<EventAnswer, PaymentError> {
        for _ in 0..DECISIONS {
            let before = self.load().await?.clone();
            let (evidence, decision) = self.judge(&before, event).await?;
            let (verdict, reason, change) = settled(decision)?;
            let after = change.as_ref().map_or(&before, |change| &change.after);
            let answer = EventAnswer {
                verdict,
                reason: reason.clone(),
                payment_id: Some(self.id.uuid()),
                status: Some(after.status),
                version: Some(after.version),
            };
            let cause = Cause {
                kind: event.kind.clone(),
                source: "webhook",
                event_id: Some(event.id.clone()),
                provider_created: Some(event.created),
                verdict,
                reason,
                evidence: Some(evidence),
                traceparent: traceparent.clone(),
            };
            let stored = event_answer(&event.id, &answer, self.tools.clock.now())?;
            match self.commit(&before, change, cause, Some(stored)).await? {
                MoveOutcome::Moved { .. } => return Ok(answer),
                MoveOutcome::KeyTaken => return self.duplicate(event).await,
                MoveOutcome::Conflict => {}
            }
        }
        Err(PaymentError::Contended)
    }

    /// Decides upon the event alone or, where that is not enough, upon the event and the provider's own view.
    async fn judge(&self, before: &Payment, event: &Arc<ProviderEvent>) -> Result<(Evidence, Decision), PaymentError> {
        let evidence = Evidence::Event { event: Arc::clone(event), answer: None };
        let decision = evidence.decide(before);
        if decision != Decision::AskProvider {
            return Ok((evidence, decision));
        }
        let intent = before.intent_id.as_deref().or(event.intent_id.as_deref()).ok_or(PaymentError::Contended)?;
        let answer = Some(Box::new(self.tools.stripe.retrieve_intent(intent).await?));
        let evidence = Evidence::Event { event: Arc::clone(event), answer };
        let decision = evidence.decide(before);
        Ok((evidence, decision))
    }

    async fn duplicate(&self, event: &ProviderEvent) -> Result<EventAnswer, PaymentError> {
        let known = self.tools.store.load_answer(EVENT_SCOPE, &event.id).await?;
        let body = known.and_then(|known| known.answer).map(|(_, body)| body).ok_or(PaymentError::Contended)?;
        duplicate_of(&body)
    }

    /// Asks the provider how it stands and takes that over; or opens it, if that never worked.
    pub async fn check(&mut self) -> Result<Reply, PaymentError> {
        for _ in 0..DECISIONS {
            // What waits for it since a crash comes first.
            self.take_up_parked().await?;
            let before = self.load().await?.clone();
            let intent = match before.intent_id.clone() {
                Some(intent) if before.status.is_open() || before.status.has_captured() => intent,
                None if wants_opening(&before) => return self.open(None).await,
                // Nothing more can come: without this, its lease would run out again and again.
                _ => return self.check_no_more(before).await,
            };
            let snapshot = match self.tools.stripe.retrieve_intent(&intent).await {
                Ok(snapshot) => snapshot,
                // The provider is away: the lease of this check is the wait until the next try.
                Err(error) if error.is_retryable() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(payment = %self.id, %error, "the provider does not show a payment");
                    return self.check_later(before).await;
                }
            };
            let evidence = Evidence::Intent(Box::new(snapshot));
            let (verdict, reason, change) = settled(evidence.decide(&before))?;
            if change.is_none() {
                return self.check_later(before).await;
            }
            let cause = Cause::of_provider("payment.checked", verdict, reason, evidence);
            if self.commit(&before, change, cause, None).await?.is_moved() {
                return Ok(Reply::State(Box::new(self.load().await?.clone())));
            }
        }
        Err(PaymentError::Contended)
    }

    async fn check_no_more(&mut self, payment: Payment) -> Result<Reply, PaymentError> {
        self.tools.store.schedule_check(&payment, None).await?;
        Ok(Reply::State(Box::new(payment)))
    }

    /// Nothing new: ask again by the schedule, and not for ever.
    async fn check_later(&mut self, mut payment: Payment) -> Result<Reply, PaymentError> {
        payment.checks += 1;
        let at = next_check(&payment, self.tools.clock.now());
        self.tools.store.schedule_check(&payment, at).await?;
        self.payment = Some(payment.clone());
        Ok(Reply::State(Box::new(payment)))
    }

    /// Takes back an early check that an order set for the case of a crash.
    pub async fn check_by_schedule(&mut self) -> Result<(), PaymentError> {
        let payment = self.load().await?.clone();
        let at = next_check(&payment, self.tools.clock.now());
        Ok(self.tools.store.schedule_check(&payment, at).await?)
    }

    /// Writes a decision, and believes it only if it was written.
    pub async fn commit(
        &mut self,
        before: &Payment,
        change: Option<Change>,
        cause: Cause,
        answer: Option<Answer>,
    ) -> Result<MoveOutcome, PaymentError> {
        let now = self.tools.clock.now();
        let flagged = change.as_ref().is_some_and(|change| change.after.flag != before.flag);
        let it = assemble(before, change, cause, answer, now);
        let (after, steps) = (it.after.clone(), it.steps.clone());
        // Until the committer has said yes, nothing is known. A verdict without a change leaves what was known.
        let known = self.payment.take();
        let outcome = self
            .tools
            .committer
            .send(CommitMove(Box::new(it)))
            .await
            .map_err(|error| PaymentError::Unavailable(error.to_string()))??;
        match outcome {
            MoveOutcome::Moved { .. } => {
                count(before, &after, &steps, flagged);
                self.payment = if steps.is_empty() { known } else { Some(after) };
            }
            MoveOutcome::KeyTaken | MoveOutcome::Conflict => {}
        }
        Ok(outcome)
    }
}

impl Cause {
    /// Something that the provider answered when we asked.
    pub(super) fn of_provider(kind: &str, verdict: Verdict, reason: String, evidence: Evidence) -> Self {
        Self {
            kind: kind.to_owned(),
            source: "provider",
            event_id: None,
            provider_created: None,
            verdict,
            reason,
            evidence: Some(evidence),
            traceparent: None,
        }
    }
}

/// A decision that has been made; asking twice would be a mistake of the rule.
pub(super) fn settled(decision: Decision) -> Result<(Verdict, String, Option<Change>), PaymentError> {
    match decision {
        Decision::Settled { verdict, reason, change } => Ok((verdict, reason, change.map(|change| *change))),
        Decision::AskProvider => Err(PaymentError::Internal("the rule asks the provider twice".to_owned())),
    }
}

fn assemble(
    before: &Payment,
    change: Option<Change>,
    cause: Cause,
    answer: Option<Answer>,
    now: OffsetDateTime,
) -> Move {
    let traceparent = cause.traceparent.clone();
    let base = Move {
        id: MoveId::at(now),
        at: now,
        expected_version: before.version,
        after: before.clone(),
        check_at: None,
        cause,
        gains_intent: false,
        steps: Vec::new(),
        lines: Vec::new(),
        refunds: Vec::new(),
        disputes: Vec::new(),
        facts: Vec::new(),
        answer,
    };
    let Some(change) = change else { return base };
    let mut after = change.after;
    after.updated_at = now;
    Move {
        check_at: next_check(&after, now),
        gains_intent: before.intent_id.is_none() && after.intent_id.is_some(),
        facts: change.facts.iter().map(|kind| Fact::of(before, &after, *kind, now, traceparent.clone())).collect(),
        steps: change.steps,
        lines: change.lines,
        refunds: change.refunds,
        disputes: change.disputes,
        after,
        ..base
    }
}

/// When a payment that is still open should ask the provider how it stands.
fn next_check(payment: &Payment, now: OffsetDateTime) -> Option<OffsetDateTime> {
    if !payment.status.is_open() {
        return None;
    }
    let wait = wait_after(CHECK_PAYMENT, u32::try_from(payment.checks).unwrap_or(u32::MAX), 0)?;
    Some(now + Duration::try_from(wait).unwrap_or(Duration::HOUR))
}

fn count(before: &Payment, after: &Payment, steps: &[crate::domain::payment::change::Step], flagged: bool) {
    for step in steps.iter().filter(|step| step.from != step.to) {
        METRICS.payment_transitions.with_label_values(&[step.from.as_str(), step.to.as_str()]).inc();
    }
    let currency = [after.currency.code()];
    let captured = u64::try_from(after.captured_minor - before.captured_minor).unwrap_or(0);
    METRICS.captured_minor.with_label_values(&currency).inc_by(captured);
    let refunded = u64::try_from(after.refunded_minor() - before.refunded_minor()).unwrap_or(0);
    METRICS.refunded_minor.with_label_values(&currency).inc_by(refunded);
    if after.disputed_minor() > before.disputed_minor() {
        METRICS.disputes_opened.inc();
    }
    if flagged {
        METRICS.payments_flagged.inc();
        tracing::warn!(payment = %after.id, flag = after.flag.as_deref(), "a payment is flagged for a person to look at");
    }
}

/// The stored form of an answer to an event.
pub fn event_answer(event_id: &str, answer: &EventAnswer, now: OffsetDateTime) -> Result<Answer, PaymentError> {
    Ok(Answer {
        key: ClaimedKey { scope: EVENT_SCOPE.to_owned(), key: event_id.to_owned(), fingerprint: [0; 32] },
        status: 200,
        body: serde_json::to_string(answer).map_err(|error| PaymentError::Internal(error.to_string()))?,
        expires_at: now + Duration::days(EVENT_ANSWER_DAYS),
    })
}

/// The answer to a repeated event, made from the one that was stored for it.
pub fn duplicate_of(stored: &str) -> Result<EventAnswer, PaymentError> {
    let first: EventAnswer = serde_json::from_str(stored).map_err(|error| PaymentError::Internal(error.to_string()))?;
    Ok(EventAnswer {
        reason: format!("handled before: {}, {}", first.verdict.as_str(), first.reason),
        verdict: Verdict::Duplicate,
        ..first
    })
}

/// The stored form of an answer to an operator.
pub(super) fn order_answer(key: ClaimedKey, status: i16, body: &str, now: OffsetDateTime) -> Answer {
    Answer { key, status, body: body.to_owned(), expires_at: now + Duration::hours(ORDER_ANSWER_HOURS) }
}

/// Whether the provider may still be asked to create this payment's intent.
pub fn wants_opening(payment: &Payment) -> bool {
    payment.client_secret.is_none()
        && matches!(payment.status, PaymentStatus::Initiated | PaymentStatus::Processing | PaymentStatus::Failed)
        && payment.flag.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_open_payment_asks_after_a_minute_then_five_then_an_hour_then_five_days_and_then_no_more() {
        let clock = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let mut payment = crate::actors::testing::new_payment(2500);
        let mut waits = Vec::new();
        while let Some(at) = next_check(&payment, clock.now()) {
            let wait = at - clock.now();
            waits.push(wait.whole_minutes());
            clock.advance_ms(i64::try_from(wait.whole_milliseconds()).unwrap());
            payment.checks += 1;
        }
        assert_eq!(waits, [1, 5, 60, 1440, 1440, 1440, 1440, 1440]);
        assert_eq!(clock.now() - OffsetDateTime::UNIX_EPOCH, Duration::minutes(66) + Duration::days(5));
    }

    #[test]
    fn a_payment_that_is_settled_asks_no_more() {
        for status in PaymentStatus::ALL.into_iter().filter(|status| !status.is_open()) {
            let payment = Payment { status, ..crate::actors::testing::new_payment(2500) };
            assert_eq!(next_check(&payment, Clock::System.now()), None, "{status:?}");
        }
    }
}
