//! Whole lives of payments, over real HTTP with a real webhook endpoint that checks every signature.

mod durability;
mod payments;
mod protocol;
mod webhooks;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::Value;
use tokio::time::Instant;

use super::delivery;
use super::{SANDBOX_SECRET_KEY, SANDBOX_WEBHOOK_SECRET, Sandbox, SandboxSettings};
use crate::clock::Clock;

const DEADLINE: Duration = Duration::from_secs(15);

/// What the webhook endpoint received, in the order of its arrival.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    events: Vec<Value>,
    refusals_left: u32,
}

async fn receive(inbox: Data<Inbox>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let header = request.headers().get("stripe-signature").unwrap().to_str().unwrap();
    let seconds = header.split(&['=', ','][..]).nth(1).unwrap().parse().unwrap();
    assert_eq!(header, delivery::signature(SANDBOX_WEBHOOK_SECRET, seconds, &body));
    let mut received = inbox.0.lock().unwrap();
    if received.refusals_left > 0 {
        received.refusals_left -= 1;
        return HttpResponse::ServiceUnavailable().finish();
    }
    received.events.push(serde_json::from_slice(&body).unwrap());
    HttpResponse::Ok().finish()
}

/// An answer of the sandbox.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Reply {
    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["error"]["code"].as_str()), (status, Some(code)), "{}", self.body);
        self.body["error"].clone()
    }
}

/// A sandbox with a server of its own.
struct Bench {
    sandbox: Sandbox,
    server: ServerHandle,
    base: String,
    client: reqwest::Client,
    inbox: Inbox,
}

impl Bench {
    async fn start() -> Self {
        Self::start_in(None).await
    }

    async fn start_in(journal_dir: Option<PathBuf>) -> Self {
        let settings =
            SandboxSettings { webhook_secret: SANDBOX_WEBHOOK_SECRET.into(), journal_dir, clock: Clock::System };
        let sandbox = Sandbox::open(settings).unwrap();
        let inbox = Inbox::default();
        let (mounted, data) = (sandbox.clone(), Data::new(inbox.clone()));
        let make = move || {
            let mounted = mounted.clone();
            App::new()
                .app_data(data.clone())
                .configure(move |cfg| mounted.configure(cfg))
                .route("/hook", web::post().to(receive))
        };
        let server = HttpServer::new(make).workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
        let base = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        sandbox.start_deliveries(format!("{base}/hook"));
        Self { sandbox, server: handle, base, client: delivery::client().unwrap(), inbox }
    }

    async fn stop(self) {
        self.sandbox.stop().await;
        self.server.stop(true).await;
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, body: response.json().await.unwrap() }
    }

    fn request(&self, path: &str, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/sandbox/stripe/v1{path}", self.base)).form(form)
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.send(self.request(path, form).bearer_auth(SANDBOX_SECRET_KEY)).await
    }

    async fn post_with_key(&self, key: &str, path: &str, form: &[(&str, &str)]) -> Reply {
        let request = self.request(path, form).bearer_auth(SANDBOX_SECRET_KEY);
        self.send(request.header("Idempotency-Key", key)).await
    }

    async fn get(&self, path: &str) -> Reply {
        let url = format!("{}/sandbox/stripe/v1{path}", self.base);
        self.send(self.client.get(url).bearer_auth(SANDBOX_SECRET_KEY)).await
    }

    async fn control(&self, path: &str, order: Value) -> Reply {
        self.send(self.client.post(format!("{}/sandbox/control{path}", self.base)).json(&order)).await
    }

    async fn books(&self, currency: &str) -> Value {
        let url = format!("{}/sandbox/control/books", self.base);
        self.send(self.client.get(url)).await.ok()[currency].clone()
    }

    async fn create(&self, extra: &[(&str, &str)]) -> String {
        let form = [&[("amount", "2500"), ("currency", "eur"), ("metadata[payment_id]", "p-1")], extra].concat();
        text(&self.post("/payment_intents", &form).await.ok()["id"])
    }

    async fn confirm(&self, intent: &str, method: &str) -> Reply {
        self.post(&format!("/payment_intents/{intent}/confirm"), &[("payment_method", method)]).await
    }

    async fn paid(&self, method: &str) -> String {
        let intent = self.create(&[]).await;
        assert_eq!(self.confirm(&intent, method).await.ok()["status"], "succeeded");
        intent
    }

    async fn intent(&self, id: &str) -> Value {
        let path = "?expand[]=latest_charge&expand[]=latest_charge.refunds&expand[]=latest_charge.dispute";
        self.get(&format!("/payment_intents/{id}{path}")).await.ok()
    }

    /// The types of all events that the sandbox made, oldest first.
    async fn emitted(&self) -> Vec<String> {
        let list = self.get("/events?limit=100").await.ok();
        let mut kinds: Vec<String> =
            list["data"].as_array().unwrap().iter().map(|event| text(&event["type"])).collect();
        kinds.reverse();
        kinds
    }

    fn received(&self) -> Vec<Value> {
        self.inbox.0.lock().unwrap().events.clone()
    }

    fn received_ids(&self) -> Vec<String> {
        self.received().iter().map(|event| text(&event["id"])).collect()
    }

    /// Waits for a webhook of this type.
    async fn webhook(&self, kind: &str) -> Value {
        self.eventually(kind, || self.received().into_iter().find(|event| event["type"] == kind)).await
    }

    async fn webhooks(&self, count: usize) {
        self.eventually("webhooks", || (self.received().len() >= count).then_some(())).await
    }

    async fn eventually<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what} never came; received {:?}", self.received_kinds());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn received_kinds(&self) -> Vec<String> {
        self.received().iter().map(|event| text(&event["type"])).collect()
    }
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
