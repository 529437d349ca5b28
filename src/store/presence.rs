//! Whether this process lives, as its neighbours can see it: a number whose advisory lock its own session holds.
//!
//! What a process is sending carries its number. The lock goes with the session: at once when the process is killed,
//! never while it is merely slow, so neither does a crash hold messages back nor is a slow process overtaken. A session
//! may also be lost by a process that lives (Postgres restarts, a network parts). Then it has [`KEEP`] to take the same
//! lock again; after that it is to drop what it is sending, and goes on under a new number. Neighbours wait longer
//! than that ([`BELIEVE`]) before they believe that it is gone.
//!
//! Deliberately absent: clocks of two machines, and leases. A pooler between us and Postgres must keep sessions.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::StoreError;
use super::hosts::{Hosts, Session as Connected};

/// How long a process that lost its session may go on with what it is sending.
pub const KEEP: Duration = Duration::from_secs(3);
/// How long a number's lock must have been free before what it holds is freed: longer than its process, if it lives, may
/// take to notice that it lost its session and to drop what it is sending.
pub const BELIEVE: Duration = Duration::from_secs(9);
/// How often the session is asked whether it is there, and how long the answer may take. A process learns of a cut that
/// makes no noise after both, which with [`KEEP`] stays below what the server needs to notice (`SERVER_NOTICES`).
const ASK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);
/// How long an attempt to get a session with a new number may take: a server may take connections and say nothing.
const OPEN: Duration = Duration::from_secs(15);
/// Between two attempts to get a session.
const AGAIN: Duration = Duration::from_millis(200);
/// [`ASK`] and [`ANSWER`] until a silent cut is noticed, [`KEEP`] with one attempt that ends late.
const NOTICED_AND_DROPPED_MS: u128 = ASK.as_millis() + ANSWER.as_millis() + KEEP.as_millis() + AGAIN.as_millis();
const _: () = assert!(BELIEVE.as_millis() >= NOTICED_AND_DROPPED_MS + 1500, "a slow process would be overtaken");
/// The server lets go of a client that vanished without a word after 5 + 3 × 2 seconds.
const SERVER_NOTICES: &str = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3";
/// How the session is called, where sessions are listed and counted.
pub const NAME: &str = "careforall-presence";
const NEXT_NUMBER: &str = "select nextval('notifications.courier_numbers')::integer";
/// The first half is a number of ours in the one space of advisory locks, beside the outbox's.
const LOCK: &str = "select pg_try_advisory_lock(1128678256, $1)";

/// This process's number. It is given up when the last clone is dropped.
#[derive(Clone)]
pub struct Presence {
    number: watch::Receiver<Option<i32>>,
    _task: std::sync::Arc<Ended>,
}

struct Ended(JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Presence {
    /// Gets a number, and keeps it as long as it can. Call it inside the runtime.
    pub fn start(hosts: &Hosts) -> Self {
        let (sender, number) = watch::channel(None);
        let task = std::sync::Arc::new(Ended(tokio::spawn(hold(hosts.named(NAME, SERVER_NOTICES), sender))));
        Self { number, _task: task }
    }

    /// The number, while there is one.
    pub fn number(&self) -> Option<i32> {
        *self.number.borrow()
    }

    /// Waits until `number` is ours no more: whatever is being sent under it must be dropped.
    pub async fn lost(&self, number: i32) {
        let mut watched = self.number.clone();
        // The sender lives as long as we do.
        let _ = watched.wait_for(|now| *now != Some(number)).await;
    }

    /// Waits until there is a number.
    pub async fn gained(&self) {
        let mut watched = self.number.clone();
        let _ = watched.wait_for(Option::is_some).await;
    }
}

async fn hold(hosts: Hosts, published: watch::Sender<Option<i32>>) {
    let mut deadline = Instant::now();
    loop {
        let before = *published.borrow();
        // With a number to keep, no attempt may outlast the deadline.
        let session = match before {
            Some(_) => timeout_at(deadline, open(&hosts, before)).await.ok(),
            None => timeout(OPEN, open(&hosts, None)).await.ok(),
        };
        match session {
            Some(Ok(Some(session))) => {
                published.send_replace(Some(session.number));
                let seen = session.outlived().await;
                tracing::warn!("the session that shows that this process lives is lost");
                deadline = keep_until(seen, Instant::now());
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => tracing::debug!(%error, "no session yet"),
            None => {}
        }
        if before.is_some() && Instant::now() >= deadline && published.borrow().is_some() {
            published.send_replace(None);
        }
        sleep(AGAIN).await;
    }
}

/// Until when a number may be kept that was last seen to be ours at `seen`. A process that was stopped meanwhile learns of
/// the loss late: its neighbours may have freed what it holds, so its number is not ours any more.
fn keep_until(seen: Instant, now: Instant) -> Instant {
    (now + KEEP).min(seen + BELIEVE - AGAIN)
}

/// A session that holds the lock of its number.
struct Session {
    client: tokio_postgres::Client,
    connection: JoinHandle<()>,
    number: i32,
}

impl Session {
    /// Waits until it is no more, and returns when it was last known to be. A cut that makes a noise is heard at once,
    /// another by asking.
    async fn outlived(mut self) -> Instant {
        let mut seen = Instant::now();
        loop {
            tokio::select! {
                _ = &mut self.connection => return seen,
                () = sleep(ASK) => {}
            }
            let asked = Instant::now();
            let answered = timeout(ANSWER, self.client.simple_query("select 1")).await;
            if !answered.is_ok_and(|answer| answer.is_ok()) {
                // What it may still hold is let go of by the server.
                self.connection.abort();
                return seen;
            }
            seen = asked;
        }
    }
}

/// A session that holds the lock of `number`, or of a new one; nothing while the server believes that the session before
/// this one is alive.
async fn open(hosts: &Hosts, number: Option<i32>) -> Result<Option<Session>, StoreError> {
    let Connected { client, connection } = hosts.connect().await?;
    let number = match number {
        Some(number) => number,
        None => client.query_one(NEXT_NUMBER, &[]).await?.get(0),
    };
    let locked: bool = client.query_one(LOCK, &[&number]).await?.get(0);
    Ok(locked.then_some(Session { client, connection, number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_not_seen_for_as_long_as_neighbours_wait_keeps_no_number() {
        let seen = Instant::now();
        let kept_for = |gap: Duration| keep_until(seen, seen + gap).checked_duration_since(seen + gap);
        assert_eq!(kept_for(Duration::ZERO), Some(KEEP));
        assert_eq!(kept_for(ASK + ANSWER), Some(KEEP), "a silent cut, noticed as late as can be");
        assert!(kept_for(BELIEVE - KEEP / 2).is_some_and(|left| left < KEEP));
        assert_eq!(kept_for(BELIEVE), None, "stopped for too long");
    }
}
