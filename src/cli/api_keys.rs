//! `careforall api-keys`

use clap::Subcommand;
use uuid::Uuid;

use super::with_store;
use crate::app::new_api_key;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::donor::line;
use crate::http::access::SCOPES;
use crate::store::Store;

const NAME_MAX_CHARS: usize = 100;

#[derive(Subcommand)]
pub enum Action {
    /// Make a key and print it, once.
    Create {
        /// Whose key it is.
        name: String,
        /// What it may do; all scopes if not given. May be given several times.
        #[arg(long = "scope", value_parser = clap::builder::PossibleValuesParser::new(SCOPES))]
        scopes: Vec<String>,
    },
    /// List all keys.
    List,
    /// Make a key open nothing from now on.
    Revoke {
        /// The key's identifier, as `list` shows it.
        id: Uuid,
    },
}

pub async fn run(config: Config, action: Action) -> Result<(), String> {
    with_store(&config, async |store| act(&store, action).await).await
}

#[allow(clippy::print_stdout, reason = "the command's output")]
async fn act(store: &Store, action: Action) -> Result<(), String> {
    let now = Clock::System.now();
    match action {
        Action::Create { name, scopes } => {
            let name = line(&name, NAME_MAX_CHARS).map_err(|error| format!("NAME {error}"))?;
            let key = new_api_key();
            let scopes: Vec<&str> =
                if scopes.is_empty() { SCOPES.to_vec() } else { scopes.iter().map(String::as_str).collect() };
            store.create_api_key(&name, &key, &scopes, now).await.map_err(|error| error.to_string())?;
            println!("{key}");
        }
        Action::List => {
            for row in store.list_api_keys().await.map_err(|error| error.to_string())? {
                let state = if row.revoked_at.is_some() { "revoked" } else { "active" };
                println!("{}  {state:<7}  {}  [{}]", row.key.id, row.key.name, row.key.scopes.join(" "));
            }
        }
        Action::Revoke { id } => {
            if !store.revoke_api_key(id, now).await.map_err(|error| error.to_string())? {
                return Err(format!("there is no active key {id}"));
            }
            println!("revoked; processes that run believe it for up to 5 seconds more");
        }
    }
    Ok(())
}
