//! The few calls that are made one at a time beside the load: campaigns, the sandbox's manners, metrics, readiness.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::api::{CURRENCY, Newness, number, totals};
use crate::client::{Wire, request};

const PATIENCE: Duration = Duration::from_secs(30);
/// How soon is asked again where the server is too busy to answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const UNAVAILABLE: u16 = 503;

/// Speaks to one replica as an operator.
#[derive(Debug)]
pub struct Office {
    wire: Wire,
    authorization: String,
}

/// A campaign's totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Net of what was captured.
    pub raised_minor: i64,
    /// Completed donations.
    pub donation_count: i64,
    /// Their donors.
    pub donor_count: i64,
    /// Ledger lines in it.
    pub version: i64,
    /// The level that answered.
    pub source: String,
}

impl Office {
    /// Of the replica at `address`.
    pub fn new(address: SocketAddr, admin_key: &str) -> Self {
        Self { wire: Wire::new(address, PATIENCE), authorization: format!("Bearer {admin_key}") }
    }

    async fn call(&mut self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, String), String> {
        let body = body.map(|body| body.to_string());
        let headers = [("Authorization", &*self.authorization), ("Content-Type", "application/json")];
        let bytes = request(method, path, &headers, body.as_ref().map(String::as_bytes));
        let answer = self.wire.call(&bytes).await.map_err(|error| format!("{method} {path}: {error}"))?;
        Ok((answer.status, answer.text().to_owned()))
    }

    async fn expect(&mut self, method: &str, path: &str, body: Option<Value>) -> Result<String, String> {
        let (status, text) = self.call(method, path, body).await?;
        if (200..300).contains(&status) {
            Ok(text)
        } else {
            Err(format!("{method} {path} was answered {status}: {text}"))
        }
    }

    /// Makes a campaign.
    pub async fn campaign(&mut self, slug: &str) -> Result<Uuid, String> {
        let body = json!({"slug": slug, "title": "Load test", "goal_minor": 100_000_000, "currency": CURRENCY});
        let made = self.expect("POST", "/api/v1/campaigns", Some(body)).await?;
        let id = crate::api::text(&made, "\"id\":\"").and_then(|id| id.parse().ok());
        id.ok_or_else(|| format!("a campaign without an id: {made}"))
    }

    /// How the sandbox sends webhooks from now on; what is not named goes back to normal.
    pub async fn webhooks(&mut self, rules: Value) -> Result<(), String> {
        self.expect("POST", "/sandbox/control/webhooks", Some(rules)).await.map(drop)
    }

    /// A campaign's totals as this replica tells them; right after a load it may refuse for a while.
    pub async fn totals(&mut self, campaign: Uuid, newness: Newness) -> Result<Totals, String> {
        let deadline = Instant::now() + PATIENCE;
        let (status, text) = loop {
            let answer = self.wire.call(&totals(campaign, newness)).await.map_err(|error| error.to_string())?;
            if answer.status != UNAVAILABLE || Instant::now() > deadline {
                break (answer.status, answer.text().to_owned());
            }
            sleep(ASK_AGAIN).await;
        };
        let text = text.as_str();
        let field = |mark| number(text, mark).ok_or_else(|| format!("totals were answered {status}: {text}"));
        Ok(Totals {
            raised_minor: field("\"raised_minor\":")?,
            donation_count: field("\"donation_count\":")?,
            donor_count: field("\"donor_count\":")?,
            version: field("\"version\":")?,
            source: crate::api::text(text, "\"source\":\"").unwrap_or_default().to_owned(),
        })
    }

    /// All metrics, as text.
    pub async fn metrics(&mut self) -> Result<String, String> {
        self.expect("GET", "/metrics", None).await
    }

    /// The status of `/health/ready` and what it says.
    pub async fn ready(&mut self) -> Result<(u16, String), String> {
        self.call("GET", "/health/ready", None).await
    }
}

/// The value of a metric's line, such as `careforall_outbox_waiting` or one with its labels.
pub fn metric(metrics: &str, line: &str) -> f64 {
    let value = metrics.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a b\na_total{x=\"1\"} 5\na 7\nab 8\n";
        assert_eq!((metric(text, "a"), metric(text, "a_total{x=\"1\"}"), metric(text, "c")), (7.0, 5.0, 0.0));
    }
}
