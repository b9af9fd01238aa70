//! Pages: they connect, join their channels, leave, and come back, whatever happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::SinkExt;
use futures_util::StreamExt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
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

use crate::check::CLIENTS;
use crate::check::WITH_HISTORY;
use crate::history::Connection;
use crate::history::Event;
use crate::history::How;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::What;
use crate::publisher;
use crate::world::APPS;
use crate::world::World;

/// Time for a connection to be established.
const PATIENCE: Duration = Duration::from_secs(5);

/// The channel of group views, and what they may see: the names of channels without and with their prefixes.
const VIEW: &str = "private-group";
const GRANT: [&str; 2] = ["orders", "desk"];
const GRANTED: [&str; 2] = ["orders", "private-desk"];
/// How long a grant lasts while pages are restless, and while they are calm.
const GRANT_SECONDS: std::ops::Range<u64> = 3..15;
const LONG_GRANT_SECONDS: u64 = 3600;

/// Between two things that a page does by itself, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 300..6000;

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
    number: usize,
    app: usize,
    channels: Vec<Name>,
    user: Name,
    kind: Kind,
    random: StdRng,
    world: Arc<World>,
    phase: watch::Receiver<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It stays where it is.
    Steady,
    /// It comes and goes.
    Restless,
    /// It stays, and sends events to the others.
    Whispering,
    /// It sees several channels by a grant.
    Viewing,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An established connection.
struct Session {
    socket: Socket,
    connection: Connection,
    place: Place,
    socket_id: String,
    /// What it has sent and what nobody has confirmed; whether it was refused.
    sent: VecDeque<(Event, bool)>,
    number: u32,
    /// A channel that it has left for a while.
    away: Option<Name>,
    /// Its grant ends soon.
    short: bool,
}

/// The connection is of no use any more.
struct Broken;

impl Page {
    pub fn new(number: usize, world: &Arc<World>, phase: &watch::Receiver<Phase>) -> Self {
        let mut random = StdRng::seed_from_u64(world.seed ^ (number as u64) << 32);
        let app = number % APPS.len();
        let own = number / APPS.len();
        let kinds = [Kind::Steady, Kind::Restless, Kind::Whispering, Kind::Restless, Kind::Viewing, Kind::Restless];
        let kind = kinds[own % kinds.len()];
        let channels = match kind {
            Kind::Viewing => vec![VIEW.into()],
            Kind::Whispering => world.channels.clone(),
            _ => world.channels.iter().filter(|_| random.random_bool(0.6)).cloned().collect(),
        };
        // Each user has two pages.
        let user = Name::from(format!("user-{}", own / 2));
        Self { number, app, channels, user, kind, random, world: Arc::clone(world), phase: phase.clone() }
    }

    /// The channels that it joins.
    pub fn wants(&self) -> usize {
        self.channels.len()
    }

    pub async fn run(mut self) {
        while *self.phase.borrow() != Phase::Over {
            if let Some(mut session) = self.connect().await {
                let how = match self.stay(&mut session).await {
                    Ok(how) => how,
                    Err(Broken) => How::ByServer(None),
                };
                // Whatever comes from here on does not count.
                self.world.recorder.record(What::Closed { connection: session.connection, how });
                if how == How::Clean {
                    let _ = timeout(PATIENCE, session.socket.close(None)).await;
                }
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
        let (sent, number, away, short) = (VecDeque::new(), 0, None, false);
        Some(Session { socket, connection, place, socket_id, sent, number, away, short })
    }

    /// From the first subscription to the end.
    async fn stay(&mut self, session: &mut Session) -> Result<How, Broken> {
        for channel in self.channels.clone() {
            self.subscribe(session, &channel).await?;
        }
        let mut next = self.later();
        loop {
            let phase = *self.phase.borrow_and_update();
            // A view needs another grant in the other phase.
            if phase == Phase::Over || self.kind == Kind::Viewing && session.short != (phase == Phase::Restless) {
                return Ok(How::Clean);
            }
            let acts = session.away.is_some()
                || phase == Phase::Restless && matches!(self.kind, Kind::Restless | Kind::Whispering);
            tokio::select! {
                _ = self.phase.changed() => (),
                frame = session.socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => self.take(session, &text),
                    Some(Ok(Message::Close(close))) => {
                        return Ok(How::ByServer(close.map(|close| close.code.into())));
                    }
                    Some(Ok(_)) => (),
                    _ => return Err(Broken),
                },
                () = tokio::time::sleep_until(next), if acts => {
                    next = self.later();
                    if let Some(how) = self.act(session).await? {
                        return Ok(how);
                    }
                }
            }
        }
    }

    fn later(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.random.random_range(BETWEEN))
    }

