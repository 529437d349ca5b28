//! A campaign's totals: from memory without asking anybody, if it can be.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::AppState;
use super::campaigns::find;
use super::extract::query;
use super::problem::Problem;
use crate::actors::totals::{GetTotals, TotalsAnswer};
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
    let id = campaign_id(&request, &state).await?;
    if !fresh && let Some(known) = state.totals_memory.get(id, min_version) {
        return Ok(send(known));
    }
    let mut span = Span::here(Kind::Internal, || "read totals");
    let told = state.totals.send(GetTotals { id, min_version, fresh }).await.map_err(Problem::unavailable)??;
    span.set("careforall.totals.source", told.source.as_str());
    Ok(send(told))
}

/// The campaign that the path names; an identifier is not looked up, for whoever reads it next will.
pub(super) async fn campaign_id(request: &HttpRequest, state: &AppState) -> Result<CampaignId, Problem> {
    match request.match_info().get("id").and_then(|name| name.parse::<CampaignId>().ok()) {
        Some(id) => Ok(id),
        None => Ok(find(request, state).await?.id),
    }
}

fn send(answer: TotalsAnswer) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").insert_header((CACHE_CONTROL, "no-store")).body(answer.body)
}
