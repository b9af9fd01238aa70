//! TCP connections that are no WebSockets, or not yet: how many there may be, and who goes when there are too many.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limiter::addresses::Network;

/// More are never open at once: each needs some 10 KB, whatever the limit of open files is.
const OPEN_MAX: usize = 16 * 1024;
/// As many may always be open, however many WebSockets there are.
const OPEN_MIN: usize = 16;

/// Nobody knows what it wants: it has not sent a request, or has been refused and still sends.
const SILENT: u8 = 0;
/// It waits between two requests.
const IDLE: u8 = 1;
/// A request is under way.
const BUSY: u8 = 2;
/// It has been closed, or is a WebSocket.
const GONE: u8 = 3;

/// The open ones of the process.
#[derive(Debug)]
pub struct Arrivals {
    /// Files that they and the WebSockets may have open.
    files: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    /// In the order in which they fell silent. An entry that is not silent any more is dropped when it is met.
    silent: VecDeque<Arc<Entry>>,
    /// In the order of their first requests.
    asked: VecDeque<Arc<Entry>>,
    networks: HashMap<Network, Peer>,
    /// The address that had more connections than any other when its last one came.
    greediest: Option<Network>,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct Peer {
    /// The open ones.
    count: usize,
    silent: usize,
    /// In the order in which they fell silent. An entry that is not silent any more is dropped when it is met.
    order: VecDeque<Arc<Entry>>,
}

#[derive(Debug)]
struct Entry {
    state: AtomicU8,
    /// `None` where an address stands for many clients.
    network: Option<Network>,
    close: Notify,
}

/// An open connection; forgotten when it is dropped.
#[derive(Debug)]
pub struct Arrival {
    arrivals: Arc<Arrivals>,
    entry: Arc<Entry>,
}

impl Arrivals {
    /// Connections that, with the WebSockets, have so many files open at most.
    pub fn new(files: usize) -> Self {
        Self { files, table: Mutex::default() }
    }

    /// Makes room for one more beside so many WebSockets: closes the one that has been silent for longest, or else one
    /// that waits between requests, of the address that has the most. Returns whether there is room, and how many were
    /// closed.
    pub fn make_room(&self, sockets: usize) -> (bool, usize) {
        let mut table = self.table.lock();
        let has_room = table.open < self.open_max(sockets);
        let closed = if has_room { 0 } else { usize::from(table.close_oldest()) };
        (has_room || closed > 0, closed)
    }

    /// A connection from this address, which is `None` for trusted proxies: they are many clients. Returns also how many
    /// were closed for it, because the address has half of all that may be open already.
    pub fn arrive(self: &Arc<Self>, address: Option<IpAddr>, sockets: usize) -> (Arrival, usize) {
        let network = address.map(Network::of);
        let entry = Arc::new(Entry { state: AtomicU8::new(SILENT), network, close: Notify::new() });
        let share = self.open_max(sockets) / 2;
        let mut table = self.table.lock();
        table.open(&entry);
        let closed = network.is_some_and(|network| table.close_beyond(network, share));
        drop(table);
        (Arrival { arrivals: Arc::clone(self), entry }, usize::from(closed))
    }

    /// How many may be open beside so many WebSockets.
    fn open_max(&self, sockets: usize) -> usize {
        self.files.saturating_sub(sockets).clamp(OPEN_MIN, OPEN_MAX)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.table.lock().open
    }
}

impl Table {
    fn open(&mut self, entry: &Arc<Entry>) {
        self.open += 1;
        if let Some(network) = entry.network {
            let peer = self.networks.entry(network).or_default();
            peer.count += 1;
            let count = peer.count;
            let most = self.greediest.and_then(|network| self.networks.get(&network)).map_or(0, |peer| peer.count);
            if count > most {
                self.greediest = Some(network);
            }
        }
        self.fall_silent(entry);
    }

