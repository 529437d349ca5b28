//! Deciding a whole history again, move by move, by the rule that decided it live.
//!
//! A history that was written by the rule replays to what is stored; anything else is a difference, told in words.
//! Reasons are not compared: a later version may word a rule better. Deliberately absent: what never reaches a history,
//! which is duplicates (the first delivery has its row) and parked events (no payment was there).

use std::fmt;

use super::change::{LedgerLine, Step};
use super::decide::{Decision, Verdict};
use super::evidence::Evidence;
use super::{Payment, PaymentStatus};

/// One write of a payment, as the history has it.
#[derive(Clone, Debug)]
pub struct RecordedMove {
    /// The name of its verdict.
    pub verdict: String,
    /// Its rows, in order; `from` is missing where the payment was made.
    pub steps: Vec<RecordedStep>,
    /// What it was decided upon; `None` where the payment was made, or where it cannot be read.
    pub evidence: Option<Evidence>,
}

/// One row of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedStep {
    /// The status before.
    pub from: Option<PaymentStatus>,
    /// The status after.
    pub to: PaymentStatus,
    /// The version after.
    pub version: i64,
}

/// Where replay and history part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The last version on which both agree.
    pub version: i64,
    /// What is different.
    pub what: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after version {}: {}", self.version, self.what)
    }
}

/// A payment that is being lived again.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Where it stands so far. The client secret is not known to a history.
    pub payment: Payment,
    /// Ledger lines so far, each with the version that it was written with.
    pub lines: Vec<(i64, LedgerLine)>,
}

impl Replay {
    /// A replay of the payment that is stored as `stored`, from before its first move. What never changes (identifiers,
    /// amount, currency, manner of capture) is taken from there.
    pub fn of(stored: &Payment) -> Self {
        let payment = Payment {
            status: PaymentStatus::Initiated,
            version: 0,
            provider_at: None,
            intent_id: None,
            client_secret: None,
            captured_minor: 0,
            refunds: Vec::new(),
            disputes: Vec::new(),
            flag: None,
            checks: 0,
            ..stored.clone()
        };
        Self { payment, lines: Vec::new() }
    }

    /// Lives one move again. After a divergence there is no going on: what follows was decided upon another state.
    pub fn take(&mut self, recorded: &RecordedMove) -> Result<(), Divergence> {
        if self.payment.version == 0 {
            return self.be_made(recorded);
        }
        let evidence =
            recorded.evidence.as_ref().ok_or_else(|| self.diverges("what was decided upon cannot be read".into()))?;
        let Decision::Settled { verdict, change, .. } = evidence.decide(&self.payment) else {
            return Err(self.diverges("the rule asks the provider, and no answer is recorded".into()));
        };
        self.compare("the verdict", verdict.as_str(), recorded.verdict.as_str())?;
        let unmoved = [Step { from: self.payment.status, to: self.payment.status, version: self.payment.version }];
        let steps = change.as_ref().map_or(&unmoved[..], |change| &change.steps);
        let ours: Vec<RecordedStep> = steps.iter().map(RecordedStep::from).collect();
        self.compare("the steps", walk(&ours).as_str(), walk(&recorded.steps).as_str())?;
        if let Some(change) = change {
            self.lines.extend(change.lines.iter().map(|line| (change.after.version, *line)));
            self.payment = change.after;
        }
        Ok(())
    }

    fn be_made(&mut self, recorded: &RecordedMove) -> Result<(), Divergence> {
        let made = [RecordedStep { from: None, to: PaymentStatus::Initiated, version: 1 }];
        self.compare("the verdict", Verdict::Applied.as_str(), &recorded.verdict)?;
        self.compare("the first row", walk(&made).as_str(), walk(&recorded.steps).as_str())?;
        self.payment.version = 1;
        Ok(())
    }

    fn compare(&self, what: &str, replayed: &str, recorded: &str) -> Result<(), Divergence> {
        if replayed == recorded {
            return Ok(());
        }
        Err(self.diverges(format!("{what}: replayed {replayed}, recorded {recorded}")))
    }

    fn diverges(&self, what: String) -> Divergence {
        Divergence { version: self.payment.version, what }
    }
}

impl From<&Step> for RecordedStep {
    fn from(step: &Step) -> Self {
        Self { from: Some(step.from), to: step.to, version: step.version }
    }
}

fn walk(steps: &[RecordedStep]) -> String {
    let words = steps.iter().map(|step| {
        let from = step.from.map_or("nothing", PaymentStatus::as_str);
        format!("{from} → {} (version {})", step.to.as_str(), step.version)
    });
    words.collect::<Vec<_>>().join(", ")
}

/// What differs between the state that a history leads to and the state that is stored, one phrase for each.
pub fn compare_states(replayed: &Payment, stored: &Payment) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{what}: the history leads to {ours}, stored is {theirs}"));
        }
    };
    compare("status", replayed.status.as_str().into(), stored.status.as_str().into());
    compare("version", replayed.version.to_string(), stored.version.to_string());
    compare("provider time", shown(replayed.provider_at), shown(stored.provider_at));
    compare("intent", shown(replayed.intent_id.as_deref()), shown(stored.intent_id.as_deref()));
    compare("captured", replayed.captured_minor.to_string(), stored.captured_minor.to_string());
    compare("flag", shown(replayed.flag.as_deref()), shown(stored.flag.as_deref()));
    compare("refunds", refunds(replayed), refunds(stored));
    compare("disputes", disputes(replayed), disputes(stored));
    differences
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn refunds(payment: &Payment) -> String {
    sorted(payment.refunds.iter().map(|it| format!("{} {} {}", it.id, it.amount_minor, it.status.as_str())))
}

