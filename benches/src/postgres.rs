//! A Postgres of our own, for as long as something is measured.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use careforall::store::embedded::{Embedded, EmbeddedSettings};

/// Starts one in a directory that is removed afterwards, works on it, and stops it whatever came of that.
pub fn on_own_postgres(work: impl AsyncFnOnce(tokio_postgres::Config) -> Result<(), String>) -> Result<(), String> {
    actix_rt::System::new().block_on(async {
        let mut builder = tempfile::Builder::new();
        // Where root starts us the database runs as another user, who must be able to reach it.
        builder.prefix("careforall-benches-").permissions(Permissions::from_mode(0o755));
        let directory = builder.tempdir().map_err(|error| error.to_string())?;
        let embedded = Embedded::start(directory.path(), EmbeddedSettings::default()).await;
        let embedded = embedded.map_err(|error| error.to_string())?;
        let outcome = work(embedded.config()).await;
        let stopped = embedded.stop().await.map_err(|error| error.to_string());
        outcome.and(stopped)
    })
}
