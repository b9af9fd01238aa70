//! Taking a connection, or refusing it (Pusher protocol, "Checks and their order").

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::limiter::TooFast;
use crate::node::App;
use crate::node::Node;
use crate::node::apps::APP_DISABLED;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::connect::origin_allowed;
use crate::refusal::Cause;
use crate::refusal::Subject;

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

/// A refused connection: its cause, what the client is told, and what only the operator is told.
type Refused = (Cause, Close, Option<String>);

fn refused<T>(cause: Cause, close: Close, detail: impl Into<Option<String>>) -> Result<T, Refused> {
    Err((cause, close, detail.into()))
}

impl Node {
    /// Takes a connection, or refuses it, which is counted and logged. The first failing check decides.
    pub fn connect(&self, request: &ConnectRequest) -> Result<Connected, Close> {
        if request.crowded {
            return Err(self.crowded(request));
        }
        let app = self.app_of(request)?;
        self.check(request, &app).and_then(|protocol| self.place(&app, protocol)).map_err(|(cause, close, detail)| {
            self.refuse(cause, &app.id, request, detail.as_deref());
            close
        })
    }

    /// Nothing else is looked at: who has as many connections as it may costs nothing more.
    fn crowded(&self, request: &ConnectRequest) -> Close {
        let app = request.key.as_deref().and_then(|key| self.app_by_key(key));
        // An address out of a PROXY header is a client's: it must not be trusted.
        let behind_proxy = request.untrusted_proxy.filter(|_| !request.is_introduced).map(|proxy| {
            format!("X-Forwarded-For from untrusted {proxy}: add it to server.trusted_proxies if it is your proxy")
        });
        let app = app.as_ref().map_or("", |app| &app.id);
        self.refuse(Cause::ConnectAddress, app, request, behind_proxy.as_deref());
        Close::new(CloseCode::OverCapacity, "Too many connections from this address")
    }

    fn refuse(&self, cause: Cause, app: &str, request: &ConnectRequest, detail: Option<&str>) {
        let detail = detail.as_ref().map(|detail| detail as &dyn Display);
        let (address, origin) = (Some(request.address), request.origin.as_deref());
        self.refusals.add(cause, &Subject { app, address, origin, detail, ..Subject::default() });
    }

    /// Counts a handshake of this address; fails when there were too many.
    pub fn shake_hands(&self, address: IpAddr) -> Result<(), TooFast> {
        let outcome = self.addresses.shake_hands(address, Instant::now());
        outcome.inspect_err(|_| {
            self.refusals.add(Cause::AddressHandshakes, &Subject { address: Some(address), ..Subject::default() });
        })
    }

    fn app_of(&self, request: &ConnectRequest) -> Result<Arc<App>, Close> {
        let Some(key) = request.key.as_deref() else {
            self.refuse(Cause::ConnectPath, "", request, None);
            return Err(Close::new(CloseCode::PathNotFound, "Path not found"));
        };
        if request.unavailable {
            self.refuse(Cause::ConnectUnavailable, "", request, Some(&format!("the key is {}", shown(key))));
            return Err(Close::new(CloseCode::OverCapacity, "The app cannot be looked up now, try again"));
        }
        self.app_by_key(key).ok_or_else(|| self.unknown_key(key, request))
    }

    fn unknown_key(&self, key: &str, request: &ConnectRequest) -> Close {
        let shown = shown(key);
        let detail = format!("the key is {shown}");
        let detail = Some(&*detail);
        match self.app_by_id(key) {
            Some(app) => self.refuse(Cause::ConnectAppId, &app.id, request, detail),
            None => self.refuse(Cause::ConnectUnknownKey, "", request, detail),
        }
        let reason = format!("App key {shown} not in this cluster. Did you forget to specify the cluster?");
        Close { code: CloseCode::UnknownApp, reason: reason.into() }
    }

    fn check(&self, request: &ConnectRequest, app: &App) -> Result<u8, Refused> {
        let rules = app.rules();
        let limits = &rules.said.limits;
        if !rules.said.enabled {
            return refused(Cause::ConnectDisabled, APP_DISABLED, None);
        }
        if limits.require_tls && !request.secure {
            let reason = "Application only accepts SSL connections, reconnect using wss://";
            return refused(Cause::ConnectTls, Close::new(CloseCode::TlsRequired, reason), without_tls(request));
        }
        let protocol = self.protocol(request)?;
        if !origin_allowed(request.origin.as_deref(), &limits.allowed_origins) {
            let origin = request.origin.as_deref().map_or("no Origin".into(), |origin| Cow::from(shown(origin)));
            let detail = format!("{origin} is not among allowed_origins, {:?}", limits.allowed_origins);
            return refused(Cause::ConnectOrigin, Close::new(CloseCode::Unauthorized, "Origin not allowed"), detail);
        }
        if self.is_full() {
            let detail = format!("there may be {}", self.sockets_max);
            return refused(Cause::ConnectServerFull, Close::new(CloseCode::OverCapacity, "Over capacity"), detail);
        }
        Ok(protocol)
    }

    /// The protocol version that a client speaks.
    fn protocol(&self, request: &ConnectRequest) -> Result<u8, Refused> {
        let strict = self.connections.strict_protocol;
        let protocol = match &request.protocol {
            None if strict => {
                let close = Close::new(CloseCode::NoProtocol, "No protocol version supplied");
                return refused(Cause::ConnectNoProtocol, close, None);
            }
            None => PROTOCOL_DEFAULT,
            Some(text) => match text.parse().ok().filter(|version| PROTOCOLS.contains(version)) {
                Some(version) => version,
                None => {
                    let close = Close::new(CloseCode::UnsupportedProtocol, "Unsupported protocol version");
                    return refused(Cause::ConnectProtocol, close, format!("protocol={}", shown(text)));
                }
            },
        };
        if strict && !request.version_is_plausible() {
            let close = Close::new(CloseCode::InvalidVersion, "Invalid version string format");
            let detail = request.version.as_deref().map(|version| format!("version={}", shown(version)));
            return refused(Cause::ConnectVersion, close, detail);
        }
        Ok(protocol)
    }

    /// The last check: is there a place left for the connection?
    fn place(&self, app: &Arc<App>, protocol: u8) -> Result<Connected, Refused> {
        // Asked once: the answer may be another one after a reload.
        let in_quota = !app.rules().said.limits.enable_user_authentication;
        if in_quota {
            self.count(app).or_else(|close| refused(Cause::ConnectAppFull, close, app.quota()))?;
        }
        app.opened();
        Ok(Connected { app: Arc::clone(app), protocol, in_quota })
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

/// Why a connection does not count as one over TLS, where a proxy is in between.
fn without_tls(request: &ConnectRequest) -> Option<String> {
    if request.is_introduced {
        return Some("the proxy's header does not say that the client speaks TLS (send-proxy-v2-ssl)".to_owned());
    }
    let proxy = request.untrusted_proxy.filter(|_| request.claims_tls)?;
    Some(format!(
        "X-Forwarded-Proto: https from untrusted {proxy}: add it to server.trusted_proxies if it is your proxy"
    ))
}

/// A text from outside, cut to a printable length.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
