//! The committer: the one write road. What waits is written in one statement, one commit for many callers.
//!
//! A caller is answered only after its commit. One bad item fails alone: a batch that the database refuses is written
//! again item by item. When the connection breaks during a commit, the batch is sent again; both statements recognise
//! what they wrote before, so sending twice writes once. Deliberately absent: lingering (it was measured to be slower)
//! and decisions.

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix::prelude::*;
use deadpool_postgres::Object;
use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::facts::Wake;
use super::pressure::{self, Pressure};
use crate::clock::Clock;
use crate::domain::ids::DonationId;
use crate::metrics::METRICS;
use crate::store::donations::create_donations;
use crate::store::idempotency::{record_answers, store_answers};
use crate::store::moves::{move_payments, was_moved};
use crate::store::pool::WRITERS;
use crate::store::{Answer, Creation, CreationOutcome, Move, MoveOutcome, Store, StoreError};
use crate::trace::{Kind, Span};

/// Items in one statement at most.
const BATCH: usize = 256;
/// Items that wait at most, of each kind; beyond that callers are told to come back later.
const WAITING: usize = 8192;
/// How often a batch is sent again when the connection breaks.
const RESENDS: usize = 3;
const RESEND_PAUSE: Duration = Duration::from_millis(200);

/// Batches of one kind at the same time: one is decoded and answered while the other is written. Measured at 64 and 256
/// callers: one was slower, three made smaller batches.
const SIDE_BY_SIDE: usize = 2;
/// The second one begins where so many wait: a statement's own cost is that of three or four donations, so two small ones at a
/// time cost everybody more than a short wait costs a few. Measured against 1, 8 and 64, docs/adr/0017.
const BESIDE: usize = 16;
/// A batch that takes longer does not hold up the next one of its kind.
const SLOW: Duration = Duration::from_millis(20);
/// The kinds of items, each with a queue and a statement of its own.
const KIND_NAMES: [&str; KINDS] = ["creations", "moves", "answers", "verdicts"];
const KINDS: usize = 4;
const CREATIONS: usize = 0;

