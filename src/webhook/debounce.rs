//! Delays `channel_vacated` and `member_removed`, so that a page that reconnects causes no events.
//! `dispatch` asks it before it announces that a channel or member has gone.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::protocol::channel::ChannelName;

/// A channel with subscribers, or with `user_id` a member of a presence channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Occupancy {
    pub(super) app: Arc<str>,
    pub(super) channel: ChannelName,
    pub(super) user_id: Option<Arc<str>>,
}

/// Events that may be delayed at once; beyond it the oldest is due at once.
const DELAYED_MAX: usize = 100_000;

/// The delayed ends of occupancies.
#[derive(Debug)]
pub(super) struct Debounce {
    delay: Duration,
    /// The time when each is due.
    delayed: HashMap<Occupancy, Instant>,
    /// Everything that was delayed, by the time when it is due; cancelled ones stay until then.
    due_queue: VecDeque<(Instant, Occupancy)>,
}

impl Debounce {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, delayed: HashMap::new(), due_queue: VecDeque::new() }
    }

    /// Delays the end of an occupancy. Returns one that is due now, if there are too many.
    pub(super) fn delay(&mut self, occupancy: Occupancy, now: Instant) -> Option<Occupancy> {
        let due_at = now + self.delay;
        self.delayed.insert(occupancy.clone(), due_at);
        self.due_queue.push_back((due_at, occupancy));
        if self.due_queue.len() > DELAYED_MAX { self.pop() } else { None }
    }

    /// Cancels a delayed end. False when there is none.
    pub(super) fn cancel(&mut self, occupancy: &Occupancy) -> bool {
        self.delayed.remove(occupancy).is_some()
    }

    /// Whether an end of this app is delayed.
    pub(super) fn has_app(&self, app: &str) -> bool {
        self.delayed.keys().any(|occupancy| *occupancy.app == *app)
    }

    /// When the next end is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due_queue.front().map(|(due_at, _)| *due_at)
    }

    /// The next end that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Occupancy> {
        while self.next_due().is_some_and(|due_at| due_at <= now) {
            if let Some(occupancy) = self.pop() {
                return Some(occupancy);
            }
        }
        None
    }

    /// All delayed ends, in order.
    pub(super) fn drain(&mut self) -> Vec<Occupancy> {
        let mut all = Vec::new();
        while !self.due_queue.is_empty() {
            all.extend(self.pop());
        }
        all
    }

    /// The first, unless it was cancelled.
    fn pop(&mut self) -> Option<Occupancy> {
        let (due_at, occupancy) = self.due_queue.pop_front()?;
        if self.delayed.get(&occupancy) != Some(&due_at) {
            return None;
        }
        self.delayed.remove(&occupancy);
        Some(occupancy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    fn occupancy(channel: &str, user_id: Option<&str>) -> Occupancy {
        let channel = ChannelName::parse(channel, 200).unwrap();
        Occupancy { app: "app".into(), channel, user_id: user_id.map(Into::into) }
    }

    #[test]
    fn who_is_back_in_time_is_not_told() {
        let (mut debounce, start) = (Debounce::new(DELAY), Instant::now());
        debounce.delay(occupancy("a", None), start);
        debounce.delay(occupancy("b", None), start);
        assert!(debounce.cancel(&occupancy("a", None)) && !debounce.cancel(&occupancy("c", None)));
        assert_eq!(debounce.pop_due(start + DELAY / 2), None);
        assert_eq!(debounce.pop_due(start + DELAY), Some(occupancy("b", None)));
        assert_eq!((debounce.pop_due(start + DELAY), debounce.next_due()), (None, None));
    }

    #[test]
    fn the_time_begins_anew_with_each_leaving() {
        let (mut debounce, start) = (Debounce::new(DELAY), Instant::now());
        debounce.delay(occupancy("a", None), start);
        assert!(debounce.cancel(&occupancy("a", None)));
        debounce.delay(occupancy("a", None), start + DELAY / 2);
        assert_eq!(debounce.pop_due(start + DELAY), None);
        assert_eq!(debounce.pop_due(start + DELAY * 2), Some(occupancy("a", None)));
    }

    #[test]
    fn the_last_member_leaves_before_the_channel_is_empty() {
        let mut debounce = Debounce::new(DELAY);
        let (user, channel) = (occupancy("presence-a", Some("1")), occupancy("presence-a", None));
        debounce.delay(user.clone(), Instant::now());
        debounce.delay(channel.clone(), Instant::now());
        assert_eq!(debounce.drain(), [user, channel]);
    }

    #[test]
    fn beyond_the_bound_the_first_is_told_at_once() {
        let mut debounce = Debounce::new(DELAY);
        let names: Vec<String> = (0..=DELAYED_MAX).map(|number| format!("c-{number}")).collect();
        let due: Vec<_> =
            names.iter().filter_map(|name| debounce.delay(occupancy(name, None), Instant::now())).collect();
        assert_eq!(due, [occupancy("c-0", None)]);
    }
}
