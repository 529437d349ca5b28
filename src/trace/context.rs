//! The identifiers that travel: W3C `traceparent`, and Jaeger's `uber-trace-id` on the way in.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use rand::Rng;

/// The parts of a `traceparent`: trace, span and flags, in lower case hexadecimal digits.
type Parts<'a> = (&'a str, &'a str, &'a str);

/// The caller's context as a `traceparent`, from the W3C header
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>) or else Jaeger's
/// (<https://www.jaegertracing.io/sdk-migration/#propagation-format>). Rubbish is no context.
pub fn incoming(w3c: Option<&str>, jaeger: Option<&str>) -> Option<String> {
    let w3c = w3c.and_then(parse).map(|(trace, span, flags)| format!("00-{trace}-{span}-{flags}"));
    w3c.or_else(|| jaeger.and_then(from_jaeger))
}

/// The `traceparent` of work that a request causes where no span is recorded: its trace, if it brought one, else a new
/// one.
pub(super) fn continued(incoming: Option<&str>) -> String {
    let mut random = rand::rng();
    let span: u64 = random.random_range(1..=u64::MAX);
    match incoming.and_then(parse) {
        Some((trace, _, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
        None => format!("00-{:032x}-{span:016x}-01", random.random_range(1..=u128::MAX)),
    }
}

/// The trace id in a `traceparent`.
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.get(3..35).unwrap_or_default()
}

/// The trace id and the span id in a `traceparent`.
pub fn ids(traceparent: &str) -> Option<(&str, &str)> {
    parse(traceparent).map(|(trace, span, _)| (trace, span))
}

pub(super) fn span_context(traceparent: &str) -> Option<SpanContext> {
    let (trace, span, flags) = parse(traceparent)?;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

pub(super) fn traceparent_of(context: &SpanContext) -> String {
    let flags = (context.trace_flags() & TraceFlags::SAMPLED).to_u8();
    format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
}

fn parse(header: &str) -> Option<Parts<'_>> {
    let mut parts = header.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths_fit = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
    let valid = lengths_fit
        && [version, trace, span, flags].into_iter().all(is_hex)
        && version != "ff"
        && !is_zero(trace)
        && !is_zero(span)
        && (version != "00" || parts.next().is_none());
    valid.then_some((trace, span, flags))
}

/// `{trace}:{span}:{parent}:{flags}`; leading zeros may be left out, and the colons may be percent-encoded.
fn from_jaeger(header: &str) -> Option<String> {
    let header = header.trim().replace("%3A", ":").to_ascii_lowercase();
    let parts: Vec<&str> = header.split(':').collect();
    let [trace, span, _, flags] = parts[..] else { return None };
    let fits = |text: &str, length| !text.is_empty() && text.len() <= length && is_hex(text) && !is_zero(text);
    if !fits(trace, 32) || !fits(span, 16) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1;
    Some(format!("00-{trace:0>32}-{span:0>16}-{sampled:02x}"))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_zero(text: &str) -> bool {
    text.bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_trace_is_continued_with_a_span_of_our_own() {
        let ours = continued(Some(GIVEN));
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
            assert_eq!(incoming(Some(bad), None), None, "{bad}");
            assert!(parse(&continued(Some(bad))).is_some());
        }
    }

    #[test]
    fn jaegers_header_counts_where_w3c_says_nothing() {
        let jaeger = |header| incoming(None, Some(header));
        let full = "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1";
        assert_eq!(jaeger(full).as_deref(), Some(GIVEN));
        assert_eq!(incoming(None, Some(&full.replace(':', "%3A"))).as_deref(), Some(GIVEN));
        let short = "00-000000000000000000000000000000ab-00000000000000cd-00";
        assert_eq!(jaeger("ab:cd:0:0").as_deref(), Some(short));
        for bad in ["", "ab:cd:0", "0:cd:0:1", "ab:0:0:1", "xy:cd:0:1", "ab:cd:0:x", "ab:cd:0:1:2"] {
            assert_eq!(jaeger(bad), None, "{bad}");
        }
        assert_eq!(incoming(Some(short), Some(full)).as_deref(), Some(short));
        assert_eq!(incoming(Some("rubbish"), Some(full)).as_deref(), Some(GIVEN));
    }

    #[test]
    fn a_context_that_came_in_goes_out_as_it_was() {
        for given in [GIVEN, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            assert_eq!(span_context(given).map(|context| traceparent_of(&context)).as_deref(), Some(given));
        }
    }
}
