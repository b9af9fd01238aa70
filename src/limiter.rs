//! How fast something may happen.

use std::time::Duration;
use std::time::Instant;

/// A token bucket: holds as many tokens as may be used in a second, and fills up within one.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    per_second: f32,
    tokens: f32,
    at: Instant,
}

impl Bucket {
    /// A full bucket; `None` where the limit is negative, which means that there is none.
    pub fn new(per_second: i64, now: Instant) -> Option<Self> {
        let per_second = u32::try_from(per_second).ok()? as f32;
        Some(Self { per_second, tokens: per_second, at: now })
    }

    /// Puts a new bucket in the place of one whose limit has changed.
    pub fn follow(bucket: &mut Option<Box<Self>>, per_second: i64, now: Instant) {
        let new = Self::new(per_second, now);
        let limit = |bucket: &Self| bucket.per_second;
        if bucket.as_deref().map(limit) != new.as_ref().map(limit) {
            *bucket = new.map(Box::new);
        }
    }

    /// Takes so many tokens, or none and says when it is worth trying again.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use gema::limiter::Bucket;
    /// let now = Instant::now();
    /// let mut bucket = Bucket::new(2, now).unwrap();
    /// assert!(bucket.take(2, now).is_ok());
    /// assert!(bucket.take(1, now).is_err());
    /// assert!(bucket.take(1, now + Duration::from_secs(1)).is_ok());
    /// ```
    pub fn take(&mut self, tokens: usize, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f32();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        self.at = self.at.max(now);
        let tokens = tokens as f32;
        if tokens <= self.tokens {
            self.tokens -= tokens;
            return Ok(());
        }
        let wait = (tokens - self.tokens) / self.per_second;
        Err(Duration::try_from_secs_f32(wait.clamp(0.001, 3600.0)).unwrap_or(Duration::from_secs(3600)))
    }
}
