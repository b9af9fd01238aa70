//! Counts the events that other nodes miss, because they did not fit among those that wait for the link.
//! `Outgoing` adds them here, and reports to the other nodes how many they were.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::protocol::envelope::Topic;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::Operation;

/// Channels whose events are counted apart.
const CHANNELS_MAX: usize = 1000;

/// Events that the other nodes miss.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Those of which the other nodes do not know yet, by app and channel.
    unreported: HashMap<(Arc<str>, Topic), Count>,
    /// Those of further channels, by app. The topic is one of them.
    of_several: HashMap<Arc<str>, (Topic, Count)>,
    /// All events since the last [`Self::end`].
    since_begin: u64,
    /// Events since the last [`Self::take_uncounted`].
    uncounted: u64,
}

/// Some events, and when the first one was accepted.
#[derive(Debug, Clone, Copy)]
struct Count {
    events: u64,
    since: Instant,
}

impl Missed {
    /// Counts an event that is dropped. Other commands are reports that have perhaps reached nobody.
    pub(super) fn add(&mut self, Command { app, topic, operation }: Command) {
        match operation {
            Operation::Publish(publish) => {
                self.since_begin += 1;
                self.uncounted += 1;
                self.remember((app, topic), Count { events: 1, since: publish.event.accepted }, false);
            }
            Operation::ReportMissed { events, since, of_several } => {
                self.remember((app, topic), Count { events, since }, of_several);
            }
            _ => (),
        }
    }

    fn remember(&mut self, of: (Arc<str>, Topic), count: Count, of_several: bool) {
        let is_full = self.unreported.len() >= CHANNELS_MAX && !self.unreported.contains_key(&of);
        if of_several || is_full {
            self.of_several.entry(of.0).and_modify(|(_, all)| all.add(count)).or_insert((of.1, count));
        } else {
            self.unreported.entry(of).and_modify(|all| all.add(count)).or_insert(count);
        }
    }

    /// Reports to the other nodes of all events since the last call.
    pub(super) fn reports(&mut self) -> Vec<Command> {
        let report = |app, topic, Count { events, since }, of_several| Command {
            app,
            topic,
            operation: Operation::ReportMissed { events, since, of_several },
        };
        let channels = self.unreported.drain().map(|((app, topic), count)| report(app, topic, count, false));
        let several = self.of_several.drain().map(|(app, (topic, count))| report(app, topic, count, true));
        channels.chain(several).collect()
    }

    /// Events since the first one that was dropped in this outage.
    pub(super) fn events(&self) -> u64 {
        self.since_begin
    }

    /// The outage has ended. Returns its events.
    pub(super) fn end(&mut self) -> u64 {
        std::mem::take(&mut self.since_begin)
    }

    /// Events that the metrics do not have yet.
    pub(super) fn take_uncounted(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.since = self.since.min(other.since);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::channel::ChannelName;
    use crate::protocol::event;
    use crate::registry::inbox::Event;
    use crate::registry::remote::command::Publish;

    fn event(app: &str, channel: &str, accepted: Instant) -> Command {
        let topic = Topic::Channel(ChannelName::parse(channel, 200).unwrap());
        let event = Event::of(event::published(channel, "e", "\"\""), accepted);
        let publish = Publish { number: 1, event, cache_for: None };
        Command { app: app.into(), topic, operation: Operation::Publish(publish) }
    }

    /// The reports, by app and channel.
    fn shown(commands: &[Command]) -> Vec<(&str, &str, u64, bool)> {
        let mut shown: Vec<_> = commands
            .iter()
            .map(|Command { app, topic, operation }| match (topic, operation) {
                (Topic::Channel(name), Operation::ReportMissed { events, of_several, .. }) => {
                    (&**app, name.as_str(), *events, *of_several)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        shown.sort_unstable();
        shown
    }

    #[test]
    fn events_are_counted_by_app_and_channel() {
        let (mut missed, now) = (Missed::default(), Instant::now());
        for (app, channel) in [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")] {
            missed.add(event(app, channel, now));
        }
        assert_eq!((missed.events(), missed.take_uncounted(), missed.take_uncounted()), (4, 4, 0));
        let commands = missed.reports();
        assert_eq!(shown(&commands), [("a", "x", 2, false), ("a", "y", 1, false), ("b", "x", 1, false)]);
        assert!(missed.reports().is_empty());
        commands.into_iter().for_each(|command| missed.add(command));
        missed.add(event("a", "x", now));
        assert_eq!(shown(&missed.reports()), [("a", "x", 3, false), ("a", "y", 1, false), ("b", "x", 1, false)]);
        assert_eq!((missed.end(), missed.end()), (5, 0), "what was taken back is counted once");
    }

    #[test]
    fn beyond_so_many_channels_those_of_an_app_are_counted_together() {
        let (mut missed, now) = (Missed::default(), Instant::now());
        for number in 0..3 * CHANNELS_MAX {
            missed.add(event("a", &format!("{number}"), now));
            missed.add(event("a", "0", now));
        }
        missed.add(event("b", "x", now));
        let commands = missed.reports();
        assert_eq!(commands.len(), CHANNELS_MAX + 2);
        let shown = shown(&commands);
        assert!(shown.contains(&("a", "0", 3 * CHANNELS_MAX as u64 + 1, false)));
        let several: Vec<_> = shown.iter().filter(|(.., of_several)| *of_several).map(|of| (of.0, of.2)).collect();
        assert_eq!(several, [("a", 2 * CHANNELS_MAX as u64), ("b", 1)]);
        let again = commands.len();
        commands.into_iter().for_each(|command| missed.add(command));
        assert_eq!(missed.reports().len(), again);
    }
    #[test]
    fn the_first_event_says_since_when_they_are_missing() {
        let (mut missed, now) = (Missed::default(), Instant::now());
        let later = |seconds| now + Duration::from_secs(seconds);
        missed.add(event("a", "x", later(2)));
        let reports = missed.reports();
        missed.add(event("a", "x", later(3)));
        reports.into_iter().for_each(|report| missed.add(report));
        missed.add(event("a", "x", later(1)));
        let [Command { operation: Operation::ReportMissed { events, since, .. }, .. }] = &missed.reports()[..] else {
            panic!("one channel")
        };
        assert_eq!((*events, *since), (3, later(1)));
    }
}
