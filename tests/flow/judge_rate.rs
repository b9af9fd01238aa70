//! The judge of `rate`: a bucket in whole numbers. A token is 2,000,000,000 drops; with two times `per_second` as a
//! whole number, so many drops come each nanosecond.

use crate::judge::Delivery;
use crate::judge::Id;
use crate::judge::Seen;
use crate::judge::Turn;
use crate::judge::ensure;

const TOKEN: i128 = 2_000_000_000;

pub struct RateJudge {
    drops: i128,
    full: i128,
    drop: bool,
    keys_max: usize,
    /// The least and the most that can be in the bucket.
    least: i128,
    most: i128,
    last: u64,
    /// Tokens so far.
    tokens: i128,
    /// Keys that wait, in the order in which they began to, each with its newest event.
    waiting: Vec<(Id, usize)>,
}

impl RateJudge {
    pub fn new(halves_per_second: u64, burst: u64, drop: bool, keys_max: usize) -> Self {
        let full = i128::from(burst) * TOKEN;
        let (least, most) = (full, full);
        Self {
            drops: halves_per_second.into(),
            full,
            drop,
            keys_max,
            least,
            most,
            last: 0,
            tokens: 0,
            waiting: Vec::new(),
        }
    }

    /// The time of each token may be rounded to a nanosecond.
    fn tolerance(&self) -> i128 {
        (3 + self.tokens) * self.drops
    }

    pub fn due(&self) -> Option<u64> {
        let lacking = (TOKEN - self.least + self.tolerance()).max(0);
        let nanos = (lacking + self.drops - 1) / self.drops;
        (!self.waiting.is_empty()).then_some(self.last + nanos as u64)
    }

    pub fn judge(
        &mut self,
        turn: &Turn<'_>,
        id: Option<Id>,
        deliveries: Vec<Delivery>,
        seen: &mut Seen,
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let dropped = i128::from(turn.at - self.last) * self.drops;
        self.last = turn.at;
        self.least = (self.least + dropped).min(self.full);
        // As long as somebody waits, a token that comes is used, even if the call comes late.
        self.most = if self.waiting.is_empty() { (self.most + dropped).min(self.full) } else { self.most + dropped };
        let input = turn.input.map(|(input, _)| input);
        let mut done = Vec::new();
        let (mut delivered_now, mut served) = (false, Vec::new());
        for delivery in deliveries {
            seen.delivered += 1;
            self.tokens += 1;
            let Some(sequence) = delivery.published else { return Err("a changed event".to_owned()) };
            if Some(sequence) == input {
                delivered_now = true;
            } else {
                let place = self.waiting.iter().position(|(_, waiting)| *waiting == sequence);
                let Some(place) = place else { return Err(format!("event {sequence} is not the newest of its key")) };
                served.push(place);
            }
            done.push((sequence, delivery));
        }
        served.sort_unstable();
        ensure!(served.iter().copied().eq(0..served.len()), "keys overtake others that have waited longer");
        let is_new = id.as_ref().is_some_and(|id| self.waiting.iter().all(|(waiting, _)| waiting != id));
        let may_be_early = is_new && !delivered_now && !self.drop;
        self.serve(turn, served.len() as i128, may_be_early, seen)?;
        self.waiting.drain(..served.len());
        ensure!(self.waiting.is_empty() || !turn.flushes, "{:?} is not flushed", self.waiting);
        if let (Some(input), Some(id)) = (input, id) {
            self.input((input, id), delivered_now)?;
        }
        ensure!(self.waiting.len() <= self.keys_max, "{} keys are waiting", self.waiting.len());
        Ok(done)
    }

    /// Takes the tokens of keys that were served; a flush needs none.
    fn serve(&mut self, turn: &Turn<'_>, served: i128, may_be_early: bool, seen: &mut Seen) -> Result<(), String> {
        let waited = self.waiting.len() as i128;
        let sure = ((self.least - self.tolerance()) / TOKEN).clamp(0, waited);
        let possible = ((self.most + self.tolerance()) / TOKEN).clamp(0, waited);
        ensure!(served >= sure, "{waited} keys wait, {sure} tokens are there, and {served} are served");
        let mut with_token = (served.min(sure), served.min(possible));
        if served > possible && !turn.flushes {
            let one_early = may_be_early && served == possible + 1 && self.keys_max as i128 <= waited;
            ensure!(one_early, "{served} keys are served with {possible} tokens");
            seen.early += 1;
        } else if may_be_early && served == with_token.1 && waited >= self.keys_max as i128 && !turn.flushes {
            // The last one may have come early, or with a token.
            let is_early = served > with_token.0;
            seen.maybe_early += u64::from(is_early);
        }
        if turn.flushes {
            with_token.0 = 0;
        } else if !may_be_early {
            with_token.0 = served;
        }
        self.least = (self.least - with_token.1 * TOKEN).clamp(0, self.full);
        self.most = (self.most - with_token.0 * TOKEN).clamp(0, self.full);
        Ok(())
    }

    fn input(&mut self, (input, id): (usize, Id), delivered: bool) -> Result<(), String> {
        if let Some(waiting) = self.waiting.iter_mut().find(|(waiting, _)| *waiting == id) {
            ensure!(!delivered, "{id:?} overtakes itself");
            waiting.1 = input;
            return Ok(());
        }
        let is_there = self.least - self.tolerance() >= TOKEN && self.waiting.is_empty();
        let may_be_there = self.most + self.tolerance() >= TOKEN && self.waiting.is_empty();
        ensure!(delivered || !is_there, "a token is there and event {input} does not come");
        ensure!(!delivered || may_be_there, "event {input} comes without a token");
        if delivered {
            self.least = (self.least - TOKEN).max(0);
            self.most = (self.most - TOKEN).max(0);
        } else if !self.drop {
            self.waiting.push((id, input));
        }
        Ok(())
    }
}
