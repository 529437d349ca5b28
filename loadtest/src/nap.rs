//! Sleeping until a request is due, to some ten microseconds: the runtime's own timer counts in milliseconds, which would
//! be most of the latency of a total from memory.

use std::io;
use std::time::Duration;

/// Sleeps precisely; one for each thread.
#[derive(Debug)]
pub struct Nap {
    #[cfg(target_os = "linux")]
    timer: tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>,
}

#[cfg(target_os = "linux")]
impl Nap {
    /// Call it inside a runtime.
    #[allow(deprecated, reason = "its successor is unsafe to call; an OwnedFd keeps what that asks for")]
    pub fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timer: tokio::io::unix::AsyncFd::with_interest(timer, tokio::io::Interest::READABLE)? })
    }

    /// Sleeps that long.
    pub async fn sleep(&self, time: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        // Nothing at all would disarm the timer.
        let nanoseconds = i64::from(time.subsec_nanos()).max(i64::from(time.as_secs() == 0));
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let mut expirations = [0u8; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Nap {
    /// Call it inside a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Sleeps that long, to the millisecond.
    pub async fn sleep(&self, time: Duration) -> io::Result<()> {
        tokio::time::sleep(time).await;
        Ok(())
    }
}
