//! Who gives: parsed once, trusted afterwards.
//!
//! Deliberately absent: proof that an address can be reached; only a mail can show that.

use std::fmt;

use thiserror::Error;

/// The longest name that is kept, in characters.
pub const NAME_MAX_CHARS: usize = 200;
/// The longest address that SMTP carries, in bytes (RFC 5321, 4.5.3.1.3, without the angle brackets).
pub const EMAIL_MAX_BYTES: usize = 254;
/// The longest part before the `@`, in bytes (RFC 5321, 4.5.3.1.1).
const EMAIL_LOCAL_MAX_BYTES: usize = 64;

/// A donor.
#[derive(Clone, PartialEq, Eq)]
pub struct Donor {
    /// As the donor writes it.
    pub name: String,
    /// Where mails go.
    pub email: String,
    /// E.164, where the donor wants messages on the phone.
    pub phone: Option<String>,
}

/// Donor data is never in a log, not even by accident.
impl fmt::Debug for Donor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Donor(…)")
    }
}

/// Why a donor's detail is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DonorError {
    /// Empty or only white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit.
    #[error("must be at most {0} characters long")]
    TooLong(usize),
    /// Characters that no name, text or address has.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// A web or mail address where a name should be.
    #[error("must be a name, not an address")]
    NotAName,
    /// Not an address.
    #[error("must be an e-mail address, such as jo@example.org")]
    NotAnEmail,
    /// Not a number.
    #[error("must be a phone number in E.164 form, such as +4915112345678")]
    NotAPhone,
}

/// A line of text of at most `max_chars` characters, trimmed, without control characters.
pub fn line(text: &str, max_chars: usize) -> Result<String, DonorError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(DonorError::Empty);
    }
    bounded(text, max_chars, |c| c.is_control())
}

/// A donor's name: a line that is no address. We greet people by it in mails that anybody can order.
pub fn name(text: &str) -> Result<String, DonorError> {
    let name = line(text, NAME_MAX_CHARS)?;
    let is_address = ["://", "www.", "@"].iter().any(|mark| name.to_ascii_lowercase().contains(mark));
    if is_address { Err(DonorError::NotAName) } else { Ok(name) }
}

/// What the public may see of a name: its first word that is no title, without the comma that follows a surname.
pub fn first_name(name: &str) -> &str {
    let is_name = |word: &&str| !word.ends_with(['.', ',']);
    let word = name.split_whitespace().find(is_name).or_else(|| name.split_whitespace().next());
    word.unwrap_or_default().trim_end_matches(',')
}

/// A text of at most `max_chars` characters that may have line breaks and tabs.
pub fn paragraph(text: &str, max_chars: usize) -> Result<String, DonorError> {
    bounded(text.trim(), max_chars, |c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

fn bounded(text: &str, max_chars: usize, refused: impl Fn(char) -> bool) -> Result<String, DonorError> {
    if text.chars().count() > max_chars {
        return Err(DonorError::TooLong(max_chars));
    }
    if text.chars().any(refused) {
        return Err(DonorError::ControlCharacter);
    }
    Ok(text.to_owned())
}

/// An e-mail address: one `@`, a dotted domain of letters, digits and hyphens, the lengths of RFC 5321, ASCII without
/// white space or characters that would need quoting.
pub fn email(text: &str) -> Result<String, DonorError> {
    let text = text.trim();
    if text.len() > EMAIL_MAX_BYTES {
        return Err(DonorError::TooLong(EMAIL_MAX_BYTES));
    }
    let (local, domain) = text.split_once('@').ok_or(DonorError::NotAnEmail)?;
    let local_fits = !local.is_empty()
        && local.len() <= EMAIL_LOCAL_MAX_BYTES
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b));
    let labels: Vec<&str> = domain.split('.').collect();
    let domain_fits = labels.len() >= 2 && labels.iter().all(|label| is_label(label));
    if local_fits && domain_fits { Ok(text.to_owned()) } else { Err(DonorError::NotAnEmail) }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A phone number in E.164: `+`, then 8 to 15 digits of which the first is not 0; spaces and hyphens are dropped.
pub fn phone(text: &str) -> Result<String, DonorError> {
    let compact: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let digits = compact.strip_prefix('+').ok_or(DonorError::NotAPhone)?;
    let fits =
        (8..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if fits { Ok(compact) } else { Err(DonorError::NotAPhone) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_mailed_are_taken_and_others_refused() {
        for good in ["jo@example.org", "  jo.d+tag@mail.example.co.uk ", "o'neil@example.org", "j@x-y.io"] {
            assert_eq!(email(good).as_deref(), Ok(good.trim()));
        }
        let long_local = format!("{}@example.org", "a".repeat(65));
        for bad in [
            "",
            "jo",
            "@example.org",
            "jo@",
            "jo@localhost",
            "jo@@example.org",
            "jo@example..org",
            "jo@-a.org",
            "jo@example.org\r\nBcc: all@example.org",
            "jo d@example.org",
            ".jo@example.org",
            "jö@example.org",
            &long_local,
        ] {
            assert_eq!(email(bad), Err(DonorError::NotAnEmail), "{bad:?}");
        }
        assert!(matches!(email(&format!("jo@{}.org", "a".repeat(300))), Err(DonorError::TooLong(_))));
    }

    #[test]
    fn the_public_sees_the_first_name_alone() {
        let cases = [
            ("Jo Donor", "Jo"),
            ("Jo", "Jo"),
            ("Dr. Ann Lee", "Ann"),
            ("Lopez, Maria Elena", "Maria"),
            ("J.", "J."),
            ("Lopez,", "Lopez"),
            ("Zoë O'Neil", "Zoë"),
        ];
        for (name, shown) in cases {
            assert_eq!(first_name(name), shown);
        }
    }

    #[test]
    fn phones_are_kept_in_e164() {
        assert_eq!(phone("+49 151-1234 5678").as_deref(), Ok("+4915112345678"));
        for bad in ["", "0151 12345678", "+0151123456", "+49", "+49151a2345678", "+1234567890123456"] {
            assert_eq!(phone(bad), Err(DonorError::NotAPhone), "{bad:?}");
        }
    }

    #[test]
    fn text_is_trimmed_and_bounded_and_has_no_control_characters() {
        assert_eq!(line("  Jo Döe ", 10).as_deref(), Ok("Jo Döe"));
        assert_eq!(line(" \t ", 10), Err(DonorError::Empty));
        assert_eq!(line("a\0b", 10), Err(DonorError::ControlCharacter));
        assert_eq!(line("a\nb", 10), Err(DonorError::ControlCharacter));
        assert_eq!(line("abc", 2), Err(DonorError::TooLong(2)));
        assert_eq!(paragraph("a\nb", 10).as_deref(), Ok("a\nb"));
        assert_eq!(paragraph("a\0b", 10), Err(DonorError::ControlCharacter));
    }
}
