//! Totals that Redis must be given, because a fact that was acknowledged has changed them: other replicas may find the old ones
//! there, and the fact is not told to them.
//!
//! Deliberately absent: reading and storing (`levels`), and what is not believed meanwhile (`distrust`).

use std::collections::HashMap;

use tokio::time::Instant;

use crate::domain::ids::CampaignId;
use crate::store::cache::TOTALS_TTL;

/// What a read did for those who find totals in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// What the database has is there.
    There,
    /// It was not to be brought there.
    Not,
    /// It came from there, which says nothing of what came after the fact.
    FromThere,
    /// There was nothing to bring: the database is away, and the fact itself comes again.
    Nothing,
}

/// A total that is to be brought to Redis.
struct Renewal {
    /// By then the old one there has expired.
    until: Instant,
    /// Whether another try is on its way already.
    is_tried_again: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Renewals(HashMap<CampaignId, Renewal>);

impl Renewals {
    /// A fact changed the campaign, and the read that brings it to Redis is to begin.
    pub(super) fn owe(&mut self, id: CampaignId) {
        let until = Instant::now() + TOTALS_TTL;
        self.0.entry(id).or_insert(Renewal { until, is_tried_again: false }).until = until;
    }

    /// A read has ended that began after the fact, and none follows it. Whether it must be tried again by and by.
    #[must_use]
    pub(super) fn settle(&mut self, id: CampaignId, brought: Brought) -> bool {
        let Some(renewal) = self.0.get_mut(&id) else { return false };
        match brought {
            Brought::FromThere => false,
            Brought::Not if Instant::now() < renewal.until => !std::mem::replace(&mut renewal.is_tried_again, true),
            Brought::There | Brought::Not | Brought::Nothing => {
                self.0.remove(&id);
                false
            }
        }
    }

    /// The next try begins; `false` where it is not owed any more.
    #[must_use]
    pub(super) fn try_again(&mut self, id: CampaignId) -> bool {
        let Some(renewal) = self.0.get_mut(&id) else { return false };
        renewal.is_tried_again = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn campaign() -> CampaignId {
        CampaignId::from(uuid::Uuid::from_u128(1))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_tried_until_it_is_there_or_the_old_one_has_expired() {
        let mut renewals = Renewals::default();
        assert!(!renewals.settle(campaign(), Brought::Not), "nothing is owed");
        renewals.owe(campaign());
        assert!(renewals.settle(campaign(), Brought::Not));
        assert!(!renewals.settle(campaign(), Brought::Not), "another try is on its way");
        assert!(renewals.try_again(campaign()));
        assert!(!renewals.settle(campaign(), Brought::FromThere));
        assert!(renewals.settle(campaign(), Brought::Not));
        assert!(!renewals.settle(campaign(), Brought::There));
        assert!(!renewals.try_again(campaign()), "it is there");
        renewals.owe(campaign());
        tokio::time::advance(TOTALS_TTL).await;
        assert!(!renewals.settle(campaign(), Brought::Not));
        assert!(renewals.0.is_empty());
    }
}
