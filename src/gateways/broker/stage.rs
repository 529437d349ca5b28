//! What the broker's tests stand on: exchanges and queues of their own in the real RabbitMQ (`AMQP_URL`, or the local one), and a wire
//! to it that can be cut, frozen and mended.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::gateways::broker::{BrokerSettings, Outgoing, PublishOutcome, Publisher};
use crate::gateways::topology::{Exchange, Topology};

const DEADLINE: Duration = Duration::from_secs(60);

fn url() -> String {
    std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// The broker's URL with another virtual host.
pub(crate) fn url_of_vhost(vhost: &str) -> String {
    let url = url();
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{vhost}")
}

/// An event that goes to the exchange of its type.
pub(crate) fn event(event_type: &str) -> Outgoing {
    let donation = event_type.starts_with("donation.");
    Outgoing {
        message_id: Uuid::new_v4(),
        exchange: if donation { Exchange::Donations } else { Exchange::Payments },
        routing_key: event_type.to_owned(),
        body: br#"{"specversion":"1.0"}"#.to_vec(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// The topology under a prefix of its own, declared, and removed when the test ends, well or not.
pub(crate) struct Stage {
    pub(crate) topology: Topology,
    connection: Connection,
}

impl Stage {
    pub(crate) async fn run(test: impl AsyncFnOnce(&Self)) {
        Self::run_with_delivery_limit(20, test).await;
    }

    pub(crate) async fn run_with_delivery_limit(limit: u32, test: impl AsyncFnOnce(&Self)) {
        let topology = Topology::with_prefix(&format!("test-{}.", Uuid::new_v4())).with_delivery_limit(limit);
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
        let stage = Self { topology, connection };
        stage.topology.declare(&stage.channel().await).await.unwrap();
        let ended = AssertUnwindSafe(test(&stage)).catch_unwind().await;
        stage.topology.delete(&stage.channel().await).await.unwrap();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    }

    pub(crate) fn settings(&self) -> BrokerSettings {
        BrokerSettings::parse(&url(), self.topology.clone()).unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// Publishes on a connection that closes again.
    pub(crate) async fn publish(&self, batch: &[Outgoing]) {
        let publisher = Publisher::new(self.settings());
        let outcomes = publisher.publish_batch(batch).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == PublishOutcome::Published), "{outcomes:?}");
        publisher.close().await;
    }

    /// Takes all messages out of `queue`: routing key and message id.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<(String, Uuid)> {
        let channel = self.channel().await;
        let mut drained = Vec::new();
        while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap() {
            let id = message.properties.message_id().as_ref().unwrap().as_str().parse().unwrap();
            drained.push((message.routing_key.as_str().to_owned(), id));
        }
        drained
    }

    /// Messages in `queue` that no consumer has in hand.
    pub(crate) async fn waiting(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions::durable().passive();
        let declared = self.channel().await.queue_declare(queue.into(), options, Default::default()).await;
        declared.unwrap().message_count()
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Open,
    Cut,
    Frozen,
}

/// A TCP proxy in front of the broker.
pub(crate) struct Proxy {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = watch::Sender::new(Wire::Open);
        actix::spawn(accept(listener, wire.subscribe()));
        Self { address, wire }
    }

    pub(crate) fn settings(&self, stage: &Stage) -> BrokerSettings {
        stage.settings().through(self.address)
    }

    /// Ends every connection and each new one.
    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Carries nothing more, and ends nothing.
    pub(crate) fn freeze(&self) {
        self.wire.send_replace(Wire::Frozen);
    }

    /// Carries everything again.
    pub(crate) fn mend(&self) {
        self.wire.send_replace(Wire::Open);
    }
}

async fn accept(listener: TcpListener, wire: watch::Receiver<Wire>) {
    while let Ok((client, _)) = listener.accept().await {
        actix::spawn(carry(client, wire.clone()));
    }
}

async fn carry(mut client: TcpStream, mut wire: watch::Receiver<Wire>) {
    let broker = BrokerSettings::parse(&url(), Topology::default()).unwrap().uri().authority;
    let mut server = TcpStream::connect((broker.host, broker.port)).await.unwrap();
    let mut copying = std::pin::pin!(tokio::io::copy_bidirectional(&mut client, &mut server));
    loop {
        let state = *wire.borrow_and_update();
        tokio::select! {
            _ = &mut copying, if state == Wire::Open => return,
            changed = wire.changed(), if state != Wire::Cut => if changed.is_err() { return },
            else => return,
        }
    }
}
