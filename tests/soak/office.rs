//! Two nodes over one Redis, and the back ends of the clinics and of the control room.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;
use support::http::Api;
use support::http::Connection;
use support::nginx::Nginx;
use support::node::Cluster;
use support::process::Process;
use support::receiver::Received;
use support::receiver::Receiver;
use support::redis_server::TestRedis;
use support::redis_server::free_port;
use support::server::APP_ID;
use support::server::APP_KEY;
use support::server::APP_SECRET;
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::tally::Tally;
use crate::tally::count;

/// Where the control room's readings come.
pub const READINGS: &str = "scada-realtime";
/// Readings in a second of the real day.
const READINGS_PER_SECOND: f64 = 5.0;
/// Between two goods requests of a clinic on the real day.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(600);
/// Events of one batch.
const BATCH: u64 = 10;
/// As many bytes as a reading of the control room has.
const READING: &str =
    "suhu=71.25;tekanan=3.104;aliran=12.80;level=0.47;status=normal;batch=6f1c0f5e;sumber=plc-04;satuan=SI";

/// Settings of the nodes: a page that sleeps is found soon.
const PING_SECONDS: &str = "30";
const PONG_SECONDS: &str = "10";

/// The channel of a clinic's goods requests.
pub fn requests(clinic: usize) -> String {
    format!("permintaan-barang.K{clinic:03}")
}

/// Everything that browsers come to.
pub struct Office {
    pub tally: Tally,
    /// Where browsers and back ends go.
    pub nginx: Nginx,
    published: HashMap<String, Published>,
    pub clinics: usize,
    pub redis: TestRedis,
    /// It runs from the beginning to the end.
    pub lasting: Process,
    /// It is restarted each hour, on the same port.
    pub restarted: Mutex<Process>,
    restarted_port: u16,
    cluster: Cluster,
    _hooks: Receiver,
}

impl Office {
    /// With the requests that webhooks make.
    pub async fn open(clinics: usize) -> (Self, UnboundedReceiver<Received>) {
        let redis = TestRedis::start().await;
        let mut hooks = Receiver::start().await;
        let received = hooks.divert();
        let kinds = ["channel_occupied", "channel_vacated", "member_added", "member_removed"];
        let webhooks = json!([{ "url": format!("http://{}/", hooks.address), "event_types": kinds }]).to_string();
        let cluster = Cluster::on(&redis)
            .with("GEMA_LOG_LEVEL", "info")
            .with("GEMA_CONNECTIONS_PING_SECONDS", PING_SECONDS)
            .with("GEMA_CONNECTIONS_PONG_SECONDS", PONG_SECONDS)
            .with("GEMA_SERVER_TRUSTED_PROXIES", "127.0.0.1")
            .with("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks);
        let lasting = start(&cluster, 0).await;
        let restarted_port = free_port();
        let restarted = Mutex::new(start(&cluster, restarted_port).await);
        let nginx = nginx([lasting.address, SocketAddr::from((Ipv4Addr::LOCALHOST, restarted_port))]).await;
        let channels = (0..clinics).map(requests).chain([READINGS.to_owned()]);
        let published = channels.map(|channel| (channel, Published::default())).collect();
        let tally = Tally::default();
        let office = Self {
            tally,
            nginx,
            published,
            clinics,
            redis,
            lasting,
            restarted,
            restarted_port,
            cluster,
            _hooks: hooks,
        };
        (office, received)
    }

    /// The numbers of the events of a channel that were sent and that were accepted, if back ends publish on it.
    pub fn published(&self, channel: &str) -> (u64, u64) {
        self.published.get(channel).map_or((0, 0), |published| {
            (published.sent.load(Ordering::SeqCst), published.accepted.load(Ordering::SeqCst))
        })
    }

    /// Stops one node in order, and starts another one in its place.
    pub async fn restart(&self) {
        let mut node = self.restarted.lock().await;
        node.terminate();
        node.log.line("stopped").await;
        let ended = node.child.wait().await.unwrap();
        if !ended.success() {
            self.tally.fault(format!("the node that was stopped ended with {ended}"));
        }
        *node = start(&self.cluster, self.restarted_port).await;
        count(&self.tally.restarts);
    }

    /// Lets both nodes read their configuration again.
    pub async fn reload(&self) {
        self.lasting.signal("HUP");
        self.restarted.lock().await.signal("HUP");
    }
}

/// The number of the last event of a channel.
#[derive(Default)]
struct Published {
    sent: AtomicU64,
    accepted: AtomicU64,
}

/// With the project's configuration, in front of these nodes: publishers use the first one.
async fn nginx([first, second]: [SocketAddr; 2]) -> Nginx {
    Nginx::shipped(1, |address| {
        vec![
            ("listen 80;", format!("listen {address};")),
            ("gema-1:6001", first.to_string()),
            ("gema-2:6001", second.to_string()),
        ]
    })
    .await
}

async fn start(cluster: &Cluster, port: u16) -> Process {
    cluster.with("GEMA_SERVER_PORT", &port.to_string()).node().await.into_process()
}

/// A back end: a worker of Laravel's queue with a connection that stays open, and requests of PHP with one each.
pub struct BackEnd {
    office: Arc<Office>,
    api: Api,
    connection: Connection,
}

impl BackEnd {
    pub async fn new(office: &Arc<Office>) -> Self {
        let address = office.nginx.address;
        let api = Api::new(address, APP_ID, APP_KEY, APP_SECRET);
        Self { office: Arc::clone(office), api, connection: Connection::open(address).await }
    }

