//! The wish to end early: Ctrl-C once ends the load and still audits and reports, twice ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// The exit code of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Shared by everything that may have to end early.
#[derive(Clone, Debug)]
pub struct Stop {
    wished: Arc<watch::Sender<bool>>,
    /// Whether a second Ctrl-C may end the process: not before there is a first.
    heard: Arc<AtomicBool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { wished: Arc::new(watch::channel(false).0), heard: Arc::default() }
    }
}

impl Stop {
    /// Listens for SIGINT and SIGTERM from now on. Call it inside a runtime.
    pub fn on_signals(&self, at_once: impl Fn() + Send + 'static) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if stop.heard.swap(true, Ordering::SeqCst) {
                    at_once();
                    std::process::exit(INTERRUPTED);
                }
                stop.wish();
            }
        });
        Ok(())
    }

    /// Ends the load.
    pub fn wish(&self) {
        self.wished.send_replace(true);
    }

    /// Whether the load is to end.
    pub fn is_wished(&self) -> bool {
        *self.wished.borrow()
    }

    /// Returns once the load is to end.
    pub async fn wished(&self) {
        let mut wished = self.wished.subscribe();
        // An error would mean that the sender is gone; we hold it.
        let _ = wished.wait_for(|wished| *wished).await;
    }
}
