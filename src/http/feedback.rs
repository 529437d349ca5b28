//! What became of messages, as Twilio and SendGrid report it: the signature on what was posted first, then the store.
//!
//! Statuses only move forward, so a report may come late, twice and in any order. A report of nothing that we know is
//! taken and forgotten; what could not be written down is a 503, so that it comes again. Deliberately absent: limits on how
//! often they may call, and answers that would tell a stranger which messages there are.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use uuid::Uuid;

use super::extract::read_body;
use super::problem::{FieldError, Problem};
use super::{AppState, BODY_MAX_BYTES};
use crate::domain::notice::{Channel, NoticeStatus};
use crate::gateways::delivery::AddressRefusal;
use crate::gateways::mailer::notice_of;
use crate::gateways::sendgrid::{self, MailEvent, MailEventKind, parse_events};
use crate::gateways::sms::twilio::{self, TextReport, TextStatus};
use crate::metrics::METRICS;
use crate::store::notices::{Feedback, Named};
use crate::store::suppressions::SuppressionReason;

/// Where Twilio reports what became of a text message; `?notice=<id>` follows.
pub const TWILIO_REPORTS: &str = "/webhooks/twilio/status";
/// The largest batch of SendGrid's, in bytes: it sends at 768 KB.
const EVENTS_MAX_BYTES: usize = 1024 * 1024;

/// Events that are written down in one transaction.
const EVENTS_AT_ONCE: usize = 200;

const TWILIO: &str = "twilio";
const SENDGRID: &str = "sendgrid";

/// Who reports what became of messages, and how that is checked.
#[derive(Default)]
pub struct Reporters {
    /// Twilio, where text messages are sent and the world can reach us.
    pub twilio: Option<TwilioReports>,
    /// SendGrid's verification key.
    pub sendgrid: Option<String>,
}

/// How Twilio's reports are checked.
pub struct TwilioReports {
    /// The account's secret.
    pub auth_token: String,
    /// The address that Twilio was given, without its query: what it signs is what it was given, not what arrives here.
    pub url: String,
}

#[derive(Deserialize)]
struct ReportQuery {
    notice: Option<Uuid>,
}

/// `POST /webhooks/twilio/status`
pub async fn twilio(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let reports = state.reporters.twilio.as_ref().ok_or_else(|| Problem::not_found("route"))?;
    let raw = read_body(payload.into_inner(), BODY_MAX_BYTES).await?;
    let form: Vec<(String, String)> = serde_urlencoded::from_bytes(&raw).unwrap_or_default();
    let url = match request.query_string() {
        "" => reports.url.clone(),
        query => format!("{}?{query}", reports.url),
    };
    if !twilio::check_signature(&reports.auth_token, &url, &form, header(&request, "x-twilio-signature")) {
        return Err(forged(TWILIO, "X-Twilio-Signature"));
    }
    if let Some(report) = TextReport::parse(&form) {
        let named: Option<ReportQuery> = serde_urlencoded::from_str(request.query_string()).ok();
        let feedback = of_text(report, named.and_then(|it| it.notice), &state);
        record(&state, TWILIO, &[feedback]).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /webhooks/sendgrid/events`
pub async fn sendgrid(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    const SIGNATURE: &str = "X-Twilio-Email-Event-Webhook-Signature";
    const TIMESTAMP: &str = "X-Twilio-Email-Event-Webhook-Timestamp";
    let public_key = state.reporters.sendgrid.as_deref().ok_or_else(|| Problem::not_found("route"))?;
    let raw = read_body(payload.into_inner(), EVENTS_MAX_BYTES).await?;
    let (timestamp, signature) = (header(&request, TIMESTAMP), header(&request, SIGNATURE));
    if !sendgrid::check_signature(public_key, timestamp, &raw, signature) {
        return Err(forged(SENDGRID, SIGNATURE));
    }
    let events = parse_events(&raw).map_err(|error| Problem::malformed(vec![FieldError::new("", error)]))?;
    for chunk in events.chunks(EVENTS_AT_ONCE) {
        let feedback: Vec<Feedback> = chunk.iter().map(of_mail).collect();
        record(&state, SENDGRID, &feedback).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn forged(provider: &str, header: &str) -> Problem {
    METRICS.feedback.with_label_values(&[provider, "forged"]).inc();
    tracing::warn!(provider, "the signature of a report does not hold");
    Problem::malformed(vec![FieldError::new(&format!("/headers/{header}"), "the signature does not hold")])
}

async fn record(state: &AppState, provider: &str, feedback: &[Feedback]) -> Result<(), Problem> {
    for moved in state.store.record_feedback(feedback).await? {
        METRICS.feedback.with_label_values(&[provider, if moved { "moved" } else { "unmoved" }]).inc();
    }
    Ok(())
}

fn of_text(report: TextReport, notice: Option<Uuid>, state: &AppState) -> Feedback {
    let suppress = report.refusal().map(|refusal| match refusal {
        AddressRefusal::Unreachable => SuppressionReason::Bounce,
        AddressRefusal::OptedOut => SuppressionReason::Unsubscribe,
    });
    Feedback {
        channel: Channel::Sms,
        notice: match notice {
            Some(notice) => Named::by_us(notice.into()),
            None => Named::by_provider(storable(&report.message_sid)),
        },
        status: match report.status {
            TextStatus::Queued | TextStatus::Sent => NoticeStatus::Sent,
            TextStatus::Delivered => NoticeStatus::Delivered,
            TextStatus::Undelivered | TextStatus::Failed => NoticeStatus::Undelivered,
        },
        provider_status: report.status.as_str().to_owned(),
        // Twilio does not say when.
        at: state.clock.now(),
        detail: report.error_code.map(|code| format!("Twilio's error {}", storable(&code))),
        suppress: suppress.map(|reason| (reason, TWILIO.to_owned())),
    }
}

fn of_mail(event: &MailEvent) -> Feedback {
    let (status, suppress) = match event.event {
        MailEventKind::Processed | MailEventKind::Deferred => (NoticeStatus::Sent, None),
        MailEventKind::Delivered | MailEventKind::Open | MailEventKind::Click => (NoticeStatus::Delivered, None),
        // Refused for now or for another's sake: the address may be good. What SendGrid drops, it goes on dropping.
        MailEventKind::Blocked | MailEventKind::Dropped => (NoticeStatus::Undelivered, None),
        MailEventKind::Bounce => (NoticeStatus::Undelivered, Some(SuppressionReason::Bounce)),
        MailEventKind::SpamReport => (NoticeStatus::Delivered, Some(SuppressionReason::Complaint)),
        MailEventKind::Unsubscribe => (NoticeStatus::Delivered, Some(SuppressionReason::Unsubscribe)),
    };
    Feedback {
        channel: Channel::Email,
        notice: Named {
            by_us: event.smtp_id.as_deref().and_then(notice_of).map(Into::into),
            by_provider: event.smtp_id.iter().chain(&event.sg_id).map(|id| storable(id)).collect(),
        },
        status,
        provider_status: event.event.as_str().to_owned(),
        at: event.at,
        detail: event.reason.as_deref().map(without_addresses),
        suppress: suppress.map(|reason| (reason, SENDGRID.to_owned())),
    }
}

/// Postgres keeps no NUL; a report that has one must not come again for ever.
fn storable(text: &str) -> String {
    text.replace('\0', "")
}

/// A server's words, without the recipient's address that many repeat.
fn without_addresses(text: &str) -> String {
    let masked = text.split_whitespace().map(|word| if word.contains('@') { "<address>" } else { word });
    storable(&masked.collect::<Vec<_>>().join(" "))
}
