//! `careforall explain PAYMENT`: why a payment stands where it stands, told from its history.
//!
//! Every move is decided again by the rule, so the amounts after each are what the rule says, and a history that says
//! something else is pointed out. Deliberately absent: donors' names and addresses.

mod story;
mod words;

use clap::Args;

use super::{say, with_store_to_read};
use crate::config::Config;
use crate::store::Store;
use story::Story;

/// Notices that are told of at most.
const NOTICES: i64 = 100;

#[derive(Args)]
pub struct Subject {
    /// The payment's identifier, its donation's, or Stripe's (pi_…).
    payment: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(config: Config, subject: Subject) -> Result<(), String> {
    with_store_to_read(&config, async |store| explain(&store, subject).await).await
}

async fn explain(store: &Store, subject: Subject) -> Result<(), String> {
    let name = subject.payment.trim();
    let found = store.find_payment(name).await.map_err(|error| error.to_string())?;
    let id = found.ok_or_else(|| format!("there is no payment, donation or intent {name}"))?;
    let mut dossiers = store.load_dossiers(&[id]).await.map_err(|error| error.to_string())?;
    let dossier = dossiers.pop().ok_or_else(|| format!("{id} is not there any more"))?;
    let notices = store.load_notices_of(&dossier.payment, NOTICES).await.map_err(|error| error.to_string())?;
    let story = Story::of(dossier, notices);
    if subject.json {
        say(&serde_json::to_string_pretty(&story).map_err(|error| error.to_string())?);
        say("\n");
    } else {
        say(&words::tell(&story));
    }
    Ok(())
}
