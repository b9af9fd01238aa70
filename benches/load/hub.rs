//! All WebSocket clients on one poll, with as little work for a frame as can be.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Result;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;
use socket2::SockRef;

use crate::client::{Client, Reading, State, Subscription};
use crate::clock::{self, SECOND};
use crate::compression::Inflater;
use crate::frame::{self, opcode};
use crate::histogram::Histogram;
use crate::report::Report;
use crate::target::Target;

/// Large enough that a coalesced batch is one `recv`, small enough for the CPU's cache.
const BUFFER_BYTES: usize = 512 * 1024;
/// Events of one turn.
const EVENTS_MAX: usize = 1024;

/// Receives the frames that the server sends.
pub(crate) trait Receiver {
    /// A text frame for a client that has subscribed. False if it is none of the scenario's.
    fn text(&mut self, client: usize, text: &[u8], now: u64) -> bool;
    /// All frames of one read have been passed on.
    fn read_done(&mut self, _now: u64) {}
}

/// For phases in which nothing is expected.
pub(crate) struct Nobody;

impl Receiver for Nobody {
    fn text(&mut self, _client: usize, _text: &[u8], _now: u64) -> bool {
        false
    }
}

#[derive(Clone, Copy)]
struct Readiness {
    client: usize,
    readable: bool,
    writable: bool,
    ended: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        Self {
            client: event.token().0,
            readable: event.is_readable(),
            writable: event.is_writable(),
            ended: event.is_read_closed() || event.is_error(),
        }
    }
}

/// The clients and their poll.
pub(crate) struct Hub {
    target: Target,
    poll: Poll,
    events: Events,
    turn: Vec<Readiness>,
    buffer: Vec<u8>,
    pub(crate) clients: Vec<Client>,
    /// Subscribe as soon as the connection is established.
    pub(crate) auto_subscribe: bool,
    /// Ask for compression.
    pub(crate) compressed: bool,
    inflater: Inflater,
    /// Clients that the server closed, by code.
    dropped: BTreeMap<u16, u64>,
    other_frames: u64,
    errors: u64,
    first_error: Option<String>,
    reads: u64,
    bytes_read: u64,
}

