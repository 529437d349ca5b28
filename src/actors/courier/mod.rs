//! A courier: claims due messages of its channel, sends them side by side, writes every attempt down.
//!
//! It asks its lanes for room, claims as much as there is room for (the claim writes the attempts down before anything is
//! sent), sends, and settles whatever has ended meanwhile in one statement; what ends during that waits for the next.
//! Reading order: this file (who is claimed and settled when), `lanes` (breakers, rates, shares), `way` (one message on
//! its way), `judge` (what an attempt comes to), `pace`, `ghosts` (processes that ended in the middle).
//!
//! A crash between a provider's yes and our commit leaves an attempt that was never settled. It is on record as UNKNOWN,
//! and its message goes out again: under the same `Message-ID` or `webhook-id`. Deliberately absent: what messages are
//! due (the notification consumer) and their words (`domain::notice`).

mod ghosts;
mod judge;
mod lanes;
mod pace;
mod way;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::FutureExt;
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use self::ghosts::Ghosts;
use self::judge::{Timing, judge, schedule};
use self::lanes::{Bounds, Lanes, PROVIDER};
pub use self::pace::Rate;
pub use self::way::Way;
use super::facts::Wake;
use crate::clock::Clock;
use crate::domain::notice::Channel;
use crate::gateways::breaker::{Breaker, Permit};
use crate::gateways::delivery::{Accepted, AddressRefusal, DeliveryError, settle as tell_breaker};
use crate::gateways::mailer::Patience;
use crate::metrics::METRICS;
use crate::store::endpoints::Health;
use crate::store::notices::{Claim, Content, Room, Settled};
use crate::store::presence::{BELIEVE, Presence};
use crate::store::suppressions::SuppressionReason;
use crate::store::{Store, StoreError};
use crate::trace::{self, Current, Kind, Span};

/// Deliveries at the same time: mails, as many as the relay's pool has connections.
const MAILS: usize = 16;
/// Text messages.
const TEXTS: usize = 16;
/// Webhooks: of all endpoints, and of one. An endpoint that hangs holds its own share and no more.
const WEBHOOKS: usize = 64;
const WEBHOOKS_OF_ONE: usize = 16;
/// The safety net under the wake, and the clock of retries.
const POLL: Duration = Duration::from_secs(1);
/// How often it is looked for what processes left behind, and for webhooks to endpoints that are disabled.
const SWEEP: Duration = Duration::from_secs(2);
/// Above every gateway's own timeout.
const DELIVERY_MAX: Duration = Duration::from_secs(90);
const _: () = assert!(DELIVERY_MAX.as_secs() > Patience::USUAL.whole.as_secs());
/// Pause before attempts that could not be written down are written again; it doubles up to the longest.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Who says that an address takes nothing, in the list of suppressed ones: the provider, when it was sent to.
const AT_SENDING: &str = "sending";

/// What a courier works with.
pub struct Tools {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Under whose number messages are claimed.
    pub presence: Presence,
}

/// The actor.
pub struct Courier {
    tools: Arc<Tools>,
    way: Way,
    channel: Channel,
    lanes: Lanes,
    ghosts: Ghosts,
    /// What we are sending, or sent and could not write down.
    sending: HashSet<Uuid>,
    /// A look for due messages is under way.
    looking: bool,
    /// Somebody woke us meanwhile.
    woken: bool,
    /// A second look is planned.
    planned: Option<SpawnHandle>,
    /// Ended, to be written down.
    ended: Vec<Ended>,
    settling: bool,
    settle_pause: Duration,
    sweeping: bool,
    /// The next look begins by asking whether we hold claims that we never heard of.
    stray_look: bool,
    /// Nothing is claimed any more; who waits for the last delivery.
    closing: Option<Vec<oneshot::Sender<()>>>,
}

