//! `GET /campaigns/{id}/totals/stream`: a campaign's totals as server-sent events (WHATWG HTML, section 9.2), first as they
//! are, then whenever they change.
//!
//! An event's `id` is the totals' version: whoever comes back with `Last-Event-ID` is told nothing twice and nothing older.
//! Deliberately absent: what is told and how often; the totals actor decides that once for all streams of a campaign.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_ENCODING};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures::stream::{Stream, unfold};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use super::AppState;
use super::limits::Limits;
use super::problem::Problem;
use super::totals::campaign_id;
use crate::actors::totals::{Subscribe, Subscription, TotalsEvent};
use crate::metrics::METRICS;

/// Open streams of one process at most.
const STREAMS: usize = 20_000;
/// Open streams of one client address, where clients are limited.
const STREAMS_OF_A_CLIENT: usize = 100;
/// A proxy closes a connection on which nothing moved for 30 s or more; and a client that went away is noticed by the second
/// write to it.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// When a refused client may come again, in seconds.
const RETRY_AFTER_S: u64 = 5;
/// When the browser comes back after the stream ended, in milliseconds: each at a time of its own, because a process that is
/// restarted ends all of its streams in one instant.
const RETURN_MS: std::ops::Range<u32> = 1_000..5_000;
const BEAT: &[u8] = b":\n\n";

/// Open streams, all and by client address.
#[derive(Clone)]
pub struct Streams {
    open: Arc<Mutex<Open>>,
    most: usize,
}

#[derive(Default)]
struct Open {
    count: usize,
    of_clients: HashMap<IpAddr, usize>,
}

/// The place of one open stream; dropping it frees the place.
struct Place {
    streams: Streams,
    client: Option<IpAddr>,
}

impl Streams {
    /// No stream yet, and never more than `most`, nor than [`STREAMS`].
    pub fn within(most: usize) -> Self {
        Self { open: Arc::default(), most: most.min(STREAMS) }
    }

    /// A place for one more stream of `client`; the error is a 503 or a 429.
    fn admit(&self, client: Option<IpAddr>) -> Result<Place, Problem> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.count >= self.most {
            return Err(Problem::unavailable("all streams are taken").retry_after(RETRY_AFTER_S));
        }
        if let Some(client) = client {
            let of_client = open.of_clients.entry(client).or_default();
            if *of_client >= STREAMS_OF_A_CLIENT {
                return Err(Problem::too_many(
                    format!("At most {STREAMS_OF_A_CLIENT} streams may be open at once."),
                    RETRY_AFTER_S,
                ));
            }
            *of_client += 1;
        }
        open.count += 1;
        METRICS.totals_streams.inc();
        Ok(Place { streams: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.count -= 1;
        METRICS.totals_streams.dec();
        if let Some(client) = self.client
            && let Some(of_client) = open.of_clients.get_mut(&client)
        {
            *of_client -= 1;
            if *of_client == 0 {
                open.of_clients.remove(&client);
            }
        }
    }
}

fn client(limits: &Limits, request: &HttpRequest) -> Option<IpAddr> {
    if limits.is_on() { limits.client(request) } else { None }
}

/// `GET /campaigns/{id or slug}/totals/stream`
pub async fn open(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let place = state.streams.admit(client(&state.limits, &request))?;
    let id = campaign_id(&request, &state).await?;
    let seen = last_event_id(&request);
    let subscribe = Subscribe { id, min_version: seen.unwrap_or(0) };
    let subscription = state.totals.send(subscribe).await.map_err(Problem::unavailable)??;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_ENCODING, "identity")) // whoever compresses would hold events back
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events(subscription, seen, place)))
}

/// What cannot be a version of ours is as good as nothing, as the standard says of unknown identifiers.
fn last_event_id(request: &HttpRequest) -> Option<i64> {
    let id = request.headers().get("last-event-id")?.to_str().ok()?.parse().ok()?;
    (0..i64::MAX).contains(&id).then_some(id)
}

/// What every stream begins with.
fn preamble() -> String {
    format!("retry: {}\n\n", rand::rng().random_range(RETURN_MS))
}

/// An open stream between two writes.
struct Watching {
    events: watch::Receiver<TotalsEvent>,
    shown: TotalsEvent,
    beat_at: Instant,
    _place: Place,
}

