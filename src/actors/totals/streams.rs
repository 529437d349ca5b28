//! Who watches which campaign, and when they are told: at once, but no campaign more often than five times a second.
//!
//! A watcher sees the newest total and may skip those before it, so a slow one holds nobody up and costs nothing. Deliberately
//! absent: sockets and heartbeats (`http::streams`), and how totals are read.

use std::collections::HashMap;
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::TotalsAnswer;
use crate::domain::ids::CampaignId;

/// Five times a second at most.
pub(super) const COALESCE: Duration = Duration::from_millis(200);
/// How old what is shown may be where no fact arrives: memory's time to live.
pub(super) const RENEW: Duration = Duration::from_secs(1);
/// Campaigns that are renewed in one go, the oldest first.
pub(super) const RENEWALS: usize = 256;

/// One state of a campaign's totals as an event of its stream, rendered once for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalsEvent {
    /// The ledger version in it, which is the event's identifier.
    pub version: i64,
    /// The event, as `text/event-stream`.
    pub text: Bytes,
    /// The goal in it, which may change without a line in the ledger.
    goal_minor: Option<i64>,
}

impl Default for TotalsEvent {
    /// Before the first event: whatever comes is news.
    fn default() -> Self {
        Self { version: -1, text: Bytes::new(), goal_minor: None }
    }
}

impl TotalsEvent {
    /// The event that tells `answer` (WHATWG HTML, "Server-sent events").
    pub fn of(answer: &TotalsAnswer) -> Self {
        let head = format!("id: {}\nevent: totals\ndata: ", answer.version);
        let text = [head.as_bytes(), &answer.body, b"\n\n"].concat();
        Self { version: answer.version, text: text.into(), goal_minor: answer.goal_minor }
    }

    /// What is remembered of it once it is sent.
    pub fn without_text(self) -> Self {
        Self { text: Bytes::new(), ..self }
    }

    /// Whether it says something else than `shown`, and nothing older.
    pub fn is_news_after(&self, shown: &Self) -> bool {
        self.version > shown.version || (self.version == shown.version && self.goal_minor != shown.goal_minor)
    }
}

struct Watched {
    sender: watch::Sender<TotalsEvent>,
    told_at: Option<Instant>,
    /// `None` where what is shown may be older than it should be.
    renewed_at: Option<Instant>,
    /// What waits for [`COALESCE`] to pass.
    waiting: Option<TotalsEvent>,
    /// Whether a read is to come, because a fact changed the campaign.
    awaits_read: bool,
}

/// All streams of this process.
#[derive(Default)]
pub(super) struct Streams(HashMap<CampaignId, Watched>);

impl Streams {
    /// A watcher of the campaign, who is told what is offered from now on.
    pub(super) fn subscribe(&mut self, id: CampaignId) -> watch::Receiver<TotalsEvent> {
        let fresh = || Watched {
            sender: watch::Sender::default(),
            told_at: None,
            renewed_at: Some(Instant::now()),
            waiting: None,
            awaits_read: false,
        };
        self.0.entry(id).or_insert_with(fresh).sender.subscribe()
    }

    /// A total that was read just now. It is told at once, or after the wait that is returned.
    pub(super) fn offer(&mut self, id: CampaignId, answer: &TotalsAnswer) -> Option<Duration> {
        let watched = self.0.get_mut(&id)?;
        let now = Instant::now();
        watched.renewed_at = Some(now);
        let event = TotalsEvent::of(answer);
        let newest = watched.waiting.as_ref().unwrap_or(&watched.sender.borrow()).clone();
        if !event.is_news_after(&newest) {
            return None;
        }
        let rest = watched.rest(now);
        if watched.waiting.replace(event).is_some() {
            return None; // its wait is under way
        }
        if rest.is_zero() {
            watched.tell(now);
            return None;
        }
        Some(rest)
    }

    /// The wait is over.
    pub(super) fn tell(&mut self, id: CampaignId) {
        if let Some(watched) = self.0.get_mut(&id) {
            watched.tell(Instant::now());
        }
    }

    /// A fact changed the campaign: how long to wait until it is read for those who watch it; `None` where nobody does, or a
    /// read is to come already.
    pub(super) fn changed(&mut self, id: CampaignId) -> Option<Duration> {
        let watched = self.0.get_mut(&id)?;
        let awaited = std::mem::replace(&mut watched.awaits_read, true);
        (!awaited).then(|| watched.rest(Instant::now()))
    }

    /// The read for those who watch begins now.
    pub(super) fn reads(&mut self, id: CampaignId) {
        if let Some(watched) = self.0.get_mut(&id) {
            watched.awaits_read = false;
        }
    }

    /// Facts may be missing: whatever is shown is due, before what is due by its age.
    pub(super) fn doubt_all(&mut self) {
        self.0.values_mut().for_each(|watched| watched.renewed_at = None);
    }

