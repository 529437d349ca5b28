//! Configuration: what can be set, from where, and what is wrong with it, all at once.
//!
//! The environment wins over the TOML file, the file over the defaults. Every setting stands in [`SETTINGS`], from which
//! `--help` and the table in `docs/operating.md` are made. Deliberately absent: reading configuration anywhere else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gateways::broker::BrokerSettings;
use crate::gateways::mailer::{Mailer, is_mailbox};
use crate::gateways::sendgrid::is_public_key;
use crate::gateways::signature::WebhookSecret;
use crate::gateways::sms::{API_BASE, Sms, SmsSettings};
use crate::gateways::stripe::is_live_key;
use crate::gateways::topology::Topology;
use crate::sandbox::{SANDBOX_SECRET_KEY, SANDBOX_WEBHOOK_SECRET};
use crate::store::cache::is_redis_url;
use crate::trace::{ExportSettings, Sampling};

/// One setting: its name in the environment, what it is for, what holds when it is not set.
pub struct Setting {
    /// In the environment; in the TOML file in lower case without `CAREFORALL_`.
    pub name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
}

const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, help, default }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("CAREFORALL_LISTEN", "127.0.0.1:8080", "address and port to listen on"),
    setting("CAREFORALL_DATA_DIR", "./careforall-data", "where the embedded parts keep everything"),
    setting("CAREFORALL_PUBLIC_URL", "http://<listen>", "the address that donors use"),
    setting(
        "CAREFORALL_ADMIN_KEY",
        "made at the first start",
        "an operator key with every scope, at least 16 visible characters",
    ),
    setting(
        "CAREFORALL_TRUSTED_PROXIES",
        "none",
        "addresses or networks, comma-separated, whose X-Forwarded-For is believed",
    ),
    setting(
        "CAREFORALL_RATE_LIMIT",
        "100/min",
        "requests per client address: a count, then /sec, /min or /hour; or off",
    ),
    setting("CAREFORALL_PREFIX", "none", "put before exchange, queue and Redis key names, to share a broker"),
    setting("CAREFORALL_LOG_FORMAT", "pretty", "pretty or json"),
    setting("CAREFORALL_OPERATOR_EMAIL", "MAIL_FROM's address", "where mails to the charity go"),
    setting("CAREFORALL_MAIL_RATE", "100/sec", "mails to the relay at most: a count, then /sec, /min or /hour; or off"),
    setting("CAREFORALL_SMS_RATE", "10/sec", "text messages to Twilio at most, likewise"),
    setting("CAREFORALL_WEBHOOK_RATE", "50/sec", "webhooks to each endpoint at most, likewise"),
    setting(
        "CAREFORALL_WEBHOOKS_ALLOW_INSECURE",
        "off",
        "on: webhooks may go to http and private addresses, for development only",
    ),
    setting(
        "DATABASE_URL",
        "embedded Postgres",
        "postgres://user:password@host:port/database; several hosts, comma-separated, for failover",
    ),
    setting("REDIS_URL", "no Redis", "redis://host:port"),
    setting(
        "AMQP_URL",
        "the in-process bus",
        "amqp://user:password@host:port/vhost; where several processes share a database, so that each hears of every gift",
    ),
    setting("STRIPE_SECRET_KEY", "the sandbox's", "sk_… or rk_…"),
    setting("STRIPE_WEBHOOK_SECRET", "the sandbox's", "whsec_…; several, comma-separated, while one is rolled"),
    setting("STRIPE_API_BASE", "https://api.stripe.com or the sandbox", "where Stripe's API is"),
    setting(
        "SMTP_URL",
        ".eml files in the data directory",
        "smtps://user:password@host, or smtp://host (STARTTLS, except on loopback)",
    ),
    setting("SMTP_CA_FILE", "the usual authorities", "a PEM file of authorities that are trusted beside them"),
    setting("MAIL_FROM", "CareForAll <no-reply@careforall.invalid>", "the sender of mails"),
    setting("SENDGRID_WEBHOOK_PUBLIC_KEY", "none", "verifies SendGrid's event webhooks; without it they are not taken"),
    setting("TWILIO_ACCOUNT_SID", "no text messages", "AC…; all of Twilio's settings, or none"),
    setting("TWILIO_AUTH_TOKEN", "no text messages", "the account's secret; it also verifies status callbacks"),
    setting("TWILIO_FROM", "no text messages", "a number in E.164, or a messaging service's id (MG…)"),
    setting("TWILIO_API_BASE", "https://api.twilio.com", "where Twilio's API is"),
    setting(
        "CAREFORALL_DRAIN_WAIT_S",
        "2, or 0 with the embedded Postgres",
        "seconds between SIGTERM and the end of listening, 0 to 10; SIGINT does not wait",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "no traces",
        "where traces go, as OTLP over HTTP (protobuf), such as http://jaeger:4318",
    ),
    setting("OTEL_SERVICE_NAME", "careforall", "the name of this process in traces"),
    setting(
        "OTEL_TRACES_SAMPLER",
        "parentbased_always_on",
        "which traces are recorded: always_on, always_off, traceidratio, each also as parentbased_…",
    ),
    setting("OTEL_TRACES_SAMPLER_ARG", "1.0", "the share of traces where the sampler is …traceidratio"),
    setting("RUST_LOG", "info", "what is logged, as tracing-subscriber's EnvFilter reads it"),
];

