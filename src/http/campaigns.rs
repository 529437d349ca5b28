//! Campaigns: shown to everybody, made and changed by operators.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::AppState;
use super::access::operator;
use super::extract::{Json, limit, query};
use super::idempotency::{answer, claimed_key, once};
use super::notifications::as_body;
use super::problem::{FieldError, Problem};
use crate::actors::totals::{DropTotals, GetFreshTotals};
use crate::domain::campaign::{Campaign, CampaignStatus, is_slug};
use crate::domain::donor::{line, paragraph};
use crate::domain::ids::CampaignId;
use crate::domain::money::Currency;
use crate::store::campaigns::create_campaign;

const TITLE_MAX_CHARS: usize = 200;
const DESCRIPTION_MAX_CHARS: usize = 10_000;
/// The largest goal, in minor units: far above any campaign, far below what a sum could overflow at.
const GOAL_MAX_MINOR: i64 = 1_000_000_000_000_000;
/// How often a change is decided again because somebody else was quicker.
const UPDATE_TRIES: usize = 8;

/// The body of `POST /campaigns`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    slug: String,
    title: String,
    description: Option<String>,
    goal_minor: Option<i64>,
    currency: String,
    #[serde(default)]
    manual_capture: bool,
    #[serde(default, with = "time::serde::rfc3339::option")]
    starts_at: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    ends_at: Option<OffsetDateTime>,
}

/// The body of `PATCH /campaigns/{id}`: what is absent stays, and `null` takes away what a campaign may be without.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignPatch {
    title: Option<String>,
    #[serde(default, deserialize_with = "removable")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "removable")]
    goal_minor: Option<Option<i64>>,
    status: Option<CampaignStatus>,
    #[serde(default, deserialize_with = "removable_date")]
    starts_at: Option<Option<OffsetDateTime>>,
    #[serde(default, deserialize_with = "removable_date")]
    ends_at: Option<Option<OffsetDateTime>>,
}

/// By itself serde takes `null` for an absent field.
fn removable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn removable_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<OffsetDateTime>>, D::Error> {
    time::serde::rfc3339::option::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
    status: Option<CampaignStatus>,
}

/// A page of a list.
#[derive(Serialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` of `items`, of which one more than that was asked for.
    pub fn of(mut items: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = if more { items.last().map(cursor) } else { None };
        Self { items, next_cursor }
    }
}

/// `GET /campaigns`
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let asked: ListQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let _reading = state.leave_to_read()?;
    let items = state.store.list_campaigns(asked.status, asked.cursor, limit + 1).await?;
    Ok(HttpResponse::Ok().json(Page::of(items, limit, |campaign| campaign.id.to_string())))
}

/// `GET /campaigns/{id or slug}`
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let _reading = state.leave_to_read()?;
    Ok(HttpResponse::Ok().json(find(&request, &state).await?))
}

/// The campaign that the path names, by identifier or slug.
pub async fn find(request: &HttpRequest, state: &AppState) -> Result<Campaign, Problem> {
    let name = request.match_info().get("id").unwrap_or_default();
    if name.contains('\0') {
        return Err(Problem::not_found("campaign"));
    }
    state.store.load_campaign(name).await?.ok_or_else(|| Problem::not_found("campaign"))
}

/// `POST /campaigns`
pub async fn create(
    request: HttpRequest,
    body: Json<NewCampaign>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "campaigns:write").await?;
    let key = claimed_key(&request, &operator.id.to_string(), &body.raw)?;
    let campaign = body.value.check(state.clock.now())?;
    let (body, replayed) = once(&state, key.as_ref(), 201, async |transaction| {
        if create_campaign(transaction, &campaign).await? {
            as_body(&campaign).map(Ok)
        } else {
            Ok(Err(SlugTaken(campaign.slug.clone())))
        }
    })
    .await?;
    Ok(answer(201, body, replayed))
}

/// Another campaign has that slug.
struct SlugTaken(String);

impl From<SlugTaken> for Problem {
    fn from(SlugTaken(slug): SlugTaken) -> Self {
        Self::conflict("slug-taken", format!("There is a campaign with the slug {slug:?} already."))
    }
}

/// `PATCH /campaigns/{id or slug}`
pub async fn change(
    request: HttpRequest,
    body: Json<CampaignPatch>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "campaigns:write").await?;
    let patch = body.value;
    update(&request, &state, |campaign| patch.clone().apply(campaign).map(Some)).await
}

/// `POST /campaigns/{id or slug}/close`: it takes no donations any more; captures that come late still count. Closing it once
/// more changes nothing.
pub async fn close(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "campaigns:write").await?;
    update(&request, &state, |campaign| match campaign.status {
        CampaignStatus::Completed => Ok(None),
        CampaignStatus::Cancelled => Err(Problem::conflict("campaign-cancelled", "the campaign was cancelled")),
        CampaignStatus::Active | CampaignStatus::Paused => {
            Ok(Some(Campaign { status: CampaignStatus::Completed, ..campaign }))
        }
    })
    .await
}

