//! The totals: what campaigns have raised, exact at every level and cheap.
//!
//! Level 0 is this process's memory, which handlers read without asking the actor; on a miss the actor goes down the
//! levels (Redis, the view with what its snapshot did not see, the ledger), one read in flight for each campaign. A fact
//! that changes a total drops it here at once and renews it in Redis; whoever asks after the drop never gets a read that
//! began before it. Should facts not arrive, memory is bounded by its time to live. Deliberately absent: arithmetic.

mod answer;
mod distrust;
mod levels;
mod memory;
mod renewals;
mod streams;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

pub use self::answer::{TotalsAnswer, TotalsError};
use self::distrust::Distrust;
use self::levels::{Found, Levels};
pub use self::memory::TotalsMemory;
use self::renewals::{Brought, Renewals};
use self::streams::Streams;
pub use self::streams::TotalsEvent;
use super::facts::{Take, TakeError};
use crate::clock::Clock;
use crate::domain::fact::Fact;
use crate::domain::ids::CampaignId;
use crate::domain::totals::Source;
use crate::metrics::METRICS;
use crate::store::Store;
use crate::store::cache::Cache;

/// The picture's interval of the materialized view.
const REFRESH: Duration = Duration::from_secs(300);
/// When Redis, which was left alone, is given a new total again: just after the cache tries it again.
const RENEW_AGAIN: Duration = Duration::from_millis(1100);
/// Checkpoints that are written at the same time.
const CHECKPOINTS: usize = 2;
const MAILBOX: usize = 4096;

type Reply = oneshot::Sender<Result<TotalsAnswer, TotalsError>>;

/// One who waits for a read.
struct Reader {
    min_version: i64,
    reply: Reply,
    /// Whether the read was under way when this one asked: what was committed in between may not be in it.
    has_joined: bool,
}

/// One read in flight.
#[derive(Default)]
struct Reading {
    /// Who asked before it was dropped.
    early: Vec<Reader>,
    /// Who asked after: they get a read that began after the drop.
    late: Vec<Reader>,
    /// Whether a fact dropped the campaign after the read began.
    dropped: bool,
}

/// What a caller can do with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Any level, and the read that is under way.
    Any,
    /// The database, or the read that is under way.
    Exact,
    /// A read of the database that begins after now.
    Fresh,
}

/// The actor.
pub struct TotalsActor {
    levels: Levels,
    memory: TotalsMemory,
    reading: HashMap<CampaignId, Reading>,
    /// Campaigns whose checkpoint is being written.
    checkpoints: HashSet<CampaignId>,
    renewals: Renewals,
    distrust: Distrust,
    streams: Streams,
    is_closed: bool,
}

impl TotalsActor {
    /// An actor that fills `memory`.
    pub fn new(store: Store, cache: Cache, clock: Clock, memory: TotalsMemory) -> Self {
        Self {
            levels: Levels { store, cache, clock },
            memory,
            reading: HashMap::new(),
            checkpoints: HashSet::new(),
            renewals: Renewals::default(),
            distrust: Distrust::default(),
            streams: Streams::default(),
            is_closed: false,
        }
    }

    fn ask(&mut self, id: CampaignId, min_version: i64, need: Need, reply: Reply, ctx: &mut Context<Self>) {
        if let Some(reading) = self.reading.get_mut(&id) {
            METRICS.totals_shared_reads.inc();
            let waiting = if reading.dropped || need == Need::Fresh { &mut reading.late } else { &mut reading.early };
            waiting.push(Reader { min_version, reply, has_joined: true });
            return;
        }
        self.read(id, vec![Reader { min_version, reply, has_joined: false }], need, ctx);
    }

    fn read(&mut self, id: CampaignId, early: Vec<Reader>, need: Need, ctx: &mut Context<Self>) {
        let wanted = early.iter().map(|reader| reader.min_version).max().unwrap_or(0);
        let min_version = wanted.max(self.memory.floor(id));
        let exact = need != Need::Any || self.distrust.holds(id);
        self.reading.insert(id, Reading { early, ..Reading::default() });
        let levels = self.levels.clone();
        let job = async move { levels.read(id, min_version, exact).await };
        ctx.spawn(job.into_actor(self).map(move |read, act, ctx| act.finish(id, read, ctx)));
    }

