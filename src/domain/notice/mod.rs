//! Which fact is worth a message, to whom, and on which roads.
//!
//! `words` has what people read, `callback` what partners' programs read, `progress` what may become of a message.
//!
//! | fact | the donor, by mail | the donor, by text message | the operators, by mail |
//! |---|---|---|---|
//! | `donation.created` | received | – | – |
//! | `payment.completed` | receipt | yes | – |
//! | `payment.failed` | failed | yes | – |
//! | `payment.refunded` | refunded | yes | – |
//! | `payment.dispute_opened` | – | – | dispute |
//! | `payment.flagged` | – | – | flagged |
//!
//! Every fact goes to every partner that subscribed to its type. A donor who gives a phone number asks for text messages.
//! A cancellation writes to nobody: most are gifts that were never finished, and nothing was charged.
//!
//! Deliberately absent: channels' protocols and retries; the couriers know those.

mod callback;
mod progress;
mod words;

use uuid::Uuid;

pub use self::callback::{CallbackKind, fact_body, test_body};
pub use self::progress::NoticeStatus;
pub use self::words::{NoticeContext, Words, receipt_label};
use super::fact::{Fact, FactKind};

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// To a mailbox.
    Email,
    /// To a phone.
    Sms,
    /// To a partner's program.
    Webhook,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 3] = [Self::Email, Self::Sms, Self::Webhook];

    /// The name in the API, in the database and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Sms => "SMS",
            Self::Webhook => "WEBHOOK",
        }
    }

    /// The channel of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == name)
    }
}

/// What a message to a person is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// We know of your gift.
    DonationReceived,
    /// Your gift arrived; this is the receipt.
    PaymentConfirmed,
    /// The attempt was declined.
    PaymentFailed,
    /// Money went back to you.
    Refunded,
    /// The link to your donations that you asked for; no fact gives rise to it.
    DonorHistory,
    /// To the operators: a dispute was opened.
    DisputeOpened,
    /// To the operators: a person must look at a payment.
    PaymentFlagged,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The donor.
    Donor,
    /// The charity's operators.
    Operators,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::DonationReceived,
        Self::PaymentConfirmed,
        Self::PaymentFailed,
        Self::Refunded,
        Self::DonorHistory,
        Self::DisputeOpened,
        Self::PaymentFlagged,
    ];

    /// What a fact gives rise to, if anything.
    pub fn due_for(fact: FactKind) -> Option<Self> {
        match fact {
            FactKind::DonationCreated => Some(Self::DonationReceived),
            FactKind::PaymentCompleted => Some(Self::PaymentConfirmed),
            FactKind::PaymentFailed => Some(Self::PaymentFailed),
            FactKind::PaymentRefunded => Some(Self::Refunded),
            FactKind::PaymentDisputeOpened => Some(Self::DisputeOpened),
            FactKind::PaymentFlagged => Some(Self::PaymentFlagged),
            FactKind::PaymentAuthorized
            | FactKind::PaymentCanceled
            | FactKind::PaymentRefundFailed
            | FactKind::PaymentDisputeClosed => None,
        }
    }

    /// Whom it is for.
    pub fn audience(self) -> Audience {
        match self {
            Self::DonationReceived
            | Self::PaymentConfirmed
            | Self::PaymentFailed
            | Self::Refunded
            | Self::DonorHistory => Audience::Donor,
            Self::DisputeOpened | Self::PaymentFlagged => Audience::Operators,
        }
    }

    /// Whether the donor is told by text message too: of what moved, or did not move, money.
    pub fn is_for_phones(self) -> bool {
        match self {
            Self::PaymentConfirmed | Self::PaymentFailed | Self::Refunded => true,
            Self::DonationReceived | Self::DonorHistory | Self::DisputeOpened | Self::PaymentFlagged => false,
        }
    }

    /// Whether a donor can do without it: an unsubscription silences it, and its mails say how to unsubscribe. The
    /// receipt and news of one's own money are no such messages; a bounce or a complaint silences those too.
    pub fn is_courtesy(self) -> bool {
        match self {
            Self::DonationReceived => true,
            Self::PaymentConfirmed
            | Self::PaymentFailed
            | Self::Refunded
            | Self::DonorHistory
            | Self::DisputeOpened
            | Self::PaymentFlagged => false,
        }
    }

    /// Whether whoever types an address into the form sends a message there, without paying: such messages are counted. A
    /// receipt costs its sender a gift; a link is counted by itself.
    pub fn anybody_can_cause(self) -> bool {
        match self {
            Self::DonationReceived | Self::PaymentFailed => true,
            Self::PaymentConfirmed
            | Self::Refunded
            | Self::DonorHistory
            | Self::DisputeOpened
            | Self::PaymentFlagged => false,
        }
    }

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DonationReceived => "DONATION_RECEIVED",
            Self::PaymentConfirmed => "PAYMENT_CONFIRMED",
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::Refunded => "REFUNDED",
            Self::DonorHistory => "DONOR_HISTORY",
            Self::DisputeOpened => "DISPUTE_OPENED",
            Self::PaymentFlagged => "PAYMENT_FLAGGED",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A partner that is told of facts.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its endpoint.
    pub endpoint_id: Uuid,
    /// CloudEvents types; empty stands for all.
    pub event_types: Vec<String>,
}

