//! Stripe's JSON of API version 2024-06-20: borrowed views over the stored objects, written in one pass.
//!
//! Deliberately absent: expansions that the product never asks for, and values that no test payment can have (those are
//! written as `null`, as Stripe writes them).

mod charge;
mod dispute;
mod event;
mod intent;
mod refund;

use serde::{Serialize, Serializer};

use self::charge::ChargeView;
use self::dispute::DisputeView;
pub(super) use self::event::EventView;
pub(super) use self::intent::IntentView;
use self::refund::RefundView;
use super::expand::Expanded;
use super::objects::{Charge, Object, PaymentIntent};
use crate::domain::money::Currency;

/// The version whose shapes these are.
pub(super) const API_VERSION: &str = "2024-06-20";

type Null = ();
#[derive(Serialize)]
struct Empty {}

/// A currency in lower case, as Stripe writes it.
struct Lower(Currency);

impl Serialize for Lower {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut letters = [0; 3];
        letters.iter_mut().zip(self.0.code().bytes()).for_each(|(to, from)| *to = from.to_ascii_lowercase());
        serializer.serialize_str(std::str::from_utf8(&letters).unwrap_or_default())
    }
}

/// An id, or the object itself when it was asked for.
#[derive(Serialize)]
#[serde(untagged)]
enum Expandable<'a, T> {
    Id(&'a str),
    Whole(Box<T>),
}

/// A list inside an object.
#[derive(Serialize)]
pub(super) struct ListView<'a, T> {
    object: &'static str,
    data: Vec<T>,
    has_more: bool,
    url: &'a str,
}

impl<'a, T> ListView<'a, T> {
    /// One page of a list.
    pub fn new(url: &'a str, data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", data, has_more, url }
    }
}

/// Any stored object, with what was expanded.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ObjectView<'a> {
    PaymentIntent(Box<IntentView<'a>>),
    Charge(Box<ChargeView<'a>>),
    Refund(Box<RefundView<'a>>),
    Dispute(Box<DisputeView<'a>>),
}

impl<'a> ObjectView<'a> {
    /// A view of an object; `with` holds the expanded objects around it.
    pub fn new(object: &'a Object, with: &'a Expanded) -> Self {
        match object {
            Object::PaymentIntent(intent) => Self::PaymentIntent(Box::new(IntentView::new(intent, with))),
            Object::Charge(charge) => Self::Charge(Box::new(ChargeView::new(charge, with))),
            Object::Refund(refund) => Self::Refund(Box::new(RefundView::new(refund, with))),
            Object::Dispute(dispute) => Self::Dispute(Box::new(DisputeView::new(dispute, with))),
        }
    }
}

fn intent_or_id<'a>(id: &'a str, intent: Option<&'a PaymentIntent>) -> Expandable<'a, IntentView<'a>> {
    match intent {
        Some(intent) => Expandable::Whole(Box::new(IntentView::plain(intent))),
        None => Expandable::Id(id),
    }
}

fn charge_or_id<'a>(id: &'a str, charge: Option<&'a Charge>) -> Expandable<'a, ChargeView<'a>> {
    match charge {
        Some(charge) => Expandable::Whole(Box::new(ChargeView::plain(charge))),
        None => Expandable::Id(id),
    }
}