    fn finish(&mut self, id: CampaignId, read: Result<Found, TotalsError>, ctx: &mut Context<Self>) {
        let reading = self.reading.remove(&id).unwrap_or_default();
        let brought = brought(&read);
        if !reading.dropped && brought == Brought::There {
            self.distrust.renewed(id);
        }
        // News that came in between make what was read too old for readers; what a fact owed to Redis is settled by it all the
        // same, unless another read follows that knows more.
        if (!reading.dropped || reading.late.is_empty()) && self.renewals.settle(id, brought) {
            ctx.run_later(RENEW_AGAIN, move |act, ctx| act.renew_again(id, ctx));
        }
        if read.as_ref().is_ok_and(|found| found.wants_checkpoint) {
            self.write_checkpoint(id, ctx);
        }
        let answer = read.and_then(|found| {
            let told = TotalsAnswer::of(&found.totals, found.source)?;
            if let Some(rest) = self.streams.offer(id, &told) {
                ctx.run_later(rest, move |act, _| act.streams.tell(id));
            }
            Ok((TotalsAnswer::of(&found.totals, Source::Memory)?, told))
        });
        let mut again = reading.late;
        for reader in reading.early {
            match &answer {
                // Joined a read that is too old for this one: the next one knows more, or nobody does.
                Ok((_, told)) if told.version < reader.min_version && reader.has_joined => again.push(reader),
                Ok((_, told)) => {
                    METRICS.totals_answers.with_label_values(&[told.source.as_str()]).inc();
                    let _ = reader.reply.send(Ok(told.clone()));
                }
                Err(error) => drop(reader.reply.send(Err(error.clone()))),
            }
        }
        // Their read begins now.
        again.iter_mut().for_each(|reader| reader.has_joined = false);
        if let Ok((remembered, _)) = answer
            && !reading.dropped
        {
            self.memory.remember(id, remembered);
        }
        if !again.is_empty() {
            self.read(id, again, Need::Exact, ctx);
        }
    }

    fn renew_again(&mut self, id: CampaignId, ctx: &mut Context<Self>) {
        if self.renewals.try_again(id) {
            self.ask(id, 0, Need::Exact, oneshot::channel().0, ctx);
        }
    }

    /// A fact changed the campaign: nobody who asks from now on is shown what was read before.
    fn drop_totals(&mut self, id: CampaignId, ctx: &mut Context<Self>) {
        self.memory.forget(id);
        self.distrust.changed(id);
        if let Some(reading) = self.reading.get_mut(&id) {
            reading.dropped = true;
        }
        if let Some(rest) = self.streams.changed(id) {
            ctx.run_later(rest, move |act, ctx| act.read_for_watchers(id, ctx));
        }
    }

    fn read_for_watchers(&mut self, id: CampaignId, ctx: &mut Context<Self>) {
        self.streams.reads(id);
        self.ask(id, 0, Need::Any, oneshot::channel().0, ctx);
    }

    /// Of some campaigns at a time, so that a broker that comes and goes does not make a storm of reads.
    fn renew_streams(&mut self, ctx: &mut Context<Self>) {
        for id in self.streams.due() {
            self.ask(id, 0, Need::Any, oneshot::channel().0, ctx);
        }
    }

    fn write_checkpoint(&mut self, id: CampaignId, ctx: &mut Context<Self>) {
        if self.checkpoints.len() < CHECKPOINTS && self.checkpoints.insert(id) {
            let levels = self.levels.clone();
            let job = async move { levels.write_checkpoint(id).await };
            let done = move |(), act: &mut Self, _: &mut Context<Self>| {
                act.checkpoints.remove(&id);
            };
            ctx.spawn(job.into_actor(self).map(done));
        }
    }

    fn refresh_view(&mut self, ctx: &mut Context<Self>) {
        let levels = self.levels.clone();
        ctx.spawn(async move { levels.refresh_view().await }.into_actor(self));
    }
}

fn brought(read: &Result<Found, TotalsError>) -> Brought {
    match read {
        Ok(found) if found.source == Source::Redis => Brought::FromThere,
        Ok(found) if found.is_in_redis => Brought::There,
        Ok(_) => Brought::Not,
        Err(_) => Brought::Nothing,
    }
}

/// Asks for a campaign's totals, never older than `min_version`: where the database itself does not have it, nobody is told
/// anything. That costs one read, however high the version.
#[derive(Message)]
#[rtype(result = "Result<TotalsAnswer, TotalsError>")]
pub struct GetTotals {
    /// The campaign.
    pub id: CampaignId,
    /// The version that the answer must have at least.
    pub min_version: i64,
    /// Whether it must be a read of the database that begins after this.
    pub fresh: bool,
}

/// Asks for a campaign's totals by a read of the database that begins after this: whatever is committed now is in it.
#[derive(Message)]
#[rtype(result = "Result<TotalsAnswer, TotalsError>")]
pub struct GetFreshTotals {
    /// The campaign.
    pub id: CampaignId,
}

/// A campaign's totals now, and what they become; that ends when the process is about to end.
pub struct Subscription {
    /// Now: never older than what this process has told before.
    pub current: TotalsAnswer,
    /// From now on; what is no news after `current` may come first.
    pub events: watch::Receiver<TotalsEvent>,
}

/// Asks to be told of a campaign's totals from now on.
#[derive(Message)]
#[rtype(result = "Result<Subscription, TotalsError>")]
pub struct Subscribe {
    /// The campaign.
    pub id: CampaignId,
    /// The version that the first event must have at least.
    pub min_version: i64,
}

