//! The totals: what campaigns have raised, exact at every level and cheap.
//!
//! Level 0 is this process's memory, which handlers read without asking the actor; on a miss the actor goes down the
//! levels (Redis, the view with what its snapshot did not see, the ledger), one read in flight for each campaign. A fact
//! that changes a total drops it here at once and renews it in Redis; whoever asks after the drop never gets a read that
//! began before it. Should facts not arrive, memory is bounded by its time to live. Deliberately absent: arithmetic.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actix::prelude::*;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::facts::{Take, TakeError};
use crate::clock::Clock;
use crate::domain::ids::CampaignId;
use crate::domain::totals::{Source, Totals};
use crate::metrics::METRICS;
use crate::store::cache::{Cache, TOTALS_TTL_S};
use crate::store::{Store, StoreError};

/// How long memory is believed when no fact drops it.
const MEMORY_TTL: Duration = Duration::from_millis(1000);
/// Campaigns in memory at most; beyond that the expired ones go, or all.
const MEMORY_CAMPAIGNS: usize = 10_000;
/// The picture's interval of the materialized view.
const REFRESH: Duration = Duration::from_secs(300);
/// When Redis, which was left alone, is given a new total again: just after the cache tries it again.
const RENEW_AGAIN: Duration = Duration::from_millis(1100);
const MAILBOX: usize = 4096;

/// Totals as they are answered: JSON, rendered once for everybody.
#[derive(Clone, Debug)]
pub struct TotalsAnswer {
    /// The ledger version in it.
    pub version: i64,
    /// The level that answered.
    pub source: Source,
    /// The body.
    pub body: actix_web::web::Bytes,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    totals: &'a Totals,
    source: Source,
}

fn render(totals: &Totals, source: Source) -> Result<TotalsAnswer, TotalsError> {
    let body =
        serde_json::to_vec(&Shown { totals, source }).map_err(|error| TotalsError::Internal(error.to_string()))?;
    Ok(TotalsAnswer { version: totals.version, source, body: body.into() })
}

/// Why totals cannot be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TotalsError {
    /// There is no such campaign.
    #[error("there is no such campaign")]
    NotFound,
    /// The database is away or busy.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours.
    #[error("internal error")]
    Internal(String),
}

impl From<StoreError> for TotalsError {
    fn from(error: StoreError) -> Self {
        if error.is_passing() { Self::Unavailable(error.to_string()) } else { Self::Internal(error.to_string()) }
    }
}

struct Remembered {
    answer: Option<TotalsAnswer>,
    until: Instant,
    /// The newest version that this process has seen: nothing older is taken from Redis any more.
    floor: i64,
}

/// Level 0. Written by the actor alone.
#[derive(Clone, Default)]
pub struct TotalsMemory(Arc<RwLock<HashMap<CampaignId, Remembered>>>);

impl TotalsMemory {
    /// What is remembered, unless it expired or is older than `min_version`.
    pub fn get(&self, id: CampaignId, min_version: i64) -> Option<TotalsAnswer> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = map.get(&id).filter(|known| Instant::now() < known.until)?;
        let answer = known.answer.clone().filter(|answer| answer.version >= min_version)?;
        METRICS.totals_answers.with_label_values(&[Source::Memory.as_str()]).inc();
        Some(answer)
    }

    fn floor(&self, id: CampaignId) -> i64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).map_or(0, |known| known.floor)
    }

    fn remember(&self, id: CampaignId, answer: TotalsAnswer) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MEMORY_CAMPAIGNS && !map.contains_key(&id) {
            let now = Instant::now();
            map.retain(|_, known| now < known.until);
            if map.len() >= MEMORY_CAMPAIGNS {
                map.clear();
            }
        }
        let floor = answer.version;
        let known = Remembered { answer: Some(answer), until: Instant::now() + MEMORY_TTL, floor };
        match map.get(&id) {
            Some(newer) if newer.floor > floor => {}
            _ => drop(map.insert(id, known)),
        }
    }

    fn forget(&self, id: CampaignId) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = map.get_mut(&id) {
            known.answer = None;
        }
    }
}

type Reply = oneshot::Sender<Result<TotalsAnswer, TotalsError>>;

