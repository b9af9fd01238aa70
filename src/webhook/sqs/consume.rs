//! The consumer: takes messages out of the queue and delivers them. A message that is not delivered is hidden for the
//! pause before the next attempt; then any node takes it.
//! `Webhooks::run` spawns it.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::Message;
use aws_sdk_sqs::types::MessageSystemAttributeName as Attribute;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::aws::AwsError;
use crate::tasks::Tasks;
use crate::webhook::Webhooks;
use crate::webhook::delivery;
use crate::webhook::delivery::Attempt;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Request;
use crate::webhook::sqs::ANSWER_TIME;
use crate::webhook::sqs::REMEDIES;
use crate::webhook::sqs::RETRY_PAUSE;
use crate::webhook::sqs::SqsQueue;
use crate::webhook::sqs::WAIT_SECONDS;
use crate::webhook::sqs::message::QueuedRequest;
use crate::webhook::sqs::message::decode;

/// Groups of messages that are delivered at once: more than there are endpoints, as a rule.
const AT_ONCE: usize = 64;
/// When a message is looked at again whose app or endpoint is not known here: a node that knows it may take it sooner.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(10);
/// How long a draining node waits for a response; then another node sends the request again.
const LAST_RESPONSE_TIME: Duration = Duration::from_millis(300);
/// How often the log has a message that is no webhook.
const FOREIGN_EVERY: Duration = Duration::from_secs(60);

/// The fate of a message.
enum Fate {
    /// It is delivered or given up, and leaves the queue.
    Over,
    /// It is tried again after this time, here or elsewhere.
    Again(Duration),
    /// It is nobody's here, and stays hidden for as long as every message.
    Foreign,
}

/// Takes messages out and delivers them until the tasks have to end.
pub(in crate::webhook) async fn consume(webhooks: Arc<Webhooks>, tasks: Tasks) {
    let Some(queue) = &webhooks.sqs else { return };
    let (stop, places) = (tasks.stop().clone(), Arc::new(Semaphore::new(AT_ONCE)));
    let mut pause = *RETRY_PAUSE.start();
    while !stop.is_cancelled() {
        let Some(Ok(place)) = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await else { return };
        drop(place);
        let Some(received) = stop.run_until_cancelled(queue.receive()).await else { return };
        let wait = match received {
            Ok(messages) => {
                queue.take.answered();
                pause = *RETRY_PAUSE.start();
                for group in groups(messages) {
                    let (webhooks, stop, places) = (Arc::clone(&webhooks), stop.clone(), Arc::clone(&places));
                    tasks.spawn(async move {
                        let _place = places.acquire().await;
                        deliver_group(&webhooks, group, &stop).await;
                    });
                }
                queue.options.polling_wait_seconds.duration()
            }
            Err(error) => {
                queue.take.failed(&queue.options.queue_url, &error);
                let wait = pause.mul_f64(rand::random_range(0.8..1.2));
                pause = (pause * 2).min(*RETRY_PAUSE.end());
                wait
            }
        };
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

/// The messages of each group of a FIFO queue together, in their order. Each message of another queue is alone.
fn groups(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let mut groups: Vec<Vec<Message>> = Vec::new();
    for message in messages {
        let group = attribute(&message, &Attribute::MessageGroupId);
        let known = groups
            .iter_mut()
            .find(|known| group.is_some() && attribute(&known[0], &Attribute::MessageGroupId) == group);
        match known {
            Some(known) => known.push(message),
            None => groups.push(vec![message]),
        }
    }
    groups
}

fn attribute<'a>(message: &'a Message, name: &Attribute) -> Option<&'a str> {
    message.attributes()?.get(name).map(String::as_str)
}

/// Delivers messages one after the other. If one is not delivered, those behind it wait as long.
async fn deliver_group(webhooks: &Webhooks, group: Vec<Message>, stop: &CancellationToken) {
    let Some(queue) = &webhooks.sqs else { return };
    let shutdown = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_RESPONSE_TIME).await;
    };
    tokio::pin!(shutdown);
    let mut wait = None;
    for message in &group {
        let fate = match wait {
            Some(wait) => Fate::Again(wait),
            None => tokio::select! {
                fate = deliver(webhooks, queue, message) => fate,
                // Another node takes it at once.
                () = &mut shutdown => Fate::Again(Duration::ZERO),
            },
        };
        match fate {
            Fate::Over => queue.delete(message).await,
            Fate::Again(time) => {
                wait = Some(time);
                queue.hide(message, time).await;
            }
            Fate::Foreign => (),
        }
    }
}

