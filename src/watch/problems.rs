//! Problems: what went wrong, grouped by code, app, and rule or endpoint.
//! `source` adds the log's warnings and refusals, `dashboard` the counts of refusals from the metrics.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::IpAddr;

use tracing::Level;

use crate::watch::kinds;
use crate::watch::record::Record;

/// Kinds of problems that are kept; beyond it the one that is silent for longest goes.
pub const PROBLEMS_MAX: usize = 500;
/// A problem that has not happened for so long counts as resolved.
const RESOLVED_AFTER_MS: u64 = 5 * 60 * 1000;
/// A problem that has not happened for so long is forgotten.
const FORGOTTEN_AFTER_MS: u64 = 24 * 3600 * 1000;
/// Characters of a name in `where`.
const NAME_CHARS_MAX: usize = 200;
/// Characters of a detail, which has all other fields.
const DETAIL_CHARS_MAX: usize = 1000;

/// The identity of a problem: its code, the app's id, and the rule or endpoint.
type Key = (String, String, String);

/// The problems of this node.
#[derive(Debug, Default)]
pub struct Problems {
    by_key: HashMap<Key, Problem>,
    /// Grows with each change.
    version: u64,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The version of its last change.
    pub version: u64,
    /// The code of its cause.
    pub code: String,
    /// Whether it is an error, for which somebody must act.
    pub is_error: bool,
    /// How often it has happened.
    pub count: u64,
    /// The first time, in milliseconds since 1970.
    pub first_ms: u64,
    /// The last time.
    pub last_ms: u64,
    /// Whether it has not happened for some minutes, or has ended.
    pub is_resolved: bool,
    /// The sentence.
    pub sentence: String,
    /// The remedy.
    pub remedy: String,
    /// Where it happened last: `app`, `channel`, `address` and so on.
    pub place: BTreeMap<&'static str, String>,
    /// The reason, which only the operator may know.
    pub detail: String,
    /// The filter that shows it in the live rows.
    pub live: String,
    /// Counted by the metrics, not by the log's lines.
    is_refusal: bool,
}

/// Refusals of one cause and app, as the metrics count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The app's id, or nothing.
    pub app: String,
    /// The cause's name.
    pub cause: &'static str,
    /// The cause in words.
    pub sentence: &'static str,
    /// The remedy.
    pub remedy: &'static str,
    /// How many since the start.
    pub count: u64,
}

/// The fields of an event that say where it happened, and their names on the page.
const PLACES: [(&str, &str); 14] = [
    ("app", "app"),
    ("app_id", "app"),
    ("channel", "channel"),
    ("event", "event"),
    ("rule", "rule"),
    ("endpoint", "endpoint"),
    ("host", "endpoint"),
    ("node", "node"),
    ("place", "endpoint"),
    ("address", "address"),
    ("socket_id", "socket"),
    ("user", "user"),
    ("origin", "origin"),
    ("library", "library"),
];

/// Fields that have a place of their own.
const KNOWN: [&str; 6] = ["cause", "code", "remedy", "detail", "advice", "repeated"];

impl Problems {
    /// Adds a warning or a refusal.
    pub(super) fn add(&mut self, record: &Record) {
        let is_refusal = kinds::is_refusal(record);
        let (code, remedy) = match record.field("cause").filter(|_| is_refusal) {
            Some(cause) => (cause.to_owned(), record.field("remedy").unwrap_or_default()),
            None => {
                let (code, remedy) = kinds::problem(record);
                (code, record.field("advice").or(record.field("remedy")).unwrap_or(remedy))
            }
        };
        if is_refusal && record.field("repeated").is_some() && record.field("address").is_none() {
            // A number of the log, which the metrics know already.
            return;
        }
        let place = place(record);
        let of = |name| place.get(name).cloned().unwrap_or_default();
        let group = if is_refusal { of("rule") } else { of("rule") + &of("endpoint") };
        // Warnings that share a code differ by their sentence.
        let group = if code.ends_with("_warning") { record.text.clone() } else { group };
        let live = if is_refusal { format!("kind:refusal cause:{code}") } else { format!("level:{}", record.level) };
        let (is_error, remedy) = (record.level == Level::ERROR, remedy.to_owned());
        let problem = self.entry((code, of("app"), group), record.at_ms);
        problem.is_error |= is_error;
        problem.is_refusal = is_refusal;
        problem.count += u64::from(!is_refusal || problem.count == 0);
        problem.live = live.to_lowercase();
        problem.sentence.clone_from(&record.text);
        problem.remedy = remedy;
        problem.place = place;
        problem.detail = detail(record);
        problem.happened(record.at_ms);
    }

    /// Sets the number of refusals of a cause and app.
    pub fn set_refused(&mut self, refused: &Refused, now_ms: u64) {
        let key = (refused.cause.to_owned(), refused.app.clone(), String::new());
        if self.by_key.get(&key).is_some_and(|problem| problem.count >= refused.count) {
            return;
        }
        let problem = self.entry(key, now_ms);
        if problem.sentence.is_empty() {
            problem.is_refusal = true;
            refused.sentence.clone_into(&mut problem.sentence);
            refused.remedy.clone_into(&mut problem.remedy);
            problem.live = format!("kind:refusal cause:{}", refused.cause);
            if !refused.app.is_empty() {
                problem.place.insert("app", refused.app.clone());
            }
        }
        problem.count = refused.count;
        problem.happened(now_ms);
    }