    /// Publishes events of one channel, the last of which has this number.
    async fn post(&mut self, channel: &str, numbers: Range<u64>, text: &str, anew: bool) {
        let published = &self.office.published[channel];
        published.sent.store(numbers.end - 1, Ordering::SeqCst);
        let count = numbers.end - numbers.start;
        let mut events: Vec<Value> = numbers.clone().map(|number| event(channel, number, text)).collect();
        // As Laravel does with its library for PHP.
        let (rest, body) = match count {
            1 => ("/events", events.remove(0)),
            _ => ("/batch_events", json!({ "batch": events })),
        };
        let answer = if anew {
            self.api.post(rest, &body.to_string()).await
        } else {
            self.connection.send(self.api.post_bytes(rest, &body.to_string())).await;
            let answer = self.connection.answer().await;
            // nginx ends it after a thousand requests.
            if answer.header("connection") == Some("close") {
                self.connection = Connection::open(self.office.nginx.address).await;
            }
            answer
        };
        if answer.status == 200 {
            published.accepted.store(numbers.end - 1, Ordering::SeqCst);
            self.office.tally.published.fetch_add(count, Ordering::Relaxed);
        } else {
            self.office.tally.fault(format!("a publisher was answered with {answer:?}"));
        }
    }

    /// Publishes readings until the end, and a burst of so many when asked.
    pub async fn control_room(mut self, speed: f64, mut bursts: watch::Receiver<u64>, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / (READINGS_PER_SECOND * speed)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bursts.mark_unchanged();
        let mut number = 0_u64;
        loop {
            let count = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = bursts.changed() => *bursts.borrow_and_update(),
                _ = tick.tick() => 1,
            };
            let end = number + count;
            while number < end {
                let batch = (end - number).min(BATCH);
                self.post(READINGS, number + 1..number + batch + 1, READING, false).await;
                number += batch;
            }
        }
    }

    /// Publishes goods requests of all clinics until the end.
    pub async fn clinics(mut self, speed: f64, seed: u64, mut stop: watch::Receiver<bool>) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut numbers = vec![0_u64; self.office.clinics];
        let between = BETWEEN_REQUESTS.div_f64(speed * numbers.len() as f64);
        loop {
            let pause = tokio::time::sleep(between.mul_f64(random.random_range(0.0..2.0)));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = pause => (),
            }
            let clinic = random.random_range(0..numbers.len());
            numbers[clinic] += 1;
            let number = numbers[clinic];
            self.post(&requests(clinic), number..number + 1, "status=diminta", true).await;
        }
    }
}

/// The event of this number on its channel.
fn event(channel: &str, number: u64, text: &str) -> Value {
    let name = if channel == READINGS { "scada.data.received" } else { "permintaan.created" };
    let data = json!({ "number": number, "text": text }).to_string();
    json!({ "name": name, "channel": channel, "data": data })
}

/// The number in the text of a message, if it is an event of a back end.
pub fn number_in(text: &str) -> Option<u64> {
    let start = text.find(r#"\"number\":"#)? + r#"\"number\":"#.len();
    let digits = text[start..].split(|byte: char| !byte.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Takes the requests that webhooks make; knows which channels they say are occupied.
pub async fn take(
    mut received: UnboundedReceiver<Received>,
    office: Arc<Office>,
    occupied: watch::Sender<BTreeSet<String>>,
) {
    while let Some(request) = received.recv().await {
        for event in request.events() {
            count(&office.tally.webhook_events);
            let channel = event["channel"].as_str().unwrap_or_default().to_owned();
            occupied.send_modify(|occupied| match event["name"].as_str() {
                Some("channel_occupied") => drop(occupied.insert(channel)),
                Some("channel_vacated") => drop(occupied.remove(&channel)),
                _ => (),
            });
        }
    }
}