/// Why something was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Too much waits already; nothing was written.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The database is away or busy. Whether it was written is not known.
    #[error("{0}")]
    Unavailable(String),
    /// The database refuses this item; it was not written.
    #[error("{0}")]
    Refused(String),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        if error.is_passing() { Self::Unavailable(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

/// Records a donation.
#[derive(Message)]
#[rtype(result = "Result<CreationOutcome, CommitError>")]
pub struct CommitCreation(pub Creation);

/// Moves a payment.
#[derive(Message)]
#[rtype(result = "Result<MoveOutcome, CommitError>")]
pub struct CommitMove(pub Box<Move>);

/// Completes a key that was claimed with a donation.
#[derive(Message)]
#[rtype(result = "Result<(), CommitError>")]
pub struct CommitAnswer(pub Answer);

/// Keeps the answer to an event that touches no payment of ours.
#[derive(Message)]
#[rtype(result = "Result<(), CommitError>")]
pub struct CommitVerdict(pub Answer);

/// A donation that has a new version: for those who wait for one.
#[derive(Clone, Copy, Debug)]
pub struct DonationMoved {
    /// The donation.
    pub id: DonationId,
    /// Its version.
    pub version: i64,
}

struct Waiting<T, O> {
    since: Instant,
    item: T,
    reply: oneshot::Sender<Result<O, CommitError>>,
}

type Queue<T, O> = VecDeque<Waiting<T, O>>;

/// A batch that is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Batch {
    began: Instant,
    /// Since when the first of those outside waits.
    since: Option<Instant>,
}

/// The actor.
pub struct Committer {
    store: Store,
    clock: Clock,
    outbox: Option<Recipient<Wake>>,
    moved: tokio::sync::broadcast::Sender<DonationMoved>,
    pressure: Pressure,
    creations: Queue<Creation, CreationOutcome>,
    moves: Queue<Move, MoveOutcome>,
    answers: Queue<Answer, ()>,
    verdicts: Queue<Answer, ()>,
    idle_writers: usize,
    next_kind: usize,
    /// The batches under way, by kind.
    under_way: [Vec<Batch>; KINDS],
    /// A look after slow batches is planned.
    looks_again: bool,
}

/// Tells the committer whom to wake after a commit with facts; sent once, when that actor exists.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WakeAfterCommit(pub Recipient<Wake>);

impl Committer {
    /// A committer that tells `moved` of every new version.
    pub fn new(store: Store, clock: Clock, moved: tokio::sync::broadcast::Sender<DonationMoved>) -> Self {
        Self {
            store,
            clock,
            outbox: None,
            moved,
            pressure: Pressure::default(),
            creations: VecDeque::new(),
            moves: VecDeque::new(),
            answers: VecDeque::new(),
            verdicts: VecDeque::new(),
            idle_writers: WRITERS,
            next_kind: 0,
            under_way: Default::default(),
            looks_again: false,
        }
    }

    /// The same, telling `pressure` how long donors wait.
    pub fn telling(self, pressure: Pressure) -> Self {
        Self { pressure, ..self }
    }

    /// Whether a batch of this kind may begin, `waiting` being how many wait. While some are under way the next one grows: a
    /// statement costs much more than one more row in it. A full batch need not grow, and a slow one (a locked row, say) must
    /// not hold up the others.
    fn may_begin(&self, kind: usize, waiting: usize) -> bool {
        let under_way = &self.under_way[kind];
        waiting > 0
            && (under_way.is_empty()
                || (under_way.len() < SIDE_BY_SIDE && waiting >= BESIDE)
                || waiting >= BATCH
                || under_way.iter().all(|batch| batch.began.elapsed() >= SLOW))
    }

    /// Gives idle writers batches of one kind each, the kinds in turn.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let mut passed_over = 0;
        while self.idle_writers > 0 && passed_over < KINDS {
            let kind = self.next_kind;
            self.next_kind = (kind + 1) % KINDS;
            passed_over = if self.begin(kind, ctx) { 0 } else { passed_over + 1 };
        }
        if self.idle_writers > 0 && self.waiting() > 0 && !self.looks_again {
            self.looks_again = true;
            ctx.run_later(SLOW, |act, ctx| {
                act.looks_again = false;
                act.pump(ctx);
            });
        }
        METRICS.commit_waiting.set(i64::try_from(self.waiting()).unwrap_or(i64::MAX));
    }

    fn begin(&mut self, kind: usize, ctx: &mut Context<Self>) -> bool {
        let waiting = [self.creations.len(), self.moves.len(), self.answers.len(), self.verdicts.len()][kind];
        if !self.may_begin(kind, waiting) {
            return false;
        }
        match kind {
            CREATIONS => {
                let batch = take(&mut self.creations);
                self.spawn(ctx, kind, batch, Store::commit_creations);
            }
            1 => {
                let batch = take_moves(&mut self.moves);
                self.spawn(ctx, kind, batch, Store::commit_moves);
            }
            2 => {
                let batch = take(&mut self.answers);
                self.spawn(ctx, kind, batch, Store::commit_answers);
            }
            _ => {
                let batch = take(&mut self.verdicts);
                self.spawn(ctx, kind, batch, Store::commit_verdicts);
            }
        }
        true
    }

    fn waiting(&self) -> usize {
        self.creations.len() + self.moves.len() + self.answers.len() + self.verdicts.len()
    }

    /// How long the one who waits longest outside has waited by now. Of the batches of a kind the youngest counts: one that a
    /// locked row holds up holds up nobody else.
    fn longest_wait(&self) -> Duration {
        let youngest = self.under_way.iter().filter_map(|batches| batches.iter().max_by_key(|batch| batch.began));
        let written = youngest.filter_map(|batch| batch.since);
        let queued = [waited_for(&self.creations), waited_for(&self.moves)].into_iter().flatten();
        written.chain(queued).map(|since| since.elapsed()).max().unwrap_or_default()
    }

    fn spawn<T, O, W>(&mut self, ctx: &mut Context<Self>, number: usize, batch: Vec<Waiting<T, O>>, write: W)
    where
        T: Item,
        O: 'static,
        W: AsyncFn(&Store, &Object, &[T], &Clock, bool) -> Result<Vec<O>, StoreError> + 'static,
    {
        self.idle_writers -= 1;
        let kind = KIND_NAMES[number];
        let this = Batch { began: Instant::now(), since: waited_for(&batch) };
        self.under_way[number].push(this);
        let (store, clock, moved) = (self.store.clone(), self.clock.clone(), self.moved.clone());
        let job = async move {
            let written = write_batch(&store, &clock, kind, batch, write, &moved);
            // A panic here must not take the write road with it; the callers see their answer's sender dropped.
            AssertUnwindSafe(written).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(kind, "a batch panicked; its callers are told that the outcome is unknown");
                Written { facts: false, is_whole: false }
            })
        };
        ctx.spawn(job.into_actor(self).map(move |written, act, ctx| {
            act.idle_writers += 1;
            // How long a failure took says nothing about a crowd.
            if written.is_whole
                && let Some(since) = this.since
            {
                act.pressure.committed(since.elapsed(), this.began.elapsed());
            }
            if let Some(place) = act.under_way[number].iter().position(|it| *it == this) {
                act.under_way[number].swap_remove(place);
            }
            if written.facts
                && let Some(outbox) = &act.outbox
            {
                // A full mailbox has a wake in it already.
                let _ = outbox.try_send(Wake);
            }
            act.pump(ctx);
        }));
    }
}

