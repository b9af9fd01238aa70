//! From an HTTP request to a WebSocket (RFC 6455, 4.2; Pusher protocol, "Upgrade").

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
use crate::http::answer;
use crate::http::answer::Refusal;
use crate::http::forwarded;
use crate::http::head::has_token;
use crate::protocol::connect::ConnectRequest;
use crate::refusal::Cause;
use crate::refusal::Lazily;
use crate::refusal::Subject;
use crate::registry::inbox::Permit;
use crate::registry::inbox::ShardMessage;
use crate::registry::inbox::Upgraded;

/// The sub-protocols of Pusher's own clients start with this.
const SUB_PROTOCOL: &str = "pusher-channels-protocol-";

/// Whoever is at the other end of an HTTP connection, which may become a WebSocket.
#[derive(Debug, Clone)]
pub struct Client(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    /// Whether it speaks TLS to us.
    secure: bool,
    /// A handshake has been counted for its address when it came, before TLS.
    is_counted: AtomicBool,
    /// The address is what a proxy's PROXY header says.
    is_introduced: AtomicBool,
    accepted: Mutex<Option<Accepted>>,
}

/// A WebSocket that begins as soon as hyper has given its connection back.
#[derive(Debug)]
struct Accepted {
    api: Api,
    connect: ConnectRequest,
    answer: Vec<u8>,
    /// Its place among those of its address.
    permit: Option<Box<dyn Permit>>,
}

impl Client {
    /// Somebody at this address; `secure` with TLS between.
    pub fn new(address: SocketAddr, secure: bool) -> Self {
        Self(Arc::new(Peer {
            address,
            secure,
            is_counted: AtomicBool::new(false),
            is_introduced: AtomicBool::new(false),
            accepted: Mutex::new(None),
        }))
    }

    /// The same where a handshake has been counted for the address already.
    pub fn counted(address: SocketAddr, secure: bool) -> Self {
        let client = Self::new(address, secure);
        client.0.is_counted.store(true, Ordering::Relaxed);
        client
    }

    /// Whether a handshake was counted for the address, and may be taken back, once.
    pub fn take_counted(&self) -> bool {
        self.0.is_counted.load(Ordering::Relaxed) && self.0.is_counted.swap(false, Ordering::Relaxed)
    }

    /// A PROXY header has said the address.
    pub fn introduce(&self) {
        self.0.is_introduced.store(true, Ordering::Relaxed);
    }

    /// The peer's address.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Whom a refusal of one of its requests concerns.
    pub(super) fn subject(&self, api: &Api, headers: &HeaderMap) -> Subject<'static> {
        let address = api.0.trusted_proxies.client(self.0.address.ip(), headers);
        Subject { address: Some(address), ..Subject::default() }
    }

    /// Whether TLS is between us.
    pub fn is_secure(&self) -> bool {
        self.0.secure
    }

    /// Whether the connection is to become a WebSocket: hyper's own answer must not be sent then.
    pub fn is_accepted(&self) -> bool {
        self.0.accepted.lock().is_some()
    }

    /// Puts the connection into the shard's inbox after the upgrade.
    pub fn hand_over(&self, stream: std::net::TcpStream, tls: Option<Box<ServerConnection>>, read_ahead: Bytes) {
        let Some(Accepted { api, connect: request, answer, permit }) = self.0.accepted.lock().take() else { return };
        let message = ShardMessage::Connect(Box::new(Upgraded { stream, tls, answer, read_ahead, request, permit }));
        api.0.node.inboxes().send(api.0.shard, message);
    }
}

/// `GET /app/{key}` without anything that makes it a handshake.
pub(super) async fn expected(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    request: Request<Body>,
) -> Response {
    api.no_upgrade(&client, &request, Cause::NoUpgrade);
    upgrade_required("A WebSocket upgrade is expected here")
}

/// Whether a request asks for a WebSocket. The key alone does, too: several set-ups of nginx drop `Upgrade` and
/// `Connection`, or speak HTTP/1.0, and still tunnel after 101 if their own client has asked for an upgrade.
pub(super) fn is_wanted(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET
        && (headers.contains_key(header::SEC_WEBSOCKET_KEY) || has_token(headers, header::UPGRADE, "websocket"))
}

/// A request for a WebSocket that may have one.
pub(super) struct Upgrade {
    client: Client,
    connect: ConnectRequest,
    answer: Vec<u8>,
    permit: Option<Box<dyn Permit>>,
}

impl Upgrade {
    /// Answers 101 and sees to it that the connection goes to the shard. What is wrong with the Pusher side
    /// of the request is told by the shard, after the upgrade.
    pub(super) async fn accept(mut self, api: &Api) -> Response {
        if let Some(key) = self.connect.key.as_ref().filter(|_| !self.connect.crowded) {
            // From now on it is known here, so that the shard need not wait for a database.
            self.connect.unavailable = api.0.node.find_by_key(key).await.is_err();
        }
        let Self { client, connect, answer, permit } = self;
        let accepted = Accepted { api: api.clone(), connect, answer, permit };
        *client.0.accepted.lock() = Some(accepted);
        let mut response = Response::new(Body::empty());
        // Only tells hyper that it is done: the answer is our own.
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }
}

