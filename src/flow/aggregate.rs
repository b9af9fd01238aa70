//! Aggregation: of each key one event of figures at the end of each window that had input.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

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
use crate::protocol::event;
use crate::protocol::event::Event;
use crate::protocol::json::quoted;

/// The open windows of a channel.
#[derive(Debug)]
pub(super) struct Aggregation {
    channel: Arc<str>,
    rule: Aggregate,
    window: Duration,
    keys_max: usize,
    keys: Keys<Window>,
    beat: Beat,
    /// When the last window ends that has been opened, even if it was flushed. Until then the beat stays.
    ends: Instant,
}

/// The window of a key.
#[derive(Debug)]
struct Window {
    name: Box<str>,
    key: Box<str>,
    figures: Figures,
    values: Vec<f64>,
    skipped: u64,
    first: Instant,
    last: Instant,
    /// The last event with a number, and its reading if it has several.
    template: Option<(Buffered, Option<Box<str>>)>,
}

impl Aggregation {
    pub(super) fn new(channel: &Arc<str>, rule: &Aggregate, keys_max: usize, now: Instant) -> Self {
        let window = Duration::from_millis(rule.window_ms.max(1).into());
        let beat = Beat::new(now, window);
        Self { channel: Arc::clone(channel), rule: rule.clone(), window, keys_max, keys: Keys::new(), beat, ends: now }
    }

    /// The window of the item's key, which opens if need be.
    fn window(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) -> Option<&mut Window> {
        if self.keys.get_mut(item.id).is_none() {
            if self.keys.len() >= self.keys_max
                && let Some(first) = self.keys.remove_first()
            {
                sink.counts.add(Outcome::Early);
                self.emit(vec![first], now, sink);
            }
            if now.instant >= self.ends {
                self.beat = Beat::new(now.instant, self.window);
            }
            self.ends = self.beat.after(now.instant);
            let window = Window {
                name: item.name.into(),
                key: item.key.into(),
                figures: Figures::default(),
                values: Vec::new(),
                skipped: 0,
                first: now.instant,
                last: now.instant,
                template: None,
            };
            self.keys.insert(item.id.into(), window, self.ends);
        }
        self.keys.get_mut(item.id)
    }

    /// Makes the events of windows that have ended.
    fn emit(&self, ended: Vec<(Arc<str>, Window)>, now: Now, sink: &mut Sink) {
        // A window in which nothing was a number has no figures.
        let with_figures = ended.into_iter().filter(|(_, window)| window.figures.count > 0);
        match self.rule.emit {
            Emit::Each => {
                for (id, window) in with_figures {
                    if let Some(buffered) = self.single(&window, now) {
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
    fn single(&self, window: &Window, now: Now) -> Option<Buffered> {
        let (buffered, reading) = window.template.as_ref()?;
        let (name, data) = event::name_and_data(&buffered.event.frame)?;
        let value = figures::written(window.figures.get(self.rule.value_is));
        let aggregate = format!(
            r#"{{{},{},"from":{},"to":{},"skipped":{}}}"#,
            window.figures.members(),
            window.figures.ends(),
            now.unix_ms_at(window.first),
            now.unix_ms_at(window.last),
            window.skipped
        );
        let text = reading.as_deref().unwrap_or(&data);
        let mut data = edit::with_figures(text, &self.rule.value, &value, &aggregate)?;
        if let Some(each) = &self.rule.each {
            let (_, whole) = event::name_and_data(&buffered.event.frame)?;
            data = edit::with_value(&whole, each, &format!("[{data}]"))?;
        }
        Some(self.buffered(buffered, &name, &data))
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
        Some(self.buffered(buffered, name, &format!("{{{}}}", members.join(","))))
    }

    fn buffered(&self, last: &Buffered, name: &str, data: &str) -> Buffered {
        let frame = edit::frame(&self.channel, self.rule.rename.as_deref().unwrap_or(name), data);
        Buffered { sequence: last.sequence, event: Event { frame, except: None, ..last.event.clone() } }
    }
}

impl Thinning for Aggregation {
    fn push(&mut self, item: &Item<'_>, now: Now, sink: &mut Sink) {
        let number = self.rule.value.find(item.data).and_then(figures::number);
        // The figures stand beside the value, so it must be a member of an object.
        let number = number.filter(|_| self.rule.emit == Emit::Map || edit::is_member(item.data, &self.rule.value));
        let (values_max, has_several) = (self.rule.values_max, self.rule.each.is_some());
        let Some(window) = self.window(item, now, sink) else { return };
        window.last = now.instant;
        let Some(number) = number else {
            window.skipped += 1;
            return sink.counts.add(Outcome::Skipped);
        };
        window.figures.add(number);
        if window.values.len() < values_max {
            window.values.push(number);
        }
        window.template = Some((Buffered::of(item), has_several.then(|| item.data.into())));
        sink.counts.add(Outcome::Merged);
    }

    fn run_due(&mut self, now: Now, sink: &mut Sink) {
        let ended = self.keys.take_due(now.instant);
        self.emit(ended, now, sink);
    }

    fn flush(&mut self, now: Now, sink: &mut Sink) {
        let ended = self.keys.drain().collect();
        self.emit(ended, now, sink);
    }

    fn next(&self) -> Option<Instant> {
        self.keys.next()
    }

    fn is_idle(&self) -> bool {
        self.keys.len() == 0
    }
}