/// Campaigns' totals have changed, by facts or by an operator's hand: what is remembered of them is too old.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct DropTotals(pub Vec<CampaignId>);

impl DropTotals {
    /// The campaigns whose totals `facts` change.
    pub fn by<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let changed: HashSet<CampaignId> =
            facts.into_iter().filter(|fact| fact.kind.changes_totals()).map(|fact| fact.data.campaign_id).collect();
        Self(changed.into_iter().collect())
    }
}

/// Whether this process hears of every fact that changes totals, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct HearsFacts(pub bool);

/// Ends all streams, for the process is about to end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseStreams;

impl Actor for TotalsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.refresh_view(ctx);
        ctx.run_interval(REFRESH, Self::refresh_view);
        ctx.run_interval(streams::RENEW / 2, Self::renew_streams);
    }
}

impl Supervised for TotalsActor {}

impl Handler<GetTotals> for TotalsActor {
    type Result = ResponseFuture<Result<TotalsAnswer, TotalsError>>;

    fn handle(&mut self, GetTotals { id, min_version, fresh }: GetTotals, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.ask(id, min_version, if fresh { Need::Fresh } else { Need::Any }, reply, ctx);
        Box::pin(async move {
            let told = wait_for(answer).await?;
            if told.version < min_version { Err(TotalsError::Behind { version: told.version }) } else { Ok(told) }
        })
    }
}

impl Handler<GetFreshTotals> for TotalsActor {
    type Result = ResponseFuture<Result<TotalsAnswer, TotalsError>>;

    fn handle(&mut self, GetFreshTotals { id }: GetFreshTotals, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.ask(id, 0, Need::Fresh, reply, ctx);
        wait_for(answer)
    }
}

impl Handler<Subscribe> for TotalsActor {
    type Result = ResponseFuture<Result<Subscription, TotalsError>>;

    fn handle(&mut self, Subscribe { id, min_version }: Subscribe, ctx: &mut Self::Context) -> Self::Result {
        if self.is_closed {
            return Box::pin(async { Err(TotalsError::Unavailable("the process is about to end".to_owned())) });
        }
        // Listen before looking, so that nothing changes in between.
        let events = self.streams.subscribe(id);
        if let Some(current) = self.memory.get(id, min_version) {
            return Box::pin(async { Ok(Subscription { current, events }) });
        }
        let (reply, answer) = oneshot::channel();
        self.ask(id, min_version, Need::Any, reply, ctx);
        Box::pin(async move { wait_for(answer).await.map(|current| Subscription { current, events }) })
    }
}

impl Handler<DropTotals> for TotalsActor {
    type Result = ();

    fn handle(&mut self, DropTotals(campaigns): DropTotals, ctx: &mut Self::Context) {
        for id in campaigns {
            self.drop_totals(id, ctx);
        }
    }
}

impl Handler<HearsFacts> for TotalsActor {
    type Result = ();

    fn handle(&mut self, HearsFacts(is_hearing): HearsFacts, ctx: &mut Self::Context) {
        self.distrust.hears(is_hearing);
        self.memory.forget_all();
        for reading in self.reading.values_mut() {
            reading.dropped = true;
        }
        self.streams.doubt_all();
        self.renew_streams(ctx);
    }
}

impl Handler<CloseStreams> for TotalsActor {
    type Result = ();

    fn handle(&mut self, _: CloseStreams, _ctx: &mut Self::Context) {
        self.is_closed = true;
        self.streams.close();
    }
}

fn wait_for(
    answer: oneshot::Receiver<Result<TotalsAnswer, TotalsError>>,
) -> ResponseFuture<Result<TotalsAnswer, TotalsError>> {
    Box::pin(async move {
        answer.await.unwrap_or_else(|_| Err(TotalsError::Unavailable("the read was given up".to_owned())))
    })
}

impl Handler<Take> for TotalsActor {
    type Result = ResponseFuture<Result<(), TakeError>>;

    fn handle(&mut self, Take(facts): Take, ctx: &mut Self::Context) -> Self::Result {
        let DropTotals(changed) = DropTotals::by(&facts);
        let mut renewals = Vec::new();
        for id in changed {
            self.drop_totals(id, ctx);
            // What other replicas read from Redis must not be older than the fact that we acknowledge.
            if matches!(self.levels.cache, Cache::Redis(_)) {
                self.renewals.owe(id);
                let (reply, answer) = oneshot::channel();
                self.ask(id, 0, Need::Exact, reply, ctx);
                renewals.push(wait_for(answer));
            }
        }
        Box::pin(async move {
            for renewal in futures::future::join_all(renewals).await {
                match renewal {
                    Ok(_) | Err(TotalsError::NotFound | TotalsError::Behind { .. } | TotalsError::Internal(_)) => {}
                    Err(TotalsError::Unavailable(error)) => return Err(TakeError::Passing(error)),
                }
            }
            Ok(())
        })
    }
}
