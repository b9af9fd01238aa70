//! The records of all nodes in buckets of JetStream: opens the buckets, reads, and changes by compare-and-set.
//! The bus and its directory use it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream;
use async_nats::jetstream::stream::DirectGetErrorKind;
use async_nats::jetstream::stream::Republish;
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;
use indexmap::IndexMap;
use percent_encoding::AsciiSet;
use percent_encoding::CONTROLS;
use percent_encoding::percent_decode;
use percent_encoding::utf8_percent_encode;
use tokio::time::timeout;

use crate::cluster::member_changes::MemberChanges;
use crate::cluster::over_nats::members::Applied;
use crate::cluster::over_nats::members::Members;
use crate::cluster::way::NatsWay;
use crate::idempotency::REMEMBERED;
use crate::nats::connection::ANSWER_TIME;
use crate::nats::connection::NatsConnection;
use crate::nats::connection::Stored;
use crate::nats::connection::with_causes;
use crate::nats::error::NatsError;
use crate::nats::subjects::Bucket;
use crate::protocol::envelope::Change;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::NUMBER_MAX;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::redis::lease::LEASE;

/// The header that carries a change of members to the nodes that listen; it may be there many times. The bucket gives only
/// the headers of what is stored to them, in the order in which it is stored.
pub(super) const CHANGE: &str = "Gema-Change";
/// Bytes of changes in the headers of one message. JetStream takes 64 KiB of headers, and escapes take some.
const CHANGES_BYTES_MAX: usize = 8 * 1024;
/// More changes than these bytes can hold.
const CHANGES_MAX: u64 = 1 << 10;
/// Characters that a header cannot have everywhere, and the escape.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');
/// Records that are read at once.
const READ_AT_ONCE: usize = 1000;
/// How long an event of a cache channel is stored at least. A bucket has one time for all.
const CACHED_MIN: Duration = Duration::from_secs(3600);
/// Attempts to change members while other nodes change them, too.
const ATTEMPTS_MAX: u32 = 100;
/// The longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The buckets of a cluster, over one connection.
pub(super) struct Records {
    pub(super) way: Arc<NatsWay>,
    pub(super) connection: NatsConnection,
    directory: Stream<()>,
    cached: Stream<()>,
    leases: Stream<()>,
    requests: Stream<()>,
    /// How long the bucket stores cached events, in seconds.
    cached_seconds: AtomicU64,
    /// The clock of the server less that of this machine, in microseconds.
    ahead_micros: AtomicI64,
}

/// A stored message.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) subject: String,
    /// Its number in its bucket.
    pub(super) number: u64,
    pub(super) payload: Bytes,
    /// When it was stored, by the server's clock, in microseconds since 1970.
    pub(super) stored_micros: i64,
}

/// The state of a topic's members after a change.
pub(super) struct Changed {
    pub(super) members: Members,
    /// Users that were refused: the topic is full.
    pub(super) refused: Vec<Arc<str>>,
}

impl Records {
    /// Opens the buckets, and makes those that are not there.
    pub(super) async fn open(way: &Arc<NatsWay>, connection: NatsConnection) -> Result<Self, NatsError> {
        let time = |bucket| match bucket {
            Bucket::Directory => Duration::ZERO,
            Bucket::Cached => CACHED_MIN,
            Bucket::Leases => LEASE,
            Bucket::Requests => REMEMBERED,
        };
        let mut streams = Vec::new();
        for bucket in Bucket::ALL {
            let config = bucket_config(way, bucket, time(bucket));
            let opened = connection.context().get_or_create_stream(config).await;
            streams.push(opened.map_err(|error| NatsError::of("opening a bucket", with_causes(&error)))?);
        }
        let cached_seconds = streams[1].cached_info().config.max_age.as_secs();
        let stream = |bucket| connection.context().get_stream_no_info(way.names.stream(bucket));
        let no_stream = |error| NatsError::of("opening a bucket", error);
        let directory = stream(Bucket::Directory).await.map_err(no_stream)?;
        let cached = stream(Bucket::Cached).await.map_err(no_stream)?;
        let leases = stream(Bucket::Leases).await.map_err(no_stream)?;
        let requests = stream(Bucket::Requests).await.map_err(no_stream)?;
        let (way, cached_seconds, ahead_micros) = (Arc::clone(way), AtomicU64::new(cached_seconds), AtomicI64::new(0));
        Ok(Self { way, connection, directory, cached, leases, requests, cached_seconds, ahead_micros })
    }

    fn stream(&self, bucket: Bucket) -> &Stream<()> {
        match bucket {
            Bucket::Directory => &self.directory,
            Bucket::Cached => &self.cached,
            Bucket::Leases => &self.leases,
            Bucket::Requests => &self.requests,
        }
    }

