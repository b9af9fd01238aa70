//! Webhooks by way of SQS: each node puts requests into one queue, and any node takes them out and delivers them. A
//! request leaves the queue when it is delivered or given up, so that it outlives the node that has it.
//! `delivery` puts requests in; `Webhooks::run` runs the consumer. Only in builds with the feature `aws`.

mod consume;
mod message;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use aws_sdk_sqs::Client;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::aws;
use crate::aws::AwsError;
use crate::aws::BoundedAnswer;
use crate::aws::Place;
use crate::aws::Remedy;
use crate::config;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Request;

pub(super) use consume::consume;

/// Bytes of a message: what SQS took at most until 2025, and other servers of its kind do today.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// How long SQS may take to answer, apart from the time for which a receiver waits for messages.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Attempts at one request, within one attempt of ours.
const ATTEMPTS: u32 = 2;
/// How long a receiver waits for messages: SQS' longest time.
const WAIT_SECONDS: u16 = 20;
/// The pause before the queue is tried again: after the first failure, and at most.
const RETRY_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

const REMEDIES: &[Remedy] = &[
    ("QueueDoesNotExist", NO_QUEUE),
    ("AWS.SimpleQueueService.NonExistentQueue", NO_QUEUE),
    ("InvalidAddress", NO_QUEUE),
    ("AccessDenied", "allow sqs:SendMessage, ReceiveMessage, DeleteMessage and ChangeMessageVisibility on the queue"),
    ("OverLimit", "too many messages are taken out and not delivered; look at the endpoints, or add nodes"),
    ("MissingParameter", NO_FIFO),
    ("InvalidParameterValue", NO_FIFO),
];
const NO_QUEUE: &str = "correct sqs.queue_url, sqs.region or sqs.endpoint, or create the queue";
const NO_FIFO: &str = "the name of a FIFO queue, and of no other, ends in .fifo; correct sqs.queue_url";
/// Errors about one message, whatever the queue.
const OF_MESSAGE: [&str; 2] = ["InvalidMessageContents", "BatchRequestTooLong"];

/// The queue.
#[derive(Debug)]
pub(super) struct SqsQueue {
    options: config::Sqs,
    /// How long a received message is hidden from other receivers, in seconds.
    hidden_seconds: i32,
    /// Made at the first request.
    client: OnceCell<Client>,
    put: Outage,
    take: Outage,
    /// When the log last had a message that is no webhook.
    foreign: Mutex<Option<Instant>>,
}

/// Whether one direction is interrupted. Each change is logged once.
#[derive(Debug)]
struct Outage {
    is_away: AtomicBool,
    lost: &'static str,
    back: &'static str,
}

impl Outage {
    fn failed(&self, queue: &str, error: &AwsError) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(queue, %error, "{}", self.lost);
        }
    }

    fn answered(&self) {
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("{}", self.back);
        }
    }
}

impl SqsQueue {
    pub(super) fn new(options: &config::Sqs, webhooks: &config::Webhooks) -> Self {
        // Each message of a batch may take as long as an endpoint may; then it is put back, or gone.
        let deliveries = webhooks.timeout_seconds.duration() * options.batch_size;
        let hidden = deliveries + Duration::from_secs(30);
        Self {
            options: options.clone(),
            hidden_seconds: i32::try_from(hidden.as_secs()).unwrap_or(i32::MAX),
            client: OnceCell::new(),
            put: Outage {
                is_away: AtomicBool::new(false),
                lost: "SQS does not take webhooks; their events wait in the memory of this node meanwhile",
                back: "SQS takes webhooks again",
            },
            take: Outage {
                is_away: AtomicBool::new(false),
                lost: "SQS does not give webhooks back; they wait there meanwhile",
                back: "SQS gives webhooks back again",
            },
            foreign: Mutex::new(None),
        }
    }

    async fn client(&self) -> &Client {
        let client = async || {
            let (region, endpoint) = self.options.place();
            let settings = aws::settings(Place { region: &region, endpoint: &endpoint }, ANSWER_TIME, ATTEMPTS);
            let settings = aws_sdk_sqs::config::Builder::from(&settings.await).interceptor(BoundedAnswer);
            Client::from_conf(settings.build())
        };
        self.client.get_or_init(client).await
    }

    /// Puts a request into the queue, and tries until SQS takes it. False if this node must send it itself: SQS never
    /// takes such a message, or is away while the node stops.
    pub(super) async fn put(&self, endpoint: &Endpoint, request: &Request, stop: &CancellationToken) -> bool {
        let text = message::encode(endpoint, request);
        if text.len() > MESSAGE_BYTES_MAX {
            return false;
        }
        let mut pause = *RETRY_PAUSE.start();
        loop {
            let Err(error) = self.send(endpoint, &text).await else {
                self.put.answered();
                return true;
            };
            if error.code.as_ref().is_some_and(|code| OF_MESSAGE.iter().any(|of| code.contains(of))) {
                return false;
            }
            self.put.failed(&self.options.queue_url, &error);
            let wait = pause.mul_f64(rand::random_range(0.8..1.2));
            if stop.is_cancelled() || stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(*RETRY_PAUSE.end());
        }
    }

    async fn send(&self, endpoint: &Endpoint, text: &str) -> Result<(), AwsError> {
        let mut send = self.client().await.send_message().queue_url(&self.options.queue_url).message_body(text);
        if self.options.is_fifo() {
            send = send.message_group_id(message::group(endpoint)).message_deduplication_id(message::digest(text));
        }
        send.send().await.map(drop).map_err(|error| AwsError::new(&error, REMEDIES))
    }
}
