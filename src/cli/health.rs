//! `gema health`: asks a running server whether it is ready.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::config::Config;

/// The longest wait of `gema health`; shorter than the usual limit of a health check, 5 s.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// The URL where this configuration's server reports whether it is ready, without TLS.
pub(super) fn ready_url(config: &Config) -> anyhow::Result<String> {
    let (server, metrics) = (&config.server, &config.metrics);
    // A port with TLS or PROXY headers does not accept a plain request.
    let (key, host, port) = match config.tls.is_enabled() || server.proxy_protocol {
        true => ("metrics.port", metrics.host, metrics.port),
        false => ("server.port", server.host, server.port),
    };
    if port == 0 {
        bail!("{key} is 0, any free port; say which with --url http://127.0.0.1:PORT/ready");
    }
    let host = match host {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    Ok(format!("http://{}{}/ready", SocketAddr::new(host, port), server.path_prefix))
}

/// Succeeds if a GET of `url` is answered with 200 in time.
pub(super) fn health(url: &str) -> anyhow::Result<ExitCode> {
    let status = get_status(url).with_context(|| format!("{url} does not answer"))?;
    if status != 200 {
        bail!("{url} answers {status}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The status code of the response, which must begin within `HEALTH_TIMEOUT`.
fn get_status(url: &str) -> anyhow::Result<u16> {
    let deadline = Instant::now() + HEALTH_TIMEOUT;
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => bail!("only http:// addresses can be asked"),
        None => url,
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.to_owned() } else { format!("{host}:80") };
    // A name such as `localhost` may have several addresses, and the server listens on one of them.
    let mut addresses = address.to_socket_addrs()?;
    let connected = addresses.find_map(|address| TcpStream::connect_timeout(&address, HEALTH_TIMEOUT).ok());
    let mut stream = connected.context("nothing listens there")?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    // Only `HTTP/1.1 200` matters.
    let mut head = [0; 12];
    let mut filled = 0;
    while filled < head.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut head[filled..])? {
            0 => bail!("the connection was closed"),
            read => filled += read,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
    status.context("that is not an HTTP server")
}
