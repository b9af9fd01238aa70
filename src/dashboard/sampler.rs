//! One look at everything each second: the figures, their history, the numbers of problems, and the sentence.
//! `Dashboard::run` calls it; states and streams share what it found.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use crate::dashboard::Dashboard;
use crate::dashboard::apps;
use crate::dashboard::now::Now;
use crate::dashboard::now::Rates;
use crate::metrics;
use crate::metrics::Sums;
use crate::refusal::Cause;
use crate::store::StoreState;
use crate::watch::glance;
use crate::watch::glance::Glance;
use crate::watch::glance::Situation;
use crate::watch::now_ms;
use crate::watch::problems::Problem;
use crate::watch::problems::Refused;

/// Seconds of refusals that the sentence looks at.
const REFUSALS_SECONDS: usize = 60;
/// The codes of problems that last while Redis is away.
const REDIS_CODES: [&str; 2] = ["redis_absent", "redis_lost"];
/// Like `REDIS_CODES`, for the database with the apps.
const STORE_CODES: [&str; 1] = ["store_away"];

/// The result of the last look.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    /// Grows with each look.
    pub(super) number: u64,
    /// The figures of all nodes together.
    pub(super) now: Now,
    /// The figures of this node.
    pub(super) own: Now,
    pub(super) glance: Option<Glance>,
    /// The share of a core that the process used.
    pub(super) cpu: f64,
    pub(super) memory_bytes: u64,
    pub(super) redis: Redis,
    pub(super) apps: Vec<Value>,
    pub(super) flow_rules: Vec<Value>,
}

/// The link to Redis.
#[derive(Debug, Clone, Default)]
pub(super) struct Redis {
    pub(super) is_used: bool,
    pub(super) is_linked: bool,
    /// Since when it is so, in milliseconds since 1970.
    pub(super) since_ms: u64,
    /// How much of the buffer for other nodes is used, from 0 to 1.
    pub(super) buffer: f64,
}

/// The state between two looks.
pub(super) struct Sampler {
    sums: Sums,
    at: Instant,
    cpu_seconds: f64,
    number: u64,
    peak: u64,
    redis: Redis,
    /// Refusals by cause of the last seconds.
    refusals: VecDeque<Vec<(String, u64)>>,
}

impl Sampler {
    pub(super) fn new(dashboard: &Dashboard) -> Self {
        Self {
            sums: dashboard.node().metrics().sums(),
            at: Instant::now(),
            cpu_seconds: metrics::usage().map_or(0.0, |usage| usage.cpu_seconds),
            number: 0,
            peak: 0,
            redis: Redis { since_ms: now_ms(), ..Redis::default() },
            refusals: VecDeque::new(),
        }
    }

    /// Looks at everything.
    pub(super) fn sample(&mut self, dashboard: &Dashboard, at: Instant) -> Sampled {
        let (node, at_ms) = (dashboard.node(), now_ms());
        let seconds = at.saturating_duration_since(self.at).as_secs_f64();
        let sums = node.metrics().sums();
        let before = std::mem::replace(&mut self.sums, sums);
        // The first look comes at once.
        let rates = Rates { before: &before, after: &self.sums, seconds: seconds.max(0.1) };
        let connections = node.sockets() as u64;
        self.peak = self.peak.max(connections);
        let channels = node.channels() as u64;
        let own = Now { at_ms, connections, connections_peak: self.peak, channels, ..rates.now() };
        let mut now = own.clone();
        let others = dashboard.nodes.lock().figures(at);
        others.iter().for_each(|other| now.add(other));
        let (apps, flow_rules) = (apps::apps(node, &rates), apps::flow_rules(node, &rates));
        let counts = own.causes.iter().map(|(cause, rate)| (cause.clone(), (rate * rates.seconds).round() as u64));
        self.refusals.push_back(counts.collect());
        if self.refusals.len() > REFUSALS_SECONDS {
            self.refusals.pop_front();
        }
        dashboard.watch().history.lock().add(at_ms / 1000, own.sample());
        dashboard.watch().history_of_all.lock().add(at_ms / 1000, now.sample());
        self.look_at_redis(dashboard, at_ms);
        self.count_problems(dashboard, &before, at_ms);
        let usage = metrics::usage().unwrap_or_default();
        let cpu = (usage.cpu_seconds - self.cpu_seconds).max(0.0) / seconds.max(0.1);
        (self.at, self.cpu_seconds, self.number) = (at, usage.cpu_seconds, self.number + 1);
        let glance = Some(glance::glance(&self.situation(dashboard, (&own, &now), at)));
        Sampled {
            number: self.number,
            now,
            own,
            glance,
            cpu: (cpu * 1000.0).round() / 1000.0,
            memory_bytes: usage.memory_bytes,
            redis: self.redis.clone(),
            apps,
            flow_rules,
        }
    }

    fn look_at_redis(&mut self, dashboard: &Dashboard, at_ms: u64) {
        let Some(cluster) = dashboard.node().cluster() else { return };
        let is_linked = cluster.is_linked();
        if is_linked != self.redis.is_linked {
            self.redis.since_ms = at_ms;
        }
        let (_, bytes) = cluster.outgoing().waiting();
        let buffer = bytes as f64 / dashboard.config.cluster.buffer_bytes_max.max(1) as f64;
        self.redis = Redis { is_used: true, is_linked, buffer: buffer.min(1.0), since_ms: self.redis.since_ms };
    }

