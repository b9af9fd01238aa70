//! Requests whose end a proxy and gema might see in different places. Each has a whole second request behind or inside its
//! body. Whoever reads that as a request of its own where the other does not lets strangers past the proxy.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use support::client::PATIENCE;
use support::http::Api;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::TestServer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::nginx;

/// How a request with another one behind it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The request is refused with this status, and the connection ends.
    Refused(u16),
    /// It is answered with this status. What follows is none of its own.
    Alone(u16),
    /// Both are answered: the first one with this status, the second one with 200.
    Both(u16),
}
use Verdict::Alone;
use Verdict::Both;
use Verdict::Refused;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A signed event, for a request that is written by hand.
struct Event {
    target: String,
    body: String,
}

impl Event {
    fn new(name: &str, channel: &str) -> Self {
        let body = json!({ "name": name, "channel": channel, "data": "1" }).to_string();
        let api = Api::new(([127, 0, 0, 1], 0).into(), APP_ID, APP_KEY, APP_SECRET);
        Self { target: api.signed("POST", "/events", &[], &body), body }
    }

    /// The request with these lines between `Host` and the body, which is this one.
    fn request(&self, lines: &str, body: &str) -> String {
        format!("POST {} HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}", self.target)
    }

    /// The same with its own body. This header has the body's length.
    fn with_length(&self, header: &str) -> String {
        self.request(&header.replace("LENGTH", &self.body.len().to_string()), &self.body)
    }

    fn usual(&self) -> String {
        self.with_length("Content-Length: LENGTH\r\n")
    }

    /// In one chunk, whose first line begins with this, such as `+`, and ends with that.
    fn in_a_chunk(&self, before: &str, after: &str, header: &str) -> String {
        let chunk = format!("{before}{:x}{after}{}\r\n0\r\n\r\n", self.body.len(), self.body);
        self.request(header, &chunk)
    }
}