    fn forget(&mut self, entry: &Entry, was_silent: bool) {
        self.open -= 1;
        if was_silent {
            self.end_silence(entry);
        }
        let Some(network) = entry.network else { return };
        let Some(peer) = self.networks.get_mut(&network) else { return };
        peer.count -= 1;
        if peer.count == 0 {
            self.networks.remove(&network);
        }
    }

    fn fall_silent(&mut self, entry: &Arc<Entry>) {
        if self.silent.len() > 2 * self.open + 64 {
            self.silent.retain(|entry| entry.is(SILENT));
        }
        self.silent.push_back(Arc::clone(entry));
        let Some(peer) = entry.network.and_then(|network| self.networks.get_mut(&network)) else { return };
        if peer.order.len() > 2 * peer.silent + 16 {
            peer.order.retain(|entry| entry.is(SILENT));
        }
        peer.silent += 1;
        peer.order.push_back(Arc::clone(entry));
    }

    /// A silent one is so no more.
    fn end_silence(&mut self, entry: &Entry) {
        if let Some(peer) = entry.network.and_then(|network| self.networks.get_mut(&network)) {
            peer.silent -= 1;
        }
    }

    fn close_oldest(&mut self) -> bool {
        while let Some(entry) = self.silent.pop_front() {
            if self.close(&entry, SILENT) {
                return true;
            }
        }
        let mut idle = self.asked.iter().filter(|entry| entry.is(IDLE));
        let first = idle.clone().next().cloned();
        let of_greediest =
            self.greediest.and_then(|network| idle.find(|entry| entry.network == Some(network))).cloned();
        of_greediest.or(first).is_some_and(|entry| self.close(&entry, IDLE))
    }

    /// Closes an address' oldest silent one if it has more than these.
    fn close_beyond(&mut self, network: Network, share: usize) -> bool {
        let Some(peer) = self.networks.get_mut(&network).filter(|peer| peer.silent > share) else { return false };
        while let Some(entry) = peer.order.pop_front() {
            if entry.is(SILENT) {
                return self.close(&entry, SILENT);
            }
        }
        false
    }

    /// Has a connection closed if it is in this state. It counts no more, although its task has still to end.
    fn close(&mut self, entry: &Entry, state: u8) -> bool {
        if entry.state.compare_exchange(state, GONE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.forget(entry, state == SILENT);
        entry.close.notify_one();
        true
    }
}

impl Entry {
    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Acquire) == state
    }
}

impl Arrival {
    /// A request has come.
    pub fn asks(&self) {
        let state = &self.entry.state;
        if state.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut table = self.arrivals.table.lock();
        if state.compare_exchange(SILENT, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            table.end_silence(&self.entry);
            if table.asked.len() > 2 * table.open + 64 {
                table.asked.retain(|entry| !entry.is(GONE));
            }
            table.asked.push_back(Arc::clone(&self.entry));
        }
    }

