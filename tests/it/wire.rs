//! A WebSocket down to its bytes: it answers nothing by itself and sends whatever it is told.

use std::net::SocketAddr;

use serde_json::Value;
use support::client::PATIENCE;
use support::client::assert_well_formed;
use support::http;
use support::http::Answer;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// First bytes of complete frames.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8A;

pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    /// Known once the connection is established.
    pub socket_id: String,
}

impl Wire {
    /// An established connection.
    pub async fn connect(address: SocketAddr, path_and_query: &str) -> Self {
        Self::connect_on(TcpStream::connect(address).await.unwrap(), path_and_query).await
    }

    /// The same with so little room for what is received that an idle reader soon stalls.
    pub async fn connect_narrow(address: SocketAddr, path_and_query: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::connect_on(socket.connect(address).await.unwrap(), path_and_query).await
    }

    async fn connect_on(stream: TcpStream, path_and_query: &str) -> Self {
        let head = upgrade_head(path_and_query, &[]);
        let (answer, mut wire) = Self::upgrade_on(stream, &head).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        let established = wire.next_text().await;
        assert!(established.starts_with(r#"{"event":"pusher:connection_established","#), "{established}");
        let event: Value = serde_json::from_str(&established).unwrap();
        // Raw clients get an object.
        let data = event["data"].as_str().map(|data| serde_json::from_str(data).unwrap());
        let data: Value = data.unwrap_or_else(|| event["data"].clone());
        wire.socket_id = data["socket_id"].as_str().unwrap().to_owned();
        wire
    }

    /// Sends the head of a request and reads that of the answer.
    pub async fn upgrade(address: SocketAddr, head: &str) -> (Answer, Self) {
        Self::upgrade_on(TcpStream::connect(address).await.unwrap(), head).await
    }

    /// The same on a connection that is open already.
    pub async fn upgrade_on(stream: TcpStream, head: &str) -> (Answer, Self) {
        let mut wire = Self { stream, received: Vec::new(), socket_id: String::new() };
        wire.send_bytes(head.as_bytes()).await;
        loop {
            if let Some(end) = wire.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = wire.received.split_off(end + 4);
                return (http::parse(&std::mem::replace(&mut wire.received, rest)), wire);
            }
            assert!(wire.receive().await, "the connection ended within the head");
        }
    }

    /// Reads some more; false at the end of the connection.
    async fn receive(&mut self) -> bool {
        let count = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("nothing came");
        count.is_ok_and(|count| count > 0)
    }

    /// The next frame, whatever it is: its first byte and its payload. `None` at the end of the connection.
    pub async fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.receive().await {
                assert!(self.received.is_empty(), "half a frame: {:?}", self.received);
                return None;
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, rest) = self.received.split_first()?;
        let (start, length) = match *rest.first()? {
            126 => (4, u16::from_be_bytes(rest.get(1..3)?.try_into().unwrap()).into()),
            127 => (10, u64::from_be_bytes(rest.get(1..9)?.try_into().unwrap()) as usize),
            length if length < 126 => (2, length.into()),
            length => panic!("a server must not mask: {length:#x}"),
        };
        let payload = self.received.get(start..start + length)?.to_vec();
        let first = *first;
        self.received.drain(..start + length);
        Some((first, payload))
    }

    /// The next frame, which must be one of text.
    pub async fn next_text(&mut self) -> String {
        let (first, payload) = self.next_frame().await.expect("the connection ended");
        assert_eq!(first, TEXT, "{}", String::from_utf8_lossy(&payload));
        let text = String::from_utf8(payload).unwrap();
        assert_well_formed(&text);
        text
    }

    /// The next frame, which must be a close; returns its code and reason.
    pub async fn next_close(&mut self) -> (u16, String) {
        let (first, payload) = self.next_frame().await.expect("the connection ended without a close");
        assert_eq!(first, CLOSE, "{}", String::from_utf8_lossy(&payload));
        (u16::from_be_bytes(payload[..2].try_into().unwrap()), String::from_utf8(payload[2..].to_vec()).unwrap())
    }

    /// The next text frame's event.
    pub async fn next_event(&mut self) -> String {
        let frame: Value = serde_json::from_str(&self.next_text().await).unwrap();
        frame["event"].as_str().unwrap().to_owned()
    }

    /// Joins a public channel.
    pub async fn subscribe(&mut self, channel: &str) {
        self.send_text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#)).await;
        assert_eq!(self.next_event().await, "pusher_internal:subscription_succeeded");
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes()).await;
    }

    /// Sends one frame with any first byte.
    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_bytes(&masked(first, payload)).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server does not read").unwrap();
    }

    /// Sends what the server may refuse to read to its end.
    pub async fn send_in_vain(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server does not read");
    }
}

/// A frame of a client, masked.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The head of an upgrade request, with RFC 6455's own example of a key.
pub fn upgrade_head(path_and_query: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "GET {path_and_query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}
