//! Which traces are recorded, as OpenTelemetry's `OTEL_TRACES_SAMPLER` names it
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#general-sdk-configuration>).
//!
//! A caller's decision holds for what it causes, and a batch is recorded where anything in it is. Deliberately absent:
//! remote samplers.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// What is done with a trace that begins here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Root {
    /// Recorded.
    Always,
    /// Not recorded.
    Never,
    /// Recorded with this probability, decided by the trace's identifier: the same in every process.
    Ratio(f64),
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Traces that begin here.
    pub root: Root,
    /// Whether the caller's decision holds for traces that began elsewhere.
    pub parent_based: bool,
}

impl Default for Sampling {
    /// OpenTelemetry's own default, `parentbased_always_on`.
    fn default() -> Self {
        Self { root: Root::Always, parent_based: true }
    }
}

impl Sampling {
    /// By the specification's names; `None` where the name is not one of its six, or the ratio is none.
    pub fn parse(name: &str, argument: Option<&str>) -> Option<Self> {
        let (parent_based, root) = name.strip_prefix("parentbased_").map_or((false, name), |root| (true, root));
        let ratio = argument.map_or(Some(1.0), |text| text.parse().ok());
        let root = match root {
            "always_on" => Root::Always,
            "always_off" => Root::Never,
            "traceidratio" => Root::Ratio(ratio.filter(|ratio| (0.0..=1.0).contains(ratio))?),
            _ => return None,
        };
        Some(Self { root, parent_based })
    }

    fn at_the_root(self) -> Sampler {
        match self.root {
            Root::Always => Sampler::AlwaysOn,
            Root::Never => Sampler::AlwaysOff,
            Root::Ratio(ratio) => Sampler::TraceIdRatioBased(ratio),
        }
    }
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|context| context.span().span_context().is_valid());
        if !has_parent && links.iter().any(|link| link.span_context.is_sampled()) {
            let decision = SamplingDecision::RecordAndSample;
            return SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::NONE };
        }
        let root = self.at_the_root();
        let sampler = if self.parent_based { Sampler::ParentBased(Box::new(root)) } else { root };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::context::span_context;

    const RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_RECORDED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn samples(sampling: Sampling, parent: Option<&str>, links: &[&str]) -> bool {
        let parent = parent.and_then(span_context).map(|it| Context::new().with_remote_span_context(it));
        let links: Vec<Link> = links.iter().filter_map(|it| span_context(it)).map(Link::with_context).collect();
        let trace_id = TraceId::from_bytes([0xff; 16]);
        let sampled = sampling.should_sample(parent.as_ref(), trace_id, "a span", &SpanKind::Internal, &[], &links);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn the_specifications_names_and_no_others_are_known() {
        let parse = |name, argument| Sampling::parse(name, argument).map(|it| (it.parent_based, it.root));
        assert_eq!(parse("always_on", None), Some((false, Root::Always)));
        assert_eq!(parse("parentbased_always_on", None), Some((true, Root::Always)));
        assert_eq!(parse("parentbased_always_off", None), Some((true, Root::Never)));
        assert_eq!(parse("traceidratio", Some("0.25")), Some((false, Root::Ratio(0.25))));
        assert_eq!(parse("parentbased_traceidratio", None), Some((true, Root::Ratio(1.0))));
        for (name, argument) in
            [("sometimes", None), ("parentbased_", None), ("traceidratio", Some("2")), ("traceidratio", Some("x"))]
        {
            assert_eq!(parse(name, argument), None, "{name}");
        }
    }

    #[test]
    fn the_callers_decision_holds_and_a_batch_is_recorded_where_anything_in_it_is() {
        let never = Sampling { root: Root::Never, parent_based: true };
        assert!(samples(never, Some(RECORDED), &[]));
        assert!(!samples(Sampling::default(), Some(NOT_RECORDED), &[RECORDED]));
        assert!(!samples(never, None, &[]) && samples(Sampling::default(), None, &[]));
        assert!(samples(never, None, &[NOT_RECORDED, RECORDED]) && !samples(never, None, &[NOT_RECORDED]));
    }
}
