//! The one road by which anything changes: claim the key, do the work, apply, journal, then answer; webhooks last.
//!
//! The state is locked once for a request and never over an await. Deliberately absent: HTTP (see `gate`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::commit::{Commit, Record};
use super::delivery::{Deliveries, Manner};
use super::due::DueQueue;
use super::errors::StripeError;
use super::events::{Delivery, Origin};
use super::expand::{Expand, Expanded};
use super::faults::Faults;
use super::followups::FollowUp;
use super::idempotency::{Answer, AnswerBody, Claim};
use super::ids::Id;
use super::journal::{Journal, Place, Written};
use super::objects::Object;
use super::render::ObjectView;
use super::state::{Limits, State};
use super::work::Work;
use super::{SandboxError, SandboxSettings};
use crate::clock::Clock;

/// How many follow-ups may wait; what does not fit is left to the control, or to the next start.
const MAX_FOLLOW_UPS: usize = 200_000;

/// The sandbox itself.
#[derive(Debug)]
pub(super) struct Engine {
    pub clock: Clock,
    pub faults: Faults,
    pub deliveries: Deliveries,
    state: Mutex<State>,
    journal: Option<Journal>,
    follow_ups: DueQueue<FollowUp>,
    stopping: watch::Sender<bool>,
}

/// Who asks for work, and what becomes of the answer.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// The request's own id.
    pub request: Option<Id>,
    /// Its idempotency key with its fingerprint.
    pub key: Option<(Id, u64)>,
    /// Whether the key is already held by this call.
    pub holds_key: bool,
    pub expand: Expand,
}

/// An answer, and whether it is an old one.
#[derive(Debug)]
pub(super) struct Answered {
    pub answer: Answer,
    pub replayed: bool,
}

/// What is left to do once the state is unlocked.
#[derive(Default)]
struct Aftermath {
    written: Option<Written>,
    to_send: Vec<Id>,
    manner: Manner,
    follow_ups: Vec<(Duration, FollowUp)>,
}

impl Engine {
    /// Opens the journal, if there is to be one, and puts what waits back into the queues. Blocks.
    pub fn open(settings: SandboxSettings) -> Result<Self, SandboxError> {
        let mut state = State::new(Limits::default());
        let journal = settings.journal_dir.as_deref().map(|directory| Journal::open(directory, &mut state));
        let engine = Self {
            clock: settings.clock,
            faults: Faults::default(),
            deliveries: Deliveries::new(settings.webhook_secret)?,
            journal: journal.transpose()?,
            follow_ups: DueQueue::new(MAX_FOLLOW_UPS),
            stopping: watch::Sender::new(false),
            state: Mutex::new(state),
        };
        engine.resume();
        Ok(engine)
    }

    fn resume(&self) {
        let state = self.state();
        let waiting = state.events_in(Delivery::is_waiting);
        let objects = (state.intents.iter().map(|o| Object::from(o.clone())))
            .chain(state.charges.iter().map(|o| o.clone().into()))
            .chain(state.refunds.iter().map(|o| o.clone().into()));
        let follow_ups: Vec<_> = objects.filter_map(|object| FollowUp::of(&object)).collect();
        drop(state);
        self.finish(Aftermath { to_send: waiting, follow_ups, ..Aftermath::default() });
    }

    /// The state, locked: never to be held over an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the key of a call that will take its time, or hands back its old answer.
    pub fn hold_key(&self, call: &mut Call) -> Result<Option<Answered>, StripeError> {
        let Some((key, fingerprint)) = &call.key else { return Ok(None) };
        let mut state = self.state();
        if let Claim::Replay(answer) = state.keys.check(key, *fingerprint)? {
            return Ok(Some(Answered { answer, replayed: true }));
        }
        state.keys.hold(key, *fingerprint);
        call.holds_key = true;
        Ok(None)
    }

