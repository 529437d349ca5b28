//! Operators' orders: refused by the state first, then done by the provider, then taken over like any news.
//!
//! A crash between the provider's effect and our commit loses nothing: its webhook brings the effect, and the same order
//! with the same key finds the provider's own idempotency. An outcome that is not known is never guessed; the payment is
//! checked soon.

use time::Duration;

use super::work::{DECISIONS, Work, order_answer, settled};
use super::{Order, PaymentError, Reply};
use crate::domain::payment::Payment;
use crate::domain::payment::evidence::Evidence;
use crate::store::{Cause, MoveOutcome};

/// When a payment whose outcome is not known is checked.
const CHECK_UNKNOWN_AFTER: Duration = Duration::seconds(10);

impl Work {
    pub async fn capture(&mut self, amount_minor: Option<i64>, order: Order) -> Result<Reply, PaymentError> {
        if let Some(replay) = self.replay(&order).await? {
            return Ok(replay);
        }
        let payment = self.load_anew().await?;
        let amount = payment.check_capture(amount_minor)?;
        let (intent, key) = (intent_of(payment)?, provider_key(payment, &order, "capture", amount));
        let done = self.tools.stripe.capture_intent(&intent, Some(amount), &key).await;
        let snapshot = self.known(done).await?;
        self.take_over("capture", 200, order, Evidence::Intent(Box::new(snapshot))).await
    }

    pub async fn cancel(&mut self, order: Order) -> Result<Reply, PaymentError> {
        if let Some(replay) = self.replay(&order).await? {
            return Ok(replay);
        }
        let payment = self.load_anew().await?;
        payment.check_cancel()?;
        let (intent, key) = (intent_of(payment)?, provider_key(payment, &order, "cancel", 0));
        let done = self.tools.stripe.cancel_intent(&intent, None, &key).await;
        let snapshot = self.known(done).await?;
        self.take_over("cancel", 200, order, Evidence::Intent(Box::new(snapshot))).await
    }

    pub async fn refund(
        &mut self,
        amount_minor: Option<i64>,
        reason: Option<String>,
        order: Order,
    ) -> Result<Reply, PaymentError> {
        if let Some(replay) = self.replay(&order).await? {
            return Ok(replay);
        }
        let payment = self.load_anew().await?;
        let amount = payment.check_refund(amount_minor)?;
        let (intent, key) = (intent_of(payment)?, provider_key(payment, &order, "refund", amount));
        let done = self.tools.stripe.create_refund(&intent, Some(amount), reason.as_deref(), &key).await;
        let refund = self.known(done).await?;
        self.take_over("refund", 201, order, Evidence::Refund(refund)).await
    }

    /// The stored answer, where this very request was answered before. Asked here, behind the actor's mailbox, so that
    /// the second of two equal requests sees what the first one committed.
    async fn replay(&self, order: &Order) -> Result<Option<Reply>, PaymentError> {
        let Some(key) = &order.key else { return Ok(None) };
        let Some(known) = self.tools.store.load_answer(&key.scope, &key.key).await? else { return Ok(None) };
        if known.fingerprint != key.fingerprint {
            return Err(PaymentError::KeyMismatch);
        }
        Ok(known.answer.map(|(_, body)| Reply::Answer { body, replayed: true }))
    }

    /// Where the provider's outcome is not known, the payment asks again soon by itself.
    async fn known<T>(&mut self, done: Result<T, crate::gateways::error::GatewayError>) -> Result<T, PaymentError> {
        if let Err(error) = &done
            && error.is_outcome_unknown()
        {
            tracing::warn!(payment = %self.id, %error, "the outcome of an order is not known; the payment is checked soon");
            let at = self.tools.clock.now() + CHECK_UNKNOWN_AFTER;
            let payment = self.load().await?.clone();
            self.tools.store.schedule_check(&payment, Some(at)).await?;
        }
        Ok(done?)
    }

    async fn take_over(
        &mut self,
        kind: &str,
        status: i16,
        order: Order,
        news: Evidence,
    ) -> Result<Reply, PaymentError> {
        for _ in 0..DECISIONS {
            let before = self.load().await?.clone();
            let (verdict, reason, change) = settled(news.decide(&before))?;
            let after = change.as_ref().map_or(&before, |change| &change.after);
            let now = self.tools.clock.now();
            let shown = Payment { updated_at: if change.is_some() { now } else { before.updated_at }, ..after.clone() };
            let body =
                serde_json::to_string(&shown.view()).map_err(|error| PaymentError::Internal(error.to_string()))?;
            let answer = order.key.clone().map(|key| order_answer(key, status, &body, now));
            let cause = Cause {
                source: "operator",
                traceparent: order.traceparent.clone(),
                ..Cause::of_provider(kind, verdict, format!("ordered by {}; {reason}", order.operator), news.clone())
            };
            match self.commit(&before, change, cause, answer).await? {
                MoveOutcome::Moved => return Ok(Reply::Answer { body, replayed: false }),
                MoveOutcome::KeyTaken => {
                    return self.replay(&order).await?.ok_or(PaymentError::Contended);
                }
                MoveOutcome::Conflict => {}
            }
        }
        Err(PaymentError::Contended)
    }
}

/// Without a key of the operator's, an order that is repeated before its first outcome is booked is the same order to the
/// provider, and one that is repeated afterwards is another.
fn provider_key(payment: &Payment, order: &Order, kind: &str, amount_minor: i64) -> String {
    let derived = || format!("{kind}-{}-{}-{amount_minor}", payment.id, payment.version);
    order.provider_key.clone().unwrap_or_else(derived)
}

fn intent_of(payment: &Payment) -> Result<String, PaymentError> {
    Ok(payment.intent_id.clone().ok_or(crate::domain::payment::command::Refusal::NotOpened)?)
}
