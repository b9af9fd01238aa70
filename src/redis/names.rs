//! The names of topics and keys. Everything of one topic has the same hash tag, so that in a Redis Cluster a script
//! finds it in one slot.
//! Everything that sends commands to Redis calls it.

use std::sync::Arc;

use percent_encoding::AsciiSet;
use percent_encoding::CONTROLS;
use percent_encoding::percent_decode_str;
use percent_encoding::utf8_percent_encode;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::protocol::idempotency::RequestId;
use crate::protocol::pattern::ChannelPattern;

/// Characters that separate the parts of a name.
const PARTS: &AsciiSet = &CONTROLS.add(b'%').add(b':').add(b'{').add(b'}').add(b' ');
/// The beginning of a user's topic. No channel's name begins so.
const USER: char = '~';
/// The prefixes of the kinds of channels that views mirror.
const MIRRORED_KINDS: [&str; 6] = ["", "private-", "presence-", "cache-", "private-cache-", "presence-cache-"];
/// The longest channel name that another node may have.
const NAME_LENGTH_MAX: usize = 1024;

/// The names of one cluster.
#[derive(Debug)]
pub struct Names {
    /// Before topics and keys.
    start: String,
    /// The name that the operator chose.
    name: String,
}

impl Names {
    /// Names of the cluster called `name`; `key_prefix` and a colon stand before it, if there is a prefix. Clusters
    /// that differ in one of the two share nothing.
    pub fn new(name: &str, key_prefix: &str) -> Self {
        let encoded = utf8_percent_encode(name, PARTS);
        let start = if key_prefix.is_empty() { encoded.to_string() } else { format!("{key_prefix}:{encoded}") };
        Self { start, name: name.to_owned() }
    }

    /// The beginning of all names of the cluster.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// `<cluster>:nodes`: the topic of messages for all nodes; `<cluster>:nodes:<node>` of those for one.
    pub fn control(&self, node: Option<NodeId>) -> String {
        let all = format!("{}:nodes", self.start);
        node.map_or(all.clone(), |node| format!("{all}:{node}"))
    }

    /// `<cluster>:{<app>:<channel>}`, or `~` and the user.
    pub fn topic(&self, app: &str, topic: &Topic) -> String {
        format!("{}:{}", self.start, tag(app, topic))
    }

    /// The topics of all channels of an app whose base names match, and of some more.
    pub fn glob(&self, app: &str, pattern: &ChannelPattern) -> String {
        let app = utf8_percent_encode(app, PARTS).to_string();
        let start = escaped(&format!("{}:{{{app}:", self.start));
        format!("{start}*{}}}", pattern.as_str().trim_start_matches('*'))
    }

    /// The topics of the channels that a pattern without stars means.
    pub fn variants(&self, app: &str, pattern: &ChannelPattern) -> Vec<String> {
        let names = MIRRORED_KINDS.iter().map(|prefix| format!("{prefix}{pattern}"));
        let channels = names.filter_map(|name| ChannelName::parse(&name, NAME_LENGTH_MAX).ok());
        channels.map(|channel| self.topic(app, &Topic::Channel(channel))).collect()
    }

    /// All topics of the cluster, as a pattern of Redis.
    pub fn everything(&self) -> String {
        format!("{}:*", escaped(&self.start))
    }

    /// Reads a name that [`Names::topic`] has written: the app and the topic.
    pub fn read(&self, topic: &[u8]) -> Option<(String, Topic)> {
        let tag = std::str::from_utf8(topic).ok()?.strip_prefix(&*self.start)?.strip_prefix(":{")?.strip_suffix('}')?;
        let (app, field) = tag.split_once(':')?;
        Some((percent_decode_str(app).decode_utf8().ok()?.into_owned(), topic_of(field)?))
    }

    /// Hash: the members of a topic, with their nodes.
    pub fn members(&self, app: &str, topic: &Topic) -> String {
        format!("{}:{}:members", self.start, tag(app, topic))
    }

    /// Hash: the users of a topic, each with the number of its nodes.
    pub fn users(&self, app: &str, topic: &Topic) -> String {
        format!("{}:{}:users", self.start, tag(app, topic))
    }

    /// String: the event of a cache channel, as it was published.
    pub fn cached(&self, app: &str, topic: &Topic) -> String {
        format!("{}:{}:cached", self.start, tag(app, topic))
    }

