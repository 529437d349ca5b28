//! The composition root: store → gateways → actors, bottom up → HTTP; shutdown in reverse.

pub mod ending;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::{App as WebApp, HttpServer, web};
use rand::RngCore;
use time::OffsetDateTime;
use tokio_postgres::config::TargetSessionAttrs;

use self::ending::{Door, LAST_DELIVERIES, LAST_ROUND, Watchdog, drain_s};
use crate::actors::audit::Audit;
use crate::actors::bridge::{Bridge, Close, News, Road};
use crate::actors::committer::{Committer, DonationMoved, WakeAfterCommit};
use crate::actors::courier::{Courier, Finish, Rate, Tools as CourierTools, Way};
use crate::actors::facts::{Take, Wake};
use crate::actors::intake::Intake;
use crate::actors::mailboxes::{Knock, Mailboxes};
use crate::actors::notification::Notification;
use crate::actors::outbox::{Bus, Outbox};
use crate::actors::payment::Tools;
use crate::actors::pressure::Pressure;
use crate::actors::registry::Payments;
use crate::actors::totals::{CloseStreams, TotalsActor, TotalsMemory};
use crate::clock::Clock;
use crate::config::{Config, RateLimit};
use crate::gateways::breaker::Breaker;
use crate::gateways::broker::Publisher;
use crate::gateways::callback::{CallbackSettings, Callbacks};
use crate::gateways::delivery::DeliveryError;
use crate::gateways::links::Links;
use crate::gateways::mailer::Mailer;
use crate::gateways::sms::Sms;
use crate::gateways::stripe::{SettingsError, Stripe, StripeSettings};
use crate::gateways::topology::ConsumerQueue;
use crate::http::access::{AccessTokens, Operators, SCOPES};
use crate::http::draining::Draining;
use crate::http::feedback::{Reporters, TWILIO_REPORTS, TwilioReports};
use crate::http::limits::Limits;
use crate::http::observe::{observe, watch_thread};
use crate::http::openings::Openings;
use crate::http::problem::no_such_route;
use crate::http::streams::Streams;
use crate::http::{AppState, Channels, configure};
use crate::metrics::METRICS;
use crate::sandbox::{Sandbox, SandboxError, SandboxSettings};
use crate::store::cache::Cache;
use crate::store::embedded::{Embedded, EmbeddedError, EmbeddedSettings};
use crate::store::hosts::{self, Hosts, LOOK};
use crate::store::migrate::migrate;
use crate::store::presence::Presence;
use crate::store::{Store, StoreError};

