//! The WebSocket upgrade (RFC 6455, 4.2; Pusher protocol, "Upgrade").
//! [`Routes::answer`](crate::http::Routes::answer) calls it; `server::stream` hands the connection over afterwards.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use axum::Extension;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::Version;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use parking_lot::Mutex;
use rustls::ServerConnection;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::Api;
use crate::http::forwarded;
use crate::http::head::has_token;
use crate::http::response;
use crate::http::response::Refusal;
use crate::protocol::connect::ConnectRequest;
use crate::protocol::extension::negotiate;
use crate::refusal::Cause;
use crate::refusal::LazyText;
use crate::refusal::Subject;
use crate::registry::inbox::Permit;
use crate::registry::inbox::ShardMessage;
use crate::registry::inbox::Upgraded;

/// The sub-protocols of Pusher's own clients start with this.
const SUB_PROTOCOL: &str = "pusher-channels-protocol-";

/// The client of an HTTP connection, which may become a WebSocket.
#[derive(Debug, Clone)]
pub struct Client(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    /// Whether it uses TLS to us.
    secure: bool,
    /// A handshake has been counted for its address, before TLS.
    is_counted: AtomicBool,
    /// The address comes from a PROXY header.
    has_proxy_header: AtomicBool,
    /// The accepted upgrade, until `server::stream` hands the connection over. hyper owns the connection while a handler
    /// runs, so the handler cannot pass it on: it leaves the upgrade here, where `Stream::poll_write` sees it and
    /// discards hyper's response. A `Mutex`, since axum keeps the client in the request's extensions, which must be
    /// `Sync`; handler and stream run on one thread, so nobody waits for it.
    pending: Mutex<Option<PendingUpgrade>>,
    /// Something is in `pending`: each write looks here, and takes no lock.
    is_upgrading: AtomicBool,
}

/// A WebSocket that begins when hyper has given the connection back.
#[derive(Debug)]
struct PendingUpgrade {
    api: Api,
    connect: ConnectRequest,
    answer: Vec<u8>,
    compresses: bool,
    /// Counts the connection for its address.
    permit: Option<Box<dyn Permit>>,
}

impl Client {
    /// A client at this address; `secure` if it uses TLS to us.
    pub fn new(address: SocketAddr, secure: bool) -> Self {
        Self(Arc::new(Peer {
            address,
            secure,
            is_counted: AtomicBool::new(false),
            has_proxy_header: AtomicBool::new(false),
            pending: Mutex::new(None),
            is_upgrading: AtomicBool::new(false),
        }))
    }

    /// Like `new`, but with a handshake that has been counted for the address.
    pub fn with_counted_handshake(address: SocketAddr, secure: bool) -> Self {
        let client = Self::new(address, secure);
        client.0.is_counted.store(true, Ordering::Relaxed);
        client
    }

    /// Whether a handshake was counted for the address and may be refunded; true once.
    pub fn take_counted_handshake(&self) -> bool {
        self.0.is_counted.load(Ordering::Relaxed) && self.0.is_counted.swap(false, Ordering::Relaxed)
    }

    /// Notes that the address comes from a PROXY header.
    pub fn mark_proxy_header(&self) {
        self.0.has_proxy_header.store(true, Ordering::Relaxed);
    }

    /// The peer's address.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The client, as the log of refusals names it.
    pub(super) fn subject(&self, api: &Api, headers: &HeaderMap) -> Subject<'static> {
        let address = api.client_address(self, headers);
        Subject { address: Some(address), ..Subject::default() }
    }

    /// Whether it uses TLS to us.
    pub fn is_secure(&self) -> bool {
        self.0.secure
    }

    /// Whether the connection becomes a WebSocket. Then hyper's own response must not be sent.
    pub fn is_upgrading(&self) -> bool {
        self.0.is_upgrading.load(Ordering::Acquire)
    }

    /// Hands the connection to its shard, after the upgrade.
    pub fn hand_over(&self, stream: std::net::TcpStream, tls: Option<Box<ServerConnection>>, read_ahead: Bytes) {
        let Some(upgrade) = self.0.pending.lock().take() else { return };
        let PendingUpgrade { api, connect: request, answer, compresses, permit } = upgrade;
        let upgraded = Upgraded { stream, tls, answer, read_ahead, request, compresses, permit };
        let message = ShardMessage::Connect(Box::new(upgraded));
        api.0.node.inboxes().send(api.0.shard, message);
    }
}