impl Subscription {
    /// Whether it is told of facts of that kind.
    pub fn wants(&self, kind: FactKind) -> bool {
        self.event_types.is_empty() || self.event_types.iter().any(|it| it == kind.event_type())
    }
}

/// Where messages can go.
#[derive(Clone, Copy, Debug)]
pub struct Roads<'a> {
    /// The operators' mail address.
    pub operators: &'a str,
    /// Whether text messages can be sent.
    pub sms: bool,
    /// Partners that are told of facts.
    pub subscriptions: &'a [Subscription],
}

/// A message that a fact gives rise to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// What it is about.
    pub kind: &'static str,
    /// How it travels.
    pub channel: Channel,
    /// Where it goes; `None` for the donor, whose address, or phone if there is one, the store knows.
    pub recipient: Option<String>,
    /// The partner's endpoint, of a webhook.
    pub endpoint_id: Option<Uuid>,
    /// The body, of a webhook.
    pub payload: Option<String>,
}

/// Everything that a fact gives rise to.
pub fn due(fact: &Fact, roads: Roads<'_>) -> Vec<Due> {
    let mut due = Vec::new();
    if let Some(kind) = NoticeKind::due_for(fact.kind) {
        let message =
            |channel, recipient| Due { kind: kind.as_str(), channel, recipient, endpoint_id: None, payload: None };
        match kind.audience() {
            Audience::Donor => due.push(message(Channel::Email, None)),
            Audience::Operators => due.push(message(Channel::Email, Some(roads.operators.to_owned()))),
        }
        if roads.sms && kind.is_for_phones() {
            due.push(message(Channel::Sms, None));
        }
    }
    let partners = roads.subscriptions.iter().filter(|it| it.wants(fact.kind));
    due.extend(partners.map(|partner| Due {
        kind: CallbackKind::Event.as_str(),
        channel: Channel::Webhook,
        // The endpoint and not its URL, which may change while the message waits.
        recipient: Some(partner.endpoint_id.to_string()),
        endpoint_id: Some(partner.endpoint_id),
        payload: Some(fact_body(fact)),
    }));
    due
}

