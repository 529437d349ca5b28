//! Operators' orders: refused by the state first, then done by the provider, then taken over like any news.
//!
//! A crash between the provider's effect and our commit loses nothing: its webhook or the payment's own check brings the
//! effect, and the same order with the same key is carried on under the provider's own idempotency key. An outcome that
//! is not known is never guessed; the payment is checked soon.

use time::Duration;

use super::work::{DECISIONS, ORDER_ANSWER_HOURS, Work, order_answer, settled};
use super::{Order, PaymentError, Reply};
use crate::domain::payment::Payment;
use crate::domain::payment::command::Refusal;
use crate::domain::payment::evidence::Evidence;
use crate::gateways::error::GatewayError;
use crate::store::idempotency::KnownKey;
use crate::store::{Cause, ClaimedKey, MoveOutcome};

/// When a payment whose outcome is not known is checked.
const CHECK_UNKNOWN_AFTER: Duration = Duration::seconds(10);

/// When a payment is checked whose order this process did not live to see answered.
const CHECK_UNANSWERED_AFTER: Duration = Duration::seconds(60);

/// The scope of the turns of orders without a key.
const TURN_SCOPE: &str = "turn";

/// An order that may be carried out.
struct Begun {
    intent: String,
    amount_minor: i64,
    provider_key: String,
    /// Held while an order without a key is carried out.
    turn: Option<ClaimedKey>,
}

impl Work {
    pub async fn capture(&mut self, amount_minor: Option<i64>, order: Order) -> Result<Reply, PaymentError> {
        let begun = match self.begin("capture", &order, |payment| payment.check_capture(amount_minor)).await? {
            Ok(begun) => begun,
            Err(replay) => return Ok(replay),
        };
        let stripe = &self.tools.stripe;
        let done = stripe.capture_intent(&begun.intent, Some(begun.amount_minor), &begun.provider_key).await;
        self.end("capture", 200, order, begun.turn, done.map(|it| Evidence::Intent(Box::new(it)))).await
    }

    pub async fn cancel(&mut self, order: Order) -> Result<Reply, PaymentError> {
        let begun = match self.begin("cancel", &order, |payment| payment.check_cancel().map(|()| 0)).await? {
            Ok(begun) => begun,
            Err(replay) => return Ok(replay),
        };
        let done = self.tools.stripe.cancel_intent(&begun.intent, None, &begun.provider_key).await;
        self.end("cancel", 200, order, begun.turn, done.map(|it| Evidence::Intent(Box::new(it)))).await
    }

    pub async fn refund(
        &mut self,
        amount_minor: Option<i64>,
        reason: Option<String>,
        order: Order,
    ) -> Result<Reply, PaymentError> {
        let begun = match self.begin("refund", &order, |payment| payment.check_refund(amount_minor)).await? {
            Ok(begun) => begun,
            Err(replay) => return Ok(replay),
        };
        let stripe = &self.tools.stripe;
        let (amount, key) = (Some(begun.amount_minor), &begun.provider_key);
        let done = stripe.create_refund(&begun.intent, amount, reason.as_deref(), key).await;
        self.end("refund", 201, order, begun.turn, done.map(Evidence::Refund)).await
    }

    /// Whether the order may be carried out; the inner error is the stored answer to the same order. The key and the
    /// payment's next check are written down before the provider is asked, so that a crash after that is found out about,
    /// and the same order afterwards is the same order.
    async fn begin(
        &mut self,
        kind: &str,
        order: &Order,
        check: impl Fn(&Payment) -> Result<i64, Refusal>,
    ) -> Result<Result<Begun, Reply>, PaymentError> {
        let known = self.known_key(order).await?;
        if let Some((_, body)) = known.as_ref().and_then(|known| known.answer.clone()) {
            return Ok(Err(Reply::Answer { body, replayed: true }));
        }
        // Begun before and not answered: the state may show its effect already, so it is not asked again.
        let begun_before = known.and_then(|known| known.ordered).and_then(|ordered| ordered.parse().ok());
        for _ in 0..DECISIONS {
            let payment = self.load_anew().await?.clone();
            let amount_minor = begun_before.map_or_else(|| check(&payment), Ok)?;
            let intent = payment.intent_id.clone().ok_or(Refusal::NotOpened)?;
            let provider_key = provider_key(&payment, order, kind, amount_minor);
            let (store, now) = (&self.tools.store, self.tools.clock.now());
            let mut turn = None;
            if let Some(key) = &order.key {
                let expires_at = now + Duration::hours(ORDER_ANSWER_HOURS);
                store.claim_key(key, self.id.uuid(), &amount_minor.to_string(), now, expires_at).await?;
            } else {
                // The turn may run out and be another's before we give it back: the mark tells them apart.
                let (scope, key, mark) = (TURN_SCOPE.to_owned(), provider_key.clone(), rand::random());
                let it = ClaimedKey { scope, key, fingerprint: mark };
                if !store.hold_key(&it, self.id.uuid(), now, now + CHECK_UNANSWERED_AFTER).await? {
                    return Err(PaymentError::UnderWay);
                }
                // The equal order of another process may have been booked before we held the turn: then this is another.
                if self.load_anew().await?.version != payment.version {
                    self.tools.store.release_key(&it).await?;
                    continue;
                }
                turn = Some(it);
            }
            self.tools.store.schedule_check(&payment, Some(now + CHECK_UNANSWERED_AFTER)).await?;
            return Ok(Ok(Begun { intent, amount_minor, provider_key, turn }));
        }
        Err(PaymentError::Contended)
    }

