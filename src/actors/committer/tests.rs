//! What shares a commit and what does not, on a real Postgres.

use std::future::Future;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::*;
use crate::actors::testing::{World, creation};
use crate::domain::ids::CampaignId;

fn run(test: impl Future<Output = ()>) {
    actix_rt::System::new().block_on(test);
}

#[test]
fn a_bad_item_fails_alone_and_the_rest_of_its_batch_is_committed() {
    run(async {
        let world = World::new().await;
        // The table's check refuses zero; nothing before it did.
        let amounts = (0..100_i64).map(|at| if at == 50 { 0 } else { 100 + at });
        let commits = join_all(amounts.map(|amount| world.commit(world.creation(amount)))).await;
        for (at, committed) in commits.into_iter().enumerate() {
            match committed {
                Err(CommitError::Refused(reason)) if at == 50 => assert!(reason.contains("23514"), "{reason}"),
                Ok(CreationOutcome::Recorded { .. }) if at != 50 => {}
                other => panic!("{at}: {other:?}"),
            }
        }
        assert_eq!(world.count("select count(*) from donations.donations").await, 99);
        assert_eq!(world.count("select count(*) from donations.outbox_events").await, 99);
        assert_eq!(world.count("select count(*) from payments.payment_transactions").await, 99);
    });
}

#[test]
fn what_comes_after_a_bad_item_is_committed_too() {
    run(async {
        let world = World::new().await;
        assert!(matches!(world.commit(world.creation(0)).await, Err(CommitError::Refused(_))));
        assert!(world.commit(world.creation(100)).await.is_ok());
    });
}

#[test]
fn whoever_comes_when_too_much_waits_is_told_so_at_once() {
    run(async {
        // A server that takes connections and never says a word: nothing is ever written.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://nobody@{}/nothing", silent.local_addr().unwrap());
        let (moved, _) = tokio::sync::broadcast::channel(1);
        let store = Store::new(url.parse().unwrap()).unwrap();
        let committer = Committer::new(store, Clock::System, moved).start();
        let campaign = CampaignId::at(Clock::System.now());
        let more_than_fits = WAITING + WRITERS * BATCH + 1;
        let mut waiting: FuturesUnordered<_> =
            (0..more_than_fits).map(|_| committer.send(CommitCreation(creation(campaign, 100)))).collect();
        let first = waiting.next().await.unwrap().unwrap();
        assert!(matches!(first, Err(CommitError::Overloaded)), "{first:?}");
    });
}

#[test]
fn while_batches_are_under_way_the_next_one_grows_unless_they_are_slow_or_it_is_full() {
    let now = Instant::now();
    let (moved, _) = tokio::sync::broadcast::channel(1);
    let store = Store::new("postgres://nobody@127.0.0.1:1/nothing".parse().unwrap()).unwrap();
    let mut committer = Committer::new(store, Clock::System, moved);
    assert!(committer.may_begin(CREATIONS, 1) && !committer.may_begin(CREATIONS, 0));
    let batch = |began| Batch { began, since: None };
    committer.under_way[CREATIONS] = vec![batch(now)];
    assert!(!committer.may_begin(CREATIONS, BESIDE - 1) && committer.may_begin(CREATIONS, BESIDE));
    committer.under_way[CREATIONS] = vec![batch(now); SIDE_BY_SIDE];
    assert!(!committer.may_begin(CREATIONS, BATCH - 1) && committer.may_begin(CREATIONS, BATCH));
    assert!(committer.may_begin(1, 1), "other kinds have batches of their own");
    committer.under_way[CREATIONS] = vec![batch(now - SLOW); SIDE_BY_SIDE];
    assert!(committer.may_begin(CREATIONS, 1));
}

#[test]
fn who_waits_longest_is_known_before_anything_is_committed() {
    let now = Instant::now();
    let (moved, _) = tokio::sync::broadcast::channel(1);
    let store = Store::new("postgres://nobody@127.0.0.1:1/nothing".parse().unwrap()).unwrap();
    let mut committer = Committer::new(store, Clock::System, moved);
    assert_eq!(committer.longest_wait(), Duration::ZERO);
    let campaign = CampaignId::at(Clock::System.now());
    let (reply, _answer) = oneshot::channel();
    let queued = Waiting { since: now - Duration::from_secs(2), item: creation(campaign, 100), reply };
    committer.creations.push_back(queued);
    assert!((2..20).contains(&committer.longest_wait().as_secs()));
    committer.under_way[1] = vec![
        Batch { began: now, since: Some(now - Duration::from_secs(20)) },
        Batch { began: now - Duration::from_secs(60), since: Some(now - Duration::from_secs(60)) },
    ];
    assert!((20..60).contains(&committer.longest_wait().as_secs()), "the first batch holds up nobody else");
    committer.under_way[1] = vec![Batch { began: now, since: None }];
    assert!((2..20).contains(&committer.longest_wait().as_secs()), "nobody outside waits for it");
}
