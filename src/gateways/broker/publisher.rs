//! Publishes batches of events with confirms, on a connection of its own that it opens when needed and opens again when lost.
//!
//! Deliberately absent: what to do with a message that was not published. The outbox knows.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use lapin::ConnectionStatus;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::gateways::broker::batch::{self, MAX_PUBLISH_BATCH, Outgoing, PublishOutcome};
use crate::gateways::broker::link::{Link, answer};
use crate::gateways::broker::outage::Outage;
use crate::gateways::broker::{BrokerError, BrokerSettings};

const CONNECTION_NAME: &str = "careforall publisher";

/// The way out to RabbitMQ. Share one: batches are sent one after the other.
pub struct Publisher {
    settings: BrokerSettings,
    status: RwLock<ConnectionStatus>,
    state: Mutex<State>,
}

struct State {
    session: Option<Session>,
    outage: Outage,
    retry_at: Option<Instant>,
    closed: bool,
}

impl Publisher {
    /// A publisher that is not connected yet; the first batch connects it.
    pub fn new(settings: BrokerSettings) -> Self {
        let state = State { session: None, outage: Outage::new("publisher"), retry_at: None, closed: false };
        Self { settings, status: RwLock::default(), state: Mutex::new(state) }
    }

    /// Whether a batch would go out now, as far as we know: connected, and not blocked by a broker short of memory or disk.
    pub fn connected(&self) -> bool {
        let status = self.status.read().unwrap_or_else(PoisonError::into_inner);
        status.connected() && !status.blocked()
    }

    /// Connects and declares the topology, unless connected.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] at once while waiting after a failure; otherwise why this attempt failed.
    pub async fn connect(&self) -> Result<(), BrokerError> {
        let mut state = self.state.lock().await;
        let session = self.session(&mut state).await?;
        state.session = Some(session);
        Ok(())
    }

    /// Publishes up to [`MAX_PUBLISH_BATCH`] messages in order and answers once each has its outcome, in the batch's order.
    /// It takes 5 seconds without a sign from the broker at most, 15 in all, beside connecting.
    ///
    /// # Errors
    /// An error means that nothing of the batch was sent.
    pub async fn publish_batch(&self, batch: &[Outgoing]) -> Result<Vec<PublishOutcome>, BrokerError> {
        if batch.len() > MAX_PUBLISH_BATCH {
            return Err(BrokerError::BatchTooLarge { len: batch.len(), max: MAX_PUBLISH_BATCH });
        }
        let mut state = self.state.lock().await;
        // Taken out of the state: a caller that goes away in the middle takes the half-settled channel with it.
        let mut session = self.session(&mut state).await?;
        let outcomes = session.publish(&self.settings, batch).await;
        if outcomes.contains(&PublishOutcome::Unknown) {
            state.failed(&BrokerError::Lost("no confirm from the broker".to_owned()));
        } else {
            state.outage.over();
            state.session = Some(session);
        }
        Ok(outcomes)
    }

    /// Closes the connection; the publisher refuses every batch from then on.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        if let Some(session) = state.session.take() {
            session.link.close().await;
        }
    }

    async fn session(&self, state: &mut State) -> Result<Session, BrokerError> {
        if state.closed {
            return Err(BrokerError::Closed);
        }
        if let Some(session) = state.session.take().filter(|session| session.link.alive()) {
            return Ok(session);
        }
        state.wait_is_over()?;
        let session = Session::open(&self.settings).await.inspect_err(|error| state.failed(error))?;
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = session.link.status();
        Ok(session)
    }
}

impl State {
    fn failed(&mut self, error: &BrokerError) {
        self.retry_at = Some(Instant::now() + self.outage.failed(error));
    }

    fn wait_is_over(&self) -> Result<(), BrokerError> {
        let left = self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        match u64::try_from(left.as_millis()).unwrap_or(u64::MAX) {
            0 => Ok(()),
            retry_in_ms => Err(BrokerError::Unavailable { retry_in_ms }),
        }
    }
}

struct Session {
    link: Link,
    proven: bool,
}

impl Session {
    async fn open(settings: &BrokerSettings) -> Result<Self, BrokerError> {
        let link = Link::open(settings, CONNECTION_NAME).await?;
        answer(link.channel().confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { link, proven: false })
    }

