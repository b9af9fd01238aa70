//! Makes up histories.

use crate::history::Aggregate;
use crate::history::History;
use crate::history::Input;
use crate::history::KEY;
use crate::history::KEY_IN_LIST;
use crate::history::Kind;
use crate::history::MS;
use crate::history::Op;
use crate::history::Reading;
use crate::history::Rng;
use crate::history::Spec;
use crate::history::Step;

type MakeKind = fn(&mut Rng) -> Kind;

/// The rules of a history.
pub struct Kinds {
    kind: MakeKind,
    rules: u64,
    sets: u64,
    always_snapshot: bool,
    /// One of so many events passes.
    passes: u64,
}

impl Kinds {
    pub fn one(kind: MakeKind) -> Self {
        Self { kind, rules: 1, sets: 1, always_snapshot: false, passes: 12 }
    }

    pub fn with_snapshot(kind: MakeKind) -> Self {
        Self { always_snapshot: true, ..Self::one(kind) }
    }

    pub fn passing(self) -> Self {
        Self { passes: 3, ..self }
    }

    pub fn several() -> Self {
        Self { rules: 3, passes: 6, ..Self::one(any) }
    }

    pub fn reloaded() -> Self {
        Self { rules: 2, sets: 3, ..Self::one(any) }
    }
}

fn window(rng: &mut Rng) -> u64 {
    rng.pick(&[1, 10, 100, 100, 250, 1000])
}

pub fn conflate(rng: &mut Rng) -> Kind {
    Kind::Conflate { window_ms: window(rng), merge: false }
}

pub fn merge(rng: &mut Rng) -> Kind {
    Kind::Conflate { window_ms: window(rng), merge: true }
}

fn figures(rng: &mut Rng, lists: bool, map: bool) -> Kind {
    Kind::Aggregate(Aggregate {
        window_ms: window(rng),
        map,
        lists,
        value_is: rng.pick(&["average", "last", "min", "max", "sum"]),
        rename: rng.one_in(3).then_some("figures"),
        values_max: if map { rng.pick(&[0, 0, 2, 100]) } else { 0 },
    })
}

pub fn aggregate(rng: &mut Rng) -> Kind {
    figures(rng, false, false)
}

pub fn aggregate_lists(rng: &mut Rng) -> Kind {
    figures(rng, true, false)
}

pub fn aggregate_map(rng: &mut Rng) -> Kind {
    let lists = rng.one_in(3);
    figures(rng, lists, true)
}

pub fn rate_latest(rng: &mut Rng) -> Kind {
    Kind::Rate { halves_per_second: rng.pick(&[1, 2, 6, 20, 40, 2000]), burst: 1 + rng.below(5), drop: false }
}

pub fn rate_drop(rng: &mut Rng) -> Kind {
    Kind::Rate { halves_per_second: rng.pick(&[1, 2, 6, 20, 40, 2000]), burst: 1 + rng.below(5), drop: true }
}

pub fn sample(rng: &mut Rng) -> Kind {
    Kind::Sample { every: 1 + rng.below(4), trailing: !rng.one_in(3) }
}

pub fn conflate_or_rate(rng: &mut Rng) -> Kind {
    if rng.one_in(2) { conflate(rng) } else { rate_latest(rng) }
}

pub fn any(rng: &mut Rng) -> Kind {
    match rng.below(8) {
        0 | 1 => conflate(rng),
        2 => merge(rng),
        3 => aggregate(rng),
        4 => figures(rng, true, false),
        5 => rate_latest(rng),
        6 => sample(rng),
        _ => Kind::Pass,
    }
}

const NAMES: [&str; 3] = ["reading", "level", "state"];

fn spec(rng: &mut Rng, kinds: &Kinds, place: u64) -> Spec {
    let mut kind = (kinds.kind)(rng);
    // The name must tell the rule.
    if let Kind::Aggregate(aggregate) = &mut kind
        && kinds.rules > 1
    {
        aggregate.rename = None;
    }
    let lists = matches!(&kind, Kind::Aggregate(aggregate) if aggregate.lists);
    let is_renamed = matches!(&kind, Kind::Aggregate(Aggregate { rename: Some(_), .. }));
    let events = match (kinds.rules, rng.below(3)) {
        (1, 0) if !is_renamed => vec![],
        (1, 1) if !is_renamed => vec!["reading", "level", "client-*"],
        (1, _) => vec!["reading"],
        _ => vec![NAMES[place as usize], "client-*"],
    };
    let snapshot = kinds.always_snapshot || kind == Kind::Pass || rng.one_in(3);
    Spec {
        events,
        except: if rng.one_in(3) { vec![] } else { vec!["*.alarm"] },
        flush_before: !rng.one_in(4),
        ignore_except: rng.one_in(4),
        client_events: rng.one_in(3),
        keys_max: rng.pick(&[1, 2, 3, 3, 5, 1000]),
        key: (!rng.one_in(6)).then_some(if lists { KEY_IN_LIST } else { KEY }),
        kind,
        snapshot: snapshot.then(|| rng.pick(&[1, 5, 600])),
    }
}