async fn deliver(webhooks: &Webhooks, queue: &SqsQueue, message: &Message) -> Fate {
    let Some(queued) = message.body().and_then(decode) else {
        queue.warn_foreign(message);
        return Fate::Foreign;
    };
    let age = age(message);
    let endpoints = webhooks.known_endpoints(&queued.app).await;
    let own = queued.endpoint.as_ref();
    let wanted: Vec<_> = endpoints.iter().filter(|one| own.is_none_or(|own| one.stream_name() == own)).collect();
    let Some(first) = wanted.first() else {
        if age <= webhooks.options.retry_seconds.duration() {
            return Fate::Again(UNKNOWN_PAUSE);
        }
        let (app, events) = (&queued.app, queued.events.len());
        tracing::warn!(%app, events, "a webhook is given up, and its events are lost: nobody has this endpoint of the app");
        return Fate::Over;
    };
    if own.is_none() {
        return sort(queue, &wanted, &queued).await;
    }
    let request = Request {
        events: queued.events.len() as u64,
        body: queued.body.into(),
        created: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
    };
    let attempts: u32 =
        attribute(message, &Attribute::ApproximateReceiveCount).and_then(|text| text.parse().ok()).unwrap_or(1);
    if attempts > 1 {
        first.meters.retries.inc();
    }
    match delivery::attempt(first, &request, webhooks, delivery::pause_after(attempts)).await {
        Attempt::Over => Fate::Over,
        Attempt::Again(wait) => Fate::Again(wait),
    }
}

/// Puts the events of a message of Soketi back, once for each endpoint that wants some of them.
async fn sort(queue: &SqsQueue, endpoints: &[&Arc<Endpoint>], queued: &QueuedRequest) -> Fate {
    for endpoint in endpoints {
        let wanted =
            queued.events.iter().filter(|event| event.kind.is_some_and(|kind| endpoint.wants(kind, &event.channel)));
        let texts: Vec<Arc<str>> = wanted.map(|event| event.text.as_str().into()).collect();
        let is_put = texts.is_empty() || queue.put(endpoint, &Request::new(&texts), &CancellationToken::new()).await;
        if !is_put {
            return Fate::Again(UNKNOWN_PAUSE);
        }
    }
    Fate::Over
}

/// How long ago a message was sent, by its own account.
fn age(message: &Message) -> Duration {
    let sent = attribute(message, &Attribute::SentTimestamp).and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sent.map_or(Duration::ZERO, |sent| now.saturating_sub(Duration::from_millis(sent)))
}

impl SqsQueue {
    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        let wait = Duration::from_secs(WAIT_SECONDS.into()) + ANSWER_TIME;
        let times = TimeoutConfig::builder().operation_attempt_timeout(wait).operation_timeout(wait).build();
        let receive = self
            .client()
            .await
            .receive_message()
            .queue_url(&self.options.queue_url)
            .max_number_of_messages(i32::try_from(self.options.batch_size).unwrap_or(1))
            .wait_time_seconds(WAIT_SECONDS.into())
            .visibility_timeout(self.hidden_seconds)
            .message_system_attribute_names(Attribute::All);
        let own = aws_sdk_sqs::config::Builder::new().timeout_config(times);
        let received = receive.customize().config_override(own).send().await;
        let received = received.map_err(|error| AwsError::new(&error, REMEDIES))?;
        Ok(received.messages.unwrap_or_default())
    }

    /// Removes a message. If that fails it comes again, and its request is sent twice.
    async fn delete(&self, message: &Message) {
        let Some(receipt) = message.receipt_handle() else { return };
        let delete = self.client().await.delete_message().queue_url(&self.options.queue_url).receipt_handle(receipt);
        if let Err(error) = delete.send().await {
            let error = AwsError::new(&error, REMEDIES);
            tracing::debug!(%error, "a webhook stays in SQS after its delivery, and is sent again");
        }
    }

    /// Hides a message for this time. If that fails it is hidden for as long as every message.
    async fn hide(&self, message: &Message, time: Duration) {
        let Some(receipt) = message.receipt_handle() else { return };
        let seconds = i32::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(self.hidden_seconds);
        let client = self.client().await.change_message_visibility().queue_url(&self.options.queue_url);
        let hidden = client.receipt_handle(receipt).visibility_timeout(seconds).send();
        let _ = tokio::time::timeout(ANSWER_TIME, hidden).await;
    }

    fn warn_foreign(&self, message: &Message) {
        let mut last = self.foreign.lock();
        if last.is_none_or(|last| last.elapsed() > FOREIGN_EVERY) {
            *last = Some(Instant::now());
            let id = message.message_id().unwrap_or_default();
            let (queue, id) = (&self.options.queue_url, id.chars().take(64).collect::<String>());
            tracing::warn!(queue, id, "a message in SQS is no webhook; it stays there: give gema a queue of its own");
        }
    }
}
