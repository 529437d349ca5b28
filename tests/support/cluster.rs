//! Postgres clusters that are made for one test: a fresh one, its hot standby, and what befalls them.
//!
//! Deliberately absent: what the program makes of it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::tools::{free_port, tool};

/// What a standby calls itself: in its slot, and to those whom the primary waits for.
const STANDBY: &str = "standby";

/// A cluster with transaction numbers of its own, far below those of the tests' server. It ends with its value.
pub struct Cluster {
    directory: tempfile::TempDir,
    bin: PathBuf,
    /// Where it listens.
    pub port: u16,
}

impl Cluster {
    /// A fresh cluster that runs; `None`, with a line that says so, where there are no server programs.
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// A fresh cluster that runs with these settings.
    pub async fn start_with(settings: &[&str]) -> Option<Self> {
        let cluster = Self::new()?;
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "-N"]).await;
        cluster.launch(settings).await;
        Some(cluster)
    }

    /// A directory and a port.
    fn new() -> Option<Self> {
        let initdb = std::fs::canonicalize(tool("initdb")?).expect("a program");
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = Self { directory, bin: initdb.parent().expect("a directory").to_owned(), port: free_port() };
        if rustix::process::geteuid().is_root() {
            let output = Command::new("chown").arg("postgres").arg(cluster.directory.path()).output().expect("it runs");
            assert!(output.status.success(), "{}", said(&output));
        }
        Some(cluster)
    }

    /// A hot standby of this cluster, made as `docs/operating.md` says, that follows it by a slot.
    pub async fn standby(&self) -> Self {
        let standby = Self::new().expect("the programs were there before");
        let (data, primary) = (standby.data(), self.conninfo());
        let arguments = ["-D", &data, "-d", &primary, "-X", "stream", "-R", "-C", "-S", STANDBY, "-c", "fast", "-N"];
        standby.run("pg_basebackup", &arguments).await;
        standby.launch(&[]).await;
        standby
    }

    /// Starts what was stopped, with these settings.
    pub async fn launch(&self, settings: &[&str]) {
        let mut options =
            format!("-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= -c fsync=off", self.port);
        for setting in settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let (data, log) = (self.data(), format!("{}/log", self.data()));
        self.run("pg_ctl", &["-D", &data, "-w", "-t", "60", "-l", &log, "-o", &options, "start"]).await;
    }

    /// Ends it without a word: nothing is written down any more, nobody is told.
    pub async fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]).await;
    }

    /// Ends it in order.
    pub async fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "fast", "-w", "-t", "60", "stop"]).await;
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-t", "60", "promote"]).await;
    }

    /// Makes a stopped primary, that a failover has left behind, a standby of `primary`.
    pub async fn rewind_to(&self, primary: &Self) {
        let (data, source) = (self.data(), primary.conninfo());
        let there = super::services::connect(&primary.url()).await;
        // Before its first checkpoint the new primary tells pg_rewind of its old timeline, and nothing would be rewound.
        let slot = format!("checkpoint; select pg_create_physical_replication_slot('{STANDBY}')");
        there.batch_execute(&slot).await.expect("a slot");
        self.run("pg_rewind", &["-D", &data, "--source-server", &source, "-R", "-N"]).await;
        self.launch(&[&format!("primary_slot_name={STANDBY}")]).await;
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres application_name={STANDBY}", self.port)
    }

    fn data(&self) -> String {
        self.directory.path().join("data").to_str().expect("text").to_owned()
    }

    /// As the unprivileged user, where root runs the tests: the server refuses root.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.bin.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // What it starts holds no pipe of ours, or we would wait for it.
        let silent = Stdio::null;
        command.args(arguments).current_dir("/").stdin(silent()).stdout(silent()).stderr(silent());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program, arguments);
        let status = tokio::task::spawn_blocking(move || command.status()).await.expect("its end").expect("it runs");
        assert!(status.success(), "{program} {arguments:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]).status();
    }
}

/// What a program wrote.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
