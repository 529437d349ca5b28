//! Legal histories of the provider, written by doing to a small double of its object what the provider may do.
//!
//! A history is a row of moments. With each the provider's object moves on, and an event may be emitted that says so;
//! whoever asks between two moments sees the object as it stands there. Deliberately absent: delivery (see `world`).

use crate::domain::payment::PaymentStatus;
use crate::domain::provider::{
    DisputeFact, DisputeStatus, IntentSnapshot, IntentStatus, ProviderChange, ProviderEvent, RefundFact, RefundStatus,
};

/// What every donor here wants to give.
pub const AMOUNT_MINOR: i64 = 1000;
/// When the first moment is, where they are all a second apart.
const FIRST_SECOND: i64 = 100;

/// One legal history of one payment.
#[derive(Clone, Debug)]
pub struct History {
    pub name: String,
    pub manual_capture: bool,
    /// The object before the first moment.
    before: IntentSnapshot,
    pub moments: Vec<Moment>,
}

/// The provider moves on.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The event that says so, if one does: opening an authentication, for one, says nothing to us.
    pub event: Option<ProviderEvent>,
    /// The object from now on.
    pub object: IntentSnapshot,
    /// Whether an operator of ours may have ordered it, so that the provider's answer tells us too.
    pub may_be_ordered: bool,
}

/// Where a history leaves a payment, by the provider's own books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub status: PaymentStatus,
    pub captured_minor: i64,
    pub refunded_minor: i64,
    pub disputed_minor: i64,
}

impl End {
    pub fn net_minor(&self) -> i64 {
        self.captured_minor - self.refunded_minor - self.disputed_minor
    }
}

impl History {
    pub fn new(name: &str, manual_capture: bool) -> Self {
        Self { name: name.to_owned(), manual_capture, before: new_intent(), moments: vec![] }
    }

    /// The provider's object after so many moments.
    pub fn object(&self, happened: usize) -> &IntentSnapshot {
        happened.checked_sub(1).map_or(&self.before, |last| &self.moments[last].object)
    }

    /// The same history with these seconds between its moments; one second apart where there are no more.
    pub fn spaced(mut self, gaps: &[i64]) -> Self {
        let mut second = FIRST_SECOND;
        for (place, moment) in self.moments.iter_mut().enumerate() {
            if let Some(event) = &mut moment.event {
                event.created = second;
            }
            second += gaps.get(place).copied().unwrap_or(1);
        }
        self
    }

    /// The same history with all its moments in one second.
    pub fn in_one_second(self) -> Self {
        let gaps = vec![0; self.moments.len()];
        self.spaced(&gaps)
    }

    /// Where it ends: the final states by the object, the open ones by what was said last.
    pub fn end(&self) -> End {
        let object = self.object(self.moments.len());
        let captured_minor = object.received_minor;
        let refunded_minor = standing(&object.refunds);
        let withheld = object.disputes.iter().filter(|dispute| dispute.status.withholds());
        let status = match object.status {
            IntentStatus::Succeeded if refunded_minor == captured_minor => PaymentStatus::Refunded,
            IntentStatus::Succeeded => PaymentStatus::Captured,
            IntentStatus::Canceled => PaymentStatus::Canceled,
            _ => self.moments.iter().rev().find_map(open_status).unwrap_or(PaymentStatus::Initiated),
        };
        End {
            status,
            captured_minor,
            refunded_minor,
            disputed_minor: withheld.map(|dispute| dispute.amount_minor).sum(),
        }
    }

    /// How the provider stands now, to go on from.
    pub fn now(&self) -> &IntentSnapshot {
        self.object(self.moments.len())
    }

    pub fn declined(self) -> Self {
        let said = ProviderChange::AttemptFailed { code: Some("card_declined".to_owned()) };
        self.moment(Some(said), false, |object| {
            object.status = IntentStatus::RequiresPaymentMethod;
            object.last_error = Some("card_declined".to_owned());
        })
    }

    pub fn processing(self) -> Self {
        self.moment(Some(ProviderChange::Processing), false, |object| {
            object.status = IntentStatus::Processing;
            object.last_error = None;
        })
    }

    /// The donor begins another attempt and must authenticate.
    pub fn authentication_begun(self) -> Self {
        self.moment(None, false, |object| {
            object.status = IntentStatus::RequiresAction;
            object.last_error = None;
        })
    }

    /// The object is updated in some way that is nothing to us: the provider forgets its last error.
    pub fn touched(self) -> Self {
        self.moment(None, false, |object| object.last_error = None)
    }

