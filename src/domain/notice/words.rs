//! What messages say to people: mails, and text messages that fit into one.
//!
//! A mail's words are parts (salutation, paragraphs, details), of which its text and its HTML are made alike, so that both
//! tell the same. Whatever people typed is made one visible line first. Deliberately absent: how a mail looks.

use time::{OffsetDateTime, UtcOffset};

use super::{Audience, NoticeKind};

/// A text message of one part has so many septets of GSM 03.38; a longer one is charged, and may arrive, as several.
const SMS_MAX_SEPTETS: usize = 160;
/// A subject has so many characters of a campaign's title: readers show no more, and a long one of four-byte
/// characters would be too long for a header.
const SUBJECT_TITLE_MAX_CHARS: usize = 80;

/// What a message is made from, read at the time it is sent.
#[derive(Clone)]
pub struct NoticeContext {
    /// The donor's name.
    pub donor_name: String,
    /// The campaign's title.
    pub campaign_title: String,
    /// The amount that the message is about, formatted with its currency.
    pub amount: String,
    /// The receipt's number, once money was captured.
    pub receipt_number: Option<i64>,
    /// The donation's identifier, by which people can ask.
    pub donation_id: String,
    /// The payment's identifier at the provider.
    pub intent_id: Option<String>,
    /// When it happened; of a receipt, when the money was captured. A duplicate tells the same time.
    pub happened_at: OffsetDateTime,
    /// Whether it was sent before, and an operator sends it once more.
    pub is_duplicate: bool,
}

/// A mail's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The subject line.
    pub subject: String,
    /// Of which message this is a duplicate, if it is one.
    pub duplicate: Option<String>,
    /// Whom it speaks to.
    pub salutation: String,
    /// What it says.
    pub paragraphs: Vec<String>,
    /// The facts, as a table: name and value.
    pub details: Vec<(&'static str, String)>,
}

impl NoticeKind {
    /// The words of a mail of this kind. `charity` is who writes: it stands on the receipt.
    pub fn words(self, about: &NoticeContext, charity: &str) -> Words {
        let subject = self.subject(about);
        let (duplicate, subject) = match (about.is_duplicate, self, about.receipt_number) {
            (false, _, _) => (None, subject),
            (true, Self::PaymentConfirmed, Some(number)) => {
                let words = format!("Duplicate of receipt {}", receipt_label(number));
                (Some(words.clone()), format!("{words}: your donation to {}", subject_title(about)))
            }
            (true, _, _) => {
                (Some("Duplicate of a message that was sent before".to_owned()), format!("Duplicate: {subject}"))
            }
        };
        let salutation = match self.audience() {
            Audience::Donor => format!("Dear {},", visible(&about.donor_name)),
            Audience::Operators => "To the operators:".to_owned(),
        };
        Words {
            subject,
            duplicate,
            salutation,
            paragraphs: self.paragraphs(about),
            details: details(self, about, charity),
        }
    }

    fn subject(self, about: &NoticeContext) -> String {
        let (title, amount) = (subject_title(about), &about.amount);
        match self {
            Self::DonationReceived => format!("We received your donation to {title}"),
            Self::PaymentConfirmed => format!("Receipt {}: your donation to {title}", receipt(about)),
            Self::PaymentFailed => format!("Your donation to {title} could not be charged"),
            Self::Refunded => format!("Refund of your donation to {title}"),
            Self::DonorHistory => "Your donations: the link that you asked for".to_owned(),
            Self::DisputeOpened => format!("Dispute opened: {amount} for {title}"),
            Self::PaymentFlagged => format!("Please look at a payment of {amount} for {title}"),
        }
    }

    fn paragraphs(self, about: &NoticeContext) -> Vec<String> {
        let (title, amount) = (visible(&about.campaign_title), &about.amount);
        let texts = match self {
            Self::DonationReceived => [
                format!("thank you for giving {amount} to \u{201c}{title}\u{201d}."),
                "We will write again when the payment is confirmed.".to_owned(),
            ],
            Self::PaymentConfirmed => [
                format!("your donation of {amount} to \u{201c}{title}\u{201d} has arrived. Thank you!"),
                "This is your receipt. Please keep it.".to_owned(),
            ],
            Self::PaymentFailed => [
                format!("your payment of {amount} to \u{201c}{title}\u{201d} was declined."),
                "Nothing was charged. You can try again on the campaign's page.".to_owned(),
            ],
            Self::Refunded => [
                format!("{amount} of your donation to \u{201c}{title}\u{201d} is on its way back to you."),
                "Your bank may take some days to show it.".to_owned(),
            ],
            Self::DonorHistory => [
                "by the link below you see the donations that were made with this address. It works for one hour."
                    .to_owned(),
                "If you did not ask for it, ignore this mail: nobody else was sent the link.".to_owned(),
            ],
            Self::DisputeOpened => [
                format!("a dispute over {amount} was opened for a donation to \u{201c}{title}\u{201d}."),
                "Evidence is due in the provider's dashboard.".to_owned(),
            ],
            Self::PaymentFlagged => [
                format!("a payment of {amount} for \u{201c}{title}\u{201d} needs a person."),
                "What the provider tells does not fit what was asked for. The payment's timeline has the reason."
                    .to_owned(),
            ],
        };
        texts.into()
    }

