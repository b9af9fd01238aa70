//! One run: everybody comes, the hours pass, everybody goes, and what was measured is judged.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::process::program;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::browser::Browser;
use crate::drift::HOURS_MIN;
use crate::drift::WARM_UP;
use crate::drift::growth;
use crate::drift::judge;
use crate::drift::usual;
use crate::office;
use crate::office::BackEnd;
use crate::office::Office;
use crate::plot::plot;
use crate::samples;
use crate::samples::MEASURES;
use crate::samples::NodeUsage;
use crate::samples::RedisUsage;
use crate::samples::Sample;
use crate::samples::Usage;

/// Browsers for each clinic.
const STAFF: usize = 20;
/// Figures of a second are those of so many seconds.
const RATE_SECONDS: usize = 10;
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
    pub burst: u64,
}

/// What is left of a run.
pub struct Report {
    summary: String,
    samples: Vec<Sample>,
    checks: Vec<Check>,
}

/// What must hold, and a sentence if it does not.
struct Check {
    name: String,
    fault: Option<String>,
}

impl Report {
    /// Writes the plot and the samples, and prints where, and what holds.
    #[track_caller]
    pub fn assert_sound(&self, plan: &Plan) {
        let folder = folder();
        let (svg, csv) = (folder.join(format!("{}.svg", plan.seed)), folder.join(format!("{}.csv", plan.seed)));
        fs::write(&svg, plot(&self.samples, plan.hour)).unwrap();
        fs::write(&csv, table(&self.samples)).unwrap();
        println!("GEMA_TEST_SEED={}: {}\n{}\n{}", plan.seed, self.summary, svg.display(), csv.display());
        for (index, measure) in MEASURES.iter().enumerate() {
            let hours = samples::hours(&self.samples, index, plan.hour);
            let (first, last) = (hours.first().unwrap_or(&0.0), hours.last().unwrap_or(&0.0));
            print!("{}: {first:.2} in the first hour, {last:.2} in the last one {}", measure.name, measure.unit);
            if hours.len() >= HOURS_MIN {
                print!("; {:.2} after the {WARM_UP} first ones, growth {:.2}", usual(&hours), growth(&hours));
            }
            println!();
        }
        for check in &self.checks {
            println!("{}: {}", check.name, check.fault.as_deref().unwrap_or("as it should be"));
        }
        let failed = self.checks.iter().filter(|check| check.fault.is_some()).count();
        println!("{} passed, {failed} failed", self.checks.len() - failed);
        assert_eq!(failed, 0, "GEMA_TEST_SEED={}", plan.seed);
    }
}

/// All samples, for programs.
fn table(samples: &[Sample]) -> String {
    let names: Vec<&str> = MEASURES.iter().map(|measure| measure.name).collect();
    // Some names have a comma.
    let mut table = format!("\"seconds\",\"{}\"\n", names.join("\",\""));
    for sample in samples {
        let value = |value: f64| if value.is_nan() { String::new() } else { format!("{value:.3}") };
        let values = sample.values.map(value);
        writeln!(table, "{:.1},{}", sample.at, values.join(",")).unwrap();
    }
    table
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
    let (bursts, burst) = watch::channel(0_u64);
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

    let mut checks = vec![
        Check { name: "what browsers saw".to_owned(), fault: office.tally.sentence() },
        Check { name: "what is left when all have gone".to_owned(), fault: left.err() },
    ];
    for (index, measure) in MEASURES.iter().enumerate() {
        let hours = samples::hours(&samples, index, plan.hour);
        let Some(tolerance) = measure.tolerance.filter(|_| hours.len() >= HOURS_MIN) else { continue };
        checks.push(Check { name: measure.name.to_owned(), fault: judge(measure.name, &hours, tolerance) });
    }
    let Plan { browsers, speed, hours, hour, .. } = plan;
    let summary =
        format!("{browsers} browsers, {speed} times as fast, {hours} hours of {hour:?}; {:?}", office.tally.counts());
    Report { summary, samples, checks }
}

/// Lets the hours pass, and measures.
async fn pass(plan: &Plan, office: &Arc<Office>, bursts: &watch::Sender<u64>) -> Vec<Sample> {
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
    let (mut samples, mut earlier) = (Vec::new(), VecDeque::new());
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return samples,
            _ = tick.tick() => (),
        }
        let lasting = NodeUsage::of(&office.lasting).await.expect("it runs");
        // It may be away at the moment.
        let restarted = match office.restarted.try_lock() {
            Ok(node) => NodeUsage::of(&node).await.map(|usage| (node.child.id(), usage)),
            Err(_) => None,
        };
        let redis = RedisUsage::of(&mut redis).await;
        let delivered = office.tally.delivered.load(Ordering::Relaxed);
        let now = Moment { at: began.elapsed().as_secs_f64(), lasting, restarted, delivered };
        if let Some(before) = earlier.front() {
            let values = values(before, &now, redis, office.tally.wrong_events());
            samples.push(Sample { at: now.at, values });
        }
        earlier.push_back(now);
        if earlier.len() > RATE_SECONDS {
            earlier.pop_front();
        }
    }
}

/// What has been read of both nodes at one time.
struct Moment {
    at: f64,
    lasting: NodeUsage,
    /// With its number as a process.
    restarted: Option<(Option<u32>, NodeUsage)>,
    delivered: u64,
}

/// In the order of `MEASURES`.
fn values(before: &Moment, now: &Moment, redis: RedisUsage, wrong: u64) -> [f64; MEASURES.len()] {
    let seconds = now.at - before.at;
    let cpu = |before: &NodeUsage, now: &NodeUsage| now.process.cpu_seconds - before.process.cpu_seconds;
    let lasting_cpu = cpu(&before.lasting, &now.lasting);
    let messages = now.lasting.messages - before.lasting.messages;
    let restarted = |value: fn(&NodeUsage) -> f64| now.restarted.as_ref().map_or(f64::NAN, |(_, usage)| value(usage));
    let restarted_cpu = match (&before.restarted, &now.restarted) {
        (Some((then, before)), Some((id, now))) if then == id => cpu(before, now),
        _ => f64::NAN,
    };
    [
        now.lasting.process.mebibytes,
        restarted(|usage| usage.process.mebibytes),
        now.lasting.own_files(),
        restarted(NodeUsage::own_files),
        now.lasting.process.threads,
        restarted(|usage| usage.process.threads),
        1000.0 * lasting_cpu / seconds,
        1000.0 * restarted_cpu / seconds,
        if messages > 0.0 { 1e6 * lasting_cpu / messages } else { f64::NAN },
        now.lasting.connections + restarted(|usage| usage.connections),
        (now.delivered - before.delivered) as f64 / seconds,
        wrong as f64,
        redis.keys,
        redis.mebibytes,
    ]
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
    let Usage { mebibytes, files, .. } = office.lasting.child.id().and_then(Usage::of).expect("it runs");
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
        let connections = |usage: Option<NodeUsage>| usage.map_or(f64::NAN, |usage| usage.connections);
        let connections = connections(NodeUsage::of(&office.lasting).await)
            + connections(NodeUsage::of(&*office.restarted.lock().await).await);
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