/// `GET /app/{key}` that is no handshake.
pub(super) async fn upgrade_expected(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    api.refuse_upgrade(&client, &request, Cause::NoUpgrade);
    upgrade_required("A WebSocket upgrade is expected here")
}

/// Whether a request asks for a WebSocket. The key alone suffices: some nginx configurations drop `Upgrade` and
/// `Connection`, or use HTTP/1.0, and still tunnel after 101.
pub(super) fn is_requested(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET
        && (headers.contains_key(header::SEC_WEBSOCKET_KEY) || has_token(headers, header::UPGRADE, "websocket"))
}

/// A valid upgrade request.
pub(super) struct Upgrade {
    client: Client,
    connect: ConnectRequest,
    answer: Vec<u8>,
    compresses: bool,
    permit: Option<Box<dyn Permit>>,
}

impl Upgrade {
    /// Accepts the upgrade. Errors of the Pusher protocol are reported by the shard afterwards.
    pub(super) async fn accept(mut self, api: &Api) -> Response {
        if let Some(key) = self.connect.key.as_ref().filter(|_| !self.connect.address_full) {
            // Loads the app, so that the shard need not wait for a database.
            self.connect.app_unavailable = api.0.node.load_for_client(key, &self.connect).await.is_err();
        }
        let Self { client, connect, answer, compresses, permit } = self;
        let pending = PendingUpgrade { api: api.clone(), connect, answer, compresses, permit };
        *client.0.pending.lock() = Some(pending);
        client.0.is_upgrading.store(true, Ordering::Release);
        let mut response = Response::new(Body::empty());
        // Only ends hyper's work: the shard sends the response.
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }
}

impl Api {
    /// Checks a request, and counts it for its address before anything is looked up. `path` is the one below the
    /// prefix, if it is there.
    pub(super) fn upgrade<B>(
        &self,
        path: Option<&str>,
        request: &Request<B>,
        client: &Client,
    ) -> Result<Upgrade, Box<Response>> {
        let headers = request.headers();
        let accept_key = accept_key(headers).map_err(|(cause, message)| {
            self.refuse_upgrade(client, request, cause);
            Box::new(match cause {
                Cause::WebSocketVersion => upgrade_required(message),
                _ => response::text(StatusCode::BAD_REQUEST, message),
            })
        })?;
        let mut connect = self.connect_request(path.and_then(key_of), request, client);
        let is_peer = connect.address == client.0.address.ip().to_canonical();
        if !(is_peer && client.take_counted_handshake()) {
            self.0.node.count_handshake(connect.address).map_err(|too_fast| {
                let message = "Too many connections from this address at once, try again";
                Refusal::new(Cause::AddressHandshakes, message).too_fast(too_fast).into_response()
            })?;
        }
        // Refused or not, it counts from now on.
        let permit = self.0.node.addresses().connect(connect.address);
        connect.address_full = permit.is_err();
        let permit = permit.ok().flatten().map(|place| place as Box<dyn Permit>);
        if lost_headers(request.version(), headers) {
            self.0.node.metrics().bare_handshakes.inc();
            warn_of_lost_headers(client.0.address.ip());
        }
        let extension = if self.0.node.connections().compression { extension(headers) } else { None };
        let answer = switching_protocols(&accept_key, sub_protocol(headers).as_ref(), extension);
        Ok(Upgrade { client: client.clone(), connect, answer, compresses: extension.is_some(), permit })
    }

    /// Counts and logs a request that cannot become a WebSocket.
    fn refuse_upgrade<B>(&self, client: &Client, request: &Request<B>, cause: Cause) {
        let detail = LazyText(|| explain(request));
        let subject = Subject { detail: Some(&detail), ..client.subject(self, request.headers()) };
        self.0.node.refusals().add(cause, &subject);
    }

    fn connect_request<B>(&self, key: Option<String>, request: &Request<B>, client: &Client) -> ConnectRequest {
        let (headers, peer, proxies) = (request.headers(), client.0.address.ip(), &self.0.trusted_proxies);
        let mut connect = ConnectRequest {
            key,
            app_unavailable: false,
            address_full: false,
            protocol: None,
            version: None,
            library: None,
            channels: None,
            origin: headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned),
            address: proxies.client(peer, headers),
            secure: client.is_secure() || proxies.is_secure(peer, headers),
            untrusted_proxy: proxies.untrusted(peer, headers),
            has_proxy_header: client.0.has_proxy_header.load(Ordering::Relaxed),
            claims_tls: forwarded::claims_tls(headers),
        };
        connect.read_query(request.uri().query().unwrap_or_default());
        connect
    }
}

