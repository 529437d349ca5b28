//! `careforall doctor`: every dependency, the clock, the shape of secrets and keys: OK or the fix.

mod database;

use std::time::Duration;

use crate::config::Config;
use crate::gateways::broker::Publisher;
use crate::gateways::mailer::Mailer;
use crate::gateways::stripe::{Stripe, StripeSettings, is_live_key};
use crate::store::cache::Cache;
use crate::trace;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a check found: a word about what is fine, or what is wrong and how to mend it.
type Finding = Result<String, String>;

#[allow(clippy::print_stdout, reason = "the command's output")]
pub async fn run(config: Config) -> Result<(), String> {
    let mut sick = 0;
    let mut report = |name: &str, finding: Finding| match finding {
        Ok(word) => println!("OK    {name:<10} {word}"),
        Err(fix) => {
            sick += 1;
            println!("FAIL  {name:<10} {fix}");
        }
    };
    for (name, finding) in database::findings(&config).await {
        report(name, finding);
    }
    report("redis", patient(redis(&config)).await);
    report("rabbitmq", patient(rabbitmq(&config)).await);
    report("stripe", patient(stripe(&config)).await);
    report("webhooks", webhooks(&config));
    report("mail", patient(mail(&config)).await);
    report("sms", sms(&config));
    report("partners", partners(&config));
    report("traces", patient(traces(&config)).await);
    report("listen", listen(&config));
    if sick == 0 { Ok(()) } else { Err(format!("{sick} of these must be mended")) }
}

async fn patient(check: impl Future<Output = Finding>) -> Finding {
    tokio::time::timeout(PATIENCE, check)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {} s", PATIENCE.as_secs())))
}

async fn redis(config: &Config) -> Finding {
    let cache = Cache::new(config.redis_url.as_deref(), &config.prefix).map_err(|error| error.to_string())?;
    match cache.ping().await {
        None => Ok("not set: level 1 of the totals is skipped".to_owned()),
        Some(true) => Ok("answers".to_owned()),
        Some(false) => Err("no answer; check REDIS_URL (everything works without, slower)".to_owned()),
    }
}

async fn rabbitmq(config: &Config) -> Finding {
    let Some(settings) = &config.broker else { return Ok("not set: facts stay in this process".to_owned()) };
    let publisher = Publisher::new(settings.clone());
    let connected = publisher.connect().await;
    publisher.close().await;
    connected.map(|()| format!("{}; topology in place", settings.redacted_url())).map_err(|error| error.to_string())
}

async fn stripe(config: &Config) -> Finding {
    let Some(base) = &config.stripe.api_base else { return Ok("sandbox: no real money moves".to_owned()) };
    let kind = if is_live_key(&config.stripe.secret_key) { "live key" } else { "test key" };
    let settings = StripeSettings::new(config.stripe.secret_key.clone(), base.clone());
    let stripe = Stripe::new(settings).map_err(|error| error.to_string())?;
    stripe.ping().await.map(|()| format!("{base}, {kind}")).map_err(|error| format!("{base}, {kind}: {error}"))
}

fn webhooks(config: &Config) -> Finding {
    let count = config.stripe.webhook_secrets.len();
    if config.stripe.sandbox.is_none() && config.public_url.is_none() {
        return Err(
            "set CAREFORALL_PUBLIC_URL, and <it>/webhooks/stripe as an endpoint in Stripe's dashboard".to_owned()
        );
    }
    Ok(format!("{count} secret{}", if count == 1 { "" } else { "s; remove the old one when the rotation is over" }))
}

async fn mail(config: &Config) -> Finding {
    let directory = config.data_dir.join("mail");
    let mailer = Mailer::from_url(config.smtp_url.as_deref(), &config.smtp_roots, directory.clone());
    let mailer = mailer.map_err(|error| error.to_string())?;
    let kind =
        if config.smtp_url.is_some() { "SMTP_URL".to_owned() } else { format!("files in {}", directory.display()) };
    mailer.check().await.map(|()| kind.clone()).map_err(|error| format!("{kind}: {error}"))
}

/// Twilio has no call that costs nothing and proves that a sender may send: the shape is all that is checked.
fn sms(config: &Config) -> Finding {
    let Some(settings) = &config.sms else { return Ok("not set: no text messages".to_owned()) };
    if config.public_url.is_none() {
        return Err("set CAREFORALL_PUBLIC_URL: without it Twilio cannot report what became of a message".to_owned());
    }
    Ok(format!("Twilio at {}, as {}", settings.api_base, settings.from))
}

fn partners(config: &Config) -> Finding {
    if config.webhooks_allow_insecure && config.stripe.sandbox.is_none() {
        return Err(
            "webhooks may go to http and private addresses: unset CAREFORALL_WEBHOOKS_ALLOW_INSECURE".to_owned()
        );
    }
    let bounces =
        if config.sendgrid_public_key.is_some() { "taken" } else { "not taken (SENDGRID_WEBHOOK_PUBLIC_KEY)" };
    let reach = if config.webhooks_allow_insecure { "anywhere (development)" } else { "https to public addresses" };
    Ok(format!("webhooks go to {reach}; SendGrid's events are {bounces}"))
}

/// Everything works without, and nobody sees why it does not.
async fn traces(config: &Config) -> Finding {
    let Some(settings) = config.traces.clone() else { return Ok("not set: no traces leave this process".to_owned()) };
    let endpoint = settings.endpoint.clone();
    let probed = tokio::task::spawn_blocking(move || trace::probe(&settings)).await;
    match probed.map_err(|error| error.to_string())? {
        Ok(()) => Ok(format!("{endpoint} takes spans")),
        Err(error) => Err(format!("{endpoint}: {error}")),
    }
}

fn listen(config: &Config) -> Finding {
    match std::net::TcpListener::bind(config.listen) {
        Ok(_) => Ok(format!("{} is free", config.listen)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Ok(format!("{} is in use: by the server, if it runs", config.listen))
        }
        Err(error) => Err(format!("{}: {error}; check CAREFORALL_LISTEN", config.listen)),
    }
}
