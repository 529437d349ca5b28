//! The rule, case by case and by permutation of whole histories.

use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::domain::money::Currency;
use crate::domain::provider::{DisputeStatus, RefundStatus};

fn payment() -> Payment {
    Payment {
        id: Uuid::from_u128(1).into(),
        donation_id: Uuid::from_u128(2).into(),
        campaign_id: Uuid::from_u128(3).into(),
        amount_minor: 1000,
        currency: Currency::parse("EUR").unwrap(),
        manual_capture: false,
        status: PaymentStatus::Initiated,
        version: 1,
        provider_at: None,
        intent_id: Some("pi_1".to_owned()),
        client_secret: None,
        captured_minor: 0,
        refunds: vec![],
        disputes: vec![],
        flag: None,
        traceparent: None,
        checks: 0,
        updated_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn event(created: i64, change: ProviderChange) -> ProviderEvent {
    ProviderEvent {
        id: format!("evt_{created}"),
        kind: String::new(),
        created,
        intent_id: Some("pi_1".to_owned()),
        payment_id: None,
        traceparent: None,
        change,
    }
}

fn captured(minor: i64) -> ProviderChange {
    ProviderChange::Captured { received_minor: minor, currency: "EUR".to_owned() }
}

fn authorized() -> ProviderChange {
    ProviderChange::Authorized { capturable_minor: 1000, currency: "EUR".to_owned() }
}

fn failed() -> ProviderChange {
    ProviderChange::AttemptFailed { code: Some("card_declined".to_owned()) }
}

fn refund(id: &str, amount_minor: i64, status: RefundStatus) -> ProviderChange {
    ProviderChange::Refund(RefundFact { id: id.to_owned(), amount_minor, status })
}

fn dispute(status: DisputeStatus) -> ProviderChange {
    ProviderChange::Dispute(DisputeFact { id: "du_1".to_owned(), amount_minor: 1000, status })
}

fn snapshot(status: IntentStatus) -> IntentSnapshot {
    let succeeded = status == IntentStatus::Succeeded;
    IntentSnapshot {
        id: "pi_1".to_owned(),
        client_secret: None,
        status,
        amount_minor: 1000,
        received_minor: if succeeded { 1000 } else { 0 },
        capturable_minor: 0,
        currency: "EUR".to_owned(),
        last_error: None,
        refunds: vec![],
        disputes: vec![],
    }
}

/// Applies one event, asking `provider` where the rule asks; returns the verdict.
fn play(payment: &mut Payment, event: &ProviderEvent, provider: &IntentSnapshot) -> Verdict {
    let mut decision = decide(payment, event, None);
    if decision == Decision::AskProvider {
        decision = decide(payment, event, Some(provider));
    }
    match decision {
        Decision::AskProvider => panic!("asked twice"),
        Decision::Settled { verdict, change, .. } => {
            if let Some(change) = change {
                assert_eq!(change.steps.first().unwrap().version, payment.version + 1);
                assert_eq!(change.steps.last().unwrap().version, change.after.version);
                for step in &change.steps {
                    assert!(step.from == step.to || step.from.next().contains(&step.to), "{step:?} is no edge");
                }
                let booked: i64 = change.lines.iter().map(|line| line.amount_minor).sum();
                assert_eq!(booked, net(&change.after) - net(payment));
                *payment = change.after.clone();
            }
            verdict
        }
    }
}

fn net(payment: &Payment) -> i64 {
    payment.captured_minor - payment.refunded_minor() - payment.disputed_minor()
}

fn apply_one(payment: &mut Payment, created: i64, change: ProviderChange) -> Verdict {
    play(payment, &event(created, change), &snapshot(IntentStatus::RequiresConfirmation))
}

#[test]
fn an_automatic_capture_in_one_event_walks_two_edges_in_one_change() {
    let Decision::Settled { verdict: Verdict::Applied, change: Some(change), .. } =
        decide(&payment(), &event(10, captured(1000)), None)
    else {
        panic!("not applied")
    };
    let walked: Vec<_> = change.steps.iter().map(|step| (step.from.as_str(), step.to.as_str(), step.version)).collect();
    assert_eq!(walked, [("INITIATED", "AUTHORIZED", 2), ("AUTHORIZED", "CAPTURED", 3)]);
    assert_eq!(change.lines.len(), 1);
    assert_eq!((change.lines[0].amount_minor, change.lines[0].donations_delta), (1000, 1));
    assert_eq!(change.facts, [crate::domain::fact::FactKind::PaymentCompleted]);
}

#[test]
fn an_older_event_is_stale_whenever_it_arrives() {
    let mut it = payment();
    assert_eq!(apply_one(&mut it, 20, failed()), Verdict::Applied);
    assert_eq!(apply_one(&mut it, 10, ProviderChange::Processing), Verdict::Stale);
    assert_eq!(it.status, PaymentStatus::Failed);
}

#[test]
fn a_late_decline_never_overwrites_a_capture() {
    for created in [5, 10, 15] {
        let mut it = payment();
        apply_one(&mut it, 10, captured(1000));
        let verdict = apply_one(&mut it, created, failed());
        assert_eq!(verdict, if created > 10 { Verdict::Rejected } else { Verdict::Stale });
        assert_eq!(it.status, PaymentStatus::Captured);
    }
}

#[test]
fn a_target_without_a_path_is_rejected() {
    let mut it = payment();
    assert_eq!(apply_one(&mut it, 10, ProviderChange::Canceled), Verdict::Applied);
    assert_eq!(apply_one(&mut it, 20, captured(1000)), Verdict::Rejected);
    assert_eq!((it.status, it.captured_minor), (PaymentStatus::Canceled, 0));
}

#[test]
fn a_second_event_object_for_one_capture_books_nothing() {
    let mut it = payment();
    apply_one(&mut it, 10, captured(1000));
    let version = it.version;
    assert_eq!(apply_one(&mut it, 10, captured(1000)), Verdict::Stale);
    assert_eq!(apply_one(&mut it, 11, captured(1000)), Verdict::Stale);
    assert_eq!(it.version, version);
}

#[test]
fn a_wrong_amount_or_currency_is_flagged_and_not_booked() {
    for change in
        [captured(999), captured(1001), ProviderChange::Captured { received_minor: 1000, currency: "USD".to_owned() }]
    {
        let mut it = payment();
        assert_eq!(apply_one(&mut it, 10, change.clone()), Verdict::Rejected);
        assert_eq!((it.status, it.captured_minor), (PaymentStatus::Initiated, 0));
        assert!(it.flag.is_some());
        let version = it.version;
        assert_eq!(apply_one(&mut it, 10, change), Verdict::Rejected);
        assert_eq!(it.version, version, "the same mismatch is flagged once");
    }
}

#[test]
fn an_authorization_outranks_a_decline_of_the_same_second() {
    for order in [[failed(), authorized()], [authorized(), failed()]] {
        let mut it = payment();
        for change in order {
            apply_one(&mut it, 10, change);
        }
        assert_eq!(it.status, PaymentStatus::Authorized);
    }
}

#[test]
fn processing_and_decline_of_one_second_are_decided_by_the_provider() {
    let it = {
        let mut it = payment();
        apply_one(&mut it, 10, ProviderChange::Processing);
        it
    };
    let said = event(10, failed());
    assert_eq!(decide(&it, &said, None), Decision::AskProvider);
    let declined = IntentSnapshot { last_error: Some("x".to_owned()), ..snapshot(IntentStatus::RequiresPaymentMethod) };
    let mut asked = it.clone();
    assert_eq!(play(&mut asked, &said, &declined), Verdict::Applied);
    assert_eq!(asked.status, PaymentStatus::Failed);
    let mut asked = it.clone();
    assert_eq!(play(&mut asked, &said, &snapshot(IntentStatus::Processing)), Verdict::Stale);
    assert_eq!(asked.status, PaymentStatus::Processing);
}

#[test]
fn a_decline_is_believed_when_the_provider_waits_for_the_donor_and_has_forgotten_its_error() {
    for waiting in
        [IntentStatus::RequiresPaymentMethod, IntentStatus::RequiresConfirmation, IntentStatus::RequiresAction]
    {
        let mut it = payment();
        apply_one(&mut it, 10, ProviderChange::Processing);
        assert_eq!(play(&mut it, &event(10, failed()), &snapshot(waiting)), Verdict::Applied);
        assert_eq!(it.status, PaymentStatus::Failed);
        let new = adopt(&payment(), &snapshot(waiting), None);
        assert!(matches!(new, Decision::Settled { verdict: Verdict::Stale, .. }), "a new intent waits, too");
    }
}

#[test]
fn a_status_said_again_in_one_second_raises_the_version_for_those_who_asked_before_it() {
    for change in [ProviderChange::Processing, failed(), authorized()] {
        let mut it = payment();
        apply_one(&mut it, 10, change.clone());
        let (status, version) = (it.status, it.version);
        assert_eq!(apply_one(&mut it, 10, change), Verdict::Applied);
        assert_eq!((it.status, it.version), (status, version + 1));
    }
}

#[test]
fn a_success_older_than_a_decline_is_believed_only_when_the_provider_confirms_it() {
    let mut it = payment();
    apply_one(&mut it, 20, failed());
    assert_eq!(
        play(&mut it.clone(), &event(10, captured(1000)), &snapshot(IntentStatus::Processing)),
        Verdict::Applied
    );
    let mut unconfirmed = it.clone();
    let nothing = snapshot(IntentStatus::RequiresConfirmation);
    assert_eq!(play(&mut unconfirmed, &event(10, captured(1000)), &nothing), Verdict::Stale);
    assert_eq!(unconfirmed.captured_minor, 0);
    assert_eq!(play(&mut it, &event(10, captured(1000)), &snapshot(IntentStatus::Succeeded)), Verdict::Applied);
    assert_eq!(it.captured_minor, 1000);
}

#[test]
fn a_refund_in_full_that_fails_brings_the_gift_back() {
    let mut it = payment();
    apply_one(&mut it, 10, captured(1000));
    apply_one(&mut it, 20, refund("re_1", 1000, RefundStatus::Succeeded));
    assert_eq!((it.status, net(&it)), (PaymentStatus::Refunded, 0));
    apply_one(&mut it, 30, refund("re_1", 1000, RefundStatus::Failed));
    assert_eq!((it.status, net(&it)), (PaymentStatus::Captured, 1000));
    assert_eq!(apply_one(&mut it, 20, refund("re_1", 1000, RefundStatus::Pending)), Verdict::Stale);
}

#[test]
fn a_refund_total_without_ids_asks_for_the_refunds_behind_it() {
    let mut it = payment();
    apply_one(&mut it, 10, captured(1000));
    let said = event(20, ProviderChange::RefundedInTotal { total_minor: 300, refunds: vec![] });
    assert_eq!(decide(&it, &said, None), Decision::AskProvider);
    let known = RefundFact { id: "re_1".to_owned(), amount_minor: 300, status: RefundStatus::Succeeded };
    let answer = IntentSnapshot { refunds: vec![known], ..snapshot(IntentStatus::Succeeded) };
    assert_eq!(play(&mut it, &said, &answer), Verdict::Applied);
    assert_eq!(net(&it), 700);
    assert_eq!(play(&mut it, &said, &answer), Verdict::Stale);
}

#[test]
fn a_partial_capture_is_booked_as_received() {
    let mut it = Payment { manual_capture: true, ..payment() };
    apply_one(&mut it, 10, authorized());
    assert_eq!(apply_one(&mut it, 20, captured(600)), Verdict::Applied);
    assert_eq!((it.status, it.captured_minor), (PaymentStatus::Captured, 600));
}

type History = (&'static str, bool, Vec<ProviderChange>, IntentSnapshot, PaymentStatus, i64);

/// Legal histories of the provider: name, manual capture, events in true order, what the provider says at the end,
/// where it must end, and the net amount.
fn histories() -> Vec<History> {
    use DisputeStatus::{Lost, NeedsResponse, UnderReview, Won};
    use PaymentStatus::{Canceled, Captured, Failed, Refunded};
    use RefundStatus::{Failed as RefundFailed, Pending, Succeeded};
    let won = snapshot(IntentStatus::Succeeded);
    let gone = snapshot(IntentStatus::Canceled);
    let partial = IntentSnapshot { received_minor: 600, ..won.clone() };
    let declined = IntentSnapshot { last_error: Some("x".to_owned()), ..snapshot(IntentStatus::RequiresPaymentMethod) };
    vec![
        ("automatic capture", false, vec![captured(1000)], won.clone(), Captured, 1000),
        ("manual capture", true, vec![authorized(), captured(1000)], won.clone(), Captured, 1000),
        ("partial capture", true, vec![authorized(), captured(600)], partial, Captured, 600),
        ("declined then paid", false, vec![failed(), failed(), captured(1000)], won.clone(), Captured, 1000),
        ("processing then paid", false, vec![ProviderChange::Processing, captured(1000)], won.clone(), Captured, 1000),
        ("processing then failed", false, vec![ProviderChange::Processing, failed()], declined.clone(), Failed, 0),
        (
            "failed, processing, failed",
            false,
            vec![failed(), ProviderChange::Processing, failed()],
            declined,
            Failed,
            0,
        ),
        ("canceled", false, vec![failed(), ProviderChange::Canceled], gone.clone(), Canceled, 0),
        (
            "authorization released",
            true,
            vec![authorized(), ProviderChange::Canceled, ProviderChange::Released],
            gone.clone(),
            Canceled,
            0,
        ),
        (
            "authorization expired",
            true,
            vec![authorized(), ProviderChange::Expired, ProviderChange::Canceled],
            gone,
            Canceled,
            0,
        ),
        (
            "partial refunds up to full",
            false,
            vec![
                captured(1000),
                refund("re_1", 400, Pending),
                refund("re_1", 400, Succeeded),
                refund("re_2", 600, Succeeded),
            ],
            won.clone(),
            Refunded,
            0,
        ),
        (
            "a refund that fails",
            false,
            vec![captured(1000), refund("re_1", 1000, Pending), refund("re_1", 1000, RefundFailed)],
            won.clone(),
            Captured,
            1000,
        ),
        (
            "a refund that fails and is made again",
            false,
            vec![
                captured(1000),
                refund("re_1", 1000, Succeeded),
                refund("re_1", 1000, RefundFailed),
                refund("re_2", 1000, Succeeded),
            ],
            won.clone(),
            Refunded,
            0,
        ),
        (
            "dispute lost",
            false,
            vec![captured(1000), dispute(NeedsResponse), dispute(UnderReview), dispute(Lost)],
            won.clone(),
            Captured,
            0,
        ),
        (
            "dispute won",
            false,
            vec![captured(1000), dispute(NeedsResponse), dispute(UnderReview), dispute(Won)],
            won,
            Captured,
            1000,
        ),
    ]
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![vec![]];
    }
    permutations(of - 1)
        .into_iter()
        .flat_map(|rest| (0..=rest.len()).map(move |at| [&rest[..at], &[of - 1], &rest[at..]].concat()))
        .collect()
}

fn check_end(history: &History, order: &[usize], times: &[i64]) {
    let (name, manual_capture, changes, provider, status, amount) = history;
    let mut it = Payment { manual_capture: *manual_capture, ..payment() };
    for &at in order {
        play(&mut it, &event(times[at], changes[at].clone()), provider);
    }
    assert_eq!((it.status, net(&it)), (*status, *amount), "{name}: order {order:?}, times {times:?}");
}

#[test]
fn every_order_of_every_legal_history_ends_the_same_with_seconds_apart_and_in_one_second() {
    for history in histories() {
        let count = history.2.len();
        let apart: Vec<i64> = (0..count).map(|at| 100 + i64::try_from(at).unwrap()).collect();
        for order in permutations(count) {
            check_end(&history, &order, &apart);
            check_end(&history, &order, &vec![100; count]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_with_any_duplicates_and_any_ties_ends_the_same(
        which in 0..histories().len(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        gaps in proptest::collection::vec(0i64..2, 8),
        seed in any::<prop::sample::Index>(),
    ) {
        let history = &histories()[which];
        let count = history.2.len();
        let mut at = 100;
        let times: Vec<i64> = (0..count).map(|step| { at += gaps[step]; at }).collect();
        let all = permutations(count);
        let mut order = all[seed.index(all.len())].clone();
        for pick in picks {
            let again = order[pick.index(order.len())];
            let place = pick.index(order.len() + 1);
            order.insert(place, again);
        }
        check_end(history, &order, &times);
    }
}
