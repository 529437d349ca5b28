//! Actors on a real Postgres, for the tests of this directory: a database cloned from the migrated template, a committer,
//! a campaign, donations.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use actix::prelude::*;

#[path = "../../tests/support/services.rs"]
mod services;

pub use self::services::wait_until;
use self::services::{TestDatabase, create_database, template, unique_prefix};
use super::committer::{CommitCreation, CommitError, Committer};
use super::payment::Tools;
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::domain::campaign::{Campaign, CampaignStatus};
use crate::domain::donation::NewDonation;
use crate::domain::donor::Donor;
use crate::domain::fact::{Fact, FactKind};
use crate::domain::ids::{CampaignId, DonationId, MoveId, PaymentId};
use crate::domain::money::Currency;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::gateways::stripe::{Stripe, StripeSettings};
use crate::store::migrate::migrate;
use crate::store::{Creation, CreationOutcome, Store};

/// A database with one open campaign, and everything that a payment actor uses. The provider is away.
pub struct World {
    pub tools: Arc<Tools>,
    pub campaign: CampaignId,
    database: TestDatabase,
}

impl World {
    pub async fn new() -> Self {
        let template = template(&template_name(), async |url: String| {
            migrate(&url.parse().unwrap()).await.unwrap();
        })
        .await;
        let database = create_database(Some(&template)).await;
        let clock = Clock::System;
        let store = Store::new(database.url().parse().unwrap()).unwrap();
        let campaign = campaign(&clock);
        store.create_campaign(&campaign).await.unwrap();
        let (moved, _) = tokio::sync::broadcast::channel(16);
        let committer = Committer::new(store.clone(), clock.clone(), moved).start();
        let tools = Tools { store, committer, stripe: nobody(), clock, pressure: Pressure::default() };
        Self { tools: Arc::new(tools), campaign: campaign.id, database }
    }

    /// A donation that nobody has committed yet.
    pub fn creation(&self, amount_minor: i64) -> Creation {
        creation(self.campaign, amount_minor)
    }

    /// A payment that was just recorded.
    pub async fn payment(&self) -> Payment {
        let creation = self.creation(2500);
        let id = creation.donation.payment_id;
        let outcome = self.commit(creation).await.unwrap();
        assert_eq!(outcome, CreationOutcome::Recorded { manual_capture: false });
        self.stored(id).await
    }

    pub async fn commit(&self, creation: Creation) -> Result<CreationOutcome, CommitError> {
        self.tools.committer.send(CommitCreation(creation)).await.unwrap()
    }

    /// What Postgres knows of a payment.
    pub async fn stored(&self, id: PaymentId) -> Payment {
        self.tools.store.load_payment(id).await.unwrap().unwrap()
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// Changes whenever a migration does.
fn template_name() -> String {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/migrations");
    let mut files: Vec<_> = std::fs::read_dir(migrations).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut hash = DefaultHasher::new();
    files.iter().for_each(|file| std::fs::read(file).unwrap().hash(&mut hash));
    format!("careforall_actors_{:016x}", hash.finish())
}

/// A provider at a port where nobody listens.
fn nobody() -> Stripe {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Stripe::new(StripeSettings::new("sk_test_123", format!("http://{port}"))).unwrap()
}

fn campaign(clock: &Clock) -> Campaign {
    let now = clock.now();
    Campaign {
        id: CampaignId::at(now),
        slug: unique_prefix(),
        title: "Wells".to_owned(),
        description: None,
        goal_minor: None,
        currency: Currency::parse("EUR").unwrap(),
        manual_capture: false,
        status: CampaignStatus::Active,
        starts_at: None,
        ends_at: None,
        created_at: now,
        updated_at: now,
    }
}

/// A donation that nobody has committed yet.
pub fn creation(campaign_id: CampaignId, amount_minor: i64) -> Creation {
    let now = Clock::System.now();
    let currency = Currency::parse("EUR").unwrap();
    let donor = Donor { name: "Jo Donor".to_owned(), email: "jo@example.org".to_owned(), phone: None };
    let donation = NewDonation {
        id: DonationId::at(now),
        payment_id: PaymentId::at(now),
        campaign_id,
        amount_minor,
        currency,
        donor,
        anonymous: false,
        message: None,
        created_at: now,
    };
    let payment = Payment {
        id: donation.payment_id,
        donation_id: donation.id,
        campaign_id,
        updated_at: now,
        ..new_payment(amount_minor)
    };
    let fact = Fact::of(&payment, &payment, FactKind::DonationCreated, now, None);
    Creation { donation, fact, move_id: MoveId::at(now), key: None }
}

/// A payment as it is right after it was recorded.
pub fn new_payment(amount_minor: i64) -> Payment {
    let now = Clock::System.now();
    Payment {
        id: PaymentId::at(now),
        donation_id: DonationId::at(now),
        campaign_id: CampaignId::at(now),
        amount_minor,
        currency: Currency::parse("EUR").unwrap(),
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
        traceparent: None,
        checks: 0,
        updated_at: now,
    }
}
