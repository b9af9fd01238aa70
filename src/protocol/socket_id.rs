//! The public id of a connection (Pusher protocol, "pusher:connection_established").
//! `session` creates it; publishers name it to exclude a connection.

use std::fmt;

/// Two integers of 1 to 10 digits, joined by a dot on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(u64, u64);

const MAX: u64 = 9_999_999_999;

impl SocketId {
    /// A new id that cannot be guessed: two independent integers of 1…10^10−1.
    pub fn random() -> Self {
        Self(rand::random_range(1..=MAX), rand::random_range(1..=MAX))
    }

    /// Parses the id by which a publisher excludes a connection: `^\d+\.\d+$`. An id that no connection of this server
    /// can have is valid, and excludes nobody.
    ///
    /// ```
    /// use gema::protocol::socket_id::SocketId;
    /// assert_eq!(SocketId::parse("12.10").unwrap().to_string(), "12.10");
    /// assert!(SocketId::parse("12").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let (left, right) = text.split_once('.')?;
        Some(Self(half(left)?, half(right)?))
    }
}

/// Zero, which no id contains, replaces a number that no connection can have.
fn half(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let canonical = !digits.starts_with('0');
    Some(digits.parse().ok().filter(|&number| canonical && number <= MAX).unwrap_or(0))
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_and_huge_numbers_stand_for_nobody() {
        assert_ne!(SocketId::parse("012.10"), SocketId::parse("12.10"));
        assert!(SocketId::parse("99999999999999999999999.1").is_some());
        for text in ["", ".", "1.", ".1", "1.2.3", "-1.2", "a.b", "1. 2"] {
            assert!(SocketId::parse(text).is_none(), "{text}");
        }
    }
}
