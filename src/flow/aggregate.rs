//! Aggregation: of each key one event of figures at the end of each window that had input.
//!
//! With `at = "ingest"` the node that accepts events makes events of its figures at the end of a window. Each node merges
//! those of all nodes in a second window.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use serde_json::value::RawValue;

use crate::flow::beat::Beat;
use crate::flow::edit;
use crate::flow::figures;
use crate::flow::figures::Figures;
use crate::flow::keys::Keys;
use crate::flow::rule::Aggregate;
use crate::flow::rule::Emit;
use crate::flow::thinning::Buffered;
use crate::flow::thinning::Item;
use crate::flow::thinning::Now;
use crate::flow::thinning::Outcome;
use crate::flow::thinning::Sink;
use crate::flow::thinning::Thinning;
use crate::flow::thinning::id;
use crate::protocol::event;
use crate::protocol::event::Event;
use crate::protocol::json::quoted;
use crate::protocol::partial::Finite;
use crate::protocol::partial::Partial;
use crate::protocol::partial::PartialKey;

/// The open windows of a channel.
#[derive(Debug)]
pub(super) struct Aggregation {
    channel: Arc<str>,
    rule: Aggregate,
    part: Part,
    window: Duration,
    keys_max: usize,
    keys: Keys<Window>,
    /// The beat, and when the last window ends that has been opened, even if it was flushed.
    beat: Option<(Beat, Instant)>,
}

/// The part of the work that is done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The figures of what this node accepts, for all nodes.
    Partial,
    /// The figures of all nodes together, for the subscribers of this one.
    Merged,
}

/// The window of a key.
#[derive(Debug)]
struct Window {
    name: Box<str>,
    key: Box<str>,
    figures: Figures,
    values: Vec<f64>,
    skipped: u64,
    /// The first and the last reading, in milliseconds since 1970.
    from: u64,
    to: u64,
    /// The first and the last number.
    first_at: u64,
    last_at: u64,
    /// The last event with a number, and its reading if it has several.
    template: Option<(Buffered, Option<Box<str>>)>,
}

impl Aggregation {
    pub(super) fn new(channel: &Arc<str>, rule: &Aggregate, keys_max: usize, part: Part) -> Self {
        let window = Duration::from_millis(rule.window_ms.max(1).into());
        Self { channel: Arc::clone(channel), rule: rule.clone(), part, window, keys_max, keys: Keys::new(), beat: None }
    }

    /// When a window ends that opens now.
    fn end(&mut self, now: Instant) -> Instant {
        // A node that sends figures keeps its beat for a while, and so does one that merges them.
        let pause = if self.part == Part::Whole { Duration::ZERO } else { self.window };
        // Figures that come with the beat of a node then come half a window before the end, and never at two sides of it.
        let until_first = if self.part == Part::Merged { self.window / 2 } else { Duration::ZERO };
        let kept = self.beat.filter(|(_, ends)| now < *ends + pause);
        let beat = kept.map_or_else(|| Beat::new(now + until_first, self.window), |(beat, _)| beat);
        let end = beat.after(now);
        self.beat = Some((beat, end));
        end
    }

    /// The window of a key, which opens if need be at this time of day.
    fn window(&mut self, of: (&str, &str, &str), since: u64, now: Now, sink: &mut Sink) -> Option<&mut Window> {
        let (id, name, key) = of;
        if self.keys.get_mut(id).is_none() {
            if self.keys.len() >= self.keys_max
                && let Some(first) = self.keys.remove_first()
            {
                sink.counts.add(Outcome::Early);
                self.emit(vec![first], sink);
            }
            let end = self.end(now.instant);
            let window = Window {
                name: name.into(),
                key: key.into(),
                figures: Figures::default(),
                values: Vec::new(),
                skipped: 0,
                from: since,
                to: since,
                first_at: since,
                last_at: since,
                template: None,
            };
            self.keys.insert(id.into(), window, end);
        }
        self.keys.get_mut(id)
    }

