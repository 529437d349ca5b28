//! The registry: finds, spawns, revives and retires payment actors. One for each arbiter; payments are spread by hash.
//!
//! A payment actor that panicked closed its mailbox: the registry drops that very address, starts a fresh actor, which
//! loads from Postgres, and sends once more. An actor retires when nothing is in flight to it and nothing came for a
//! while: the registry forgets the address first, so nothing can be sent to it any more. Deliberately absent: waiting. A
//! forwarder never handles atomically.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use futures::future::{join, join_all};
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::payment::{Command, PaymentActor, PaymentError, Reply, Retire, Tools};
use crate::domain::ids::PaymentId;
use crate::metrics::METRICS;
use crate::store::payments::DueCheck;

/// How long an actor without commands lives.
const IDLE: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(5);
/// Actors in one process beyond which those that were idle longest retire sooner: a crowd must not take memory without bound. The
/// next command loads the payment again, by its key.
const LIVE: usize = 128 * 1024;
/// Commands that are under way in one registry at most.
const IN_FLIGHT: usize = 16 * 1024;
/// How often due checks are looked for, how many are taken at a time, and for how long they are leased.
const CHECKS: Duration = Duration::from_secs(2);
const CHECKS_BATCH: i64 = 200;
const CHECKS_LEASE_S: i64 = 60;
/// Payments that are open at the provider and only silent are asked after so many at a time: a crowd that left without paying falls
/// due all at once, a minute later, nobody waits for that, and everybody else reads over the same connections.
const SILENT_AT_ONCE: usize = 16;
/// After a full batch of them the next one waits so many times what it took, at most so long. Where a payment is still to be opened
/// its donor may be waiting, and the next batch follows at once.
const CHECKS_REST_TIMES: u32 = 3;
const CHECKS_REST_AT_MOST: Duration = Duration::from_millis(500);
/// Looks in a row that give way to donors who wait too long.
const GIVES_WAY: u32 = 5;
/// How long a batch of checks is waited for before the next one is taken. Those that were not begun by then are due again after
/// their lease.
const CHECKS_WAIT: Duration = Duration::from_secs(5);
/// Events are taken up when their payment appears; one that waits longer than this was left behind by a crash.
const PARKED_TOO_LONG: time::Duration = time::Duration::seconds(30);
/// The registry's own mailbox.
const MAILBOX: usize = 1024;

/// The address book of all payments in this process.
#[derive(Clone)]
pub struct Payments(Arc<[Addr<Registry>]>);

impl Payments {
    /// Starts one registry on each of `arbiters`; the first one looks for due checks.
    pub fn start(arbiters: &[Arbiter], tools: Arc<Tools>, idle: Option<Duration>) -> Self {
        Self::start_registries(arbiters, tools, idle, true)
    }

    /// The same without looking for due checks: for a command that runs beside the server.
    pub fn start_quietly(arbiters: &[Arbiter], tools: Arc<Tools>) -> Self {
        Self::start_registries(arbiters, tools, None, false)
    }

    fn start_registries(arbiters: &[Arbiter], tools: Arc<Tools>, idle: Option<Duration>, checks: bool) -> Self {
        let live = LIVE / arbiters.len().max(1);
        let addresses: Vec<Addr<Registry>> = arbiters
            .iter()
            .enumerate()
            .map(|(at, arbiter)| {
                let tools = Arc::clone(&tools);
                let idle = idle.unwrap_or(IDLE);
                Supervisor::start_in_arbiter(&arbiter.handle(), move |_| {
                    Registry::new(tools, idle, live, checks && at == 0)
                })
            })
            .collect();
        let payments = Self(addresses.into());
        payments.0[0].do_send(Neighbours(payments.clone()));
        payments
    }

    /// The registries, one for each arbiter.
    pub fn registries(&self) -> impl Iterator<Item = &Addr<Registry>> {
        self.0.iter()
    }

    /// Sends a command to a payment and waits for its reply.
    pub async fn send(&self, id: PaymentId, command: Command) -> Result<Reply, PaymentError> {
        // The random end of a UUIDv7; the beginning is the time.
        let shard = usize::from(id.uuid().as_bytes()[14]) % self.0.len();
        self.0[shard]
            .send(Route { id, command })
            .await
            .unwrap_or_else(|error| Err(PaymentError::Unavailable(error.to_string())))
    }