    /// Takes over what the provider did, and gives the turn back whatever it was.
    async fn end(
        &mut self,
        kind: &str,
        status: i16,
        order: Order,
        turn: Option<ClaimedKey>,
        done: Result<Evidence, GatewayError>,
    ) -> Result<Reply, PaymentError> {
        let reply = match self.known(&order, done).await {
            Ok(news) => self.take_over(kind, status, order, news).await,
            Err(error) => Err(error),
        };
        // Should this fail, the turn ends by itself, and what was done has its answer all the same.
        if let Some(turn) = turn
            && let Err(error) = self.tools.store.release_key(&turn).await
        {
            tracing::warn!(payment = %self.id, %error, "an order's turn was not given back and runs out by itself");
        }
        reply
    }

    /// What is known of the order's key. Asked here, behind the actor's mailbox, so that the second of two equal orders
    /// sees what the first one committed.
    async fn known_key(&self, order: &Order) -> Result<Option<KnownKey>, PaymentError> {
        let Some(key) = &order.key else { return Ok(None) };
        let known = self.tools.store.load_answer(&key.scope, &key.key).await?;
        if known.as_ref().is_some_and(|known| known.fingerprint != key.fingerprint) {
            return Err(PaymentError::KeyMismatch);
        }
        Ok(known)
    }

    /// The provider's answer. Where its outcome is not known, the payment asks again soon by itself and the key stays
    /// claimed; where nothing happened, the key is free again.
    async fn known<T>(&mut self, order: &Order, done: Result<T, GatewayError>) -> Result<T, PaymentError> {
        let Err(error) = &done else { return Ok(done?) };
        if error.is_outcome_unknown() {
            tracing::warn!(payment = %self.id, %error, "the outcome of an order is not known; the payment is checked soon");
            let at = self.tools.clock.now() + CHECK_UNKNOWN_AFTER;
            let payment = self.load().await?.clone();
            self.tools.store.schedule_check(&payment, Some(at)).await?;
        } else {
            if let Some(key) = &order.key {
                self.tools.store.release_key(key).await?;
            }
            self.check_by_schedule().await?;
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
            let is_news = change.is_some();
            let answer = order.key.clone().map(|key| order_answer(key, status, &body, now));
            let cause = Cause {
                source: "operator",
                traceparent: order.traceparent.clone(),
                ..Cause::of_provider(kind, verdict, format!("ordered by {}; {reason}", order.operator), news.clone())
            };
            match self.commit(&before, change, cause, answer).await? {
                MoveOutcome::Moved { .. } => {
                    if !is_news {
                        self.check_by_schedule().await?;
                    }
                    return Ok(Reply::Answer { body, replayed: false });
                }
                MoveOutcome::KeyTaken => {
                    let answer = self.known_key(&order).await?.and_then(|known| known.answer);
                    let (_, body) = answer.ok_or(PaymentError::Contended)?;
                    return Ok(Reply::Answer { body, replayed: true });
                }
                MoveOutcome::Conflict => {}
            }
        }
        Err(PaymentError::Contended)
    }
}

/// Without a key of the operator's, an order that is repeated before its first outcome is booked is the same order to the
/// provider, and one that is repeated afterwards is another. Of equal ones on several processes one has the turn; the others
/// are told so, since an answer of success to each would look like as many refunds.
fn provider_key(payment: &Payment, order: &Order, kind: &str, amount_minor: i64) -> String {
    let derived = || format!("{kind}-{}-{}-{amount_minor}", payment.id, payment.version);
    order.provider_key.clone().unwrap_or_else(derived)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::testing::World;

    #[test]
    fn a_turn_that_ran_out_and_is_anothers_by_now_is_given_back_by_that_one_alone() {
        actix_rt::System::new().block_on(async {
            let world = World::new().await;
            let store = &world.tools.store;
            let turn = |mark| ClaimedKey { scope: TURN_SCOPE.into(), key: "an order".into(), fingerprint: [mark; 32] };
            let (resource, now, minute) = (world.payment().await.id.uuid(), world.tools.clock.now(), Duration::MINUTE);
            let hold = async |mark, at| store.hold_key(&turn(mark), resource, at, at + minute).await.unwrap();
            assert!(hold(1, now).await);
            assert!(!hold(2, now + minute / 2).await, "it is held");
            assert!(hold(2, now + minute).await, "it ran out");
            store.release_key(&turn(1)).await.unwrap();
            assert!(!hold(3, now + minute).await, "it is another's");
            store.release_key(&turn(2)).await.unwrap();
            assert!(hold(3, now + minute).await);
        });
    }
}
