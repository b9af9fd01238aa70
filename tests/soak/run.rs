//! One run: everybody comes, the hours pass, everybody goes, and what was measured is judged.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::process::Process;
use support::process::program;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::browser::Browser;
use crate::drift::judge;
use crate::office;
use crate::office::BackEnd;
use crate::office::Office;
use crate::plot::plot;
use crate::samples;
use crate::samples::MEASURES;
use crate::samples::RedisUsage;
use crate::samples::Sample;
use crate::samples::Usage;

/// Browsers for each clinic.
const STAFF: usize = 20;
/// Until nothing is left of the browsers: some went without a goodbye, and webhooks wait for those who come back.
const GONE_MAX: Duration = Duration::from_secs(60);
/// A kept connection to the receiver of webhooks.
const KEPT: usize = 1;
/// A node that has served so many may have so many mebibytes more than before.
const GROWTH_MAX: f64 = 32.0;

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub browsers: usize,
    /// How many times as fast as the real day.
    pub speed: f64,
    /// As long as an hour takes then. Each hour has one restart, one reload, one burst.
    pub hour: Duration,
    pub hours: usize,
    /// Readings of a burst.
    pub burst: usize,
}

/// What is left of a run.
pub struct Report {
    summary: String,
    samples: Vec<Sample>,
    broken: Vec<String>,
}

impl Report {
    /// Writes the plot and the samples, and prints where.
    #[track_caller]
    pub fn assert_sound(&self, plan: &Plan) {
        let folder = folder();
        let (svg, csv) = (folder.join(format!("{}.svg", plan.seed)), folder.join(format!("{}.csv", plan.seed)));
        fs::write(&svg, plot(&self.samples, plan.hour)).unwrap();
        let names: Vec<&str> = MEASURES.iter().map(|measure| measure.name).collect();
        let row = |sample: &Sample| {
            let values = sample.values.map(|value| format!("{value:.3}"));
            format!("{:.1},{}\n", sample.at, values.join(","))
        };
        let rows: String = self.samples.iter().map(row).collect();
        fs::write(&csv, format!("seconds,{}\n{rows}", names.join(","))).unwrap();
        println!("GEMA_TEST_SEED={}: {}\n{}\n{}", plan.seed, self.summary, svg.display(), csv.display());
        for (index, measure) in MEASURES.iter().enumerate() {
            let hours = samples::hours(&self.samples, index, plan.hour);
            let (first, last) = (hours.first().unwrap_or(&0.0), hours.last().unwrap_or(&0.0));
            println!("{}: {first:.2} in the first hour, {last:.2} in the last one {}", measure.name, measure.unit);
        }
        assert!(self.broken.is_empty(), "{} faults, such as {:#?}", self.broken.len(), self.broken);
    }
}

