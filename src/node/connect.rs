//! Taking a connection, or refusing it (Pusher protocol, "Checks and their order").

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::limiter::TooFast;
use crate::metrics::Cause;
use crate::node::App;
use crate::node::Node;
use crate::node::apps::APP_DISABLED;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::connect::origin_allowed;

/// Protocol versions that clients still speak.
const PROTOCOLS: std::ops::RangeInclusive<u8> = 4..=7;
/// What a client speaks that does not say so.
const PROTOCOL_DEFAULT: u8 = 7;

/// A connection that has been taken.
#[derive(Debug)]
pub struct Connected {
    /// Its app.
    pub app: Arc<App>,
    /// The protocol version that it speaks.
    pub protocol: u8,
    /// Whether it counts towards the app's quota already; else it does when it has been authorized.
    pub in_quota: bool,
}

/// A connection that hears public channels and is not authorized; counts until it is dropped.
#[derive(Debug)]
pub struct Unauthorized(Arc<App>);

impl Drop for Unauthorized {
    fn drop(&mut self) {
        self.0.unauthorized.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// Takes a connection. The first failing check decides.
    pub fn connect(&self, request: &ConnectRequest) -> Result<Connected, Close> {
        if request.crowded {
            return Err(self.crowded(request));
        }
        let app = self.app_of(request)?;
        let protocol = self.check(request, &app).inspect_err(|_| app.meters.refused(Cause::Connection))?;
        // Asked once: the answer may be another one after a reload.
        let in_quota = !app.rules().said.limits.enable_user_authentication;
        if in_quota {
            self.count(&app).inspect_err(|_| app.meters.refused(Cause::Connection))?;
        }
        app.opened();
        Ok(Connected { app, protocol, in_quota })
    }

    /// Nothing else is looked at: who has as many connections as it may costs nothing more.
    fn crowded(&self, request: &ConnectRequest) -> Close {
        match request.key.as_deref().and_then(|key| self.app_by_key(key)) {
            Some(app) => app.meters.refused(Cause::AddressConnections),
            None => self.metrics.refused_without_app(Cause::AddressConnections),
        }
        Close::new(CloseCode::OverCapacity, "Too many connections from this address")
    }

    /// Counts a handshake of this address; fails when there were too many.
    pub fn shake_hands(&self, address: IpAddr) -> Result<(), TooFast> {
        let outcome = self.addresses.shake_hands(address, Instant::now());
        outcome.inspect_err(|_| self.metrics.refused_without_app(Cause::AddressHandshakes))
    }

    fn app_of(&self, request: &ConnectRequest) -> Result<Arc<App>, Close> {
        let Some(key) = request.key.as_deref() else {
            self.metrics.refused_without_app(Cause::Connection);
            return Err(Close::new(CloseCode::PathNotFound, "Path not found"));
        };
        if request.unavailable {
            self.metrics.refused_without_app(Cause::Connection);
            return Err(Close::new(CloseCode::OverCapacity, "The app cannot be looked up now, try again"));
        }
        self.app_by_key(key).ok_or_else(|| self.unknown_key(key))
    }

    fn unknown_key(&self, key: &str) -> Close {
        let shown: String = key.chars().take(64).collect();
        if let Some(app) = self.app_by_id(key) {
            app.meters.refused(Cause::AppIdAsKey);
            tracing::warn!(app_id = shown, "a client connects with an app id; clients need the app's key");
        } else {
            self.metrics.refused_without_app(Cause::Connection);
            tracing::debug!(key = shown, "a client connects with an unknown key");
        }
        let reason = format!("App key {shown} not in this cluster. Did you forget to specify the cluster?");
        Close { code: CloseCode::UnknownApp, reason: reason.into() }
    }

    fn check(&self, request: &ConnectRequest, app: &App) -> Result<u8, Close> {
        let refuse = |code, reason| Err(Close::new(code, reason));
        let rules = app.rules();
        let limits = &rules.said.limits;
        if !rules.said.enabled {
            return Err(APP_DISABLED);
        }
        if limits.require_tls && !request.secure {
            let reason = "Application only accepts SSL connections, reconnect using wss://";
            return refuse(CloseCode::TlsRequired, reason);
        }
        let strict = self.connections.strict_protocol;
        let protocol = match &request.protocol {
            None if strict => return refuse(CloseCode::NoProtocol, "No protocol version supplied"),
            None => PROTOCOL_DEFAULT,
            Some(text) => match text.parse().ok().filter(|version| PROTOCOLS.contains(version)) {
                Some(version) => version,
                None => return refuse(CloseCode::UnsupportedProtocol, "Unsupported protocol version"),
            },
        };
        if strict && !request.version_is_plausible() {
            return refuse(CloseCode::InvalidVersion, "Invalid version string format");
        }
        if !origin_allowed(request.origin.as_deref(), &limits.allowed_origins) {
            return refuse(CloseCode::Unauthorized, "Origin not allowed");
        }
        if self.sockets() > self.sockets_max {
            return refuse(CloseCode::OverCapacity, "Over capacity");
        }
        Ok(protocol)
    }

    /// Counts a connection towards its app's quota: at once, or when it has been authorized.
    pub fn count(&self, app: &App) -> Result<(), Close> {
        if app.state.connect(app.connections_max()) {
            return Ok(());
        }
        Err(Close::new(CloseCode::OverQuota, "Application is over connection quota"))
    }

    /// Counts a connection that hears a public channel although it is not authorized. It does not count towards the
    /// quota, and has a place of its own: there may be as many of these.
    pub fn count_unauthorized(&self, app: &Arc<App>) -> Result<Unauthorized, Close> {
        let max = app.connections_max();
        let one_more = |count: usize| (max.is_none_or(|max| count < max)).then_some(count + 1);
        match app.unauthorized.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Unauthorized(Arc::clone(app))),
            Err(_) => Err(Close::new(CloseCode::OverQuota, "Application is over connection quota")),
        }
    }

    /// Forgets a connection; `in_quota` tells whether it counts towards the quota.
    pub fn disconnect(&self, app: &App, in_quota: bool) {
        if in_quota {
            app.state.disconnect();
        }
        app.closed();
    }

    /// One more WebSocket, accepted or not.
    pub fn socket_opened(&self) {
        self.sockets.fetch_add(1, Ordering::Relaxed);
    }

    /// One WebSocket less.
    pub fn socket_closed(&self) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}
