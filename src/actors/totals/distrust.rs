//! What Redis may still have an old total of: campaigns that a fact changed, and all of them where facts may be missing.
//!
//! Redis is renewed by the one replica that takes the fact from the shared queue. Until that is done, or the old total has
//! expired there, the others read the database. Deliberately absent: versions; a fact does not know the campaign's.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::CampaignId;
use crate::store::cache::TOTALS_TTL;

/// By then an old total in Redis has expired.
const DISTRUST: Duration = TOTALS_TTL;
/// Campaigns that are known one by one; beyond that, nothing in Redis is believed for a while.
const CAMPAIGNS: usize = 10_000;

/// Which totals in Redis are not believed.
#[derive(Default)]
pub(super) struct Distrust {
    campaigns: HashMap<CampaignId, Instant>,
    everything_until: Option<Instant>,
    /// No facts come in at present.
    is_deaf: bool,
}

impl Distrust {
    /// A fact changed the campaign.
    pub(super) fn changed(&mut self, id: CampaignId) {
        let now = Instant::now();
        if self.campaigns.len() >= CAMPAIGNS {
            self.campaigns.retain(|_, until| now < *until);
        }
        if self.campaigns.len() >= CAMPAIGNS {
            self.campaigns.clear();
            self.everything_until = Some(now + DISTRUST);
        }
        self.campaigns.insert(id, now + DISTRUST);
    }

    /// The database's answer reached Redis.
    pub(super) fn renewed(&mut self, id: CampaignId) {
        self.campaigns.remove(&id);
    }

    /// Facts come in, or do not. Those of a pause are not heard any more, so Redis is not believed for a while after it.
    pub(super) fn hears(&mut self, is_hearing: bool) {
        self.is_deaf = !is_hearing;
        self.everything_until = Some(Instant::now() + DISTRUST);
    }

    /// Whether a campaign's total in Redis may be older than what was committed before now.
    pub(super) fn holds(&self, id: CampaignId) -> bool {
        let now = Instant::now();
        self.is_deaf
            || self.everything_until.is_some_and(|until| now < until)
            || self.campaigns.get(&id).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign(number: u128) -> CampaignId {
        CampaignId::from(uuid::Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn a_campaign_is_not_believed_until_it_is_renewed_or_has_expired_in_redis() {
        let mut distrust = Distrust::default();
        distrust.changed(campaign(1));
        distrust.changed(campaign(2));
        distrust.renewed(campaign(1));
        assert_eq!([1, 2, 3].map(|id| distrust.holds(campaign(id))), [false, true, false]);
        tokio::time::advance(DISTRUST).await;
        assert!(!distrust.holds(campaign(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_believed_while_facts_do_not_come_in_and_for_a_while_after() {
        let mut distrust = Distrust::default();
        distrust.hears(false);
        tokio::time::advance(2 * DISTRUST).await;
        assert!(distrust.holds(campaign(1)));
        distrust.hears(true);
        assert!(distrust.holds(campaign(1)));
        tokio::time::advance(DISTRUST).await;
        assert!(!distrust.holds(campaign(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn more_changed_campaigns_than_can_be_known_are_all_campaigns() {
        let mut distrust = Distrust::default();
        (0..=CAMPAIGNS as u128).for_each(|id| distrust.changed(campaign(id)));
        assert!(distrust.campaigns.len() <= CAMPAIGNS);
        assert!(distrust.holds(campaign(0)) && distrust.holds(campaign(u128::MAX)));
    }
}