    /// The first message of a new connection goes alone: a broker short of memory lets us connect, takes what fits into its
    /// socket and confirms nothing until it recovers. This way each attempt leaves one message there to arrive twice, not a batch.
    async fn publish(&mut self, settings: &BrokerSettings, batch: &[Outgoing]) -> Vec<PublishOutcome> {
        let (probe, rest) = batch.split_at(if self.proven { 0 } else { batch.len().min(1) });
        let mut outcomes = batch::publish(self.link.channel(), settings.topology(), probe).await;
        if outcomes.contains(&PublishOutcome::Unknown) {
            outcomes.resize(batch.len(), PublishOutcome::Unknown);
            return outcomes;
        }
        self.proven |= !outcomes.is_empty();
        outcomes.extend(batch::publish(self.link.channel(), settings.topology(), rest).await);
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lapin::options::QueueDeclareOptions;
    use lapin::types::{AMQPValue, FieldTable, LongString};

    use super::*;
    use crate::gateways::broker::stage::{Proxy, Stage, event, eventually};
    use crate::gateways::topology::{ConsumerQueue, Exchange};

    fn events(count: usize) -> Vec<Outgoing> {
        (0..count).map(|_| event("payment.authorized")).collect()
    }

    fn ids(batch: &[Outgoing]) -> Vec<uuid::Uuid> {
        batch.iter().map(|message| message.message_id).collect()
    }

    async fn audited(stage: &Stage) -> Vec<uuid::Uuid> {
        stage.drain(&stage.topology.queue(ConsumerQueue::Audit)).await.into_iter().map(|message| message.1).collect()
    }

    #[actix::test]
    async fn a_batch_arrives_in_order() {
        Stage::run(async |stage| {
            let publisher = Publisher::new(stage.settings());
            assert!(!publisher.connected());
            let batch = events(MAX_PUBLISH_BATCH);
            for half in batch.chunks(MAX_PUBLISH_BATCH / 2) {
                let outcomes = publisher.publish_batch(half).await.unwrap();
                assert_eq!(outcomes, vec![PublishOutcome::Published; half.len()]);
            }
            assert!(publisher.connected());
            assert_eq!(audited(stage).await, ids(&batch));
            publisher.close().await;
            assert!(!publisher.connected());
            assert!(matches!(publisher.publish_batch(&batch).await, Err(BrokerError::Closed)));
        })
        .await;
    }

    #[actix::test]
    async fn an_unroutable_message_in_a_batch_is_exactly_that_one() {
        Stage::run(async |stage| {
            let mut batch: Vec<_> = (0..100).map(|_| event("payment.completed")).collect();
            let mut expected = vec![PublishOutcome::Published; batch.len()];
            for lost in [0, 37, 38, 99] {
                batch[lost].routing_key = "payment.unheard_of".to_owned();
                expected[lost] = PublishOutcome::Unroutable;
            }
            batch[60].routing_key = "x".repeat(256);
            expected[60] = PublishOutcome::Unroutable;
            let publisher = Publisher::new(stage.settings());
            publisher.connect().await.unwrap();
            let (audit, payments) =
                (stage.topology.queue(ConsumerQueue::Audit), stage.topology.exchange(Exchange::Payments));
            stage
                .channel()
                .await
                .queue_unbind(audit.into(), payments.into(), "#".into(), FieldTable::default())
                .await
                .unwrap();
            assert_eq!(publisher.publish_batch(&batch).await.unwrap(), expected);
            assert_eq!(publisher.publish_batch(&batch).await.unwrap(), expected);
            publisher.close().await;
        })
        .await;
    }

    #[actix::test]
    async fn a_full_queue_refuses() {
        Stage::run(async |stage| {
            let channel = stage.channel().await;
            let mut arguments = FieldTable::default();
            arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
            arguments.insert("x-overflow".into(), AMQPValue::LongString(LongString::from("reject-publish")));
            let full = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), arguments).await.unwrap();
            let payments = stage.topology.exchange(Exchange::Payments);
            let bind = channel.queue_bind(
                full.name().clone(),
                payments.into(),
                "#".into(),
                Default::default(),
                Default::default(),
            );
            bind.await.unwrap();
            let publisher = Publisher::new(stage.settings());
            let outcomes = publisher.publish_batch(&events(3)).await.unwrap();
            assert_eq!(outcomes, [PublishOutcome::Published, PublishOutcome::Nacked, PublishOutcome::Nacked]);
            publisher.close().await;
        })
        .await;
    }

    #[actix::test]
    async fn without_a_broker_it_answers_at_once_until_the_next_attempt_is_due() {
        let settings = BrokerSettings::parse("amqp://u:p@127.0.0.1:1/%2f", Default::default()).unwrap();
        let publisher = Publisher::new(settings);
        assert!(matches!(publisher.publish_batch(&events(1)).await, Err(BrokerError::Unreachable { .. })));
        assert!(matches!(publisher.publish_batch(&events(1)).await, Err(BrokerError::Unavailable { .. })));
        eventually("a second attempt", async || {
            matches!(publisher.connect().await, Err(BrokerError::Unreachable { .. }))
        })
        .await;
    }

    #[actix::test]
    async fn a_batch_beyond_the_bound_is_refused() {
        let settings = BrokerSettings::parse("amqp://u:p@127.0.0.1:1/%2f", Default::default()).unwrap();
        let refused = Publisher::new(settings).publish_batch(&events(MAX_PUBLISH_BATCH + 1)).await;
        assert!(matches!(refused, Err(BrokerError::BatchTooLarge { len: 501, max: 500 })));
    }

    /// Publishes `batch` as the outbox does: whatever is not published goes again.
    async fn publish_all(publisher: &Publisher, mut batch: Vec<Outgoing>) {
        eventually("all published", async || {
            if let Ok(outcomes) = publisher.publish_batch(&batch).await {
                let mut outcomes = outcomes.into_iter();
                batch.retain(|_| outcomes.next() != Some(PublishOutcome::Published));
            }
            batch.is_empty()
        })
        .await;
    }

    #[actix::test]
    async fn nothing_is_lost_when_the_connection_is_cut() {
        Stage::run(async |stage| {
            let proxy = Proxy::start().await;
            let publisher = Publisher::new(proxy.settings(stage));
            let batches: Vec<_> = (0..6).map(|_| events(200)).collect();
            for (round, batch) in batches.iter().enumerate() {
                let cut_and_mend = async {
                    if round % 2 == 1 {
                        tokio::task::yield_now().await;
                        proxy.cut();
                        // How long the outage lasts; nothing is waited for.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        proxy.mend();
                    }
                };
                futures::join!(publish_all(&publisher, batch.clone()), cut_and_mend);
            }
            let arrived: HashSet<_> = audited(stage).await.into_iter().collect();
            assert_eq!(arrived, batches.iter().flat_map(|batch| ids(batch)).collect());
            publisher.close().await;
        })
        .await;
    }

    #[actix::test]
    async fn a_silent_broker_makes_the_batch_unknown_and_is_found_again() {
        Stage::run(async |stage| {
            let proxy = Proxy::start().await;
            let publisher = Publisher::new(proxy.settings(stage));
            publisher.connect().await.unwrap();
            proxy.freeze();
            let batch = events(20);
            assert_eq!(publisher.publish_batch(&batch).await.unwrap(), [PublishOutcome::Unknown; 20]);
            eventually("seen as away", async || !publisher.connected()).await;
            proxy.mend();
            publish_all(&publisher, batch.clone()).await;
            let arrived: HashSet<_> = audited(stage).await.into_iter().collect();
            assert_eq!(arrived, ids(&batch).into_iter().collect());
            publisher.close().await;
        })
        .await;
    }

    #[actix::test]
    async fn a_caller_that_goes_away_in_the_middle_harms_no_later_batch() {
        Stage::run(async |stage| {
            let publisher = Publisher::new(stage.settings());
            publisher.connect().await.unwrap();
            let abandoned = events(100);
            let mut publishing = Box::pin(publisher.publish_batch(&abandoned));
            let _ = futures::poll!(publishing.as_mut());
            drop(publishing);
            let batch = events(100);
            assert_eq!(publisher.publish_batch(&batch).await.unwrap(), [PublishOutcome::Published; 100]);
            publisher.close().await;
        })
        .await;
    }
}