fn disputes(payment: &Payment) -> String {
    sorted(payment.disputes.iter().map(|it| format!("{} {} {}", it.id, it.amount_minor, it.status.as_str())))
}

/// Two refunds of one commit have no order of their own.
fn sorted(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    items.sort_unstable();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::money::Currency;
    use crate::domain::provider::{ProviderChange, ProviderEvent};

    fn stored() -> Payment {
        Payment {
            id: Uuid::nil().into(),
            donation_id: Uuid::nil().into(),
            campaign_id: Uuid::nil().into(),
            amount_minor: 2500,
            currency: Currency::parse("EUR").unwrap(),
            manual_capture: false,
            status: PaymentStatus::Captured,
            version: 4,
            provider_at: Some(7),
            intent_id: Some("pi_1".into()),
            client_secret: Some("secret".into()),
            captured_minor: 2500,
            refunds: Vec::new(),
            disputes: Vec::new(),
            flag: None,
            traceparent: None,
            checks: 0,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn captured() -> Evidence {
        let event = ProviderEvent {
            id: "evt_1".into(),
            kind: "payment_intent.succeeded".into(),
            created: 7,
            intent_id: Some("pi_1".into()),
            payment_id: None,
            traceparent: None,
            change: ProviderChange::Captured { received_minor: 2500, currency: "EUR".into() },
        };
        Evidence::Event { event: Arc::new(event), answer: None }
    }

    fn step(from: Option<PaymentStatus>, to: PaymentStatus, version: i64) -> RecordedStep {
        RecordedStep { from, to, version }
    }

    fn recorded(evidence: Option<Evidence>, steps: Vec<RecordedStep>) -> RecordedMove {
        RecordedMove { verdict: "applied".into(), steps, evidence }
    }

    fn history() -> Vec<RecordedMove> {
        use PaymentStatus::{Authorized, Captured, Initiated};
        let opened = Evidence::Opened { intent_id: "pi_1".into(), client_secret: None };
        vec![
            recorded(None, vec![step(None, Initiated, 1)]),
            recorded(Some(opened), vec![step(Some(Initiated), Initiated, 2)]),
            recorded(Some(captured()), vec![step(Some(Initiated), Authorized, 3), step(Some(Authorized), Captured, 4)]),
        ]
    }

    fn live_again(history: &[RecordedMove]) -> Result<Replay, Divergence> {
        let mut replay = Replay::of(&stored());
        history.iter().try_for_each(|recorded| replay.take(recorded))?;
        Ok(replay)
    }

    #[test]
    fn a_history_that_the_rule_wrote_leads_to_what_is_stored() {
        let replay = live_again(&history()).unwrap();
        assert_eq!(compare_states(&replay.payment, &stored()), Vec::<String>::new());
        assert_eq!(replay.lines.len(), 1);
        assert_eq!((replay.lines[0].0, replay.lines[0].1.amount_minor), (4, 2500));
    }

    #[test]
    fn a_missing_row_a_changed_verdict_and_lost_evidence_are_divergences() {
        let mut gap = history();
        gap.remove(1);
        let told = live_again(&gap).unwrap_err();
        assert_eq!(told.version, 1);
        assert!(told.what.starts_with("the steps: replayed INITIATED → AUTHORIZED (version 2)"), "{told}");
        let mut other = history();
        other[2].verdict = "stale".into();
        assert_eq!(live_again(&other).unwrap_err().what, "the verdict: replayed applied, recorded stale");
        let mut lost = history();
        lost[2].evidence = None;
        assert_eq!(live_again(&lost).unwrap_err().version, 2);
    }

    #[test]
    fn a_stored_state_that_the_history_does_not_lead_to_is_told_field_by_field() {
        let replay = live_again(&history()).unwrap();
        let tampered = Payment { captured_minor: 9999, status: PaymentStatus::Refunded, ..stored() };
        let told = compare_states(&replay.payment, &tampered);
        assert_eq!(
            told,
            [
                "status: the history leads to CAPTURED, stored is REFUNDED",
                "captured: the history leads to 2500, stored is 9999",
            ]
        );
    }

    #[test]
    fn evidence_survives_being_written_down_without_the_secret() {
        let opened = Evidence::Opened { intent_id: "pi_1".into(), client_secret: Some("pi_1_secret".into()) };
        for evidence in [captured(), opened] {
            let text = serde_json::to_string(&evidence).unwrap();
            assert!(!text.contains("secret"), "{text}");
            let read: Evidence = serde_json::from_str(&text).unwrap();
            let before = Payment { version: 1, status: PaymentStatus::Initiated, captured_minor: 0, ..stored() };
            let steps = |evidence: &Evidence| match evidence.decide(&before) {
                Decision::Settled { verdict, change, .. } => (verdict, change.map(|change| change.steps)),
                Decision::AskProvider => panic!("nothing to ask"),
            };
            assert_eq!(steps(&read), steps(&evidence), "{text}");
        }
    }
}