/// A delivery that came to its end.
struct Ended {
    lane: Uuid,
    settled: Settled,
    /// Of an endpoint: how it fared.
    health: Option<Health>,
    /// Of a person's address: why it takes nothing any more.
    refusal: Option<AddressRefusal>,
}

impl Courier {
    /// A courier that goes that `way`, at that `rate` for each lane. `breaker` guards the channel's one provider; each
    /// endpoint has one of its own.
    pub fn new(tools: Tools, way: Way, rate: Option<Rate>, breaker: Breaker) -> Self {
        let channel = way.channel();
        let (side_by_side, in_one_lane) = match channel {
            Channel::Email => (MAILS, MAILS),
            Channel::Sms => (TEXTS, TEXTS),
            Channel::Webhook => (WEBHOOKS, WEBHOOKS_OF_ONE),
        };
        Self {
            tools: Arc::new(tools),
            way,
            channel,
            lanes: Lanes::guarded_by(Bounds { side_by_side, in_one_lane, rate }, breaker),
            ghosts: Ghosts::default(),
            sending: HashSet::new(),
            looking: false,
            woken: false,
            planned: None,
            ended: Vec::new(),
            settling: false,
            settle_pause: SETTLE_PAUSE,
            sweeping: false,
            stray_look: false,
            closing: None,
        }
    }

