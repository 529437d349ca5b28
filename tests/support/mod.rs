//! A running program and everything that a test does to it.
//!
//! [`TestApp::finish`] must be called at the end of every test: it holds that nothing is left in the outbox and nothing
//! became a dead letter. Forgetting it fails the test.

#![allow(dead_code, reason = "not every test does everything")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so and ends"
)]

pub mod broker;
pub mod cluster;
pub mod collector;
pub mod crowd;
pub mod gateway;
pub mod post;
pub mod proxy;
pub mod real_relay;
pub mod redis;
pub mod services;
pub mod tools;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use careforall::gateways::signature::{WebhookSecret, sign};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use services::{TestDatabase, create_database, template, unique_prefix, wait_until};

/// Generous: it is for a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Shorter than the five seconds after which the server ends a connection on which nothing came: a request that is sent just then
/// gets no answer.
const KEPT: Duration = Duration::from_secs(4);
pub const ADMIN_KEY: &str = "test-admin-key-0123456789";
pub const WEBHOOK_SECRET: &str = "whsec_test";
pub const SANDBOX_KEY: &str = "sk_test_sandbox";

/// What a test may choose before the program starts.
#[derive(Clone)]
pub struct Setup {
    /// The database; processes of one installation share it.
    pub database: Arc<TestDatabase>,
    /// Settings beside the usual ones.
    pub env: BTreeMap<String, String>,
    /// The sandbox's journal and the mails.
    pub data_dir: Arc<tempfile::TempDir>,
    prefix: String,
    amqp: bool,
    open_files: Option<u32>,
}

impl Setup {
    /// A fresh database, the in-process bus, no Redis.
    pub async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let template = template(&template_name(), async |url: String| {
            let config = url.parse().expect("a URL");
            careforall::store::migrate::migrate(&config).await.expect("migrations apply to an empty database");
        })
        .await;
        let database = Arc::new(create_database(Some(&template)).await);
        let data_dir = Arc::new(tempfile::tempdir().expect("a directory"));
        Self { database, env: BTreeMap::new(), data_dir, prefix: unique_prefix(), amqp: false, open_files: None }
    }

    /// A database that the test has made elsewhere, of this URL: the program makes its schema itself.
    pub fn elsewhere(url: String) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let database = Arc::new(TestDatabase::elsewhere(url));
        let data_dir = Arc::new(tempfile::tempdir().expect("a directory"));
        Self { database, env: BTreeMap::new(), data_dir, prefix: unique_prefix(), amqp: false, open_files: None }
    }

    /// With the tests' Redis.
    pub fn with_redis(self) -> Self {
        self.with("REDIS_URL", services::redis_url())
    }

    /// With the tests' RabbitMQ; its queues are removed at the end.
    pub fn with_amqp(mut self) -> Self {
        self.amqp = true;
        self.with("AMQP_URL", services::amqp_url())
    }

    /// Where the system lets a process have so many files open and no more.
    pub fn with_open_files(mut self, files: u32) -> Self {
        self.open_files = Some(files);
        self
    }

    /// With a setting.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// The prefix of queues and Redis keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the program finds in its environment.
    fn environment(&self, listen: &str) -> BTreeMap<String, OsString> {
        let mut env = BTreeMap::new();
        let mut set = |name: &str, value: OsString| drop(env.insert(name.to_owned(), value));
        set("PATH", std::env::var_os("PATH").unwrap_or_default());
        set("CAREFORALL_LISTEN", listen.into());
        set("CAREFORALL_DATA_DIR", self.data_dir.path().into());
        set("CAREFORALL_ADMIN_KEY", ADMIN_KEY.into());
        set("CAREFORALL_RATE_LIMIT", "off".into());
        set("CAREFORALL_PREFIX", self.prefix.clone().into());
        set("DATABASE_URL", self.database.url().into());
        set("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.into());
        // No gateway stands before it that would have to notice.
        set("CAREFORALL_DRAIN_WAIT_S", "0".into());
        set("RUST_LOG", "info".into());
        env.extend(self.env.iter().map(|(name, value)| (name.clone(), value.into())));
        env
    }

    /// The program with these settings, without a subcommand yet.
    fn command(&self) -> Command {
        let program = program();
        let mut command = match self.open_files {
            None => Command::new(program),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(program);
                shell
            }
        };
        command.env_clear().envs(self.environment("127.0.0.1:0")).stdin(Stdio::null());
        command
    }

    /// Runs a subcommand to its end: exit code, standard output, standard error.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command();
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("its end");
        let output = output.expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("no signal ended it"), text(output.stdout), text(output.stderr))
    }

    /// Starts the program and waits until it is ready.
    pub async fn start(self) -> TestApp {
        TestApp::start(self).await
    }
}

