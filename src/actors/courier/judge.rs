//! What an attempt comes to: what is written down, and whether and when there is another.
//!
//! Deliberately absent: any effect, and randomness; jitter comes in.

use std::time::Duration;

use time::OffsetDateTime;

use crate::domain::notice::{CallbackKind, Channel, NoticeKind};
use crate::domain::retry::{LINK, LINK_OPENS_S, MAIL, SMS, Schedule, WEBHOOK, WEBHOOK_TEST, wait_as_asked};
use crate::gateways::delivery::{Accepted, DeliveryError};
use crate::store::notices::{Claim, Content, Settled};

/// When messages like this one are tried again.
pub fn schedule(channel: Channel, content: &Content) -> Schedule {
    match (channel, content) {
        (_, Content::Callback(callback)) => match callback.kind {
            CallbackKind::Event => WEBHOOK,
            CallbackKind::Test => WEBHOOK_TEST,
        },
        (_, Content::Letter(letter)) if letter.kind == NoticeKind::DonorHistory => LINK,
        (Channel::Sms, Content::Letter(_)) => SMS,
        (Channel::Email | Channel::Webhook, Content::Letter(_)) => MAIL,
    }
}

/// When a message is worth nothing any more: a link that opens nothing is not mailed.
pub fn expires_at(claim: &Claim) -> Option<OffsetDateTime> {
    let Ok(Content::Letter(letter)) = &claim.content else { return None };
    (letter.kind == NoticeKind::DonorHistory).then(|| claim.created_at + Duration::from_secs(LINK_OPENS_S))
}

/// How an attempt is timed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When it ended.
    pub at: OffsetDateTime,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// 0 to 999.
    pub jitter: u16,
}

/// What the attempt comes to.
pub fn judge(
    claim: &Claim,
    schedule: Schedule,
    sent: &Result<Accepted, DeliveryError>,
    Timing { at, duration_ms, jitter }: Timing,
) -> Settled {
    let base = Settled {
        id: claim.id,
        attempt: claim.attempt,
        at,
        outcome: "ACCEPTED",
        code: None,
        detail: None,
        duration_ms,
        provider_id: None,
        status: "SENT",
        next_attempt_at: None,
    };
    match sent {
        Ok(accepted) => Settled {
            code: accepted.code.as_deref().map(storable),
            provider_id: accepted.provider_id.as_deref().map(storable),
            ..base
        },
        Err(error @ (DeliveryError::Transient { .. } | DeliveryError::Unknown { .. })) => {
            let tried = u32::try_from(claim.tries - 1).unwrap_or(u32::MAX);
            let wait = wait_as_asked(schedule, tried, jitter, error.asked_to_wait());
            let wait = wait.filter(|wait| expires_at(claim).is_none_or(|end| at + *wait < end));
            Settled {
                outcome: if matches!(error, DeliveryError::Unknown { .. }) { "UNKNOWN" } else { "TRANSIENT" },
                code: Some(storable(error.code())),
                detail: Some(storable(&error.to_string())),
                status: if wait.is_some() { "PENDING" } else { "DEAD" },
                next_attempt_at: wait.map(|wait| at + wait),
                ..base
            }
        }
        Err(error @ (DeliveryError::Permanent { .. } | DeliveryError::Refused { .. } | DeliveryError::Gone)) => {
            Settled {
                outcome: "PERMANENT",
                code: Some(storable(error.code())),
                detail: Some(storable(&error.to_string())),
                status: "DEAD",
                ..base
            }
        }
    }
}

/// Postgres keeps no NUL; a provider that says one must not make its attempt unwritable.
fn storable(text: &str) -> String {
    text.replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::domain::ids::NoticeId;
    use crate::store::StoreError;

    fn tried(tries: i32, schedule: Schedule, error: DeliveryError) -> (&'static str, &'static str, Option<i64>) {
        let now = Clock::System.now();
        let claim = Claim {
            id: NoticeId::at(now),
            attempt: 40,
            tries,
            content: Err(StoreError::Refused(String::new())),
            traceparent: None,
            created_at: now,
        };
        let settled = judge(&claim, schedule, &Err(error), Timing { at: now, duration_ms: 1, jitter: 0 });
        (settled.outcome, settled.status, settled.next_attempt_at.map(|next| (next - now).whole_seconds()))
    }

    fn transient(code: &str, retry_after: Option<u64>) -> DeliveryError {
        let retry_after = retry_after.map(Duration::from_secs);
        DeliveryError::Transient { code: code.to_owned(), detail: "a\0b".to_owned(), retry_after }
    }

    #[test]
    fn an_attempt_is_repeated_by_schedule_and_dead_after_the_last() {
        assert_eq!(tried(1, WEBHOOK, transient("500", None)), ("TRANSIENT", "PENDING", Some(5)));
        assert_eq!(tried(2, WEBHOOK, transient("500", None)), ("TRANSIENT", "PENDING", Some(300)));
        assert_eq!(tried(2, WEBHOOK, transient("429", Some(900))), ("TRANSIENT", "PENDING", Some(900)));
        assert_eq!(tried(10, WEBHOOK, transient("500", Some(900))), ("TRANSIENT", "DEAD", None));
        assert_eq!(tried(1, WEBHOOK_TEST, transient("500", None)), ("TRANSIENT", "DEAD", None));
    }

    #[test]
    fn what_may_have_arrived_is_on_record_as_unknown_and_goes_out_again() {
        let unknown = |retry_after: Option<u64>| DeliveryError::Unknown {
            code: "timeout".to_owned(),
            detail: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        assert_eq!(tried(1, SMS, unknown(None)), ("UNKNOWN", "PENDING", Some(5)));
        assert_eq!(tried(1, SMS, unknown(Some(60))), ("UNKNOWN", "PENDING", Some(60)));
        assert_eq!(tried(6, SMS, unknown(None)), ("UNKNOWN", "DEAD", None));
    }

    #[test]
    fn what_can_never_be_delivered_is_not_tried_again() {
        let never = DeliveryError::Permanent { code: "550".to_owned(), detail: String::new() };
        assert_eq!(tried(1, MAIL, never), ("PERMANENT", "DEAD", None));
        assert_eq!(tried(1, WEBHOOK, DeliveryError::Gone), ("PERMANENT", "DEAD", None));
    }

    #[test]
    fn a_providers_words_can_always_be_stored() {
        assert_eq!(storable("a\0b"), "ab");
    }
}
