//! A circuit breaker: after some failures in a row a provider is left alone for a while, then probed by one call.
//!
//! Deliberately absent: what counts as a failure (the caller says so), retries, and timers: the breaker moves on only
//! when somebody asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many failures in a row open the breaker.
pub const FAILURES_TO_OPEN: u32 = 5;
/// How long an open breaker keeps everybody away before it lets one probe through.
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// What a caller is told to wait while another caller's probe is under way.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Shared by its clones.
#[derive(Clone, Debug)]
pub struct Breaker {
    shared: Arc<Shared>,
}

/// What the breaker does now, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Every call goes through.
    Closed,
    /// No call goes through.
    Open,
    /// The cool-down is over: one call goes through and decides.
    HalfOpen,
}

#[derive(Debug)]
struct Shared {
    failures_to_open: u32,
    cool_down: Duration,
    circuit: Mutex<Circuit>,
}

#[derive(Debug)]
struct Circuit {
    phase: Phase,
    /// Moves with every change of phase, so that a call admitted before the change cannot decide after it.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

impl Circuit {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch += 1;
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(FAILURES_TO_OPEN, COOL_DOWN)
    }
}

impl Breaker {
    /// A closed breaker that opens after `failures_to_open` failures in a row (at least one), for `cool_down`.
    pub fn new(failures_to_open: u32, cool_down: Duration) -> Self {
        let circuit = Mutex::new(Circuit { phase: Phase::Closed { failures: 0 }, epoch: 0 });
        Self { shared: Arc::new(Shared { failures_to_open: failures_to_open.max(1), cool_down, circuit }) }
    }

    /// Asks to make one call; the error says how long to stay away.
    pub fn admit(&self) -> Result<Permit, Duration> {
        self.admit_at(Instant::now())
    }

    /// What the breaker would do with a call now.
    pub fn state(&self) -> BreakerState {
        self.state_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Result<Permit, Duration> {
        let mut circuit = self.circuit();
        match circuit.phase {
            Phase::Closed { .. } => {}
            Phase::Open { until } if now >= until => circuit.enter(Phase::Probing),
            Phase::Open { until } => return Err(until - now),
            Phase::Probing => return Err(PROBE_WAIT),
        }
        Ok(Permit { breaker: self.clone(), epoch: circuit.epoch, settled: false })
    }

    fn state_at(&self, now: Instant) -> BreakerState {
        match self.circuit().phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { until } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::Probing => BreakerState::HalfOpen,
        }
    }

    fn succeed(&self, epoch: u64) {
        let mut circuit = self.circuit();
        if circuit.epoch != epoch {
            return;
        }
        match circuit.phase {
            Phase::Closed { .. } => circuit.phase = Phase::Closed { failures: 0 },
            Phase::Open { .. } | Phase::Probing => circuit.enter(Phase::Closed { failures: 0 }),
        }
    }

    fn fail(&self, epoch: u64, now: Instant) {
        let mut circuit = self.circuit();
        if circuit.epoch != epoch {
            return;
        }
        match circuit.phase {
            Phase::Closed { failures } if failures + 1 < self.shared.failures_to_open => {
                circuit.phase = Phase::Closed { failures: failures + 1 };
            }
            Phase::Closed { .. } | Phase::Open { .. } | Phase::Probing => {
                circuit.enter(Phase::Open { until: now + self.shared.cool_down });
            }
        }
    }

    /// A probe that went away without a verdict leaves its place to the next caller at once.
    fn abandon(&self, epoch: u64) {
        let mut circuit = self.circuit();
        if circuit.epoch == epoch && matches!(circuit.phase, Phase::Probing) {
            circuit.enter(Phase::Open { until: Instant::now() });
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.shared.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave for one call. Dropping it unsettled, as a cancelled future does, counts neither way.
#[derive(Debug)]
#[must_use = "tell the breaker how the call went"]
pub struct Permit {
    breaker: Breaker,
    epoch: u64,
    settled: bool,
}

impl Permit {
    /// The provider answered: even a refusal proves that it is alive.
    pub fn succeed(mut self) {
        self.settled = true;
        self.breaker.succeed(self.epoch);
    }

    /// The provider was not reached, or did not answer usefully.
    pub fn fail(self) {
        self.fail_at(Instant::now());
    }

    fn fail_at(mut self, now: Instant) {
        self.settled = true;
        self.breaker.fail(self.epoch, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.settled {
            self.breaker.abandon(self.epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTLY: Duration = Duration::from_millis(1);

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            breaker.admit_at(now).unwrap().fail_at(now);
        }
        breaker
    }

    #[test]
    fn it_opens_at_the_fifth_failure_in_a_row_and_not_before() {
        let now = Instant::now();
        let breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            breaker.admit_at(now).unwrap().fail_at(now);
        }
        breaker.admit_at(now).unwrap().succeed();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            breaker.admit_at(now).unwrap().fail_at(now);
        }
        assert_eq!(breaker.state_at(now), BreakerState::Closed);
        breaker.admit_at(now).unwrap().fail_at(now);
        assert_eq!(breaker.state_at(now), BreakerState::Open);
        assert_eq!(breaker.admit_at(now + SHORTLY).unwrap_err(), COOL_DOWN - SHORTLY);
    }

    #[test]
    fn after_the_cool_down_one_probe_goes_through_and_its_success_closes() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + COOL_DOWN;
        assert_eq!(breaker.state_at(later), BreakerState::HalfOpen);
        let probe = breaker.admit_at(later).unwrap();
        assert_eq!(breaker.admit_at(later).unwrap_err(), PROBE_WAIT);
        probe.succeed();
        assert_eq!(breaker.state_at(later), BreakerState::Closed);
        assert!(breaker.admit_at(later).is_ok());
    }

    #[test]
    fn a_failed_probe_opens_for_another_cool_down() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + COOL_DOWN;
        breaker.admit_at(later).unwrap().fail_at(later);
        assert_eq!(breaker.state_at(later), BreakerState::Open);
        assert_eq!(breaker.admit_at(later).unwrap_err(), COOL_DOWN);
    }

    #[test]
    fn a_dropped_probe_leaves_its_place_to_the_next_caller() {
        let now = Instant::now();
        let breaker = opened(now);
        drop(breaker.admit_at(now + COOL_DOWN).unwrap());
        let later = now + COOL_DOWN + COOL_DOWN;
        assert_eq!(breaker.state_at(later), BreakerState::HalfOpen);
        breaker.admit_at(later).unwrap().succeed();
        assert_eq!(breaker.state_at(later), BreakerState::Closed);
    }

    #[test]
    fn a_call_from_before_the_opening_decides_nothing_after_it() {
        let now = Instant::now();
        let breaker = Breaker::default();
        let (early_success, early_failure) = (breaker.admit_at(now).unwrap(), breaker.admit_at(now).unwrap());
        for _ in 0..FAILURES_TO_OPEN {
            breaker.admit_at(now).unwrap().fail_at(now);
        }
        early_success.succeed();
        assert_eq!(breaker.state_at(now), BreakerState::Open);
        let later = now + COOL_DOWN;
        breaker.admit_at(later).unwrap().succeed();
        early_failure.fail_at(later);
        assert_eq!(breaker.state_at(later), BreakerState::Closed);
    }

    #[test]
    fn clones_share_one_circuit() {
        let now = Instant::now();
        let breaker = Breaker::new(1, COOL_DOWN);
        breaker.clone().admit_at(now).unwrap().fail_at(now);
        assert_eq!(breaker.state_at(now), BreakerState::Open);
    }
}
