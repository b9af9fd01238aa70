//! Browsers that come, look, and go: most of them in order, some without a goodbye.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::StreamExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use support::server::token;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;

use crate::office::Office;
use crate::office::READINGS;
use crate::office::number_in;
use crate::office::requests;
use crate::tally::count;

/// A visit and the time until the next one, on the real day.
const VISIT: Duration = Duration::from_secs(40 * 60);
const AWAY: Duration = Duration::from_secs(10 * 60);
/// A connection is established, or a message written, within this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a hundred browsers, those of the control room; those of the main warehouse; those whose node is restarted.
const DASHBOARDS: usize = 6;
const WAREHOUSE: usize = 2;
const AT_THE_RESTARTED: usize = 40;
/// Of a hundred visits, those that end without a goodbye.
const DROPPED: u32 = 30;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Browser {
    number: usize,
    office: Arc<Office>,
    channels: Vec<String>,
    random: StdRng,
    speed: f64,
    stop: watch::Receiver<bool>,
}

/// How a visit ended.
enum End {
    /// The browser goes.
    Own,
    /// The node has ended it, as at a stop.
    Close,
    /// The connection broke.
    Broken,
}

impl Browser {
    pub fn new(number: usize, office: &Arc<Office>, speed: f64, seed: u64, stop: &watch::Receiver<bool>) -> Self {
        let clinic = number % office.clinics;
        let channels = match number % 100 {
            kind if kind < DASHBOARDS => vec![READINGS.to_owned()],
            // It sees its group.
            kind if kind < DASHBOARDS + WAREHOUSE => (0..office.clinics).map(requests).collect(),
            _ => vec![requests(clinic), format!("presence-klinik.K{clinic:03}"), format!("private-petugas.{number}")],
        };
        let random = StdRng::seed_from_u64(seed ^ (number as u64) << 32);
        Self { number, office: Arc::clone(office), channels, random, speed, stop: stop.clone() }
    }

    /// Comes and goes until the end.
    pub async fn run(mut self) {
        // They do not all come at once.
        let mut pause = AWAY.mul_f64(self.random.random_range(0.0..1.0));
        while self.waits(pause.div_f64(self.speed)).await {
            let address = self.address().await;
            let Some((mut socket, socket_id)) = self.connect(address).await else {
                count(&self.office.tally.turned_away);
                pause = Duration::from_secs(10);
                continue;
            };
            count(&self.office.tally.opened);
            match self.visit(&mut socket, &socket_id).await {
                End::Own if self.random.random_range(0..100) >= DROPPED => {
                    drop(timeout(PATIENCE, socket.close(None)).await)
                }
                End::Own => (),
                End::Close => {
                    pause = Duration::from_secs(10);
                    continue;
                }
                End::Broken => self.office.tally.fault(format!("browser {}: its connection broke", self.number)),
            }
            pause = AWAY.mul_f64(self.random.random_range(0.0..2.0));
        }
    }

    /// False if the end comes first.
    async fn waits(&mut self, time: Duration) -> bool {
        timeout(time, self.stop.wait_for(|stop| *stop)).await.is_err()
    }

    /// As a balancer would choose: the browser's node, or the other one while that is away.
    async fn address(&self) -> SocketAddr {
        let restarted = self.office.restarted_address;
        let is_there = || async { TcpStream::connect(restarted).await.is_ok() };
        if self.number % 100 >= 100 - AT_THE_RESTARTED && is_there().await {
            restarted
        } else {
            self.office.lasting.address
        }
    }

    async fn connect(&self, address: SocketAddr) -> Option<(Socket, String)> {
        let url = format!("ws://{address}/app/{APP_KEY}?protocol=7&client=js&version=8.4.0&flash=false");
        let connecting = connect_async_with_config(&url, None, true);
        let (mut socket, _) = timeout(PATIENCE, connecting).await.ok()?.ok()?;
        let Message::Text(text) = timeout(PATIENCE, socket.next()).await.ok()??.ok()? else { return None };
        let frame: Value = serde_json::from_str(&text).ok()?;
        let data: Value = serde_json::from_str(frame["data"].as_str()?).ok()?;
        Some((socket, data["socket_id"].as_str()?.to_owned()))
    }

    async fn visit(&mut self, socket: &mut Socket, socket_id: &str) -> End {
        for channel in &self.channels {
            if !send(socket, &self.subscribe(channel, socket_id)).await {
                return End::Broken;
            }
        }
        let end = Instant::now() + VISIT.div_f64(self.speed).mul_f64(self.random.random_range(0.0..2.0));
        let mut stop = self.stop.clone();
        // The number of the last event of each channel, and the channels that are joined.
        let mut last: HashMap<String, Option<u64>> = HashMap::new();
        loop {
            let message = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return End::Own,
                () = tokio::time::sleep_until(end) => {
                    if last.len() < self.channels.len() && VISIT.div_f64(self.speed) > PATIENCE {
                        self.fault("has not joined all its channels by the end of its visit");
                    }
                    return End::Own;
                }
                message = socket.next() => message,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.take(&text, &mut last);
                    if text.starts_with(r#"{"event":"pusher:ping""#)
                        && !send(socket, &json!({ "event": "pusher:pong" })).await
                    {
                        return End::Broken;
                    }
                }
                Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 4200 => return End::Close,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => (),
                Some(Ok(other)) => {
                    self.fault(&format!("got {other:?}"));
                    return End::Close;
                }
                _ => return End::Broken,
            }
        }
    }

    fn subscribe(&self, channel: &str, socket_id: &str) -> Value {
        let mut data = json!({ "channel": channel });
        let mut signed = format!("{socket_id}:{channel}");
        if channel.starts_with("presence-") {
            let user = json!({ "user_id": self.number.to_string(), "user_info": { "name": "Siti" } }).to_string();
            signed = format!("{signed}:{user}");
            data["channel_data"] = user.into();
        }
        if channel.starts_with("presence-") || channel.starts_with("private-") {
            data["auth"] = token(APP_KEY, APP_SECRET, &signed).into();
        }
        json!({ "event": "pusher:subscribe", "data": data })
    }

    /// Each event must follow the one before it.
    fn take(&self, text: &str, last: &mut HashMap<String, Option<u64>>) {
        if let Some(number) = number_in(text) {
            count(&self.office.tally.delivered);
            let channel = channel_of(text);
            match last.get_mut(channel) {
                None => self.fault(&format!("got number {number} of {channel}, which it has not joined")),
                Some(before) => {
                    if before.is_some_and(|before| before + 1 != number) {
                        self.fault(&format!("got number {number} of {channel} after {before:?}"));
                    }
                    *before = Some(number);
                }
            }
        } else if text.contains(r#""event":"pusher_internal:subscription_succeeded""#) {
            last.insert(channel_of(text).to_owned(), None);
        } else if text.contains(r#""event":"pusher_internal:member_"#) {
            count(&self.office.tally.member_changes);
        } else if !text.starts_with(r#"{"event":"pusher:ping""#) {
            self.fault(&format!("got {text}"));
        }
    }

    fn fault(&self, what: &str) {
        self.office.tally.fault(format!("browser {} {what}", self.number));
    }
}

/// The channel that a message of the server names.
fn channel_of(text: &str) -> &str {
    let start = text.find(r#""channel":""#).map_or(text.len(), |start| start + r#""channel":""#.len());
    text[start..].split('"').next().unwrap_or_default()
}

async fn send(socket: &mut Socket, message: &Value) -> bool {
    matches!(timeout(PATIENCE, socket.send(Message::text(message.to_string()))).await, Ok(Ok(())))
}
