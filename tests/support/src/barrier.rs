//! Makes several nodes look like one to a test: what has been accepted anywhere has been handled everywhere.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::bus::Bus;
use crate::bus::Voice;
use crate::client::PATIENCE;
use crate::http::request;
use crate::http::try_request;
use crate::pace;

/// No message of any version of gema.
const JUNK: &str = "not an envelope";

/// Stands between two steps of a test.
#[derive(Debug)]
pub struct Barrier {
    /// The metrics port of each node.
    nodes: Vec<SocketAddr>,
    cluster: String,
    /// Counts the rounds that have begun.
    begun: AtomicU64,
    /// One round at a time: the next one's junk would be taken for one's own.
    round: Mutex<Round>,
}

#[derive(Debug)]
struct Round {
    voice: Voice,
    /// The last one that has ended.
    ended: u64,
}

impl Barrier {
    pub async fn new(nodes: Vec<SocketAddr>, bus: Bus<'_>, cluster: &str) -> Self {
        let round = Round { voice: bus.connection().await, ended: 0 };
        Self { nodes, cluster: cluster.to_owned(), begun: AtomicU64::new(0), round: Mutex::new(round) }
    }

    /// Waits until every node has handed everything to Redis or NATS, and then until every node has read something that
    /// was sent after that. A node reads in order, on one connection.
    pub async fn pass(&self) {
        let came = self.begun.load(Ordering::SeqCst);
        let mut round = self.round.lock().await;
        if round.ended > came {
            // Somebody else's round, which began later, will do.
            return;
        }
        let own = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.go_round(&mut round.voice).await;
        round.ended = own;
    }

    async fn go_round(&self, voice: &mut Voice) {
        let until = Instant::now() + PATIENCE;
        let mut read = Vec::new();
        for node in &self.nodes {
            loop {
                let figures = Figures::of(*node).await;
                if figures.sum("gema_cluster_waiting", "") == 0.0 {
                    read.push(malformed(&figures));
                    break;
                }
                assert!(Instant::now() < until, "a node has something left for the others");
                sleep(Duration::from_millis(2)).await;
            }
        }
        voice.speak(&self.cluster, JUNK).await;
        for (node, before) in self.nodes.iter().zip(read) {
            while malformed(&Figures::of(*node).await) <= before {
                assert!(Instant::now() < until, "a node hears nothing");
                sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

fn malformed(figures: &Figures) -> f64 {
    figures.sum("gema_cluster_dropped_total", r#"cause="malformed""#)
}

/// What a node's metrics say at one moment.
pub struct Figures(String);

impl Figures {
    /// Asks a metrics port.
    pub async fn of(metrics: SocketAddr) -> Self {
        Self(request(metrics, "GET", "/metrics", &[], b"").await.body)
    }

    /// The same of a node that may not answer.
    pub async fn try_of(metrics: SocketAddr, patience: Duration) -> Option<Self> {
        let answer = try_request(metrics, "GET", "/metrics", b"", patience).await?;
        (answer.status == 200).then_some(Self(answer.body))
    }

    /// The sum of all series of this name that have this label, such as `cause="malformed"`; 0 without any.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let series = series.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label));
        let numbers = series.map(|rest| rest.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        // The sum of nothing would be -0.
        numbers.fold(0.0, |sum, number| sum + number)
    }

    /// What the series of this name says of one app. Of those with a `cause`, name it.
    pub fn of_app(&self, name: &str, app_id: &str, cause: Option<&str>) -> Option<f64> {
        let next = cause.map_or("port=".to_owned(), |cause| format!("cause=\"{cause}\","));
        let start = format!("{name}{{app_id=\"{app_id}\",{next}");
        let line = self.0.lines().find(|line| line.starts_with(&start))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// Waits until a sum is as it should be; returns it.
    pub async fn become_so(
        metrics: SocketAddr,
        name: &str,
        label: &str,
        patience: Duration,
        so: impl Fn(f64) -> bool,
    ) -> f64 {
        let until = pace::now() + patience;
        loop {
            let now = Self::of(metrics).await.sum(name, label);
            if so(now) {
                return now;
            }
            assert!(pace::now() < until, "{name} {label} is still {now} after {patience:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}
