//! gema's promises as assertions over a history. Each check gives sentences about what is broken.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use crate::history::Connection;
use crate::history::Entry;
use crate::history::Event;
use crate::history::History;
use crate::history::How;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::What;

/// An event that another node has accepted is on its way no longer than this, unless Redis is away.
const TRANSIT: Time = 2 * SECOND;
/// A node that has found Redis again sends what waited within this time.
const RESENT: Time = 5 * SECOND;
/// A process that is killed may take along what it has accepted this shortly before.
const TAKEN_ALONG: Time = SECOND;
/// An accepted event that has not come after this time does not come any more.
const NEVER: Time = 15 * SECOND;
/// Events stop at the latest so long after a client has left a channel.
const LEAVING: Time = 5 * SECOND;
/// The members of a node that is away have left, or are back, after this time.
const GONE: Time = 45 * SECOND;

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
    asked: Time,
    joined: Option<Time>,
    /// When the client knows that it is over.
    ended: Option<Time>,
    /// The client has asked for the end of this subscription, or of the connection.
    by_client: bool,
    heard: Vec<(Time, Event)>,
    gaps: usize,
    members: BTreeSet<Name>,
    settled: bool,
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
}

/// Everything that is broken in this history.
pub fn check(history: &History) -> Vec<String> {
    let mut digest = Digest::of(history);
    let mut broken = std::mem::take(&mut digest.broken);
    for stay in &digest.stays {
        digest.only_what_was_sent(stay, &mut broken);
        digest.in_order_and_once(stay, &mut broken);
        digest.without_holes(stay, &mut broken);
    }
    digest.members_are_right_in_the_end(&mut broken);
    broken
}

impl<'a> Digest<'a> {
    fn of(history: &'a History) -> Self {
        let (stays, broken) = (Vec::new(), Vec::new());
        let (publications, by_channel, places) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut digest = Self { history, publications, by_channel, places, stays, settled: None, broken };
        let mut reading = Reading::default();
        for entry in &history.entries {
            digest.take(entry, &mut reading);
        }
        digest
    }

