//! One run: everybody comes, things fail, all is well again, and the judge looks at what was seen.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use support::barrier::Figures;
use support::http::try_request;
use support::receiver::Received;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::check::Verdict;
use crate::check::check;
use crate::history::History;
use crate::history::Name;
use crate::history::Occupancy;
use crate::history::Recorder;
use crate::history::What;
use crate::hooks;
use crate::node::LinkWatch;
use crate::official::Official;
use crate::page::Page;
use crate::page::Phase;
use crate::publisher::Door;
use crate::publisher::Publisher;
use crate::schedule::NODES;
use crate::schedule::Step;
use crate::schedule::schedule;
use crate::world::APPS;
use crate::world::World;

/// Until everybody is where they should be, once nothing fails any more: a lease of a node that was killed ends within
/// 15 s, and whoever Redis has lost may be awaited for 12 s.
const BACK_MAX: Duration = Duration::from_secs(45);
/// Between two events of one publisher on average.
const PAUSE: Duration = Duration::from_millis(160);
/// Each app's endpoint may have two connections of a node that are kept for the next webhook.
const KEPT: usize = 2 * APPS.len();
/// A node that has seen much may have so many bytes more.
const GROWTH_MAX: u64 = 64 * 1024 * 1024;
/// The first number of those who publish in the end.
const LAST: u32 = 1000;

#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub storm: Duration,
    /// The longest that something fails.
    pub longest: Duration,
    pub pages: usize,
    /// How many more have official libraries.
    pub official: usize,
    /// `alone`, `sentinel` or `cluster`.
    pub redis: &'static str,
}

/// What is left of a run.
pub struct Outcome {
    history: History,
    folder: PathBuf,
    verdict: Verdict,
}

impl Outcome {
    /// Everything that is broken.
    pub fn broken(&self) -> &[String] {
        &self.verdict.broken
    }

    /// Prints figures, and writes the history to a file if something is broken.
    #[track_caller]
    pub fn assert_sound(&self, plan: &Plan) {
        let count = |is: fn(&What) -> bool| self.history.entries.iter().filter(|entry| is(&entry.what)).count();
        println!(
            "seed {}, Redis {}: {} events accepted and {} refused, {} received by {} connections and {} missed for \
             reasons, {} changes of members, {} gaps, {} events in webhooks; {} processes killed, {} times in which something may be missed",
            plan.seed,
            plan.redis,
            count(|what| matches!(what, What::Accepted { .. })),
            count(|what| matches!(what, What::Refused { .. })),
            count(|what| matches!(what, What::Heard { .. })),
            count(|what| matches!(what, What::Opened { .. })),
            self.verdict.missed,
            count(|what| matches!(what, What::MemberCame { .. } | What::MemberWent { .. })),
            count(|what| matches!(what, What::Gap { .. })),
            count(|what| matches!(what, What::Posted { .. })),
            self.history.deaths.len(),
            self.history.windows.len(),
        );
        if self.verdict.broken.is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
            return;
        }
        std::fs::write(self.folder.join("faults.txt"), self.verdict.broken.join("\n")).unwrap();
        let file = self.folder.join("history.txt");
        self.history.write(&file);
        let some: Vec<&String> = self.verdict.broken.iter().take(30).collect();
        panic!(
            "GEMA_TEST_SEED={}: {} faults, such as {some:#?}; see {}",
            plan.seed,
            self.verdict.broken.len(),
            file.display()
        );
    }
}

pub async fn run(plan: &Plan) -> Outcome {
    run_steps(plan, &schedule(plan.seed, plan.storm, plan.longest)).await
}

