//! What the server acknowledged: kept here, compactly, and looked for in the database at the end.
//!
//! Written down only once the answer was read. A request whose answer never came is in nobody's books.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// An acknowledged donation.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// The donation.
    pub donation: Uuid,
    /// Its payment.
    pub payment: Uuid,
}

/// An acknowledged webhook.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The number of the event in this run; [`crate::stripe::event_id`] makes its name.
    pub event: u64,
    /// The payment that it was about.
    pub payment: Uuid,
    /// Whether the answer was that it is applied (and not that nothing changes).
    pub is_applied: bool,
}

/// Everything that was acknowledged in this run: 32 bytes a donation or webhook, 16 a completion.
#[derive(Debug)]
pub struct Books {
    /// Told apart from every other run's events.
    pub tag: u32,
    given: Mutex<Vec<Given>>,
    heard: Mutex<Vec<Heard>>,
    completed: Mutex<Vec<Uuid>>,
    campaigns: Mutex<BTreeSet<Uuid>>,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            tag: rand::random(),
            given: Mutex::default(),
            heard: Mutex::default(),
            completed: Mutex::default(),
            campaigns: Mutex::default(),
        }
    }
}

fn open<T>(book: &Mutex<T>) -> MutexGuard<'_, T> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    /// A donation was answered with 201.
    pub fn give(&self, donation: Uuid, payment: Uuid) {
        open(&self.given).push(Given { donation, payment });
    }

    /// A webhook was answered with 200.
    pub fn hear(&self, heard: Heard) {
        open(&self.heard).push(heard);
    }

    /// A donor was shown that the donation is completed.
    pub fn complete(&self, donation: Uuid) {
        open(&self.completed).push(donation);
    }

    /// A campaign was made.
    pub fn campaign(&self, campaign: Uuid) {
        open(&self.campaigns).insert(campaign);
    }

    /// Donations.
    pub fn given(&self) -> Vec<Given> {
        open(&self.given).clone()
    }

    /// Webhooks.
    pub fn heard(&self) -> Vec<Heard> {
        open(&self.heard).clone()
    }

    /// Completed donations.
    pub fn completed(&self) -> Vec<Uuid> {
        open(&self.completed).clone()
    }

    /// Campaigns.
    pub fn campaigns(&self) -> Vec<Uuid> {
        open(&self.campaigns).iter().copied().collect()
    }
}
