//! Level 0 of the totals: this process's memory. Handlers read it without asking the actor; the actor alone writes it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::TotalsAnswer;
use crate::domain::ids::CampaignId;
use crate::domain::totals::Source;
use crate::metrics::METRICS;
use crate::store::cache::TOTALS_TTL;

/// How long memory is believed when no fact drops it.
const MEMORY_TTL: Duration = Duration::from_millis(1000);
/// Campaigns in memory at most; beyond that the expired ones go, or all.
const MEMORY_CAMPAIGNS: usize = 10_000;

struct Remembered {
    answer: Option<TotalsAnswer>,
    until: Instant,
    /// The newest version that this process has seen: nothing older is taken from Redis any more.
    floor: i64,
    /// By then what is older has expired in Redis. A database that lost lines in a failover is believed from then on.
    floor_until: Instant,
}

impl Remembered {
    fn floor(&self, now: Instant) -> i64 {
        if now < self.floor_until { self.floor } else { 0 }
    }
}

/// What this process remembers.
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

    pub(super) fn floor(&self, id: CampaignId) -> i64 {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&id).map_or(0, |known| known.floor(Instant::now()))
    }

    pub(super) fn remember(&self, id: CampaignId, answer: TotalsAnswer) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if map.len() >= MEMORY_CAMPAIGNS && !map.contains_key(&id) {
            map.retain(|_, known| now < known.until);
            if map.len() >= MEMORY_CAMPAIGNS {
                map.clear();
            }
        }
        let floor = answer.version;
        let known = Remembered { answer: Some(answer), until: now + MEMORY_TTL, floor, floor_until: now + TOTALS_TTL };
        match map.get(&id) {
            Some(newer) if newer.floor(now) > floor => {}
            _ => drop(map.insert(id, known)),
        }
    }

    pub(super) fn forget(&self, id: CampaignId) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = map.get_mut(&id) {
            known.answer = None;
        }
    }

    pub(super) fn forget_all(&self) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.values_mut().for_each(|known| known.answer = None);
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use actix_web::web::Bytes;

    use super::*;

    fn campaign(number: usize) -> CampaignId {
        CampaignId::from(uuid::Uuid::from_u128(number as u128))
    }

    fn answer(version: i64) -> TotalsAnswer {
        let tag = HeaderValue::from_static("W/\"\"");
        TotalsAnswer { version, goal_minor: None, source: Source::Memory, body: Bytes::from_static(b"{}"), tag }
    }

    fn version(memory: &TotalsMemory) -> Option<i64> {
        memory.get(campaign(1), 0).map(|answer| answer.version)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_believed_for_its_time_to_live_and_not_below_what_is_asked_for() {
        let memory = TotalsMemory::default();
        memory.remember(campaign(1), answer(3));
        assert_eq!(memory.get(campaign(1), 3), Some(answer(3)));
        assert_eq!(memory.get(campaign(1), 4), None);
        tokio::time::advance(MEMORY_TTL - Duration::from_millis(1)).await;
        assert_eq!(version(&memory), Some(3));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(version(&memory), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_total_is_not_remembered_while_redis_may_have_it_and_is_when_the_database_insists() {
        let memory = TotalsMemory::default();
        memory.remember(campaign(1), answer(9));
        memory.forget(campaign(1));
        memory.remember(campaign(1), answer(8));
        assert_eq!((version(&memory), memory.floor(campaign(1))), (None, 9));
        tokio::time::advance(TOTALS_TTL).await;
        assert_eq!(memory.floor(campaign(1)), 0);
        memory.remember(campaign(1), answer(8));
        assert_eq!((version(&memory), memory.floor(campaign(1))), (Some(8), 8));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_campaigns_are_remembered_than_there_is_room_for() {
        let memory = TotalsMemory::default();
        let count = || memory.0.read().unwrap().len();
        (0..MEMORY_CAMPAIGNS / 2).for_each(|number| memory.remember(campaign(number), answer(1)));
        tokio::time::advance(MEMORY_TTL).await;
        (MEMORY_CAMPAIGNS / 2..MEMORY_CAMPAIGNS).for_each(|number| memory.remember(campaign(number), answer(1)));
        assert_eq!(count(), MEMORY_CAMPAIGNS);
        memory.remember(campaign(0), answer(2));
        assert_eq!(count(), MEMORY_CAMPAIGNS, "who is known takes no further room");
        memory.remember(campaign(MEMORY_CAMPAIGNS), answer(1));
        assert_eq!(count(), MEMORY_CAMPAIGNS / 2 + 2, "what had expired is gone");
        (0..2 * MEMORY_CAMPAIGNS).for_each(|number| memory.remember(campaign(number), answer(3)));
        assert!((1..=MEMORY_CAMPAIGNS).contains(&count()));
    }
}
