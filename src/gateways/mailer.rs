//! Sends one mail: over SMTP (any provider's relay), or into files for whoever has set no relay.
//!
//! A `Message-ID` is made from the notice it carries, so that a mail that went out twice can be recognised as one.
//!
//! Deliberately absent: retries and the choice of recipients. The courier retries; notices say what to write.

mod files;
mod letter;
mod message;
mod smtp;

use std::path::PathBuf;

use time::OffsetDateTime;
use uuid::Uuid;

use self::files::MailFiles;
pub use self::letter::Letter;
pub use self::smtp::Patience;
use self::smtp::SmtpRelay;
use super::delivery::{Accepted, DeliveryError};

/// One mail, to one person.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Unique for the notice and the same at every try, without brackets: see [`message_id`].
    pub message_id: String,
    /// `Name <address>` or a bare address.
    pub from: String,
    /// `Name <address>` or a bare address.
    pub to: String,
    /// One line.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The same in HTML, for whoever prefers it.
    pub html: Option<String>,
    /// Further headers, as `List-Unsubscribe`: name and value, one line each.
    pub headers: Vec<(String, String)>,
    /// When the notice was written, for the `Date` header.
    pub written_at: OffsetDateTime,
}

/// The way out for mails. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub enum Mailer {
    /// A relay, over pooled connections.
    Smtp(SmtpRelay),
    /// One `.eml` file a mail.
    Files(MailFiles),
}

impl Mailer {
    /// A relay when there is a URL, else files in `files_dir`.
    ///
    /// `smtps://user:password@host` wraps the connection in TLS (port 465); `smtp://…` begins plainly and must reach TLS
    /// by STARTTLS (port 587) before anything is said, save on the loopback interface (port 25). User and password are
    /// percent-encoded; a path names us to the relay. `roots` are certificate authorities in PEM, trusted beside the
    /// usual ones.
    ///
    /// # Errors
    /// [`DeliveryError::Permanent`] with code `settings` when the URL cannot be used. It never repeats the URL: that holds a
    /// password.
    pub fn from_url(url: Option<&str>, roots: &[String], files_dir: PathBuf) -> Result<Self, DeliveryError> {
        match url {
            Some(url) => SmtpRelay::from_url(url, roots).map(Self::Smtp),
            None => Ok(Self::Files(MailFiles::new(files_dir))),
        }
    }

    /// Hands the mail over.
    ///
    /// # Errors
    /// Transient: try again later. Unknown: so, but the relay had all of it and did not answer; trying again may double the
    /// mail, and its `Message-ID` then shows it. Permanent, refused: the mail is dead.
    pub async fn send(&self, mail: &Mail) -> Result<Accepted, DeliveryError> {
        let message = message::build(mail)?;
        match self {
            Self::Smtp(relay) => relay.send(message).await,
            Self::Files(files) => files.write(&mail.message_id, message.formatted()).await,
        }
    }

    /// Whether a mail could leave now: the relay answers and knows us, or the directory can be written.
    ///
    /// # Errors
    /// What a mail would meet.
    pub async fn check(&self) -> Result<(), DeliveryError> {
        match self {
            Self::Smtp(relay) => relay.check().await,
            Self::Files(files) => files.check().await,
        }
    }
}

/// Whether mails can be from, or to, `text`: an address, or `Name <address>`.
pub fn is_mailbox(text: &str) -> bool {
    text.parse::<lettre::message::Mailbox>().is_ok()
}

/// Who a sender is for people: the name, or the address where there is none.
pub fn sender_name(from: &str) -> String {
    let mailbox = from.parse::<lettre::message::Mailbox>().ok();
    mailbox.and_then(|mailbox| mailbox.name).unwrap_or_else(|| from.to_owned())
}

/// The `Message-ID` of a notice, without brackets: the same at every try (RFC 5322, section 3.6.4).
pub fn message_id(notice_id: Uuid, from: &str) -> String {
    let domain = from.rsplit_once('@').map_or("", |(_, rest)| rest.trim_end_matches(['>', ' ']));
    let usable = !domain.is_empty() && domain.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    format!("{notice_id}@{}", if usable { domain } else { "localhost" })
}

/// The notice that a `Message-ID` of [`message_id`]'s making stands for, with or without brackets: for those who report
/// what became of a mail.
pub fn notice_of(message_id: &str) -> Option<Uuid> {
    let bare = message_id.trim().trim_start_matches('<').trim_end_matches('>');
    let (notice_id, _) = bare.split_once('@')?;
    Uuid::try_parse(notice_id).ok()
}

#[cfg(test)]
mod tests;
