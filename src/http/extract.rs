//! What handlers take out of requests: JSON bodies with pointers to what is wrong, identifiers, lists, trace context.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::BODY_MAX_BYTES;
use super::problem::{FieldError, Problem};
use crate::trace;

/// How long a body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// Items of a list page, if the caller does not say.
const LIMIT_DEFAULT: i64 = 20;
/// Items of a list page at most.
pub const LIMIT_MAX: i64 = 100;

/// A JSON body, with the bytes that it was read from.
pub struct Json<T> {
    /// What it says.
    pub value: T,
    /// As it was sent.
    pub raw: web::Bytes,
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let checked = check_content_type(request);
        let payload = payload.take();
        Box::pin(async move {
            checked?;
            let raw = read_body(payload, BODY_MAX_BYTES).await?;
            Ok(Self { value: parse(&raw)?, raw })
        })
    }
}

/// A raw body of at most `max` bytes, if it arrives in time.
pub async fn read_body(payload: Payload, max: usize) -> Result<web::Bytes, Problem> {
    tokio::time::timeout(BODY_WAIT, collect(payload, max)).await.unwrap_or_else(|_| {
        let detail = format!("The body did not arrive within {} s.", BODY_WAIT.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout", detail))
    })
}

async fn collect(mut payload: Payload, max: usize) -> Result<web::Bytes, Problem> {
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Problem::malformed(vec![FieldError::new("", error)]))?;
        if body.len() + chunk.len() > max {
            let detail = format!("The body is larger than {max} bytes.");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Content too large", detail));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn check_content_type(request: &HttpRequest) -> Result<(), Problem> {
    let header = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = header.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "Send JSON with Content-Type: application/json.";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type", detail))
}

/// Reads JSON; an error points to the field that is at fault.
pub fn parse<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Problem> {
    // An empty body where every field is optional says nothing, and that is allowed to be said shortly.
    let raw = if raw.is_empty() { b"{}" } else { raw };
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let value: Object<T> = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let detail = error.inner().to_string();
        Problem::malformed(vec![FieldError { pointer: pointer(&path, &detail), detail: without_place(&detail) }])
    })?;
    deserializer.end().map_err(|error| Problem::malformed(vec![FieldError::new("", error)]))?;
    Ok(value.0)
}

/// Something that is written as a JSON object. serde would also read its fields from an array, by position: then a
/// field that we add one day would change what such a request says.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// For a field whose value is an object: `#[serde(deserialize_with = "object")]`.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Fields(PhantomData))
}

/// serde's path as a JSON Pointer; serde points to the parent of an unknown, missing or repeated field, we to
/// the field.
fn pointer(path: &str, detail: &str) -> String {
    let mut pointer = String::new();
    for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty() && *part != "?") {
        pointer.push('/');
        pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
    }
    let named =
        ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|start| detail.strip_prefix(start));
    if let Some(field) = named.and_then(|rest| rest.split('`').next())
        && !pointer.ends_with(&format!("/{field}"))
    {
        pointer.push('/');
        pointer.push_str(field);
    }
    pointer
}

/// serde_json ends its messages with a line and column, of which the pointer says more.
fn without_place(detail: &str) -> String {
    detail.rsplit_once(" at line ").map_or(detail, |(words, _)| words).to_owned()
}

/// An identifier in a path.
pub fn path_id(request: &HttpRequest) -> Result<Uuid, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    text.parse().map_err(|_| {
        let detail = "The identifier in the path is not a UUID.";
        Problem::new(StatusCode::BAD_REQUEST, "malformed-identifier", "Malformed identifier", detail)
    })
}

/// Query parameters; unknown ones are refused.
pub fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    serde_urlencoded::from_str(request.query_string()).map_err(|error| {
        let detail = error.to_string();
        Problem::malformed(vec![FieldError { pointer: pointer("", &detail), detail }])
    })
}

/// How many items of a list are asked for.
pub fn limit(asked: Option<i64>) -> Result<i64, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::invalid(vec![FieldError::new("/limit", format!("must be from 1 to {LIMIT_MAX}"))])),
    }
}

/// The `traceparent` of what this request causes.
pub fn traceparent() -> String {
    let context = trace::current().unwrap_or_else(|| trace::Current::continuing(None));
    context.traceparent().to_owned()
}

/// The bearer token of a request.
pub fn bearer(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(actix_web::http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read by serde")]
    struct Outer {
        amount_minor: i64,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read by serde")]
    struct Inner {
        email: String,
    }

    fn pointer_of(json: &str) -> String {
        let problem = parse::<Outer>(json.as_bytes()).unwrap_err();
        serde_json::to_value(problem).unwrap()["errors"][0]["pointer"].as_str().unwrap().to_owned()
    }

    #[test]
    fn errors_point_to_the_field_at_fault() {
        assert_eq!(pointer_of(r#"{"amount_minor": 10.5}"#), "/amount_minor");
        assert_eq!(pointer_of(r#"{"amount_minor": 1, "colour": 1}"#), "/colour");
        assert_eq!(pointer_of(r#"{"amount_minor": 1, "inner": {"email": "a", "x": 1}}"#), "/inner/x");
        assert_eq!(pointer_of(r#"{"amount_minor": 1, "inner": {}}"#), "/inner/email");
        assert_eq!(pointer_of("{}"), "/amount_minor");
        assert_eq!(pointer_of(r#"{"amount_minor": 1, "amount_minor": 2}"#), "/amount_minor");
        assert_eq!(pointer_of("rubbish"), "");
        assert_eq!(pointer_of("[1, null]"), "", "fields have names");
    }
}
