//! Accepting a connection, or refusing it (Pusher protocol, "Checks and their order").
//! `Session::open` calls it after the upgrade.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::config::Limits;
use crate::limiter::TooFast;
use crate::node::App;
use crate::node::Node;
use crate::protocol::code::APP_DISABLED;
use crate::protocol::code::Close;
use crate::protocol::code::CloseCode;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::connect::origin_allowed;
use crate::refusal::Cause;
use crate::refusal::Subject;

/// Protocol versions that clients still speak.
const PROTOCOLS: std::ops::RangeInclusive<u8> = 4..=7;
/// The version of clients that name none.
const PROTOCOL_DEFAULT: u8 = 7;

/// An accepted connection.
#[derive(Debug)]
pub struct Connected {
    /// Its app.
    pub app: Arc<App>,
    /// The protocol version that it speaks.
    pub protocol: u8,
    /// Whether it counts towards the app's quota already, or only when it is authorized.
    pub in_quota: bool,
    /// The channels of a raw client.
    pub raw: Option<Vec<String>>,
}

/// Counts a connection with public channels that is not authorized, until this is dropped.
#[derive(Debug)]
pub struct Unauthorized(Arc<App>);

impl Drop for Unauthorized {
    fn drop(&mut self) {
        self.0.unauthorized.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A refusal: its cause, the close for the client and a detail for the operator.
type Refused = (Cause, Close, Option<String>);

fn refused<T>(cause: Cause, close: Close, detail: impl Into<Option<String>>) -> Result<T, Refused> {
    Err((cause, close, detail.into()))
}

impl Node {
    /// Accepts a connection, or refuses, counts and logs it. The first check that fails decides.
    pub fn connect(&self, request: &ConnectRequest) -> Result<Connected, Close> {
        if request.address_full {
            return Err(self.refuse_full_address(request));
        }
        let app = self.find_app(request)?;
        self.check(request, &app).and_then(|(protocol, raw)| self.admit_connection(&app, protocol, raw)).map_err(
            |(cause, close, detail)| {
                self.refuse(cause, &app.id, request, detail.as_deref());
                close
            },
        )
    }

    /// Refuses an address with too many connections before anything else is checked, so that it costs little.
    fn refuse_full_address(&self, request: &ConnectRequest) -> Close {
        let app = request.key.as_deref().and_then(|key| self.app_by_key(key));
        // An address from a PROXY header is the client's: never advise to trust it.
        let behind_proxy = request.untrusted_proxy.filter(|_| !request.has_proxy_header).map(|proxy| {
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

    /// Counts a handshake of an address. Fails when there were too many.
    pub fn count_handshake(&self, address: IpAddr) -> Result<(), TooFast> {
        let outcome = self.addresses.count_handshake(address, Instant::now());
        outcome.inspect_err(|_| {
            self.refusals.add(Cause::AddressHandshakes, &Subject { address: Some(address), ..Subject::default() });
        })
    }

    fn find_app(&self, request: &ConnectRequest) -> Result<Arc<App>, Close> {
        let Some(key) = request.key.as_deref() else {
            self.refuse(Cause::ConnectPath, "", request, None);
            return Err(Close::new(CloseCode::PathNotFound, "Path not found"));
        };
        if request.app_unavailable {
            self.refuse(Cause::ConnectUnavailable, "", request, Some(&format!("the key is {}", shortened(key))));
            return Err(Close::new(CloseCode::OverCapacity, "The app cannot be looked up now, try again"));
        }
        let by_id = || self.app_by_id(key).filter(|app| app.rules().accepts_id(request));
        self.app_by_key(key).or_else(by_id).ok_or_else(|| self.refuse_unknown_key(key, request))
    }

    fn refuse_unknown_key(&self, key: &str, request: &ConnectRequest) -> Close {
        let shortened = shortened(key);
        let mut detail = format!("the key is {shortened}");
        match self.app_by_id(key) {
            Some(app) => {
                if app.rules().may_be_raw(request) {
                    detail.push_str("; raw_clients.accept_id is false");
                }
                self.refuse(Cause::ConnectAppId, &app.id, request, Some(&detail));
            }
            None => self.refuse(Cause::ConnectUnknownKey, "", request, Some(&detail)),
        }
        let reason = format!("App key {shortened} not in this cluster. Did you forget to specify the cluster?");
        Close { code: CloseCode::UnknownApp, reason: reason.into() }
    }

    /// Returns the protocol version, and the channels of a raw client.
    fn check(&self, request: &ConnectRequest, app: &App) -> Result<(u8, Option<Vec<String>>), Refused> {
        let rules = app.rules();
        let limits = rules.limits();
        if !rules.settings.enabled {
            return refused(Cause::ConnectDisabled, APP_DISABLED, None);
        }
        if limits.require_tls && !request.secure {
            let reason = "Application only accepts SSL connections, reconnect using wss://";
            return refused(Cause::ConnectTls, Close::new(CloseCode::TlsRequired, reason), without_tls(request));
        }
        let raw = if rules.may_be_raw(request) { Some(raw_channels(request, limits)?) } else { None };
        let protocol = if raw.is_some() { PROTOCOL_DEFAULT } else { self.protocol(request)? };
        if !origin_allowed(request.origin.as_deref(), &limits.allowed_origins) {
            let origin = request.origin.as_deref().map_or("no Origin".into(), |origin| Cow::from(shortened(origin)));
            let detail = format!("{origin} is not among allowed_origins, {:?}", limits.allowed_origins);
            return refused(Cause::ConnectOrigin, Close::new(CloseCode::Unauthorized, "Origin not allowed"), detail);
        }
        if self.is_full() {
            let detail = format!("there may be {}", self.sockets_max);
            return refused(Cause::ConnectServerFull, Close::new(CloseCode::OverCapacity, "Over capacity"), detail);
        }
        Ok((protocol, raw))
    }

    /// The protocol version of the client.
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
                    return refused(Cause::ConnectProtocol, close, format!("protocol={}", shortened(text)));
                }
            },
        };
        if strict && !request.version_is_plausible() {
            let close = Close::new(CloseCode::InvalidVersion, "Invalid version string format");
            let detail = request.version.as_deref().map(|version| format!("version={}", shortened(version)));
            return refused(Cause::ConnectVersion, close, detail);
        }
        Ok(protocol)
    }

    /// The last check: counts the connection.
    fn admit_connection(&self, app: &Arc<App>, protocol: u8, raw: Option<Vec<String>>) -> Result<Connected, Refused> {
        // Read once: a reload may change it.
        let in_quota = !app.rules().limits().enable_user_authentication;
        if in_quota {
            self.count_in_quota(app).or_else(|close| refused(Cause::ConnectAppFull, close, app.quota()))?;
        }
        app.connection_opened();
        Ok(Connected { app: Arc::clone(app), protocol, in_quota, raw })
    }

    /// Counts a connection towards its app's quota.
    pub fn count_in_quota(&self, app: &App) -> Result<(), Close> {
        if app.state.connect(app.rules().connections_max()) {
            return Ok(());
        }
        Err(Close::new(CloseCode::OverQuota, "Application is over connection quota"))
    }

    /// Counts a connection with a public channel that is not authorized. It is outside the quota; as many of these are
    /// allowed as of the others.
    pub fn count_unauthorized(&self, app: &Arc<App>) -> Result<Unauthorized, Close> {
        let max = app.rules().connections_max();
        let one_more = |count: usize| (max.is_none_or(|max| count < max)).then_some(count + 1);
        match app.unauthorized.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Unauthorized(Arc::clone(app))),
            Err(_) => Err(Close::new(CloseCode::OverQuota, "Application is over connection quota")),
        }
    }

    /// Ceases to count a connection; `in_quota` tells whether it is in the quota.
    pub fn disconnect(&self, app: &App, in_quota: bool) {
        if in_quota {
            app.state.disconnect();
        }
        app.connection_closed();
    }

    /// Counts a WebSocket, accepted or not.
    pub fn socket_opened(&self) {
        self.sockets.fetch_add(1, Ordering::Relaxed);
    }

    /// Ceases to count a WebSocket.
    pub fn socket_closed(&self) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The channels of a raw client: all that the app lists, or those of them that it names.
