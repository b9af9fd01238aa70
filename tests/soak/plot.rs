//! The plot of a run: one small chart for each measure, with minutes on the one axis.

use std::fmt::Write;
use std::time::Duration;

use crate::drift::median;
use crate::samples::MEASURES;
use crate::samples::Sample;

/// Sizes in pixels.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 34.0;
const INNER_WIDTH: f64 = WIDTH - LEFT - 14.0;
const INNER_HEIGHT: f64 = HEIGHT - TOP - 30.0;
const COLUMNS: usize = 2;
/// Points of a line; of more samples medians are drawn.
const POINTS_MAX: usize = 300;

const STYLE: &str = "text{font:11px sans-serif;fill:#444}.name{font-weight:bold;fill:#111}\
    .grid{stroke:#ddd;fill:none}.line{stroke:#1565c0;fill:none;stroke-width:1.2}";

/// An SVG with all measures.
pub fn plot(samples: &[Sample], hour: Duration) -> String {
    let rows = MEASURES.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\">\n<style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, measure) in MEASURES.iter().enumerate() {
        let (x, y) = ((index % COLUMNS) as f64 * WIDTH, (index / COLUMNS) as f64 * HEIGHT);
        let unit = if measure.unit.is_empty() { String::new() } else { format!(", {}", measure.unit) };
        let chart = chart(&points(samples, index));
        let name = format!("<text class=\"name\" x=\"{LEFT}\" y=\"20\">{}{unit}</text>", measure.name);
        writeln!(svg, "<g transform=\"translate({x} {y})\">\n{name}\n{chart}</g>").unwrap();
    }
    writeln!(svg, "<desc>An hour of the day takes {hour:?}.</desc>\n</svg>").unwrap();
    svg
}

/// Minutes and values, few enough to be drawn.
fn points(samples: &[Sample], measure: usize) -> Vec<(f64, f64)> {
    let size = samples.len().div_ceil(POINTS_MAX).max(1);
    let point = |some: &[Sample]| {
        let values = some.iter().map(|sample| sample.values[measure]).filter(|value| value.is_finite());
        let values: Vec<f64> = values.collect();
        (some[0].at / 60.0, if values.is_empty() { f64::NAN } else { median(values) })
    };
    samples.chunks(size).map(point).collect()
}

/// A grid with numbers, and the line.
fn chart(points: &[(f64, f64)]) -> String {
    let end = points.last().map_or(1.0, |point| point.0).max(f64::MIN_POSITIVE);
    let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let most = if highest > 0.0 { round_up(highest) } else { 1.0 };
    let x = |minutes: f64| LEFT + INNER_WIDTH * minutes / end;
    let y = |value: f64| TOP + INNER_HEIGHT * (1.0 - value / most);
    let mut chart = String::new();
    for part in 0..=4 {
        let part = f64::from(part) / 4.0;
        let (value, minutes) = (most * part, end * part);
        let (right, bottom) = (LEFT + INNER_WIDTH, TOP + INNER_HEIGHT);
        writeln!(chart, "<path class=\"grid\" d=\"M{LEFT} {:.1}H{right}\"/>", y(value)).unwrap();
        let words = format!("text-anchor=\"end\">{}</text>", short(value));
        writeln!(chart, "<text x=\"{}\" y=\"{:.1}\" {words}", LEFT - 6.0, y(value) + 4.0).unwrap();
        let words = format!("text-anchor=\"middle\">{}</text>", short(minutes));
        writeln!(chart, "<text x=\"{:.1}\" y=\"{}\" {words}", x(minutes), bottom + 16.0).unwrap();
    }
    writeln!(chart, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">minutes</text>", LEFT + INNER_WIDTH, HEIGHT - 2.0)
        .unwrap();
    // It has a gap where nothing was measured.
    for line in points.split(|(_, value)| value.is_nan()).filter(|line| !line.is_empty()) {
        let line: Vec<String> =
            line.iter().map(|(minutes, value)| format!("{:.1} {:.1}", x(*minutes), y(*value))).collect();
        writeln!(chart, "<path class=\"line\" d=\"M{}\"/>", line.join("L")).unwrap();
    }
    chart
}

/// The next number of the form 1, 2, 4, 5 or 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

fn short(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
