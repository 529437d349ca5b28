//! How a mail to a person looks: its words as plain text and as HTML, of the same parts, by two templates.
//!
//! HTML is escaped by the template's compiler; styles are inline and colours the reader's own, since mail programs drop
//! the rest. Deliberately absent: images, scripts, anything that is fetched, and the words themselves (`domain::notice`).

use askama::Template;

use super::{Mail, message_id, sender_name};
use crate::domain::ids::NoticeId;
use crate::domain::notice::{NoticeContext, NoticeKind, Words};
use crate::gateways::delivery::DeliveryError;
use crate::gateways::links::Links;

#[derive(Template)]
#[template(path = "letter.txt", escape = "none")]
struct Text<'a> {
    words: &'a Words,
    charity: &'a str,
    action: Option<(&'static str, &'a str)>,
    unsubscribe: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct Html<'a> {
    words: &'a Words,
    charity: &'a str,
    action: Option<(&'static str, &'a str)>,
    unsubscribe: Option<&'a str>,
}

/// A mail to a person, before it is a mail.
pub struct Letter<'a> {
    /// The message that it carries.
    pub notice: NoticeId,
    /// What it is about.
    pub kind: NoticeKind,
    /// What its words are made from.
    pub about: &'a NoticeContext,
    /// The recipient's address.
    pub to: &'a str,
    /// When the message was recorded: the same at every try, so that the mail is the same.
    pub written_at: time::OffsetDateTime,
}

impl Letter<'_> {
    /// The mail, from `from`. Only what a donor can do without says how to unsubscribe (RFC 2369, RFC 8058).
    ///
    /// # Errors
    /// Permanent, where a template cannot be filled.
    pub fn compose(&self, from: &str, links: &Links) -> Result<Mail, DeliveryError> {
        let charity = sender_name(from);
        let words = self.kind.words(self.about, &charity);
        let donations = links.donations(self.notice);
        let action = match self.kind {
            NoticeKind::DonorHistory => Some(("See your donations", donations.as_str())),
            NoticeKind::DonationReceived
            | NoticeKind::PaymentConfirmed
            | NoticeKind::PaymentFailed
            | NoticeKind::Refunded
            | NoticeKind::DisputeOpened
            | NoticeKind::PaymentFlagged => None,
        };
        let unsubscribe = self.kind.is_courtesy().then(|| links.unsubscribe(self.notice));
        let link = unsubscribe.as_deref();
        let text = Text { words: &words, charity: &charity, action, unsubscribe: link }.render();
        let html = Html { words: &words, charity: &charity, action, unsubscribe: link }.render();
        let unfilled = |error| DeliveryError::permanent("template", error);
        Ok(Mail {
            message_id: message_id(self.notice.uuid(), from),
            from: from.to_owned(),
            to: self.to.to_owned(),
            text: text.map_err(unfilled)?,
            html: Some(html.map_err(unfilled)?),
            headers: link.map(|url| unsubscribe_headers(url, links.are_https())).unwrap_or_default(),
            subject: words.subject,
            written_at: self.written_at,
        })
    }
}

