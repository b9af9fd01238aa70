//! A server in front of moto that hangs, throttles, or answers anything, when a test wants it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use support::http;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::moto;

/// How the front answers a request.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Moto answers.
    Pass,
    /// Nothing comes.
    Hang,
    /// The connection ends.
    Close,
    /// This error of AWS: status, code and message.
    Error(u16, &'static str, &'static str),
    /// A function that fails like this.
    Function(&'static str),
    /// This body, as a success.
    Body(Arc<str>),
    /// The beginning of an answer, and then so many bytes in it.
    Long(usize),
}

pub struct Front {
    pub address: SocketAddr,
    manners: Arc<Mutex<Manners>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

#[derive(Debug)]
struct Manners {
    /// For operations of this name.
    of: HashMap<String, Manner>,
    /// For all others.
    then: Manner,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(": ")?;
            own.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Such as `GetItem`; empty for Lambda.
    fn operation(&self) -> &str {
        self.header("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default()
    }
}

impl Front {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let manners = Arc::new(Mutex::new(Manners { of: HashMap::new(), then: manner }));
        let requests = Arc::default();
        let (shared, seen) = (Arc::clone(&manners), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), Arc::clone(&seen)));
            }
        });
        Self { address, manners, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request is answered like this.
    pub fn behave(&self, then: Manner) {
        *self.manners.lock().unwrap() = Manners { of: HashMap::new(), then };
    }

    /// Requests for this operation are answered like this.
    pub fn behave_for(&self, operation: &str, manner: Manner) {
        self.manners.lock().unwrap().of.insert(operation.to_owned(), manner);
    }

    /// How often this was asked for, such as `GetItem`.
    pub fn count(&self, operation: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.operation() == operation).count()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, manners: Arc<Mutex<Manners>>, requests: Arc<Mutex<Vec<Request>>>) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = read(&mut stream, &mut buffer).await {
        let request = Request { head: head.clone(), body: String::from_utf8_lossy(&body).into_owned() };
        let now = {
            let manners = manners.lock().unwrap();
            manners.of.get(request.operation()).unwrap_or(&manners.then).clone()
        };
        requests.lock().unwrap().push(request);
        let answer = |status: u16, body: &str| {
            let kind = "application/x-amz-json-1.0";
            format!("HTTP/1.1 {status} So\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let text = match now {
            Manner::Pass => pass(&head, &body).await,
            Manner::Hang => std::future::pending().await,
            Manner::Close => return,
            Manner::Error(status, code, message) => {
                let body = serde_json::json!({ "__type": code, "message": message }).to_string();
                // Lambda has the code in a header.
                answer(status, &body).replacen("\r\n", &format!("\r\nX-Amzn-ErrorType: {}\r\n", code.trim()), 1)
            }
            Manner::Function(error) => {
                answer(200, "{}").replacen("\r\n", &format!("\r\nX-Amz-Function-Error: {error}\r\n"), 1)
            }
            Manner::Body(body) => answer(200, &body),
            Manner::Long(bytes) => {
                answer(200, &format!("{{\"Item\":{{\"AppId\":{{\"S\":\"{}\"}}}}}}", "x".repeat(bytes)))
            }
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Moto's answer.
async fn pass(head: &str, body: &[u8]) -> String {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let own = ["host", "connection", "content-length"];
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let headers: Vec<_> =
        headers.into_iter().filter(|(name, _)| !own.contains(&name.to_lowercase().as_str())).collect();
    // Moto does not notice that a message becomes visible while it waits, so it waits for a second only.
    let body = String::from_utf8_lossy(body).replace("\"WaitTimeSeconds\":20", "\"WaitTimeSeconds\":1");
    let answer = http::request(moto::address(), method, target, &headers, body.as_bytes()).await;
    let mut text = format!("HTTP/1.1 {} So\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    let passed = |name: &str| !["content-length", "connection", "transfer-encoding"].contains(&name);
    for (name, value) in answer.headers.iter().filter(|(name, _)| passed(name)) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n" + &answer.body
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if buffer.len() >= whole {
                let body = buffer[end + 4..whole].to_vec();
                buffer.drain(..whole);
                return Some((head, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
