//! `careforall reconcile`: compares our payments with Stripe's, and finds the events that never arrived.
//!
//! A dry run unless `--apply`. Mending goes the roads of the server: events through the intake, payments through their
//! actor's own check, both through the committer; so it may run beside the server, where the version check keeps them
//! apart, and the server publishes the facts. Deliberately absent: a road of its own into the tables.

mod events;
mod hands;
mod objects;
mod pace;

use clap::Args;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use super::{counted, say, with_store};
use crate::app::{own_url, stripe};
use crate::clock::Clock;
use crate::config::Config;
use crate::gateways::stripe::Stripe;
use crate::store::Store;
use hands::Hands;
use pace::Pace;

/// Lines of one kind that are printed at most; the rest is counted.
const PRINTED: usize = 200;
/// Payments, or events, that are looked at side by side.
const SIDE_BY_SIDE: usize = 8;

#[derive(Args)]
pub struct Orders {
    /// Mend what differs; without it, nothing is changed.
    #[arg(long)]
    apply: bool,
    /// Payments and events since then: a date (2026-11-01), a time (RFC 3339) or an age (30d, 12h). Stripe keeps events
    /// for 30 days.
    #[arg(long, default_value = "30d", value_parser = parse_since)]
    since: Since,
    /// Calls to Stripe a second, at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
}

/// A moment, or a time back from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(OffsetDateTime),
    Ago(Duration),
}

impl Since {
    fn moment(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::At(moment) => moment,
            Self::Ago(age) => now.checked_sub(age).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        }
    }
}

fn parse_since(text: &str) -> Result<Since, String> {
    let age = |unit: char, seconds: i64| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|count| *count >= 0)?;
        count.checked_mul(seconds).map(|seconds| Since::Ago(Duration::seconds(seconds)))
    };
    let date = || Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    age('d', 86_400)
        .or_else(|| age('h', 3600))
        .or_else(|| OffsetDateTime::parse(text, &Rfc3339).ok().map(Since::At))
        .or_else(|| date().map(|date| Since::At(date.midnight().assume_utc())))
        .ok_or_else(|| "a date (2026-11-01), a time (2026-11-01T00:00:00Z) or an age (30d, 12h)".to_owned())
}

/// What a run works with.
struct Tools {
    store: Store,
    stripe: Stripe,
    pace: Pace,
    now: OffsetDateTime,
    since: OffsetDateTime,
    /// With these it mends; without them it only looks.
    hands: Option<Hands>,
}

/// What a run found.
#[derive(Default)]
struct Report {
    /// Events that never reached us, and were taken in or would be.
    missed: usize,
    /// Events of payments that are not ours.
    strangers: usize,
    /// Payments that were compared.
    compared: usize,
    /// Payments that differ and were mended or would be.
    differed: usize,
    /// What only a person can settle.
    for_a_person: usize,
    /// What could not be looked at or mended; the next run tries again.
    failed: usize,
}

impl Report {
    fn tell(&self, count: usize, line: &str) {
        if count <= PRINTED {
            say(&format!("{line}\n"));
        }
    }

    fn so_far(&self) -> String {
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        format!("{} differ{failed}", self.differed + self.for_a_person)
    }
}

pub async fn run(config: Config, orders: Orders) -> Result<(), String> {
    with_store(&config, async |store| reconcile(&config, store, orders).await).await
}

async fn reconcile(config: &Config, store: Store, orders: Orders) -> Result<(), String> {
    let now = Clock::System.now();
    let stripe = reach_stripe(config).await?;
    let hands = if orders.apply { Some(Hands::new(config, &store, &stripe)?) } else { None };
    let tools = Tools { store, stripe, pace: Pace::of(orders.rate), now, since: orders.since.moment(now), hands };
    let mut report = Report::default();
    // Events first: each then has its own row in the history, and what they bring need not be asked for.
    let done = match events::back_fill(&tools, &mut report).await {
        Ok(()) => objects::compare(&tools, &mut report).await,
        Err(error) => Err(error),
    };
    if let Some(hands) = &tools.hands {
        hands.stop();
    }
    done?;
    conclude(&report, orders.apply)
}

/// Stripe, after it has answered once: better one clear line now than one for each payment.
async fn reach_stripe(config: &Config) -> Result<Stripe, String> {
    let own_url = own_url(config.listen);
    let stripe = stripe(config, &own_url).map_err(|error| error.to_string())?;
    stripe.ping().await.map_err(|error| match &config.stripe.api_base {
        Some(base) => format!("Stripe at {base}: {error}"),
        None => format!(
            "no Stripe key is set, and the sandbox of a server at {own_url}/sandbox/stripe does not answer ({error}); \
             start the server, or set CAREFORALL_LISTEN to where it listens"
        ),
    })?;
    Ok(stripe)
}

fn conclude(report: &Report, applied: bool) -> Result<(), String> {
    let compared = counted(report.compared, "payment");
    let strangers = if report.strangers > 0 {
        format!("; {} wait for payments that are not here", counted(report.strangers, "event"))
    } else {
        String::new()
    };
    let (events, payments) = (counted(report.missed, "missed event"), counted(report.differed, "payment"));
    let unsettled = format!("{} for a person to look at, {} failed", report.for_a_person, report.failed);
    let is_settled = report.for_a_person == 0 && report.failed == 0;
    if is_settled && report.missed == 0 && report.differed == 0 {
        say(&format!("nothing to do: {compared} compared{strangers}\n"));
        return Ok(());
    }
    if !applied {
        return Err(format!(
            "{compared} compared: {events}, {payments} that differ, {unsettled}{strangers}; nothing was changed, \
             `careforall reconcile --apply` mends"
        ));
    }
    let done = format!("{compared} compared: {events} taken in, {payments} mended, {unsettled}{strangers}");
    if !is_settled {
        return Err(done);
    }
    say(&format!("{done}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_date_a_time_or_an_age() {
        assert_eq!(parse_since("30d"), Ok(Since::Ago(Duration::days(30))));
        assert_eq!(parse_since("12h"), Ok(Since::Ago(Duration::hours(12))));
        let at = OffsetDateTime::from_unix_timestamp(1_793_491_200).unwrap();
        assert_eq!(parse_since("2026-11-01"), Ok(Since::At(at)));
        assert_eq!(parse_since("2026-11-01T00:00:00Z"), Ok(Since::At(at)));
        for bad in ["", "yesterday", "-1d", "99999999999999999999d", "2026-13-01"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
        assert_eq!(Since::Ago(Duration::MAX).moment(at), OffsetDateTime::UNIX_EPOCH);
    }
}