fn raw_channels(request: &ConnectRequest, limits: &Limits) -> Result<Vec<String>, Refused> {
    let listed = &limits.raw_clients.channels;
    let named =
        request.channels.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut channels: Vec<String> = named.map(str::to_owned).collect();
    if let Some(unlisted) = channels.iter().find(|name| !listed.contains(name)) {
        let shortened = shortened(unlisted);
        let reason = format!("Raw clients may not have the channel {shortened}").into();
        let detail = format!("raw_clients lists {}, not {shortened}", listed.join(", "));
        return refused(Cause::ConnectRawChannel, Close { code: CloseCode::Unauthorized, reason }, detail);
    }
    channels.sort_unstable();
    channels.dedup();
    Ok(if channels.is_empty() { listed.clone() } else { channels })
}

/// Why a connection through a proxy does not count as TLS.
fn without_tls(request: &ConnectRequest) -> Option<String> {
    if request.has_proxy_header {
        return Some("the proxy's header does not say that the client speaks TLS (send-proxy-v2-ssl)".to_owned());
    }
    let proxy = request.untrusted_proxy.filter(|_| request.claims_tls)?;
    Some(format!(
        "X-Forwarded-Proto: https from untrusted {proxy}: add it to server.trusted_proxies if it is your proxy"
    ))
}

/// A text of a client, cut to a length that can be logged.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}