/// Leaves out parts of the schedule as long as something is broken without them, and prints the rest. Each try is a run.
pub async fn shrink(plan: &Plan, mut tries: u64) {
    let mut steps = schedule(plan.seed, plan.storm, plan.longest);
    let mut size = steps.len().div_ceil(2);
    while size > 0 && tries > 0 {
        let mut from = 0;
        while from < steps.len() && tries > 0 {
            tries -= 1;
            let without = (from..steps.len().min(from + size)).collect::<Vec<_>>();
            let fewer: Vec<Step> = steps
                .iter()
                .enumerate()
                .filter(|(at, _)| !without.contains(at))
                .map(|(_, step)| step.clone())
                .collect();
            let storm = fewer.last().map_or(Duration::ZERO, |last| last.at) + plan.longest;
            let outcome = run_steps(&Plan { storm: storm.min(plan.storm), ..*plan }, &fewer).await;
            println!("{} of {} actions: {} faults", fewer.len(), steps.len(), outcome.verdict.broken.len());
            if outcome.verdict.broken.is_empty() {
                from += size;
            } else {
                steps = fewer;
            }
        }
        size /= 2;
    }
    println!("these {} actions are enough:", steps.len());
    for Step { at, action } in steps {
        println!("{at:?} {action:?}");
    }
}

async fn run_steps(plan: &Plan, steps: &[Step]) -> Outcome {
    let recorder = Recorder::new();
    let (world, requests) = World::start(plan.seed, plan.redis, recorder.clone()).await;
    let world = Arc::new(world);
    let mut play = Play::start(plan, &world, requests).await;
    play.storm(plan, steps).await;
    play.settle().await;
    play.end().await;
    let history = recorder.take_history();
    let verdict = check(&history);
    Outcome { history, folder: world.folder.clone(), verdict }
}

/// Who takes part in a run.
struct Play {
    world: Arc<World>,
    phase: watch::Sender<Phase>,
    stop: watch::Sender<bool>,
    pages: Vec<JoinHandle<()>>,
    /// Subscriptions of all pages.
    wanted: usize,
    publishers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    /// Files and bytes of memory of each node before anybody came.
    level: [(usize, u64); NODES],
}

