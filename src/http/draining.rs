//! Whether the process is about to end, for requests that must know and for those that wait.
//!
//! Deliberately absent: what follows from it, and how long the end may take (`app::ending`).

use tokio::sync::watch;

/// Shared by its clones.
#[derive(Clone, Default)]
pub struct Draining(watch::Sender<bool>);

impl Draining {
    /// Announces the end; `false` where it was announced before.
    pub fn begin(&self) -> bool {
        !self.0.send_replace(true)
    }

    /// Whether the end is announced.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub async fn begun(&self) {
        // An error means that nobody is left who could announce it, which cannot be while we hold a sender.
        let _ = self.0.subscribe().wait_for(|has_begun| *has_begun).await;
    }
}