    /// Makes the events of windows that have ended.
    fn emit(&self, ended: Vec<(Arc<str>, Window)>, sink: &mut Sink) {
        // A window in which nothing was a number has no figures.
        let with_figures = ended.into_iter().filter(|(_, window)| window.figures.count > 0);
        match self.rule.emit {
            Emit::Each => {
                for (id, window) in with_figures {
                    if let Some(buffered) = self.single(window) {
                        sink.make(&id, buffered);
                    }
                }
            }
            Emit::Map => {
                let mut by_name: BTreeMap<Box<str>, Vec<Window>> = BTreeMap::new();
                for (_, window) in with_figures {
                    by_name.entry(window.name.clone()).or_default().push(window);
                }
                for (name, windows) in by_name {
                    let id = Arc::from(&*name);
                    if let Some(buffered) = self.map(&name, windows) {
                        sink.make(&id, buffered);
                    }
                }
            }
        }
    }

    /// The last event of a window, with the figures beside its value.
    fn single(&self, window: Window) -> Option<Buffered> {
        let (buffered, reading) = window.template.as_ref()?;
        let (name, data) = event::name_and_data(&buffered.event.frame)?;
        let value = figures::written(window.figures.get(self.rule.value_is));
        let aggregate = format!(
            r#"{{{},{},"from":{},"to":{},"skipped":{}}}"#,
            window.figures.members(),
            window.figures.ends(),
            window.from,
            window.to,
            window.skipped
        );
        let text = reading.as_deref().unwrap_or(&data);
        let mut data = edit::with_figures(text, &self.rule.value, &value, &aggregate)?;
        if let Some(each) = &self.rule.each {
            let (_, whole) = event::name_and_data(&buffered.event.frame)?;
            data = edit::with_value(&whole, each, &format!("[{data}]"))?;
        }
        let buffered = self.buffered(buffered, &name, &data);
        Some(self.with_partial(buffered, vec![window]))
    }

