//! The story of a payment as data: what `--json` prints, and what is put into words.

use serde::Serialize;
use time::OffsetDateTime;

use crate::domain::donation::DonationStatus;
use crate::domain::money::Currency;
use crate::domain::notice::receipt_label;
use crate::domain::payment::evidence::Evidence;
use crate::domain::payment::replay::{Replay, compare_states};
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::{IntentSnapshot, ProviderChange};
use crate::store::dossiers::{Dossier, NoticeRow, StoredLine, StoredMove};
use crate::trace::trace_id;

/// Why a payment stands where it stands.
#[derive(Serialize)]
pub struct Story {
    /// The payment as it stands now.
    pub now: Standing,
    /// Every move, oldest first.
    pub chapters: Vec<Chapter>,
    /// Where the history and what is stored part; nothing, if all is well.
    pub doubts: Vec<String>,
    /// Its ledger lines.
    pub ledger: Vec<StoredLine>,
    /// What people were told.
    pub notices: Vec<NoticeRow>,
}

/// Where a payment stands.
#[derive(Serialize)]
pub struct Standing {
    pub payment_id: String,
    pub donation_id: String,
    pub campaign_id: String,
    pub intent_id: Option<String>,
    pub status: PaymentStatus,
    pub donation_status: DonationStatus,
    pub version: i64,
    pub currency: Currency,
    pub amount_minor: i64,
    pub amounts: Amounts,
    pub receipt: Option<String>,
    pub flag: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_check: Option<OffsetDateTime>,
    pub waits_for: &'static str,
}

/// What moved, in minor units.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Amounts {
    pub captured_minor: i64,
    pub refunded_minor: i64,
    pub disputed_minor: i64,
    pub net_minor: i64,
}

/// One move.
#[derive(Serialize)]
pub struct Chapter {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who caused it.
    pub who: &'static str,
    /// What was said or done.
    pub what: String,
    /// The event's type or the command's name.
    pub kind: String,
    pub verdict: String,
    /// The rule that led to it.
    pub rule: String,
    /// From where, over what, to where; one status where none changed.
    pub statuses: Vec<PaymentStatus>,
    pub version_before: i64,
    pub version_after: i64,
    /// After it, where they changed.
    pub amounts: Option<Amounts>,
    pub event_id: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub said_at: Option<OffsetDateTime>,
    pub trace_id: Option<String>,
}

impl Story {
    pub fn of(dossier: Dossier, notices: Vec<NoticeRow>) -> Self {
        let (chapters, doubts) = live_again(&dossier);
        Self { now: standing(&dossier), chapters, doubts, ledger: dossier.lines, notices }
    }
}

fn live_again(dossier: &Dossier) -> (Vec<Chapter>, Vec<String>) {
    let mut replay = Replay::of(&dossier.payment);
    let mut chapters = Vec::with_capacity(dossier.moves.len());
    let mut doubts = Vec::new();
    for it in &dossier.moves {
        let before = Amounts::of(&replay.payment);
        // After a divergence the story is told as it is recorded, without amounts.
        if doubts.is_empty()
            && let Err(divergence) = replay.take(&it.recorded)
        {
            doubts.push(divergence.to_string());
        }
        let after = Some(Amounts::of(&replay.payment)).filter(|after| doubts.is_empty() && *after != before);
        let version_before = chapters.last().map_or(0, |chapter: &Chapter| chapter.version_after);
        chapters.push(chapter(it, &dossier.payment, version_before, after));
    }
    if doubts.is_empty() {
        doubts = compare_states(&replay.payment, &dossier.payment);
    }
    (chapters, doubts)
}

impl Amounts {
    fn of(payment: &Payment) -> Self {
        let (captured_minor, refunded_minor, disputed_minor) =
            (payment.captured_minor, payment.refunded_minor(), payment.disputed_minor());
        Self {
            captured_minor,
            refunded_minor,
            disputed_minor,
            net_minor: captured_minor - refunded_minor - disputed_minor,
        }
    }
}

fn standing(dossier: &Dossier) -> Standing {
    let payment = &dossier.payment;
    Standing {
        payment_id: payment.id.to_string(),
        donation_id: payment.donation_id.to_string(),
        campaign_id: payment.campaign_id.to_string(),
        intent_id: payment.intent_id.clone(),
        status: payment.status,
        donation_status: DonationStatus::from(payment.status),
        version: payment.version,
        currency: payment.currency,
        amount_minor: payment.amount_minor,
        amounts: Amounts::of(payment),
        receipt: dossier.receipt_number.map(receipt_label),
        flag: payment.flag.clone(),
        next_check: dossier.check_at,
        waits_for: waits_for(payment, dossier.check_at.is_some()),
    }
}

