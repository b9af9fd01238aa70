//! The publishing thread: in an open loop at a rate, or in a closed loop with a window.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use anyhow::Result;
use mio::Waker;

use crate::clock::{self, SECOND};
use crate::histogram::Histogram;
use crate::http::Pool;
use crate::mark::{Mark, Payload};
use crate::target::Target;

/// How long answers are waited for after the end.
const LAST_ANSWERS: u64 = 5 * SECOND;
/// The longest wait, so that the end is not missed by much.
const WAIT_MAX: u64 = SECOND / 10;

/// When the next event goes out.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many a second, whatever the server does.
    Rate(f64),
    /// At most so many published and not yet delivered to everybody.
    Window(u64),
    /// As fast as requests are answered.
    Answers,
}

/// The events to publish.
#[derive(Clone)]
pub(crate) struct Publishing {
    pub(crate) pace: Pace,
    pub(crate) http_conns: usize,
    pub(crate) keep_alive: bool,
    /// Events of one request.
    pub(crate) batch: u64,
    pub(crate) payload: usize,
    /// JSON in which not everything repeats itself.
    pub(crate) readings: bool,
    /// Keys that the events have; 0 for none.
    pub(crate) keys: usize,
    pub(crate) channels: Vec<String>,
    /// Subscribers of each channel.
    pub(crate) listeners: u64,
    pub(crate) start: u64,
    /// Without the warm-up; at its end publishing stops.
    pub(crate) measured: Range<u64>,
}

/// The state that the two threads share.
pub(crate) struct Progress {
    delivered: AtomicU64,
    acknowledged: AtomicU64,
    waiting: AtomicBool,
    waker: Waker,
}

impl Progress {
    /// Events that were answered with 200.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// All that subscribers have received so far.
    pub(crate) fn set_delivered(&self, deliveries: u64) {
        self.delivered.store(deliveries, SeqCst);
    }

    /// Ends the publisher's wait. False if it does not wait.
    pub(crate) fn wake(&self) -> bool {
        self.waiting.load(SeqCst) && self.waker.wake().is_ok()
    }
}

/// The result of publishing.
pub(crate) struct Published {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    /// Of requests written within the measured time.
    pub(crate) acknowledged_measured: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) reconnects: u64,
    /// From request to answer.
    pub(crate) answer_times: Histogram,
    /// How much later than planned events were sent.
    pub(crate) behind_schedule: Histogram,
}

/// Publishes until the time is over.
pub(crate) struct Publisher {
    order: Publishing,
    progress: Arc<Progress>,
    pool: Pool,
    payload: Payload,
    /// In Redis, as Laravel does.
    by_redis: bool,
    body: Vec<u8>,
    /// The next number by connection, key and channel: a stream's order is that of one connection, and of one key if
    /// there are keys.
    numbers: Vec<u32>,
    next_channel: usize,
    next_key: usize,
    /// Events of the request that a connection waits for.
    underway: Vec<u64>,
    published: Published,
}

impl Publisher {
    /// Ready to run.
    pub(crate) fn new(target: &Target, order: Publishing) -> Result<Self> {
        let pool = Pool::new(target, order.keep_alive)?;
        let progress = Arc::new(Progress {
            delivered: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            waker: pool.waker()?,
        });
        let published = Published {
            sent: 0,
            failed: 0,
            acknowledged_measured: 0,
            statuses: BTreeMap::new(),
            reconnects: 0,
            answer_times: Histogram::new(),
            behind_schedule: Histogram::new(),
        };
        Ok(Self {
            progress,
            pool,
            payload: match (order.readings, order.keys) {
                (true, _) => Payload::readings(order.payload),
                (false, 0) => Payload::new(order.payload),
                (false, _) => Payload::keyed(order.payload),
            },
            by_redis: target.redis_prefix.is_some(),
            body: Vec::new(),
            numbers: vec![0; order.http_conns * order.keys.max(1) * order.channels.len()],
            next_channel: 0,
            next_key: 0,
            underway: vec![0; order.http_conns],
            published,
            order,
        })
    }

    /// The state to share with the receiving thread.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The thread's work.
    pub(crate) fn run(mut self) -> Result<Published> {
        let end = self.order.measured.end;
        self.pool.connect(self.order.http_conns)?;
        clock::sleep_until(self.order.start);
        loop {
            let now = clock::now();
            if now < end {
                self.send_due(now);
            } else if self.pool.pending == 0 || now > end + LAST_ANSWERS {
                break;
            }
            self.wait()?;
            self.take_answers();
        }
        self.published.reconnects = self.pool.reconnects;
        Ok(self.published)
    }

    /// Events that should be out by now and are not.
    fn due(&self, now: u64) -> u64 {
        let Published { sent, failed, .. } = self.published;
        match self.order.pace {
            Pace::Rate(rate) => {
                let planned = (now - self.order.start) as f64 / SECOND as f64 * rate;
                (planned as u64 + 1).saturating_sub(sent)
            }
            Pace::Window(window) => {
                let back = match self.order.listeners {
                    0 => self.progress.acknowledged(),
                    listeners => self.progress.delivered.load(SeqCst) / listeners,
                };
                // Failed events will never be delivered and must not block the window.
                window.saturating_sub(sent.saturating_sub(back + failed))
            }
            Pace::Answers => u64::MAX,
        }
    }