    /// Looks for due messages, unless a look is under way or nothing may be claimed.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.looking {
            self.woken = true;
            return;
        }
        self.woken = false;
        let Some(number) = self.tools.presence.number().filter(|_| self.closing.is_none()) else { return };
        self.looking = true;
        if std::mem::take(&mut self.stray_look) {
            return self.free_strays(number, ctx);
        }
        match self.channel {
            Channel::Email | Channel::Sms => self.claim(number, &[PROVIDER], ctx),
            Channel::Webhook => {
                let tools = Arc::clone(&self.tools);
                let find = async move { tools.store.find_due_endpoints(tools.clock.now()).await };
                ctx.spawn(find.into_actor(self).map(move |found, act, ctx| match found {
                    Ok(endpoints) => act.claim(number, &endpoints, ctx),
                    Err(error) => act.looked(Err(error), ctx),
                }));
            }
        }
    }

    /// A claim whose answer was lost is ours and nobody sends it. No claim is under way while we ask: this is a look.
    fn free_strays(&mut self, number: i32, ctx: &mut Context<Self>) {
        let (tools, channel) = (Arc::clone(&self.tools), self.channel);
        let sending: Vec<Uuid> = self.sending.iter().copied().collect();
        let free = async move { tools.store.release_strays(channel, number, &sending, tools.clock.now()).await };
        ctx.spawn(free.into_actor(self).map(|freed, act, ctx| {
            if let Ok(strays @ 1..) = freed {
                tracing::info!(channel = act.channel.as_str(), strays, "claims were made whose answer was lost");
            }
            act.looked(freed.map(|_| true), ctx);
        }));
    }

    /// Claims as many messages as those lanes have room for.
    fn claim(&mut self, number: i32, wanted: &[Uuid], ctx: &mut Context<Self>) {
        // Somebody asked us to finish while it was looked what is due.
        if self.closing.is_some() {
            return self.looked(Ok(false), ctx);
        }
        let (permits, again) = self.lanes.admit(wanted, Instant::now());
        if let Some(again) = again {
            self.look_again(again, ctx);
        }
        if permits.is_empty() {
            return self.looked(Ok(false), ctx);
        }
        let (tools, channel) = (Arc::clone(&self.tools), self.channel);
        let lanes: Vec<Uuid> = permits.iter().map(|(lane, _)| *lane).collect();
        let claim = async move { claim(&tools, channel, number, lanes).await };
        ctx.spawn(claim.into_actor(self).map(move |claimed, act, ctx| match claimed {
            Ok(claimed) => {
                let full = claimed.found >= permits.len();
                act.send(claimed.claims, permits, number, ctx);
                act.looked(Ok(full), ctx);
            }
            Err(error) => act.looked(Err(error), ctx),
        }));
    }

    /// A look is over; `full` when there may be more.
    fn looked(&mut self, full: Result<bool, StoreError>, ctx: &mut Context<Self>) {
        self.looking = false;
        match full {
            Ok(full) if full || self.woken => self.look(ctx),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(channel = self.channel.as_str(), %error, "messages cannot be claimed; it is tried again");
            }
        }
        self.say_whether_done();
    }

    fn look_again(&mut self, after: Duration, ctx: &mut Context<Self>) {
        // The poll is sooner, or another plan stands.
        if after >= POLL || self.planned.is_some() {
            return;
        }
        self.planned = Some(ctx.run_later(after, |act, ctx| {
            act.planned = None;
            act.look(ctx);
        }));
    }

    /// Sends what was claimed, each in a task of its own. Permits without a message are given back.
    fn send(&mut self, claims: Vec<Claim>, permits: Vec<(Uuid, Permit)>, number: i32, ctx: &mut Context<Self>) {
        let mut by_lane: HashMap<Uuid, Vec<Permit>> = HashMap::new();
        for (lane, permit) in permits {
            by_lane.entry(lane).or_default().push(permit);
        }
        for claim in claims {
            let (lane, id) = (lane_of(&claim), claim.id.uuid());
            self.lanes.begin(lane, Instant::now());
            self.sending.insert(id);
            let permit = by_lane.get_mut(&lane).and_then(Vec::pop);
            let delivery = deliver(Arc::clone(&self.tools), self.way.clone(), claim, permit, number);
            let courier = ctx.address();
            actix_rt::spawn(async move {
                // As many at most as are under way: the mailbox cannot grow by it.
                courier.do_send(
                    delivery
                        .await
                        .map_or(Delivered::Dropped { lane, id }, |(ended, rest)| Delivered::Ended { ended, rest }),
                );
            });
        }
    }

    /// Writes down what has ended, in one statement; what ends meanwhile waits for the next.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        if self.settling || self.ended.is_empty() {
            return;
        }
        self.settling = true;
        let (tools, channel, batch) = (Arc::clone(&self.tools), self.channel, std::mem::take(&mut self.ended));
        let settle = async move { settle(&tools, channel, batch).await };
        ctx.spawn(settle.into_actor(self).map(|(done, again), act, ctx| {
            act.settling = false;
            for over in done {
                act.lanes.end(over.lane);
                if let Some(id) = over.written {
                    act.sending.remove(&id);
                }
            }
            if again.is_empty() {
                act.settle_pause = SETTLE_PAUSE;
                act.settle(ctx);
            } else {
                act.ended.extend(again);
                let pause = act.settle_pause;
                act.settle_pause = (pause * 2).min(SETTLE_PAUSE_MAX);
                ctx.run_later(pause, Self::settle);
            }
            act.look(ctx);
            act.say_whether_done();
        }));
    }

    /// Frees what processes left behind, and ends what can go nowhere.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        METRICS
            .notification_circuits_open
            .with_label_values(&[self.channel.as_str()])
            .set(i64::try_from(self.lanes.open()).unwrap_or(i64::MAX));
        let Some(number) = self.tools.presence.number().filter(|_| !self.sweeping) else { return };
        self.sweeping = true;
        self.stray_look = true;
        self.look(ctx);
        let (tools, channel) = (Arc::clone(&self.tools), self.channel);
        let sweep = async move {
            if channel == Channel::Webhook {
                tools.store.bury_undeliverable().await?;
            }
            tools.store.find_free_numbers(channel, number).await
        };
        ctx.spawn(sweep.into_actor(self).map(|free, act, ctx| match free {
            Ok(free) => act.free(&free, ctx),
            Err(error) => {
                act.sweeping = false;
                tracing::debug!(%error, "what was left behind cannot be looked for; it is tried again");
            }
        }));
    }

    fn free(&mut self, free: &[i32], ctx: &mut Context<Self>) {
        let gone = self.ghosts.look(free, BELIEVE, Instant::now());
        if gone.is_empty() {
            self.sweeping = false;
            return;
        }
        let (tools, channel) = (Arc::clone(&self.tools), self.channel);
        let release = async move { tools.store.release_claims(channel, &gone, tools.clock.now()).await };
        ctx.spawn(release.into_actor(self).map(|freed, act, ctx| {
            act.sweeping = false;
            match freed {
                Ok(unknown) => {
                    if unknown > 0 {
                        tracing::warn!(
                            channel = act.channel.as_str(),
                            unknown,
                            "a process ended while it was sending; these go out again and may arrive twice"
                        );
                    }
                    act.look(ctx);
                }
                Err(error) => tracing::warn!(%error, "what was left behind cannot be freed; it is tried again"),
            }
        }));
    }

    /// A claim that is under way may bring messages yet.
    fn say_whether_done(&mut self) {
        if self.lanes.under_way() == 0
            && !self.looking
            && let Some(waiting) = &mut self.closing
        {
            for waiting in waiting.drain(..) {
                let _ = waiting.send(()); // who asked may have gone
            }
        }
    }
}

