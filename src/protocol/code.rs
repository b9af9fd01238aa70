//! Close codes, which decide how clients reconnect (Pusher protocol, "Closing Connections"; RFC 6455, 7.4).
//! `node`, `session` and `shard` close connections with them.

/// Why the server closes a connection. Clients do not reconnect after 4000–4099, reconnect after a second with
/// 4100–4199, and at once with 4200–4299.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The peer broke RFC 6455.
    ProtocolError = 1002,
    /// A text message is not UTF-8, or a compressed one is damaged.
    InvalidPayload = 1007,
    /// A message is larger than allowed.
    TooBig = 1009,
    /// The app only accepts TLS.
    TlsRequired = 4000,
    /// No app has this key.
    UnknownApp = 4001,
    /// The app is disabled.
    AppDisabled = 4003,
    /// The app has as many connections as allowed.
    OverQuota = 4004,
    /// The path is unknown.
    PathNotFound = 4005,
    /// The client's version has no valid form.
    InvalidVersion = 4006,
    /// An unsupported protocol version.
    UnsupportedProtocol = 4007,
    /// No protocol version, while strict.
    NoProtocol = 4008,
    /// Wrong origin, not authorized in time, or terminated by the application.
    Unauthorized = 4009,
    /// The server or the client's connection cannot keep up; or the server drains without a peer.
    OverCapacity = 4100,
    /// The server drains, and a peer is there.
    Reconnect = 4200,
    /// The peer did not answer a ping.
    PongMissing = 4201,
}

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// A client event exceeds the rate limit. Only in a `pusher:error`, never as a close code.
pub const CLIENT_EVENT_RATE: u16 = 4301;
/// A watchlist was cut. Only in a `pusher:error`, never as a close code.
pub const WATCHLIST_LIMIT: u16 = 4302;

/// A close code with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Decides what the client does next.
    pub code: CloseCode,
    /// For developers; holds no secret.
    pub reason: std::borrow::Cow<'static, str>,
}

/// The application terminates the user's connections.
pub const TERMINATED: Close = Close::new(CloseCode::Unauthorized, "You got disconnected by the app.");

/// The connection's grant has expired; it should reconnect with a new one.
pub const VIEW_ENDED: Close = Close::new(CloseCode::Reconnect, "A grant has expired. Please reconnect for a new one.");

/// The app accepts no connections.
pub const APP_DISABLED: Close = Close::new(CloseCode::AppDisabled, "Application disabled");

/// The connection was not authorized in time.
pub const NOT_AUTHORIZED: Close = Close::new(CloseCode::Unauthorized, "Connection not authorized within timeout");

/// The peer did not answer a ping.
pub const PONG_MISSING: Close = Close::new(CloseCode::PongMissing, "Pong reply not received");

/// The reader cannot keep up with what it subscribed to.
pub const TOO_SLOW: Close =
    Close::new(CloseCode::OverCapacity, "The connection is too slow for what it has subscribed to");

impl Close {
    /// A close with a fixed reason.
    pub const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason: std::borrow::Cow::Borrowed(reason) }
    }
}
