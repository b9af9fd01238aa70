//! gema's promises as assertions over a history. Each check gives sentences about what is broken.

mod events;
mod members;
mod returns;
mod webhooks;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::history::Connection;
use crate::history::Entry;
use crate::history::Event;
use crate::history::History;
use crate::history::How;
use crate::history::Kind;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::What;
use crate::history::Window;

/// Channels that begin like this have a history.
pub const WITH_HISTORY: &str = "private-log";
/// Client events count as those of a publisher of their own: this, and the number of the connection.
pub const CLIENTS: u32 = 1_000_000;
/// Stands for Laravel, which publishes in Redis, to all nodes alike.
pub const LARAVEL: Place = Place { node: usize::MAX, life: 0 };

/// An event that another node has accepted is on its way no longer than this, unless Redis is away.
const TRANSIT: Time = 2 * SECOND;
/// A node that has found Redis again sends what waited within this time.
const RESENT: Time = 5 * SECOND;
/// A process that is killed may take along what it has accepted this shortly before.
const TAKEN_ALONG: Time = SECOND;

/// What became of a published event.
#[derive(Debug, Clone)]
struct Publication {
    app: usize,
    channels: Vec<Name>,
    sent: Time,
    answered: Time,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Refused(u16),
    Accepted(Option<Place>),
}

/// A subscription from the question to the end.
#[derive(Debug)]
struct Stay {
    connection: Connection,
    app: usize,
    place: Place,
    channel: Name,
    user: Option<Name>,
    /// Channels whose events it gets, and until when, if it is a group view.
    grant: Option<(Vec<Name>, Time)>,
    asked: Time,
    joined: Option<Time>,
    /// When the client knows that it is over.
    ended: Option<Time>,
    /// How, unless the client has only left the channel.
    how: Option<How>,
    heard: Vec<(Time, Event)>,
    /// When it was told of missing events, and of how many if that is known.
    gaps: Vec<(Time, Option<u64>)>,
    members: BTreeSet<Name>,
    settled: bool,
}

impl Stay {
    /// The client has asked for the end.
    fn by_client(&self) -> bool {
        self.ended.is_some() && !matches!(self.how, Some(How::ByServer(_)))
    }

    /// The channels whose events it gets.
    fn sources(&self) -> &[Name] {
        self.grant.as_ref().map_or(std::slice::from_ref(&self.channel), |(channels, _)| channels)
    }

    fn at(&self, at: Time) -> String {
        format!("at {}: connection {} at {:?} on {}", seconds(at), self.connection, self.place, self.channel)
    }
}

struct Digest<'a> {
    history: &'a History,
    publications: HashMap<Event, Publication>,
    /// What was published on a channel of an app, in the order of sending.
    by_channel: HashMap<(usize, Name), Vec<Event>>,
    places: HashMap<Connection, (usize, Place)>,
    stays: Vec<Stay>,
    settled: Option<Time>,
    broken: Vec<String>,
    missed: Cell<usize>,
}

/// What the judge says of a history.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Everything that is broken.
    pub broken: Vec<String>,
    /// Events that somebody missed for a reason that is documented, counted for each connection.
    pub missed: usize,
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let mut digest = Digest::of(history);
    let mut broken = std::mem::take(&mut digest.broken);
    for stay in &digest.stays {
        digest.only_what_was_sent(stay, &mut broken);
        digest.in_order_and_once(stay, &mut broken);
        digest.without_holes(stay, &mut broken);
    }
    digest.members_are_right_in_the_end(&mut broken);
    digest.nobody_is_announced_for_nothing(&mut broken);
    digest.who_returns_misses_nothing(&mut broken);
    digest.webhooks_come_in_order(&mut broken);
    digest.no_webhook_is_missing(&mut broken);
    digest.webhooks_are_right_in_the_end(&mut broken);
    Verdict { broken, missed: digest.missed.get() }
}

impl<'a> Digest<'a> {
    fn of(history: &'a History) -> Self {
        let (stays, broken, missed) = (Vec::new(), Vec::new(), Cell::default());
        let (publications, by_channel, places) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut digest = Self { history, publications, by_channel, places, stays, settled: None, broken, missed };
        let mut reading = Reading::default();
        for entry in &history.entries {
            digest.take(entry, &mut reading);
        }
        digest
    }

