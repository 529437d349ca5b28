//! PaymentIntents: create, retrieve, capture, cancel (<https://docs.stripe.com/api/payment_intents>).
//!
//! Deliberately absent: confirming. That is the donor's browser's, with the `client_secret`.

use uuid::Uuid;

use super::call::{Call, Fields, path_id};
use super::snapshot::Snapshot;
use super::{GatewayError, Stripe};
use crate::domain::money::Currency;
use crate::domain::provider::IntentSnapshot;

/// With these a capture's, a cancellation's and a retrieval's intent tells of refunds and disputes, too.
const EXPANDED: [(&str, &str); 2] = [("expand[]", "latest_charge.refunds"), ("expand[]", "latest_charge.dispute")];
/// The reasons that Stripe knows for a cancellation.
const CANCELLATION_REASONS: [&str; 4] = ["duplicate", "fraudulent", "requested_by_customer", "abandoned"];
/// How much of a description is sent, in characters.
const MAXIMUM_DESCRIPTION_LENGTH: usize = 500;

/// What a new intent is to be. Stripe keeps the first request's parameters with its idempotency key, the payment's id,
/// and refuses others under that key (400 `idempotency_error`): so every field, `description` and `traceparent`
/// included, must be what was committed with the payment, the same on each try.
#[derive(Clone, Debug)]
pub struct NewIntent {
    /// The idempotency key, and `metadata[payment_id]`.
    pub payment_id: Uuid,
    /// `metadata[donation_id]`.
    pub donation_id: Uuid,
    /// `metadata[campaign_id]`.
    pub campaign_id: Uuid,
    /// In minor units.
    pub amount_minor: i64,
    /// In which to charge.
    pub currency: Currency,
    /// Authorize now and capture later, by [`Stripe::capture_intent`].
    pub manual_capture: bool,
    /// Shown in Stripe's dashboard and on its receipts: no donor data.
    pub description: Option<String>,
    /// `metadata[traceparent]`: comes back with every event of the intent.
    pub traceparent: Option<String>,
}

impl NewIntent {
    /// The payment methods are those that the account has switched on, redirects included (Stripe's default): bank
    /// redirects such as iDEAL and Bancontact are how much of Europe gives. The price is a `return_url` when
    /// confirming, which the payment page has anyway.
    fn fields(&self) -> Fields {
        let mut fields = vec![
            ("amount", self.amount_minor.to_string()),
            ("currency", self.currency.code().to_ascii_lowercase()),
            ("automatic_payment_methods[enabled]", "true".to_owned()),
            ("capture_method", if self.manual_capture { "manual" } else { "automatic" }.to_owned()),
            ("metadata[payment_id]", self.payment_id.to_string()),
            ("metadata[donation_id]", self.donation_id.to_string()),
            ("metadata[campaign_id]", self.campaign_id.to_string()),
        ];
        let description =
            self.description.as_deref().map(|text| text.chars().take(MAXIMUM_DESCRIPTION_LENGTH).collect());
        fields.extend(description.map(|text| ("description", text)));
        fields.extend(self.traceparent.clone().map(|text| ("metadata[traceparent]", text)));
        fields
    }
}

impl Stripe {
    /// Creates the payment's intent, or gives the one that an earlier try created: safe to repeat for 23 hours, after
    /// which Stripe forgets the key and a repetition could create a second one.
    pub async fn create_intent(&self, new: &NewIntent) -> Result<IntentSnapshot, GatewayError> {
        let call = Call::post("payment_intents", new.payment_id.to_string()).with(new.fields());
        self.snapshot(&call).await
    }

    /// The intent as it stands, with every refund and the dispute of its latest charge.
    pub async fn retrieve_intent(&self, id: &str) -> Result<IntentSnapshot, GatewayError> {
        self.snapshot(&Call::get(format!("payment_intents/{}", path_id(id)?)).with(expanded())).await
    }

    /// Captures an authorized intent: `amount_minor` of it and releases the rest, or everything. An intent that is
    /// captured already is [`GatewayError::Permanent`] with the code `payment_intent_unexpected_state`.
    pub async fn capture_intent(
        &self,
        id: &str,
        amount_minor: Option<i64>,
        idempotency_key: &str,
    ) -> Result<IntentSnapshot, GatewayError> {
        let call = Call::post(format!("payment_intents/{}/capture", path_id(id)?), idempotency_key)
            .with(amount_minor.map(|minor| ("amount_to_capture", minor.to_string())))
            .with(expanded());
        self.snapshot(&call).await
    }

    /// Cancels an intent that has not been captured, which releases an authorization. A `reason` that Stripe does not
    /// know (`duplicate`, `fraudulent`, `requested_by_customer`, `abandoned`) is not sent: it has no place for free
    /// words here.
    pub async fn cancel_intent(
        &self,
        id: &str,
        reason: Option<&str>,
        idempotency_key: &str,
    ) -> Result<IntentSnapshot, GatewayError> {
        let reason = reason.filter(|reason| CANCELLATION_REASONS.contains(reason));
        let call = Call::post(format!("payment_intents/{}/cancel", path_id(id)?), idempotency_key)
            .with(reason.map(|reason| ("cancellation_reason", reason.to_owned())))
            .with(expanded());
        self.snapshot(&call).await
    }

    async fn snapshot(&self, call: &Call) -> Result<IntentSnapshot, GatewayError> {
        let Snapshot { mut intent, more_refunds } = self.transport.fetch(call, Snapshot::read).await?;
        if more_refunds {
            intent.refunds = self.list_refunds(&intent.id).await?;
        }
        Ok(intent)
    }
}

