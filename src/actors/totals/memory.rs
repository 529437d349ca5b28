//! Level 0 of the totals: this process's memory. Handlers read it without asking the actor; the actor alone writes it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::TotalsAnswer;
use crate::domain::ids::CampaignId;
use crate::domain::totals::Source;
use crate::metrics::METRICS;

/// How long memory is believed when no fact drops it.
const MEMORY_TTL: Duration = Duration::from_millis(1000);
/// Campaigns in memory at most; beyond that the expired ones go, or all.
const MEMORY_CAMPAIGNS: usize = 10_000;

struct Remembered {
    answer: Option<TotalsAnswer>,
    until: Instant,
    /// The newest version that this process has seen: nothing older is taken from Redis any more.
    floor: i64,
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
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).map_or(0, |known| known.floor)
    }

    pub(super) fn remember(&self, id: CampaignId, answer: TotalsAnswer) {
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