    /// The text message of this kind: one part wherever the campaign's title allows it.
    pub fn text_message(self, about: &NoticeContext) -> String {
        let NoticeContext { amount, .. } = about;
        let copy = if about.is_duplicate { "Copy: " } else { "" };
        let receipt = about.receipt_number.map(receipt_label).unwrap_or_else(|| "pending".to_owned());
        let around = |title: &str| match self {
            Self::DonationReceived => format!("{copy}We received your donation of {amount}{title}."),
            Self::PaymentConfirmed => {
                format!("{copy}Thank you! Your donation of {amount}{title} has arrived. Receipt {receipt}")
            }
            Self::PaymentFailed => {
                format!("{copy}Your donation of {amount}{title} could not be charged. Nothing was taken.")
            }
            Self::Refunded => format!("{copy}{amount} of your donation{title} is on its way back to you."),
            Self::DonorHistory => format!("{copy}A link to your donations is in your mailbox."),
            Self::DisputeOpened => format!("{copy}A dispute over {amount} was opened{title}."),
            Self::PaymentFlagged => format!("{copy}Please look at a payment of {amount}{title}."),
        };
        let room = SMS_MAX_SEPTETS.saturating_sub(around("").chars().map(septets).sum());
        around(&titled(&about.campaign_title, room))
    }
}

/// The facts that a mail of this kind lists.
fn details(kind: NoticeKind, about: &NoticeContext, charity: &str) -> Vec<(&'static str, String)> {
    let happened = match kind {
        NoticeKind::DonorHistory => return Vec::new(),
        NoticeKind::PaymentConfirmed => "Received on",
        NoticeKind::DonationReceived
        | NoticeKind::PaymentFailed
        | NoticeKind::Refunded
        | NoticeKind::DisputeOpened
        | NoticeKind::PaymentFlagged => "Date",
    };
    let mut details = Vec::new();
    // Where money went back, the number says which receipt counts for less.
    if matches!(kind, NoticeKind::PaymentConfirmed | NoticeKind::Refunded) {
        details.push(("Receipt number", receipt(about)));
    }
    details.push(("Amount", about.amount.clone()));
    details.push(("Campaign", visible(&about.campaign_title)));
    details.push((happened, utc(about.happened_at)));
    match kind.audience() {
        Audience::Donor => details.push(("Charity", visible(charity))),
        Audience::Operators => {
            details.push(("Provider's payment", about.intent_id.clone().unwrap_or_else(|| "unknown".to_owned())));
        }
    }
    details.push(("Donation", about.donation_id.clone()));
    details
}

fn receipt(about: &NoticeContext) -> String {
    about.receipt_number.map(receipt_label).unwrap_or_else(|| "pending".to_owned())
}

fn subject_title(about: &NoticeContext) -> String {
    let title = visible(&about.campaign_title);
    match title.char_indices().nth(SUBJECT_TITLE_MAX_CHARS) {
        Some((end, _)) => format!("{}…", title[..end].trim_end()),
        None => title,
    }
}

/// `24 November 2026, 09:05 UTC`
fn utc(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    format!("{} {} {}, {:02}:{:02} UTC", at.day(), at.month(), at.year(), at.hour(), at.minute())
}

/// What somebody typed, as one line that reads as it is written: white space of any kind becomes a space, and what is
/// invisible or turns the direction of what follows (UAX #9) is left out.
fn visible(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let hides = |c: char| matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}');
    let spaced = text.chars().filter(|c| !turns(*c) && !hides(*c));
    let spaced: String = spaced.map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// ` to <title>`, shortened to `room` septets; nothing where one letter of it would turn the whole message into UCS-2,
