//! Our server held still while others are measured: what it has left to do (openings, due checks, messages) is not theirs.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::target::Target;

/// The server's web workers look at the clock twice a second, and count a connection's time from there: one that is made right after
/// the hold would be as old as the hold.
const AWAKE: Duration = Duration::from_secs(1);

/// Every process of it, until this is dropped.
#[derive(Debug)]
pub struct Held(Vec<Pid>);

impl Held {
    /// Stops them where they are. What they hold in the database they go on holding, so not for long.
    pub fn still(target: &Target) -> Result<Self, String> {
        let pids = target.pids().into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let mut held = Self(Vec::new());
        for pid in pids {
            kill_process(pid, Signal::STOP).map_err(|error| format!("the server cannot be held: {error}"))?;
            held.0.push(pid);
        }
        Ok(held)
    }

    /// Lets them go on, and waits until they know what time it is.
    pub async fn release(self) {
        drop(self);
        sleep(AWAKE).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT); // it may have ended
        }
    }
}