    /// One event for all keys.
    fn map(&self, name: &str, mut windows: Vec<Window>) -> Option<Buffered> {
        windows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let member = |window: &Window| {
            let values: Vec<String> = window.values.iter().map(|&value| figures::written(value)).collect();
            let values = if values.is_empty() { String::new() } else { format!(r#","values":[{}]"#, values.join(",")) };
            format!("{}:{{{}{values}}}", quoted(&window.key), window.figures.members())
        };
        let members: Vec<String> = windows.iter().map(member).collect();
        let last = windows.iter().filter_map(|window| window.template.as_ref());
        let (buffered, _) = last.max_by_key(|(buffered, _)| buffered.sequence)?;
        let buffered = self.buffered(buffered, name, &format!("{{{}}}", members.join(",")));
        Some(self.with_partial(buffered, windows))
    }

    /// For other nodes, with the figures of the windows that it is made of.
    fn with_partial(&self, mut buffered: Buffered, windows: Vec<Window>) -> Buffered {
        if self.part == Part::Partial
            && let Some(event) = windows.first().map(|window| window.name.to_string())
        {
            let keys = windows.into_iter().filter_map(Window::partial).collect();
            buffered.event.partial = Some(Arc::new(Partial { event, keys }));
        }
        buffered
    }

    /// The reading in an event that is made of figures, if it has several; `None` if the rule cannot make such an event.
    fn reading(&self, data: &str) -> Option<Option<Box<str>>> {
        let path = &self.rule.value;
        let has_value = |text: &str| path.find(text).is_some() && edit::is_member(text, path);
        let Some(each) = &self.rule.each else { return has_value(data).then_some(None) };
        let readings: Vec<&RawValue> = serde_json::from_str(each.find(data)?).ok()?;
        let reading = readings.first()?.get();
        has_value(reading).then(|| Some(reading.into()))
    }

    fn buffered(&self, last: &Buffered, name: &str, data: &str) -> Buffered {
        let frame = edit::frame(&self.channel, self.rule.rename.as_deref().unwrap_or(name), data);
        Buffered { sequence: last.sequence, event: Event { frame, except: None, ..last.event.clone() } }
    }
}

impl Window {
    /// Adds the figures of a node. Returns whether its last number is the last of all, by the clocks of the nodes.
    fn merge(&mut self, other: &PartialKey, values_max: usize) -> bool {
        let is_empty = self.figures.count == 0;
        let is_first = is_empty || other.first_at < self.first_at;
        let is_last = is_empty || other.last_at >= self.last_at;
        self.figures.merge(other, is_first, is_last);
        if is_first {
            self.first_at = other.first_at;
        }
        if is_last {
            self.last_at = other.last_at;
        }
        (self.from, self.to) = (self.from.min(other.from), self.to.max(other.to));
        self.skipped = self.skipped.saturating_add(other.skipped);
        let room = values_max.saturating_sub(self.values.len());
        self.values.extend(other.values.iter().take(room).map(|value| value.get()));
        is_last
    }

    /// The figures for other nodes.
    fn partial(self) -> Option<PartialKey> {
        let Self { from, to, first_at, last_at, skipped, .. } = self;
        let values = self.values.into_iter().filter_map(Finite::new).collect();
        Some(PartialKey {
            key: self.key.into(),
            from,
            to,
            first_at,
            last_at,
            skipped,
            values,
            ..self.figures.partial()?
        })
    }
}

impl Thinning for Aggregation {
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) {
        let number = self.rule.value.find(item.data).and_then(figures::number);
        // The figures stand beside the value, so it must be a member of an object.
        let number = number.filter(|_| self.rule.emit == Emit::Map || edit::is_member(item.data, &self.rule.value));
        let (values_max, has_several) = (self.rule.values_max, self.rule.each.is_some());
        let of = (item.id, item.name, item.key);
        let Some(window) = self.window(of, now.unix_ms, now, sink) else { return };
        // Times go on, even if the clock is put back.
        window.to = window.to.max(now.unix_ms);
        let Some(number) = number else {
            window.skipped = window.skipped.saturating_add(1);
            return sink.counts.add(Outcome::Skipped);
        };
        if window.figures.count == 0 {
            window.first_at = window.to;
        }
        window.last_at = window.to;
        window.figures.add(number);
        if window.values.len() < values_max {
            window.values.push(number);
        }
        window.template = Some((Buffered::of(item), has_several.then(|| item.data.into())));
        sink.counts.add(Outcome::Merged);
    }

    fn merge(&mut self, (partial, event): (&Partial, &Buffered), now: Now, sink: &mut Sink) -> bool {
        // No node with this rule puts more keys into one event. The event would be copied for each of them.
        let reading = match self.rule.emit {
            Emit::Map if partial.keys.len() > self.keys_max => return false,
            Emit::Map => None,
            Emit::Each if partial.keys.len() > 1 => return false,
            Emit::Each => {
                let data = event::name_and_data(&event.event.frame);
                let Some(reading) = data.and_then(|(_, data)| self.reading(&data)) else { return false };
                reading
            }
        };
        let values_max = self.rule.values_max;
        for key in &partial.keys {
            let id = id(&partial.event, &key.key);
            let Some(window) = self.window((&id, &partial.event, &key.key), key.from, now, sink) else { continue };
            if window.merge(key, values_max) {
                window.template = Some((event.clone(), reading.clone()));
            }
        }
        true
    }

    fn run_due(&mut self, now: Now, sink: &mut Sink) {
        let ended = self.keys.take_due(now.instant);
        self.emit(ended, sink);
    }

    fn flush(&mut self, _now: Now, sink: &mut Sink) {
        let ended = self.keys.drain().collect();
        self.emit(ended, sink);
    }

    fn next(&self) -> Option<Instant> {
        self.keys.next()
    }

    fn is_pending(&self, id: &str) -> bool {
        match self.rule.emit {
            Emit::Each => self.keys.get(id).is_some(),
            // The map of a name has all keys.
            Emit::Map => self.keys.len() > 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.keys.len() == 0
    }
}
