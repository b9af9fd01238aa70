//! What has been sorted and not been told: in order, and of each app so much at most.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::webhook::endpoint::Waits;
use crate::webhook::news::News;

/// What news cost besides their text.
const OVERHEAD: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Room {
    apps: HashMap<Arc<str>, Line>,
}

/// The news of one app. What is being told still counts.
#[derive(Debug, Default)]
struct Line {
    news: VecDeque<News>,
    events: usize,
    bytes: usize,
}

impl Room {
    /// Adds the newest.
    pub(super) fn push(&mut self, news: News) {
        let line = self.apps.entry(Arc::clone(&news.what.app)).or_default();
        line.events += news.endpoints.len();
        line.bytes += bytes(&news);
        line.news.push_back(news);
    }

    /// The oldest, which are to be told now: so many at most.
    pub(super) fn take(&mut self, max: usize) -> Vec<News> {
        let mut taken = Vec::new();
        for line in self.apps.values_mut() {
            let count = line.news.len().min(max - taken.len());
            taken.extend(line.news.drain(..count));
        }
        taken
    }

    /// These have been told.
    pub(super) fn told(&mut self, taken: &[News]) {
        for news in taken {
            self.forget(news);
        }
    }

    /// These have not been told. Returns the oldest of those apps that have more than so many bytes.
    pub(super) fn put_back(&mut self, taken: Vec<News>, bytes_max: usize) -> Vec<News> {
        for news in taken.into_iter().rev() {
            if let Some(line) = self.apps.get_mut(&news.what.app) {
                line.news.push_front(news);
            }
        }
        let mut dropped = Vec::new();
        for line in self.apps.values_mut() {
            let mut left = line.bytes;
            while left > bytes_max {
                let Some(oldest) = line.news.pop_front() else { break };
                left -= bytes(&oldest);
                dropped.push(oldest);
            }
        }
        self.told(&dropped);
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Whether something of this app is in it.
    pub(super) fn has(&self, app: &str) -> bool {
        self.apps.contains_key(app)
    }

    /// What of it is for an app's endpoints.
    pub(super) fn waits(&self, app: &str) -> Waits {
        let Some(line) = self.apps.get(app) else { return Waits::default() };
        let oldest = line.news.front().map(|oldest| oldest.since.elapsed()).unwrap_or_default();
        Waits { events: line.events, bytes: line.bytes, oldest }
    }

    /// Events for all endpoints together.
    pub(super) fn events(&self) -> usize {
        self.apps.values().map(|line| line.events).sum()
    }

    fn forget(&mut self, news: &News) {
        let Some(line) = self.apps.get_mut(&news.what.app) else { return };
        line.events -= news.endpoints.len();
        line.bytes -= bytes(news);
        if line.bytes == 0 {
            self.apps.remove(&news.what.app);
        }
    }
}

fn bytes(news: &News) -> usize {
    news.text.len() + OVERHEAD
}
