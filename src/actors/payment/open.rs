//! Creating the intent with the provider: once, however often it is tried, because the payment's identifier is the
//! provider's idempotency key.

use std::sync::Arc;

use time::Duration;

use super::work::{DECISIONS, Work, settled, wants_opening};
use super::{PaymentError, Reply};
use crate::domain::payment::evidence::Evidence;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::IntentSnapshot;
use crate::gateways::error::GatewayError;
use crate::gateways::stripe::NewIntent;
use crate::gateways::stripe::event::{WebhookEvent, parse};
use crate::store::{Cause, MoveOutcome};
use crate::trace::{self, Current};

/// Stripe keeps idempotency keys for 24 hours at least; after this many hours the same key could create a second intent.
const KEY_LIFETIME_HOURS: i64 = 23;

impl Work {
    /// Creates the intent, unless there is one; then takes up events that came before it.
    pub async fn open(&mut self, fresh: Option<Box<Payment>>) -> Result<Reply, PaymentError> {
        if self.payment.is_none() {
            self.payment = fresh.map(|payment| *payment);
        }
        let payment = self.load().await?.clone();
        if !wants_opening(&payment) {
            // An earlier try may have ended between the commit of the intent and the events that waited for it.
            self.take_up_parked().await?;
            return Ok(Reply::State(Box::new(self.load().await?.clone())));
        }
        if self.tools.clock.now() - created_at(&payment) > Duration::hours(KEY_LIFETIME_HOURS) {
            self.give_up(&payment).await?;
            return Ok(Reply::State(Box::new(self.load().await?.clone())));
        }
        // Whoever tries again, be it a timer: it is the donor's request that is still being answered.
        let whose = payment.traceparent.clone().map(Current::of);
        match trace::within(whose, self.tools.stripe.create_intent(&new_intent(&payment))).await {
            Ok(snapshot) => {
                if self.opened(&snapshot).await? {
                    self.take_up_parked().await?;
                }
            }
            // A refusal is the provider's own word; a bare 404 is only something on the way to it.
            Err(GatewayError::Permanent { status, code, message, kind })
                if !matches!(status, 401 | 403) && (code.is_some() || kind.is_some()) =>
            {
                let refusal = code.unwrap_or(message);
                tracing::error!(payment = %self.id, refusal, "the provider refuses to open a payment");
                self.refused(&payment, &refusal).await?;
            }
            Err(error) => {
                tracing::warn!(payment = %self.id, %error, "a payment could not be opened; it is tried again");
                return Err(error.into());
            }
        }
        Ok(Reply::State(Box::new(self.load().await?.clone())))
    }

    /// Writes the intent down; returns whether events may have been parked for want of it.
    async fn opened(&mut self, snapshot: &IntentSnapshot) -> Result<bool, PaymentError> {
        for _ in 0..DECISIONS {
            let before = self.load().await?.clone();
            if before.client_secret.is_some() {
                return Ok(true);
            }
            let evidence =
                Evidence::Opened { intent_id: snapshot.id.clone(), client_secret: snapshot.client_secret.clone() };
            let (verdict, reason, change) = settled(evidence.decide(&before))?;
            let cause = Cause {
                traceparent: before.traceparent.clone(),
                ..Cause::of_provider("intent.created", verdict, reason, evidence)
            };
            if let MoveOutcome::Moved { has_parked } = self.commit(&before, change, cause, None).await? {
                return Ok(has_parked);
            }
        }
        Err(PaymentError::Contended)
    }

    async fn refused(&mut self, before: &Payment, refusal: &str) -> Result<(), PaymentError> {
        let reason = format!("the provider refuses to create the intent: {refusal}");
        self.close_unopened(before, PaymentStatus::Failed, reason).await
    }

    async fn give_up(&mut self, before: &Payment) -> Result<(), PaymentError> {
        let reason = format!("not opened within {KEY_LIFETIME_HOURS} hours");
        self.close_unopened(before, PaymentStatus::Canceled, reason).await
    }

    async fn close_unopened(
        &mut self,
        before: &Payment,
        target: PaymentStatus,
        reason: String,
    ) -> Result<(), PaymentError> {
        let evidence = Evidence::Unopened { target, reason };
        let (verdict, reason, change) = settled(evidence.decide(before))?;
        let cause = Cause::of_provider("intent.refused", verdict, reason, evidence);
        // On a conflict another process knows more; the next check looks again.
        self.commit(before, change, cause, None).await.map(drop)
    }

    /// Events that came before the payment was known are applied now, oldest first.
    pub async fn take_up_parked(&mut self) -> Result<(), PaymentError> {
        let Some(intent) = self.load().await?.intent_id.clone() else { return Ok(()) };
        for parked in self.tools.store.load_parked(&intent, self.id).await? {
            if let WebhookEvent::Known(event) = parse(parked.body.as_bytes()) {
                let event = Arc::new(event);
                let answer = self.apply(&event, event.traceparent.clone()).await?;
                tracing::info!(payment = %self.id, event = event.id, verdict = answer.verdict.as_str(), "unparked");
            }
            self.tools.store.unpark_event(&parked.event_id).await?;
        }
        Ok(())
    }
}

fn new_intent(payment: &Payment) -> NewIntent {
    NewIntent {
        payment_id: payment.id.uuid(),
        donation_id: payment.donation_id.uuid(),
        campaign_id: payment.campaign_id.uuid(),
        amount_minor: payment.amount_minor,
        currency: payment.currency,
        manual_capture: payment.manual_capture,
        description: None,
        traceparent: payment.traceparent.clone(),
    }
}

/// The payment's own age: identifiers are UUIDv7, which begin with the time of their making.
fn created_at(payment: &Payment) -> time::OffsetDateTime {
    let made = payment.id.uuid().get_timestamp().map(|stamp| stamp.to_unix());
    made.and_then(|(seconds, _)| i64::try_from(seconds).ok())
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(payment.updated_at)
}
