//! The address of an endpoint, as an operator may register it.
//!
//! The `url` crate reads a host as browsers do, so `0x7f.1`, `2130706433` and full-width digits all become 127.0.0.1
//! before they are judged. Deliberately absent: names that merely resolve to a bad address; only the moment of
//! connecting can tell (`resolver`).

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use thiserror::Error;

use super::address;

/// The longest address, in bytes.
pub const MAXIMUM_URL_BYTES: usize = 2_000;
/// A longer name is none (RFC 1035, section 2.3.4).
const MAXIMUM_HOST_BYTES: usize = 253;
/// The ports below 1024 that webhooks may go to; https and http have one each.
const LOW_PORTS: [u16; 2] = [443, 80];
/// Ports above 1023 where other protocols listen that could be talked to by an HTTP request (the fetch standard's bad
/// ports, and stores that take lines of text).
const BAD_PORTS: [u16; 22] = [
    1719, 1720, 1723, 2049, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 5672, 6000, 6379, 6566, 6665, 6667, 6697, 9200,
    10080, 11211, 27017,
];
/// What is inside somebody's network by its name alone.
const INSIDE: [&str; 14] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "svc",
    "home.arpa",
    "in-addr.arpa",
    "ip6.arpa",
    "onion",
];

/// How far webhooks reach beyond https to public addresses: two switches for development.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Plain http.
    pub http: bool,
    /// This machine and private networks, by address and by name.
    pub private: bool,
}

/// A checked address. Its `Debug` shows no more than the host: paths and queries of webhooks hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// Why an address is none for webhooks. It is never repeated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// Longer than [`MAXIMUM_URL_BYTES`].
    #[error("the address is longer than {MAXIMUM_URL_BYTES} bytes")]
    TooLong,
    /// Not a URL, or one that readers could disagree about.
    #[error("the address is not a URL")]
    Unreadable,
    /// Neither https nor, where it is allowed, http.
    #[error("the address must begin with https://")]
    Scheme,
    /// A name or a password before the host.
    #[error("the address must not hold a user or a password")]
    UserInfo,
    /// A `#`, which no server ever sees.
    #[error("the address must not have a fragment")]
    Fragment,
    /// A port of another protocol.
    #[error("webhooks do not go to this port")]
    Port,
    /// A name inside somebody's network.
    #[error("the host must be a full public name")]
    Host,
    /// A literal address that the public internet does not route.
    #[error("the host is an address that webhooks must not reach ({0})")]
    Address(&'static str),
}

impl EndpointUrl {
    /// Reads an address for public endpoints; `allow_http` is the switch for development.
    ///
    /// # Errors
    /// Why not, for a person to read.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, UrlError> {
        Self::within(text, Reach { http: allow_http, private: false })
    }

    /// Reads an address for endpoints within `reach`.
    ///
    /// # Errors
    /// Why not, for a person to read.
    pub fn within(text: &str, reach: Reach) -> Result<Self, UrlError> {
        if text.len() > MAXIMUM_URL_BYTES {
            return Err(UrlError::TooLong);
        }
        // The parser would drop or turn these silently, and another reader might not.
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(UrlError::Unreadable);
        }
        let url = Url::parse(text).map_err(|_| UrlError::Unreadable)?;
        check_shape(text, &url, reach)?;
        check_port(&url)?;
        check_host(&url, reach)?;
        Ok(Self(url))
    }

    /// The address, normalised.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host alone: safe to log, and what a breaker or a limit may be keyed by.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    pub(super) fn into_url(self) -> Url {
        self.0
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({}://{}/…)", self.0.scheme(), self.host())
    }
}

fn check_shape(text: &str, url: &Url, reach: Reach) -> Result<(), UrlError> {
    if url.scheme() != "https" && !(url.scheme() == "http" && reach.http) {
        return Err(UrlError::Scheme);
    }
    // `https:/host` and `https:host` are a host to the parser and a path to others.
    let rest = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://")).ok_or(UrlError::Unreadable)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(UrlError::Unreadable);
    }
    // Empty user info leaves no trace in the parsed form.
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(UrlError::Fragment);
    }
    Ok(())
}

fn check_port(url: &Url) -> Result<(), UrlError> {
    let port = url.port_or_known_default().unwrap_or_default();
    let usual = LOW_PORTS.contains(&port) || (port > 1023 && !BAD_PORTS.contains(&port));
    if usual { Ok(()) } else { Err(UrlError::Port) }
}

