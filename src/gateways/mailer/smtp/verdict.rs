//! Why a conversation stopped, and what that means for the mail: classified here, once (RFC 5321, section 4.2.1; RFC 3463).
//!
//! A refusal concerns us (our login, our sender, our leave to relay), the recipient, or this one mail. What concerns us
//! passes once somebody mends it, and no donor's mail may die of it. Deliberately absent: any effect.

use std::error::Error as _;

use lettre::transport::smtp::Error as SmtpError;

use crate::gateways::delivery::{AddressRefusal, DeliveryError};

/// How far a conversation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Up to the login.
    Opening,
    /// MAIL.
    Sender,
    /// RCPT.
    Recipient,
    /// DATA.
    Content,
    /// From the mail's first byte to the answer after its last: the relay may have it.
    Receipt,
}

/// What stopped it.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// The relay said no.
    Refusal {
        /// Its reply code.
        code: u16,
        /// Its words, as it said them.
        said: String,
    },
    /// It said nothing for too long.
    Silence(String),
    /// The connection broke, or never was, or what came over it was no answer.
    Broken {
        /// For the delivery log.
        code: &'static str,
        /// For the delivery log.
        detail: String,
    },
    /// The address has letters that this relay cannot take (no SMTPUTF8).
    Letters,
}

/// A conversation that came to no good end. Its connection is not used again.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// How far it was.
    pub stage: Stage,
    /// What stopped it.
    pub trouble: Trouble,
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Ours: every mail meets it until somebody mends it.
    Ours,
    /// There is no such mailbox.
    Address,
    /// This mail, or its recipient for now: the same one will be refused again.
    Mail,
}

/// Words of a verdict about a mail's content, where the code (5.7.x) says no more than "policy".
const ABOUT_THE_CONTENT: [&str; 6] = ["spam", "virus", "malware", "phish", "content", "attachment"];
/// Names in which such a word stands by chance: lists of senders, so of us.
const LISTS_OF_SENDERS: [&str; 2] = ["spamhaus", "spamcop"];

impl Trouble {
    /// What lettre's error stands for.
    pub fn of(error: &SmtpError) -> Self {
        if let Some(code) = error.status() {
            let said = error.source().map(ToString::to_string).unwrap_or_default();
            return Self::Refusal { code: code.into(), said };
        }
        let detail = masked(&error.to_string());
        if error.is_timeout() {
            return Self::Silence(detail);
        }
        let code = match error {
            _ if error.is_tls() => "tls",
            // The relay offers no STARTTLS, or no way to log in.
            _ if error.is_client() => "relay",
            _ => "connection",
        };
        Self::Broken { code, detail }
    }
}

impl Stopped {
    /// Whether a connection that was kept has to be replaced and nothing else is wrong: the relay went away meanwhile, or
    /// says that it does (421).
    pub fn is_stale(&self) -> bool {
        match &self.trouble {
            Trouble::Refusal { code, .. } => *code == 421,
            Trouble::Silence(_) | Trouble::Broken { .. } => true,
            Trouble::Letters => false,
        }
    }

    /// What it means for the mail.
    pub fn verdict(self) -> DeliveryError {
        let nobody_knows = self.stage == Stage::Receipt;
        match self.trouble {
            Trouble::Refusal { code, said } => {
                let detail = format!("the relay answered {code}: {}", masked(&said));
                match fault(self.stage, code, &said) {
                    _ if code < 500 => DeliveryError::transient(code, detail),
                    Fault::Ours => DeliveryError::transient(code, detail),
                    Fault::Address => DeliveryError::refused(AddressRefusal::Unreachable, code, detail),
                    Fault::Mail => DeliveryError::permanent(code, detail),
                }
            }
            Trouble::Silence(detail) if nobody_knows => DeliveryError::unknown("timeout", detail),
            Trouble::Silence(detail) => DeliveryError::transient("timeout", detail),
            Trouble::Broken { code, detail } if nobody_knows => DeliveryError::unknown(code, detail),
            Trouble::Broken { code, detail } => DeliveryError::transient(code, detail),
            Trouble::Letters => DeliveryError::permanent("address", "the relay takes no such address (no SMTPUTF8)"),
        }
    }
}

/// Whose fault a permanent refusal is. Before the recipient is named, only we can be meant.
fn fault(stage: Stage, code: u16, said: &str) -> Fault {
    if matches!(stage, Stage::Opening | Stage::Sender) {
        return Fault::Ours;
    }
    let said_lower = said.to_ascii_lowercase();
    match (enhanced(said), code) {
        (Some((1, 1)), _) => Fault::Address,
        // The sender's address.
        (Some((1, 7 | 8)), _) => Fault::Ours,
        (Some((1, _)), _) => Fault::Mail,
        // Commands that the relay does not know, and a login that it misses (RFC 4954).
        (_, 500..=504 | 530..=539) => Fault::Ours,
        (Some((7, _)), _) if stage == Stage::Recipient || !is_about_content(&said_lower) => Fault::Ours,
        (_, _) if stage == Stage::Recipient && said_lower.contains("relay") => Fault::Ours,
        _ => Fault::Mail,
    }
}