    /// When the next event of an open loop is planned.
    fn planned(&self, rate: f64) -> u64 {
        self.order.start + (self.published.sent as f64 / rate * SECOND as f64) as u64
    }

    fn send_due(&mut self, now: u64) {
        let mut due = self.due(now);
        while due > 0 {
            let events = self.order.batch.min(due);
            let rest_only = events < self.order.batch && !matches!(self.order.pace, Pace::Rate(_));
            if rest_only && self.pool.pending > 0 {
                return;
            }
            let Some(connection) = self.pool.take_idle() else { return };
            self.send(connection, events);
            due -= events;
        }
    }

    fn send(&mut self, connection: usize, events: u64) {
        let now = clock::now();
        if let Pace::Rate(rate) = self.order.pace {
            self.published.behind_schedule.record(now.saturating_sub(self.planned(rate)));
        }
        self.body.clear();
        if self.by_redis {
            let channel = self.write_message(connection, now);
            self.pool.post(connection, &channel, &self.body, now);
            return self.sent(connection, 1);
        }
        let path = if self.order.batch > 1 { "/batch_events" } else { "/events" };
        if self.order.batch > 1 {
            self.body.extend_from_slice(b"{\"batch\":[");
        }
        for place in 0..events {
            if place > 0 {
                self.body.push(b',');
            }
            self.write_event(connection, now);
        }
        if self.order.batch > 1 {
            self.body.extend_from_slice(b"]}");
        }
        self.pool.post(connection, path, &self.body, now);
        self.sent(connection, events);
    }

    fn sent(&mut self, connection: usize, events: u64) {
        self.underway[connection] = events;
        self.published.sent += events;
    }

    /// The number of the channel whose turn it is, and the mark of its next event.
    fn next(&mut self, connection: usize, now: u64) -> (usize, Mark) {
        let (channel, channels) = (self.next_channel, self.order.channels.len());
        let keys = self.order.keys.max(1);
        let stream = connection * keys + self.next_key;
        if self.order.keys > 0 {
            self.payload.set_key(self.next_key);
            self.next_key = (self.next_key + 1) % keys;
        }
        let number = &mut self.numbers[stream * channels + channel];
        let mark = Mark { sent: now, stream: stream as u32, number: *number };
        *number += 1;
        self.next_channel = (channel + 1) % channels;
        (channel, mark)
    }

    /// An event as Laravel's `redis` broadcaster writes it, with its data as an object; returns its channel.
    fn write_message(&mut self, connection: usize, now: u64) -> String {
        let (channel, mark) = self.next(connection, now);
        let data = self.payload.with(mark).iter().filter(|byte| **byte != b'\\');
        self.body.extend_from_slice(b"{\"event\":\"order.shipped\",\"data\":");
        self.body.extend(data);
        // In the place of the brace that ends the data.
        self.body.pop();
        self.body.extend_from_slice(b",\"socket\":null},\"socket\":null}");
        self.order.channels[channel].clone()
    }

    fn write_event(&mut self, connection: usize, now: u64) {
        let (channel, mark) = self.next(connection, now);
        let channel = &self.order.channels[channel];
        let (before, after): (&[u8], &[u8]) = match self.order.batch {
            1 => (b"\",\"channels\":[\"", b"\"]}"),
            _ => (b"\",\"channel\":\"", b"\"}"),
        };
        self.body.extend_from_slice(b"{\"name\":\"order.shipped\",\"data\":\"");
        self.body.extend_from_slice(self.payload.with(mark));
        self.body.extend_from_slice(before);
        self.body.extend_from_slice(channel.as_bytes());
        self.body.extend_from_slice(after);
    }

    fn wait(&mut self) -> Result<()> {
        // Set before looking again, so that no delivery goes unnoticed.
        self.progress.waiting.store(true, SeqCst);
        let now = clock::now();
        let until = match self.order.pace {
            Pace::Rate(rate) if self.pool.has_idle() => self.planned(rate),
            Pace::Window(_) if self.pool.has_idle() && self.due(now) >= self.order.batch => now,
            _ => u64::MAX,
        };
        let until = if now < self.order.measured.end { until.min(self.order.measured.end) } else { u64::MAX };
        self.pool.poll(until.saturating_sub(now).min(WAIT_MAX))?;
        self.progress.waiting.store(false, SeqCst);
        Ok(())
    }

    fn take_answers(&mut self) {
        let now = clock::now();
        for answer in self.pool.answers.drain(..) {
            let events = self.underway[answer.connection];
            *self.published.statuses.entry(answer.status).or_default() += 1;
            if answer.status != 200 {
                self.published.failed += events;
                continue;
            }
            self.progress.acknowledged.fetch_add(events, SeqCst);
            if answer.sent >= self.order.measured.start {
                self.published.answer_times.record(now - answer.sent);
                self.published.acknowledged_measured += events;
            }
        }
    }
}