pub fn history(rng: &mut Rng, kinds: &Kinds) -> History {
    let mut sets: Vec<Vec<Spec>> = Vec::new();
    for _ in 0..kinds.sets {
        let mut set: Vec<Spec> = (0..kinds.rules).map(|place| spec(rng, kinds, place)).collect();
        // Some rules stay the same, and some change a little.
        if let Some(before) = sets.last() {
            let place = rng.below(before.len() as u64) as usize;
            set[place] = before[place].clone();
            if rng.one_in(3) {
                set[place].keys_max = 4;
            }
        }
        sets.push(set);
    }
    let longest = rng.pick(&[4, 10, 10, 16, 24, 24]);
    let windows: Vec<u64> = sets.iter().flatten().map(span).collect();
    let mut at = 0;
    // Calls are in time, late by a part of a window, or late by much.
    let lateness = rng.pick(&[0, 0, 0, 1, 1, 2]);
    let keys = rng.pick(&[1, 2, 2, 3, 4, 7]);
    let lists = sets.iter().flatten().any(|spec| matches!(&spec.kind, Kind::Aggregate(figures) if figures.lists));
    let plain = !matches!(sets[0][0].kind, Kind::Aggregate(_) | Kind::Conflate { merge: true, .. }) && sets.len() == 1;
    let numbers = rng.below(3);
    let steps = (0..2 + rng.below(longest))
        .map(|count| {
            let window = rng.pick(&windows);
            at += MS * pause(rng, window);
            let late = match lateness {
                0 => Some(0),
                1 => Some(rng.below(window * MS)),
                _ => (!rng.one_in(3)).then(|| rng.below(4 * window * MS)),
            };
            let op = match rng.below(24) {
                0 => Op::Run,
                1 => Op::Flush,
                2 | 3 => Op::Join,
                4 | 5 if kinds.sets > 1 => Op::Replace(rng.below(kinds.sets) as usize),
                _ => Op::Publish(input(rng, kinds, Shape { keys, lists, plain, numbers, count })),
            };
            Step { at, late, op }
        })
        .collect();
    // An encrypted payload cannot be read.
    let can_encrypt = sets.iter().flatten().all(|spec| !matches!(spec.kind, Kind::Aggregate(_)));
    let channel = if can_encrypt && rng.one_in(12) { "private-encrypted-flood" } else { "flood" };
    History { channel, sets, steps }
}

/// The time in which something happens under a rule, in milliseconds.
fn span(spec: &Spec) -> u64 {
    match &spec.kind {
        Kind::Conflate { window_ms, .. } | Kind::Aggregate(Aggregate { window_ms, .. }) => *window_ms,
        Kind::Rate { halves_per_second, .. } => 2000 / halves_per_second,
        Kind::Sample { .. } | Kind::Pass => 1000,
    }
}

fn pause(rng: &mut Rng, window: u64) -> u64 {
    match rng.below(16) {
        0..5 => 0,
        5..7 => 1,
        7..11 => rng.below(window + 1),
        11 => window,
        12 => window.saturating_sub(1),
        13 => window + 1,
        14 => rng.below(3 * window + 1),
        _ => rng.pick(&[3 * window, 1000, 1001, 6000]),
    }
}

#[derive(Clone, Copy)]
struct Shape {
    keys: u64,
    lists: bool,
    plain: bool,
    numbers: u64,
    count: u64,
}

