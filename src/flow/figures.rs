//! The figures of the numbers in a window: count, sum, least, greatest, first and last.

use serde_json::value::RawValue;

use crate::flow::rule::Figure;
use crate::protocol::json;
use crate::protocol::partial::Finite;
use crate::protocol::partial::PartialKey;

/// Figures of numbers that are added one by one. The sum is compensated (Neumaier), so small numbers are not lost beside
/// large ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) count: u64,
    sum: f64,
    compensation: f64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
}

impl Figures {
    pub(super) fn add(&mut self, number: f64) {
        if self.count == 0 {
            (self.min, self.max, self.first) = (number, number, number);
        }
        // Figures of other nodes may count to the end.
        self.count = self.count.saturating_add(1);
        self.add_to_sum(number);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.last = number;
    }

    fn add_to_sum(&mut self, number: f64) {
        let sum = self.sum + number;
        let (large, small) = if self.sum.abs() >= number.abs() { (self.sum, number) } else { (number, self.sum) };
        self.compensation += (large - sum) + small;
        self.sum = sum;
    }

    /// Adds the figures of other numbers, whose first or last is the first or last of all.
    pub(super) fn merge(&mut self, other: &PartialKey, is_first: bool, is_last: bool) {
        if self.count == 0 {
            (self.min, self.max) = (other.min.get(), other.max.get());
        }
        self.count = self.count.saturating_add(other.count);
        self.add_to_sum(other.sum.map_or(f64::INFINITY, Finite::get));
        self.compensation += other.compensation.map_or(0.0, Finite::get);
        self.min = self.min.min(other.min.get());
        self.max = self.max.max(other.max.get());
        if is_first {
            self.first = other.first.get();
        }
        if is_last {
            self.last = other.last.get();
        }
    }

    /// The figures for other nodes; `None` if there is no number.
    pub(super) fn partial(&self) -> Option<PartialKey> {
        let sum = Finite::new(self.sum);
        Some(PartialKey {
            key: String::new(),
            count: Some(self.count).filter(|&count| count > 0)?,
            sum,
            compensation: sum.and_then(|_| Finite::new(self.compensation)),
            min: Finite::new(self.min)?,
            max: Finite::new(self.max)?,
            first: Finite::new(self.first)?,
            last: Finite::new(self.last)?,
            from: 0,
            to: 0,
            first_at: 0,
            last_at: 0,
            skipped: 0,
            values: Vec::new(),
        })
    }

    /// The sum, which is infinite or no number if the numbers are too large.
    pub(super) fn sum(&self) -> f64 {
        // The compensation of an infinite sum is no number.
        if self.sum.is_finite() { self.sum + self.compensation } else { self.sum }
    }

    pub(super) fn get(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Average => self.sum() / self.count as f64,
            Figure::Last => self.last,
            Figure::Min => self.min,
            Figure::Max => self.max,
            Figure::Sum => self.sum(),
        }
    }

    /// `"count":2,"sum":3,"min":1,"max":2,"average":1.5`
    pub(super) fn members(&self) -> String {
        let [sum, min, max, average] =
            [Figure::Sum, Figure::Min, Figure::Max, Figure::Average].map(|figure| written(self.get(figure)));
        format!(r#""count":{},"sum":{sum},"min":{min},"max":{max},"average":{average}"#, self.count)
    }

    /// `"first":1,"last":2`
    pub(super) fn ends(&self) -> String {
        format!(r#""first":{},"last":{}"#, written(self.first), written(self.last))
    }
}

/// Numbers up to here are whole without loss.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A number as JSON: whole ones without a fraction, and `null` for what JSON cannot say.
pub(super) fn written(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
        return (number as i64).to_string();
    }
    serde_json::to_string(&number).expect("a number always becomes JSON")
}

/// The number that a value is: a finite one of JSON, or a text of one, as Laravel writes decimals.
pub(super) fn number(value: &str) -> Option<f64> {
    let number = match value.starts_with('"') {
        false => value.parse::<f64>().ok()?,
        true => {
            let raw: &RawValue = serde_json::from_str(value).ok()?;
            let text = json::text(raw)?;
            // Rust reads "inf" and "nan", too.
            text.trim_ascii().parse::<f64>().ok().filter(|_| !text.contains(['i', 'n', 'I', 'N']))?
        }
    };
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[f64]) -> Figures {
        let mut figures = Figures::default();
        numbers.iter().for_each(|&number| figures.add(number));
        figures
    }

    #[test]
    fn figures_begin_with_the_first_number() {
        let figures = of(&[-3.5, -1.0, -2.0]);
        assert_eq!(figures.members(), r#""count":3,"sum":-6.5,"min":-3.5,"max":-1,"average":-2.1666666666666665"#);
        assert_eq!(figures.ends(), r#""first":-3.5,"last":-2"#);
    }

    #[test]
    fn a_count_of_other_nodes_may_be_at_its_end() {
        let mut figures = Figures { count: u64::MAX, ..of(&[1.0]) };
        figures.add(2.0);
        assert_eq!((figures.count, figures.last), (u64::MAX, 2.0));
    }

    #[test]
    fn small_numbers_are_not_lost_beside_large_ones() {
        assert_eq!(of(&[1e100, 1.0, -1e100, 1.0]).sum(), 2.0);
        assert_eq!(of(&[1.0, 1e100, 1.0, -1e100]).sum(), 2.0);
        let tenths = of(&[0.1; 10_000]);
        assert!((tenths.sum() - 1000.0).abs() < 1e-12);
    }

    #[test]
    fn too_large_a_sum_is_null() {
        let figures = of(&[f64::MAX, f64::MAX]);
        assert!(figures.members().starts_with(r#""count":2,"sum":null,"min":1.7976931348623157e+308,"#), "{figures:?}");
    }

    #[test]
    fn numbers_are_finite_ones_and_their_texts() {
        for (value, is) in [
            ("1", Some(1.0)),
            ("-2.50", Some(-2.5)),
            ("1e3", Some(1000.0)),
            (r#""21.50""#, Some(21.5)),
            (r#"" 7 ""#, Some(7.0)),
            (r#""-1e-3""#, Some(-0.001)),
            ("1e400", None),
            (r#""1e400""#, None),
            (r#""NaN""#, None),
            (r#""Infinity""#, None),
            (r#""inf""#, None),
            (r#""""#, None),
            (r#""12 C""#, None),
            (r#""0x10""#, None),
            ("true", None),
            ("null", None),
            ("[1]", None),
            ("{}", None),
        ] {
            assert_eq!(number(value), is, "{value}");
        }
        assert_eq!(["-0.0", "1e16"].map(|text| written(number(text).unwrap())), ["0", "1e+16"]);
    }
}
