//! How many requests one client address may make: for those who run the program without a gateway in front.
//!
//! Deliberately absent: limits on webhooks (Stripe must never be told to go away) and on operators.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::DashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};
use tokio::time::Instant;

use super::problem::Problem;
use crate::config::{Network, RateLimit};

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// Addresses that are counted one by one. Beyond it, those that have not been seen for a while are forgotten.
const ADDRESSES_MAX: usize = 100_000;
/// Forgetting looks at every address: it is done this often at most.
const FORGET: Duration = Duration::from_secs(1);
/// While there are more addresses than can be counted, they are counted in so many groups.
const GROUPS: u64 = 65_536;

/// The limits of this process.
#[derive(Clone)]
pub struct Limits {
    counts: Option<Arc<Counts>>,
    limit: RateLimit,
    trusted: Arc<[Network]>,
}

/// What clients have used of their limit.
struct Counts {
    addresses: Limiter<IpAddr>,
    most: usize,
    /// When addresses were last forgotten.
    forgot: Mutex<Instant>,
    /// For a crowd that cannot be counted one by one: a flood from everywhere is still slowed down, and whoever is in a
    /// group with few of its addresses hardly notices.
    groups: Limiter<u64>,
    /// Of this process, so that nobody can choose a group.
    grouping: RandomState,
}

impl Counts {
    fn new(quota: Quota, most: usize) -> Self {
        Self {
            addresses: RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>(),
            most,
            forgot: Mutex::new(Instant::now()),
            groups: RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>(),
            grouping: RandomState::new(),
        }
    }

    fn check(&self, address: IpAddr) -> Result<StateSnapshot, NotUntil<<DefaultClock as Clock>::Instant>> {
        if self.addresses.len() >= self.most && self.may_forget() {
            self.addresses.retain_recent();
            self.groups.retain_recent();
        }
        if self.addresses.len() < self.most {
            return self.addresses.check_key(&address);
        }
        self.groups.check_key(&(self.grouping.hash_one(address) % GROUPS))
    }

    /// Whether it is time to forget; for one caller of many.
    fn may_forget(&self) -> bool {
        let Ok(mut forgot) = self.forgot.try_lock() else { return false };
        let is_due = forgot.elapsed() >= FORGET;
        if is_due {
            *forgot = Instant::now();
        }
        is_due
    }
}

/// What a limited answer says of the limit (draft-ietf-httpapi-ratelimit-headers).
pub struct Quoted {
    /// `RateLimit-Policy`
    pub policy: HeaderValue,
    /// `RateLimit`
    pub rest: HeaderValue,
}

/// The names of the headers in [`Quoted`].
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// See [`POLICY`].
pub const REST: HeaderName = HeaderName::from_static("ratelimit");

impl Limits {
    /// Limits, or none.
    pub fn new(limit: Option<RateLimit>, trusted: Vec<Network>) -> Self {
        let known = limit.unwrap_or(RateLimit { count: 1, per: Duration::from_secs(1) });
        let counts = limit.and_then(quota).map(|quota| Arc::new(Counts::new(quota, ADDRESSES_MAX)));
        Self { counts, limit: known, trusted: trusted.into() }
    }

    /// Counts a request; the error is a 429.
    pub fn check(&self, request: &HttpRequest) -> Result<Option<Quoted>, Box<(Problem, Quoted)>> {
        let Some(counts) = &self.counts else { return Ok(None) };
        let Some(address) = self.client(request) else { return Ok(None) };
        match counts.check(address) {
            Ok(state) => Ok(Some(self.quote(state.remaining_burst_capacity(), self.limit.per.as_secs()))),
            Err(refused) => {
                let wait = refused.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
                let detail = format!("At most {} requests in {} s.", self.limit.count, self.limit.per.as_secs());
                Err(Box::new((Problem::too_many(detail, wait), self.quote(0, wait))))
            }
        }
    }

    fn quote(&self, rest: u32, seconds: u64) -> Quoted {
        let header = |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        Quoted {
            policy: header(format!("\"default\";q={};w={}", self.limit.count, self.limit.per.as_secs())),
            rest: header(format!("\"default\";r={rest};t={seconds}")),
        }
    }

    /// Whether clients are limited at all.
    pub fn is_on(&self) -> bool {
        self.counts.is_some()
    }

    /// The client's address: the peer's, or, behind proxies that we trust, the last one that no trusted proxy has.
    pub fn client(&self, request: &HttpRequest) -> Option<IpAddr> {
        let mut address = request.peer_addr()?.ip().to_canonical();
        let forwarded: Vec<&str> = request
            .headers()
            .get_all("x-forwarded-for")
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for hop in forwarded.iter().rev() {
            if !self.trusted.iter().any(|network| network.contains(address)) {
                break;
            }
            let Ok(next) = hop.trim().parse::<IpAddr>() else { break };
            address = next.to_canonical();
        }
        Some(counted(address))
    }
}

fn quota(limit: RateLimit) -> Option<Quota> {
    let count = NonZeroU32::new(limit.count)?;
    Some(Quota::with_period(limit.per / limit.count)?.allow_burst(count))
}

/// What is counted for an address: whoever has one IPv6 address has its whole /64.
fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(most: usize) -> Counts {
        Counts::new(quota(RateLimit { count: 3, per: Duration::from_secs(3600) }).unwrap(), most)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_is_counted_in_groups_and_takes_no_more_memory_than_was_set_aside() {
        let counts = counts(100);
        for number in 0..1000 {
            assert!(counts.check(address(number)).is_ok());
        }
        assert_eq!(counts.addresses.len(), 100);
        let late = address(70_000);
        let taken = (0..10).filter(|_| counts.check(late).is_ok()).count();
        assert!((1..=3).contains(&taken), "a group has one client's limit, not none and not ten: {taken}");
        // A thousand in sixty-five thousand groups: hardly any group is full.
        let let_in = (100_000..101_000).filter(|number| counts.check(address(*number)).is_ok()).count();
        assert!(let_in > 950, "{let_in}");
        assert!(counts.groups.len() as u64 <= GROUPS);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_forgotten_once_a_second_at_most() {
        let counts = counts(100);
        tokio::time::advance(FORGET).await;
        let forgot = (0..1000).filter(|_| counts.may_forget()).count();
        assert_eq!(forgot, 1);
        tokio::time::advance(FORGET).await;
        assert!(counts.may_forget());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(counted(parse("2001:db8:1:2:3:4:5:6")), counted(parse("2001:db8:1:2::9")));
        assert_ne!(counted(parse("2001:db8:1:2::9")), counted(parse("2001:db8:1:3::9")));
        assert_eq!(counted(parse("192.0.2.7")), parse("192.0.2.7"));
    }
}
