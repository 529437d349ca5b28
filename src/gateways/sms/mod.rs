//! Sends one text message through Twilio's REST API
//! (<https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource>).
//!
//! Twilio has no idempotency key for messages. A request that was sent and not answered, or answered by a fault of
//! Twilio's own (5xx), may have become a message: it comes back as unknown, and whoever tries again may double the
//! message. That window is open from the request's last byte to Twilio's answer, and for a process that dies, to our own
//! commit.
//!
//! Deliberately absent: retries, words, opt-in and the choice of recipients. The courier retries; notices say what to
//! write.

mod answer;
pub mod twilio;

use std::fmt;
use std::time::Duration;

use reqwest::{Client, Url};

use super::delivery::http::{self, TIMEOUT};
use super::delivery::{Accepted, DeliveryError};

/// Where Twilio is.
pub const API_BASE: &str = "https://api.twilio.com";
/// Twilio's own limit for one message, in characters.
pub const MAXIMUM_TEXT_CHARS: usize = 1_600;
/// The longest answer that is read, in bytes; a message resource has about one kilobyte.
const MAXIMUM_ANSWER_BYTES: usize = 64 * 1024;
/// Idle connections that are kept.
const MAXIMUM_IDLE: usize = 8;

/// Whose account sends, and as whom. Its `Debug` hides the token.
#[derive(Clone)]
pub struct SmsSettings {
    /// `AC…`.
    pub account_sid: String,
    /// The account's secret: it also signs the status callbacks.
    pub auth_token: String,
    /// [`API_BASE`], or a double's address; plain http is for this machine alone.
    pub api_base: String,
    /// A number in E.164, or a messaging service's id (`MG…`).
    pub from: String,
}

impl fmt::Debug for SmsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmsSettings")
            .field("account_sid", &self.account_sid)
            .field("auth_token", &"redacted")
            .field("api_base", &self.api_base)
            .field("from", &self.from)
            .finish()
    }
}

/// One message, to one phone. Its `Debug` hides both.
#[derive(Clone)]
pub struct TextMessage {
    /// In E.164: a plus, the country's code, at most 15 digits.
    pub to: String,
    /// At most [`MAXIMUM_TEXT_CHARS`].
    pub text: String,
    /// Where Twilio reports what became of it; see [`twilio`].
    pub status_callback: Option<String>,
}

impl fmt::Debug for TextMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextMessage(redacted)")
    }
}

/// The way out for text messages. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Sms {
    client: Client,
    endpoint: Url,
    settings: SmsSettings,
}

impl fmt::Debug for Sms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sms").field(&self.settings).finish()
    }
}

impl Sms {
    /// A client with the account's settings.
    ///
    /// # Errors
    /// [`DeliveryError::Permanent`] with the code `settings` when they cannot be used. It never repeats the token.
    pub fn new(settings: SmsSettings) -> Result<Self, DeliveryError> {
        Self::with_timeout(settings, TIMEOUT)
    }

    fn with_timeout(settings: SmsSettings, timeout: Duration) -> Result<Self, DeliveryError> {
        let endpoint = endpoint(&settings)?;
        if settings.auth_token.is_empty() {
            return Err(unusable("the auth token is empty"));
        }
        if !is_phone(&settings.from) && !is_messaging_service(&settings.from) {
            return Err(unusable("the sender is neither a number in E.164 nor a messaging service's id (MG…)"));
        }
        let client = http::builder(&[], MAXIMUM_IDLE)?.timeout(timeout);
        Ok(Self { client: client.build().map_err(|error| http::settings(&error))?, endpoint, settings })
    }

    /// Hands the message over; the receipt carries Twilio's message SID.
    ///
    /// # Errors
    /// Transient: try again later. Unknown: so, but Twilio may have taken it. Permanent, refused: the message is dead; the
    /// code is Twilio's (<https://www.twilio.com/docs/api/errors>).
    pub async fn send(&self, message: &TextMessage) -> Result<Accepted, DeliveryError> {
        check(message)?;
        let request = self
            .client
            .post(self.endpoint.clone())
            .basic_auth(&self.settings.account_sid, Some(&self.settings.auth_token))
            .form(&self.form(message));
        let mut response = request.send().await.map_err(|error| answer::unanswered(&error))?;
        let status = response.status();
        let headers = response.headers().clone();
        // The status has decided. A body that breaks off takes the SID with it, not the message.
        let body = http::read_up_to(&mut response, MAXIMUM_ANSWER_BYTES).await.unwrap_or_default();
        if status.is_success() {
            return Ok(answer::accepted(status, &body));
        }
        Err(answer::refused(status, &body).after(http::retry_after(&headers, None)))
    }

    fn form<'a>(&'a self, message: &'a TextMessage) -> Vec<(&'static str, &'a str)> {
        let from = if is_messaging_service(&self.settings.from) { "MessagingServiceSid" } else { "From" };
        let mut form = vec![("To", message.to.as_str()), (from, &self.settings.from), ("Body", &message.text)];
        form.extend(message.status_callback.as_deref().map(|url| ("StatusCallback", url)));
        form
    }
}

/// Whether `text` is a phone number in E.164.
pub fn is_phone(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_messaging_service(text: &str) -> bool {
    is_sid(text, "MG")
}

/// Twilio's ids: two letters and 32 hexadecimal digits. Long enough to be no accident, so only letters are checked.
fn is_sid(text: &str, prefix: &str) -> bool {
    text.starts_with(prefix) && (3..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn check(message: &TextMessage) -> Result<(), DeliveryError> {
    if !is_phone(&message.to) {
        return Err(DeliveryError::permanent("address", "the recipient is not a phone number in E.164"));
    }
    if message.text.trim().is_empty() || message.text.chars().count() > MAXIMUM_TEXT_CHARS {
        let detail = format!("the text is empty or longer than {MAXIMUM_TEXT_CHARS} characters");
        return Err(DeliveryError::permanent("message", detail));
    }
    Ok(())
}

fn endpoint(settings: &SmsSettings) -> Result<Url, DeliveryError> {
    if !is_sid(&settings.account_sid, "AC") {
        return Err(unusable("the account SID is not one (AC…)"));
    }
    let mut url = Url::parse(&settings.api_base).map_err(|_| unusable("the API base is not a URL"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err(unusable("the API base must be https: the token would cross a network in the clear"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("the API base is an address alone"));
    }
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/2010-04-01/Accounts/{}/Messages.json", settings.account_sid));
    Ok(url)
}

fn unusable(detail: &str) -> DeliveryError {
    DeliveryError::permanent("settings", format!("Twilio's settings cannot be used: {detail}"))
}

#[cfg(test)]
mod tests;
