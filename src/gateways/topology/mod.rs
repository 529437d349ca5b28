//! What stands inside RabbitMQ: exchanges, queues, dead letters and bindings, as data in one place.
//!
//! [`Topology::declare`] makes it over AMQP, [`Topology::definitions_json`] writes it for `rabbitmqctl import_definitions`
//! (`deploy/rabbitmq/definitions.json`), both from the same lists. It works on RabbitMQ 3.10 and on 4.x.
//!
//! The exclusive queue by which each process hears of stale totals is in neither: it belongs to one connection, which makes it
//! anew each time ([`Topology::declare_news`]); 4.x refuses transient queues that are not exclusive. Deliberately absent: users,
//! permissions and policies.

mod spec;

use lapin::{Channel, ExchangeKind};
use serde_json::json;
use uuid::Uuid;

pub use spec::TopologyError;
use spec::{Argument, BindingSpec, ExchangeSpec, QueueSpec};

/// Returns to a queue after which a message is poison. RabbitMQ 4's own default, written out because 3.10 has none.
pub const DELIVERY_LIMIT: u32 = 20;
/// Messages a queue may hold before it refuses more; about 1 GB of events, hours of a spike with no consumer.
pub const QUEUE_MAX_LENGTH: u32 = 1_000_000;
/// Dead letters kept for an operator before the source queue holds on to further ones itself.
pub const DEAD_LETTER_MAX_LENGTH: u32 = 100_000;
/// Facts that wait for a process which does not keep up; by then all that it remembers of totals has expired.
pub const NEWS_MAX_LENGTH: u32 = 10_000;
/// Dead letters are looked at and put back; RabbitMQ 4 would drop them after 20 looks, and 3.10 knows no "without limit".
const DEAD_LETTER_DELIVERY_LIMIT: u32 = 1_000_000;

/// The topic exchanges to which facts are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// `donations.events`, for `donation.*`.
    Donations,
    /// `payments.events`, for `payment.*`.
    Payments,
}

impl Exchange {
    const ALL: [Self; 2] = [Self::Donations, Self::Payments];

    /// Its name without a prefix.
    pub const fn base_name(self) -> &'static str {
        match self {
            Self::Donations => "donations.events",
            Self::Payments => "payments.events",
        }
    }
}

/// The durable queues, one for each kind of consumer; replicas of the program share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsumerQueue {
    /// `totals.queue`: whatever moves money in a campaign.
    Totals,
    /// `notifications.queue`: every fact that there is, because partners subscribe to any of them.
    Notifications,
    /// `audit.queue`: everything.
    Audit,
}

impl ConsumerQueue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Totals, Self::Notifications, Self::Audit];

    /// Its name, without any prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Totals => "totals.queue",
            Self::Notifications => "notifications.queue",
            Self::Audit => "audit.queue",
        }
    }

    /// The queue of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.name() == name)
    }
}

/// Which events reach which queue. `*` and `#` stand for whole words between dots only, so `payment.dispute_*` would match nothing.
const BINDINGS: &[(ConsumerQueue, Exchange, &str)] = &[
    (ConsumerQueue::Totals, Exchange::Payments, "payment.completed"),
    (ConsumerQueue::Totals, Exchange::Payments, "payment.refunded"),
    (ConsumerQueue::Totals, Exchange::Payments, "payment.refund_failed"),
    (ConsumerQueue::Totals, Exchange::Payments, "payment.dispute_opened"),
    (ConsumerQueue::Totals, Exchange::Payments, "payment.dispute_closed"),
    (ConsumerQueue::Notifications, Exchange::Donations, "donation.created"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.authorized"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.completed"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.failed"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.canceled"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.refunded"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.refund_failed"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.dispute_opened"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.dispute_closed"),
    (ConsumerQueue::Notifications, Exchange::Payments, "payment.flagged"),
    (ConsumerQueue::Audit, Exchange::Donations, "#"),
    (ConsumerQueue::Audit, Exchange::Payments, "#"),
];

/// The names and settings of everything we use in one RabbitMQ virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    delivery_limit: u32,
}

impl Default for Topology {
    /// The production names.
    fn default() -> Self {
        Self::with_prefix("")
    }
}

