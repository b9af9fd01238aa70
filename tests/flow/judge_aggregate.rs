//! The judge of `aggregate`, which says exactly what comes, but for the last bits of sums.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::history::Aggregate;
use crate::history::MS;
use crate::history::Reading;
use crate::history::Spec;
use crate::judge::Delivery;
use crate::judge::Id;
use crate::judge::Published;
use crate::judge::Seen;
use crate::judge::Turn;
use crate::judge::ensure;
use crate::numbers::Exact;
use crate::numbers::parse as parse_value;
use crate::numbers::ulp;
use crate::run::UNIX_MS;

pub struct AggregateJudge {
    rule: Aggregate,
    has_key: bool,
    keys_max: usize,
    window: u64,
    /// A moment of the beat, which begins anew when no window is open.
    beat: u64,
    /// When the last window ends.
    ends: u64,
    /// The key whose window opened first is the first.
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: Id,
    ends: u64,
    numbers: Vec<f64>,
    skipped: u64,
    first: u64,
    last: u64,
    sequence: usize,
    /// The data and the reading of the last event with a number.
    template: Option<(String, Reading)>,
}

impl AggregateJudge {
    pub fn new(rule: &Aggregate, spec: &Spec) -> Self {
        let (has_key, keys_max, window) = (spec.key.is_some(), spec.keys_max, rule.window_ms * MS);
        Self { rule: rule.clone(), has_key, keys_max, window, beat: 0, ends: 0, keys: Vec::new() }
    }

    pub fn due(&self) -> Option<u64> {
        self.keys.iter().filter(|key| !key.numbers.is_empty()).map(|key| key.ends).min()
    }