/// One read in flight.
#[derive(Default)]
struct Reading {
    /// Who asked before it was dropped.
    early: Vec<(i64, Reply)>,
    /// How many of those asked before it began: what the database tells them is the newest that there is.
    first: usize,
    /// Who asked after: they get a read that began after the drop.
    late: Vec<(i64, Reply)>,
    /// Whether a fact dropped the campaign after the read began.
    dropped: bool,
}

/// The actor.
pub struct TotalsActor {
    levels: Levels,
    memory: TotalsMemory,
    reading: HashMap<CampaignId, Reading>,
    /// Campaigns whose old totals other replicas may still find in Redis, and until when.
    unrenewed: HashMap<CampaignId, Unrenewed>,
}

/// A total that Redis was to be given.
struct Unrenewed {
    /// By then the old one there has expired.
    until: Instant,
    /// Whether another try is on its way already.
    is_tried_again: bool,
}

/// What a read found.
struct Found {
    totals: Totals,
    source: Source,
    /// Whether Redis holds nothing older now.
    is_in_redis: bool,
}

/// The levels below memory.
#[derive(Clone)]
struct Levels {
    store: Store,
    cache: Cache,
    clock: Clock,
}

impl Levels {
    /// The first level that is at least `min_version`; `exact` skips Redis.
    async fn read(&self, id: CampaignId, min_version: i64, exact: bool) -> Result<Found, TotalsError> {
        if !exact && let Some(totals) = self.cache.load_totals(id).await.filter(|it| it.version >= min_version) {
            return Ok(Found { totals, source: Source::Redis, is_in_redis: true });
        }
        let now = self.clock.now();
        let (totals, source) = match self.store.read_totals_view(id, now).await? {
            Some(totals) => (totals, Source::View),
            None => {
                let totals = self.store.read_totals_ledger(id, now).await?.ok_or(TotalsError::NotFound)?;
                (totals, Source::Realtime)
            }
        };
        let is_in_redis = self.cache.store_totals(&totals).await;
        Ok(Found { totals, source, is_in_redis })
    }
}

impl TotalsActor {
    /// An actor that fills `memory`.
    pub fn new(store: Store, cache: Cache, clock: Clock, memory: TotalsMemory) -> Self {
        Self { levels: Levels { store, cache, clock }, memory, reading: HashMap::new(), unrenewed: HashMap::new() }
    }

    fn ask(&mut self, id: CampaignId, min_version: i64, exact: bool, reply: Reply, ctx: &mut Context<Self>) {
        if let Some(reading) = self.reading.get_mut(&id) {
            METRICS.totals_shared_reads.inc();
            if reading.dropped {
                reading.late.push((min_version, reply))
            } else {
                reading.early.push((min_version, reply))
            }
            return;
        }
        self.read(id, vec![(min_version, reply)], exact, ctx);
    }

    fn read(&mut self, id: CampaignId, early: Vec<(i64, Reply)>, exact: bool, ctx: &mut Context<Self>) {
        let wanted = early.iter().map(|(min_version, _)| *min_version).max().unwrap_or(0);
        let min_version = wanted.max(self.memory.floor(id));
        let first = early.len();
        self.reading.insert(id, Reading { early, first, ..Reading::default() });
        let levels = self.levels.clone();
        let job = async move { levels.read(id, min_version, exact).await };
        ctx.spawn(job.into_actor(self).map(move |read, act, ctx| act.finish(id, read, ctx)));
    }

    fn finish(&mut self, id: CampaignId, read: Result<Found, TotalsError>, ctx: &mut Context<Self>) {
        let reading = self.reading.remove(&id).unwrap_or_default();
        if !reading.dropped {
            self.settle_renewal(id, &read, ctx);
        }
        let answer = read
            .and_then(|Found { totals, source, .. }| Ok((render(&totals, Source::Memory)?, render(&totals, source)?)));
        let mut again = reading.late;
        for (place, (min_version, reply)) in reading.early.into_iter().enumerate() {
            // Whoever joined may know of a commit that the read, which had begun, did not see.
            let may_know_more = place >= reading.first;
            match &answer {
                // Too old for this one: the database knows more, or nobody does.
                Ok((_, told)) if told.version < min_version && (may_know_more || told.source == Source::Redis) => {
                    again.push((min_version, reply));
                }
                Ok((_, told)) => {
                    METRICS.totals_answers.with_label_values(&[told.source.as_str()]).inc();
                    let _ = reply.send(Ok(told.clone()));
                }
                Err(error) => drop(reply.send(Err(error.clone()))),
            }
        }
        if let Ok((remembered, _)) = answer
            && !reading.dropped
        {
            self.memory.remember(id, remembered);
        }
        if !again.is_empty() {
            self.read(id, again, true, ctx);
        }
    }