impl Hub {
    /// A hub without clients.
    pub(crate) fn new(target: &Target) -> Result<Self> {
        Ok(Self {
            target: target.clone(),
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_MAX),
            turn: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_BYTES],
            clients: Vec::new(),
            auto_subscribe: true,
            compressed: false,
            inflater: Inflater::default(),
            dropped: BTreeMap::new(),
            other_frames: 0,
            errors: 0,
            first_error: None,
            reads: 0,
            bytes_read: 0,
        })
    }

    /// Starts one client more and returns its number.
    pub(crate) fn open(&mut self, subscription: Subscription) -> Result<usize> {
        let client = self.clients.len();
        let opened = self.start(client, subscription)?;
        self.clients.push(opened);
        Ok(client)
    }

    /// Starts a client in the place of one that is gone.
    pub(crate) fn reopen(&mut self, client: usize, subscription: Subscription) -> Result<()> {
        self.clients[client] = self.start(client, subscription)?;
        Ok(())
    }

    fn start(&self, client: usize, subscription: Subscription) -> Result<Client> {
        let mut stream = self.target.connect(client)?;
        self.poll.registry().register(&mut stream, Token(client), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Client::new(stream, subscription))
    }

    /// Opens clients, `inflight` at a time, until each has come to `state` or is closed, or time is up.
    /// Returns how many have come there.
    pub(crate) fn open_all(
        &mut self,
        subscriptions: impl IntoIterator<Item = Subscription>,
        state: State,
        (inflight, seconds_max): (usize, u64),
        receiver: &mut impl Receiver,
    ) -> Result<usize> {
        let deadline = clock::now() + seconds_max * SECOND;
        let mut waiting = subscriptions.into_iter();
        let mut underway: Vec<usize> = Vec::new();
        let first = self.clients.len();
        while clock::now() < deadline {
            for subscription in waiting.by_ref().take(inflight - underway.len()) {
                underway.push(self.open(subscription)?);
            }
            if underway.is_empty() {
                break;
            }
            self.poll(Duration::from_millis(100), receiver)?;
            underway.retain(|&client| ![state, State::Closed].contains(&self.clients[client].state));
        }
        Ok(self.clients[first..].iter().filter(|client| client.state == state).count())
    }

    /// From the start of each client to its subscription.
    pub(crate) fn ready_times(&self) -> Histogram {
        let mut times = Histogram::new();
        for client in self.clients.iter().filter(|client| client.state == State::Ready) {
            times.record(client.ready_at - client.started);
        }
        times
    }

    /// Waits for the sockets at most so long, and passes on what they bring.
    pub(crate) fn poll(&mut self, wait: Duration, receiver: &mut impl Receiver) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        self.turn.clear();
        self.turn.extend(self.events.iter().map(Readiness::from));
        for place in 0..self.turn.len() {
            let ready = self.turn[place];
            if ready.writable {
                self.writable(ready.client);
            }
            if ready.readable || ready.ended {
                self.readable(ready, receiver);
            }
        }
        Ok(())
    }

    /// Polls for so many seconds.
    pub(crate) fn poll_for(&mut self, seconds: f64, receiver: &mut impl Receiver) -> Result<()> {
        let end = clock::now() + clock::nanos(seconds);
        while clock::now() < end {
            self.poll(Duration::from_millis(50), receiver)?;
        }
        Ok(())
    }

    fn writable(&mut self, client: usize) {
        let peer = &mut self.clients[client];
        if peer.requested {
            return peer.flush();
        }
        let Some(stream) = peer.stream() else { return };
        if let Ok(Some(error)) | Err(error) = stream.take_error() {
            return self.fail(client, format!("connect: {error}"));
        }
        peer.requested = true;
        let offer = match self.compressed {
            true => "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            false => "",
        };
        let request = format!(
            "GET /app/{}?protocol=7&client=js&version=8.4.0&flash=false HTTP/1.1\r\nHost: {}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n",
            self.target.signer.key(),
            self.target.address,
        );
        peer.send_raw(request.as_bytes());
    }

    fn readable(&mut self, ready: Readiness, receiver: &mut impl Receiver) {
        // Taken out, so that frames in it may be answered by `self`.
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.clients[ready.client].read(&mut buffer) {
                Reading::Nothing => break,
                Reading::Ended => {
                    self.drop_client(ready.client);
                    break;
                }
                Reading::Bytes { length, more } => {
                    self.reads += 1;
                    self.bytes_read += length as u64;
                    self.take(ready.client, &buffer[..length], receiver);
                    // The poll is edge-triggered: after a read that did not fill the buffer the socket is
                    // empty and will tell of more, except of an end that it has told of already.
                    if !more && !ready.ended {
                        break;
                    }
                }
            }
        }
        self.buffer = buffer;
    }

    fn take(&mut self, client: usize, bytes: &[u8], receiver: &mut impl Receiver) {
        let now = clock::now();
        let mut rest = bytes;
        if self.clients[client].state == State::Connecting {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return self.clients[client].keep(bytes);
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next().unwrap_or_default());
                return self.fail(client, format!("upgrade refused: {line}"));
            }
            let compressed = String::from_utf8_lossy(&bytes[..end]).contains("permessage-deflate");
            if compressed != self.compressed {
                return self.fail(client, "the server does not compress: set connections.compression".to_owned());
            }
            self.clients[client].state = State::Greeting;
            rest = &bytes[end + 4..];
        }
        while let Some(frame) = frame::first(rest) {
            let payload = &rest[frame.start..frame.end];
            // Taken out, as the buffer is.
            let mut inflater = None;
            let payload = match frame.compressed {
                true => inflater.insert(std::mem::take(&mut self.inflater)).text(payload),
                false => payload,
            };
            if frame.opcode != opcode::TEXT {
                self.control_frame(client, frame.opcode, payload);
            } else if self.clients[client].state != State::Ready || !receiver.text(client, payload, now) {
                self.protocol(client, payload, now, receiver);
            }
            if let Some(inflater) = inflater {
                self.inflater = inflater;
            }
            rest = &rest[frame.end..];
        }
        receiver.read_done(now);
        if self.clients[client].state != State::Closed {
            self.clients[client].keep(rest);
        }
    }

    fn control_frame(&mut self, client: usize, opcode: u8, payload: &[u8]) {
        let peer = &mut self.clients[client];
        match opcode {
            opcode::CLOSE => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                peer.close_code = code;
                peer.send_frame(opcode::CLOSE, &payload[..payload.len().min(2)]);
            }
            opcode::PING => peer.send_frame(opcode::PONG, payload),
            opcode::PONG => (),
            other => self.note_error(format!("frame with opcode {other:#x}")),
        }
    }

    /// Pusher's own messages: greeting, subscription, ping, error.
    fn protocol(&mut self, client: usize, text: &[u8], now: u64, receiver: &mut impl Receiver) {
        let head = String::from_utf8_lossy(&text[..text.len().min(300)]).into_owned();
        let state = self.clients[client].state;
        if head.contains("pusher:connection_established") {
            self.established(client, &head);
        } else if head.contains("subscription_succeeded") && state == State::Subscribing {
            self.clients[client].state = State::Ready;
            self.clients[client].ready_at = now;
        } else if head.contains("pusher:ping") {
            self.clients[client].send_text(br#"{"event":"pusher:pong","data":{}}"#);
        } else if head.contains("pusher:error") || head.contains("subscription_error") {
            self.note_error(head);
            if state != State::Ready {
                self.clients[client].close();
            }
        } else if state == State::Ready || !receiver.text(client, text, now) {
            self.other_frames += 1;
        }
    }

    fn established(&mut self, client: usize, head: &str) {
        // The id stands in JSON within a string, so its quotes are escaped.
        let id = head.split("socket_id").nth(1).unwrap_or_default();
        let id = id.trim_start_matches(['"', '\\', ':', ' ']);
        self.clients[client].socket_id = id.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        self.clients[client].state = State::Established;
        if self.auto_subscribe {
            self.subscribe(client);
        }
    }

    /// Asks for the client's channel.
    pub(crate) fn subscribe(&mut self, client: usize) {
        let peer = &mut self.clients[client];
        let Subscription { channel, data } = &peer.subscription;
        let mut fields = json!({ "channel": channel });
        if channel.starts_with("private-") || channel.starts_with("presence-") {
            fields["auth"] = self.target.signer.channel(&peer.socket_id, channel, data.as_deref()).into();
        }
        if let Some(data) = data {
            fields["channel_data"] = data.as_str().into();
        }
        let message = json!({ "event": "pusher:subscribe", "data": fields });
        peer.state = State::Subscribing;
        peer.send_text(message.to_string().as_bytes());
    }

    fn fail(&mut self, client: usize, error: String) {
        self.note_error(error);
        self.clients[client].close();
    }

    fn note_error(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    fn drop_client(&mut self, client: usize) {
        let peer = &mut self.clients[client];
        if peer.state == State::Closed {
            return;
        }
        *self.dropped.entry(peer.close_code).or_default() += 1;
        peer.close();
    }

    /// Leaves as a browser does: a close frame, then the socket.
    pub(crate) fn leave(&mut self, client: usize) {
        let peer = &mut self.clients[client];
        if ![State::Connecting, State::Closed].contains(&peer.state) {
            peer.send_frame(opcode::CLOSE, &1000_u16.to_be_bytes());
        }
        peer.close();
    }

    /// All clients leave.
    pub(crate) fn leave_all(&mut self) {
        (0..self.clients.len()).for_each(|client| self.leave(client));
    }

    /// All clients are cut off: no close frame, and a reset, so that no port is held back for the clients that come next.
    pub(crate) fn cut_all(&mut self) -> Result<()> {
        for client in &mut self.clients {
            if let Some(stream) = client.stream() {
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
            }
            client.close();
        }
        Ok(())
    }

    /// Reads nothing more for this client, as a browser that hangs.
    pub(crate) fn stall(&mut self, client: usize) -> Result<()> {
        let Some(stream) = self.clients[client].stream() else { return Ok(()) };
        Ok(self.poll.registry().deregister(stream)?)
    }

    /// Reads for this client again. What came meanwhile shows at the next poll.
    pub(crate) fn resume(&mut self, client: usize) -> Result<()> {
        let Some(stream) = self.clients[client].stream() else { return Ok(()) };
        Ok(self.poll.registry().register(stream, Token(client), Interest::READABLE | Interest::WRITABLE)?)
    }

    /// Bytes received so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Errors, and clients whom the server closed.
    pub(crate) fn report(&self, report: &mut Report) {
        report
            .put("dropped_conns", self.dropped.values().sum::<u64>())
            .put("close_codes", json!(self.dropped))
            .put("other_frames", self.other_frames)
            .measured("recv_bytes_per_call", self.bytes_read as f64 / self.reads as f64)
            .put("errors", self.errors);
        if let Some(error) = &self.first_error {
            report.put("first_error", error.as_str());
        }
    }
}
