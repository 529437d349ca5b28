//! Who calls: Stripe's API keys by bearer or basic authentication (<https://docs.stripe.com/api/authentication>).
//!
//! Any `sk_test_…` is as good as another. Deliberately absent: live keys (refused), accounts, restricted keys' rights.

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::errors::StripeError;
use super::form::Form;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Everything.
    Secret,
    /// What a donor's browser may do to the one intent whose client secret it has.
    Browser,
}

/// Tells who calls. A browser that brings a client secret needs no key, so that a demonstration page needs none.
pub(super) fn authenticate(request: &HttpRequest, form: &Form) -> Result<Caller, StripeError> {
    match presented_key(request).or_else(|| form.get("key").map(str::to_owned)) {
        Some(key) if key.starts_with("sk_test_") || key.starts_with("rk_test_") => Ok(Caller::Secret),
        Some(key) if key.starts_with("pk_test_") => Ok(Caller::Browser),
        Some(key) => Err(StripeError::unauthorized(&format!("Invalid API Key provided: {}", masked(&key)))),
        None if form.get("client_secret").is_some() => Ok(Caller::Browser),
        None => Err(StripeError::unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using \
             Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        )),
    }
}

fn presented_key(request: &HttpRequest) -> Option<String> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let decoded = STANDARD.decode(value.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let credentials = String::from_utf8(decoded).ok()?;
    Some(credentials.split(':').next().unwrap_or_default().to_owned())
}

fn masked(key: &str) -> String {
    let shown: String = key.chars().take(8).collect();
    format!("{shown}****")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn caller(header: &str, form: &str) -> Result<Caller, u16> {
        let request = TestRequest::default().insert_header((AUTHORIZATION, header)).to_http_request();
        authenticate(&request, &Form::parse(form.as_bytes()).unwrap()).map_err(|error| error.status())
    }

    #[test]
    fn bearer_and_basic_keys_are_told_apart_by_their_prefix() {
        assert_eq!(caller("Bearer sk_test_x", ""), Ok(Caller::Secret));
        assert_eq!(caller(&format!("Basic {}", STANDARD.encode("sk_test_x:")), ""), Ok(Caller::Secret));
        assert_eq!(caller("Bearer pk_test_x", ""), Ok(Caller::Browser));
        assert_eq!(caller("", "key=pk_test_x"), Ok(Caller::Browser));
        assert_eq!(caller("", "client_secret=pi_secret"), Ok(Caller::Browser));
        assert_eq!(caller("Bearer sk_live_x", ""), Err(401));
        assert_eq!(caller("", ""), Err(401));
    }
}
