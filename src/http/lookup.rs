//! Limits requests for unknown apps: each costs a database query, so an address may make as many as handshakes.
//! [`Routes::answer`](crate::http::Routes::answer) counts before and refunds after a request.

use std::net::IpAddr;
use std::time::Instant;

use axum::http::Request;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::Api;
use crate::http::Client;
use crate::http::response::Refusal;
use crate::protocol::request;
use crate::refusal::Cause;

/// A database query that was counted for this address.
#[derive(Clone, Copy)]
pub(super) struct Lookup(IpAddr);

impl Api {
    /// Counts a request for an app that is not known here.
    pub(super) fn lookup<B>(&self, request: &Request<B>, client: &Client) -> Result<Option<Lookup>, Refusal> {
        let node = &self.0.node;
        if !(node.addresses().limits_handshakes() && node.uses_database()) || self.is_known(request) {
            return Ok(None);
        }
        let address = self.0.trusted_proxies.client(client.address().ip(), request.headers());
        node.count_handshake(address).map(|()| Some(Lookup(address))).map_err(|too_fast| {
            // `count_handshake` has counted and logged it.
            let message = "Too many requests for unknown apps from this address at once, try again";
            Refusal::new(Cause::AddressHandshakes, message).too_fast(too_fast)
        })
    }

    /// Ceases to count it, unless the app is unknown to the database, too.
    pub(super) fn refund_lookup(&self, lookup: Option<Lookup>, response: &Response) {
        let Some(Lookup(address)) = lookup else { return };
        if ![StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&response.status()) {
            self.0.node.addresses().refund_handshake(address, Instant::now());
        }
    }

    /// Whether a request needs no database query: it is for no app, or for a known one.
    fn is_known<B>(&self, request: &Request<B>) -> bool {
        let uri = request.uri();
        let mut segments = uri.path().split('/').skip(1);
        match (segments.next(), segments.next()) {
            (Some("apps"), Some(id)) => {
                let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
                self.0.node.app_by_id(&id).is_some()
            }
            (Some("users"), Some(_)) => {
                let key = uri.query().and_then(request::auth_key);
                key.is_none_or(|key| self.0.node.app_by_key(&key).is_some())
            }
            _ => true,
        }
    }
}
