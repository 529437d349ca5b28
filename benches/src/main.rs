//! What the hot functions cost, held against a committed budget; what a hundred thousand payment actors weigh; what the write road
//! takes.
//!
//! Reading order: [`cases`] are the functions with their inputs, [`hot`] measures them, [`budget`] is what they may cost;
//! [`actors`] and [`writes`] are the other programs. Deliberately absent: requests over HTTP (`loadtest/`) and anything that a test would wait
//! for: nothing here runs with the tests.

mod actors;
mod budget;
mod cases;
mod gifts;
mod hot;
mod postgres;
mod writes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Bad usage (sysexits' `EX_USAGE`).
const EX_USAGE: u8 = 64;

/// The server's own: what is weighed here weighs the same there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    name = "careforall-benches",
    version,
    about = "Holds CareForAll's hot functions and actors against a budget."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count instructions (by valgrind, if it is there) and nanoseconds of the hot functions; fail beyond the budget.
    Hot,
    /// Call one function so often and end: what valgrind looks at.
    #[command(hide = true)]
    Call {
        /// Its name in the budget.
        case: String,
        /// How often.
        calls: u32,
    },
    /// Bring payment actors to life, weigh them, let them retire, and do it again.
    Actors {
        /// How many.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
        count: u32,
        /// Seconds without a command after which one retires; all of them must come to life within it.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
        idle: u64,
    },
    /// Record donations without HTTP, and say how many a second and their p95 as one line of JSON.
    Writes {
        /// How many give at the same time.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
        callers: u16,
        /// For so many seconds, after half a second to warm up.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// A database without our tables; without one, a Postgres is started for it.
        #[arg(long, env = "BENCH_DATABASE", hide_env_values = true)]
        database_url: Option<String>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody may be reading
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Hot => hot::run(),
        Command::Call { case, calls } => hot::call(&case, calls),
        Command::Actors { count, idle } => actors::run(count, std::time::Duration::from_secs(idle)),
        Command::Writes { callers, seconds, database_url } => {
            writes::run(callers.into(), std::time::Duration::from_secs(seconds), database_url.as_deref())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// A line for whoever watches.
#[allow(clippy::print_stdout, reason = "the figures are what this program is for")]
fn say(line: &str) {
    println!("{line}");
}
