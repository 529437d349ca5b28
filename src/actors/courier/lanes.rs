//! Who may be sent to now: one lane for a provider, one for each partner's endpoint, so that none holds up another.
//!
//! A lane has its own circuit breaker, rate and share of what is under way. Room is asked for before anything is claimed:
//! behind an open breaker nothing is claimed, so no attempt is used up. Deliberately absent: what is due.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::pace::{Pace, Rate};
use crate::gateways::breaker::{Breaker, BreakerState, Permit};

/// The lane of a channel that has one provider.
pub const PROVIDER: Uuid = Uuid::nil();
/// Lanes that are remembered: above the number of endpoints, so that only those of deleted ones are forgotten.
const LANES_MAX: usize = 256;
/// A provider that asks one message to wait is left alone for so long at most; the message itself waits as asked.
const REST_MAX: Duration = Duration::from_secs(60);

/// How much may be under way, and how fast it may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Deliveries at the same time.
    pub side_by_side: usize,
    /// Of these, to one lane.
    pub in_one_lane: usize,
    /// For each lane; `None`: unlimited.
    pub rate: Option<Rate>,
}

struct Lane {
    breaker: Breaker,
    pace: Pace,
    under_way: usize,
    /// The provider asked us to wait until then.
    rests_until: Option<Instant>,
}

/// All lanes of one channel.
pub struct Lanes {
    bounds: Bounds,
    lanes: HashMap<Uuid, Lane>,
    under_way: usize,
}

impl Lanes {
    /// No lane yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, lanes: HashMap::new(), under_way: 0 }
    }

    /// Lanes of which the provider's is guarded by a breaker that others can look at.
    pub fn guarded_by(bounds: Bounds, breaker: Breaker) -> Self {
        let mut lanes = Self::new(bounds);
        let lane = Lane { breaker, pace: Pace::new(bounds.rate, Instant::now()), under_way: 0, rests_until: None };
        lanes.lanes.insert(PROVIDER, lane);
        lanes
    }

    /// Leave to send, one entry a message, in turns among `wanted`; and when to ask again where a lane had none.
    pub fn admit(&mut self, wanted: &[Uuid], now: Instant) -> (Vec<(Uuid, Permit)>, Option<Duration>) {
        self.forget_idle();
        let (mut admitted, mut again) = (Vec::new(), None);
        let mut asking: Vec<(Uuid, usize)> = Vec::with_capacity(wanted.len());
        for key in wanted {
            match self.room(*key, now) {
                Ok(0) => {}
                Ok(room) => asking.push((*key, room)),
                Err(wait) => again = earlier(again, wait),
            }
        }
        let mut left = self.bounds.side_by_side.saturating_sub(self.under_way);
        while left > 0 && !asking.is_empty() {
            asking.retain_mut(|(key, room)| {
                if left == 0 {
                    return false;
                }
                match self.lane(*key, now).breaker.admit() {
                    Ok(permit) => admitted.push((*key, permit)),
                    Err(wait) => {
                        again = earlier(again, wait);
                        return false;
                    }
                }
                left -= 1;
                *room -= 1;
                *room > 0
            });
        }
        (admitted, again)
    }

    /// A message was claimed in that lane and is being sent.
    pub fn begin(&mut self, key: Uuid, now: Instant) {
        let lane = self.lane(key, now);
        lane.under_way += 1;
        lane.pace.take(now);
        self.under_way += 1;
    }

    /// Its attempt is settled, or will never be by us.
    pub fn end(&mut self, key: Uuid) {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.under_way = lane.under_way.saturating_sub(1);
        }
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The provider asked to wait: it is left alone meanwhile.
    pub fn rest(&mut self, key: Uuid, asked: Duration, now: Instant) {
        let until = now + asked.min(REST_MAX);
        let lane = self.lane(key, now);
        lane.rests_until = Some(lane.rests_until.map_or(until, |before| before.max(until)));
    }

    /// Deliveries that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Breakers that let nothing through.
    pub fn open(&self) -> usize {
        self.lanes.values().filter(|lane| lane.breaker.state() == BreakerState::Open).count()
    }

    /// How many messages may go there now, or when to ask again.
    fn room(&mut self, key: Uuid, now: Instant) -> Result<usize, Duration> {
        let share = self.bounds.in_one_lane;
        let lane = self.lane(key, now);
        if let Some(until) = lane.rests_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        match lane.pace.room(now) {
            0 => Err(lane.pace.wait(now)),
            tokens => Ok(tokens.min(share.saturating_sub(lane.under_way))),
        }
    }

    fn lane(&mut self, key: Uuid, now: Instant) -> &mut Lane {
        let rate = self.bounds.rate;
        self.lanes.entry(key).or_insert_with(|| Lane {
            breaker: Breaker::default(),
            pace: Pace::new(rate, now),
            under_way: 0,
            rests_until: None,
        })
    }

    fn forget_idle(&mut self) {
        if self.lanes.len() > LANES_MAX {
            self.lanes.retain(|key, lane| {
                *key == PROVIDER || lane.under_way > 0 || lane.breaker.state() != BreakerState::Closed
            });
        }
    }
}

