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
            self.chain_misses_nothing(stays, broken);
        }
    }

    /// One after the other: whoever was cut off is owed everything since, until a return lasts long enough to judge it.
    fn chain_misses_nothing(&self, stays: &[&Stay], broken: &mut Vec<String>) {
        let mut owed: Vec<&Stay> = Vec::new();
        for stay in stays {
            let is_cut_off = matches!(stay.how, Some(How::Dropped | How::ByServer(_)));
            if stay.joined.is_some() && self.is_calm(stay) {
                self.misses_nothing(&owed, stay, broken);
                owed.clear();
            }
            // It may have been cut off before the answer came, and nothing is owed to those who leave.
            if !is_cut_off {
                owed.clear();
            } else if stay.joined.is_some() {
                owed.push(stay);
            }
        }
    }

    /// It lasts until everything that was missed must have come, or a gap, and Redis was there meanwhile.
    fn is_calm(&self, after: &Stay) -> bool {
        let (Some(back), Some(until)) = (after.joined, if after.settled { self.settled } else { after.ended }) else {
            return false;
        };
        let quiet = until.saturating_sub(REPLAYED).min(back + REPLAYED);
        until > back + REPLAYED && !self.disturbed(after.place.node, back, quiet)
    }

    fn misses_nothing(&self, before: &[&Stay], after: &Stay, broken: &mut Vec<String>) {
        let ([first, ..], Some(back)) = (before, after.joined) else { return };
        let Some(ended) = first.ended.filter(|ended| back <= ended + RETURN_MAX) else { return };
        // With the data of Redis and the node itself nobody knows the user any more.
        let lost = self.history.windows.iter().any(|window| {
            window.kind == Kind::Loss && overlaps(window, ended.saturating_sub(REPLAYED), back + REPLAYED)
        });
        let now = after.gaps.iter().filter(|(at, _)| *at <= back + REPLAYED);
        // `None` if the server cannot know how many.
        let told = now.map(|(_, missed)| *missed).sum::<Option<u64>>();
        let (Some(told), false) = (told, lost) else { return };
        let told_before = before.iter().flat_map(|stay| &stay.gaps).map(|(at, _)| *at).max().unwrap_or_default();
        let all = before.iter().copied().chain([after]).flat_map(|stay| &stay.heard);
        let heard: BTreeSet<Event> = all.map(|(_, event)| *event).collect();
        let mut missing = Vec::new();
        for (event, publication) in self.due(&Stay { ended: Some(back), ..Stay::like(first) }) {
            let Outcome::Accepted(by) = publication.outcome else { continue };
            let until = self.transit(publication.sent, publication.answered, by);
            let is_explained = by == Some(LARAVEL) || self.died(by, publication.sent, until);
            if !is_explained && !heard.contains(&event) && publication.sent > told_before {
                missing.push((event, publication.sent));
            }
        }
        if missing.len() as u64 > told {
            broken.push(format!(
                "{:?} was cut off on {} at {} on connection {} and back at {} on {}, was told of {told}, and misses {}",
                first.user,
                first.channel,
                seconds(ended),
                first.connection,
                seconds(back),
                after.connection,
                missing
                    .iter()
                    .map(|(event, at)| format!("{event:?}, sent at {}", seconds(*at)))
                    .collect::<Vec<_>>()
                    .join("; ")
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
