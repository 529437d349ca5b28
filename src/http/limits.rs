//! How many requests one client address may make: for those who run the program without a gateway in front.
//!
//! Deliberately absent: limits on webhooks (Stripe must never be told to go away) and on operators.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use super::problem::Problem;
use crate::config::{Network, RateLimit};

type Limiter = RateLimiter<IpAddr, DashMapStateStore<IpAddr>, DefaultClock, StateInformationMiddleware>;

/// Beyond this many addresses, those that have not been seen for a while are forgotten.
const ADDRESSES_MAX: usize = 100_000;

/// The limits of this process.
#[derive(Clone)]
pub struct Limits {
    limiter: Option<Arc<Limiter>>,
    limit: RateLimit,
    trusted: Arc<[Network]>,
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
        let known = limit.unwrap_or(RateLimit { count: 1, per: std::time::Duration::from_secs(1) });
        let limiter = limit.and_then(|limit| {
            let count = NonZeroU32::new(limit.count)?;
            let quota = Quota::with_period(limit.per / limit.count)?.allow_burst(count);
            Some(Arc::new(RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>()))
        });
        Self { limiter, limit: known, trusted: trusted.into() }
    }

    /// Counts a request; the error is a 429.
    pub fn check(&self, request: &HttpRequest) -> Result<Option<Quoted>, Box<(Problem, Quoted)>> {
        let Some(limiter) = &self.limiter else { return Ok(None) };
        let Some(address) = self.client(request) else { return Ok(None) };
        if limiter.len() > ADDRESSES_MAX {
            limiter.retain_recent();
        }
        match limiter.check_key(&address) {
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
        self.limiter.is_some()
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

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_client() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(counted(parse("2001:db8:1:2:3:4:5:6")), counted(parse("2001:db8:1:2::9")));
        assert_ne!(counted(parse("2001:db8:1:2::9")), counted(parse("2001:db8:1:3::9")));
        assert_eq!(counted(parse("192.0.2.7")), parse("192.0.2.7"));
    }
}