/// Subject and detail of an enhanced status code, as `(1, 1)` of `5.1.1 no such mailbox`.
fn enhanced(said: &str) -> Option<(u16, u16)> {
    let mut parts = said.split_whitespace().next()?.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    (class == "5" && parts.next().is_none()).then_some((subject.parse().ok()?, detail.parse().ok()?))
}

fn is_about_content(said_lower: &str) -> bool {
    let said = LISTS_OF_SENDERS.iter().fold(said_lower.to_owned(), |said, list| said.replace(list, ""));
    ABOUT_THE_CONTENT.iter().any(|word| said.contains(word))
}

/// The relay's words, without the recipient's address that many relays repeat.
fn masked(said: &str) -> String {
    let masked = said.split_whitespace().map(|word| if word.contains('@') { "<address>" } else { word });
    masked.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(stage: Stage, code: u16, said: &str) -> (&'static str, bool) {
        let error = Stopped { stage, trouble: Trouble::Refusal { code, said: said.to_owned() } }.verdict();
        assert_eq!(error.code(), code.to_string());
        (error.label(), error.blames_provider())
    }

    #[test]
    fn a_refusal_of_us_passes_and_counts_against_the_relay_and_only_the_recipient_kills_a_mail() {
        use Stage::{Content, Opening, Receipt, Recipient, Sender};
        let (ours, dead, nobody) = (("transient", true), ("permanent", false), ("refused", false));
        for (stage, code, said, expected) in [
            (Opening, 554, "5.7.1 no SMTP service here", ours),
            (Opening, 535, "5.7.8 bad credentials", ours),
            (Sender, 550, "5.1.0 sender rejected", ours),
            (Sender, 553, "sender is not owned by user", ours),
            (Sender, 552, "5.2.2 over quota", ours),
            (Recipient, 503, "5.5.1 error: need MAIL first", ours),
            (Recipient, 554, "5.7.1 <address>: Relay access denied", ours),
            (Recipient, 550, "relaying denied", ours),
            (Recipient, 550, "5.7.1 blocked using zen.spamhaus.org", ours),
            (Recipient, 550, "5.1.8 sender's domain does not exist", ours),
            (Recipient, 530, "5.7.0 must issue a STARTTLS command first", ours),
            (Recipient, 550, "5.1.1 no such user", nobody),
            (Recipient, 501, "5.1.3 bad recipient address syntax", dead),
            (Recipient, 550, "mailbox unavailable", dead),
            (Recipient, 552, "5.2.2 mailbox full", dead),
            (Content, 554, "5.7.1 spam", dead),
            (Receipt, 550, "5.7.1 message contains a virus", dead),
            (Receipt, 550, "5.7.26 unauthenticated mail is not accepted", ours),
            (Receipt, 550, "5.1.1 no such user", nobody),
            (Receipt, 554, "5.6.0 message refused", dead),
            (Content, 502, "5.5.1 no such command", ours),
        ] {
            assert_eq!(verdict(stage, code, said), expected, "{stage:?} {code} {said}");
        }
    }

    #[test]
    fn a_passing_refusal_passes_at_every_stage() {
        for stage in [Stage::Opening, Stage::Sender, Stage::Recipient, Stage::Content, Stage::Receipt] {
            assert_eq!(verdict(stage, 451, "4.7.1 greylisted"), ("transient", false));
            assert_eq!(verdict(stage, 421, "4.3.2 shutting down"), ("transient", true));
        }
    }

    #[test]
    fn only_where_the_relay_may_have_the_mail_does_nobody_know() {
        let silence = || Trouble::Silence(String::new());
        let broken = || Trouble::Broken { code: "connection", detail: String::new() };
        for stage in [Stage::Opening, Stage::Sender, Stage::Recipient, Stage::Content] {
            assert_eq!(Stopped { stage, trouble: silence() }.verdict().label(), "transient");
            assert_eq!(Stopped { stage, trouble: broken() }.verdict().label(), "transient");
        }
        assert_eq!(Stopped { stage: Stage::Receipt, trouble: silence() }.verdict().label(), "unknown");
        assert_eq!(Stopped { stage: Stage::Receipt, trouble: broken() }.verdict().label(), "unknown");
    }
}
