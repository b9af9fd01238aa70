//! Histories of a channel: its rules, and what happens to it.

use std::fmt::Write;

/// A generator of numbers that a seed repeats (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Whether the one of so many cases is it.
    pub fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// A rule, as the model understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub events: Vec<&'static str>,
    pub except: Vec<&'static str>,
    pub flush_before: bool,
    pub ignore_except: bool,
    pub client_events: bool,
    pub keys_max: usize,
    /// The path of the key.
    pub key: Option<&'static str>,
    pub kind: Kind,
    /// `max_age_seconds`
    pub snapshot: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Conflate {
        window_ms: u64,
        merge: bool,
    },
    Aggregate(Aggregate),
    /// Two times `per_second`, so that halves are whole.
    Rate {
        halves_per_second: u64,
        burst: u64,
        drop: bool,
    },
    Sample {
        every: u64,
        trailing: bool,
    },
    Pass,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    pub window_ms: u64,
    pub map: bool,
    /// Whether events have lists of readings.
    pub lists: bool,
    pub value_is: &'static str,
    pub rename: Option<&'static str>,
    pub values_max: usize,
}

/// The paths in the data of all histories.
pub const KEY: &str = "d.k";
pub const VALUE: &str = "d.v";
pub const LIST: &str = "list";
pub const KEY_IN_LIST: &str = "k";
pub const VALUE_IN_LIST: &str = "v";

impl Spec {
    /// The rule as an operator writes it.
    pub fn json(&self) -> String {
        let mut text = format!(
            r#"{{"match":"flood","events":{:?},"except":{:?},"flush_before":{},"ignore_except":{},"client_events":{},"keys_max":{}"#,
            self.events, self.except, self.flush_before, self.ignore_except, self.client_events, self.keys_max,
        );
        let key = self.key.map(|key| format!(r#","key":"{key}""#)).unwrap_or_default();
        match &self.kind {
            Kind::Conflate { window_ms, merge } => {
                write!(text, r#","conflate":{{"window_ms":{window_ms},"merge":{merge}{key}}}"#)
            }
            Kind::Aggregate(Aggregate { window_ms, map, lists, value_is, rename, values_max }) => {
                let each = if *lists { format!(r#","each":"{LIST}""#) } else { String::new() };
                let value = if *lists { VALUE_IN_LIST } else { VALUE };
                let emit = if *map { "map" } else { "each" };
                let rename = rename.map(|name| format!(r#","as":"{name}""#)).unwrap_or_default();
                write!(
                    text,
                    r#","aggregate":{{"window_ms":{window_ms},"value":"{value}","emit":"{emit}","value_is":"{value_is}","values_max":{values_max}{each}{rename}{key}}}"#
                )
            }
            Kind::Rate { halves_per_second, burst, drop } => {
                let over = if *drop { "drop" } else { "latest" };
                let per_second = *halves_per_second as f64 / 2.0;
                write!(text, r#","rate":{{"per_second":{per_second:?},"burst":{burst},"over":"{over}"{key}}}"#)
            }
            Kind::Sample { every, trailing } => {
                write!(text, r#","sample":{{"every":{every},"trailing":{trailing}{key}}}"#)
            }
            Kind::Pass => Ok(()),
        }
        .unwrap();
        if let Some(seconds) = self.snapshot {
            let key = if self.kind == Kind::Pass { &*key } else { "" };
            write!(text, r#","snapshot":{{"max_age_seconds":{seconds}{key}}}"#).unwrap();
        }
        text + "}"
    }

    pub fn names(patterns: &[&str], event: &str) -> bool {
        patterns.iter().any(|pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), _) => event.ends_with(end),
            (_, Some(start)) => event.starts_with(start),
            _ => *pattern == event,
        })
    }
}

/// A scalar or something else, as it is written in the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The key's text if it is one that counts.
    pub key: Option<String>,
    /// The text of the value, and the number that it is.
    pub value: String,
    pub number: Option<f64>,
    /// The whole reading: `{"k":…,"v":…}`.
    pub json: String,
}

#[derive(Debug, Clone)]
pub struct Input {
    pub name: &'static str,
    pub data: String,
    /// The key and value outside of lists.
    pub single: Reading,
    /// The readings of the list, if the data has one.
    pub list: Option<Vec<Reading>>,
    /// Whether it excludes a connection.
    pub except: bool,
}

#[derive(Debug, Clone)]
pub enum Op {
    Publish(Input),
    /// `run_due`, whether something is due or not.
    Run,
    Flush,
    /// Somebody joins.
    Join,
    /// Other rules; the number is that of a set.
    Replace(usize),
}

#[derive(Debug, Clone)]
pub struct Step {
    /// Nanoseconds since the history began.
    pub at: u64,
    /// So late `run_due` is called before this step, in nanoseconds; `None` if it is not called at all.
    pub late: Option<u64>,
    pub op: Op,
}

#[derive(Debug, Clone)]
pub struct History {
    pub channel: &'static str,
    pub sets: Vec<Vec<Spec>>,
    pub steps: Vec<Step>,
}

pub const MS: u64 = 1_000_000;