/// Writes down what `change` makes of the campaign, decided again where somebody else was quicker; `None` leaves it as it is.
async fn update(
    request: &HttpRequest,
    state: &AppState,
    change: impl Fn(Campaign) -> Result<Option<Campaign>, Problem>,
) -> Result<HttpResponse, Problem> {
    for _ in 0..UPDATE_TRIES {
        let read = find(request, state).await?;
        let read_at = read.updated_at;
        let Some(changed) = change(read.clone())? else { return Ok(HttpResponse::Ok().json(read)) };
        // Later than what was read, whatever the clock says: no two states of a campaign have one time.
        let updated_at = state.clock.now().max(read_at + time::Duration::MICROSECOND);
        let changed = Campaign { updated_at, ..changed };
        if state.store.update_campaign(&changed, read_at).await? {
            show_anew(state, changed.id).await;
            return Ok(HttpResponse::Ok().json(changed));
        }
    }
    Err(Problem::conflict("campaign-busy", "Others keep changing the campaign; try again."))
}

/// Totals show the goal: the next reader gets the new one, on every replica once Redis has it.
async fn show_anew(state: &AppState, id: CampaignId) {
    let _ = state.totals.send(DropTotals(vec![id])).await;
    let _ = state.totals.send(GetFreshTotals { id }).await; // what fails here is right again in a moment
}

impl NewCampaign {
    fn check(self, now: OffsetDateTime) -> Result<Campaign, Problem> {
        let mut errors = Vec::new();
        if !is_slug(&self.slug) {
            let detail = "must be lower-case letters, digits and single hyphens, at most 80 of them, and no UUID";
            errors.push(FieldError::new("/slug", detail));
        }
        let title = checked(&mut errors, "/title", line(&self.title, TITLE_MAX_CHARS));
        let description = description(&mut errors, self.description);
        let currency = Currency::parse(&self.currency);
        if currency.is_none() {
            errors.push(FieldError::new(
                "/currency",
                "must be an ISO 4217 code that the provider charges in, such as EUR",
            ));
        }
        check_goal(&mut errors, self.goal_minor);
        check_dates(&mut errors, self.starts_at, self.ends_at);
        match (title, currency) {
            (Some(title), Some(currency)) if errors.is_empty() => Ok(Campaign {
                id: CampaignId::at(now),
                slug: self.slug,
                title,
                description,
                goal_minor: self.goal_minor,
                currency,
                manual_capture: self.manual_capture,
                status: CampaignStatus::Active,
                starts_at: self.starts_at,
                ends_at: self.ends_at,
                created_at: now,
                updated_at: now,
            }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

impl CampaignPatch {
    fn apply(self, mut campaign: Campaign) -> Result<Campaign, Problem> {
        let mut errors = Vec::new();
        if let Some(title) =
            self.title.as_deref().and_then(|title| checked(&mut errors, "/title", line(title, TITLE_MAX_CHARS)))
        {
            campaign.title = title;
        }
        if let Some(text) = self.description {
            campaign.description = description(&mut errors, text);
        }
        campaign.goal_minor = self.goal_minor.unwrap_or(campaign.goal_minor);
        check_goal(&mut errors, campaign.goal_minor);
        campaign.status = self.status.unwrap_or(campaign.status);
        campaign.starts_at = self.starts_at.unwrap_or(campaign.starts_at);
        campaign.ends_at = self.ends_at.unwrap_or(campaign.ends_at);
        check_dates(&mut errors, campaign.starts_at, campaign.ends_at);
        if errors.is_empty() { Ok(campaign) } else { Err(Problem::invalid(errors)) }
    }
}

/// The value, or its error on the list.
pub fn checked<T, E: std::fmt::Display>(errors: &mut Vec<FieldError>, pointer: &str, value: Result<T, E>) -> Option<T> {
    value.map_err(|error| errors.push(FieldError::new(pointer, error))).ok()
}

fn description(errors: &mut Vec<FieldError>, text: Option<String>) -> Option<String> {
    text.and_then(|text| checked(errors, "/description", paragraph(&text, DESCRIPTION_MAX_CHARS)))
}

fn check_goal(errors: &mut Vec<FieldError>, goal_minor: Option<i64>) {
    if goal_minor.is_some_and(|goal| !(1..=GOAL_MAX_MINOR).contains(&goal)) {
        errors.push(FieldError::new("/goal_minor", format!("must be from 1 to {GOAL_MAX_MINOR} minor units")));
    }
}

fn check_dates(errors: &mut Vec<FieldError>, starts_at: Option<OffsetDateTime>, ends_at: Option<OffsetDateTime>) {
    for (pointer, date) in [("/starts_at", starts_at), ("/ends_at", ends_at)] {
        if date.is_some_and(|date| !is_usable(date)) {
            errors.push(FieldError::new(pointer, "must be in the years 1970 to 9998"));
        }
    }
    if let (Some(starts_at), Some(ends_at)) = (starts_at, ends_at)
        && ends_at <= starts_at
    {
        errors.push(FieldError::new("/ends_at", "must be after starts_at"));
    }
}

/// Whether a date can be stored and shown again: near the ends of the calendar its offset leads out of the four digits
/// of a year, and the campaign, with every list that it is in, could not be read any more.
fn is_usable(date: OffsetDateTime) -> bool {
    let utc = date.checked_to_offset(time::UtcOffset::UTC);
    utc.is_some_and(|utc| (1970..=9998).contains(&utc.year()))
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn dates_that_could_not_be_shown_again_are_refused() {
        let is_taken = |text: &str| {
            let mut errors = Vec::new();
            check_dates(&mut errors, None, Some(OffsetDateTime::parse(text, &Rfc3339).unwrap()));
            errors.is_empty()
        };
        assert!(is_taken("2030-01-01T00:00:00+14:00"));
        for bad in ["9999-12-31T23:59:59-12:00", "0000-01-01T00:00:00+12:00", "1969-12-31T23:59:59Z"] {
            assert!(!is_taken(bad), "{bad}");
        }
    }
}