/// The program under test: the one that was built with the tests, or the one that `CAREFORALL_TEST_PROGRAM` names, such as
/// a release build for a long drill.
fn program() -> OsString {
    std::env::var_os("CAREFORALL_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_careforall").into())
}

/// A number that a long drill sets otherwise than the usual run.
pub fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Changes whenever a migration does.
fn template_name() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations"))
        .expect("the migrations")
        .map(|entry| entry.expect("a migration").path())
        .collect();
    files.sort();
    for file in files {
        std::fs::read(file).expect("a migration").hash(&mut hash);
    }
    format!("careforall_test_{:016x}", hash.finish())
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it told of errors and progress.
    pub err: String,
}

/// A running program.
pub struct TestApp {
    /// Where it listens: `http://127.0.0.1:<port>`.
    pub url: String,
    /// How it was set up; start another with it for a second process or a restart.
    pub setup: Setup,
    /// Speaks to it.
    pub http: reqwest::Client,
    child: Child,
    /// The test's own connection to the database, made when it is first used.
    sql: tokio::sync::OnceCell<tokio_postgres::Client>,
    finished: bool,
}

impl TestApp {
    async fn start(setup: Setup) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(setup.data_dir.path().join("log"));
        let mut command = setup.command();
        command.arg("serve").stdout(Stdio::piped()).stderr(log.expect("a log"));
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("its output");
        let url = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(stdout).lines();
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            // Its further words are read and dropped, so that it never waits for us.
            std::thread::spawn(move || lines.for_each(drop));
            line.rsplit_once("listening on ").map(|(_, rest)| format!("http://{}", rest.trim_end_matches(')')))
        });
        let url = url.await.expect("its output");
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .pool_idle_timeout(KEPT)
            .build()
            .expect("a client");
        let Some(url) = url else {
            let _ = child.wait();
            panic!("the program did not start:\n{}", log_of(setup.data_dir.path()));
        };
        Self { url, setup, http, child, sql: tokio::sync::OnceCell::new(), finished: false }
    }

    /// Runs another command of the program beside it, with the same settings.
    pub async fn command(&self, words: &[&str]) -> Ended {
        self.command_as(&self.setup, words).await
    }

    /// The same with other settings.
    pub async fn command_as(&self, setup: &Setup, words: &[&str]) -> Ended {
        let mut command = tokio::process::Command::new(program());
        let listen = self.url.trim_start_matches("http://");
        command.args(words).env_clear().envs(setup.environment(listen)).env("RUST_LOG", "warn");
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// A request to `path`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A request with the operator's key.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(ADMIN_KEY)
    }

    /// Sends bytes that no client would, and shows what comes back until the connection closes.
    pub async fn speak(&self, bytes: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self.url.strip_prefix("http://").expect("an address");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        stream.write_all(bytes.as_bytes()).await.expect("it listens");
        let mut answer = Vec::new();
        // A refused body may end in a reset; what was said before it counts.
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status and JSON of a GET with the operator's key.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.operator(Method::GET, path)).await
    }

    /// Status and JSON of a POST with the operator's key.
    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        read(self.operator(Method::POST, path).json(&body)).await
    }

    /// A campaign in euros.
    pub async fn campaign(&self) -> Value {
        self.campaign_with(json!({})).await
    }

    /// A campaign with further fields.
    pub async fn campaign_with(&self, more: Value) -> Value {
        let mut body = json!({"slug": unique_prefix(), "title": "Wells", "currency": "EUR", "goal_minor": 100_000});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let (status, campaign) = self.post("/api/v1/campaigns", body).await;
        assert_eq!(status, StatusCode::CREATED, "{campaign}");
        campaign
    }

    /// A donation to `campaign` that the sandbox knows.
    pub async fn donate(&self, campaign: &Value, amount_minor: i64) -> Value {
        let (status, donation) = read(self.donation(campaign, amount_minor)).await;
        assert_eq!(status, StatusCode::CREATED, "{donation}");
        assert!(donation["payment"]["intent_id"].is_string(), "the sandbox answered in time: {donation}");
        donation
    }

    /// The request for a donation, not sent yet.
    pub fn donation(&self, campaign: &Value, amount_minor: i64) -> RequestBuilder {
        self.request(Method::POST, "/api/v1/donations").json(&donation_body(campaign, amount_minor))
    }

    /// The donation as its donor sees it now.
    pub async fn donation_now(&self, donation: &Value) -> Value {
        let path = format!("/api/v1/donations/{}", text(&donation["id"]));
        let (status, body) = read(self.request(Method::GET, &path).bearer_auth(text(&donation["access_token"]))).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// Pays a donation in the sandbox, as the donor's browser would; the answer is Stripe's.
    pub async fn pay(&self, donation: &Value, payment_method: &str) -> (StatusCode, Value) {
        let path = format!("/v1/payment_intents/{}/confirm", text(&donation["payment"]["intent_id"]));
        self.stripe(Method::POST, &path, &[("payment_method", payment_method)]).await
    }

    /// A call of Stripe's API in the sandbox.
    pub async fn stripe(&self, method: Method, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = self.request(method, &format!("/sandbox/stripe{path}")).bearer_auth(SANDBOX_KEY);
        read(if form.is_empty() { request } else { request.form(form) }).await
    }

    /// A call of the sandbox's control.
    pub async fn control(&self, path: &str, body: Value) -> Value {
        let (status, answer) = read(self.request(Method::POST, &format!("/sandbox/control{path}")).json(&body)).await;
        assert!(status.is_success(), "{answer}");
        answer
    }

    /// Waits until the donation has that status, and shows it.
    pub async fn settle(&self, donation: &Value, status: &str) -> Value {
        wait_until(&format!("donation {} is {status}", donation["id"]), DEADLINE, async || {
            self.donation_now(donation).await["status"] == status
        })
        .await;
        self.donation_now(donation).await
    }

    /// A payment as operators see it.
    pub async fn payment(&self, donation: &Value) -> Value {
        let (status, payment) = self.get(&format!("/api/v1/payments/{}", text(&donation["payment"]["id"]))).await;
        assert_eq!(status, StatusCode::OK, "{payment}");
        payment
    }

    /// A payment's history.
    pub async fn timeline(&self, donation: &Value) -> Vec<Value> {
        let (status, page) = self.get(&format!("/api/v1/payments/{}/timeline", text(&donation["payment"]["id"]))).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["items"].as_array().expect("items").clone()
    }

    /// A campaign's totals.
    pub async fn totals(&self, campaign: &Value) -> Value {
        let (status, totals) =
            read(self.request(Method::GET, &format!("/api/v1/campaigns/{}/totals", text(&campaign["id"])))).await;
        assert_eq!(status, StatusCode::OK, "{totals}");
        totals
    }

    /// Posts a webhook with a good signature.
    pub async fn webhook(&self, event: &Value) -> (StatusCode, Value) {
        self.webhook_signed(event.to_string(), now()).await
    }

    /// Posts a webhook that was signed at `timestamp`.
    pub async fn webhook_signed(&self, body: String, timestamp: i64) -> (StatusCode, Value) {
        let secret = WebhookSecret::new(WEBHOOK_SECRET).expect("a secret");
        let header = sign(&secret, timestamp, body.as_bytes());
        read(self.request(Method::POST, "/webhooks/stripe").header("Stripe-Signature", header).body(body)).await
    }

    /// Posts a webhook with this signature header, or without one: status, whether it was replayed, answer.
    pub async fn webhook_with(&self, header: Option<&str>, body: impl Into<Vec<u8>>) -> (StatusCode, bool, Value) {
        let request = self.request(Method::POST, "/webhooks/stripe").body(body.into());
        let request = match header {
            Some(header) => request.header("Stripe-Signature", header),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        let replayed = answer.headers().get("Idempotent-Replayed").is_some_and(|value| value == "true");
        (answer.status(), replayed, answer.json().await.unwrap_or(Value::Null))
    }

    /// A second process of the same installation, which pays with this one's sandbox.
    pub async fn second(&self) -> Self {
        let sandbox = format!("{}/sandbox/stripe", self.url);
        let setup = self.setup.clone().with("STRIPE_API_BASE", sandbox).with("STRIPE_SECRET_KEY", SANDBOX_KEY);
        setup.start().await
    }

    /// The mails that were written, as text.
    pub fn mails(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.setup.data_dir.path().join("mail")) else { return Vec::new() };
        let paths = files.map(|file| file.expect("a file").path());
        paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
            .map(|path| std::fs::read_to_string(path).expect("a mail"))
            .collect()
    }

    /// A hand in the tables, one that triggers do not stop.
    pub async fn sql(&self, statements: &str) {
        let statements = format!("set session_replication_role = replica; {statements}");
        self.setup.database.connect().await.batch_execute(&statements).await.expect("it is done");
    }

    /// A number out of the database.
    pub async fn count(&self, sql: &str) -> i64 {
        let client = self.sql.get_or_init(async || self.setup.database.connect().await).await;
        if client.is_closed() {
            // A failover has ended it.
            return self.setup.database.connect().await.query_one(sql, &[]).await.expect("a count").get(0);
        }
        client.query_one(sql, &[]).await.expect("a count").get(0)
    }

    /// The value of a metric without labels, or with exactly these.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.request(Method::GET, "/metrics").send().await.expect("metrics").text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// What it logged so far; processes that share a data directory share the log.
    pub fn log(&self) -> String {
        log_of(self.setup.data_dir.path())
    }

    /// Ends it without a word, as a power cut would. What it was set up with can be started again.
    pub fn kill(mut self) -> Setup {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it ended");
        self.finished = true;
        self.setup.clone()
    }

    /// Sends it SIGKILL while others still speak to it; [`TestApp::kill`] follows.
    pub fn kill_now(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is running");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it is running");
    }

    /// Waits until it has ended after [`TestApp::signal`]: how it was set up, its exit code, its log.
    pub async fn ended(mut self) -> (Setup, Option<i32>, String) {
        let ended = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(status) = self.child.try_wait().expect("its end") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let status = ended.await.unwrap_or_else(|_| panic!("it did not end"));
        self.finished = true;
        (self.setup.clone(), status.code(), self.log())
    }

    /// Ends it in order.
    pub async fn stop(mut self) -> Setup {
        self.terminate().await;
        self.finished = true;
        self.setup.clone()
    }

    async fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is running");
        let child = &mut self.child;
        let mut code = None;
        let ended = tokio::time::timeout(DEADLINE, async {
            while code.is_none() {
                code = child.try_wait().expect("its end");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(ended.await.is_ok(), "it did not end after SIGTERM");
        assert!(code.is_some_and(|code| code.success()), "{code:?}\n{}", self.log());
    }

    /// The end of every test: the outbox empties by itself, nothing was set aside, nothing is a dead letter, nobody
    /// panicked, and the process ends in order.
    pub async fn finish(mut self) {
        wait_until("the outbox is empty", DEADLINE, async || {
            self.count("select count(*) from donations.outbox_events").await == 0
        })
        .await;
        assert_eq!(self.count("select count(*) from notifications.notifications where status = 'DEAD'").await, 0);
        let dead = if self.setup.amqp { broker::dead_letters(&self.setup.prefix).await } else { 0 };
        assert_eq!(dead, 0, "dead letters");
        self.terminate().await;
        let log = self.log();
        assert!(!log.contains("panicked at"), "{log}");
        if self.setup.amqp {
            broker::remove(&self.setup.prefix).await;
        }
        self.finished = true;
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the program's log:\n{}", self.log());
        } else {
            assert!(self.finished, "a test forgot TestApp::finish");
        }
    }
}

