//! Those who take messages: a relay and web servers that do as they are told, and count.
//!
//! Real sockets, no TLS (the gateways' own tests have that). Deliberately absent: the program.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A relay on loopback that takes every mail, after a while, and remembers how often it took each.
pub struct Relay {
    /// `smtp://127.0.0.1:<port>`.
    pub url: String,
    taken: Arc<Mutex<HashMap<String, usize>>>,
    mails: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    /// One that thinks for `pause` before it says 250.
    pub async fn start(pause: Duration) -> Self {
        Self::start_at("127.0.0.1:0", pause).await
    }

    /// The same at an address.
    pub async fn start_at(address: &str, pause: Duration) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address");
        let url = format!("smtp://{}", listener.local_addr().expect("an address"));
        let (taken, mails) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(AtomicUsize::new(0)));
        let (all, count) = (Arc::clone(&taken), Arc::clone(&mails));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, pause, Arc::clone(&all), Arc::clone(&count)));
            }
        });
        Self { url, taken, mails, task }
    }

    /// How many mails it took.
    pub fn mails(&self) -> usize {
        self.mails.load(Ordering::Acquire)
    }

    /// How often it took each, by the identifier of its notice.
    pub fn taken(&self) -> HashMap<String, usize> {
        self.taken.lock().expect("no panic").clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the relay took counts once it has the whole mail, whether or not anybody hears the 250.
async fn converse(
    stream: TcpStream,
    pause: Duration,
    taken: Arc<Mutex<HashMap<String, usize>>>,
    mails: Arc<AtomicUsize>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 relay.example ESMTP\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let answer = match line.split(' ').next() {
            Some("EHLO") => "250-relay.example\r\n250 8BITMIME\r\n",
            Some("DATA") => {
                write.write_all(b"354 go on\r\n").await.ok()?;
                let id = read_mail(&mut lines).await?;
                *taken.lock().ok()?.entry(id).or_insert(0) += 1;
                mails.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(pause).await;
                "250 2.0.0 Ok: queued as 4QX7\r\n"
            }
            _ => "250 2.1.0 Ok\r\n",
        };
        write.write_all(answer.as_bytes()).await.ok()?;
    }
    None
}

/// Reads a mail to its end and returns the left side of its `Message-ID`, or nothing where it breaks off.
async fn read_mail(lines: &mut tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>) -> Option<String> {
    let mut id = String::new();
    loop {
        let line = lines.next_line().await.ok()??;
        if line == "." {
            return Some(id);
        }
        if let Some(rest) = line.strip_prefix("Message-ID: <") {
            id = rest.split('@').next().unwrap_or_default().to_owned();
        }
    }
}

/// A request as a web server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

/// Instead of an answer: nothing, until the other side goes away.
pub const HANG: Answer = ("HANG", "", "");
/// Instead of an answer: the connection is closed.
pub const DROP: Answer = ("DROP", "", "");
/// Instead of an answer: the beginning of one, a byte at a time and without end.
pub const TRICKLE: Answer = ("TRICKLE", "", "");

/// The status line's end, further headers, and the body.
pub type Answer = (&'static str, &'static str, &'static str);

/// A web server on loopback whose every answer the test decides.
pub struct Server {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// One that answers request number `n` (the first is 0) with `answer(n)`.
    pub async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::judging(move |number, _| answer(number)).await
    }

    /// One that looks at the request first.
    pub async fn judging(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &all, &*answer).await });
            }
        });
        Self { url, seen, task }
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(usize, &Seen) -> Answer + Send + Sync),
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        let request = read_request(&mut reader).await?;
        let number = {
            let mut seen = seen.lock().ok()?;
            seen.push(request.clone());
            seen.len() - 1
        };
        let (status, headers, body) = answer(number, &request);
        if status == DROP.0 {
            return None;
        }
        if status == HANG.0 {
            // Nothing more comes but the end.
            let _ = reader.read_u8().await;
            return None;
        }
        if status == TRICKLE.0 {
            loop {
                write.write_all(b"H").await.ok()?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        write.write_all(text.as_bytes()).await.ok()?;
    }
}

async fn read_request(reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<Seen> {
    let mut line = String::new();
    if reader.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|it: &String| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some(Seen { path, headers, body: String::from_utf8(body).ok()? })
}
