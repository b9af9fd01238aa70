//! The names of subjects, streams and keys in NATS. A part of a subject has only letters that every key of JetStream's
//! key-value store may have.
//! `cluster/over_nats` calls it.

use std::fmt::Write;
use std::sync::Arc;

use crate::protocol::channel::ChannelName;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::Topic;
use crate::protocol::idempotency::RequestId;
use crate::protocol::pattern::ChannelPattern;

/// The prefixes of the kinds of channels that views mirror.
const MIRRORED_KINDS: [&str; 6] = ["", "private-", "presence-", "cache-", "private-cache-", "presence-cache-"];
/// The longest channel name that another node may have.
const NAME_LENGTH_MAX: usize = 1024;
/// An empty part, as NATS has none.
const EMPTY: &str = "=";

/// A bucket of JetStream's key-value store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Members, numbers of connections, and the nodes themselves.
    Directory,
    /// The events of cache channels.
    Cached,
    /// Leases, statuses, and the lock of the node that cleans up.
    Leases,
    /// Requests with an idempotency key.
    Requests,
}

/// The names of one cluster.
#[derive(Debug)]
pub struct Subjects {
    start: String,
}

impl Subjects {
    /// Names of the cluster called `name`; `prefix` and a colon stand before it, if there is a prefix. Clusters that
    /// differ in one of the two share nothing.
    pub fn new(name: &str, prefix: &str) -> Self {
        // Of a name that is no other, so that the beginning of a bucket's name and of a subject is the same.
        let name = part(name, b'-');
        Self { start: if prefix.is_empty() { name } else { format!("{}_-_{name}", part(prefix, b'-')) } }
    }

    /// The beginning of all names of the cluster.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// `<cluster>.nodes`: the subject of messages for all nodes; `<cluster>.nodes.<node>` of those for one.
    pub fn control(&self, node: Option<NodeId>) -> String {
        let all = format!("{}.nodes", self.start);
        node.map_or(all.clone(), |node| format!("{all}.{node}"))
    }

    /// `<cluster>.topic.<app>.channel.<channel>`, or `user` and the user.
    pub fn topic(&self, app: &str, topic: &Topic) -> String {
        format!("{}.topic.{}", self.start, of_topic(app, topic))
    }

    /// Reads a name that [`Subjects::topic`] has written: the app and the topic.
    pub fn read(&self, subject: &str) -> Option<(String, Topic)> {
        topic_of(subject.strip_prefix(&*self.start)?.strip_prefix(".topic.")?)
    }

    /// Subjects of the topics of all channels of an app whose base names match, and of some more.
    pub fn matching(&self, app: &str, pattern: &ChannelPattern) -> Vec<String> {
        let start = format!("{}.topic.{}.channel", self.start, part(app, b'='));
        let pattern = pattern.as_str();
        let Some((literal, _)) = pattern.split_once('*') else {
            return MIRRORED_KINDS
                .iter()
                .map(|kind| format!("{start}.{}", dotted(&format!("{kind}{pattern}"))))
                .collect();
        };
        match literal.rsplit_once('.') {
            Some((whole, _)) => {
                MIRRORED_KINDS.iter().map(|kind| format!("{start}.{}.>", dotted(&format!("{kind}{whole}")))).collect()
            }
            None => vec![format!("{start}.>")],
        }
    }

    /// The name of a bucket's stream.
    pub fn stream(&self, bucket: Bucket) -> String {
        format!("KV_{}_{}", self.start, bucket.name())
    }

    /// The subject of a key.
    pub fn key(&self, bucket: Bucket, key: &str) -> String {
        format!("$KV.{}_{}.{key}", self.start, bucket.name())
    }

