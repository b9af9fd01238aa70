//! Everything that happened in a run, as somebody outside has seen it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

/// Microseconds since the run began.
pub type Time = u64;

pub const SECOND: Time = 1_000_000;

pub type Name = Arc<str>;

/// A published event: each publisher counts its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    pub publisher: u32,
    pub number: u32,
}

/// One process: the node, and how often it has been started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub node: usize,
    pub life: u32,
}

pub type Connection = u32;

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// For whoever reads the history; the checks pass it over.
    Note(String),
    /// A request to publish is on its way. A client event is on its way to the client's own node.
    Sent {
        event: Event,
        app: usize,
        channels: Vec<Name>,
        to: Option<Place>,
    },
    /// It was answered with 200, by this process if that is known.
    Accepted {
        event: Event,
        by: Option<Place>,
    },
    /// It was answered by gema, and not with 200.
    Refused {
        event: Event,
        status: u16,
    },
    /// Somebody is connected to this process.
    Opened {
        connection: Connection,
        app: usize,
        place: Place,
    },
    /// A subscription was asked for.
    Asked {
        connection: Connection,
        channel: Name,
        user: Option<Name>,
    },
    /// The subscription that was just asked for is a group view of these channels, until then.
    Granted {
        connection: Connection,
        channel: Name,
        channels: Vec<Name>,
        until: Time,
    },
    /// It succeeded, on a presence channel with these members.
    Joined {
        connection: Connection,
        channel: Name,
        members: Vec<Name>,
    },
    /// The client has asked to leave the channel.
    Left {
        connection: Connection,
        channel: Name,
    },
    MemberCame {
        connection: Connection,
        channel: Name,
        user: Name,
    },
    MemberWent {
        connection: Connection,
        channel: Name,
        user: Name,
    },
    Heard {
        connection: Connection,
        channel: Name,
        event: Event,
    },
    /// `gema:history_gap`, with the number of missed events if the server knows it.
    Gap {
        connection: Connection,
        channel: Name,
        missed: Option<u64>,
    },
    /// Something that nobody has sent, or not like this.
    Strange {
        connection: Connection,
        text: String,
    },
    /// The connection has ended, by the client with a close frame or without, or not by the client.
    Closed {
        connection: Connection,
        how: How,
    },
    /// A webhook came. The event is that of a client.
    Posted {
        app: usize,
        kind: Name,
        channel: Name,
        user: Option<Name>,
        event: Option<Event>,
    },
    /// From here on nobody does anything, and everything that was accepted has arrived.
    Settled,
    /// An end that a limit in time was missed for, or a process that ended by itself.
    Fault(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Clean,
    Dropped,
    ByServer(Option<u16>),
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub at: Time,
    pub what: What,
}

/// A time in which a node, or every node, may not have been what it promises to be.
#[derive(Debug, Clone)]
pub struct Window {
    pub node: Option<usize>,
    pub from: Time,
    pub until: Time,
    pub why: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may have missed what the others published.
    Link,
    /// The same, and Redis has lost what it knew.
    Loss,
    /// Changes of members may have come late; events have not.
    Members,
    /// Its clock was wrong.
    Clock,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In the order of their times.
    pub entries: Vec<Entry>,
    pub windows: Vec<Window>,
    /// Processes that were killed, and when.
    pub deaths: Vec<(Place, Time)>,
    /// Processes that were asked to stop, and when.
    pub stops: Vec<(Place, Time)>,
}

impl History {
    /// Nobody could know what became of what this process had: it stopped while Redis was away, so it decided alone, or
    /// it was killed and Redis has lost what it had.
    pub fn is_unknowable(&self, process: Place) -> bool {
        let near = |at: Time, before: Time, after: Time, is: fn(Kind) -> bool| {
            let concern = |window: &&Window| window.node.is_none_or(|node| node == process.node) && is(window.kind);
            let mut windows = self.windows.iter().filter(concern);
            windows.any(|window| window.from <= at + after && window.until + before >= at)
        };
        let link = |kind| matches!(kind, Kind::Link | Kind::Loss);
        let loss = |kind| kind == Kind::Loss;
        let of_it = |(place, at): &(Place, Time)| (*place == process).then_some(*at);
        self.stops.iter().filter_map(of_it).any(|at| near(at, SECOND, 3 * SECOND, link))
            || self.deaths.iter().filter_map(of_it).any(|at| near(at, 5 * SECOND, 25 * SECOND, loss))
    }

