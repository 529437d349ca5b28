//! A bare actix-web handler that answers a total's JSON: what the web server alone costs. It runs as a process of its own,
//! as the server does, with as many workers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use actix_web::{App, HttpResponse, HttpServer, web};

use crate::cli::print;

/// As long as a total is.
const BODY: &str = r#"{"campaign_id":"01a205a1-3227-754f-a1f5-aab4c392f89f","currency":"EUR","raised_minor":2500,"donation_count":1,"donor_count":1,"goal_minor":2500000,"version":1,"as_of":"2026-11-22T23:39:44.412845Z","source":"memory"}"#;

/// Serves until it is killed; says first where.
pub fn serve() -> Result<(), String> {
    actix_web::rt::System::new().block_on(async {
        let server = HttpServer::new(|| App::new().route("/", web::get().to(answer)));
        let server = server.bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = server.addrs().first().copied().ok_or("no address")?;
        print(&format!("{address}\n"));
        server.run().await.map_err(|error| error.to_string())
    })
}

async fn answer() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(BODY)
}

/// The process that serves it; it ends with this.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts this very program again.
    pub async fn start() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        let mut child = command
            .arg("bare")
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
