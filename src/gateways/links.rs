//! Links in mails that open something without an account: unsubscribing, and a donor's own donations.
//!
//! A link names the message that carried it, and is signed; so it holds no donor's data, and nothing is stored for it.
//! Each purpose signs under a key of its own: a link opens what it was made for and nothing else. Deliberately absent:
//! expiry and addresses; whoever follows a link reads them from the message.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::domain::ids::NoticeId;

/// Where a mail's recipient unsubscribes; the token follows.
pub const UNSUBSCRIBE_PATH: &str = "/unsubscribe";
/// Where a donor's donations are listed; the token follows as the parameter `token`.
pub const DONATIONS_PATH: &str = "/api/v1/donors/me/donations";

const ID_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

/// What a link opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// No more courtesies to where the message went.
    Unsubscribe,
    /// The donations of whom the message went to.
    Donations,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Unsubscribe => b"careforall link v1: unsubscribe",
            Self::Donations => b"careforall link v1: donations",
        }
    }
}

/// Makes links and checks them. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    unsubscribe: Hmac<Sha256>,
    donations: Hmac<Sha256>,
    public_url: String,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

impl Links {
    /// Links to `public_url`, under a secret that all replicas share.
    pub fn new(secret: &[u8], public_url: &str) -> Option<Self> {
        Some(Self {
            unsubscribe: derived(secret, Purpose::Unsubscribe)?,
            donations: derived(secret, Purpose::Donations)?,
            public_url: public_url.trim_end_matches('/').to_owned(),
        })
    }

    /// The link by which whoever holds the message `notice` unsubscribes.
    pub fn unsubscribe(&self, notice: NoticeId) -> String {
        format!("{}{UNSUBSCRIBE_PATH}/{}", self.public_url, self.token(Purpose::Unsubscribe, notice))
    }

    /// The link that the message `notice` brings to a donor.
    pub fn donations(&self, notice: NoticeId) -> String {
        format!("{}{DONATIONS_PATH}?token={}", self.public_url, self.token(Purpose::Donations, notice))
    }

    /// Whether mail programs may be told to unsubscribe by themselves: RFC 8058 wants https (section 3.1).
    pub fn are_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// The message that a token was made for, if it was made here and for that.
    pub fn read(&self, purpose: Purpose, token: &str) -> Option<NoticeId> {
        // The buffer has a fixed size, so that a long token costs nothing.
        let mut bytes = [0; ID_BYTES + MAC_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
        let (id, mac) = bytes.get(..length)?.split_at_checked(ID_BYTES)?;
        let mut expected = self.key(purpose).clone();
        expected.update(id);
        expected.verify_slice(mac).ok()?;
        Uuid::from_slice(id).ok().map(NoticeId::from)
    }

    fn token(&self, purpose: Purpose, notice: NoticeId) -> String {
        let mut mac = self.key(purpose).clone();
        mac.update(notice.uuid().as_bytes());
        let mut bytes = notice.uuid().as_bytes().to_vec();
        bytes.extend_from_slice(&mac.finalize().into_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn key(&self, purpose: Purpose) -> &Hmac<Sha256> {
        match purpose {
            Purpose::Unsubscribe => &self.unsubscribe,
            Purpose::Donations => &self.donations,
        }
    }
}

/// A key for one purpose: the secret's HMAC of the purpose's label.
fn derived(secret: &[u8], purpose: Purpose) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(purpose.label());
    Hmac::new_from_slice(&mac.finalize().into_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICE: Uuid = Uuid::from_u128(0x0193_8f00_0000_7000_8000_0000_0000_0001);

    fn links(secret: &[u8]) -> Links {
        Links::new(secret, "https://give.example/").unwrap()
    }

    fn token(link: &str) -> String {
        link.rsplit(['/', '=']).next().unwrap().to_owned()
    }

    #[test]
    fn a_link_opens_what_it_was_made_for_and_nothing_else() {
        let (links, id) = (links(b"secret"), NoticeId::from(NOTICE));
        let (out, list) = (links.unsubscribe(id), links.donations(id));
        assert!(out.starts_with("https://give.example/unsubscribe/"), "{out}");
        assert!(list.starts_with("https://give.example/api/v1/donors/me/donations?token="), "{list}");
        assert_eq!(links.read(Purpose::Unsubscribe, &token(&out)), Some(id));
        assert_eq!(links.read(Purpose::Donations, &token(&list)), Some(id));
        assert_eq!(links.read(Purpose::Donations, &token(&out)), None);
        assert_eq!(links.read(Purpose::Unsubscribe, &token(&list)), None);
    }

    #[test]
    fn any_changed_character_and_any_other_secret_spoils_a_link() {
        let links = links(b"secret");
        let good = token(&links.donations(NOTICE.into()));
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(links.read(Purpose::Donations, &String::from_utf8(bad).unwrap()), None, "{at}");
        }
        for bad in ["", "A", &good[..40], &format!("{good}A"), &"A".repeat(100_000), "ä", "%2e%2e"] {
            assert_eq!(links.read(Purpose::Donations, bad), None);
        }
        assert_eq!(self::links(b"other").read(Purpose::Donations, &good), None);
    }

    #[test]
    fn the_secret_is_shown_nowhere() {
        assert_eq!(format!("{:?}", links(b"secret")), r#"Links { public_url: "https://give.example", .. }"#);
    }
}
