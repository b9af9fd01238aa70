//! Carries out the registry's commands: first events, then the rest; those of a topic one after the other, those of
//! several topics at the same time.
//! The bus calls it for each round.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use indexmap::IndexMap;

use crate::cluster::bus::Answer;
use crate::cluster::listener::OpenTopic;
use crate::cluster::member_changes::MemberChanges;
use crate::cluster::over_nats::OverNats;
use crate::nats::connection::Stored;
use crate::nats::connection::Storing;
use crate::nats::error::NatsError;
use crate::nats::subjects::Bucket;
use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::CACHED_MS_MAX;
use crate::protocol::envelope::CONNECTIONS_MAX;
use crate::protocol::envelope::Envelope;
use crate::protocol::envelope::MissedEvents;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::RemoteEvent;
use crate::protocol::envelope::Topic;
use crate::registry::remote::command::Command;
use crate::registry::remote::command::MemberUpdate;
use crate::registry::remote::command::Operation;
use crate::registry::remote::command::Publish;
use crate::registry::remote::message::Snapshot;
use crate::registry::remote::message::UpdateOutcome;

/// Topics that are carried out at the same time.
const AT_ONCE: usize = 256;

/// An app and a topic.
type Of<'a> = (&'a str, &'a Topic);

/// An event that is being stored.
struct Begun {
    storing: Storing,
    subject: String,
    message: Bytes,
}

