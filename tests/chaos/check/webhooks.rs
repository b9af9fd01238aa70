//! Webhooks: at least once, in order, and the truth in the end.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use super::CLIENTS;
use super::Digest;
use super::Outcome;
use super::RESENT;
use super::concerns;
use super::is_presence;
use super::overlaps;
use super::seconds;
use crate::history::Entry;
use crate::history::Event;
use crate::history::Kind;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::What;
use crate::history::is_there;

/// What waits in Redis while the application is away may be lost with Redis so long after it happened.
const WAITING: Time = 90 * SECOND;
/// A node that is killed or stopped may have lost what it could not bring to Redis.
const TAKEN_ALONG: Time = 2 * SECOND;
/// A node that stops has sent what it can within this time.
const LAST_WORDS: Time = 10 * SECOND;

impl Digest<'_> {
    /// What a client has sent comes in its order. A repetition may come later.
    pub(super) fn webhooks_come_in_order(&self, broken: &mut Vec<String>) {
        let mut posted: BTreeSet<Event> = BTreeSet::new();
        let mut last: HashMap<(u32, &Name), (u32, Time)> = HashMap::new();
        for Entry { at, what } in &self.history.entries {
            let What::Posted { app, channel, event: Some(event), .. } = what else { continue };
            let whose = format!("at {}: a webhook about {event:?} on {channel} of app {app}", seconds(*at));
            match self.publications.get(event) {
                Some(publication) if publication.app != *app => broken.push(format!("{whose} of another app")),
                Some(_) => (),
                None => broken.push(format!("{whose}, which was never sent")),
            }
            if !posted.insert(*event) {
                continue;
            }
            let (before, then) = last.insert((event.publisher, channel), (event.number, *at)).unwrap_or_default();
            if before > event.number && !self.went_around_redis(*event, then) {
                broken.push(format!("{whose} came after number {before}"));
            }
        }
    }

    /// Its node stopped while Redis took nothing, and then sent what it had, such as a later event, past what waits there.
    fn went_around_redis(&self, event: Event, later: Time) -> bool {
        let Some(Outcome::Accepted(Some(place))) = self.outcome(event) else { return false };
        let mut stops = self.history.stops.iter().filter(|(stopped, _)| *stopped == place);
        stops.any(|(_, at)| self.is_without_redis(place, *at) && later >= *at && later <= at + LAST_WORDS)
    }

    /// Redis is away, or takes nothing, when this process stops.
    fn is_without_redis(&self, place: Place, stopped: Time) -> bool {
        self.disturbed(place.node, stopped.saturating_sub(SECOND), stopped + TAKEN_ALONG)
    }

    /// Until when it may be in the memory of its process alone: while Redis takes nothing, too.
    fn in_memory(&self, by: Option<Place>, sent: Time, transit: Time) -> Time {
        let full = self.history.windows.iter().filter(|window| window.kind == Kind::Members);
        let full =
            full.filter(|window| concerns(window, by.map(|place| place.node)) && overlaps(window, sent, transit));
        full.map(|window| window.until + RESENT).max().unwrap_or_default().max(transit)
    }

    pub(super) fn no_webhook_is_missing(&self, broken: &mut Vec<String>) {
        let is_posted = |entry: &Entry| matches!(entry.what, What::Posted { .. });
        let (Some(settled), true) = (self.settled, self.history.entries.iter().any(is_posted)) else { return };
        let posted: BTreeSet<Event> = self
            .history
            .entries
            .iter()
            .filter_map(|entry| if let What::Posted { event, .. } = &entry.what { *event } else { None })
            .collect();
        let clients = self.publications.iter().filter(|(event, _)| event.publisher >= CLIENTS);
        for (event, publication) in clients {
            let Outcome::Accepted(by) = publication.outcome else { continue };
            if posted.contains(event) || publication.answered > settled {
                continue;
            }
            let sent = publication.sent;
            let until = self.in_memory(by, sent, self.transit(sent, publication.answered, by));
            let ends = |all: &[(Place, Time)], is: &dyn Fn(Time) -> bool| {
                let mut own = all.iter().filter(|(place, at)| by == Some(*place) && *at >= sent);
                own.any(|(_, at)| *at <= until + TAKEN_ALONG && is(*at))
            };
            let taken_along = ends(&self.history.deaths, &|_| true)
                // It brings everything to Redis first, if that takes it.
                || ends(&self.history.stops, &|at| by.is_some_and(|by| self.is_without_redis(by, at)));
            let lost = self.history.windows.iter().filter(|window| window.kind == Kind::Loss);
            let lost = lost
                .filter(|window| concerns(window, None))
                .any(|window| overlaps(window, sent, publication.answered + WAITING));
            if !taken_along && !lost {
                broken.push(format!("no webhook about {event:?}, sent at {} to {by:?}", seconds(sent)));
            }
        }
    }

    /// The last webhook about each channel and member says what is so.
    pub(super) fn webhooks_are_right_in_the_end(&self, broken: &mut Vec<String>) {
        let mut said: BTreeMap<(usize, &Name, Option<&Name>), bool> = BTreeMap::new();
        for Entry { at, what } in &self.history.entries {
            let What::Posted { app, kind, channel, user, .. } = what else { continue };
            if let Some(is_there) = is_there(kind).filter(|_| self.settled.is_some_and(|settled| *at < settled)) {
                said.insert((*app, channel, user.as_ref()), is_there);
            }
        }
        if said.is_empty() {
            return;
        }
        let mut there: BTreeSet<(usize, &Name, Option<&Name>)> = BTreeSet::new();
        for stay in self.stays.iter().filter(|stay| stay.settled) {
            there.insert((stay.app, &stay.channel, None));
            if is_presence(&stay.channel) {
                there.insert((stay.app, &stay.channel, stay.user.as_ref()));
            }
        }
        let unknowable = self.stays.iter().filter(|stay| self.history.is_unknowable(stay.place));
        let unknowable: BTreeSet<_> = unknowable
            .flat_map(|stay| [None, stay.user.as_ref()].map(|user| (stay.app, &stay.channel, user)))
            .collect();
        for (what, said) in &said {
            if *said != there.contains(what) && !unknowable.contains(what) {
                broken.push(format!("webhooks end with {what:?} there: {said}, which is wrong"));
            }
        }
        for what in there.iter().filter(|what| !said.contains_key(*what) && !unknowable.contains(*what)) {
            broken.push(format!("no webhook says that {what:?} is there"));
        }
    }
}