/// New versions of donations that a slow listener may lag behind before it has to look for itself.
const NEWS: usize = 4096;
/// Expired keys are forgotten this often, so many at a time.
const PURGE: Duration = Duration::from_secs(30);
const PURGE_BATCH: i64 = 5000;
/// Longer than Stripe repeats and lists events.
const PARKED_FOR: time::Duration = time::Duration::days(35);
/// How often the vital actors are looked at.
const VITALS: Duration = Duration::from_millis(500);
/// The operator key that the first start made, in the data directory.
const KEY_FILE: &str = "admin-key";
const SECRET_BYTES: usize = 32;

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's word.
        error: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("the data directory {directory} cannot be used: {error}")]
    DataDirectory {
        /// The directory.
        directory: String,
        /// The operating system's word.
        error: std::io::Error,
    },
    /// The private Postgres does not start.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The database does not take us.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
    /// Stripe's settings cannot be used.
    #[error(transparent)]
    Stripe(#[from] SettingsError),
    /// The sandbox's journal cannot be used.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The settings of mails, text messages or webhooks cannot be used.
    #[error(transparent)]
    Mail(#[from] DeliveryError),
    /// Redis's address cannot be used.
    #[error("REDIS_URL cannot be used: {0}")]
    Redis(String),
    /// The HTTP server does not start.
    #[error("the HTTP server does not start: {0}")]
    Server(std::io::Error),
}

/// An actor that the process cannot do its work without, and whether it lives.
struct Vital {
    name: &'static str,
    lives: Box<dyn Fn() -> bool>,
}

/// All of them, and where messages to them wait.
#[derive(Default)]
struct Vitals {
    actors: Vec<Vital>,
    mailboxes: Mailboxes,
}

impl Vitals {
    fn add<A>(&mut self, name: &'static str, actor: &Addr<A>)
    where
        A: Actor<Context = Context<A>> + Handler<Knock>,
    {
        self.mailboxes.add(name, actor);
        let actor = actor.clone();
        self.actors.push(Vital { name, lives: Box::new(move || actor.connected()) });
    }
}

/// A running process.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own address for donors.
    pub url: String,
    /// An operator key that was made just now, shown once.
    pub made_admin_key: Option<MadeKey>,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    server: ServerHandle,
    door: Door,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
    vitals: Vec<Vital>,
    draining: Draining,
    bridge: Option<Addr<Bridge>>,
    outbox: Addr<Outbox>,
    totals: Addr<TotalsActor>,
    bus: Arc<Bus>,
    couriers: Vec<Addr<Courier>>,
    sandbox: Option<Sandbox>,
    arbiters: Vec<Arbiter>,
    embedded: Option<Embedded>,
}

/// Postgres as configured: the given one, or the private one of the data directory.
pub async fn database(config: &Config) -> Result<(tokio_postgres::Config, Option<Embedded>), StartError> {
    match &config.database {
        Some(database) => Ok((database.clone(), None)),
        None => {
            let embedded = Embedded::start(&config.data_dir, EmbeddedSettings::default()).await?;
            Ok((embedded.config(), Some(embedded)))
        }
    }
}

impl App {
    /// Starts everything; answers when requests are served. What was started is stopped again where something fails.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (listener, address) = listen(config.listen)?;
        let (database, embedded) = database(&config).await?;
        match Self::assemble(config, listener, address, database).await {
            Ok(app) => Ok(Self { embedded, ..app }),
            Err(error) => {
                stop_embedded(embedded).await;
                Err(error)
            }
        }
    }

    async fn assemble(
        config: Config,
        listener: TcpListener,
        address: SocketAddr,
        mut database: tokio_postgres::Config,
    ) -> Result<Self, StartError> {
        let clock = Clock::System;
        if hosts::split(&database).len() > 1 {
            // A session with a standby would stay there, and refuse every write, for as long as it lives.
            database.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let applied = migrate(&database).await?;
        if !applied.is_empty() {
            tracing::info!(?applied, "the schema was brought up to date");
        }
        let store = Store::new(database)?;
        let cache = Cache::new(config.redis_url.as_deref(), &config.prefix)
            .map_err(|error| StartError::Redis(error.to_string()))?;
        let own_url = own_url(address);
        let stripe = stripe(&config, &own_url)?;
        let url = config.public_url.clone().unwrap_or_else(|| own_url.clone());
        let links = links(&store, &url).await?;
        let (posts, channels) = channels(&config, &links)?;
        let made_admin_key = ensure_admin_key(&config, &store, &clock).await?;
        let access = access_tokens(&store).await?;

        let arbiters: Vec<Arbiter> = (0..cores() + 2).map(|_| Arbiter::new()).collect();
        // Signing, TLS and the making of mails are work: couriers share no thread with money.
        let (core, post, shards) = (&arbiters[0], &arbiters[1], &arbiters[2..]);
        let moved = tokio::sync::broadcast::Sender::<DonationMoved>::new(NEWS);
        let pressure = Pressure::default();
        let committer =
            start_in(core, Committer::new(store.clone(), clock.clone(), moved.clone()).telling(pressure.clone()));
        let tools = Tools {
            store: store.clone(),
            committer: committer.clone(),
            stripe: stripe.clone(),
            clock: clock.clone(),
            pressure: pressure.clone(),
        };
        let payments = Payments::start(shards, Arc::new(tools), None);
        let intake = Intake::new(store.clone(), cache.clone(), committer.clone(), payments.clone(), clock.clone());
        let memory = TotalsMemory::default();
        let totals = start_in(core, TotalsActor::new(store.clone(), cache.clone(), clock.clone(), memory.clone()));
        let presence = Presence::start(store.pools.hosts());
        let courier = |it: Post| {
            let tools = CourierTools { store: store.clone(), clock: clock.clone(), presence: presence.clone() };
            let rate = it.rate.map(|limit| Rate { count: limit.count, per: limit.per });
            start_in(post, Courier::new(tools, it.way, rate, it.breaker))
        };
        let couriers: Vec<Addr<Courier>> = posts.into_iter().map(courier).collect();
        let wakes: Vec<Recipient<Wake>> = couriers.iter().map(|courier| courier.clone().recipient()).collect();
        let notification = Notification::new(
            store.clone(),
            clock.clone(),
            config.operator_email.clone(),
            config.sms.is_some(),
            wakes.clone(),
        );
        let notification = start_in(core, notification);
        let audit = start_in(core, Audit::new(store.clone(), clock.clone()));
        let consumers = [
            (ConsumerQueue::Totals, totals.clone().recipient::<Take>()),
            (ConsumerQueue::Notifications, notification.clone().recipient()),
            (ConsumerQueue::Audit, audit.clone().recipient()),
        ];
        let mut vitals = Vitals::default();
        vitals.add("committer", &committer);
        vitals.add("totals", &totals);
        vitals.add("notification", &notification);
        vitals.add("audit", &audit);
        couriers.iter().for_each(|courier| vitals.add("courier", courier));
        payments.registries().for_each(|registry| vitals.add("registry", registry));
        let news = News { changes: totals.clone().recipient(), hears: totals.clone().recipient() };
        let (bus, bridge) = bus(&config, core, consumers, news);
        bridge.iter().for_each(|bridge| vitals.add("bridge", bridge));
        let bus = Arc::new(bus);
        let outbox = start_in(core, Outbox::new(store.clone(), Arc::clone(&bus), clock.clone(), pressure.clone()));
        vitals.add("outbox", &outbox);
        let Vitals { actors: vitals, mailboxes } = vitals;
        committer.do_send(WakeAfterCommit(outbox.clone().recipient()));
        outbox.do_send(Wake);
        purge_regularly(store.clone(), clock.clone());
        look_regularly(store.pools.hosts().clone());

        if config.stripe.sandbox.is_some() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the sandbox Stripe runs on an address that others can reach: anybody can \"pay\" with play money; set STRIPE_SECRET_KEY for real gifts");
        }
        let draining = Draining::default();
        let sandbox = sandbox(&config, &clock)?;
        let state = web::Data::new(AppState {
            store: store.clone(),
            cache,
            committer,
            payments: payments.clone(),
            intake,
            totals: totals.clone(),
            totals_memory: memory,
            admission: pressure.admission().clone(),
            openings: Openings::new(payments.clone(), pressure),
            streams: Streams::within(open_files() / 2),
            bus: Arc::clone(&bus),
            bridge: bridge.clone(),
            broker: config.broker.clone(),
            stripe,
            webhook_secrets: config.stripe.webhook_secrets.clone(),
            moved,
            access,
            links,
            operators: Operators::default(),
            channels,
            couriers: wakes,
            reporters: reporters(&config),
            limits: Limits::new(config.rate_limit, config.trusted_proxies.clone()),
            clock: clock.clone(),
            mailboxes,
            measuring: tokio::sync::Mutex::default(),
            outbox_measured: tokio::sync::Mutex::default(),
            open_measured: tokio::sync::Mutex::default(),
            draining: draining.clone(),
        });
        let door = Door::of(&listener, config.drain_wait).map_err(StartError::Server)?;
        let (server, running) = serve(listener, state, sandbox.clone(), config.drain_wait)?;
        if let Some(sandbox) = &sandbox {
            sandbox.start_deliveries(format!("{own_url}/webhooks/stripe"));
        }
        tracing::info!(%address, sandbox = sandbox.is_some(), "ready");
        Ok(Self {
            address,
            url,
            made_admin_key,
            store,
            clock,
            server,
            door,
            running,
            vitals,
            draining,
            bridge,
            outbox,
            totals,
            bus,
            couriers,
            sandbox,
            arbiters,
            embedded: None,
        })
    }

    /// Waits until the process can no longer do its work, and says why. An actor that panicked is gone for good (actix
    /// restarts only those that stop in order): better to end and be started again, which loses nothing, than to go on
    /// without it.
    pub async fn broken(&mut self) -> String {
        let mut look = tokio::time::interval(VITALS);
        loop {
            tokio::select! {
                ended = &mut self.running => return format!("the HTTP server ended: {ended:?}"),
                _ = look.tick() => {}
            }
            if let Some(dead) = self.vitals.iter().find(|vital| !(vital.lives)()) {
                return format!("the {} actor died", dead.name);
            }
        }
    }

    /// From here on `/health/ready` says 503 and every answer closes its connection, so that gateways and clients go
    /// elsewhere while all is still served.
    pub fn announce_end(&self) {
        if self.draining.begin() {
            tracing::info!("draining");
        }
    }

    /// Ends in reverse: no new requests, then those under way, then consumers, then the last facts, then the database.
    pub async fn stop(self, watchdog: &Watchdog) {
        self.announce_end();
        watchdog.enter("requests");
        // Streams would hold the server up for all of its patience.
        let _ = self.totals.send(CloseStreams).await;
        // Couriers claim nothing from here on; what they are sending goes on beside the last requests.
        let finished: Vec<_> = self.couriers.iter().map(|courier| courier.send(Finish)).collect();
        let finished = futures::future::join_all(finished);
        let last_deliveries = actix_web::rt::spawn(tokio::time::timeout(LAST_DELIVERIES, finished));
        self.door.close().await;
        self.server.stop(true).await;
        let cut_off = METRICS.http_in_flight.get();
        if cut_off > 0 {
            tracing::warn!(cut_off, "requests were cut off; what they had begun is finished after the next start");
        }
        watchdog.enter("consumers and the outbox");
        // Consumers finish what they have in hand while the last facts go out.
        tokio::join!(self.close_bridge(), self.empty_outbox());
        watchdog.enter("the bus");
        let _ = tokio::time::timeout(LAST_ROUND, self.bus.close()).await;
        watchdog.enter("messages");
        if !matches!(last_deliveries.await, Ok(Ok(_))) {
            tracing::warn!("messages were being sent still; they go out again after the next start");
        }
        let calls = METRICS.stripe_in_flight.get();
        if calls > 0 {
            tracing::warn!(calls, "the provider was being asked still; due checks ask it again after the next start");
        }
        watchdog.enter("the sandbox");
        if let Some(sandbox) = &self.sandbox {
            sandbox.stop().await;
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        watchdog.enter("the database");
        self.store.pools.close();
        stop_embedded(self.embedded).await;
        tracing::info!("stopped");
    }

    async fn close_bridge(&self) {
        if let Some(bridge) = &self.bridge
            && tokio::time::timeout(LAST_ROUND, bridge.send(Close)).await.is_err()
        {
            tracing::warn!("a consumer has facts in hand still; they are delivered again after the next start");
        }
    }

    /// What is committed goes out, as far as there is time.
    async fn empty_outbox(&self) {
        self.outbox.do_send(Wake);
        let mut left = None;
        // Asked again and again, because another process may be the one that publishes; `LAST_ROUND` ends it.
        let emptied = async {
            loop {
                match self.store.measure_outbox().await {
                    Ok(outbox) if outbox.waiting > outbox.dead => left = Some(outbox.waiting - outbox.dead),
                    Ok(_) => return,
                    Err(_) => left = None,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LAST_ROUND, emptied).await.is_err() {
            match left {
                Some(events) => tracing::warn!(events, "events wait in the outbox; they go out after the next start"),
                None => tracing::warn!(
                    "the database does not say what waits in the outbox; it goes out after the next start"
                ),
            }
        }
    }
}

async fn stop_embedded(embedded: Option<Embedded>) {
    if let Some(embedded) = embedded
        && let Err(error) = embedded.stop().await
    {
        tracing::error!(%error, "the private Postgres did not stop");
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|error| StartError::Listen { address, error })
}

/// How a process that listens on `address` is reached from its own machine.
pub fn own_url(address: SocketAddr) -> String {
    let reachable = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    };
    format!("http://{reachable}")
}

/// How many files this process may have open: all that the system lets it, for each connection is one.
fn open_files() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let allowed = getrlimit(Resource::Nofile).current;
    allowed.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Starts a supervised actor on that arbiter.
pub fn start_in<A>(arbiter: &Arbiter, actor: A) -> Addr<A>
where
    A: Actor<Context = Context<A>> + Supervised + Send,
{
    Supervisor::start_in_arbiter(&arbiter.handle(), move |_| actor)
}

/// One channel: its way out, how fast it may go, and who guards it.
struct Post {
    way: Way,
    rate: Option<RateLimit>,
    breaker: Breaker,
}

/// The channels that there are, for couriers and for whoever asks about them.
fn channels(config: &Config, links: &Links) -> Result<(Vec<Post>, Channels), StartError> {
    let insecure = config.webhooks_allow_insecure;
    if insecure {
        tracing::warn!("CAREFORALL_WEBHOOKS_ALLOW_INSECURE is on: webhooks may go to http and private addresses");
    }
    let settings = CallbackSettings { allow_http: insecure, allow_private: insecure, ..CallbackSettings::default() };
    let callbacks = Callbacks::new(settings)?;
    let mailer = Mailer::from_url(config.smtp_url.as_deref(), &config.smtp_roots, config.data_dir.join("mail"))?;
    let mail = Way::Email { mailer, from: config.mail_from.clone(), links: links.clone() };
    let mut posts = vec![
        Post { way: mail, rate: config.rates.mail, breaker: Breaker::default() },
        // Each endpoint has a breaker of its own beside this one.
        Post { way: Way::Webhook(callbacks.clone()), rate: config.rates.webhook, breaker: Breaker::default() },
    ];
    let sms = config.sms.as_ref().map(|_| Breaker::default());
    if let (Some(settings), Some(breaker)) = (&config.sms, &sms) {
        let way = Way::Sms { sms: Sms::new(settings.clone())?, reports_to: twilio_reports_to(config) };
        posts.push(Post { way, rate: config.rates.sms, breaker: breaker.clone() });
    }
    let channels = Channels {
        mail: (if config.smtp_url.is_some() { "smtp" } else { "files" }, posts[0].breaker.clone()),
        sms,
        webhooks: if insecure { "http and private addresses too" } else { "https to public addresses" },
        callbacks,
    };
    Ok((posts, channels))
}

/// Twilio reports to an address that the world can reach, or not at all.
fn twilio_reports_to(config: &Config) -> Option<String> {
    config.public_url.as_ref().map(|url| format!("{url}{TWILIO_REPORTS}"))
}

/// Whose reports about messages are taken.
fn reporters(config: &Config) -> Reporters {
    let twilio = config.sms.as_ref().zip(twilio_reports_to(config));
    Reporters {
        twilio: twilio.map(|(settings, url)| TwilioReports { auth_token: settings.auth_token.clone(), url }),
        sendgrid: config.sendgrid_public_key.clone(),
    }
}

/// Stripe as configured: the real one, another sandbox, or the one that listens at `own_url`.
pub fn stripe(config: &Config, own_url: &str) -> Result<Stripe, StartError> {
    let base = config.stripe.api_base.clone().unwrap_or_else(|| format!("{own_url}/sandbox/stripe"));
    Ok(Stripe::new(StripeSettings::new(config.stripe.secret_key.clone(), base))?)
}

fn sandbox(config: &Config, clock: &Clock) -> Result<Option<Sandbox>, StartError> {
    let Some(webhook_secret) = config.stripe.sandbox.clone() else { return Ok(None) };
    let journal_dir = config.data_dir.join("sandbox");
    std::fs::create_dir_all(&journal_dir)
        .map_err(|error| StartError::DataDirectory { directory: journal_dir.display().to_string(), error })?;
    let settings = SandboxSettings { webhook_secret, journal_dir: Some(journal_dir), clock: clock.clone() };
    Ok(Some(Sandbox::open(settings)?))
}

fn bus(
    config: &Config,
    core: &Arbiter,
    consumers: [(ConsumerQueue, Recipient<Take>); 3],
    news: News,
) -> (Bus, Option<Addr<Bridge>>) {
    let Some(settings) = &config.broker else {
        return (Bus::InProcess(consumers.into()), None);
    };
    let roads = consumers.into_iter().map(|(queue, consumer)| Road { queue, consumer }).collect();
    let bridge = start_in(core, Bridge::new(settings.clone(), roads, news));
    (Bus::Broker(Box::new(Publisher::new(settings.clone()))), Some(bridge))
}

/// The configured operator key is made known; without one, the first start of all makes one.
async fn ensure_admin_key(config: &Config, store: &Store, clock: &Clock) -> Result<Option<MadeKey>, StartError> {
    if let Some(key) = &config.admin_key {
        const NAME: &str = "CAREFORALL_ADMIN_KEY";
        store.create_api_key(NAME, key, SCOPES, clock.now()).await?;
        if store.revoke_other_api_keys(NAME, key, clock.now()).await? > 0 {
            tracing::info!("CAREFORALL_ADMIN_KEY has changed; the earlier key opens nothing any more");
        }
        return Ok(None);
    }
    if store.count_api_keys().await? > 0 {
        return Ok(None);
    }
    let key = new_api_key();
    // Kept first: a crash in between leaves a file that opens nothing, and the next start makes another key.
    let file = keep_key(&config.data_dir, &key)?;
    store.create_api_key("first start", &key, SCOPES, clock.now()).await?;
    Ok(Some(MadeKey { key, file }))
}

fn keep_key(data_dir: &Path, key: &str) -> Result<PathBuf, StartError> {
    let file = data_dir.join(KEY_FILE);
    let write = || {
        std::fs::create_dir_all(data_dir)?;
        let mut open = std::fs::OpenOptions::new();
        let mut file = open.create(true).truncate(true).write(true).mode(0o600).open(&file)?;
        file.write_all(key.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| StartError::DataDirectory { directory: data_dir.display().to_string(), error })?;
    Ok(file)
}

/// An operator key that the first start of all made.
pub struct MadeKey {
    /// The key; nobody can show it again.
    pub key: String,
    /// The file that it is kept in, readable by us alone.
    pub file: PathBuf,
}

/// A fresh operator key: 256 random bits.
pub fn new_api_key() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    format!("cfa_{}", hex::encode(bytes))
}

async fn access_tokens(store: &Store) -> Result<AccessTokens, StartError> {
    let secret = shared_secret(store, "access_token").await?;
    Ok(AccessTokens::new(&secret).ok_or_else(unusable_secret)?)
}

/// Links in mails, under a secret of their own: none of them is an access token.
async fn links(store: &Store, public_url: &str) -> Result<Links, StartError> {
    let secret = shared_secret(store, "mail_links").await?;
    Ok(Links::new(&secret, public_url).ok_or_else(unusable_secret)?)
}

async fn shared_secret(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    let mut fresh = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut fresh);
    store.share_secret(name, &fresh).await
}

