//! Viewers of the operator's page: each reads the page's event stream with the live log while the load runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long a read waits before it looks whether the run has ended.
const READ_TIME: Duration = Duration::from_millis(200);

/// Viewers that read until they are dropped.
pub(crate) struct Viewers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Viewers {
    /// Opens so many streams, and waits until each has begun.
    pub(crate) fn open(count: usize, page: SocketAddrV4, token: &str) -> Result<Self> {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut viewers = Self { threads: Vec::new(), stop, bytes };
        for _ in 0..count {
            let mut stream = TcpStream::connect(page).context("the metrics port cannot be reached")?;
            write!(
                stream,
                "GET /dashboard/api/stream?live=1 HTTP/1.1\r\nHost: {page}\r\nAuthorization: Bearer {token}\r\n\r\n"
            )?;
            let mut first = [0; 4096];
            let length = stream.read(&mut first)?;
            let head = String::from_utf8_lossy(&first[..length]).into_owned();
            ensure!(head.starts_with("HTTP/1.1 200"), "the page does not let a viewer in: {head}");
            stream.set_read_timeout(Some(READ_TIME))?;
            let (stop, bytes) = (Arc::clone(&viewers.stop), Arc::clone(&viewers.bytes));
            viewers.threads.push(thread::spawn(move || read(stream, &stop, &bytes)));
        }
        Ok(viewers)
    }

    /// Bytes that all viewers have got.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Viewers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read(mut stream: TcpStream, stop: &AtomicBool, bytes: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => _ = bytes.fetch_add(count as u64, Ordering::Relaxed),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (),
            Err(_) => return,
        }
    }
}
