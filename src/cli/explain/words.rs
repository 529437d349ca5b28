//! The story of a payment in words, for a terminal of a hundred columns, without colours.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::story::{Amounts, Chapter, Standing, Story};
use crate::domain::money::Currency;

const COLUMNS: usize = 100;
const INDENT: &str = "    ";
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3] UTC");
const SECOND: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]:[second]");

/// The whole story.
pub fn tell(story: &Story) -> String {
    let now = &story.now;
    let mut text = format!("Payment {}\n", now.payment_id);
    let intent = now.intent_id.as_deref().unwrap_or("none yet");
    text.push_str(&format!("Donation {}, intent {intent}\n", now.donation_id));
    text.push_str(&format!("Campaign {}\n", now.campaign_id));
    for chapter in &story.chapters {
        text.push('\n');
        tell_chapter(&mut text, chapter, now.currency);
    }
    text.push('\n');
    tell_present(&mut text, now);
    tell_rest(&mut text, story);
    text
}

fn tell_chapter(text: &mut String, chapter: &Chapter, currency: Currency) {
    text.push_str(&format!("{}\n", moment(chapter.at)));
    let colon = if chapter.who == "The donor" { "" } else { ":" };
    line(text, &format!("{}{colon} {}.", chapter.who, chapter.what));
    line(text, &format!("{}{}: {}.", chapter.verdict, gloss(&chapter.verdict), chapter.rule));
    line(text, &format!("{}, {}", statuses(chapter), versions(chapter)));
    if let Some(amounts) = chapter.amounts {
        line(text, &shown(amounts, currency));
    }
    let mut sources = vec![chapter.kind.clone()];
    sources.extend(chapter.event_id.clone());
    sources.extend(chapter.said_at.and_then(|at| at.format(SECOND).ok()).map(|at| format!("of {at}")));
    line(text, &format!("[{}]", sources.join(" ")));
    if let Some(trace) = &chapter.trace_id {
        line(text, &format!("[trace {trace}]"));
    }
}

fn tell_present(text: &mut String, now: &Standing) {
    let status = now.status.as_str();
    text.push_str(&format!(
        "Now: {status}, version {}; the donation is {}\n",
        now.version,
        now.donation_status.as_str()
    ));
    line(text, &shown(now.amounts, now.currency));
    if let Some(receipt) = &now.receipt {
        line(text, &format!("receipt {receipt}"));
    }
    if let Some(flag) = &now.flag {
        line(text, &format!("a person must look at it: {flag}"));
    }
    line(text, &format!("It waits for {}.", now.waits_for));
    if let Some(at) = now.next_check {
        line(text, &format!("It asks Stripe by itself at {}.", moment(at)));
    }
}

fn tell_rest(text: &mut String, story: &Story) {
    if !story.ledger.is_empty() {
        text.push_str("\nLedger\n");
    }
    for it in &story.ledger {
        let amount = story.now.currency.format(it.amount_minor);
        line(text, &format!("{}  {:<13} {amount:>16}  version {}", moment(it.at), it.kind, it.version));
    }
    if !story.notices.is_empty() {
        text.push_str("\nNotices\n");
    }
    for it in &story.notices {
        let tries = if it.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", it.attempts) };
        line(text, &format!("{}  {:<18} {:<7} {:<11} {tries}", moment(it.created_at), it.kind, it.channel, it.status));
    }
    if !story.doubts.is_empty() {
        text.push_str("\nThe history does not lead to what is stored\n");
    }
    for doubt in &story.doubts {
        line(text, doubt);
    }
}

fn moment(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(TIME).unwrap_or_else(|_| at.to_string())
}

/// What a verdict that is not `applied` comes to.
fn gloss(verdict: &str) -> &'static str {
    match verdict {
        "stale" => " (it changes nothing)",
        "rejected" => " (it is not taken over)",
        _ => "",
    }
}

fn statuses(chapter: &Chapter) -> String {
    let names: Vec<&str> = chapter.statuses.iter().map(|status| status.as_str()).collect();
    match names[..] {
        [stays] if chapter.version_before > 0 => format!("{stays} as before"),
        _ => names.join(" → "),
    }
}

fn versions(chapter: &Chapter) -> String {
    match chapter.version_before {
        0 => format!("version {}", chapter.version_after),
        before if before == chapter.version_after => format!("version {before} stays"),
        before => format!("version {before} → {}", chapter.version_after),
    }
}

fn shown(amounts: Amounts, currency: Currency) -> String {
    let mut words = vec![format!("captured {}", currency.format(amounts.captured_minor))];
    if amounts.refunded_minor > 0 {
        words.push(format!("refunded {}", currency.format(amounts.refunded_minor)));
    }
    if amounts.disputed_minor > 0 {
        words.push(format!("disputed {}", currency.format(amounts.disputed_minor)));
    }
    format!("{}; net {}", words.join(", "), currency.format(amounts.net_minor))
}

/// One paragraph, indented and wrapped between words.
fn line(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > 0 && INDENT.len() + column + 1 + length > COLUMNS {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { INDENT } else { " " });
        column += length + usize::from(column > 0);
        text.push_str(word);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_paragraph_is_wrapped_between_words_at_a_hundred_columns() {
        let mut text = String::new();
        line(&mut text, &"twelve chars ".repeat(20));
        assert!(text.lines().count() > 2);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS && line.starts_with(INDENT)), "{text}");
    }
}
