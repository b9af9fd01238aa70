//! Close codes: they decide what clients do next (Pusher protocol, "Closing Connections"; RFC 6455, 7.4).

/// Why the server closes a connection. 4000–4099: never again; 4100–4199: after a second; 4200–4299: at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The peer broke RFC 6455.
    ProtocolError = 1002,
    /// A text message is not UTF-8.
    NotUtf8 = 1007,
    /// A message is larger than allowed.
    TooBig = 1009,
    /// The app only accepts TLS.
    TlsRequired = 4000,
    /// No app has this key.
    UnknownApp = 4001,
    /// The app is disabled.
    AppDisabled = 4003,
    /// The app has as many connections as it may.
    OverQuota = 4004,
    /// Not a path of this server.
    PathNotFound = 4005,
    /// The client's version is not a version.
    InvalidVersion = 4006,
    /// A protocol version that nobody speaks any more, or not yet.
    UnsupportedProtocol = 4007,
    /// No protocol version, while strict.
    NoProtocol = 4008,
    /// Wrong origin, not authorized in time, or terminated by the application.
    Unauthorized = 4009,
    /// The server, or the client's own connection, cannot keep up; or it leaves, and nobody is there in its place.
    OverCapacity = 4100,
    /// The server is leaving, and another one is there.
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

/// A client event was refused by the rate limit. Only ever in a `pusher:error`, never as a close code.
pub const CLIENT_EVENT_RATE: u16 = 4301;
/// A watchlist was cut. Only ever in a `pusher:error`, never as a close code.
pub const WATCHLIST_LIMIT: u16 = 4302;

/// A close with its reason, to be told to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Decides what the client does next.
    pub code: CloseCode,
    /// For the person who debugs the client; no secrets.
    pub reason: std::borrow::Cow<'static, str>,
}

/// The application wants the user's connections closed.
pub const TERMINATED: Close = Close::new(CloseCode::Unauthorized, "You got disconnected by the app.");

/// What a grant lets the connection see it sees no longer; it is to come back with a new one.
pub const VIEW_ENDED: Close = Close::new(CloseCode::Reconnect, "A grant has expired. Please reconnect for a new one.");

impl Close {
    /// A close with a fixed reason.
    pub const fn new(code: CloseCode, reason: &'static str) -> Self {
        Self { code, reason: std::borrow::Cow::Borrowed(reason) }
    }
}
