//! Rate limits of an app, on this node or shared by all nodes.
//! `App` takes tokens from it for events and read requests.
//!
//! For a shared limit, each node takes a little more from Redis than it needs, and knows an upper bound of what is
//! left. So Redis is asked neither when the reserve suffices nor when a request must be refused anyway.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::limiter::Allowance;
use crate::limiter::Bucket;
use crate::limiter::TooFast;
use crate::limiter::shared::Demand;
use crate::limiter::shared::Rates;
use crate::limiter::shared::Taken;

/// A node's reserve is at most this part of the limit.
const RESERVE_PART: u32 = 50;

/// One limit of an app.
#[derive(Debug)]
pub(super) struct Rate {
    tokens: Mutex<Tokens>,
    shared: Option<SharedRate>,
}

#[derive(Debug)]
struct Tokens {
    /// An upper bound of what is left, if nodes share the limit: others may have taken some since the last answer of
    /// Redis.
    bucket: Bucket,
    /// Tokens taken from Redis and not used yet.
    reserve: u32,
}

/// A bucket in Redis that nodes share.
#[derive(Debug)]
pub(super) struct SharedRate {
    rates: Arc<Rates>,
    app: String,
    /// The kind of requests.
    kind: &'static str,
    /// Locked while one request also fills the reserve.
    filling: tokio::sync::Mutex<()>,
}

impl SharedRate {
    pub(super) fn new(rates: Arc<Rates>, app: &str, kind: &'static str) -> Self {
        Self { rates, app: app.to_owned(), kind, filling: tokio::sync::Mutex::default() }
    }
}

impl Rate {
    /// `None` if the limit is negative, which means no limit.
    pub(super) fn new(per_second: i64, shared: Option<SharedRate>) -> Option<Self> {
        let bucket = Bucket::new(per_second, Instant::now())?;
        Some(Self { tokens: Mutex::new(Tokens { bucket, reserve: 0 }), shared })
    }

    /// Takes `count` tokens or none. While Redis is away, each node applies the limit itself.
    pub(super) async fn take(&self, count: usize) -> Result<Allowance, TooFast> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(shared) = &self.shared
            && let Some(outcome) = self.take_shared(shared, count).await
        {
            return outcome;
        }
        self.tokens.lock().bucket.take(count, Instant::now())
    }

    /// Like `take`, but from the shared bucket. `None` when Redis is away.
    async fn take_shared(&self, shared: &SharedRate, count: u32) -> Option<Result<Allowance, TooFast>> {
        let local = self.tokens.lock().take_local(count);
        if local.is_some() {
            return local;
        }
        let filling = shared.filling.try_lock();
        let demand = self.tokens.lock().demand(count, filling.is_ok());
        let asked = Instant::now();
        // Boxed: most requests need no space for asking.
        let taken = Box::pin(shared.rates.take(&shared.app, shared.kind, demand)).await?;
        Some(self.tokens.lock().use_answer(taken, count, asked))
    }
}

impl Tokens {
    /// Takes from the reserve, or refuses if too little can be left. `None` when only Redis knows.
    fn take_local(&mut self, count: u32) -> Option<Result<Allowance, TooFast>> {
        if let Some(rest) = self.reserve.checked_sub(count) {
            self.reserve = rest;
            return Some(Ok(self.allowance()));
        }
        self.bucket.check(count, Instant::now()).err().map(Err)
    }

    /// The tokens to ask Redis for: those needed now, and if `fills` also those that the reserve lacks.
    fn demand(&self, needed: u32, fills: bool) -> Demand {
        let per_second = self.bucket.allowance().limit;
        let lacking = (per_second / RESERVE_PART).saturating_sub(self.reserve);
        Demand { per_second, needed, wanted: needed.saturating_add(if fills { lacking } else { 0 }) }
    }

    /// Uses an answer of Redis: takes what is needed and keeps the rest. A late answer may say too much is left, never
    /// too little.
    fn use_answer(&mut self, taken: Taken, needed: u32, asked: Instant) -> Result<Allowance, TooFast> {
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
