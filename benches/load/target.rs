//! The server under test: where it is and how to speak to its HTTP API.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::signature::Signer;

/// A source address has 28,000 ports, but the kernel's search for a free one becomes slow long before.
const CONNECTIONS_PER_SOURCE: usize = 5_000;

/// An address and an app's credentials.
#[derive(Clone)]
pub(crate) struct Target {
    /// Always on the loopback.
    pub(crate) address: SocketAddrV4,
    /// Signs for the app.
    pub(crate) signer: Signer,
    /// It is a Redis, where Laravel's `redis` broadcaster publishes with this prefix.
    pub(crate) redis_prefix: Option<String>,
}

impl Target {
    /// Starts to connect. The n-th connection comes from 127.0.0.1, or .2, … when there are very many.
    pub(crate) fn connect(&self, n: usize) -> Result<mio::net::TcpStream> {
        let address = SocketAddr::V4(self.address);
        let source = n / CONNECTIONS_PER_SOURCE;
        if source == 0 {
            return Ok(mio::net::TcpStream::connect(address)?);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + source as u32);
        socket.bind(&SocketAddr::from((source, 0)).into()).context("no port left to connect from")?;
        // It goes on in the background; the poll tells how it ended.
        let _ = socket.connect(&address.into());
        Ok(mio::net::TcpStream::from_std(socket.into()))
    }

    /// A message for a channel of Redis.
    pub(crate) fn message(&self, channel: &str, message: &[u8]) -> Vec<u8> {
        let name = format!("{}{channel}", self.redis_prefix.as_deref().unwrap_or_default());
        let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{name}\r\n${}\r\n", name.len(), message.len());
        [head.as_bytes(), message, b"\r\n"].concat()
    }

    /// A whole signed request.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8], close: bool) -> Vec<u8> {
        let mut request =
            format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", self.signer.target(method, path, body), self.address);
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        if close {
            request.push_str("Connection: close\r\n");
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        request
    }

    /// One signed GET on a connection of its own: status line and body.
    pub(crate) fn get(&self, path: &str) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&self.request("GET", path, b"", true))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("the server did not end its answer")?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    }
}