fn log_of(data_dir: &Path) -> String {
    std::fs::read_to_string(data_dir.join("log")).unwrap_or_default()
}

/// Status and JSON of an answer; `null` where there is none.
pub async fn read(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    (status, response.json().await.unwrap_or(Value::Null))
}

/// The body of a donation.
pub fn donation_body(campaign: &Value, amount_minor: i64) -> Value {
    json!({
        "campaign_id": campaign["id"],
        "amount_minor": amount_minor,
        "currency": campaign["currency"],
        "donor": {"name": "Jo Donor", "email": "jo@example.org"},
    })
}

/// The text of a JSON string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

/// Seconds since the Unix epoch.
pub fn now() -> i64 {
    careforall::clock::Clock::System.unix_seconds()
}

/// The header of a good signature of `body`, made at `timestamp` under `secret`.
pub fn signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    sign(&WebhookSecret::new(secret).expect("a secret"), timestamp, body)
}

/// One of Stripe's events about the intent of `donation`, as Stripe would send it.
pub fn intent_event(donation: &Value, kind: &str, created: i64, more: Value) -> Value {
    let amount = donation["amount_minor"].as_i64().expect("an amount");
    let mut object = json!({
        "id": donation["payment"]["intent_id"], "object": "payment_intent", "amount": amount,
        "amount_received": if kind == "payment_intent.succeeded" { amount } else { 0 },
        "amount_capturable": if kind == "payment_intent.amount_capturable_updated" { amount } else { 0 },
        "currency": text(&donation["currency"]).to_lowercase(), "status": "processing",
        "metadata": {"payment_id": donation["payment"]["id"]},
    });
    for (name, value) in more.as_object().expect("an object") {
        object[name] = value.clone();
    }
    event(kind, created, object)
}

/// One of Stripe's events about `object`.
pub fn event(kind: &str, created: i64, object: Value) -> Value {
    json!({
        "id": format!("evt_{}", unique_prefix()), "object": "event", "api_version": "2025-03-31.basil",
        "created": created, "type": kind, "livemode": false, "data": {"object": object},
    })
}
