//! The floor: what reads publishes and writes frames, with nothing in between.
//!
//! One thread. Reads all that a poll round brings, puts each channel's frames into one buffer, and sends that
//! buffer to each subscriber. No signatures, no limits, no checks: whatever this needs, every server needs.

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::Deserialize;
use serde_json::value::RawValue;
use socket2::{Domain, Socket, Type};

use crate::frame::{self, opcode};

/// The kernel's own limit. With mio's 128 a burst of connections waits a second for its second SYN.
const BACKLOG: i32 = 4096;
const LISTENER: Token = Token(usize::MAX);
/// The answer to the constant key of this tool's clients.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const ACCEPTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const GREETING: &str = "{\"event\":\"pusher:connection_established\",\
    \"data\":\"{\\\"socket_id\\\":\\\"1.1\\\",\\\"activity_timeout\\\":120}\"}";

/// Binds, prints the port on a line of its own, and serves until it is killed.
pub(crate) fn run(port: u16) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into());
    println!("{}", listener.local_addr()?.port());
    FloorServer::new(listener)?.serve()
}

struct FloorServer {
    listener: TcpListener,
    poll: Poll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    /// Peers that have gone in this round. Their places stay empty until all of it is sent.
    gone: Vec<usize>,
    channels: HashMap<String, Channel>,
    chunk: Vec<u8>,
}

struct Peer {
    stream: TcpStream,
    /// Speaks WebSocket by now.
    upgraded: bool,
    got: Vec<u8>,
    unsent: Vec<u8>,
    channels: Vec<String>,
    ended: bool,
}

#[derive(Default)]
struct Channel {
    subscribers: BTreeSet<usize>,
    pending: Vec<u8>,
}

#[derive(Deserialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    channels: Vec<&'a str>,
    channel: Option<&'a str>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Event<'a>>,
}

#[derive(Deserialize)]
struct Message {
    event: String,
    data: MessageData,
}

#[derive(Deserialize, Default)]
struct MessageData {
    channel: Option<String>,
}