    /// Hash: the last events of a channel's keys. Sorted set: the same keys by the time of their events.
    pub fn last_events(&self, app: &str, topic: &Topic) -> [String; 2] {
        let key = format!("{}:{}:last_events", self.start, tag(app, topic));
        [key.clone(), format!("{key}:times")]
    }

    /// Hash: the numbers of a channel's history, and the places of users. Stream: its events.
    pub fn history(&self, app: &str, topic: &Topic) -> [String; 2] {
        let key = format!("{}:{}:history", self.start, tag(app, topic));
        [key.clone(), format!("{key}:events")]
    }

    /// Sorted set: the nodes, by the end of their lease.
    pub fn leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.start)
    }

    /// String: the node that cleans up after crashed nodes.
    pub fn cleanup_lock(&self) -> String {
        format!("{}:{{nodes}}:undertaker", self.start)
    }

    /// Hash: the bucket for one kind of an app's requests.
    pub fn rate(&self, app: &str, kind: &str) -> String {
        format!("{}:{{{}}}:{kind}", self.start, utf8_percent_encode(app, PARTS))
    }

    /// String: the SHA-256 of the body of a request with an idempotency key, and behind it the answer.
    pub fn request(&self, id: &RequestId) -> String {
        let encoded = |text| utf8_percent_encode(text, PARTS);
        let (app, key) = (encoded(&id.app), encoded(id.key.as_str()));
        format!("{}:{{{app}}}:idempotency:{}:{key}", self.start, id.path.name())
    }

    /// Set: the apps of a node.
    pub fn apps(&self, node: NodeId) -> String {
        format!("{}:{{node:{node}}}:apps", self.start)
    }

    /// String: how a node fares, for the operators' pages.
    pub fn status(&self, node: NodeId) -> String {
        format!("{}:{{node:{node}}}:status", self.start)
    }

    /// Hash: what a node listens to of an app or has users on, with the number of its connections.
    pub fn topics(&self, node: NodeId, app: &str) -> String {
        format!("{}:{{node:{node}}}:app:{app}", self.start)
    }

    /// Set: the nodes that have subscribers of a channel, or connections of a user on it, as webhooks know it.
    pub fn webhook_nodes(&self, app: &str, channel: &ChannelName, user_id: Option<&str>) -> String {
        let user = user_id.map(|user_id| format!(":{}", utf8_percent_encode(user_id, PARTS))).unwrap_or_default();
        format!("{}:holders:{}{user}", self.webhooks(app), field(&Topic::Channel(channel.clone())))
    }

    /// Set: the channels and members that a node has, as webhooks know it.
    pub fn occupancies(&self, node: NodeId) -> String {
        format!("{}:{{node:{node}}}:held", self.start)
    }

    /// Sorted set: the nodes that decide about webhooks, by the end of their lease.
    pub fn webhook_leases(&self) -> String {
        format!("{}:{{webhooks}}:leases", self.start)
    }

    /// String: the node that cleans up after this crashed node, or has done so.
    pub fn webhook_cleanup_lock(&self, node: NodeId) -> String {
        format!("{}:{{webhooks}}:gravedigger:{node}", self.start)
    }

    /// Stream: the events that wait for an endpoint of webhooks.
    pub fn webhook_queue(&self, app: &str, endpoint: &str) -> String {
        format!("{}:queue:{endpoint}", self.webhooks(app))
    }

    /// The node that delivers it.
    pub fn webhook_owner(&self, app: &str, endpoint: &str) -> String {
        format!("{}:owner:{endpoint}", self.webhooks(app))
    }

    /// Set: the apps with such streams, each with one of them.
    pub fn webhook_queues(&self) -> String {
        format!("{}:{{webhooks}}:queues", self.start)
    }

    /// The beginning of the keys of an app's webhooks, which are in one slot.
    fn webhooks(&self, app: &str) -> String {
        format!("{}:{{webhooks:{}}}", self.start, utf8_percent_encode(app, PARTS))
    }

    /// Topics of a Soketi server whose prefix is the name of this cluster, or which has none.
    pub fn soketi(&self) -> [String; 2] {
        let topic = "redis-adapter#comms#req";
        [format!("{}#{topic}", self.name), topic.to_owned()]
    }
}

/// A topic as a field of [`Names::topics`].
pub fn field(topic: &Topic) -> String {
    match topic {
        Topic::Channel(name) => utf8_percent_encode(name.as_str(), PARTS).to_string(),
        Topic::User(user_id) => format!("{USER}{}", utf8_percent_encode(user_id, PARTS)),
    }
}

