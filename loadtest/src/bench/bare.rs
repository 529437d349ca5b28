//! What others would do behind the same web server: a bare handler that answers a total's JSON, and one that records a donation
//! in the usual way. They run as a process of their own, as the server does, with as many workers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use actix_web::{App, HttpResponse, HttpServer, web};
use deadpool_postgres::Pool;
use serde::Deserialize;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::usual;
use crate::cli::print;

/// Where the donations go, for the process that is started.
const DATABASE: &str = "BENCH_DATABASE";

/// As long as a total is.
const BODY: &str = r#"{"campaign_id":"01a205a1-3227-754f-a1f5-aab4c392f89f","currency":"EUR","raised_minor":2500,"donation_count":1,"donor_count":1,"goal_minor":2500000,"version":1,"as_of":"2026-11-22T23:39:44.412845Z","source":"memory"}"#;

/// Serves until it is killed; says first where.
pub fn serve() -> Result<(), String> {
    let database = std::env::var(DATABASE).map_err(|_| format!("{DATABASE} is not set"))?;
    let config: Config = database.parse().map_err(|error: tokio_postgres::Error| error.to_string())?;
    actix_web::rt::System::new().block_on(async {
        let pool = usual::pool(&config)?;
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(pool.clone()))
                .route("/", web::get().to(answer))
                .route("/api/v1/donations", web::post().to(create))
        });
        let server = server.bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = server.addrs().first().copied().ok_or("no address")?;
        print(&format!("{address}\n"));
        server.run().await.map_err(|error| error.to_string())
    })
}

async fn answer() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(BODY)
}

/// The same request that our server takes.
#[derive(Deserialize)]
struct Donation {
    campaign_id: uuid::Uuid,
    amount_minor: i64,
    donor: Donor,
}

#[derive(Deserialize)]
struct Donor {
    email: String,
}

/// BEGIN, two inserts, COMMIT; the pool is waited for, as usual.
async fn create(body: web::Json<Donation>, pool: web::Data<Pool>) -> HttpResponse {
    let Donation { campaign_id, amount_minor, donor } = body.into_inner();
    match usual::give(&pool, campaign_id, amount_minor, &donor.email).await {
        Ok((donation, payment)) => HttpResponse::Created().content_type("application/json").body(format!(
            r#"{{"id":"{donation}","amount_minor":{amount_minor},"status":"PENDING","payment":{{"id":"{payment}"}}}}"#
        )),
        Err(error) => HttpResponse::InternalServerError().body(error),
    }
}

/// The words by which another process reaches the same database.
fn words(config: &Config) -> Result<String, String> {
    let host = match config.get_hosts().first().ok_or("no host")? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let mut words = vec![("host", host)];
    words.extend(config.get_ports().first().map(|port| ("port", port.to_string())));
    words.extend(config.get_user().map(|user| ("user", user.to_owned())));
    words.extend(config.get_dbname().map(|name| ("dbname", name.to_owned())));
    words.extend(config.get_password().map(|word| ("password", String::from_utf8_lossy(word).into_owned())));
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    Ok(words.iter().map(|(name, value)| format!("{name}='{}'", quoted(value))).collect::<Vec<_>>().join(" "))
}

/// The process that serves it; it ends with this.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts this very program again, on that database.
    pub async fn start(config: &Config) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        let mut child = command
            .arg("bare")
            .env(DATABASE, words(config)?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdout = child.stdout.take();
        let line = tokio::task::spawn_blocking(move || {
            stdout.and_then(|stdout| BufReader::new(stdout).lines().next()?.ok()).unwrap_or_default()
        });
        match line.await.unwrap_or_default().parse() {
            Ok(address) => Ok(Self { address, child }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err("the bare handler did not start".to_owned())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_reaches_the_same_database() {
        for text in
            ["host=/tmp/sockets port=5432 user=jo dbname=books", "host=localhost user=jo password='it''s \\\\ ours'"]
        {
            let config: Config = text.replace("''", "\\'").parse().unwrap();
            let again: Config = words(&config).unwrap().parse().unwrap();
            assert_eq!((again.get_hosts(), again.get_ports()), (config.get_hosts(), config.get_ports()));
            assert_eq!((again.get_user(), again.get_password()), (config.get_user(), config.get_password()));
        }
    }
}
