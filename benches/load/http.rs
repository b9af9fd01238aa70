//! Connections that publish, to an HTTP API or to Redis: one request at a time on each, made anew when the server
//! closes them.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::clock;
use crate::target::Target;

/// The poll knows milliseconds only; shorter waits are slept, but never longer than this at a time: it is how
/// late an answer may be noticed.
const NAP: Duration = Duration::from_micros(50);
const WAKER: Token = Token(usize::MAX);

/// The end of a request.
pub(crate) struct Answer {
    /// The number of its connection.
    pub(crate) connection: usize,
    /// 0 if the connection ended without an answer.
    pub(crate) status: u16,
    /// When the request was written.
    pub(crate) sent: u64,
}

struct Connection {
    stream: TcpStream,
    up: bool,
    unsent: Vec<u8>,
    got: Vec<u8>,
    /// When the request was written that has no answer yet.
    pending: Option<u64>,
}

/// The connections and their poll.
pub(crate) struct Pool {
    target: Target,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    /// Requests without an answer so far.
    pub(crate) pending: usize,
    /// A new connection for each request, as PHP-FPM makes.
    close_each: bool,
    /// Connections made anew.
    pub(crate) reconnects: u64,
    /// The answers of the last poll.
    pub(crate) answers: Vec<Answer>,
}

impl Pool {
    /// A pool without connections.
    pub(crate) fn new(target: &Target, keep_alive: bool) -> Result<Self> {
        Ok(Self {
            target: target.clone(),
            poll: Poll::new()?,
            events: Events::with_capacity(256),
            connections: Vec::new(),
            idle: VecDeque::new(),
            pending: 0,
            close_each: !keep_alive,
            reconnects: 0,
            answers: Vec::new(),
        })
    }

    /// Ends a wait from another thread.
    pub(crate) fn waker(&self) -> Result<Waker> {
        Ok(Waker::new(self.poll.registry(), WAKER)?)
    }

    /// Opens so many connections.
    pub(crate) fn connect(&mut self, connections: usize) -> Result<()> {
        for number in 0..connections {
            let connection = self.start(number)?;
            self.connections.push(connection);
        }
        Ok(())
    }

    fn start(&self, number: usize) -> Result<Connection> {
        let mut stream = self.target.connect(0)?;
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Connection { stream, up: false, unsent: Vec::new(), got: Vec::new(), pending: None })
    }

    /// Whether a connection is free.
    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// A connection that is free, for one [`Pool::post`].
    pub(crate) fn take_idle(&mut self) -> Option<usize> {
        self.idle.pop_front()
    }

    /// Sends a signed request; to Redis a message for the channel called `path`.
    pub(crate) fn post(&mut self, connection: usize, path: &str, body: &[u8], now: u64) {
        let request = match self.target.redis_prefix {
            Some(_) => self.target.message(path, body),
            None => self.target.request("POST", path, body, self.close_each),
        };
        self.pending += 1;
        let connection = &mut self.connections[connection];
        connection.pending = Some(now);
        connection.unsent = request;
        connection.flush();
    }

    /// Waits at most `nanos` for answers.
    pub(crate) fn poll(&mut self, nanos: u64) -> Result<()> {
        let mut wait = Duration::from_nanos(nanos);
        if wait < Duration::from_millis(1) {
            if !wait.is_zero() {
                std::thread::sleep(wait.min(NAP));
            }
            wait = Duration::ZERO;
        }
        match self.poll.poll(&mut self.events, Some(Duration::from_millis(wait.as_millis() as u64))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let tokens: Vec<Token> = self.events.iter().map(mio::event::Event::token).collect();
        for token in tokens.into_iter().filter(|token| *token != WAKER) {
            self.turn(token.0)?;
        }
        Ok(())
    }

    fn turn(&mut self, number: usize) -> Result<()> {
        let connection = &mut self.connections[number];
        if !connection.up {
            if let Some(error) = connection.stream.take_error()? {
                return Err(error).with_context(|| format!("cannot connect to {}", self.target.address));
            }
            connection.up = true;
            self.idle.push_back(number);
        }
        connection.flush();
        let ended = connection.fill();
        let answer = match self.target.redis_prefix {
            Some(_) => connection.redis_answer(),
            None => connection.answer(),
        };
        match answer {
            Some((status, close)) if connection.pending.is_some() => {
                self.finish(number, status);
                if ended || close || self.close_each {
                    return self.restart(number);
                }
                self.idle.push_back(number);
            }
            None if !ended => (),
            // The end, or an answer to nothing, such as a timeout's 408.
            _ => {
                self.idle.retain(|idle| *idle != number);
                self.finish(number, 0);
                return self.restart(number);
            }
        }
        Ok(())
    }

    fn finish(&mut self, connection: usize, status: u16) {
        if let Some(sent) = self.connections[connection].pending.take() {
            self.pending -= 1;
            self.answers.push(Answer { connection, status, sent });
        }
    }

    fn restart(&mut self, number: usize) -> Result<()> {
        self.reconnects += 1;
        self.connections[number] = self.start(number)?;
        Ok(())
    }

    /// One POST from beginning to end, if `meanwhile` is not tired of waiting before: its status.
    pub(crate) fn post_and_wait(
        &mut self,
        path: &str,
        body: &[u8],
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<u16> {
        let deadline = clock::now() + 5 * clock::SECOND;
        let connection = loop {
            if let Some(connection) = self.take_idle() {
                break connection;
            }
            anyhow::ensure!(clock::now() < deadline, "no HTTP connection came up");
            self.poll(NAP.as_nanos() as u64)?;
        };
        self.post(connection, path, body, clock::now());
        while clock::now() < deadline {
            self.poll(NAP.as_nanos() as u64)?;
            meanwhile()?;
            if let Some(answer) = self.answers.pop() {
                return Ok(answer.status);
            }
        }
        anyhow::bail!("POST {path} was not answered")
    }
}

impl Connection {
    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let Ok(written @ 1..) = self.stream.write(&self.unsent) else { return };
            self.unsent.drain(..written);
        }
    }

    /// Reads all there is. True if the server has closed.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(read) => self.got.extend_from_slice(&chunk[..read]),
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    /// Redis' answer in HTTP's terms.
    fn redis_answer(&mut self) -> Option<(u16, bool)> {
        let whole = self.got.ends_with(b"\r\n");
        let status = if self.got.starts_with(b":") { 200 } else { 500 };
        whole.then(|| self.got.clear()).map(|()| (status, false))
    }

    /// Status of a whole answer, and whether it was the last one on this connection.
    fn answer(&mut self) -> Option<(u16, bool)> {
        let head_end = self.got.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.got[..head_end]).to_ascii_lowercase();
        let status = head.get(9..12)?.parse().unwrap_or(0);
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        let close = header("connection:") == Some("close");
        if self.got.len() < head_end + length {
            return None;
        }
        self.got.clear();
        Some((status, close))
    }
}