/// Below the folder that the tests are built in.
fn folder() -> PathBuf {
    let folder = program().parent().unwrap().join("soak");
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub async fn run(plan: &Plan) -> Report {
    let (office, received) = Office::open((plan.browsers / STAFF).max(1)).await;
    let office = Arc::new(office);
    let (occupied, is_occupied) = watch::channel(BTreeSet::new());
    let hooks = tokio::spawn(office::take(received, Arc::clone(&office), occupied));
    let before = level(&office).await;
    let (stop, stopped) = watch::channel(false);
    let browsers: Vec<JoinHandle<()>> = (0..plan.browsers)
        .map(|number| tokio::spawn(Browser::new(number, &office, plan.speed, plan.seed, &stopped).run()))
        .collect();
    let (stop_publishing, over) = watch::channel(false);
    let (bursts, burst) = watch::channel(0);
    let back_ends = [
        tokio::spawn(BackEnd::new(&office).await.control_room(plan.speed, burst, over.clone())),
        tokio::spawn(BackEnd::new(&office).await.clinics(plan.speed, plan.seed, over)),
    ];
    let samples = pass(plan, &office, &bursts).await;
    stop_publishing.send_replace(true);
    for back_end in back_ends {
        back_end.await.unwrap();
    }
    stop.send_replace(true);
    for browser in browsers {
        browser.await.unwrap();
    }
    let left = nothing_is_left(&office, before, &is_occupied).await;
    hooks.abort();

    let tally = &office.tally;
    let (count, mut broken) = tally.faults();
    broken.extend(left.err());
    broken.extend(MEASURES.iter().enumerate().filter_map(|(index, measure)| {
        judge(measure.name, &samples::hours(&samples, index, plan.hour), measure.tolerance?)
    }));
    let [opened, turned_away, published, delivered, changes, hooks, restarts] = [
        &tally.opened,
        &tally.turned_away,
        &tally.published,
        &tally.delivered,
        &tally.member_changes,
        &tally.webhook_events,
        &tally.restarts,
    ]
    .map(|counter| counter.load(Ordering::Relaxed));
    let summary = format!(
        "{} browsers, {} times as fast, {} hours of {:?}: {opened} visits, {turned_away} turned away, {published} events \
         published, {delivered} delivered, {changes} changes of members, {hooks} events in webhooks, {restarts} \
         restarts; {count} events lost, doubled, out of order, or other faults",
        plan.browsers, plan.speed, plan.hours, plan.hour,
    );
    Report { summary, samples, broken }
}

/// Lets the hours pass, and measures.
async fn pass(plan: &Plan, office: &Arc<Office>, bursts: &watch::Sender<usize>) -> Vec<Sample> {
    let began = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let measuring = tokio::spawn(measure(Arc::clone(office), began, stopped));
    for hour in 0..plan.hours as u32 {
        let at = |part: f64| began + plan.hour * hour + plan.hour.mul_f64(part);
        tokio::time::sleep_until(at(0.25)).await;
        office.reload().await;
        tokio::time::sleep_until(at(0.5)).await;
        office.restart().await;
        tokio::time::sleep_until(at(0.75)).await;
        bursts.send_replace(plan.burst);
    }
    tokio::time::sleep_until(began + plan.hour * plan.hours as u32).await;
    stop.send_replace(true);
    measuring.await.unwrap()
}

/// A sample each second until the end.
async fn measure(office: Arc<Office>, began: Instant, mut stop: watch::Receiver<bool>) -> Vec<Sample> {
    let mut redis = office.redis.connection().await;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut samples, mut before) = (Vec::new(), None);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return samples,
            _ = tick.tick() => (),
        }
        let (Some(lasting), at) = (usage(&office.lasting), began.elapsed().as_secs_f64()) else { continue };
        let connections = samples::connections(&office.lasting).await;
        // It may be away at the moment.
        let other = match office.restarted.try_lock() {
            Ok(node) => usage(&node).zip(Some(samples::connections(&node).await)),
            Err(_) => None,
        };
        let RedisUsage { keys, mebibytes, .. } = RedisUsage::of(&mut redis).await;
        let now = (at, lasting.cpu_seconds);
        if let Some((then, cpu_seconds)) = before.replace(now) {
            let (other, others) = other.unwrap_or_default();
            let cpu = 1000.0 * (lasting.cpu_seconds - cpu_seconds) / (at - then);
            let files = lasting.files as f64 - connections;
            let all = connections + others;
            let values = [lasting.mebibytes, files, lasting.threads, cpu, all, other.mebibytes, keys, mebibytes];
            samples.push(Sample { at, values });
        }
    }
}

fn usage(node: &Process) -> Option<Usage> {
    Usage::of(node.child.id()?)
}

/// What the lasting node and Redis have while nobody is there.
#[derive(Debug, Clone, Copy)]
struct Level {
    mebibytes: f64,
    files: usize,
    /// Of Redis, without those that expire by themselves.
    keys: f64,
}

async fn level(office: &Office) -> Level {
    let Usage { mebibytes, files, .. } = usage(&office.lasting).expect("it runs");
    let RedisUsage { lasting_keys: keys, .. } = RedisUsage::of(&mut office.redis.connection().await).await;
    Level { mebibytes, files, keys }
}

/// Waits until everything is as it was before anybody came.
async fn nothing_is_left(
    office: &Office,
    before: Level,
    occupied: &watch::Receiver<BTreeSet<String>>,
) -> Result<(), String> {
    let until = Instant::now() + GONE_MAX;
    loop {
        let now = level(office).await;
        let mut connections = samples::connections(&office.lasting).await;
        connections += samples::connections(&*office.restarted.lock().await).await;
        let occupied = occupied.borrow().len();
        let is_back = now.files <= before.files + KEPT
            && now.mebibytes <= before.mebibytes + GROWTH_MAX
            && now.keys <= before.keys
            && (connections, occupied) == (0.0, 0);
        if is_back {
            println!("before anybody came {before:?}, afterwards {now:?}");
            return Ok(());
        }
        if Instant::now() > until {
            let keys: Vec<String> = office.redis.run(&["KEYS", "*"]).await;
            return Err(format!(
                "everybody has gone, and there are {connections} connections, {occupied} channels that no webhook says \
                 are vacated, and {now:?} instead of {before:?}; the keys of Redis are {keys:?}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