impl FloorServer {
    fn new(mut listener: TcpListener) -> Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            listener,
            poll,
            peers: Vec::new(),
            free: Vec::new(),
            gone: Vec::new(),
            channels: HashMap::new(),
            chunk: vec![0; 65536],
        })
    }

    fn serve(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(number) => self.turn(number)?,
                }
            }
            self.flush();
            self.forget();
        }
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((mut stream, _)) = self.listener.accept() {
            stream.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or(self.peers.len());
            self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            let peer = Peer {
                stream,
                upgraded: false,
                got: Vec::new(),
                unsent: Vec::new(),
                channels: Vec::new(),
                ended: false,
            };
            match self.peers.get_mut(number) {
                Some(place) => *place = Some(peer),
                None => self.peers.push(Some(peer)),
            }
        }
        Ok(())
    }

    fn turn(&mut self, number: usize) -> Result<()> {
        // Taken out for its turn, so that it may reach the channels.
        let Some(mut peer) = self.peers.get_mut(number).and_then(Option::take) else { return Ok(()) };
        peer.send(b"");
        peer.receive(&mut self.chunk);
        let got = std::mem::take(&mut peer.got);
        let mut used = 0;
        while let Some(length) = match peer.upgraded {
            true => self.frame(number, &mut peer, &got[used..])?,
            false => self.request(&mut peer, &got[used..])?,
        } {
            used += length;
        }
        peer.got = got[used..].to_vec();
        if peer.ended {
            self.gone.push(number);
        }
        self.peers[number] = Some(peer);
        Ok(())
    }

    /// Takes one HTTP request, if it is whole; returns its length.
    fn request(&mut self, peer: &mut Peer, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = str::from_utf8(&bytes[..head_end])?;
        if head.contains("Upgrade: websocket") {
            peer.upgraded = true;
            peer.send(UPGRADED);
            peer.send_text(GREETING);
            return Ok(Some(head_end + 4));
        }
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let length = header("Content-Length: ").and_then(|length| length.parse().ok()).unwrap_or(0);
        let Some(body) = bytes.get(head_end + 4..head_end + 4 + length) else { return Ok(None) };
        peer.send(ACCEPTED);
        if head.starts_with("POST") {
            self.publish(body).context("this is no publish")?;
        }
        if header("Connection: ") == Some("close") {
            peer.ended = true;
        }
        Ok(Some(head_end + 4 + length))
    }

    fn publish(&mut self, body: &[u8]) -> Result<()> {
        let events = match body.starts_with(b"{\"batch\"") {
            true => serde_json::from_slice::<Batch>(body)?.batch,
            false => vec![serde_json::from_slice::<Event>(body)?],
        };
        for event in &events {
            for name in event.channels.iter().chain(&event.channel) {
                let Some(channel) = self.channels.get_mut(*name) else { continue };
                let (event, data) = (event.name, event.data.get());
                let text = format!(r#"{{"event":"{event}","channel":"{name}","data":{data}}}"#);
                frame::plain(&mut channel.pending, opcode::TEXT, text.as_bytes());
            }
        }
        Ok(())
    }

    /// Takes one frame of a client, if it is whole; returns its length.
    fn frame(&mut self, number: usize, peer: &mut Peer, bytes: &[u8]) -> Result<Option<usize>> {
        let Some(frame) = frame::first(bytes) else { return Ok(None) };
        match frame.opcode {
            opcode::TEXT => {
                let message: Message = serde_json::from_slice(&frame::unmasked(bytes, frame))?;
                if let ("pusher:subscribe", Some(name)) = (message.event.as_str(), message.data.channel) {
                    peer.send_text(&format!(
                        r#"{{"event":"pusher_internal:subscription_succeeded","data":"{{}}","channel":"{name}"}}"#
                    ));
                    self.channels.entry(name.clone()).or_default().subscribers.insert(number);
                    peer.channels.push(name);
                }
            }
            opcode::CLOSE => peer.ended = true,
            _ => (),
        }
        Ok(Some(frame.end))
    }

    fn flush(&mut self) {
        for channel in self.channels.values_mut().filter(|channel| !channel.pending.is_empty()) {
            for &number in &channel.subscribers {
                if let Some(Some(peer)) = self.peers.get_mut(number) {
                    peer.send(&channel.pending);
                }
            }
            channel.pending.clear();
        }
    }

    fn forget(&mut self) {
        for number in self.gone.drain(..) {
            let Some(peer) = self.peers[number].take() else { continue };
            for name in &peer.channels {
                if let Some(channel) = self.channels.get_mut(name) {
                    channel.subscribers.remove(&number);
                }
            }
            self.free.push(number);
        }
    }
}

impl Peer {
    /// Sends at once what the socket takes, behind what it did not take before.
    fn send(&mut self, bytes: &[u8]) {
        if self.unsent.is_empty() {
            let written = write_some(&mut self.stream, bytes);
            self.unsent.extend_from_slice(&bytes[written..]);
        } else {
            self.unsent.extend_from_slice(bytes);
            let written = write_some(&mut self.stream, &self.unsent);
            self.unsent.drain(..written);
        }
    }

    fn send_text(&mut self, text: &str) {
        let mut bytes = Vec::new();
        frame::plain(&mut bytes, opcode::TEXT, text.as_bytes());
        self.send(&bytes);
    }

    fn receive(&mut self, chunk: &mut [u8]) {
        loop {
            match self.stream.read(chunk) {
                Ok(0) => return self.ended = true,
                Ok(read) => self.got.extend_from_slice(&chunk[..read]),
                Err(error) => return self.ended |= error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

/// How much the socket took. A peer that is gone shows when it is read.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(more @ 1..) => written += more,
            _ => break,
        }
    }
    written
}
