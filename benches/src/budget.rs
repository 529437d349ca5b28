//! What may be spent: `benches/budget.toml`, compiled in, so that a program and its budget are of one commit.

use std::collections::BTreeMap;

use serde::Deserialize;

const TEXT: &str = include_str!("../budget.toml");

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// By the function's name.
    pub hot: BTreeMap<String, Cost>,
    /// Of a payment actor.
    pub actor: ActorCost,
}

/// What one call may cost.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// As callgrind counts them: they do not depend on who else is busy.
    pub instructions: u64,
    /// By the clock; generous, for machines that are shared.
    pub nanoseconds: u64,
}

/// What one idle payment actor may weigh.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorCost {
    /// Resident memory, its place in the registry included.
    pub bytes: u64,
}

impl Cost {
    /// Whether a call that costs so much is within it.
    pub fn bears(&self, instructions: Option<u64>, nanoseconds: u64) -> bool {
        instructions.is_none_or(|count| count <= self.instructions) && nanoseconds <= self.nanoseconds
    }
}

impl Budget {
    /// The committed one.
    pub fn committed() -> Result<Self, String> {
        toml::from_str(TEXT).map_err(|error| format!("budget.toml: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cases::CASES;

    #[test]
    fn every_function_has_a_budget_and_every_budget_a_function() {
        let budget = Budget::committed().unwrap();
        let named: BTreeSet<&str> = budget.hot.keys().map(String::as_str).collect();
        assert_eq!(named, CASES.iter().map(|case| case.name).collect());
    }

    #[test]
    fn a_call_is_beyond_its_budget_by_either_measure() {
        let cost = Cost { instructions: 100, nanoseconds: 10 };
        assert!(cost.bears(Some(100), 10) && cost.bears(None, 10));
        assert!(!cost.bears(Some(101), 10) && !cost.bears(Some(100), 11) && !cost.bears(None, 11));
    }
}