struct Claimed {
    claims: Vec<Claim>,
    /// With those whose address is suppressed.
    found: usize,
}

async fn claim(tools: &Tools, channel: Channel, number: i32, lanes: Vec<Uuid>) -> Result<Claimed, StoreError> {
    let now = tools.clock.now();
    match channel {
        Channel::Email | Channel::Sms => {
            let limit = i64::try_from(lanes.len()).unwrap_or(i64::MAX);
            let (claims, silenced) = tools.store.claim_messages(channel, number, now, limit).await?;
            METRICS.notifications_suppressed.with_label_values(&[channel.as_str()]).inc_by(silenced);
            let found = claims.len() + usize::try_from(silenced).unwrap_or(usize::MAX);
            Ok(Claimed { claims, found })
        }
        Channel::Webhook => {
            let claims = tools.store.claim_callbacks(&Room::of(lanes), number, now).await?;
            Ok(Claimed { found: claims.len(), claims })
        }
    }
}

fn lane_of(claim: &Claim) -> Uuid {
    match &claim.content {
        Ok(Content::Callback(callback)) => callback.endpoint_id,
        Ok(Content::Letter(_)) | Err(_) => PROVIDER,
    }
}

/// One message on its way. Nothing when our number was lost meanwhile: others may be sending the message now.
async fn deliver(
    tools: Arc<Tools>,
    way: Way,
    claim: Claim,
    permit: Option<Permit>,
    number: i32,
) -> Option<(Ended, Option<Duration>)> {
    let (lane, channel, began) = (lane_of(&claim), way.channel(), Instant::now());
    let mut span = span(channel, &claim);
    let sending = timeout(DELIVERY_MAX, AssertUnwindSafe(way.send(&claim, &tools.clock)).catch_unwind());
    let sending = trace::within(whose(&claim, &span), sending);
    let sent = tokio::select! {
        sent = sending => sent,
        () = tools.presence.lost(number) => {
            span.fail("dropped");
            tracing::warn!(notice = %claim.id, "dropped in the middle: the database does not see this process any more");
            return None;
        }
    };
    let sent = match sent {
        Ok(Ok(sent)) => sent,
        Ok(Err(_)) => Err(lost("panic", "the delivery panicked")),
        Err(_) => Err(lost("timeout", "the gateway did not come back")),
    };
    if let Some(permit) = permit {
        tell_breaker(permit, &sent);
    }
    let elapsed = began.elapsed();
    METRICS.notification_seconds.with_label_values(&[channel.as_str()]).observe(elapsed.as_secs_f64());
    let timing = Timing {
        at: tools.clock.now(),
        duration_ms: i32::try_from(elapsed.as_millis()).unwrap_or(i32::MAX),
        jitter: rand::rng().random_range(0..1000),
    };
    let schedule = claim.content.as_ref().map_or(&[][..], |content| schedule(channel, content));
    let settled = judge(&claim, schedule, &sent, timing);
    METRICS.notification_attempts.with_label_values(&[channel.as_str(), settled.outcome]).inc();
    if sent.is_err() {
        span.fail(settled.outcome.to_ascii_lowercase());
    }
    if settled.status == "DEAD" {
        tracing::warn!(notice = %claim.id, channel = channel.as_str(), code = settled.code, "a message is dead");
    }
    let (health, error) = (health(&claim, &sent), sent.err());
    let rest = error.as_ref().and_then(DeliveryError::asked_to_wait);
    let refusal = error.as_ref().and_then(DeliveryError::refusal);
    Some((Ended { lane, settled, health, refusal }, rest))
}

