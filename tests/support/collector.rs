//! A receiver of spans: OTLP over HTTP, decoded from the bytes that the program sent.
//!
//! Deliberately absent: knowledge of what the program does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A span as it arrived; identifiers in hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Seen {
    pub name: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty at the root.
    pub parent_id: String,
    pub kind: i32,
    /// Of the span.
    pub attributes: BTreeMap<String, String>,
    /// Of the process.
    pub resource: BTreeMap<String, String>,
    /// Trace and span of each.
    pub links: Vec<(String, String)>,
    pub failed: bool,
}

/// A receiver on loopback.
pub struct Collector {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    spans: Arc<Mutex<Vec<Seen>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Collector {
    /// One that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (spans, bytes) = (Arc::default(), Arc::default());
        let (all, raw) = (Arc::clone(&spans), Arc::clone(&bytes));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&all), Arc::clone(&raw)));
            }
        });
        Self { url, spans, bytes, task }
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().expect("no panic").clone()
    }

    /// The spans of one trace so far.
    pub fn trace(&self, trace_id: &str) -> Vec<Seen> {
        self.spans().into_iter().filter(|span| span.trace_id == trace_id).collect()
    }

    /// Everything that was sent, as it was.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("no panic").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(stream: TcpStream, spans: Arc<Mutex<Vec<Seen>>>, raw: Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        let mut length = 0;
        let mut request = String::new();
        reader.read_line(&mut request).await.ok().filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).await.ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await.ok()?;
        assert!(request.starts_with("POST /v1/traces "), "{request}");
        spans.lock().ok()?.extend(decode(&body));
        raw.lock().ok()?.extend_from_slice(&body);
        write.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
    }
}

fn decode(body: &[u8]) -> Vec<Seen> {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let mut seen = Vec::new();
    for resource in request.resource_spans {
        let attributes = words(&resource.resource.expect("a resource").attributes);
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        seen.extend(spans.map(|span| seen_as(span, &attributes)));
    }
    seen
}

fn seen_as(span: OtlpSpan, resource: &BTreeMap<String, String>) -> Seen {
    Seen {
        trace_id: hex::encode(span.trace_id),
        span_id: hex::encode(span.span_id),
        parent_id: hex::encode(span.parent_span_id),
        kind: span.kind,
        attributes: words(&span.attributes),
        resource: resource.clone(),
        links: span.links.iter().map(|it| (hex::encode(&it.trace_id), hex::encode(&it.span_id))).collect(),
        // STATUS_CODE_ERROR
        failed: span.status.is_some_and(|status| status.code == 2),
        name: span.name,
    }
}

fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|it| (it.key.clone(), word(it.value.as_ref()))).collect()
}

fn word(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
