//! From a handler's verdicts to the fewest AMQP frames that say the same.

use std::time::Duration;

/// The shortest pause before a message goes back to its queue.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: the whole queue waits for it, so it is short. All [`crate::gateways::topology::DELIVERY_LIMIT`] together take
/// about 17 seconds.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Done: the broker forgets it.
    Ack,
    /// It failed, perhaps by chance: back to the queue after a short pause. Counts against the delivery limit, so poison
    /// ends as a dead letter.
    Retry,
    /// It can never succeed: a dead letter at once.
    DeadLetter,
    /// The handler could not judge (the database is away, say): the same delivery is handed in again after a pause that grows to
    /// 15 seconds, without counting. An outage longer than the broker's `consumer_timeout` (30 minutes) costs one delivery each.
    Hold,
}

/// One frame to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Acknowledges `tag`, with everything before it when `multiple`.
    Ack { tag: u64, multiple: bool },
    /// Rejects `tag` into the dead letters.
    DeadLetter { tag: u64 },
}

/// What to tell the broker now, what to give back after a pause, what to keep. Tags stay in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) retry: Vec<u64>,
    pub(super) hold: Vec<u64>,
}

impl Plan {
    /// `verdicts` are in the order of delivery, and nothing delivered earlier is unsettled.
    pub(super) fn of(verdicts: impl IntoIterator<Item = (u64, Settle)>) -> Self {
        let mut plan = Self::default();
        for (tag, settle) in verdicts {
            match settle {
                Settle::Ack => plan.ack(tag),
                Settle::DeadLetter => plan.steps.push(Step::DeadLetter { tag }),
                Settle::Retry => plan.retry.push(tag),
                Settle::Hold => plan.hold.push(tag),
            }
        }
        plan
    }

    /// `multiple` covers every unsettled tag below, so it is allowed only while none is kept back.
    fn ack(&mut self, tag: u64) {
        let multiple = self.retry.is_empty() && self.hold.is_empty();
        match self.steps.last_mut() {
            Some(Step::Ack { tag: last, multiple: true }) if multiple => *last = tag,
            Some(Step::Ack { .. } | Step::DeadLetter { .. }) | None => self.steps.push(Step::Ack { tag, multiple }),
        }
    }
}

/// How long to pause before giving back messages of which one was given back `delivery_count` times already.
pub(super) fn retry_pause(delivery_count: u32) -> Duration {
    RETRY_PAUSE_MIN.saturating_mul(2_u32.saturating_pow(delivery_count)).min(RETRY_PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settle::{Ack, DeadLetter, Hold, Retry};

    fn plan(verdicts: &[Settle]) -> Plan {
        Plan::of((1..).zip(verdicts.iter().copied()))
    }

    #[test]
    fn a_good_batch_is_one_frame() {
        assert_eq!(plan(&[Ack, Ack, Ack]).steps, [Step::Ack { tag: 3, multiple: true }]);
    }

    #[test]
    fn dead_letters_part_the_acknowledgements() {
        let steps =
            [Step::Ack { tag: 2, multiple: true }, Step::DeadLetter { tag: 3 }, Step::Ack { tag: 5, multiple: true }];
        assert_eq!(plan(&[Ack, Ack, DeadLetter, Ack, Ack]).steps, steps);
    }

    #[test]
    fn nothing_kept_back_is_ever_covered_by_a_multiple_acknowledgement() {
        for kept in [Retry, Hold] {
            let plan = plan(&[Ack, kept, Ack, DeadLetter, Ack, Ack]);
            let steps = [
                Step::Ack { tag: 1, multiple: true },
                Step::Ack { tag: 3, multiple: false },
                Step::DeadLetter { tag: 4 },
                Step::Ack { tag: 5, multiple: false },
                Step::Ack { tag: 6, multiple: false },
            ];
            assert_eq!(plan.steps, steps);
            assert_eq!([plan.retry, plan.hold].concat(), [2]);
        }
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(retry_pause(0), RETRY_PAUSE_MIN);
        assert_eq!(retry_pause(2), RETRY_PAUSE_MIN * 4);
        assert_eq!(retry_pause(u32::MAX), RETRY_PAUSE_MAX);
    }
}
