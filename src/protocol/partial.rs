//! Partial aggregates: the figures of a window on the node that accepted its events. Each node puts those of all nodes
//! together.
//!
//! They travel at the end of the frame of an event. For a node that does not know them it is an event like others.
//!
//! ```text
//! {"event":…,"data":…,"channel":…,"partial":{"event":"<name>","keys":[{"key":…,"count":…,…},…]}}
//! ```

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::protocol::frame::Frame;

/// The figures of the events of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// The name of the events, before a rule renames them.
    pub event: String,
    /// The keys, each with its figures.
    pub keys: Vec<PartialKey>,
}

/// The figures of a key in a window. Times are milliseconds since 1970, by the clock of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartialKey {
    /// The key.
    pub key: String,
    /// Numbers.
    pub count: u64,
    /// Their sum; `None` if it is too large for a number.
    pub sum: Option<Finite>,
    /// The part of the sum that `sum` has lost.
    pub compensation: Option<Finite>,
    /// The least number.
    pub min: Finite,
    /// The greatest number.
    pub max: Finite,
    /// The first number.
    pub first: Finite,
    /// The last number.
    pub last: Finite,
    /// The time of the first reading.
    pub from: u64,
    /// The time of the last reading.
    pub to: u64,
    /// The time of the first number.
    pub first_at: u64,
    /// The time of the last number.
    pub last_at: u64,
    /// Readings without a number.
    pub skipped: u64,
    /// Some of the numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Finite>,
}

/// A finite number. JSON has every bit of it.
#[derive(Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Finite(f64);

impl Finite {
    /// The number, if it is finite.
    pub fn new(number: f64) -> Option<Self> {
        number.is_finite().then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Debug for Finite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Finite {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The number of JSON may be one bit away from the one that was written.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let number = text.parse().ok().and_then(Self::new);
        number.ok_or_else(|| serde::de::Error::custom("must be a finite number"))
    }
}

/// The greatest count and time: JSON has them exactly.
const WHOLE_MAX: u64 = 1 << 53;
/// The member of a frame that has the figures.
const MEMBER: &str = r#","partial":"#;

impl Partial {
    /// The frame of an event, with these figures at its end.
    pub(super) fn appended_to(&self, frame: &Frame) -> Frame {
        let Some(start) = frame.payload().strip_suffix(b"}") else { return frame.clone() };
        Frame::text(start.len() + MEMBER.len() + self.cost() + 1, |out| {
            out.extend_from_slice(start);
            out.extend_from_slice(MEMBER.as_bytes());
            serde_json::to_writer(&mut *out, self).expect("figures always become JSON");
            out.push(b'}');
        })
    }

    /// Takes the figures off a frame of another node. The error means that they cannot be true.
    pub(super) fn taken_from(frame: Frame) -> Result<(Frame, Option<Self>), Implausible> {
        // Others end with the text of the channel or the user.
        let payload = Some(frame.payload()).filter(|payload| payload.ends_with(b"}}"));
        let payload = payload.and_then(|payload| std::str::from_utf8(payload).ok());
        let Some((start, end)) = payload.and_then(|payload| payload.rsplit_once(MEMBER)) else {
            return Ok((frame, None));
        };
        let figures = end.strip_suffix('}').ok_or(Implausible)?;
        let partial: Self = serde_json::from_str(figures).map_err(|_| Implausible)?;
        if !partial.is_plausible() {
            return Err(Implausible);
        }
        let event = Frame::text(start.len() + 1, |out| {
            out.extend_from_slice(start.as_bytes());
            out.push(b'}');
        });
        Ok((event, Some(partial)))
    }

    /// Bytes of memory, about.
    pub fn cost(&self) -> usize {
        let of_key =
            |key: &PartialKey| size_of::<PartialKey>() + key.key.len() + key.values.len() * size_of::<Finite>();
        size_of::<Self>() + self.event.len() + self.keys.iter().map(of_key).sum::<usize>()
    }

    fn is_plausible(&self) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(PartialKey::is_plausible)
    }
}

impl PartialKey {
    fn is_plausible(&self) -> bool {
        let (numbers, times) = (self.min..=self.max, self.from..=self.to);
        (1..=WHOLE_MAX).contains(&self.count)
            && [&self.first, &self.last].iter().all(|number| numbers.contains(number))
            && [&self.first_at, &self.last_at].iter().all(|time| times.contains(time))
            && self.to <= WHOLE_MAX
            && self.skipped <= WHOLE_MAX
            && self.values.len() as u64 <= self.count
            && self.values.iter().all(|number| numbers.contains(number))
    }
}