    /// Some campaigns whose watchers have heard nothing for a while; whoever is watched by nobody any more is forgotten.
    pub(super) fn due(&mut self) -> Vec<CampaignId> {
        let now = Instant::now();
        self.0.retain(|_, watched| watched.sender.receiver_count() > 0);
        let mut due: Vec<(Option<Instant>, CampaignId)> = self
            .0
            .iter()
            .filter(|(_, watched)| watched.renewed_at.is_none_or(|renewed| now - renewed >= RENEW))
            .map(|(id, watched)| (watched.renewed_at, *id))
            .collect();
        due.sort_unstable_by_key(|(renewed_at, _)| *renewed_at);
        due.into_iter().take(RENEWALS).map(|(_, id)| id).collect()
    }

    /// Every watcher's stream ends.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}

impl Watched {
    /// How long until it may be told again.
    fn rest(&self, now: Instant) -> Duration {
        self.told_at.map_or(Duration::ZERO, |told| COALESCE.saturating_sub(now - told))
    }

    fn tell(&mut self, now: Instant) {
        if let Some(event) = self.waiting.take() {
            self.told_at = Some(now);
            self.sender.send_replace(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::money::Currency;
    use crate::domain::totals::{Source, Totals};

    fn campaign() -> CampaignId {
        CampaignId::from(uuid::Uuid::from_u128(1))
    }

    /// A campaign in which so many ledger lines moved a cent each.
    fn totals(version: i64) -> Totals {
        Totals {
            campaign_id: campaign(),
            currency: Currency::parse("EUR").unwrap(),
            raised_minor: version,
            donation_count: version,
            donor_count: version,
            goal_minor: None,
            version,
            as_of: OffsetDateTime::UNIX_EPOCH,
        }
    }

    impl Streams {
        fn hear(&mut self, totals: &Totals) -> Option<Duration> {
            self.offer(totals.campaign_id, &TotalsAnswer::of(totals, Source::View).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_is_told_at_once_and_those_soon_after_it_as_one() {
        let mut streams = Streams::default();
        let seen = streams.subscribe(campaign());
        assert_eq!(streams.hear(&totals(1)), None);
        assert_eq!(seen.borrow().version, 1);
        tokio::time::advance(COALESCE / 4).await;
        assert_eq!(streams.hear(&totals(2)), Some(COALESCE * 3 / 4));
        assert_eq!(streams.hear(&totals(3)), None);
        assert_eq!(seen.borrow().version, 1);
        tokio::time::advance(COALESCE * 3 / 4).await;
        streams.tell(campaign());
        let text = String::from_utf8(seen.borrow().text.to_vec()).unwrap();
        let data = text.strip_prefix("id: 3\nevent: totals\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap()["raised_minor"], 3);
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_are_one_read_for_those_who_watch_and_none_for_nobody() {
        let mut streams = Streams::default();
        assert_eq!(streams.changed(campaign()), None);
        let _seen = streams.subscribe(campaign());
        assert_eq!(streams.changed(campaign()), Some(Duration::ZERO));
        assert_eq!(streams.changed(campaign()), None);
        streams.reads(campaign());
        streams.hear(&totals(1));
        assert_eq!(streams.changed(campaign()), Some(COALESCE));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_older_is_told_and_nothing_twice() {
        let mut streams = Streams::default();
        let mut seen = streams.subscribe(campaign());
        streams.hear(&totals(2));
        seen.mark_unchanged();
        tokio::time::advance(COALESCE).await;
        streams.hear(&totals(1));
        streams.hear(&Totals { as_of: OffsetDateTime::UNIX_EPOCH + COALESCE, ..totals(2) });
        assert!(!seen.has_changed().unwrap());
        streams.hear(&Totals { goal_minor: Some(100), ..totals(2) });
        assert!(seen.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_told_anything_is_due_and_who_is_not_watched_is_forgotten() {
        let mut streams = Streams::default();
        let watcher = streams.subscribe(campaign());
        assert_eq!(streams.due(), []);
        tokio::time::advance(RENEW).await;
        assert_eq!(streams.due(), [campaign()]);
        streams.hear(&totals(1));
        assert_eq!(streams.due(), []);
        drop(watcher);
        assert_eq!(streams.due(), []);
        assert!(streams.0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn when_facts_may_be_missing_all_are_renewed_and_only_some_at_once() {
        let mut streams = Streams::default();
        let campaign = |number: usize| CampaignId::from(uuid::Uuid::from_u128(number as u128));
        let _watchers: Vec<_> = (0..1000).map(|number| streams.subscribe(campaign(number))).collect();
        assert_eq!(streams.due(), []);
        let mut renewed = std::collections::HashSet::new();
        for rest in [1000, 744, 488, 232] {
            // The broker flaps: what was not renewed yet is still due, and nothing is due twice as much.
            if rest == 1000 {
                (0..3).for_each(|_| streams.doubt_all());
            }
            let due = streams.due();
            assert_eq!(due.len(), rest.min(RENEWALS));
            for id in due {
                assert!(renewed.insert(id));
                streams.hear(&Totals { campaign_id: id, ..totals(1) });
            }
        }
        assert_eq!((streams.due(), renewed.len()), (vec![], 1000));
    }
}
