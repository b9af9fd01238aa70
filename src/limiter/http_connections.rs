//! TCP connections that are not WebSockets, or not yet: limits them, and closes silent ones when there are too many.
//! `server::admit` counts each accepted connection here.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limiter::addresses::Network;

/// The most that may be open: each needs some 10 KB, whatever the limit of open files is.
const OPEN_MAX: usize = 16 * 1024;
/// So many may always be open, however many WebSockets there are.
const OPEN_MIN: usize = 16;
/// Connections among which one of the busiest address is searched. The lock is held meanwhile.
const SEARCH_MAX: usize = 1024;

/// It has not sent a request, or has been refused and still sends.
const SILENT: u8 = 0;
/// It is between two requests.
const IDLE: u8 = 1;
/// A request is under way.
const BUSY: u8 = 2;
/// It has been closed, or has become a WebSocket.
const GONE: u8 = 3;

/// The open connections of the process.
#[derive(Debug)]
pub struct HttpConnections {
    /// Files that these and the WebSockets may have open.
    files: usize,
    table: Mutex<HttpTable>,
}

#[derive(Debug, Default)]
struct HttpTable {
    open: usize,
    /// In the order in which they fell silent. An entry that is not silent any more is dropped when it is met.
    silent: VecDeque<Arc<Entry>>,
    /// In the order of their first requests.
    with_requests: VecDeque<Arc<Entry>>,
    networks: HashMap<Network, AddressConnections>,
    /// The address with the most connections when its last one was opened.
    busiest: Option<Network>,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct AddressConnections {
    /// The open connections.
    count: usize,
    silent: usize,
    /// In the order in which they fell silent. An entry that is not silent any more is dropped when it is met.
    silent_queue: VecDeque<Arc<Entry>>,
}

#[derive(Debug)]
struct Entry {
    state: AtomicU8,
    /// `None` for a trusted proxy, which stands for many clients.
    network: Option<Network>,
    close: Notify,
}

/// An open connection; counts until it is dropped.
#[derive(Debug)]
pub struct HttpConnection {
    http_connections: Arc<HttpConnections>,
    entry: Arc<Entry>,
}

impl HttpConnections {
    /// A limit of files for these connections and the WebSockets together.
    pub fn new(files: usize) -> Self {
        Self { files, table: Mutex::default() }
    }

    /// Reserves capacity for one more connection beside so many WebSockets. At the limit it closes the oldest silent
    /// connection, or else an idle one of the address with the most. Returns whether there is capacity, and how many
    /// were closed.
    pub fn reserve(&self, sockets: usize) -> (bool, usize) {
        let mut table = self.table.lock();
        let has_capacity = table.open < self.open_max(sockets);
        let closed = if has_capacity { 0 } else { usize::from(table.close_oldest()) };
        (has_capacity || closed > 0, closed)
    }

    /// Counts a connection from this address, which is `None` for trusted proxies. Also returns how many were closed
    /// because the address had half of the limit already.
    pub fn connected(self: &Arc<Self>, address: Option<IpAddr>, sockets: usize) -> (HttpConnection, usize) {
        let network = address.map(Network::of);
        let entry = Arc::new(Entry { state: AtomicU8::new(SILENT), network, close: Notify::new() });
        let share = self.open_max(sockets) / 2;
        let mut table = self.table.lock();
        table.open(&entry);
        let closed = network.is_some_and(|network| table.close_over_share(network, share));
        drop(table);
        (HttpConnection { http_connections: Arc::clone(self), entry }, usize::from(closed))
    }

    /// The limit beside so many WebSockets.
    fn open_max(&self, sockets: usize) -> usize {
        self.files.saturating_sub(sockets).clamp(OPEN_MIN, OPEN_MAX)
    }

    /// The number of open connections.
    pub fn open_count(&self) -> usize {
        self.table.lock().open
    }
}

impl HttpTable {
    fn open(&mut self, entry: &Arc<Entry>) {
        self.open += 1;
        if let Some(network) = entry.network {
            let address = self.networks.entry(network).or_default();
            address.count += 1;
            let count = address.count;
            let most = self.busiest.and_then(|network| self.networks.get(&network)).map_or(0, |address| address.count);
            if count > most {
                self.busiest = Some(network);
            }
        }
        self.mark_silent(entry);
    }