fn unsubscribe_headers(url: &str, one_click: bool) -> Vec<(String, String)> {
    let mut headers = vec![("List-Unsubscribe".to_owned(), format!("<{url}>"))];
    if one_click {
        headers.push(("List-Unsubscribe-Post".to_owned(), "List-Unsubscribe=One-Click".to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::notice::Audience;

    const FROM: &str = "Wells & Co <no-reply@wells.example>";
    const EVIL: &str = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> & \r\nBcc: eve@example.org\u{2028}\
                        \u{202e}gnp.exe\u{202c}\u{2066}\0\u{8}{{ 7 * 7 }} </title></td></table>";

    fn about() -> NoticeContext {
        NoticeContext {
            donor_name: "Zoë O'Neil".to_owned(),
            campaign_title: "Wells for “Ösel” & friends".to_owned(),
            amount: "25.00 EUR".to_owned(),
            receipt_number: Some(123),
            donation_id: "01938f00-0000-7000-8000-000000000002".to_owned(),
            intent_id: Some("pi_123".to_owned()),
            happened_at: datetime!(2026-11-24 09:05 UTC),
            is_duplicate: false,
        }
    }

    fn compose(kind: NoticeKind, about: &NoticeContext) -> Mail {
        let links = Links::new(b"a secret of tests", "https://give.example").unwrap();
        let notice = Uuid::from_u128(0x0193_8f00_0000_7000_8000_0000_0000_0001).into();
        let written_at = datetime!(2026-11-24 09:06 UTC);
        Letter { notice, kind, about, to: "zoe@example.org", written_at }.compose(FROM, &links).unwrap()
    }

    fn expected(name: &str, found: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/letters").join(name);
        if std::env::var_os("CAREFORALL_RENEW").is_some() {
            std::fs::write(&path, found).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, file, "renew {name} by CAREFORALL_RENEW=1 cargo test letters_look");
    }

    #[test]
    fn letters_look_as_they_are_expected_to() {
        for kind in NoticeKind::ALL {
            let mail = compose(kind, &about());
            let name = kind.as_str().to_ascii_lowercase();
            expected(&format!("{name}.txt"), &format!("Subject: {}\n\n{}", mail.subject, mail.text));
            expected(&format!("{name}.html"), &mail.html.unwrap());
        }
        let mail = compose(NoticeKind::PaymentConfirmed, &NoticeContext { is_duplicate: true, ..about() });
        expected("duplicate.txt", &format!("Subject: {}\n\n{}", mail.subject, mail.text));
        expected("duplicate.html", &mail.html.unwrap());
    }

    /// The words between the tags, unescaped.
    fn seen(html: &str) -> String {
        let body = html.split_once("<body").unwrap().1;
        let text: String = body.split('<').skip(1).filter_map(|part| part.split_once('>')).map(|(_, it)| it).collect();
        ["&#60;<", "&#62;>", "&#34;\"", "&#39;'", "&#38;&"]
            .iter()
            .fold(text, |text, pair| text.replace(&pair[..5], &pair[5..]))
    }

    #[test]
    fn text_and_html_tell_the_same() {
        for kind in NoticeKind::ALL {
            for is_duplicate in [false, true] {
                let about = NoticeContext { is_duplicate, ..about() };
                let mail = compose(kind, &about);
                let html = mail.html.unwrap();
                let words = kind.words(&about, "Wells & Co");
                let details = words.details.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]);
                let parts = [words.salutation, "Wells & Co".to_owned()].into_iter().chain(words.duplicate);
                for part in parts.chain(words.paragraphs).chain(details) {
                    assert!(mail.text.contains(&part), "{kind:?} lacks {part:?} in its text");
                    assert!(seen(&html).contains(&part), "{kind:?} lacks {part:?} in its HTML");
                }
                for link in mail.text.split_whitespace().filter(|word| word.starts_with("https://")) {
                    assert!(html.contains(&format!("href=\"{link}\"")), "{link}");
                }
            }
        }
    }

    #[test]
    fn nothing_that_people_type_breaks_out_of_text_html_or_header() {
        for kind in NoticeKind::ALL {
            for is_duplicate in [false, true] {
                let evil = NoticeContext {
                    donor_name: EVIL.to_owned(),
                    campaign_title: EVIL.to_owned(),
                    is_duplicate,
                    ..about()
                };
                let (mail, harmless) =
                    (compose(kind, &evil), compose(kind, &NoticeContext { is_duplicate, ..about() }));
                let tags = |mail: &Mail| mail.html.as_ref().unwrap().matches('<').count();
                assert_eq!(tags(&mail), tags(&harmless), "{kind:?}: no tag came in");
                let lines = |mail: &Mail| mail.text.lines().count();
                assert_eq!(lines(&mail), lines(&harmless), "{kind:?}: no line came in");
                assert!(!mail.subject.contains(char::is_control), "{kind:?}: {:?}", mail.subject);
                for part in [&mail.subject, &mail.text, mail.html.as_ref().unwrap()] {
                    let hostile = |c: char| (c.is_control() && c != '\n') || ('\u{2028}'..='\u{202e}').contains(&c);
                    assert!(!part.contains(hostile), "{kind:?}: {part:?}");
                    assert!(!part.contains("49"), "{kind:?}: nothing is filled in twice");
                }
                let message = crate::gateways::mailer::message::build(&mail).unwrap().formatted();
                let message = String::from_utf8(message).unwrap();
                let (head, _) = message.split_once("\r\n\r\n").unwrap();
                let names = |line: &&str| !line.starts_with([' ', '\t']);
                assert!(!head.lines().filter(names).any(|line| line.starts_with("Bcc")), "{head}");
            }
        }
    }

    #[test]
    fn only_courtesies_say_how_to_unsubscribe_and_only_by_https_in_one_click() {
        for kind in NoticeKind::ALL {
            let mail = compose(kind, &about());
            let names: Vec<&str> = mail.headers.iter().map(|(name, _)| name.as_str()).collect();
            let expected: &[&str] =
                if kind == NoticeKind::DonationReceived { &["List-Unsubscribe", "List-Unsubscribe-Post"] } else { &[] };
            assert_eq!(names, expected, "{kind:?}");
            assert_eq!(mail.text.contains("/unsubscribe/"), kind.is_courtesy());
            assert!(!kind.is_courtesy() || kind.audience() == Audience::Donor);
        }
        let links = Links::new(b"s", "http://127.0.0.1:8080").unwrap();
        let url = links.unsubscribe(Uuid::nil().into());
        assert_eq!(unsubscribe_headers(&url, links.are_https()), [("List-Unsubscribe".to_owned(), format!("<{url}>"))]);
    }
}
