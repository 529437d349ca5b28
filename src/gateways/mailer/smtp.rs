//! An SMTP relay over pooled connections; its answers are classified here, once (RFC 5321, section 4.2.1).
//!
//! Deliberately absent: opportunistic encryption. A relay beyond this machine speaks TLS or hears nothing.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::response::{Category, Code, Response};
use lettre::transport::smtp::{Error as SmtpError, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::Url;
use tokio::time::timeout;

use crate::gateways::delivery::{Accepted, DeliveryError};

/// Bounds one command and its answer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);
/// Bounds the whole conversation, from the connection to the receipt.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections that are kept; more than mails that are under way at the same time would be of no use.
const MAX_CONNECTIONS: u32 = 16;
/// Relays hang up after some minutes; we do it first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const LOOPBACK_PORT: u16 = 25;
const STARTTLS_PORT: u16 = 587;

/// A relay that takes mails for the world. Clones share its connections.
#[derive(Clone)]
pub struct SmtpRelay {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    /// Without user and password: safe to log.
    address: String,
    encryption: Encryption,
}

/// How the conversation is kept private.
#[derive(Clone, Copy, Debug)]
enum Encryption {
    /// TLS from the first byte.
    Tls,
    /// Nothing is said before the connection was upgraded.
    Starttls,
    /// The relay is on this machine.
    None,
}

impl fmt::Debug for SmtpRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SmtpRelay").field(&self.address).finish()
    }
}

impl Drop for SmtpRelay {
    /// The last clone's pool says goodbye from a task of the runtime, and panics where there is none any more: when the
    /// process ends. Then it is left alone; its sockets close with the process.
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_err() {
            std::mem::forget(self.transport.clone());
        }
    }
}

impl SmtpRelay {
    pub(super) fn from_url(text: &str) -> Result<Self, DeliveryError> {
        Self::with(text, is_loopback, &[])
    }

    /// `plain` says whether a host may be spoken to without TLS; `roots` are authorities in PEM, trusted beside the
    /// usual ones.
    pub(super) fn with(text: &str, plain: fn(&str) -> bool, roots: &[String]) -> Result<Self, DeliveryError> {
        let url = Url::parse(text).map_err(|error| settings(&format!("SMTP_URL is not a URL: {error}")))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| settings("SMTP_URL names no host"))?.to_owned();
        if url.query().is_some() {
            return Err(settings("SMTP_URL takes no parameters: smtps:// is TLS from the start, smtp:// is STARTTLS"));
        }
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(text);
        let builder = builder.map_err(|error| settings(&format!("SMTP_URL cannot be used: {error}")))?;
        let encryption = match url.scheme() {
            "smtps" => Encryption::Tls,
            _ if plain(&host) => Encryption::None,
            _ => Encryption::Starttls,
        };
        let builder = match encryption {
            // The builder made of the URL knows the port already.
            Encryption::Tls => builder.tls(Tls::Wrapper(tls(&host, roots)?)),
            Encryption::Starttls => {
                builder.port(url.port().unwrap_or(STARTTLS_PORT)).tls(Tls::Required(tls(&host, roots)?))
            }
            Encryption::None => builder.port(url.port().unwrap_or(LOOPBACK_PORT)),
        };
        let pool = PoolConfig::new().max_size(MAX_CONNECTIONS).idle_timeout(IDLE_TIMEOUT);
        let transport = builder.timeout(Some(COMMAND_TIMEOUT)).pool_config(pool).build();
        Ok(Self { transport, address: format!("{}://{host}", url.scheme()), encryption })
    }

    /// `tls`, `starttls` or `none`, for a person to read.
    pub fn encryption(&self) -> &'static str {
        match self.encryption {
            Encryption::Tls => "tls",
            Encryption::Starttls => "starttls",
            Encryption::None => "none",
        }
    }

    pub(super) async fn send(&self, message: Message) -> Result<Accepted, DeliveryError> {
        let response = self.in_time(self.transport.send(message)).await?;
        Ok(Accepted::new(provider_id(&response), response.code()))
    }

    pub(super) async fn check(&self) -> Result<(), DeliveryError> {
        if self.in_time(self.transport.test_connection()).await? {
            return Ok(());
        }
        Err(DeliveryError::transient("connection", format!("{} hung up", self.address)))
    }

    async fn in_time<T>(&self, conversation: impl Future<Output = Result<T, SmtpError>>) -> Result<T, DeliveryError> {
        match timeout(SEND_TIMEOUT, conversation).await {
            Ok(answer) => answer.map_err(|error| classify(&error)),
            Err(_) => {
                let detail = format!("{} did not finish within {} s", self.address, SEND_TIMEOUT.as_secs());
                Err(DeliveryError::transient("timeout", detail))
            }
        }
    }
}

fn settings(detail: &str) -> DeliveryError {
    DeliveryError::permanent("settings", detail)
}

fn tls(host: &str, roots: &[String]) -> Result<TlsParameters, DeliveryError> {
    let unusable = |error: SmtpError| settings(&format!("TLS cannot be used: {error}"));
    let mut parameters = TlsParameters::builder(host.to_owned());
    for root in roots {
        parameters = parameters.add_root_certificate(Certificate::from_pem(root.as_bytes()).map_err(unusable)?);
    }
    parameters.build().map_err(unusable)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn classify(error: &SmtpError) -> DeliveryError {
    let detail = reason(error);
    match error.status() {
        Some(code) if error.is_permanent() && !concerns_our_login(code) => DeliveryError::permanent(code, detail),
        Some(code) => DeliveryError::transient(code, detail),
        None if error.is_timeout() => DeliveryError::transient("timeout", detail),
        None if error.is_tls() => DeliveryError::transient("tls", detail),
        // The relay offers no STARTTLS, or no way to log in.
        None if error.is_client() => DeliveryError::transient("relay", detail),
        None => DeliveryError::transient("connection", detail),
    }
}

/// 530, 534, 535, 538 (RFC 4954, section 6): a wrong password in our settings must not kill the donors' mails.
fn concerns_our_login(code: Code) -> bool {
    code.category == Category::Unspecified3
}

/// The relay's words, without the recipient's address that many relays repeat.
fn reason(error: &SmtpError) -> String {
    let said = error.to_string();
    let masked = said.split_whitespace().map(|word| if word.contains('@') { "<address>" } else { word });
    masked.collect::<Vec<_>>().join(" ")
}

/// `2.0.0 Ok: queued as 4QX7…` is how most relays name what they took.
fn provider_id(response: &Response) -> Option<&str> {
    let line = response.first_line()?.trim();
    let id = line.rsplit_once("queued as ").map_or(line, |(_, id)| id);
    (!id.is_empty()).then_some(id)
}
