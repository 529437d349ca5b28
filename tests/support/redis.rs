//! A Redis of one test, to be emptied, frozen and killed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use bb8_redis::redis;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::DEADLINE;
use super::services::wait_until;

/// The picture's Redis database of totals.
const TOTALS_DB: i64 = 2;

/// A running Redis, or one that was killed.
pub struct RedisServer {
    port: u16,
    child: Mutex<Child>,
}

impl RedisServer {
    /// Starts one that keeps nothing on disk.
    pub async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        let server = Self { port, child: Mutex::new(spawn(port)) };
        server.until_it_answers().await;
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Forgets everything.
    pub async fn flush(&self) {
        let mut connection = self.connect().await.expect("it runs");
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("it is empty");
    }

    /// It listens, and says nothing any more.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// It is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("no panic");
        child.kill().expect("it was running");
        child.wait().expect("it ended");
    }

    /// A fresh one in its place.
    pub async fn start_again(&self) {
        *self.child.lock().expect("no panic") = spawn(self.port);
        self.until_it_answers().await;
    }

    /// What is cached under `key` in the database of totals.
    pub async fn totals(&self, key: &str) -> Option<Value> {
        let mut connection = self.connect().await.ok()?;
        let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut connection).await.ok()?;
        serde_json::from_str(&text?).ok()
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        redis::Client::open(format!("{}/{TOTALS_DB}", self.url()))?.get_multiplexed_async_connection().await
    }

    async fn until_it_answers(&self) {
        wait_until("Redis answers", DEADLINE, async || self.connect().await.is_ok()).await;
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.lock().expect("no panic");
        kill_process(Pid::from_child(&child), signal).expect("it runs");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(port: u16) -> Child {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed: `make test` sees to it")
}