    /// As text, one line each.
    pub fn write(&self, path: &Path) {
        let mut text = String::new();
        for Entry { at, what } in &self.entries {
            writeln!(text, "{:12.6} {what:?}", *at as f64 / 1e6).unwrap();
        }
        for Window { node, from, until, why, kind } in &self.windows {
            let (from, until) = (*from as f64 / 1e6, *until as f64 / 1e6);
            writeln!(text, "window {from:.6} to {until:.6} node {node:?} {kind:?}: {why}").unwrap();
        }
        for (place, at) in &self.deaths {
            writeln!(text, "killed {place:?} at {:.6}", *at as f64 / 1e6).unwrap();
        }
        fs::write(path, text).unwrap();
    }
}

/// Takes down what happens, and knows who is where now.
#[derive(Clone)]
pub struct Recorder(Arc<Record>);

struct Record {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    now: Now,
    connections: Connection,
}

/// Who is connected and subscribed at the moment.
#[derive(Debug, Clone, Default)]
pub struct Now {
    pub connections: BTreeMap<Connection, Open>,
    /// By app, channel and user, or channel alone: webhooks have announced that it is there.
    pub posted: BTreeMap<Occupancy, bool>,
    /// What each process has ever had.
    pub had: BTreeMap<Place, BTreeSet<Occupancy>>,
}

/// An app's channel that somebody is on, or a member of it: what webhooks are about.
pub type Occupancy = (usize, Name, Option<Name>);

#[derive(Debug, Clone)]
pub struct Open {
    pub app: usize,
    pub place: Place,
    pub channels: BTreeMap<Name, Subscription>,
}

#[derive(Debug, Clone, Default)]
pub struct Subscription {
    pub joined: bool,
    pub user: Option<Name>,
    /// The members as the client knows them.
    pub members: BTreeSet<Name>,
    /// The last event of each publisher.
    pub last: BTreeMap<u32, u32>,
    /// Those of a group view.
    pub granted: Vec<Name>,
}

impl Recorder {
    pub fn new() -> Self {
        Self(Arc::new(Record { began: Instant::now(), state: Mutex::default() }))
    }

    pub fn now(&self) -> Time {
        self.0.began.elapsed().as_micros().try_into().unwrap()
    }

    /// Takes this down with the present time.
    pub fn record(&self, what: What) {
        let mut state = self.0.state.lock().unwrap();
        // Under the lock, so that the entries are in order.
        let at = self.now();
        state.now.take(&what);
        state.history.entries.push(Entry { at, what });
    }

    pub fn note(&self, text: impl Into<String>) {
        self.record(What::Note(text.into()));
    }

    pub fn fault(&self, text: impl Into<String>) {
        let text = text.into();
        println!("fault: {text}");
        self.record(What::Fault(text));
    }

    pub fn window(&self, window: Window) {
        self.0.state.lock().unwrap().history.windows.push(window);
    }

    pub fn death(&self, place: Place) {
        let at = self.now();
        self.0.state.lock().unwrap().history.deaths.push((place, at));
    }

    pub fn stop(&self, place: Place) {
        let at = self.now();
        self.0.state.lock().unwrap().history.stops.push((place, at));
    }

    /// A number for a new connection.
    pub fn connection(&self) -> Connection {
        let mut state = self.0.state.lock().unwrap();
        state.connections += 1;
        state.connections
    }

    /// Looks at the present state.
    pub fn look<T>(&self, look: impl FnOnce(&Now) -> T) -> T {
        look(&self.0.state.lock().unwrap().now)
    }

    /// What webhooks may be wrong about in the end.
    pub fn unknowable(&self) -> BTreeSet<Occupancy> {
        let state = self.0.state.lock().unwrap();
        let had = state.now.had.iter().filter(|(place, _)| state.history.is_unknowable(**place));
        had.flat_map(|(_, had)| had.iter().cloned()).collect()
    }

