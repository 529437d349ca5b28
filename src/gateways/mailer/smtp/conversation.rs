//! One connection to a relay, step by step: each command is answered within its bound and by a code that fits it, or the
//! conversation is over.
//!
//! lettre's own `send` says QUIT after an error and waits for the answer without a bound, and takes any 2xx or 3xx for a
//! yes: an answer that is one behind (354 for the mail itself) would count as a receipt. Deliberately absent: RSET. A relay
//! that said no is left, and the next mail begins afresh.

use std::fmt;

use lettre::Address;
use lettre::address::Envelope;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Noop, Rcpt};
use lettre::transport::smtp::extension::{Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};
use tokio::time::{Instant, timeout_at};

use super::verdict::{Stage, Stopped, Trouble};
use super::{Encryption, Patience, Shared};
use crate::gateways::delivery::Accepted;

/// The time that is left for a conversation.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    address: &'a str,
    patience: Patience,
    deadline: Instant,
}

impl<'a> Steps<'a> {
    /// It begins now.
    pub fn begin(address: &'a str, patience: Patience) -> Self {
        Self { address, patience, deadline: Instant::now() + patience.whole }
    }

    /// One step, within its own bound and that of the whole.
    async fn take<T>(self, stage: Stage, step: impl Future<Output = Result<T, SmtpError>>) -> Result<T, Stopped> {
        let bound = match stage {
            Stage::Receipt => self.patience.receipt,
            Stage::Opening | Stage::Sender | Stage::Recipient | Stage::Content => self.patience.step,
        };
        let trouble = match timeout_at(self.deadline.min(Instant::now() + bound), step).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Trouble::of(&error),
            Err(_) => Trouble::Silence(format!("{} did not answer in time", self.address)),
        };
        Err(Stopped { stage, trouble })
    }
}

/// A connection that is in step: what was said is answered.
pub struct Conversation {
    connection: AsyncSmtpConnection,
}

impl Conversation {
    /// From the relay's name to the moment when it may be given a mail: encrypted where it must be, logged in where we can.
    pub async fn open(relay: &Shared, steps: Steps<'_>) -> Result<Self, Stopped> {
        let wrapped = match &relay.encryption {
            Encryption::Tls(parameters) => Some(parameters.clone()),
            Encryption::Starttls(_) | Encryption::None => None,
        };
        let (server, bound) = ((relay.host.as_str(), relay.port), Some(relay.patience.step));
        let connect = AsyncSmtpConnection::connect_tokio1(server, bound, &relay.hello, wrapped, None);
        let mut connection = steps.take(Stage::Opening, connect).await?;
        if let Encryption::Starttls(parameters) = &relay.encryption {
            steps.take(Stage::Opening, connection.starttls(parameters.clone(), &relay.hello)).await?;
        }
        if let Some(credentials) = &relay.credentials {
            let answer = steps.take(Stage::Opening, connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
            fits(Stage::Opening, &answer)?;
        }
        Ok(Self { connection })
    }

    /// Names the sender. Until then a mail is nobody's, and the same may be said again over another connection.
    pub async fn begin(mut self, envelope: &Envelope, mail: &[u8], steps: Steps<'_>) -> Result<Self, Stopped> {
        let options = self.options(envelope, mail)?;
        let command = Mail::new(envelope.from().cloned(), options);
        let answer = steps.take(Stage::Sender, self.connection.command(command)).await?;
        fits(Stage::Sender, &answer)?;
        Ok(self)
    }

    /// Names the recipient and hands the mail over; the conversation is in step after a receipt, and over after an error.
    pub async fn finish(&mut self, envelope: &Envelope, mail: &[u8], steps: Steps<'_>) -> Result<Accepted, Stopped> {
        for recipient in envelope.to() {
            let command = Rcpt::new(recipient.clone(), Vec::new());
            let answer = steps.take(Stage::Recipient, self.connection.command(command)).await?;
            fits(Stage::Recipient, &answer)?;
        }
        let answer = steps.take(Stage::Content, self.connection.command(Data)).await?;
        fits(Stage::Content, &answer)?;
        let receipt = match std::str::from_utf8(mail) {
            Ok(text) => steps.take(Stage::Receipt, self.connection.command(Whole(text))).await?,
            Err(_) => steps.take(Stage::Receipt, self.connection.message(mail)).await?,
        };
        fits(Stage::Receipt, &receipt)?;
        Ok(Accepted::new(provider_id(&receipt), receipt.code()))
    }

    /// Whether the relay still listens.
    pub async fn is_there(&mut self, steps: Steps<'_>) -> bool {
        let answer = steps.take(Stage::Opening, self.connection.command(Noop)).await;
        answer.is_ok_and(|answer| fits(Stage::Opening, &answer).is_ok())
    }

    /// What the relay must be able to take this mail.
    fn options(&self, envelope: &Envelope, mail: &[u8]) -> Result<Vec<MailParameter>, Stopped> {
        let (server, mut options) = (self.connection.server_info(), Vec::new());
        let is_plain = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        if !envelope.to().iter().chain(envelope.from()).all(is_plain) {
            if !server.supports_feature(Extension::SmtpUtfEight) {
                return Err(Stopped { stage: Stage::Sender, trouble: Trouble::Letters });
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        if !mail.is_ascii() {
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok(options)
    }
}

/// A mail with the line that ends it, in one piece. lettre writes the two one after the other, and the second then waits for
/// the first to be acknowledged, which the relay delays, for it has nothing to say yet: 40 ms a mail.
struct Whole<'a>(&'a str);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.0.split_inclusive('\n') {
            // A line of one dot would be the end (RFC 5321, section 4.5.2).
            if line.starts_with('.') {
                f.write_str(".")?;
            }
            f.write_str(line)?;
        }
        f.write_str(if self.0.ends_with("\r\n") { ".\r\n" } else { "\r\n.\r\n" })
    }
}

/// Whether an answer that is no refusal is the one that the command has: 354 asks for the mail, 2xx is a yes to everything
/// else.
fn fits(stage: Stage, answer: &Response) -> Result<(), Stopped> {
    let fits = match stage {
        Stage::Content => answer.has_code(354),
        Stage::Opening | Stage::Sender | Stage::Recipient | Stage::Receipt => {
            answer.code().severity == Severity::PositiveCompletion
        }
    };
    if fits {
        return Ok(());
    }
    let detail = format!("the relay answered {}, which is no answer to that", answer.code());
    Err(Stopped { stage, trouble: Trouble::Broken { code: "relay", detail } })
}

/// `2.0.0 Ok: queued as 4QX7…` is how most relays name what they took.
fn provider_id(response: &Response) -> Option<&str> {
    let line = response.first_line()?.trim();
    let id = line.rsplit_once("queued as ").map_or(line, |(_, id)| id);
    (!id.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_mail_is_taken_for_its_end() {
        for (mail, sent) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", "\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\n..b\r\n", "a\r\n..\r\n...b\r\n.\r\n"),
            ("a\n.\n", "a\n..\n\r\n.\r\n"),
            ("a\r\n.", "a\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(Whole(mail).to_string(), sent, "{mail:?}");
        }
    }
}