    /// Sends a command whose work goes on whether or not the caller waits for it.
    pub fn spawn(&self, id: PaymentId, command: Command) -> tokio::task::JoinHandle<Result<Reply, PaymentError>> {
        let payments = self.clone();
        actix_rt::spawn(async move { payments.send(id, command).await })
    }
}

struct Entry {
    address: Addr<PaymentActor>,
    in_flight: usize,
    last_used: Instant,
}

impl Entry {
    fn retire(&self) {
        self.address.do_send(Retire); // its mailbox is empty: nothing is in flight
        METRICS.payment_actors.dec();
        METRICS.payment_actor_retirements.inc();
    }
}

/// The actor.
pub struct Registry {
    tools: Arc<Tools>,
    idle: Duration,
    /// Actors of this registry beyond which it does not wait for `idle`.
    live: usize,
    looks_for_checks: bool,
    neighbours: Option<Payments>,
    /// Looks for checks that gave way in a row.
    gave_way: u32,
    actors: HashMap<PaymentId, Entry>,
    in_flight: usize,
}

/// Gives the registry that looks for due checks the address book of all.
#[derive(Message)]
#[rtype(result = "()")]
struct Neighbours(Payments);

/// A command on its way to a payment.
#[derive(Clone, Message)]
#[rtype(result = "Result<Reply, PaymentError>")]
pub struct Route {
    id: PaymentId,
    command: Command,
}

impl Registry {
    fn new(tools: Arc<Tools>, idle: Duration, live: usize, looks_for_checks: bool) -> Self {
        Self {
            tools,
            idle,
            live,
            looks_for_checks,
            neighbours: None,
            gave_way: 0,
            actors: HashMap::new(),
            in_flight: 0,
        }
    }

    /// The payment's actor, started if need be; one more command is in flight to it.
    fn reach(&mut self, id: PaymentId) -> Addr<PaymentActor> {
        let tools = &self.tools;
        let entry = self.actors.entry(id).or_insert_with(|| {
            METRICS.payment_actors.inc();
            Entry { address: PaymentActor::new(id, Arc::clone(tools)).start(), in_flight: 0, last_used: Instant::now() }
        });
        entry.in_flight += 1;
        self.in_flight += 1;
        entry.address.clone()
    }

    /// A command came back. Only the very actor that it was sent to is accounted for.
    fn came_back(&mut self, id: PaymentId, from: &Addr<PaymentActor>) {
        self.in_flight -= 1;
        if let Some(entry) = self.actors.get_mut(&id).filter(|entry| entry.address == *from) {
            entry.in_flight -= 1;
            entry.last_used = Instant::now();
        }
    }

    /// Forgets an actor whose mailbox is closed, unless another took its place already.
    fn bury(&mut self, id: PaymentId, dead: &Addr<PaymentActor>) {
        if self.actors.get(&id).is_some_and(|entry| entry.address == *dead) {
            self.actors.remove(&id);
            METRICS.payment_actors.dec();
            METRICS.payment_actor_restarts.inc();
            tracing::error!(payment = %id, "a payment actor died; a fresh one takes its place");
        }
    }

    /// Retires those that were idle longest, until `most` are left, or until the others are at work.
    fn retire_beyond(&mut self, most: usize) {
        let Some(beyond) = self.actors.len().checked_sub(most + 1) else { return };
        let mut idle: Vec<Instant> =
            self.actors.values().filter(|entry| entry.in_flight == 0).map(|entry| entry.last_used).collect();
        if idle.is_empty() {
            return;
        }
        let last = beyond.min(idle.len() - 1);
        let until = *idle.select_nth_unstable(last).1;
        self.actors.retain(|_, entry| {
            let stays = entry.in_flight > 0 || entry.last_used > until;
            if !stays {
                entry.retire();
            }
            stays
        });
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        let idle = self.idle;
        self.actors.retain(|_, entry| {
            let stays = entry.in_flight > 0 || now.duration_since(entry.last_used) < idle;
            if !stays {
                entry.retire();
            }
            stays
        });
        self.retire_beyond(self.live);
        if self.actors.is_empty() {
            self.actors.shrink_to_fit();
        }
    }

