//! One look at everything each second: the figures, their history, the numbers of problems, and the sentence.
//! `Dashboard::run` calls it; states and streams share what it found.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::dashboard::Dashboard;
use crate::dashboard::now::Now;
use crate::dashboard::now::Rates;
use crate::dashboard::now::Rule;
use crate::metrics;
use crate::metrics::Sums;
use crate::refusal::Cause;
use crate::refusal::NewRefusals;
use crate::store::StoreState;
use crate::watch::glance;
use crate::watch::glance::Glance;
use crate::watch::glance::Situation;
use crate::watch::now_ms;
use crate::watch::problems::Problems;
use crate::watch::problems::Refused;

/// Seconds of refusals that the sentence looks at.
const REFUSALS_SECONDS: usize = 60;
/// The codes of problems that last while Redis or NATS is away.
const AWAY_CODES: [&str; 4] = ["redis_absent", "redis_lost", "nats_absent", "nats_lost"];
/// The code of a problem that lasts as long, and that nobody resolves when it is back: events are lost.
const OUTAGE_CODE: &str = "outage_drops";
/// Like `AWAY_CODES`, for the database with the apps.
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
    pub(super) glance: Glance,
    /// The share of a core that the process used.
    pub(super) cpu: f64,
    pub(super) memory_bytes: u64,
    pub(super) redis: Redis,
    /// Publishes a second of the apps that have any.
    pub(super) publishes: HashMap<Arc<str>, f64>,
    /// Events in and out a second of the flow rules that have any.
    pub(super) rules: HashMap<Rule, (f64, f64)>,
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
    refusals: VecDeque<Vec<(Cause, u64)>>,
    refused: RefusedSoFar,
}

