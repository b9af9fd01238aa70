//! Published events: what arrives, in which order, and what does not.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

use super::CLIENTS;
use super::Digest;
use super::LARAVEL;
use super::Outcome;
use super::Publication;
use super::Stay;
use super::WITH_HISTORY;
use super::concerns;
use super::overlaps;
use super::seconds;
use crate::history::Event;
use crate::history::Kind;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;

/// An accepted event that has not come after this time does not come any more.
const NEVER: Time = 15 * SECOND;
/// Events stop at the latest so long after a client has left a channel.
const LEAVING: Time = 5 * SECOND;
/// Ends of grants are in whole seconds, and a message takes its time.
const EXPIRY: Time = 2 * SECOND;

impl Digest<'_> {
    /// Promises 5 and 7, and that nobody gets others' events, or what was refused, or what came too late.
    pub(super) fn only_what_was_sent(&self, stay: &Stay, broken: &mut Vec<String>) {
        for (at, event) in &stay.heard {
            let whose = format!("{}: {event:?}", stay.at(*at));
            let Some(publication) = self.publications.get(event) else {
                broken.push(format!("{whose} was never sent"));
                continue;
            };
            if publication.app != stay.app {
                broken.push(format!("{whose} is of another app"));
            }
            if !publication.channels.iter().any(|channel| stay.sources().contains(channel)) {
                broken.push(format!("{whose} is of other channels: {:?}", publication.channels));
            }
            if let Outcome::Refused(status) = publication.outcome {
                broken.push(format!("{whose} was refused with {status}"));
            }
            if event.publisher == CLIENTS + stay.connection {
                broken.push(format!("{whose} came back to its own sender"));
            }
            let over = stay.ended.filter(|_| stay.by_client());
            let late = |over| publication.sent > over + LEAVING && !self.was_away(stay.place.node, over, *at);
            if over.is_some_and(late) {
                broken.push(format!("{whose} was sent long after the client had left"));
            }
            if let Some((_, until)) = &stay.grant
                && publication.sent > until + EXPIRY
                && !self.clock_was_wrong(stay, *at)
            {
                broken.push(format!("{whose} was sent after the end of the grant at {}", seconds(*until)));
            }
        }
    }

    /// The node, or its way to Redis, did nothing at some time in between. What clients ask for waits then.
    fn was_away(&self, node: usize, from: Time, until: Time) -> bool {
        self.links().any(|window| concerns(window, Some(node)) && overlaps(window, from, until))
    }

    /// A node counts the time of a grant from the subscription on.
    fn clock_was_wrong(&self, stay: &Stay, until: Time) -> bool {
        let mut wrong = self.history.windows.iter().filter(|window| window.kind == Kind::Clock);
        wrong.any(|window| concerns(window, Some(stay.place.node)) && overlaps(window, stay.asked, until))
    }

    /// Promise 1.
    pub(super) fn in_order_and_once(&self, stay: &Stay, broken: &mut Vec<String>) {
        let mut times: HashMap<Event, usize> = HashMap::new();
        let mut last: BTreeMap<(u32, Place, &Name), u32> = BTreeMap::new();
        for (at, event) in &stay.heard {
            let whose = || format!("{}: {event:?}", stay.at(*at));
            let before = times.entry(*event).or_default();
            *before += 1;
            // A group view gets it once for each of its channels, among which there is no order.
            let channels = self.publications.get(event).map(|publication| &publication.channels).into_iter().flatten();
            let own: Vec<&Name> = channels.filter(|channel| stay.sources().contains(channel)).collect();
            if *before > own.len().max(1) {
                broken.push(format!("{} came twice", whose()));
            }
            let (Some(Outcome::Accepted(Some(place))), [channel]) = (self.outcome(*event), &own[..]) else { continue };
            let before = last.insert((event.publisher, place, channel), event.number);
            if before.is_some_and(|before| before > event.number) {
                broken.push(format!("{} came after number {}", whose(), before.unwrap_or_default()));
            }
        }
    }

    /// Promises 2 and 3: from the success of the subscription on everything that is accepted arrives. For a connection
    /// that has ended, events are missing only if later ones have arrived, or if there was much time.
    pub(super) fn without_holes(&self, stay: &Stay, broken: &mut Vec<String>) {
        if stay.grant.is_some() && self.clock_was_wrong(stay, stay.ended.unwrap_or(Time::MAX)) {
            return;
        }
        let heard: BTreeSet<Event> = stay.heard.iter().map(|(_, event)| *event).collect();
        let mut last: HashMap<(u32, Place), u32> = HashMap::new();
        for event in &heard {
            if let Some(Outcome::Accepted(Some(place))) = self.outcome(*event) {
                let number = last.entry((event.publisher, place)).or_default();
                *number = event.number.max(*number);
            }
        }
        for (event, publication) in self.due(stay) {
            let Outcome::Accepted(by) = publication.outcome else { continue };
            if heard.contains(&event) || event.publisher == CLIENTS + stay.connection {
                continue;
            }
            let latest = by.and_then(|by| last.get(&(event.publisher, by)));
            let overtaken = latest.is_some_and(|latest| event.number < *latest);
            let until = if stay.settled { self.settled } else { stay.ended.map(|ended| ended.saturating_sub(NEVER)) };
            // On a connection that ends it may still have been on its way.
            let arrived = match stay.settled {
                true => publication.answered,
                false => self.transit(publication.sent, publication.answered, by),
            };
            let late = until.is_some_and(|until| arrived < until);
            if !overtaken && !late {
                continue;
            }
            if self.explained(stay, publication, by) {
                self.missed.set(self.missed.get() + 1);
            } else {
                broken.push(format!(
                    "connection {} at {:?} on {} misses {event:?}, sent at {}, accepted by {by:?}; it joined at {}{}",
                    stay.connection,
                    stay.place,
                    stay.channel,
                    seconds(publication.sent),
                    seconds(stay.joined.unwrap_or_default()),
                    if overtaken { " and has later ones" } else { "" }
                ));
            }
        }
    }

    /// What was sent after a subscription had succeeded, and before it ended.
    pub(super) fn due<'a>(&'a self, stay: &'a Stay) -> impl Iterator<Item = (Event, &'a Publication)> {
        // The end of a grant is one by the clock of the node.
        let end = stay.grant.as_ref().map_or(Time::MAX, |(_, until)| until.saturating_sub(EXPIRY));
        let end = end.min(stay.ended.unwrap_or(Time::MAX));
        let joined = stay.joined.unwrap_or(Time::MAX);
        let lists = stay.sources().iter().filter_map(|channel| self.by_channel.get(&(stay.app, Arc::clone(channel))));
        let events = lists.flat_map(move |events| {
            let begin = events.partition_point(|event| self.publications[event].sent <= joined);
            events[begin..].iter().map(|event| (*event, &self.publications[event]))
        });
        events.filter(move |(_, publication)| publication.sent <= end)
    }

    /// A documented reason why an event of one process did not reach another one.
    fn explained(&self, stay: &Stay, publication: &Publication, by: Option<Place>) -> bool {
        if by == Some(stay.place) {
            return false;
        }
        let from = publication.sent;
        let until = self.transit(from, publication.answered, by);
        if self.died(by, from, until) {
            return true;
        }
        if stay.channel.starts_with(WITH_HISTORY) && by != Some(LARAVEL) {
            // It comes late, or a gap comes, unless the connection ends before that.
            let mut missed = self.history.windows.iter().filter(|window| {
                let concerned = concerns(window, Some(stay.place.node)) || concerns(window, by.map(|by| by.node));
                window.kind != Kind::Clock && concerned && overlaps(window, from, until)
            });
            return missed.any(|window| {
                let latest = window.until + NEVER;
                let told = stay.gaps.iter().any(|(at, _)| *at > from && *at < latest);
                told || window.kind != Kind::Members && stay.ended.is_some_and(|ended| ended < latest)
            });
        }
        let windows = self.links().filter(|window| concerns(window, Some(stay.place.node)));
        let mut missed = windows.filter(|window| overlaps(window, from, until));
        missed.next().is_some()
    }
}
