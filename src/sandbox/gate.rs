//! What every API request passes on its way in and out: key, parameters, ordered faults, idempotency, headers.
//!
//! Deliberately absent: what the endpoints do (see `api`).

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};

use super::auth::{Caller, authenticate};
use super::engine::{Answered, Call, Engine};
use super::errors::StripeError;
use super::expand::{Expand, Expanded};
use super::faults::{FaultMode, Hit, Operation};
use super::form::Form;
use super::idempotency::{Answer, AnswerBody, MAX_KEY_CHARS, fingerprint};
use super::ids::{Id, request_id};
use super::objects::Object;
use super::render::{API_VERSION, ObjectView};
use super::state::State;
use super::work::Work;

/// A request that was let in.
#[derive(Debug)]
pub(super) struct Request {
    pub form: Form,
    pub caller: Caller,
    pub expand: Expand,
    id: Id,
    key: Option<Id>,
    path: String,
    hit: Hit,
}

impl Request {
    /// Reads a request; `parameters` is its body or its query string.
    fn read(http: &HttpRequest, parameters: &[u8], id: Id) -> Result<Self, StripeError> {
        let form = Form::parse(parameters)?;
        let caller = authenticate(http, &form)?;
        let (key, path) = (idempotency_key(http)?, http.path().to_owned());
        Ok(Self { expand: Expand::from_form(&form)?, form, caller, id, key, path, hit: Hit::default() })
    }

    /// Refuses whoever has no secret key.
    pub fn require_secret_key(&self) -> Result<(), StripeError> {
        match self.caller {
            Caller::Secret => Ok(()),
            Caller::Browser => Err(StripeError::secret_key_required()),
        }
    }

    fn call(&self) -> Call {
        let key = self.key.clone().map(|key| (key, fingerprint(&self.path, &self.form)));
        Call { request: Some(self.id.clone()), key, holds_key: false, expand: self.expand }
    }
}

fn idempotency_key(http: &HttpRequest) -> Result<Option<Id>, StripeError> {
    let Some(value) = http.headers().get("idempotency-key").and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    if value.chars().count() > MAX_KEY_CHARS {
        return Err(StripeError::idempotency_key_too_long());
    }
    Ok(Some(value).filter(|value| !value.is_empty()).map(Id::from))
}

/// A request that changes something; `takes` says how long it keeps its caller waiting before it does.
pub(super) async fn change<T, E>(
    engine: &Engine,
    http: &HttpRequest,
    body: &[u8],
    operation: Operation,
    takes: T,
    effect: E,
) -> HttpResponse
where
    T: FnOnce(&Request) -> Duration,
    E: FnOnce(&mut Work<'_>, &Request) -> Result<Object, StripeError>,
{
    let id = request_id();
    let answered = async {
        let request = admit(engine, http, body, operation, id.clone()).await?;
        let answered = carry_out(engine, &request, takes, effect).await?;
        hold_back(engine, request.hit).await?;
        Ok(answered)
    };
    match answered.await {
        Ok(answered) => respond(http, &id, &answered),
        Err(error) => refuse(&id, &error),
    }
}

async fn carry_out<T, E>(engine: &Engine, request: &Request, takes: T, effect: E) -> Result<Answered, StripeError>
where
    T: FnOnce(&Request) -> Duration,
    E: FnOnce(&mut Work<'_>, &Request) -> Result<Object, StripeError>,
{
    let mut call = request.call();
    let slowed = if request.hit.mode == FaultMode::SlowMs { request.hit.delay } else { Duration::ZERO };
    let wait = takes(request) + slowed;
    if !wait.is_zero() {
        if let Some(answered) = engine.hold_key(&mut call)? {
            return Ok(answered);
        }
        engine.pause(wait).await;
    }
    engine.perform(call, |work| effect(work, request)).await
}

/// A request that only looks; `find` answers with the JSON.
pub(super) async fn look<F>(engine: &Engine, http: &HttpRequest, find: F) -> HttpResponse
where
    F: FnOnce(&Engine, &Request) -> Result<Vec<u8>, StripeError>,
{
    let id = request_id();
    let found = async {
        let request = admit(engine, http, http.query_string().as_bytes(), Operation::Retrieve, id.clone()).await?;
        if request.hit.mode == FaultMode::SlowMs {
            engine.pause(request.hit.delay).await;
        }
        let found = find(engine, &request)?;
        hold_back(engine, request.hit).await?;
        Ok(found)
    };
    match found.await {
        Ok(body) => head(200, &id).body(body),
        Err(error) => refuse(&id, &error),
    }
}

/// Lets a request in, unless a fault keeps it out.
async fn admit(
    engine: &Engine,
    http: &HttpRequest,
    parameters: &[u8],
    operation: Operation,
    id: Id,
) -> Result<Request, StripeError> {
    let mut request = Request::read(http, parameters, id)?;
    request.hit = engine.faults.hit(operation);
    match request.hit.mode {
        FaultMode::Error500 => Err(StripeError::api_error()),
        FaultMode::RateLimit429 => Err(StripeError::rate_limited()),
        FaultMode::Hang => {
            engine.pause(request.hit.delay).await;
            Err(StripeError::gateway_timeout())
        }
        FaultMode::None | FaultMode::TimeoutAfterEffect | FaultMode::SlowMs => Ok(request),
    }
}

async fn hold_back(engine: &Engine, hit: Hit) -> Result<(), StripeError> {
    if hit.mode == FaultMode::TimeoutAfterEffect {
        engine.pause(hit.delay).await;
        return Err(StripeError::gateway_timeout());
    }
    Ok(())
}

/// One object as JSON, with what was asked to be expanded.
pub(super) fn write(state: &State, object: &Object, expand: Expand) -> Vec<u8> {
    let expanded = Expanded::gather(state, object, expand);
    serde_json::to_vec(&ObjectView::new(object, &expanded)).unwrap_or_default()
}

fn respond(http: &HttpRequest, id: &Id, answered: &Answered) -> HttpResponse {
    let Answer { status, request, body } = &answered.answer;
    let mut response = head(*status, id);
    if let Some(key) = http.headers().get("idempotency-key") {
        response.insert_header(("Idempotency-Key", key.clone()));
        response.insert_header(("Original-Request", &**request));
    }
    if answered.replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    match body {
        AnswerBody::Text(text) => response.body(text.to_string()),
        AnswerBody::Object(object) => {
            response.body(serde_json::to_vec(&ObjectView::new(object, &Expanded::NOTHING)).unwrap_or_default())
        }
    }
}

/// An error as an HTTP answer.
pub(super) fn refuse(id: &Id, error: &StripeError) -> HttpResponse {
    head(error.status(), id).body(error.body())
}

fn head(status: u16, id: &Id) -> actix_web::HttpResponseBuilder {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    response.insert_header(("Content-Type", "application/json"));
    response.insert_header(("Request-Id", &**id));
    response.insert_header(("Stripe-Version", API_VERSION));
    response
}
