//! Real servers for the tests of every way out: one that answers by a script and misbehaves on demand, with TLS where a
//! test asks for it, and a canary that only counts who comes.
//!
//! Deliberately absent: any knowledge of Twilio or of webhooks.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// What to do with one request, once it was read to its end.
#[derive(Clone, Debug)]
pub enum Play {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Never answer.
    Hang,
    /// Close the connection without a word.
    Drop,
    /// Send the head of the answer one byte at a time, never to its end.
    TrickleHead,
    /// Say this status, then send a body one byte at a time, never to its end.
    TrickleBody(u16),
    /// Say this status, then send a body without end.
    Flood(u16),
}

impl Play {
    pub fn answer(status: u16, body: impl Into<String>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The first line.
    pub request: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The name that TLS was asked for.
    pub server_name: Option<String>,
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
    script: Mutex<VecDeque<Play>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    cut: Notify,
}

/// Answers with the script's plays in turn, then with 200.
pub struct Double {
    pub address: SocketAddr,
    book: Arc<Book>,
    server: JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Double {
    pub async fn start(script: impl IntoIterator<Item = Play>) -> Self {
        Self::serve(script, None).await
    }

    pub async fn start_tls(script: impl IntoIterator<Item = Play>, certificate: &Certified) -> Self {
        Self::serve(script, Some(certificate.acceptor())).await
    }

    async fn serve(script: impl IntoIterator<Item = Play>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let book = Arc::new(Book { script: Mutex::new(script.into_iter().collect()), ..Book::default() });
        let shared = Arc::clone(&book);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(converse(stream, tls.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, book, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.book.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.book.connections.load(Ordering::SeqCst)
    }

    /// Until the other side has closed a connection that was in the middle of an answer.
    pub async fn cut(&self) {
        timeout(Duration::from_secs(10), self.book.cut.notified()).await.expect("nobody hung up");
    }
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, book: Arc<Book>) {
    let Some(tls) = tls else { return answer_all(stream, None, &book).await };
    if let Ok(stream) = tls.accept(stream).await {
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        answer_all(stream, name, &book).await;
    }
}

async fn answer_all(stream: impl AsyncRead + AsyncWrite + Unpin, server_name: Option<String>, book: &Book) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read_request(&mut stream, &server_name).await {
        book.seen.lock().unwrap().push(seen);
        let play = book.script.lock().unwrap().pop_front().unwrap_or_else(|| Play::answer(200, ""));
        let on = play_out(play, &mut stream).await;
        if !on {
            book.cut.notify_one();
            return;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncBufReadExt + Unpin), server_name: &Option<String>) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).unwrap();
    Some(Seen { request: lines[0].clone(), headers, body, server_name: server_name.clone() })
}

/// Whether the connection goes on.
async fn play_out(play: Play, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    match play {
        Play::Answer { status, headers, body } => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.is_ok()
        }
        Play::Hang => {
            // Nothing more comes but the end.
            drop(stream.read_u8().await);
            false
        }
        Play::Drop => false,
        Play::TrickleHead => trickle(b"HTTP/1.1 200 OK\r\nx-endless: ", stream).await,
        Play::TrickleBody(status) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 1000000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.is_ok() && trickle(b"", stream).await
        }
        Play::Flood(status) => {
            let head = format!("HTTP/1.1 {status} X\r\nconnection: keep-alive\r\n\r\n");
            let mut open = stream.write_all(head.as_bytes()).await.is_ok();
            while open {
                open = stream.write_all(&[b' '; 16 * 1024]).await.is_ok();
            }
            false
        }
    }
}

/// Slowly, for ever: every byte comes in time, the whole never does.
async fn trickle(begin: &[u8], stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> bool {
    for byte in begin.iter().copied().chain(std::iter::repeat(b'x')) {
        if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Listens on every address of this machine and counts who comes.
pub struct Canary {
    pub port: u16,
    /// The ports that they came from.
    visitors: Arc<Mutex<Vec<u16>>>,
    server: JoinHandle<()>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Canary {
    pub async fn start() -> Self {
        // `[::]` takes IPv4 too, where there is IPv6 at all.
        let listener = match TcpListener::bind("[::]:0").await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind("0.0.0.0:0").await.unwrap(),
        };
        let port = listener.local_addr().unwrap().port();
        let visitors = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&visitors);
        let server = tokio::spawn(async move {
            while let Ok((_, from)) = listener.accept().await {
                book.lock().unwrap().push(from.port());
            }
        });
        Self { port, visitors, server }
    }

    /// How many came. Connections are accepted in their order: once a last one of our own is, every earlier one was.
    pub async fn visits(&self) -> usize {
        let last = TcpStream::connect((IpAddr::from([127, 0, 0, 1]), self.port)).await.unwrap();
        let own = last.local_addr().unwrap().port();
        let before_ours = || {
            let mut visitors = self.visitors.lock().unwrap();
            visitors.pop_if(|port| *port == own).map(|_| visitors.len())
        };
        let seen = async {
            loop {
                match before_ours() {
                    Some(visits) => return visits,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        timeout(Duration::from_secs(10), seen).await.expect("the canary is deaf")
    }
}

/// An authority of our own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Certified {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn certify(&self, name: &str) -> Certified {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        Certified { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }
}

impl Certified {
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn acceptor(&self) -> TlsAcceptor {
        install_crypto();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![self.certificate.der().clone()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The HTTP client is built without a TLS provider of its own; `main` installs one first thing.
pub fn install_crypto() {
    drop(rustls::crypto::ring::default_provider().install_default());
}
