//! The judge of `conflate`. A window is known by the earliest and the latest moment at which it can have opened, since
//! a call that comes late does not say when its window was due.

use serde_json::Map;
use serde_json::Value;

use crate::judge::Delivery;
use crate::judge::Id;
use crate::judge::Published;
use crate::judge::Seen;
use crate::judge::Turn;
use crate::judge::ensure;
use crate::numbers::parse;

pub struct ConflateJudge {
    window: u64,
    /// Moments of the beat. It begins anew when no window is open; there are several if that is not known.
    beats: Vec<u64>,
    merge: bool,
    keys_max: usize,
    keys: Vec<Key>,
}

struct Key {
    id: Id,
    opened: (u64, u64),
    pending: Option<Pending>,
    /// The window may last until then, since a flush does not change it.
    lasts: u64,
    /// It may have been flushed early, when nothing was pending.
    maybe_forgotten: bool,
}

struct Pending {
    inputs: Vec<usize>,
    newest: u64,
}

impl ConflateJudge {
    pub fn new(window: u64, merge: bool, keys_max: usize) -> Self {
        Self { window, beats: vec![0], merge, keys_max, keys: Vec::new() }
    }

    /// The earliest and the latest moment at which what is pending is delivered, or at which the window ends.
    fn ends(&self, key: &Key) -> (u64, u64) {
        let (earliest, latest) = (key.opened.0 + self.window, key.opened.1 + self.window);
        let Some(Pending { newest, .. }) = &key.pending else {
            return (earliest, latest.max(key.lasts));
        };
        let next_beat = |beat: u64, time: u64| beat + (time.max(beat) - beat).next_multiple_of(self.window);
        // It waits for the beat if it is not older than a window then.
        let due =
            |time: u64| self.beats.iter().map(move |&beat| next_beat(beat, time).min(newest + self.window).max(time));
        (due(earliest).min().unwrap(), due(latest).max().unwrap())
    }

    /// When something must come at the latest.
    pub fn due(&self) -> Option<u64> {
        self.keys.iter().filter(|key| key.pending.is_some()).map(|key| self.ends(key).1).min()
    }

    pub fn judge(
        &mut self,
        turn: &Turn<'_>,
        id: Option<Id>,
        deliveries: Vec<Delivery>,
        published: &[Published],
        seen: &mut Seen,
    ) -> Result<Vec<(usize, Delivery)>, String> {
        let at = turn.at;
        let mut done = Vec::new();
        let mut delivered_now = false;
        // A key without a window has a right to a place.
        let is_new = id.as_ref().is_some_and(|id| {
            self.keys.iter().all(|key| key.id != *id || key.maybe_forgotten || self.ends(key).0 <= at)
        });
        let open = self
            .keys
            .iter()
            .filter(|key| (key.pending.is_some() || at < self.ends(key).1) && Some(&key.id) != id.as_ref())
            .count();
        let mut may_forget = u64::from(is_new && open + 1 > self.keys_max);
        let maybe_forgotten = may_forget;
        for mut delivery in deliveries {
            seen.delivered += 1;
            if let (Some((input, _)), true) = (turn.input, delivery.published == turn.input.map(|(input, _)| input)) {
                ensure!(!delivered_now, "event {input} comes twice");
                delivered_now = true;
                done.push((input, delivery));
                continue;
            }
            let Some(place) = self.keys.iter().position(|key| self.is_of(key, &delivery, published)) else {
                return Err(format!("not the newest of its key: {}", delivery.data));
            };
            let (earliest, latest) = self.ends(&self.keys[place]);
            let known = self.keys.iter().filter(|key| !key.maybe_forgotten);
            let ends: Vec<u64> = known.map(|key| self.ends(key).1).filter(|&end| end > at).collect();
            let window_ends = self.keys[place].opened.0 + self.window;
            let key = &mut self.keys[place];
            let pending = key.pending.take().unwrap();
            delivery.id = key.id.clone();
            key.lasts = if turn.flushes && at < latest { latest } else { 0 };
            if earliest <= at {
                // The next window begins when it should, not when the call came, unless that was long ago.
                let is_late = |end: u64| at >= end + self.window;
                // The end is somewhere between the two, so it may be the earliest one that is not long ago.
                let not_late = earliest.max((at + 1).saturating_sub(self.window)).min(at);
                let opened =
                    (if is_late(latest) { at } else { not_late }, if is_late(earliest) { at } else { latest.min(at) });
                key.opened = if turn.flushes && at < latest { (key.opened.0, opened.1) } else { opened };
                // It may have been given up for another key while it waited for its beat.
                key.maybe_forgotten |= !turn.flushes && may_forget > 0 && at < latest;
            } else if !turn.flushes {
                ensure!(may_forget > 0, "{:?} comes {} ns before its window ends", key.id, earliest - at);
                ensure!(
                    ends.iter().all(|&end| window_ends <= end),
                    "{:?} is not the key with the earliest end",
                    key.id
                );
                may_forget -= 1;
                seen.early += 1;
                self.keys.remove(place);
            }
            done.push((*pending.inputs.last().unwrap(), delivery));
        }
        for key in &self.keys {
            let is_pending = key.pending.is_some();
            ensure!(!is_pending || !turn.flushes, "{:?} is not flushed", key.id);
            ensure!(!is_pending || self.ends(key).1 > at, "{:?} is due and does not come", key.id);
        }
        self.forget(at, may_forget, maybe_forgotten, seen);
        if let (Some((input, _)), Some(id)) = (turn.input, id) {
            self.input(at, (input, id), (delivered_now, maybe_forgotten > 0))?;
        }
        let pending = self.keys.iter().filter(|key| key.pending.is_some()).count();
        ensure!(pending <= self.keys_max, "{pending} keys are pending");
        Ok(done)
    }