/// The app key of `/app/{key}`, with any number of slashes. `None` if it is not UTF-8.
fn key_of(path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let (Some("app"), Some(key), None) = (segments.next(), segments.next(), segments.next()) else { return None };
    percent_encoding::percent_decode_str(key).decode_utf8().ok().map(Into::into)
}

/// The value of `Sec-WebSocket-Accept`, or why there is none.
fn accept_key(headers: &HeaderMap) -> Result<String, (Cause, &'static str)> {
    let refuse = |message| Err((Cause::WebSocketKey, message));
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version != "13") {
        return Err((Cause::WebSocketVersion, "Sec-WebSocket-Version must be 13"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter().map(HeaderValue::as_bytes);
    match (keys.next(), keys.next()) {
        (None, _) => refuse("Sec-WebSocket-Key is missing"),
        (Some(_), Some(_)) => refuse("There must be only one Sec-WebSocket-Key"),
        (Some(key), None) if is_key(key) => Ok(derive_accept_key(key)),
        (Some(_), None) => refuse("Sec-WebSocket-Key must be 16 bytes in base64"),
    }
}

/// Whether a key is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

/// Whether a proxy has dropped headers of the handshake.
fn lost_headers(version: Version, headers: &HeaderMap) -> bool {
    version < Version::HTTP_11
        || !has_token(headers, header::UPGRADE, "websocket")
        || !has_token(headers, header::CONNECTION, "upgrade")
}

/// Logged once: all come through the same proxy, and each is counted.
fn warn_of_lost_headers(proxy: IpAddr) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %proxy,
            "a WebSocket handshake came over HTTP/1.0 or without its Upgrade and Connection headers, and is served all \
             the same. If nginx is before gema, add to its location: proxy_http_version 1.1; proxy_set_header Upgrade \
             $http_upgrade; proxy_set_header Connection \"upgrade\";"
        );
    });
}

/// The whole response, in HTTP/1.1 always. Header names are spelled as in RFC 6455, unlike hyper's: some devices
/// compare them by letter case.
fn switching_protocols(accept_key: &str, sub_protocol: Option<&HeaderValue>, extension: Option<&str>) -> Vec<u8> {
    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: ";
    let mut answer = [HEAD.as_bytes(), accept_key.as_bytes()].concat();
    if let Some(sub_protocol) = sub_protocol {
        answer.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        answer.extend_from_slice(sub_protocol.as_bytes());
    }
    if let Some(extension) = extension {
        answer.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        answer.extend_from_slice(extension.as_bytes());
    }
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

fn upgrade_required(message: &'static str) -> Response {
    let mut response = response::text(StatusCode::UPGRADE_REQUIRED, message);
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// The headers of the request that matter for the upgrade, for the log.
fn explain<B>(request: &Request<B>) -> String {
    let shown = |name: HeaderName| match request.headers().get(&name) {
        Some(value) => {
            let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(64).collect();
            format!("{name}: {value}")
        }
        None => format!("no {name}"),
    };
    let headers = [header::UPGRADE, header::CONNECTION, header::SEC_WEBSOCKET_VERSION].map(shown);
    // It tests whether a proxy passes the headers on.
    let agent = request.headers().get(header::USER_AGENT);
    let by_doctor = agent.is_some_and(|agent| agent.as_bytes().starts_with(b"gema-doctor/"));
    let doctor = if by_doctor { "a test of gema doctor, no fault: " } else { "" };
    format!("{doctor}{:?} with {}", request.version(), headers.join(", "))
}

/// The answer to the offered extensions.
fn extension(headers: &HeaderMap) -> Option<&'static str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).into_iter();
    negotiate(lists.filter_map(|list| list.to_str().ok()))
}

/// The first offered sub-protocol of Pusher's, else the first offered one: some clients insist on one.
fn sub_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offered: Vec<&str> = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let own = offered.iter().find(|name| name.starts_with(SUB_PROTOCOL));
    own.or(offered.first()).and_then(|name| name.parse().ok())
}
