//! Which payments are opened at the provider now, and which a moment later.
//!
//! A donation is committed before its payment is opened, so nobody needs to wait: the donation's `GET` shows the
//! `client_secret` once it is there. A donor who waits has the payment opened at once, while there is a place. Where nobody waits,
//! the opening gives way to others' commits; whatever finds no place waits here, and beyond a bound the due check opens it. So a
//! crowd gets its donations recorded at the speed of the database, and a slow provider fills no memory. Deliberately absent: the
//! opening itself (`actors::payment`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::HttpRequest;
use actix_web::rt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::actors::payment::{Command, PaymentError, Reply};
use crate::actors::pressure::{INTERVAL, Pressure};
use crate::actors::registry::Payments;
use crate::domain::payment::Payment;
use crate::metrics::METRICS;

/// Openings under way at most: four rounds of the calls that the provider takes at a time.
const UNDER_WAY: usize = 256;
/// In a crowd fewer: the more of them share the cores, the longer each donor waits, and so do those who only want to be recorded.
const UNDER_WAY_IN_A_CROWD: usize = 64;
/// Payments that wait here at most; those of later donations are opened by their due checks.
const WAITING: usize = 16_384;
/// The client wants its answer at once (RFC 7240, section 4.1).
const RESPOND_ASYNC: &str = "respond-async";

/// The openings of this process.
#[derive(Clone)]
pub struct Openings(Arc<Shared>);

/// An opening that is under way, and that one may wait for.
pub type Opening = JoinHandle<Result<Reply, PaymentError>>;

struct Shared {
    payments: Payments,
    pressure: Pressure,
    book: Mutex<Book>,
    /// A place is free, or somebody waits.
    news: Notify,
}

/// Who is where.
#[derive(Default)]
struct Book {
    under_way: usize,
    waiting: VecDeque<Box<Payment>>,
}

/// What becomes of a payment that was just recorded.
enum Turn {
    /// It has a place.
    Now(Box<Payment>),
    /// It waits for one.
    Later,
    /// Too many wait.
    DueCheck,
}

impl Book {
    /// A newcomer's turn, while there are so many `places`; only a donor who waits overtakes others.
    fn enter(&mut self, payment: Box<Payment>, waits: bool, places: usize, leave: impl FnOnce() -> bool) -> Turn {
        if (waits || self.waiting.is_empty()) && self.takes_a_place(places, || waits || leave()) {
            return Turn::Now(payment);
        }
        if self.waiting.len() >= WAITING {
            return Turn::DueCheck;
        }
        self.waiting.push_back(payment);
        Turn::Later
    }

    /// The next of those who wait, with a place.
    fn next(&mut self, places: usize, leave: impl FnOnce() -> bool) -> Option<Box<Payment>> {
        if self.waiting.is_empty() || !self.takes_a_place(places, leave) {
            return None;
        }
        self.waiting.pop_front()
    }

    fn takes_a_place(&mut self, places: usize, leave: impl FnOnce() -> bool) -> bool {
        let has_place = self.under_way < places && leave();
        self.under_way += usize::from(has_place);
        has_place
    }
}

impl Openings {
    /// Openings that give way to donors; must be made where tasks can be spawned.
    pub fn new(payments: Payments, pressure: Pressure) -> Self {
        let openings = Self(Arc::new(Shared { payments, pressure, book: Mutex::default(), news: Notify::new() }));
        rt::spawn(openings.clone().begin_those_that_wait());
        openings
    }

    /// Opens a payment that was just recorded: now, where there is a place, or later. Only where nobody `waits` it gives way.
    pub fn open(&self, payment: Payment, waits: bool) -> Option<Opening> {
        let turn = self.book().enter(Box::new(payment), waits, self.places(), || self.0.pressure.admits());
        match turn {
            Turn::Now(payment) => Some(self.begin(payment)),
            Turn::Later => {
                METRICS.payment_openings_waiting.inc();
                self.0.news.notify_one();
                None
            }
            Turn::DueCheck => None,
        }
    }

    async fn begin_those_that_wait(self) {
        loop {
            // Leave may come with the next interval alone.
            let wait = !self.book().waiting.is_empty();
            if wait {
                let _ = timeout(INTERVAL, self.0.news.notified()).await;
            } else {
                self.0.news.notified().await;
            }
            while let Some(payment) = self.next() {
                drop(self.begin(payment));
            }
        }
    }

    fn next(&self) -> Option<Box<Payment>> {
        let next = self.book().next(self.places(), || self.0.pressure.admits());
        if next.is_some() {
            METRICS.payment_openings_waiting.dec();
        }
        next
    }

    fn places(&self) -> usize {
        if self.0.pressure.is_high() { UNDER_WAY_IN_A_CROWD } else { UNDER_WAY }
    }

    /// It goes on whether or not anybody waits for it.
    fn begin(&self, payment: Box<Payment>) -> Opening {
        METRICS.payment_openings.inc();
        let place = Place(self.clone());
        rt::spawn(async move {
            let id = payment.id;
            let opened = place.0.0.payments.send(id, Command::Open { fresh: Some(payment) }).await;
            drop(place);
            opened
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the openings that are under way, until it is dropped.
struct Place(Openings);

impl Drop for Place {
    fn drop(&mut self) {
        METRICS.payment_openings.dec();
        self.0.book().under_way -= 1;
        self.0.0.news.notify_one();
    }
}

/// Whether the client prefers an answer at once to one with a `client_secret`.
pub fn prefers_no_wait(request: &HttpRequest) -> bool {
    let preferences = request.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|preference| {
        let name = preference.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(RESPOND_ASYNC)
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::actors::testing::new_payment;

    #[test]
    fn payments_are_opened_in_turn_and_past_the_bounds_by_their_due_checks() {
        let mut book = Book::default();
        let mut enter = |leave: bool| match book.enter(Box::new(new_payment(2500)), false, UNDER_WAY, || leave) {
            Turn::Now(_) => "now",
            Turn::Later => "later",
            Turn::DueCheck => "due check",
        };
        assert!((0..UNDER_WAY).all(|_| enter(true) == "now"));
        assert!((0..WAITING).all(|_| enter(true) == "later"), "all places are taken");
        assert_eq!(enter(true), "due check");
        assert!(book.next(UNDER_WAY, || true).is_none());
        book.under_way -= 2;
        assert!(
            matches!(book.enter(Box::new(new_payment(2500)), false, UNDER_WAY, || true), Turn::DueCheck),
            "nobody overtakes those who wait"
        );
        assert!(book.next(UNDER_WAY, || false).is_none(), "donors press");
        let mut donor =
            |places| matches!(book.enter(Box::new(new_payment(2500)), true, places, || false), Turn::Now(_));
        assert!(donor(UNDER_WAY), "but a donor waits");
        assert!(!donor(UNDER_WAY_IN_A_CROWD), "as one of many who do");
        book.under_way -= 1;
        assert!(
            book.next(UNDER_WAY, || true).is_some()
                && book.next(UNDER_WAY, || true).is_some()
                && book.next(UNDER_WAY, || true).is_none()
        );
        assert_eq!((book.under_way, book.waiting.len()), (UNDER_WAY, WAITING - 2));
    }

    #[test]
    fn a_preference_is_found_among_others() {
        let prefers =
            |value: &str| prefers_no_wait(&TestRequest::get().insert_header(("Prefer", value)).to_http_request());
        assert!(prefers("respond-async") && prefers("return=minimal, Respond-Async; wait=1"));
        assert!(!prefers("wait=10") && !prefers("respond-asynchronously") && !prefers(""));
    }
}
