//! A measurement as it is reported: plain figures, made from a recording once the run is over.
//!
//! Deliberately absent: how they are shown (`report`).

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::plan::{Pace, Plan};
use crate::recording::{Recording, Series};

/// Quantiles of a latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half of all are no slower.
    pub p50_us: u64,
    /// 95 % are no slower.
    pub p95_us: u64,
    /// 99 % are no slower.
    pub p99_us: u64,
    /// 99.9 % are no slower.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

impl Latency {
    /// Of what was recorded, in microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50_us: at(0.5), p95_us: at(0.95), p99_us: at(0.99), p999_us: at(0.999), max_us: histogram.max() }
    }
}

/// One slice of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Moment {
    /// Seconds since the start of the run at which it begins.
    pub at_s: f64,
    /// Done a second.
    pub per_second: f64,
    /// Refused or failed a second.
    pub undone_per_second: f64,
    /// Latencies of what was done.
    pub latency: Latency,
}

/// What the picture of the system, or our own promise, says of such a request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Promise {
    /// The picture's p95 in milliseconds.
    pub picture_p95_ms: Option<f64>,
    /// Our p95 in milliseconds.
    pub ours_p95_ms: Option<f64>,
    /// How many a second the picture has of it.
    pub picture_per_second: Option<f64>,
    /// How many a second we want.
    pub ours_per_second: Option<f64>,
}

/// One kind of request in one run.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// The scenario, such as `totals-hot`.
    pub scenario: String,
    /// The kind of request, such as `create`.
    pub what: String,
    /// How requests came: `3,000/s offered`, or `64 connections without pause`.
    pub manner: String,
    /// Offered a second; nothing where connections ask without pause.
    pub offered_per_second: Option<f64>,
    /// Connections.
    pub connections: usize,
    /// The measured time in seconds.
    pub seconds: f64,
    /// Done, of what was due in that time.
    pub done: u64,
    /// Done a second in that time, whenever it was due.
    pub per_second: f64,
    /// Refused with 503 or 429.
    pub refused: u64,
    /// Of those, with 429.
    pub limited: u64,
    /// Of those, without `Retry-After`.
    pub unexplained: u64,
    /// How long refusals took, from when the request was due.
    pub refusal: Latency,
    /// Failed otherwise.
    pub failed: u64,
    /// Answers that must never be given.
    pub wrong: u64,
    /// Due, but never sent: the run was over.
    pub unsent: u64,
    /// Sent more than 10 ms after they were due.
    pub late: u64,
    /// Latencies of what was done, from when it was due.
    pub latency: Latency,
    /// The run over time, warm-up included.
    pub moments: Vec<Moment>,
    /// Seconds before measuring began.
    pub warm_up_s: f64,
    /// Latencies by percentile, for the plot: (percentile, microseconds).
    pub percentiles: Vec<(f64, u64)>,
    /// What is promised of it.
    pub promise: Promise,
}

impl Measure {
    /// Whether requests were due that could not be sent: then the latencies are lower bounds.
    pub fn is_overloaded(&self) -> bool {
        self.unsent > 0
    }

    /// What was not done, in words; nothing where all was.
    pub fn undone(&self) -> Vec<String> {
        let refused = match self.unexplained {
            0 => format!("refused (p99 {})", milliseconds(self.refusal.p99_us)),
            some => {
                format!("refused (p99 {}; {} WITHOUT Retry-After)", milliseconds(self.refusal.p99_us), thousands(some))
            }
        };
        [
            (self.refused, &*refused),
            (self.failed, "FAILED"),
            (self.wrong, "WRONG"),
            (self.unsent, "unsent: beyond capacity, latencies are lower bounds"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", thousands(count)))
        .collect()
    }
}

/// A run of one scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Its kinds of requests.
    pub measures: Vec<Measure>,
    /// What was said of failures, with how often.
    pub complaints: Vec<(String, u64)>,
    /// Further findings, each a sentence.
    pub notes: Vec<String>,
    /// What must not be: the whole command fails.
    pub faults: Vec<String>,
    /// The server's resident memory before and at most, in KiB, where it is ours.
    pub memory_kib: Option<(u64, u64)>,
    /// How late the schedule itself was: so much of a latency may be the generator's own.
    pub behind: Latency,
}

impl Run {
    /// For load that stays below capacity: there a request that fails, other than by a refusal, is a fault of the server.
    pub fn must_not_fail(mut self, scenario: &str) -> Self {
        let failed: u64 = self.measures.iter().map(|measure| measure.failed).sum();
        if failed > 0 {
            self.faults.push(format!("{scenario}: {} requests failed", thousands(failed)));
        }
        self
    }