fn expanded() -> impl Iterator<Item = (&'static str, String)> {
    EXPANDED.into_iter().map(|(name, value)| (name, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeStripe, INTENT, Reply};
    use super::*;
    use crate::domain::provider::IntentStatus;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn new_intent() -> NewIntent {
        NewIntent {
            payment_id: Uuid::from_u128(1),
            donation_id: Uuid::from_u128(2),
            campaign_id: Uuid::from_u128(3),
            amount_minor: 500,
            currency: Currency::parse("JPY").unwrap(),
            manual_capture: false,
            description: Some("Clean water & light".into()),
            traceparent: Some(TRACE.into()),
        }
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[actix_web::test]
    async fn a_new_intent_goes_out_under_the_payments_id_with_all_that_finds_the_payment_again() {
        let server = FakeStripe::start([]).await;
        let intent = server.client().create_intent(&new_intent()).await.unwrap();
        assert_eq!((intent.id.as_str(), intent.status), ("pi_1", IntentStatus::RequiresPaymentMethod));
        assert_eq!(intent.client_secret.as_deref(), Some("pi_1_secret_x"));
        let seen = server.seen().remove(0);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/sandbox/stripe/v1/payment_intents"));
        assert_eq!(seen.header("idempotency-key"), Some("00000000-0000-0000-0000-000000000001"));
        assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
        let expected = pairs(&[
            ("amount", "500"),
            ("currency", "jpy"),
            ("automatic_payment_methods[enabled]", "true"),
            ("capture_method", "automatic"),
            ("metadata[payment_id]", "00000000-0000-0000-0000-000000000001"),
            ("metadata[donation_id]", "00000000-0000-0000-0000-000000000002"),
            ("metadata[campaign_id]", "00000000-0000-0000-0000-000000000003"),
            ("description", "Clean water & light"),
            ("metadata[traceparent]", TRACE),
        ]);
        assert_eq!(seen.form(), expected);
    }

    #[actix_web::test]
    async fn a_retrieved_intent_comes_with_its_refunds_and_dispute() {
        let server = FakeStripe::start([]).await;
        server.client().retrieve_intent("pi_1").await.unwrap();
        let seen = server.seen().remove(0);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/sandbox/stripe/v1/payment_intents/pi_1"));
        assert_eq!(seen.query, pairs(&EXPANDED));
    }

    #[actix_web::test]
    async fn refunds_beyond_the_first_page_are_fetched() {
        let first = r#""latest_charge":{"amount_refunded":30,"refunds":{"data":[{"id":"re_3","amount":10,
            "status":"succeeded"}],"has_more":true}}"#;
        let refund =
            |id, more| format!(r#"{{"data":[{{"id":"{id}","amount":10,"status":"pending"}}],"has_more":{more}}}"#);
        let server = FakeStripe::start([
            Reply::json(200, INTENT.replace(r#""latest_charge":null"#, first)),
            Reply::json(200, refund("re_3", true)),
            Reply::json(200, refund("re_2", false)),
        ])
        .await;
        let intent = server.client().retrieve_intent("pi_1").await.unwrap();
        assert_eq!(intent.refunds.iter().map(|refund| refund.id.as_str()).collect::<Vec<_>>(), ["re_3", "re_2"]);
        let last = server.seen().remove(2);
        assert_eq!(last.path, "/sandbox/stripe/v1/refunds");
        assert_eq!(last.query, pairs(&[("payment_intent", "pi_1"), ("limit", "100"), ("starting_after", "re_3")]));
    }

    #[actix_web::test]
    async fn capture_and_cancel_say_how_much_and_why() {
        let server = FakeStripe::start([]).await;
        let stripe = server.client();
        stripe.capture_intent("pi_1", Some(300), "capture-1").await.unwrap();
        stripe.capture_intent("pi_1", None, "capture-2").await.unwrap();
        stripe.cancel_intent("pi_1", Some("abandoned"), "cancel-1").await.unwrap();
        stripe.cancel_intent("pi_1", Some("changed my mind"), "cancel-2").await.unwrap();
        let seen = server.seen();
        let expected = |own: &[(&str, &str)]| pairs(&[own, &EXPANDED].concat());
        assert_eq!(seen[0].path, "/sandbox/stripe/v1/payment_intents/pi_1/capture");
        assert_eq!(seen[0].form(), expected(&[("amount_to_capture", "300")]));
        assert_eq!(seen[0].header("idempotency-key"), Some("capture-1"));
        assert_eq!(seen[1].form(), expected(&[]));
        assert_eq!(seen[2].path, "/sandbox/stripe/v1/payment_intents/pi_1/cancel");
        assert_eq!(seen[2].form(), expected(&[("cancellation_reason", "abandoned")]));
        assert_eq!(seen[3].form(), expected(&[]));
    }

    #[actix_web::test]
    async fn a_yes_that_cannot_be_read_leaves_the_outcome_unknown() {
        let server = FakeStripe::start([Reply::json(200, "<html>"), Reply::json(200, "<html>")]).await;
        let stripe = server.client();
        assert!(stripe.create_intent(&new_intent()).await.unwrap_err().is_outcome_unknown());
        assert_eq!(stripe.retrieve_intent("pi_1").await.unwrap_err().label(), "permanent");
        assert_eq!(server.seen().len(), 2);
    }

    #[actix_web::test]
    async fn an_id_that_leads_elsewhere_is_not_sent() {
        let server = FakeStripe::start([]).await;
        assert_eq!(server.client().retrieve_intent("../refunds").await.unwrap_err().label(), "permanent");
        assert!(server.seen().is_empty());
    }
}