/// Figures that no numbers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Implausible;

#[cfg(test)]
mod tests {
    use super::*;

    fn finite(number: f64) -> Finite {
        Finite::new(number).unwrap()
    }

    fn text(payload: &str) -> Frame {
        Frame::text(payload.len(), |out| out.extend_from_slice(payload.as_bytes()))
    }

    /// The frame of an event in whose data the member stands, as a text.
    fn frame() -> Frame {
        let data = serde_json::to_string(r#"{"a":1,"partial":{"event":1}}"#).unwrap();
        text(&format!(r#"{{"event":"a \"b\"","data":{data},"channel":"scada"}}"#))
    }

    fn partial() -> Partial {
        let key = PartialKey {
            key: r#"pump "7",","partial":{ é"#.to_owned(),
            count: 3,
            sum: Some(finite(0.1 + 0.2)),
            compensation: Some(finite(-5e-324)),
            min: finite(-0.0),
            max: finite(f64::MAX),
            first: finite(1.0 / 3.0),
            last: finite(9.007_199_254_740_993e15),
            from: 1,
            to: 9,
            first_at: 2,
            last_at: 2,
            skipped: 4,
            values: vec![finite(2.225_073_858_507_201e-308)],
        };
        let large = PartialKey { sum: None, compensation: None, values: Vec::new(), ..key.clone() };
        Partial { event: "reading".to_owned(), keys: vec![key, large] }
    }

    #[test]
    fn figures_come_off_a_frame_as_they_were_put_on() {
        let with = partial().appended_to(&frame());
        assert_eq!(Partial::taken_from(with), Ok((frame(), Some(partial()))));
        assert_eq!(Partial::taken_from(frame()), Ok((frame(), None)));
    }

    #[test]
    fn a_node_that_does_not_know_figures_sees_an_event() {
        let with = partial().appended_to(&frame());
        let of = |frame: &Frame| serde_json::from_slice::<serde_json::Value>(frame.payload()).unwrap();
        let mut event = of(&with);
        assert!(event.as_object_mut().unwrap().remove("partial").is_some());
        assert_eq!(event, of(&frame()));
        assert_eq!(Frame::received(with.bytes()), Some(with));
    }

    #[test]
    fn figures_that_no_numbers_have_are_refused() {
        let figures = serde_json::to_string(&partial()).unwrap();
        let taken = |figures: &str| {
            Partial::taken_from(text(&format!(r#"{{"event":"e","data":"","channel":"c","partial":{figures}}}"#)))
        };
        assert!(taken(&figures).is_ok());
        // A field of a later gema is none of this one's business.
        assert!(taken(&figures.replace(r#""count":3"#, r#""count":3,"median":[1]"#)).is_ok());
        for (part, other) in [
            (r#""count":3"#, r#""count":0"#),
            (r#""count":3"#, r#""count":-1"#),
            (r#""count":3"#, r#""count":1.5"#),
            (r#""count":3"#, r#""count":9007199254740993"#),
            (r#""count":3"#, r#""count":3,"count":3"#),
            (r#""count":3,"#, ""),
            (r#""min":-0.0"#, r#""min":1e400"#),
            (r#""min":-0.0"#, r#""min":NaN"#),
            (r#""min":-0.0"#, r#""min":null"#),
            (r#""min":-0.0"#, r#""min":"0""#),
            (r#""min":-0.0"#, r#""min":1"#),
            (r#""max":1.7976931348623157e+308"#, r#""max":-1e400"#),
            (r#""max":1.7976931348623157e+308"#, r#""max":1"#),
            (r#""sum":0.30000000000000004"#, r#""sum":1e999"#),
            (r#""from":1"#, r#""from":10"#),
            (r#""from":1"#, r#""from":3"#),
            (r#""to":9"#, r#""to":1"#),
            (r#""to":9"#, r#""to":9007199254740993"#),
            (r#""skipped":4"#, r#""skipped":9007199254740993"#),
            (r#""values":[2.225073858507201e-308]"#, r#""values":[-1]"#),
            (r#""values":[2.225073858507201e-308]"#, r#""values":[1,1,1,1]"#),
            (r#""event":"reading""#, r#""event":7"#),
            (r#""keys":["#, r#""keys":[7,"#),
        ] {
            assert!(figures.contains(part), "{part}");
            assert_eq!(taken(&figures.replacen(part, other, 1)), Err(Implausible), "{other}");
        }
        for other in ["{}", r#"{"event":"e","keys":[]}"#, r#"{"a":{}}"#] {
            assert_eq!(taken(other), Err(Implausible), "{other}");
        }
    }
}