/// The longest `CAREFORALL_DRAIN_WAIT_S`: what comes after it must fit into the time until SIGKILL.
pub const DRAIN_WAIT_MAX_S: u64 = 10;
/// So long a gateway gets to turn away, where there may be one.
const DRAIN_WAIT_S: u64 = 2;

/// The smallest operator key that is taken, in bytes.
const ADMIN_KEY_MIN_BYTES: usize = 16;

/// Configuration that was checked.
#[derive(Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the embedded parts keep everything.
    pub data_dir: PathBuf,
    /// The address that donors use, without a trailing slash; `None` follows the listening address.
    pub public_url: Option<String>,
    /// An operator key with every scope.
    pub admin_key: Option<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// `None`: unlimited.
    pub rate_limit: Option<RateLimit>,
    /// Put before the names of exchanges, queues and Redis keys.
    pub prefix: String,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// Where mails to the charity go.
    pub operator_email: String,
    /// `None`: embedded.
    pub database: Option<tokio_postgres::Config>,
    /// `None`: no Redis.
    pub redis_url: Option<String>,
    /// `None`: the in-process bus.
    pub broker: Option<BrokerSettings>,
    /// How Stripe, or its sandbox, is reached.
    pub stripe: StripeConfig,
    /// `None`: files.
    pub smtp_url: Option<String>,
    /// Authorities in PEM that the relay's certificate may come from, beside the usual ones.
    pub smtp_roots: Vec<String>,
    /// The sender of mails.
    pub mail_from: String,
    /// Verifies SendGrid's event webhooks; `None`: they are not taken.
    pub sendgrid_public_key: Option<String>,
    /// `None`: no text messages.
    pub sms: Option<SmsSettings>,
    /// Whether webhooks may go to http and private addresses.
    pub webhooks_allow_insecure: bool,
    /// How fast messages leave.
    pub rates: Rates,
    /// From SIGTERM to the end of listening, so that a gateway sees that we are not ready.
    pub drain_wait: Duration,
    /// Where traces go; `None`: nowhere.
    pub traces: Option<ExportSettings>,
}

/// How fast messages leave; `None`: as fast as they can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Mails to the relay.
    pub mail: Option<RateLimit>,
    /// Text messages to Twilio.
    pub sms: Option<RateLimit>,
    /// Webhooks to each endpoint.
    pub webhook: Option<RateLimit>,
}

/// How Stripe, or its sandbox, is reached.
#[derive(Clone)]
pub struct StripeConfig {
    /// The key.
    pub secret_key: String,
    /// `None`: the sandbox of this process.
    pub api_base: Option<String>,
    /// Any of them may have signed a webhook.
    pub webhook_secrets: Vec<WebhookSecret>,
    /// The secret that the sandbox signs with, where this process runs one.
    pub sandbox: Option<String>,
}

/// So many in a span of time: requests of each client address, messages of each provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

