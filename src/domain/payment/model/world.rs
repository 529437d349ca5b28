//! One payment, the store that remembers it, two replicas that believe something of it, and the network between the
//! provider and them: what may happen next, and what is so afterwards.
//!
//! A replica's work has three steps, and a crash or another replica's work may come between any two: it decides by what
//! it believes (asking the provider *then*, where the rule asks), it commits as `move_payments.sql` does (version, then
//! claim, then effect, in one step), it replies. Deliberately absent: other payments, the outbox, real time.

use super::history::History;
use super::row::{Row, Store, misdeed, net_minor, recorded};
use super::rules::Rule;
use crate::domain::payment::Payment;
use crate::domain::payment::change::Change;
use crate::domain::payment::decide::{Decision, adopt, decide};
use crate::domain::provider::{ProviderChange, ProviderEvent};

/// How many processes share the store.
const REPLICAS: usize = 2;

/// What is run: one history under one rule, with so much going wrong.
#[derive(Clone, Debug)]
pub struct Scene {
    pub history: History,
    pub rule: Rule,
    pub store: Store,
    pub budget: Budget,
}

/// How often what is not in the history may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Deliveries of an event that is handled already, or is being handled.
    pub duplicates: u8,
    pub crashes: u8,
    /// A replica looks by itself how the provider stands.
    pub checks: u8,
    /// An operator orders the next moment; the provider's answer is taken over.
    pub orders: u8,
}

