//! Promise 8: a known user who was cut off, and is back in time, misses nothing or is told so.

use std::collections::BTreeSet;
use std::collections::HashMap;

use super::Digest;
use super::LARAVEL;
use super::Outcome;
use super::Stay;
use super::WITH_HISTORY;
use super::overlaps;
use super::seconds;
use crate::history::Event;
use crate::history::How;
use crate::history::Kind;
use crate::history::Name;
use crate::history::SECOND;
use crate::history::Time;

/// Below the `seconds` of the rule.
const RETURN_MAX: Time = 50 * SECOND;
/// The missed events, or a gap, have come so long after the return if Redis is there.
const REPLAYED: Time = 10 * SECOND;

impl Digest<'_> {
    pub(super) fn who_returns_misses_nothing(&self, broken: &mut Vec<String>) {
        let mut by_user: HashMap<(usize, &Name, &Name), Vec<&Stay>> = HashMap::new();
        for stay in self.stays.iter().filter(|stay| stay.channel.starts_with(WITH_HISTORY)) {
            if let Some(user) = &stay.user {
                by_user.entry((stay.app, &stay.channel, user)).or_default().push(stay);
            }
        }
        for stays in by_user.values() {
            for two in stays.windows(2) {
                self.misses_nothing(two[0], two[1], broken);
            }
        }
    }

    fn misses_nothing(&self, before: &Stay, after: &Stay, broken: &mut Vec<String>) {
        let (Some(ended), Some(joined), Some(back)) = (before.ended, before.joined, after.joined) else { return };
        let cut_off = matches!(before.how, Some(How::Dropped | How::ByServer(_)));
        let until = if after.settled { self.settled } else { after.ended };
        let long_enough = until.is_some_and(|until| {
            let quiet = until.saturating_sub(REPLAYED).min(back + REPLAYED);
            until > back + REPLAYED && !self.disturbed(after.place.node, back, quiet)
        });
        if !cut_off || !long_enough || !after.gaps.is_empty() || back > ended + RETURN_MAX {
            return;
        }
        // With the data of Redis and the node itself nobody knows the user any more.
        let lost = self.history.windows.iter().any(|window| {
            matches!(window.kind, Kind::Loss | Kind::Split)
                && overlaps(window, joined.saturating_sub(REPLAYED), back + REPLAYED)
        });
        if lost {
            return;
        }
        let heard: BTreeSet<Event> = before.heard.iter().chain(&after.heard).map(|(_, event)| *event).collect();
        for (event, publication) in self.due(&Stay { ended: Some(back), ..Stay::like(before) }) {
            let Outcome::Accepted(by) = publication.outcome else { continue };
            let until = self.transit(publication.sent, publication.answered, by);
            if by == Some(LARAVEL) || heard.contains(&event) || self.died(by, publication.sent, until) {
                continue;
            }
            broken.push(format!(
                "{:?} was cut off on {} at {} on connection {} and back at {} on {}, and misses {event:?}, sent at {}",
                before.user,
                before.channel,
                seconds(ended),
                before.connection,
                seconds(back),
                after.connection,
                seconds(publication.sent)
            ));
        }
    }
}

impl Stay {
    /// The same subscription before anything came.
    fn like(other: &Self) -> Self {
        Self {
            channel: other.channel.clone(),
            user: other.user.clone(),
            grant: None,
            heard: Vec::new(),
            gaps: Vec::new(),
            members: BTreeSet::new(),
            ..*other
        }
    }
}