/// An address or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok())?;
        (prefix <= longest).then_some(Self { address, prefix })
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(it)) => {
                let shift = 32 - u32::from(self.prefix);
                (u32::from(network) ^ u32::from(it)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(it)) => {
                let shift = 128 - u32::from(self.prefix);
                (u128::from(network) ^ u128::from(it)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Collects what is set and what is wrong.
struct Reader {
    env: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Config {
    /// Reads the process's environment and, if given, a TOML file. The error is one line for each problem.
    pub fn load(file: Option<&Path>) -> Result<Self, Vec<String>> {
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let text = match file {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path).map_err(|error| vec![format!("--config {}: {error}", path.display())])?,
            ),
        };
        Self::read(env, text.as_deref())
    }

    /// Reads the given environment and the text of a TOML file.
    pub fn read(env: BTreeMap<String, String>, file: Option<&str>) -> Result<Self, Vec<String>> {
        let mut reader = Reader { env, file: BTreeMap::new(), problems: Vec::new() };
        if let Some(text) = file {
            reader.read_file(text);
        }
        reader.refuse_unknown();
        let listen =
            reader.parsed("CAREFORALL_LISTEN", "an address and port, such as 127.0.0.1:8080", |text| text.parse().ok());
        let stripe = reader.stripe();
        let prefix = reader.checked("CAREFORALL_PREFIX", "at most 40 letters, digits, dots, hyphens", is_prefix);
        let prefix = prefix.unwrap_or_default();
        let mail_from = reader.checked("MAIL_FROM", "an address, or Name <address>", is_mailbox);
        let mail_from = mail_from.unwrap_or_else(|| "CareForAll <no-reply@careforall.invalid>".to_owned());
        let config = Self {
            listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            data_dir: reader.value("CAREFORALL_DATA_DIR").unwrap_or_else(|| "./careforall-data".to_owned()).into(),
            public_url: reader
                .checked("CAREFORALL_PUBLIC_URL", "an http:// or https:// address", is_web_address)
                .map(|url| url.trim_end_matches('/').to_owned()),
            admin_key: reader.checked("CAREFORALL_ADMIN_KEY", "at least 16 visible ASCII characters", is_admin_key),
            trusted_proxies: reader.networks(),
            rate_limit: reader.rate("CAREFORALL_RATE_LIMIT", 100, 60),
            broker: reader.broker(&prefix),
            prefix,
            log_json: reader
                .checked("CAREFORALL_LOG_FORMAT", "pretty or json", |it| matches!(it, "pretty" | "json"))
                .as_deref()
                == Some("json"),
            operator_email: reader
                .checked("CAREFORALL_OPERATOR_EMAIL", "an e-mail address", is_address)
                .unwrap_or_else(|| mail_from.clone()),
            database: reader.database(),
            redis_url: reader.checked("REDIS_URL", "redis://host:port", is_redis_url),
            stripe,
            smtp_url: reader.checked("SMTP_URL", "smtps://user:password@host or smtp://host", |url| {
                Mailer::from_url(Some(url), &[], PathBuf::new()).is_ok()
            }),
            smtp_roots: reader
                .parsed("SMTP_CA_FILE", "a file of certificates in PEM", certificates)
                .into_iter()
                .collect(),
            mail_from,
            sendgrid_public_key: reader.checked(
                "SENDGRID_WEBHOOK_PUBLIC_KEY",
                "the verification key as SendGrid shows it (base64)",
                is_public_key,
            ),
            sms: reader.sms(),
            webhooks_allow_insecure: reader
                .checked("CAREFORALL_WEBHOOKS_ALLOW_INSECURE", "on or off", |it| matches!(it, "on" | "off"))
                .as_deref()
                == Some("on"),
            rates: Rates {
                mail: reader.rate("CAREFORALL_MAIL_RATE", 100, 1),
                sms: reader.rate("CAREFORALL_SMS_RATE", 10, 1),
                webhook: reader.rate("CAREFORALL_WEBHOOK_RATE", 50, 1),
            },
            drain_wait: reader.drain_wait(),
            traces: reader.traces(),
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
    }
}

impl Reader {
    fn value(&self, name: &str) -> Option<String> {
        let set = self.env.get(name).or_else(|| self.file.get(&file_key(name)));
        set.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn problem(&mut self, name: &str, expected: &str) {
        // The value is not repeated: it may be a secret.
        self.problems.push(format!("{name}: must be {expected}"));
    }

    fn parsed<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.value(name)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problem(name, expected);
        }
        parsed
    }

    fn checked(&mut self, name: &str, expected: &str, is_good: impl Fn(&str) -> bool) -> Option<String> {
        self.parsed(name, expected, |text| is_good(text).then(|| text.to_owned()))
    }

    fn read_file(&mut self, text: &str) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => return self.problems.push(format!("--config: {}", error.message())),
        };
        for (key, value) in table {
            if !SETTINGS.iter().any(|setting| file_key(setting.name) == key) {
                self.problems.push(format!("--config: unknown setting {key:?}"));
            }
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(_)
                | toml::Value::Float(_)
                | toml::Value::Datetime(_)
                | toml::Value::Array(_)
                | toml::Value::Table(_) => {
                    self.problems.push(format!("--config: {key:?} must be a string"));
                    continue;
                }
            };
            self.file.insert(key, text);
        }
    }

    /// A misspelt setting would silently be its default.
    fn refuse_unknown(&mut self) {
        let unknown: Vec<String> = self
            .env
            .keys()
            .filter(|name| name.starts_with("CAREFORALL_") && !SETTINGS.iter().any(|setting| setting.name == **name))
            .cloned()
            .collect();
        for name in unknown {
            self.problems.push(format!("{name}: unknown setting (`careforall serve --help` lists them)"));
        }
    }

    fn networks(&mut self) -> Vec<Network> {
        let expected = "addresses or networks, comma-separated, such as 10.0.0.0/8";
        self.parsed("CAREFORALL_TRUSTED_PROXIES", expected, |text| {
            text.split(',').map(|it| Network::parse(it.trim())).collect()
        })
        .unwrap_or_default()
    }

    fn rate(&mut self, name: &str, count: u32, per_s: u64) -> Option<RateLimit> {
        let default = RateLimit { count, per: Duration::from_secs(per_s) };
        let expected = "<count>/<sec|min|hour>, such as 100/min, or off";
        self.parsed(name, expected, parse_rate_limit).unwrap_or(Some(default))
    }

    /// All of Twilio's settings, or none of them.
    fn sms(&mut self) -> Option<SmsSettings> {
        const NEEDED: [&str; 3] = ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM"];
        let values = NEEDED.map(|name| self.value(name));
        let api_base = self.value("TWILIO_API_BASE");
        if values.iter().all(Option::is_none) && api_base.is_none() {
            return None;
        }
        let missing: Vec<&str> =
            NEEDED.iter().zip(&values).filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        let [Some(account_sid), Some(auth_token), Some(from)] = values else {
            self.problems.push(format!("{}: must be set too, or no TWILIO_… setting at all", missing.join(", ")));
            return None;
        };
        let api_base = api_base.unwrap_or_else(|| API_BASE.to_owned());
        let settings = SmsSettings { account_sid, auth_token, api_base, from };
        match Sms::new(settings.clone()) {
            Ok(_) => Some(settings),
            Err(error) => {
                self.problems.push(format!("TWILIO_…: {error}"));
                None
            }
        }
    }

    fn drain_wait(&mut self) -> Duration {
        let expected = format!("whole seconds from 0 to {DRAIN_WAIT_MAX_S}");
        let wait = self.parsed("CAREFORALL_DRAIN_WAIT_S", &expected, |text| {
            text.parse().ok().filter(|wait| *wait <= DRAIN_WAIT_MAX_S)
        });
        // Nobody stands before a process that has a Postgres of its own.
        let default = if self.value("DATABASE_URL").is_some() { DRAIN_WAIT_S } else { 0 };
        Duration::from_secs(wait.unwrap_or(default))
    }

    fn traces(&mut self) -> Option<ExportSettings> {
        const EXPECTED: &str =
            "one of OpenTelemetry's: always_on, always_off, traceidratio, each also as parentbased_…";
        let endpoint = self.checked("OTEL_EXPORTER_OTLP_ENDPOINT", "an http:// or https:// address", is_web_address);
        let argument = self.checked("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", |text| {
            Sampling::parse("traceidratio", Some(text)).is_some()
        });
        let sampling = self.parsed("OTEL_TRACES_SAMPLER", EXPECTED, |name| Sampling::parse(name, argument.as_deref()));
        Some(ExportSettings {
            endpoint: endpoint?,
            service_name: self.value("OTEL_SERVICE_NAME").unwrap_or_else(|| "careforall".to_owned()),
            sampling: sampling.unwrap_or_default(),
        })
    }

    fn database(&mut self) -> Option<tokio_postgres::Config> {
        let database: Option<tokio_postgres::Config> =
            self.parsed("DATABASE_URL", "postgres://user:password@host:port/database", |url| {
                url.starts_with("postgres").then(|| url.parse().ok()).flatten()
            });
        if database.as_ref().is_some_and(|it| it.get_ssl_mode() == tokio_postgres::config::SslMode::Require) {
            self.problems.push(
                "DATABASE_URL: sslmode=require is not supported; this version speaks to Postgres without TLS"
                    .to_owned(),
            );
        }
        database
    }

    fn broker(&mut self, prefix: &str) -> Option<BrokerSettings> {
        let url = self.value("AMQP_URL")?;
        let topology = if prefix.is_empty() { Topology::default() } else { Topology::with_prefix(prefix) };
        match BrokerSettings::parse(&url, topology) {
            Ok(settings) => Some(settings),
            Err(error) => {
                self.problems.push(format!("AMQP_URL: {error}"));
                None
            }
        }
    }

    fn stripe(&mut self) -> StripeConfig {
        let key = self.checked("STRIPE_SECRET_KEY", "a key that begins with sk_ or rk_", |key| {
            (key.starts_with("sk_") || key.starts_with("rk_")) && key.bytes().all(|b| b.is_ascii_graphic())
        });
        let secret = self.checked("STRIPE_WEBHOOK_SECRET", "whsec_…, or several, comma-separated", |text| {
            WebhookSecret::parse_list(text).is_ok()
        });
        let api_base = self.checked("STRIPE_API_BASE", "an http:// or https:// address", is_web_address);
        let names_sandbox = api_base.as_deref().is_some_and(|base| base.contains("/sandbox/stripe"));
        let live = key.as_deref().is_some_and(is_live_key);
        if live && names_sandbox {
            self.problems.push("STRIPE_API_BASE: the sandbox never runs beside a live Stripe key".to_owned());
        }
        if key.is_some() && !names_sandbox && secret.is_none() {
            self.problems.push(
                "STRIPE_WEBHOOK_SECRET: must be set beside STRIPE_SECRET_KEY (whsec_… of the endpoint)".to_owned(),
            );
        }
        let runs_sandbox = !live && (key.is_none() || names_sandbox);
        let api_base = api_base.or_else(|| key.is_some().then(|| "https://api.stripe.com".to_owned()));
        let secret = secret.unwrap_or_else(|| SANDBOX_WEBHOOK_SECRET.to_owned());
        let first = secret.split(',').next().unwrap_or_default().trim().to_owned();
        StripeConfig {
            secret_key: key.unwrap_or_else(|| SANDBOX_SECRET_KEY.to_owned()),
            api_base,
            webhook_secrets: WebhookSecret::parse_list(&secret).unwrap_or_default(),
            sandbox: runs_sandbox.then_some(first),
        }
    }
}

