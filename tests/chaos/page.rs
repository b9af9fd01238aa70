//! Pages: they connect, join their channels, leave, and come back, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::StreamExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;
use support::server::token;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;

use crate::history::Connection;
use crate::history::How;
use crate::history::Name;
use crate::history::What;
use crate::publisher;
use crate::world::APPS;
use crate::world::World;

/// Time for a connection to be established.
const PATIENCE: Duration = Duration::from_secs(5);

/// What pages do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Some come and go.
    Restless,
    /// Everybody connects and stays.
    Calm,
    /// Everybody goes.
    Over,
}

pub struct Page {
    app: usize,
    channels: Vec<Name>,
    user: Name,
    /// It comes and goes.
    restless: bool,
    random: StdRng,
    world: Arc<World>,
    phase: watch::Receiver<Phase>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An established connection.
struct Session {
    socket: Socket,
    connection: Connection,
    socket_id: String,
}

impl Page {
    pub fn new(number: usize, world: &Arc<World>, phase: &watch::Receiver<Phase>) -> Self {
        let mut random = StdRng::seed_from_u64(world.seed ^ (number as u64) << 32);
        let app = number % APPS.len();
        let channels = world.channels.iter().filter(|_| random.random_bool(0.6)).cloned().collect();
        // Each user has two pages.
        let user = Name::from(format!("user-{}", number / APPS.len() / 2));
        let restless = number / APPS.len() % 2 == 1;
        Self { app, channels, user, restless, random, world: Arc::clone(world), phase: phase.clone() }
    }

    /// The channels that it joins.
    pub fn wants(&self) -> usize {
        self.channels.len()
    }

    pub async fn run(mut self) {
        while *self.phase.borrow() != Phase::Over {
            if let Some(session) = self.connect().await {
                let connection = session.connection;
                let how = self.stay(session).await;
                self.world.recorder.record(What::Closed { connection, how });
            }
            let millis = self.random.random_range(100..1000);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    async fn connect(&self) -> Option<Session> {
        let world = &self.world;
        let url = format!("ws://{}/app/{}?protocol=7&client=js&version=8.6.0", world.nginx.address, APPS[self.app].key);
        let connecting = connect_async_with_config(&url, None, true);
        let (mut socket, response) = timeout(PATIENCE, connecting).await.ok()?.ok()?;
        let place = world.places.named(response.headers().get("x-upstream")?.to_str().ok()?)?;
        let Message::Text(text) = timeout(PATIENCE, socket.next()).await.ok()??.ok()? else { return None };
        let frame: Value = serde_json::from_str(&text).ok()?;
        let data: Value = serde_json::from_str(frame["data"].as_str()?).ok()?;
        let socket_id = data["socket_id"].as_str()?.to_owned();
        let connection = world.recorder.connection();
        world.recorder.record(What::Opened { connection, app: self.app, place });
        Some(Session { socket, connection, socket_id })
    }

    /// From the first subscription to the end.
    async fn stay(&mut self, mut session: Session) -> How {
        for channel in self.channels.clone() {
            if self.subscribe(&mut session, &channel).await.is_err() {
                return How::ByServer(None);
            }
        }
        let mut bored = Instant::now() + Duration::from_millis(self.random.random_range(500..8000));
        let mut away: Option<Name> = None;
        loop {
            let phase = *self.phase.borrow_and_update();
            if phase == Phase::Over {
                let _ = session.socket.close(None).await;
                return How::Clean;
            }
            let restless = (self.restless || away.is_some()) && (phase == Phase::Restless || away.is_some());
            tokio::select! {
                _ = self.phase.changed() => (),
                frame = session.socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => self.take(session.connection, &text),
                    Some(Ok(Message::Close(close))) => return How::ByServer(close.map(|close| close.code.into())),
                    Some(Ok(_)) => (),
                    _ => return How::ByServer(None),
                },
                () = tokio::time::sleep_until(bored), if restless => {
                    bored = Instant::now() + Duration::from_millis(self.random.random_range(500..8000));
                    if let Some(channel) = away.take() {
                        if self.subscribe(&mut session, &channel).await.is_err() {
                            return How::ByServer(None);
                        }
                        continue;
                    }
                    match self.random.random_range(0..4) {
                        0 => {
                            // Recorded by the caller; whatever comes from here on does not count.
                            let _ = timeout(PATIENCE, session.socket.close(None)).await;
                            return How::Clean;
                        }
                        1 => return How::Dropped,
                        _ if self.channels.is_empty() => (),
                        _ => {
                            let channel = self.channels[self.random.random_range(0..self.channels.len())].clone();
                            let left = What::Left { connection: session.connection, channel: channel.clone() };
                            self.world.recorder.record(left);
                            let data = json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } });
                            if send(&mut session.socket, &data).await.is_err() {
                                return How::ByServer(None);
                            }
                            away = Some(channel);
                        }
                    }
                }
            }
        }
    }

    async fn subscribe(&self, session: &mut Session, channel: &Name) -> Result<(), ()> {
        let is_presence = channel.starts_with("presence-");
        let channel_data = json!({ "user_id": self.user, "user_info": { "name": self.user } }).to_string();
        let user = is_presence.then(|| self.user.clone());
        let mut data = json!({ "channel": channel });
        if is_presence || channel.starts_with("private-") {
            let mut signed = format!("{}:{channel}", session.socket_id);
            if is_presence {
                signed = format!("{signed}:{channel_data}");
                data["channel_data"] = channel_data.into();
            }
            data["auth"] = token(APPS[self.app].key, APPS[self.app].secret, &signed).into();
        }
        self.world.recorder.record(What::Asked { connection: session.connection, channel: channel.clone(), user });
        send(&mut session.socket, &json!({ "event": "pusher:subscribe", "data": data })).await
    }

    /// Takes down a message of the server.
    fn take(&self, connection: Connection, text: &str) {
        let strange = |text: &str| {
            self.world.recorder.record(What::Strange { connection, text: text.to_owned() });
        };
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return strange(text) };
        let (event, data) = (frame["event"].as_str().unwrap_or_default(), frame["data"].as_str().unwrap_or_default());
        if event == "pusher:error" {
            // A close with its code follows.
            return;
        }
        let Some(channel) = frame["channel"].as_str().map(Name::from) else { return strange(text) };
        let inner = || serde_json::from_str::<Value>(data).unwrap_or_default();
        let user = || Name::from(inner()["user_id"].as_str().unwrap_or_default());
        let what = match event {
            "n" => match publisher::event(self.app, data) {
                Some(event) => What::Heard { connection, channel, event },
                None => return strange(text),
            },
            "pusher_internal:subscription_succeeded" => {
                let ids = inner()["presence"]["ids"].clone();
                let ids = ids.as_array().map(Vec::as_slice).unwrap_or_default();
                let members = ids.iter().map(|id| Name::from(id.as_str().unwrap_or_default())).collect();
                What::Joined { connection, channel, members }
            }
            "pusher_internal:member_added" => What::MemberCame { connection, channel, user: user() },
            "pusher_internal:member_removed" => What::MemberWent { connection, channel, user: user() },
            "gema:history_gap" => What::Gap { connection, channel },
            _ => return strange(text),
        };
        self.world.recorder.record(what);
    }
}

async fn send(socket: &mut Socket, message: &Value) -> Result<(), ()> {
    let sending = socket.send(Message::text(message.to_string()));
    timeout(PATIENCE, sending).await.map_err(|_| ())?.map_err(|_| ())
}
