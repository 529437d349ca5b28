//! Campaigns and donations as the server makes them of a request.

use careforall::clock::Clock;
use careforall::domain::campaign::{Campaign, CampaignStatus};
use careforall::domain::donation::NewDonation;
use careforall::domain::donor::Donor;
use careforall::domain::fact::{Fact, FactKind};
use careforall::domain::ids::{CampaignId, DonationId, MoveId, PaymentId};
use careforall::domain::money::Currency;
use careforall::domain::payment::{Payment, PaymentStatus};
use careforall::store::Creation;

/// A campaign that takes donations.
pub fn campaign(clock: &Clock, slug: &str) -> Result<Campaign, String> {
    let now = clock.now();
    Ok(Campaign {
        id: CampaignId::at(now),
        slug: slug.to_owned(),
        title: "A campaign to be measured with".to_owned(),
        description: None,
        goal_minor: None,
        currency: Currency::parse("EUR").ok_or("there is no euro")?,
        manual_capture: false,
        status: CampaignStatus::Active,
        starts_at: None,
        ends_at: None,
        created_at: now,
        updated_at: now,
    })
}

/// A donation that nobody has committed yet.
pub fn creation(campaign: &Campaign, clock: &Clock, email: String) -> Creation {
    let now = clock.now();
    let donor = Donor { name: "Jo Donor".to_owned(), email, phone: None };
    let donation = NewDonation {
        id: DonationId::at(now),
        payment_id: PaymentId::at(now),
        campaign_id: campaign.id,
        amount_minor: 2500,
        currency: campaign.currency,
        donor,
        anonymous: false,
        message: None,
        created_at: now,
    };
    let payment = Payment {
        id: donation.payment_id,
        donation_id: donation.id,
        campaign_id: campaign.id,
        amount_minor: donation.amount_minor,
        currency: campaign.currency,
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
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        checks: 0,
        updated_at: now,
    };
    let fact = Fact::of(&payment, &payment, FactKind::DonationCreated, now, payment.traceparent.clone());
    Creation { donation, fact, move_id: MoveId::at(now), key: None }
}