    /// It has been answered.
    pub fn is_answered(&self) {
        // One that has been closed stays so.
        let _ = self.entry.state.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Nothing more of what it sends is read for its own sake.
    pub fn lingers(&self) {
        let state = &self.entry.state;
        let mut table = self.arrivals.table.lock();
        let was_asking = [BUSY, IDLE]
            .into_iter()
            .any(|from| state.compare_exchange(from, SILENT, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if was_asking {
            table.fall_silent(&self.entry);
        }
    }

    /// Does something until it is done, or until the connection has to be closed.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.entry.close.notified() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut table = self.arrivals.table.lock();
        match self.entry.state.swap(GONE, Ordering::AcqRel) {
            GONE => (),
            state => table.forget(&self.entry, state == SILENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(arrival: &Arrival) -> bool {
        arrival.entry.is(GONE)
    }

    fn come(arrivals: &Arc<Arrivals>, count: usize, address: &str) -> Vec<Arrival> {
        (0..count).map(|_| arrivals.arrive(Some(address.parse().unwrap()), 0).0).collect()
    }

    /// So many connections of trusted proxies with a request under way.
    fn ask(arrivals: &Arc<Arrivals>, count: usize) -> Vec<Arrival> {
        let asking = (0..count).map(|_| arrivals.arrive(None, 0).0);
        asking.inspect(Arrival::asks).collect()
    }

    #[test]
    fn the_oldest_silent_one_goes_before_those_that_have_asked() {
        let arrivals = Arc::new(Arrivals::new(20));
        let mut asked = ask(&arrivals, 10);
        asked[0].is_answered();
        let silent = come(&arrivals, 10, "10.0.0.2");
        for number in 0..10 {
            assert_eq!(arrivals.make_room(0), (true, 1));
            assert!(silent[..=number].iter().all(is_closed) && !silent[number + 1..].iter().any(is_closed));
            asked.extend(ask(&arrivals, 1));
        }
        assert!(!asked.iter().any(is_closed));
        assert_eq!(arrivals.make_room(0), (true, 1));
        assert!(is_closed(&asked[0]) && !asked[1..].iter().any(is_closed));
    }

    #[test]
    fn without_silent_ones_those_between_requests_go_and_none_with_a_request() {
        let arrivals = Arc::new(Arrivals::new(16));
        let all = ask(&arrivals, 16);
        assert_eq!(arrivals.make_room(0), (false, 0));
        all[3].is_answered();
        assert_eq!(arrivals.make_room(0), (true, 1));
        assert!(is_closed(&all[3]) && !is_closed(&all[0]));
        all[3].is_answered();
        all[3].asks();
        assert!(is_closed(&all[3]), "it stays closed");
        all[5].lingers();
        let (_new, _) = arrivals.arrive(None, 0);
        assert_eq!(arrivals.make_room(0), (true, 1));
        assert!(is_closed(&all[5]));
    }

    #[test]
    fn of_those_between_requests_one_of_the_address_with_the_most_goes() {
        let arrivals = Arc::new(Arrivals::new(40));
        let mut publishers = come(&arrivals, 5, "10.0.0.1");
        let proxy = ask(&arrivals, 15);
        let many = come(&arrivals, 15, "10.0.0.2");
        publishers.extend(come(&arrivals, 5, "10.0.0.1"));
        for arrival in publishers.iter().chain(&proxy).chain(&many) {
            arrival.asks();
            arrival.is_answered();
        }
        let mut newcomers = Vec::new();
        for _ in 0..4 {
            assert_eq!(arrivals.make_room(0), (true, 1));
            newcomers.extend(ask(&arrivals, 1));
        }
        assert!(!publishers.iter().chain(&proxy).any(is_closed));
        assert!(many[..4].iter().all(is_closed) && !many[4..].iter().any(is_closed));
    }

    #[test]
    fn an_address_has_half_of_all_silent_ones_at_most() {
        let arrivals = Arc::new(Arrivals::new(40));
        let others = come(&arrivals, 5, "10.0.0.1");
        let many = come(&arrivals, 30, "10.0.0.2");
        assert_eq!(many.iter().filter(|arrival| is_closed(arrival)).count(), 10);
        assert!(is_closed(&many[9]) && !is_closed(&many[10]) && !others.iter().any(is_closed));
        assert_eq!(arrivals.open(), 25);
        let proxy: Vec<_> = (0..12).map(|_| arrivals.arrive(None, 0).0).collect();
        assert!(!proxy.iter().any(is_closed), "a trusted proxy is many clients");
        drop((others, many, proxy));
        assert_eq!(arrivals.open(), 0);
        assert!(arrivals.table.lock().networks.is_empty());
    }

    #[test]
    fn who_comes_and_goes_leaves_nothing_behind() {
        let arrivals = Arc::new(Arrivals::new(100));
        for number in 0..10_000 {
            let (arrival, _) = arrivals.arrive(Some("10.0.0.1".parse().unwrap()), 0);
            if number % 2 == 0 {
                arrival.asks();
            }
        }
        let table = arrivals.table.lock();
        assert!(table.silent.len() + table.asked.len() < 200 && table.networks.is_empty());
    }
}
