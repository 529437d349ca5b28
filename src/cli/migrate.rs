//! `careforall migrate`

use super::beside_the_server;
use crate::config::Config;

#[allow(clippy::print_stdout, reason = "the command's output")]
pub async fn run(config: Config) -> Result<(), String> {
    let (database, embedded) = beside_the_server(&config).await?;
    let applied = crate::store::migrate::migrate(&database).await.map_err(|error| error.to_string());
    if let Some(embedded) = embedded {
        embedded.stop().await.map_err(|error| error.to_string())?;
    }
    let applied = applied?;
    for name in &applied {
        println!("applied {name}");
    }
    if applied.is_empty() {
        println!("up to date");
    }
    Ok(())
}
