//! The endpoints of Stripe's API that the product uses, below `/sandbox/stripe/v1`.
//!
//! Deliberately absent: everything else; it answers 404 as Stripe does for an unknown URL.

use std::time::Duration;

use actix_web::web::{Bytes, Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::Caller;
use super::cards::TestMethod;
use super::collection::{Collection, Identified};
use super::engine::Engine;
use super::errors::StripeError;
use super::events::EventFilter;
use super::expand::{Expand, Expanded};
use super::faults::Operation;
use super::form::Form;
use super::gate::{Request, change, look, refuse, write};
use super::ids::request_id;
use super::objects::{Object, PaymentIntent};
use super::render::{EventView, ListView, ObjectView};
use super::state::State;
use super::{disputes, intents, refunds};

const PAGE_PARAMETERS: &[&str] = &["limit", "starting_after", "ending_before"];

/// Mounts the endpoints into the scope `/sandbox/stripe/v1`.
pub(super) fn configure(scope: &mut ServiceConfig) {
    scope
        .service(
            web::resource("/payment_intents").route(web::post().to(create_intent)).route(web::get().to(list_intents)),
        )
        .route("/payment_intents/{id}", web::get().to(retrieve_intent))
        .route("/payment_intents/{id}/confirm", web::post().to(confirm_intent))
        .route("/payment_intents/{id}/capture", web::post().to(capture_intent))
        .route("/payment_intents/{id}/cancel", web::post().to(cancel_intent))
        .service(web::resource("/refunds").route(web::post().to(create_refund)).route(web::get().to(list_refunds)))
        .route("/refunds/{id}", web::get().to(retrieve_refund))
        .route("/charges/{id}", web::get().to(retrieve_charge))
        .route("/disputes/{id}", web::get().to(retrieve_dispute))
        .route("/disputes/{id}/close", web::post().to(close_dispute))
        .route("/events", web::get().to(list_events))
        .route("/events/{id}", web::get().to(retrieve_event))
        .route("/balance", web::get().to(retrieve_balance))
        .default_service(web::to(unrecognized));
}

async fn unrecognized(http: HttpRequest) -> HttpResponse {
    let path = http.path().trim_start_matches("/sandbox/stripe");
    refuse(&request_id(), &StripeError::unrecognized_url(http.method().as_str(), path))
}

async fn create_intent(engine: Data<Engine>, http: HttpRequest, body: Bytes) -> HttpResponse {
    let takes = |request: &Request| match request.form.get("confirm") {
        Some("true") => confirm_takes(&request.form, None),
        _ => Duration::ZERO,
    };
    change(&engine, &http, &body, Operation::Create, takes, |work, request| {
        request.require_secret_key()?;
        intents::create(work, &request.form).map(Object::from)
    })
    .await
}

async fn confirm_intent(engine: Data<Engine>, http: HttpRequest, body: Bytes, id: Path<String>) -> HttpResponse {
    let takes = |request: &Request| {
        let known = engine.state().intents.get(&id).and_then(|intent| intent.method);
        confirm_takes(&request.form, known)
    };
    change(&engine, &http, &body, Operation::Confirm, takes, |work, request| {
        check_client_secret(request, &*work.intent(&id)?)?;
        intents::confirm(work, &id, &request.form).map(Object::from)
    })
    .await
}

fn confirm_takes(form: &Form, known: Option<TestMethod>) -> Duration {
    let named = form.get("payment_method").and_then(TestMethod::parse);
    named.or(known).map_or(Duration::ZERO, TestMethod::confirm_takes)
}

/// A browser must bring the intent's client secret; whoever brings one must bring the right one.
fn check_client_secret(request: &Request, intent: &PaymentIntent) -> Result<(), StripeError> {
    match request.form.get("client_secret") {
        Some(secret) if secret.strip_prefix(&*intent.id) == Some(&format!("_secret_{}", intent.secret)) => Ok(()),
        None if request.caller == Caller::Secret => Ok(()),
        None => Err(StripeError::secret_key_required()),
        Some(_) => Err(StripeError::parameter_code(
            "payment_intent_invalid_parameter",
            "client_secret",
            "The client_secret provided does not match the client_secret associated with the PaymentIntent.",
        )),
    }
}

async fn capture_intent(engine: Data<Engine>, http: HttpRequest, body: Bytes, id: Path<String>) -> HttpResponse {
    change(&engine, &http, &body, Operation::Capture, at_once, |work, request| {
        request.require_secret_key()?;
        intents::capture(work, &id, &request.form).map(Object::from)
    })
    .await
}

async fn cancel_intent(engine: Data<Engine>, http: HttpRequest, body: Bytes, id: Path<String>) -> HttpResponse {
    change(&engine, &http, &body, Operation::Cancel, at_once, |work, request| {
        request.require_secret_key()?;
        intents::cancel(work, &id, &request.form).map(Object::from)
    })
    .await
}

async fn create_refund(engine: Data<Engine>, http: HttpRequest, body: Bytes) -> HttpResponse {
    change(&engine, &http, &body, Operation::Refund, at_once, |work, request| {
        request.require_secret_key()?;
        refunds::create(work, &request.form).map(Object::from)
    })
    .await
}

async fn close_dispute(engine: Data<Engine>, http: HttpRequest, body: Bytes, id: Path<String>) -> HttpResponse {
    change(&engine, &http, &body, Operation::Any, at_once, |work, request| {
        request.require_secret_key()?;
        disputes::close(work, &id, &request.form).map(Object::from)
    })
    .await
}

fn at_once(_: &Request) -> Duration {
    Duration::ZERO
}

async fn retrieve_intent(engine: Data<Engine>, http: HttpRequest, id: Path<String>) -> HttpResponse {
    look(&engine, &http, |engine, request| {
        request.form.allow(&["client_secret", "key"])?;
        let state = engine.state();
        let missing = || StripeError::missing("payment_intent", &id);
        let intent = state.intents.get(&id).ok_or_else(missing)?;
        check_client_secret(request, intent)?;
        Ok(write(&state, &Object::from(intent.clone()), request.expand))
    })
    .await
}

async fn retrieve_refund(engine: Data<Engine>, http: HttpRequest, id: Path<String>) -> HttpResponse {
    retrieve(&engine, &http, "refund", &id, |state, id| state.refunds.get(id).map(|o| o.clone().into())).await
}

async fn retrieve_charge(engine: Data<Engine>, http: HttpRequest, id: Path<String>) -> HttpResponse {
    retrieve(&engine, &http, "charge", &id, |state, id| state.charges.get(id).map(|o| o.clone().into())).await
}

async fn retrieve_dispute(engine: Data<Engine>, http: HttpRequest, id: Path<String>) -> HttpResponse {
    retrieve(&engine, &http, "dispute", &id, |state, id| state.disputes.get(id).map(|o| o.clone().into())).await
}

async fn retrieve(
    engine: &Engine,
    http: &HttpRequest,
    kind: &str,
    id: &str,
    find: impl Fn(&State, &str) -> Option<Object>,
) -> HttpResponse {
    look(engine, http, |engine, request| {
        request.require_secret_key()?;
        request.form.allow(&[])?;
        let state = engine.state();
        let object = find(&state, id).ok_or_else(|| StripeError::missing(kind, id))?;
        Ok(write(&state, &object, request.expand))
    })
    .await
}

async fn list_intents(engine: Data<Engine>, http: HttpRequest) -> HttpResponse {
    look(&engine, &http, |engine, request| {
        request.require_secret_key()?;
        request.form.allow(PAGE_PARAMETERS)?;
        let state = engine.state();
        list(&state, &state.intents, "/v1/payment_intents", request, |_| true)
    })
    .await
}

async fn list_refunds(engine: Data<Engine>, http: HttpRequest) -> HttpResponse {
    look(&engine, &http, |engine, request| {
        request.require_secret_key()?;
        request.form.allow(&["limit", "starting_after", "ending_before", "charge", "payment_intent"])?;
        let (charge, intent) = (request.form.get("charge"), request.form.get("payment_intent"));
        let state = engine.state();
        list(&state, &state.refunds, "/v1/refunds", request, |refund| {
            charge.is_none_or(|id| *refund.charge == *id) && intent.is_none_or(|id| *refund.intent == *id)
        })
    })
    .await
}

fn list<T: Identified>(
    state: &State,
    all: &Collection<T>,
    url: &str,
    request: &Request,
    keep: impl Fn(&T) -> bool,
) -> Result<Vec<u8>, StripeError>
where
    Object: From<std::sync::Arc<T>>,
{
    let (items, has_more) = all.page(&request.form.page()?, keep).map_err(|id| unknown_cursor(&id))?;
    let items: Vec<(Object, Expanded)> =
        items.into_iter().map(Object::from).map(|object| with_expanded(state, object, request.expand)).collect();
    let views = items.iter().map(|(object, expanded)| ObjectView::new(object, expanded)).collect();
    Ok(serde_json::to_vec(&ListView::new(url, views, has_more)).unwrap_or_default())
}

fn with_expanded(state: &State, object: Object, expand: Expand) -> (Object, Expanded) {
    let expanded = Expanded::gather(state, &object, expand);
    (object, expanded)
}

fn unknown_cursor(id: &str) -> StripeError {
    StripeError::missing_param("object", id, "starting_after")
}

async fn list_events(engine: Data<Engine>, http: HttpRequest) -> HttpResponse {
    look(&engine, &http, |engine, request| {
        request.require_secret_key()?;
        let filters = ["type", "types", "created", "delivery_success"];
        request.form.allow(&[PAGE_PARAMETERS, &filters].concat())?;
        let (page, filter) = (request.form.page()?, EventFilter::from_form(&request.form)?);
        let found = engine.state().events.page(&page, |event| filter.matches(event));
        let (events, has_more) = found.map_err(|id| unknown_cursor(&id))?;
        let views = events.iter().map(|event| EventView::new(event)).collect();
        Ok(serde_json::to_vec(&ListView::new("/v1/events", views, has_more)).unwrap_or_default())
    })
    .await
}

async fn retrieve_event(engine: Data<Engine>, http: HttpRequest, id: Path<String>) -> HttpResponse {
    look(&engine, &http, |engine, request| {
        request.require_secret_key()?;
        let event = engine.state().events.get(&id).cloned();
        let event = event.ok_or_else(|| StripeError::missing("event", &id))?;
        Ok(serde_json::to_vec(&EventView::new(&event)).unwrap_or_default())
    })
    .await
}

/// A cheap call that shows whether the API answers. The amounts are always empty: the control has the books.
async fn retrieve_balance(engine: Data<Engine>, http: HttpRequest) -> HttpResponse {
    look(&engine, &http, |_, request| {
        request.require_secret_key()?;
        Ok(br#"{"object":"balance","available":[],"livemode":false,"pending":[]}"#.to_vec())
    })
    .await
}