/// All that there is at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// How many moments of the history have happened.
    pub happened: usize,
    pub row: Row,
    /// Sets of events, one bit each: claimed in the store, and acknowledged to the provider.
    claimed: u16,
    acknowledged: u16,
    /// What the ledger sums up to, and how many rows the history has.
    ledger_minor: i64,
    history_rows: i64,
    replicas: [Replica; REPLICAS],
    left: Budget,
    /// The first thing that a commit did and must not do.
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    believed: Option<Row>,
    doing: Doing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Doing {
    #[default]
    Nothing,
    /// Decided by what is believed and, where it was asked, the provider's object after so many moments.
    Decided { work: Work, asked: Option<usize> },
    /// Committed; the provider has no reply yet.
    Committed { event: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    Event(usize),
    Check,
    /// The provider did this moment for an operator and answered with it.
    Order(usize),
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Reply { replica: usize },
    Commit { replica: usize },
    Deliver { event: usize, replica: usize },
    Happen,
    Order { replica: usize },
    Check { replica: usize },
    Redeliver { event: usize, replica: usize },
    Crash { replica: usize },
}

impl Scene {
    /// The beginning: the payment is recorded and its intent open, nothing has happened.
    pub fn beginning(&self) -> World {
        World {
            happened: 0,
            row: Row::new(recorded(self.history.manual_capture)),
            claimed: 0,
            acknowledged: 0,
            ledger_minor: 0,
            history_rows: 1,
            replicas: Default::default(),
            left: self.budget,
            broken: None,
        }
    }

    /// Everything that may happen next. What leads towards the end comes first; the rest spends the budget, so that
    /// every road ends.
    pub fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for replica in 0..REPLICAS {
            match world.replicas[replica].doing {
                Doing::Committed { .. } => actions.push(Action::Reply { replica }),
                Doing::Decided { .. } => actions.push(Action::Commit { replica }),
                Doing::Nothing => {}
            }
        }
        let idle = || (0..REPLICAS).filter(|replica| world.replicas[*replica].doing == Doing::Nothing);
        let (known, new): (Vec<_>, Vec<_>) = self.emitted(world).partition(|event| world.is_taken(*event));
        actions.extend(new.iter().flat_map(|&event| idle().map(move |replica| Action::Deliver { event, replica })));
        if world.happened < self.history.moments.len() {
            actions.push(Action::Happen);
            if self.may_order(world) {
                actions.extend(idle().map(|replica| Action::Order { replica }));
            }
        }
        if world.left.checks > 0 {
            let open = idle().filter(|replica| world.believes(*replica).status.is_open());
            actions.extend(open.map(|replica| Action::Check { replica }));
        }
        if world.left.duplicates > 0 {
            let again = known.iter();
            actions.extend(again.flat_map(|&event| idle().map(move |replica| Action::Redeliver { event, replica })));
        }
        if world.left.crashes > 0 {
            let busy = (0..REPLICAS).filter(|replica| world.replicas[*replica].doing != Doing::Nothing);
            actions.extend(busy.map(|replica| Action::Crash { replica }));
        }
    }

    /// The world after an action.
    pub fn after(&self, world: &World, action: Action) -> World {
        let mut next = world.clone();
        match action {
            Action::Happen => next.happened += 1,
            Action::Deliver { event, replica } => self.begin(&mut next, replica, Work::Event(event)),
            Action::Redeliver { event, replica } => {
                next.left.duplicates -= 1;
                self.begin(&mut next, replica, Work::Event(event));
            }
            Action::Check { replica } => {
                next.left.checks -= 1;
                self.begin(&mut next, replica, Work::Check);
            }
            Action::Order { replica } => {
                next.left.orders -= 1;
                next.happened += 1;
                // An order is judged by what the store says now, not by what was believed.
                next.replicas[replica].believed = None;
                self.begin(&mut next, replica, Work::Order(world.happened));
            }
            Action::Commit { replica } => self.commit(&mut next, replica),
            Action::Reply { replica } => next.reply(replica),
            Action::Crash { replica } => {
                next.left.crashes -= 1;
                next.replicas[replica] = Replica::default();
            }
        }
        next
    }

    /// What of this world must never be, if anything is.
    pub fn fault(&self, world: &World) -> Option<&'static str> {
        if world.broken.is_some() {
            return world.broken;
        }
        let row = &world.row;
        if world.ledger_minor != net_minor(row) {
            return Some("the ledger is not what was captured, less what was refunded and disputed");
        }
        if world.history_rows != row.version {
            return Some("a version has no row in the history");
        }
        if world.acknowledged & !world.claimed != 0 {
            return Some("an event is acknowledged and its claim is not in the store");
        }
        (self.is_quiet(world) && !self.has_ended_right(world)).then_some("everything is delivered and the end is wrong")
    }

    /// Whether the history is over, every event acknowledged, and nobody at work.
    pub fn is_quiet(&self, world: &World) -> bool {
        world.happened == self.history.moments.len()
            && self.emitted(world).all(|event| world.acknowledged & bit(event) != 0)
            && world.replicas.iter().all(|replica| replica.doing == Doing::Nothing)
    }

    /// The history runs to its end, no further event arrives, and a replica that believes nothing looks for itself.
    pub fn after_a_last_look(&self, world: &World) -> World {
        let mut next = world.clone();
        next.happened = self.history.moments.len();
        while let Some(replica) = (0..REPLICAS).find(|replica| next.replicas[*replica].doing != Doing::Nothing) {
            let action = match next.replicas[replica].doing {
                Doing::Committed { .. } => Action::Reply { replica },
                Doing::Decided { .. } | Doing::Nothing => Action::Commit { replica },
            };
            next = self.after(&next, action);
        }
        next.replicas = Default::default();
        self.begin(&mut next, 0, Work::Check);
        self.commit(&mut next, 0);
        next
    }

    /// Whether the payment stands where the history ends.
    pub fn has_ended_right(&self, world: &World) -> bool {
        let (row, end) = (&world.row, self.history.end());
        (row.status, row.captured_minor, row.refunded_minor(), row.disputed_minor())
            == (end.status, end.captured_minor, end.refunded_minor, end.disputed_minor)
    }

    fn emitted(&self, world: &World) -> impl Iterator<Item = usize> {
        (0..world.happened).filter(|moment| self.history.moments[*moment].event.is_some())
    }

    fn event(&self, moment: usize) -> &ProviderEvent {
        self.history.moments[moment].event.as_ref().expect("only emitted events are delivered")
    }

    /// Whether an operator may order the next moment, by what the store says now.
    fn may_order(&self, world: &World) -> bool {
        let moment = &self.history.moments[world.happened];
        if world.left.orders == 0 || !moment.may_be_ordered {
            return false;
        }
        let payment = &world.row;
        match moment.event.as_ref().map(|event| &event.change) {
            Some(ProviderChange::Captured { received_minor, .. }) => {
                payment.check_capture(Some(*received_minor)).is_ok()
            }
            Some(ProviderChange::Canceled) => payment.check_cancel().is_ok(),
            Some(ProviderChange::Refund(refund)) => payment.check_refund(Some(refund.amount_minor)).is_ok(),
            _ => false,
        }
    }

    /// Loads what is not believed, decides, and asks the provider as it stands now where that is needed.
    fn begin(&self, world: &mut World, replica: usize, work: Work) {
        let before = world.believes(replica).clone();
        let asked = match work {
            Work::Check => Some(world.happened),
            Work::Order(_) => None,
            Work::Event(event) => {
                let decision = self.rule.decide(&before, self.event(event), None);
                (decision == Decision::AskProvider).then_some(world.happened)
            }
        };
        world.replicas[replica] = Replica { believed: Some(before), doing: Doing::Decided { work, asked } };
    }

    /// What the replica decided upon `before`; pure, so it need not be kept in the state.
    fn decision(&self, before: &Payment, work: Work, asked: Option<usize>) -> Decision {
        let answer = asked.map(|happened| self.history.object(happened));
        match (work, answer) {
            (Work::Event(event), answer) => self.rule.decide(before, self.event(event), answer),
            (Work::Check, Some(answer)) => adopt(before, answer, None),
            (Work::Check, None) => Decision::AskProvider,
            (Work::Order(moment), _) => self.take_over(before, moment),
        }
    }

    /// An operator's order brings the refund itself, or the intent as it stood when the order was done.
    fn take_over(&self, before: &Payment, moment: usize) -> Decision {
        let said = self.event(moment);
        match &said.change {
            ProviderChange::Refund(_) => decide(before, &ProviderEvent { created: 0, ..said.clone() }, None),
            _ => adopt(before, self.history.object(moment + 1), None),
        }
    }

    fn commit(&self, world: &mut World, replica: usize) {
        let Doing::Decided { work, asked } = world.replicas[replica].doing else { return };
        let before = world.believes(replica).clone();
        if self.store != Store::Blind && before.version != world.row.version {
            world.replicas[replica].believed = None;
            return self.begin(world, replica, work);
        }
        if let Work::Event(event) = work {
            world.replicas[replica].doing = Doing::Committed { event };
            if world.claimed & bit(event) != 0 {
                world.replicas[replica].believed = None;
                return;
            }
            if self.store != Store::Unclaimed {
                world.claimed |= bit(event);
            }
        } else {
            world.replicas[replica].doing = Doing::Nothing;
        }
        match self.decision(&before, work, asked) {
            Decision::AskProvider => world.broken = Some("the rule asks the provider twice"),
            Decision::Settled { change: Some(change), .. } => world.write(replica, *change),
            Decision::Settled { change: None, .. } => {}
        }
    }
}

