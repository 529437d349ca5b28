//! Every metric, defined once, typed.
//!
//! Labels take their values from closed sets (route patterns, states, verdicts), so that their number is bounded.
//! Deliberately absent: identifiers, addresses and anything else of donors.

use std::cell::RefCell;
use std::sync::LazyLock;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Seconds; fine below a millisecond, where the fast paths are.
const SECONDS: &[f64] =
    &[0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Rows in one commit.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Whoever is woken by the first of a kind needs a zero before it: Prometheus sees no increase in a series that begins.
const VERDICTS: &[&str] = &["applied", "duplicate", "stale", "rejected", "parked", "ignored"];
const SIGNATURE_FAULTS: &[&str] = &[
    "header_too_long",
    "missing_timestamp",
    "invalid_timestamp",
    "no_signature",
    "too_many_signatures",
    "mismatch",
    "too_old",
];
const CONSUMERS: &[&str] = &["totals", "notifications", "audit"];
/// So do panels that count what a day brought: the first of it would be missing. The payment machine's edges, and a gift.
const TRANSITIONS: &[(&str, &[&str])] = &[
    ("INITIATED", &["PROCESSING", "AUTHORIZED", "FAILED", "CANCELED"]),
    ("PROCESSING", &["AUTHORIZED", "FAILED", "CANCELED"]),
    ("AUTHORIZED", &["CAPTURED", "REFUNDED", "FAILED", "CANCELED"]),
    ("FAILED", &["PROCESSING", "AUTHORIZED", "CANCELED"]),
    ("CAPTURED", &["REFUNDED"]),
    ("REFUNDED", &["CAPTURED"]),
];
const GIFT: [&str; 3] = ["/api/v1/donations", "POST", "201"];

/// All metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// What is exported under one name, for those who hold dashboards and alert rules against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As in a query; a histogram's series add `_bucket`, `_sum` and `_count` to it.
    pub name: String,
    /// The names of its labels.
    pub labels: Vec<String>,
}

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    definitions: Vec<Definition>,
    /// Requests by route pattern, method and status.
    pub http_requests: IntCounterVec,
    /// How long requests took, by route pattern and method.
    pub http_seconds: HistogramVec,
    /// Requests that are being answered.
    pub http_in_flight: IntGauge,
    /// Requests that were to come again because more came than could be done, by class.
    pub http_refused: IntCounterVec,
    /// Webhooks by verdict.
    pub webhook_verdicts: IntCounterVec,
    /// Webhooks with a bad signature, by reason.
    pub webhook_signature_failures: IntCounterVec,
    /// Webhooks of a known type whose shape is not known.
    pub webhook_malformed: IntCounter,
    /// Webhooks whose timestamp is more than the tolerance ahead: our clock is the likelier fault.
    pub webhook_clock_ahead: IntCounter,
    /// Steps of the payment machine.
    pub payment_transitions: IntCounterVec,
    /// Payments that a person must look at, as they are flagged.
    pub payments_flagged: IntCounter,
    /// Captured money in minor units, by currency.
    pub captured_minor: IntCounterVec,
    /// Refunded money in minor units, by currency.
    pub refunded_minor: IntCounterVec,
    /// Disputes that withhold money, as they are opened or grow.
    pub disputes_opened: IntCounter,
    /// Age in seconds of the oldest payment of which nobody knows whether the provider has it.
    pub payments_unknown_oldest_seconds: IntGauge,
    /// Answers of the totals, by level.
    pub totals_answers: IntCounterVec,
    /// Totals that are computed for everybody who asked at the same time.
    pub totals_shared_reads: IntCounter,
    /// Refreshes of the materialized view, by outcome.
    pub totals_refreshes: IntCounterVec,
    /// Checkpoints of the ledger, by outcome.
    pub totals_checkpoints: IntCounterVec,
    /// Open streams of totals.
    pub totals_streams: IntGauge,
    /// Rows that one commit wrote, by kind.
    pub commit_rows: HistogramVec,
    /// How long one commit took, by kind.
    pub commit_seconds: HistogramVec,
    /// Items that failed to commit, by reason.
    pub commit_failures: IntCounterVec,
    /// What waits for the committer.
    pub commit_waiting: IntGauge,
    /// Events that wait in the outbox, set aside ones included.
    pub outbox_waiting: IntGauge,
    /// Events that are set aside.
    pub outbox_dead: IntGauge,
    /// For how long the oldest event that may leave has waited, in seconds.
    pub outbox_oldest_seconds: IntGauge,
    /// Events handed to the bus, by outcome.
    pub outbox_publishes: IntCounterVec,
    /// Spans by what became of them.
    pub trace_spans: IntCounterVec,
    /// Events that consumers took, by consumer and outcome.
    pub consumer_events: IntCounterVec,
    /// Attempts to deliver messages, by channel and outcome.
    pub notification_attempts: IntCounterVec,
    /// How long attempts took, by channel.
    pub notification_seconds: HistogramVec,
    /// Messages that were not sent because their address is suppressed, by channel.
    pub notifications_suppressed: IntCounterVec,
    /// What providers said of messages: it moved one, moved none, or its signature did not hold.
    pub feedback: IntCounterVec,
    /// Open circuits, by channel: one at most, or one for each endpoint.
    pub notification_circuits_open: IntGaugeVec,
    /// Messages that wait or are being sent, by channel.
    pub notifications_waiting: IntGaugeVec,
    /// Those of them that are due, by channel.
    pub notifications_due: IntGaugeVec,
    /// For how long the first of them has been due, in seconds, by channel.
    pub notifications_oldest_due_seconds: IntGaugeVec,
    /// Messages that an operator must look at, by channel.
    pub notifications_dead: IntGaugeVec,
    /// Attempts of which nobody knows whether they reached the recipient, by channel: so many messages at most arrived
    /// twice.
    pub notifications_unknown: IntGaugeVec,
    /// How long a message waits in an actor's mailbox before its turn comes, in seconds, by actor.
    pub actor_mailbox_wait_seconds: GaugeVec,
    /// Payments that are not at their end, by status.
    pub payments_open: IntGaugeVec,
    /// Payments that are being opened at the provider for donors.
    pub payment_openings: IntGauge,
    /// Payments that wait for others to be opened first.
    pub payment_openings_waiting: IntGauge,
    /// Live payment actors.
    pub payment_actors: IntGauge,
    /// Payment actors that were revived after a panic.
    pub payment_actor_restarts: IntCounter,
    /// Payment actors that retired.
    pub payment_actor_retirements: IntCounter,
    /// Connections to Postgres in use, by pool.
    pub pool_used: IntGaugeVec,
    /// Connections to Postgres at most, by pool.
    pub pool_size: IntGaugeVec,
    /// Work that waits for a connection, by pool.
    pub pool_waiting: IntGaugeVec,
    /// Calls to Stripe that are under way.
    pub stripe_in_flight: IntGauge,
    /// Calls to Stripe, by operation and outcome.
    pub stripe_calls: IntCounterVec,
    /// How long calls to Stripe took.
    pub stripe_seconds: Histogram,
    /// 1 while the circuit to Stripe is open.
    pub stripe_circuit_open: IntGauge,
    /// 1 for a dependency that answers, 0 for one that does not.
    pub dependency_up: IntGaugeVec,
}