fn unusable_secret() -> StoreError {
    StoreError::corrupt("donations.secrets", "value", "a shared secret is unusable")
}

fn purge_regularly(store: Store, clock: Clock) {
    actix_web::rt::spawn(async move {
        loop {
            tokio::time::sleep(PURGE).await;
            if let Err(error) = purge(&store, clock.now()).await {
                tracing::warn!(%error, "what has expired cannot be purged");
            }
        }
    });
}

/// Of several hosts another one may take writes now, while sessions with the one before it hang.
fn look_regularly(hosts: Hosts) {
    if hosts.count() > 1 {
        actix_web::rt::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                hosts.look().await;
            }
        });
    }
}

/// A busy day leaves more than one batch in each interval.
async fn purge(store: &Store, now: OffsetDateTime) -> Result<(), StoreError> {
    let full = PURGE_BATCH.unsigned_abs();
    while store.purge_expired_keys(now, PURGE_BATCH).await? >= full {}
    while store.purge_parked(now - PARKED_FOR, PURGE_BATCH).await? >= full {}
    Ok(())
}

type Running = (ServerHandle, tokio::task::JoinHandle<std::io::Result<()>>);

fn serve(
    listener: TcpListener,
    state: web::Data<AppState>,
    sandbox: Option<Sandbox>,
    drain_wait: Duration,
) -> Result<Running, StartError> {
    let server = HttpServer::new(move || {
        let sandbox = sandbox.clone();
        // Called once on each thread that answers requests.
        actix_web::rt::spawn(watch_thread(state.admission.clone()));
        WebApp::new()
            .app_data(state.clone())
            .wrap(actix_web::middleware::from_fn(observe))
            .configure(configure)
            .configure(|cfg| {
                if let Some(sandbox) = &sandbox {
                    sandbox.configure(cfg);
                }
            })
            .default_service(web::to(no_such_route))
    })
    .workers(cores())
    .shutdown_timeout(drain_s(drain_wait))
    .disable_signals()
    .listen(listener)
    .map_err(StartError::Server)?
    .run();
    Ok((server.handle(), actix_web::rt::spawn(server)))
}
