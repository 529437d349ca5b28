//! Consumes one queue for ever, or this process's own copy of the news: one session after another, with a growing wait between them when the broker is away.
//!
//! Deliberately absent: recognising second deliveries. The handler's own transaction does that by `message_id`.

use std::future::Future;

use tokio::sync::watch;

use crate::gateways::broker::outage::Outage;
use crate::gateways::broker::session::{Delivery, Reads, Session, pause, requested};
use crate::gateways::broker::settlement::Settle;
use crate::gateways::broker::{BrokerError, BrokerSettings};
use crate::gateways::topology::ConsumerQueue;

/// A consumer of one queue.
#[derive(Debug)]
pub struct Consumer {
    settings: BrokerSettings,
    reads: Reads,
    connected: watch::Sender<bool>,
}

impl Consumer {
    /// A consumer that does nothing until [`Consumer::run`].
    pub fn new(settings: BrokerSettings, queue: ConsumerQueue) -> Self {
        Self { settings, reads: Reads::Shared(queue), connected: watch::Sender::new(false) }
    }

    /// A consumer of this process's own copy of every fact that changes totals, from when it is connected to when it is not:
    /// what happens in between is not delivered later.
    pub fn of_news(settings: BrokerSettings) -> Self {
        Self { settings, reads: Reads::News, connected: watch::Sender::new(false) }
    }

