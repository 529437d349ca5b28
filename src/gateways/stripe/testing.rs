//! A real HTTP server for the tests, which answers by a script, misbehaves on demand and remembers what it was asked.
//!
//! Deliberately absent: any knowledge of Stripe's behaviour; the sandbox has that.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use super::{CallPolicy, Stripe, StripeSettings};

/// A fresh intent, as the server answers when its script is at an end.
pub const INTENT: &str = r#"{"id":"pi_1","object":"payment_intent","amount":2500,"amount_capturable":0,
"amount_received":0,"client_secret":"pi_1_secret_x","currency":"eur","last_payment_error":null,"latest_charge":null,
"metadata":{},"status":"requires_payment_method"}"#;

/// What to do with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Json {
        status: u16,
        body: String,
        headers: Vec<(&'static str, &'static str)>,
    },
    /// Never answer.
    Hang,
    /// Close the connection without a word.
    Drop,
    /// Begin to answer with success, then close the connection.
    BreakOff,
    /// Answer with success and a body without end.
    Flood,
}

impl Reply {
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Json { status, body: body.into(), headers: Vec::new() }
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Json { headers, .. } = &mut self {
            headers.push((name, value));
        }
        self
    }

    async fn into_response(self) -> HttpResponse {
        match self {
            Self::Json { status, body, headers } => {
                let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
                for header in headers {
                    response.insert_header(header);
                }
                response.content_type("application/json").body(body)
            }
            Self::Hang => std::future::pending().await,
            Self::Drop => std::panic::resume_unwind(Box::new("the connection ends here")),
            Self::BreakOff => {
                let end = std::io::Error::other("broken off");
                let parts = [Ok(Bytes::from_static(b"{\"id\":")), Err(end)];
                HttpResponse::Ok().streaming(futures::stream::iter(parts))
            }
            Self::Flood => {
                let part = Bytes::from(vec![b' '; 64 * 1024]);
                HttpResponse::Ok()
                    .streaming(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone())))
            }
        }
    }
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Decoded.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The form's fields, decoded.
    pub fn form(&self) -> Vec<(String, String)> {
        serde_urlencoded::from_str(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Book {
    script: VecDeque<Reply>,
    seen: Vec<Seen>,
}

pub struct FakeStripe {
    address: String,
    book: Arc<Mutex<Book>>,
    handle: ServerHandle,
}

impl FakeStripe {
    /// Answers with the script's replies in turn, then with [`INTENT`].
    pub async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let book = Arc::new(Mutex::new(Book { script: script.into_iter().collect(), seen: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/sandbox/stripe", listener.local_addr().unwrap());
        let data = Data::from(Arc::clone(&book));
        let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(answer)))
            .workers(1)
            .disable_signals()
            .listen(listener)
            .unwrap()
            .run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, book, handle }
    }

    /// Quick retries, so that tests are; everything else as in production.
    pub fn policy() -> CallPolicy {
        CallPolicy { first_backoff: Duration::from_millis(1), ..CallPolicy::default() }
    }

    pub fn client(&self) -> Stripe {
        self.client_with(Self::policy(), Duration::from_secs(5))
    }

    pub fn client_with(&self, policy: CallPolicy, request_timeout: Duration) -> Stripe {
        client_at(&self.address, policy, request_timeout)
    }

    /// A client of a port where nobody listens.
    pub fn nowhere() -> Stripe {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        client_at(&format!("http://{port}"), Self::policy(), Duration::from_secs(5))
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.book.lock().unwrap().seen.clone()
    }
}

impl Drop for FakeStripe {
    fn drop(&mut self) {
        drop(actix_web::rt::spawn(self.handle.stop(false)));
    }
}

/// reqwest is built without a TLS provider of its own; `main` installs one first thing.
pub fn install_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn client_at(address: &str, policy: CallPolicy, request_timeout: Duration) -> Stripe {
    install_crypto();
    let settings = StripeSettings { request_timeout, ..StripeSettings::new("sk_test_123", address) };
    Stripe::with_policy(settings, policy).unwrap()
}

async fn answer(request: HttpRequest, body: Bytes, book: Data<Mutex<Book>>) -> HttpResponse {
    let seen = Seen {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: serde_urlencoded::from_str(request.query_string()).unwrap(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect(),
        body: text(&body),
    };
    let reply = {
        let mut book = book.lock().unwrap();
        book.seen.push(seen);
        book.script.pop_front().unwrap_or_else(|| Reply::json(200, INTENT))
    };
    reply.into_response().await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
