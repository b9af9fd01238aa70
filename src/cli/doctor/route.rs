//! The way to an address: its name, its port, and TLS or not. A fault is noted, and the way goes on as the server
//! wants it, so that the later steps are tested all the same.
//! `doctor` finds a route to each address; `exchange` opens connections on it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::certificate::Judge;
use crate::cli::doctor::report::Outcome;
use crate::cli::doctor::report::Step;
use crate::cli::doctor::target::Source;
use crate::cli::doctor::target::Target;

/// How long one address of a name may take to connect.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// How long an answer may take.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The port of Soketi and gema.
const USUAL_PORT: u16 = 6001;

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A way to the server that works.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The address, with TLS or not as the port really speaks.
    pub(super) target: Target,
    pub(super) address: SocketAddr,
    judge: Arc<Judge>,
}

impl Route {
    /// Opens a connection.
    pub(super) async fn open(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = connect(self.address).await?;
        if self.target.tls { self.secure(tcp).await } else { Ok(Box::new(tcp)) }
    }

    /// Whether the last connection had a certificate that a client would refuse.
    pub(super) fn is_certificate_wrong(&self) -> bool {
        self.judge.verdict().is_some()
    }

    async fn secure(&self, tcp: TcpStream) -> io::Result<Box<dyn Stream>> {
        let config = self.judge.client().map_err(io::Error::other)?;
        let name = self.target.host.clone().try_into().map_err(io::Error::other)?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        Ok(Box::new(timeout(ANSWER_TIME, handshake).await.map_err(io::Error::from)??))
    }
}