    /// Forgets windows that have ended, and marks those that may have been given up for another key.
    fn forget(&mut self, at: u64, may_forget: u64, maybe: u64, seen: &mut Seen) {
        let kept: Vec<bool> = self.keys.iter().map(|key| key.pending.is_some() || self.ends(key).1 > at).collect();
        let mut kept = kept.into_iter();
        self.keys.retain(|_| kept.next().unwrap());
        if may_forget > 0 && maybe > 0 {
            seen.maybe_early += 1;
            let known = self.keys.iter().filter(|key| !key.maybe_forgotten);
            let first = known.map(|key| self.ends(key).1).min();
            for key in &mut self.keys {
                let window_ends = key.opened.0 + self.window;
                key.maybe_forgotten |= key.pending.is_none() && first.is_none_or(|first| window_ends <= first);
            }
        }
    }

    fn input(
        &mut self,
        at: u64,
        (input, id): (usize, Id),
        (delivered, was_flushed_early): (bool, bool),
    ) -> Result<(), String> {
        let Some(place) = self.keys.iter().position(|key| key.id == id) else {
            ensure!(delivered, "the first event of {id:?} is held back");
            self.begin_beat(at, was_flushed_early);
            self.keys.push(Key { id, opened: (at, at), pending: None, lasts: 0, maybe_forgotten: false });
            return Ok(());
        };
        let is_open = at < self.ends(&self.keys[place]).0;
        let key = &mut self.keys[place];
        if delivered {
            ensure!(!is_open || key.maybe_forgotten, "{id:?} comes twice in a window");
            // An older one of the key would come after it.
            ensure!(key.pending.is_none(), "{id:?} overtakes what is pending");
            self.keys.remove(place);
            self.begin_beat(at, true);
            self.keys.push(Key { id, opened: (at, at), pending: None, lasts: 0, maybe_forgotten: false });
        } else {
            // It waits, so the window is still there.
            key.maybe_forgotten = false;
            let pending = key.pending.get_or_insert(Pending { inputs: Vec::new(), newest: at });
            pending.inputs.push(input);
            pending.newest = at;
        }
        Ok(())
    }

    /// A window opens. If it is the only one, the beat begins with it.
    fn begin_beat(&mut self, at: u64, others_are_unsure: bool) {
        if self.keys.is_empty() && !others_are_unsure {
            self.beats.clear();
        }
        let is_sure = |key: &Key| !key.maybe_forgotten && (key.pending.is_some() || at < self.ends(key).0);
        if !self.keys.iter().any(is_sure) && !self.beats.contains(&at) {
            self.beats.push(at);
        }
    }

    /// Whether it is what is pending of a key: the newest event, or all of them merged.
    fn is_of(&self, key: &Key, delivery: &Delivery, published: &[Published]) -> bool {
        let Some(Pending { inputs, .. }) = &key.pending else { return false };
        if !self.merge || inputs.len() == 1 {
            return delivery.published == inputs.last().copied();
        }
        let inputs = inputs.iter().map(|&input| &published[input].input);
        let mut merged: Option<Map<String, Value>> = None;
        let mut text = "";
        for input in inputs {
            text = &input.data;
            let Ok(Value::Object(fields)) = parse(text) else {
                merged = None;
                continue;
            };
            match &mut merged {
                Some(merged) => merged.extend(fields),
                None => merged = Some(fields),
            }
        }
        if delivery.name != key.id.0 {
            return false;
        }
        match merged {
            Some(merged) => parse(&delivery.data).is_ok_and(|data| data == Value::Object(merged)),
            None => delivery.data == text,
        }
    }
}
