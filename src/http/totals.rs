//! A campaign's totals: from memory without asking anybody, if it can be.
//!
//! An answer bears its version as an entity tag. Whoever asks again, and a browser does so by itself, sends it back (RFC 9110,
//! section 13.1.2) and is told nothing older, whichever replica it comes to now: a gift that was seen stays seen.

use actix_web::http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::AppState;
use super::campaigns::find;
use super::extract::query;
use super::problem::Problem;
use crate::actors::totals::{GetTotals, TotalsAnswer, TotalsError};
use crate::domain::ids::CampaignId;
use crate::trace::{Kind, Span};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TotalsQuery {
    min_version: Option<i64>,
    #[serde(default)]
    fresh: bool,
}

/// `GET /campaigns/{id or slug}/totals`; `min_version` asks for nothing older than that version, `fresh` for what the database
/// has, whatever is remembered of it.
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let TotalsQuery { min_version, fresh } =
        if request.query_string().is_empty() { TotalsQuery::default() } else { query(&request)? };
    let min_version = min_version.unwrap_or(0);
    let seen = seen(&request);
    let known_id = named_id(&request);
    let remembered = |id| state.totals_memory.get(id, min_version.max(seen)).filter(|_| !fresh);
    if let Some(known) = known_id.and_then(remembered) {
        return Ok(send(&request, known));
    }
    let _reading = state.leave_to_read()?;
    let id = match known_id {
        Some(id) => id,
        None => find(&request, &state).await?.id,
    };
    let told = match remembered(id) {
        Some(known) => known,
        None => read(&state, id, min_version, seen, fresh).await?,
    };
    Ok(send(&request, told))
}

/// What was asked for must be there; what was seen may be a tag that anybody made up.
async fn read(
    state: &AppState,
    id: CampaignId,
    min_version: i64,
    seen: i64,
    fresh: bool,
) -> Result<TotalsAnswer, Problem> {
    let mut span = Span::here(Kind::Internal, || "read totals");
    let ask =
        async |min_version| state.totals.send(GetTotals { id, min_version, fresh }).await.map_err(Problem::unavailable);
    let told = match ask(min_version.max(seen)).await? {
        Err(TotalsError::Behind { version }) if version >= min_version => ask(min_version).await?,
        told => told,
    }?;
    span.set("careforall.totals.source", told.source.as_str());
    Ok(told)
}

/// The newest version among the tags that the caller has seen; 0 where there is none.
fn seen(request: &HttpRequest) -> i64 {
    let versions = tags(request).filter_map(|tag| tag.trim_matches('"').split('.').next()?.parse::<i64>().ok());
    versions.max().unwrap_or(0).max(0)
}

/// The tags that the caller sends, compared weakly: without the mark of weak ones.
fn tags(request: &HttpRequest) -> impl Iterator<Item = &str> {
    let values = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|tag| weakly(tag.trim()))
}

fn weakly(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The campaign that the path names; an identifier is not looked up, for whoever reads it next will.
pub(super) async fn campaign_id(request: &HttpRequest, state: &AppState) -> Result<CampaignId, Problem> {
    match named_id(request) {
        Some(id) => Ok(id),
        None => Ok(find(request, state).await?.id),
    }
}

fn named_id(request: &HttpRequest) -> Option<CampaignId> {
    request.match_info().get("id")?.parse().ok()
}

/// 304 where nothing that counts has changed since the caller saw it.
fn send(request: &HttpRequest, answer: TotalsAnswer) -> HttpResponse {
    let is_known = answer.tag.to_str().is_ok_and(|tag| tags(request).any(|known| known == weakly(tag)));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache"))).insert_header((ETAG, answer.tag));
    if is_known { response.finish() } else { response.content_type("application/json").body(answer.body) }
}