/// What a message speaks of, in minor units: what moved, or what was to move.
pub fn amount_minor(fact: &Fact) -> i64 {
    match fact.kind {
        FactKind::PaymentCompleted
        | FactKind::PaymentRefunded
        | FactKind::PaymentRefundFailed
        | FactKind::PaymentDisputeOpened
        | FactKind::PaymentDisputeClosed => fact.data.moved_minor,
        FactKind::DonationCreated
        | FactKind::PaymentAuthorized
        | FactKind::PaymentFailed
        | FactKind::PaymentCanceled
        | FactKind::PaymentFlagged => fact.data.amount_minor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fact::FactData;
    use crate::domain::ids::{CampaignId, DonationId, EventId, PaymentId};
    use crate::domain::money::Currency;
    use crate::domain::payment::PaymentStatus;
    use time::macros::datetime;

    pub(super) fn fact(kind: FactKind) -> Fact {
        let id = |n: u128| Uuid::from_u128(0x0193_8f00_0000_7000_8000_0000_0000_0000 + n);
        Fact {
            specversion: "1.0".to_owned(),
            id: EventId::from(id(1)),
            source: "/careforall".to_owned(),
            kind,
            subject: PaymentId::from(id(2)),
            time: datetime!(2026-11-22 10:00:00.25 UTC),
            datacontenttype: "application/json".to_owned(),
            traceparent: None,
            data: FactData {
                payment_id: PaymentId::from(id(2)),
                donation_id: DonationId::from(id(3)),
                campaign_id: CampaignId::from(id(4)),
                status: PaymentStatus::Captured,
                version: 3,
                amount_minor: 2500,
                currency: Currency::parse("EUR").unwrap(),
                moved_minor: 2400,
                captured_minor: 2400,
                refunded_minor: 0,
                disputed_minor: 0,
                flag: None,
            },
        }
    }

    /// One line a message: kind, channel, recipient.
    fn lines(kind: FactKind, sms: bool, subscriptions: &[Subscription]) -> Vec<String> {
        let roads = Roads { operators: "ops@example.org", sms, subscriptions };
        let line = |it: Due| {
            format!("{} {} {}", it.kind, it.channel.as_str(), it.recipient.unwrap_or_else(|| "donor".to_owned()))
        };
        due(&fact(kind), roads).into_iter().map(line).collect()
    }

    #[test]
    fn every_fact_writes_to_whom_the_table_says() {
        let expected: [&[&str]; 10] = [
            &["DONATION_RECEIVED EMAIL donor"],
            &[],
            &["PAYMENT_CONFIRMED EMAIL donor", "PAYMENT_CONFIRMED SMS donor"],
            &["PAYMENT_FAILED EMAIL donor", "PAYMENT_FAILED SMS donor"],
            &[],
            &["REFUNDED EMAIL donor", "REFUNDED SMS donor"],
            &[],
            &["DISPUTE_OPENED EMAIL ops@example.org"],
            &[],
            &["PAYMENT_FLAGGED EMAIL ops@example.org"],
        ];
        for (kind, expected) in FactKind::ALL.into_iter().zip(expected) {
            assert_eq!(lines(kind, true, &[]), expected, "{kind:?}");
            assert!(!lines(kind, false, &[]).iter().any(|line| line.contains("SMS")), "{kind:?}");
        }
    }

    #[test]
    fn partners_are_told_of_what_they_subscribed_to() {
        let [all, one] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let subscriptions = [
            Subscription { endpoint_id: all, event_types: Vec::new() },
            Subscription { endpoint_id: one, event_types: vec!["payment.canceled".to_owned()] },
        ];
        for kind in FactKind::ALL {
            let told = lines(kind, false, &subscriptions);
            let to = |endpoint: Uuid| told.contains(&format!("EVENT WEBHOOK {endpoint}"));
            assert_eq!((to(all), to(one)), (true, kind == FactKind::PaymentCanceled), "{kind:?}");
        }
    }

    #[test]
    fn names_lead_back_to_what_they_name() {
        for kind in NoticeKind::ALL {
            assert_eq!(NoticeKind::parse(kind.as_str()), Some(kind));
            assert!(CallbackKind::parse(kind.as_str()).is_none());
        }
        for channel in Channel::ALL {
            assert_eq!(Channel::parse(channel.as_str()), Some(channel));
        }
    }

    #[test]
    fn only_what_a_donor_can_do_without_is_silenced_by_an_unsubscription() {
        let courtesies: Vec<NoticeKind> = NoticeKind::ALL.into_iter().filter(|kind| kind.is_courtesy()).collect();
        assert_eq!(courtesies, [NoticeKind::DonationReceived]);
    }
}
