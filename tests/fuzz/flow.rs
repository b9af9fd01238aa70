//! What must hold for the key paths, values, edits and figures of flow rules, whatever an event's data is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use gema::flow::channel::ChannelFlow;
use gema::flow::path::DataPath;
use gema::flow::rule::FlowRule;
use gema::flow::thinning::Now;
use gema::protocol::channel::ChannelName;
use gema::protocol::event;
use gema::protocol::event::Event;
use gema::protocol::json;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::assert_well_formed;
use super::is_json;
use super::raw;

/// Each kind of rule, with windows that end only when something flushes them.
static RULES: LazyLock<[FlowRule; 8]> = LazyLock::new(|| {
    let rule = |kind: Value| {
        let mut rule = json!({ "match": "*" });
        rule.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        serde_json::from_value(rule).unwrap()
    };
    let aggregate = |more: Value| {
        let mut aggregate = json!({ "value": "v", "window_ms": 1000 });
        aggregate.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule(json!({ "aggregate": aggregate }))
    };
    [
        rule(json!({ "conflate": { "window_ms": 1000 } })),
        rule(json!({ "conflate": { "window_ms": 1000, "merge": true } })),
        aggregate(json!({ "value_is": "last" })),
        aggregate(json!({ "emit": "map", "values_max": 2 })),
        aggregate(json!({ "each": "list", "value_is": "sum" })),
        rule(json!({ "rate": { "per_second": 0.001, "burst": 1 } })),
        rule(json!({ "sample": { "every": 2, "trailing": true } })),
        rule(json!({ "snapshot": { "max_age_seconds": 1000 } })),
    ]
});

const CHANNEL: &str = "scada";
const NAME: &str = "reading";

/// Events of one channel under each kind of rule. The input: a path to the key, a path to the value, and in each further
/// line the data of an event: a JSON string with its quotes is that text, anything else is itself.
/// `is_wanted` chooses among the eight kinds.
pub fn flow_rules(input: &[u8], is_wanted: impl Fn(usize) -> bool) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let [key, value] = [(); 2].map(|()| lines.next().and_then(|path| DataPath::parse(path).ok()));
    let literals: Vec<Cow<'_, str>> = lines.take(12).map(literal).collect();
    let texts: Vec<Option<String>> = literals.iter().map(|literal| serde_json::from_str(literal).ok()).collect();
    for (path, text) in [&key, &value].into_iter().flatten().flat_map(|path| texts.iter().map(move |text| (path, text)))
    {
        if let Some(text) = text {
            a_path_finds_what_a_browser_would(path, text);
        }
    }
    let keys: Vec<Option<String>> = texts.iter().map(|text| key_of(key.as_ref(), text.as_deref())).collect();
    let sent = Sent { literals: &literals, texts: &texts, keys: &keys };
    for (index, rule) in RULES.iter().enumerate().filter(|(index, _)| is_wanted(*index)) {
        let rule = with_paths(rule, key.as_ref(), value.as_ref());
        let (came, snapshot) = deliver(&rule, &sent);
        match index {
            0 => assert_eq!(came, sent.conflated(|_, newer| newer.to_owned())),
            1 => sent.check_merged(&came),
            2 => sent.check_figures(&came, value.as_ref()),
            // One token for all keys.
            5 => assert_eq!(came, sent.held_back(|_| "", |count| count > 1)),
            6 => assert_eq!(came, sent.held_back(|key| key, |count| count.is_multiple_of(2))),
            7 => {
                assert_eq!(came, sent.all());
                // The last event of each key.
                let last = |(at, key): (usize, &Option<String>)| key.is_some() && !keys[at + 1..].contains(key);
                assert_eq!(snapshot, keys.iter().enumerate().filter(|&entry| last(entry)).count());
            }
            _ => (),
        }
    }
}

/// The data of an event as JSON.
fn literal(line: &str) -> Cow<'_, str> {
    match line.starts_with('"') && is_json(line) && json::is_string(raw(line)) {
        true => Cow::Borrowed(raw(line).get()),
        false => Cow::Owned(serde_json::to_string(line).unwrap()),
    }
}