impl Topology {
    /// The same topology with `prefix` before every name, so that a test has exchanges and queues of its own.
    pub fn with_prefix(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), delivery_limit: DELIVERY_LIMIT }
    }

    /// Replaces [`DELIVERY_LIMIT`], so that a test need not wait for twenty deliveries.
    #[must_use]
    pub fn with_delivery_limit(self, delivery_limit: u32) -> Self {
        Self { delivery_limit, ..self }
    }

    /// The name of a topic exchange.
    pub fn exchange(&self, exchange: Exchange) -> String {
        format!("{}{}", self.prefix, exchange.base_name())
    }

    /// The name of a queue.
    pub fn queue(&self, queue: ConsumerQueue) -> String {
        format!("{}{}", self.prefix, queue.name())
    }

    /// The name of the queue that keeps the dead letters of `queue`.
    pub fn dead_letter_queue(&self, queue: ConsumerQueue) -> String {
        format!("{}.dead", self.queue(queue))
    }

    /// The name of the direct exchange through which dead letters go to their queues.
    pub fn dead_letter_exchange(&self) -> String {
        format!("{}dead-letters", self.prefix)
    }

    /// Makes this connection's own queue of facts that change totals, which goes when the connection ends, and names it. Facts from
    /// before it was made are not in it; beyond [`NEWS_MAX_LENGTH`] the oldest are dropped.
    ///
    /// # Errors
    /// [`TopologyError`] where the broker refuses. The channel is closed then.
    pub async fn declare_news(&self, channel: &Channel) -> Result<String, TopologyError> {
        let queue = format!("{}.replica.{}", self.queue(ConsumerQueue::Totals), Uuid::new_v4());
        QueueSpec { name: queue.clone(), arguments: vec![("x-max-length", Argument::Number(NEWS_MAX_LENGTH))] }
            .declare_exclusive(channel)
            .await?;
        for &(_, exchange, pattern) in BINDINGS.iter().filter(|(queue, ..)| *queue == ConsumerQueue::Totals) {
            let source = self.exchange(exchange);
            BindingSpec { source, queue: queue.clone(), routing_key: pattern.to_owned() }.declare(channel).await?;
        }
        Ok(queue)
    }

    /// Declares everything; what exists alike stays as it is, so every connection may do it.
    ///
    /// # Errors
    /// [`TopologyError`] names the first exchange or queue that was refused. The channel is closed then.
    pub async fn declare(&self, channel: &Channel) -> Result<(), TopologyError> {
        for exchange in self.exchanges() {
            exchange.declare(channel).await?;
        }
        for queue in self.queues() {
            queue.declare(channel).await?;
        }
        for binding in self.bindings() {
            binding.declare(channel).await?;
        }
        Ok(())
    }

    /// The topology as a RabbitMQ definitions document for the virtual host `vhost`, without users.
    pub fn definitions_json(&self, vhost: &str) -> String {
        let document = json!({
            "vhosts": [{ "name": vhost }],
            "exchanges": self.exchanges().iter().map(|exchange| exchange.definition(vhost)).collect::<Vec<_>>(),
            "queues": self.queues().iter().map(|queue| queue.definition(vhost)).collect::<Vec<_>>(),
            "bindings": self.bindings().iter().map(|binding| binding.definition(vhost)).collect::<Vec<_>>(),
        });
        format!("{document:#}\n")
    }

    /// Removes everything that [`Topology::declare`] made.
    #[cfg(test)]
    pub(crate) async fn delete(&self, channel: &Channel) -> Result<(), lapin::Error> {
        for queue in self.queues() {
            channel.queue_delete(queue.name.into(), Default::default()).await?;
        }
        for exchange in self.exchanges() {
            channel.exchange_delete(exchange.name.into(), Default::default()).await?;
        }
        Ok(())
    }

    fn exchanges(&self) -> Vec<ExchangeSpec> {
        let topics =
            Exchange::ALL.map(|exchange| ExchangeSpec { name: self.exchange(exchange), kind: ExchangeKind::Topic });
        let dead_letters = ExchangeSpec { name: self.dead_letter_exchange(), kind: ExchangeKind::Direct };
        topics.into_iter().chain([dead_letters]).collect()
    }

    fn queues(&self) -> Vec<QueueSpec> {
        ConsumerQueue::ALL
            .into_iter()
            .flat_map(|queue| [self.dead_letter_spec(queue), self.queue_spec(queue)])
            .collect()
    }

    fn queue_spec(&self, queue: ConsumerQueue) -> QueueSpec {
        let arguments = vec![
            ("x-queue-type", Argument::text("quorum")),
            ("x-delivery-limit", Argument::Number(self.delivery_limit)),
            ("x-max-length", Argument::Number(QUEUE_MAX_LENGTH)),
            ("x-overflow", Argument::text("reject-publish")),
            ("x-dead-letter-exchange", Argument::Text(self.dead_letter_exchange())),
            ("x-dead-letter-routing-key", Argument::Text(self.dead_letter_queue(queue))),
            ("x-dead-letter-strategy", Argument::text("at-least-once")),
        ];
        QueueSpec { name: self.queue(queue), arguments }
    }

    fn dead_letter_spec(&self, queue: ConsumerQueue) -> QueueSpec {
        let arguments = vec![
            ("x-queue-type", Argument::text("quorum")),
            ("x-delivery-limit", Argument::Number(DEAD_LETTER_DELIVERY_LIMIT)),
            ("x-max-length", Argument::Number(DEAD_LETTER_MAX_LENGTH)),
            ("x-overflow", Argument::text("reject-publish")),
        ];
        QueueSpec { name: self.dead_letter_queue(queue), arguments }
    }

    fn bindings(&self) -> Vec<BindingSpec> {
        let events = BINDINGS.iter().map(|&(queue, exchange, pattern)| BindingSpec {
            source: self.exchange(exchange),
            queue: self.queue(queue),
            routing_key: pattern.to_owned(),
        });
        let dead_letters = ConsumerQueue::ALL.into_iter().map(|queue| BindingSpec {
            source: self.dead_letter_exchange(),
            queue: self.dead_letter_queue(queue),
            routing_key: self.dead_letter_queue(queue),
        });
        dead_letters.chain(events).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use lapin::options::QueueDeclareOptions;
    use serde_json::Value;

    use super::*;
    use crate::gateways::broker::stage::{self, Stage};

    const DEFINITIONS_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rabbitmq/definitions.json");

    #[test]
    fn the_definitions_file_is_the_topology() {
        let ours = Topology::default().definitions_json("/");
        if std::env::var_os("CAREFORALL_RENEW").is_some() {
            std::fs::write(DEFINITIONS_PATH, &ours).unwrap();
        }
        let file: Value = serde_json::from_str(&std::fs::read_to_string(DEFINITIONS_PATH).unwrap()).unwrap();
        let ours: Value = serde_json::from_str(&ours).unwrap();
        assert_eq!(file, ours, "renew it by CAREFORALL_RENEW=1 cargo test definitions_file");
    }

    #[actix::test]
    async fn every_event_reaches_the_queues_that_want_it() {
        Stage::run(async |stage| {
            let events = [
                ("donation.created", "NA"),
                ("payment.authorized", "NA"),
                ("payment.completed", "TNA"),
                ("payment.failed", "NA"),
                ("payment.canceled", "NA"),
                ("payment.refunded", "TNA"),
                ("payment.refund_failed", "TNA"),
                ("payment.dispute_opened", "TNA"),
                ("payment.dispute_closed", "TNA"),
                ("payment.flagged", "NA"),
            ];
            let batch: Vec<_> = events.iter().map(|(event, _)| stage::event(event)).collect();
            stage.publish(&batch).await;
            let wanted = |queue: char| {
                events.iter().filter(move |(_, by)| by.contains(queue)).map(|(event, _)| (*event).to_owned())
            };
            for (queue, letter) in ConsumerQueue::ALL.into_iter().zip(['T', 'N', 'A']) {
                let got: Vec<String> =
                    stage.drain(&stage.topology.queue(queue)).await.into_iter().map(|m| m.0).collect();
                assert_eq!(got, wanted(letter).collect::<Vec<_>>(), "{queue:?}");
            }
        })
        .await;
    }

    #[actix::test]
    async fn a_queue_with_other_settings_is_named() {
        Stage::run(async |stage| {
            let other = stage.topology.clone().with_delivery_limit(7);
            let error = other.declare(&stage.channel().await).await.unwrap_err();
            assert!(matches!(&error, TopologyError::Mismatch { .. }), "{error}");
            assert!(
                error.to_string().contains(&format!("queue '{}'", stage.topology.queue(ConsumerQueue::Totals))),
                "{error}"
            );
            stage.topology.declare(&stage.channel().await).await.unwrap();
        })
        .await;
    }

    /// A virtual host that goes when the test ends.
    struct Vhost(String);

    impl Vhost {
        fn new() -> Self {
            let vhost = Self(format!("test-{}", uuid::Uuid::new_v4()));
            rabbitmqctl(&["add_vhost", &vhost.0]);
            rabbitmqctl(&["set_permissions", "-p", &vhost.0, "guest", ".*", ".*", ".*"]);
            vhost
        }
    }

    impl Drop for Vhost {
        fn drop(&mut self) {
            rabbitmqctl(&["delete_vhost", &self.0]);
        }
    }

    fn rabbitmqctl(arguments: &[&str]) {
        let output = Command::new("rabbitmqctl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[actix::test]
    async fn the_definitions_can_be_imported_and_are_what_we_declare() {
        if Command::new("rabbitmqctl").arg("status").output().is_ok_and(|output| output.status.success()) {
            let vhost = Vhost::new();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), Topology::default().definitions_json(&vhost.0)).unwrap();
            std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            rabbitmqctl(&["import_definitions", &file.path().to_string_lossy()]);
            let connection =
                lapin::Connection::connect(&stage::url_of_vhost(&vhost.0), Default::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let audit = Topology::default().queue(ConsumerQueue::Audit);
            channel
                .queue_declare(audit.into(), QueueDeclareOptions::durable().passive(), Default::default())
                .await
                .unwrap();
            Topology::default().declare(&channel).await.unwrap();
        } else {
            println!("skipped: rabbitmqctl cannot reach the broker");
        }
    }
}
