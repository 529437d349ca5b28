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
const REQUESTS: Duration = Duration::from_millis(22_900);
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

/// Whoever was being connected when the door was closed is connected meanwhile: several round trips to a gateway nearby. Whoever
/// comes in this time waits a second, so it is no longer than that.
const LET_IN: Duration = Duration::from_millis(10);
/// Whoever is connected by then and not taken yet gets so long: a server that has no processor takes nobody.
const LET_IN_AT_MOST: Duration = Duration::from_millis(300);
/// How often the server may be asked whether it took the last of them.
const LET_IN_LOOK: Duration = Duration::from_millis(1);

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
        // A socket that is shut down cuts off those whom the system has connected and the server has not taken yet. So nobody new
        // is connected for a moment first: his attempt is repeated by his system after a second, and refused then.
        if let Err(error) = keep_out(socket) {
            tracing::debug!(%error, "those who come in this moment may be cut off");
        }
        tokio::time::sleep(LET_IN).await;
        let begin = tokio::time::Instant::now();
        while somebody_stands_before(socket) {
            if begin.elapsed() >= LET_IN_AT_MOST {
                tracing::warn!("connections that the server did not take in time are cut off");
                break;
            }
            tokio::time::sleep(LET_IN_LOOK).await;
        }
        // To pause the server first would leave those waiting who come between the two, and cut them off.
        tracing::info!("no new connections are taken; that is the invalid argument of which the server may tell next");
        // Elsewhere than on Linux it is left open until the server closes it, as without this.
        let _ = socket.shutdown(Shutdown::Read);
        tokio::time::sleep(LAST_WORDS).await;
    }
}

/// Leaves attempts to connect unanswered; what belongs to one that was answered passes.
#[cfg(target_os = "linux")]
fn keep_out(socket: &TcpStream) -> std::io::Result<()> {
    use socket2::{SockFilter, SockRef};
    /// `BPF_LD | BPF_B | BPF_ABS`, `BPF_JMP | BPF_JSET | BPF_K` and `BPF_RET | BPF_K` of `linux/bpf_common.h`.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    /// Where the flags are in a TCP header, and the one that begins a connection (RFC 9293, section 3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn keep_out(_: &TcpStream) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Whether a connection waits for the server to take it.
fn somebody_stands_before(socket: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// How long requests may take to their end, in seconds, where a gateway got `wait` to turn away.
pub fn drain_s(wait: Duration) -> u64 {
    REQUESTS.saturating_sub(wait + closing(wait)).min(DRAIN).as_secs()
}

/// How long the door takes to be closed, at most, where a gateway got `wait` to turn away.
const fn closing(wait: Duration) -> Duration {
    if wait.is_zero() { Duration::ZERO } else { LET_IN.saturating_add(LET_IN_AT_MOST).saturating_add(LAST_WORDS) }
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

    #[cfg(target_os = "linux")]
    #[test]
    fn who_comes_to_a_door_that_is_being_closed_is_not_connected_and_who_is_connected_is_heard() {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut before = TcpStream::connect(address).unwrap();
        let door = Door::of(&listener, Duration::from_secs(1)).unwrap();
        keep_out(door.socket.as_ref().unwrap()).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        before.write_all(b"word").unwrap();
        let mut word = [0; 4];
        assert!(somebody_stands_before(door.socket.as_ref().unwrap()));
        listener.accept().unwrap().0.read_exact(&mut word).unwrap();
        assert!(!somebody_stands_before(door.socket.as_ref().unwrap()));
        assert_eq!(&word, b"word");
    }

    #[test]
    fn whatever_wait_is_set_all_parts_fit_into_28_seconds() {
        for wait in (0..=DRAIN_WAIT_MAX_S).map(Duration::from_secs) {
            let parts = wait + closing(wait) + Duration::from_secs(drain_s(wait)) + 2 * LAST_ROUND;
            assert!(parts < WHOLE && drain_s(wait) >= 12 && drain_s(wait) <= 20, "{wait:?}: {parts:?}");
        }
        assert!(WHOLE < Duration::from_secs(28));
    }
}
