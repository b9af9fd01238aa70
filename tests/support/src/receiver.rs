//! An application that takes webhooks, well or badly.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use gema::config::ChannelFilter;
use gema::config::Secret;
use gema::config::Webhook;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::PATIENCE;

/// Every kind of event.
pub const ALL: [&str; 7] = [
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "client_event",
    "cache_miss",
    "subscription_count",
];

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// Nothing comes.
    Hang,
    /// The head of an answer comes one byte in a while.
    Trickle,
    /// The body of a success never ends.
    Endless,
    /// The connection ends.
    Close,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// With the spelling of the wire.
    pub head: String,
    pub body: String,
    pub at: Instant,
    /// Which connection it came over.
    pub connection: usize,
}

impl Received {
    /// The value of a header that is spelt like this.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn events(&self) -> Vec<Value> {
        self.json()["events"].as_array().unwrap().clone()
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
    send: mpsc::UnboundedSender<Received>,
    answers: Arc<Mutex<Answers>>,
    /// Events of a request that have not been asked for.
    events: VecDeque<Value>,
}

struct Answers {
    next: VecDeque<Answer>,
    then: Answer,
}

impl Receiver {
    /// One that answers 200.
    pub async fn start() -> Self {
        Self::start_with(&[], Answer::Status(200)).await
    }

    /// One that answers like this, and then always like that.
    pub async fn start_with(next: &[Answer], then: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test sees few requests")]
        let (send, received) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(Answers { next: next.iter().copied().collect(), then }));
        let receiver = Self { address, received, send, answers, events: VecDeque::new() };
        receiver.also_at(listener);
        receiver
    }

    /// Takes webhooks there, too.
    pub fn also_at(&self, listener: TcpListener) {
        let (send, answers) = (self.send.clone(), Arc::clone(&self.answers));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, send.clone(), Arc::clone(&answers)));
            }
        });
    }

    /// Whatever comes from now on comes there instead.
    pub fn divert(&mut self) -> mpsc::UnboundedReceiver<Received> {
        #[expect(clippy::disallowed_methods, reason = "a test sees few requests")]
        let (_, nothing) = mpsc::unbounded_channel();
        std::mem::replace(&mut self.received, nothing)
    }

    /// From now on every request is answered like this.
    pub fn answer(&self, then: Answer) {
        *self.answers.lock().unwrap() = Answers { next: VecDeque::new(), then };
    }

    /// A webhook that comes here with these events.
    pub fn webhook(&self, path: &str, kinds: &[&str]) -> Webhook {
        Webhook {
            url: Secret::new(format!("http://{}{path}", self.address)),
            lambda: None,
            event_types: kinds.iter().map(|kind| serde_json::from_value(json!(kind)).unwrap()).collect(),
            filter: ChannelFilter::default(),
            headers: [].into(),
        }
    }

    /// The next request.
    pub async fn next(&mut self) -> Received {
        timeout(PATIENCE, self.received.recv()).await.expect("no webhook came").unwrap()
    }

    /// The next event, in whichever request.
    pub async fn next_event(&mut self) -> Value {
        while self.events.is_empty() {
            self.events = self.next().await.events().into();
        }
        self.events.pop_front().unwrap()
    }

    /// The next events must be these.
    pub async fn next_events(&mut self, expected: &[Value]) {
        let mut events = Vec::new();
        for _ in expected {
            events.push(self.next_event().await);
        }
        assert_eq!(events, expected);
    }

    /// What has come and has not been asked for.
    pub fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    send: mpsc::UnboundedSender<Received>,
    answers: Arc<Mutex<Answers>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer, connection).await {
        let answer = {
            let mut answers = answers.lock().unwrap();
            answers.next.pop_front().unwrap_or(answers.then)
        };
        // A test that has ended wants to know nothing.
        let _ = send.send(request);
        let written = match answer {
            Answer::Status(status) => {
                let location = if status / 100 == 3 { "Location: /elsewhere\r\n" } else { "" };
                let length = if status == 204 { "" } else { "Content-Length: 7\r\n" };
                let body = if status == 204 { "" } else { "ignored" };
                let answer = format!("HTTP/1.1 {status} Whatever\r\n{location}{length}\r\n{body}");
                stream.write_all(answer.as_bytes()).await
            }
            Answer::Hang => std::future::pending().await,
            Answer::Trickle => slowly(&mut stream, "HTTP/1.1 200 OK\r\nX-Long: ", Duration::from_millis(20)).await,
            Answer::Endless => slowly(&mut stream, "HTTP/1.1 200 OK\r\n\r\n", Duration::ZERO).await,
            Answer::Close => return,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Writes for as long as somebody reads.
async fn slowly(stream: &mut TcpStream, start: &str, pause: Duration) -> std::io::Result<()> {
    stream.write_all(start.as_bytes()).await?;
    let part = vec![b'x'; if pause.is_zero() { 64 * 1024 } else { 1 }];
    loop {
        stream.write_all(&part).await?;
        tokio::time::sleep(pause).await;
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Received> {
    loop {
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if buffer.len() >= whole {
                let body = String::from_utf8(buffer[end + 4..whole].to_vec()).unwrap();
                buffer.drain(..whole);
                return Some(Received { head, body, at: Instant::now(), connection });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
