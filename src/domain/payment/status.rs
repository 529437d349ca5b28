//! The payment state machine: one table of edges, and the walk along them.
//!
//! Deliberately absent: who asks for a step and why; see `decide` and `command`.

use serde::{Deserialize, Serialize};

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PaymentStatus {
    /// Recorded here; nothing is known of an attempt.
    Initiated,
    /// The bank is at work.
    Processing,
    /// The money is reserved.
    Authorized,
    /// The money is ours.
    Captured,
    /// The last attempt was declined; the same intent may be tried again.
    Failed,
    /// Called off, released or expired before money moved. Final.
    Canceled,
    /// All captured money went back.
    Refunded,
}

use PaymentStatus::{Authorized, Canceled, Captured, Failed, Initiated, Processing, Refunded};

/// The machine. An edge that is not here does not exist.
///
/// `Refunded → Captured` is a refund that the donor's bank sent back (Stripe's `refund.failed` may follow a success).
pub const EDGES: &[(PaymentStatus, &[PaymentStatus])] = &[
    (Initiated, &[Processing, Authorized, Failed, Canceled]),
    (Processing, &[Authorized, Failed, Canceled]),
    (Authorized, &[Captured, Refunded, Failed, Canceled]),
    (Failed, &[Processing, Authorized, Canceled]),
    (Captured, &[Refunded]),
    (Refunded, &[Captured]),
    (Canceled, &[]),
];

/// More steps than the longest simple path through the machine has.
const LONGEST_WALK: usize = 7;

impl PaymentStatus {
    /// Every status, in the order of the table.
    pub const ALL: [Self; 7] = [Initiated, Processing, Authorized, Failed, Captured, Refunded, Canceled];

    /// The statuses one edge away.
    pub fn next(self) -> &'static [Self] {
        EDGES.iter().find(|(from, _)| *from == self).map_or(&[], |(_, to)| to)
    }

    /// The shortest walk to `target`, without the status that it starts from; `None` where no path leads there.
    pub fn path_to(self, target: Self) -> Option<Vec<Self>> {
        let mut walks = vec![vec![self]];
        for _ in 0..LONGEST_WALK {
            let mut longer = Vec::new();
            for walk in &walks {
                let here = walk[walk.len() - 1];
                if here == target {
                    return Some(walk[1..].to_vec());
                }
                longer
                    .extend(here.next().iter().filter(|to| !walk.contains(to)).map(|to| [&walk[..], &[*to]].concat()));
            }
            walks = longer;
        }
        None
    }

    /// Whether money of this payment has moved to us at some time.
    pub fn has_captured(self) -> bool {
        matches!(self, Captured | Refunded)
    }

    /// Whether the provider may still change its mind without a refund or a dispute.
    pub fn is_open(self) -> bool {
        matches!(self, Initiated | Processing | Authorized | Failed)
    }

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Initiated => "INITIATED",
            Processing => "PROCESSING",
            Authorized => "AUTHORIZED",
            Captured => "CAPTURED",
            Failed => "FAILED",
            Canceled => "CANCELED",
            Refunded => "REFUNDED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: from; columns: to, in the order of `PaymentStatus::ALL`. `1` an edge, `.` none, `\` itself.
    const TABLE: &str = "
        INITIATED   \\ 1 1 1 . . 1
        PROCESSING  . \\ 1 1 . . 1
        AUTHORIZED  . . \\ 1 1 1 1
        FAILED      . 1 1 \\ . . 1
        CAPTURED    . . . . \\ 1 .
        REFUNDED    . . . . 1 \\ .
        CANCELED    . . . . . . \\
    ";

    #[test]
    fn every_edge_and_every_non_edge_is_as_the_table_says() {
        let mut rows = 0;
        for line in TABLE.trim().lines() {
            let mut words = line.split_whitespace();
            let from = PaymentStatus::parse(words.next().unwrap()).unwrap();
            for (to, mark) in PaymentStatus::ALL.into_iter().zip(words) {
                assert_eq!(from.next().contains(&to), mark == "1", "{from:?} -> {to:?}");
            }
            rows += 1;
        }
        assert_eq!(rows, PaymentStatus::ALL.len());
    }

    #[test]
    fn a_walk_is_the_shortest_one_and_takes_only_edges() {
        assert_eq!(Initiated.path_to(Captured), Some(vec![Authorized, Captured]));
        assert_eq!(Failed.path_to(Captured), Some(vec![Authorized, Captured]));
        assert_eq!(Processing.path_to(Captured), Some(vec![Authorized, Captured]));
        assert_eq!(Authorized.path_to(Captured), Some(vec![Captured]));
        assert_eq!(Initiated.path_to(Initiated), Some(vec![]));
        assert_eq!(Canceled.path_to(Captured), None);
        assert_eq!(Captured.path_to(Failed), None);
        assert_eq!(Captured.path_to(Canceled), None);
        assert_eq!(Authorized.path_to(Processing), Some(vec![Failed, Processing]));
    }

    #[test]
    fn every_status_has_a_name_that_leads_back_to_it() {
        for status in PaymentStatus::ALL {
            assert_eq!(PaymentStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(PaymentStatus::parse("initiated"), None);
    }
}
