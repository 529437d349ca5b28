//! How webhooks are to misbehave: set by the control, obeyed by every event from then on.
//!
//! Deliberately absent: durability. A restarted sandbox behaves well again.

use serde::{Deserialize, Serialize};

use super::events::{Delivery, EventKind, matches_pattern};

/// The most extra copies of one event.
pub(super) const MAX_DUPLICATES: u8 = 20;
/// The longest delay, in milliseconds.
pub(super) const MAX_DELAY_MS: u64 = 600_000;

/// What the endpoint is subscribed to unless told otherwise: all but `payment_intent.created`, which every endpoint
/// would have to throw away.
const DEFAULT_SUBSCRIPTION: &[&str] = &[
    "payment_intent.requires_action",
    "payment_intent.processing",
    "payment_intent.amount_capturable_updated",
    "payment_intent.payment_failed",
    "payment_intent.succeeded",
    "payment_intent.canceled",
    "charge.*",
    "refund.*",
];

/// The rules for webhooks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WebhookRules {
    /// Each event is sent this many more times.
    pub duplicate: u8,
    /// Each event is sent this much later, in milliseconds.
    pub delay_ms: u64,
    /// Each event is further delayed by a random time, so that events overtake each other.
    pub reorder: bool,
    /// Which events are never sent.
    pub lose: Loss,
    /// While false, events wait; they are sent once this is true again, or when they are flushed.
    pub enabled: bool,
    /// Events carry the second in which their intent was made, so that they all tie.
    pub same_second: bool,
    /// The event types that the endpoint wants: names, prefixes with a star, or `*`.
    pub enabled_events: Vec<String>,
}

impl Default for WebhookRules {
    fn default() -> Self {
        Self {
            duplicate: 0,
            delay_ms: 0,
            reorder: false,
            lose: Loss::Every(0),
            enabled: true,
            same_second: false,
            enabled_events: DEFAULT_SUBSCRIPTION.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// Which events get lost: `3` or `{"every": 3}` is each third, `{"per_mille": 50}` one in twenty by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Loss {
    /// Each n-th; 0 is none.
    Every(u32),
    /// Each n-th, by name.
    EveryNth { every: u32 },
    /// So many of a thousand.
    PerMille { per_mille: u32 },
}

impl WebhookRules {
    /// The first limit that these rules break.
    pub fn check(&self) -> Result<(), String> {
        if self.duplicate > MAX_DUPLICATES {
            return Err(format!("duplicate must be at most {MAX_DUPLICATES}"));
        }
        if self.delay_ms > MAX_DELAY_MS {
            return Err(format!("delay_ms must be at most {MAX_DELAY_MS}"));
        }
        match self.lose {
            Loss::PerMille { per_mille: 1001.. } => Err("per_mille must be at most 1000".to_owned()),
            _ => Ok(()),
        }
    }

    /// Where an event starts; `number` counts the events that the endpoint wants.
    pub fn first_delivery(&self, kind: EventKind, number: &mut u64) -> Delivery {
        if !self.enabled_events.iter().any(|pattern| matches_pattern(pattern, kind.as_str())) {
            return Delivery::Unwanted;
        }
        *number += 1;
        if self.loses(*number) {
            Delivery::Lost
        } else if self.enabled {
            Delivery::Queued
        } else {
            Delivery::Held
        }
    }

    fn loses(&self, number: u64) -> bool {
        match self.lose {
            Loss::Every(every) | Loss::EveryNth { every } => every > 0 && number.is_multiple_of(u64::from(every)),
            Loss::PerMille { per_mille } => rand::random_range(0..1000) < per_mille,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> WebhookRules {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn loss_is_every_nth_or_a_rate() {
        assert_eq!(rules("{}").lose, Loss::Every(0));
        assert_eq!(rules(r#"{"lose": 3}"#).lose, Loss::Every(3));
        assert_eq!(rules(r#"{"lose": {"every": 3}}"#).lose, Loss::EveryNth { every: 3 });
        assert_eq!(rules(r#"{"lose": {"per_mille": 50}}"#).lose, Loss::PerMille { per_mille: 50 });
        assert!(rules(r#"{"lose": {"per_mille": 1001}}"#).check().is_err());
        assert!(serde_json::from_str::<WebhookRules>(r#"{"loose": 3}"#).is_err());
    }

    #[test]
    fn each_third_wanted_event_is_lost() {
        let rules = rules(r#"{"lose": 3}"#);
        let mut number = 0;
        let mut fate = |kind| rules.first_delivery(kind, &mut number);
        assert_eq!(fate(EventKind::IntentSucceeded), Delivery::Queued);
        assert_eq!(fate(EventKind::IntentCreated), Delivery::Unwanted);
        assert_eq!(fate(EventKind::IntentSucceeded), Delivery::Queued);
        assert_eq!(fate(EventKind::IntentSucceeded), Delivery::Lost);
    }
}
