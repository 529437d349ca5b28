//! Posts one signed webhook to an endpoint of somebody else's choosing, by the rules of Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! The address comes from outside, so it is guarded three times: [`EndpointUrl`] refuses what should never be
//! registered, `send` checks the same text again, and every name is resolved once, all its addresses are judged
//! (`address`), and the connection goes to one of exactly those (`resolver`). The name stays in `Host` and in TLS.
//!
//! Deliberately absent: retries, the disabling of endpoints, and any trust in an answer's body: its first 64 KiB are read
//! for the connection's sake and thrown away.

mod address;
mod resolver;
mod secret;
mod signed;
mod url;

use std::fmt;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

pub use self::resolver::Resolver;
use self::resolver::{Guard, Refused};
pub use self::secret::{EndpointSecret, SecretError};
pub use self::url::{EndpointUrl, Reach, UrlError};
use super::delivery::http;
use super::delivery::{Accepted, DeliveryError};

/// One attempt, from the name's resolution to the answer's status.
pub const TIMEOUT: Duration = http::TIMEOUT;
/// The most that is read of an answer's body, in bytes; its head is bounded by the HTTP client, to some 400 KiB.
pub const MAXIMUM_ANSWER_BYTES: usize = 64 * 1024;
/// The longest body that is sent, in bytes; Standard Webhooks asks for less than 20 KB.
pub const MAXIMUM_BODY_BYTES: usize = 256 * 1024;
/// The most secrets that sign one webhook: the present one, and old ones while they overlap.
pub const MAXIMUM_SECRETS: usize = 4;
/// Once the status is known, the rest of the answer only saves a connection: no longer is waited for it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections that are kept for one endpoint.
const MAXIMUM_IDLE: usize = 4;

/// What webhooks may reach, and how.
#[derive(Clone, Debug)]
pub struct CallbackSettings {
    /// For development: plain http is allowed.
    pub allow_http: bool,
    /// For development: this machine and private networks are allowed; metadata services never are.
    pub allow_private: bool,
    /// Who turns names into addresses.
    pub resolver: Resolver,
    /// Certificate authorities in PEM, trusted beside the system's own.
    pub roots: Vec<String>,
    /// One attempt; [`TIMEOUT`].
    pub timeout: Duration,
}

impl Default for CallbackSettings {
    /// As in production: https to public addresses alone.
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_private: false,
            resolver: Resolver::System,
            roots: Vec::new(),
            timeout: TIMEOUT,
        }
    }
}

/// One webhook, to one endpoint. Its `Debug` shows the id alone: the address may hold a secret, the body a donor's data.
#[derive(Clone)]
pub struct Callback {
    /// As it was registered; checked again.
    pub url: String,
    /// `webhook-id`: unique for the notice and the same at every try, so that the receiver can tell a repetition.
    pub id: String,
    /// `webhook-timestamp`: when this attempt is made.
    pub at: OffsetDateTime,
    /// JSON; exactly these bytes are signed.
    pub body: String,
    /// The present secret, then the old one while it overlaps: a signature for each.
    pub secrets: Vec<EndpointSecret>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The way out for webhooks. Cheap to clone; clones share their connections, which are kept by scheme, host and port.
#[derive(Clone, Debug)]
pub struct Callbacks {
    client: Client,
    reach: Reach,
    timeout: Duration,
}

impl Callbacks {
    /// A client with these limits.
    ///
    /// # Errors
    /// [`DeliveryError::Permanent`] with the code `settings`.
    pub fn new(settings: CallbackSettings) -> Result<Self, DeliveryError> {
        let reach = Reach { http: settings.allow_http, private: settings.allow_private };
        let client = http::builder(&settings.roots, MAXIMUM_IDLE)?
            .referer(false)
            .dns_resolver(Guard::new(settings.resolver, reach.private));
        let client = client.build().map_err(|error| http::settings(&error))?;
        Ok(Self { client, reach, timeout: settings.timeout })
    }

    /// Whether webhooks may go to `text` with these settings: for whoever registers an endpoint.
    ///
    /// # Errors
    /// Why not, for a person to read.
    pub fn endpoint(&self, text: &str) -> Result<EndpointUrl, UrlError> {
        EndpointUrl::within(text, self.reach)
    }

    /// Posts the webhook. A 2xx status is its receipt.
    ///
    /// # Errors
    /// Gone: 410, disable the endpoint. Permanent: it was never sent and never will be, as `url`, `message` or
    /// `settings` says. Unknown: the request went out and no status came back. Transient: everything else, as the standard
    /// has it, redirects and refusals included; `address` says that the name leads where webhooks must not go.
    pub async fn send(&self, callback: &Callback) -> Result<Accepted, DeliveryError> {
        let url = self.endpoint(&callback.url).map_err(|error| DeliveryError::permanent("url", error))?;
        if callback.body.len() > MAXIMUM_BODY_BYTES {
            let detail = format!("the body is longer than {MAXIMUM_BODY_BYTES} bytes");
            return Err(DeliveryError::permanent("message", detail));
        }
        let headers = signed::headers(callback)?;
        let request = self.client.post(url.into_url()).headers(headers).body(callback.body.clone());
        let deadline = Instant::now() + self.timeout;
        let response = match timeout_at(deadline, request.send()).await {
            Ok(answered) => answered.map_err(|error| unanswered(&error))?,
            Err(_) => {
                // Connecting has a shorter bound of its own: by now the request is out.
                let detail = format!("no answer within {} ms", self.timeout.as_millis());
                return Err(DeliveryError::unknown("timeout", detail));
            }
        };
        let verdict = judge(&response, callback.at);
        drain(response, deadline).await;
        verdict
    }
}

/// The status decides, and nothing else of the answer.
fn judge(response: &Response, at: OffsetDateTime) -> Result<Accepted, DeliveryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(Accepted::new(None, status.as_u16()));
    }
    if status == StatusCode::GONE {
        return Err(DeliveryError::Gone);
    }
    let detail = if status.is_redirection() {
        format!("the endpoint answered {}: redirects are not followed", status.as_u16())
    } else {
        format!("the endpoint answered {}", status.as_u16())
    };
    let wait = http::retry_after(response.headers(), Some(at));
    Err(DeliveryError::transient(status.as_u16(), detail).after(wait))
}

/// A connection whose answer was read to its end can carry the next webhook; any other is closed here.
async fn drain(mut response: Response, deadline: Instant) {
    let deadline = deadline.min(Instant::now() + DRAIN_TIMEOUT);
    let read = timeout_at(deadline, http::read_up_to(&mut response, MAXIMUM_ANSWER_BYTES)).await;
    if !matches!(read, Ok(Ok(_))) {
        tracing::debug!("the rest of a webhook's answer was not waited for");
    }
}

fn unanswered(error: &reqwest::Error) -> DeliveryError {
    if let Some(refused) = Refused::within(error) {
        return DeliveryError::transient(refused.code(), refused);
    }
    if error.is_builder() {
        return DeliveryError::permanent("message", "the request cannot be written as HTTP");
    }
    let (code, cause) = (http::unreached(error), http::cause(error));
    if error.is_connect() {
        return DeliveryError::transient(code, format!("no connection: {cause}"));
    }
    DeliveryError::unknown(code, format!("the connection broke: {cause}"))
}

#[cfg(test)]
mod tests;
