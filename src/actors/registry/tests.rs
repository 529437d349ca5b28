//! Payment actors that die, retire and come back, on a real Postgres.

use super::*;
use crate::actors::payment::EventAnswer;
use crate::actors::testing::World;
use crate::domain::payment::decide::Verdict;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::{ProviderChange, ProviderEvent};

/// Nobody retires during a test unless the test wants it.
const LONG: Duration = Duration::from_secs(600);

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

fn start(world: &World, idle: Duration) -> (Payments, Vec<Arbiter>) {
    let arbiters: Vec<Arbiter> = (0..2).map(|_| Arbiter::new()).collect();
    (Payments::start(&arbiters, Arc::clone(&world.tools), Some(idle)), arbiters)
}

fn event(id: PaymentId, created: i64, change: ProviderChange) -> Command {
    let event = ProviderEvent {
        id: format!("evt_{id}_{created}"),
        kind: "test".to_owned(),
        created,
        intent_id: Some(format!("pi_{id}")),
        payment_id: Some(id.uuid()),
        traceparent: None,
        change,
    };
    Command::Apply { event: Arc::new(event), traceparent: None }
}

fn captured() -> ProviderChange {
    ProviderChange::Captured { received_minor: 2500, currency: "EUR".to_owned() }
}

fn panics(times: u32) -> Command {
    Command::Panic { times: Arc::new(times.into()) }
}

async fn state(payments: &Payments, id: PaymentId) -> Payment {
    match payments.send(id, Command::Get).await {
        Ok(Reply::State(payment)) => *payment,
        other => panic!("{other:?}"),
    }
}

