//! PostgreSQL's own `pgbench` with the same two inserts: what the database gives to 20 clients that do nothing else.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio_postgres::Config;

use super::{Figure, usual};
use crate::database;

const SCRIPT: &str = include_str!("../../sql/bench/pgbench.sql");
const CLIENTS: &str = "20";

/// The program, in the path or where Debian keeps it.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("pgbench"));
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|found| found.flatten().map(|entry| entry.path().join("bin/pgbench")).collect())
        .unwrap_or_default();
    versions.sort();
    in_path.chain(versions.into_iter().rev()).find(|program| program.is_file())
}

/// Runs it for so long, on tables made anew.
pub async fn run(program: &std::path::Path, config: &Config, part: Duration) -> Result<Figure, String> {
    usual::make_tables(config).await?;
    let script = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(script.path(), SCRIPT).map_err(|error| error.to_string())?;
    let url = database::url(config).ok_or("the database has no URL")?;
    let mut command = tokio::process::Command::new(program);
    command.args(["--no-vacuum", "--protocol=prepared", "--client", CLIENTS, "--jobs", "2", "--time"]);
    command.arg(part.as_secs().max(1).to_string()).arg("--file").arg(script.path()).arg(url);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.map_err(|error| error.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout);
    let tps = out.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    match tps {
        Some(per_second) if output.status.success() => Ok(Figure { per_second, p95_us: None }),
        _ => Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
