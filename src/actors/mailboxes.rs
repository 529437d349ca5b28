//! How long a message waits in an actor's mailbox: actix does not tell how many lie there, so somebody knocks now and then.
//!
//! Deliberately absent: payment actors. There are many of them, they come and go, and each handles one payment.

use actix::prelude::*;
use futures::future::join_all;
use tokio::time::{Duration, Instant, timeout};

use super::audit::Audit;
use super::bridge::Bridge;
use super::committer::Committer;
use super::courier::Courier;
use super::notification::Notification;
use super::outbox::Outbox;
use super::registry::Registry;
use super::totals::TotalsActor;
use crate::metrics::METRICS;

/// Asks nothing: it is answered when its turn comes.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Knock;

macro_rules! answers_knocks {
    ($($actor:ty),*) => {$(
        impl Handler<Knock> for $actor {
            type Result = ();

            fn handle(&mut self, _: Knock, _ctx: &mut Self::Context) {}
        }
    )*};
}

answers_knocks!(Audit, Bridge, Committer, Courier, Notification, Outbox, Registry, TotalsActor);

/// The mailboxes of this process, each by the name of what its actor is.
#[derive(Clone, Default)]
pub struct Mailboxes(Vec<(&'static str, Recipient<Knock>)>);

impl Mailboxes {
    /// Adds an actor's.
    pub fn add<A>(&mut self, name: &'static str, actor: &Addr<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Knock>,
    {
        self.0.push((name, actor.clone().recipient()));
    }

    /// Measures all at once; of several of one name the slowest counts. Whoever does not answer within `patience` counts with it.
    pub async fn measure(&self, patience: Duration) {
        let knocks = self.0.iter().map(async |(name, actor)| {
            let began = Instant::now();
            let _ = timeout(patience, actor.send(Knock)).await;
            (*name, began.elapsed())
        });
        let mut waits = join_all(knocks).await;
        waits.sort_unstable();
        // The slowest of a name comes last, and stays.
        for (name, wait) in waits {
            METRICS.actor_mailbox_wait_seconds.with_label_values(&[name]).set(wait.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Busy;

    impl Actor for Busy {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.wait(std::future::pending::<()>().into_actor(self));
        }
    }

    struct Idle;

    impl Actor for Idle {
        type Context = Context<Self>;
    }

    answers_knocks!(Busy, Idle);

    fn wait(name: &str) -> f64 {
        METRICS.actor_mailbox_wait_seconds.with_label_values(&[name]).get()
    }

    #[actix::test]
    async fn an_actor_that_takes_nothing_counts_with_all_of_our_patience() {
        let mut mailboxes = Mailboxes::default();
        mailboxes.add("test: one of two is busy", &Busy.start());
        mailboxes.add("test: one of two is busy", &Idle.start());
        let patience = Duration::from_millis(10);
        mailboxes.measure(patience).await;
        assert!(wait("test: one of two is busy") >= patience.as_secs_f64());
    }

    #[actix::test]
    async fn an_actor_that_has_nothing_to_do_is_not_waited_for() {
        let mut mailboxes = Mailboxes::default();
        mailboxes.add("test: idle", &Idle.start());
        let patience = Duration::from_secs(3600);
        mailboxes.measure(patience).await;
        assert!(wait("test: idle") < patience.as_secs_f64());
    }
}
