//! Who may come in: how many connections there are before they ask for anything, and whose they are.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::limiter::arrivals::Arrival;
use crate::metrics::Cause;
use crate::protocol::proxy::Proxied;
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
            self.refused(Cause::SilentConnection);
        }
        if count > 0 && self.arrivals.may_log(Instant::now()) {
            tracing::warn!(
                cause = "silent_connection",
                ?peer,
                "connections that ask for nothing are closed to make room: find out who opens them, raise the limit of \
                 open files, or name a proxy in server.trusted_proxies; see gema_refusals_total"
            );
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
                self.refused(Cause::ProxyHeaderMissing);
                tracing::warn!(
                    cause = "proxy_header_missing", %peer, %error,
                    "a trusted proxy sent no PROXY header: let it send one, take its address out of \
                     server.trusted_proxies, or set server.proxy_protocol = false"
                );
            }
        }
        None
    }

    /// A connection begins with a PROXY header that is not read.
    pub(super) fn refused_header(&self, peer: SocketAddr) {
        self.refused(Cause::ProxyHeader);
        let remedy = match self.reads_headers {
            true => "name the proxy in server.trusted_proxies",
            false => "set server.proxy_protocol = true and name the proxy in server.trusted_proxies",
        };
        tracing::warn!(cause = "proxy_header", %peer, "a connection begins with a PROXY header: {remedy}, or switch it off in the proxy");
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
