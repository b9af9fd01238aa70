//! How fast something may happen, and how often at once.

pub mod addresses;
pub mod arrivals;

use std::time::Duration;
use std::time::Instant;

/// A token bucket: holds as many tokens as may be used in a second, and fills up within one.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    per_second: f32,
    tokens: f32,
    at: Instant,
}

/// A limit and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens per second.
    pub limit: u32,
    /// Tokens that are there now.
    pub remaining: u32,
}

/// There are not as many tokens as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// Tokens asked for.
    pub asked: u32,
    /// When it is worth trying again; never for more than fits into the bucket.
    pub retry_after: Option<Duration>,
    /// What is there.
    pub allowance: Allowance,
}

/// What has been done lately of something that may happen so often per second, and for some seconds' worth at once.
/// The same as a bucket, for things that most never do too often: it needs no memory of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When what has been done will have been the right amount.
    even_at: Option<Instant>,
}

impl Pace {
    /// Does it once more, or says that it would be too often: `per_second`, and that for `burst` at once.
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
    /// A full bucket; `None` where the limit is negative, which means that there is none.
    pub fn new(per_second: i64, now: Instant) -> Option<Self> {
        u32::try_from(per_second).ok().map(|per_second| Self::of(per_second, now))
    }

    /// A full bucket.
    pub fn of(per_second: u32, now: Instant) -> Self {
        let per_second = per_second as f32;
        Self { per_second, tokens: per_second, at: now }
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

    /// Puts back tokens that were taken for nothing.
    pub fn give(&mut self, tokens: u32, now: Instant) {
        self.set(self.tokens_at(now) + tokens as f32, self.at.max(now));
    }

    /// Whether there are so many tokens.
    pub fn check(&mut self, tokens: u32, now: Instant) -> Result<(), TooFast> {
        self.set(self.tokens_at(now), self.at.max(now));
        if tokens as f32 <= self.tokens { Ok(()) } else { Err(self.too_fast(tokens)) }
    }

    /// There were so many tokens at that time.
    pub fn set(&mut self, tokens: f32, at: Instant) {
        (self.tokens, self.at) = (tokens.clamp(0.0, self.per_second), at);
    }

    /// What is left, as of the last change.
    pub fn allowance(&self) -> Allowance {
        Allowance { limit: self.per_second as u32, remaining: self.tokens as u32 }
    }

    /// The refusal of somebody who wants so many tokens.
    pub fn too_fast(&self, tokens: u32) -> TooFast {
        let seconds = (tokens as f32 - self.tokens) / self.per_second;
        let wait = || Duration::try_from_secs_f32(seconds.clamp(0.001, 1.0)).unwrap_or(Duration::from_secs(1));
        let allowance = self.allowance();
        TooFast { asked: tokens, retry_after: (tokens <= allowance.limit).then(wait), allowance }
    }

    /// Whether it is as good as new.
    pub fn is_full(&self, now: Instant) -> bool {
        self.tokens_at(now) >= self.per_second
    }

    fn tokens_at(&self, now: Instant) -> f32 {
        let passed = now.saturating_duration_since(self.at).as_secs_f32();
        (self.tokens + passed * self.per_second).min(self.per_second)
    }
}
