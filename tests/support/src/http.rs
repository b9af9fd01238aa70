//! An application's back end: signed requests, and requests that are signed wrongly on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use gema::protocol::signature::Signer;
use gema::protocol::signature::body_md5;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::barrier::Barrier;
use crate::client::PATIENCE;

/// An app's identity at one server.
#[derive(Debug, Clone)]
pub struct Api {
    /// Of each node.
    addresses: Vec<SocketAddr>,
    /// Counts the requests: they go to one node after the other.
    turn: Arc<AtomicUsize>,
    /// Where requests to several nodes are to take effect one after the other.
    barrier: Option<Arc<Barrier>>,
    id: String,
    key: String,
    secret: String,
    /// The time of its requests, where it is not the time they are made at.
    timestamp: Option<u64>,
}

/// What a server answers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        self.json()
    }

    /// The sentence of a refusal with this status.
    #[track_caller]
    pub fn refused(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        &self.body
    }
}

impl Api {
    pub fn new(address: SocketAddr, id: &str, key: &str, secret: &str) -> Self {
        let (id, key, secret) = (id.to_owned(), key.to_owned(), secret.to_owned());
        Self { addresses: vec![address], turn: Arc::default(), barrier: None, id, key, secret, timestamp: None }
    }

    /// The same at a server of several nodes.
    pub fn at_nodes(self, addresses: Vec<SocketAddr>, turn: Arc<AtomicUsize>, barrier: Option<Arc<Barrier>>) -> Self {
        Self { addresses, turn, barrier, ..self }
    }

    /// The node whose turn it is, once everything before is done.
    async fn address(&self) -> SocketAddr {
        if let Some(barrier) = &self.barrier {
            barrier.pass().await;
        }
        self.addresses[self.turn.fetch_add(1, Ordering::Relaxed) % self.addresses.len()]
    }

    /// `/apps/{id}` and then this.
    pub fn path(&self, rest: &str) -> String {
        format!("/apps/{}{rest}", self.id)
    }

    /// A signed POST to `/apps/{id}{rest}`.
    pub async fn post(&self, rest: &str, body: &str) -> Answer {
        let path = self.path(rest);
        let query = self.signed_query("POST", &path, &[], body);
        request(self.address().await, "POST", &format!("{path}?{query}"), &[], body.as_bytes()).await
    }

    /// A signed POST with further parameters, which are sent and signed as they are, and further headers.
    pub async fn post_with(
        &self,
        rest: &str,
        parameters: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let path = self.path(rest);
        let query = self.signed_query("POST", &path, parameters, body);
        request(self.address().await, "POST", &format!("{path}?{query}"), headers, body.as_bytes()).await
    }

    /// A signed GET of `/apps/{id}{rest}`; the parameters are sent and signed as they are.
    pub async fn get(&self, rest: &str, parameters: &[(&str, &str)]) -> Answer {
        let path = self.path(rest);
        let query = self.signed_query("GET", &path, parameters, "");
        request(self.address().await, "GET", &format!("{path}?{query}"), &[], b"").await
    }

    /// A signed POST for a connection that stays open.
    pub fn post_bytes(&self, rest: &str, body: &str) -> String {
        let path = self.path(rest);
        let query = self.signed_query("POST", &path, &[], body);
        let length = body.len();
        format!("POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    /// The path and the query of a signed request to `/apps/{id}{rest}`.
    pub fn signed(&self, method: &str, rest: &str, parameters: &[(&str, &str)], body: &str) -> String {
        let path = self.path(rest);
        format!("{path}?{}", self.signed_query(method, &path, parameters, body))
    }

    /// Publishes one event; it must be accepted.
    pub async fn publish(&self, channel: &str, name: &str, data: &str) {
        let body = serde_json::json!({ "name": name, "channel": channel, "data": data }).to_string();
        assert_eq!(self.post("/events", &body).await.ok(), serde_json::json!({}));
    }

    /// The same with requests of another time.
    pub fn at(&self, timestamp: u64) -> Self {
        Self { timestamp: Some(timestamp), ..self.clone() }
    }

    /// A query with authentication, signed for this method, path and body.
    pub fn signed_query(&self, method: &str, path: &str, parameters: &[(&str, &str)], body: &str) -> String {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let timestamp = self.timestamp.unwrap_or_else(now);
        let mut all: Vec<(String, String)> = vec![
            ("auth_key".to_owned(), self.key.clone()),
            ("auth_timestamp".to_owned(), timestamp.to_string()),
            ("auth_version".to_owned(), "1.0".to_owned()),
        ];
        if !body.is_empty() {
            all.push(("body_md5".to_owned(), body_md5(body.as_bytes())));
        }
        all.extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        all.sort();
        let query = all.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&");
        format!("{query}&auth_signature={}", self.signature(method, path, &query))
    }

    /// The signature of a string to sign, made of its three lines.
    pub fn signature(&self, method: &str, path: &str, query: &str) -> String {
        Signer::new(self.secret.as_bytes()).sign(&[format!("{method}\n{path}\n{query}").as_bytes()])
    }
}

/// One request on a connection of its own.
pub async fn request(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    raw(address, &[head.as_bytes(), body].concat()).await
}

/// The same where there may be no answer, as when the server is killed meanwhile.
pub async fn try_request(
    address: SocketAddr,
    method: &str,
    target: &str,
    body: &[u8],
    patience: Duration,
) -> Option<Answer> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = timeout(patience, exchange).await.ok()??;
    answer.windows(4).any(|four| four == b"\r\n\r\n").then(|| parse(&answer))
}

/// Sends bytes as they are and reads one answer, until the server closes the connection.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    parse(&timeout(PATIENCE, exchange).await.expect("no answer"))
}

/// A connection for several requests. What is sent over it is up to the test.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.expect("the server does not read").unwrap();
    }

    /// The next answer, which may be an interim one.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some(head) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                let answer = parse(&self.received[..head + 4]);
                let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                let end = head + 4 + length;
                if self.received.len() >= end {
                    let bytes: Vec<u8> = self.received.drain(..end).collect();
                    return parse(&bytes);
                }
            }
            assert!(self.read().await > 0, "the connection ended: {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// The server has ended the connection, and said nothing more.
    pub async fn ended(&mut self) {
        while self.read().await > 0 {}
        assert_eq!(String::from_utf8_lossy(&self.received), "");
    }

    async fn read(&mut self) -> usize {
        timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("nothing came").unwrap()
    }
}

/// Reads an answer with `Content-Length`, or until the end.
pub fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}
