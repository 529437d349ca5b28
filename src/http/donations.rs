//! Donations: made by anybody, shown to whoever holds the donation's token.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

use super::AppState;
use super::access::may_see;
use super::campaigns::checked;
use super::extract::{Json, object, path_id, query, traceparent};
use super::idempotency::{answer, claimed_key};
use super::openings::prefers_no_wait;
use super::problem::{FieldError, Problem};
use crate::actors::admission::Class;
use crate::actors::committer::{CommitAnswer, CommitCreation};
use crate::actors::payment::{Command, Reply};
use crate::actors::totals::GetFreshTotals;
use crate::domain::donation::{DonationStatus, NewDonation};
use crate::domain::donor::{self, Donor};
use crate::domain::fact::{Fact, FactKind};
use crate::domain::ids::{CampaignId, DonationId, MoveId, PaymentId};
use crate::domain::money::Currency;
use crate::domain::notice::receipt_label;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::store::donations::{DonationPayment, DonationView};
use crate::store::{Answer, ClaimedKey, Creation, CreationOutcome};

/// How long the answer waits for the provider; after that the donor sees the intent with the next look.
const PROVIDER_WAIT: Duration = Duration::from_millis(2500);
const MESSAGE_MAX_CHARS: usize = 1000;
/// The longest long poll.
const POLL_MAX_S: u64 = 30;
/// Another process may have moved the donation: nobody tells us, so we look.
const POLL_LOOK: Duration = Duration::from_secs(1);
const ANSWER_HOURS: i64 = 24;

