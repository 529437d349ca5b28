//! What text messages and webhooks share as HTTP clients: one careful set-up, `Retry-After`, and the words for a request
//! that was not answered.
//!
//! Deliberately absent: redirects and proxies. Neither is ever followed or asked.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::DeliveryError;

/// How long one attempt may take, to the answer's last byte.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No longer `Retry-After` is believed: the schedule of retries ends some day.
pub const LONGEST_BELIEVED_WAIT: Duration = Duration::from_secs(24 * 3600);
/// An idle connection is closed before the other side closes it under a request.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);
/// Who we are.
const USER_AGENT: &str = concat!("CareForAll/", env!("CARGO_PKG_VERSION"));

/// The beginning of every client: no redirects, no proxies, no retries of its own, and HTTP/1.1.
///
/// `roots` are certificate authorities in PEM, trusted beside the system's own.
pub fn builder(roots: &[String], idle_per_host: usize) -> Result<ClientBuilder, DeliveryError> {
    // reqwest would panic where we can still say what is wrong.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(DeliveryError::permanent("settings", "no TLS provider is installed"));
    }
    let mut certificates = Vec::new();
    for root in roots {
        let found = Certificate::from_pem_bundle(root.as_bytes()).map_err(|error| settings(&error))?;
        if found.is_empty() {
            return Err(DeliveryError::permanent("settings", "a trusted authority is not a certificate in PEM"));
        }
        certificates.extend(found);
    }
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(idle_per_host)
        .pool_idle_timeout(IDLE_CONNECTION)
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy();
    Ok(if certificates.is_empty() { builder } else { builder.tls_certs_merge(certificates) })
}

/// Settings that no client can be made of.
pub fn settings(error: &reqwest::Error) -> DeliveryError {
    DeliveryError::permanent("settings", format!("the HTTP client cannot be set up: {error}"))
}

/// What is read of an answer: everything that comes before `limit` bytes, the end, or the connection's.
pub async fn read_up_to(response: &mut Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
        if body.len() == limit {
            break;
        }
    }
    Ok(body)
}

/// The wait that an answer asks for, in seconds or until a date (RFC 9110, section 10.2.3). A date is compared with the
/// answer's own `Date`, so that a clock that is off does not matter, and without one with `now`; where that is not known
/// either, a date says nothing.
pub fn retry_after(headers: &HeaderMap, now: Option<OffsetDateTime>) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match asked.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = OffsetDateTime::parse(asked, &Rfc2822).ok()?;
            let wait = until - date(headers, DATE).or(now)?;
            // A date that is over asks for no wait.
            Duration::try_from(wait).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_BELIEVED_WAIT))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(headers.get(name)?.to_str().ok()?, &Rfc2822).ok()
}

/// The innermost cause of a request that got no answer. The address is left out, for it may hold a secret.
pub fn cause(error: &reqwest::Error) -> String {
    let innermost = std::iter::successors(error.source(), |&cause| cause.source()).last();
    innermost.map_or_else(|| "no further reason".to_owned(), |cause| cause.to_string())
}

/// The code for a request that got no answer: `tls` or `connection`.
pub fn unreached(error: &reqwest::Error) -> &'static str {
    if std::iter::successors(error.source(), |&cause| cause.source()).any(is_tls) { "tls" } else { "connection" }
}

/// An `io::Error` hands out its payload's causes, but never the payload itself; TLS wraps one in another.
fn is_tls(cause: &(dyn std::error::Error + 'static)) -> bool {
    let payload = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || payload.is_some_and(|payload| is_tls(payload))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(1994-11-06 08:49:07 UTC);

    fn asked(value: &'static str, date: Option<&'static str>) -> Option<u64> {
        let mut headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
        retry_after(&headers, Some(NOW)).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_wait_is_read_as_seconds_and_as_a_date_and_is_bounded() {
        let day = LONGEST_BELIEVED_WAIT.as_secs();
        for (value, date, seconds) in [
            ("7", None, Some(7)),
            (" 120 ", None, Some(120)),
            ("18446744073709551615", None, Some(day)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None, Some(30)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:49:27 GMT"), Some(10)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", None, Some(0)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", None, Some(day)),
            ("-1", None, None),
            ("soon", None, None),
            ("", None, None),
        ] {
            assert_eq!(asked(value, date), seconds, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), Some(NOW)), None);
        let date = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"))]);
        assert_eq!(retry_after(&date, None), None);
    }
}
