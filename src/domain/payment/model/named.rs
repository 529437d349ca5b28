//! The histories that a payment must survive, by name, and where each must end.

use super::history::History;
use crate::domain::payment::PaymentStatus::{self, Authorized, Canceled, Captured, Failed, Processing, Refunded};
use crate::domain::provider::DisputeStatus::{
    Lost, NeedsResponse, UnderReview, WarningClosed, WarningNeedsResponse, Won,
};
use crate::domain::provider::RefundStatus::{Failed as CameBack, Pending, Succeeded};

fn automatic(name: &str) -> History {
    History::new(name, false)
}

fn manual(name: &str) -> History {
    History::new(name, true)
}

fn paid(name: &str) -> History {
    automatic(name).captured(1000)
}

/// The histories that the product names: one that ends wrong in any of them is of no use.
pub fn promised() -> Vec<(History, PaymentStatus, i64)> {
    let refunds = paid("partial refunds up to full").refund("re_1", 400, Pending).refund("re_1", 400, Succeeded);
    let dispute = |name| paid(name).disputed(1000, NeedsResponse).disputed(1000, UnderReview);
    vec![
        (paid("automatic capture"), Captured, 1000),
        (manual("manual capture").authorized().captured(1000), Captured, 1000),
        (manual("partial capture").authorized().captured(600), Captured, 600),
        (automatic("declined then paid").declined().declined().captured(1000), Captured, 1000),
        (automatic("processing then paid").processing().captured(1000), Captured, 1000),
        (automatic("processing then failed").processing().declined(), Failed, 0),
        (automatic("failed, processing, failed").declined().processing().declined(), Failed, 0),
        (automatic("canceled").declined().canceled(), Canceled, 0),
        (manual("authorization released").authorized().canceled().released(), Canceled, 0),
        (manual("authorization expired").authorized().expired().canceled(), Canceled, 0),
        (refunds.refund("re_2", 600, Succeeded), Refunded, 0),
        (paid("a refund that fails").refund("re_1", 1000, Pending).refund("re_1", 1000, CameBack), Captured, 1000),
        (dispute("dispute lost").disputed(1000, Lost), Captured, 0),
        (dispute("dispute won").disputed(1000, Won), Captured, 1000),
    ]
}

/// More that happens: what the provider does not say, totals without a list, and open ends.
pub fn others() -> Vec<(History, PaymentStatus, i64)> {
    let attempt = |name| automatic(name).processing().declined();
    let returned = paid("a refund that fails and is made again").refund("re_1", 1000, Succeeded);
    let released = manual("partial capture whose rest is told as a total").authorized().captured(600);
    let inquiry = paid("an inquiry that ends").disputed(1000, WarningNeedsResponse).disputed(1000, WarningClosed);
    vec![
        (attempt("failed, then processing again").processing(), Processing, 0),
        (attempt("failed, then authentication begun").authentication_begun(), Failed, 0),
        (attempt("failed, then the error forgotten").touched(), Failed, 0),
        (manual("declined then authorized").declined().processing().authorized(), Authorized, 0),
        (returned.refund("re_1", 1000, CameBack).refund("re_2", 1000, Succeeded), Refunded, 0),
        (paid("a total without a list").refund("re_1", 300, Succeeded).refunded_in_total(false), Captured, 700),
        (paid("a total with its list").refund("re_1", 1000, Pending).refunded_in_total(true), Refunded, 0),
        (released.rest_released(), Captured, 600),
        (inquiry, Captured, 1000),
    ]
}

/// All of them.
pub fn named() -> Vec<(History, PaymentStatus, i64)> {
    [promised(), others()].concat()
}

#[test]
fn the_provider_s_books_of_the_named_histories_end_as_they_are_written_here() {
    for (history, status, net_minor) in named() {
        let end = history.end();
        assert_eq!((end.status, end.net_minor()), (status, net_minor), "{}", history.name);
    }
}