/// A definition that does not fit is a mistake of ours that every start would show.
#[allow(clippy::expect_used, reason = "definitions are constants; a bad one fails the first test that starts")]
fn checked<T>(metric: Result<T, prometheus::Error>) -> T {
    metric.expect("metric definitions are constant and valid")
}

#[derive(Default)]
struct Definer {
    registry: Registry,
    definitions: RefCell<Vec<Definition>>,
}

impl Definer {
    fn add<T: prometheus::core::Collector + Clone + 'static>(&self, metric: T) -> T {
        checked(self.registry.register(Box::new(metric.clone())));
        self.definitions.borrow_mut().extend(
            metric
                .desc()
                .into_iter()
                .map(|desc| Definition { name: desc.fq_name.clone(), labels: desc.variable_labels.clone() }),
        );
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(checked(IntCounter::new(format!("careforall_{name}"), help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(checked(IntCounterVec::new(Opts::new(format!("careforall_{name}"), help), labels)))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(checked(IntGauge::new(format!("careforall_{name}"), help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(checked(IntGaugeVec::new(Opts::new(format!("careforall_{name}"), help), labels)))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(format!("careforall_{name}"), help).buckets(SECONDS.to_vec());
        self.add(checked(Histogram::with_opts(options)))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(format!("careforall_{name}"), help).buckets(buckets.to_vec());
        self.add(checked(HistogramVec::new(options, labels)))
    }
}

impl Metrics {
    fn new() -> Self {
        let define = Definer::default();
        let metrics = Self {
            http_requests: define.counters("http_requests_total", "Requests", &["route", "method", "status"]),
            http_seconds: define.histograms(
                "http_request_seconds",
                "Duration of requests in seconds",
                SECONDS,
                &["route", "method"],
            ),
            http_in_flight: define.gauge("http_requests_in_flight", "Requests that are being answered"),
            http_refused: define.counters(
                "http_refused_total",
                "Requests refused because more came than could be done",
                &["class"],
            ),
            webhook_verdicts: define.counters("webhook_events_total", "Webhooks by verdict", &["verdict"]),
            webhook_signature_failures: define.counters(
                "webhook_signature_failures_total",
                "Webhooks with a bad signature",
                &["reason"],
            ),
            webhook_malformed: define.counter("webhook_malformed_total", "Webhooks of unknown shape"),
            webhook_clock_ahead: define.counter("webhook_clock_ahead_total", "Webhooks from the future"),
            payment_transitions: define.counters(
                "payment_transitions_total",
                "Steps of the payment machine",
                &["from", "to"],
            ),
            payments_flagged: define.counter("payments_flagged_total", "Payments flagged for a person to look at"),
            captured_minor: define.counters("captured_minor_total", "Captured money in minor units", &["currency"]),
            refunded_minor: define.counters("refunded_minor_total", "Refunded money in minor units", &["currency"]),
            disputes_opened: define.counter("disputes_opened_total", "Disputes that withhold money"),
            payments_unknown_oldest_seconds: define.gauge(
                "payments_unknown_oldest_seconds",
                "Age of the oldest payment of which nobody knows whether the provider has it",
            ),
            totals_answers: define.counters("totals_answers_total", "Answers of the totals by level", &["source"]),
            totals_shared_reads: define.counter("totals_shared_reads_total", "Readers that shared another's read"),
            totals_refreshes: define.counters("totals_refreshes_total", "Refreshes of the view", &["outcome"]),
            totals_checkpoints: define.counters("totals_checkpoints_total", "Checkpoints of the ledger", &["outcome"]),
            totals_streams: define.gauge("totals_streams", "Open streams of totals"),
            commit_rows: define.histograms("commit_rows", "Items written by one commit", BATCH, &["kind"]),
            commit_seconds: define.histograms("commit_seconds", "Duration of commits in seconds", SECONDS, &["kind"]),
            commit_failures: define.counters("commit_failures_total", "Items that failed to commit", &["reason"]),
            commit_waiting: define.gauge("commit_waiting", "Items that wait for the committer"),
            outbox_waiting: define.gauge("outbox_waiting", "Events that wait in the outbox"),
            outbox_dead: define.gauge("outbox_dead", "Events that are set aside"),
            outbox_oldest_seconds: define.gauge("outbox_oldest_seconds", "Age of the oldest waiting event"),
            outbox_publishes: define.counters("outbox_publishes_total", "Events handed to the bus", &["outcome"]),
            trace_spans: define.counters("trace_spans_total", "Spans by what became of them", &["outcome"]),
            consumer_events: define.counters(
                "consumer_events_total",
                "Events that consumers took",
                &["consumer", "outcome"],
            ),
            notification_attempts: define.counters(
                "notification_attempts_total",
                "Attempts to deliver messages",
                &["channel", "outcome"],
            ),
            notification_seconds: define.histograms(
                "notification_attempt_seconds",
                "Duration of attempts to deliver messages in seconds",
                SECONDS,
                &["channel"],
            ),
            notifications_suppressed: define.counters(
                "notifications_suppressed_total",
                "Messages not sent because their address is suppressed",
                &["channel"],
            ),
            feedback: define.counters("feedback_total", "What providers said of messages", &["provider", "outcome"]),
            notification_circuits_open: define.gauges("notification_circuits_open", "Open circuits", &["channel"]),
            notifications_waiting: define.gauges("notifications_waiting", "Messages that wait", &["channel"]),
            notifications_due: define.gauges("notifications_due", "Messages that are due", &["channel"]),
            notifications_oldest_due_seconds: define.gauges(
                "notifications_oldest_due_seconds",
                "Since when the oldest due message is due",
                &["channel"],
            ),
            notifications_dead: define.gauges("notifications_dead", "Messages that are dead", &["channel"]),
            notifications_unknown: define.gauges(
                "notifications_unknown",
                "Attempts of unknown outcome: so many messages at most arrived twice",
                &["channel"],
            ),
            actor_mailbox_wait_seconds: define.add(checked(GaugeVec::new(
                Opts::new("careforall_actor_mailbox_wait_seconds", "How long a message waits in an actor's mailbox"),
                &["actor"],
            ))),
            payments_open: define.gauges("payments_open", "Payments that are not at their end", &["status"]),
            payment_openings: define.gauge("payment_openings", "Payments that are being opened at the provider"),
            payment_openings_waiting: define.gauge("payment_openings_waiting", "Payments that wait to be opened"),
            payment_actors: define.gauge("payment_actors", "Live payment actors"),
            payment_actor_restarts: define.counter("payment_actor_restarts_total", "Payment actors revived"),
            payment_actor_retirements: define.counter("payment_actor_retirements_total", "Payment actors retired"),
            pool_used: define.gauges("pool_used_connections", "Connections to Postgres in use", &["pool"]),
            pool_size: define.gauges("pool_size_connections", "Connections to Postgres at most", &["pool"]),
            pool_waiting: define.gauges("pool_waiting", "Work that waits for a connection", &["pool"]),
            stripe_in_flight: define.gauge("stripe_calls_in_flight", "Calls to Stripe that are under way"),
            stripe_calls: define.counters("stripe_calls_total", "Calls to Stripe", &["operation", "outcome"]),
            stripe_seconds: define.histogram("stripe_call_seconds", "Duration of calls to Stripe in seconds"),
            stripe_circuit_open: define.gauge("stripe_circuit_open", "1 while the circuit to Stripe is open"),
            dependency_up: define.gauges("dependency_up", "1 for a dependency that answers", &["dependency"]),
            registry: define.registry,
            definitions: define.definitions.into_inner(),
        };
        metrics.begin_at_zero();
        metrics
    }

    fn begin_at_zero(&self) {
        for verdict in VERDICTS {
            self.webhook_verdicts.with_label_values(&[*verdict]);
        }
        for reason in SIGNATURE_FAULTS {
            self.webhook_signature_failures.with_label_values(&[*reason]);
        }
        for (from, to) in TRANSITIONS.iter().flat_map(|(from, next)| next.iter().map(move |to| (from, to))) {
            self.payment_transitions.with_label_values(&[*from, *to]);
        }
        self.http_requests.with_label_values(&GIFT);
        for consumer in CONSUMERS {
            self.consumer_events.with_label_values(&[*consumer, "dead_lettered"]);
        }
    }

    /// Every name that is exported, whether or not anything was counted under it yet.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        text
    }
}
