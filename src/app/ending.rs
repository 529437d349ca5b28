//! The end of the process: how long each part of it may take, and what ends it where a part hangs.
//!
//! An orchestrator that sent SIGTERM sends SIGKILL after 30 s; by then we are gone, whatever hangs. Nothing committed is
//! lost by it: the next start goes on where this one stopped. Deliberately absent: the order of the parts ([`super::App`]).

use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
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

/// Whoever came in just before the door was closed has said by then what he wants. Shorter than the server waits before it
/// tries to take connections again.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where connections come in.
pub struct Door {
    /// The listening socket once more; `None` where nobody stands before it who would have to notice.
    socket: Option<TcpStream>,
}

impl Door {
    /// The door of this socket, where a gateway gets `wait` to turn away.
    pub fn of(listener: &TcpListener, wait: Duration) -> std::io::Result<Self> {
        // Only a stream can be shut down by halves, and for the system a socket is a socket.
        let socket = if wait.is_zero() { None } else { Some(TcpStream::from(OwnedFd::from(listener.try_clone()?))) };
        Ok(Self { socket })
    }

    /// Refuses new connections, and lets those that are in say what they want. A server that is stopped drops connections that
    /// it took a moment ago, and a gateway must not send a POST twice; one that is refused goes to the next replica.
    pub async fn close(&self) {
        let Some(socket) = &self.socket else { return };
        // To pause the server first would leave those waiting who come between the two, and cut them off.
        tracing::info!("no new connections are taken; that is the invalid argument of which the server may tell next");
        // Elsewhere than on Linux it is left open until the server closes it, as without this.
        let _ = socket.shutdown(Shutdown::Read);
        tokio::time::sleep(LAST_WORDS).await;
    }
}

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
