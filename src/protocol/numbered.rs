//! The numbers that Redis gives to the events of a channel with a history, for all nodes. A message with such a number
//! has a line before that of [`envelope`](crate::protocol::envelope):
//!
//! ```text
//! gema/1 numbered <epoch> <number>\n
//! ```
//!
//! Redis itself writes the line. `cluster` reads it.

use std::fmt;

use bytes::Bytes;

use crate::protocol::envelope::MAGIC;
use crate::protocol::envelope::NUMBER_MAX;
use crate::protocol::envelope::NodeId;

/// The longest line.
const LINE_MAX: usize = 64;

/// The id of the time in which Redis counts the events of a channel without losing any. After a loss another one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(NodeId);

/// The number of an event on its channel, or the place behind it. Numbers grow by one from event to event, also into a
/// new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventNumber {
    /// The epoch.
    pub epoch: Epoch,
    /// The number; 0 is the place before all events.
    pub number: u64,
}

impl Epoch {
    /// A new one.
    pub fn random() -> Self {
        Self(NodeId::random())
    }

    /// 16 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        NodeId::parse(text).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl EventNumber {
    /// Reads an epoch and a number that Redis has written.
    pub fn parse(epoch: &str, number: &str) -> Option<Self> {
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|&number| is_number && number <= NUMBER_MAX)?;
        Some(Self { epoch: Epoch::parse(epoch)?, number })
    }

    /// Takes the number off a message; `None` if it has none. The rest is read as any other message.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use gema::protocol::numbered::EventNumber;
    ///
    /// let message = Bytes::from_static(b"gema/1 numbered 0123456789abcdef 7\ngema/1 count \xe2\x80\xa6");
    /// let (number, rest) = EventNumber::taken_from(&message).unwrap();
    /// assert_eq!((number.number, &rest[..13]), (7, &b"gema/1 count "[..]));
    /// ```
    pub fn taken_from(message: &Bytes) -> Option<(Self, Bytes)> {
        let line = &message[..message.len().min(LINE_MAX)];
        let end = line.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(&line[..end]).ok()?;
        let (epoch, number) = line.strip_prefix(MAGIC)?.strip_prefix("numbered ")?.split_once(' ')?;
        Some((Self::parse(epoch, number)?, message.slice(end + 1..)))
    }
}

/// The beginning of the line that Redis writes before a message.
pub fn head() -> String {
    format!("{MAGIC}numbered ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_fit_is_none() {
        for message in [
            "gema/1 numbered 0123456789abcdef 7",
            "gema/1 numbered 0123456789abcdef -7\n",
            "gema/1 numbered 0123456789abcdef \n",
            "gema/1 numbered 0123456789ABCDEF 7\n",
            "gema/1 numbered 0123456789abcdef 9007199254740993\n",
            "gema/2 kept 0123456789abcdef 7\n",
            "gema/1 event 0123456789abcdef 7\n",
        ] {
            assert_eq!(EventNumber::taken_from(&Bytes::from(message)), None, "{message}");
        }
    }
}