    /// Done a second, of all kinds.
    pub fn per_second(&self) -> f64 {
        self.measures.iter().map(|measure| measure.per_second).sum()
    }
}

/// The figures of a recording; kinds of which there was nothing are left out.
pub fn measures(scenario: &str, plan: &Plan, recording: &Recording, promise: impl Fn(&str) -> Promise) -> Run {
    let seconds = recording.measured.as_secs_f64();
    let measures = recording
        .series
        .iter()
        .enumerate()
        .filter(|(_, series)| series.done + series.refused + series.failed + series.wrong > 0)
        .map(|(place, series)| {
            // What was not sent belongs to no kind yet: it is shown with the first.
            let (unsent, late) = if place == 0 { (recording.unsent, recording.late) } else { (0, 0) };
            let measure = measure(scenario, plan, recording, series, seconds);
            Measure { unsent, late, promise: promise(series.name), ..measure }
        })
        .collect();
    let complaints = recording.complaints.iter().map(|(text, count)| (text.clone(), *count)).collect();
    let wrong: u64 = recording.series.iter().map(|series| series.wrong).sum();
    let faults = if wrong > 0 { vec![format!("{scenario}: {wrong} wrong answers")] } else { Vec::new() };
    Run { measures, complaints, faults, behind: Latency::of(&recording.behind), ..Run::default() }
}

fn measure(scenario: &str, plan: &Plan, recording: &Recording, series: &Series, seconds: f64) -> Measure {
    let (offered, manner) = match plan.pace {
        Pace::Open { rate } => (Some(rate), format!("{}/s offered", thousands(rate.round() as u64))),
        Pace::Closed => (None, format!("{} connections without pause", plan.connections)),
    };
    Measure {
        scenario: scenario.to_owned(),
        what: series.name.to_owned(),
        manner,
        offered_per_second: offered,
        connections: plan.connections,
        seconds,
        done: series.done,
        per_second: if seconds > 0.0 { series.throughput as f64 / seconds } else { 0.0 },
        refused: series.refused,
        limited: series.limited,
        unexplained: series.unexplained,
        refusal: Latency::of(&series.refusal),
        failed: series.failed,
        wrong: series.wrong,
        unsent: 0,
        late: 0,
        latency: Latency::of(&series.latency),
        moments: moments(series, recording.slice),
        warm_up_s: plan.measured_from().as_secs_f64(),
        percentiles: percentiles(&series.latency),
        promise: Promise::default(),
    }
}

fn moments(series: &Series, slice: Duration) -> Vec<Moment> {
    let width = slice.as_secs_f64();
    let moment = |(at, slice): (usize, &crate::recording::Slice)| Moment {
        at_s: at as f64 * width,
        per_second: slice.latency.len() as f64 / width,
        undone_per_second: slice.undone as f64 / width,
        latency: Latency::of(&slice.latency),
    };
    series.slices.iter().enumerate().map(moment).collect()
}

/// From the median to one in ten thousand, in steps that are even in the number of nines.
fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    (0..=40)
        .map(|step| {
            let quantile = 1.0 - 10f64.powf(-f64::from(step) / 10.0);
            (quantile * 100.0, histogram.value_at_quantile(quantile))
        })
        .collect()
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as `0.42 ms`, `12.3 ms` or `1,234 ms`.
pub fn milliseconds(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    match us {
        0..10_000 => format!("{ms:.2} ms"),
        10_000..100_000 => format!("{ms:.1} ms"),
        _ => format!("{} ms", thousands(ms.round() as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1000, 1_234_567].map(thousands).each_ref().map(|t| &**t)
        );
        let shown = [420, 12_345, 1_234_567].map(milliseconds);
        assert_eq!(["0.42 ms", "12.3 ms", "1,235 ms"], shown.each_ref().map(|text| &**text));
    }
}
