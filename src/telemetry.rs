//! Logs, and the trace context that travels with requests, rows and messages.
//!
//! Deliberately absent: donor data and secrets in logs, and an exporter of spans; the W3C context is carried from the
//! request through the outbox and the broker already, so that one can be added without touching the journey.

use std::io::IsTerminal;

use rand::Rng;
use tracing_subscriber::EnvFilter;

use crate::gateways::broker::LOG_DIRECTIVE;

/// Libraries tell of every idle worker and every migration that is in place already; we say what matters of that.
const DEFAULT_FILTER: &str = "info,actix_server=warn,refinery_core=warn,deadpool.postgres=error";

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
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}

/// The `traceparent` of work that a request causes: its trace, if it brought a valid one, else a new one
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>).
pub fn traceparent(incoming: Option<&str>) -> String {
    let mut random = rand::rng();
    let span: u64 = random.random_range(1..=u64::MAX);
    match incoming.and_then(parse) {
        Some((trace, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
        None => format!("00-{:032x}-{span:016x}-01", random.random_range(1..=u128::MAX)),
    }
}

/// The trace id in a `traceparent`.
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.get(3..35).unwrap_or_default()
}

fn parse(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths_fit = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
    let valid = lengths_fit
        && [version, trace, span, flags].into_iter().all(is_hex)
        && version != "ff"
        && !is_zero(trace)
        && !is_zero(span)
        && (version != "00" || parts.next().is_none());
    valid.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_trace_is_continued_with_a_span_of_our_own() {
        let ours = traceparent(Some(GIVEN));
        assert_eq!(trace_id(&ours), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(ours, GIVEN);
        assert!(parse(&ours).is_some());
    }

    #[test]
    fn rubbish_starts_a_new_trace() {
        for bad in [
            "",
            "rubbish",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
            assert!(parse(&traceparent(Some(bad))).is_some());
        }
    }
}
