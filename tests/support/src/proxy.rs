//! A bad network between a node and Redis.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pieces on their way in one direction of one connection.
const IN_FLIGHT_MAX: usize = 10_000;

/// Passes TCP connections on to one port of the loopback. Ends with the test.
pub struct Proxy {
    address: SocketAddr,
    link: Arc<Link>,
    accepting: JoinHandle<()>,
}

/// What all connections have in common.
struct Link {
    target: SocketAddr,
    delay_millis: AtomicU64,
    /// While it is so, nothing passes; connections are accepted all the same.
    frozen: watch::Sender<bool>,
    /// Counts the cuts; each ends the connections that there are.
    cuts: watch::Sender<usize>,
    connections: AtomicUsize,
    bytes: AtomicU64,
}

impl Proxy {
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = Arc::new(Link {
            target: (Ipv4Addr::LOCALHOST, port).into(),
            delay_millis: AtomicU64::new(0),
            frozen: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&link)));
        Self { address, link, accepting }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on whatever is sent arrives so much later, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.link.delay_millis.store(delay.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }

    /// Nothing passes any more, and nobody is told.
    pub fn freeze(&self) {
        self.link.frozen.send_replace(true);
    }

    /// What was sent in the meantime arrives now, even if its sender has given up the connection.
    pub fn thaw(&self) {
        self.link.frozen.send_replace(false);
    }

    /// Ends all connections there are.
    pub fn cut(&self) {
        self.link.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections that have been made so far.
    pub fn connections(&self) -> usize {
        self.link.connections.load(Ordering::Relaxed)
    }

    /// Bytes that have been taken so far, in both directions.
    pub fn bytes(&self) -> u64 {
        self.link.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    while let Ok((near, _)) = listener.accept().await {
        link.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(pass(near, Arc::clone(&link)));
    }
}

/// Serves one connection. Without a Redis it ends at once.
async fn pass(near: TcpStream, link: Arc<Link>) {
    let mut cuts = link.cuts.subscribe();
    let Ok(far) = TcpStream::connect(link.target).await else { return };
    for stream in [&near, &far] {
        let _ = stream.set_nodelay(true);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = async { tokio::join!(pump(near_in, far_out, &link), pump(far_in, near_out, &link)) } => (),
        _ = cuts.changed() => (),
    }
}

/// One direction. Reading goes on while pieces wait for their time, so a delay does not limit the throughput.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &Link) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT_MAX);
    let reading = async move {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            link.bytes.fetch_add(count as u64, Ordering::Relaxed);
            let due = Instant::now() + Duration::from_millis(link.delay_millis.load(Ordering::Relaxed));
            if put.send((due, piece[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        let mut frozen = link.frozen.subscribe();
        while let Some((due, piece)) = take.recv().await {
            tokio::time::sleep_until(due).await;
            frozen.wait_for(|frozen| !frozen).await.map_err(io::Error::other)?;
            to.write_all(&piece).await?;
        }
        frozen.wait_for(|frozen| !frozen).await.map_err(io::Error::other)?;
        to.shutdown().await
    };
    let _ = tokio::join!(reading, writing);
}