/// which has 70 characters.
fn titled(title: &str, room: usize) -> String {
    const BEFORE: &str = " to ";
    const CUT: &str = "...";
    if !title.chars().all(is_gsm) {
        return String::new();
    }
    let whole: usize = title.chars().map(septets).sum();
    if BEFORE.len() + whole <= room {
        return format!("{BEFORE}{title}");
    }
    let mut left = room.saturating_sub(BEFORE.len() + CUT.len());
    let kept: String = title
        .chars()
        .take_while(|c| {
            let fits = septets(*c) <= left;
            left = left.saturating_sub(septets(*c));
            fits
        })
        .collect();
    if kept.is_empty() { String::new() } else { format!("{BEFORE}{}{CUT}", kept.trim_end()) }
}

/// Whether GSM 03.38 has the character, in its basic set or in its extension.
fn is_gsm(c: char) -> bool {
    const BASIC: &str = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./:;<=>?¡ÄÖÑÜ§¿äöñüà";
    c.is_ascii_alphanumeric() || BASIC.contains(c) || is_extended(c)
}

fn is_extended(c: char) -> bool {
    "^{}\\[~]|€".contains(c)
}

fn septets(c: char) -> usize {
    if is_extended(c) { 2 } else { 1 }
}

/// A receipt's number as people quote it.
pub fn receipt_label(number: i64) -> String {
    format!("CF-{number:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(title: &str) -> NoticeContext {
        NoticeContext {
            donor_name: "Jo Donor".to_owned(),
            campaign_title: title.to_owned(),
            amount: "25.00 EUR".to_owned(),
            receipt_number: Some(42),
            donation_id: "d".to_owned(),
            intent_id: Some("pi_1".to_owned()),
            happened_at: time::macros::datetime!(2026-11-24 10:05:09 +1),
            is_duplicate: false,
        }
    }

    #[test]
    fn a_receipt_has_its_number_amount_date_and_charity_and_a_duplicate_says_of_what() {
        let words = NoticeKind::PaymentConfirmed.words(&about("Wells"), "CareForAll");
        assert_eq!(words.subject, "Receipt CF-000042: your donation to Wells");
        assert_eq!(words.duplicate, None);
        let details: Vec<String> = words.details.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "Receipt number: CF-000042",
            "Amount: 25.00 EUR",
            "Campaign: Wells",
            "Received on: 24 November 2026, 09:05 UTC",
            "Charity: CareForAll",
            "Donation: d",
        ];
        assert_eq!(details, expected);
        let again = NoticeContext { is_duplicate: true, ..about("Wells") };
        let copy = NoticeKind::PaymentConfirmed.words(&again, "CareForAll");
        assert_eq!(copy.subject, "Duplicate of receipt CF-000042: your donation to Wells");
        assert_eq!(copy.duplicate.as_deref(), Some("Duplicate of receipt CF-000042"));
        assert_eq!(copy.details, words.details);
        let copy = NoticeKind::Refunded.words(&again, "CareForAll");
        assert_eq!(copy.subject, "Duplicate: Refund of your donation to Wells");
    }

    #[test]
    fn what_people_typed_is_one_visible_line() {
        assert_eq!(visible(" a\r\nBcc:\u{2028}x\t\0b\u{202e}c\u{2066}\u{200b}d\u{85}"), "a Bcc: x bcd");
        assert_eq!(visible("Zoë 👩\u{200d}🌾 नेपाल"), "Zoë 👩\u{200d}🌾 नेपाल");
    }

    #[test]
    fn a_subject_stays_short_whatever_the_title() {
        for kind in NoticeKind::ALL {
            for is_duplicate in [false, true] {
                let about = NoticeContext { is_duplicate, ..about(&"🙂".repeat(200)) };
                let subject = kind.words(&about, "CareForAll").subject;
                assert!(subject.len() < 500, "{subject}");
            }
        }
    }

    #[test]
    fn a_text_message_fits_into_one_whatever_the_title() {
        for title in ["Wells", "Wells für Ösel", &"Long title ".repeat(30), &"{}€".repeat(60), "水", "Wells 🙂"]
        {
            for kind in NoticeKind::ALL {
                let text = kind.text_message(&about(title));
                let length: usize = text.chars().map(septets).sum();
                assert!(text.chars().all(is_gsm) && length <= SMS_MAX_SEPTETS, "{length}: {text}");
                assert!(text.contains("25.00 EUR") || !kind.is_for_phones(), "{text}");
            }
        }
        let text = NoticeKind::PaymentConfirmed.text_message(&about("Wells"));
        assert_eq!(text, "Thank you! Your donation of 25.00 EUR to Wells has arrived. Receipt CF-000042");
        assert!(NoticeKind::Refunded.text_message(&about(&"Long title ".repeat(30))).contains("..."));
        assert!(!NoticeKind::Refunded.text_message(&about("水")).contains(" to  "));
    }
}
