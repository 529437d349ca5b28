//! What the model found in our own rule, step by step: each of these once ended wrong.

use super::history::History;
use super::named::named;
use super::row::Store;
use super::rules::Rule;
use super::world::Action::{self, Commit, Deliver, Happen, Reply};
use super::world::{Budget, Scene, World};

fn in_one_second(name: &str) -> Scene {
    let history: History = named().into_iter().map(|(it, ..)| it).find(|it| it.name == name).expect("a named history");
    let budget = Budget { duplicates: 0, crashes: 0, checks: 0, orders: 0 };
    Scene { history: history.in_one_second(), rule: Rule::Ours, store: Store::Checked, budget }
}

/// Takes these steps, then what leads on until nothing is left; every world on the way must be sound.
fn play(scene: &Scene, steps: &[Action]) {
    let mut world = scene.beginning();
    for step in steps {
        world = step_soundly(scene, &world, *step);
    }
    loop {
        let mut actions = vec![];
        scene.actions(&world, &mut actions);
        let Some(next) = actions.first() else { break };
        world = step_soundly(scene, &world, *next);
    }
    assert!(scene.is_quiet(&world));
}

fn step_soundly(scene: &Scene, world: &World, step: Action) -> World {
    let next = scene.after(world, step);
    assert_eq!(scene.fault(&next), None, "after {step:?}");
    next
}

fn handled_at_once(event: usize, replica: usize) -> [Action; 4] {
    [Happen, Deliver { event, replica }, Commit { replica }, Reply { replica }]
}

/// One replica asks about the processing and is told that the bank is at work; before it commits, the second decline
/// arrives at the other one. It says what is known already, and used to leave no trace that the first would trip over.
#[test]
fn a_decline_said_again_in_one_second_stops_a_replica_that_asked_before_it() {
    let mut steps = handled_at_once(0, 0).to_vec();
    steps.extend([Happen, Deliver { event: 1, replica: 0 }, Happen, Deliver { event: 2, replica: 1 }]);
    steps.extend([Commit { replica: 1 }, Commit { replica: 0 }]);
    play(&in_one_second("failed, processing, failed"), &steps);
}

/// When the provider is asked, the donor has begun anew: its object waits for an authentication and shows no error.
#[test]
fn a_decline_is_believed_when_the_provider_has_moved_on_to_the_next_attempt() {
    let steps = [handled_at_once(0, 0).as_slice(), &[Happen, Happen]].concat();
    play(&in_one_second("failed, then authentication begun"), &steps);
}

/// When the provider is asked, its object was touched in the meantime, which clears the error.
#[test]
fn a_decline_is_believed_when_the_provider_has_forgotten_its_error() {
    let steps = [handled_at_once(0, 0).as_slice(), &[Happen, Happen]].concat();
    play(&in_one_second("failed, then the error forgotten"), &steps);
}