/// Names, requests with another one behind them, and the verdict on them. Both publish on this channel.
fn cases(channel: &str) -> Vec<(&'static str, String, Verdict)> {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let (first, hidden) = (Event::new("first", channel), Event::new("hidden", channel).usual());
    let behind = |request: String| request + &hidden;
    let inside = |head: &str| format!("{head}Content-Length: {}\r\n\r\n{hidden}", hidden.len());
    let length = |header: &str| behind(first.with_length(header));
    let chunk = |before: &str, after: &str| behind(first.in_a_chunk(before, after, CHUNKED));
    let encoding = |header: &str| behind(first.in_a_chunk("", "\r\n", header));
    let usual = |old: &str, new: &str| behind(first.usual().replacen(old, new, 1));
    let both = format!("{CHUNKED}Content-Length: {}\r\n", hidden.len());
    let many = (0..101).fold(String::new(), |mut lines, number| {
        write!(lines, "X-{number}: a\r\n").unwrap();
        lines
    });
    let get = |rest: &str| behind(format!("GET /ready HTTP/1.1\r\nHost: a\r\n{rest}\r\n"));
    let app = format!("GET /app/{APP_KEY}?protocol=7 HTTP/1.1\r\nHost: a\r\n{UPGRADE}");
    vec![
        ("two requests", length("Content-Length: LENGTH\r\n"), Both(200)),
        ("a length and chunks", encoding(&both), Alone(200)),
        ("two equal lengths", length("Content-Length: LENGTH\r\nContent-Length: LENGTH\r\n"), Both(200)),
        ("equal lengths in a list", length("Content-Length: LENGTH, LENGTH\r\n"), Refused(400)),
        ("two lengths", length("Content-Length: LENGTH\r\nContent-Length: 0\r\n"), Refused(400)),
        ("a length with a sign", length("Content-Length: +LENGTH\r\n"), Refused(400)),
        ("a length below zero", length("Content-Length: -1\r\n"), Refused(400)),
        ("a hexadecimal length", length("Content-Length: 0xLENGTH\r\n"), Refused(400)),
        ("a length of 2^64", length("Content-Length: 18446744073709551616\r\n"), Refused(400)),
        ("no length in its header", length("Content-Length: \r\n"), Refused(400)),
        ("a space before the colon", length("Content-Length : LENGTH\r\n"), Refused(400)),
        ("a space before the other colon", encoding("Transfer-Encoding : chunked\r\n"), Refused(400)),
        ("a folded line", length("X: a\r\n b\r\nContent-Length: LENGTH\r\n"), Refused(400)),
        ("a folded encoding", encoding("Transfer-Encoding:\r\n chunked\r\n"), Refused(400)),
        ("an encoding after a vertical tab", encoding("Transfer-Encoding: \u{b}chunked\r\n"), Refused(400)),
        ("an encoding with a zero byte", encoding("Transfer-Encoding: chunked\0\r\n"), Refused(400)),
        ("another encoding first", encoding("Transfer-Encoding: xchunked, chunked\r\n"), Refused(501)),
        ("chunks in chunks", encoding("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Refused(400)),
        ("no encoding at all", length("Transfer-Encoding: identity\r\nContent-Length: LENGTH\r\n"), Refused(400)),
        ("a carriage return alone", length("X: a\rY: b\r\nContent-Length: LENGTH\r\n"), Refused(400)),
        ("a zero byte in a header", length("X: a\0b\r\nContent-Length: LENGTH\r\n"), Refused(400)),
        ("too many headers", length(&format!("{many}Content-Length: LENGTH\r\n")), Refused(431)),
        ("lines that end with a line feed", behind(first.usual().replace("\r\n", "\n")), Both(200)),
        ("an extension of a chunk", chunk("", ";a=b\r\n"), Both(200)),
        ("an extension with a line feed", chunk("", ";a\nb\r\n"), Refused(400)),
        ("a chunk with a sign", chunk("+", "\r\n"), Refused(400)),
        ("a chunk with a prefix", chunk("0x", "\r\n"), Refused(400)),
        ("a chunk with an underscore", chunk("", "_\r\n"), Refused(400)),
        ("a chunk of more than 2^64", chunk("1000000000000000", "\r\n"), Refused(400)),
        ("a chunk line that ends with a line feed", chunk("", "\n"), Refused(400)),
        ("a chunk without its end", encoding(CHUNKED).replacen("}\r\n0\r\n", "}XX0\r\n", 1), Refused(400)),
        (
            "a length behind the chunks",
            encoding(CHUNKED).replacen("\r\n0\r\n", "\r\n0\r\nContent-Length: 9\r\n", 1),
            Both(200),
        ),
        ("chunks in HTTP/1.0", encoding(CHUNKED).replacen("HTTP/1.1", "HTTP/1.0", 1), Refused(400)),
        ("HTTP/1.0", usual("HTTP/1.1", "HTTP/1.0"), Alone(200)),
        ("HTTP/2.0 in words", usual("HTTP/1.1", "HTTP/2.0"), Refused(400)),
        ("a last request", usual("Host", "Connection: close\r\nHost"), Alone(200)),
        ("a whole address", usual("/apps", "http://a/apps"), Both(200)),
        ("a target with a space", usual("/apps", "/a /apps"), Refused(400)),
        ("tabs for spaces", usual("POST ", "POST\t"), Refused(400)),
        ("an empty line before", format!("\r\n{}", length("Content-Length: LENGTH\r\n")), Both(200)),
        ("a tunnel", behind("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned()), Both(405)),
        ("a question without a body", get(""), Both(200)),
        ("a question with a body", inside("GET /ready HTTP/1.1\r\nHost: a\r\n"), Alone(200)),
        ("another protocol", get("Connection: Upgrade\r\nUpgrade: h2c\r\n"), Both(200)),
        ("a WebSocket", behind(format!("{app}\r\n")), Alone(101)),
        ("a WebSocket with a body", inside(&app), Alone(101)),
        ("no WebSocket", behind(format!("{}\r\n", app.replace(": 13", ": 777"))), Both(426)),
    ]
}

/// The answers to requests that were sent all at once.
struct Answers {
    stream: TcpStream,
    bytes: Vec<u8>,
    ended: bool,
}

impl Answers {
    async fn to(address: SocketAddr, request: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { stream, bytes: Vec::new(), ended: false }
    }

    fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect()
    }

    /// Waits until there are so many, or the connection has ended.
    async fn become_so_many(&mut self, count: usize) {
        while self.statuses().len() < count && !self.ended {
            timeout(PATIENCE, self.read()).await.expect("there are fewer answers");
        }
    }

    /// Reads until nothing comes for a moment. What comes later would be missed, but nothing is taken for missing.
    async fn become_silent(&mut self) {
        const SILENCE: Duration = Duration::from_millis(700);
        while !self.ended && timeout(SILENCE, self.read()).await.is_ok() {}
    }

    async fn read(&mut self) {
        self.ended = !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(bytes) if bytes > 0);
    }
}

/// All cases at once, each on a channel of its own; none may be wrong.
async fn none_is_wrong(judge: impl AsyncFn(String, (&'static str, String, Verdict)) -> Option<String>) {
    let each = (0..cases("").len()).map(|number| {
        let channel = format!("c{number}");
        let case = cases(&channel).swap_remove(number);
        judge(channel, case)
    });
    let wrong: Vec<String> = join_all(each).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn no_request_is_found_where_there_is_none() {
    let server = TestServer::start_single().await;
    none_is_wrong(async |channel, (name, request, verdict)| {
        let mut client = server.connect().await;
        client.subscribe(&channel).await;
        let expected = match verdict {
            Refused(status) | Alone(status) => vec![status],
            Both(status) => vec![status, 200],
        };
        let mut answers = Answers::to(server.address(), &request).await;
        answers.become_so_many(expected.len()).await;
        answers.become_silent().await;
        let (statuses, ended) = (answers.statuses(), answers.ended);
        let hidden = client.settle().await.iter().any(|text| text.contains("hidden"));
        let is_right =
            statuses == expected && hidden == matches!(verdict, Both(_)) && (ended || !matches!(verdict, Refused(_)));
        (!is_right).then(|| format!("{name}: {statuses:?}, ended {ended}, hidden {hidden}, instead of {verdict:?}"))
    })
    .await;
}

#[tokio::test]
async fn behind_nginx_nobody_publishes_what_nginx_has_not_seen() {
    let server = TestServer::start_cluster(2).await;
    let nginx = nginx::start(&server).await;
    none_is_wrong(async |channel, (name, request, _)| {
        let mut client = server.connect().await;
        client.subscribe(&channel).await;
        let mut answers = Answers::to(nginx.address, &request).await;
        answers.become_so_many(1).await;
        answers.become_silent().await;
        // Each request that nginx sees has an answer.
        if client.settle().await.iter().any(|text| text.contains("hidden")) {
            answers.become_so_many(2).await;
            if answers.statuses().len() < 2 {
                return Some(format!("{name}: {:?}, and the hidden event was published", answers.statuses()));
            }
        }
        // Others get their own answers over the connections that nginx keeps.
        let mut another = Answers::to(nginx.address, &Event::new("another", &channel).usual()).await;
        another.become_so_many(1).await;
        let statuses = another.statuses();
        (statuses != [200]).then(|| format!("{name}: the next one was answered with {statuses:?}"))
    })
    .await;
}