    /// The key that a subject is of.
    pub fn key_of<'a>(&self, bucket: Bucket, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&*self.key(bucket, ""))
    }

    /// Messages that are stored under these subjects go to the topics, too: source and destination.
    pub fn republished(&self, bucket: Bucket) -> (String, String) {
        (self.key(bucket, &format!("{}>", stored(bucket))), format!("{}.topic.>", self.start))
    }

    /// A record of a topic: of its members or of its cached event.
    pub fn record(&self, bucket: Bucket, app: &str, topic: &Topic) -> String {
        self.key(bucket, &format!("{}{}", stored(bucket), of_topic(app, topic)))
    }

    /// Reads what [`Subjects::record`] has written.
    pub fn topic_of_record(&self, bucket: Bucket, subject: &str) -> Option<(String, Topic)> {
        topic_of(self.key_of(bucket, subject)?.strip_prefix(stored(bucket))?)
    }

    /// The connections of a node on a channel.
    pub fn connections(&self, node: NodeId, app: &str, channel: &ChannelName) -> String {
        self.key(Bucket::Directory, &format!("connections.{node}.{}.{}", part(app, b'='), dotted(channel.as_str())))
    }

    /// The numbers of connections of all nodes on all channels of an app, or of one node on all channels.
    pub fn all_connections(&self, node: Option<NodeId>, app: Option<&str>) -> String {
        let node = node.map_or_else(|| "*".to_owned(), |node| node.to_string());
        let rest = app.map_or_else(|| ">".to_owned(), |app| format!("{}.>", part(app, b'=')));
        self.key(Bucket::Directory, &format!("connections.{node}.{rest}"))
    }

    /// Reads what [`Subjects::connections`] has written: the node and the channel.
    pub fn connections_of(&self, subject: &str) -> Option<(NodeId, ChannelName)> {
        let key = self.key_of(Bucket::Directory, subject)?.strip_prefix("connections.")?;
        let mut parts = key.splitn(3, '.');
        let (node, _app, channel) = (NodeId::parse(parts.next()?)?, parts.next()?, parts.next()?);
        Some((node, channel_of(channel)?))
    }

    /// A node that has not left.
    pub fn node(&self, node: NodeId) -> String {
        self.key(Bucket::Directory, &format!("nodes.{node}"))
    }

    /// The lease of a node.
    pub fn lease(&self, node: NodeId) -> String {
        self.key(Bucket::Leases, &format!("leases.{node}"))
    }

    /// How a node fares, for the operators' pages.
    pub fn status(&self, node: NodeId) -> String {
        self.key(Bucket::Leases, &format!("statuses.{node}"))
    }

    /// The node that cleans up after crashed nodes.
    pub fn cleanup_lock(&self) -> String {
        self.key(Bucket::Leases, "undertaker")
    }

    /// A request with an idempotency key.
    pub fn request(&self, id: &RequestId) -> String {
        let (app, key) = (part(&id.app, b'='), part(id.key.as_str(), b'='));
        self.key(Bucket::Requests, &format!("{app}.{}.{key}", id.path.name()))
    }
}

impl Bucket {
    /// All buckets.
    pub const ALL: [Self; 4] = [Self::Directory, Self::Cached, Self::Leases, Self::Requests];

    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Cached => "cached",
            Self::Leases => "leases",
            Self::Requests => "requests",
        }
    }
}

/// The beginning of the keys of topics.
fn stored(bucket: Bucket) -> &'static str {
    if bucket == Bucket::Directory { "members." } else { "" }
}

fn of_topic(app: &str, topic: &Topic) -> String {
    let app = part(app, b'=');
    match topic {
        Topic::Channel(name) => format!("{app}.channel.{}", dotted(name.as_str())),
        Topic::User(user_id) => format!("{app}.user.{}", part(user_id, b'=')),
    }
}