fn with_paths(rule: &FlowRule, key: Option<&DataPath>, value: Option<&DataPath>) -> Arc<FlowRule> {
    let mut rule = rule.clone();
    let key = key.cloned();
    if let Some(aggregate) = &mut rule.aggregate {
        aggregate.key = key;
        aggregate.value = value.unwrap_or(&aggregate.value).clone();
    } else if let Some(conflate) = &mut rule.conflate {
        conflate.key = key;
    } else if let Some(rate) = &mut rule.rate {
        rate.key = key;
    } else if let Some(sample) = &mut rule.sample {
        sample.key = key;
    } else if let Some(snapshot) = &mut rule.snapshot {
        snapshot.key = key;
    }
    Arc::new(rule)
}

/// A second opinion on a path, by a reader that understands the whole text.
fn a_path_finds_what_a_browser_would(path: &DataPath, text: &str) {
    let found = path.find(text);
    if let Some(found) = found {
        assert!(is_json(text) && is_json(found) && text.contains(found), "{path} of {text}");
    }
    // It gives up on deep nesting, numbers beyond f64 and half of a character.
    let Some(whole) = whole(text) else { return };
    let step = |value: &'_ Value, step: &str| match value {
        Value::Object(fields) => fields.get(step).cloned(),
        Value::Array(list) => list.get(step.parse::<usize>().ok()?).cloned(),
        _ => None,
    };
    let expected = path.as_str().split('.').try_fold(whole, |value, name| step(&value, name));
    assert_eq!(found.map(|found| serde_json::from_str::<Value>(found).unwrap()), expected, "{path} of {text}");
}

/// A JSON value, unless the second reader does not understand it, or understands something of its own.
fn whole(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|_| !text.contains("$serde_json"))
}

/// The key of an event: a text, or a number, `true` or `false` as they are written.
fn key_of(path: Option<&DataPath>, text: Option<&str>) -> Option<String> {
    let text = text?;
    let Some(path) = path else { return Some(NAME.to_owned()) };
    let found = path.find(text)?;
    match found.starts_with('"') {
        true => serde_json::from_str(found).ok(),
        false => Some(found).filter(|found| !found.starts_with(['{', '[', 'n'])).map(str::to_owned),
    }
}

/// The events that were published, the text of each unless half of a character is in it, and their keys.
struct Sent<'a> {
    literals: &'a [Cow<'a, str>],
    texts: &'a [Option<String>],
    keys: &'a [Option<String>],
}

