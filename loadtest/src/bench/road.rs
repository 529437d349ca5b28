//! Our write road without HTTP: the committer alone, by `careforall-benches writes`, a program that links the server as we do not.
//!
//! In a database of its own in the same cluster: in the server's, the outbox would begin to work on what is recorded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::Config;

use super::Figure;
use crate::database;

/// Where the donations go, for the process that is started.
const DATABASE: &str = "BENCH_DATABASE";

/// What it says.
#[derive(Deserialize)]
struct Said {
    recorded: u64,
    seconds: u64,
    p95_us: u64,
}

/// The program, and the databases that were made for it.
#[derive(Debug)]
pub struct Road {
    program: PathBuf,
    cluster: Config,
    made: Vec<String>,
}

impl Road {
    /// The program as it was built: beside us.
    pub fn find(cluster: &Config) -> Option<Self> {
        let program = std::env::current_exe().ok()?.parent()?.join("careforall-benches");
        program.is_file().then(|| Self { program, cluster: cluster.clone(), made: Vec::new() })
    }

    /// So many callers for so long.
    pub async fn run(&mut self, callers: usize, part: Duration) -> Result<Figure, String> {
        let name = format!("bench_writes_{:08x}", rand::random::<u32>());
        self.made.push(name.clone());
        let made = database::create(&self.cluster, &name).await?;
        measure(&self.program, &made, callers, part).await
    }

    /// Drops the databases. At the end: each drop is a checkpoint, and whoever is measured next would write whole pages.
    pub async fn close(self) -> Result<(), String> {
        for name in &self.made {
            database::drop(&self.cluster, name).await?;
        }
        Ok(())
    }
}

async fn measure(program: &Path, config: &Config, callers: usize, part: Duration) -> Result<Figure, String> {
    let url = database::url(config).ok_or("the database has no URL")?;
    let mut command = tokio::process::Command::new(program);
    command.args(["writes", "--callers", &callers.to_string(), "--seconds", &part.as_secs().max(1).to_string()]);
    let output = command.env(DATABASE, url).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let out = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str::<Said>(out.trim()) {
        Ok(said) if output.status.success() => {
            Ok(Figure { per_second: said.recorded as f64 / said.seconds as f64, p95_us: Some(said.p95_us) })
        }
        _ => Err(format!("{}: {out}{}", program.display(), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
