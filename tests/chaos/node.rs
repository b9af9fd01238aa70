//! The nodes as processes that come back on the same ports.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::barrier::Figures;
use support::process::program;
use support::process::signal;
use tokio::process::Child;
use tokio::process::Command;
use tokio::time::timeout;

use crate::history::Kind;
use crate::history::Place;
use crate::history::Recorder;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::Window;
use crate::schedule::Log;
use crate::schedule::NODES;
use crate::schedule::WITH_A_CLOCK;
use crate::world::World;

const SIGTERM: i32 = 15;
/// Longer than a process needs to end after SIGTERM.
const STOPPED_MAX: Duration = Duration::from_secs(20);

/// Which process is at which port.
pub struct Places {
    pub addresses: [SocketAddr; NODES],
    pub metrics: [SocketAddr; NODES],
    lives: [AtomicU32; NODES],
}

impl Places {
    /// On ports that are free now.
    pub fn new(port: impl Fn() -> u16) -> Self {
        let address = || SocketAddr::from((Ipv4Addr::LOCALHOST, port()));
        let addresses = std::array::from_fn(|_| address());
        Self { addresses, metrics: std::array::from_fn(|_| address()), lives: Default::default() }
    }

    pub fn now(&self, node: usize) -> Place {
        Place { node, life: self.lives[node].load(Ordering::Relaxed) }
    }

    /// The one that nginx names: the last address in a list.
    pub fn named(&self, upstream: &str) -> Option<Place> {
        let address = upstream.rsplit([',', ' ']).next()?.parse().ok()?;
        self.addresses.iter().position(|own| *own == address).map(|node| self.now(node))
    }
}

/// A node, running or not.
pub struct Node {
    index: usize,
    child: Option<Child>,
    /// For a wrong clock.
    faketime: Option<PathBuf>,
    /// With its configuration, and what it logs.
    folder: PathBuf,
    /// Of the last process.
    log: PathBuf,
}

impl Node {
    pub fn new(index: usize, folder: PathBuf, configuration: &str) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let faketime = (index == WITH_A_CLOCK).then(library);
        let node = Self { index, child: None, log: folder.join("1.log"), folder, faketime };
        node.configure(configuration);
        node.set_clock(0);
        node
    }

    /// Writes its file, and returns the text that was there.
    pub fn configure(&self, text: &str) -> String {
        let file = self.folder.join("gema.toml");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, text).unwrap();
        before
    }

    /// From now on its clock is wrong by so many seconds. It takes a second until the process notices.
    pub fn set_clock(&self, seconds: i32) {
        // The file is never half written.
        fs::write(self.folder.join("clock.new"), format!("{seconds:+}\n")).unwrap();
        fs::rename(self.folder.join("clock.new"), self.folder.join("clock")).unwrap();
    }

    /// How many files the process may open from now on; without a number, as many as the machine lets it.
    pub fn limit_files(&self, limit: Option<usize>) {
        let Some(pid) = self.pid() else { return };
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let hard = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1));
        let limit = limit.map(|limit| limit.to_string()).or(hard.map(str::to_owned)).unwrap_or_default();
        let words = ["--pid".to_owned(), pid.to_string(), format!("--nofile={limit}:")];
        // The process may have ended.
        let _ = std::process::Command::new("prlimit").args(words).stderr(Stdio::null()).status();
    }

    /// Starts another process.
    pub fn start(&mut self, places: &Places) {
        self.start_with(places, Log::File);
    }

    pub fn start_with(&mut self, places: &Places, to: Log) {
        let life = places.lives[self.index].fetch_add(1, Ordering::Relaxed) + 1;
        self.log = self.folder.join(format!("{life}.log"));
        let log = File::create(&self.log).unwrap();
        let errors = log.try_clone().unwrap();
        let mut command = Command::new(program());
        command.args(["start", &format!("--config={}", self.folder.join("gema.toml").display())]).env_clear();
        if let Some(library) = &self.faketime {
            let file = self.folder.join("clock");
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_CACHE_DURATION", "1");
        }
        command.stdin(Stdio::null()).stderr(errors).kill_on_drop(true);
        match to {
            Log::File => command.stdout(log),
            Log::Full => command.stdout(File::options().write(true).open("/dev/full").unwrap()),
            Log::Blocked => command.stdout(Stdio::piped()),
        };
        let child = command.spawn();
        self.child = Some(child.unwrap());
    }

    /// How many files and sockets it has open, and its memory in bytes.
    pub fn level(&self) -> Option<(usize, u64)> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()?));
        let files = fs::read_dir(process.join("fd")).ok()?.count();
        let status = fs::read_to_string(process.join("status")).ok()?;
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
        Some((files, kilobytes.trim().parse::<u64>().ok()? * 1024))
    }

    /// The other ends' ports of its connections.
    pub fn peers(&self) -> Vec<u16> {
        let Some(process) = self.pid().map(|pid| PathBuf::from(format!("/proc/{pid}"))) else { return Vec::new() };
        let Ok(files) = fs::read_dir(process.join("fd")) else { return Vec::new() };
        let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let own: BTreeSet<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        let table = fs::read_to_string(process.join("net/tcp")).unwrap_or_default();
        let peer = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_own = own.contains(&format!("socket:[{}]", fields.get(9)?));
            u16::from_str_radix(fields.get(2)?.rsplit_once(':')?.1, 16).ok().filter(|port| is_own && *port > 0)
        };
        table.lines().filter_map(peer).collect()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    pub fn signal(&self, name: &str) {
        if let Some(pid) = self.pid() {
            signal(pid, name);
        }
    }

    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Says how it went if it did not stop as it should.
    pub async fn stop(&mut self) -> Result<(), String> {
        self.signal("TERM");
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match timeout(STOPPED_MAX, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            // It has logged nothing so far, so it may not have come as far as to hear of the signal.
            Ok(Ok(status)) if status.signal() == Some(SIGTERM) && self.has_logged_nothing() => Ok(()),
            Ok(status) => Err(format!("node {} stopped with {status:?}", self.index)),
            Err(_) => Err(format!("node {} does not stop", self.index)),
        }
    }

    fn has_logged_nothing(&self) -> bool {
        fs::metadata(&self.log).is_ok_and(|log| log.len() == 0)
    }

    /// How it has ended although nobody wanted it to.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(format!("node {} has ended by itself: {status}", self.index))
    }
}

