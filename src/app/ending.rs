//! The end of the process: how long each part of it may take, and what ends it where a part hangs.
//!
//! An orchestrator that sent SIGTERM sends SIGKILL after 30 s; by then we are gone, whatever hangs. Nothing committed is
//! lost by it: the next start goes on where this one stopped. Deliberately absent: the order of the parts ([`super::App`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// From the signal to the end, at most.
const WHOLE: Duration = Duration::from_secs(27);
/// From the signal to the end of the last request, at most.
const REQUESTS: Duration = Duration::from_secs(22);
/// Requests that are under way get this long, at most.
const DRAIN: Duration = Duration::from_secs(20);
/// What is committed gets this long to reach the bus; the rest goes out after the next start.
pub const LAST_ROUND: Duration = Duration::from_secs(2);
/// Messages that are being sent get this long: what is cut off may arrive twice.
pub const LAST_DELIVERIES: Duration = Duration::from_secs(20);
/// As for any failure.
const EXIT_FAILURE: i32 = 1;

/// How long requests may take to their end, in seconds, where a gateway got `wait` to turn away.
pub fn drain_s(wait: Duration) -> u64 {
    REQUESTS.saturating_sub(wait).min(DRAIN).as_secs()
}

/// Ends the process where it does not end by itself.
#[derive(Clone, Default)]
pub struct Watchdog(Arc<Mutex<&'static str>>);

impl Watchdog {
    /// From now on the process has so long. The thread that watches belongs to no runtime, which could hang too.
    pub fn start(&self) {
        let part = Arc::clone(&self.0);
        let watch = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            std::thread::sleep(WHOLE);
            let part = *part.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::error!(
                part,
                "the process does not end in order and is ended; the next start takes up what is left"
            );
            std::process::exit(EXIT_FAILURE);
        });
        if let Err(error) = watch {
            tracing::warn!(%error, "nothing watches over the end of this process");
        }
    }

    /// What is being ended now.
    pub fn enter(&self, part: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = part;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DRAIN_WAIT_MAX_S;

    #[test]
    fn whatever_wait_is_set_all_parts_fit_into_28_seconds() {
        for wait in (0..=DRAIN_WAIT_MAX_S).map(Duration::from_secs) {
            let parts = wait + Duration::from_secs(drain_s(wait)) + 2 * LAST_ROUND;
            assert!(parts < WHOLE && drain_s(wait) >= 12 && drain_s(wait) <= 20, "{wait:?}: {parts:?}");
        }
        assert!(WHOLE < Duration::from_secs(28));
    }
}
