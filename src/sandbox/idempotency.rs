//! Stripe's v1 idempotency (<https://docs.stripe.com/api/idempotent_requests>): the first answer of a key is its
//! answer.
//!
//! Deliberately absent: expiry by time. Stripe drops keys after a day or more; here the oldest go when there are too
//! many.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::errors::StripeError;
use super::form::Form;
use super::ids::Id;
use super::objects::Object;

/// The longest key that Stripe takes, in characters.
pub(super) const MAX_KEY_CHARS: usize = 255;

/// A finished answer: enough to give it once more, byte for byte.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: u16,
    /// The id of the request that was answered first.
    pub request: Id,
    pub body: AnswerBody,
}

/// What an answer says.
#[derive(Clone, Debug)]
pub(super) enum AnswerBody {
    /// An object without expansions: the version is kept and written anew each time.
    Object(Object),
    /// The text itself.
    Text(Arc<str>),
}

/// What a key and the request under it amount to.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nobody has used the key: go on.
    New,
    /// The same request was answered before.
    Replay(Answer),
}

/// A hash of everything that must be equal for a request to be the same one.
pub(super) fn fingerprint(path: &str, form: &Form) -> u64 {
    let mut hash = Sha256::new();
    hash.update(path.as_bytes());
    for (key, value) in form.canonical() {
        for part in [key, value] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// All keys that are remembered.
#[derive(Debug)]
pub(super) struct Keys {
    records: HashMap<Id, Record>,
    answered: VecDeque<Id>,
    maximum: usize,
}

#[derive(Debug)]
struct Record {
    fingerprint: u64,
    /// `None` while the first request is being worked on.
    answer: Option<Answer>,
}

impl Keys {
    /// Remembers at most `maximum` answered keys.
    pub fn new(maximum: usize) -> Self {
        Self { records: HashMap::new(), answered: VecDeque::new(), maximum }
    }

    /// What is known of a key, if the request may go on at all.
    pub fn check(&self, key: &str, fingerprint: u64) -> Result<Claim, StripeError> {
        match self.records.get(key) {
            None => Ok(Claim::New),
            Some(record) if record.fingerprint != fingerprint => Err(StripeError::idempotency_mismatch(key)),
            Some(Record { answer: Some(answer), .. }) => Ok(Claim::Replay(answer.clone())),
            Some(_) => Err(StripeError::idempotency_in_flight(key)),
        }
    }

    /// Marks a key as being worked on; [`Keys::answer`] or [`Keys::release`] must follow.
    pub fn hold(&mut self, key: &Id, fingerprint: u64) {
        self.records.insert(key.clone(), Record { fingerprint, answer: None });
    }

    /// Forgets a key that came to nothing.
    pub fn release(&mut self, key: &str) {
        if self.records.get(key).is_some_and(|record| record.answer.is_none()) {
            self.records.remove(key);
        }
    }

    /// Keeps the answer of a key.
    pub fn answer(&mut self, key: Id, fingerprint: u64, answer: Answer) {
        self.records.insert(key.clone(), Record { fingerprint, answer: Some(answer) });
        self.answered.push_back(key);
        if self.answered.len() > self.maximum
            && let Some(oldest) = self.answered.pop_front()
        {
            self.records.remove(&oldest);
        }
    }

    /// Every answered key, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, u64, &Answer)> {
        self.answered.iter().filter_map(|key| {
            let record = self.records.get(key)?;
            Some((key, record.fingerprint, record.answer.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer { status: 200, request: Id::from("req_1"), body: AnswerBody::Text(Arc::from(text)) }
    }

    fn form(text: &str) -> Form {
        Form::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_order_of_parameters_does_not_matter_but_everything_else_does() {
        let print = |path, text| fingerprint(path, &form(text));
        assert_eq!(print("/a", "x=1&y=2"), print("/a", "y=2&x=1"));
        assert_ne!(print("/a", "x=1&y=2"), print("/b", "x=1&y=2"));
        assert_ne!(print("/a", "x=1&y=2"), print("/a", "x=1&y=3"));
        assert_ne!(print("/a", "x=1y&z=2"), print("/a", "x=1&yz=2"));
    }

    #[test]
    fn a_key_is_held_then_answered_or_released() {
        let mut keys = Keys::new(9);
        keys.hold(&Id::from("k"), 1);
        assert_eq!(keys.check("k", 1).unwrap_err().status(), 409);
        assert_eq!(keys.check("k", 2).unwrap_err().status(), 400);
        keys.answer(Id::from("k"), 1, answer("done"));
        assert!(matches!(keys.check("k", 1), Ok(Claim::Replay(_))));
        keys.release("k");
        assert!(matches!(keys.check("k", 1), Ok(Claim::Replay(_))));
        keys.hold(&Id::from("gone"), 1);
        keys.release("gone");
        assert!(matches!(keys.check("gone", 2), Ok(Claim::New)));
    }

    #[test]
    fn the_oldest_answers_go_first_and_held_keys_stay() {
        let mut keys = Keys::new(2);
        keys.hold(&Id::from("held"), 1);
        for key in ["a", "b", "c"] {
            keys.answer(Id::from(key), 1, answer(key));
        }
        assert!(matches!(keys.check("a", 1), Ok(Claim::New)));
        assert!(matches!(keys.check("c", 1), Ok(Claim::Replay(_))));
        assert!(keys.check("held", 1).is_err());
        assert_eq!(keys.iter().count(), 2);
    }
}
