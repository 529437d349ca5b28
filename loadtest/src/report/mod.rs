//! What a command found, once: shown as a table, written as JSON, drawn as one page.

pub mod html;
pub mod json;
pub mod picture;
pub mod table;

use serde::Serialize;

use crate::audit::Findings;
use crate::machine::Machine;
use crate::measure::Run;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured on.
    pub machine: Machine,
    /// The server or servers, in words.
    pub targets: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub made_at_ms: u64,
    /// The scenarios.
    pub runs: Vec<Run>,
    /// The audits, one for each server; none where we may not look into the database.
    pub audits: Vec<Findings>,
    /// Whether it was ended early.
    pub is_interrupted: bool,
}

impl Report {
    /// Everything that makes the command fail.
    pub fn faults(&self) -> Vec<&str> {
        let of_runs = self.runs.iter().flat_map(|run| &run.faults);
        of_runs.chain(self.audits.iter().flat_map(|audit| &audit.faults)).map(String::as_str).collect()
    }
}