impl World {
    /// What the replica believes, or would load.
    fn believes(&self, replica: usize) -> &Row {
        self.replicas[replica].believed.as_ref().unwrap_or(&self.row)
    }

    /// Whether an event is acknowledged, or in some replica's hands.
    fn is_taken(&self, event: usize) -> bool {
        let in_hand = |replica: &Replica| match replica.doing {
            Doing::Nothing => false,
            Doing::Decided { work, .. } => work == Work::Event(event),
            Doing::Committed { event: other } => other == event,
        };
        self.acknowledged & bit(event) != 0 || self.replicas.iter().any(in_hand)
    }

    fn reply(&mut self, replica: usize) {
        if let Doing::Committed { event } = self.replicas[replica].doing {
            self.acknowledged |= bit(event);
            self.replicas[replica].doing = Doing::Nothing;
        }
    }

    fn write(&mut self, replica: usize, change: Change) {
        self.broken = self.broken.or(misdeed(&self.row, &change));
        self.ledger_minor += change.lines.iter().map(|line| line.amount_minor).sum::<i64>();
        self.history_rows += i64::try_from(change.steps.len()).expect("a few steps");
        self.row = Row::new(change.after);
        self.replicas[replica].believed = Some(self.row.clone());
    }
}

fn bit(event: usize) -> u16 {
    1 << event
}
