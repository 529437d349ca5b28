//! What happens around every request: a panic becomes a 500, limits are kept, metrics are counted, and whatever it causes
//! belongs to its trace.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, Method};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, ResponseError, web};
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout};

use super::extract::bearer;
use super::limits::{POLICY, Quoted, REST};
use super::problem::Problem;
use super::{AppState, BODY_MAX_BYTES};
use crate::actors::admission::{Admission, Class};
use crate::gateways::links::UNSUBSCRIBE_PATH;
use crate::metrics::METRICS;
use crate::trace::{self, Current, Kind, Span};

/// Requests that match no route share one label, so that rubbish cannot make metrics grow.
const NO_ROUTE: &str = "none";
/// How often a thread is looked at, and how late a timer may be that is not late.
const LOOK: Duration = Duration::from_millis(10);
const COARSE: Duration = Duration::from_millis(5);
/// How long the body of a refused request is waited for.
const READ_OUT_WAIT: Duration = Duration::from_millis(500);
/// Routes that are asked again and again by machines, and whose spans would tell nobody anything.
const UNTRACED: [&str; 2] = ["/health/", "/metrics"];

/// Wraps every request.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let began = Instant::now();
    let method = request.method().clone();
    // An unknown method is one label too.
    let method = if method.is_safe() || matches!(method.as_str(), "POST" | "PATCH" | "PUT" | "DELETE") {
        method.to_string()
    } else {
        "other".to_owned()
    };
    let incoming = incoming(&request);
    let mut span = server_span(&request, &method, incoming.as_deref());
    let context = span.traceparent().map_or_else(|| Current::continuing(incoming), Current::of);
    let in_flight = InFlight::begin();
    let mut outcome = trace::within(Some(context), limited(request, next)).await;
    drop(in_flight);
    if let Ok(response) = &mut outcome
        && is_draining(response.request())
    {
        // The next request goes to a process that stays.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    // Asked of the answer, which knows how it was routed; the request would be held against every route there is.
    let (route, status) = match &outcome {
        Ok(response) => (response.request().match_pattern(), response.status()),
        Err(error) => (None, error.as_response_error().status_code()),
    };
    let route = route.as_deref().unwrap_or(NO_ROUTE);
    METRICS.http_requests.with_label_values(&[route, method.as_str(), status.as_str()]).inc();
    METRICS.http_seconds.with_label_values(&[route, method.as_str()]).observe(began.elapsed().as_secs_f64());
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail(status.as_str().to_owned());
    }
    outcome
}

/// A request that is being answered, until it is dropped: its caller may hang up.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        METRICS.http_in_flight.inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        METRICS.http_in_flight.dec();
    }
}

/// Asked when the answer is there: the end may have been announced meanwhile.
fn is_draining(request: &HttpRequest) -> bool {
    request.app_data::<web::Data<AppState>>().is_some_and(|state| state.draining.has_begun())
}

/// The caller's trace.
fn incoming(request: &ServiceRequest) -> Option<String> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    trace::incoming(header("traceparent"), header("uber-trace-id"))
}

/// The route's pattern and no path: a path may hold anything that somebody typed.
fn server_span(request: &ServiceRequest, method: &str, incoming: Option<&str>) -> Span {
    if !trace::is_on() || UNTRACED.iter().any(|start| request.path().starts_with(start)) {
        return Span::default();
    }
    let route = request.match_pattern().unwrap_or_else(|| NO_ROUTE.to_owned());
    let mut span = Span::below(Kind::Server, incoming, || format!("{method} {route}"));
    span.set("http.request.method", if method == "other" { "_OTHER".to_owned() } else { method.to_owned() });
    span.set("http.route", route);
    span.set("url.scheme", "http");
    span
}

