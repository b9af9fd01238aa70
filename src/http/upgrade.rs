//! From an HTTP request to a WebSocket (RFC 6455, 4.2; Pusher protocol, "Upgrade").

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Request;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use rustls::ServerConnection;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::http::Api;
use crate::http::answer;
use crate::http::answer::Refusal;
use crate::protocol::connect::ConnectRequest;
use crate::registry::inbox::Letter;
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
    accepted: Mutex<Option<(Api, ConnectRequest)>>,
}

impl Client {
    /// Somebody at this address; `secure` with TLS between.
    pub fn new(address: SocketAddr, secure: bool) -> Self {
        Self(Arc::new(Peer { address, secure, accepted: Mutex::new(None) }))
    }

    /// Whether TLS is between us.
    pub fn is_secure(&self) -> bool {
        self.0.secure
    }

    /// Whether what hyper writes now is the answer to an upgrade, the last one on the connection.
    pub fn is_accepted(&self) -> bool {
        self.0.accepted.lock().is_some()
    }

    /// Puts the connection into the shard's inbox after the upgrade.
    pub fn hand_over(
        &self,
        stream: std::net::TcpStream,
        tls: Option<Box<ServerConnection>>,
        answer: Vec<u8>,
        read_ahead: Bytes,
    ) {
        let Some((api, request)) = self.0.accepted.lock().take() else { return };
        let letter = Letter::Connect(Box::new(Upgraded { stream, tls, answer, read_ahead, request }));
        api.0.node.inboxes().send(api.0.shard, letter);
    }
}

/// `GET /app/{key}`. A key that is not UTF-8 is no path of ours.
pub(super) async fn connect(
    State(api): State<Api>,
    key: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Response {
    let mut upgrade = match api.upgrade(key.ok().map(|Path(key)| key), &request) {
        Ok(upgrade) => upgrade,
        Err(response) => return *response,
    };
    if let Some(key) = &upgrade.connect.key {
        // From now on it is known here, so that the shard need not wait for a database.
        upgrade.connect.unavailable = api.0.node.find_by_key(key).await.is_err();
    }
    upgrade.accept(api)
}

/// A WebSocket on any other path.
pub(super) async fn no_such_path(State(api): State<Api>, request: Request<Body>) -> Response {
    match api.upgrade(None, &request) {
        Ok(upgrade) => upgrade.accept(api),
        Err(response) => *response,
    }
}

/// Whether a request asks for a WebSocket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

/// A request for a WebSocket that may have one.
struct Upgrade {
    client: Client,
    connect: ConnectRequest,
    accept_key: HeaderValue,
    sub_protocol: Option<HeaderValue>,
}

impl Upgrade {
    /// Answers 101 and sees to it that the connection goes to the shard. What is wrong with the Pusher side
    /// of the request is told by the shard, after the upgrade.
    fn accept(self, api: Api) -> Response {
        *self.client.0.accepted.lock() = Some((api, self.connect));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept_key);
        if let Some(sub_protocol) = self.sub_protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, sub_protocol);
        }
        response
    }
}

impl Api {
    /// Reads a request, and counts it against what its address may do, before anything is looked up for it.
    fn upgrade(&self, key: Option<String>, request: &Request<Body>) -> Result<Upgrade, Box<Response>> {
        let accept_key = accept_key(request.headers())?;
        // hyper says so itself: not every version of HTTP can be upgraded.
        let extensions = request.extensions();
        let (Some(client), Some(_)) = (extensions.get::<Client>(), extensions.get::<OnUpgrade>()) else {
            let message = "A WebSocket upgrade is expected here";
            return Err(Box::new(answer::text(StatusCode::UPGRADE_REQUIRED, message)));
        };
        let connect = self.connect_request(key, request, client);
        self.0.node.shake_hands(connect.address).map_err(|too_fast| {
            let message = "Too many connections from this address at once, try again".to_owned();
            Refusal::TooMany { message, too_fast }.into_response()
        })?;
        let sub_protocol = sub_protocol(request.headers());
        Ok(Upgrade { client: client.clone(), connect, accept_key, sub_protocol })
    }

    fn connect_request(&self, key: Option<String>, request: &Request<Body>, client: &Client) -> ConnectRequest {
        let (headers, peer, proxies) = (request.headers(), client.0.address.ip(), &self.0.trusted_proxies);
        let mut connect = ConnectRequest {
            key,
            unavailable: false,
            protocol: None,
            version: None,
            origin: headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned),
            address: proxies.client(peer, headers),
            secure: client.is_secure() || proxies.is_secure(peer, headers),
        };
        connect.read_query(request.uri().query().unwrap_or_default());
        connect
    }
}

/// The value of `Sec-WebSocket-Accept`, or why there is none.
fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Box<Response>> {
    let upgrade_required = |message: &'static str| {
        let mut response = answer::text(StatusCode::UPGRADE_REQUIRED, message);
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        Err(Box::new(response))
    };
    if !is_wanted(headers) || !has_token(headers, header::CONNECTION, "upgrade") {
        return upgrade_required("A WebSocket upgrade is expected here");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return upgrade_required("Sec-WebSocket-Version must be 13");
    }
    let accept = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| !key.is_empty())
        .and_then(|key| derive_accept_key(key.as_bytes()).parse().ok());
    accept.ok_or_else(|| Box::new(answer::text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing")))
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

/// Whether one of a header's comma-separated tokens is this one, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut lists = headers.get_all(name).into_iter().filter_map(|list| list.to_str().ok());
    lists.any(|list| list.split(',').any(|word| word.trim().eq_ignore_ascii_case(token)))
}