impl Api {
    /// Reads a request, and counts it against what its address may do, before anything is looked up for it. `path` is
    /// the one below the prefix, if it is there.
    pub(super) fn upgrade<B>(
        &self,
        path: Option<&str>,
        request: &Request<B>,
        client: &Client,
    ) -> Result<Upgrade, Box<Response>> {
        let headers = request.headers();
        let accept_key = accept_key(headers).map_err(|(cause, message)| {
            self.no_upgrade(client, request, cause);
            Box::new(match cause {
                Cause::WebSocketVersion => upgrade_required(message),
                _ => answer::text(StatusCode::BAD_REQUEST, message),
            })
        })?;
        let mut connect = self.connect_request(path.and_then(key_of), request, client);
        let is_peer = connect.address == client.0.address.ip().to_canonical();
        if !(is_peer && client.take_counted()) {
            self.0.node.shake_hands(connect.address).map_err(|too_fast| {
                let message = "Too many connections from this address at once, try again";
                Refusal::new(Cause::AddressHandshakes, message).too_fast(too_fast).into_response()
            })?;
        }
        // Refused or not, it has its place from now on.
        let permit = self.0.node.addresses().connect(connect.address);
        connect.crowded = permit.is_err();
        let permit = permit.ok().flatten().map(|place| place as Box<dyn Permit>);
        if is_bare(request.version(), headers) {
            self.0.node.metrics().bare_handshakes.inc();
            warn_of_bare_handshakes(client.0.address.ip());
        }
        let answer = answer_with(&accept_key, sub_protocol(headers).as_ref());
        Ok(Upgrade { client: client.clone(), connect, answer, permit })
    }

    /// Counts and logs a request that cannot become a WebSocket.
    fn no_upgrade<B>(&self, client: &Client, request: &Request<B>, cause: Cause) {
        let detail = Lazily(|| explain(request));
        let subject = Subject { detail: Some(&detail), ..client.subject(self, request.headers()) };
        self.0.node.refusals().add(cause, &subject);
    }

    fn connect_request<B>(&self, key: Option<String>, request: &Request<B>, client: &Client) -> ConnectRequest {
        let (headers, peer, proxies) = (request.headers(), client.0.address.ip(), &self.0.trusted_proxies);
        let mut connect = ConnectRequest {
            key,
            unavailable: false,
            crowded: false,
            protocol: None,
            version: None,
            origin: headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned),
            address: proxies.client(peer, headers),
            secure: client.is_secure() || proxies.is_secure(peer, headers),
            untrusted_proxy: proxies.untrusted(peer, headers),
            is_introduced: client.0.is_introduced.load(Ordering::Relaxed),
            claims_tls: forwarded::claims_tls(headers),
        };
        connect.read_query(request.uri().query().unwrap_or_default());
        connect
    }
}

/// The app key of `/app/{key}`, however many slashes stand around the two. One that is not UTF-8 is none.
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

/// Whether it is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

/// Whether a proxy has dropped what makes a request a handshake.
fn is_bare(version: Version, headers: &HeaderMap) -> bool {
    version < Version::HTTP_11
        || !has_token(headers, header::UPGRADE, "websocket")
        || !has_token(headers, header::CONNECTION, "upgrade")
}

/// Once: all of them come through the same proxy, and each is counted.
fn warn_of_bare_handshakes(proxy: IpAddr) {
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

/// The whole answer, in HTTP/1.1 whatever the request speaks. Its names are spelled as in RFC 6455, which hyper does
/// not do: some devices compare them letter by letter.
fn answer_with(accept_key: &str, sub_protocol: Option<&HeaderValue>) -> Vec<u8> {
    const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: ";
    let mut answer = [HEAD.as_bytes(), accept_key.as_bytes()].concat();
    if let Some(sub_protocol) = sub_protocol {
        answer.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        answer.extend_from_slice(sub_protocol.as_bytes());
    }
    answer.extend_from_slice(b"\r\n\r\n");
    answer
}

fn upgrade_required(message: &'static str) -> Response {
    let mut response = answer::text(StatusCode::UPGRADE_REQUIRED, message);
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// What a request for a WebSocket says of the upgrade, for the operator.
fn explain<B>(request: &Request<B>) -> String {
    let said = |name: HeaderName| match request.headers().get(&name) {
        Some(value) => {
            let value: String = String::from_utf8_lossy(value.as_bytes()).chars().take(64).collect();
            format!("{name}: {value}")
        }
        None => format!("no {name}"),
    };
    let headers = [header::UPGRADE, header::CONNECTION, header::SEC_WEBSOCKET_VERSION].map(said);
    format!("{:?} with {}", request.version(), headers.join(", "))
}

/// The first offered one of Pusher's, else the first offered one: some clients insist on an answer.
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