impl Play {
    async fn start(plan: &Plan, world: &Arc<World>, requests: UnboundedReceiver<Received>) -> Self {
        let watchers = (0..NODES).map(|node| {
            let world = Arc::clone(world);
            let watch = LinkWatch::new(node, &world);
            tokio::spawn(async move { watch.run(&world.places).await })
        });
        let mut watchers: Vec<_> = watchers.collect();
        let nurse = Arc::clone(world);
        watchers.push(tokio::spawn(async move {
            loop {
                nurse.look_after();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }));
        watchers.push(tokio::spawn(hooks::take(requests, world.recorder.clone())));
        let (phase, watch) = watch::channel(Phase::Calm);
        let pages: Vec<Page> = (0..plan.pages).map(|number| Page::new(number, world, &watch)).collect();
        let official = Official::all(plan.official, world, &watch);
        let wanted = pages.iter().map(Page::wants).chain(official.iter().map(Official::wants)).sum();
        let (stop, stopped) = watch::channel(false);
        let mut play = Self {
            world: Arc::clone(world),
            phase,
            stop,
            wanted,
            pages: Vec::new(),
            publishers: Vec::new(),
            watchers,
            level: [(0, 0); NODES],
        };
        play.nodes_are_together().await;
        play.level = play.levels().await;
        play.pages = pages.into_iter().map(|page| tokio::spawn(page.run())).collect();
        play.pages.extend(official.into_iter().map(|pages| tokio::spawn(pages.run())));
        play.everybody_is_there().await;
        let doors = (0..NODES).map(Door::Node).chain([Door::Nginx]);
        for (id, (app, door)) in (0..APPS.len()).flat_map(|app| doors.clone().map(move |door| (app, door))).enumerate()
        {
            let publisher = Publisher::new(id as u32, app, door, world);
            play.publishers.push(tokio::spawn(publisher.run(world.channels.clone(), PAUSE, stopped.clone())));
        }
        if world.redis_port.is_some() {
            let laravel = Publisher::new(LAST - 1, 0, Door::Redis, world);
            play.publishers.push(tokio::spawn(laravel.run(world.channels.clone(), PAUSE, stopped)));
        }
        play
    }

    async fn storm(&self, plan: &Plan, steps: &[Step]) {
        self.phase.send_replace(Phase::Restless);
        let began = Instant::now();
        let mut sufferings = Vec::new();
        for step in steps {
            tokio::time::sleep_until(began + step.at).await;
            let (world, action) = (Arc::clone(&self.world), step.action.clone());
            sufferings.push(tokio::spawn(async move { world.suffer(&action).await }));
        }
        tokio::time::sleep_until(began + plan.storm).await;
        for suffering in sufferings {
            suffering.await.unwrap();
        }
        self.world.recorder.note("nothing fails any more");
    }

    /// Waits until everything that was accepted has arrived, and everybody knows who is there.
    async fn settle(&mut self) {
        self.phase.send_replace(Phase::Calm);
        self.nodes_are_together().await;
        self.everybody_is_there().await;
        self.stop.send_replace(true);
        for publisher in self.publishers.drain(..) {
            publisher.await.unwrap();
        }
        self.the_last_events_arrive().await;
        self.members_are_known().await;
        self.webhooks_are_right().await;
        self.world.recorder.record(What::Settled);
    }

    async fn end(&mut self) {
        self.phase.send_replace(Phase::Over);
        for page in self.pages.drain(..) {
            page.await.unwrap();
        }
        self.nothing_is_left().await;
        for watcher in self.watchers.drain(..) {
            watcher.abort();
            let _ = watcher.await;
        }
        for node in &self.world.nodes {
            if let Err(how) = node.lock().await.stop().await {
                self.world.recorder.fault(how);
            }
        }
    }

    /// Waits until webhooks have said who is there.
    async fn webhooks_are_right(&self) {
        self.until("webhooks have said what is so", async || {
            for metrics in self.world.places.metrics {
                let figures = Figures::try_of(metrics, Duration::from_secs(2)).await;
                let waiting = figures.map_or(-1.0, |figures| figures.sum("gema_webhook_events_waiting", ""));
                if waiting != 0.0 {
                    return Err(format!("{waiting} events wait on {metrics}"));
                }
            }
            let unknowable = self.world.recorder.unknowable();
            self.world.recorder.look(|now| {
                let (is_there, is_posted) = (now.is_there(), now.is_posted());
                let known = |what: &&Occupancy| !unknowable.contains(*what);
                let missing: Vec<_> = is_there.difference(&is_posted).filter(known).collect();
                let too_much: Vec<_> = is_posted.difference(&is_there).filter(known).collect();
                if missing.is_empty() && too_much.is_empty() {
                    return Ok(());
                }
                Err(format!("they have not said that there is {missing:?}, nor that there is not {too_much:?}"))
            })
        })
        .await;
    }

    /// Waits until each node is as it was before anybody came.
    async fn nothing_is_left(&self) {
        self.until("nothing is left of the pages", async || {
            for metrics in self.world.places.metrics {
                let figures = Figures::try_of(metrics, Duration::from_secs(2)).await;
                let Some(figures) = figures else { return Err(format!("{metrics} does not answer")) };
                for name in ["soketi_connected", "gema_channels", "gema_users", "gema_views", "gema_cluster_waiting"] {
                    let number = figures.sum(name, "");
                    if number != 0.0 {
                        return Err(format!("{name} of {metrics} is {number}"));
                    }
                }
                let panics = figures.sum("gema_panics_total", "");
                if panics != 0.0 {
                    return Err(format!("{panics} panics of {metrics}"));
                }
            }
            for (node, (before, now)) in self.level.iter().zip(self.levels().await).enumerate() {
                if now.0 > before.0 + KEPT {
                    let peers = self.world.nodes[node].lock().await.peers();
                    return Err(format!(
                        "node {node} has {} files open, and had {}; TCP to {peers:?}",
                        now.0, before.0
                    ));
                }
            }
            Ok(())
        })
        .await;
        for (node, (before, now)) in self.level.iter().zip(self.levels().await).enumerate() {
            let peers = self.world.nodes[node].lock().await.peers();
            self.world
                .recorder
                .note(format!("node {node}: files and bytes {before:?} before, {now:?} afterwards; TCP to {peers:?}"));
            if now.1 > before.1 + GROWTH_MAX {
                self.world.recorder.fault(format!("node {node} has {} bytes of memory, and had {}", now.1, before.1));
            }
        }
    }

    async fn levels(&self) -> [(usize, u64); NODES] {
        let mut levels = [(0, 0); NODES];
        for (node, level) in self.world.nodes.iter().zip(&mut levels) {
            *level = node.lock().await.level().unwrap_or_default();
        }
        levels
    }

    async fn nodes_are_together(&self) {
        self.until("each node knows all nodes", async || {
            for metrics in self.world.places.metrics {
                let figures = Figures::try_of(metrics, Duration::from_secs(2)).await;
                let nodes = figures.map_or(0.0, |figures| figures.sum("gema_cluster_nodes", ""));
                if nodes != NODES as f64 {
                    return Err(format!("{metrics} knows {nodes}"));
                }
            }
            Ok(())
        })
        .await;
    }

    async fn everybody_is_there(&self) {
        self.until("every page is on its channels", async || {
            let joined = self.world.recorder.look(|now| {
                let subscriptions = now.connections.values().flat_map(|open| open.channels.values());
                subscriptions.filter(|subscription| subscription.joined).count()
            });
            if joined == self.wanted { Ok(()) } else { Err(format!("{joined} of {} subscriptions", self.wanted)) }
        })
        .await;
    }

    /// Publishes on each channel from each node, and waits until everybody has all of it.
    async fn the_last_events_arrive(&self) {
        let mut expected: BTreeMap<(usize, Name), BTreeMap<u32, u32>> = BTreeMap::new();
        for node in 0..NODES {
            for app in 0..APPS.len() {
                let id = LAST + (node * APPS.len() + app) as u32;
                let mut publisher = Publisher::new(id, app, Door::Node(node), &self.world);
                for channel in &self.world.channels {
                    match publisher.publish(std::slice::from_ref(channel)).await {
                        Some(number) => {
                            expected.entry((app, channel.clone())).or_default().insert(id, number);
                        }
                        None => self.world.recorder.fault(format!("node {node} does not take an event in the end")),
                    }
                }
            }
        }
        self.until("the last events arrive", async || {
            self.world.recorder.look(|now| {
                for ((app, channel), last) in &expected {
                    for (connection, open, subscription) in now.subscriptions(*app, channel) {
                        for (publisher, number) in last {
                            if subscription.last.get(publisher) != Some(number) {
                                let place = open.place;
                                return Err(format!("connection {connection} at {place:?} on {channel}: {publisher}"));
                            }
                        }
                    }
                }
                Ok(())
            })
        })
        .await;
    }

    /// Waits until every page and every node has the right list of each presence channel.
    async fn members_are_known(&self) {
        let presence: Vec<Name> =
            self.world.channels.iter().filter(|channel| channel.starts_with("presence-")).cloned().collect();
        self.until("everybody knows who is there", async || {
            for app in 0..APPS.len() {
                for channel in &presence {
                    let present = self.world.recorder.look(|now| now.users(app, channel));
                    self.world.recorder.look(|now| {
                        for (connection, open, subscription) in now.subscriptions(app, channel) {
                            if subscription.members != present {
                                let (place, members) = (open.place, &subscription.members);
                                return Err(format!(
                                    "app {app} {channel}: connection {connection} at {place:?} knows {members:?}, and there are {present:?}"
                                ));
                            }
                        }
                        Ok(())
                    })?;
                    for node in 0..NODES {
                        let listed = self.listed(node, app, channel).await;
                        if listed.as_ref() != Some(&present) {
                            return Err(format!("app {app} {channel}: node {node} lists {listed:?} instead of {present:?}"));
                        }
                    }
                }
            }
            Ok(())
        })
        .await;
    }

    /// The users of a presence channel, as a node lists them to the back end.
    async fn listed(&self, node: usize, app: usize, channel: &str) -> Option<BTreeSet<Name>> {
        let target = APPS[app].api().signed("GET", &format!("/channels/{channel}/users"), &[], "");
        let address = self.world.places.addresses[node];
        let answer = try_request(address, "GET", &target, b"", Duration::from_secs(5)).await?;
        let users = answer.json()["users"].as_array()?.clone();
        users.iter().map(|user| user["id"].as_str().map(Name::from)).collect()
    }

    /// Waits until it is so; that it is not in time is a fault, after which the run goes on.
    async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> Result<(), String>) {
        let began = Instant::now();
        loop {
            match so().await {
                Ok(()) => {
                    self.world.recorder.note(format!("{what}, after {:?}", began.elapsed()));
                    return;
                }
                Err(how) if began.elapsed() > BACK_MAX => {
                    self.world.recorder.fault(format!("not within {BACK_MAX:?}: {what}: {how}"));
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}
