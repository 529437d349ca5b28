//! One span: what was done, for whom, how it ended. It ends when it is dropped.
//!
//! Where nothing is exported a span is nothing: no allocation, no clock, one load. Names and attributes follow
//! OpenTelemetry's semantic conventions; what they do not know begins with `careforall.`.

use std::borrow::Cow;
use std::future::Future;

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, Value};

use super::context::{span_context, traceparent_of};
use super::current::{Current, current, within};
use super::export::tracer;

/// Links of one span at most; a larger batch names the first ones.
pub(super) const LINKS_MAX: usize = 256;

/// What part a span has in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers a request.
    Server,
    /// Asks somebody else and waits.
    Client,
    /// Hands a message over.
    Producer,
    /// Works on a message.
    Consumer,
    /// Neither.
    Internal,
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Client => Self::Client,
            Kind::Producer => Self::Producer,
            Kind::Consumer => Self::Consumer,
            Kind::Internal => Self::Internal,
        }
    }
}

/// A span that is being recorded, or nothing.
#[derive(Debug, Default)]
#[must_use = "a span that is dropped has ended"]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Span {
    /// Below `parent`, or the root of a new trace where there is none.
    pub fn below<N: Into<Cow<'static, str>>>(kind: Kind, parent: Option<&str>, name: impl FnOnce() -> N) -> Self {
        Self::start(kind, parent, None, name)
    }

    /// Below the work that is being done.
    pub fn here<N: Into<Cow<'static, str>>>(kind: Kind, name: impl FnOnce() -> N) -> Self {
        Self::here_linked(kind, None, name)
    }

    /// Below the work that is being done, and about another trace too.
    pub fn here_linked<N: Into<Cow<'static, str>>>(kind: Kind, about: Option<&str>, name: impl FnOnce() -> N) -> Self {
        if tracer().is_none() {
            return Self(None);
        }
        let parent = current();
        Self::start(kind, parent.as_ref().map(Current::traceparent), about, name)
    }

    /// Below `parent`, caused by other work that has a trace of its own.
    pub fn below_linked<N: Into<Cow<'static, str>>>(
        kind: Kind,
        parent: Option<&str>,
        cause: Option<&str>,
        name: impl FnOnce() -> N,
    ) -> Self {
        Self::start(kind, parent, cause, name)
    }

    /// Work for many at once: a trace of its own, linked to each. Nothing where none of them is recorded.
    pub fn batch<'a, N: Into<Cow<'static, str>>>(
        kind: Kind,
        of: impl Iterator<Item = &'a str>,
        name: impl FnOnce() -> N,
    ) -> Self {
        let Some(tracer) = tracer() else { return Self(None) };
        let contexts = of.filter_map(span_context).filter(|context| context.is_sampled());
        let links: Vec<Link> = contexts.take(LINKS_MAX).map(Link::with_context).collect();
        if links.is_empty() {
            return Self(None);
        }
        let builder = SpanBuilder::from_name(name()).with_kind(kind.into()).with_links(links);
        Self(Some(Box::new(tracer.build_with_context(builder, &Context::new()))))
    }

    fn start<N: Into<Cow<'static, str>>>(
        kind: Kind,
        parent: Option<&str>,
        link: Option<&str>,
        name: impl FnOnce() -> N,
    ) -> Self {
        let Some(tracer) = tracer() else { return Self(None) };
        let context = match parent.and_then(span_context) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let mut builder = SpanBuilder::from_name(name()).with_kind(kind.into());
        if let Some(link) = link.and_then(span_context) {
            builder = builder.with_links(vec![Link::with_context(link)]);
        }
        Self(Some(Box::new(tracer.build_with_context(builder, &context))))
    }

    /// Whether anybody will see it: attributes that are work to make need not be made otherwise.
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|span| span.is_recording())
    }

    /// Says something about it. Never about a donor.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// It failed; `kind` is one of a few (`error.type`).
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            let kind: Cow<'static, str> = kind.into();
            span.set_attribute(KeyValue::new("error.type", kind.into_owned()));
            span.set_status(Status::error(""));
        }
    }

    /// What belongs to it travels with this `traceparent`; nothing where spans are not recorded.
    pub fn traceparent(&self) -> Option<String> {
        self.0.as_ref().map(|span| traceparent_of(span.span_context()))
    }

    /// The context of what belongs to it: its own or, where spans are not recorded, that of the work being done.
    pub fn context(&self) -> Option<Current> {
        self.traceparent().map(Current::of).or_else(current)
    }

    /// Does `work` within it.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        within(self.context(), work)
    }
}
