//! A WebSocket client that sees every frame as it came.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::StreamExt;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderName;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::Response;

use crate::barrier::Barrier;
use crate::server::channel_auth;
use crate::server::user_auth;

/// Longer than anything takes that happens at all.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What holds for every text frame of the server.
pub fn assert_well_formed(text: &str) {
    let frame: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(frame["event"].is_string(), "{text}");
    if frame["event"] == "pusher:error" {
        let data = frame["data"].as_object().unwrap_or_else(|| panic!("the data must be an object: {text}"));
        assert!(data.contains_key("code") && data["message"].is_string(), "{text}");
    } else {
        assert!(frame["data"].is_string(), "the data must be a string: {text}");
    }
}

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The answer to the upgrade request.
    pub response: Response<Option<Vec<u8>>>,
    /// Known once the connection is established.
    pub socket_id: String,
    /// Where the server has several nodes.
    pub barrier: Option<Arc<Barrier>>,
}

impl Client {
    pub async fn open(address: SocketAddr, path_and_query: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = format!("ws://{address}{path_and_query}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        // Without Nagle's algorithm, which would hold back what follows a small frame.
        let connecting = connect_async_with_config(request, None, true);
        let (socket, response) = timeout(PATIENCE, connecting).await.expect("no answer").unwrap();
        Self { socket, response, socket_id: String::new(), barrier: None }
    }

    /// Waits for `connection_established`.
    pub async fn established(&mut self) {
        let frame = self.next().await;
        assert_eq!(frame["event"], "pusher:connection_established", "{frame}");
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        self.socket_id = data["socket_id"].as_str().unwrap().to_owned();
    }

    /// The next WebSocket message of any kind.
    pub async fn next_message(&mut self) -> Message {
        self.message_within(PATIENCE).await
    }

    async fn message_within(&mut self, patience: Duration) -> Message {
        let next = timeout(patience, self.socket.next()).await.expect("nothing came");
        next.expect("the connection ended").expect("the connection broke")
    }

    /// The exact text of the next text frame. Pings are answered and passed over.
    pub async fn next_text(&mut self) -> String {
        self.text_within(PATIENCE).await
    }

    async fn text_within(&mut self, patience: Duration) -> String {
        loop {
            match self.message_within(patience).await {
                Message::Text(text) => {
                    assert_well_formed(&text);
                    return text.to_string();
                }
                Message::Ping(_) | Message::Pong(_) => (),
                other => panic!("a text frame was expected, not {other:?}"),
            }
        }
    }

    /// The next text frame as JSON.
    pub async fn next(&mut self) -> Value {
        self.next_within(PATIENCE).await
    }

    /// The same where it may take longer than usual.
    pub async fn next_within(&mut self, patience: Duration) -> Value {
        let text = self.text_within(patience).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next text frame, which must be this event; returns its data, decoded if it is a JSON string.
    pub async fn next_event(&mut self, event: &str) -> Value {
        let frame = self.next().await;
        assert_eq!(frame["event"], event, "{frame}");
        match &frame["data"] {
            Value::String(data) => serde_json::from_str(data).unwrap_or_else(|_| frame["data"].clone()),
            data => data.clone(),
        }
    }

    /// The next frame must be a close; returns its code and reason.
    pub async fn next_close(&mut self) -> (u16, String) {
        match self.next_text_or_close().await {
            Ok(text) => panic!("a close frame was expected, not {text}"),
            Err(close) => close,
        }
    }

    /// The next text frame, or the code and the reason of the close that comes instead.
    pub async fn next_text_or_close(&mut self) -> Result<String, (u16, String)> {
        loop {
            match self.next_message().await {
                Message::Text(text) => {
                    assert_well_formed(&text);
                    return Ok(text.to_string());
                }
                Message::Close(Some(close)) => {
                    let code = u16::from(close.code);
                    assert!(!(4300..4400).contains(&code), "pusher-js never returns after a close with {code}");
                    return Err((code, close.reason.to_string()));
                }
                Message::Ping(_) | Message::Pong(_) => (),
                other => panic!("a text or close frame was expected, not {other:?}"),
            }
        }
    }

    /// Everything that comes before the close, and the code and the reason of the close.
    pub async fn texts_until_close(&mut self) -> (Vec<String>, (u16, String)) {
        let mut texts = Vec::new();
        loop {
            match self.next_text_or_close().await {
                Ok(text) => texts.push(text),
                Err(close) => return (texts, close),
            }
        }
    }

    /// Waits until the server has ended the TCP connection.
    pub async fn ended(&mut self) {
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
    }

    /// Everything that came in, once whatever has been accepted anywhere before this call has been delivered.
    /// It takes three pings: an event may reach this connection's shard in the turn after the first one, and
    /// goes out behind the answer to the second.
    pub async fn settle(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        if let Some(barrier) = self.barrier.clone() {
            // What this connection itself has sent must be on its way to the other nodes before they are asked.
            self.ping(&mut texts).await;
            barrier.pass().await;
        }
        for _ in 0..3 {
            self.ping(&mut texts).await;
        }
        texts
    }

    /// Sends a ping, and takes what comes before the answer.
    async fn ping(&mut self, texts: &mut Vec<String>) {
        self.send(r#"{"event":"pusher:ping","data":{}}"#).await;
        loop {
            match self.next_text().await {
                text if text == r#"{"event":"pusher:pong","data":"{}"}"# => break,
                text => texts.push(text),
            }
        }
    }

    /// Everything sent so far has been taken, and nothing had been received but the answers to pings.
    pub async fn nothing_came(&mut self) {
        assert_eq!(self.settle().await, Vec::<String>::new());
    }

    /// The next frame must be this `pusher:error`; `None` stands for the code `null`.
    pub async fn next_error(&mut self, code: Option<u16>, message: &str) {
        let (code, message) = (json!(code), json!(message));
        let error = format!(r#"{{"event":"pusher:error","data":{{"code":{code},"message":{message}}}}}"#);
        assert_eq!(self.next_text().await, error);
    }

    /// The next two frames must refuse a subscription to this channel.
    pub async fn next_refusal(&mut self, channel: &str, kind: &str, status: u16, message: &str) {
        let data = json!({ "type": kind, "error": message, "status": status }).to_string();
        let (name, data) = (json!(channel), json!(data));
        let error = format!(r#"{{"event":"pusher:subscription_error","data":{data},"channel":{name}}}"#);
        assert_eq!(self.next_text().await, error);
        self.next_error(None, message).await;
    }

    pub async fn send(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_json(&mut self, value: Value) {
        self.send(&value.to_string()).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.expect("the server does not read").unwrap();
    }

    /// Sends all of these in one write.
    pub async fn send_together(&mut self, texts: &[String]) {
        for text in texts {
            self.socket.feed(Message::text(text)).await.unwrap();
        }
        timeout(PATIENCE, self.socket.flush()).await.expect("the server does not read").unwrap();
    }

    /// The raw TCP connection below.
    pub fn tcp(&mut self) -> &mut TcpStream {
        match self.socket.get_mut() {
            MaybeTlsStream::Plain(stream) => stream,
            _ => panic!("the connection is not plain"),
        }
    }

    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        self.ended().await;
    }

    /// Sends a subscribe without waiting; signs it where the channel's name asks for it.
    pub async fn send_subscribe(&mut self, channel: &str, channel_data: Option<&str>) {
        let signed = channel.starts_with("private-") || channel.starts_with("presence-");
        let auth = if signed { channel_auth(&self.socket_id, channel, channel_data) } else { String::new() };
        let mut data = json!({ "auth": auth, "channel": channel });
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data.into();
        }
        self.send_json(json!({ "event": "pusher:subscribe", "data": data })).await;
    }

    /// Joins a channel that is not a presence channel.
    pub async fn subscribe(&mut self, channel: &str) {
        self.send_subscribe(channel, None).await;
        assert_eq!(
            self.next_text().await,
            format!(r#"{{"event":"pusher_internal:subscription_succeeded","data":"{{}}","channel":"{channel}"}}"#)
        );
    }

    /// Joins a presence channel as this user; returns the `presence` object.
    pub async fn join(&mut self, channel: &str, user_id: &str) -> Value {
        let channel_data = json!({ "user_id": user_id, "user_info": { "name": user_id } }).to_string();
        self.send_subscribe(channel, Some(&channel_data)).await;
        self.next_event("pusher_internal:subscription_succeeded").await["presence"].clone()
    }

    pub async fn unsubscribe(&mut self, channel: &str) {
        self.send_json(json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } })).await;
    }

    /// Signs in with this `user_data`, an object with at least an `id`.
    pub async fn sign_in(&mut self, user_data: &Value) {
        self.send_sign_in(&user_data.to_string()).await;
        self.next_event("pusher:signin_success").await;
    }

    pub async fn send_sign_in(&mut self, user_data: &str) {
        let auth = user_auth(&self.socket_id, user_data);
        self.send_json(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } })).await;
    }

    /// Reads the states of a watchlist until all these users were said to be online. A node hears of the users of
    /// another one a moment after their sign-in, so that some may be offline at first.
    pub async fn sees_online(&mut self, ids: &[&str]) {
        let mut waited_for: BTreeSet<&str> = ids.iter().copied().collect();
        while !waited_for.is_empty() {
            let state = self.next_event("pusher_internal:watchlist_events").await;
            for change in state["events"].as_array().unwrap() {
                let said = change["user_ids"].as_array().unwrap();
                if change["name"] == "online" {
                    waited_for.retain(|id| !said.contains(&json!(id)));
                }
            }
        }
    }
}
