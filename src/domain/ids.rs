//! Identifiers: UUIDv7 (RFC 9562), one type for each kind of thing, so that one cannot be taken for another.
//!
//! Deliberately absent: a clock. Whoever makes an identifier says what time it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

fn uuid_v7(now: OffsetDateTime) -> Uuid {
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.nanosecond()))
}

macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new identifier that sorts by the time `now`.
            pub fn at(now: OffsetDateTime) -> Self {
                Self(uuid_v7(now))
            }

            /// The identifier as a plain UUID.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

identifiers! {
    /// A campaign that donors give to.
    CampaignId;
    /// One gift of one donor.
    DonationId;
    /// The payment of one donation.
    PaymentId;
    /// One fact that we tell others.
    EventId;
    /// One message to one recipient.
    NoticeId;
    /// One write of a payment: how a retried write recognises itself.
    MoveId;
    /// One operator's API key.
    ApiKeyId;
}