    /// Takes the numbers of refusals from the metrics, and resolves what is over.
    fn count_problems(&self, dashboard: &Dashboard, before: &Sums, at_ms: u64) {
        // The first look takes everything: refusals may have come before it.
        let none = HashMap::new();
        let before = if self.number == 0 { &none } else { &before.refusals };
        let refused = refused_since(before, &self.sums.refusals);
        let mut problems = dashboard.watch().problems.lock();
        for refused in &refused {
            problems.set_refused(refused, at_ms);
        }
        let mut lasting = Vec::new();
        match self.redis.is_used && !self.redis.is_linked {
            true => lasting.extend(REDIS_CODES),
            false => problems.resolve(&REDIS_CODES),
        }
        match is_store_away(dashboard) {
            true => lasting.extend(STORE_CODES),
            false => problems.resolve(&STORE_CODES),
        }
        problems.tick(at_ms, &lasting);
    }

    fn situation(&self, dashboard: &Dashboard, (own, now): (&Now, &Now), at: Instant) -> Situation {
        let (others, lost) = dashboard.nodes.lock().counts(at);
        let node = dashboard.node();
        let is_away = self.redis.is_used && !self.redis.is_linked;
        let open = dashboard.watch().problems.lock().since(0);
        let error = |problem: &&Problem| problem.is_error && !problem.is_resolved;
        Situation {
            nodes: 1 + others,
            lost,
            is_draining: node.is_draining(),
            connections: now.connections,
            connections_max: node.sockets_max() as u64,
            connections_here: own.connections,
            events: now.events,
            redis_away: is_away.then(|| now.at_ms.saturating_sub(self.redis.since_ms) / 1000),
            buffer: self.redis.buffer,
            is_store_away: is_store_away(dashboard),
            drops: now.drops,
            webhooks: (node.webhooks().waiting() as u64, dashboard.config.webhooks.queue_events_max as u64),
            error: open.iter().find(error).map(|problem| problem.sentence.clone()),
            refused: self.most_refused(),
        }
    }

    /// The most frequent cause of the last minute in words, and the number of all refusals.
    fn most_refused(&self) -> Option<(String, u64)> {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for (cause, count) in self.refusals.iter().flatten() {
            *counts.entry(cause).or_default() += count;
        }
        let all = counts.values().sum();
        let (most, _) = counts.into_iter().max_by_key(|(cause, count)| (*count, std::cmp::Reverse(*cause)))?;
        let cause = Cause::ALL.iter().find(|cause| cause.name() == most)?;
        Some((cause.sentence().to_owned(), all))
    }
}

/// The refusals by app and cause that have grown in number. The others are no news: their problem may be long forgotten.
fn refused_since(before: &HashMap<(String, String), u64>, after: &HashMap<(String, String), u64>) -> Vec<Refused> {
    let by_name: HashMap<&str, Cause> = Cause::ALL.iter().map(|cause| (cause.name(), *cause)).collect();
    let grown = after.iter().filter(|(key, count)| before.get(*key) != Some(*count));
    let refused = |((app, cause), count): (&(String, String), &u64)| {
        let cause = by_name.get(&**cause)?;
        let (sentence, remedy) = (cause.sentence(), cause.remedy());
        Some(Refused { app: app.clone(), cause: cause.name(), sentence, remedy, count: *count })
    };
    grown.filter_map(refused).collect()
}

fn is_store_away(dashboard: &Dashboard) -> bool {
    let state = dashboard.node().store().map(|store| store.state());
    matches!(state, Some(StoreState::Away | StoreState::NeverAnswered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::problems::Problems;

    type Counts = HashMap<(String, String), u64>;

    fn look(problems: &mut Problems, (before, after): (&Counts, &Counts), at_ms: u64) {
        refused_since(before, after).iter().for_each(|refused| problems.set_refused(refused, at_ms));
        problems.tick(at_ms, &[]);
    }

    #[test]
    fn refusals_that_do_not_grow_stay_forgotten_and_evict_nobody() {
        let name = Cause::ALL[0].name().to_owned();
        let counts = |apps: u32, count| -> Counts {
            (0..apps).map(|app| ((format!("app-{app}"), name.clone()), count)).collect()
        };
        let mut problems = Problems::default();
        let (none, few) = (Counts::new(), counts(3, 7));
        look(&mut problems, (&none, &few), 0);
        assert_eq!(problems.since(0).len(), 3);
        let day = 24 * 3600 * 1000;
        look(&mut problems, (&few, &few), day);
        look(&mut problems, (&few, &few), day + 1000);
        assert!(problems.since(0).is_empty(), "refusals of the day before come back");
        // More kinds than are kept.
        let many = counts(600, 7);
        look(&mut problems, (&none, &many), day + 2000);
        let version = problems.version();
        look(&mut problems, (&many, &many), day + 3000);
        assert_eq!(problems.version(), version, "kinds take each other's place without an event");
        let mut more = many.clone();
        *more.get_mut(&("app-5".to_owned(), name.clone())).unwrap() = 8;
        look(&mut problems, (&many, &more), day + 4000);
        let [problem] = &problems.since(version)[..] else { panic!("one has changed") };
        assert_eq!((problem.count, problem.last_ms), (8, day + 4000));
    }
}