    pub fn judge(
        &mut self,
        turn: &Turn<'_>,
        deliveries: Vec<Delivery>,
        seen: &mut Seen,
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let (mut out, mut kept) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.keys) {
            let is_out = turn.flushes || key.ends <= turn.at;
            if is_out { out.push(key) } else { kept.push(key) }
        }
        self.keys = kept;
        // Each list of keys is one event.
        let mut expected: Vec<Vec<Key>> = Vec::new();
        for key in out {
            let with =
                expected.iter_mut().find(|with| self.rule.map && with[0].id.0 == key.id.0 && with[0].ends == key.ends);
            match with {
                Some(with) => with.push(key),
                None => expected.push(vec![key]),
            }
        }
        if let Some((sequence, published)) = turn.input {
            expected.extend(self.input(turn.at, sequence, published, seen));
        }
        ensure!(self.keys.len() <= self.keys_max, "{} keys are pending", self.keys.len());
        for keys in &mut expected {
            keys.retain(|key| !key.numbers.is_empty());
        }
        expected.retain(|keys| !keys.is_empty());
        expected.sort_by_key(|keys| keys.iter().map(|key| key.sequence).max());
        ensure!(deliveries.len() == expected.len(), "{} events instead of {}", deliveries.len(), expected.len());
        seen.made += deliveries.len() as u64;
        let mut done = Vec::new();
        for mut delivery in deliveries {
            let mut error = String::new();
            let found = expected.iter().position(|keys| match self.is_right(keys, &delivery) {
                Ok(()) => true,
                Err(other) => {
                    error += &format!("\n  not {:?}: {other}", keys[0].id);
                    false
                }
            });
            let Some(found) = found else { return Err(format!("{} is wrong:{error}", delivery.data)) };
            let keys = expected.remove(found);
            delivery.id = if self.rule.map { (keys[0].id.0.clone(), String::new()) } else { keys[0].id.clone() };
            done.push((keys.iter().map(|key| key.sequence).max().unwrap(), delivery));
        }
        Ok(done)
    }

    /// Takes an event. Returns what is flushed early because of it.
    fn input(&mut self, at: u64, sequence: usize, published: &Published, seen: &mut Seen) -> Vec<Vec<Key>> {
        let input = &published.input;
        let single = std::slice::from_ref(&input.single);
        let readings = if self.rule.lists { input.list.as_deref().unwrap_or_default() } else { single };
        let mut early = Vec::new();
        for reading in readings {
            seen.chosen += u64::from(self.rule.lists);
            let key = if self.has_key { reading.key.clone() } else { Some(input.name.to_owned()) };
            let Some(key) = key else {
                seen.skipped += 1;
                continue;
            };
            let id = (input.name.to_owned(), key);
            let place = self.keys.iter().position(|key| key.id == id).unwrap_or_else(|| {
                if self.keys.len() == self.keys_max {
                    let first = self.keys.iter().map(|key| key.ends).min();
                    let place = self.keys.iter().position(|key| Some(key.ends) == first).unwrap();
                    let oldest = self.keys.remove(place);
                    seen.early += u64::from(!oldest.numbers.is_empty());
                    seen.maybe_early += u64::from(oldest.numbers.is_empty());
                    early.push(vec![oldest]);
                }
                if at >= self.ends {
                    self.beat = at;
                }
                let ends = at + self.window - (at - self.beat) % self.window;
                self.ends = ends;
                let (numbers, template) = (Vec::new(), None);
                self.keys.push(Key { id, ends, numbers, skipped: 0, first: at, last: at, sequence, template });
                self.keys.len() - 1
            });
            let key = &mut self.keys[place];
            match reading.number {
                Some(number) => {
                    if key.numbers.is_empty() {
                        key.first = at;
                    }
                    key.numbers.push(number);
                    (key.last, key.sequence) = (at, sequence);
                    key.template = Some((input.data.clone(), reading.clone()));
                }
                None => {
                    key.skipped += 1;
                    seen.skipped += 1;
                }
            }
        }
        early
    }

    /// Whether an event has the figures of these keys.
    fn is_right(&self, keys: &[Key], delivery: &Delivery) -> Result<(), String> {
        let name = self.rule.rename.unwrap_or(&keys[0].id.0);
        ensure!(delivery.name == name, "its name is {}", delivery.name);
        let parse = |text: &str| serde_json::from_str::<HashMap<String, Box<RawValue>>>(text);
        let Ok(fields) = parse(&delivery.data) else { return Err("no object".to_owned()) };
        if self.rule.map {
            ensure!(fields.len() == keys.len(), "it has {} keys instead of {}", fields.len(), keys.len());
            for key in keys {
                let Some(Ok(figures)) = fields.get(&key.id.1).map(|raw| parse(raw.get())) else {
                    return Err(format!("{:?} is not there", key.id));
                };
                self.figures(key, &figures)?;
            }
            return Ok(());
        }
        let key = &keys[0];
        let (template, reading) = key.template.as_ref().unwrap();
        let object = match self.rule.lists {
            true => {
                match serde_json::from_str::<[Box<RawValue>; 1]>(fields.get("list").map_or("", |list| list.get())) {
                    Ok([reading]) => parse(reading.get()),
                    Err(error) => return Err(format!("its list: {error}")),
                }
            }
            false => parse(fields.get("d").map_or("", |raw| raw.get())),
        };
        let Some(Ok(figures)) =
            object.as_ref().ok().and_then(|object| object.get("aggregate")).map(|raw| parse(raw.get()))
        else {
            return Err("`aggregate` is not there".to_owned());
        };
        self.figures(key, &figures)?;
        let value = object.unwrap().get("v").map_or("", |raw| raw.get()).to_owned();
        let figure = figures.get(self.rule.value_is).map_or("", |raw| raw.get());
        ensure!(value == figure, "its value is {value} instead of {figure}");
        // Everything else is that of the last event.
        let mut expected = parse_value(template).unwrap();
        let mut got = parse_value(&delivery.data).unwrap();
        if self.rule.lists {
            expected["list"] = parse_value(&format!("[{}]", reading.json)).unwrap();
        }
        for data in [&mut expected, &mut got] {
            let object = if self.rule.lists { &mut data["list"][0] } else { &mut data["d"] };
            object["aggregate"] = Value::Null;
            object["v"] = Value::Null;
        }
        ensure!(got == expected, "beside the figures it is {got} instead of {expected}");
        Ok(())
    }

    fn figures(&self, key: &Key, figures: &HashMap<String, Box<RawValue>>) -> Result<(), String> {
        let text = |name: &str| figures.get(name).map_or("missing", |raw| raw.get());
        let numbers = &key.numbers;
        let count = numbers.len();
        ensure!(text("count") == count.to_string(), "count is {} instead of {count}", text("count"));
        let is = |name: &str, expected: f64| match text(name).parse::<f64>() {
            Ok(number) if number == expected => Ok(()),
            _ => Err(format!("{name} is {} instead of {expected:?}", text(name))),
        };
        is("min", numbers.iter().copied().fold(f64::INFINITY, f64::min))?;
        is("max", numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max))?;
        self.sums(numbers, text("sum"), text("average"))?;
        let mut fields = vec!["count", "sum", "min", "max", "average"];
        if self.rule.map {
            if self.rule.values_max > 0 {
                fields.push("values");
                let values: Vec<&RawValue> = serde_json::from_str(text("values")).map_err(|error| error.to_string())?;
                let expected = numbers.len().min(self.rule.values_max);
                ensure!(values.len() == expected, "{} values instead of {expected}", values.len());
                for value in values {
                    let value: f64 = value.get().parse().map_err(|error| format!("{value}: {error}"))?;
                    ensure!(numbers.contains(&value), "{value} is no value of {numbers:?}");
                }
            }
        } else {
            fields.extend(["first", "last", "from", "to", "skipped"]);
            is("first", numbers[0])?;
            is("last", numbers[count - 1])?;
            ensure!(
                text("skipped") == key.skipped.to_string(),
                "skipped is {} instead of {}",
                text("skipped"),
                key.skipped
            );
            let time = |name: &str| text(name).parse::<u64>().map_err(|error| format!("{name}: {error}"));
            let (from, to) = (time("from")?, time("to")?);
            let (first, last) = (UNIX_MS + key.first / MS, UNIX_MS + key.last / MS);
            ensure!(from <= first && last <= to, "from {from} to {to} is without {first} to {last}");
            let longest = key.ends - (key.ends - self.window).min(key.first);
            ensure!(to - from <= longest / MS + 1, "from {from} to {to} is longer than a window");
        }
        ensure!(figures.len() == fields.len(), "its figures are {:?}", figures.keys());
        Ok(())
    }

    /// The sum is exact but for a last bit for each number.
    fn sums(&self, numbers: &[f64], sum: &str, average: &str) -> Result<(), String> {
        let exact = Exact::sum(numbers);
        let count = numbers.len() as f64;
        let is_large = numbers.iter().map(|number| number.abs() / 4.0).sum::<f64>() > f64::MAX / 4.0;
        if sum == "null" {
            ensure!(is_large, "the sum of {numbers:?} is null");
            return if average == "null" { Ok(()) } else { Err(format!("the average is {average} without a sum")) };
        }
        let value = exact.value();
        ensure!(value.is_finite(), "the sum of {numbers:?} is {sum} instead of null");
        // What a compensated sum may lack beside much larger numbers.
        let all = numbers.iter().map(|number| number.abs() / count).sum::<f64>();
        let slack = count * ulp(value) + count * count * count * f64::EPSILON * f64::EPSILON * all;
        let got: f64 = sum.parse().map_err(|error| format!("sum {sum}: {error}"))?;
        ensure!(exact.distance(got) <= slack, "the sum of {numbers:?} is {sum} instead of {value}");
        let got: f64 = average.parse().map_err(|error| format!("average {average}: {error}"))?;
        let slack = slack / count + 2.0 * ulp(value / count);
        ensure!(
            (got - value / count).abs() <= slack,
            "the average of {numbers:?} is {average} instead of {}",
            value / count
        );
        Ok(())
    }
}