    fn take(&mut self, Entry { at, what }: &Entry, reading: &mut Reading) {
        let at = *at;
        match what {
            What::Note(_) => (),
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
                    self.end(*connection, &channel, (at, *how != How::ByServer(None)), reading);
                }
            }
            What::Left { connection, channel } => self.end(*connection, channel, (at, true), reading),
            What::Asked { connection, channel, user } => {
                reading.open.insert((*connection, Arc::clone(channel)), self.stays.len());
                self.begin(at, *connection, channel, user.clone());
            }
            What::Joined { connection, channel, .. } => {
                // Until now events of an earlier subscription may come. If it has been left again, nothing changes.
                let key = (*connection, Arc::clone(channel));
                if let Some(index) = reading.open.get(&key).copied() {
                    reading.last.insert(key, index);
                    self.hear(index, at, what);
                }
            }
            What::MemberCame { connection, channel, .. }
            | What::MemberWent { connection, channel, .. }
            | What::Heard { connection, channel, .. }
            | What::Gap { connection, channel } => match reading.last.get(&(*connection, Arc::clone(channel))) {
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

    fn begin(&mut self, at: Time, connection: Connection, channel: &Name, user: Option<Name>) {
        let Some((app, place)) = self.places.get(&connection).copied() else { return };
        self.stays.push(Stay {
            connection,
            app,
            place,
            channel: Arc::clone(channel),
            user,
            asked: at,
            joined: None,
            ended: None,
            by_client: false,
            heard: Vec::new(),
            gaps: 0,
            members: BTreeSet::new(),
            settled: false,
        });
    }

    fn answer(&mut self, event: Event, at: Time, outcome: Outcome) {
        if let Some(publication) = self.publications.get_mut(&event) {
            publication.answered = at;
            publication.outcome = outcome;
        }
    }

    fn end(&mut self, connection: Connection, channel: &Name, (at, by_client): (Time, bool), reading: &mut Reading) {
        if let Some(index) = reading.open.remove(&(connection, Arc::clone(channel))) {
            self.stays[index].ended = Some(at);
            self.stays[index].by_client = by_client;
        }
    }

    fn hear(&mut self, index: usize, at: Time, what: &What) {
        let stay = &mut self.stays[index];
        let whose = format!("at {}: connection {} on {}", seconds(at), stay.connection, stay.channel);
        match what {
            What::Joined { members, .. } => {
                stay.joined = Some(at);
                stay.members = members.iter().cloned().collect();
                if let Some(user) = stay.user.as_ref().filter(|user| !stay.members.contains(*user)) {
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
            _ => stay.gaps += 1,
        }
    }

    /// Promises 5 and 7, and that nobody hears others' apps or channels, or what was refused, or what came too late.
    fn only_what_was_sent(&self, stay: &Stay, broken: &mut Vec<String>) {
        for (at, event) in &stay.heard {
            let whose = format!("at {}: connection {} on {}: {event:?}", seconds(*at), stay.connection, stay.channel);
            let Some(publication) = self.publications.get(event) else {
                broken.push(format!("{whose} was never sent"));
                continue;
            };
            if publication.app != stay.app {
                broken.push(format!("{whose} is of another app"));
            }
            if !publication.channels.contains(&stay.channel) {
                broken.push(format!("{whose} is of other channels: {:?}", publication.channels));
            }
            if let Outcome::Refused(status) = publication.outcome {
                broken.push(format!("{whose} was refused with {status}"));
            }
            let over = stay.ended.filter(|_| stay.by_client);
            if over.is_some_and(|over| publication.sent > over + LEAVING && !self.disturbed(stay.place.node, over, *at))
            {
                broken.push(format!("{whose} was sent long after the client had left"));
            }
        }
    }

    /// Promise 1.
    fn in_order_and_once(&self, stay: &Stay, broken: &mut Vec<String>) {
        let mut all = BTreeSet::new();
        let mut last: BTreeMap<(u32, Place), u32> = BTreeMap::new();
        for (at, event) in &stay.heard {
            let whose = format!("at {}: connection {} on {}: {event:?}", seconds(*at), stay.connection, stay.channel);
            if !all.insert(*event) {
                broken.push(format!("{whose} came twice"));
                continue;
            }
            let outcome = self.publications.get(event).map(|publication| publication.outcome);
            let Some(Outcome::Accepted(Some(place))) = outcome else { continue };
            let before = last.insert((event.publisher, place), event.number);
            if before.is_some_and(|before| before > event.number) {
                broken.push(format!("{whose} came after number {}", before.unwrap_or_default()));
            }
        }
    }

    /// Promises 2 and 3: from the success of the subscription on everything that is accepted arrives. For a connection
    /// that has ended, events are missing only if later ones have arrived, or if there was much time.
    fn without_holes(&self, stay: &Stay, broken: &mut Vec<String>) {
        let Some(joined) = stay.joined else { return };
        let heard: BTreeSet<Event> = stay.heard.iter().map(|(_, event)| *event).collect();
        let mut last: HashMap<(u32, Place), u32> = HashMap::new();
        for event in &heard {
            if let Some(Outcome::Accepted(Some(place))) = self.publications.get(event).map(|known| known.outcome) {
                let number = last.entry((event.publisher, place)).or_default();
                *number = event.number.max(*number);
            }
        }
        let Some(published) = self.by_channel.get(&(stay.app, Arc::clone(&stay.channel))) else { return };
        let begin = published.partition_point(|event| self.publications[event].sent <= joined);
        for event in &published[begin..] {
            let publication = &self.publications[event];
            if stay.ended.is_some_and(|ended| publication.sent > ended) {
                break;
            }
            let Outcome::Accepted(by) = publication.outcome else { continue };
            if heard.contains(event) {
                continue;
            }
            let overtaken = by.and_then(|by| last.get(&(event.publisher, by))).is_some_and(|last| event.number < *last);
            let until = if stay.settled { self.settled } else { stay.ended.map(|ended| ended.saturating_sub(NEVER)) };
            let due = until.is_some_and(|until| publication.answered < until);
            if (overtaken || due) && !self.explained(stay, publication, by) {
                broken.push(format!(
                    "connection {} at {:?} on {} misses {event:?}, sent at {}, accepted by {by:?}; it joined at {}{}",
                    stay.connection,
                    stay.place,
                    stay.channel,
                    seconds(publication.sent),
                    seconds(joined),
                    if overtaken { " and has later ones" } else { "" }
                ));
            }
        }
    }

    /// A documented reason why an event of one process did not reach another one.
    fn explained(&self, stay: &Stay, publication: &Publication, by: Option<Place>) -> bool {
        if by == Some(stay.place) {
            return false;
        }
        let (from, mut until) = (publication.sent, publication.answered + TRANSIT);
        let nodes = |node: Option<usize>, place: Option<Place>| match (node, place) {
            (Some(node), Some(place)) => node == place.node,
            _ => true,
        };
        // The event waits while its node has no Redis.
        let windows = || self.history.windows.iter().filter(|window| window.events);
        for window in windows().filter(|window| nodes(window.node, by)) {
            if window.from <= until && window.until >= from {
                until = until.max(window.until + RESENT);
            }
        }
        let missed = windows()
            .filter(|window| nodes(window.node, Some(stay.place)))
            .any(|window| window.from <= until && window.until >= from);
        let died = self.history.deaths.iter().any(|(place, at)| {
            (by.is_none() || by == Some(*place)) && *at + TAKEN_ALONG >= from && *at <= until + TAKEN_ALONG
        });
        missed || died
    }

    /// Promise 4: everybody who is there in the end knows who else is there, and nobody was announced for nothing.
    fn members_are_right_in_the_end(&self, broken: &mut Vec<String>) {
        let settled: Vec<&Stay> = self.stays.iter().filter(|stay| stay.settled && stay.user.is_some()).collect();
        for stay in &settled {
            let same = settled.iter().filter(|other| other.app == stay.app && other.channel == stay.channel);
            let present: BTreeSet<Name> = same.filter_map(|other| other.user.clone()).collect();
            if stay.members != present {
                broken.push(format!(
                    "connection {} at {:?} on {} ends with the members {:?}, and there are {present:?}",
                    stay.connection, stay.place, stay.channel, stay.members
                ));
            }
        }
        let mut by_user: HashMap<(usize, &Name, &Name), Vec<&Stay>> = HashMap::new();
        for stay in &self.stays {
            if let Some(user) = &stay.user {
                by_user.entry((stay.app, &stay.channel, user)).or_default().push(stay);
            }
        }
        for Entry { at, what } in &self.history.entries {
            let (What::MemberWent { connection, channel, user } | What::MemberCame { connection, channel, user }) =
                what
            else {
                continue;
            };
            let Some((app, place)) = self.places.get(connection) else { continue };
            let own = by_user.get(&(*app, channel, user)).map(Vec::as_slice).unwrap_or_default();
            let whose = format!("at {}: connection {connection} on {channel}: {user}", seconds(*at));
            if matches!(what, What::MemberCame { .. }) {
                let long_gone = |stay: &&Stay| stay.ended.is_some_and(|ended| ended + GONE < *at) || stay.asked > *at;
                if own.iter().all(long_gone) {
                    broken.push(format!("{whose} came, and was not there for long"));
                }
            } else if own.iter().any(|stay| self.was_there(stay, *place, *at)) {
                broken.push(format!("{whose} went, and was there all the time"));
            }
        }
    }

    /// Something was wrong with this node, or with all, between these times.
    fn disturbed(&self, node: usize, from: Time, until: Time) -> bool {
        let mut windows = self.history.windows.iter();
        windows.any(|window| window.node.is_none_or(|own| own == node) && window.from <= until && window.until >= from)
    }

    /// A subscription that has stood for long, on a node that was well, as was the one that looks on.
    fn was_there(&self, stay: &Stay, from: Place, at: Time) -> bool {
        let began = at.saturating_sub(GONE);
        let stood = stay.joined.is_some_and(|joined| joined < began) && stay.ended.is_none_or(|ended| ended > at);
        let disturbed = [from.node, stay.place.node].iter().any(|node| self.disturbed(*node, began, at));
        stood && !disturbed
    }
}

/// Where the reader of a history is.
#[derive(Default)]
struct Reading {
    /// The subscription that is open, by its number.
    open: BTreeMap<(Connection, Name), usize>,
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
