//! The web server of the page: three files, the settings that the page needs, and the number of readings so far.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

const HTML: &str = include_str!("index.html");
const SCRIPT: &str = include_str!("firehose.js");
const STYLE: &str = include_str!("firehose.css");
/// How long a browser may take for its request.
const REQUEST_TIME: Duration = Duration::from_secs(2);

/// The page of this run.
pub(crate) struct Page {
    key: String,
    port: u16,
    published: Arc<AtomicU64>,
    policy: String,
}

impl Page {
    pub(crate) fn new(key: String, port: u16, published: Arc<AtomicU64>) -> Self {
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
             connect-src 'self' ws://127.0.0.1:{port}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Self { key, port, published, policy }
    }

    /// Answers one browser after the other.
    pub(crate) fn serve(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            // A browser that went away is no fault.
            let _ = self.answer(&stream);
        }
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(REQUEST_TIME))?;
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        let published = self.published.load(Ordering::Relaxed);
        let settings = json!({ "key": self.key, "port": self.port, "published": published }).to_string();
        let (status, kind, body) = match request.split(' ').nth(1) {
            Some("/") => ("200 OK", "text/html", HTML),
            Some("/firehose.js") => ("200 OK", "text/javascript", SCRIPT),
            Some("/firehose.css") => ("200 OK", "text/css", STYLE),
            Some("/settings.json") => ("200 OK", "application/json", &*settings),
            _ => ("404 Not Found", "text/plain", "there is nothing here"),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\
             Content-Security-Policy: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
            body.len(),
            self.policy
        )
    }
}