    /// A total that could not be brought to Redis is brought again, until the old one there has expired: the other
    /// replicas may reach Redis though we do not, and the fact is not told to them.
    fn settle_renewal(&mut self, id: CampaignId, read: &Result<Found, TotalsError>, ctx: &mut Context<Self>) {
        let Some(unrenewed) = self.unrenewed.get_mut(&id) else { return };
        match read {
            Ok(found) if found.source == Source::Redis => {} // says nothing of what came after the fact
            Ok(found) if !found.is_in_redis && Instant::now() < unrenewed.until => {
                if !std::mem::replace(&mut unrenewed.is_tried_again, true) {
                    ctx.run_later(RENEW_AGAIN, move |act, ctx| act.renew_again(id, ctx));
                }
            }
            // Where the database is away, the fact itself comes again.
            Ok(_) | Err(_) => drop(self.unrenewed.remove(&id)),
        }
    }

    fn must_renew(&mut self, id: CampaignId) {
        let until = Instant::now() + Duration::from_secs(TOTALS_TTL_S);
        self.unrenewed.entry(id).or_insert(Unrenewed { until, is_tried_again: false }).until = until;
    }

    fn renew_again(&mut self, id: CampaignId, ctx: &mut Context<Self>) {
        if let Some(unrenewed) = self.unrenewed.get_mut(&id) {
            unrenewed.is_tried_again = false;
            self.ask(id, 0, true, oneshot::channel().0, ctx);
        }
    }

    fn drop_totals(&mut self, id: CampaignId) {
        self.memory.forget(id);
        if let Some(reading) = self.reading.get_mut(&id) {
            reading.dropped = true;
        }
    }

    fn refresh_view(&mut self, ctx: &mut Context<Self>) {
        let store = self.levels.store.clone();
        let job = async move {
            let outcome = match store.refresh_totals_view().await {
                Ok(true) => "refreshed",
                Ok(false) => "elsewhere",
                Err(error) => {
                    tracing::warn!(%error, "the view of totals cannot be refreshed; answers stay exact");
                    "failed"
                }
            };
            METRICS.totals_refreshes.with_label_values(&[outcome]).inc();
        };
        ctx.spawn(job.into_actor(self));
    }
}

/// Asks for a campaign's totals, never older than `min_version`.
#[derive(Message)]
#[rtype(result = "Result<TotalsAnswer, TotalsError>")]
pub struct GetTotals {
    /// The campaign.
    pub id: CampaignId,
    /// The version that the answer must have at least.
    pub min_version: i64,
}

impl Actor for TotalsActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.refresh_view(ctx);
        ctx.run_interval(REFRESH, Self::refresh_view);
    }
}

impl Supervised for TotalsActor {}

impl Handler<GetTotals> for TotalsActor {
    type Result = ResponseFuture<Result<TotalsAnswer, TotalsError>>;

    fn handle(&mut self, GetTotals { id, min_version }: GetTotals, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.ask(id, min_version, false, reply, ctx);
        wait_for(answer)
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
        let changed: HashSet<CampaignId> =
            facts.iter().filter(|fact| fact.kind.changes_totals()).map(|fact| fact.data.campaign_id).collect();
        let mut renewals = Vec::new();
        for id in changed {
            self.drop_totals(id);
            // What other replicas read from Redis must not be older than the fact that we acknowledge.
            if matches!(self.levels.cache, Cache::Redis(_)) {
                self.must_renew(id);
                let (reply, answer) = oneshot::channel();
                self.ask(id, 0, true, reply, ctx);
                renewals.push(wait_for(answer));
            }
        }
        Box::pin(async move {
            for renewal in futures::future::join_all(renewals).await {
                match renewal {
                    Ok(_) | Err(TotalsError::NotFound | TotalsError::Internal(_)) => {}
                    Err(TotalsError::Unavailable(error)) => return Err(TakeError::Passing(error)),
                }
            }
            Ok(())
        })
    }
}
