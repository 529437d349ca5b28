//! Many watchers of few campaigns: what an open stream weighs, what a campaign in memory weighs, and how soon all hear of a gift.
//!
//! Streams are opened from many loopback addresses, because one client may only have so many. Deliberately absent: load; the
//! streams themselves are it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::{StreamExt, stream};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::webhooks::{Event, payables_of};
use super::{Bounds, Kind, Session};
use crate::api::Newness;
use crate::client::Wire;
use crate::machine::resident_kib;
use crate::measure::{Run, milliseconds, thousands};

/// Streams of one address: below the server's bound for a client.
const OF_ONE_ADDRESS: usize = 90;
/// Streams that are being opened at the same time.
const OPENING: usize = 64;
const CAMPAIGNS: usize = 10;
/// Campaigns that are put into memory, to be weighed.
const REMEMBERED: usize = 5_000;
const GIFTS: u64 = 5;
/// How long one stream may take to open, and all of them to hear of a gift.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two gifts.
const REST: Duration = Duration::from_millis(500);

/// A stream heard of a version.
struct Heard {
    version: u64,
    at: Instant,
}

/// Runs it: `--streams` of them.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let wanted = usize::try_from(bounds.streams).unwrap_or(usize::MAX);
    let memory = || session.target.pids().iter().filter_map(|pid| resident_kib(*pid)).sum::<u64>();
    let campaigns = session.campaigns(CAMPAIGNS).await?;
    let payables = payables_of(session, bounds, Kind::Streams.name(), GIFTS + 1, vec![campaigns[0]]).await?;
    let mut run = Run::default();
    if session.target.is_ours() {
        run.notes.push(weigh_campaigns(session, &memory).await?);
    }
    let before_kib = memory();
    let (tell, mut told) = mpsc::channel(wanted * 2 + 1);
    let began = Instant::now();
    let opened: Vec<Result<(), String>> = stream::iter(0..wanted)
        .map(|number| open(session.first(), number, campaigns[0], tell.clone()))
        .buffer_unordered(OPENING)
        .collect()
        .await;
    let open = opened.iter().filter(|it| it.is_ok()).count();
    if let Some(Err(error)) = opened.iter().find(|it| it.is_err()) {
        run.faults.push(format!("{} of {wanted} streams did not open: {error}", wanted - open));
    }
    let after_kib = memory();
    run.memory_kib = Some((before_kib, after_kib));
    run.notes.push(format!(
        "{} streams opened in {:.1} s; the server's memory: {} MiB before, {} MiB with them: {:.1} KiB a stream",
        thousands(open as u64),
        began.elapsed().as_secs_f64(),
        before_kib / 1024,
        after_kib / 1024,
        after_kib.saturating_sub(before_kib) as f64 / open.max(1) as f64,
    ));
    let mut wire = Wire::new(session.first(), PATIENCE);
    let mut delays = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
    for (number, payable) in (1..).zip(payables.into_iter().take(GIFTS as usize)) {
        let event = Event::of(&session.books, payable);
        let sent = Instant::now();
        let posted = event.post(&session.target.webhook_secret, &session.books, &mut wire).await;
        posted.map_err(|outcome| format!("a gift was not taken: {outcome:?}"))?;
        let missing = everybody_hears(&mut told, number, open, sent, &mut delays).await;
        if missing > 0 {
            run.faults.push(format!("{missing} streams did not hear of gift {number}"));
        }
        sleep(REST).await;
    }
    run.notes.push(format!(
        "from the sending of Stripe's webhook until a stream heard of the gift: p50 {}, p95 {}, max {}",
        milliseconds(delays.value_at_quantile(0.5)),
        milliseconds(delays.value_at_quantile(0.95)),
        milliseconds(delays.max()),
    ));
    Ok(run)
}

/// Puts many campaigns into the server's memory at once.
async fn weigh_campaigns(session: &Session, memory: &impl Fn() -> u64) -> Result<String, String> {
    let many = session.campaigns(REMEMBERED).await?;
    let before_kib = memory();
    let read = |campaign: Uuid| async move { session.office().totals(campaign, Newness::Any).await.map(drop) };
    let reads: Vec<Result<(), String>> = stream::iter(many).map(read).buffer_unordered(16).collect().await;
    reads.into_iter().collect::<Result<Vec<()>, String>>()?;
    let grown = memory().saturating_sub(before_kib);
    Ok(format!(
        "{} campaigns read into memory: {} KiB more, {:.2} KiB each",
        thousands(REMEMBERED as u64),
        grown,
        grown as f64 / REMEMBERED as f64
    ))
}

/// Opens a stream and reads its first event; what comes after it is told by a task.
async fn open(server: SocketAddr, number: usize, campaign: Uuid, tell: mpsc::Sender<Heard>) -> Result<(), String> {
    let opening = async {
        let mut socket = connect(server, number).await?;
        let request = format!(
            "GET /api/v1/campaigns/{campaign}/totals/stream HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        while newest(&text).is_none() {
            let mut piece = [0; 512];
            let read = socket.read(&mut piece).await?;
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
            let is_refused = text.starts_with("HTTP/1.1 ") && !text.starts_with("HTTP/1.1 200");
            if read == 0 || is_refused {
                let line = text.lines().next().unwrap_or_default().to_owned();
                return Err(io::Error::other(format!("it was answered: {line}")));
            }
        }
        Ok(socket)
    };
    let opened = timeout(PATIENCE, opening).await.map_err(|_| "it took too long".to_owned())?;
    let socket = opened.map_err(|error| error.to_string())?;
    tokio::spawn(listen(socket, tell));
    Ok(())
}

async fn connect(server: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let SocketAddr::V4(_) = server else { return TcpStream::connect(server).await };
    let place = u32::try_from(number / OF_ONE_ADDRESS).unwrap_or(0) + 2;
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) - 1 + place);
    let socket = TcpSocket::new_v4()?;
    if server.ip().is_loopback() {
        socket.bind((IpAddr::V4(address), 0).into())?;
    }
    socket.connect(server).await
}

async fn listen(mut socket: TcpStream, tell: mpsc::Sender<Heard>) {
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = socket.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..read]);
        if let Some(version) = newest(&text)
            && tell.send(Heard { version, at: Instant::now() }).await.is_err()
        {
            return;
        }
    }
}

/// The version of the last event in a piece of the stream.
fn newest(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once("id: ").or_else(|| text.rsplit_once("id:"))?;
    rest.split_once('\n')?.0.trim().parse().ok()
}

/// Until every stream has heard of `version`; how many have not.
async fn everybody_hears(
    told: &mut mpsc::Receiver<Heard>,
    version: u64,
    open: usize,
    sent: Instant,
    delays: &mut Histogram<u64>,
) -> usize {
    let deadline = sent + PATIENCE;
    let mut heard = 0;
    while heard < open {
        let Ok(Some(it)) = tokio::time::timeout_at(deadline, told.recv()).await else { break };
        if it.version == version {
            heard += 1;
            delays.saturating_record(u64::try_from((it.at - sent).as_micros()).unwrap_or(u64::MAX));
        }
    }
    open - heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_a_piece_is_its_last_one() {
        assert_eq!(newest("retry: 2000\n\nid: 4\ndata: {}\n\nid: 12\ndata: {}\n\n"), Some(12));
        assert_eq!((newest(": still here\n\n"), newest("id: 1")), (None, None));
    }
}
