//! Spans on their way out: OTLP over HTTP, as protobuf, from a thread of its own.
//!
//! Nobody waits for it: a full queue drops spans, a receiver that is away or hangs costs its batch. A process has one
//! exporter, from [`start`] to [`stop`]. Deliberately absent: gRPC, and repetition of what was not taken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};

use super::sampling::Sampling;
use super::span::LINKS_MAX;
use crate::metrics::METRICS;

/// Spans that wait at most; what comes on top is dropped.
const WAITING: usize = 16 * 1024;
/// Spans in one request, and the longest they wait for company.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
/// How long the receiver may take for one batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last spans get at the end.
const LAST_FLUSH: Duration = Duration::from_secs(2);
/// Below the endpoint (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
const PATH: &str = "/v1/traces";

static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Where spans go, and which.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportSettings {
    /// `http://host:4318`; the path for traces is put behind it.
    pub endpoint: String,
    /// Under which name the process is found.
    pub service_name: String,
    /// Which traces are recorded.
    pub sampling: Sampling,
}

impl ExportSettings {
    fn url(&self) -> String {
        format!("{}{PATH}", self.endpoint.trim_end_matches('/'))
    }
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[error("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used: {0}")]
pub struct ExportError(String);

/// Begins to record and export spans. A second start in one process keeps the first.
///
/// # Errors
/// Where the endpoint is no URL. That nobody listens there is no error.
pub fn start(settings: &ExportSettings) -> Result<(), ExportError> {
    if is_on() {
        return Ok(());
    }
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(WAITING)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let exporter = Watched { exporter: exporter(settings)?, is_failing: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
        .with_sampler(settings.sampling)
        .with_max_links_per_span(u32::try_from(LINKS_MAX).unwrap_or(u32::MAX))
        .with_resource(Resource::builder().with_service_name(settings.service_name.clone()).build())
        .build();
    let tracer = provider.tracer("careforall");
    // Somebody else may have been faster: theirs is as good.
    let _ = EXPORT.set(Export { provider, tracer });
    Ok(())
}

/// Sends what was recorded and ends the exporter, within a bound. Blocks.
pub fn stop() {
    if let Some(export) = EXPORT.get()
        && let Err(error) = export.provider.shutdown_with_timeout(LAST_FLUSH)
    {
        tracing::warn!(%error, "the last spans were not taken");
    }
}

/// Whether spans are recorded.
pub fn is_on() -> bool {
    EXPORT.get().is_some()
}

/// Whether a receiver answers at that endpoint. Blocks.
///
/// # Errors
/// What it said, or that there is none.
pub fn probe(settings: &ExportSettings) -> Result<(), ExportError> {
    let sent = futures::executor::block_on(exporter(settings)?.export(Vec::new()));
    sent.map_err(|error| ExportError(error.to_string()))
}

pub(super) fn tracer() -> Option<&'static SdkTracer> {
    EXPORT.get().map(|export| &export.tracer)
}

fn exporter(settings: &ExportSettings) -> Result<opentelemetry_otlp::SpanExporter, ExportError> {
    opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(settings.url())
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| ExportError(error.to_string()))
}

/// Counts what was taken, and says once when the receiver goes away and once when it is back.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        METRICS.trace_spans.with_label_values(&[if sent.is_ok() { "exported" } else { "lost" }]).inc_by(count);
        match (&sent, self.is_failing.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "spans are not taken and are lost until they are"),
            (Ok(()), true) => tracing::info!("spans are taken again"),
            (Ok(()), false) | (Err(_), true) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