/// One attempt. The recipient and the words are the donor's; partners are not told of our trace.
fn span(channel: Channel, claim: &Claim) -> Span {
    let mut span = Span::below(Kind::Client, claim.traceparent.as_deref(), || format!("deliver {}", channel.as_str()));
    if span.is_recorded() {
        span.set("careforall.channel", channel.as_str());
        span.set("careforall.attempt", i64::from(claim.attempt));
        span.set("careforall.notice.id", claim.id.to_string());
    }
    span
}

/// In whose name it is sent.
fn whose(claim: &Claim, span: &Span) -> Option<Current> {
    span.traceparent().or_else(|| claim.traceparent.clone()).map(Current::of)
}

/// How far the gateway came nobody can say.
fn lost(code: &str, detail: &str) -> DeliveryError {
    DeliveryError::Unknown { code: code.to_owned(), detail: detail.to_owned(), retry_after: None }
}

fn health(claim: &Claim, sent: &Result<Accepted, DeliveryError>) -> Option<Health> {
    let Ok(Content::Callback(callback)) = &claim.content else { return None };
    Some(Health {
        endpoint_id: callback.endpoint_id,
        succeeded: sent.is_ok(),
        gone: matches!(sent, Err(DeliveryError::Gone)),
    })
}

/// A delivery that needs no more of us.
struct Over {
    lane: Uuid,
    /// Which, unless it could not be written down: then it stays ours.
    written: Option<Uuid>,
}

impl Over {
    fn written(it: &Ended) -> Self {
        Self { lane: it.lane, written: Some(it.settled.id.uuid()) }
    }
}

/// Writes a batch down; returns what is over and what must be written again. A bad item fails alone.
async fn settle(tools: &Tools, channel: Channel, batch: Vec<Ended>) -> (Vec<Over>, Vec<Ended>) {
    match write_down(tools, channel, &batch).await {
        Ok(()) => (batch.iter().map(Over::written).collect(), Vec::new()),
        Err(error) if error.is_passing() => {
            tracing::warn!(%error, "attempts cannot be written down; it is tried again");
            (Vec::new(), batch)
        }
        Err(_) => {
            let (mut done, mut again) = (Vec::new(), Vec::new());
            for one in batch {
                match settle_alone(tools, channel, one).await {
                    Ok(over) => done.push(over),
                    Err(one) => again.push(one),
                }
            }
            (done, again)
        }
    }
}