/// Loaded directly: the program of that name would stay between the test and the node.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut files = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
    files.find(|file| file.exists()).expect("tests/run installs it")
}

/// Notes the times in which a node had no link to Redis, by its metrics.
pub struct LinkWatch {
    recorder: Recorder,
    node: usize,
    place: Place,
    hears_laravel: bool,
    /// When all was well for the last time, and the number of links up to then.
    well: Option<(Time, f64)>,
    /// Since when it is not.
    since: Time,
}

/// A link may be lost so long before a look finds out, and works so long after that.
const BEFORE: Time = SECOND;
const AFTER: Time = 3 * SECOND / 2;
const LOOK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);

impl LinkWatch {
    pub fn new(node: usize, world: &World) -> Self {
        let (recorder, place) = (world.recorder.clone(), world.places.now(node));
        let (hears_laravel, since) = (world.redis_port.is_some(), recorder.now());
        Self { recorder, node, place, hears_laravel, well: None, since }
    }

    pub async fn run(mut self, places: &Places) {
        loop {
            let place = places.now(self.node);
            if place != self.place {
                // Until it has a link, the new process is like one that has lost it.
                (self.place, self.well, self.since) = (place, None, self.recorder.now());
            }
            if let Some(figures) = Figures::try_of(places.metrics[self.node], PATIENCE).await
                && place == places.now(self.node)
            {
                self.look(&figures);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&mut self, figures: &Figures) {
        let now = self.recorder.now();
        let links = figures.sum("gema_redis_connects_total", "");
        if figures.sum("gema_redis_up", "") != 1.0 || self.hears_laravel && figures.sum("gema_ingest_up", "") != 1.0 {
            if let Some((at, _)) = self.well.take() {
                self.since = at.saturating_sub(BEFORE);
            }
            return;
        }
        let from = match self.well {
            None => Some(self.since),
            Some((at, before)) if before < links => Some(at.saturating_sub(BEFORE)),
            Some(_) => None,
        };
        self.well = Some((now, links));
        if let Some(from) = from {
            let why = format!("{:?} had no link to Redis", self.place);
            self.recorder.window(Window { node: Some(self.node), from, until: now + AFTER, why, kind: Kind::Link });
        }
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        if self.well.is_none() {
            let (from, until) = (self.since, Time::MAX / 2);
            let why = format!("{:?} has no link to Redis", self.place);
            self.recorder.window(Window { node: Some(self.node), from, until, why, kind: Kind::Link });
        }
    }
}
