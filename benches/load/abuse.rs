//! Hostile or unlucky clients, and what they cost the server and everybody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::fanout::channel;
use crate::frame::{self, opcode};
use crate::histogram::Histogram;
use crate::hub::{Hub, Nobody, Receiver};
use crate::options::{Abuse, AbuseOptions, bounded};
use crate::report::Report;
use crate::target::Target;

/// Channels of each reader of a burst, of which all but one are published on.
const BURST_CHANNELS: usize = 21;
/// Bytes of an event of a burst.
const BURST_BYTES: usize = 99_000;
/// Bytes of a request with a large body; below `http.request_bytes_max`.
const BODY_BYTES: usize = 9_900_000;
/// How long memory is looked at after a peak.
const AFTERWARDS_S: u64 = 60;
/// Between two requests of the publisher among flooders.
const PAUSE: Duration = Duration::from_millis(5);
const ROOM: &str = "presence-bench";

/// Runs the scenario and reports its effects.
pub(crate) fn run(options: &AbuseOptions) -> Result<Report> {
    let AbuseOptions { server, what, conns, secs } = options;
    let conns = conns.unwrap_or(what.conns());
    bounded(conns, *secs)?;
    let process = server.process()?;
    process.reset_peak();
    let target = server.target()?;
    let mut report = Report::default();
    report.put("scenario", "abuse").put("what", what.name()).put("label", server.label.as_str());
    report.put("server", target.address.to_string()).put("conns", conns).put("secs", *secs);
    report.put("rss_kib_before", process.known().then(|| process.rss_kib()));
    match what {
        Abuse::Flood => flood(&target, conns, *secs, &mut report)?,
        Abuse::Burst => burst(&target, conns, *secs, &mut report)?,
        Abuse::Pings => pings(&target, conns, *secs)?,
        Abuse::Rejoin => rejoin(&target, conns, *secs, &mut report)?,
        Abuse::Bodies => bodies(&target, conns)?,
    }
    report.put("rss_kib_loaded", process.known().then(|| process.rss_kib()));
    report.put("rss_kib_peak", process.known().then(|| process.rss_kib_peak()));
    if *what == Abuse::Bodies && process.known() {
        thread::sleep(Duration::from_secs(AFTERWARDS_S));
        report.put("rss_kib_after", process.rss_kib());
    }
    Ok(report)
}

/// Connections that send what is no message, as fast as it is taken; meanwhile somebody publishes.
fn flood(target: &Target, conns: usize, secs: f64, report: &mut Report) -> Result<()> {
    let mut flooders = (0..conns).map(|_| Flooder::new(target, opcode::TEXT, b"x")).collect::<Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        scope.spawn(|| {
            let mut answers = vec![0; 256 * 1024];
            while !stop.load(Ordering::Relaxed) {
                for flooder in &mut flooders {
                    flooder.send();
                    let _ = flooder.stream.read(&mut answers);
                }
            }
        });
        let times = publish_for(target, secs);
        stop.store(true, Ordering::Relaxed);
        times
    })?;
    report.put("post_ms", times.summary());
    Ok(())
}

/// One request after the other, on one connection.
fn publish_for(target: &Target, secs: f64) -> Result<Histogram> {
    let mut stream = TcpStream::connect(target.address)?;
    stream.set_nodelay(true)?;
    let mut times = Histogram::new();
    let end = clock::now() + clock::nanos(secs);
    while clock::now() < end {
        let sent = clock::now();
        post(&mut stream, target, &json!({ "name": "e", "channel": channel(0), "data": "1" }))?;
        times.record(clock::now() - sent);
        thread::sleep(PAUSE);
    }
    Ok(times)
}

fn post(stream: &mut TcpStream, target: &Target, body: &serde_json::Value) -> Result<()> {
    let path = "/events";
    stream.write_all(&target.request("POST", path, body.to_string().as_bytes(), false))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the server ended a publisher's connection");
        answer.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}

/// A connection that sends the same frame again and again.
struct Flooder {
    stream: TcpStream,
    frames: Vec<u8>,
    frame_bytes: usize,
    /// Bytes of the frame under way that have been sent.
    begun: usize,
}

impl Flooder {
    fn new(target: &Target, opcode: u8, payload: &[u8]) -> Result<Self> {
        let mut one = Vec::new();
        frame::masked(&mut one, opcode, payload);
        let frames = one.repeat(64 * 1024 / one.len());
        Ok(Self { stream: open(target)?, frames, frame_bytes: one.len(), begun: 0 })
    }

    /// Sends as much as the server takes.
    fn send(&mut self) {
        if let Ok(count) = self.stream.write(&self.frames[self.begun..]) {
            self.begun = (self.begun + count) % self.frame_bytes;
        }
    }
}

