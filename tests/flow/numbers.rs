//! Numbers of JSON, and sums without rounding.

use serde_json::Value;

/// Parses JSON whose numbers may be too large.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(&text.replace("1e400", "1e40").replace("1e999", "1e99"))
}

/// The exact sum of numbers: each bit has its place. 2,200 bits hold every finite number and some billion times as much.
#[derive(Clone)]
pub struct Exact {
    /// 32 bits each, with a sign and room to carry; the lowest counts 2^-1088.
    digits: [i64; 70],
}

const LOWEST: i32 = 1088;

impl Exact {
    pub fn sum(numbers: &[f64]) -> Self {
        let mut exact = Self { digits: [0; 70] };
        for &number in numbers {
            exact.add(number);
        }
        exact
    }

    pub fn add(&mut self, number: f64) {
        let bits = number.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let (whole, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
        let place = (exponent + LOWEST) as usize;
        let wide = u128::from(whole) << (place % 32);
        let sign = if number < 0.0 { -1 } else { 1 };
        for part in 0..3 {
            self.digits[place / 32 + part] += sign * ((wide >> (32 * part)) & 0xffff_ffff) as i64;
        }
        self.carry(place / 32);
    }

    fn carry(&mut self, from: usize) {
        for place in from..self.digits.len() - 1 {
            let over = self.digits[place] >> 32;
            if over == 0 && from > 0 && place > from + 2 {
                return;
            }
            self.digits[place] -= over << 32;
            self.digits[place + 1] += over;
        }
    }

    /// The nearest number, or one beside it; infinite if there is none.
    pub fn value(&self) -> f64 {
        let mut digits = self.clone();
        let negative = digits.digits[69] < 0;
        if negative {
            digits.digits.iter_mut().for_each(|digit| *digit = -*digit);
            digits.carry(0);
        }
        let Some(top) = digits.digits.iter().rposition(|&digit| digit != 0) else { return 0.0 };
        // Three parts have 65 bits at least, so what is below cannot be seen.
        let mut value = 0.0;
        for place in (top.saturating_sub(2)..=top).rev() {
            let exponent = 32 * place as i32 - LOWEST;
            // In two steps, since 2^exponent alone may be too small or too large.
            let half = exponent / 2;
            value += digits.digits[place] as f64 * 2f64.powi(half) * 2f64.powi(exponent - half);
        }
        if negative { -value } else { value }
    }

    /// How far a number is away.
    pub fn distance(&self, number: f64) -> f64 {
        let mut difference = self.clone();
        difference.add(-number);
        difference.value().abs()
    }
}

/// The distance from a number to the next one.
pub fn ulp(number: f64) -> f64 {
    let number = number.abs();
    if number == f64::MAX { number - number.next_down() } else { number.next_up() - number }
}