fn check_host(url: &Url, reach: Reach) -> Result<(), UrlError> {
    let host = url.host_str().ok_or(UrlError::Host)?;
    if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address::forbidden(literal, reach.private).map_or(Ok(()), |reason| Err(UrlError::Address(reason)));
    }
    check_name(host.strip_suffix('.').unwrap_or(host), reach.private)
}

fn check_name(name: &str, private: bool) -> Result<(), UrlError> {
    let label = |label: &str| {
        let whole = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        whole && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > MAXIMUM_HOST_BYTES || !name.split('.').all(label) {
        return Err(UrlError::Host);
    }
    let inside = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !private && (!name.contains('.') || INSIDE.iter().any(|suffix| inside(suffix))) {
        return Err(UrlError::Host);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVELOPMENT: Reach = Reach { http: true, private: true };

    #[test]
    fn what_a_partner_would_register_is_taken_and_normalised() {
        for (text, normal) in [
            ("https://partner.example/hook", "https://partner.example/hook"),
            ("https://Partner.Example", "https://partner.example/"),
            ("HTTPS://partner.example:443/a?b=c&d=%20", "https://partner.example/a?b=c&d=%20"),
            ("https://partner.example:8443/hook", "https://partner.example:8443/hook"),
            ("https://partner.example./hook", "https://partner.example./hook"),
            ("https://bücher.example/hook", "https://xn--bcher-kva.example/hook"),
            ("https://hooks.partner.co.uk/@team", "https://hooks.partner.co.uk/@team"),
            ("https://localhost.partner.example/", "https://localhost.partner.example/"),
            ("https://93.184.216.34/hook", "https://93.184.216.34/hook"),
            ("https://[2606:2800:220:1:248:1893:25c8:1946]/", "https://[2606:2800:220:1:248:1893:25c8:1946]/"),
        ] {
            let url = EndpointUrl::parse(text, false);
            assert_eq!(url.as_ref().map(EndpointUrl::as_str), Ok(normal), "{text}");
        }
    }

    #[test]
    fn each_fault_is_told_by_its_name() {
        let long = format!("https://partner.example/{}", "x".repeat(MAXIMUM_URL_BYTES));
        for (text, error) in [
            (long.as_str(), UrlError::TooLong),
            ("partner.example", UrlError::Unreadable),
            ("https:partner.example", UrlError::Unreadable),
            ("https:///partner.example", UrlError::Unreadable),
            ("https://partner.example/a b", UrlError::Unreadable),
            ("https://partner.example\\@127.0.0.1/", UrlError::Unreadable),
            ("http://partner.example/", UrlError::Scheme),
            ("ftp://partner.example/", UrlError::Scheme),
            ("https://user:password@partner.example/", UrlError::UserInfo),
            ("https://@partner.example/", UrlError::UserInfo),
            ("https://partner.example/#here", UrlError::Fragment),
            ("https://partner.example:0/", UrlError::Port),
            ("https://partner.example:22/", UrlError::Port),
            ("https://partner.example:6379/", UrlError::Port),
            ("https://localhost/", UrlError::Host),
            ("https://db/", UrlError::Host),
            ("https://-a.example/", UrlError::Host),
            ("https://127.0.0.1/", UrlError::Address("loopback")),
            ("https://[::1]/", UrlError::Address("loopback")),
        ] {
            assert_eq!(EndpointUrl::parse(text, false).map(drop), Err(error), "{text}");
        }
    }

    #[test]
    fn the_switches_for_development_open_one_thing_each() {
        let told = |text: &str, reach| EndpointUrl::within(text, reach).map(drop);
        assert_eq!(told("http://partner.example/", Reach { http: true, private: false }), Ok(()));
        assert_eq!(
            told("http://127.0.0.1:9000/", Reach { http: true, private: false }),
            Err(UrlError::Address("loopback"))
        );
        assert_eq!(told("https://127.0.0.1:9000/", Reach { http: false, private: true }), Ok(()));
        assert_eq!(told("http://127.0.0.1:9000/", Reach { http: false, private: true }), Err(UrlError::Scheme));
        assert_eq!(told("http://localhost:9000/", DEVELOPMENT), Ok(()));
        assert_eq!(told("http://169.254.169.254/", DEVELOPMENT), Err(UrlError::Address("metadata service")));
        assert_eq!(told("http://u:p@localhost/", DEVELOPMENT), Err(UrlError::UserInfo));
    }

    #[test]
    fn only_the_host_is_ever_shown() {
        let url = EndpointUrl::parse("https://partner.example/services/T0/B0/token?key=secret", false).unwrap();
        assert_eq!(
            (format!("{url:?}").as_str(), url.host()),
            ("EndpointUrl(https://partner.example/…)", "partner.example")
        );
    }
}