    fn take(&mut self, Entry { at, what }: &Entry, reading: &mut Reading) {
        let at = *at;
        match what {
            What::Note(_) | What::Posted { .. } => (),
            // Everybody leaves then, one sooner than the other.
            What::MemberCame { .. } | What::MemberWent { .. } if self.settled.is_some() => (),
            What::Fault(text) => self.broken.push(text.clone()),
            What::Strange { connection, text } => {
                self.broken.push(format!("at {}: connection {connection} got {text}", seconds(at)));
            }
            What::Sent { event, app, channels, .. } => self.send(at, *event, *app, channels),
            What::Accepted { event, by } => self.answer(*event, at, Outcome::Accepted(*by)),
            What::Refused { event, status } => self.answer(*event, at, Outcome::Refused(*status)),
            What::Opened { connection, app, place } => {
                self.places.insert(*connection, (*app, *place));
            }
            What::Settled => {
                self.settled = Some(at);
                for index in reading.open.values() {
                    self.stays[*index].settled = true;
                }
            }
            What::Closed { connection, how } => {
                for channel in reading.channels_of(*connection) {
                    self.end(*connection, &channel, (at, Some(*how)), reading);
                }
            }
            What::Left { connection, channel } => self.end(*connection, channel, (at, None), reading),
            What::Asked { connection, channel, user } => {
                let key = (*connection, Arc::clone(channel));
                reading.asked.entry(key.clone()).or_default().push_back(self.stays.len());
                reading.open.insert(key, self.stays.len());
                self.begin(at, *connection, channel, user.clone());
            }
            What::Granted { connection, channel, channels, until } => {
                if let Some(index) = reading.open.get(&(*connection, Arc::clone(channel))) {
                    self.stays[*index].grant = Some((channels.clone(), *until));
                }
            }
            What::Joined { connection, channel, .. } => {
                // Until now events of an earlier subscription may come. It may have been left again.
                let key = (*connection, Arc::clone(channel));
                match reading.asked.get_mut(&key).and_then(VecDeque::pop_front) {
                    Some(index) => {
                        reading.last.insert(key, index);
                        self.hear(index, at, what);
                    }
                    None => self.broken.push(format!("at {}: nobody has asked for {what:?}", seconds(at))),
                }
            }
            What::MemberCame { connection, channel, .. }
            | What::MemberWent { connection, channel, .. }
            | What::Heard { connection, channel, .. }
            | What::Gap { connection, channel, .. } => match reading.last.get(&(*connection, Arc::clone(channel))) {
                Some(index) => self.hear(*index, at, what),
                None => self.broken.push(format!("at {}: before its subscription: {what:?}", seconds(at))),
            },
        }
    }

    fn send(&mut self, at: Time, event: Event, app: usize, channels: &[Name]) {
        for channel in channels {
            self.by_channel.entry((app, Arc::clone(channel))).or_default().push(event);
        }
        let channels = channels.to_vec();
        let publication = Publication { app, channels, sent: at, answered: at, outcome: Outcome::Unknown };
        self.publications.insert(event, publication);
    }

    fn answer(&mut self, event: Event, at: Time, outcome: Outcome) {
        if let Some(publication) = self.publications.get_mut(&event) {
            publication.answered = at;
            publication.outcome = outcome;
        }
    }

    fn begin(&mut self, at: Time, connection: Connection, channel: &Name, user: Option<Name>) {
        let Some((app, place)) = self.places.get(&connection).copied() else { return };
        self.stays.push(Stay {
            connection,
            app,
            place,
            channel: Arc::clone(channel),
            user,
            grant: None,
            asked: at,
            joined: None,
            ended: None,
            how: None,
            heard: Vec::new(),
            gaps: Vec::new(),
            members: BTreeSet::new(),
            settled: false,
        });
    }

    fn end(&mut self, connection: Connection, channel: &Name, (at, how): (Time, Option<How>), reading: &mut Reading) {
        if let Some(index) = reading.open.remove(&(connection, Arc::clone(channel))) {
            self.stays[index].ended = Some(at);
            self.stays[index].how = how;
        }
    }

