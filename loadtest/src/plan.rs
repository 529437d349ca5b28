//! When requests are due: a schedule that does not wait for answers, or so many connections that ask without pause.
//!
//! Deliberately absent: the clock. Times are counted from the start of the run.

use std::time::Duration;

/// The longest run: what is kept of it grows with its length.
pub const DURATION_MAX: Duration = Duration::from_secs(3600);

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many a second are due, whether or not the ones before were answered.
    Open {
        /// Requests a second.
        rate: f64,
    },
    /// Every connection sends its next request as soon as it has its answer: this finds capacity.
    Closed,
}

/// A run's times and bounds.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How requests come.
    pub pace: Pace,
    /// Connections, which is also the bound on what is in flight.
    pub connections: usize,
    /// Threads that send.
    pub threads: usize,
    /// The rate rises from nothing to the full one in this time, or the connections come one by one.
    pub ramp: Duration,
    /// At full rate, not measured.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
    /// No request waits longer for its answer.
    pub patience: Duration,
    /// Ends after so many requests, however long that takes: for preparations.
    pub count: Option<u64>,
}

impl Plan {
    /// Until the last request is due.
    pub fn whole(&self) -> Duration {
        self.ramp + self.warm_up + self.duration
    }

    /// From when on it is measured.
    pub fn measured_from(&self) -> Duration {
        self.ramp + self.warm_up
    }

    /// When request `number` (from 0) of an open schedule is due; `None` once the run is over.
    pub fn due(&self, number: u64) -> Option<Duration> {
        let Pace::Open { rate } = self.pace else { return None };
        if self.count.is_some_and(|count| number >= count) {
            return None;
        }
        let (number, ramp) = (number as f64, self.ramp.as_secs_f64());
        // While the rate rises linearly to `rate`, rate·t²/(2·ramp) requests are due by t.
        let ramped = rate * ramp / 2.0;
        let due = if number < ramped { (2.0 * number * ramp / rate).sqrt() } else { ramp + (number - ramped) / rate };
        let due = Duration::from_secs_f64(due);
        (due < self.whole()).then_some(due)
    }

    /// When connection `number` of a closed run begins.
    pub fn begins(&self, number: usize) -> Duration {
        self.ramp.mul_f64(number as f64 / self.connections.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: f64, ramp_s: u64) -> Plan {
        Plan {
            pace: Pace::Open { rate },
            connections: 4,
            threads: 1,
            ramp: Duration::from_secs(ramp_s),
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(2),
            patience: Duration::from_secs(1),
            count: None,
        }
    }

    #[test]
    fn without_a_ramp_requests_are_due_at_even_distances_until_the_end() {
        let plan = plan(100.0, 0);
        assert_eq!(plan.due(0), Some(Duration::ZERO));
        assert_eq!(plan.due(150), Some(Duration::from_millis(1500)));
        assert_eq!((plan.due(299).is_some(), plan.due(300)), (true, None));
    }

    #[test]
    fn a_ramp_brings_half_as_many_as_its_time_at_full_rate_and_then_the_full_rate() {
        let plan = plan(100.0, 2);
        let in_ramp = (0..).take_while(|number| plan.due(*number).is_some_and(|due| due < plan.ramp)).count();
        assert_eq!(in_ramp, 100);
        assert_eq!(plan.due(200), Some(Duration::from_secs(3)));
        let first = plan.due(1).unwrap();
        assert!(first > Duration::from_millis(150), "the first ones come slowly: {first:?}");
    }

    #[test]
    fn due_times_never_go_back_over_the_end_of_the_ramp() {
        let plan = plan(333.0, 1);
        let times: Vec<Duration> = (0..).map_while(|number| plan.due(number)).collect();
        assert!(times.is_sorted());
        assert_eq!(times.len(), 333 * 3 + 167);
    }

    #[test]
    fn a_count_ends_the_schedule_before_its_time() {
        let plan = Plan { count: Some(7), ..plan(100.0, 0) };
        assert_eq!((plan.due(6).is_some(), plan.due(7)), (true, None));
    }
}
