//! A wire between a client and a server that a test can cut and freeze.
//!
//! Deliberately absent: any idea of what is said over it.

#![allow(dead_code, reason = "not every test uses every way to fail")]

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

const BACKLOG: u32 = 128;
const CHUNK_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Open,
    Frozen,
    Cut,
}

/// A proxy in front of one server. It ends with its value.
#[derive(Debug)]
pub struct TcpProxy {
    addr: SocketAddr,
    wire: watch::Sender<Wire>,
    accepting: Option<Accepting>,
    upstream: String,
    /// Bound, never listening: it keeps the port ours while the wire is cut, and a connection there is refused.
    _reserved: TcpSocket,
}

#[derive(Debug)]
struct Accepting {
    stop: oneshot::Sender<()>,
    stopped: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free port of the loopback interface; `upstream` is `host:port`.
    pub async fn start(upstream: &str) -> io::Result<Self> {
        let reserved = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let addr = reserved.local_addr()?;
        let (wire, _) = watch::channel(Wire::Open);
        let mut proxy = Self { addr, wire, accepting: None, upstream: upstream.to_owned(), _reserved: reserved };
        proxy.listen()?;
        Ok(proxy)
    }

    /// Where to connect instead of the server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection and refuses new ones, as a server that is gone. True when this returns.
    pub async fn cut(&mut self) {
        self.wire.send_replace(Wire::Cut);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.stop.send(());
            let _ = accepting.stopped.await;
        }
        // Every connection holds a receiver: none is left when all are closed.
        self.wire.closed().await;
    }

    /// Takes connections and forwards nothing, as a network that swallows every packet.
    pub fn freeze(&self) {
        self.wire.send_if_modified(|wire| std::mem::replace(wire, Wire::Frozen) == Wire::Open);
    }

    /// Forwards again: what was held back while frozen goes on its way; what was cut may connect anew.
    pub fn restore(&mut self) -> io::Result<()> {
        self.wire.send_replace(Wire::Open);
        if self.accepting.is_none() { self.listen() } else { Ok(()) }
    }

    fn listen(&mut self) -> io::Result<()> {
        let listener = bind(self.addr)?.listen(BACKLOG)?;
        let (stop, stopping) = oneshot::channel();
        let accept = accept(listener, self.upstream.clone(), self.wire.subscribe());
        let stopped = tokio::spawn(async move {
            tokio::select! {
                () = accept => {}
                // Told to stop, or the proxy is gone.
                _ = stopping => {}
            }
        });
        self.accepting = Some(Accepting { stop, stopped });
        Ok(())
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.wire.send_replace(Wire::Cut);
    }
}

/// Two sockets may be bound to one port as long as at most one of them listens.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, upstream: String, wire: watch::Receiver<Wire>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, upstream.clone(), wire.clone()));
    }
}

/// One connection, until either side ends it or the wire is cut.
async fn carry(client: TcpStream, upstream: String, mut wire: watch::Receiver<Wire>) {
    let (there, back) = (wire.clone(), wire.clone());
    let conversation = async move {
        let mut opening = there.clone();
        until_open(&mut opening).await?;
        let server = TcpStream::connect(upstream).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::try_join!(pass_on(from_client, to_server, there), pass_on(from_server, to_client, back))
    };
    tokio::select! {
        _ = conversation => {}
        _ = wire.wait_for(|state| *state == Wire::Cut) => {}
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        until_open(&mut wire).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}

/// The sender goes with the proxy, and then so does the connection.
async fn until_open(wire: &mut watch::Receiver<Wire>) -> io::Result<()> {
    wire.wait_for(|state| *state == Wire::Open).await.map(drop).map_err(io::Error::other)
}
