//! Refunds: create one, list an intent's (<https://docs.stripe.com/api/refunds>).
//!
//! Deliberately absent: whether a refund is allowed; Stripe refuses more than was captured, the machine refuses first.

use super::call::{Call, path_id};
use super::json::{List, ShapeError, decode};
use super::objects::{Refund, refund_facts};
use super::{GatewayError, MAXIMUM_PAGE, Stripe};
use crate::domain::provider::RefundFact;

/// The reasons that Stripe knows; other words travel as `metadata[reason]`.
const REASONS: [&str; 3] = ["duplicate", "fraudulent", "requested_by_customer"];
/// How long a metadata value may be, in characters (<https://docs.stripe.com/api/metadata>).
const MAXIMUM_METADATA_LENGTH: usize = 500;
/// How many pages of an intent's refunds are read: no real payment has a thousand.
const MAXIMUM_REFUND_PAGES: usize = 10;

impl Stripe {
    /// Gives `amount_minor` of a captured intent back, or all that is left of it.
    pub async fn create_refund(
        &self,
        intent_id: &str,
        amount_minor: Option<i64>,
        reason: Option<&str>,
        idempotency_key: &str,
    ) -> Result<RefundFact, GatewayError> {
        let call = Call::post("refunds", idempotency_key)
            .with([("payment_intent", path_id(intent_id)?.to_owned())])
            .with(amount_minor.map(|minor| ("amount", minor.to_string())))
            .with(reason.map(reason_field));
        self.transport.fetch(&call, |json| decode::<Refund<'_>>(json)?.fact()).await
    }

    /// Every refund of an intent, newest first.
    pub(super) async fn list_refunds(&self, intent_id: &str) -> Result<Vec<RefundFact>, GatewayError> {
        let mut refunds: Vec<RefundFact> = Vec::new();
        for _ in 0..MAXIMUM_REFUND_PAGES {
            let call = Call::get("refunds")
                .with([("payment_intent", intent_id.to_owned()), ("limit", MAXIMUM_PAGE.to_string())])
                .with(refunds.last().map(|last| ("starting_after", last.id.clone())));
            let (page, more) = self.transport.fetch(&call, refund_page).await?;
            refunds.extend(page);
            if !more {
                break;
            }
        }
        Ok(refunds)
    }
}

fn refund_page(json: &[u8]) -> Result<(Vec<RefundFact>, bool), ShapeError> {
    let list: List<Refund<'_>> = decode(json)?;
    Ok((refund_facts(&list)?, list.has_more && !list.data.is_empty()))
}

fn reason_field(reason: &str) -> (&'static str, String) {
    if REASONS.contains(&reason) {
        return ("reason", reason.to_owned());
    }
    ("metadata[reason]", reason.chars().take(MAXIMUM_METADATA_LENGTH).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeStripe, Reply};
    use super::*;
    use crate::domain::provider::RefundStatus;

    const REFUND: &str = r#"{"id":"re_1","object":"refund","amount":700,"status":"pending","payment_intent":"pi_1"}"#;

    fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[actix_web::test]
    async fn a_refund_says_how_much_and_why_under_its_key() {
        let server = FakeStripe::start([Reply::json(200, REFUND)]).await;
        let refund = server.client().create_refund("pi_1", Some(700), Some("duplicate"), "refund-1").await.unwrap();
        assert_eq!(refund, RefundFact { id: "re_1".into(), amount_minor: 700, status: RefundStatus::Pending });
        let seen = server.seen().remove(0);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/sandbox/stripe/v1/refunds"));
        assert_eq!(seen.header("idempotency-key"), Some("refund-1"));
        assert_eq!(seen.form(), form(&[("payment_intent", "pi_1"), ("amount", "700"), ("reason", "duplicate")]));
    }

    #[actix_web::test]
    async fn a_whole_refund_names_no_amount_and_free_words_go_into_metadata() {
        let server = FakeStripe::start([Reply::json(200, REFUND)]).await;
        server.client().create_refund("pi_1", None, Some("gave twice by mistake"), "refund-1").await.unwrap();
        let expected = form(&[("payment_intent", "pi_1"), ("metadata[reason]", "gave twice by mistake")]);
        assert_eq!(server.seen().remove(0).form(), expected);
    }

    #[actix_web::test]
    async fn a_refused_refund_keeps_stripes_code() {
        let refusal = r#"{"error":{"type":"invalid_request_error","code":"charge_already_refunded","message":"Charge has
            already been refunded."}}"#;
        let server = FakeStripe::start([Reply::json(400, refusal.replace('\n', " "))]).await;
        let error = server.client().create_refund("pi_1", None, None, "refund-1").await.unwrap_err();
        assert!(matches!(&error, GatewayError::Permanent { status: 400, code: Some(code), .. }
            if code == "charge_already_refunded"));
    }
}
