//! Who has left and may be back in a moment: then nobody hears of it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;

/// A channel without subscribers, or a user without connections to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) app: Arc<str>,
    pub(super) channel: ChannelName,
    pub(super) user_id: Option<Arc<str>>,
}

/// So many may be held back; beyond it the first goes at once.
const HELD_MAX: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Leaving {
    delay: Duration,
    /// With the end of the time to return in.
    held: HashMap<Left, Instant>,
    /// All that have been held, in the order in which their time ends.
    order: VecDeque<(Instant, Left)>,
}

impl Leaving {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, held: HashMap::new(), order: VecDeque::new() }
    }

    /// Holds back that somebody has left. Returns who has to be told instead, if there are too many.
    pub(super) fn hold(&mut self, left: Left, now: Instant) -> Option<Left> {
        let until = now + self.delay;
        self.held.insert(left.clone(), until);
        self.order.push_back((until, left));
        if self.order.len() > HELD_MAX { self.pop() } else { None }
    }

    /// Whether somebody is back in time.
    pub(super) fn is_back(&mut self, left: &Left) -> bool {
        self.held.remove(left).is_some()
    }

    /// Whether somebody has left this app.
    pub(super) fn holds(&self, app: &str) -> bool {
        self.held.keys().any(|left| *left.app == *app)
    }

    /// When the next time ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.front().map(|(until, _)| *until)
    }

    /// Who has not come back in time.
    pub(super) fn due(&mut self, now: Instant) -> Option<Left> {
        while self.next().is_some_and(|until| until <= now) {
            if let Some(left) = self.pop() {
                return Some(left);
            }
        }
        None
    }

    /// Nobody will come back.
    pub(super) fn end(&mut self) -> Vec<Left> {
        let mut all = Vec::new();
        while !self.order.is_empty() {
            all.extend(self.pop());
        }
        all
    }

    /// The first, unless it is back.
    fn pop(&mut self) -> Option<Left> {
        let (until, left) = self.order.pop_front()?;
        if self.held.get(&left) != Some(&until) {
            return None;
        }
        self.held.remove(&left);
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    fn left(channel: &str, user_id: Option<&str>) -> Left {
        let channel = ChannelName::parse(channel, 200).unwrap();
        Left { app: "app".into(), channel, user_id: user_id.map(Into::into) }
    }

    #[test]
    fn who_is_back_in_time_is_not_told() {
        let (mut leaving, start) = (Leaving::new(DELAY), Instant::now());
        leaving.hold(left("a", None), start);
        leaving.hold(left("b", None), start);
        assert!(leaving.is_back(&left("a", None)) && !leaving.is_back(&left("c", None)));
        assert_eq!(leaving.due(start + DELAY / 2), None);
        assert_eq!(leaving.due(start + DELAY), Some(left("b", None)));
        assert_eq!((leaving.due(start + DELAY), leaving.next()), (None, None));
    }

    #[test]
    fn the_time_begins_anew_with_each_leaving() {
        let (mut leaving, start) = (Leaving::new(DELAY), Instant::now());
        leaving.hold(left("a", None), start);
        assert!(leaving.is_back(&left("a", None)));
        leaving.hold(left("a", None), start + DELAY / 2);
        assert_eq!(leaving.due(start + DELAY), None);
        assert_eq!(leaving.due(start + DELAY * 2), Some(left("a", None)));
    }

    #[test]
    fn the_last_member_leaves_before_the_channel_is_empty() {
        let mut leaving = Leaving::new(DELAY);
        let (user, channel) = (left("presence-a", Some("1")), left("presence-a", None));
        leaving.hold(user.clone(), Instant::now());
        leaving.hold(channel.clone(), Instant::now());
        assert_eq!(leaving.end(), [user, channel]);
    }

    #[test]
    fn beyond_the_bound_the_first_is_told_at_once() {
        let mut leaving = Leaving::new(DELAY);
        let names: Vec<String> = (0..=HELD_MAX).map(|number| format!("c-{number}")).collect();
        let told: Vec<_> = names.iter().filter_map(|name| leaving.hold(left(name, None), Instant::now())).collect();
        assert_eq!(told, [left("c-0", None)]);
    }
}
