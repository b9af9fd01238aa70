//! The socket of a connection: TCP, or TLS over TCP.
//! `reading` and `delivery` use it like a plain non-blocking socket.

use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::ServerConnection;
use rustls::Writer;
#[cfg(target_os = "linux")]
use socket2::SockRef;

/// Bytes that are encrypted at once. Those that the network does not take wait beside the outbox.
const RECORDS_BYTES: usize = 64 * 1024;
/// Bytes that one turn encrypts for a connection, so that a fast reader does not delay others.
const TURN_BYTES: usize = 256 * 1024;
#[cfg(target_os = "linux")]
/// Bytes that the kernel takes and has not sent yet, where the newest event matters more than a full line.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;
/// Reads of some kilobytes from the network for one read of ours.
const READS: usize = 16;

/// Non-blocking.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

/// A TLS connection after its handshake.
#[derive(Debug)]
pub(super) struct Encrypted {
    tcp: TcpStream,
    session: Box<ServerConnection>,
    /// Bytes that may still be encrypted in this turn.
    allowance: usize,
    /// The last read may have left bytes behind.
    has_more: bool,
}

impl Socket {
    pub(super) fn new(tcp: std::net::TcpStream, tls: Option<Box<ServerConnection>>) -> Self {
        let tcp = TcpStream::from_std(tcp);
        let Some(mut session) = tls else { return Self::Plain(tcp) };
        session.set_buffer_limit(Some(RECORDS_BYTES));
        Self::Tls(Box::new(Encrypted { tcp, session, allowance: TURN_BYTES, has_more: true }))
    }

    /// The TCP socket.
    pub(super) fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &mut tls.tcp,
        }
    }

    /// Lets little wait in the kernel, so that a slow reader gets new events soon.
    pub(super) fn limit_unsent(&mut self) {
        #[cfg(target_os = "linux")]
        // A system that refuses it only makes what a slow reader gets older.
        let _ = SockRef::from(&*self.tcp()).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    }

    /// Whether a short read may have left bytes behind.
    pub(super) fn has_more(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.has_more)
    }

    /// Whether encrypted bytes wait for the network.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.wants_write())
    }

    /// Whether to wait for the socket to be writable, after a write that left something over or not.
    pub(super) fn is_blocked(&self, left_over: bool) -> bool {
        match self {
            Self::Plain(_) => left_over,
            Self::Tls(_) => self.is_pending(),
        }
    }

    /// Sends pending bytes, and begins a new turn's allowance for encryption. Returns how many bytes the network took.
    pub(super) fn resume(&mut self) -> io::Result<usize> {
        let Self::Tls(tls) = self else { return Ok(0) };
        tls.allowance = TURN_BYTES;
        tls.send_pending()
    }

    /// Ends TLS, if there is any. A peer that is gone does not mind.
    pub(super) fn finish(&mut self) {
        if let Self::Tls(tls) = self {
            tls.session.send_close_notify();
            let _ = tls.send_pending();
        }
    }

    /// Like `finish`, and shuts the TCP socket down for writing.
    pub(super) fn shut_down(&mut self) {
        self.finish();
        // Fails only when the connection is gone, as its next event shows.
        let _ = self.tcp().shutdown(Shutdown::Write);
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.encrypt(|writer| writer.write(bytes)),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write_vectored(slices),
            Self::Tls(tls) => tls.encrypt(|writer| writer.write_vectored(slices)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encrypted {
    /// Fills the buffer as far as there is input; 0 at the end, with or without a TLS close.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        self.has_more = true;
        for _ in 0..READS {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(_) => return Ok(filled),
            }
            if filled == buffer.len() {
                return Ok(filled);
            }
            match self.session.read_tls(&mut self.tcp) {
                Ok(_) => self.decrypt()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_more = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        match filled {
            0 if self.has_more => Err(io::ErrorKind::Interrupted.into()),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            filled => Ok(filled),
        }
    }

    /// rustls' own answers, such as alerts, go out now or with the next write.
    fn decrypt(&mut self) -> io::Result<()> {
        let outcome = self.session.process_new_packets();
        self.send_pending()?;
        outcome.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Encrypts bytes only while none are pending, so that no more than `RECORDS_BYTES` wait beside the outbox.
    fn encrypt(&mut self, write: impl FnOnce(&mut Writer<'_>) -> io::Result<usize>) -> io::Result<usize> {
        self.send_pending()?;
        if self.session.wants_write() || self.allowance == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = write(&mut self.session.writer())?;
        self.allowance = self.allowance.saturating_sub(count);
        self.send_pending()?;
        Ok(count)
    }

    /// Sends pending bytes as far as the network takes them. Returns how many.
    fn send_pending(&mut self) -> io::Result<usize> {
        let mut sent = 0;
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}
