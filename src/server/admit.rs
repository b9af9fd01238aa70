//! Admission of new connections: how many may be open before their first request, and whose they are.
//! `listen` asks it for each connection that it accepts.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::limiter::http_connections::HttpConnection;
use crate::protocol::proxy::ProxyHeader;
use crate::refusal::Cause;
use crate::server::listen::Port;
use crate::server::proxy_header;
use crate::server::proxy_header::HeaderError;

impl Port {
    /// Whether one more connection may be accepted. Closes a silent one for it if need be.
    pub(super) fn has_capacity(&self) -> bool {
        let (has_capacity, closed) = self.http_connections.reserve(self.node.sockets());
        self.refuse_silent(closed, None);
        has_capacity
    }

    /// Counts a connection from this address. Connections of a trusted proxy count for no address.
    pub(super) fn connected(&self, peer: SocketAddr) -> HttpConnection {
        let address = Some(peer.ip()).filter(|&address| !self.node.addresses().is_proxy(address));
        let (http_connection, closed) = self.http_connections.connected(address, self.node.sockets());
        self.refuse_silent(closed, Some(peer));
        http_connection
    }

    fn refuse_silent(&self, count: usize, peer: Option<SocketAddr>) {
        for _ in 0..count {
            // The log names the new peer, which may be the one that opens too many.
            self.refuse(Cause::SilentConnection, peer, None);
        }
    }

    /// Reads the PROXY header of a trusted proxy, where they send one. `None` if it is missing: then the client is
    /// unknown.
    pub(super) async fn read_proxy_header(
        &self,
        mut tcp: TcpStream,
        peer: SocketAddr,
    ) -> Option<(TcpStream, ProxyHeader)> {
        if !(self.reads_headers && self.node.addresses().is_proxy(peer.ip())) {
            return Some((tcp, ProxyHeader::UNKNOWN));
        }
        match tokio::time::timeout(self.head_time, proxy_header::read(&mut tcp)).await {
            Ok(Ok(header)) => return Some((tcp, header)),
            Ok(Err(HeaderError::Gone(_))) | Err(_) => (),
            Ok(Err(error)) => {
                self.refuse(Cause::ProxyHeaderMissing, peer, Some(&error));
            }
        }
        None
    }

    /// Refuses a connection that begins with an unexpected PROXY header.
    pub(super) fn refuse_proxy_header(&self, peer: SocketAddr) {
        let detail = match self.reads_headers {
            true => "the proxy is not in server.trusted_proxies",
            false => "server.proxy_protocol is false",
        };
        self.refuse(Cause::ProxyHeader, peer, Some(&detail));
    }

    /// Whether an address may begin a TLS handshake, which costs more than everything after it, and whether that was
    /// counted.
    pub(super) fn may_handshake(&self, peer: SocketAddr) -> (bool, bool) {
        let addresses = self.node.addresses();
        if !addresses.limits_handshakes() || addresses.is_proxy(peer.ip()) {
            return (true, false);
        }
        (self.node.count_handshake(peer.ip()).is_ok(), true)
    }
}
