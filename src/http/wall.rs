//! `GET /campaigns/{id}/donations`: the public wall. First names or "Anonymous", amounts, messages; nothing else of a donor.
//!
//! Donors write what stands here, and pages show it: `<`, `>` and `&` leave as JSON escapes (`\u003c`), so that the document
//! is harmless even where it is put into HTML as it is. Whoever decodes it gets the donor's own words.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AppState;
use super::campaigns::{Page, find};
use super::extract::{limit, query};
use super::problem::Problem;
use crate::domain::donor::first_name;
use crate::store::wall::WallDonation;

const ANONYMOUS: &str = "Anonymous";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WallQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

#[derive(Serialize)]
struct WallItem<'a> {
    amount_minor: i64,
    currency: &'a str,
    name: &'a str,
    anonymous: bool,
    message: Option<&'a str>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl<'a> WallItem<'a> {
    fn of(donation: &'a WallDonation) -> Self {
        Self {
            amount_minor: donation.amount_minor,
            currency: &donation.currency,
            name: donation.donor_name.as_deref().map_or(ANONYMOUS, first_name),
            anonymous: donation.anonymous,
            message: donation.message.as_deref(),
            created_at: donation.created_at,
        }
    }
}

/// `GET /campaigns/{id or slug}/donations`
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let asked: WallQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let _reading = state.leave_to_read()?;
    let campaign = find(&request, &state).await?;
    let donations = state.store.list_wall(campaign.id, asked.cursor, limit + 1).await?;
    let Page { items, next_cursor } = Page::of(donations, limit, |donation| donation.id.to_string());
    let page = Page { items: items.iter().map(WallItem::of).collect(), next_cursor };
    let body = serde_json::to_string(&page).map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(harmless(&body)))
}

/// The same JSON without a character that HTML reads as more than itself. Outside strings JSON has none of them.
fn harmless(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_leaves_as_escapes_and_is_the_same_text_when_it_is_read() {
        let text = "<script>alert(\"1\")</script> & \\u003c";
        let escaped = harmless(&serde_json::to_string(text).unwrap());
        assert!(!escaped.contains(['<', '>', '&']), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