fn topic_of(text: &str) -> Option<(String, Topic)> {
    let mut parts = text.splitn(3, '.');
    let (app, kind, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let topic = match kind {
        "channel" => Topic::Channel(channel_of(rest)?),
        "user" => Topic::User(Arc::from(text_of(rest)?)),
        _ => return None,
    };
    Some((text_of(app)?, topic))
}

fn channel_of(parts: &str) -> Option<ChannelName> {
    let parts: Vec<String> = parts.split('.').map(text_of).collect::<Option<_>>()?;
    ChannelName::parse(&parts.join("."), NAME_LENGTH_MAX).ok()
}

/// A text with its dots, so that a subject may match its beginning.
fn dotted(text: &str) -> String {
    text.split('.').map(|text| part(text, b'=')).collect::<Vec<_>>().join(".")
}

/// A text as one part of a subject: other letters than those of keys are two digits behind an escape. The escape is no
/// letter itself.
fn part(text: &str, escape: u8) -> String {
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' if escape != b'-' => part.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => part.push(char::from(byte)),
            byte => write!(part, "{}{byte:02x}", char::from(escape)).expect("a string takes everything"),
        }
    }
    part
}

/// Reads what [`part`] has written with `=`; `None` for anything else.
fn text_of(part: &str) -> Option<String> {
    if part == EMPTY {
        return Some(String::new());
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(part.len()), part.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = match first {
            b'=' => {
                let (digits, after) = after.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> Topic {
        Topic::Channel(ChannelName::parse(name, 200).unwrap())
    }

    #[test]
    fn a_topic_tells_its_app_and_channel() {
        let names = Subjects::new("gema:x", "y*");
        for app in ["app-id", "a:b}", "é %", "a.b", "="] {
            for topic in [channel("private-a;b.c..d."), channel(".a=@,"), Topic::User("~ü{}%41.*>".into())] {
                let (subject, record) = (names.topic(app, &topic), names.record(Bucket::Directory, app, &topic));
                assert!(!subject.contains([' ', '*', '>']) && !subject.contains(".."), "{subject}");
                assert_eq!(names.read(&subject), Some((app.to_owned(), topic.clone())));
                assert_eq!(names.topic_of_record(Bucket::Directory, &record), Some((app.to_owned(), topic)));
            }
        }
        for subject in
            ["gema.topic.a.channel.b", "x", "y-2a_-_gema-3ax.topic.a.b.c", "y-2a_-_gema-3ax.topic.a.channel.=g"]
        {
            assert_eq!(names.read(subject), None, "{subject}");
        }
    }

    #[test]
    fn prefix_and_name_of_one_cluster_are_never_those_of_another() {
        let start = |prefix, name| Subjects::new(name, prefix).start;
        let starts = [
            start("", "shop"),
            start("sh", "op"),
            start("shop", "shop"),
            start("a", "b_-_c"),
            start("a_-_b", "c"),
            start("", "a_-_b_-_c"),
            start("", "a.b"),
            start("", "a-2eb"),
        ];
        for (place, start) in starts.iter().enumerate() {
            assert!(!starts[..place].contains(start), "{starts:?}");
        }
    }

    #[test]
    fn a_pattern_is_the_subjects_of_its_whole_parts() {
        let names = Subjects::new("gema", "");
        let matching = |pattern| names.matching("app", &ChannelPattern::parse(pattern).unwrap());
        assert_eq!(matching("k.*1")[..2], ["gema.topic.app.channel.k.>", "gema.topic.app.channel.private-k.>"]);
        assert_eq!(matching("orders-*"), ["gema.topic.app.channel.>"]);
        assert_eq!(matching("a.b").len(), 6);
        assert_eq!(matching("a..*")[0], "gema.topic.app.channel.a.=.>");
    }

    #[test]
    fn stored_messages_go_to_the_topics() {
        let names = Subjects::new("gema", "");
        let topic = channel("presence-a.b");
        for bucket in [Bucket::Directory, Bucket::Cached] {
            let (source, destination) = names.republished(bucket);
            let record = names.record(bucket, "app", &topic);
            let rest = record.strip_prefix(source.trim_end_matches('>')).unwrap();
            assert_eq!(format!("{}{rest}", destination.trim_end_matches('>')), names.topic("app", &topic));
        }
    }
}
