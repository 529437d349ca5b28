//! What the figures were measured on.

use serde::Serialize;
use tokio_postgres::Client;

use crate::database::told;

/// The machine and, where we can look, the database.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Cores that we may use.
    pub cores: usize,
    /// As the processor calls itself.
    pub cpu: String,
    /// In GiB.
    pub memory_gib: f64,
    /// Name and release.
    pub kernel: String,
    /// PostgreSQL's version.
    pub postgres: Option<String>,
    /// PostgreSQL's `fsync`.
    pub fsync: Option<String>,
    /// PostgreSQL's `synchronous_commit`.
    pub synchronous_commit: Option<String>,
    /// Whether server and database run here.
    pub is_local: bool,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory_gib: memory_kib().map_or(0.0, |kib| kib as f64 / 1024.0 / 1024.0),
            kernel: kernel(),
            is_local: true,
            ..Self::default()
        }
    }

    /// The same with what the database says of itself.
    pub async fn with_database(mut self, client: &Client) -> Result<Self, String> {
        let sql = "select current_setting('server_version'), current_setting('fsync'), \
                   current_setting('synchronous_commit')";
        let row = client.query_one(sql, &[]).await.map_err(|error| told(&error))?;
        (self.postgres, self.fsync, self.synchronous_commit) = (row.get(0), row.get(1), row.get(2));
        Ok(self)
    }

    /// In one line.
    pub fn line(&self) -> String {
        let postgres = match (&self.postgres, &self.fsync, &self.synchronous_commit) {
            (Some(version), Some(fsync), Some(commit)) => {
                format!("; PostgreSQL {version}, fsync {fsync}, synchronous_commit {commit}")
            }
            _ => String::new(),
        };
        let here = if self.is_local { "" } else { " (the generator's; the server runs elsewhere)" };
        format!("{} cores, {}, {:.0} GiB, {}{here}{postgres}", self.cores, self.cpu, self.memory_gib, self.kernel)
    }
}

fn kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

fn memory_kib() -> Option<u64> {
    field("/proc/meminfo", "MemTotal")?.split_whitespace().next()?.parse().ok()
}

/// The resident memory of a process in KiB, where the system tells.
pub fn resident_kib(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS")?.split_whitespace().next()?.parse().ok()
}

/// Lets this process, and the servers that it starts, open as many files as the system allows: a crowd needs a connection
/// each. Where it may not, connections fail, and say so.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }); // up to the maximum anybody may
}

/// The value of the first line `name: value` of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}
