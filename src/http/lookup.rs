//! Requests for apps that are not known here: each costs a question to the database, so an address may make as many of
//! them as handshakes.

use std::net::IpAddr;
use std::time::Instant;

use axum::http::Request;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::Api;
use crate::http::Client;
use crate::http::answer::Refusal;
use crate::protocol::request;
use crate::refusal::Cause;

/// A question to the database that was counted for this address.
#[derive(Clone, Copy)]
pub(super) struct Lookup(IpAddr);

impl Api {
    /// Counts a request for an app that only a database may know.
    pub(super) fn lookup<B>(&self, request: &Request<B>, client: &Client) -> Result<Option<Lookup>, Refusal> {
        let node = &self.0.node;
        if !(node.addresses().limits_handshakes() && node.asks_a_database()) || self.is_known(request) {
            return Ok(None);
        }
        let address = self.0.trusted_proxies.client(client.address().ip(), request.headers());
        node.shake_hands(address).map(|()| Some(Lookup(address))).map_err(|too_fast| {
            // It has been counted and logged.
            let message = "Too many requests for unknown apps from this address at once, try again";
            Refusal::new(Cause::AddressHandshakes, message).too_fast(too_fast)
        })
    }

    /// Takes it back unless the app is unknown there, too.
    pub(super) fn looked_up(&self, lookup: Option<Lookup>, response: &Response) {
        let Some(Lookup(address)) = lookup else { return };
        if ![StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&response.status()) {
            self.0.node.addresses().give_back(address, Instant::now());
        }
    }

    /// Whether a request needs no question: it is for no app, or for one that is known here.
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
