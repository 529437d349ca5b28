//! Whole lives while the sandbox sends each webhook three times and lets them overtake each other.

use std::sync::Arc;

use serde_json::json;

use super::lifecycle::{Lifecycle, promise};
use super::{Bounds, Kind, Session};
use crate::measure::Run;

/// Runs it; the sandbox behaves well again afterwards, whatever happened.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let mut office = session.office();
    office.webhooks(json!({"duplicate": 2, "reorder": true, "same_second": true})).await?;
    let run = storm(session, bounds).await;
    office.webhooks(json!({})).await?;
    let mut run = run?.must_not_fail(Kind::Storm.name());
    run.notes
        .push("each webhook came three times, up to 500 ms late, all stamped with their intent's second".to_owned());
    Ok(run)
}

async fn storm(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let campaigns = session.campaigns(bounds.campaigns).await?;
    let scenario = Arc::new(Lifecycle::new(session, bounds, campaigns));
    session.load(Kind::Storm.name(), bounds.plan(Kind::Storm), &scenario, promise).await
}
