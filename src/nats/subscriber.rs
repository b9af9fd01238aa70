//! A connection to NATS that only receives, and passes all messages on in the order in which they come, whatever their
//! subjects are. The official client has a queue for each subscription, so that messages of different subjects overtake
//! each other there. `cluster/over_nats` opens one for each link.

use std::sync::Arc;

use bytes::Buf;
use bytes::BytesMut;
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::config;
use crate::nats::connection::ANSWER_TIME;
use crate::nats::error::NatsError;
use crate::nats::tls;
use crate::nats::wire;
use crate::nats::wire::Message;
use crate::nats::wire::Operation;

/// Bytes that are read at once, if they are there.
const READ_AT_ONCE: usize = 64 * 1024;
/// A buffer that has grown further for a large message is not reused.
const REUSED_MAX: usize = 1024 * 1024;
/// Bytes that are still passed on after the end; the server itself holds no more for a client.
const AFTER_END_MAX: usize = 64 * 1024 * 1024;

type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// A connection that receives. It ends with the first fault, and when it is dropped; what had come before is passed on.
#[derive(Debug)]
pub struct Subscriber {
    /// Lines for the server that wait for [`Subscriber::settled`].
    waiting: Mutex<Vec<u8>>,
    writer: Arc<Writer>,
    /// How many of the questions are answered.
    answered: watch::Receiver<u64>,
    _open: DropGuard,
}

type Writer = tokio::sync::Mutex<Sending>;

#[derive(Debug)]
struct Sending {
    stream: WriteHalf<Stream>,
    /// Questions that were sent.
    questions: u64,
}

/// The side that reads.
struct Receiving {
    stream: ReadHalf<Stream>,
    buffer: BytesMut,
    writer: Arc<Writer>,
    answered: watch::Sender<u64>,
}

impl Subscriber {
    /// Connects to one of the servers, for a purpose that the server may list. Messages are passed on by a task on this
    /// runtime, whose thread `pass_on` may block. `lost` is cancelled when the connection has ended.
    pub async fn open_on(
        runtime: &Handle,
        options: &config::Nats,
        purpose: &'static str,
        lost: CancellationToken,
        pass_on: impl FnMut(&Message<'_>) + Send + 'static,
    ) -> Result<Self, NatsError> {
        let options = options.clone();
        let connected = runtime.spawn(async move { connect_to_any(&options, purpose).await }).await;
        let (writer, receiving) = connected.map_err(|error| NatsError::of("connecting", error))??;
        let (open, answered) = (CancellationToken::new(), receiving.answered.subscribe());
        runtime.spawn(receive(receiving, pass_on, open.clone(), lost));
        Ok(Self { waiting: Mutex::default(), writer, answered, _open: open.drop_guard() })
    }

    /// Subscribes to a subject, by a number that no other subscription has. Takes effect with [`Subscriber::settled`].
    pub fn subscribe(&self, subject: &str, number: u64) {
        self.waiting.lock().extend_from_slice(format!("SUB {subject} {number}\r\n").as_bytes());
    }

    /// Ends a subscription. Takes effect with [`Subscriber::settled`].
    pub fn unsubscribe(&self, number: u64) {
        self.waiting.lock().extend_from_slice(format!("UNSUB {number}\r\n").as_bytes());
    }

    /// Waits until the server knows all subscriptions, and everything that it had sent before is passed on.
    pub async fn settled(&self) -> Result<(), NatsError> {
        let settled = async {
            let mut writer = self.writer.lock().await;
            let mut lines = std::mem::take(&mut *self.waiting.lock());
            lines.extend_from_slice(b"PING\r\n");
            writer.write(&lines).await?;
            writer.questions += 1;
            let question = writer.questions;
            drop(writer);
            let answered = self.answered.clone().wait_for(|&answered| answered >= question).await.map(|_| ());
            answered.map_err(|_| NatsError("the connection is closed".to_owned()))
        };
        timeout(ANSWER_TIME, settled).await.map_err(|_| no_answer())?
    }
}

impl Sending {
    async fn write(&mut self, lines: &[u8]) -> Result<(), NatsError> {
        let written = async {
            self.stream.write_all(lines).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| NatsError::of("writing", error))
    }
}

impl Receiving {
    /// Reads more. Returns the number of bytes.
    async fn fill(&mut self) -> Result<usize, NatsError> {
        if self.buffer.is_empty() && self.buffer.capacity() > REUSED_MAX {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_AT_ONCE);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(NatsError("the server has ended the connection".to_owned())),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(NatsError::of("reading", error)),
        }
    }

    /// Waits until the server has let this client in.
    async fn wait_for_admission(&mut self) -> Result<(), NatsError> {
        loop {
            let (is_in, length) = match wire::read(&self.buffer)? {
                None => {
                    self.fill().await?;
                    continue;
                }
                Some((Operation::Error(error), _)) => return Err(NatsError(error.to_owned())),
                Some((operation, length)) => (operation == Operation::Pong, length),
            };
            self.buffer.advance(length);
            if is_in {
                return Ok(());
            }
        }
    }