fn waits_for(payment: &Payment, is_checked: bool) -> &'static str {
    match (payment.status, is_checked) {
        (PaymentStatus::Captured, _) => "nothing; refunds and disputes may still come",
        (PaymentStatus::Refunded, _) => "nothing; a refund may still come back",
        (PaymentStatus::Canceled, _) => "nothing; this is final",
        (PaymentStatus::Authorized, _) => "an operator, to capture or cancel it",
        (_, false) => "Stripe; it is not asked again by itself, `careforall reconcile` asks",
        (PaymentStatus::Initiated, true) if payment.intent_id.is_none() => "Stripe, to create the intent",
        (PaymentStatus::Initiated, true) => "the donor, to pay",
        (PaymentStatus::Processing, true) => "the bank",
        (PaymentStatus::Failed, true) => "the donor, to try again",
    }
}

fn chapter(it: &StoredMove, payment: &Payment, version_before: i64, amounts: Option<Amounts>) -> Chapter {
    let steps = &it.recorded.steps;
    let mut statuses: Vec<PaymentStatus> = steps.first().and_then(|step| step.from).into_iter().collect();
    statuses.extend(steps.iter().map(|step| step.to));
    statuses.dedup();
    Chapter {
        at: it.at,
        who: who(&it.source),
        what: it.recorded.evidence.as_ref().map_or_else(
            || format!("gave {}", payment.currency.format(payment.amount_minor)),
            |evidence| said(evidence, payment.currency),
        ),
        kind: it.kind.clone(),
        verdict: it.recorded.verdict.clone(),
        rule: it.reason.clone(),
        statuses,
        version_before,
        version_after: steps.last().map_or(version_before, |step| step.version),
        amounts,
        event_id: it.event_id.clone(),
        said_at: it.provider_created.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok()),
        trace_id: it.traceparent.as_deref().map(trace_id).map(str::to_owned),
    }
}

fn who(source: &str) -> &'static str {
    match source {
        "donor" => "The donor",
        "webhook" => "Stripe said",
        "operator" => "An operator ordered",
        "provider" => "We asked Stripe",
        _ => "The system",
    }
}

fn said(evidence: &Evidence, currency: Currency) -> String {
    match evidence {
        Evidence::Event { event, answer: None } => change_words(&event.change, currency),
        Evidence::Event { event, answer: Some(answer) } => {
            let said = change_words(&event.change, currency);
            format!("{said}; asked back, it answered: {}", snapshot_words(answer, currency))
        }
        Evidence::Intent(snapshot) => snapshot_words(snapshot, currency),
        Evidence::Refund(refund) => {
            format!("refund {} of {} is {}", refund.id, currency.format(refund.amount_minor), refund.status.as_str())
        }
        Evidence::Opened { intent_id, .. } => format!("it created the intent {intent_id}"),
        Evidence::Unopened { reason, .. } => reason.clone(),
    }
}

fn change_words(change: &ProviderChange, currency: Currency) -> String {
    match change {
        ProviderChange::Processing => "the bank is at work".to_owned(),
        ProviderChange::AttemptFailed { code } => {
            format!("an attempt was declined ({})", code.as_deref().unwrap_or("no code"))
        }
        ProviderChange::Authorized { capturable_minor, .. } => {
            format!("{} is reserved", currency.format(*capturable_minor))
        }
        ProviderChange::Captured { received_minor, currency: code } => match Currency::parse(code) {
            Some(currency) => format!("{} moved to us", currency.format(*received_minor)),
            None => format!("{received_minor} minor units of {code} moved to us"),
        },
        ProviderChange::Canceled => "the payment was canceled".to_owned(),
        ProviderChange::Released => "the authorization was released".to_owned(),
        ProviderChange::Expired => "the authorization ran out".to_owned(),
        ProviderChange::RefundedInTotal { total_minor, .. } => {
            format!("{} went back in all", currency.format(*total_minor))
        }
        ProviderChange::Refund(refund) => {
            format!("refund {} of {} is {}", refund.id, currency.format(refund.amount_minor), refund.status.as_str())
        }
        ProviderChange::Dispute(dispute) => {
            format!(
                "dispute {} of {} is {}",
                dispute.id,
                currency.format(dispute.amount_minor),
                dispute.status.as_str()
            )
        }
    }
}

fn snapshot_words(snapshot: &IntentSnapshot, currency: Currency) -> String {
    let mut words = format!("the intent is {}", snapshot.status.as_str());
    if snapshot.received_minor > 0 {
        words.push_str(&format!(", {} received", currency.format(snapshot.received_minor)));
    }
    for refund in &snapshot.refunds {
        let amount = currency.format(refund.amount_minor);
        words.push_str(&format!(", refund {} of {amount} is {}", refund.id, refund.status.as_str()));
    }
    for dispute in &snapshot.disputes {
        let amount = currency.format(dispute.amount_minor);
        words.push_str(&format!(", dispute {} of {amount} is {}", dispute.id, dispute.status.as_str()));
    }
    words
}
