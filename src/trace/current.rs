//! Whose work this is: the context of the request, fact or message that a task works for.
//!
//! It belongs to the task, not to the thread, and does not cross a mailbox or a `spawn` by itself: messages bring their
//! `traceparent`, and [`carry`] takes it into a task. Making an identifier waits until somebody asks for it.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio::task_local;

use super::context::continued;

task_local! {
    static CURRENT: Option<Current>;
}

/// The context of a task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Current(Arc<Lazy>);

#[derive(Debug)]
struct Lazy {
    incoming: Option<String>,
    traceparent: OnceLock<String>,
}

impl Current {
    /// A context of our own that continues the caller's, if there is one.
    pub fn continuing(incoming: Option<String>) -> Self {
        Self(Arc::new(Lazy { incoming, traceparent: OnceLock::new() }))
    }

    /// Exactly this context.
    pub fn of(traceparent: String) -> Self {
        Self(Arc::new(Lazy { incoming: None, traceparent: OnceLock::from(traceparent) }))
    }

    /// As it travels.
    pub fn traceparent(&self) -> &str {
        self.0.traceparent.get_or_init(|| continued(self.0.incoming.as_deref()))
    }
}

/// The context of the work that is being done, if it belongs to anybody.
pub fn current() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Does `work` in that context.
pub fn within<F: Future>(context: Option<Current>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, work)
}

/// The same work, to be spawned: it stays in the context of whoever spawns it.
pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::trace_id;

    #[tokio::test]
    async fn a_spawned_task_has_a_context_only_if_it_is_carried() {
        let context = Current::continuing(None);
        let traceparent = || current().map(|it| it.traceparent().to_owned());
        let [carried, alone] = within(Some(context.clone()), async {
            let carried = tokio::spawn(carry(async move { traceparent() }));
            let alone = tokio::spawn(async move { traceparent() });
            [carried.await.unwrap(), alone.await.unwrap()]
        })
        .await;
        assert_eq!((carried.as_deref(), alone), (Some(context.traceparent()), None));
        assert!(current().is_none());
    }

    #[test]
    fn what_is_asked_twice_is_the_same() {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = Current::continuing(Some(caller.to_owned()));
        assert_eq!(context.traceparent(), context.clone().traceparent());
        assert_eq!(trace_id(context.traceparent()), trace_id(caller));
    }
}