    /// Handles all operations that are there.
    async fn handle(&mut self, pass_on: &mut impl FnMut(&Message<'_>)) -> Result<(), NatsError> {
        while let Some((operation, length)) = wire::read(&self.buffer)? {
            match operation {
                Operation::Message(message) => pass_on(&message),
                Operation::Ping => self.writer.lock().await.write(b"PONG\r\n").await?,
                Operation::Pong => self.answered.send_modify(|answered| *answered += 1),
                Operation::Error(error) => {
                    let error = NatsError(error.to_owned());
                    tracing::warn!(%error, advice = error.advice(), "NATS refuses a command");
                }
                Operation::Info(_) | Operation::Ok => (),
            }
            self.buffer.advance(length);
        }
        Ok(())
    }
}

/// Passes messages on until the connection is lost. After its end everything that is there already is still passed on.
async fn receive(
    mut receiving: Receiving,
    mut pass_on: impl FnMut(&Message<'_>),
    open: CancellationToken,
    lost: CancellationToken,
) {
    let _lost = lost.drop_guard();
    let mut after_end = 0;
    while after_end < AFTER_END_MAX {
        let filled = tokio::select! {
            biased;
            filled = receiving.fill() => filled,
            () = open.cancelled() => return,
        };
        let handled = match filled {
            Ok(bytes) if open.is_cancelled() => {
                after_end += bytes;
                receiving.handle(&mut pass_on).await
            }
            Ok(_) => receiving.handle(&mut pass_on).await,
            Err(error) => Err(error),
        };
        if let Err(error) = handled {
            tracing::debug!(%error, "the connection that receives from NATS has ended");
            return;
        }
    }
}

async fn connect_to_any(options: &config::Nats, purpose: &str) -> Result<(Arc<Writer>, Receiving), NatsError> {
    let mut places: Vec<_> = options.places().collect();
    // So that the nodes use all servers.
    places.shuffle(&mut rand::rng());
    let mut outcome = Err(no_answer());
    for place in &places {
        let connected = timeout(options.connect_seconds.duration(), connect(options, purpose, place)).await;
        outcome = connected.unwrap_or_else(|_| Err(no_answer()));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn connect(options: &config::Nats, purpose: &str, place: &str) -> Result<(Arc<Writer>, Receiving), NatsError> {
    let connecting = |error| NatsError::of("connecting", error);
    let mut stream = TcpStream::connect(place).await.map_err(connecting)?;
    stream.set_nodelay(true).map_err(connecting)?;
    let info = read_info(&mut stream).await?;
    let asks_for_tls = info.get("tls_required").and_then(serde_json::Value::as_bool).unwrap_or_default();
    let stream = if options.speaks_tls() || asks_for_tls {
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| NatsError::of("connecting", error))?;
        let connector = TlsConnector::from(Arc::new(tls::client(options.tls_verify)));
        Either::Right(connector.connect(name, stream).await.map_err(connecting)?)
    } else {
        Either::Left(stream)
    };
    let (reading, writing) = tokio::io::split(stream);
    let mut writing = Sending { stream: writing, questions: 0 };
    writing.write(format!("CONNECT {}\r\nPING\r\n", introduction(options, purpose)).as_bytes()).await?;
    let writer = Arc::new(Writer::new(writing));
    let buffer = BytesMut::with_capacity(READ_AT_ONCE);
    let mut receiving =
        Receiving { stream: reading, buffer, writer: Arc::clone(&writer), answered: watch::Sender::new(0) };
    receiving.wait_for_admission().await?;
    Ok((writer, receiving))
}

/// Reads the first line, byte by byte: TLS begins right after it.
async fn read_info(stream: &mut TcpStream) -> Result<serde_json::Value, NatsError> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < wire::LINE_MAX {
        line.push(stream.read_u8().await.map_err(|error| NatsError::of("connecting", error))?);
    }
    match wire::read(&line)? {
        Some((Operation::Info(info), _)) => {
            serde_json::from_str(info).map_err(|error| NatsError::of("connecting", error))
        }
        Some((Operation::Error(error), _)) => Err(NatsError(error.to_owned())),
        _ => Err(NatsError("the server does not introduce itself as NATS does".to_owned())),
    }
}

/// The JSON of CONNECT.
fn introduction(options: &config::Nats, purpose: &str) -> serde_json::Value {
    let mut introduction = json!({
        "verbose": false,
        "pedantic": false,
        "tls_required": options.speaks_tls(),
        "name": format!("gema {purpose}"),
        "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 0,
        "echo": true,
        "headers": true,
    });
    if !options.token.is_empty() {
        introduction["auth_token"] = options.token.expose_text().into();
    } else if !options.user.is_empty() {
        introduction["user"] = options.user.as_str().into();
        introduction["pass"] = options.password.expose_text().into();
    }
    introduction
}

fn no_answer() -> NatsError {
    NatsError("the server does not answer".to_owned())
}
