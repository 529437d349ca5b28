//! An SMTP relay over connections that are kept; every answer is waited for within a bound.
//!
//! Reading order: this file (the settings, the way of one mail), `conversation` (one connection, step by step), `idle`
//! (connections between two mails), `verdict` (whose fault an answer is). A connection is kept only after a conversation
//! that came to its end in step; whatever breaks off or is dropped half-way takes its connection with it, so no mail ever
//! reads another's answer.
//!
//! Deliberately absent: opportunistic encryption (a relay beyond this machine speaks TLS or hears nothing), and QUIT: an
//! answer to it would be waited for, and nobody needs it.

mod conversation;
mod idle;
mod verdict;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use reqwest::Url;

use self::conversation::{Conversation, Steps};
use self::idle::Idle;
use crate::gateways::delivery::{Accepted, DeliveryError};

const LOOPBACK_PORT: u16 = 25;
const STARTTLS_PORT: u16 = 587;
const TLS_PORT: u16 = 465;

/// How long a relay may take. RFC 5321 (section 4.5.3.2) would have minutes; a courier has other mails to send.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one step: a command and its answer, or the way from the name to the relay's greeting.
    pub step: Duration,
    /// For the answer to the mail itself: more, because a mail that nobody has answered for may arrive twice.
    pub receipt: Duration,
    /// For the whole conversation.
    pub whole: Duration,
}

impl Patience {
    /// As in production.
    pub const USUAL: Self =
        Self { step: Duration::from_secs(15), receipt: Duration::from_secs(60), whole: Duration::from_secs(80) };
}

/// A relay that takes mails for the world. Clones share its connections.
#[derive(Clone)]
pub struct SmtpRelay {
    shared: Arc<Shared>,
}

struct Shared {
    host: String,
    port: u16,
    hello: ClientId,
    credentials: Option<Credentials>,
    encryption: Encryption,
    /// Without user and password: safe to log.
    address: String,
    patience: Patience,
    idle: Idle,
}

/// How the conversation is kept private.
#[derive(Clone)]
enum Encryption {
    /// TLS from the first byte.
    Tls(TlsParameters),
    /// Nothing is said before the connection was upgraded.
    Starttls(TlsParameters),
    /// The relay is on this machine.
    None,
}

/// Whom a relay is believed.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    /// Whether a host may be spoken to without TLS.
    pub plain: fn(&str) -> bool,
    /// Authorities in PEM, trusted beside the usual ones.
    pub roots: &'a [String],
}

impl fmt::Debug for SmtpRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SmtpRelay").field(&self.shared.address).finish()
    }
}

impl SmtpRelay {
    pub(super) fn from_url(text: &str, roots: &[String]) -> Result<Self, DeliveryError> {
        Self::with(text, Trust { plain: is_loopback, roots }, Patience::USUAL)
    }

    pub(super) fn with(text: &str, trust: Trust<'_>, patience: Patience) -> Result<Self, DeliveryError> {
        let url = Url::parse(text).map_err(|error| settings(&format!("SMTP_URL is not a URL: {error}")))?;
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| settings("SMTP_URL names no host"))?.to_owned();
        if url.query().is_some() {
            return Err(settings("SMTP_URL takes no parameters: smtps:// is TLS from the start, smtp:// is STARTTLS"));
        }
        let (encryption, usual_port) = match url.scheme() {
            "smtps" => (Encryption::Tls(tls(&host, trust.roots)?), TLS_PORT),
            "smtp" if (trust.plain)(&host) => (Encryption::None, LOOPBACK_PORT),
            "smtp" => (Encryption::Starttls(tls(&host, trust.roots)?), STARTTLS_PORT),
            _ => return Err(settings("SMTP_URL begins with smtp:// or smtps://")),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                address: format!("{}://{host}", url.scheme()),
                host: bare(&host).to_owned(),
                port: url.port().unwrap_or(usual_port),
                hello: hello(&url),
                credentials: credentials(&url)?,
                encryption,
                patience,
                idle: Idle::default(),
            }),
        })
    }

    /// `tls`, `starttls` or `none`, for a person to read.
    pub fn encryption(&self) -> &'static str {
        match self.shared.encryption {
            Encryption::Tls(_) => "tls",
            Encryption::Starttls(_) => "starttls",
            Encryption::None => "none",
        }
    }

    pub(super) async fn send(&self, message: Message) -> Result<Accepted, DeliveryError> {
        let (envelope, bytes) = (message.envelope(), message.formatted());
        let steps = Steps::begin(&self.shared.address, self.shared.patience);
        let mut conversation = match self.shared.idle.take() {
            // Whether a relay still listens on a connection that it was silent on shows at the first command, which has
            // no effect yet.
            Some(kept) => match kept.begin(envelope, &bytes, steps).await {
                Err(error) if error.is_stale() => self.fresh(envelope, &bytes, steps).await?,
                begun => begun.map_err(|error| error.verdict())?,
            },
            None => self.fresh(envelope, &bytes, steps).await?,
        };
        let accepted = conversation.finish(envelope, &bytes, steps).await.map_err(|error| error.verdict())?;
        self.shared.idle.keep(conversation);
        Ok(accepted)
    }

    async fn fresh(
        &self,
        envelope: &lettre::address::Envelope,
        bytes: &[u8],
        steps: Steps<'_>,
    ) -> Result<Conversation, DeliveryError> {
        let opened = self.open(steps).await?;
        opened.begin(envelope, bytes, steps).await.map_err(|error| error.verdict())
    }

    async fn open(&self, steps: Steps<'_>) -> Result<Conversation, DeliveryError> {
        Conversation::open(&self.shared, steps).await.map_err(|error| error.verdict())
    }

    pub(super) async fn check(&self) -> Result<(), DeliveryError> {
        let steps = Steps::begin(&self.shared.address, self.shared.patience);
        let kept = match self.shared.idle.take() {
            Some(mut kept) => kept.is_there(steps).await.then_some(kept),
            None => None,
        };
        let conversation = match kept {
            Some(conversation) => conversation,
            None => self.open(steps).await?,
        };
        self.shared.idle.keep(conversation);
        Ok(())
    }
}

fn settings(detail: &str) -> DeliveryError {
    DeliveryError::permanent("settings", detail)
}

fn tls(host: &str, roots: &[String]) -> Result<TlsParameters, DeliveryError> {
    let unusable = |error: SmtpError| settings(&format!("TLS cannot be used: {error}"));
    let mut parameters = TlsParameters::builder(bare(host).to_owned());
    for root in roots {
        parameters = parameters.add_root_certificate(Certificate::from_pem(root.as_bytes()).map_err(unusable)?);
    }
    parameters.build().map_err(unusable)
}

/// A path of the URL names us to the relay.
fn hello(url: &Url) -> ClientId {
    match url.path().trim_matches('/') {
        "" => ClientId::default(),
        name => ClientId::Domain(name.to_owned()),
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, DeliveryError> {
    let Some(password) = url.password() else { return Ok(None) };
    let decoded = |text| percent_decoded(text).ok_or_else(|| settings("SMTP_URL's user or password is not UTF-8"));
    Ok(Some(Credentials::new(decoded(url.username())?, decoded(password)?)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// An IPv6 address without the brackets that it has in a URL.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
