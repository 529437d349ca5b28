//! How much waits, for the metrics.

use time::OffsetDateTime;

use crate::domain::notice::Channel;
use crate::store::loan::LOOK;
use crate::store::pool::query;
use crate::store::{Store, StoreError};

const MEASURE: &str = include_str!("../../../sql/queries/notices/measure.sql");
const COUNT_UNKNOWN: &str = include_str!("../../../sql/queries/notices/count_unknown.sql");

/// What waits in one channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChannelMeasure {
    /// Messages that are to be sent, now or later, or being sent.
    pub waiting: i64,
    /// Those that are due.
    pub due: i64,
    /// When the one that is due first became, or becomes, due.
    pub oldest: Option<OffsetDateTime>,
    /// Messages that an operator must look at.
    pub dead: i64,
    /// Attempts of which nobody knows whether they reached the recipient: so many messages at most were doubled.
    pub unknown: i64,
}

impl Store {
    /// What waits in each channel, in the order of [`Channel::ALL`].
    pub async fn measure_notices(&self, now: OffsetDateTime) -> Result<[ChannelMeasure; 3], StoreError> {
        let (channels, unknown) = self
            .pools
            .within(LOOK, async |client| {
                Ok((query(client, MEASURE, &[&now]).await?, query(client, COUNT_UNKNOWN, &[]).await?))
            })
            .await?;
        let mut measured = [ChannelMeasure::default(); 3];
        let place = |name: &str| Channel::ALL.iter().position(|channel| channel.as_str() == name);
        for row in channels {
            if let Some(place) = place(row.get("channel")) {
                let unknown = measured[place].unknown;
                measured[place] = ChannelMeasure {
                    waiting: row.get("waiting"),
                    due: row.get("due"),
                    oldest: row.get("oldest"),
                    dead: row.get("dead"),
                    unknown,
                };
            }
        }
        for row in unknown {
            if let Some(place) = place(row.get(0)) {
                measured[place].unknown = row.get(1);
            }
        }
        Ok(measured)
    }
}
