//! A connection to NATS, which ends with the first fault: whoever opened it opens another one then.
//! It sends and asks; `subscriber` receives.

use std::error::Error;
use std::time::Duration;

use async_nats::Client;
use async_nats::ConnectOptions;
use async_nats::Event;
use async_nats::HeaderMap;
use async_nats::Subscriber;
use async_nats::jetstream;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::nats::error::NatsError;
use crate::nats::error::is_full;
use crate::nats::tls;

/// How long an answer may take. A connection without one counts as lost.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How often a quiet connection is asked whether it still lives. The third question without an answer ends it.
const PING: Duration = Duration::from_secs(2);
/// Messages of an answer that may wait; a list of all records has one for each.
const WAITING_MAX: usize = 1 << 20;
/// Commands for the connection that may wait.
const COMMANDS_MAX: usize = 4096;

/// A connection to one server.
pub struct NatsConnection {
    client: Client,
    context: jetstream::Context,
    /// Receives this connection's own marks.
    marks: Mutex<Marks>,
}

/// Marks that come back behind everything that was sent before.
struct Marks {
    subject: String,
    subscriber: Subscriber,
    number: u64,
}

/// An attempt to store something.
#[derive(Debug)]
pub struct Storing(Result<PublishAckFuture, PublishError>);

/// The end of an attempt to store something.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// It has this number in its bucket.
    At(u64),
    /// There is something newer than expected.
    Conflict,
    /// There is no place left for it.
    Full(String),
}

impl std::fmt::Debug for NatsConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsConnection(..)")
    }
}

impl NatsConnection {
    /// Connects, for a purpose that the server may list. `lost` is cancelled when the connection is.
    pub async fn open(options: &config::Nats, purpose: &str, lost: CancellationToken) -> Result<Self, NatsError> {
        let urls = options.urls();
        let mut connect = ConnectOptions::new()
            .name(format!("gema {purpose}"))
            .connection_timeout(options.connect_seconds.duration())
            .request_timeout(Some(ANSWER_TIME))
            .ping_interval(PING)
            .subscription_capacity(WAITING_MAX)
            .client_capacity(COMMANDS_MAX)
            .ignore_discovered_servers()
            .max_reconnects(urls.len())
            .event_callback(move |event| {
                match event {
                    Event::Connected => (),
                    Event::ServerError(error) => {
                        let error = NatsError(error.to_string());
                        tracing::warn!(%error, advice = error.advice(), "NATS refuses a command");
                    }
                    _ => lost.cancel(),
                }
                async {}
            });
        if options.speaks_tls() {
            connect = connect.require_tls(true).tls_client_config(tls::client(options.tls_verify));
        }
        if !options.token.is_empty() {
            connect = connect.token(options.token.expose_text().to_owned());
        } else if !options.user.is_empty() {
            connect = connect.user_and_password(options.user.clone(), options.password.expose_text().to_owned());
        }
        let connected = timeout(options.connect_seconds.duration(), connect.connect(urls)).await;
        let connected = connected.map_err(|_| NatsError("the server does not answer".to_owned()))?;
        let client = connected.map_err(|error| NatsError(with_causes(&error)))?;
        let subject = client.new_inbox();
        let subscriber =
            client.subscribe(subject.clone()).await.map_err(|error| NatsError::of("subscribing", error))?;
        let context = jetstream::context::ContextBuilder::new().timeout(ANSWER_TIME).ack_timeout(ANSWER_TIME);
        let context = context.build(client.clone());
        Ok(Self { client, context, marks: Mutex::new(Marks { subject, subscriber, number: 0 }) })
    }

    /// The most bytes of a message with its headers.
    pub fn bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// Streams and messages that are stored in them.
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// Publishes a message. [`NatsConnection::settled`] tells when the server has it.
    pub async fn publish(&self, subject: String, payload: Bytes) -> Result<(), NatsError> {
        self.client.publish(subject, payload).await.map_err(|error| NatsError::of("publishing", error))
    }

    /// Waits until the server has received all that was sent before.
    pub async fn settled(&self) -> Result<(), NatsError> {
        let mut marks = self.marks.lock().await;
        marks.number += 1;
        let mark = Bytes::from(marks.number.to_string());
        self.publish(marks.subject.clone(), mark.clone()).await?;
        let received = timeout(ANSWER_TIME, async {
            while let Some(message) = marks.subscriber.next().await {
                if message.payload == mark {
                    return Ok(());
                }
            }
            Err(NatsError("the connection is closed".to_owned()))
        });
        received.await.map_err(|_| NatsError("the server does not answer".to_owned()))?
    }

    /// Stores a message under a subject of a bucket; with `expected` only if the last one there has this number, which is
    /// 0 if there is none.
    pub async fn store(
        &self,
        subject: String,
        payload: Bytes,
        headers: HeaderMap,
        expected: Option<u64>,
    ) -> Result<Stored, NatsError> {
        let mut message = PublishMessage::build().headers(headers).payload(payload);
        if let Some(expected) = expected {
            message = message.expected_last_subject_sequence(expected);
        }
        Storing(self.context.send_publish(subject, message).await).end().await
    }

    /// Sends a message that is to be stored under a subject of a bucket, whatever is there. It is sent before whatever is
    /// sent afterwards.
    pub async fn begin_to_store(&self, subject: String, payload: Bytes) -> Storing {
        Storing(self.context.send_publish(subject, PublishMessage::build().payload(payload)).await)
    }
}

impl Storing {
    /// Waits for the end of the attempt.
    pub async fn end(self) -> Result<Stored, NatsError> {
        let acknowledged = match self.0 {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(acknowledged) => Ok(Stored::At(acknowledged.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(Stored::Conflict),
            Err(error) if has_no_place(&error) => Ok(Stored::Full(with_causes(&error))),
            Err(error) => Err(NatsError::of("storing", with_causes(&error))),
        }
    }
}

fn has_no_place(error: &PublishError) -> bool {
    let refusal = error.source().and_then(|cause| cause.downcast_ref::<jetstream::Error>());
    error.kind() == PublishErrorKind::MaxPayloadExceeded || refusal.is_some_and(|refusal| is_full(refusal.error_code()))
}

/// An error with its causes, unless it names them itself.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}
