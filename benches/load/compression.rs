//! What compression costs and saves: the same events to plain and to compressed subscribers, in turns; and what each
//! level of the compressor would cost.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use flate2::{Decompress, FlushDecompress, Status};
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress};
use serde_json::{Value, json};

use crate::fanout;
use crate::mark::{Mark, Payload};
use crate::options::{Fan, ServerOptions};
use crate::report::{Report, rounded};

/// Plain and compressed once each is one turn.
const TURNS: usize = 2;
/// Repetitions of one compression.
const REPETITIONS: u32 = 500;
/// Empty blocks at the end of each message, which are not sent.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Inflates what subscribers receive. The same bytes go to all of them, so most of it was inflated before.
#[derive(Default)]
pub(crate) struct Inflater {
    recent: [(Vec<u8>, Vec<u8>); 8],
    oldest: usize,
}

impl Inflater {
    /// The text of a compressed payload; empty if it is broken.
    pub(crate) fn text(&mut self, payload: &[u8]) -> &[u8] {
        let place = match self.recent.iter().position(|(compressed, _)| compressed == payload) {
            Some(place) => place,
            None => {
                self.oldest = (self.oldest + 1) % self.recent.len();
                self.recent[self.oldest] = (payload.to_vec(), inflate(payload).unwrap_or_default());
                self.oldest
            }
        };
        &self.recent[place].1
    }
}

fn inflate(payload: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(payload.len() * 4);
    let (mut inflater, input) = (Decompress::new(false), [payload, &TAIL].concat());
    while inflater.total_in() < input.len() as u64 {
        text.reserve(payload.len() * 4 + 256);
        let rest = &input[inflater.total_in() as usize..];
        let status = inflater.decompress_vec(rest, &mut text, FlushDecompress::Sync)?;
        ensure!(status == Status::Ok, "the message is broken");
    }
    Ok(text)
}

/// Runs the scenario.
pub(crate) fn run(server: &ServerOptions, fan: &Fan) -> Result<Report> {
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (compressed, runs) in [false, true].into_iter().zip(&mut runs) {
            runs.push(fanout::run(server, &Fan { compressed, ..fan.clone() })?);
        }
    }
    let sum = |runs: &[Report], field: &str| runs.iter().filter_map(|run| run.number(field)).sum::<f64>();
    let ratio = |field: &str| sum(&runs[1], field) / sum(&runs[0], field);
    let mut report = Report::default();
    report.put("scenario", "compression").put("label", server.label.as_str()).put("subs", fan.subs);
    report
        .measured("bytes_ratio", ratio("wire_bytes_per_delivery"))
        .measured("server_cpu_ratio", ratio("server_cpu_us_per_delivery"))
        .put("levels", levels(fan.payload));
    for (name, runs) in [("plain", &runs[0]), ("compressed", &runs[1])] {
        let fields = [
            "wire_bytes_per_delivery",
            "frame_bytes",
            "server_cpu_us_per_delivery",
            "deliveries",
            "lost",
            "duplicates",
            "out_of_order",
            "latency_ms",
            "rss_kib_connected",
            "rss_kib_loaded",
            "failed",
            "errors",
        ];
        let values = runs.iter().map(|run| fields.iter().map(|field| (*field, run.value(field))).collect());
        report.put(name, values.collect::<Vec<Value>>());
    }
    Ok(report)
}

/// Microseconds and size of one event at each level, and the time to inflate it.
fn levels(length: usize) -> Value {
    let mut payload = Payload::readings(length);
    let event = payload.with(Mark { sent: 0, stream: 0, number: 0 }).to_vec();
    let level = |level: u8| {
        let (mut size, mut buffer) = (0, vec![0; 2 * event.len() + 64]);
        let mut compressor = CompressorOxide::default();
        compressor.set_format_and_level(DataFormat::Raw, level);
        let compress_us = microseconds(|| {
            compressor.reset();
            size = compress(&mut compressor, black_box(&event), &mut buffer, TDEFLFlush::Sync).2 - TAIL.len();
        });
        let inflate_us = microseconds(|| drop(black_box(inflate(&buffer[..size]))));
        json!({ "level": level, "compress_us": compress_us, "inflate_us": inflate_us,
            "ratio": rounded(size as f64 / event.len() as f64) })
    };
    (1..=6).map(level).collect()
}

fn microseconds(mut work: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..REPETITIONS).for_each(|_| work());
    rounded(began.elapsed().as_secs_f64() * 1e6 / f64::from(REPETITIONS))
}
