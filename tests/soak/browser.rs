//! Browsers that come, look, and go: most of them in order, some without a goodbye.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
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
use tokio_tungstenite::tungstenite::Error;
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
/// A browser that sleeps for so long has been closed meanwhile.
const ASLEEP: Duration = Duration::from_secs(60);
/// As pusher-js does after so long without a message.
const PING: Duration = Duration::from_secs(30);
/// Of a hundred browsers, those of the control room; those of the main warehouse.
const DASHBOARDS: usize = 6;
const WAREHOUSE: usize = 2;
/// Of a hundred visits, those that end without a goodbye; those whose browser reads nothing any more.
const DROPPED: u32 = 30;
const FALLS_ASLEEP: u32 = 3;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Browser {
    number: usize,
    office: Arc<Office>,
    channels: Vec<String>,
    random: StdRng,
    speed: f64,
    stop: watch::Receiver<bool>,
}

/// A browser's place on a channel.
#[derive(Debug)]
struct Place {
    /// The number of the last event that was sent by the time it joined.
    since: u64,
    /// The number of the last event that came.
    last: Option<u64>,
}

type Joined = HashMap<String, Place>;

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
            let Some((mut socket, socket_id)) = self.connect().await else {
                count(&self.office.tally.turned_away);
                pause = Duration::from_secs(10);
                continue;
            };
            count(&self.office.tally.opened);
            match self.visit(&mut socket, &socket_id).await {
                End::Own => self.leave(socket).await,
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

    /// With a goodbye, without one, or by falling asleep.
    async fn leave(&mut self, mut socket: Socket) {
        match self.random.random_range(0..100) {
            chance if chance < FALLS_ASLEEP => {
                count(&self.office.tally.asleep);
                if !self.waits(ASLEEP).await {
                    return;
                }
                // Much may have come before the end.
                let ended = async { while let Some(Ok(_)) = socket.next().await {} };
                if timeout(PATIENCE, ended).await.is_err() {
                    self.fault("slept, and was not closed");
                }
            }
            chance if chance < FALLS_ASLEEP + DROPPED => (),
            _ => drop(timeout(PATIENCE, socket.close(None)).await),
        }
    }

    async fn connect(&self) -> Option<(Socket, String)> {
        let address = self.office.nginx.address;
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
        let mut joined = Joined::new();
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        loop {
            let message = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep_until(end) => break,
                _ = ping.tick() => None,
                message = socket.next() => Some(message),
            };
            if let Some(message) = message {
                if let Some(end) = self.take(message, &mut joined) {
                    return end;
                }
            } else if !send(socket, &json!({ "event": "pusher:ping", "data": {} })).await {
                return End::Broken;
            }
        }
        self.settle(socket, &mut joined).await
    }

    /// Waits for what must still come: answers to subscriptions, and events that were accepted by now.
    async fn settle(&self, socket: &mut Socket, joined: &mut Joined) -> End {
        let should: Vec<(&String, u64)> =
            self.channels.iter().map(|channel| (channel, self.office.published(channel).1)).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let missing = should.iter().find(|(channel, accepted)| {
                joined.get(&**channel).is_none_or(|place| *accepted > place.since && place.last < Some(*accepted))
            });
            let Some((channel, accepted)) = missing else { return End::Own };
            match tokio::time::timeout_at(until, socket.next()).await {
                Ok(message) => {
                    if let Some(end) = self.take(message, joined) {
                        return end;
                    }
                }
                Err(_) => {
                    count(&self.office.tally.lost);
                    self.fault(&format!("waits for number {accepted} of {channel}, at {:?}", joined.get(&**channel)));
                    return End::Own;
                }
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

    /// An end if the connection has one.
    fn take(&self, message: Option<Result<Message, Error>>, joined: &mut Joined) -> Option<End> {
        match message {
            Some(Ok(Message::Text(text))) => self.read(&text, joined),
            Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 4200 => return Some(End::Close),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => (),
            Some(Ok(other)) => {
                self.fault(&format!("got {other:?}"));
                return Some(End::Close);
            }
            _ => return Some(End::Broken),
        }
        None
    }

    fn read(&self, text: &str, joined: &mut Joined) {
        if let Some(number) = number_in(text) {
            count(&self.office.tally.delivered);
            let channel = channel_of(text);
            match joined.get_mut(channel) {
                None => self.fault(&format!("got number {number} of {channel}, which it has not joined")),
                Some(place) => self.follow(channel, place, number),
            }
        } else if text.contains(r#""event":"pusher_internal:subscription_succeeded""#) {
            let channel = channel_of(text).to_owned();
            let (since, _) = self.office.published(&channel);
            joined.insert(channel, Place { since, last: None });
        } else if text.contains(r#""event":"pusher_internal:member_"#) {
            count(&self.office.tally.member_changes);
        } else if !text.starts_with(r#"{"event":"pusher:pong""#) {
            self.fault(&format!("got {text}"));
        }
    }

    /// Each event must follow the one before it.
    fn follow(&self, channel: &str, place: &mut Place, number: u64) {
        if let Some(before) = place.last.replace(number)
            && before + 1 != number
        {
            let (counter, many) = match number.cmp(&before) {
                Ordering::Greater => (&self.office.tally.lost, number - before - 1),
                Ordering::Equal => (&self.office.tally.doubled, 1),
                Ordering::Less => (&self.office.tally.late, 1),
            };
            counter.fetch_add(many, Relaxed);
            self.fault(&format!("got number {number} of {channel} after {before}"));
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
