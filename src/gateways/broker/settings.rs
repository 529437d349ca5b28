//! Where the broker is, read from an AMQP URL (<https://www.rabbitmq.com/docs/uri-spec>), without ever showing the password.
//!
//! Deliberately absent: `amqps`. lapin built without a TLS backend would silently speak plain AMQP to it, so it is refused.

use std::fmt;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};

use crate::gateways::broker::BrokerError;
use crate::gateways::topology::Topology;

/// Seconds without a sign of life after which a connection is dead (twice over), unless the URL says `heartbeat=`.
const HEARTBEAT_S: u16 = 10;
/// Milliseconds for the TCP connection, unless the URL says `connection_timeout=`.
const CONNECTION_TIMEOUT_MS: u64 = 3_000;
/// Bytes of the largest frame, unless the URL says `frame_max=`. lapin keeps 64 frames of buffer for each connection: 2 MiB
/// instead of the 8 MiB of the broker's default, while our events are about 1 KiB.
const FRAME_MAX_BYTES: u32 = 32 * 1024;
/// AMQP carries a virtual host's name as a short string.
const VHOST_MAX_BYTES: usize = 255;
const FORM: &str = "it must look like amqp://user:password@host:5672/vhost";

/// Where the broker is and what we keep there.
#[derive(Clone)]
pub struct BrokerSettings {
    uri: AMQPUri,
    topology: Topology,
}

impl BrokerSettings {
    /// Reads `url` (`amqp://user:password@host:port/vhost?heartbeat=…&connection_timeout=…&frame_max=…`; no virtual host means `/`).
    ///
    /// # Errors
    /// [`BrokerError::Settings`], without the URL in it.
    pub fn parse(url: &str, topology: Topology) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url.trim().parse().map_err(|_| BrokerError::Settings(FORM.to_owned()))?;
        refuse_unusable(&uri)?;
        if let Some(host) = ipv6_literal(url) {
            uri.authority.host = host.to_owned();
        }
        if uri.vhost.is_empty() {
            uri.vhost.push('/');
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT_MS);
        uri.query.frame_max.get_or_insert(FRAME_MAX_BYTES);
        Ok(Self { uri, topology })
    }

    /// The URL without its password, for logs.
    pub fn redacted_url(&self) -> String {
        format!("amqp://{}:***@{}", self.uri.authority.userinfo.username, self.endpoint())
    }

    /// What is declared in the broker.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The same broker by way of `address`.
    #[cfg(test)]
    pub(super) fn through(mut self, address: std::net::SocketAddr) -> Self {
        self.uri.authority.host = address.ip().to_string();
        self.uri.authority.port = address.port();
        self
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    /// Host, port and virtual host.
    pub(super) fn endpoint(&self) -> String {
        let authority = &self.uri.authority;
        let vhost = self.uri.vhost.replace('/', "%2f");
        match authority.host.contains(':') {
            true => format!("[{}]:{}/{vhost}", authority.host, authority.port),
            false => format!("{}:{}/{vhost}", authority.host, authority.port),
        }
    }

    /// How long a TCP connection may take; lapin itself ignores `connection_timeout` on its asynchronous road.
    pub(super) fn connection_timeout(&self) -> Duration {
        Duration::from_millis(self.uri.query.connection_timeout.unwrap_or(CONNECTION_TIMEOUT_MS))
    }
}

impl fmt::Debug for BrokerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerSettings").field("url", &self.redacted_url()).field("topology", &self.topology).finish()
    }
}

fn refuse_unusable(uri: &AMQPUri) -> Result<(), BrokerError> {
    if uri.scheme != AMQPScheme::AMQP {
        return Err(BrokerError::Settings("this build speaks amqp:// only, not amqps://".to_owned()));
    }
    if uri.vhost.len() > VHOST_MAX_BYTES {
        return Err(BrokerError::Settings(format!("the virtual host is longer than {VHOST_MAX_BYTES} bytes")));
    }
    Ok(())
}

/// The address between brackets, which lapin's parser drops in favour of `localhost`.
fn ipv6_literal(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<BrokerSettings, BrokerError> {
        BrokerSettings::parse(url, Topology::default())
    }

    #[test]
    fn defaults_are_added_unless_the_url_gives_them() {
        let plain = parse("amqp://u:p@broker").unwrap().uri;
        assert_eq!(plain.query.heartbeat, Some(HEARTBEAT_S));
        assert_eq!(plain.query.connection_timeout, Some(CONNECTION_TIMEOUT_MS));
        assert_eq!(plain.query.frame_max, Some(FRAME_MAX_BYTES));
        let given = parse("amqp://u:p@broker/%2f?heartbeat=3&connection_timeout=50&frame_max=8192").unwrap();
        assert_eq!(given.uri.query.heartbeat, Some(3));
        assert_eq!(given.uri.query.frame_max, Some(8192));
        assert_eq!(given.connection_timeout(), Duration::from_millis(50));
    }

    #[test]
    fn the_password_is_shown_nowhere() {
        let settings = parse("amqp://careforall:s3cr%65t@10.0.0.7:5673/money").unwrap();
        assert_eq!(settings.uri.authority.userinfo.password, "s3cret");
        assert_eq!(settings.redacted_url(), "amqp://careforall:***@10.0.0.7:5673/money");
        assert!(!format!("{settings:?}").contains("s3cr"));
        for broken in ["amqp:careforall:s3cret@host", "amqp://u:s3cret@host:port", "http://u:s3cret@host", "s3cret"] {
            assert!(!parse(broken).unwrap_err().to_string().contains("s3cret"), "{broken}");
        }
    }

    #[test]
    fn a_url_without_a_virtual_host_means_the_default_one() {
        for url in ["amqp://h", "amqp://h:5672", "amqp://h:5672/", "amqp://h:5672/%2f"] {
            assert_eq!(parse(url).unwrap().uri.vhost, "/", "{url}");
        }
    }

    #[test]
    fn an_ipv6_address_is_kept() {
        let settings = parse("amqp://u:p@[2001:db8::7]:5673/x").unwrap();
        assert_eq!(settings.uri.authority.host, "2001:db8::7");
        assert_eq!(settings.redacted_url(), "amqp://u:***@[2001:db8::7]:5673/x");
    }

    #[test]
    fn encrypted_urls_are_refused_rather_than_spoken_in_the_clear() {
        assert!(parse("amqps://u:p@broker").unwrap_err().to_string().contains("amqps"));
    }
}