    pub fn authorized(self) -> Self {
        let said = ProviderChange::Authorized { capturable_minor: AMOUNT_MINOR, currency: "EUR".to_owned() };
        self.moment(Some(said), false, |object| {
            object.status = IntentStatus::RequiresCapture;
            object.capturable_minor = AMOUNT_MINOR;
            object.last_error = None;
        })
    }

    pub fn captured(self, received_minor: i64) -> Self {
        let ordered = self.now().status == IntentStatus::RequiresCapture;
        let said = ProviderChange::Captured { received_minor, currency: "EUR".to_owned() };
        self.moment(Some(said), ordered, |object| {
            object.status = IntentStatus::Succeeded;
            object.received_minor = received_minor;
            object.capturable_minor = 0;
            object.last_error = None;
        })
    }

    pub fn canceled(self) -> Self {
        self.gone(ProviderChange::Canceled)
    }

    pub fn released(self) -> Self {
        self.gone(ProviderChange::Released)
    }

    pub fn expired(self) -> Self {
        self.gone(ProviderChange::Expired)
    }

    fn gone(self, said: ProviderChange) -> Self {
        let ordered = self.now().status != IntentStatus::Canceled && said == ProviderChange::Canceled;
        self.moment(Some(said), ordered, |object| {
            object.status = IntentStatus::Canceled;
            object.capturable_minor = 0;
        })
    }

    /// A refund is made, or moves on.
    pub fn refund(self, id: &str, amount_minor: i64, status: RefundStatus) -> Self {
        let fact = RefundFact { id: id.to_owned(), amount_minor, status };
        let is_new = self.now().refunds.iter().all(|known| known.id != id);
        self.moment(Some(ProviderChange::Refund(fact.clone())), is_new, |object| {
            object.refunds.retain(|known| known.id != fact.id);
            object.refunds.push(fact);
        })
    }

    /// The total of the refunds is told, with or without the list of them.
    pub fn refunded_in_total(self, listed: bool) -> Self {
        let refunds = self.now().refunds.clone();
        let total_minor = standing(&refunds);
        let refunds = if listed { refunds } else { vec![] };
        self.moment(Some(ProviderChange::RefundedInTotal { total_minor, refunds }), false, |_| {})
    }

    /// The rest of an authorization, told as a total although no refund exists.
    pub fn rest_released(self) -> Self {
        let total_minor = AMOUNT_MINOR - self.now().received_minor;
        self.moment(Some(ProviderChange::RefundedInTotal { total_minor, refunds: vec![] }), false, |_| {})
    }

    pub fn disputed(self, amount_minor: i64, status: DisputeStatus) -> Self {
        let fact = DisputeFact { id: "du_1".to_owned(), amount_minor, status };
        self.moment(Some(ProviderChange::Dispute(fact.clone())), false, |object| object.disputes = vec![fact])
    }

    fn moment(
        mut self,
        said: Option<ProviderChange>,
        may_be_ordered: bool,
        happen: impl FnOnce(&mut IntentSnapshot),
    ) -> Self {
        let mut object = self.now().clone();
        happen(&mut object);
        let place = self.moments.len();
        let event = said.map(|change| ProviderEvent {
            id: format!("evt_{place}"),
            kind: String::new(),
            created: 0,
            intent_id: Some(object.id.clone()),
            payment_id: None,
            traceparent: None,
            change,
        });
        self.moments.push(Moment { event, object, may_be_ordered });
        self
    }
}

fn standing(refunds: &[RefundFact]) -> i64 {
    refunds.iter().filter(|refund| refund.status.stands()).map(|refund| refund.amount_minor).sum()
}

fn open_status(moment: &Moment) -> Option<PaymentStatus> {
    match moment.event.as_ref()?.change {
        ProviderChange::Processing => Some(PaymentStatus::Processing),
        ProviderChange::AttemptFailed { .. } => Some(PaymentStatus::Failed),
        ProviderChange::Authorized { .. } => Some(PaymentStatus::Authorized),
        _ => None,
    }
}

fn new_intent() -> IntentSnapshot {
    IntentSnapshot {
        id: "pi_1".to_owned(),
        client_secret: None,
        status: IntentStatus::RequiresPaymentMethod,
        amount_minor: AMOUNT_MINOR,
        received_minor: 0,
        capturable_minor: 0,
        currency: "EUR".to_owned(),
        last_error: None,
        refunds: vec![],
        disputes: vec![],
    }
}
