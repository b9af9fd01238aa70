//! Idempotency keys: by the same key the server knows that a request to publish is repeated.
//! `http::idempotency` parses them; `idempotency` and `cluster` compare them.

use sha2::Digest;
use sha2::Sha256;

/// The longest key.
const LENGTH_MAX: usize = 255;

/// 1 to 255 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The key has another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The idempotency key must have 1 to {LENGTH_MAX} printable ASCII characters")]
pub struct KeyError;

impl IdempotencyKey {
    /// Reads a key.
    ///
    /// ```
    /// use gema::protocol::idempotency::IdempotencyKey;
    /// assert_eq!(IdempotencyKey::parse("order-7 paid").unwrap().as_str(), "order-7 paid");
    /// assert!(IdempotencyKey::parse("").is_err() && IdempotencyKey::parse("é").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if (1..=LENGTH_MAX).contains(&text.len()) && is_printable { Ok(Self(text.into())) } else { Err(KeyError) }
    }

    /// The key as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The API's paths that take idempotency keys. One key may be used once on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishPath {
    /// `POST /apps/{app_id}/events`.
    Events,
    /// `POST /apps/{app_id}/batch_events`.
    BatchEvents,
}

impl PublishPath {
    /// The last part of the path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::BatchEvents => "batch_events",
        }
    }
}

/// A request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The app's id.
    pub app: String,
    /// The path below the app.
    pub path: PublishPath,
    /// The key that the publisher chose.
    pub key: IdempotencyKey,
}

impl RequestId {
    /// The bytes of its texts.
    pub fn bytes(&self) -> usize {
        self.app.len() + self.key.0.len()
    }
}

/// The SHA-256 of a request's body: a repeated request has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash([u8; BodyHash::LENGTH]);

impl BodyHash {
    /// Bytes of a hash.
    pub const LENGTH: usize = 32;

    /// The hash of a body.
    ///
    /// ```
    /// use gema::protocol::idempotency::BodyHash;
    /// assert_eq!(BodyHash::of(b"{}"), BodyHash::of(b"{}"));
    /// assert_ne!(BodyHash::of(b"{}"), BodyHash::of(b"{ }"));
    /// ```
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The hash as bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_255_printable_ascii_characters() {
        for good in ["a", " ", "~", &"k".repeat(255)] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", &"k".repeat(256), "a\tb", "a\n", "\u{7f}", "ü"] {
            assert_eq!(IdempotencyKey::parse(bad), Err(KeyError), "{bad:?}");
        }
    }
}
