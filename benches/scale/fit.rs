//! Fits exponents, and prints tables of figures by size.

use crate::meter::Cost;
use crate::options::Axis;

/// A part of a cost.
type Quantity = fn(&Cost) -> f64;

/// Below it a figure is noise of the background that was taken off.
const NOISE: f64 = 0.5;

/// The figures of one axis: what was measured, with a cost for each size.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(&'static str, Vec<(usize, Cost)>)>,
}

impl Table {
    pub(crate) fn add(&mut self, name: &'static str, size: usize, cost: Cost) {
        match self.rows.iter_mut().find(|(known, _)| *known == name) {
            Some((_, costs)) => costs.push((size, cost)),
            None => self.rows.push((name, vec![(size, cost)])),
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        for (name, costs) in other.rows {
            costs.into_iter().for_each(|(size, cost)| self.add(name, size, cost));
        }
    }

    /// Prints it as Markdown: a row for each quantity, with the exponent behind.
    pub(crate) fn print(&self, axis: Axis, sizes: &[usize]) {
        let heads: Vec<String> = sizes.iter().map(|size| grouped(*size as f64)).collect();
        println!("\n| by {axis} | | {} | exponent |", heads.join(" | "));
        println!("| --- | --- |{} --- |", " ---: |".repeat(sizes.len()));
        for (name, costs) in &self.rows {
            let quantities: [(&str, Quantity); 3] = [
                ("commands", |cost| cost.commands),
                ("bytes in", |cost| cost.bytes_in),
                ("bytes out", |cost| cost.bytes_out),
            ];
            for (place, (quantity, of)) in quantities.into_iter().enumerate() {
                let points: Vec<(f64, f64)> = costs.iter().map(|(size, cost)| (*size as f64, of(cost))).collect();
                let figures: Vec<String> = points.iter().map(|(_, figure)| grouped(*figure)).collect();
                let exponent = exponent(&points).map_or("–".to_owned(), |exponent| format!("{exponent:.2}"));
                let name = if place == 0 { name } else { "" };
                println!("| {name} | {quantity} | {} | {exponent} |", figures.join(" | "));
            }
        }
    }
}

/// The exponent of a power law through these points: least squares over the logarithms.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let points: Vec<(f64, f64)> =
        points.iter().filter(|(_, figure)| *figure > NOISE).map(|(size, figure)| (size.ln(), figure.ln())).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (points.len() > 1 && spread > 0.0).then(|| common / spread + 0.0)
}

/// A figure with commas between thousands; small ones with one decimal.
pub(crate) fn grouped(figure: f64) -> String {
    if figure < 99.95 && (figure - figure.round()).abs() >= 0.05 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
