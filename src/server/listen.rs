//! Ports and their HTTP connections: binds, accepts, serves requests and hands WebSockets over.
//! `Server::start` creates a listener per shard, and one for the metrics port.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::http;
use crate::http::Client;
use crate::http::Routes;
use crate::limiter::http_connections::HttpConnection;
use crate::limiter::http_connections::HttpConnections;
use crate::node::Node;
use crate::protocol::proxy::ProxyHeader;
use crate::refusal::Cause;
use crate::refusal::Subject;
use crate::server::body::UnreadBody;
use crate::server::stream::Stream;
use crate::server::tls_handshake::FirstBytes;
use crate::server::tls_handshake::TlsHandshake;
use crate::tasks::Tasks;

/// Bytes that the kernel buffers unsent for a connection. A stalled reader then holds under half a megabyte of kernel
/// memory instead of four; a lower mark costs speed.
const NOTSENT_LOWAT: u32 = 128 * 1024;
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after the system had no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are accepted in a row, before the first of them is served.
const ACCEPTED_AT_ONCE: u64 = 4;
/// Pause while the limit is reached and every connection has a request under way.
const CAPACITY_PAUSE: Duration = Duration::from_millis(5);

/// Connections in the kernel's queue that are still accepted when the server drains.
const LATE_MAX: usize = 1024;
/// How long a keep-alive connection stays when the server drains. A busy publisher has its next request under way; the
/// response says that it was the last.
const LAST_REQUEST_TIME: Duration = Duration::from_millis(200);

/// How long a peer may leave data unacknowledged or unread: longer than the default time for a ping and its answer,
/// which ends a WebSocket earlier.
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(180);

/// Binds a port `count` times: each shard has its own listener. Fails when another process listens there, unless the
/// port is `shared`.
///
/// The kernel lets two processes share a port if both ask for it, as Soketi always does; each would get half of the
/// clients. So the first socket binds without sharing.
pub(super) fn bind(
    address: SocketAddr,
    backlog: u32,
    count: usize,
    shared: bool,
) -> io::Result<Vec<std::net::TcpListener>> {
    let first = socket(address, shared)?;
    if count > 1 {
        first.set_reuse_port(true)?;
    }
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(socket(address, true)?);
    }
    let listen = |socket: Socket| {
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    sockets.into_iter().map(listen).collect()
}

/// Whether another process listens there.
pub(super) fn is_shared(address: SocketAddr) -> bool {
    // A port that the kernel chooses belongs to nobody else.
    address.port() != 0 && socket(address, false).is_err()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Connections inherit these from their listener. gema coalesces writes itself, without Nagle.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A bound port with its handler.
#[derive(Debug)]
pub(super) struct Listener {
    listener: std::net::TcpListener,
    tasks: Tasks,
    port: Arc<Port>,
    closed: CancellationToken,
}

/// The settings and state for all connections of a port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) node: Arc<Node>,
    pub(super) routes: Routes,
    /// With it the port accepts TLS only.
    pub(super) tls: Option<TlsHandshake>,
    /// How long a client may take for a TLS handshake, and for a request's head.
    pub(super) head_time: Duration,
    /// The connections of all ports that are not WebSockets.
    pub(super) http_connections: Arc<HttpConnections>,
    /// Whether trusted proxies send a PROXY header on each connection.
    pub(super) reads_headers: bool,
    /// Whether an answer that nobody reads ends with the drain: a viewer who does not read must not hold it up.
    pub(super) cuts_answers: bool,
}

impl Port {
    /// The port of metrics and the operator's page, without TLS.
    pub(super) fn of_metrics(
        node: &Arc<Node>,
        routes: Routes,
        head_time: Duration,
        http_connections: Arc<HttpConnections>,
    ) -> Self {
        let node = Arc::clone(node);
        Self { node, routes, tls: None, head_time, http_connections, reads_headers: false, cuts_answers: true }
    }
}

impl Listener {
    pub(super) fn new(listener: std::net::TcpListener, tasks: Tasks, port: Port) -> Self {
        Self { listener, tasks, port: Arc::new(port), closed: CancellationToken::new() }
    }

