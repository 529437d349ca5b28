//! Makes an RFC 5322 message of a mail, and refuses whatever could smuggle in a header or a second recipient.
//!
//! Deliberately absent: attachments.

use std::time::SystemTime;

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

use super::Mail;
use crate::gateways::delivery::DeliveryError;

/// A thank-you has a few kilobytes; a relay's own limit is some 10 MB.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Twice what a reader shows.
const MAX_SUBJECT_BYTES: usize = 500;
const MAX_HEADERS: usize = 20;
const MAX_HEADER_BYTES: usize = 2_000;
/// Also a file's name, with `.eml` behind it.
const MAX_MESSAGE_ID_BYTES: usize = 200;
/// What we set ourselves: a second one of these would make readers disagree.
const OUR_HEADERS: [&str; 11] = [
    "from",
    "to",
    "cc",
    "bcc",
    "sender",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
];

/// The whole message, ready for the wire.
pub(super) fn build(mail: &Mail) -> Result<Message, DeliveryError> {
    check_message_id(&mail.message_id)?;
    one_line("subject", &mail.subject, MAX_SUBJECT_BYTES)?;
    if mail.text.len() + mail.html.as_ref().map_or(0, String::len) > MAX_BODY_BYTES {
        return Err(DeliveryError::permanent("message", format!("the body is longer than {MAX_BODY_BYTES} bytes")));
    }
    let mut builder = Message::builder()
        .from(mailbox("from", &mail.from)?)
        .to(mailbox("to", &mail.to)?)
        .subject(mail.subject.as_str())
        .message_id(Some(format!("<{}>", mail.message_id)))
        .date(SystemTime::from(mail.written_at));
    for header in further_headers(&mail.headers)? {
        builder = builder.raw_header(header);
    }
    let built = match &mail.html {
        None => builder.singlepart(SinglePart::plain(mail.text.clone())),
        Some(html) => builder.multipart(MultiPart::alternative_plain_html(mail.text.clone(), html.clone())),
    };
    built.map_err(|error| DeliveryError::permanent("message", error))
}

/// The parser's own words are left out: they could repeat a donor's address into a log.
fn mailbox(which: &str, text: &str) -> Result<Mailbox, DeliveryError> {
    let refused = || DeliveryError::permanent("address", format!("the {which} address is not one"));
    if text.contains(|c: char| c.is_control()) {
        return Err(refused());
    }
    text.parse().map_err(|_| refused())
}

fn further_headers(headers: &[(String, String)]) -> Result<Vec<HeaderValue>, DeliveryError> {
    if headers.len() > MAX_HEADERS {
        return Err(DeliveryError::permanent("header", format!("more than {MAX_HEADERS} further headers")));
    }
    headers.iter().map(|(name, value)| header(name, value)).collect()
}

fn header(name: &str, value: &str) -> Result<HeaderValue, DeliveryError> {
    let is_token = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_token || OUR_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(DeliveryError::permanent("header", "a further header has a name that it may not have"));
    }
    one_line(name, value, MAX_HEADER_BYTES)?;
    let name =
        HeaderName::new_from_ascii(name.to_owned()).map_err(|error| DeliveryError::permanent("header", error))?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

fn one_line(what: &str, text: &str, max_bytes: usize) -> Result<(), DeliveryError> {
    if text.len() > max_bytes || text.contains(|c: char| c.is_control()) {
        return Err(DeliveryError::permanent("header", format!("{what} is not one line of at most {max_bytes} bytes")));
    }
    Ok(())
}

/// As strict as a file's name must be: no way out of its directory.
fn check_message_id(id: &str) -> Result<(), DeliveryError> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "@.-_".contains(c);
    let (local, domain) = id.split_once('@').unwrap_or_default();
    let whole = !local.is_empty() && !domain.is_empty() && !domain.contains('@') && !id.starts_with('.');
    if whole && id.len() <= MAX_MESSAGE_ID_BYTES && id.chars().all(safe) {
        return Ok(());
    }
    Err(DeliveryError::permanent("message", "the message id is not letters, digits, dots, dashes and one @"))
}