fn file_key(name: &str) -> String {
    name.strip_prefix("CAREFORALL_").unwrap_or(name).to_ascii_lowercase()
}

fn parse_rate_limit(text: &str) -> Option<Option<RateLimit>> {
    if text == "off" {
        return Some(None);
    }
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3600,
        _ => return None,
    };
    let count = count.trim().parse().ok().filter(|count| *count > 0)?;
    Some(Some(RateLimit { count, per: Duration::from_secs(seconds) }))
}

fn certificates(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().filter(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
}

fn is_web_address(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

fn is_admin_key(text: &str) -> bool {
    text.len() >= ADMIN_KEY_MIN_BYTES && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_address(text: &str) -> bool {
    crate::domain::donor::email(text).is_ok()
}

fn is_prefix(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)], file: Option<&str>) -> Result<Config, Vec<String>> {
        Config::read(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), file)
    }

    #[test]
    fn nothing_configured_is_a_whole_configuration_with_the_sandbox() {
        let config = read(&[], None).map_err(|problems| problems.join("\n")).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(config.database.is_none() && config.broker.is_none() && config.redis_url.is_none());
        assert_eq!(config.stripe.sandbox.as_deref(), Some(SANDBOX_WEBHOOK_SECRET));
        assert_eq!(config.rate_limit, Some(RateLimit { count: 100, per: Duration::from_secs(60) }));
    }

    #[test]
    fn every_problem_is_told_at_once_and_no_value_is_repeated() {
        let problems = read(
            &[
                ("CAREFORALL_LISTEN", "nowhere-secret"),
                ("CAREFORALL_RATE_LIMIT", "lots-secret"),
                ("DATABASE_URL", "mysql://secret"),
                ("AMQP_URL", "http://secret"),
                ("STRIPE_SECRET_KEY", "pk_secret"),
                ("CAREFORALL_ADMIN_KEY", "secret"),
                ("CAREFORALL_LISTN", "secret"),
            ],
            Some("redis_url = 'http://secret'\ncolour = 'secret'"),
        )
        .err()
        .unwrap();
        for name in [
            "CAREFORALL_LISTEN:",
            "CAREFORALL_RATE_LIMIT:",
            "DATABASE_URL:",
            "AMQP_URL:",
            "STRIPE_SECRET_KEY:",
            "CAREFORALL_ADMIN_KEY:",
            "CAREFORALL_LISTN:",
            "REDIS_URL:",
            "colour",
        ] {
            assert_eq!(problems.iter().filter(|line| line.contains(name)).count(), 1, "{name} in {problems:?}");
        }
        assert!(!problems.iter().any(|line| line.contains("secret") || line.contains('\n')), "{problems:?}");
    }

    #[test]
    fn twilio_is_set_as_a_whole_or_not_at_all() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let all = [
            ("TWILIO_ACCOUNT_SID", "AC00000000000000000000000000000001"),
            ("TWILIO_AUTH_TOKEN", "token-secret"),
            ("TWILIO_FROM", "+15005550006"),
        ];
        let config = read(&all, None).map_err(|it| it.join("\n")).unwrap();
        assert_eq!(config.sms.unwrap().api_base, "https://api.twilio.com");
        assert!(read(&[], None).unwrap_or_else(|it| panic!("{it:?}")).sms.is_none());
        let problems = read(&all[1..2], None).err().unwrap();
        assert_eq!(problems, ["TWILIO_ACCOUNT_SID, TWILIO_FROM: must be set too, or no TWILIO_… setting at all"]);
        let elsewhere = [all[0], all[1], all[2], ("TWILIO_API_BASE", "http://twilio.example")];
        let problems = read(&elsewhere, None).err().unwrap();
        assert!(problems.len() == 1 && problems[0].starts_with("TWILIO_…:"), "{problems:?}");
        assert!(!problems[0].contains("secret"), "{problems:?}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = "listen = '127.0.0.1:1111'\nrate_limit = 'off'";
        let config = read(&[("CAREFORALL_LISTEN", "127.0.0.1:2222")], Some(file)).map_err(|it| it.join("\n")).unwrap();
        assert_eq!((config.listen.port(), config.rate_limit), (2222, None));
    }

    #[test]
    fn the_sandbox_never_runs_beside_a_live_key() {
        let live = ("STRIPE_SECRET_KEY", "sk_live_x");
        let secret = ("STRIPE_WEBHOOK_SECRET", "whsec_x");
        let config = read(&[live, secret], None).map_err(|it| it.join("\n")).unwrap();
        assert_eq!((config.stripe.sandbox, config.stripe.api_base.as_deref()), (None, Some("https://api.stripe.com")));
        let base = ("STRIPE_API_BASE", "http://127.0.0.1:8080/sandbox/stripe");
        assert!(read(&[live, secret, base], None).is_err());
        assert!(read(&[live], None).is_err(), "a live key without a webhook secret");
        let test = ("STRIPE_SECRET_KEY", "sk_test_x");
        assert!(read(&[test, secret, base], None).is_ok_and(|config| config.stripe.sandbox.is_some()));
    }

    #[test]
    fn networks_contain_what_they_should() {
        let network = Network::parse("10.1.0.0/16").unwrap();
        assert!(network.contains("10.1.2.3".parse().unwrap()) && !network.contains("10.2.2.3".parse().unwrap()));
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(Network::parse("0.0.0.0/0").unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!(Network::parse("::1").unwrap().contains("::1".parse().unwrap()));
        assert!(Network::parse("10.0.0.0/33").is_none());
    }
}
