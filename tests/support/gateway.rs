//! Debian's nginx with `deploy/nginx/nginx.conf` in front of several replicas, on a port of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::DEADLINE;
use super::services::wait_until;
use super::tools::{ROOT, free_port, tool};

/// A running gateway. It ends with its value.
pub struct Gateway {
    /// Where it listens: `http://127.0.0.1:<port>`.
    pub url: String,
    directory: tempfile::TempDir,
    child: Child,
}

impl Gateway {
    /// Starts one in front of `replicas`, each as `host:port`; `None`, with a line that says so, where there is no nginx.
    pub async fn start(replicas: &[&str]) -> Option<Self> {
        Self::start_changed(replicas, |_| {}).await
    }

    /// The same with a configuration that was changed in some way.
    pub async fn start_changed(replicas: &[&str], change: impl FnOnce(&mut Config)) -> Option<Self> {
        let mut gateway = Self::begin(replicas, change).await?;
        let (url, http) = (format!("{}/health/live", gateway.url), reqwest::Client::new());
        wait_until("the gateway answers", DEADLINE, || {
            let ended = gateway.child.try_wait().expect("its state");
            assert!(ended.is_none(), "nginx ended: {}", gateway.error_log());
            let request = http.get(&url).timeout(DEADLINE / 10);
            async { request.send().await.is_ok_and(|answer| answer.status().is_success()) }
        })
        .await;
        Some(gateway)
    }

    /// One that listens, whether or not there is a replica that answers.
    pub async fn begin(replicas: &[&str], change: impl FnOnce(&mut Config)) -> Option<Self> {
        let nginx = tool("nginx")?;
        // Not every gateway stands before a program, whose set-up does this.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let path = write_config(directory.path(), port, replicas);
        let mut config = Config { text: std::fs::read_to_string(&path).expect("a configuration") };
        change(&mut config);
        std::fs::write(&path, config.text).expect("a configuration");
        let mut command = Command::new(&nginx);
        command.args(["-e", "stderr", "-g", "daemon off;", "-c"]).arg(path).arg("-p").arg(directory.path());
        let log = std::fs::File::create(directory.path().join("error.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("nginx starts");
        let mut gateway = Self { url: format!("http://127.0.0.1:{port}"), directory, child };
        wait_until("the gateway listens", DEADLINE, || {
            let ended = gateway.child.try_wait().expect("its state");
            assert!(ended.is_none(), "nginx ended: {}", gateway.error_log());
            async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() }
        })
        .await;
        Some(gateway)
    }

    /// Its processes, the first one not among them.
    pub fn workers(&self) -> Vec<String> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// What it wrote of itself.
    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// What it wrote of requests.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("access.log")).expect("a log")
    }

    /// How much it has written so far, in bytes.
    pub fn logged(&self) -> u64 {
        std::fs::metadata(self.directory.path().join("access.log")).map_or(0, |log| log.len())
    }

    /// What it has written since then.
    pub fn access_log_since(&self, logged: u64) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let mut log = std::fs::File::open(self.directory.path().join("access.log")).expect("a log");
        log.seek(SeekFrom::Start(logged)).expect("a place in it");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("text");
        text
    }

    /// What nginx itself says of its configuration.
    pub fn check(directory: &Path) -> Option<std::process::Output> {
        let nginx = tool("nginx")?;
        let config = write_config(directory, 8000, &["127.0.0.1:8081"]);
        let mut command = Command::new(nginx);
        Some(command.args(["-t", "-e", "stderr", "-c"]).arg(config).output().expect("nginx runs"))
    }
}

/// The text of `nginx.conf`, with this machine's places and addresses.
pub struct Config {
    text: String,
}

impl Config {
    /// Puts `new` in the place of every `old`, of which there must be one.
    pub fn replace(&mut self, old: &str, new: &str) {
        assert!(self.text.contains(old), "nginx.conf has no {old:?}");
        self.text = self.text.replace(old, new);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            let access = log("access.log");
            let last: Vec<&str> = access.lines().rev().take(20).collect();
            eprintln!("--- the gateway's log:\n{}\n--- its last requests:\n{last:#?}", log("error.log"));
        }
        // In order, so that its workers end with it.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn write_config(directory: &Path, port: u16, replicas: &[&str]) -> PathBuf {
    let mut command = Command::new(Path::new(ROOT).join("scripts/gateway-config"));
    let output = command.arg(directory).arg(port.to_string()).args(replicas).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a path").trim().into()
}
