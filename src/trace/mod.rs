//! The trace of what we do: the context that travels with requests, rows and messages, and the spans that are exported.
//!
//! Every process carries the context (W3C `traceparent`), so that one identifier is found in the database, the broker,
//! Stripe's metadata and the logs. Spans are recorded only where `OTEL_EXPORTER_OTLP_ENDPOINT` says where to; elsewhere a
//! [`Span`] is nothing at all. Reading order: `context` (the identifiers), `current` (whose work this is), `span`,
//! `sampling`, `export`. Deliberately absent: donor data in any attribute, `tracestate`, baggage, and a subscriber of
//! `tracing`: a mailbox would lose its spans, the `traceparent` in a message is not lost.

mod context;
mod current;
mod export;
mod sampling;
mod span;

pub use context::{ids, incoming, trace_id};
pub use current::{Current, carry, current, within};
pub use export::{ExportError, ExportSettings, is_on, probe, start, stop};
pub use sampling::{Root, Sampling};
pub use span::{Kind, Span};