    fn look_for_checks(&mut self, ctx: &mut Context<Self>) {
        let Some(payments) = self.neighbours.clone() else { return };
        if self.tools.pressure.is_high() && self.gave_way < GIVES_WAY {
            self.gave_way += 1;
            return look_again(CHECKS, ctx);
        }
        self.gave_way = 0;
        let tools = Arc::clone(&self.tools);
        let job = async move {
            let began = Instant::now();
            let due = tools.store.claim_due_checks(tools.clock.now(), CHECKS_LEASE_S, CHECKS_BATCH).await;
            let mut rest = CHECKS;
            match due {
                Ok(due) => {
                    let is_full = due.len() >= usize::try_from(CHECKS_BATCH).unwrap_or(usize::MAX);
                    let has_unopened = check_all(&payments, due).await;
                    if is_full {
                        rest = rest_after(began.elapsed(), has_unopened);
                    }
                }
                Err(error) => tracing::warn!(%error, "due checks cannot be read"),
            }
            let then = tools.clock.now() - PARKED_TOO_LONG;
            match tools.store.find_parked_payments(then, CHECKS_BATCH).await {
                Ok(late) => late.into_iter().for_each(|id| drop(payments.spawn(id, Command::TakeUpParked))),
                Err(error) => tracing::warn!(%error, "parked events cannot be read"),
            }
            rest
        };
        ctx.spawn(job.into_actor(self).map(|rest, _, ctx| look_again(rest, ctx)));
    }
}

/// Checks a batch, until it is done or takes too long; whether any of it is still to be opened.
async fn check_all(payments: &Payments, due: Vec<DueCheck>) -> bool {
    let check = |due: DueCheck| payments.spawn(due.payment, Command::Check);
    let (unopened, silent): (Vec<_>, Vec<_>) = due.into_iter().partition(|check| check.is_unopened);
    let has_unopened = !unopened.is_empty();
    let openings = join_all(unopened.into_iter().map(check).collect::<Vec<_>>());
    let silent = stream::iter(silent).map(check).buffer_unordered(SILENT_AT_ONCE).for_each(|_| std::future::ready(()));
    let _ = tokio::time::timeout(CHECKS_WAIT, join(openings, silent)).await;
    has_unopened
}

fn look_again(rest: Duration, ctx: &mut Context<Registry>) {
    ctx.run_later(rest, Registry::look_for_checks);
}

/// How long the next batch of due checks waits after a full one that took so long.
fn rest_after(took: Duration, has_unopened: bool) -> Duration {
    if has_unopened { Duration::ZERO } else { (took * CHECKS_REST_TIMES).min(CHECKS_REST_AT_MOST) }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(SWEEP.min(self.idle), |act, _| act.sweep());
    }
}

impl Supervised for Registry {}

impl Handler<Neighbours> for Registry {
    type Result = ();

    fn handle(&mut self, msg: Neighbours, ctx: &mut Self::Context) {
        self.neighbours = Some(msg.0);
        if self.looks_for_checks {
            look_again(CHECKS, ctx);
        }
    }
}

impl Handler<Route> for Registry {
    type Result = ResponseActFuture<Self, Result<Reply, PaymentError>>;

    fn handle(&mut self, route: Route, _ctx: &mut Self::Context) -> Self::Result {
        if self.in_flight >= IN_FLIGHT {
            return Box::pin(fut::ready(Err(PaymentError::Unavailable("too many commands are under way".to_owned()))));
        }
        let first = self.reach(route.id);
        let sent = first.send(route.command.clone());
        Box::pin(sent.into_actor(self).then(move |outcome, act, _| {
            act.came_back(route.id, &first);
            let next: ResponseActFuture<Self, Result<Reply, PaymentError>> = match outcome {
                Ok(reply) => Box::pin(fut::ready(reply)),
                Err(_) => {
                    act.bury(route.id, &first);
                    act.send_once_more(route)
                }
            };
            next
        }))
    }
}

impl Registry {
    fn send_once_more(&mut self, route: Route) -> ResponseActFuture<Self, Result<Reply, PaymentError>> {
        let second = self.reach(route.id);
        let sent = second.send(route.command);
        Box::pin(sent.into_actor(self).map(move |outcome, act, _| {
            act.came_back(route.id, &second);
            outcome.unwrap_or_else(|error| {
                act.bury(route.id, &second);
                Err(PaymentError::Unavailable(error.to_string()))
            })
        }))
    }
}

#[cfg(test)]
mod tests;
