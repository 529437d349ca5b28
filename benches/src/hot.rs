//! Measures the cases and holds them against the budget.
//!
//! Instructions are counted by callgrind between entry and exit of [`measured`], in a process of its own for each case: the
//! count is the same on a busy machine and on a quiet one. (valgrind's processor has no SHA instructions, so a signature counts
//! more there than it costs.) Nanoseconds are the best of several rounds: noise only ever adds.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::budget::{Budget, Cost};
use crate::cases::{CASES, Call, Case};
use crate::say;

/// Calls that callgrind counts, and those before them that fill caches and make thread-locals.
const COUNTED: u32 = 2000;
const WARM: u32 = 200;
/// Rounds by the clock, and how long one is about.
const ROUNDS: u32 = 15;
const ROUND: Duration = Duration::from_millis(20);

/// The calls that are measured. Never inlined: callgrind knows it by its name.
#[inline(never)]
fn measured(call: &mut Call, calls: u32) {
    for _ in 0..calls {
        call();
    }
}

fn find(name: &str) -> Result<&'static Case, String> {
    CASES.iter().find(|case| case.name == name).ok_or_else(|| format!("there is no case {name}"))
}

/// Makes the calls of one case and nothing else.
pub fn call(name: &str, calls: u32) -> Result<(), String> {
    let mut call = (find(name)?.make)()?;
    for _ in 0..WARM {
        call();
    }
    measured(&mut call, calls);
    Ok(())
}

/// Measures all cases; an error names those beyond their budget.
pub fn run() -> Result<(), String> {
    let budget = Budget::committed()?;
    let counts = has_valgrind();
    if !counts {
        say("valgrind is not here: instructions are not counted, and the clock alone decides");
    }
    say(&format!("{:<18} {:>14} {:>10} {:>12} {:>10}", "function", "instructions", "of budget", "ns", "of budget"));
    let mut beyond = Vec::new();
    for case in &CASES {
        let cost = budget.hot.get(case.name).ok_or_else(|| format!("budget.toml does not name {}", case.name))?;
        let nanoseconds = nanoseconds(case)?;
        let instructions = if counts { Some(instructions(case.name)?) } else { None };
        say(&row(case.name, instructions, nanoseconds, cost));
        if !cost.bears(instructions, nanoseconds) {
            beyond.push(case.name);
        }
    }
    if beyond.is_empty() {
        Ok(())
    } else {
        Err(format!("beyond the budget of benches/budget.toml: {}", beyond.join(", ")))
    }
}

fn row(name: &str, instructions: Option<u64>, nanoseconds: u64, cost: &Cost) -> String {
    let share = |spent: u64, of: u64| format!("{} %", spent * 100 / of.max(1));
    let (count, of_budget) = match instructions {
        Some(count) => (count.to_string(), share(count, cost.instructions)),
        None => ("–".to_owned(), "–".to_owned()),
    };
    format!("{name:<18} {count:>14} {of_budget:>10} {nanoseconds:>12} {:>10}", share(nanoseconds, cost.nanoseconds))
}

/// One call by the clock: the best of the rounds.
fn nanoseconds(case: &Case) -> Result<u64, String> {
    let mut call = (case.make)()?;
    let began = Instant::now();
    measured(&mut call, WARM);
    let one = (began.elapsed() / WARM).max(Duration::from_nanos(1));
    let calls = u32::try_from(ROUND.as_nanos() / one.as_nanos()).unwrap_or(u32::MAX).max(1);
    let round = |_| {
        let began = Instant::now();
        measured(&mut call, calls);
        u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX) / u64::from(calls)
    };
    (0..ROUNDS).map(round).min().ok_or_else(|| "no rounds".to_owned())
}

fn has_valgrind() -> bool {
    let asked = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// One call by callgrind.
fn instructions(name: &str) -> Result<u64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*hot*measured*"]);
    let output = valgrind.arg(me).args(["call", name, &COUNTED.to_string()]).output();
    let output = output.map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = collected(&said).filter(|count| output.status.success() && *count > 0);
    collected
        .map(|count| count / u64::from(COUNTED))
        .ok_or_else(|| format!("{name}: valgrind counted nothing:\n{said}"))
}

/// The total in callgrind's last words: `==123== Collected : 4567`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().rev().find_map(|line| line.split_once("Collected : "))?;
    line.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_made_and_comes_to_what_it_should() {
        for case in &CASES {
            let made = call(case.name, 3);
            assert_eq!(made, Ok(()), "{}", case.name);
        }
        assert!(call("nothing", 1).is_err());
    }

    #[test]
    fn the_total_is_read_from_callgrinds_last_words() {
        let said = "==9== Events    : Ir\n==9== Collected : 1234567\n==9== \n==9== I   refs:      1,234,567\n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("valgrind: no such program"), None);
    }
}