/// Publishes all events, then flushes. Returns the data of what was delivered, and how many events a newcomer gets.
fn deliver(rule: &Arc<FlowRule>, sent: &Sent<'_>) -> (Vec<String>, usize) {
    let channel = ChannelName::parse(CHANNEL, 20).unwrap();
    let instant = Instant::now();
    let now = Now { instant, unix_ms: 1_700_000_000_000 };
    let mut flow = ChannelFlow::new(&channel, vec![Arc::clone(rule)], None, instant);
    let mut out = Vec::new();
    for literal in sent.literals {
        flow.publish(&Event::new(event::published(CHANNEL, NAME, literal), None, instant), now, &mut out);
    }
    flow.flush(now, &mut out);
    // Nothing is left.
    let later = Now { instant: instant + Duration::from_secs(100_000), unix_ms: now.unix_ms + 100_000_000 };
    let (count, newcomer) = (out.len(), flow.snapshot(instant));
    flow.run_due(later, &mut out);
    assert_eq!(out.len(), count, "a flush leaves nothing");
    newcomer.iter().for_each(assert_well_formed);
    let data = |event: &Event| {
        assert_well_formed(&event.frame);
        let frame = event.frame.bytes();
        let text = std::str::from_utf8(&frame[frame.len() - event.frame.payload_len()..]).unwrap();
        let before = format!(r#"{{"event":"{NAME}","data":"#);
        let data = text.strip_prefix(&before).and_then(|rest| rest.strip_suffix(r#","channel":"scada"}"#));
        data.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    (out.iter().map(data).collect(), newcomer.len())
}

impl Sent<'_> {
    fn all(&self) -> Vec<String> {
        self.literals.iter().map(|literal| literal.to_string()).collect()
    }

    /// What conflation within one window delivers: the first event of a key at once, the newest of the others before an
    /// event without a key, or at the end. `merge` makes one of an older and a newer data.
    fn conflated(&self, merge: impl Fn(&str, &str) -> String) -> Vec<String> {
        let (mut came, mut pending) = (Vec::new(), BTreeMap::<&str, Option<(usize, String)>>::new());
        for (at, (literal, key)) in self.literals.iter().zip(self.keys).enumerate() {
            let Some(key) = key else {
                came.extend(flushed(&mut pending));
                came.push(literal.to_string());
                continue;
            };
            match pending.get_mut(&**key) {
                None => {
                    pending.insert(key, None);
                    came.push(literal.to_string());
                }
                Some(last) => {
                    let data = last.take().map_or_else(|| literal.to_string(), |(_, older)| merge(&older, literal));
                    *last = Some((at, data));
                }
            }
        }
        came.extend(flushed(&mut pending));
        came
    }

    /// What is delivered if some events wait until a flush. Events are counted in the bucket of their key, and `waits` says
    /// of the count whether the event waits.
    fn held_back(&self, bucket: impl Fn(&str) -> &str, waits: impl Fn(usize) -> bool) -> Vec<String> {
        let (mut came, mut pending) = (Vec::new(), BTreeMap::<&str, Option<(usize, String)>>::new());
        let mut counts = BTreeMap::<&str, usize>::new();
        for (at, (literal, key)) in self.literals.iter().zip(self.keys).enumerate() {
            let Some(key) = key else {
                came.extend(flushed(&mut pending));
                came.push(literal.to_string());
                continue;
            };
            let count = counts.entry(bucket(key)).or_default();
            *count += 1;
            if waits(*count) {
                pending.insert(key, Some((at, literal.to_string())));
            } else {
                pending.insert(key, None);
                came.push(literal.to_string());
            }
        }
        came.extend(flushed(&mut pending));
        came
    }

    /// Events of one key have the fields of all, the newest of each name.
    fn check_merged(&self, came: &[String]) {
        let fields = |literal: &str| {
            let text: String = serde_json::from_str(literal).ok()?;
            Some((text.clone(), whole(&text)))
        };
        let merge = |older: &str, newer: &str| match (fields(older), fields(newer)) {
            (Some((_, Some(Value::Object(mut all)))), Some((_, Some(Value::Object(more))))) => {
                all.extend(more);
                serde_json::to_string(&Value::Object(all).to_string()).unwrap()
            }
            _ => newer.to_owned(),
        };
        let is_clear = self.texts.iter().flatten().all(|text| whole(text).is_some() || !is_json(text));
        let expected = self.conflated(merge);
        assert_eq!(came.len(), expected.len());
        for (came, expected) in came.iter().zip(&expected).filter(|_| is_clear) {
            let (came, expected) = (fields(came), fields(expected));
            match (&came, &expected) {
                (Some((_, Some(came))), Some((_, Some(expected)))) => {
                    assert!(are_alike(came, expected), "{came} {expected}")
                }
                _ => assert_eq!(came, expected),
            }
        }
    }

    /// Events of figures have the figures of all numbers between two flushes, and the rest of the last event.
    fn check_figures(&self, came: &[String], value: Option<&DataPath>) {
        let default = DataPath::parse("v").unwrap();
        let path = value.unwrap_or(&default);
        let (mut windows, mut expected) = (BTreeMap::<&str, Window>::new(), Vec::new());
        for (at, (text, key)) in self.texts.iter().zip(self.keys).enumerate() {
            let (Some(key), Some(text)) = (key, text) else {
                expected.extend(ended(&mut windows));
                expected.push(Made { window: None, at });
                continue;
            };
            let window = windows.entry(key).or_default();
            match number(path, text) {
                Some(number) => {
                    window.numbers.push(number);
                    window.at = at;
                }
                None => window.skipped += 1,
            }
        }
        expected.extend(ended(&mut windows));
        assert_eq!(came.len(), expected.len(), "{came:?}");
        for (came, Made { window, at }) in came.iter().zip(expected) {
            let Some(window) = window else {
                assert_eq!(*came, self.literals[at]);
                continue;
            };
            let came: String = serde_json::from_str(came).unwrap();
            assert!(is_json(&came), "{came}");
            let Some(figures) = whole(&came) else { continue };
            check_window((&came, figures), &window, path, self.texts[at].as_deref().unwrap_or_default());
        }
    }
}

/// The numbers of a key, and the place of the event that had the last one.
#[derive(Default)]
struct Window {
    numbers: Vec<f64>,
    skipped: usize,
    at: usize,
}

/// An event of figures, or one that passed.
struct Made {
    window: Option<Window>,
    at: usize,
}

fn ended(windows: &mut BTreeMap<&str, Window>) -> Vec<Made> {
    let all = std::mem::take(windows).into_values().filter(|window| !window.numbers.is_empty());
    let mut all: Vec<Made> = all.map(|window| Made { at: window.at, window: Some(window) }).collect();
    all.sort_unstable_by_key(|made| made.at);
    all
}

/// What was pending, in the order of publishing.
fn flushed(pending: &mut BTreeMap<&str, Option<(usize, String)>>) -> Vec<String> {
    let mut all: Vec<(usize, String)> = pending.values_mut().filter_map(Option::take).collect();
    all.sort_unstable_by_key(|&(at, _)| at);
    all.into_iter().map(|(_, literal)| literal).collect()
}

/// The number at the end of a path, if it is a member of an object: one of JSON, or a text of digits.
fn number(path: &DataPath, text: &str) -> Option<f64> {
    let parent = match path.as_str().rsplit_once('.') {
        Some((parent, _)) => DataPath::parse(parent).unwrap().find(text)?,
        None => text,
    };
    let found = path.find(text).filter(|_| parent.trim_start().starts_with('{'))?;
    let digits = match found.starts_with('"') {
        true => serde_json::from_str::<String>(found).ok()?.trim_matches([' ', '\t', '\n', '\r', '\x0C']).to_owned(),
        false => found.to_owned(),
    };
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    digits.parse::<f64>().ok().filter(|number| is_plain && number.is_finite())
}

/// The event has the last value in its place, the figures beside it, and nothing else has changed.
fn check_window((came, mut made): (&str, Value), window: &Window, path: &DataPath, text: &str) {
    let close = |left: &Value, right: f64| {
        let Some(left) = left.as_f64() else { return !right.is_finite() };
        let scale = window.numbers.iter().fold(0.0_f64, |scale, number| scale.max(number.abs()));
        left == right || (left - right).abs() <= scale * 1e-9
    };
    let mut steps: Vec<&str> = path.as_str().split('.').collect();
    let last = steps.pop().unwrap();
    let parent = members(&mut made, &steps);
    let (numbers, count) = (&window.numbers, window.numbers.len());
    let [first, newest] = [numbers[0], numbers[count - 1]];
    assert!(close(&parent[last], newest) || last == "aggregate", "{parent:?}");
    if last == "aggregate" {
        return assert!(close(&parent["aggregate"], newest), "{parent:?}");
    }
    let figures = parent.remove("aggregate").unwrap();
    assert_eq!((&figures["count"], &figures["skipped"]), (&json!(count), &json!(window.skipped)), "{figures}");
    let (sum, min, max) = numbers.iter().fold((0.0, first, first), |(sum, min, max), &number| {
        (sum + number, f64::min(min, number), f64::max(max, number))
    });
    for (name, expected) in [("min", min), ("max", max), ("first", first), ("last", newest)] {
        // serde_json misses some numbers by their last bit.
        let place = path.as_str().strip_suffix(last).unwrap();
        let Ok(place) = DataPath::parse(&format!("{place}aggregate.{name}")) else { continue };
        let exact = place.find(came).map(str::parse);
        assert!(exact == Some(Ok(expected)), "{name} of {came}: {expected}");
    }
    if sum.is_finite() {
        assert!(close(&figures["sum"], sum) && close(&figures["average"], sum / count as f64), "{figures}: {sum}");
    }
    assert_eq!(figures.as_object().unwrap().len(), 10, "{figures}");
    let Some(mut before) = whole(text) else { return };
    parent.remove(last);
    let old = members(&mut before, &steps);
    old.remove("aggregate");
    old.remove(last);
    assert_eq!(made, before);
}

/// Whether two values are the same, but for the last bits of numbers: serde_json misses some of them.
fn are_alike(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let is_in_right = |(name, value)| right.get(name).is_some_and(|other| are_alike(value, other));
            left.len() == right.len() && left.iter().all(is_in_right)
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| are_alike(left, right))
        }
        (Value::Number(left), Value::Number(right)) if left != right => {
            let [left, right] = [left, right].map(|number| number.as_f64().unwrap_or(f64::NAN));
            (left - right).abs() <= right.abs() * 1e-12
        }
        _ => left == right,
    }
}

/// The object at the end of these steps.
fn members<'v>(value: &'v mut Value, steps: &[&str]) -> &'v mut Map<String, Value> {
    let step = |value: &'v mut Value, step: &&str| match value {
        Value::Object(fields) => fields.get_mut(*step).unwrap(),
        Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
        other => panic!("{other}"),
    };
    steps.iter().fold(value, step).as_object_mut().unwrap()
}
