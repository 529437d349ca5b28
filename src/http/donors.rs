//! A donor's own donations, by a link that is mailed on request.
//!
//! Deliberately absent: any answer that tells whether somebody gave. Whoever asks for a link hears the same, after the
//! same time, whatever the address; only its mailbox learns more.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use uuid::Uuid;

use super::AppState;
use super::campaigns::Page;
use super::extract::{Json, bearer, limit, query, traceparent};
use super::problem::{FieldError, Problem};
use crate::actors::facts::Wake;
use crate::domain::donor;
use crate::domain::ids::NoticeId;
use crate::domain::retry::LINK_OPENS_S;
use crate::gateways::links::Purpose;

/// The answer comes no sooner: a commit, which only a known address needs, hides in it.
const ANSWER_AFTER: Duration = Duration::from_millis(200);

/// The body of `POST /donors/me/link`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    email: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DonationsQuery {
    token: Option<String>,
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

/// `POST /donors/me/link`
pub async fn request_link(body: Json<LinkRequest>, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let address =
        donor::email(&body.value.email).map_err(|error| Problem::invalid(vec![FieldError::new("/email", error)]))?;
    let (now, trace) = (state.clock.now(), traceparent());
    let enqueued = state.store.enqueue_donor_link(&address, NoticeId::at(now), &trace, now);
    let (enqueued, ()) = tokio::join!(enqueued, tokio::time::sleep(ANSWER_AFTER));
    if enqueued? {
        for courier in &state.couriers {
            let _ = courier.try_send(Wake); // a full mailbox has a wake in it already
        }
    }
    Ok(HttpResponse::Accepted().insert_header(("Cache-Control", "no-store")).finish())
}

/// `GET /donors/me/donations`; the link's token is the parameter `token` or a bearer token.
pub async fn donations(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let asked: DonationsQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let token = asked.token.as_deref().or_else(|| bearer(&request)).unwrap_or_default();
    let address = address_of(&state, token).await?;
    let items = state.store.list_own_donations(&address, asked.cursor, limit + 1).await?;
    let page = Page::of(items, limit, |donation| donation.id.to_string());
    // The address bar has the token: it is neither kept nor told to anybody.
    Ok(HttpResponse::Ok()
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .json(page))
}

/// Whose donations a token opens now. A wrong token and a late one are told alike.
async fn address_of(state: &AppState, token: &str) -> Result<String, Problem> {
    let refused = || Problem::unauthorized("This link does not open anything, or not any more. Ask for another one.");
    let notice = state.links.read(Purpose::Donations, token).ok_or_else(refused)?;
    let link = state.store.find_donor_link(notice).await?;
    let opens = link.filter(|link| state.clock.now() < link.created_at + Duration::from_secs(LINK_OPENS_S));
    Ok(opens.ok_or_else(refused)?.address)
}
