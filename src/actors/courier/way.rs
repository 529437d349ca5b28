//! The way out of one channel: makes of a claim what its gateway sends, and sends it.
//!
//! Deliberately absent: what an answer comes to (`judge`).

use time::OffsetDateTime;

use super::judge::expires_at;
use crate::clock::Clock;
use crate::domain::notice::Channel;
use crate::gateways::callback::{self, Callbacks, EndpointSecret};
use crate::gateways::delivery::{Accepted, DeliveryError};
use crate::gateways::links::Links;
use crate::gateways::mailer::{self, Mailer};
use crate::gateways::sms::{Sms, TextMessage};
use crate::store::notices::{Callback, Claim, Content, Letter};

/// How messages of one channel leave. Cheap to clone.
#[derive(Clone)]
pub enum Way {
    /// Over SMTP, or into files.
    Email {
        /// The gateway.
        mailer: Mailer,
        /// The sender.
        from: String,
        /// Makes the links that mails bring.
        links: Links,
    },
    /// Through Twilio.
    Sms {
        /// The gateway.
        sms: Sms,
        /// Where Twilio reports what became of a message: `?notice=<id>` is put behind it, so that a report finds its
        /// message even where Twilio's answer, with its own name for it, was lost.
        reports_to: Option<String>,
    },
    /// To partners' endpoints.
    Webhook(Callbacks),
}

impl Way {
    /// Whose way it is.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Email { .. } => Channel::Email,
            Self::Sms { .. } => Channel::Sms,
            Self::Webhook(_) => Channel::Webhook,
        }
    }

    /// Sends what was claimed.
    pub async fn send(&self, claim: &Claim, clock: &Clock) -> Result<Accepted, DeliveryError> {
        if expires_at(claim).is_some_and(|end| clock.now() >= end) {
            let detail = "what it is about is over: nobody could use it any more".to_owned();
            return Err(DeliveryError::Permanent { code: "expired".to_owned(), detail });
        }
        let corrupt = |detail: String| DeliveryError::Permanent { code: "corrupt".to_owned(), detail };
        match (self, &claim.content) {
            (_, Err(error)) => Err(corrupt(error.to_string())),
            (Self::Email { mailer, from, links }, Ok(Content::Letter(letter))) => {
                mailer.send(&letter_of(claim, letter).compose(from, links)?).await
            }
            (Self::Sms { sms, reports_to }, Ok(Content::Letter(letter))) => {
                sms.send(&text_message(claim, letter, reports_to.as_deref())).await
            }
            (Self::Webhook(callbacks), Ok(Content::Callback(it))) => callbacks.send(&callback(it, clock.now())?).await,
            (Self::Email { .. } | Self::Sms { .. }, Ok(Content::Callback(_)))
            | (Self::Webhook(_), Ok(Content::Letter(_))) => Err(corrupt("a message of another channel".to_owned())),
        }
    }
}

fn letter_of<'a>(claim: &Claim, letter: &'a Letter) -> mailer::Letter<'a> {
    mailer::Letter {
        notice: claim.id,
        kind: letter.kind,
        about: &letter.context,
        to: &letter.recipient,
        written_at: claim.created_at,
    }
}

fn text_message(claim: &Claim, letter: &Letter, reports_to: Option<&str>) -> TextMessage {
    TextMessage {
        to: letter.recipient.clone(),
        text: letter.kind.text_message(&letter.context),
        status_callback: reports_to.map(|base| format!("{base}?notice={}", claim.id)),
    }
}

fn callback(it: &Callback, now: OffsetDateTime) -> Result<callback::Callback, DeliveryError> {
    let unusable =
        |_| DeliveryError::Permanent { code: "settings".to_owned(), detail: "the secret is none".to_owned() };
    let secrets = it.secrets.iter().map(|secret| EndpointSecret::parse(secret).map_err(unusable));
    Ok(callback::Callback {
        url: it.url.clone(),
        id: format!("msg_{}", it.message_id),
        at: now,
        body: it.body.clone(),
        secrets: secrets.collect::<Result<Vec<_>, _>>()?,
    })
}