/// Reads what [`field`] has written; `None` for anything else.
pub fn topic_of(field: &str) -> Option<Topic> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| Arc::<str>::from(&*text));
    match field.strip_prefix(USER) {
        Some(user_id) => decoded(user_id).map(Topic::User),
        None => ChannelName::parse(&decoded(field)?, NAME_LENGTH_MAX).ok().map(Topic::Channel),
    }
}

/// Escapes a text for a pattern of Redis.
fn escaped(text: &str) -> String {
    let escape = |letter: char| if r"*?[]^\".contains(letter) { format!(r"\{letter}") } else { letter.to_string() };
    text.chars().map(escape).collect()
}

fn tag(app: &str, topic: &Topic) -> String {
    format!("{{{}:{}}}", utf8_percent_encode(app, PARTS), field(topic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::idempotency::IdempotencyKey;
    use crate::protocol::idempotency::PublishPath;

    #[test]
    fn names_of_different_things_differ() {
        let names = Names::new("gema", "k");
        let channel = |name: &str| Topic::Channel(ChannelName::parse(name, 200).unwrap());
        assert_eq!(names.topic("app-id", &channel("orders")), "k:gema:{app-id:orders}");
        assert_eq!(names.members("app-id", &channel("presence-a")), "k:gema:{app-id:presence-a}:members");
        assert_eq!(names.rate("a:b", "read_requests"), "k:gema:{a%3Ab}:read_requests");
        let key = IdempotencyKey::parse("order:7 {paid}").unwrap();
        let id = RequestId { app: "a:b".to_owned(), path: PublishPath::BatchEvents, key };
        assert_eq!(names.request(&id), "k:gema:{a%3Ab}:idempotency:batch_events:order%3A7%20%7Bpaid%7D");
        assert_eq!(names.topic("a:b}", &Topic::User("c d:{}%".into())), "k:gema:{a%3Ab%7D:~c%20d%3A%7B%7D%25}");
        assert_eq!(names.topic("a", &channel("#server-to-user-x:y")), "k:gema:{a:#server-to-user-x%3Ay}");
    }

    #[test]
    fn prefix_and_name_of_one_cluster_are_never_those_of_another() {
        let start = |prefix, name| Names::new(name, prefix).start;
        let starts = [
            start("", "shop"),
            start("sh", "op"),
            start("shop", "shop"),
            start("shop:", "shop"),
            start("a", "b:c"),
            start("a:b", "c"),
            start("", "a:b:c"),
            start("", "a:b%3Ac"),
        ];
        for (place, start) in starts.iter().enumerate() {
            assert!(!starts[..place].contains(start), "{starts:?}");
        }
    }

    #[test]
    fn a_topic_tells_its_app_and_channel() {
        let names = Names::new("gema:x", "y*");
        for app in ["app-id", "a:b}", "é %"] {
            let topic = Topic::Channel(ChannelName::parse("private-a;b", 200).unwrap());
            assert_eq!(names.read(names.topic(app, &topic).as_bytes()), Some((app.to_owned(), topic)));
        }
        for topic in ["y*:gema%3Ax:nodes", "gema%3Ax:{a:b}", "y*:gema%3Ax:{a}", "y*:gema%3Ax:{a:b c}"] {
            assert_eq!(names.read(topic.as_bytes()), None, "{topic}");
        }
    }

    #[test]
    fn a_glob_is_a_pattern_behind_any_prefix() {
        let glob = |name, app, pattern| Names::new(name, "").glob(app, &ChannelPattern::parse(pattern).unwrap());
        assert_eq!(glob("gema", "app", "k.*1"), "gema:{app:*k.*1}");
        assert_eq!(glob("g*", "a?[b]", "**"), r"g\*:{a\?\[b\]:*}");
    }

    #[test]
    fn a_field_tells_its_topic() {
        for topic in [
            Topic::Channel(ChannelName::parse("presence-a.b;c", 200).unwrap()),
            Topic::Channel(ChannelName::parse("#server-to-user-é ~:", 200).unwrap()),
            Topic::User("~ü{}%41".into()),
        ] {
            assert_eq!(topic_of(&field(&topic)), Some(topic));
        }
        assert_eq!(topic_of("not a channel"), None);
        assert_eq!(topic_of("%ff"), None);
    }
}
