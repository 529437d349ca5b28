//! Connections between two mails: few, and not for long.
//!
//! Deliberately absent: a task that closes them. One that grew old is closed when the next mail looks for one, and closed by
//! the relay before that.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::conversation::Conversation;

/// More than mails that are under way at the same time would be of no use.
const MAX_CONNECTIONS: usize = 16;
/// Relays hang up after some minutes; we do it first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that wait for a mail, with the time since when; the last one kept is the first one taken.
#[derive(Default)]
pub struct Idle {
    kept: Mutex<Vec<(Conversation, Instant)>>,
}

impl Idle {
    /// The one that waited least, if any is fresh.
    pub fn take(&self) -> Option<Conversation> {
        let now = Instant::now();
        // Nothing can panic under the lock.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, since)| now.duration_since(*since) < IDLE_TIMEOUT);
        kept.pop().map(|(conversation, _)| conversation)
    }

    /// Keeps one whose conversation came to its end in step.
    pub fn keep(&self, conversation: Conversation) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_CONNECTIONS {
            kept.push((conversation, Instant::now()));
        }
    }
}
