//! Connections to the server's database: for the audit, for fills, and to make and drop a database for a run.

use std::path::Path;

use tokio_postgres::{Client, Config, NoTls};

/// The user and database of the server's own cluster.
const EMBEDDED: &str = "careforall";

/// Connects; the connection ends with the client.
pub async fn connect(config: &Config) -> Result<Client, String> {
    let (client, connection) =
        config.connect(NoTls).await.map_err(|error| format!("the database: {}", told(&error)))?;
    tokio::spawn(async move {
        let _ = connection.await; // whoever uses the client is told
    });
    Ok(client)
}

/// An error with what the server said.
pub fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => {
            std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
        }
    }
}

/// The server's own cluster in its data directory: its postmaster's lock file says where the socket is.
pub fn embedded(data_dir: &Path) -> Result<Config, String> {
    let home = match std::fs::read_to_string(data_dir.join("postgres.location")) {
        Ok(home) => Path::new(home.trim()).to_owned(),
        Err(_) => data_dir.to_owned(),
    };
    let lock = home.join("postgres/postmaster.pid");
    let text = std::fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    // https://www.postgresql.org/docs/15/storage-file-layout.html: the port, then the socket's directory.
    let mut lines = text.lines().skip(3);
    let port = lines.next().and_then(|line| line.trim().parse().ok());
    let (Some(port), Some(directory)) = (port, lines.next().filter(|directory| !directory.is_empty())) else {
        return Err(format!("{} does not name a socket", lock.display()));
    };
    let mut config = Config::new();
    config.host_path(directory.trim()).port(port).user(EMBEDDED).dbname(EMBEDDED);
    Ok(config)
}

/// A URL that says the same as `config`, for programs that take one.
pub fn url(config: &Config) -> Option<String> {
    use tokio_postgres::config::Host;
    let host = match config.get_hosts().first()? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => escaped(directory.to_str()?),
    };
    let user = escaped(config.get_user()?);
    let password = config.get_password().map(|password| format!(":{}", escaped(&String::from_utf8_lossy(password))));
    let port = config.get_ports().first().copied().unwrap_or(5432);
    Some(format!("postgres://{user}{}@{host}:{port}/{}", password.unwrap_or_default(), config.get_dbname()?))
}

/// RFC 3986: everything but unreserved characters by its bytes.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Makes an empty database in the cluster of `config`, and says how to reach it.
pub async fn create(config: &Config, name: &str) -> Result<Config, String> {
    let client = connect(config).await?;
    client.batch_execute(&format!("create database {name}")).await.map_err(|error| told(&error))?;
    let mut made = config.clone();
    made.dbname(name);
    Ok(made)
}

/// Drops a database that [`create`] made, whoever is still in it.
pub async fn drop(config: &Config, name: &str) -> Result<(), String> {
    let client = connect(config).await?;
    client.batch_execute(&format!("drop database if exists {name} with (force)")).await.map_err(|error| told(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_written_as_a_url_and_read_back_the_same() {
        for text in ["postgres://jo:a%2Fb@127.0.0.1:5433/x", "postgres://careforall@%2Ftmp%2Frun:5432/careforall"] {
            let config: Config = text.parse().unwrap();
            let again: Config = url(&config).unwrap().parse().unwrap();
            assert_eq!(again, config);
        }
    }
}
