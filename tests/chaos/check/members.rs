//! Promise 4: each coming and going, once, and the truth in the end.

use std::collections::BTreeSet;
use std::collections::HashMap;

use super::Digest;
use super::Stay;
use super::is_presence;
use super::seconds;
use crate::history::Entry;
use crate::history::Name;
use crate::history::Place;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::What;

/// The members of a node that is away have left, or are back, after this time.
const GONE: Time = 45 * SECOND;
/// Official clients report through a pipe, so their reports may be this late.
const LATE: Time = SECOND / 2;

impl Digest<'_> {
    /// Everybody who is there in the end knows who else is there.
    pub(super) fn members_are_right_in_the_end(&self, broken: &mut Vec<String>) {
        let settled: Vec<&Stay> = self.stays.iter().filter(|stay| stay.settled && is_presence(&stay.channel)).collect();
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
    }

    /// Who comes was not there, and who goes is not there any more.
    pub(super) fn nobody_is_announced_for_nothing(&self, broken: &mut Vec<String>) {
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
            let whose = format!("at {}: connection {connection} at {place:?} on {channel}: {user}", seconds(*at));
            if matches!(what, What::MemberCame { .. }) {
                let long_gone =
                    |stay: &&Stay| stay.ended.is_some_and(|ended| ended + GONE < *at) || stay.asked > *at + LATE;
                if own.iter().all(long_gone) {
                    broken.push(format!("{whose} came, and was not there for long"));
                }
            } else if own.iter().any(|stay| self.was_there(stay, *place, *at)) {
                broken.push(format!("{whose} went, and was there all the time"));
            }
        }
    }

    /// A subscription that has stood for long, on a node that was well, as was the one that looks on.
    fn was_there(&self, stay: &Stay, from: Place, at: Time) -> bool {
        let began = at.saturating_sub(GONE);
        let stood = stay.joined.is_some_and(|joined| joined < began) && stay.ended.is_none_or(|ended| ended > at);
        stood && ![from.node, stay.place.node].iter().any(|node| self.disturbed(*node, began, at))
    }
}
