//! Logs: JSON or for people, to standard error.
//!
//! A JSON line of work that belongs to somebody bears the `trace_id` and `span_id` under which its trace is found.
//! Deliberately absent: donor data and secrets; spans (`trace` exports them).

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::gateways::broker::LOG_DIRECTIVE;
use crate::trace;

/// Libraries tell of every idle worker and every migration that is in place already; we say what matters of that.
const DEFAULT_FILTER: &str =
    "info,actix_server=warn,refinery_core=warn,refinery_core::traits::missing=off,deadpool.postgres=error";

/// What no `RUST_LOG` changes: these libraries log donors' data, tokio-postgres the parameters of every statement at debug.
const FIXED: [&str; 2] = [LOG_DIRECTIVE, "tokio_postgres=warn"];

/// Starts logging to standard error, as JSON or for people. `RUST_LOG` says how much.
pub fn start(json: bool) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    for directive in FIXED.iter().filter_map(|directive| directive.parse().ok()) {
        filter = filter.add_directive(directive);
    }
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _ =
        if json { builder.json().map_event_format(Traced).try_init() } else { builder.with_target(false).try_init() };
}

/// JSON lines that say at their beginning to which trace they belong.
struct Traced(Format<Json>);

impl<S, N> FormatEvent<S, N> for Traced
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(current) = trace::current() else { return self.0.format_event(ctx, writer, event) };
        let Some((trace_id, span_id)) = trace::ids(current.traceparent()) else {
            return self.0.format_event(ctx, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        // Both are hexadecimal digits: nothing in them needs escaping.
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"trace_id\":\"{trace_id}\",\"span_id\":\"{span_id}\",{rest}")
    }
}
