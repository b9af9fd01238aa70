//! Ports, and the HTTP connections that come in there.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
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

use crate::http::Client;
use crate::http::Routes;
use crate::server::stream::Stream;
use crate::tasks::Tasks;

/// Bytes that the kernel takes of a connection before it has sent them. A stalled reader then holds under
/// half a megabyte of kernel memory instead of four; a lower mark costs speed.
const NOTSENT_LOWAT: u32 = 128 * 1024;
/// Room for a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after the system had no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are accepted at once when the server leaves, because they were waiting for it.
const LATE_MAX: usize = 1024;
/// How long a kept connection stays when the server leaves. A publisher that is busy has its next request under
/// way; its answer says that it was the last one.
const LAST_REQUEST_TIME: Duration = Duration::from_millis(200);

/// How long a peer may leave what it was sent unacknowledged, or not take it at all: longer than the default
/// time for a ping and its answer, which end a WebSocket before.
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(180);

/// Binds a port so many times: each shard has a listener of its own.
pub(super) fn bind(address: SocketAddr, backlog: u32, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let mut sockets = vec![socket(address, true)?];
    let address = sockets[0].local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    for _ in 1..count {
        sockets.push(socket(address, true)?);
    }
    let listen = |socket: Socket| {
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    sockets.into_iter().map(listen).collect()
}

/// Fails when another process listens there. The kernel lets two processes share a port if both want to; each then
/// sees half of the clients.
pub(super) fn ensure_free(address: SocketAddr) -> io::Result<()> {
    // One that the kernel chooses itself nobody else has.
    if address.port() == 0 { Ok(()) } else { socket(address, false).map(drop) }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Connections inherit these from their listener. Coalescing is ours, not Nagle's.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A bound port and who answers there.
#[derive(Debug)]
pub(super) struct Listener {
    listener: std::net::TcpListener,
    routes: Routes,
    tasks: Tasks,
    head_time: Duration,
    closed: CancellationToken,
}

impl Listener {
    /// `head_time` is how long a client may take for a request's head.
    pub(super) fn new(listener: std::net::TcpListener, routes: Routes, tasks: Tasks, head_time: Duration) -> Self {
        Self { listener, routes, tasks, head_time, closed: CancellationToken::new() }
    }

    /// Cancelled when nobody is accepted any more.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Accepts connections on the current runtime until the tasks are told to stop.
    pub(super) fn serve(self) -> io::Result<Tasks> {
        let listener = TcpListener::from_std(self.listener)?;
        let (routes, tasks, head_time) = (Arc::new(self.routes), self.tasks.clone(), self.head_time);
        let closed = self.closed.drop_guard();
        self.tasks.spawn(async move {
            let _closed = closed;
            let serve = |stream, peer| {
                tasks.spawn(connection(stream, Client::new(peer), Arc::clone(&routes), tasks.clone(), head_time));
            };
            while let Some(accepted) = tasks.stop().run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, peer)) => serve(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
            // The kernel has let these in; they would be cut off.
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

/// One HTTP connection, until it ends or becomes a WebSocket.
async fn connection(stream: TcpStream, client: Client, routes: Arc<Routes>, tasks: Tasks, head_time: Duration) {
    let stream = Stream::new(stream, client.clone());
    let stop = tasks.stop();
    let service = service_fn(move |request| {
        let (routes, client, is_last) = (Arc::clone(&routes), client.clone(), stop.is_cancelled());
        async move {
            let mut response = routes.answer(request, &client).await;
            if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(stream, service);
    let outcome = match tasks.stop().run_until_cancelled(&mut connection).await {
        Some(outcome) => outcome,
        None => match tokio::time::timeout(LAST_REQUEST_TIME, &mut connection).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        },
    };
    // What goes wrong on a connection is its peer's affair; hyper has answered what can be answered.
    if outcome.is_ok() {
        let parts = connection.into_parts();
        parts.io.hand_over(parts.read_buf);
    }
}