impl OverNats {
    pub(super) async fn carry_out_all(&self, commands: &[&Command]) -> Result<Vec<Answer>, NatsError> {
        self.listen(commands).await?;
        let mut topics: IndexMap<Of<'_>, Vec<usize>> = IndexMap::new();
        let (mut events, mut answers) = (Vec::new(), Vec::new());
        for (place, command) in commands.iter().enumerate() {
            let of = (&*command.app, &command.topic);
            match &command.operation {
                // Events go first, unless something else of their topic comes before them.
                Operation::Publish(publish) if !topics.contains_key(&of) => {
                    events.push((of, publish));
                    answers.push((place, Answer::Published));
                }
                _ => topics.entry(of).or_default().push(place),
            }
        }
        self.publish_events(&events).await?;
        // Not an iterator that is held while they run: the compiler cannot prove that it is `Send`.
        let topics: Vec<_> =
            topics.into_iter().map(|(of, places)| self.carry_out_topic(of, places, commands)).collect();
        let of_topics: Vec<_> = stream::iter(topics).buffer_unordered(AT_ONCE).try_collect().await?;
        answers.extend(of_topics.into_iter().flatten());
        self.records.connection.settled().await?;
        answers.sort_unstable_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Publishes events of any topics. The bucket of cached events gives them to the topics a moment after they are stored;
    /// so the next event waits for that.
    async fn publish_events(&self, events: &[(Of<'_>, &Publish)]) -> Result<(), NatsError> {
        let mut begun = Vec::new();
        for (of, publish) in events {
            if publish.cache_for.is_none() || begun.len() == AT_ONCE {
                self.end_events(std::mem::take(&mut begun)).await?;
            }
            begun.extend(self.begin_event(*of, publish).await?);
        }
        self.end_events(begun).await
    }

    /// Subscribes to the topics that are opened. Only then does this node receive everything that follows the state that it
    /// publishes and fetches.
    async fn listen(&self, commands: &[&Command]) -> Result<(), NatsError> {
        let opened = commands.iter().filter(|command| matches!(command.operation, Operation::Open { .. }));
        let mut is_settled = true;
        for Command { app, topic, .. } in opened {
            let subject = self.records.way.names.topic(app, topic);
            if let Some(app) = self.cluster.app(app) {
                self.listener.add(&subject, OpenTopic { app, topic: topic.clone() });
            }
            self.receiver.listen(&subject);
            is_settled = false;
        }
        if is_settled { Ok(()) } else { self.receiver.settled().await }
    }

    /// Carries out the commands of a topic. Updates of members that follow each other are one change.
    async fn carry_out_topic(
        &self,
        (app, topic): (&str, &Topic),
        places: Vec<usize>,
        commands: &[&Command],
    ) -> Result<Vec<(usize, Answer)>, NatsError> {
        let mut answers = Vec::with_capacity(places.len());
        let mut rest = places.as_slice();
        while let Some(&place) = rest.first() {
            let updates: Vec<&MemberUpdate> = rest.iter().map_while(|&place| update_of(commands[place])).collect();
            if updates.is_empty() {
                // A topic that is opened again in the same round stays open.
                let is_last = rest.len() == 1;
                answers.push((place, self.carry_out_one((app, topic), &commands[place].operation, is_last).await?));
                rest = &rest[1..];
                continue;
            }
            let (own, after) = rest.split_at(updates.len());
            let outcomes = self.update_members((app, topic), &updates).await?;
            answers.extend(own.iter().copied().zip(outcomes.into_iter().map(Answer::Updated)));
            rest = after;
        }
        Ok(answers)
    }

    async fn carry_out_one(
        &self,
        (app, topic): (&str, &Topic),
        operation: &Operation,
        is_last: bool,
    ) -> Result<Answer, NatsError> {
        match operation {
            Operation::Publish(publish) => {
                self.publish_events(&[((app, topic), publish)]).await?;
                return Ok(Answer::Published);
            }
            Operation::Open { number, .. } => return self.open_topic((app, topic), *number).await,
            Operation::FetchEvents { number } => {
                self.publish((app, topic), &Envelope::Mark(self.cluster.node(), *number)).await?;
                // Snapshots are not stored; the node has what it has heard.
                return Ok(Answer::Fetched(Some(Vec::new())));
            }
            Operation::StoreEvents(_) => return Ok(Answer::Stored(true)),
            Operation::Close => {
                if let Topic::Channel(name) = topic {
                    self.write_connections((app, name), 0).await?;
                }
                if is_last {
                    let subject = self.records.way.names.topic(app, topic);
                    self.listener.remove(&subject);
                    self.receiver.leave(&subject);
                }
            }
            Operation::ReportMissed { events, since, of_several } => {
                let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let (node, of_app) = (self.cluster.node(), of_several.then(|| app.into()));
                let missed = Envelope::Missed(MissedEvents { node, events: *events, since_ms, of_app });
                let names = &self.records.way.names;
                let subject = if *of_several { names.control(None) } else { names.topic(app, topic) };
                self.records.connection.publish(subject, missed.encode().into()).await?;
            }
            Operation::PublishCount => self.publish_count((app, topic)).await?,
            Operation::ForgetEvents | Operation::UpdateMember(_) => (),
            // The configuration takes no history rule with NATS.
            Operation::CatchUp { .. } => return Ok(Answer::CaughtUp(None)),
            Operation::TakePlace { .. } => return Ok(Answer::Found(None)),
            Operation::WritePlaces(_) => return Ok(Answer::PlacesWritten(true)),
        }
        Ok(Answer::Nothing)
    }

    /// Publishes an event, or begins to store it where its bucket publishes it.
    async fn begin_event(&self, (app, topic): Of<'_>, publish: &Publish) -> Result<Option<Begun>, NatsError> {
        let cached_for = publish.cache_for.unwrap_or_default();
        let cached_for_ms = u64::try_from(cached_for.as_millis()).unwrap_or(u64::MAX).min(CACHED_MS_MAX);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let accepted = since.saturating_sub(publish.event.accepted.elapsed());
        let event = RemoteEvent {
            node: self.cluster.node(),
            number: publish.number,
            accepted_micros: u64::try_from(accepted.as_micros()).unwrap_or(u64::MAX),
            except: publish.event.except,
            cached_for_ms,
            frame: publish.event.frame.clone(),
            partial: publish.event.partial.clone(),
        };
        let (records, names) = (&self.records, &self.records.way.names);
        let message = Bytes::from(event.encode());
        if message.len() > records.connection.bytes_max() {
            self.note_lost(message.len());
            return Ok(None);
        }
        if cached_for_ms == 0 {
            records.connection.publish(names.topic(app, topic), message).await?;
            return Ok(None);
        }
        records.cache_for(cached_for).await?;
        let record = names.record(Bucket::Cached, app, topic);
        let storing = records.connection.begin_to_store(record, message.clone()).await;
        Ok(Some(Begun { storing, subject: names.topic(app, topic), message }))
    }

    /// Waits until events are stored.
    async fn end_events(&self, begun: Vec<Begun>) -> Result<(), NatsError> {
        for Begun { storing, subject, message } in begun {
            if let Stored::Full(error) = storing.end().await? {
                self.note_refusal(&error);
                self.records.connection.publish(subject, message).await?;
            }
        }
        Ok(())
    }

    /// Opens a topic: stores its state on this node, and fetches that of the others.
    async fn open_topic(&self, (app, topic): (&str, &Topic), number: u64) -> Result<Answer, NatsError> {
        let (cluster, records) = (&self.cluster, &self.records);
        let local = cluster.app(app).map(|state| state.local_topic(topic)).unwrap_or_default();
        let mut snapshot = Snapshot::default();
        let has_members = match topic {
            Topic::Channel(name) => name.kind().presence,
            Topic::User(_) => true,
        };
        if has_members {
            let changes = MemberChanges::all(cluster.node(), &local);
            match records.change_members(cluster.node(), (app, topic), changes).await? {
                Ok(changed) => {
                    snapshot.version = changed.members.version;
                    snapshot.entries = changed.members.roster();
                    snapshot.refused = changed.refused;
                }
                Err(error) => {
                    self.note_refusal(&error);
                    return Ok(Answer::Opened(None));
                }
            }
        }
        if let Topic::Channel(name) = topic {
            if local.counted {
                let peers: Vec<NodeId> = cluster.peers();
                let counts = records.connections(app, name, &peers).await?;
                let count = |count: usize| u32::try_from(count).ok().filter(|&count| count > 0);
                let counts = peers.into_iter().zip(counts).filter_map(|(node, own)| Some((node, count(own)?)));
                snapshot.counts = counts.collect();
            }
            if name.kind().cached {
                snapshot.cached = records.cached(app, name).await?;
            }
        }
        if local.snapshot.is_some() {
            self.publish((app, topic), &Envelope::Mark(cluster.node(), number)).await?;
            // Snapshots are not stored; the node has what it has heard.
            snapshot.last_events = Some(Vec::new());
        }
        Ok(Answer::Opened(Some(snapshot)))
    }

    async fn update_members(
        &self,
        (app, topic): (&str, &Topic),
        updates: &[&MemberUpdate],
    ) -> Result<Vec<UpdateOutcome>, NatsError> {
        let me = self.cluster.node();
        let changes = MemberChanges::updates(me, topic, updates);
        let changed = match self.records.change_members(me, (app, topic), changes).await? {
            Ok(changed) => changed,
            Err(error) => {
                self.note_refusal(&error);
                return Ok(updates.iter().map(|_| UpdateOutcome::Failed).collect());
            }
        };
        // A later update of a user may have found room.
        let is_refused =
            |user_id: &std::sync::Arc<str>| changed.refused.contains(user_id) && !changed.members.has_user(me, user_id);
        let outcome = |update: &&MemberUpdate| match is_refused(&update.user_id) {
            true => UpdateOutcome::Full,
            false => UpdateOutcome::Applied(changed.members.version),
        };
        Ok(updates.iter().map(outcome).collect())
    }

    async fn publish_count(&self, (app, topic): (&str, &Topic)) -> Result<(), NatsError> {
        let (Topic::Channel(name), Some(state)) = (topic, self.cluster.app(app)) else { return Ok(()) };
        let (count, counted) = state.take_count(name);
        let count = u32::try_from(count).unwrap_or(CONNECTIONS_MAX).min(CONNECTIONS_MAX);
        self.write_connections((app, name), count).await?;
        match counted {
            true => self.publish((app, topic), &Envelope::Count(self.cluster.node(), count)).await,
            false => Ok(()),
        }
    }

    async fn write_connections(&self, (app, channel): (&str, &ChannelName), count: u32) -> Result<(), NatsError> {
        let subject = self.records.way.names.connections(self.cluster.node(), app, channel);
        if count == 0 {
            return self.records.remove(Bucket::Directory, subject, None).await;
        }
        if let Stored::Full(error) = self.records.put(subject, count.to_string()).await? {
            self.note_refusal(&error);
        }
        Ok(())
    }

    async fn publish(&self, (app, topic): (&str, &Topic), envelope: &Envelope) -> Result<(), NatsError> {
        let subject = self.records.way.names.topic(app, topic);
        self.records.connection.publish(subject, envelope.encode().into()).await
    }

    /// JetStream has no place left for something.
    fn note_refusal(&self, error: &str) {
        self.cluster.meters.refused();
        self.cluster.note_refused();
        let advice = NatsError(error.to_owned()).advice();
        tracing::warn!(error, advice, "NATS stores nothing more; what it was for is tried again or served from here");
    }

    /// An event is larger than NATS takes.
    fn note_lost(&self, bytes: usize) {
        self.cluster.meters.refused();
        let bytes_max = self.records.connection.bytes_max();
        tracing::warn!(bytes, bytes_max, "the other nodes miss an event: raise max_payload of nats-server");
    }
}

fn update_of(command: &Command) -> Option<&MemberUpdate> {
    match &command.operation {
        Operation::UpdateMember(update) => Some(update),
        _ => None,
    }
}