/// Refusals by cause and app since the start, as the metrics count them.
#[derive(Debug, Default)]
struct RefusedSoFar(HashMap<(&'static str, Box<str>), u64>);

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
            refused: RefusedSoFar::default(),
        }
    }

    /// Looks at everything.
    pub(super) fn sample(&mut self, dashboard: &Dashboard, at: Instant) -> Sampled {
        let (node, at_ms) = (dashboard.node(), now_ms());
        let seconds = at.saturating_duration_since(self.at).as_secs_f64();
        let sums = node.metrics().sums();
        let before = std::mem::replace(&mut self.sums, sums);
        let refused = node.refusals().take_new();
        // The first look comes at once.
        let rates = Rates { before: &before, after: &self.sums, refused: &refused, seconds: seconds.max(0.1) };
        let connections = node.sockets() as u64;
        self.peak = self.peak.max(connections);
        let channels = node.channels() as u64;
        let own = Now { at_ms, connections, connections_peak: self.peak, channels, ..rates.now() };
        let mut now = own.clone();
        let others = dashboard.nodes.lock().figures(at);
        others.iter().for_each(|other| now.add(other));
        let (publishes, rules) = (rates.publishes(), rates.rules());
        self.refusals.push_back(by_cause(&refused));
        if self.refusals.len() > REFUSALS_SECONDS {
            self.refusals.pop_front();
        }
        dashboard.watch().history.lock().add(at_ms / 1000, own.sample());
        dashboard.watch().history_of_all.lock().add(at_ms / 1000, now.sample());
        self.look_at_redis(dashboard, at_ms);
        self.count_problems(dashboard, refused, at_ms);
        let usage = metrics::usage().unwrap_or_default();
        let cpu = (usage.cpu_seconds - self.cpu_seconds).max(0.0) / seconds.max(0.1);
        (self.at, self.cpu_seconds, self.number) = (at, usage.cpu_seconds, self.number + 1);
        let glance = glance::glance(&self.situation(dashboard, (&own, &now), at));
        Sampled {
            number: self.number,
            now,
            own,
            glance,
            cpu: (cpu * 1000.0).round() / 1000.0,
            memory_bytes: usage.memory_bytes,
            redis: self.redis.clone(),
            publishes,
            rules,
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

    /// Adds the new refusals, and resolves what is over.
    fn count_problems(&mut self, dashboard: &Dashboard, new: Vec<NewRefusals>, at_ms: u64) {
        let mut problems = dashboard.watch().problems.lock();
        self.refused.add(new, &mut problems, at_ms);
        let mut lasting = Vec::new();
        match self.redis.is_used && !self.redis.is_linked {
            true => lasting.extend(AWAY_CODES.into_iter().chain([OUTAGE_CODE])),
            false => problems.resolve(&AWAY_CODES),
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
        Situation {
            nodes: 1 + others,
            lost,
            is_draining: node.is_draining(),
            connections: now.connections,
            connections_max: node.sockets_max() as u64,
            connections_here: own.connections,
            events: now.events,
            meets_in: node.meets_in().unwrap_or_default(),
            redis_away: is_away.then(|| now.at_ms.saturating_sub(self.redis.since_ms) / 1000),
            buffer: self.redis.buffer,
            missed: node.cluster().and_then(|cluster| cluster.outgoing().missed()),
            is_store_away: is_store_away(dashboard),
            drops: now.drops,
            webhooks: (node.webhooks().waiting() as u64, dashboard.config.webhooks.queue_events_max as u64),
            error: dashboard.watch().problems.lock().open_error(),
            refused: self.most_refused(),
        }
    }

    /// The most frequent cause of the last minute in words, and the number of all refusals.
    fn most_refused(&self) -> Option<(String, u64)> {
        let mut counts: HashMap<&str, (u64, Cause)> = HashMap::new();
        for (cause, count) in self.refusals.iter().flatten() {
            counts.entry(cause.name()).or_insert((0, *cause)).0 += count;
        }
        let all = counts.values().map(|(count, _)| count).sum();
        let (_, (_, most)) = counts.into_iter().max_by_key(|(name, (count, _))| (*count, Reverse(*name)))?;
        Some((most.sentence().to_owned(), all))
    }
}

impl RefusedSoFar {
    /// Adds new refusals to their problems. The others are no news: their problem may be long forgotten.
    fn add(&mut self, new: Vec<NewRefusals>, problems: &mut Problems, at_ms: u64) {
        for NewRefusals { cause, app, count } in new {
            let all = self.0.entry((cause.name(), app.clone())).or_default();
            *all += count;
            let (sentence, remedy) = (cause.sentence(), cause.remedy());
            let refused = Refused { app: app.into(), cause: cause.name(), sentence, remedy, count: *all };
            problems.set_refused(&refused, at_ms);
        }
    }
}

/// The refusals of all apps by cause.
fn by_cause(new: &[NewRefusals]) -> Vec<(Cause, u64)> {
    let mut counts: Vec<(Cause, u64)> = Vec::new();
    // The causes come one after the other.
    for NewRefusals { cause, count, .. } in new {
        match counts.last_mut().filter(|(last, _)| last == cause) {
            Some((_, all)) => *all += count,
            None => counts.push((*cause, *count)),
        }
    }
    counts
}

fn is_store_away(dashboard: &Dashboard) -> bool {
    let state = dashboard.node().store().map(|store| store.state());
    matches!(state, Some(StoreState::Away | StoreState::NeverAnswered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::refusal::Refusals;
    use crate::refusal::Subject;

    #[test]
    fn refusals_that_do_not_grow_stay_forgotten_and_evict_nobody() {
        let refusals = Refusals::new(Arc::new(Metrics::new("soketi_", 6001, false))).counted_anew();
        let refuse = |apps: u32| {
            for app in 0..apps {
                let app = format!("app-{app}");
                refusals.add(Cause::ConnectOrigin, &Subject { app: &app, ..Subject::default() });
            }
        };
        let (mut problems, mut so_far) = (Problems::default(), RefusedSoFar::default());
        let mut look = |problems: &mut Problems, at_ms: u64| {
            so_far.add(refusals.take_new(), problems, at_ms);
            problems.tick(at_ms, &[]);
        };
        (0..7).for_each(|_| refuse(3));
        look(&mut problems, 0);
        assert_eq!(problems.since(0).len(), 3);
        let day = 24 * 3600 * 1000;
        look(&mut problems, day);
        look(&mut problems, day + 1000);
        assert!(problems.since(0).is_empty(), "refusals of the day before come back");
        // More kinds than are kept.
        refuse(600);
        look(&mut problems, day + 2000);
        let version = problems.version();
        look(&mut problems, day + 3000);
        assert_eq!(problems.version(), version, "kinds take each other's place without an event");
        refuse(1);
        look(&mut problems, day + 4000);
        let [problem] = &problems.since(version)[..] else { panic!("one has changed") };
        assert_eq!((problem.count, problem.last_ms), (9, day + 4000));
    }

    #[test]
    fn refusals_of_apps_are_added_by_cause() {
        let new = |cause, app: &str, count| NewRefusals { cause, app: app.into(), count };
        let all =
            [new(Cause::ConnectOrigin, "a", 2), new(Cause::ConnectOrigin, "b", 3), new(Cause::ApiSignature, "a", 1)];
        assert_eq!(by_cause(&all), [(Cause::ConnectOrigin, 5), (Cause::ApiSignature, 1)]);
    }
}
