//! The limits per client address: open connections, and handshakes per second.
//! `http::upgrade` and `server::admit` count here.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::limiter::Bucket;
use crate::limiter::TooFast;

/// The number of locks, so that shards seldom wait for each other.
const PARTS: usize = 64;
/// Addresses per part whose handshakes are counted apart. Idle ones are forgotten; beyond the limit all others share
/// one budget, so that many addresses gain neither memory nor attempts.
const BUCKETS_MAX: usize = 1024;

/// An IPv4 address, or the /64 of IPv6 in which a client may choose its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Network(u128);

impl Network {
    /// The shared entry of a full part: an IPv6 network that nobody has.
    const OTHERS: Self = Self(u128::MAX);

    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().into()),
            IpAddr::V6(address) => Self(u128::from(address) >> 64 << 64),
        }
    }
}

/// The addresses of all clients, where they are limited.
#[derive(Debug)]
pub struct Addresses {
    connections_max: usize,
    handshakes_per_second: u32,
    /// Trusted proxies, which stand for many clients and are not limited.
    proxies: Vec<IpNet>,
    hasher: RandomState,
    parts: Vec<Mutex<Part>>,
}

#[derive(Debug, Default)]
struct Part {
    /// Connections by network; at most as many entries as connections.
    connections: HashMap<Network, usize>,
    handshakes: HashMap<Network, Bucket>,
    /// When idle buckets were last removed.
    swept: Option<Instant>,
}

/// Counts a connection for its address until it is dropped.
#[derive(Debug)]
pub struct AddressPermit {
    addresses: Arc<Addresses>,
    network: Network,
}

/// The address has as many connections as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressFull;

impl Addresses {
    /// Limits per address, except for these proxies; 0 for no limit.
    pub fn new(connections_max: usize, handshakes_per_second: u32, proxies: Vec<IpNet>) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { connections_max, handshakes_per_second, proxies, hasher: RandomState::new(), parts }
    }

    /// Whether an address is a trusted proxy.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
    }

    /// Whether handshakes are limited.
    pub fn limits_handshakes(&self) -> bool {
        self.handshakes_per_second > 0
    }

    /// Counts a connection, where connections are limited.
    ///
    /// # Errors
    /// If the address has as many as it may.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Result<Option<Box<AddressPermit>>, AddressFull> {
        if self.connections_max == 0 || self.is_proxy(address) {
            return Ok(None);
        }
        let network = Network::of(address);
        let mut part = self.part(network).lock();
        let count = part.connections.entry(network).or_default();
        if *count == self.connections_max {
            return Err(AddressFull);
        }
        *count += 1;
        Ok(Some(Box::new(AddressPermit { addresses: Arc::clone(self), network })))
    }

    /// Counts a handshake.
    ///
    /// # Errors
    /// If there were too many within a second.
    pub fn count_handshake(&self, address: IpAddr, now: Instant) -> Result<(), TooFast> {
        if !self.limits_handshakes() || self.is_proxy(address) {
            return Ok(());
        }
        let network = Network::of(address);
        let mut part = self.part(network).lock();
        if part.handshakes.len() >= BUCKETS_MAX {
            part.sweep(now);
        }
        let buckets = &mut part.handshakes;
        let is_known = buckets.len() < BUCKETS_MAX || buckets.contains_key(&network);
        let network = if is_known { network } else { Network::OTHERS };
        let bucket = buckets.entry(network).or_insert_with(|| Bucket::of(self.handshakes_per_second, now));
        bucket.take(1, now).map(drop)
    }

    /// Ceases to count a handshake that was none.
    pub fn refund_handshake(&self, address: IpAddr, now: Instant) {
        if !self.limits_handshakes() || self.is_proxy(address) {
            return;
        }
        let network = Network::of(address);
        let mut part = self.part(network).lock();
        let known = if part.handshakes.contains_key(&network) { network } else { Network::OTHERS };
        if let Some(bucket) = part.handshakes.get_mut(&known) {
            bucket.refund(1, now);
        }
    }

    fn part(&self, network: Network) -> &Mutex<Part> {
        &self.parts[self.hasher.hash_one(network) as usize % PARTS]
    }
}

impl Part {
    /// Removes full buckets, which are as good as none; at most once in the time in which one fills up.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= Duration::from_secs(1)) {
            self.handshakes.retain(|_, bucket| !bucket.is_full(now));
            self.swept = Some(now);
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let connections = &mut self.addresses.part(self.network).lock().connections;
        if let Some(count) = connections.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_per_address_and_given_back() {
        let addresses = Arc::new(Addresses::new(2, 0, Vec::new()));
        let first = addresses.connect(address("10.0.0.1")).unwrap();
        let _second = addresses.connect(address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(addresses.connect(address("10.0.0.1")).unwrap_err(), AddressFull);
        assert!(addresses.connect(address("10.0.0.2")).is_ok());
        drop(first);
        assert!(addresses.connect(address("10.0.0.1")).is_ok());
        let open: usize = addresses.parts.iter().map(|part| part.lock().connections.len()).sum();
        assert_eq!(open, 1, "addresses without connections are forgotten");
    }

    #[test]
    fn the_addresses_of_an_ipv6_network_are_one() {
        let addresses = Arc::new(Addresses::new(1, 0, Vec::new()));
        let _permit = addresses.connect(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(addresses.connect(address("2001:db8:0:1:ffff::2")).unwrap_err(), AddressFull);
        assert!(addresses.connect(address("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn a_trusted_proxy_is_not_limited_and_a_handshake_that_was_none_is_given_back() {
        let addresses = Arc::new(Addresses::new(1, 1, vec!["10.0.0.0/8".parse().unwrap()]));
        let now = Instant::now();
        let proxy = address("::ffff:10.0.0.1");
        assert!((0..10).all(|_| addresses.connect(proxy).is_ok_and(|permit| permit.is_none())));
        assert!((0..10).all(|_| addresses.count_handshake(proxy, now).is_ok()));
        let client = address("192.0.2.1");
        for _ in 0..10 {
            assert!(addresses.count_handshake(client, now).is_ok());
            assert!(addresses.count_handshake(client, now).is_err());
            addresses.refund_handshake(client, now);
        }
    }

    #[test]
    fn many_addresses_neither_grow_the_table_nor_pass_unlimited() {
        let addresses = Addresses::new(0, 1, Vec::new());
        let now = Instant::now();
        let passed = (0..200_000_u32)
            .filter(|&number| addresses.count_handshake(Ipv4Addr::from(number).into(), now).is_ok())
            .count();
        let entries =
            |addresses: &Addresses| -> usize { addresses.parts.iter().map(|part| part.lock().handshakes.len()).sum() };
        // One more for the others.
        assert!(passed <= PARTS * (BUCKETS_MAX + 1), "{passed}");
        assert!(entries(&addresses) <= PARTS * (BUCKETS_MAX + 1));
        let later = now + Duration::from_secs(2);
        assert!(addresses.count_handshake(Ipv4Addr::from(2_000_000).into(), later).is_ok());
    }
}