fn input(rng: &mut Rng, kinds: &Kinds, shape: Shape) -> Input {
    let name = if rng.one_in(kinds.passes) {
        rng.pick(&["pump.alarm", "reading.alarm", "other", "client-typing", "client-x.alarm", "pusher:x", "level"])
    } else {
        match kinds.rules {
            1 => rng.pick(&["reading", "reading", "reading", "level"]),
            _ => rng.pick(&NAMES),
        }
    };
    let except = name.starts_with("client-") || rng.one_in(kinds.passes * 2);
    let n = if shape.plain && rng.one_in(4) { 0 } else { shape.count };
    let single = reading(rng, shape);
    let list = shape.lists.then(|| (0..rng.below(4)).map(|_| reading(rng, shape)).collect::<Vec<_>>());
    let list = list.filter(|_| !rng.one_in(12));
    if rng.one_in(30) {
        // One reading, so that `single` still says what there is.
        let data = rng.pick(&["no JSON", "{\"d\":{\"k\":\"a\",", "", "[]", "7", "{\"list\":{}}"]).to_owned();
        let single = Reading { key: None, value: String::new(), number: None, json: String::new() };
        return Input { name, data, single, list: None, except };
    }
    let texts: Vec<&str> = list.iter().flatten().map(|reading| &*reading.json).collect();
    let list_text = match &list {
        Some(_) => format!(",\"list\":[{}]", texts.join(",")),
        None => rng.pick(&["", ",\"list\":7"]).to_owned(),
    };
    let field = ["a", "b", "c"][rng.below(3) as usize];
    let data = match rng.below(3) {
        0 => format!("{{\"n\":{n},\"d\":{}{list_text}}}", single.json),
        1 => format!("{{\"{field}\":{n},\"d\":{}{list_text},\"n\":{n}}}", single.json),
        _ => format!("{{ \"d\" : {}, \"{field}\":[\"d\",{{\"k\":\"{n}\"}}]{list_text},\"n\":{n} }}", single.json),
    };
    Input { name, data, single, list, except }
}

fn reading(rng: &mut Rng, shape: Shape) -> Reading {
    let key = rng.below(shape.keys);
    // The key as it is written, and its meaning.
    let (written, meant) = match rng.below(24) {
        0 => (None, None),
        1 => (Some(rng.pick(&["null", "{}", "[1]", "[]"]).to_owned()), None),
        2 => (Some("true".to_owned()), Some("true".to_owned())),
        3 => (Some("\"true\"".to_owned()), Some("true".to_owned())),
        4 => (Some("\"\\u0031\"".to_owned()), Some("1".to_owned())),
        5 => (Some("\"ключ\\n\\u0000\"".to_owned()), Some("ключ\n\0".to_owned())),
        6 => (Some("\"\"".to_owned()), Some(String::new())),
        7..16 => (Some(format!("{key}")), Some(format!("{key}"))),
        _ => (Some(format!("\"{key}\"")), Some(format!("{key}"))),
    };
    let (value, number) = value(rng, shape.numbers);
    let json = match (&written, rng.below(3)) {
        (None, _) => format!("{{\"v\":{value}}}"),
        (Some(key), 0) => format!("{{\"v\":{value},\"k\":{key}}}"),
        (Some(key), 1) => format!("{{\"k\":\"old\",\"k\":{key},\"v\":{value},\"aggregate\":1}}"),
        (Some(key), _) => format!("{{\"k\":{key},\"v\":{value}}}"),
    };
    Reading { key: meant, value, number, json }
}

fn value(rng: &mut Rng, numbers: u64) -> (String, Option<f64>) {
    let odd = rng.one_in(10);
    let text = match (odd, numbers) {
        (true, _) => rng
            .pick(&[
                "null",
                "true",
                "\"\"",
                "\"NaN\"",
                "\"Infinity\"",
                "\"-inf\"",
                "\"abc\"",
                "{}",
                "[1]",
                "1e400",
                "\"1e400\"",
                "-1e999",
                "\"12.50\"",
                "\"-3\"",
                "\"1e5\"",
                "\"1,5\"",
                "1e308",
                "1e308",
                "-1e308",
                "5e-324",
                "-0.0",
                "9007199254740993",
                "18446744073709551615",
                "123456789012345678901234567890",
            ])
            .to_owned(),
        (_, 0) => format!("{}", rng.below(2000) as i64 - 1000),
        (_, 1) => format!("{}.{:02}", rng.below(2000) as i64 - 1000, rng.below(100)),
        _ => {
            let sign = rng.pick(&["", "-"]);
            let exponent = rng.pick(&[0, 0, 16, 16, 16, 32, -20, 300]);
            format!("{sign}{}.{}e{exponent}", 1 + rng.below(9), rng.below(1_000_000))
        }
    };
    let number = text.trim_matches('"').parse::<f64>().ok().filter(|number| number.is_finite());
    // Rust reads words as numbers that JSON does not.
    let number = number.filter(|_| !matches!(&*text, "null" | "true"));
    (text, number)
}
