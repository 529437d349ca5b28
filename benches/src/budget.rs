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
        assert!(budget.hot.values().all(|cost| cost.instructions > 0 && cost.nanoseconds > 0));
    }
}