async fn limited<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if let Some(class) = class_of(request.method(), request.match_info().as_str())
        && let Some(state) = request.app_data::<web::Data<AppState>>()
        && !state.admission.admits(class)
    {
        read_out(&mut request).await;
        let (request, _) = request.into_parts();
        return Ok(ServiceResponse::new(request, Problem::overloaded().error_response()).map_into_right_body());
    }
    let checked = match request.app_data::<web::Data<AppState>>() {
        // Operators have keys, which are counted nowhere; guessing keys is limited like anything else.
        // The decoded path, as routes are matched by: `/%61pi/` leads to the same handlers.
        Some(state) if is_limited(request.match_info().as_str()) && !is_operator(&request, state) => {
            state.limits.check(request.request())
        }
        _ => Ok(None),
    };
    match checked {
        Err(refused) => {
            let (problem, quoted) = *refused;
            let (request, _) = request.into_parts();
            let mut response = ServiceResponse::new(request, problem.error_response());
            quote(&mut response, quoted);
            Ok(response.map_into_right_body())
        }
        Ok(quoted) => {
            let mut response = next.call(request).await?;
            if let Some(quoted) = quoted {
                quote(&mut response, quoted);
            }
            Ok(response.map_into_left_body())
        }
    }
}

/// Reads what a refused request brings, if it is there: answered before that, its connection would be closed, and in a crowd new
/// connections cost more than refusals.
async fn read_out(request: &mut ServiceRequest) {
    let mut payload = request.parts_mut().1.take();
    let mut left = BODY_MAX_BYTES;
    let reading = async {
        while let Some(Ok(chunk)) = payload.next().await
            && chunk.len() <= left
        {
            left -= chunk.len();
        }
    };
    let _ = timeout(READ_OUT_WAIT, reading).await; // what is too long or too slow is left, and its connection ends
}

/// The rank of a request when more come than can be served. What has none is always taken in: operators' own routes,
/// health, metrics, donors who look after their own donation, and streams, which have a bound of their own.
fn class_of(method: &Method, path: &str) -> Option<Class> {
    match *method {
        Method::GET if path.starts_with("/api/v1/campaigns") && !path.ends_with("/stream") => Some(Class::Look),
        Method::POST if path == "/api/v1/donations" => Some(Class::Donation),
        Method::POST if path == "/webhooks/stripe" => Some(Class::Webhook),
        _ => None,
    }
}

/// Watches how late the thread is that it runs on: so long does every request wait for it.
pub async fn watch_thread(admission: Admission) {
    loop {
        let due = Instant::now() + LOOK;
        tokio::time::sleep_until(due).await;
        admission.lagged(due.elapsed().saturating_sub(COARSE));
    }
}

/// What anybody can ask for. Webhooks, metrics and the sandbox are not.
fn is_limited(path: &str) -> bool {
    ["/api/", UNSUBSCRIBE_PATH].iter().any(|start| path.starts_with(start))
}

fn is_operator(request: &ServiceRequest, state: &AppState) -> bool {
    bearer(request.request()).is_some_and(|token| state.operators.is_known(token))
}

fn quote<B>(response: &mut ServiceResponse<B>, quoted: Quoted) {
    response.headers_mut().insert(POLICY, quoted.policy);
    response.headers_mut().insert(REST, quoted.rest);
}

/// A handler's panic is a 500 like any other, under the route of its own.
pub async fn shielded<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let asked = request.request().clone();
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(response) => response.map(ServiceResponse::map_into_left_body),
        Err(_) => {
            let problem = Problem::internal(format!("a handler panicked, route {:?}", asked.match_pattern()));
            Ok(ServiceResponse::new(asked, problem.error_response()).map_into_right_body())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_who_gives_and_stripe_have_a_rank_and_nobody_else() {
        let of = |method: Method, path: &str| class_of(&method, path);
        assert_eq!(of(Method::GET, "/api/v1/campaigns/x/totals"), Some(Class::Look));
        assert_eq!(of(Method::GET, "/api/v1/campaigns"), Some(Class::Look));
        assert_eq!(of(Method::POST, "/api/v1/donations"), Some(Class::Donation));
        assert_eq!(of(Method::POST, "/webhooks/stripe"), Some(Class::Webhook));
        let others = [
            "/api/v1/campaigns/x/totals/stream",
            "/api/v1/donations/x",
            "/health/ready",
            "/metrics",
            "/api/v1/payments",
        ];
        assert!(others.into_iter().all(|path| of(Method::GET, path).is_none()));
        assert!(
            ["/api/v1/campaigns", "/api/v1/payments/x/refunds"]
                .into_iter()
                .all(|path| of(Method::POST, path).is_none())
        );
    }
}