    /// Cancelled when no more connections are accepted.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Accepts connections on the current runtime until the tasks stop.
    pub(super) fn serve(self) -> io::Result<Tasks> {
        let listener = TcpListener::from_std(self.listener)?;
        let (port, tasks) = (self.port, self.tasks.clone());
        let closed = self.closed.drop_guard();
        self.tasks.spawn(async move {
            let _closed = closed;
            let serve = |stream, peer| {
                let http_connection = port.connected(peer);
                tasks.spawn(Arc::clone(&port).connection(stream, peer, http_connection, tasks.clone()));
            };
            for number in 1_u64.. {
                if number.is_multiple_of(ACCEPTED_AT_ONCE) {
                    // The connections so far may have sent their requests already, and are not silent.
                    tokio::task::yield_now().await;
                }
                // Connections beyond the limit wait in the kernel.
                let accepted = async {
                    while !port.has_capacity() {
                        tokio::time::sleep(CAPACITY_PAUSE).await;
                    }
                    listener.accept().await
                };
                match tasks.stop().run_until_cancelled(accepted).await {
                    None => break,
                    Some(Ok((stream, peer))) => serve(stream, peer),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            // The kernel has accepted these; they would be reset.
            let Ok(waiting) = listener.into_std() else { return };
            for (stream, peer) in std::iter::from_fn(|| waiting.accept().ok()).take(LATE_MAX) {
                if let Ok(stream) = nonblocking(stream) {
                    serve(stream, peer);
                }
            }
        });
        Ok(self.tasks)
    }
}

fn nonblocking(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

impl Port {
    /// Serves one connection until it ends, becomes a WebSocket or is closed for another one.
    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        mut http_connection: HttpConnection,
        tasks: Tasks,
    ) {
        let mut from = ProxyHeader::UNKNOWN;
        let mut tcp = tcp;
        if self.reads_headers {
            let Some(Some(with_header)) = http_connection.unless_closed(self.read_proxy_header(tcp, peer)).await else {
                return;
            };
            (tcp, from) = with_header;
            if let Some(client) = from.client {
                http_connection = self.connected(client);
            }
        }
        let peer = from.client.unwrap_or(peer);
        let serve = async {
            let stream = match &self.tls {
                None => Some(Stream::plain(tcp, Client::new(peer, from.secure))),
                Some(tls) => Box::pin(self.accept_tls(tls, tcp, peer)).await,
            };
            if let Some(stream) = stream {
                if from.client.is_some() {
                    stream.client().mark_proxy_header();
                }
                self.http(stream, &http_connection, &tasks).await;
            }
        };
        http_connection.unless_closed(serve).await;
    }

    /// Does the TLS handshake. A connection without TLS goes on, to get an error.
    async fn accept_tls(&self, tls: &TlsHandshake, tcp: TcpStream, peer: SocketAddr) -> Option<Stream> {
        let (true, is_counted) = self.may_handshake(peer) else { return None };
        let opened = tokio::time::timeout(self.head_time, tls.open(tcp)).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let client = if is_counted { Client::with_counted_handshake } else { Client::new };
        match opened {
            Ok(FirstBytes::Tls(stream)) => return Some(Stream::tls(*stream, client(peer, true))),
            Ok(FirstBytes::Plain(tcp)) => {
                self.refuse(Cause::PlainOnTlsPort, peer, None);
                return Some(Stream::plain(tcp, Client::new(peer, false)));
            }
            Ok(FirstBytes::ProxyHeader) => self.refuse_proxy_header(peer),
            Ok(FirstBytes::Gone) => (),
            Err(error) => {
                self.refuse(Cause::TlsHandshake, peer, Some(&error));
            }
        }
        None
    }

    /// Serves the requests of a connection.
    async fn http(&self, stream: Stream, http_connection: &HttpConnection, tasks: &Tasks) {
        let client = stream.client().clone();
        let is_allowed = client.is_secure() || self.tls.is_none();
        let (stop, unread) = (tasks.stop(), UnreadBody::default());
        let service = service_fn(|request: Request<Incoming>| {
            let (client, unread, is_last) = (&client, &unread, stop.is_cancelled() || !is_allowed);
            http_connection.on_request();
            async move {
                let waits = request.headers().contains_key(header::EXPECT);
                let request = request.map(|body| unread.watch(body));
                let mut response = match is_allowed {
                    true => self.routes.answer(request, client).await,
                    false => http::tls_required(),
                };
                let is_read = unread.read(waits).await;
                if (is_last || !is_read) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                http_connection.on_response();
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_time)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(stream, service);
        let outcome = match stop.run_until_cancelled(&mut connection).await {
            Some(outcome) => outcome,
            None => match tokio::time::timeout(LAST_REQUEST_TIME, &mut connection).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    Pin::new(&mut connection).graceful_shutdown();
                    match self.cuts_answers {
                        false => (&mut connection).await,
                        true => match tokio::time::timeout(LAST_REQUEST_TIME, &mut connection).await {
                            Ok(outcome) => outcome,
                            Err(_) => return,
                        },
                    }
                }
            },
        };
        let parts = connection.into_parts();
        if parts.io.speaks_tls() {
            return self.refuse(Cause::TlsOnPlainPort, client.address(), None);
        }
        if parts.io.has_proxy_header() {
            return self.refuse_proxy_header(client.address());
        }
        let broken = outcome.as_ref().err().filter(|error| error.is_parse());
        if let Some(error) = broken {
            self.refuse(Cause::InvalidHttp, client.address(), Some(error));
        }
        if unread.is_left() || broken.is_some() {
            http_connection.on_linger();
            Box::pin(tokio::time::timeout(self.head_time, parts.io.linger())).await.unwrap_or_default();
        } else if outcome.is_ok() {
            // hyper has answered what can be answered; other errors are the peer's.
            parts.io.hand_over(parts.read_buf);
        }
    }

    /// Counts and logs a refusal before the app is known.
    pub(super) fn refuse(&self, cause: Cause, peer: impl Into<Option<SocketAddr>>, detail: Option<&dyn Display>) {
        let address = peer.into().map(|peer| peer.ip().to_canonical());
        self.node.refusals().add(cause, &Subject { address, detail, ..Subject::default() });
    }
}