    fn hear(&mut self, index: usize, at: Time, what: &What) {
        let stay = &mut self.stays[index];
        let whose = stay.at(at);
        match what {
            What::Joined { members, .. } => {
                stay.joined = Some(at);
                stay.members = members.iter().cloned().collect();
                let own = stay.user.as_ref().filter(|_| is_presence(&stay.channel));
                if let Some(user) = own.filter(|user| !stay.members.contains(*user)) {
                    self.broken.push(format!("{whose}: {user} is not in the list that it got: {members:?}"));
                }
            }
            What::MemberCame { user, .. } => {
                let new = stay.members.insert(Arc::clone(user));
                if !new {
                    self.broken.push(format!("{whose}: {user} came twice"));
                }
            }
            What::MemberWent { user, .. } => {
                let there = stay.members.remove(user);
                if !there {
                    self.broken.push(format!("{whose}: {user} went twice"));
                }
            }
            What::Heard { event, .. } => stay.heard.push((at, *event)),
            What::Gap { missed, .. } => stay.gaps.push((at, *missed)),
            _ => unreachable!("{what:?} is not of a subscription"),
        }
    }

    fn outcome(&self, event: Event) -> Option<Outcome> {
        self.publications.get(&event).map(|publication| publication.outcome)
    }

    /// Windows in which events may have been lost between nodes.
    fn links(&self) -> impl Iterator<Item = &Window> {
        self.history.windows.iter().filter(|window| matches!(window.kind, Kind::Link | Kind::Loss))
    }

    /// Redis, or the way of this node to it, was not as it should be at some time in between.
    fn disturbed(&self, node: usize, from: Time, until: Time) -> bool {
        let mut windows = self.history.windows.iter().filter(|window| window.kind != Kind::Clock);
        windows.any(|window| concerns(window, Some(node)) && overlaps(window, from, until))
    }

    /// Until when an event may be on its way: it waits while its node has no Redis.
    fn transit(&self, sent: Time, answered: Time, by: Option<Place>) -> Time {
        let mut until = answered + TRANSIT;
        for window in self.links().filter(|window| concerns(window, by.map(|place| place.node))) {
            // It waits behind what has waited.
            if overlaps(window, sent.saturating_sub(RESENT), until) {
                until = until.max(window.until + RESENT);
            }
        }
        until
    }

    /// Its process was killed before it can be sure that the event has left it, or stopped while it had no Redis.
    fn died(&self, by: Option<Place>, from: Time, until: Time) -> bool {
        let ended = |(place, at): &&(Place, Time)| {
            by.is_none_or(|by| by == *place) && *at + TAKEN_ALONG >= from && *at <= until + TAKEN_ALONG
        };
        let alone = |(place, at): &(Place, Time)| {
            self.links().any(|window| concerns(window, Some(place.node)) && overlaps(window, *at, *at + TAKEN_ALONG))
        };
        self.history.deaths.iter().any(|death| ended(&death)) || self.history.stops.iter().filter(ended).any(alone)
    }
}

/// Without a node, it is about any.
fn concerns(window: &Window, node: Option<usize>) -> bool {
    window.node.is_none() || node.is_none() || window.node == node
}

fn overlaps(window: &Window, from: Time, until: Time) -> bool {
    window.from <= until && window.until >= from
}

fn is_presence(channel: &str) -> bool {
    channel.starts_with("presence-")
}

/// Where the reader of a history is.
#[derive(Default)]
struct Reading {
    /// The subscription that is open, by its number.
    open: BTreeMap<(Connection, Name), usize>,
    /// Those that have not succeeded so far.
    asked: HashMap<(Connection, Name), VecDeque<usize>>,
    /// The last one that has succeeded, open or not.
    last: HashMap<(Connection, Name), usize>,
}

impl Reading {
    fn channels_of(&self, connection: Connection) -> Vec<Name> {
        let from = (connection, Name::from(""));
        let own = self.open.range(from..).take_while(|((other, _), _)| *other == connection);
        own.map(|((_, channel), _)| Arc::clone(channel)).collect()
    }
}

fn seconds(at: Time) -> String {
    format!("{:.3} s", at as f64 / SECOND as f64)
}