fn earlier(one: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(one.map_or(other, |one| one.min(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::breaker::FAILURES_TO_OPEN;

    const BOUNDS: Bounds = Bounds { side_by_side: 6, in_one_lane: 4, rate: None };

    fn keys(admitted: &[(Uuid, Permit)]) -> Vec<u128> {
        admitted.iter().map(|(key, _)| key.as_u128()).collect()
    }

    #[test]
    fn endpoints_take_turns_and_none_gets_more_than_its_share() {
        let (now, [a, b]) = (Instant::now(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        let mut lanes = Lanes::new(BOUNDS);
        let (admitted, _) = lanes.admit(&[a, b], now);
        assert_eq!(keys(&admitted), [1, 2, 1, 2, 1, 2]);
        let (admitted, _) = lanes.admit(&[a], now);
        assert_eq!(keys(&admitted), [1; 4]);
        (0..4).for_each(|_| lanes.begin(a, now));
        let (admitted, _) = lanes.admit(&[a, b], now);
        assert_eq!(keys(&admitted), [2, 2], "the full lane leaves what is left to the other");
        lanes.end(a);
        assert_eq!(keys(&lanes.admit(&[a], now).0), [1]);
    }

    #[test]
    fn behind_an_open_breaker_there_is_no_room_and_the_others_do_not_notice() {
        let (now, [dead, alive]) = (Instant::now(), [Uuid::from_u128(1), Uuid::from_u128(2)]);
        let mut lanes = Lanes::new(BOUNDS);
        for _ in 0..FAILURES_TO_OPEN {
            let (admitted, _) = lanes.admit(&[dead], now);
            admitted.into_iter().next().unwrap().1.fail();
        }
        let (admitted, again) = lanes.admit(&[dead, alive], now);
        assert_eq!(keys(&admitted), [2; 4]);
        assert!(again.is_some() && lanes.open() == 1);
    }

    #[test]
    fn who_asked_us_to_wait_is_left_alone_for_a_minute_at_most() {
        let now = Instant::now();
        let mut lanes = Lanes::new(BOUNDS);
        lanes.rest(PROVIDER, Duration::from_secs(7), now);
        lanes.rest(PROVIDER, Duration::from_secs(3), now);
        let (admitted, again) = lanes.admit(&[PROVIDER], now);
        assert_eq!((admitted.len(), again), (0, Some(Duration::from_secs(7))));
        lanes.rest(PROVIDER, Duration::from_secs(86_400), now);
        assert_eq!(lanes.admit(&[PROVIDER], now + REST_MAX).0.len(), 4);
    }

    #[test]
    fn the_rate_counts_what_was_begun_and_not_what_was_asked() {
        let now = Instant::now();
        let rate = Some(Rate { count: 3, per: Duration::from_secs(3) });
        let mut lanes = Lanes::new(Bounds { rate, ..BOUNDS });
        (0..10).for_each(|_| assert_eq!(lanes.admit(&[PROVIDER], now).0.len(), 3));
        (0..3).for_each(|_| lanes.begin(PROVIDER, now));
        let (admitted, again) = lanes.admit(&[PROVIDER], now);
        assert_eq!((admitted.len(), again), (0, Some(Duration::from_secs(1))));
    }
}
