//! Clears away what a server that we started left behind in RabbitMQ and Redis: everything under the run's own prefix.

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A service that is away is left as it is.
const PATIENCE: Duration = Duration::from_secs(10);
const QUEUES: [&str; 3] = ["totals.queue", "notifications.queue", "audit.queue"];
const EXCHANGES: [&str; 3] = ["donations.events", "payments.events", "dead-letters"];
/// The databases that the server uses.
const REDIS_DATABASES: [u8; 3] = [0, 1, 2];
/// Removes the keys that begin with ARGV[1], some thousand at a time.
const FORGET: &str = "local cursor, count = '0', 0 repeat local found = redis.call('scan', cursor, 'match', ARGV[1] .. '*', \
                      'count', 1000) cursor = found[1] for _, key in ipairs(found[2]) do redis.call('del', key) \
                      count = count + 1 end until cursor == '0' return count";

/// Removes queues and exchanges.
pub async fn remove_queues(amqp_url: &str, prefix: &str) -> Result<(), String> {
    let work = async {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        for queue in QUEUES {
            for name in [format!("{prefix}{queue}"), format!("{prefix}{queue}.dead")] {
                channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
            }
        }
        for exchange in EXCHANGES {
            let name = format!("{prefix}{exchange}");
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        connection.close(200, "done".into()).await
    };
    match timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| format!("RabbitMQ: {error}")),
        Err(_) => Err("RabbitMQ does not answer".to_owned()),
    }
}

/// Removes the keys of the run.
pub async fn forget_keys(redis_url: &str, prefix: &str) -> Result<(), String> {
    let work = async {
        let mut stream = TcpStream::connect(host_and_port(redis_url, 6379)).await?;
        for database in REDIS_DATABASES {
            say(&mut stream, &["SELECT", &database.to_string()]).await?;
            say(&mut stream, &["EVAL", FORGET, "0", prefix]).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    match timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|error| format!("Redis: {error}")),
        Err(_) => Err("Redis does not answer".to_owned()),
    }
}

/// One command (RESP), one line of an answer; an error's line is an error.
async fn say(stream: &mut TcpStream, words: &[&str]) -> std::io::Result<()> {
    let mut bytes = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(bytes.as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    if line.starts_with(b"-") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&line).trim().to_owned()));
    }
    Ok(())
}

/// Whether something listens where the URL points.
pub async fn listens(url: &str, usual_port: u16) -> bool {
    let connected = timeout(Duration::from_secs(1), TcpStream::connect(host_and_port(url, usual_port))).await;
    matches!(connected, Ok(Ok(_)))
}

fn host_and_port(url: &str, usual_port: u16) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let place = rest.split(['/', '?']).next().unwrap_or(rest);
    if place.contains(':') { place.to_owned() } else { format!("{place}:{usual_port}") }
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn a_urls_host_and_port_are_found() {
        assert_eq!(host_and_port("redis://127.0.0.1", 6379), "127.0.0.1:6379");
        assert_eq!(host_and_port("amqp://guest:guest@rabbit:5673/%2f", 5672), "rabbit:5673");
    }
}
