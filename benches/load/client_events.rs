//! Pairs of clients on private channels. Each answers the other's event, or the first of each pair sends at a rate.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::client::{State, Subscription};
use crate::clock::{self, SECOND};
use crate::fanout;
use crate::histogram::Histogram;
use crate::hub::{Hub, Nobody, Receiver};
use crate::mark::{Mark, Payload};
use crate::meter::Meter;
use crate::options::{ClientEventsOptions, bounded};
use crate::report::Report;

/// How long the last events are waited for.
const LAST_EVENTS: u64 = 2 * SECOND;

/// The events that all clients have received.
struct Arrivals {
    place: usize,
    /// The number expected next by each client.
    next: Vec<u32>,
    received: u64,
    duplicates: u64,
    skipped: u64,
    latency: Histogram,
    measured: Range<u64>,
    /// Clients with an event to answer.
    to_answer: Vec<usize>,
}

impl Receiver for Arrivals {
    fn text(&mut self, client: usize, text: &[u8], now: u64) -> bool {
        let Some(mark) = Mark::find(text, &mut self.place) else { return false };
        let next = &mut self.next[client];
        if mark.number < *next {
            self.duplicates += 1;
            return true;
        }
        self.skipped += u64::from(mark.number - *next);
        *next = mark.number + 1;
        self.received += 1;
        if self.measured.contains(&mark.sent) {
            self.latency.record(now.saturating_sub(mark.sent));
        }
        self.to_answer.push(client);
        true
    }
}

/// Everybody connects, then talks.
pub(crate) fn run(options: &ClientEventsOptions) -> Result<Report> {
    let ClientEventsOptions { server, pairs, payload, rate, secs, warmup } = options;
    ensure!(*pairs > 0, "--pairs must be at least 1");
    bounded(pairs * 2, warmup + secs)?;
    let process = server.process()?;
    process.reset_peak();
    let mut report = Report::default();
    report.put("scenario", "client-events").put("label", server.label.as_str());
    report.put("server", server.target()?.address.to_string()).put("pairs", *pairs).put("payload_bytes", *payload);
    report.put("mode", if rate.is_some() { "open" } else { "ping-pong" }).put("rate", *rate).put("secs", *secs);
    report.put("rss_kib_before", process.known().then(|| process.rss_kib()));

    let mut hub = Hub::new(&server.target()?)?;
    let subscriptions = (0..pairs * 2).map(|client| Subscription { channel: channel(client), data: None });
    report.put("ready", hub.open_all(subscriptions, State::Ready, server.pace(), &mut Nobody)?);

    let start = clock::now();
    let from = start + clock::nanos(*warmup);
    let measured = from..from + clock::nanos(*secs);
    let mut talk = Talk {
        hub,
        arrivals: Arrivals {
            place: 0,
            next: vec![0; pairs * 2],
            received: 0,
            duplicates: 0,
            skipped: 0,
            latency: Histogram::new(),
            measured: measured.clone(),
            to_answer: Vec::new(),
        },
        payload: Payload::new(*payload),
        numbers: vec![0; pairs * 2],
        sent: 0,
        start,
        end: measured.end,
    };
    let mut meter = Meter::new(process, measured);
    match rate {
        Some(rate) => talk.at_rate(*rate, *pairs, &mut meter)?,
        None => talk.ping_pong(*pairs, &mut meter)?,
    }
    let Talk { arrivals, mut hub, sent, .. } = talk;
    report
        .put("deliveries", arrivals.received)
        .put("expected", sent)
        .put("lost", sent.saturating_sub(arrivals.received))
        .put("duplicates", arrivals.duplicates)
        .put("skipped", arrivals.skipped)
        .put("latency_ms", arrivals.latency.summary());
    meter.report(&mut report, "delivery");
    meter.report_peaks(&mut report);
    hub.report(&mut report);
    fanout::leave(&mut hub, process, 0.5, &mut report)?;
    Ok(report)
}

fn channel(client: usize) -> String {
    format!("private-pair-{:05}", client / 2)
}

struct Talk {
    hub: Hub,
    arrivals: Arrivals,
    payload: Payload,
    /// The next number by sender.
    numbers: Vec<u32>,
    sent: u64,
    start: u64,
    end: u64,
}

impl Talk {
    fn ping_pong(&mut self, pairs: usize, meter: &mut Meter) -> Result<()> {
        (0..pairs).for_each(|pair| self.say(pair * 2));
        self.until_quiet(meter, |talk| {
            for client in std::mem::take(&mut talk.arrivals.to_answer) {
                talk.say(client);
            }
            SECOND / 50
        })
    }

    fn at_rate(&mut self, rate: f64, pairs: usize, meter: &mut Meter) -> Result<()> {
        self.until_quiet(meter, |talk| {
            let due = ((clock::now() - talk.start) as f64 / SECOND as f64 * rate) as u64 + 1;
            while talk.sent < due {
                talk.say(talk.sent as usize % pairs * 2);
            }
            talk.arrivals.to_answer.clear();
            let next = talk.start + (talk.sent as f64 / rate * SECOND as f64) as u64;
            next.saturating_sub(clock::now()).min(SECOND / 50)
        })
    }

    /// Lets `turn` speak until the end; it returns for how long to listen. Then listens until all has come.
    fn until_quiet(&mut self, meter: &mut Meter, mut turn: impl FnMut(&mut Self) -> u64) -> Result<()> {
        while clock::now() < self.end + LAST_EVENTS {
            let over = clock::now() >= self.end;
            if over && meter.finished() && self.arrivals.received >= self.sent {
                break;
            }
            let listen = if over { SECOND / 50 } else { turn(self) };
            self.listen(listen)?;
            let received = self.arrivals.received;
            meter.tick(|| received);
        }
        Ok(())
    }

    fn listen(&mut self, nanos: u64) -> Result<()> {
        let wait = Duration::from_nanos(nanos);
        // The poll knows milliseconds only.
        if wait < Duration::from_millis(1) {
            std::thread::sleep(wait);
            return self.hub.poll(Duration::ZERO, &mut self.arrivals);
        }
        self.hub.poll(Duration::from_millis(wait.as_millis() as u64), &mut self.arrivals)
    }

    fn say(&mut self, client: usize) {
        let number = self.numbers[client];
        self.numbers[client] += 1;
        self.sent += 1;
        let data = self.payload.with(Mark { sent: clock::now(), stream: 0, number });
        let head = format!(r#"{{"event":"client-moved","channel":"{}","data":""#, channel(client));
        self.hub.clients[client].send_text(&[head.as_bytes(), data, b"\"}"].concat());
    }
}
