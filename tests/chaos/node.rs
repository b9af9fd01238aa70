//! The nodes as processes that come back on the same ports.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
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

use crate::history::Place;
use crate::history::Recorder;
use crate::history::SECOND;
use crate::history::Time;
use crate::history::Window;
use crate::schedule::NODES;

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
    /// With its configuration, and what it logs.
    folder: PathBuf,
}

impl Node {
    pub fn new(index: usize, folder: PathBuf, configuration: &str) -> Self {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("gema.toml"), configuration).unwrap();
        Self { index, child: None, folder }
    }

    /// Starts another process.
    pub fn start(&mut self, places: &Places) {
        let life = places.lives[self.index].fetch_add(1, Ordering::Relaxed) + 1;
        let log = File::create(self.folder.join(format!("{life}.log"))).unwrap();
        let errors = log.try_clone().unwrap();
        let child = Command::new(program())
            .args(["start", &format!("--config={}", self.folder.join("gema.toml").display())])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.unwrap());
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
            Ok(status) => Err(format!("node {} stopped with {status:?}", self.index)),
            Err(_) => Err(format!("node {} does not stop", self.index)),
        }
    }

    /// How it has ended although nobody wanted it to.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(format!("node {} has ended by itself: {status}", self.index))
    }
}

/// Notes the times in which a node had no link to Redis, by its metrics.
pub struct LinkWatch {
    recorder: Recorder,
    node: usize,
    place: Place,
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
    pub fn new(recorder: &Recorder, node: usize, places: &Places) -> Self {
        let since = recorder.now();
        Self { recorder: recorder.clone(), node, place: places.now(node), well: None, since }
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
        if figures.sum("gema_redis_up", "") != 1.0 {
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
            self.recorder.window(Window { node: Some(self.node), from, until: now + AFTER, why, events: true });
        }
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        if self.well.is_none() {
            let (from, until) = (self.since, Time::MAX / 2);
            let why = format!("{:?} has no link to Redis", self.place);
            self.recorder.window(Window { node: Some(self.node), from, until, why, events: true });
        }
    }
}