async fn verdict(payments: &Payments, id: PaymentId, command: Command) -> EventAnswer {
    match payments.send(id, command).await {
        Ok(Reply::Verdict(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_actor_that_panics_is_revived_with_the_state_of_postgres_and_the_same_command_is_answered() {
    run(async {
        let world = World::new().await;
        let (payments, _arbiters) = start(&world, LONG);
        let id = world.payment().await.id;
        let restarts = METRICS.payment_actor_restarts.get();
        assert_eq!(verdict(&payments, id, event(id, 1, captured())).await.verdict, Verdict::Applied);
        // What waits in the mailbox behind it dies with it, and is sent once more as well.
        let waiting = || payments.send(id, Command::Get);
        let answers = tokio::join!(payments.send(id, panics(1)), waiting(), waiting());
        for answer in [answers.0, answers.1, answers.2] {
            let Ok(Reply::State(revived)) = answer else { panic!("{answer:?}") };
            assert_eq!(*revived, world.stored(id).await);
            assert_eq!((revived.status, revived.captured_minor), (PaymentStatus::Captured, 2500));
        }
        assert_eq!(METRICS.payment_actor_restarts.get(), restarts + 1);
        // It remembers what was handled before it died.
        assert_eq!(verdict(&payments, id, event(id, 1, captured())).await.verdict, Verdict::Duplicate);
        assert_eq!(world.count("select count(*) from payments.ledger_entries").await, 1);
    });
}

#[test]
fn a_command_that_panics_whenever_it_is_tried_is_given_up_and_the_payment_lives_on() {
    run(async {
        let world = World::new().await;
        let (payments, _arbiters) = start(&world, LONG);
        let id = world.payment().await.id;
        let answer = payments.send(id, panics(u32::MAX)).await;
        assert!(matches!(answer, Err(PaymentError::Unavailable(_))), "{answer:?}");
        assert_eq!(verdict(&payments, id, event(id, 1, captured())).await.verdict, Verdict::Applied);
        assert_eq!(state(&payments, id).await, world.stored(id).await);
    });
}

#[test]
fn a_panic_touches_no_other_payment_of_the_same_arbiter() {
    run(async {
        let world = World::new().await;
        let arbiters = [Arbiter::new()];
        let payments = Payments::start(&arbiters, Arc::clone(&world.tools), Some(LONG));
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(world.payment().await.id);
        }
        let (first, others) = ids.split_first().unwrap();
        let answers = others.iter().map(|id| verdict(&payments, *id, event(*id, 1, captured())));
        let (panicked, answers) = tokio::join!(payments.send(*first, panics(u32::MAX)), join_all(answers));
        assert!(panicked.is_err());
        assert!(answers.iter().all(|answer| answer.verdict == Verdict::Applied), "{answers:?}");
        assert_eq!(state(&payments, *first).await.status, PaymentStatus::Initiated);
    });
}

#[test]
fn an_idle_actor_retires_and_comes_back_with_the_right_state() {
    run(async {
        let world = World::new().await;
        let (payments, _arbiters) = start(&world, Duration::from_millis(5));
        let id = world.payment().await.id;
        let retirements = METRICS.payment_actor_retirements.get();
        assert_eq!(verdict(&payments, id, event(id, 1, captured())).await.verdict, Verdict::Applied);
        let retired = async {
            while METRICS.payment_actor_retirements.get() == retirements {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), retired).await.expect("it retires");
        let back = state(&payments, id).await;
        assert_eq!(back, world.stored(id).await);
        assert_eq!((back.status, back.version), (PaymentStatus::Captured, 3));
    });
}

#[test]
fn many_commands_to_many_payments_whose_actors_retire_at_once_happen_exactly_once() {
    const PAYMENTS: usize = 40;
    const EVENTS: i64 = 15;
    run(async {
        let world = World::new().await;
        let (payments, _arbiters) = start(&world, Duration::from_millis(1));
        let mut ids = Vec::new();
        for _ in 0..PAYMENTS {
            ids.push(world.payment().await.id);
        }
        let retirements = METRICS.payment_actor_retirements.get();
        let life = async |id: PaymentId| {
            for created in 1..=EVENTS {
                let failed = ProviderChange::AttemptFailed { code: None };
                let change = || if created % 2 == 1 { ProviderChange::Processing } else { failed.clone() };
                // Delivered twice at the same time.
                let twice = [event(id, created, change()), event(id, created, change())];
                let [first, second] = twice.map(|command| verdict(&payments, id, command));
                let (first, second) = tokio::join!(first, second);
                let mut verdicts = [first.verdict.as_str(), second.verdict.as_str()];
                verdicts.sort_unstable();
                assert_eq!(verdicts, ["applied", "duplicate"]);
            }
        };
        join_all(ids.iter().map(|id| life(*id))).await;
        for id in ids {
            assert_eq!(state(&payments, id).await.version, 1 + EVENTS);
        }
        let history = "select count(distinct (payment_id, version)) from payments.payment_state_history";
        assert_eq!(world.count(history).await, i64::try_from(PAYMENTS).unwrap() * (1 + EVENTS));
        assert!(METRICS.payment_actor_retirements.get() > retirements, "somebody retired meanwhile");
    });
}

#[test]
fn beyond_the_bound_those_that_were_idle_longest_retire_and_nobody_who_is_at_work() {
    run(async {
        let world = World::new().await;
        let mut registry = Registry::new(Arc::clone(&world.tools), LONG, 3, false);
        let ids: Vec<PaymentId> = (0..6).map(|_| PaymentId::at(world.tools.clock.now())).collect();
        for id in &ids {
            let address = registry.reach(*id);
            // The first one is at work all the time.
            if *id != ids[0] {
                registry.came_back(*id, &address);
            }
            // Told apart by when they were used last.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        registry.sweep();
        let left: Vec<bool> = ids.iter().map(|id| registry.actors.contains_key(id)).collect();
        assert_eq!(left, [true, false, false, false, true, true]);
        registry.live = 0;
        registry.sweep();
        assert_eq!(registry.actors.keys().collect::<Vec<_>>(), [&ids[0]]);
    });
}

#[test]
fn due_checks_tell_what_is_still_to_be_opened_from_what_is_only_silent() {
    run(async {
        let world = World::new().await;
        let arbiters = [Arbiter::new()];
        let payments = Payments::start_quietly(&arbiters, Arc::clone(&world.tools));
        let (unopened, silent) = (world.payment().await.id, world.payment().await.id);
        verdict(&payments, silent, event(silent, 1, ProviderChange::Processing)).await;
        let later = world.tools.clock.now() + time::Duration::days(1);
        let claim = async || world.tools.store.claim_due_checks(later, 60, 10).await.unwrap();
        let mut due: Vec<_> = claim().await.iter().map(|check| (check.payment, check.is_unopened)).collect();
        due.sort_by_key(|(_, is_unopened)| *is_unopened);
        assert_eq!(due, [(silent, false), (unopened, true)]);
        assert!(claim().await.is_empty(), "they are leased");
    });
}

#[test]
fn a_crowd_of_silent_payments_leaves_most_of_the_time_to_others_and_unopened_ones_are_opened_at_once() {
    let took = Duration::from_millis(100);
    assert_eq!(rest_after(took, false), took * CHECKS_REST_TIMES);
    assert_eq!(rest_after(CHECKS_WAIT, false), CHECKS_REST_AT_MOST, "a slow provider costs nothing but time");
    assert_eq!(rest_after(CHECKS_WAIT, true), Duration::ZERO);
}
