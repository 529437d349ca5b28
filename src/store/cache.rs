//! Redis: a cache that may be away, emptied or frozen at any time without anything being wrong.
//!
//! Every call is bounded and fails open: a miss is what the caller would get without Redis. Written only after Postgres has
//! committed. Deliberately absent: locks, queues, anything that is not in Postgres too.

use std::time::Duration;

use bb8_redis::RedisConnectionManager;
use bb8_redis::bb8::Pool;
use bb8_redis::redis;

use crate::domain::ids::CampaignId;
use crate::domain::totals::Totals;

/// The picture's time to live of a campaign's totals, from when they were read.
pub const TOTALS_TTL: Duration = Duration::from_secs(30);
/// How long a webhook's answer is remembered here; Postgres remembers longer.
const ANSWER_TTL_S: u64 = 3 * 24 * 3600;

const CONNECT: Duration = Duration::from_millis(100);
/// More than Redis on a busy day, less than a reader notices.
const CALL: Duration = Duration::from_millis(100);
const CONNECTIONS: u32 = 8;
/// After a failed call Redis is left alone for this long, so that a frozen server costs one call, not every call.
const PAUSE_MS: i64 = 1000;

/// The picture's Redis databases.
const DB_ANSWERS: i64 = 1;
const DB_TOTALS: i64 = 2;

/// Stores totals only where they are newer than what is there: a slow reader must not bring an old total back, nor an old goal,
/// which changes without a version. Times in UTC compare as texts, once the `Z` is off that a fraction may stand before.
const STORE_NEWER: &str = r"
local known = redis.call('get', KEYS[1])
if known then
  known = cjson.decode(known)
  local new = cjson.decode(ARGV[1])
  if known.version > new.version then return 0 end
  if known.version == new.version and string.gsub(known.as_of, 'Z$', '') > string.gsub(new.as_of, 'Z$', '') then return 0 end
end
redis.call('set', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
return 1";

/// The cache; without `REDIS_URL` it is always empty.
#[derive(Clone)]
pub enum Cache {
    /// No Redis: level 1 is skipped.
    Absent,
    /// Redis.
    Redis(Box<Redis>),
}

/// Connections to Redis.
#[derive(Clone)]
pub struct Redis {
    totals: Pool<RedisConnectionManager>,
    answers: Pool<RedisConnectionManager>,
    prefix: String,
    paused_until_ms: std::sync::Arc<std::sync::atomic::AtomicI64>,
    started: tokio::time::Instant,
}

/// Whether Redis could be at that address.
pub fn is_redis_url(url: &str) -> bool {
    redis::IntoConnectionInfo::into_connection_info(url).is_ok()
}

impl Cache {
    /// A cache at `url`; connects when it is first used. `prefix` goes before every key. Call it inside
    /// the runtime: the pools have a task of their own.
    pub fn new(url: Option<&str>, prefix: &str) -> Result<Self, redis::RedisError> {
        let Some(url) = url else { return Ok(Self::Absent) };
        Ok(Self::Redis(Box::new(Redis {
            totals: pool(url, DB_TOTALS)?,
            answers: pool(url, DB_ANSWERS)?,
            prefix: prefix.to_owned(),
            paused_until_ms: std::sync::Arc::default(),
            started: tokio::time::Instant::now(),
        })))
    }

    /// A campaign's totals, if they are there.
    pub async fn load_totals(&self, id: CampaignId) -> Option<Totals> {
        let Self::Redis(redis) = self else { return None };
        let key = redis.totals_key(id);
        let text: Option<String> =
            redis.call(&redis.totals, async |c| redis::cmd("GET").arg(&key).query_async(c).await).await?;
        serde_json::from_str(&text?).ok()
    }

    /// Stores a campaign's totals, unless newer ones are there; `false` where older ones may still be there.
    pub async fn store_totals(&self, totals: &Totals) -> bool {
        let Self::Redis(redis) = self else { return true };
        let Ok(text) = serde_json::to_string(totals) else { return false };
        let key = redis.totals_key(totals.campaign_id);
        // From when they were read, not from when this arrives: a frozen server carries it out when it thaws.
        let expires_ms = (totals.as_of + TOTALS_TTL).unix_timestamp_nanos() / 1_000_000;
        let expires_ms = i64::try_from(expires_ms).unwrap_or(0);
        let stored: Option<i64> = redis
            .call(&redis.totals, async |c| {
                let mut call = redis::cmd("EVAL");
                call.arg(STORE_NEWER).arg(1).arg(&key).arg(&text).arg(expires_ms);
                call.query_async(c).await
            })
            .await;
        stored.is_some()
    }

    /// The answer to a webhook, if it is remembered.
    pub async fn load_answer(&self, event_id: &str) -> Option<String> {
        let Self::Redis(redis) = self else { return None };
        let key = redis.answer_key(event_id);
        redis.call(&redis.answers, async |c| redis::cmd("GET").arg(&key).query_async(c).await).await?
    }

    /// Remembers the committed answer to a webhook.
    pub async fn store_answer(&self, event_id: &str, body: &str) {
        let Self::Redis(redis) = self else { return };
        let key = redis.answer_key(event_id);
        let _: Option<()> = redis
            .call(&redis.answers, async |c| {
                redis::cmd("SET").arg(&key).arg(body).arg("EX").arg(ANSWER_TTL_S).query_async(c).await
            })
            .await;
    }

    /// Whether Redis answers; `None` without Redis.
    pub async fn ping(&self) -> Option<bool> {
        let Self::Redis(redis) = self else { return None };
        let pong: Option<String> = redis.call(&redis.totals, async |c| redis::cmd("PING").query_async(c).await).await;
        Some(pong.is_some())
    }
}

impl Redis {
    fn totals_key(&self, id: CampaignId) -> String {
        format!("{}totals:{id}", self.prefix)
    }

    fn answer_key(&self, event_id: &str) -> String {
        format!("{}webhook:{event_id}", self.prefix)
    }

    /// One bounded call; `None` where Redis is away, slow or says no.
    async fn call<T>(
        &self,
        pool: &Pool<RedisConnectionManager>,
        work: impl AsyncFnOnce(&mut redis::aio::MultiplexedConnection) -> Result<T, redis::RedisError>,
    ) -> Option<T> {
        use std::sync::atomic::Ordering;
        let now_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        if now_ms < self.paused_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        let called = tokio::time::timeout(CALL, async {
            let mut connection = pool.get().await.map_err(|error| error.to_string())?;
            work(&mut connection).await.map_err(|error| error.to_string())
        })
        .await;
        match called {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => self.pause(now_ms, &error),
            Err(_) => self.pause(now_ms, "no answer in time"),
        }
    }

    fn pause<T>(&self, now_ms: i64, error: &str) -> Option<T> {
        self.paused_until_ms.store(now_ms + PAUSE_MS, std::sync::atomic::Ordering::Relaxed);
        tracing::warn!(error, "Redis is left alone for a moment; Postgres answers instead");
        None
    }
}

fn pool(url: &str, db: i64) -> Result<Pool<RedisConnectionManager>, redis::RedisError> {
    let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(url)?;
    info = info.clone().set_redis_settings(info.redis_settings().clone().set_db(db));
    let manager = RedisConnectionManager::new(info)?;
    Ok(Pool::builder()
        .max_size(CONNECTIONS)
        .connection_timeout(CONNECT)
        .retry_connection(false)
        .build_unchecked(manager))
}
