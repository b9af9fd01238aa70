//! Rate limits: token buckets and the like, and the limits per address and per process.
//! `node`, `session` and `server` use it; `shared` has the limits that nodes share over Redis.

pub mod addresses;
pub mod http_connections;
pub mod shared;

use std::time::Duration;
use std::time::Instant;

/// A token bucket that holds the tokens of one second.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    per_second: f32,
    tokens: f32,
    at: Instant,
}

/// A limit and the rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens per second.
    pub limit: u32,
    /// Tokens that are available now.
    pub remaining: u32,
}

/// Too few tokens are available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// Tokens asked for.
    pub asked: u32,
    /// When to try again; `None` if the bucket can never hold so many.
    pub retry_after: Option<Duration>,
    /// The limit and the rest of it.
    pub allowance: Allowance,
}

/// Like a bucket, for things that most clients never do too often: needs no memory of its own (the generic cell rate
/// algorithm).
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When the actions so far will have been within the rate.
    even_at: Option<Instant>,
}

impl Pace {
    /// Counts an action if it is within `per_second`, with `burst` seconds' worth at once. Returns whether it is.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use gema::limiter::Pace;
    /// let (mut pace, mut now, burst) = (Pace::default(), Instant::now(), Duration::from_secs(2));
    /// assert_eq!((0..100).filter(|_| pace.take(10, burst, now)).count(), 20);
    /// now += Duration::from_secs(1);
    /// assert_eq!((0..100).filter(|_| pace.take(10, burst, now)).count(), 10);
    /// ```
    pub fn take(&mut self, per_second: u32, burst: Duration, now: Instant) -> bool {
        let even_at = self.even_at.map_or(now, |at| at.max(now)) + Duration::from_secs(1) / per_second.max(1);
        let fits = even_at - now <= burst;
        if fits {
            self.even_at = Some(even_at);
        }
        fits
    }
}

impl Bucket {
    /// A full bucket; `None` if the limit is negative, which means no limit.
    pub fn new(per_second: i64, now: Instant) -> Option<Self> {
        u32::try_from(per_second).ok().map(|per_second| Self::of(per_second, now))
    }

    /// A full bucket.
    pub fn of(per_second: u32, now: Instant) -> Self {
        let per_second = per_second as f32;
        Self { per_second, tokens: per_second, at: now }
    }

    /// Replaces a bucket if its limit has changed.
    pub fn update_limit(bucket: &mut Option<Box<Self>>, per_second: i64, now: Instant) {
        let new = Self::new(per_second, now);
        let limit = |bucket: &Self| bucket.per_second;
        if bucket.as_deref().map(limit) != new.as_ref().map(limit) {
            *bucket = new.map(Box::new);
        }
    }

    /// Takes `tokens`, or none with the time to try again.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use gema::limiter::Bucket;
    /// let now = Instant::now();
    /// let mut bucket = Bucket::new(2, now).unwrap();
    /// assert_eq!(bucket.take(2, now).unwrap().remaining, 0);
    /// assert!(bucket.take(1, now).unwrap_err().retry_after.is_some());
    /// assert!(bucket.take(3, now).unwrap_err().retry_after.is_none());
    /// assert!(bucket.take(1, now + Duration::from_secs(1)).is_ok());
    /// ```
    pub fn take(&mut self, tokens: u32, now: Instant) -> Result<Allowance, TooFast> {
        self.check(tokens, now)?;
        self.tokens -= tokens as f32;
        Ok(self.allowance())
    }

    /// Puts tokens back.
    pub fn refund(&mut self, tokens: u32, now: Instant) {
        self.set(self.tokens_at(now) + tokens as f32, self.at.max(now));
    }

    /// Whether so many tokens are available.
    pub fn check(&mut self, tokens: u32, now: Instant) -> Result<(), TooFast> {
        self.set(self.tokens_at(now), self.at.max(now));
        if tokens as f32 <= self.tokens { Ok(()) } else { Err(self.too_fast(tokens)) }
    }

    /// Sets the tokens as of a time.
    pub fn set(&mut self, tokens: f32, at: Instant) {
        (self.tokens, self.at) = (tokens.clamp(0.0, self.per_second), at);
    }

    /// The limit and the rest, as of the last change.
    pub fn allowance(&self) -> Allowance {
        Allowance { limit: self.per_second as u32, remaining: self.tokens as u32 }
    }

    /// The error for a request of so many tokens.
    pub fn too_fast(&self, tokens: u32) -> TooFast {
        let seconds = (tokens as f32 - self.tokens) / self.per_second;
        let wait = || Duration::try_from_secs_f32(seconds.clamp(0.001, 1.0)).unwrap_or(Duration::from_secs(1));
        let allowance = self.allowance();
        TooFast { asked: tokens, retry_after: (tokens <= allowance.limit).then(wait), allowance }
    }

    /// Whether it is full again.
    pub fn is_full(&self, now: Instant) -> bool {
        self.tokens_at(now) >= self.per_second
    }

    fn tokens_at(&self, now: Instant) -> f32 {
        let passed = now.saturating_duration_since(self.at).as_secs_f32();
        (self.tokens + passed * self.per_second).min(self.per_second)
    }
}
