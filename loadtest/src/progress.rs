//! One line a second on standard error: how it goes.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::measure::{milliseconds, thousands};
use crate::plan::Plan;
use crate::recording::{Glance, Tally};

/// Looks at the server once a second beside the lines, and remembers what it saw.
pub trait Watcher: Send {
    /// Looks.
    fn look(&mut self);
}

/// Shows a run while it runs.
pub struct Progress {
    name: String,
    is_quiet: bool,
    /// The server's memory, if it is ours.
    watcher: Option<Box<dyn Watcher>>,
}

impl Progress {
    /// Of the run called `name`.
    pub fn new(name: &str, is_quiet: bool) -> Self {
        Self { name: name.to_owned(), is_quiet, watcher: None }
    }

    /// With somebody who looks once a second.
    pub fn with(self, watcher: Box<dyn Watcher>) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// Shows a line a second until the run has ended; hands its outcome on.
    pub async fn follow(
        &mut self,
        plan: &Plan,
        tallies: &[Arc<Tally>],
        mut ended: oneshot::Receiver<Result<(), String>>,
    ) -> Result<(), String> {
        let began = Instant::now();
        let mut seconds = interval_at(began + Duration::from_secs(1), Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                outcome = &mut ended => return outcome.unwrap_or_else(|_| Err("the run was given up".to_owned())),
                _ = seconds.tick() => {
                    self.show(plan, began.elapsed(), tallies);
                    self.watcher.iter_mut().for_each(|watcher| watcher.look());
                }
            }
        }
    }

    fn show(&self, plan: &Plan, elapsed: Duration, tallies: &[Arc<Tally>]) {
        let mut glances = tallies.iter().map(|tally| tally.glance());
        let Some(mut all) = glances.next() else { return };
        glances.for_each(|glance| all.add(&glance));
        if !self.is_quiet {
            say(&line(&self.name, plan, elapsed, &all));
        }
    }
}

fn line(name: &str, plan: &Plan, elapsed: Duration, glance: &Glance) -> String {
    let at = |quantile| milliseconds(glance.latency.value_at_quantile(quantile));
    let phase = if elapsed < plan.measured_from() { " (warming up)" } else { "" };
    let of = if plan.count.is_some() { String::new() } else { format!("/{}", plan.whole().as_secs()) };
    let mut line = format!(
        "{name:<28} {:>3}{of} s  {:>7}/s  p50 {:>8}  p95 {:>8}  p99 {:>8}  in flight {:>4}",
        elapsed.as_secs(),
        thousands(glance.latency.len()),
        at(0.5),
        at(0.95),
        at(0.99),
        glance.in_flight,
    );
    if glance.waiting > 0 {
        line.push_str(&format!("  waiting {}", thousands(glance.waiting)));
    }
    if glance.undone > 0 {
        line.push_str(&format!("  refused or failed {}", thousands(glance.undone)));
    }
    line + phase
}

/// A line for whoever watches.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}"); // nobody may be watching
}