    /// The problem with this key; a new one takes the place of the one that is silent for longest.
    fn entry(&mut self, key: Key, now_ms: u64) -> &mut Problem {
        if !self.by_key.contains_key(&key) && self.by_key.len() >= PROBLEMS_MAX {
            let oldest = self.by_key.iter().min_by_key(|(_, problem)| problem.last_ms).map(|(key, _)| key.clone());
            oldest.map(|key| self.by_key.remove(&key));
        }
        self.version += 1;
        let code = key.0.clone();
        let problem = self.by_key.entry(key).or_insert_with(|| Problem {
            version: 0,
            code,
            is_error: false,
            count: 0,
            first_ms: now_ms,
            last_ms: now_ms,
            is_resolved: false,
            sentence: String::new(),
            remedy: String::new(),
            place: BTreeMap::new(),
            detail: String::new(),
            live: String::new(),
            is_refusal: false,
        });
        problem.version = self.version;
        problem
    }

    /// Marks the problems with these codes as resolved, since their reason has ended.
    pub fn resolve(&mut self, codes: &[&str]) {
        let open = self.by_key.values_mut().filter(|problem| !problem.is_resolved);
        for problem in open.filter(|problem| codes.contains(&&*problem.code)) {
            problem.is_resolved = true;
            self.version += 1;
            problem.version = self.version;
        }
    }

    /// Resolves what has not happened for some minutes, unless its code is among `lasting`, and forgets what has not
    /// happened for a day.
    pub fn tick(&mut self, now_ms: u64, lasting: &[&str]) {
        self.by_key.retain(|_, problem| now_ms.saturating_sub(problem.last_ms) < FORGOTTEN_AFTER_MS);
        for problem in self.by_key.values_mut().filter(|problem| !problem.is_resolved) {
            let is_silent = now_ms.saturating_sub(problem.last_ms) >= RESOLVED_AFTER_MS;
            if is_silent && !lasting.contains(&&*problem.code) {
                problem.is_resolved = true;
                self.version += 1;
                problem.version = self.version;
            }
        }
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The problems that have changed after a version, the newest change first.
    pub fn since(&self, version: u64) -> Vec<Problem> {
        let mut changed: Vec<Problem> =
            self.by_key.values().filter(|problem| problem.version > version).cloned().collect();
        changed.sort_unstable_by_key(|problem| std::cmp::Reverse(problem.version));
        changed
    }

    /// The sentence of the error that has changed last, if one is open.
    pub fn open_error(&self) -> Option<String> {
        let open = self.by_key.values().filter(|problem| problem.is_error && !problem.is_resolved);
        open.max_by_key(|problem| problem.version).map(|problem| problem.sentence.clone())
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.by_key.values().map(Problem::bytes).sum()
    }
}

impl Problem {
    /// The identity on the page: the same on each node for the same problem.
    pub fn id(&self) -> String {
        let of = |name| self.place.get(name).map_or("", String::as_str);
        let group = if self.code.ends_with("_warning") { &self.sentence } else { of("rule") };
        let endpoint = if self.is_refusal { "" } else { of("endpoint") };
        [&self.code, of("app"), group, endpoint].join("|")
    }

    fn happened(&mut self, at_ms: u64) {
        self.last_ms = self.last_ms.max(at_ms);
        self.is_resolved = false;
    }

    fn bytes(&self) -> usize {
        let texts = self.code.len() * 2 + self.sentence.len() + self.remedy.len() + self.detail.len() + self.live.len();
        let place: usize = self.place.values().map(|value| value.len() + size_of::<(&str, String)>()).sum();
        2 * size_of::<Self>() + texts + place
    }
}

/// Where an event happened.
fn place(record: &Record) -> BTreeMap<&'static str, String> {
    let mut place = BTreeMap::new();
    for (field, name) in PLACES {
        let Some(value) = record.field(field).filter(|value| !value.is_empty()) else { continue };
        let value = match name {
            "address" => range_of(value),
            _ => value.chars().take(NAME_CHARS_MAX).collect(),
        };
        place.entry(name).or_insert(value);
    }
    place
}

/// The network of an address: it shows from where, and is no person.
fn range_of(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
        Err(_) => address.chars().take(NAME_CHARS_MAX).collect(),
    }
}

