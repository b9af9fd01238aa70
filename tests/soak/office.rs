//! Two nodes over one Redis, and the back ends of the clinics and of the control room.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;
use support::http::Api;
use support::http::Connection;
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
const BATCH: usize = 10;
/// As many bytes as a reading of the control room has.
const READING: &str =
    "suhu=71.25;tekanan=3.104;aliran=12.80;level=0.47;status=normal;batch=6f1c0f5e;sumber=plc-04;satuan=SI";

/// The channel of a clinic's goods requests.
pub fn requests(clinic: usize) -> String {
    format!("permintaan-barang.K{clinic:03}")
}

/// Everything that browsers come to.
pub struct Office {
    pub tally: Tally,
    pub clinics: usize,
    pub redis: TestRedis,
    /// It runs from the beginning to the end.
    pub lasting: Process,
    /// It is restarted each hour, on the same port.
    pub restarted: Mutex<Process>,
    pub restarted_address: SocketAddr,
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
            .with("GEMA_CONNECTIONS_PING_SECONDS", "30")
            .with("SOKETI_DEFAULT_APP_WEBHOOKS", &webhooks);
        let restarted_address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let lasting = start(&cluster, 0).await;
        let restarted = Mutex::new(start(&cluster, restarted_address.port()).await);
        let tally = Tally::default();
        let office = Self { tally, clinics, redis, lasting, restarted, restarted_address, cluster, _hooks: hooks };
        (office, received)
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
        *node = start(&self.cluster, self.restarted_address.port()).await;
        count(&self.tally.restarts);
    }

    /// Lets both nodes read their configuration again.
    pub async fn reload(&self) {
        self.lasting.signal("HUP");
        self.restarted.lock().await.signal("HUP");
    }
}

async fn start(cluster: &Cluster, port: u16) -> Process {
    cluster.with("GEMA_SERVER_PORT", &port.to_string()).node().await.into_process()
}

/// A back end that publishes over one connection.
pub struct BackEnd {
    office: Arc<Office>,
    api: Api,
    connection: Connection,
}

impl BackEnd {
    pub async fn new(office: &Arc<Office>) -> Self {
        let address = office.lasting.address;
        let api = Api::new(address, APP_ID, APP_KEY, APP_SECRET);
        Self { office: Arc::clone(office), api, connection: Connection::open(address).await }
    }

    async fn post(&mut self, rest: &str, body: &Value, events: usize) {
        self.connection.send(self.api.post_bytes(rest, &body.to_string())).await;
        let answer = self.connection.answer().await;
        if answer.status == 200 {
            self.office.tally.published.fetch_add(events as u64, std::sync::atomic::Ordering::Relaxed);
        } else {
            self.office.tally.fault(format!("a publisher was answered with {answer:?}"));
        }
    }

    /// Publishes readings until the end, and a burst of so many when asked.
    pub async fn control_room(
        mut self,
        speed: f64,
        mut bursts: watch::Receiver<usize>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / (READINGS_PER_SECOND * speed)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bursts.mark_unchanged();
        let mut number = 0;
        loop {
            let count = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = bursts.changed() => *bursts.borrow_and_update(),
                _ = tick.tick() => 1,
            };
            let mut events = (0..count).map(|_| {
                number += 1;
                json!({ "name": "scada.data.received", "channel": READINGS, "data": data(number, READING) })
            });
            if count == 1 {
                let event = events.next().expect("there is one");
                self.post("/events", &event, 1).await;
                continue;
            }
            let events: Vec<Value> = events.collect();
            for batch in events.chunks(BATCH) {
                self.post("/batch_events", &json!({ "batch": batch }), batch.len()).await;
            }
        }
    }

    /// Publishes goods requests of all clinics until the end.
    pub async fn clinics(mut self, speed: f64, seed: u64, mut stop: watch::Receiver<bool>) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut numbers = vec![0; self.office.clinics];
        let between = BETWEEN_REQUESTS.div_f64(speed * numbers.len() as f64);
        loop {
            let pause = tokio::time::sleep(between.mul_f64(random.random_range(0.0..2.0)));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = pause => (),
            }
            let clinic = random.random_range(0..numbers.len());
            numbers[clinic] += 1;
            let data = data(numbers[clinic], "status=diminta");
            let event = json!({ "name": "permintaan.created", "channel": requests(clinic), "data": data });
            self.post("/events", &event, 1).await;
        }
    }
}

/// The data of the event of this number on its channel.
fn data(number: u64, text: &str) -> String {
    json!({ "number": number, "text": text }).to_string()
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