/// Finds a route, and what is wrong with the address. `ports` are others on which the server may be.
pub(super) async fn find(target: Target, ports: &[u16]) -> (Vec<Step>, Option<Route>) {
    let mut steps = Vec::new();
    let addresses = match resolve(&target).await {
        Ok(addresses) => addresses,
        Err(detail) => {
            steps.push(Step::failed("name", Cause::NameNotResolved, detail));
            return (steps, None);
        }
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let shown = shown.join(", ");
    steps.push(match shown == target.host {
        true => Step::passed("name", format!("{shown} is an address, not a name")),
        false => Step::passed("name", format!("{} is {shown}", target.host)),
    });
    let address = match reach(&addresses).await {
        Ok(address) => address,
        Err(error) => {
            steps.push(unreachable(&target, addresses[0], &error, ports).await);
            return (steps, None);
        }
    };
    steps.push(Step::passed("port", format!("{address} is open")));
    let mut route = Route { target, address, judge: Judge::new() };
    let step = if route.target.tls { check_tls(&mut route).await } else { check_plain(&mut route).await };
    let is_usable = !matches!(step.outcome, Outcome::Failed(Cause::TlsFailed, _));
    steps.push(step);
    (steps, is_usable.then_some(route))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(ANSWER_TIME, tokio::net::lookup_host((target.host.as_str(), target.port))).await;
    match found {
        Err(_) => Err(format!("{}: the DNS does not answer", target.host)),
        Ok(Err(error)) => Err(format!("{}: {error}", target.host)),
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses.collect();
            addresses.dedup();
            if addresses.is_empty() { Err(target.host.clone()) } else { Ok(addresses) }
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIME, TcpStream::connect(address)).await.map_err(io::Error::from)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first address that takes a connection, or the last error.
async fn reach(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
    let mut last = io::Error::other("no address");
    for &address in addresses {
        match connect(address).await {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why no connection is possible. A server on another port of the same machine is looked for.
async fn unreachable(target: &Target, address: SocketAddr, error: &io::Error, ports: &[u16]) -> Step {
    if error.kind() == io::ErrorKind::TimedOut {
        return Step::failed("port", Cause::PortSilent, address.to_string());
    }
    if error.kind() != io::ErrorKind::ConnectionRefused {
        return Step::failed("port", Cause::PortSilent, format!("{address}: {error}"));
    }
    match (target.source, server_nearby(target.port, address, ports).await) {
        (Source::Laravel(start), Some(other)) => {
            let detail = format!("{start}_PORT leads to port {}, but a server answers on port {other}", target.port);
            Step::failed("port", Cause::EnvOtherPort, detail)
        }
        (_, Some(other)) => {
            Step::failed("port", Cause::PortClosed, format!("{address}; but a server answers on port {other}"))
        }
        _ if address.ip().is_loopback() => {
            Step::failed("port", Cause::ServerNotRunning, format!("nothing listens on {address}"))
        }
        _ => Step::failed("port", Cause::PortClosed, address.to_string()),
    }
}

/// The first of some other ports of this machine on which a server answers. Without any, the usual one is tried.
async fn server_nearby(port: u16, address: SocketAddr, ports: &[u16]) -> Option<u16> {
    let ports = if ports.is_empty() { &[USUAL_PORT] } else { ports };
    for &other in ports.iter().filter(|other| **other != 0 && **other != port) {
        if serves(SocketAddr::new(address.ip(), other)).await {
            return Some(other);
        }
    }
    None
}

/// Whether an HTTP server, with TLS or not, is at an address.
async fn serves(address: SocketAddr) -> bool {
    match connect(address).await {
        Ok(stream) => greet(stream, "localhost", "/").await.is_ok_and(|answer| !answer.is_empty()),
        Err(_) => false,
    }
}

/// The begin of the answer to a plain request.
async fn greet(mut stream: impl Stream, host: &str, path: &str) -> io::Result<Vec<u8>> {
    const BYTES_MAX: usize = 4096;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        while answer.len() < BYTES_MAX && stream.read_buf(&mut answer).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match timeout(ANSWER_TIME, exchange).await {
        Ok(Err(error)) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// Whether the port speaks TLS, and whether clients take its certificate.
async fn check_tls(route: &mut Route) -> Step {
    let Err(error) = route.open().await else {
        return match route.judge.verdict() {
            None => Step::passed("tls", "the certificate is right"),
            Some((cause, detail)) => Step::failed("tls", cause, detail),
        };
    };
    let plain = match connect(route.address).await {
        Ok(tcp) => greet(tcp, &route.target.authority(), &format!("{}/", route.target.prefix)).await,
        Err(error) => Err(error),
    };
    if plain.is_ok_and(|answer| answer.starts_with(b"HTTP/1.")) {
        route.target.tls = false;
        return other_scheme(&route.target, Cause::TlsOnPlainPort);
    }
    Step::failed("tls", Cause::TlsFailed, error.to_string())
}

/// Whether the port speaks plain HTTP.
async fn check_plain(route: &mut Route) -> Step {
    let greeted = match connect(route.address).await {
        Ok(tcp) => greet(tcp, &route.target.authority(), &format!("{}/", route.target.prefix)).await,
        Err(error) => Err(error),
    };
    let answer = greeted.unwrap_or_default();
    // gema and nginx answer such a request with 400 and a sentence, others with an alert of TLS or not at all.
    let is_http = answer.starts_with(b"HTTP/1.") && !answer.starts_with(b"HTTP/1.1 400");
    if !is_http {
        let secured = Route { target: Target { tls: true, ..route.target.clone() }, ..route.clone() };
        if secured.open().await.is_ok() {
            route.target.tls = true;
            return other_scheme(&route.target, Cause::PlainOnTlsPort);
        }
    }
    Step::passed("tls", "the port speaks plain HTTP, as the address says")
}

/// The fault of an address whose scheme is wrong; `target` has the right one.
fn other_scheme(target: &Target, cause: Cause) -> Step {
    let (right, wrong) = if target.tls { ("https", "http") } else { ("http", "https") };
    match target.source {
        Source::Laravel(start) => {
            let detail = format!("{start}_SCHEME is {wrong}, but port {} speaks {right}", target.port);
            Step::failed("tls", Cause::EnvOtherScheme, detail)
        }
        _ => Step::failed("tls", cause, format!("{wrong}:// to port {}", target.port)),
    }
}