    /// Does something by itself; tells how the connection is to end, if it is.
    async fn act(&mut self, session: &mut Session) -> Result<Option<How>, Broken> {
        if let Some(channel) = session.away.take() {
            self.subscribe(session, &channel).await?;
        } else if self.kind == Kind::Whispering {
            self.whisper(session).await?;
        } else {
            match self.random.random_range(0..4) {
                0 => return Ok(Some(How::Clean)),
                1 => return Ok(Some(How::Dropped)),
                _ => session.away = self.channels.choose(&mut self.random).cloned(),
            }
            if let Some(channel) = session.away.clone() {
                let left = What::Left { connection: session.connection, channel: channel.clone() };
                self.world.recorder.record(left);
                let leave = json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } });
                send(&mut session.socket, &leave).await?;
            }
        }
        Ok(None)
    }

    /// Sends some events to the others, and a question behind each, whose answer confirms it.
    async fn whisper(&mut self, session: &mut Session) -> Result<(), Broken> {
        let channel = Name::from(*["private-desk", "presence-room"].choose(&mut self.random).expect("there are some"));
        let joined = self
            .world
            .recorder
            .look(|now| now.connections.get(&session.connection).is_some_and(|open| open.channels[&channel].joined));
        if !joined {
            return Ok(());
        }
        for _ in 0..self.random.random_range(1..4) {
            session.number += 1;
            let event = Event { publisher: CLIENTS + session.connection, number: session.number };
            let (app, channels, to) = (self.app, vec![channel.clone()], Some(session.place));
            self.world.recorder.record(What::Sent { event, app, channels, to });
            session.sent.push_back((event, false));
            let data = publisher::data(self.app, event);
            send(&mut session.socket, &json!({ "event": "client-n", "channel": channel, "data": data })).await?;
            send(&mut session.socket, &json!({ "event": "pusher:ping", "data": {} })).await?;
        }
        Ok(())
    }

    async fn subscribe(&mut self, session: &mut Session, channel: &Name) -> Result<(), Broken> {
        let (connection, recorder) = (session.connection, self.world.recorder.clone());
        let (mut user, mut channel_data) = (None, None);
        if channel.starts_with("presence-") {
            channel_data = Some(json!({ "user_id": self.user, "user_info": { "name": self.user } }).to_string());
            user = Some(self.user.clone());
        } else if channel.starts_with(WITH_HISTORY) {
            // One page each, so that it is known which page a user comes back to.
            let name = Name::from(format!("page-{}", self.number));
            channel_data = Some(json!({ "user_id": name }).to_string());
            user = Some(name);
        }
        recorder.record(What::Asked { connection, channel: channel.clone(), user });
        if &**channel == VIEW {
            let restless = *self.phase.borrow() == Phase::Restless;
            let seconds = if restless { self.random.random_range(GRANT_SECONDS) } else { LONG_GRANT_SECONDS };
            session.short = restless;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            channel_data = Some(json!({ "grant": GRANT, "exp": now.as_secs() + seconds }).to_string());
            let channels = GRANTED.map(Name::from).to_vec();
            let until = recorder.now() + seconds * SECOND;
            recorder.record(What::Granted { connection, channel: channel.clone(), channels, until });
        }
        let mut data = json!({ "channel": channel });
        if channel.starts_with("private-") || channel.starts_with("presence-") {
            let mut signed = format!("{}:{channel}", session.socket_id);
            if let Some(channel_data) = channel_data {
                signed = format!("{signed}:{channel_data}");
                data["channel_data"] = channel_data.into();
            }
            data["auth"] = token(APPS[self.app].key, APPS[self.app].secret, &signed).into();
        }
        send(&mut session.socket, &json!({ "event": "pusher:subscribe", "data": data })).await
    }

    /// Takes down a message of the server.
    fn take(&self, session: &mut Session, text: &str) {
        let (connection, recorder) = (session.connection, &self.world.recorder);
        let strange = || recorder.record(What::Strange { connection, text: text.to_owned() });
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return strange() };
        let (event, data) = (frame["event"].as_str().unwrap_or_default(), frame["data"].as_str().unwrap_or_default());
        match event {
            // Of a client event, or a close with this code follows.
            "pusher:error" => {
                if let (true, Some(first)) = (frame["data"]["code"].is_null(), session.sent.front_mut()) {
                    first.1 = true;
                }
                return recorder.note(format!("connection {connection} got {text}"));
            }
            "pusher:pong" => match session.sent.pop_front() {
                Some((event, true)) => return recorder.record(What::Refused { event, status: 0 }),
                Some((event, false)) => {
                    return recorder.record(What::Accepted { event, by: Some(session.place) });
                }
                None => return strange(),
            },
            _ => (),
        }
        let Some(channel) = frame["channel"].as_str().map(Name::from) else { return strange() };
        let inner = || serde_json::from_str::<Value>(data).unwrap_or_default();
        let user = || Name::from(inner()["user_id"].as_str().unwrap_or_default());
        recorder.record(match event {
            "n" | "client-n" => match publisher::event(self.app, data) {
                Some(event) => What::Heard { connection, channel, event },
                None => return strange(),
            },
            "pusher_internal:subscription_succeeded" => {
                let ids = inner()["presence"]["ids"].clone();
                let ids = ids.as_array().map(Vec::as_slice).unwrap_or_default();
                let members = ids.iter().map(|id| Name::from(id.as_str().unwrap_or_default())).collect();
                What::Joined { connection, channel, members }
            }
            "pusher_internal:member_added" => What::MemberCame { connection, channel, user: user() },
            "pusher_internal:member_removed" => What::MemberWent { connection, channel, user: user() },
            "gema:history_gap" => What::Gap { connection, channel, missed: inner()["missed"].as_u64() },
            "pusher:cache_miss" => return,
            // An expired grant, by the node's clock. The page comes back with another one.
            "pusher:subscription_error" if &*channel == VIEW => {
                session.short = false;
                return recorder.note(format!("connection {connection} got {text}"));
            }
            _ => return strange(),
        });
    }
}

async fn send(socket: &mut Socket, message: &Value) -> Result<(), Broken> {
    let sending = socket.send(Message::text(message.to_string()));
    timeout(PATIENCE, sending).await.map_err(|_| Broken)?.map_err(|_| Broken)
}
