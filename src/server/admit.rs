//! Who may come in: how many connections there are before they ask for anything, and whose they are.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::limiter::arrivals::Arrival;
use crate::protocol::proxy::Proxied;
use crate::refusal::Cause;
use crate::server::listen::Port;
use crate::server::proxied;
use crate::server::proxied::HeaderError;

impl Port {
    /// Whether one more may be accepted; closes a silent one for it if need be.
    pub(super) fn has_room(&self) -> bool {
        let (has_room, closed) = self.arrivals.make_room(self.node.sockets());
        self.closed(closed, None);
        has_room
    }

    /// A connection has come from this address. A trusted proxy stands for many.
    pub(super) fn arrive(&self, peer: SocketAddr) -> Arrival {
        let address = Some(peer.ip()).filter(|&address| !self.node.addresses().is_proxy(address));
        let (arrival, closed) = self.arrivals.arrive(address, self.node.sockets());
        self.closed(closed, Some(peer));
        arrival
    }

    fn closed(&self, count: usize, peer: Option<SocketAddr>) {
        for _ in 0..count {
            // The newcomer is named, who may be whoever opens them.
            self.refused(Cause::SilentConnection, peer, None);
        }
    }

    /// The header of a trusted proxy, where they send one. `None` if it does not: then nobody knows whose the
    /// connection is.
    pub(super) async fn introduced(&self, mut tcp: TcpStream, peer: SocketAddr) -> Option<(TcpStream, Proxied)> {
        if !(self.reads_headers && self.node.addresses().is_proxy(peer.ip())) {
            return Some((tcp, Proxied::UNKNOWN));
        }
        match tokio::time::timeout(self.head_time, proxied::read(&mut tcp)).await {
            Ok(Ok(proxied)) => return Some((tcp, proxied)),
            Ok(Err(HeaderError::Gone(_))) | Err(_) => (),
            Ok(Err(error)) => {
                self.refused(Cause::ProxyHeaderMissing, peer, Some(&error));
            }
        }
        None
    }

    /// A connection begins with a PROXY header that is not read.
    pub(super) fn refused_header(&self, peer: SocketAddr) {
        let detail = match self.reads_headers {
            true => "the proxy is not in server.trusted_proxies",
            false => "server.proxy_protocol is false",
        };
        self.refused(Cause::ProxyHeader, peer, Some(&detail));
    }

    /// Whether an address may begin a TLS handshake, which costs more than all that follows, and whether that was
    /// counted.
    pub(super) fn may_shake_hands(&self, peer: SocketAddr) -> (bool, bool) {
        let addresses = self.node.addresses();
        if !addresses.limits_handshakes() || addresses.is_proxy(peer.ip()) {
            return (true, false);
        }
        (self.node.shake_hands(peer.ip()).is_ok(), true)
    }
}