/// Writes one down, with all that there is to say or without; what can be written later comes back.
async fn settle_alone(tools: &Tools, channel: Channel, one: Ended) -> Result<Over, Ended> {
    let batch = [one];
    let whole = write_down(tools, channel, &batch).await;
    let [one] = batch;
    let refused = match whole {
        Ok(()) => return Ok(Over::written(&one)),
        Err(error) if error.is_passing() => return Err(one),
        Err(error) => error,
    };
    let notice = one.settled.id;
    tracing::error!(error = %refused, %notice, "an attempt cannot be written down with all that follows from it");
    // First without what follows from it, then without its words too.
    let (lane, id) = (one.lane, notice.uuid());
    for settled in [one.settled.clone(), one.settled.bare()] {
        match tools.store.settle_attempts(&[settled]).await {
            Ok(()) => return Ok(Over { lane, written: Some(id) }),
            Err(error) if error.is_passing() => return Err(one),
            Err(error) => tracing::error!(%error, %notice, "an attempt cannot be written down"),
        }
    }
    // It stays claimed by this process, and is UNKNOWN once that has ended.
    Ok(Over { lane, written: None })
}

async fn write_down(tools: &Tools, channel: Channel, batch: &[Ended]) -> Result<(), StoreError> {
    let settled: Vec<Settled> = batch.iter().map(|it| it.settled.clone()).collect();
    tools.store.settle_attempts(&settled).await?;
    for (notice, refusal) in batch.iter().filter_map(|it| Some((it.settled.id, it.refusal?))) {
        let reason = match refusal {
            AddressRefusal::Unreachable => SuppressionReason::Bounce,
            AddressRefusal::OptedOut => SuppressionReason::Unsubscribe,
        };
        tools.store.suppress_recipient(channel, notice, reason, AT_SENDING, tools.clock.now()).await?;
    }
    let health = by_endpoint(batch.iter().filter_map(|it| it.health));
    if health.is_empty() {
        return Ok(());
    }
    let disabled = tools.store.record_endpoint_health(&health, tools.clock.now()).await?;
    for (endpoint, reason) in &disabled {
        tracing::warn!(%endpoint, reason, "a webhook endpoint is disabled");
    }
    if !disabled.is_empty() {
        tools.store.bury_undeliverable().await?;
    }
    Ok(())
}

/// One word for each endpoint: 410 is final, and one success shows that it works.
fn by_endpoint(health: impl Iterator<Item = Health>) -> Vec<Health> {
    let mut merged: HashMap<Uuid, Health> = HashMap::new();
    for it in health {
        let known = merged.entry(it.endpoint_id).or_insert(it);
        known.succeeded |= it.succeeded;
        known.gone |= it.gone;
    }
    merged.into_values().collect()
}

impl Actor for Courier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(POLL, Self::look);
        ctx.run_interval(SWEEP, Self::sweep);
        let presence = self.tools.presence.clone();
        ctx.spawn(async move { presence.gained().await }.into_actor(self).map(|(), act, ctx| act.look(ctx)));
    }
}

impl Supervised for Courier {}

impl Handler<Wake> for Courier {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

/// A delivery is over.
#[derive(Message)]
#[rtype(result = "()")]
enum Delivered {
    /// To be written down; and how long the provider asked us to wait.
    Ended { ended: Ended, rest: Option<Duration> },
    /// Somebody else's now.
    Dropped { lane: Uuid, id: Uuid },
}

impl Handler<Delivered> for Courier {
    type Result = ();

    fn handle(&mut self, delivered: Delivered, ctx: &mut Self::Context) {
        match delivered {
            Delivered::Ended { ended, rest } => {
                if let Some(asked) = rest {
                    self.lanes.rest(ended.lane, asked, Instant::now());
                }
                self.ended.push(ended);
                self.settle(ctx);
            }
            Delivered::Dropped { lane, id } => {
                self.sending.remove(&id);
                self.lanes.end(lane);
                self.say_whether_done();
            }
        }
    }
}

/// Claims nothing any more; answers when the last delivery is settled.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Finish;

impl Handler<Finish> for Courier {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Finish, _ctx: &mut Self::Context) -> Self::Result {
        let (sender, done) = oneshot::channel();
        self.closing.get_or_insert_default().push(sender);
        self.say_whether_done();
        Box::pin(async move {
            let _ = done.await; // a courier that is gone delivers nothing more
        })
    }
}

#[cfg(test)]
mod tests;