    fn forget(&mut self, entry: &Entry, was_silent: bool) {
        self.open -= 1;
        if was_silent {
            self.unmark_silent(entry);
        }
        let Some(network) = entry.network else { return };
        let Some(address) = self.networks.get_mut(&network) else { return };
        address.count -= 1;
        if address.count == 0 {
            self.networks.remove(&network);
        }
    }

    fn mark_silent(&mut self, entry: &Arc<Entry>) {
        if self.silent.len() > 2 * self.open + 64 {
            self.silent.retain(|entry| entry.is(SILENT));
        }
        self.silent.push_back(Arc::clone(entry));
        let Some(address) = entry.network.and_then(|network| self.networks.get_mut(&network)) else { return };
        if address.silent_queue.len() > 2 * address.silent + 16 {
            address.silent_queue.retain(|entry| entry.is(SILENT));
        }
        address.silent += 1;
        address.silent_queue.push_back(Arc::clone(entry));
    }

    /// Notes that a connection is no longer silent.
    fn unmark_silent(&mut self, entry: &Entry) {
        if let Some(address) = entry.network.and_then(|network| self.networks.get_mut(&network)) {
            address.silent -= 1;
        }
    }

    fn close_oldest(&mut self) -> bool {
        while let Some(entry) = self.silent.pop_front() {
            if self.close(&entry, SILENT) {
                return true;
            }
        }
        let is_idle = |entry: &&Arc<Entry>| entry.is(IDLE);
        let oldest = self.with_requests.iter().find(is_idle);
        let mut candidates = self.with_requests.iter().take(SEARCH_MAX).filter(is_idle);
        let of_busiest = self.busiest.and_then(|network| candidates.find(|entry| entry.network == Some(network)));
        let entry = of_busiest.or(oldest).cloned();
        entry.is_some_and(|entry| self.close(&entry, IDLE))
    }

    /// Closes the oldest silent connection of an address that has more than its share.
    fn close_over_share(&mut self, network: Network, share: usize) -> bool {
        let Some(address) = self.networks.get_mut(&network).filter(|address| address.silent > share) else {
            return false;
        };
        while let Some(entry) = address.silent_queue.pop_front() {
            if entry.is(SILENT) {
                return self.close(&entry, SILENT);
            }
        }
        false
    }

    /// Closes a connection if it is in this state. It no longer counts, although its task has still to end.
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

impl HttpConnection {
    /// Notes that a request has begun.
    pub fn on_request(&self) {
        let state = &self.entry.state;
        if state.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut table = self.http_connections.table.lock();
        if state.compare_exchange(SILENT, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            table.unmark_silent(&self.entry);
            if table.with_requests.len() > 2 * table.open + 64 {
                table.with_requests.retain(|entry| !entry.is(GONE));
            }
            table.with_requests.push_back(Arc::clone(&self.entry));
        }
    }