    /// The history, of which nothing is left here.
    pub fn take_history(&self) -> History {
        std::mem::take(&mut self.0.state.lock().unwrap().history)
    }
}

impl Now {
    fn take(&mut self, what: &What) {
        match what {
            What::Opened { connection, app, place } => {
                let open = Open { app: *app, place: *place, channels: BTreeMap::new() };
                self.connections.insert(*connection, open);
            }
            What::Closed { connection, .. } => {
                self.connections.remove(connection);
            }
            What::Asked { connection, channel, user } => {
                let subscription = Subscription { user: user.clone(), ..Subscription::default() };
                if let Some(open) = self.connections.get_mut(connection) {
                    let had = self.had.entry(open.place).or_default();
                    had.insert((open.app, Arc::clone(channel), None));
                    had.insert((open.app, Arc::clone(channel), user.clone()));
                    open.channels.insert(Arc::clone(channel), subscription);
                }
            }
            What::Left { connection, channel } => {
                if let Some(open) = self.connections.get_mut(connection) {
                    open.channels.remove(channel);
                }
            }
            What::Joined { connection, channel, members } => {
                if let Some(subscription) = self.find(*connection, channel) {
                    subscription.joined = true;
                    subscription.members.extend(members.iter().cloned());
                }
            }
            What::MemberCame { connection, channel, user } => {
                if let Some(subscription) = self.find(*connection, channel) {
                    subscription.members.insert(Arc::clone(user));
                }
            }
            What::MemberWent { connection, channel, user } => {
                if let Some(subscription) = self.find(*connection, channel) {
                    subscription.members.remove(user);
                }
            }
            What::Heard { connection, channel, event } => {
                if let Some(subscription) = self.find(*connection, channel) {
                    subscription.last.insert(event.publisher, event.number);
                }
            }
            What::Granted { connection, channel, channels, .. } => {
                if let Some(subscription) = self.find(*connection, channel) {
                    subscription.granted.clone_from(channels);
                }
            }
            What::Posted { app, kind, channel, user, .. } => {
                if let Some(is_there) = is_there(kind) {
                    self.posted.insert((*app, Arc::clone(channel), user.clone()), is_there);
                }
            }
            _ => (),
        }
    }

    fn find(&mut self, connection: Connection, channel: &Name) -> Option<&mut Subscription> {
        self.connections.get_mut(&connection)?.channels.get_mut(channel)
    }

    /// What webhooks should have announced to be there.
    pub fn is_there(&self) -> BTreeSet<Occupancy> {
        let mut all = BTreeSet::new();
        for open in self.connections.values() {
            for (channel, subscription) in &open.channels {
                all.insert((open.app, Arc::clone(channel), None));
                if channel.starts_with("presence-") {
                    all.insert((open.app, Arc::clone(channel), subscription.user.clone()));
                }
            }
        }
        all
    }

    /// What they have announced to be there.
    pub fn is_posted(&self) -> BTreeSet<Occupancy> {
        self.posted.iter().filter(|(_, is_there)| **is_there).map(|(what, _)| what.clone()).collect()
    }

    /// The users who are members of a presence channel now.
    pub fn users(&self, app: usize, channel: &str) -> BTreeSet<Name> {
        let open = self.connections.values().filter(|open| open.app == app);
        open.filter_map(|open| open.channels.get(channel)?.user.clone()).collect()
    }

    /// Each subscription of a channel.
    pub fn subscriptions<'a>(
        &'a self,
        app: usize,
        channel: &'a str,
    ) -> impl Iterator<Item = (Connection, &'a Open, &'a Subscription)> {
        let open = self.connections.iter().filter(move |(_, open)| open.app == app);
        open.filter_map(move |(connection, open)| Some((*connection, open, open.channels.get(channel)?)))
    }
}

/// Whether a webhook of this kind says that somebody is there, or is not.
pub fn is_there(kind: &str) -> Option<bool> {
    match kind {
        "channel_occupied" | "member_added" => Some(true),
        "channel_vacated" | "member_removed" => Some(false),
        _ => None,
    }
}
