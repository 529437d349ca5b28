//! Unsubscribing from courtesies, by the link that their mails bring (RFC 8058).
//!
//! Looking changes nothing, since scanners of mails follow every link; a POST unsubscribes, whether a mail program sends
//! it by itself or a person presses the button. Deliberately absent: a look at the POST's body, which programs send in two
//! encodings and which says no more than that it is a POST; scripts; the address, which is shown to nobody.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;

use super::AppState;
use super::problem::Problem;
use crate::domain::ids::NoticeId;
use crate::domain::notice::Channel;
use crate::gateways::links::Purpose;
use crate::store::suppressions::SuppressionReason;

/// Who says that nothing more is wanted.
const SOURCE: &str = "donor";

#[derive(Template)]
#[template(path = "unsubscribe.html")]
struct Page {
    title: &'static str,
    text: &'static str,
    asks: bool,
}

const ASKED: Page = Page {
    title: "Unsubscribe?",
    text: "We will send no more thank-you mails to this address. Receipts and news of your own payments still come.",
    asks: true,
};
const DONE: Page = Page {
    title: "You are unsubscribed",
    text: "No more thank-you mails go to this address. Receipts and news of your own payments still come.",
    asks: false,
};
const UNKNOWN: Page = Page {
    title: "This link does not work",
    text: "It may have been cut off. Please open the whole link of the mail.",
    asks: false,
};

/// `GET /unsubscribe/{token}`
pub async fn ask(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    match notice(&request, &state) {
        Some(_) => answer(StatusCode::OK, &ASKED),
        None => answer(StatusCode::NOT_FOUND, &UNKNOWN),
    }
}

/// `POST /unsubscribe/{token}`; again and again it changes nothing more.
pub async fn unsubscribe(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let Some(notice) = notice(&request, &state) else { return answer(StatusCode::NOT_FOUND, &UNKNOWN) };
    let (reason, now) = (SuppressionReason::Unsubscribe, state.clock.now());
    if state.store.suppress_recipient(Channel::Email, notice, reason, SOURCE, now).await? {
        answer(StatusCode::OK, &DONE)
    } else {
        answer(StatusCode::NOT_FOUND, &UNKNOWN)
    }
}

fn notice(request: &HttpRequest, state: &AppState) -> Option<NoticeId> {
    state.links.read(Purpose::Unsubscribe, request.match_info().get("token")?)
}

fn answer(status: StatusCode, page: &Page) -> Result<HttpResponse, Problem> {
    let html = page.render().map_err(Problem::internal)?;
    Ok(HttpResponse::build(status)
        .content_type("text/html; charset=utf-8")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .insert_header(("X-Robots-Tag", "noindex"))
        .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"))
        .body(html))
}
