//! One WebSocket client: its socket, its state, and the bytes between turns.

use std::io::{Read, Write};

use mio::net::TcpStream;

use crate::clock;
use crate::frame;

/// The state of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// TCP, then the upgrade.
    Connecting,
    /// Upgraded, and waiting for `pusher:connection_established`.
    Greeting,
    /// Has its socket id, and did not subscribe yet.
    Established,
    /// Asked to subscribe.
    Subscribing,
    /// Subscribed.
    Ready,
    /// Gone.
    Closed,
}

/// The channel that a client subscribes to.
#[derive(Clone)]
pub(crate) struct Subscription {
    /// The channel's name.
    pub(crate) channel: String,
    /// `channel_data`, for presence channels.
    pub(crate) data: Option<String>,
}

/// How a read ended.
pub(crate) enum Reading {
    /// So many bytes stand in the buffer, those of an unfinished frame before them; the socket may have more.
    Bytes { length: usize, more: bool },
    /// There was nothing to read.
    Nothing,
    /// The peer has closed, or the connection broke.
    Ended,
}

/// One connection to the server.
pub(crate) struct Client {
    stream: Option<TcpStream>,
    pub(crate) state: State,
    pub(crate) subscription: Subscription,
    pub(crate) socket_id: String,
    /// From the server's close frame; 1006 if there was none.
    pub(crate) close_code: u16,
    pub(crate) started: u64,
    pub(crate) ready_at: u64,
    /// The upgrade request is written when TCP is up.
    pub(crate) requested: bool,
    /// The beginning of a frame whose end has not come yet.
    unfinished: Vec<u8>,
    /// Bytes that the socket has not taken yet.
    unsent: Vec<u8>,
}

impl Client {
    /// A client on a connection that is coming up.
    pub(crate) fn new(stream: TcpStream, subscription: Subscription) -> Self {
        Self {
            stream: Some(stream),
            state: State::Connecting,
            subscription,
            socket_id: String::new(),
            close_code: 1006,
            started: clock::now(),
            ready_at: 0,
            requested: false,
            unfinished: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// The socket, while there is one.
    pub(crate) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.stream.as_mut()
    }

    /// Reads once into `buffer`, behind what is left of the last read.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> Reading {
        let kept = self.unfinished.len();
        if kept * 2 > buffer.len() {
            buffer.resize(kept * 4, 0);
        }
        let Some(stream) = &mut self.stream else { return Reading::Nothing };
        match stream.read(&mut buffer[kept..]) {
            Ok(0) => Reading::Ended,
            Ok(read) => {
                buffer[..kept].copy_from_slice(&self.unfinished);
                let length = kept + read;
                Reading::Bytes { length, more: length == buffer.len() }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Reading::Nothing,
            Err(_) => Reading::Ended,
        }
    }

    /// Keeps the bytes that are no whole frame yet. Memory is given back when there are none:
    /// ten thousand clients keep nothing then.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.unfinished = Vec::new();
        } else {
            self.unfinished.clear();
            self.unfinished.extend_from_slice(rest);
        }
    }

    /// Sends one text frame.
    pub(crate) fn send_text(&mut self, text: &[u8]) {
        self.send_frame(frame::opcode::TEXT, text);
    }

    /// Sends one frame.
    pub(crate) fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        frame::masked(&mut self.unsent, opcode, payload);
        self.flush();
    }

    /// Sends bytes that are no frame.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.flush();
    }

    /// Writes what is waiting. Errors show when the socket is read.
    pub(crate) fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        while let Ok(written @ 1..) = stream.write(&self.unsent) {
            self.unsent.drain(..written);
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
                return;
            }
        }
    }

    /// Closes the socket and frees all buffers.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.stream = None;
        self.unfinished = Vec::new();
        self.unsent = Vec::new();
    }
}
