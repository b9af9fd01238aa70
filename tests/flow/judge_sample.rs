//! The judge of `sample`, which says exactly what comes.

use crate::history::MS;
use crate::judge::Delivery;
use crate::judge::Id;
use crate::judge::Seen;
use crate::judge::Turn;
use crate::judge::ensure;

pub struct SampleJudge {
    every: u64,
    trailing: bool,
    keys_max: usize,
    /// The key that has been silent longest is the first.
    keys: Vec<Key>,
}

struct Key {
    id: Id,
    events: u64,
    pending: Option<usize>,
    last: u64,
}

impl SampleJudge {
    pub fn new(every: u64, trailing: bool, keys_max: usize) -> Self {
        Self { every, trailing, keys_max, keys: Vec::new() }
    }

    pub fn due(&self) -> Option<u64> {
        self.keys.iter().filter(|key| key.pending.is_some()).map(|key| key.last + 1000 * MS).min()
    }

    pub fn judge(
        &mut self,
        turn: &Turn<'_>,
        id: Option<Id>,
        deliveries: Vec<Delivery>,
        seen: &mut Seen,
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let mut expected = Vec::new();
        for key in &mut self.keys {
            if turn.flushes || key.last + 1000 * MS <= turn.at {
                expected.extend(key.pending.take());
            }
        }
        if let (Some((input, _)), Some(id)) = (turn.input, id) {
            let known = self.keys.iter().position(|key| key.id == id).map(|place| self.keys.remove(place));
            if known.is_none() && self.keys.len() == self.keys_max {
                let silent = self.keys.remove(0);
                seen.early += u64::from(silent.pending.is_some());
                seen.maybe_early += u64::from(silent.pending.is_none());
                expected.extend(silent.pending);
            }
            let mut key = known.unwrap_or(Key { id, events: 0, pending: None, last: 0 });
            let is_sample = key.events.is_multiple_of(self.every);
            key.events += 1;
            key.last = turn.at;
            key.pending = (!is_sample && self.trailing).then_some(input);
            expected.extend(is_sample.then_some(input));
            self.keys.push(key);
        }
        expected.sort_unstable();
        let got: Vec<usize> = deliveries.iter().filter_map(|delivery| delivery.published).collect();
        ensure!(got == expected && got.len() == deliveries.len(), "events {got:?} come instead of {expected:?}");
        seen.delivered += got.len() as u64;
        Ok(got.into_iter().zip(deliveries).collect())
    }
}
