//! The report for the terminal.

use super::Report;
use super::picture::PICTURE;
use crate::measure::{Measure, Run, milliseconds, thousands};

/// All of it.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |words: String| text.push_str(&(words + "\n"));
    line(format!("\n{}", report.machine.line()));
    report.targets.iter().for_each(|target| line(target.clone()));
    line(String::new());
    line(format!(
        "{:<18} {:<24} {:>27} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>9} {:>9}",
        "scenario", "what", "manner", "done/s", "p50", "p95", "p99", "p99.9", "max", "picture", "ours ≤"
    ));
    for run in &report.runs {
        run.measures.iter().for_each(|measure| line(row(measure)));
        notes(run).into_iter().for_each(&mut line);
    }
    line("\nThe picture's own figures, and what we set against them:".to_owned());
    for it in &PICTURE {
        line(format!("  {:<32} {:<34} {}", it.what, it.says, it.ours));
    }
    line("\nAudit".to_owned());
    if report.audits.is_empty() {
        line("  NOT AUDITED: without --database-url nobody can look whether anything was lost".to_owned());
    }
    for audit in &report.audits {
        audit.held.iter().for_each(|held| line(format!("  ok    {held}")));
    }
    report.faults().iter().for_each(|fault| line(format!("  FAULT {fault}")));
    if report.is_interrupted {
        line("  It was ended early: the last figures are of less time than they should be.".to_owned());
    }
    text
}

fn row(measure: &Measure) -> String {
    let it = &measure.latency;
    let [p50, p95, p99, p999, max] = [it.p50_us, it.p95_us, it.p99_us, it.p999_us, it.max_us].map(milliseconds);
    let promised = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
    let (picture, ours) = (promised(measure.promise.picture_p95_ms), promised(measure.promise.ours_p95_ms));
    let rate = thousands(measure.per_second.round() as u64);
    let row = format!(
        "{:<18} {:<24} {:>27} {rate:>10} {p50:>9} {p95:>9} {p99:>9} {p999:>9} {max:>9}  {picture:>9} {ours:>9}",
        measure.scenario, measure.what, measure.manner
    );
    measure.undone().into_iter().fold(row, |row, undone| row + "  " + &undone)
}

fn notes(run: &Run) -> Vec<String> {
    let notes = run.notes.iter().map(|note| format!("    {note}"));
    let complaints = run.complaints.iter().map(|(text, count)| format!("    {} × {text}", thousands(*count)));
    notes.chain(complaints).collect()
}
