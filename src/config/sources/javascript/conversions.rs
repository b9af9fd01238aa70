//! How JavaScript makes truths and numbers of values.
//! `javascript` calls it.

use config::ValueKind;

pub(super) fn is_truthy(kind: &ValueKind) -> bool {
    match kind {
        ValueKind::Nil => false,
        ValueKind::Boolean(truth) => *truth,
        ValueKind::I64(number) => *number != 0,
        ValueKind::Float(number) => *number != 0.0 && !number.is_nan(),
        ValueKind::String(text) => !text.is_empty(),
        _ => true,
    }
}

pub(super) fn whole_or_fraction(digits: &str) -> Option<ValueKind> {
    let fraction = || digits.parse().ok().filter(|number: &f64| number.is_finite()).map(ValueKind::Float);
    digits.parse().map(ValueKind::I64).ok().or_else(fraction)
}

/// A number as JavaScript's `Number` makes it; where there is none, NaN, which no setting accepts.
pub(super) fn number(kind: &ValueKind) -> f64 {
    match kind {
        ValueKind::I64(number) => *number as f64,
        ValueKind::Float(number) => *number,
        ValueKind::Boolean(truth) => f64::from(u8::from(*truth)),
        ValueKind::String(text) => text.trim().parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

/// The whole number that a value begins with, as `parseInt` reads it.
pub(super) fn whole(kind: &ValueKind) -> ValueKind {
    let text = kind.to_string();
    let text = text.trim();
    let is_part = |(at, letter): (usize, char)| letter.is_ascii_digit() || (at == 0 && "+-".contains(letter));
    let end = text.char_indices().find(|&part| !is_part(part)).map_or(text.len(), |(at, _)| at);
    text[..end].parse().map_or(ValueKind::Float(f64::NAN), ValueKind::I64)
}