/// The body of `POST /donations`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DonationRequest {
    campaign_id: uuid::Uuid,
    amount_minor: i64,
    currency: String,
    #[serde(deserialize_with = "object")]
    donor: DonorRequest,
    #[serde(default)]
    anonymous: bool,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DonorRequest {
    name: String,
    email: String,
    phone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PollQuery {
    after_version: Option<i64>,
    wait: Option<u64>,
}

/// `POST /donations`
pub async fn create(
    request: HttpRequest,
    body: Json<DonationRequest>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let key = claimed_key(&request, "donor", &body.raw)?;
    let donation = body.value.check(state.clock.now())?;
    let payment = first_state(&donation, traceparent());
    let creation = Creation {
        fact: Fact::of(&payment, &payment, FactKind::DonationCreated, donation.created_at, payment.traceparent.clone()),
        move_id: MoveId::at(donation.created_at),
        key: key.clone(),
        donation: donation.clone(),
    };
    match record(&state, creation).await? {
        CreationOutcome::Recorded { manual_capture } => {
            let payment = Payment { manual_capture, ..payment };
            let payment = open(&state, payment, !prefers_no_wait(&request)).await;
            let view = fresh_view(&donation, &payment, state.access.issue(donation.id));
            finish(&state, key, view).await
        }
        // A repetition gets its answer though the campaign closed in the meantime.
        CreationOutcome::NotOpen => match key {
            Some(key) if is_known(&state, &key).await? => repeated(&state, key).await,
            _ => Err(why_not_open(&state, &donation).await?),
        },
        CreationOutcome::KeyTaken => match key {
            Some(key) => repeated(&state, key).await,
            None => Err(Problem::internal("a key is taken that was not sent")),
        },
    }
}

/// Records it. Spawned: it is under way until it is written, though the donor hangs up.
async fn record(state: &AppState, creation: Creation) -> Result<CreationOutcome, Problem> {
    let (committer, admission) = (state.committer.clone(), state.admission.clone());
    let (began, under_way) = (Instant::now(), admission.begin(Class::Donation));
    let recording = actix_web::rt::spawn(async move {
        let answer = committer.send(CommitCreation(creation)).await;
        drop(under_way);
        answer
    });
    let outcome = recording.await.map_err(Problem::internal)?.map_err(Problem::unavailable)??;
    admission.waited(began.elapsed());
    Ok(outcome)
}

impl DonationRequest {
    /// The donation that is asked for, made at `now`; otherwise every field that is at fault.
    pub fn check(self, now: OffsetDateTime) -> Result<NewDonation, Problem> {
        let mut errors = Vec::new();
        let currency = Currency::parse(&self.currency);
        match currency {
            None => errors.push(FieldError::new("/currency", "must be the campaign's currency, such as EUR")),
            Some(currency) => drop(checked(&mut errors, "/amount_minor", currency.check_charge(self.amount_minor))),
        }
        let name = checked(&mut errors, "/donor/name", donor::name(&self.donor.name));
        let email = checked(&mut errors, "/donor/email", donor::email(&self.donor.email));
        let phone = self.donor.phone.and_then(|phone| checked(&mut errors, "/donor/phone", donor::phone(&phone)));
        let message =
            self.message.and_then(|text| checked(&mut errors, "/message", donor::paragraph(&text, MESSAGE_MAX_CHARS)));
        match (currency, name, email) {
            (Some(currency), Some(name), Some(email)) if errors.is_empty() => Ok(NewDonation {
                id: DonationId::at(now),
                payment_id: PaymentId::at(now),
                campaign_id: CampaignId::from(self.campaign_id),
                amount_minor: self.amount_minor,
                currency,
                donor: Donor { name, email, phone },
                anonymous: self.anonymous,
                message: message.filter(|text| !text.is_empty()),
                created_at: now,
            }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

fn first_state(donation: &NewDonation, traceparent: String) -> Payment {
    Payment {
        id: donation.payment_id,
        donation_id: donation.id,
        campaign_id: donation.campaign_id,
        amount_minor: donation.amount_minor,
        currency: donation.currency,
        manual_capture: false,
        status: PaymentStatus::Initiated,
        version: 1,
        provider_at: None,
        intent_id: None,
        client_secret: None,
        captured_minor: 0,
        refunds: Vec::new(),
        disputes: Vec::new(),
        flag: None,
        traceparent: Some(traceparent),
        checks: 0,
        updated_at: donation.created_at,
    }
}

/// Has the payment opened, and waits a while for the provider, if it may; the actor goes on whether or not we wait.
async fn open(state: &AppState, payment: Payment, waits: bool) -> Payment {
    let opening = state.openings.open(payment.clone(), waits);
    match opening.filter(|_| waits) {
        Some(opening) => match timeout(PROVIDER_WAIT, opening).await {
            Ok(Ok(Ok(Reply::State(opened)))) => *opened,
            _ => payment,
        },
        None => payment,
    }
}

fn fresh_view(donation: &NewDonation, payment: &Payment, access_token: String) -> DonationView {
    DonationView {
        id: donation.id.uuid(),
        campaign_id: donation.campaign_id.uuid(),
        amount_minor: donation.amount_minor,
        currency: donation.currency.code().to_owned(),
        status: DonationStatus::from(payment.status).as_str().to_owned(),
        version: payment.version,
        anonymous: donation.anonymous,
        message: donation.message.clone(),
        receipt_number: None::<i64>.map(receipt_label),
        totals_version: None,
        access_token: Some(access_token),
        payment: DonationPayment {
            id: payment.id.uuid(),
            status: payment.status.as_str().to_owned(),
            provider: "stripe".to_owned(),
            intent_id: payment.intent_id.clone(),
            client_secret: payment.client_secret.clone(),
        },
        created_at: donation.created_at,
        updated_at: payment.updated_at,
    }
}

/// Stores the answer under its key, then sends it: what a repetition is told is what the first caller was told.
async fn finish(state: &AppState, key: Option<ClaimedKey>, view: DonationView) -> Result<HttpResponse, Problem> {
    let body = serde_json::to_string(&view).map_err(Problem::internal)?;
    if let Some(key) = key {
        let expires_at = state.clock.now() + time::Duration::hours(ANSWER_HOURS);
        let answer = Answer { key, status: 201, body: body.clone(), expires_at };
        state.committer.send(CommitAnswer(answer)).await.map_err(Problem::unavailable)??;
    }
    Ok(answer(201, body, false))
}

async fn is_known(state: &AppState, key: &ClaimedKey) -> Result<bool, Problem> {
    Ok(state.store.load_answer(&key.scope, &key.key).await?.is_some())
}

/// The key is known: the stored answer, or 422 for another request, or 409 while the first one is in flight. Where the
/// first one went away without an answer, its work is taken up where it stopped.
async fn repeated(state: &AppState, key: ClaimedKey) -> Result<HttpResponse, Problem> {
    let Some(known) = state.store.load_answer(&key.scope, &key.key).await? else {
        return Err(Problem::key_in_flight());
    };
    if known.fingerprint != key.fingerprint {
        return Err(Problem::key_mismatch());
    }
    if let Some((status, body)) = known.answer {
        return Ok(answer(status, body, true));
    }
    if !state.store.take_over_key(&key, state.clock.now()).await? {
        return Err(Problem::key_in_flight());
    }
    let id = known.resource_id.ok_or_else(|| Problem::internal("a claimed key has no donation"))?;
    let view = load(state, id.into()).await?;
    let opening = state.payments.spawn(view.payment.id.into(), Command::Open { fresh: None });
    let _ = timeout(PROVIDER_WAIT, opening).await; // the answer says what is known by then
    let mut view = load(state, id.into()).await?;
    view.access_token = Some(state.access.issue(id.into()));
    finish(state, Some(key), view).await
}

async fn why_not_open(state: &AppState, donation: &NewDonation) -> Result<Problem, Problem> {
    let Some(campaign) = state.store.load_campaign(&donation.campaign_id.to_string()).await? else {
        return Ok(Problem::invalid(vec![FieldError::new("/campaign_id", "there is no such campaign")]));
    };
    if campaign.currency != donation.currency {
        let detail = format!("the campaign takes donations in {}", campaign.currency);
        return Ok(Problem::invalid(vec![FieldError::new("/currency", detail)]));
    }
    let reason = campaign.check_open(state.clock.now()).err().unwrap_or("the campaign was changed just now");
    Ok(Problem::conflict("campaign-not-open", reason))
}

async fn load(state: &AppState, id: DonationId) -> Result<DonationView, Problem> {
    state.store.load_donation(id).await?.ok_or_else(|| Problem::not_found("donation"))
}

/// The totals are read after the donation, so that its gift is in them. Should that fail, the donation is shown all the same.
async fn with_totals_version(state: &AppState, view: DonationView) -> DonationView {
    let moved = [DonationStatus::Completed, DonationStatus::Refunded].map(DonationStatus::as_str);
    if !moved.contains(&view.status.as_str()) {
        return view;
    }
    let fresh = state.totals.send(GetFreshTotals { id: view.campaign_id.into() }).await;
    let totals_version = fresh.ok().and_then(Result::ok).map(|totals| totals.version);
    DonationView { totals_version, ..view }
}

/// `GET /donations/{id}`; with `after_version` and `wait` it answers when there is a newer version, or when time is up, or when
/// the process is about to end: the next poll goes to one that stays.
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let id = DonationId::from(path_id(&request)?);
    may_see(&request, &state, id).await?;
    let asked: PollQuery = query(&request)?;
    if asked.wait.is_some_and(|wait| wait > POLL_MAX_S) {
        return Err(Problem::invalid(vec![FieldError::new("/wait", format!("must be at most {POLL_MAX_S} seconds"))]));
    }
    // Listen before looking, so that nothing moves in between.
    let mut news = state.moved.subscribe();
    let deadline = Instant::now() + Duration::from_secs(asked.wait.unwrap_or(0));
    loop {
        let view = load(&state, id).await?;
        let is_over = Instant::now() >= deadline || state.draining.has_begun();
        if is_over || asked.after_version.is_none_or(|version| view.version > version) {
            let view = with_totals_version(&state, view).await;
            return Ok(HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(view));
        }
        let look = deadline.min(Instant::now() + POLL_LOOK);
        let _ = timeout_at(look, async {
            // Lagging behind means that much moved: look.
            let moved = async { while news.recv().await.is_ok_and(|moved| moved.id != id) {} };
            tokio::select! { () = moved => {}, () = state.draining.begun() => {} }
        })
        .await;
    }
}