    /// Does one call's work and answers when it is safely kept. Work that fails before it began changes nothing.
    pub async fn perform<F>(&self, call: Call, effect: F) -> Result<Answered, StripeError>
    where
        F: FnOnce(&mut Work<'_>) -> Result<Object, StripeError>,
    {
        let place = match &self.journal {
            Some(journal) => Some(journal.reserve().await.map_err(|_| StripeError::api_error())?),
            None => None,
        };
        let (answered, mut aftermath) = self.decide(call, place, effect)?;
        if let Some(written) = aftermath.written.take() {
            written.wait().await.map_err(|_| StripeError::api_error())?;
        }
        self.finish(aftermath);
        Ok(answered)
    }

    fn decide<F>(&self, call: Call, place: Option<Place<'_>>, effect: F) -> Result<(Answered, Aftermath), StripeError>
    where
        F: FnOnce(&mut Work<'_>) -> Result<Object, StripeError>,
    {
        let mut state = self.state();
        if let Some((key, fingerprint)) = call.key.as_ref().filter(|_| !call.holds_key)
            && let Claim::Replay(answer) = state.keys.check(key, *fingerprint)?
        {
            return Ok((Answered { answer, replayed: true }, Aftermath::default()));
        }
        let origin = Origin { request: call.request.clone(), idempotency_key: call.key.as_ref().map(|k| k.0.clone()) };
        let mut work = Work::new(&state, self.clock.unix_seconds(), origin);
        let outcome = match effect(&mut work) {
            Err(error) if !error.is_outcome() => {
                call.key.iter().for_each(|(key, _)| state.keys.release(key));
                return Err(error);
            }
            outcome => outcome,
        };
        let mut commit = work.into_commit();
        apply(&mut state, &mut commit);
        let answer = answer(&state, outcome, &call);
        if let Some((key, fingerprint)) = call.key {
            commit.set_answer(key.clone(), fingerprint, &answer);
            state.keys.answer(key, fingerprint, answer.clone());
        }
        Ok((Answered { answer, replayed: false }, aftermath(&state, commit, place)))
    }

    fn finish(&self, aftermath: Aftermath) {
        let overflow = self.deliveries.enqueue(aftermath.to_send, aftermath.manner);
        if !overflow.is_empty() {
            let mut state = self.state();
            overflow.iter().for_each(|event| state.set_delivery(event, Delivery::Held));
        }
        for (delay, follow_up) in aftermath.follow_ups {
            if self.follow_ups.push(delay, follow_up).is_err() {
                tracing::warn!("too many follow-ups wait in the sandbox: one is left to the control");
            }
        }
    }

    /// Writes down where the endpoint stands with an event; may be lost, then the event is sent once more.
    pub async fn record_delivery(&self, event: &Id, delivery: Delivery) {
        let place = match &self.journal {
            Some(journal) => journal.reserve().await.ok(),
            None => None,
        };
        let mut state = self.state();
        state.set_delivery(event, delivery);
        if let Some(place) = place {
            place.append_unawaited(Record::Delivery { event: event.clone(), delivery });
        }
    }

    /// Lets things follow until the sandbox stops.
    pub async fn run_follow_ups(self: Arc<Self>) {
        loop {
            let follow_up = tokio::select! {
                follow_up = self.follow_ups.next() => follow_up,
                () = self.stopped() => return,
            };
            let done = self.perform(Call::default(), |work| follow_up.run(work));
            if done.await.is_err() {
                tracing::debug!(?follow_up, "a follow-up came to nothing");
            }
        }
    }

    /// Resolves once the sandbox stops.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Waits, but not beyond the sandbox's end.
    pub async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stopped() => {}
        }
    }

    /// Stops deliveries and follow-ups, waits for those under way, and closes the journal.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        self.deliveries.drain().await;
        if let Some(journal) = &self.journal {
            journal.close().await;
        }
    }
}

fn apply(state: &mut State, commit: &mut Commit) {
    let State { rules, wanted_events, .. } = &mut *state;
    commit.set_deliveries(|kind| rules.first_delivery(kind, wanted_events));
    state.apply(commit);
}

fn aftermath(state: &State, commit: Commit, place: Option<Place<'_>>) -> Aftermath {
    Aftermath {
        to_send: commit.queued_events().collect(),
        manner: Manner::of(&state.rules),
        follow_ups: commit.objects.iter().filter_map(FollowUp::of).collect(),
        written: place.filter(|_| !commit.is_empty()).map(|place| place.append(Record::Commit(commit))),
    }
}

fn answer(state: &State, outcome: Result<Object, StripeError>, call: &Call) -> Answer {
    let request = call.request.clone().unwrap_or_default();
    match outcome {
        Ok(object) if !call.expand.is_wanted() => Answer { status: 200, request, body: AnswerBody::Object(object) },
        Ok(object) => {
            let expanded = Expanded::gather(state, &object, call.expand);
            let text = serde_json::to_string(&ObjectView::new(&object, &expanded)).unwrap_or_default();
            Answer { status: 200, request, body: AnswerBody::Text(text.into()) }
        }
        Err(error) => {
            let text = String::from_utf8(error.body()).unwrap_or_default();
            Answer { status: error.status(), request, body: AnswerBody::Text(text.into()) }
        }
    }
}
