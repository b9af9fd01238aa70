//! How much an app may do in a second: on this node, or on all nodes together.
//!
//! Of a limit that nodes share, each node takes a little more than it needs just now, and knows how many tokens can
//! be left at most. So Redis is asked neither for requests that the reserve covers nor for those that must be refused.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::cluster::rates::Demand;
use crate::cluster::rates::Rates;
use crate::cluster::rates::Taken;
use crate::limiter::Allowance;
use crate::limiter::Bucket;
use crate::limiter::TooFast;

/// A node has at most this part of a limit in reserve.
const RESERVE_PART: u32 = 50;

/// One limit of an app.
#[derive(Debug)]
pub(super) struct Rate {
    tokens: Mutex<Tokens>,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Tokens {
    /// What can be left at most, if nodes share the limit: others may have taken of it since Redis was asked.
    bucket: Bucket,
    /// Taken from what is shared, and not used yet.
    reserve: u32,
}

/// A bucket that nodes have in common.
#[derive(Debug)]
pub(super) struct Shared {
    rates: Arc<Rates>,
    app: String,
    /// Of what there is a limit.
    kind: &'static str,
    /// Held by whoever fills the reserve with what it asks for.
    filling: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn new(rates: Arc<Rates>, app: &str, kind: &'static str) -> Self {
        Self { rates, app: app.to_owned(), kind, filling: tokio::sync::Mutex::default() }
    }
}

impl Rate {
    /// `None` where the limit is negative, which means that there is none.
    pub(super) fn new(per_second: i64, shared: Option<Shared>) -> Option<Self> {
        let bucket = Bucket::new(per_second, Instant::now())?;
        Some(Self { tokens: Mutex::new(Tokens { bucket, reserve: 0 }), shared })
    }

    /// Uses so many tokens, or none. While Redis is away, the limit holds for each node.
    pub(super) async fn take(&self, count: usize) -> Result<Allowance, TooFast> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(shared) = &self.shared
            && let Some(outcome) = self.take_shared(shared, count).await
        {
            return outcome;
        }
        self.tokens.lock().bucket.take(count, Instant::now())
    }

    /// The same of a limit that nodes share. Nothing when Redis is away.
    async fn take_shared(&self, shared: &Shared, count: u32) -> Option<Result<Allowance, TooFast>> {
        let known = self.tokens.lock().take_known(count);
        if known.is_some() {
            return known;
        }
        let filling = shared.filling.try_lock();
        let demand = self.tokens.lock().demand(count, filling.is_ok());
        let asked = Instant::now();
        // Boxed, since most requests need no room for asking.
        let taken = Box::pin(shared.rates.take(&shared.app, shared.kind, demand)).await?;
        Some(self.tokens.lock().put(taken, count, asked))
    }
}

impl Tokens {
    /// Takes from the reserve, or refuses what cannot be there. Nothing when only Redis knows.
    fn take_known(&mut self, count: u32) -> Option<Result<Allowance, TooFast>> {
        if let Some(rest) = self.reserve.checked_sub(count) {
            self.reserve = rest;
            return Some(Ok(self.allowance()));
        }
        self.bucket.check(count, Instant::now()).err().map(Err)
    }

    /// What to ask for: as much as needed now, and perhaps what the reserve lacks.
    fn demand(&self, needed: u32, fills: bool) -> Demand {
        let per_second = self.bucket.allowance().limit;
        let lacking = (per_second / RESERVE_PART).saturating_sub(self.reserve);
        Demand { per_second, needed, wanted: needed.saturating_add(if fills { lacking } else { 0 }) }
    }

    /// Uses what was needed of an answer of Redis, and keeps the rest. An answer that comes late tells of more than is
    /// left, never of less.
    fn put(&mut self, taken: Taken, needed: u32, asked: Instant) -> Result<Allowance, TooFast> {
        self.bucket.set(taken.left, asked);
        let rest = taken.tokens.checked_sub(needed).ok_or_else(|| self.bucket.too_fast(needed))?;
        self.reserve += rest;
        Ok(self.allowance())
    }

    fn allowance(&self) -> Allowance {
        let Allowance { limit, remaining } = self.bucket.allowance();
        Allowance { limit, remaining: (remaining + self.reserve).min(limit) }
    }
}
