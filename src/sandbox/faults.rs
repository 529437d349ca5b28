//! Faults of the API that are ordered by the control: errors, time-outs and slowness, so many times.
//!
//! Deliberately absent: more than one fault at a time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a held connection is kept unless told otherwise.
const DEFAULT_HOLD_MS: u64 = 60_000;
/// How much later a slowed request is done unless told otherwise.
const DEFAULT_SLOW_MS: u64 = 1000;
/// The longest that anything is held or slowed.
const MAX_DELAY_MS: u64 = 300_000;

/// What a request does, as far as faults tell requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    Create,
    Confirm,
    Capture,
    Cancel,
    Refund,
    Retrieve,
    /// As a fault's target: every operation. As an operation: one that has no name of its own.
    Any,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultMode {
    /// Nothing.
    #[default]
    None,
    /// 500 before anything happened; not kept for the idempotency key.
    #[serde(rename = "error_500")]
    Error500,
    /// 429 before anything happened.
    #[serde(rename = "rate_limit_429")]
    RateLimit429,
    /// It happens, but the answer is held for `delay_ms` and then is a 504.
    TimeoutAfterEffect,
    /// Nothing happens, and the answer is held for `delay_ms` and then is a 504.
    Hang,
    /// It happens after `delay_ms`.
    #[serde(alias = "slow")]
    SlowMs,
}

/// A fault as ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    mode: FaultMode,
    #[serde(default = "any")]
    on: Operation,
    /// How many requests it still hits.
    #[serde(default = "once")]
    times: u64,
    /// For the modes that hold or slow down, in milliseconds.
    #[serde(default, alias = "slow_ms", skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

fn any() -> Operation {
    Operation::Any
}

fn once() -> u64 {
    1
}

impl Default for Fault {
    fn default() -> Self {
        Self { mode: FaultMode::None, on: Operation::Any, times: 0, delay_ms: None }
    }
}

/// A fault that hits a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hit {
    pub mode: FaultMode,
    pub delay: Duration,
}

/// The fault that is ordered now.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Fault>);

impl Faults {
    /// Orders a fault in place of the one before.
    pub fn order(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// What is ordered, with the times that are left.
    pub fn ordered(&self) -> Fault {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What hits this request; it counts.
    pub fn hit(&self, operation: Operation) -> Hit {
        let mut fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = fault.on == Operation::Any || fault.on == operation;
        if fault.mode == FaultMode::None || fault.times == 0 || !is_meant {
            return Hit::default();
        }
        fault.times -= 1;
        let default_ms = if fault.mode == FaultMode::SlowMs { DEFAULT_SLOW_MS } else { DEFAULT_HOLD_MS };
        let delay_ms = fault.delay_ms.unwrap_or(default_ms).min(MAX_DELAY_MS);
        Hit { mode: fault.mode, delay: Duration::from_millis(delay_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_its_operation_so_many_times() {
        let faults = Faults::default();
        faults.order(serde_json::from_str(r#"{"mode": "error_500", "on": "create", "times": 2}"#).unwrap());
        assert_eq!(faults.hit(Operation::Capture).mode, FaultMode::None);
        assert_eq!(faults.hit(Operation::Create).mode, FaultMode::Error500);
        assert_eq!(faults.hit(Operation::Create).mode, FaultMode::Error500);
        assert_eq!(faults.hit(Operation::Create).mode, FaultMode::None);
    }

    #[test]
    fn every_mode_has_its_name_in_the_control() {
        for mode in ["none", "error_500", "rate_limit_429", "timeout_after_effect", "hang", "slow_ms", "slow"] {
            assert!(serde_json::from_value::<FaultMode>(mode.into()).is_ok(), "{mode}");
        }
    }
}
