//! What messages say to people: mails, and text messages that fit into one.
//!
//! Deliberately absent: HTML; a mail's HTML form is rendered from the same context where mails are made.

use super::{Audience, NoticeKind};

/// A text message of one part has so many septets of GSM 03.38; a longer one is charged, and may arrive, as several.
const SMS_MAX_SEPTETS: usize = 160;

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
    /// Whether it was sent before, and an operator sends it once more.
    pub is_duplicate: bool,
}

/// A message's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The subject line.
    pub subject: String,
    /// The plain text.
    pub text: String,
}

impl NoticeKind {
    /// The words of this kind of message.
    pub fn words(self, about: &NoticeContext) -> Words {
        let NoticeContext { donor_name, campaign_title, amount, donation_id, .. } = about;
        let receipt = about.receipt_number.map(receipt_label).unwrap_or_else(|| "pending".to_owned());
        let intent = about.intent_id.as_deref().unwrap_or("unknown");
        let (subject, body) = match self {
            Self::DonationReceived => (
                format!("We received your donation to {campaign_title}"),
                format!(
                    "thank you for giving {amount} to \"{campaign_title}\".\n\nWe will write again when the payment is confirmed."
                ),
            ),
            Self::PaymentConfirmed => (
                format!("Receipt {receipt}: your donation to {campaign_title}"),
                format!(
                    "your donation of {amount} to \"{campaign_title}\" has arrived. Thank you!\n\nReceipt number: {receipt}"
                ),
            ),
            Self::PaymentFailed => (
                format!("Your donation to {campaign_title} could not be charged"),
                format!(
                    "your payment of {amount} to \"{campaign_title}\" was declined. Nothing was charged; you can try again on the campaign's page."
                ),
            ),
            Self::Refunded => (
                format!("Refund of your donation to {campaign_title}"),
                format!("{amount} of your donation to \"{campaign_title}\" is on its way back to you."),
            ),
            Self::DisputeOpened => (
                format!("Dispute opened: {amount} for {campaign_title}"),
                format!(
                    "a dispute over {amount} was opened for a donation to \"{campaign_title}\" (provider's payment {intent}). Evidence is due in the provider's dashboard."
                ),
            ),
            Self::PaymentFlagged => (
                format!("Please look at a payment of {amount} for {campaign_title}"),
                format!(
                    "a payment of {amount} for \"{campaign_title}\" (provider's payment {intent}) needs a person: what the provider tells does not fit what was asked for. Its timeline has the reason."
                ),
            ),
        };
        let (subject, note) = if about.is_duplicate {
            (format!("Copy: {subject}"), "This is a copy of a message that was sent before.\n\n")
        } else {
            (subject, "")
        };
        let greeting = match self.audience() {
            Audience::Donor => format!("Dear {donor_name},"),
            Audience::Operators => "To the operators:".to_owned(),
        };
        Words { subject, text: format!("{greeting}\n\n{note}{body}\n\nDonation: {donation_id}\n") }
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
            Self::DisputeOpened => format!("{copy}A dispute over {amount} was opened{title}."),
            Self::PaymentFlagged => format!("{copy}Please look at a payment of {amount}{title}."),
        };
        let room = SMS_MAX_SEPTETS.saturating_sub(around("").chars().map(septets).sum());
        around(&titled(&about.campaign_title, room))
    }
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
            is_duplicate: false,
        }
    }

    #[test]
    fn a_receipt_names_its_number_and_a_copy_says_that_it_is_one() {
        let words = NoticeKind::PaymentConfirmed.words(&about("Wells"));
        assert!(words.subject.starts_with("Receipt CF-000042"), "{words:?}");
        assert!(words.text.contains("Receipt number: CF-000042") && !words.text.contains("copy"), "{words:?}");
        let copy = NoticeKind::PaymentConfirmed.words(&NoticeContext { is_duplicate: true, ..about("Wells") });
        assert!(copy.subject.starts_with("Copy: Receipt CF-000042"), "{copy:?}");
        assert!(copy.text.contains("a copy of a message that was sent before"), "{copy:?}");
    }

    #[test]
    fn a_text_message_fits_into_one_whatever_the_title() {
        for title in ["Wells", "Wells für Ösel", &"Long title ".repeat(30), &"{}€".repeat(60), "水", "Wells 🙂"]
        {
            for kind in NoticeKind::ALL {
                let text = kind.text_message(&about(title));
                let length: usize = text.chars().map(septets).sum();
                assert!(text.chars().all(is_gsm) && length <= SMS_MAX_SEPTETS, "{length}: {text}");
                assert!(text.contains("25.00 EUR"), "{text}");
            }
        }
        let text = NoticeKind::PaymentConfirmed.text_message(&about("Wells"));
        assert_eq!(text, "Thank you! Your donation of 25.00 EUR to Wells has arrived. Receipt CF-000042");
        assert!(NoticeKind::Refunded.text_message(&about(&"Long title ".repeat(30))).contains("..."));
        assert!(!NoticeKind::Refunded.text_message(&about("水")).contains(" to  "));
    }
}