fn events(
    subscription: Subscription,
    seen: Option<i64>,
    place: Place,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let Subscription { current, mut events } = subscription;
    events.mark_changed(); // something may have been told since `current` was read
    let shown = TotalsEvent::of(&current);
    let is_known = seen == Some(current.version);
    let mut first = preamble().into_bytes();
    if !is_known {
        first.extend_from_slice(&shown.text);
    }
    let first = Bytes::from(first);
    let watching = Watching { events, shown: shown.without_text(), beat_at: Instant::now() + HEARTBEAT, _place: place };
    unfold((Some(first), watching), async |(first, mut watching)| match first {
        Some(first) => Some((Ok(first), (None, watching))),
        None => watching.next().await.map(|bytes| (Ok(bytes), (None, watching))),
    })
}

impl Watching {
    /// The next words; `None` when the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match tokio::time::timeout_at(self.beat_at, self.events.changed()).await {
                Err(_) => {
                    self.beat_at = Instant::now() + HEARTBEAT;
                    return Some(Bytes::from_static(BEAT));
                }
                Ok(Err(_)) => return None,
                Ok(Ok(())) => {
                    let event = self.events.borrow_and_update().clone();
                    if event.is_news_after(&self.shown) {
                        self.beat_at = Instant::now() + HEARTBEAT;
                        let text = event.text.clone();
                        self.shown = event.without_text();
                        return Some(text);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use futures::StreamExt;

    use super::*;
    use crate::actors::totals::TotalsAnswer;
    use crate::domain::totals::Source;

    fn answer(version: i64) -> TotalsAnswer {
        let tag = HeaderValue::from_static("W/\"\"");
        TotalsAnswer { version, goal_minor: None, source: Source::Memory, body: Bytes::from_static(b"{}"), tag }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_beats_and_an_event_puts_the_next_beat_off_and_it_ends_with_its_sender() {
        let (sender, events) = watch::channel(TotalsEvent::default());
        let place = Streams::within(STREAMS).admit(None).ok().unwrap();
        let subscription = Subscription { current: answer(1), events };
        let mut stream = std::pin::pin!(super::events(subscription, Some(1), place));
        let mut next = async || stream.next().await.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap());
        assert!(next().await.is_some_and(|text| text.starts_with("retry: ")));
        let began = Instant::now();
        assert_eq!(next().await.as_deref(), Some(":\n\n"));
        assert_eq!(began.elapsed(), HEARTBEAT);
        sender.send_replace(TotalsEvent::of(&answer(1)));
        tokio::time::advance(HEARTBEAT / 2).await;
        sender.send_replace(TotalsEvent::of(&answer(2)));
        assert_eq!(next().await.as_deref(), Some("id: 2\nevent: totals\ndata: {}\n\n"));
        let began = Instant::now();
        assert_eq!(next().await.as_deref(), Some(":\n\n"));
        assert_eq!(began.elapsed(), HEARTBEAT);
        drop(sender);
        assert_eq!(next().await, None);
    }

    #[test]
    fn streams_that_end_together_come_back_at_different_times() {
        let words: std::collections::HashSet<String> = (0..100).map(|_| preamble()).collect();
        assert!(words.len() > 50, "{words:?}");
        for word in words {
            let wait = word.strip_prefix("retry: ").and_then(|it| it.strip_suffix("\n\n")).unwrap();
            assert!(RETURN_MS.contains(&wait.parse().unwrap()), "{word}");
        }
    }

    #[test]
    fn places_are_bounded_for_a_client_and_are_free_again_when_streams_end() {
        let streams = Streams::within(STREAMS);
        let one: Option<IpAddr> = Some([192, 0, 2, 1].into());
        let mut places: Vec<Place> = (0..STREAMS_OF_A_CLIENT).map(|_| streams.admit(one).ok().unwrap()).collect();
        assert!(streams.admit(one).is_err());
        let other = streams.admit(Some([192, 0, 2, 2].into())).ok().unwrap();
        places.pop();
        places.push(streams.admit(one).ok().unwrap());
        drop((places, other));
        let open = streams.open.lock().unwrap();
        assert_eq!((open.count, open.of_clients.len()), (0, 0));
    }

    #[test]
    fn places_are_bounded_for_all() {
        let streams = Streams::within(STREAMS);
        let places: Vec<Place> = (0..STREAMS).map(|_| streams.admit(None).ok().unwrap()).collect();
        assert!(streams.admit(None).is_err());
        drop(places);
        assert!(streams.admit(None).is_ok());
    }
}
