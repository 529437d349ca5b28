//! Walks through the same world by chance: longer histories, more going wrong, and histories made from the grammar.
//!
//! Whenever the rule asks, it is shown the provider's object as it stands at that step of the walk: with nothing in it
//! that has not happened by then, and everything that has. Every world on the way is checked, and every walk ends quiet.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::history::History;
use super::legal::legal_history;
use super::named::named;
use super::row::Store;
use super::rules::Rule;
use super::world::{Budget, Scene};
use crate::domain::provider::IntentStatus;

/// More than the longest walk: every budget spent, every event delivered, every conflict decided anew.
const LONGEST_WALK: usize = 400;

/// Walks as the choices say, then straight on until nothing is left to do; the fault and where it showed, if one did.
fn walk(scene: &Scene, choices: &[u16]) -> Result<(), String> {
    let mut world = scene.beginning();
    let mut road = vec![];
    for place in 0..LONGEST_WALK {
        let mut actions = vec![];
        scene.actions(&world, &mut actions);
        // Beyond the choices only what leads on, which comes first.
        if actions.is_empty() || (place >= choices.len() && scene.is_quiet(&world)) {
            break;
        }
        let choice = choices.get(place).map_or(0, |choice| usize::from(*choice));
        let action = actions[choice % actions.len()];
        road.push(action);
        world = scene.after(&world, action);
        if let Some(fault) = scene.fault(&world) {
            return Err(format!(
                "{fault}\nhistory: {:#?}\nroad: {road:?}\nrow: {:#?}",
                scene.history.moments, world.row
            ));
        }
    }
    if scene.is_quiet(&world) { Ok(()) } else { Err(format!("the walk does not end: {road:?}")) }
}

/// Walks as the choices say and no further: what was not delivered by then is lost. Then one look at the provider.
fn walk_and_look(scene: &Scene, choices: &[u16]) -> Result<(), String> {
    let mut world = scene.beginning();
    for choice in choices {
        let mut actions = vec![];
        scene.actions(&world, &mut actions);
        if actions.is_empty() {
            break;
        }
        world = scene.after(&world, actions[usize::from(*choice) % actions.len()]);
    }
    let end = scene.after_a_last_look(&world);
    let right = scene.has_ended_right(&end) || hides_its_decline(&scene.history);
    if right { Ok(()) } else { Err(format!("history: {:#?}\nrow: {:#?}", scene.history.moments, end.row)) }
}

/// Whether the object alone does not show that the last attempt was declined: then a lost event is lost.
fn hides_its_decline(history: &History) -> bool {
    let waits = !matches!(
        history.now().status,
        IntentStatus::Processing | IntentStatus::RequiresCapture | IntentStatus::Succeeded | IntentStatus::Canceled
    );
    waits && (history.now().last_error.is_none() || history.now().status != IntentStatus::RequiresPaymentMethod)
}

fn budget() -> impl Strategy<Value = Budget> {
    (0u8..5, 0u8..3, 0u8..4, 0u8..4).prop_map(|(duplicates, crashes, checks, orders)| Budget {
        duplicates,
        crashes,
        checks,
        orders,
    })
}

fn choices() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 0..80)
}

fn gaps() -> impl Strategy<Value = Vec<i64>> {
    proptest::collection::vec(prop_oneof![3 => Just(0i64), 1 => 1i64..3], 12)
}

fn check(history: History, budget: Budget, choices: &[u16]) -> Result<(), TestCaseError> {
    let scene = Scene { history, rule: Rule::Ours, store: Store::Checked, budget };
    walk(&scene, choices).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_named_history_ends_right_on_any_walk(
        which in 0..named().len(),
        gaps in gaps(),
        budget in budget(),
        choices in choices(),
    ) {
        check(named().swap_remove(which).0.spaced(&gaps), budget, &choices)?;
    }

    #[test]
    fn a_history_made_from_the_grammar_ends_right_on_any_walk(
        manual_capture in any::<bool>(),
        steps in proptest::collection::vec(any::<u8>(), 1..10),
        gaps in gaps(),
        budget in budget(),
        choices in choices(),
    ) {
        check(legal_history(manual_capture, &steps).spaced(&gaps), budget, &choices)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_of_one_second_ends_right_on_any_walk(
        manual_capture in any::<bool>(),
        steps in proptest::collection::vec(any::<u8>(), 1..8),
        budget in budget(),
        choices in choices(),
    ) {
        check(legal_history(manual_capture, &steps).in_one_second(), budget, &choices)?;
    }
    #[test]
    fn whatever_was_lost_one_look_at_the_provider_mends_it(
        manual_capture in any::<bool>(),
        steps in proptest::collection::vec(any::<u8>(), 1..10),
        gaps in gaps(),
        budget in budget(),
        choices in choices(),
    ) {
        let history = legal_history(manual_capture, &steps).spaced(&gaps);
        let scene = Scene { history, rule: Rule::Ours, store: Store::Checked, budget };
        walk_and_look(&scene, &choices[..choices.len() / 2]).map_err(TestCaseError::fail)?;
    }
}

/// Not vacuous: under the same walks every mutant of the rule goes wrong somewhere.
#[test]
fn no_mutant_of_the_rule_survives_the_walks() {
    use Rule::{
        DeclinesOnce, Picture, PictureWithOurEdges, RefundsByArrival, TiesByArrival, WithoutAsking, WithoutPaths,
    };
    let worlds = (any::<bool>(), proptest::collection::vec(any::<u8>(), 1..8), gaps(), choices());
    let budget = Budget { duplicates: 1, crashes: 1, checks: 0, orders: 0 };
    for rule in
        [Picture, PictureWithOurEdges, TiesByArrival, WithoutPaths, WithoutAsking, DeclinesOnce, RefundsByArrival]
    {
        let config =
            ProptestConfig { cases: 10_000, failure_persistence: None, max_shrink_iters: 0, ..Default::default() };
        let outcome = TestRunner::new(config).run(&worlds, |(manual_capture, steps, gaps, choices)| {
            let history = legal_history(manual_capture, &steps).spaced(&gaps);
            let scene = Scene { history, rule, store: Store::Checked, budget };
            walk(&scene, &choices).map_err(TestCaseError::fail)
        });
        assert!(outcome.is_err(), "{rule:?} survives");
    }
}