    /// Shows whether deliveries flow at present.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Hands batches of deliveries to `handler` until `shutdown` turns true or its sender is gone. The handler answers one [`Settle`]
    /// for each delivery, in their order. It is called again only after it has answered; deliveries come at least once and in any order.
    ///
    /// At shutdown the batch in the handler has 10 seconds to finish and be settled; what is waiting behind it goes back to the queue.
    /// A handler that panics takes the consumer with it.
    pub async fn run<H, F>(self, handler: H, shutdown: watch::Receiver<bool>)
    where
        H: Fn(Vec<Delivery>) -> F,
        F: Future<Output = Vec<Settle>>,
    {
        let mut outage = Outage::new(self.reads.subject(&self.settings));
        while !*shutdown.borrow() {
            let session = tokio::select! {
                biased;
                () = requested(&shutdown) => return,
                session = Session::open(&self.settings, self.reads) => session,
            };
            let ended = match session {
                Ok(session) => self.consume(session, &handler, &shutdown, &mut outage).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            if pause(outage.failed(&error), &shutdown).await {
                return;
            }
        }
    }

    async fn consume<H, F>(
        &self,
        mut session: Session,
        handler: &H,
        shutdown: &watch::Receiver<bool>,
        outage: &mut Outage,
    ) -> Result<(), BrokerError>
    where
        H: Fn(Vec<Delivery>) -> F,
        F: Future<Output = Vec<Settle>>,
    {
        outage.over();
        self.connected.send_replace(true);
        let ended = session.run(handler, shutdown).await;
        self.connected.send_replace(false);
        if ended.is_ok() {
            session.close().await;
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;
    use std::rc::Rc;

    use tokio::task::JoinHandle;
    use uuid::Uuid;

    use super::*;
    use crate::gateways::broker::Outgoing;
    use crate::gateways::broker::dead_letters::{self, DeadLetter, Letters};
    use crate::gateways::broker::stage::{Proxy, Stage, event, eventually};

    /// A running consumer of the audit queue that remembers what it was given.
    struct Running {
        seen: Rc<RefCell<Vec<Delivery>>>,
        connected: watch::Receiver<bool>,
        shutdown: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    impl Running {
        /// `judge` gets a delivery and how many were seen before it.
        fn start(settings: BrokerSettings, judge: impl Fn(&Delivery, usize) -> Settle + 'static) -> Self {
            Self::of(Consumer::new(settings, ConsumerQueue::Audit), judge)
        }

        fn of(consumer: Consumer, judge: impl Fn(&Delivery, usize) -> Settle + 'static) -> Self {
            let (seen, connected, shutdown) =
                (Rc::new(RefCell::new(Vec::new())), consumer.connected(), watch::Sender::new(false));
            let (memory, requested) = (Rc::clone(&seen), shutdown.subscribe());
            let task = actix::spawn(async move {
                let handler = |batch: Vec<Delivery>| {
                    let before = memory.borrow().len();
                    let verdicts = batch.iter().zip(before..).map(|(delivery, nth)| judge(delivery, nth)).collect();
                    memory.borrow_mut().extend(batch);
                    std::future::ready(verdicts)
                };
                consumer.run(handler, requested).await;
            });
            Self { seen, connected, shutdown, task }
        }

        fn ids(&self) -> HashSet<Uuid> {
            self.seen.borrow().iter().filter_map(|delivery| delivery.message_id).collect()
        }

        fn times(&self, id: Uuid) -> usize {
            self.seen.borrow().iter().filter(|delivery| delivery.message_id == Some(id)).count()
        }

        async fn stop(self) {
            self.shutdown.send_replace(true);
            self.task.await.unwrap();
            assert!(!*self.connected.borrow());
        }
    }

    fn events(count: usize) -> Vec<Outgoing> {
        (0..count).map(|_| event("payment.authorized")).collect()
    }

    fn ids(batch: &[Outgoing]) -> HashSet<Uuid> {
        batch.iter().map(|message| message.message_id).collect()
    }

    async fn dead(stage: &Stage) -> u32 {
        let counts = dead_letters::counts(&stage.settings()).await.unwrap();
        counts.into_iter().find(|(queue, _)| *queue == ConsumerQueue::Audit).unwrap().1
    }

    #[actix::test]
    async fn what_is_published_is_delivered_and_forgotten_once_acknowledged() {
        Stage::run(async |stage| {
            let batch = events(600);
            for part in batch.chunks(300) {
                stage.publish(part).await;
            }
            let running = Running::start(stage.settings(), |_, _| Settle::Ack);
            eventually("all delivered", async || running.ids() == ids(&batch)).await;
            assert!(*running.connected.borrow());
            let first = running.seen.borrow()[0].clone();
            assert_eq!(first.routing_key, "payment.authorized");
            assert_eq!(&*first.body, batch[0].body.as_slice());
            assert_eq!(first.traceparent, batch[0].traceparent);
            assert_eq!((first.redelivered, first.delivery_count), (false, 0));
            running.stop().await;
            assert_eq!(stage.waiting(&stage.topology.queue(ConsumerQueue::Audit)).await, 0);
        })
        .await;
    }

    #[actix::test]
    async fn poison_ends_as_a_dead_letter_and_its_neighbours_do_not() {
        Stage::run_with_delivery_limit(3, async |stage| {
            let batch = events(9);
            let poison = batch[4].message_id;
            stage.publish(&batch).await;
            let judge = move |delivery: &Delivery, _| {
                if delivery.message_id == Some(poison) { Settle::Retry } else { Settle::Ack }
            };
            let running = Running::start(stage.settings(), judge);
            eventually("one dead letter", async || dead(stage).await == 1).await;
            eventually("the neighbours", async || running.ids() == ids(&batch)).await;
            assert_eq!(running.times(poison), 4);
            assert_eq!(running.seen.borrow().len(), 12);
            running.stop().await;
            let dead_letters = stage.drain(&stage.topology.dead_letter_queue(ConsumerQueue::Audit)).await;
            assert_eq!(dead_letters[0].1, poison);
        })
        .await;
    }

    #[actix::test]
    async fn a_dead_letter_can_be_put_back_as_it_was_or_dropped() {
        Stage::run(async |stage| {
            let batch = events(3);
            stage.publish(&batch).await;
            let running =
                Running::start(stage.settings(), |_, nth| if nth < 3 { Settle::DeadLetter } else { Settle::Ack });
            eventually("three dead letters", async || dead(stage).await == 3).await;
            assert_eq!(running.seen.borrow().len(), 3);
            let (settings, queue) = (stage.settings(), ConsumerQueue::Audit);
            let shown = dead_letters::list(&settings, queue, 9).await.unwrap();
            assert_eq!(shown.iter().map(|it| it.message_id.unwrap()).collect::<HashSet<_>>(), ids(&batch));
            assert!(shown.iter().all(|it| it.reason.as_deref() == Some("rejected") && it.deaths == 1));
            assert!(shown.iter().all(|it| it.died_at.is_some() && it.body == batch[0].body));
            eventually("they are where they were", async || dead(stage).await == 3).await;
            assert_eq!(dead_letters::list(&settings, queue, 1).await.unwrap()[0].message_id, shown[0].message_id);
            eventually("they are where they were", async || dead(stage).await == 3).await;
            let oldest = dead_letters::replay(&settings, queue, Letters::Oldest(1)).await.unwrap();
            // Which of them is the oldest after somebody looked is the broker's affair.
            let [replayed] = oldest.ids[..] else { panic!("{oldest:?}") };
            let mut others = shown.iter().map(|it| it.message_id.unwrap()).filter(|id| *id != replayed);
            let (left, last) = (others.next(), others.next().unwrap());
            let done = dead_letters::replay(&settings, queue, Letters::These(&[last, Uuid::nil()])).await.unwrap();
            assert_eq!((done.count, done.ids), (1, vec![last]));
            eventually("two again", async || running.seen.borrow().len() == 5).await;
            let seen = running.seen.borrow().clone();
            let first = seen[..3].iter().find(|it| it.message_id == seen[3].message_id);
            assert_eq!(first, Some(&seen[3]));
            running.stop().await;
            let refused = async |_: &DeadLetter| Err("no room".to_owned());
            let error = dead_letters::discard(&settings, queue, Letters::Oldest(9), refused).await.unwrap_err();
            assert!(matches!(error, BrokerError::NotKept(_)), "{error}");
            eventually("what could not be kept stays", async || dead(stage).await == 1).await;
            let kept = RefCell::new(Vec::new());
            let keep = async |letter: &DeadLetter| {
                kept.borrow_mut().push((letter.message_id, letter.body.clone()));
                Ok(())
            };
            assert_eq!(dead_letters::discard(&settings, queue, Letters::Oldest(9), keep).await.unwrap().count, 1);
            assert_eq!(*kept.borrow(), [(left, batch[0].body.clone())]);
            assert_eq!(dead(stage).await, 0);
        })
        .await;
    }

    #[actix::test]
    async fn a_held_delivery_comes_again_without_counting() {
        Stage::run_with_delivery_limit(1, async |stage| {
            let batch = events(3);
            let held = batch[1].message_id;
            stage.publish(&batch).await;
            let holds = Cell::new(3);
            let judge = move |delivery: &Delivery, _| match holds.get() {
                left if left > 0 && delivery.message_id == Some(held) => {
                    holds.set(left - 1);
                    Settle::Hold
                }
                _ => Settle::Ack,
            };
            let running = Running::start(stage.settings(), judge);
            eventually("held, then taken", async || running.times(held) == 4 && running.ids() == ids(&batch)).await;
            assert_eq!(running.seen.borrow().len(), 6);
            assert!(running.seen.borrow().iter().all(|delivery| delivery.delivery_count == 0 && !delivery.redelivered));
            running.stop().await;
            assert_eq!(stage.waiting(&stage.topology.queue(ConsumerQueue::Audit)).await, 0);
            assert_eq!(dead(stage).await, 0);
        })
        .await;
    }

    #[actix::test]
    async fn nothing_is_lost_when_the_connection_is_cut() {
        Stage::run(async |stage| {
            let proxy = Proxy::start().await;
            proxy.cut();
            let mut running = Running::start(proxy.settings(stage), |_, _| Settle::Ack);
            let mut published = HashSet::new();
            for _ in 0..3 {
                proxy.mend();
                running.connected.wait_for(|connected| *connected).await.unwrap();
                let batch = events(400);
                published.extend(ids(&batch));
                stage.publish(&batch).await;
                proxy.cut();
                running.connected.wait_for(|connected| !*connected).await.unwrap();
            }
            proxy.mend();
            eventually("all delivered", async || running.ids() == published).await;
            running.stop().await;
        })
        .await;
    }

    #[actix::test]
    async fn news_reach_every_process_and_nothing_of_them_is_left_at_the_broker() {
        Stage::run(async |stage| {
            let start = || Running::of(Consumer::of_news(stage.settings()), |_, _| Settle::Ack);
            let mut replicas = [start(), start()];
            for replica in &mut replicas {
                replica.connected.wait_for(|connected| *connected).await.unwrap();
            }
            let news = ["payment.completed", "payment.refunded"].map(event);
            let other = [event("payment.authorized"), event("donation.created")];
            stage.publish(&other).await;
            stage.publish(&news).await;
            for replica in &replicas {
                eventually("heard", async || replica.ids() == ids(&news)).await;
            }
            for replica in replicas {
                replica.stop().await;
            }
            // Whoever comes later hears what happens later.
            let mut late = start();
            late.connected.wait_for(|connected| *connected).await.unwrap();
            let last = [event("payment.dispute_opened")];
            stage.publish(&last).await;
            eventually("heard", async || late.ids() == ids(&last)).await;
            late.stop().await;
        })
        .await;
    }

    #[actix::test]
    async fn a_deleted_queue_is_made_again() {
        Stage::run(async |stage| {
            let mut running = Running::start(stage.settings(), |_, _| Settle::Ack);
            running.connected.wait_for(|connected| *connected).await.unwrap();
            let audit = stage.topology.queue(ConsumerQueue::Audit);
            stage.channel().await.queue_delete(audit.into(), Default::default()).await.unwrap();
            running.connected.wait_for(|connected| !*connected).await.unwrap();
            running.connected.wait_for(|connected| *connected).await.unwrap();
            let batch = events(1);
            stage.publish(&batch).await;
            eventually("delivered", async || running.ids() == ids(&batch)).await;
            running.stop().await;
        })
        .await;
    }

    #[actix::test]
    async fn shutdown_lets_the_batch_in_hand_finish() {
        Stage::run(async |stage| {
            let batch = events(5);
            stage.publish(&batch).await;
            let consumer = Consumer::new(stage.settings(), ConsumerQueue::Audit);
            let (shutdown, in_hand) = (watch::Sender::new(false), watch::Sender::new(0));
            let handler = async |batch: Vec<Delivery>| {
                in_hand.send_modify(|count| *count += batch.len());
                requested(&shutdown.subscribe()).await;
                tokio::task::yield_now().await;
                vec![Settle::Ack; batch.len()]
            };
            let ask = async {
                in_hand.subscribe().wait_for(|count| *count > 0).await.unwrap();
                shutdown.send_replace(true);
            };
            futures::join!(consumer.run(handler, shutdown.subscribe()), ask);
            let audit = stage.topology.queue(ConsumerQueue::Audit);
            let left = batch.len() - *in_hand.borrow();
            eventually("the rest is back", async || stage.waiting(&audit).await as usize == left).await;
        })
        .await;
    }

    #[actix::test]
    async fn shutdown_ends_a_consumer_that_waits_for_the_broker_or_holds() {
        let away = BrokerSettings::parse("amqp://u:p@127.0.0.1:1/%2f", Default::default()).unwrap();
        Running::start(away, |_, _| Settle::Ack).stop().await;
        Stage::run(async |stage| {
            stage.publish(&events(1)).await;
            let running = Running::start(stage.settings(), |_, _| Settle::Hold);
            eventually("held", async || !running.seen.borrow().is_empty()).await;
            running.stop().await;
            let audit = stage.topology.queue(ConsumerQueue::Audit);
            eventually("given back", async || stage.waiting(&audit).await == 1).await;
        })
        .await;
    }
}