/// What the committer needs to know of an item.
trait Item: 'static {
    /// Whether somebody outside waits for it: a donor, or Stripe.
    fn is_waited_for(&self) -> bool;
    /// Whether it brings facts for the outbox.
    fn has_facts(&self) -> bool;
    /// The new version that it brings, if it was written.
    fn donation_moved(&self) -> Option<DonationMoved>;
    /// The trace that it belongs to.
    fn traceparent(&self) -> Option<&str>;
}

impl Item for Creation {
    fn is_waited_for(&self) -> bool {
        true
    }

    fn traceparent(&self) -> Option<&str> {
        self.fact.traceparent.as_deref()
    }

    fn has_facts(&self) -> bool {
        true
    }

    fn donation_moved(&self) -> Option<DonationMoved> {
        None
    }
}

impl Item for Move {
    fn is_waited_for(&self) -> bool {
        self.cause.source == "webhook"
    }

    fn traceparent(&self) -> Option<&str> {
        self.cause.traceparent.as_deref()
    }

    fn has_facts(&self) -> bool {
        !self.facts.is_empty()
    }

    fn donation_moved(&self) -> Option<DonationMoved> {
        (!self.steps.is_empty()).then_some(DonationMoved { id: self.after.donation_id, version: self.after.version })
    }
}

impl Item for Answer {
    fn is_waited_for(&self) -> bool {
        false
    }

    fn traceparent(&self) -> Option<&str> {
        None
    }

    fn has_facts(&self) -> bool {
        false
    }

    fn donation_moved(&self) -> Option<DonationMoved> {
        None
    }
}

/// Since when the first of those outside waits.
fn waited_for<'a, T: Item, O: 'a>(waiting: impl IntoIterator<Item = &'a Waiting<T, O>>) -> Option<Instant> {
    waiting.into_iter().find(|waiting| waiting.item.is_waited_for()).map(|first| first.since)
}

fn take<T, O>(queue: &mut Queue<T, O>) -> Vec<Waiting<T, O>> {
    queue.drain(..queue.len().min(BATCH)).collect()
}

/// One payment at most once in a batch; the rest keeps its order.
fn take_moves(queue: &mut Queue<Move, MoveOutcome>) -> Vec<Waiting<Move, MoveOutcome>> {
    let mut batch = Vec::new();
    let mut seen = HashSet::new();
    let mut later = VecDeque::new();
    while let Some(waiting) = queue.pop_front() {
        if batch.len() < BATCH && seen.insert(waiting.item.after.id) {
            batch.push(waiting);
        } else {
            later.push_back(waiting);
            if batch.len() == BATCH {
                break;
            }
        }
    }
    later.append(queue);
    *queue = later;
    batch
}

/// What became of a batch.
struct Written {
    /// Facts were written.
    facts: bool,
    /// None of it failed.
    is_whole: bool,
}

