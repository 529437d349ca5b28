//! The control below `/sandbox/control`: what the world outside does to payments, and how Stripe misbehaves. Plain
//! JSON.
//!
//! Deliberately absent: keys. The sandbox holds play money and must not be reachable where that matters.

use actix_web::web::{Data, Json, JsonConfig, Path, ServiceConfig};
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::engine::{Call, Engine};
use super::errors::StripeError;
use super::expand::Expanded;
use super::faults::Fault;
use super::gate::refuse;
use super::idempotency::AnswerBody;
use super::ids::request_id;
use super::objects::{DisputeStatus, Object, RefundStatus};
use super::render::ObjectView;
use super::rules::WebhookRules;
use super::work::Work;
use super::{disputes, intents, refunds};

/// Mounts the routes into the scope `/sandbox/control`.
pub(super) fn configure(scope: &mut ServiceConfig) {
    scope
        .app_data(JsonConfig::default().content_type_required(false).error_handler(|error, _| {
            let answer = refuse(&request_id(), &StripeError::parameter("", &error.to_string()));
            actix_web::error::InternalError::from_response(error, answer).into()
        }))
        .service(web::resource("/webhooks").route(web::get().to(show_webhooks)).route(web::post().to(set_webhooks)))
        .service(web::resource("/faults").route(web::get().to(show_faults)).route(web::post().to(order_fault)))
        .route("/events/flush", web::post().to(flush_events))
        .route("/events/{id}/deliver", web::post().to(deliver_event))
        .route("/payment_intents/{id}/authenticate", web::post().to(authenticate))
        .route("/payment_intents/{id}/process", web::post().to(process))
        .route("/payment_intents/{id}/expire", web::post().to(expire))
        .route("/payment_intents/{id}/dispute", web::post().to(open_dispute))
        .route("/disputes/{id}", web::post().to(turn_dispute))
        .route("/refunds/{id}", web::post().to(turn_refund))
        .route("/books", web::get().to(show_books))
        .default_service(web::to(unrecognized));
}

async fn unrecognized(http: actix_web::HttpRequest) -> HttpResponse {
    refuse(&request_id(), &StripeError::unrecognized_url(http.method().as_str(), http.path()))
}

async fn show_webhooks(engine: Data<Engine>) -> HttpResponse {
    let rules = engine.state().rules.clone();
    HttpResponse::Ok().json(json!({"rules": rules, "deliveries": engine.deliveries.counts()}))
}

/// Replaces the rules: what is not named goes back to its default. Held events go out once webhooks are enabled.
async fn set_webhooks(engine: Data<Engine>, rules: Json<WebhookRules>) -> HttpResponse {
    if let Err(message) = rules.check() {
        return refuse(&request_id(), &StripeError::parameter("", &message));
    }
    let enabled = rules.enabled;
    engine.state().rules = rules.into_inner();
    if enabled {
        engine.release_held(false);
    }
    show_webhooks(engine).await
}

async fn show_faults(engine: Data<Engine>) -> HttpResponse {
    HttpResponse::Ok().json(engine.faults.ordered())
}

async fn order_fault(engine: Data<Engine>, fault: Json<Fault>) -> HttpResponse {
    engine.faults.order(fault.into_inner());
    show_faults(engine).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flush {
    /// Sends those that were lost on purpose, too.
    lost: bool,
}

/// Sends everything that waits now, even while webhooks are disabled.
async fn flush_events(engine: Data<Engine>, flush: Option<Json<Flush>>) -> HttpResponse {
    if flush.is_some_and(|flush| flush.lost) {
        engine.release_lost();
    }
    let queued = engine.deliveries.rush();
    let held = engine.release_held(true);
    HttpResponse::Accepted().json(json!({"released": queued + held}))
}

/// Sends one event once more, whatever became of it.
async fn deliver_event(engine: Data<Engine>, id: Path<String>) -> HttpResponse {
    let event = engine.state().events.get(&id).map(|event| event.id.clone());
    match event.map(|event| engine.deliveries.resend(event)) {
        None => refuse(&request_id(), &StripeError::missing("event", &id)),
        Some(true) => HttpResponse::Accepted().json(json!({"released": 1})),
        Some(false) => refuse(&request_id(), &StripeError::rate_limited()),
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeOrder {
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    #[serde(alias = "succeeded", alias = "success")]
    Succeed,
    #[serde(alias = "failed", alias = "failure")]
    Fail,
}

async fn authenticate(engine: Data<Engine>, id: Path<String>, order: Json<OutcomeOrder>) -> HttpResponse {
    let passes = order.outcome == Outcome::Succeed;
    perform(&engine, |work| intents::authenticate(work, &id, passes).map(Object::from)).await
}

async fn process(engine: Data<Engine>, id: Path<String>, order: Json<OutcomeOrder>) -> HttpResponse {
    let pays = order.outcome == Outcome::Succeed;
    perform(&engine, |work| intents::process(work, &id, pays).map(Object::from)).await
}

async fn expire(engine: Data<Engine>, id: Path<String>) -> HttpResponse {
    perform(&engine, |work| intents::expire(work, &id).map(Object::from)).await
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DisputeOrder {
    /// An inquiry, which withholds no money.
    inquiry: bool,
}

async fn open_dispute(engine: Data<Engine>, id: Path<String>, order: Option<Json<DisputeOrder>>) -> HttpResponse {
    let inquiry = order.is_some_and(|order| order.inquiry);
    let status = if inquiry { DisputeStatus::WarningNeedsResponse } else { DisputeStatus::NeedsResponse };
    perform(&engine, |work| disputes::open_for_intent(work, &id, status).map(Object::from)).await
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusOrder<S> {
    status: S,
}

async fn turn_dispute(engine: Data<Engine>, id: Path<String>, order: Json<StatusOrder<DisputeStatus>>) -> HttpResponse {
    perform(&engine, |work| disputes::turn(work, &id, order.status).map(Object::from)).await
}

async fn turn_refund(engine: Data<Engine>, id: Path<String>, order: Json<StatusOrder<RefundStatus>>) -> HttpResponse {
    perform(&engine, |work| refunds::turn(work, &id, order.status).map(Object::from)).await
}

async fn show_books(engine: Data<Engine>) -> HttpResponse {
    let books = engine.state().books();
    HttpResponse::Ok().json(books)
}

/// Does it and answers with the object as it stands then.
async fn perform<E>(engine: &Engine, effect: E) -> HttpResponse
where
    E: FnOnce(&mut Work<'_>) -> Result<Object, StripeError>,
{
    let answered = match engine.perform(Call::default(), effect).await {
        Ok(answered) => answered,
        Err(error) => return refuse(&request_id(), &error),
    };
    let status = actix_web::http::StatusCode::from_u16(answered.answer.status).unwrap_or_default();
    let mut response = HttpResponse::build(status);
    match &answered.answer.body {
        AnswerBody::Object(object) => response.json(ObjectView::new(object, &Expanded::NOTHING)),
        AnswerBody::Text(text) => response.content_type("application/json").body(text.to_string()),
    }
}
