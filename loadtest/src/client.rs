//! One keep-alive HTTP/1.1 connection, as cheap as it can be made: the load generator shares its cores with the server.
//!
//! A request is one write, an answer is read into a buffer that is used again. Deliberately absent: TLS, pipelining,
//! chunked answers (the server sends none on the routes that are loaded) and retries: what fails is counted.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// The server closes a connection that was idle for 5 s: one that was idle for long is left before it is.
const STALE: Duration = Duration::from_secs(2);
const HEADERS_MAX: usize = 32;
/// Nothing that is loaded answers with more.
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens, or nobody answers the door in time.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke before the answer was whole.
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    /// The server closed the connection before the answer was whole.
    #[error("the connection was closed before the answer")]
    Closed,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// Not an answer that we can read.
    #[error("an answer that is none: {0}")]
    Malformed(String),
}

/// An answer; it lies in the connection's buffer until the next call.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Such as 201.
    pub status: u16,
    /// Whether `Retry-After` was said.
    pub retry_after: bool,
    /// The body.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The body as text; empty where it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.body).unwrap_or_default()
    }
}

/// The head of an answer.
struct Head {
    status: u16,
    retry_after: bool,
    closes: bool,
    length: usize,
    /// Where the body begins in the buffer.
    body_at: usize,
}

/// A connection that is made when it is first used, and made again after it broke.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    patience: Duration,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    used: Instant,
}

impl Wire {
    /// To `address`; an answer may take as long as `patience`.
    pub fn new(address: SocketAddr, patience: Duration) -> Self {
        Self { address, patience, stream: None, buffer: Vec::with_capacity(4096), used: Instant::now() }
    }

    /// Whom it speaks to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a whole request (see [`request`]) and waits for the answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>, WireError> {
        let head = match timeout(self.patience, self.exchange(request)).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => {
                self.stream = None;
                return Err(error);
            }
            Err(_) => {
                self.stream = None;
                return Err(WireError::TimedOut);
            }
        };
        if head.closes {
            self.stream = None;
        }
        let body = &self.buffer[head.body_at..head.body_at + head.length];
        Ok(Answer { status: head.status, retry_after: head.retry_after, body })
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Head, WireError> {
        let now = Instant::now();
        if now - self.used > STALE {
            self.stream = None;
        }
        self.used = now;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(connect(self.address).await?),
        };
        stream.write_all(request).await.map_err(WireError::Broken)?;
        self.buffer.clear();
        loop {
            let read = stream.read_buf(&mut self.buffer).await.map_err(WireError::Broken)?;
            if read == 0 {
                return Err(WireError::Closed);
            }
            if let Some(head) = head_of(&self.buffer)? {
                return rest_of(stream, &mut self.buffer, head).await;
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, WireError> {
    let stream = TcpStream::connect(address).await.map_err(|error| WireError::Connect(error.to_string()))?;
    stream.set_nodelay(true).map_err(WireError::Broken)?;
    Ok(stream)
}

async fn rest_of(stream: &mut TcpStream, buffer: &mut Vec<u8>, head: Head) -> Result<Head, WireError> {
    while buffer.len() < head.body_at + head.length {
        let read = stream.read_buf(buffer).await.map_err(WireError::Broken)?;
        if read == 0 {
            return Err(WireError::Closed);
        }
    }
    Ok(head)
}

/// The head, once all of it is here.
fn head_of(buffer: &[u8]) -> Result<Option<Head>, WireError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(buffer).map_err(|error| WireError::Malformed(error.to_string()))?;
    let httparse::Status::Complete(body_at) = parsed else {
        return if buffer.len() > ANSWER_MAX_BYTES {
            Err(WireError::Malformed("too long".to_owned()))
        } else {
            Ok(None)
        };
    };
    let mut head =
        Head { status: response.code.unwrap_or_default(), retry_after: false, closes: false, length: 0, body_at };
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            head.length = length(header.value)?;
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            head.retry_after = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            head.closes = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(WireError::Malformed("a chunked answer".to_owned()));
        }
    }
    Ok(Some(head))
}

fn length(value: &[u8]) -> Result<usize, WireError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.trim()
        .parse()
        .ok()
        .filter(|length| *length <= ANSWER_MAX_BYTES)
        .ok_or_else(|| WireError::Malformed(format!("content-length {text:?}")))
}

/// A whole request; `headers` are further header lines, `body` is sent with its length where there is one.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + body.map_or(0, <[u8]>::len));
    for part in [method, " ", path, " HTTP/1.1\r\nHost: loadtest\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name, ": ", value, "\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    if let Some(body) = body {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every connection with these pieces, one after another, and then closes it.
    async fn server(pieces: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = [0; 1024];
                let _ = stream.read(&mut seen).await;
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        address
    }

    fn wire(address: SocketAddr) -> Wire {
        Wire::new(address, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_one_answer() {
        let address = server(&["HTTP/1.1 201 Cre", "ated\r\nContent-Le", "ngth: 5\r\n\r\nhe", "llo"]).await;
        let mut wire = wire(address);
        let answer = wire.call(&request("GET", "/", &[], None)).await.unwrap();
        assert_eq!((answer.status, answer.text(), answer.retry_after), (201, "hello", false));
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_an_error_and_the_next_call_makes_a_new_one() {
        let address = server(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"]).await;
        let mut wire = wire(address);
        assert!(matches!(wire.call(&request("GET", "/", &[], None)).await, Err(WireError::Closed)));
        assert!(matches!(wire.call(&request("GET", "/", &[], None)).await, Err(WireError::Closed)));
    }

    #[tokio::test]
    async fn a_refusal_with_retry_after_is_known_as_one() {
        let address = server(&["HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"]).await;
        let mut wire = wire(address);
        let answer = wire.call(&request("GET", "/", &[], None)).await.unwrap();
        assert_eq!((answer.status, answer.retry_after, answer.body), (503, true, &b""[..]));
    }

    #[tokio::test]
    async fn nobody_there_chunks_and_rubbish_each_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(wire(nobody).call(b"GET / HTTP/1.1\r\n\r\n").await, Err(WireError::Connect(_))));
        for pieces in [&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"][..], &["SSH-2.0-x\r\n\r\n"]]
        {
            let address = server(pieces).await;
            assert!(matches!(wire(address).call(b"GET / HTTP/1.1\r\n\r\n").await, Err(WireError::Malformed(_))));
        }
    }

    #[test]
    fn a_request_is_written_as_http_wants_it() {
        let bytes = request("POST", "/x", &[("A", "b")], Some(b"{}"));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "POST /x HTTP/1.1\r\nHost: loadtest\r\nA: b\r\nContent-Length: 2\r\n\r\n{}");
    }
}
