//! One connection to RabbitMQ with one channel, and how it surely ends.
//!
//! lapin cannot write its farewell on a connection that the broker blocks or that answers no more, and its thread would wait there
//! for ever. So we keep a handle of the socket and shut it down when the link is dropped: the thread ends, whatever it waited for.
//!
//! Deliberately absent: reconnecting, which is for the owner of the link.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ConnectionStatus};
use tokio::time::timeout;

use crate::gateways::broker::{BrokerError, BrokerSettings};

/// From the TCP connection to an open channel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole topology; new quorum queues elect their leaders in it.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(15);
/// For one answer of the broker; where it sends none, for the frame to leave.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a farewell in good order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const REPLY_SUCCESS: u16 = 200;

/// An open connection; dropping it cuts the socket.
pub(super) struct Link {
    connection: Connection,
    channel: Channel,
    _socket: Arc<Socket>,
}

impl Link {
    /// Connects and declares the topology. `name` is what the broker shows for the connection.
    pub(super) async fn open(settings: &BrokerSettings, name: &str) -> Result<Self, BrokerError> {
        let link = Self::connect(settings, name).await?;
        match timeout(DECLARE_TIMEOUT, settings.topology().declare(&link.channel)).await {
            Ok(declared) => declared.map(|()| link).map_err(BrokerError::from),
            Err(_) => Err(BrokerError::Lost("no answer while declaring exchanges and queues".to_owned())),
        }
    }

    async fn connect(settings: &BrokerSettings, name: &str) -> Result<Self, BrokerError> {
        let unreachable = |reason: String| BrokerError::Unreachable { endpoint: settings.endpoint(), reason };
        let socket = Arc::new(Socket::default());
        let patience = settings.connection_timeout() + HANDSHAKE_TIMEOUT;
        match timeout(patience, shake_hands(settings, name, Arc::downgrade(&socket))).await {
            Ok(Ok((connection, channel))) => Ok(Self { connection, channel, _socket: socket }),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer to the AMQP handshake".to_owned())),
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn status(&self) -> ConnectionStatus {
        self.connection.status().clone()
    }

    pub(super) fn alive(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Says farewell, for [`CLOSE_TIMEOUT`] at most.
    pub(super) async fn close(self) {
        let farewell = timeout(CLOSE_TIMEOUT, self.connection.close(REPLY_SUCCESS, "OK".into())).await;
        tracing::debug!(in_order = matches!(farewell, Ok(Ok(()))), "RabbitMQ connection closed");
    }
}

/// Waits for the broker's answer, for [`ANSWER_TIMEOUT`] at most.
pub(super) async fn answer<T>(asking: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, BrokerError> {
    match timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answered) => answered.map_err(|error| BrokerError::Lost(error.to_string())),
        Err(_) => Err(BrokerError::Lost("no answer from the broker".to_owned())),
    }
}

async fn shake_hands(
    settings: &BrokerSettings,
    name: &str,
    owner: Weak<Socket>,
) -> Result<(Connection, Channel), lapin::Error> {
    let runtime = lapin::runtime::default_runtime()?;
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let dial_timeout = settings.connection_timeout();
    let dialling = Connection::connector(
        settings.uri(),
        runtime,
        async move |uri, runtime| {
            let addresses = resolve(&uri).await?;
            let dialled = timeout(dial_timeout, AsyncTcpStream::connect(&runtime, addresses)).await;
            let stream = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if let AsyncTcpStream::Plain(plain) = &stream {
                Socket::keep(&owner, plain.get_ref().as_fd())?;
            }
            Ok(stream)
        },
        properties,
    );
    let connection = dialling.await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn resolve(uri: &AMQPUri) -> io::Result<Vec<SocketAddr>> {
    let authority = &uri.authority;
    Ok(tokio::net::lookup_host((authority.host.as_str(), authority.port)).await?.collect())
}

/// A second handle of lapin's socket.
#[derive(Default)]
struct Socket(OnceLock<TcpStream>);

impl Socket {
    /// Fails when the link was given up while the connection was being made, which ends lapin's attempt too.
    fn keep(owner: &Weak<Self>, socket: BorrowedFd<'_>) -> io::Result<()> {
        let owner = owner.upgrade().ok_or(io::ErrorKind::ConnectionAborted)?;
        let handle = TcpStream::from(socket.try_clone_to_owned()?);
        owner.0.set(handle).map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(handle) = self.0.get() {
            // An error means that the other side was faster.
            let _ = handle.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::gateways::topology::Topology;

    #[actix::test]
    async fn a_broker_that_never_answers_the_handshake_is_given_up_and_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://u:p@{}/%2f?connection_timeout=100", listener.local_addr().unwrap());
        let settings = BrokerSettings::parse(&url, Topology::default()).unwrap();
        let silent_broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            socket.read_to_end(&mut received).await.unwrap();
            received
        };
        let (opened, received) = futures::join!(Link::open(&settings, "test"), silent_broker);
        assert!(matches!(opened.err(), Some(BrokerError::Unreachable { .. })));
        assert_eq!(received, b"AMQP\x00\x00\x09\x01");
    }
}