    /// Stores a record, whatever is there.
    pub(super) async fn put(&self, subject: String, payload: impl Into<Bytes>) -> Result<Stored, NatsError> {
        self.connection.store(subject, payload.into(), HeaderMap::new(), None).await
    }

    /// Replaces the record of this number, which is 0 if there is none.
    pub(super) async fn replace(
        &self,
        subject: String,
        payload: impl Into<Bytes>,
        number: u64,
    ) -> Result<Stored, NatsError> {
        self.connection.store(subject, payload.into(), HeaderMap::new(), Some(number)).await
    }

    /// The last record of a subject.
    pub(super) async fn get(&self, bucket: Bucket, subject: &str) -> Result<Option<Record>, NatsError> {
        match self.stream(bucket).direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(Record {
                subject: subject.to_owned(),
                number: message.sequence,
                payload: message.payload,
                stored_micros: i64::try_from(message.time.unix_timestamp_nanos() / 1000).unwrap_or_default(),
            })),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(NatsError::of("reading", with_causes(&error))),
        }
    }

    /// The last records of all subjects that match.
    pub(super) async fn all(&self, bucket: Bucket, subjects: String) -> Result<Vec<Record>, NatsError> {
        let config = pull::Config {
            filter_subject: subjects,
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::None,
            inactive_threshold: ANSWER_TIME,
            memory_storage: true,
            ..pull::Config::default()
        };
        let of = |error: &dyn Error| NatsError::of("reading all", with_causes(error));
        let consumer = self.stream(bucket).create_consumer(config).await.map_err(|error| of(&error))?;
        // A record that is replaced meanwhile comes twice.
        let mut records = IndexMap::new();
        // Those that are still to come may be removed meanwhile, so their number says nothing. A batch with room left ends
        // the list, however fast others store further ones.
        loop {
            let mut batch = consumer.fetch().max_messages(READ_AT_ONCE).messages().await.map_err(|error| of(&error))?;
            let mut count = 0;
            while let Some(message) = timeout(ANSWER_TIME, batch.next()).await.map_err(|error| of(&error))? {
                let message = message.map_err(|error| NatsError::of("reading all", error))?;
                let info = message.info().map_err(|error| NatsError::of("reading all", error))?;
                let number = info.stream_sequence;
                let stored_micros = i64::try_from(info.published.unix_timestamp_nanos() / 1000).unwrap_or_default();
                let (subject, payload) = (message.subject.to_string(), message.payload.clone());
                records.insert(subject.clone(), Record { subject, number, payload, stored_micros });
                count += 1;
            }
            if count < READ_AT_ONCE {
                return Ok(records.into_values().collect());
            }
        }
    }

    /// The subjects that match and have a record.
    pub(super) async fn subjects(&self, bucket: Bucket, subjects: String) -> Result<Vec<String>, NatsError> {
        let of = |error| NatsError::of("reading subjects", with_causes(&error));
        let mut found = self.stream(bucket).info_with_subjects(subjects).await.map_err(of)?;
        let mut names = Vec::new();
        while let Some(subject) = found.next().await {
            names.push(subject.map_err(of)?.0);
        }
        Ok(names)
    }

    /// Removes the records of all subjects that match; with `until` only those up to this number.
    pub(super) async fn remove(&self, bucket: Bucket, subjects: String, until: Option<u64>) -> Result<(), NatsError> {
        let purge = self.stream(bucket).purge().filter(subjects);
        let purged = match until {
            Some(number) => purge.sequence(number + 1).await,
            None => purge.await,
        };
        purged.map(|_| ()).map_err(|error| NatsError::of("removing", with_causes(&error)))
    }

    /// Sets the clock by a record that this node has stored just now.
    pub(super) fn set_clock(&self, record: &Record) {
        self.ahead_micros.store(record.stored_micros.saturating_sub(own_micros()), Ordering::Relaxed);
    }

    /// The time of the server's clock, in microseconds since 1970.
    pub(super) fn now_micros(&self) -> i64 {
        own_micros().saturating_add(self.ahead_micros.load(Ordering::Relaxed))
    }

    /// Makes sure that cached events are stored for this time.
    pub(super) async fn cache_for(&self, time: Duration) -> Result<(), NatsError> {
        let seconds = time.as_secs().saturating_add(1);
        if seconds > self.cached_seconds.load(Ordering::Relaxed) {
            let config = bucket_config(&self.way, Bucket::Cached, Duration::from_secs(seconds));
            let updated = self.connection.context().update_stream(config).await;
            updated.map_err(|error| NatsError::of("storing cached events for longer", with_causes(&error)))?;
            self.cached_seconds.fetch_max(seconds, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The members of a topic, and the number of their record. Without a record their version is 0.
    pub(super) async fn members(&self, app: &str, topic: &Topic) -> Result<(Members, u64), NatsError> {
        let record = self.get(Bucket::Directory, &self.way.names.record(Bucket::Directory, app, topic)).await?;
        let number = record.as_ref().map_or(0, |record| record.number);
        let members = record.and_then(|record| Members::decode(&record.payload));
        Ok((members.unwrap_or_else(|| Members::nobody(0)), number))
    }

    /// A version before that of the first change of a topic without a record. It is greater than all that the topic had
    /// before: the bucket has numbered their records, and none has more changes than this leaves. A new bucket, which
    /// numbers from 1 again, is younger.
    async fn first_version(&self) -> Result<u64, NatsError> {
        let info = self.directory.get_info().await;
        let info = info.map_err(|error| NatsError::of("reading the state of a bucket", with_causes(&error)))?;
        let created = u64::try_from(info.created.unix_timestamp_nanos() / 1000).unwrap_or_default();
        Ok(created.saturating_add((info.state.last_sequence + 1).saturating_mul(CHANGES_MAX)).min(NUMBER_MAX / 2))
    }

    /// Changes the members of a topic. The bucket publishes the changes. An error of the inner result means that there is no
    /// place left for them.
    pub(super) async fn change_members(
        &self,
        by: NodeId,
        (app, topic): (&str, &Topic),
        mut changes: MemberChanges<'_>,
    ) -> Result<Result<Changed, String>, NatsError> {
        let subject = self.way.names.record(Bucket::Directory, app, topic);
        let mut refused = Vec::new();
        let mut attempts = 0;
        loop {
            let (mut members, number) = self.members(app, topic).await?;
            if members.version == 0 && !changes.users.is_empty() {
                members.version = self.first_version().await?;
            }
            let Applied { changes: made, refused: now_refused, is_partial } =
                members.apply(&changes, by, CHANGES_BYTES_MAX);
            if made.is_empty() && number == 0 {
                members.version = 0;
            }
            if !made.is_empty() {
                let stored = self.store_members(&subject, &members, &made, number).await?;
                match stored {
                    Stored::At(number) if members.is_empty() => {
                        self.remove(Bucket::Directory, subject.clone(), Some(number)).await?;
                    }
                    Stored::At(_) => (),
                    Stored::Full(reason) => return Ok(Err(reason)),
                    Stored::Conflict if attempts < ATTEMPTS_MAX => {
                        attempts += 1;
                        let pause = PAUSE_MAX.min(Duration::from_millis(u64::from(attempts)));
                        tokio::time::sleep(pause.mul_f64(rand::random_range(0.0..1.0))).await;
                        continue;
                    }
                    Stored::Conflict => {
                        return Err(NatsError("the members of a topic change too fast to change them".to_owned()));
                    }
                }
            }
            refused.extend(now_refused);
            if !is_partial {
                return Ok(Ok(Changed { members, refused }));
            }
            // New users of the first part are there already.
            for (_, _, since) in &mut changes.users {
                *since = since.filter(|&since| since > 0);
            }
        }
    }

    async fn store_members(
        &self,
        subject: &str,
        members: &Members,
        changes: &[Change],
        number: u64,
    ) -> Result<Stored, NatsError> {
        let mut headers = HeaderMap::new();
        for change in changes {
            let bytes = Envelope::Member(change.clone()).encode();
            let text = String::from_utf8_lossy(&bytes);
            headers.append(CHANGE, &*utf8_percent_encode(&text, ESCAPED).to_string());
        }
        self.connection.store(subject.to_owned(), members.encode().into(), headers, Some(number)).await
    }
}

/// Reads a change that was stored.
pub(super) fn read_change(header: &str) -> Bytes {
    percent_decode(header.as_bytes()).collect::<Vec<u8>>().into()
}

fn own_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

fn bucket_config(way: &NatsWay, bucket: Bucket, time: Duration) -> stream::Config {
    let republish = matches!(bucket, Bucket::Directory | Bucket::Cached).then(|| {
        let (source, destination) = way.names.republished(bucket);
        Republish { source, destination, headers_only: bucket == Bucket::Directory }
    });
    stream::Config {
        name: way.names.stream(bucket),
        subjects: vec![way.names.key(bucket, ">")],
        max_messages_per_subject: 1,
        max_age: time,
        storage: StorageType::Memory,
        num_replicas: way.options.replicas,
        allow_direct: true,
        allow_rollup: true,
        republish,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    }
}
