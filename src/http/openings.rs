//! Whether a donor waits for the provider: yes, unless asked not to, or too many wait already.
//!
//! A donation is committed before its payment is opened at the provider, so nobody needs to wait: the donation's `GET` shows the
//! `client_secret` once it is there. Past a bound new payments are not even opened at once; the due check of each does that. So
//! a crowd gets its donations recorded at the speed of the database, and a slow provider fills no memory. Deliberately absent:
//! the opening itself (`actors::payment`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::HttpRequest;

use crate::metrics::METRICS;

/// Openings under way up to which donors wait for theirs: four rounds of the calls that the provider takes at a time.
const WAITED_FOR: usize = 256;
/// Openings under way at most; the payments of later donations are opened by their due checks.
const UNDER_WAY: usize = 4096;
/// The client wants its answer at once (RFC 7240, section 4.1).
const RESPOND_ASYNC: &str = "respond-async";

/// The openings that are under way in this process.
#[derive(Clone, Default)]
pub struct Openings(Arc<AtomicUsize>);

/// One opening under way, until it is dropped.
pub struct Opening {
    count: Arc<AtomicUsize>,
    /// Whether few enough are under way to wait for this one.
    pub is_waited_for: bool,
}

impl Openings {
    /// A place for one more; `None` where the due check must do it.
    pub fn begin(&self) -> Option<Opening> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let opening = Opening { count: Arc::clone(&self.0), is_waited_for: before < WAITED_FOR };
        METRICS.payment_openings.set(i64::try_from(before + 1).unwrap_or(i64::MAX));
        (before < UNDER_WAY).then_some(opening)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let before = self.count.fetch_sub(1, Ordering::Relaxed);
        METRICS.payment_openings.set(i64::try_from(before.saturating_sub(1)).unwrap_or(i64::MAX));
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

    #[test]
    fn donors_wait_for_a_few_openings_and_past_the_bound_none_begins() {
        let openings = Openings::default();
        let mut begun: Vec<Opening> = (0..UNDER_WAY).map(|_| openings.begin().unwrap()).collect();
        assert_eq!(begun.iter().filter(|opening| opening.is_waited_for).count(), WAITED_FOR);
        assert!(openings.begin().is_none());
        begun.truncate(WAITED_FOR - 1);
        assert!(openings.begin().is_some_and(|opening| opening.is_waited_for));
    }

    #[test]
    fn a_preference_is_found_among_others() {
        let prefers =
            |value: &str| prefers_no_wait(&TestRequest::get().insert_header(("Prefer", value)).to_http_request());
        assert!(prefers("respond-async") && prefers("return=minimal, Respond-Async; wait=1"));
        assert!(!prefers("wait=10") && !prefers("respond-asynchronously") && !prefers(""));
    }
}