/// Writes a batch and answers everyone in it.
async fn write_batch<T, O, W>(
    store: &Store,
    clock: &Clock,
    kind: &'static str,
    batch: Vec<Waiting<T, O>>,
    write: W,
    moved: &tokio::sync::broadcast::Sender<DonationMoved>,
) -> Written
where
    T: Item,
    W: AsyncFn(&Store, &Object, &[T], &Clock, bool) -> Result<Vec<O>, StoreError>,
{
    let began = Instant::now();
    let (items, replies): (Vec<T>, Vec<_>) = batch.into_iter().map(|it| (it.item, it.reply)).unzip();
    let mut span = commit_span(kind, &items);
    let outcomes: Vec<Result<O, CommitError>> = match write_with_resends(store, clock, &items, &write).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        // One locked row must not keep all the others waiting: one by one, the others go through.
        Err(StoreError::Locked(_)) if items.len() > 1 => write_one_by_one(store, clock, &items, &write).await,
        Err(error) if error.is_passing() || items.len() == 1 => {
            let error = CommitError::from(error);
            items.iter().map(|_| Err(error.clone())).collect()
        }
        Err(_) => write_one_by_one(store, clock, &items, &write).await,
    };
    let is_whole = outcomes.iter().all(Result::is_ok);
    if !is_whole {
        span.fail("items_failed");
    }
    drop(span);
    METRICS.commit_rows.with_label_values(&[kind]).observe(as_f64(items.len()));
    METRICS.commit_seconds.with_label_values(&[kind]).observe(began.elapsed().as_secs_f64());
    Written { facts: answer_all(&items, replies, outcomes, moved), is_whole }
}

/// One commit for many traces.
fn commit_span<T: Item>(kind: &'static str, items: &[T]) -> Span {
    let mut span = Span::batch(Kind::Client, items.iter().filter_map(Item::traceparent), || format!("commit {kind}"));
    span.set("db.system.name", "postgresql");
    span.set("db.operation.batch.size", i64::try_from(items.len()).unwrap_or(i64::MAX));
    span
}

fn answer_all<T: Item, O>(
    items: &[T],
    replies: Vec<oneshot::Sender<Result<O, CommitError>>>,
    outcomes: Vec<Result<O, CommitError>>,
    moved: &tokio::sync::broadcast::Sender<DonationMoved>,
) -> bool {
    let mut wrote_facts = false;
    for ((item, reply), outcome) in items.iter().zip(replies).zip(outcomes) {
        match &outcome {
            Ok(_) => {
                wrote_facts |= item.has_facts();
                if let Some(news) = item.donation_moved() {
                    let _ = moved.send(news); // nobody may be waiting
                }
            }
            Err(error) => count_failure(error),
        }
        let _ = reply.send(outcome); // a caller may have gone away; what was written stays written
    }
    wrote_facts
}

fn count_failure(error: &CommitError) {
    let reason = match error {
        CommitError::Overloaded => "overloaded",
        CommitError::Unavailable(_) => "unavailable",
        CommitError::Refused(_) => "refused",
    };
    METRICS.commit_failures.with_label_values(&[reason]).inc();
}

#[allow(clippy::cast_precision_loss, reason = "batches are small")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

async fn write_with_resends<T, O, W>(store: &Store, clock: &Clock, items: &[T], write: &W) -> Result<Vec<O>, StoreError>
where
    W: AsyncFn(&Store, &Object, &[T], &Clock, bool) -> Result<Vec<O>, StoreError>,
{
    let mut resends = 0;
    loop {
        let written = async {
            let client = store.pools.writer().await?;
            write(store, &client, items, clock, resends > 0).await
        }
        .await;
        match written {
            Err(StoreError::Locked(text)) => return Err(StoreError::Locked(text)),
            Err(error) if error.is_passing() && resends < RESENDS => {
                tracing::warn!(%error, resends, "a commit was not confirmed; it is sent again");
                resends += 1;
                tokio::time::sleep(RESEND_PAUSE).await;
            }
            other => return other,
        }
    }
}

async fn write_one_by_one<T, O, W>(store: &Store, clock: &Clock, items: &[T], write: &W) -> Vec<Result<O, CommitError>>
where
    W: AsyncFn(&Store, &Object, &[T], &Clock, bool) -> Result<Vec<O>, StoreError>,
{
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        let written = write_with_resends(store, clock, std::slice::from_ref(item), write).await;
        outcomes.push(match written.map(|mut outcomes| outcomes.pop()) {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) => Err(CommitError::Refused("no outcome".to_owned())),
            Err(error) => {
                tracing::error!(%error, "the database refuses one item of a batch");
                Err(error.into())
            }
        });
    }
    outcomes
}

