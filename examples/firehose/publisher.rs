//! The application that publishes: each reading on two channels, by Pusher's signed HTTP API.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use gema::protocol::signature::Signer;
use gema::protocol::signature::body_md5;
use serde_json::Value;
use serde_json::json;

use crate::App;

/// One has a rule, the other none.
const CHANNELS: [&str; 2] = ["scada-realtime", "scada-raw"];
/// Between two requests, if there is enough to send.
const PAUSE: Duration = Duration::from_millis(10);
/// Readings of one request at most: each is an event on two channels, and a batch has 1000 events.
const READINGS_MAX: u64 = 500;

/// Publishes readings at a rate.
pub(crate) struct Publisher {
    address: SocketAddr,
    app: App,
    signer: Signer,
    rate: u32,
    sensors: u32,
    /// Readings that gema has taken.
    published: Arc<AtomicU64>,
}

impl Publisher {
    pub(crate) fn new(address: SocketAddr, app: App, (rate, sensors): (u32, u32), published: Arc<AtomicU64>) -> Self {
        let signer = Signer::new(&app.secret);
        Self { address, app, signer, rate, sensors, published }
    }

    /// Publishes until gema does not take it any more.
    pub(crate) fn run(self) -> Result<()> {
        let mut connection = BufReader::new(TcpStream::connect(self.address)?);
        connection.get_ref().set_nodelay(true)?;
        let (began, mut sent) = (Instant::now(), 0);
        loop {
            let due = (began.elapsed().as_secs_f64() * f64::from(self.rate)) as u64;
            // A machine that is too slow sends less, instead of catching up later.
            let readings = (due - sent).min(READINGS_MAX);
            if readings > 0 {
                self.post(&mut connection, &self.batch(due - readings..due, began.elapsed()))?;
                self.published.fetch_add(readings, Ordering::Relaxed);
            }
            sent = due;
            thread::sleep(PAUSE);
        }
    }

    /// Readings of the sensors in turn, each as an event on both channels.
    fn batch(&self, numbers: std::ops::Range<u64>, elapsed: Duration) -> String {
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let event = |number: u64, channel: &str| -> Value {
            let sensor = number % u64::from(self.sensors);
            let reading = json!({ "channel": format!("sensor-{sensor}"), "value": self.value(sensor, elapsed) });
            let data = json!({ "data": reading, "timestamp": timestamp, "channel": channel }).to_string();
            json!({ "channel": channel, "name": "scada.data.received", "data": data })
        };
        let events: Vec<Value> = numbers.flat_map(|number| CHANNELS.map(|channel| event(number, channel))).collect();
        json!({ "batch": events }).to_string()
    }

    /// A wave for each sensor at a level of its own, with a little noise.
    fn value(&self, sensor: u64, elapsed: Duration) -> f64 {
        let (sensor, seconds) = (sensor as f64 / f64::from(self.sensors), elapsed.as_secs_f64());
        let wave = 6.0 * (seconds + sensor * 2.0 * std::f64::consts::TAU).sin();
        let noise = 0.5 * (seconds * 97.0 + sensor * 1000.0).sin();
        ((10.0 + 80.0 * sensor + wave + noise) * 100.0).round() / 100.0
    }

    fn post(&self, connection: &mut BufReader<TcpStream>, body: &str) -> Result<()> {
        let path = format!("/apps/{}/batch_events", self.app.id);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let query = format!(
            "auth_key={}&auth_timestamp={seconds}&auth_version=1.0&body_md5={}",
            self.app.key,
            body_md5(body.as_bytes())
        );
        let signature = self.signer.sign(&[format!("POST\n{path}\n{query}").as_bytes()]);
        write!(
            connection.get_mut(),
            "POST {path}?{query}&auth_signature={signature} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        read_answer(connection)
    }
}

fn read_answer(connection: &mut impl BufRead) -> Result<()> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        ensure!(connection.read_line(&mut head)? > 0, "gema closed the connection");
        let line = head[start..].trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().context("the answer has no length")?;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "gema refused readings: {head}{}", String::from_utf8_lossy(&body));
    Ok(())
}