/// A WebSocket whose greeting has not been read.
fn open(target: &Target) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(target.address)?;
    let head = format!(
        "GET /app/{}?protocol=7 HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        target.signer.key(),
        target.address,
    );
    stream.write_all(head.as_bytes())?;
    stream.read_exact(&mut [0; 12]).context("no answer to an upgrade")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Counts what begins like an event of ours, and all else that readers get.
#[derive(Default)]
struct Counter {
    begins_with: &'static str,
    events: u64,
    others: u64,
}

impl Receiver for Counter {
    fn text(&mut self, _client: usize, text: &[u8], _now: u64) -> bool {
        let is_event = text.starts_with(self.begins_with.as_bytes());
        *if is_event { &mut self.events } else { &mut self.others } += 1;
        true
    }
}

/// Readers on many channels; one request publishes a large event on all of them but one.
fn burst(target: &Target, conns: usize, secs: f64, report: &mut Report) -> Result<()> {
    let mut hub = Hub::new(target)?;
    let first = Subscription { channel: channel(0), data: None };
    let ready = hub.open_all(vec![first; conns], State::Ready, (conns, 60), &mut Nobody)?;
    for client in 0..conns {
        for number in 1..BURST_CHANNELS {
            let subscribe = json!({ "event": "pusher:subscribe", "data": { "channel": channel(number) } });
            hub.clients[client].send_text(subscribe.to_string().as_bytes());
        }
    }
    hub.poll_for(1.0, &mut Counter::default())?;
    let channels: Vec<String> = (1..BURST_CHANNELS).map(channel).collect();
    let body = json!({ "name": "burst", "channels": channels, "data": "x".repeat(BURST_BYTES) });
    let other = target.clone();
    let posting = thread::spawn(move || post(&mut TcpStream::connect(other.address)?, &other, &body));
    let mut counter = Counter { begins_with: r#"{"event":"burst""#, ..Counter::default() };
    hub.poll_for(secs, &mut counter)?;
    posting.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
    report.put("ready", ready).put("expected", ready * (BURST_CHANNELS - 1)).put("received", counter.events);
    hub.report(report);
    Ok(())
}

/// Connections that send empty pings and read nothing.
fn pings(target: &Target, conns: usize, secs: f64) -> Result<()> {
    let mut pingers = (0..conns).map(|_| Flooder::new(target, opcode::PING, b"")).collect::<Result<Vec<_>>>()?;
    let end = clock::now() + clock::nanos(secs);
    while clock::now() < end {
        pingers.iter_mut().for_each(Flooder::send);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// One member of a presence channel joins and leaves it as fast as it is answered, before the eyes of many.
fn rejoin(target: &Target, observers: usize, secs: f64, report: &mut Report) -> Result<()> {
    let mut hub = Hub::new(target)?;
    let member = |number: usize, info: &str| Subscription {
        channel: ROOM.to_owned(),
        data: Some(json!({ "user_id": format!("user-{number}"), "user_info": { "name": info } }).to_string()),
    };
    let ready =
        hub.open_all((0..observers).map(|number| member(number, "o")), State::Ready, (observers, 60), &mut Nobody)?;
    let mut restless = Hub::new(target)?;
    restless.auto_subscribe = false;
    restless.open_all([member(observers, &"x".repeat(1900))], State::Established, (1, 60), &mut Nobody)?;
    let leave = json!({ "event": "pusher:unsubscribe", "data": { "channel": ROOM } }).to_string();
    let mut seen = Counter { begins_with: r#"{"event":"pusher_internal:member_added""#, ..Counter::default() };
    let end = clock::now() + clock::nanos(secs);
    let mut asked = 0_u64;
    while clock::now() < end && restless.clients[0].state != State::Closed {
        restless.subscribe(0);
        restless.clients[0].send_text(leave.as_bytes());
        asked += 1;
        restless.poll(Duration::ZERO, &mut Nobody)?;
        hub.poll(Duration::ZERO, &mut seen)?;
    }
    hub.poll_for(2.0, &mut seen)?;
    report.put("observers", ready).put("asked", asked).put("member_added_seen", seen.events);
    hub.report(report);
    Ok(())
}

/// Large bodies, all of them in the server's memory at once, then none.
fn bodies(target: &Target, conns: usize) -> Result<()> {
    let body = json!({ "name": "e", "channel": channel(0), "data": "x".repeat(BODY_BYTES) }).to_string();
    let request = target.request("POST", "/events", body.as_bytes(), true);
    let (most, last) = request.split_at(request.len() - 1);
    let mut streams = Vec::new();
    for _ in 0..conns {
        let mut stream = TcpStream::connect(target.address)?;
        stream.set_write_timeout(Some(Duration::from_nanos(10 * SECOND)))?;
        stream.write_all(most)?;
        streams.push(stream);
    }
    for stream in &mut streams {
        stream.write_all(last)?;
    }
    for mut stream in streams {
        // Refused as too large for an event, which is all the same here.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    Ok(())
}