impl Store {
    async fn commit_creations(
        &self,
        client: &Object,
        batch: &[Creation],
        _clock: &Clock,
        again: bool,
    ) -> Result<Vec<CreationOutcome>, StoreError> {
        let mut outcomes = create_donations(client, batch).await?;
        for (creation, outcome) in batch.iter().zip(&mut outcomes) {
            if again && !matches!(outcome, CreationOutcome::Recorded { .. }) {
                *outcome = self.own_creation(creation).await?.unwrap_or(*outcome);
            }
        }
        Ok(outcomes)
    }

    /// Whether this very creation is there, from a first commit that was not heard of: then its own key is taken, or its
    /// campaign has closed since. Nobody else has its payment's identifier.
    async fn own_creation(&self, creation: &Creation) -> Result<Option<CreationOutcome>, StoreError> {
        let payment = self.load_payment(creation.donation.payment_id).await?;
        Ok(payment.map(|payment| CreationOutcome::Recorded { manual_capture: payment.manual_capture }))
    }

    async fn commit_moves(
        &self,
        client: &Object,
        batch: &[Move],
        _clock: &Clock,
        again: bool,
    ) -> Result<Vec<MoveOutcome>, StoreError> {
        let mut outcomes = move_payments(client, batch).await?;
        for (it, outcome) in batch.iter().zip(&mut outcomes) {
            if again && !outcome.is_moved() && was_moved(client, it.after.id, it.id).await? {
                *outcome = MoveOutcome::Moved { has_parked: it.gains_intent };
            }
        }
        Ok(outcomes)
    }

    async fn commit_answers(
        &self,
        client: &Object,
        batch: &[Answer],
        _clock: &Clock,
        _again: bool,
    ) -> Result<Vec<()>, StoreError> {
        store_answers(client, batch).await?;
        Ok(vec![(); batch.len()])
    }

    async fn commit_verdicts(
        &self,
        client: &Object,
        batch: &[Answer],
        clock: &Clock,
        _again: bool,
    ) -> Result<Vec<()>, StoreError> {
        record_answers(client, batch, clock.now()).await?;
        Ok(vec![(); batch.len()])
    }
}

impl Actor for Committer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut last = Instant::now();
        ctx.run_interval(pressure::INTERVAL, move |act, _| {
            // What a thread that was late missed comes all at once: it is one interval.
            if last.elapsed() >= pressure::INTERVAL / 2 {
                last = Instant::now();
                act.pressure.adjust(act.longest_wait());
            }
        });
    }
}

impl Supervised for Committer {}

impl Handler<WakeAfterCommit> for Committer {
    type Result = ();

    fn handle(&mut self, msg: WakeAfterCommit, _ctx: &mut Self::Context) {
        self.outbox = Some(msg.0);
    }
}

/// Puts an item into its queue and answers when it is committed.
fn enqueue<T, O: 'static>(queue: &mut Queue<T, O>, item: T) -> ResponseFuture<Result<O, CommitError>> {
    if queue.len() >= WAITING {
        count_failure(&CommitError::Overloaded);
        return Box::pin(std::future::ready(Err(CommitError::Overloaded)));
    }
    let (reply, answer) = oneshot::channel();
    queue.push_back(Waiting { since: Instant::now(), item, reply });
    Box::pin(async move {
        answer.await.unwrap_or_else(|_| Err(CommitError::Unavailable("the writer went away".to_owned())))
    })
}

macro_rules! commits {
    ($($message:ident => $queue:ident, $outcome:ty, $item:expr;)*) => {$(
        impl Handler<$message> for Committer {
            type Result = ResponseFuture<Result<$outcome, CommitError>>;

            fn handle(&mut self, msg: $message, ctx: &mut Self::Context) -> Self::Result {
                let answer = enqueue(&mut self.$queue, $item(msg));
                self.pump(ctx);
                answer
            }
        }
    )*};
}

commits! {
    CommitCreation => creations, CreationOutcome, |msg: CommitCreation| msg.0;
    CommitMove => moves, MoveOutcome, |msg: CommitMove| *msg.0;
    CommitAnswer => answers, (), |msg: CommitAnswer| msg.0;
    CommitVerdict => verdicts, (), |msg: CommitVerdict| msg.0;
}

#[cfg(test)]
mod tests;
