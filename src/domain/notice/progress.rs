//! What may become of a message: statuses, and what a provider may still say.
//!
//! Deliberately absent: who moves them. The statements that do hold to [`NoticeStatus::may_be_told`]'s order.

use serde::Serialize;

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NoticeStatus {
    /// To be sent, or being sent.
    Pending,
    /// Its provider took it, or the partner's program answered with success.
    Sent,
    /// The provider says that it arrived.
    Delivered,
    /// The provider says that it did not arrive.
    Undelivered,
    /// Its last try failed, or it can never be delivered. An operator may replay or discard it.
    Dead,
    /// Not sent: the address takes or wants nothing.
    Suppressed,
    /// An operator discarded it when it was dead.
    Discarded,
}

impl NoticeStatus {
    /// Every status.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Sent, Self::Delivered, Self::Undelivered, Self::Dead, Self::Suppressed, Self::Discarded];

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Sent => "SENT",
            Self::Delivered => "DELIVERED",
            Self::Undelivered => "UNDELIVERED",
            Self::Dead => "DEAD",
            Self::Suppressed => "SUPPRESSED",
            Self::Discarded => "DISCARDED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether a provider's word moves a message from here to `told`: only forward, whatever the order of arrival. A
    /// message that we gave up may have arrived all the same (its answer was lost), and one that arrived may bounce later.
    pub fn may_be_told(self, told: Self) -> bool {
        match (self.place(), told.place()) {
            (Some(here), Some(there)) => here < there,
            (None, _) | (_, None) => false,
        }
    }

    fn place(self) -> Option<u8> {
        match self {
            Self::Pending => Some(0),
            Self::Dead => Some(1),
            Self::Sent => Some(2),
            Self::Delivered => Some(3),
            Self::Undelivered => Some(4),
            Self::Suppressed | Self::Discarded => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_move_messages_forward_only() {
        use NoticeStatus::{Dead, Delivered, Discarded, Pending, Sent, Suppressed, Undelivered};
        let moves: Vec<String> = NoticeStatus::ALL
            .into_iter()
            .flat_map(|from| [Sent, Delivered, Undelivered].map(|to| (from, to)))
            .filter(|(from, to)| from.may_be_told(*to))
            .map(|(from, to)| format!("{} {}", from.as_str(), to.as_str()))
            .collect();
        let expected = [
            (Pending, Sent),
            (Pending, Delivered),
            (Pending, Undelivered),
            (Sent, Delivered),
            (Sent, Undelivered),
            (Delivered, Undelivered),
            (Dead, Sent),
            (Dead, Delivered),
            (Dead, Undelivered),
        ];
        assert_eq!(moves, expected.map(|(from, to)| format!("{} {}", from.as_str(), to.as_str())));
        assert!(!Suppressed.may_be_told(Delivered) && !Discarded.may_be_told(Delivered));
    }

    #[test]
    fn names_lead_back_to_what_they_name() {
        for status in NoticeStatus::ALL {
            assert_eq!(NoticeStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