/// The detail, and all other fields.
fn detail(record: &Record) -> String {
    let others =
        record.fields.iter().filter(|(name, _)| !KNOWN.contains(name) && PLACES.iter().all(|(field, _)| field != name));
    let others = others.map(|(name, value)| format!("{name}: {value}"));
    let all = record.field("detail").map(str::to_owned).into_iter().chain(others).collect::<Vec<_>>().join("; ");
    all.chars().take(DETAIL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cause: &str, app: &str, at_ms: u64) -> Record {
        Record {
            at_ms,
            level: Level::WARN,
            target: "gema::refusal",
            text: "a subscription's signature is wrong".to_owned(),
            fields: vec![
                ("cause", cause.to_owned()),
                ("code", "401".to_owned()),
                ("app", app.to_owned()),
                ("channel", "private-orders.7".to_owned()),
                ("address", "10.1.2.3".to_owned()),
                ("detail", "signed with the secret of app shop".to_owned()),
                ("remedy", "give the application the app's secret".to_owned()),
            ],
        }
    }

    fn refused(app: &str, count: u64) -> Refused {
        Refused { app: app.to_owned(), cause: "subscribe_signature", sentence: "s", remedy: "r", count }
    }

    #[test]
    fn a_refusal_is_one_problem_with_the_number_of_the_metrics() {
        let mut problems = Problems::default();
        (0..5).for_each(|at| problems.add(&refusal("subscribe_signature", "a", 100 + at)));
        problems.add(&refusal("subscribe_signature", "b", 105));
        assert_eq!(problems.since(0).len(), 2);
        let before = problems.version();
        problems.set_refused(&refused("a", 7), 200);
        problems.set_refused(&refused("b", 1), 200);
        let [changed] = &problems.since(before)[..] else { panic!("only one has changed") };
        assert_eq!((changed.count, changed.first_ms, changed.last_ms), (7, 100, 200));
        assert_eq!(changed.place["address"], "10.1.2.0/24");
        assert_eq!((&*changed.place["app"], &*changed.place["channel"]), ("a", "private-orders.7"));
        assert_eq!(changed.detail, "signed with the secret of app shop");
        assert_eq!(changed.remedy, "give the application the app's secret");
        assert_eq!(changed.live, "kind:refusal cause:subscribe_signature");
    }

    #[test]
    fn a_refusal_that_the_log_has_suppressed_comes_from_the_metrics() {
        let mut problems = Problems::default();
        problems.set_refused(&refused("a", 3), 200);
        let [problem] = &problems.since(0)[..] else { panic!() };
        assert_eq!((problem.count, &*problem.sentence, &*problem.remedy), (3, "s", "r"));
        assert_eq!(problem.id(), "subscribe_signature|a||");
    }

    #[test]
    fn warnings_are_grouped_by_code_and_endpoint() {
        let warning = |host: &str| Record {
            at_ms: 1,
            level: Level::WARN,
            target: "gema::webhook::delivery",
            text: "a webhook is not delivered, and is tried again".to_owned(),
            fields: vec![("app", "a".to_owned()), ("host", host.to_owned()), ("error", "503".to_owned())],
        };
        let mut problems = Problems::default();
        for host in ["x.example", "x.example", "y.example"] {
            problems.add(&warning(host));
        }
        let mut counts: Vec<_> =
            problems.since(0).iter().map(|problem| (problem.place["endpoint"].clone(), problem.count)).collect();
        counts.sort();
        assert_eq!(counts, [("x.example".to_owned(), 2), ("y.example".to_owned(), 1)]);
        let problem = &problems.since(0)[0];
        assert_eq!((&*problem.code, &*problem.detail), ("webhook_failed", "error: 503"));
        assert!(!problem.remedy.is_empty());
    }

    #[test]
    fn problems_are_bounded_and_the_most_silent_goes_first() {
        let mut problems = Problems::default();
        for at in 0..2000 {
            problems.add(&refusal("connect_origin", &format!("app-{at}"), at));
        }
        let all = problems.since(0);
        assert_eq!(all.len(), PROBLEMS_MAX);
        assert!(all.iter().all(|problem| problem.last_ms >= 1500));
        assert!(problems.bytes() < 2 << 20, "{}", problems.bytes());
    }

    #[test]
    fn a_problem_is_resolved_after_minutes_and_forgotten_after_a_day() {
        let mut problems = Problems::default();
        problems.add(&refusal("connect_origin", "a", 0));
        problems.tick(RESOLVED_AFTER_MS, &["connect_origin"]);
        assert!(!problems.since(0)[0].is_resolved);
        problems.tick(RESOLVED_AFTER_MS, &[]);
        assert!(problems.since(0)[0].is_resolved);
        problems.add(&refusal("connect_origin", "a", RESOLVED_AFTER_MS));
        assert!(!problems.since(0)[0].is_resolved);
        problems.resolve(&["connect_origin"]);
        assert!(problems.since(0)[0].is_resolved);
        problems.tick(RESOLVED_AFTER_MS + FORGOTTEN_AFTER_MS, &[]);
        assert!(problems.since(0).is_empty());
    }

    #[test]
    fn addresses_become_networks() {
        for (address, range) in
            [("10.1.2.3", "10.1.2.0/24"), ("2001:db8:7:8::9", "2001:db8:7::/48"), ("elsewhere", "elsewhere")]
        {
            assert_eq!(range_of(address), range);
        }
    }
}