    /// Notes that the request has its response.
    pub fn on_response(&self) {
        // A closed connection stays closed.
        let _ = self.entry.state.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Notes that further input is only read to be dropped.
    pub fn on_linger(&self) {
        let state = &self.entry.state;
        let mut table = self.http_connections.table.lock();
        let had_requests = [BUSY, IDLE]
            .into_iter()
            .any(|from| state.compare_exchange(from, SILENT, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if had_requests {
            table.mark_silent(&self.entry);
        }
    }

    /// Runs `work` until it is done or the connection is closed.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.entry.close.notified() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let mut table = self.http_connections.table.lock();
        match self.entry.state.swap(GONE, Ordering::AcqRel) {
            GONE => (),
            state => table.forget(&self.entry, state == SILENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(http_connection: &HttpConnection) -> bool {
        http_connection.entry.is(GONE)
    }

    fn connect(http_connections: &Arc<HttpConnections>, count: usize, address: &str) -> Vec<HttpConnection> {
        (0..count).map(|_| http_connections.connected(Some(address.parse().unwrap()), 0).0).collect()
    }

    /// Connections of trusted proxies, each with a request under way.
    fn request(http_connections: &Arc<HttpConnections>, count: usize) -> Vec<HttpConnection> {
        let asking = (0..count).map(|_| http_connections.connected(None, 0).0);
        asking.inspect(HttpConnection::on_request).collect()
    }

    #[test]
    fn the_oldest_silent_one_goes_before_those_that_have_asked() {
        let http_connections = Arc::new(HttpConnections::new(20));
        let mut with_requests = request(&http_connections, 10);
        with_requests[0].on_response();
        let silent = connect(&http_connections, 10, "10.0.0.2");
        for number in 0..10 {
            assert_eq!(http_connections.reserve(0), (true, 1));
            assert!(silent[..=number].iter().all(is_closed) && !silent[number + 1..].iter().any(is_closed));
            with_requests.extend(request(&http_connections, 1));
        }
        assert!(!with_requests.iter().any(is_closed));
        assert_eq!(http_connections.reserve(0), (true, 1));
        assert!(is_closed(&with_requests[0]) && !with_requests[1..].iter().any(is_closed));
    }

    #[test]
    fn without_silent_ones_those_between_requests_go_and_none_with_a_request() {
        let http_connections = Arc::new(HttpConnections::new(16));
        let all = request(&http_connections, 16);
        assert_eq!(http_connections.reserve(0), (false, 0));
        all[3].on_response();
        assert_eq!(http_connections.reserve(0), (true, 1));
        assert!(is_closed(&all[3]) && !is_closed(&all[0]));
        all[3].on_response();
        all[3].on_request();
        assert!(is_closed(&all[3]), "it stays closed");
        all[5].on_linger();
        let (_new, _) = http_connections.connected(None, 0);
        assert_eq!(http_connections.reserve(0), (true, 1));
        assert!(is_closed(&all[5]));
    }

    #[test]
    fn of_those_between_requests_one_of_the_address_with_the_most_goes() {
        let http_connections = Arc::new(HttpConnections::new(40));
        let mut publishers = connect(&http_connections, 5, "10.0.0.1");
        let proxy = request(&http_connections, 15);
        let many = connect(&http_connections, 15, "10.0.0.2");
        publishers.extend(connect(&http_connections, 5, "10.0.0.1"));
        for http_connection in publishers.iter().chain(&proxy).chain(&many) {
            http_connection.on_request();
            http_connection.on_response();
        }
        let mut newcomers = Vec::new();
        for _ in 0..4 {
            assert_eq!(http_connections.reserve(0), (true, 1));
            newcomers.extend(request(&http_connections, 1));
        }
        assert!(!publishers.iter().chain(&proxy).any(is_closed));
        assert!(many[..4].iter().all(is_closed) && !many[4..].iter().any(is_closed));
    }

    #[test]
    fn an_address_has_half_of_all_silent_ones_at_most() {
        let http_connections = Arc::new(HttpConnections::new(40));
        let others = connect(&http_connections, 5, "10.0.0.1");
        let many = connect(&http_connections, 30, "10.0.0.2");
        assert_eq!(many.iter().filter(|http_connection| is_closed(http_connection)).count(), 10);
        assert!(is_closed(&many[9]) && !is_closed(&many[10]) && !others.iter().any(is_closed));
        assert_eq!(http_connections.open_count(), 25);
        let proxy: Vec<_> = (0..12).map(|_| http_connections.connected(None, 0).0).collect();
        assert!(!proxy.iter().any(is_closed), "a trusted proxy is many clients");
        drop((others, many, proxy));
        assert_eq!(http_connections.open_count(), 0);
        assert!(http_connections.table.lock().networks.is_empty());
    }

    #[test]
    fn who_comes_and_goes_leaves_nothing_behind() {
        let http_connections = Arc::new(HttpConnections::new(100));
        for number in 0..10_000 {
            let (http_connection, _) = http_connections.connected(Some("10.0.0.1".parse().unwrap()), 0);
            if number % 2 == 0 {
                http_connection.on_request();
            }
        }
        let table = http_connections.table.lock();
        assert!(table.silent.len() + table.with_requests.len() < 200 && table.networks.is_empty());
    }
}
