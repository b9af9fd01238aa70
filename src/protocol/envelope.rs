//! Messages between nodes: a line of text that describes the message, then its bytes.
//! `cluster` sends and receives them. Nothing in them is trusted: anything that does not fit exactly is refused.
//!
//! The frame of an event ends with its [`Partial`], if it has one.
//!
//! ```text
//! gema/1 event <node> <number> <accepted, µs since 1970> <except|-> <cached for, ms> <length>\n<frame>
//! gema/1 member <by> <version> <node> <since> <id length> <info length>\n<id><info>
//! gema/1 count <node> <connections>\n
//! gema/1 mark <node> <number>\n
//! gema/1 missed <node> <events> <since, ms ago> <app length>\n<app>
//! gema/1 hello|here|leaving|gone <node> <of>\n
//! gema/1 terminate|terminated <node> <request> <number> <app length> <user length>\n<app><user>
//! gema/1 ask|answer <node> <to> <request> <length>\n<text>
//! ```

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::channel::ChannelName;
use crate::protocol::frame::Frame;
use crate::protocol::partial::Partial;
use crate::protocol::socket_id::SocketId;

/// A subject that nodes exchange messages about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A channel: its events, members and number of connections.
    Channel(ChannelName),
    /// A user that may be signed in somewhere.
    User(Arc<str>),
}

/// The beginning of every message of this version.
pub const MAGIC: &str = "gema/1 ";
/// The longest time that an event is stored: over thirty years.
pub const CACHED_MS_MAX: u64 = 1 << 40;
/// Nodes that a cluster may have. Messages of further ones are dropped.
pub const NODES_MAX: usize = 1024;
/// The greatest number of an event or change: Redis' scripts count exactly up to it.
pub const NUMBER_MAX: u64 = 1 << 53;
/// Connections that a node may have on a channel.
pub const CONNECTIONS_MAX: u32 = 1 << 24;
/// The longest first line.
const HEAD_MAX: usize = 256;

/// The id of one run of a process; never used again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// 16 hexadecimal digits in lower case.
    ///
    /// ```
    /// use gema::protocol::envelope::NodeId;
    /// let node = NodeId::random();
    /// assert_eq!(NodeId::parse(&node.to_string()), Some(node));
    /// assert_eq!(NodeId::parse("1"), None);
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| plain).map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The place of an event in a cluster: the node that accepted it, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Grows with each event of that node.
    pub number: NonZeroU64,
}

impl Origin {
    /// `None` for a number that no node gives.
    pub fn new(node: NodeId, number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(|number| Self { node, number })
    }
}

/// A message between nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    /// An event for the subscribers of the topic's channel.
    Event(RemoteEvent),
    /// A user came to the topic or left it, on one node.
    Member(Change),
    /// The number of a node's connections on the topic's channel.
    Count(NodeId, u32),
    /// The node that opens the topic has received everything before it, once this comes back. The number is that of its
    /// command.
    Mark(NodeId, u64),
    /// Events of the topic's channel, or of several ones, that the node has dropped for the others.
    Missed(MissedEvents),
    /// A node joins the cluster, or returns to it.
    Hello(NodeId, NodeId),
    /// The answer to a hello, for the second node.
    Here(NodeId, NodeId),
    /// A node is draining.
    Draining(NodeId, NodeId),
    /// The second node has gone: the first one found it crashed, or it leaves itself.
    Gone(NodeId, NodeId),
    /// Close the connections of a user, and answer.
    Terminate(Termination),
    /// The answer, with the number of closed connections.
    Terminated(Termination),
    /// A question of an operator's page to another node.
    Ask(PageMessage),
    /// The answer.
    Answer(PageMessage),
}

/// Events that do not reach the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissedEvents {
    /// The node that accepted them.
    pub node: NodeId,
    /// How many they are.
    pub events: u64,
    /// How long ago the first one was accepted, in milliseconds. Clocks of nodes may differ.
    pub since_ms: u64,
    /// The app's id, on the control topic: the events were on several of its channels.
    pub of_app: Option<Arc<str>>,
}

/// An event that another node has accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteEvent {
    /// The node that accepted it.
    pub node: NodeId,
    /// Grows with each event of that node.
    pub number: u64,
    /// The time, in microseconds since 1970 by the clock of that node.
    pub accepted_micros: u64,
    /// The connection that must not get the event.
    pub except: Option<SocketId>,
    /// How long a cache channel stores it, in milliseconds; 0 on other channels.
    pub cached_for_ms: u64,
    /// The frame for all subscribers.
    pub frame: Frame,
    /// The figures that the event is made of.
    pub partial: Option<Arc<Partial>>,
}

/// A change of the members of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The node that made it: the member's own, or the one that cleans up after it.
    pub by: NodeId,
    /// The version of the change before it, plus one.
    pub version: u64,
    /// The node of the user's connections.
    pub node: NodeId,
    /// The user.
    pub user_id: Arc<str>,
    /// The version at which the node first announced this `user_info`, or 0 for a user that left. Of several nodes the
    /// newest `user_info` counts.
    pub since: u64,
    /// The `user_info` as JSON; none for a user that left.
    pub user_info: Option<Arc<str>>,
}

/// The termination of a user's connections on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// The node that asks or answers.
    pub node: NodeId,
    /// Relates answers to their request.
    pub request: u64,
    /// Connections closed, in an answer.
    pub closed: u64,
    /// The app's id.
    pub app: Arc<str>,
    /// The user's id.
    pub user_id: Arc<str>,
}

/// A question of an operator's page, or the answer, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMessage {
    /// The node that asks or answers.
    pub node: NodeId,
    /// The node that is asked or answered.
    pub to: NodeId,
    /// Relates an answer to its question.
    pub request: u64,
    /// The question or answer.
    pub text: Arc<str>,
}

/// Why a message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Of another version of gema.
    #[error("of another version of gema")]
    Version,
    /// Of other software, or damaged.
    #[error("not of gema, or damaged")]
    Malformed,
}

impl Envelope {
    /// The bytes that other nodes read.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Event(event) => event.encode(),
            Self::Member(change) => {
                let info = change.user_info.as_deref().unwrap_or_default();
                let Change { version, node, since, user_id, .. } = change;
                let (head, ids, infos) = (member_head(change.by), user_id.len(), info.len());
                format!("{head}{version} {node} {since} {ids} {infos}\n{user_id}{info}").into_bytes()
            }
            Self::Count(node, count) => format!("{MAGIC}count {node} {count}\n").into_bytes(),
            Self::Mark(node, number) => format!("{MAGIC}mark {node} {number}\n").into_bytes(),
            Self::Missed(MissedEvents { node, events, since_ms, of_app }) => {
                let app = of_app.as_deref().unwrap_or_default();
                format!("{MAGIC}missed {node} {events} {since_ms} {}\n{app}", app.len()).into_bytes()
            }
            Self::Hello(node, of) => format!("{MAGIC}hello {node} {of}\n").into_bytes(),
            Self::Here(node, of) => format!("{MAGIC}here {node} {of}\n").into_bytes(),
            Self::Draining(node, of) => format!("{MAGIC}leaving {node} {of}\n").into_bytes(),
            Self::Gone(node, of) => format!("{MAGIC}gone {node} {of}\n").into_bytes(),
            Self::Terminate(what) => what.encode("terminate"),
            Self::Terminated(what) => what.encode("terminated"),
            Self::Ask(message) => message.encode("ask"),
            Self::Answer(message) => message.encode("answer"),
        }
    }

    /// Reads a message.
    pub fn decode(bytes: &Bytes) -> Result<Self, EnvelopeError> {
        let first = &bytes[..bytes.len().min(HEAD_MAX)];
        let malformed = EnvelopeError::Malformed;
        let end = first.iter().position(|&byte| byte == b'\n').ok_or(malformed)?;
        let head = std::str::from_utf8(&first[..end]).map_err(|_| malformed)?;
        let Some(fields) = head.strip_prefix(MAGIC) else {
            let other = head.strip_prefix("gema/").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if other { EnvelopeError::Version } else { malformed });
        };
        Self::read(fields, &bytes.slice(end + 1..)).ok_or(malformed)
    }

    fn read(fields: &str, body: &Bytes) -> Option<Self> {
        let mut fields = Fields(fields.split(' '));
        let kind = fields.text()?;
        let node = fields.node()?;
        let envelope = match kind {
            "event" => {
                let number = fields.counted()?;
                let accepted_micros = fields.number()?;
                let except = match fields.text()? {
                    "-" => None,
                    id => Some(SocketId::parse(id)?),
                };
                let cached_for_ms = fields.number().filter(|&time| time <= CACHED_MS_MAX)?;
                let length: usize = fields.number()?;
                let frame = Frame::received(body).filter(|_| length == body.len())?;
                let (frame, partial) = Partial::taken_from(frame).ok()?;
                let partial = partial.map(Arc::new);
                Self::Event(RemoteEvent { node, number, accepted_micros, except, cached_for_ms, frame, partial })
            }
            "member" => {
                let (version, of, since) = (fields.counted()?, fields.node()?, fields.counted()?);
                let (user_id, info) = two_texts(&mut fields, body)?;
                let user_info = match info {
                    "" => None,
                    info => Some(json(info)?),
                };
                Self::Member(Change { by: node, version, node: of, since, user_id: user_id.into(), user_info })
            }
            "count" => {
                let count = fields.number().filter(|&count| count <= CONNECTIONS_MAX)?;
                Self::Count(node, Some(count).filter(|_| body.is_empty())?)
            }
            "mark" => Self::Mark(node, fields.number().filter(|_| body.is_empty())?),
            "missed" => {
                let (events, since_ms, length) = (fields.counted()?, fields.counted()?, fields.number::<usize>()?);
                let app = std::str::from_utf8(body).ok().filter(|app| app.len() == length)?;
                let of_app = Some(app).filter(|app| !app.is_empty()).map(Arc::from);
                Self::Missed(MissedEvents { node, events, since_ms, of_app })
            }
            "hello" => Self::Hello(node, fields.node().filter(|_| body.is_empty())?),
            "here" => Self::Here(node, fields.node().filter(|_| body.is_empty())?),
            "leaving" => Self::Draining(node, fields.node().filter(|_| body.is_empty())?),
            "gone" => Self::Gone(node, fields.node().filter(|_| body.is_empty())?),
            "terminate" | "terminated" => {
                let (request, closed) = (fields.number()?, fields.number()?);
                let (app, user_id) = two_texts(&mut fields, body)?;
                let what = Termination { node, request, closed, app: app.into(), user_id: user_id.into() };
                if kind == "terminate" { Self::Terminate(what) } else { Self::Terminated(what) }
            }
            "ask" | "answer" => {
                let (to, request, length) = (fields.node()?, fields.number()?, fields.number::<usize>()?);
                let text = std::str::from_utf8(body).ok().filter(|text| text.len() == length)?;
                let message = PageMessage { node, to, request, text: text.into() };
                if kind == "ask" { Self::Ask(message) } else { Self::Answer(message) }
            }
            _ => return None,
        };
        fields.0.next().is_none().then_some(envelope)
    }
}

impl RemoteEvent {
    /// The bytes that other nodes read.
    pub fn encode(&self) -> Vec<u8> {
        let encoding = self.encoding();
        let mut bytes = Vec::with_capacity(encoding.len_max());
        encoding.write_to(&mut bytes).expect("a vector takes every byte");
        bytes
    }

    /// Puts the figures into the frame, for a caller that has a place for the bytes.
    pub fn encoding(&self) -> Encoding<'_> {
        let frame = match &self.partial {
            Some(partial) => Cow::Owned(partial.appended_to(&self.frame)),
            None => Cow::Borrowed(&self.frame),
        };
        Encoding { event: self, frame }
    }
}

/// An event whose bytes are about to be written.
#[derive(Debug)]
pub struct Encoding<'a> {
    event: &'a RemoteEvent,
    /// The frame, with the figures.
    frame: Cow<'a, Frame>,
}

impl Encoding<'_> {
    /// The most bytes that the event can have.
    pub fn len_max(&self) -> usize {
        HEAD_MAX + self.frame.bytes().len()
    }

    /// Writes the bytes of [`RemoteEvent::encode`].
    pub fn write_to(&self, out: &mut impl io::Write) -> io::Result<()> {
        let frame = self.frame.bytes();
        let RemoteEvent { node, number, accepted_micros, except, cached_for_ms, .. } = self.event;
        write!(out, "{MAGIC}event {node} {number} {accepted_micros} ")?;
        match except {
            Some(except) => write!(out, "{except}")?,
            None => write!(out, "-")?,
        }
        writeln!(out, " {cached_for_ms} {}", frame.len())?;
        out.write_all(frame)
    }
}

impl Termination {
    fn encode(&self, kind: &str) -> Vec<u8> {
        let Self { node, request, closed, app, user_id } = self;
        format!("{MAGIC}{kind} {node} {request} {closed} {} {}\n{app}{user_id}", app.len(), user_id.len()).into_bytes()
    }
}

impl PageMessage {
    fn encode(&self, kind: &str) -> Vec<u8> {
        let Self { node, to, request, text } = self;
        format!("{MAGIC}{kind} {node} {to} {request} {}\n{text}", text.len()).into_bytes()
    }
}

/// The beginning of a change's message; Redis itself adds the rest.
pub fn member_head(by: NodeId) -> String {
    format!("{MAGIC}member {by} ")
}

/// The number at the beginning of some fields.
pub fn first_number(fields: &[u8]) -> Option<u64> {
    let end = fields.iter().position(|&byte| byte == b' ')?;
    std::str::from_utf8(&fields[..end]).ok()?.parse().ok()
}

/// A `user_info`, if it is JSON.
pub fn json(text: &str) -> Option<Arc<str>> {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok().then(|| text.into())
}

/// The fields of a first line, one after the other.
struct Fields<'a>(std::str::Split<'a, char>);

impl<'a> Fields<'a> {
    fn text(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        let text = self.0.next()?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    }

    /// The number of an event or a change.
    fn counted(&mut self) -> Option<u64> {
        self.number().filter(|&number| number <= NUMBER_MAX)
    }

    fn node(&mut self) -> Option<NodeId> {
        NodeId::parse(self.0.next()?)
    }
}

/// The two texts of a body.
fn two_texts<'b>(fields: &mut Fields<'_>, body: &'b [u8]) -> Option<(&'b str, &'b str)> {
    let (first, second): (usize, usize) = (fields.number()?, fields.number()?);
    let fits = first.checked_add(second) == Some(body.len());
    let (first, second) = body.split_at_checked(first).filter(|_| fits)?;
    Some((std::str::from_utf8(first).ok()?, std::str::from_utf8(second).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event;

    fn node(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn samples() -> Vec<Envelope> {
        let (one, other) = (node("0123456789abcdef"), node("fedcba9876543210"));
        let frame = event::published("orders", "shipped", r#""{}""#);
        let event = RemoteEvent {
            node: one,
            number: 7,
            accepted_micros: 1,
            except: None,
            cached_for_ms: 0,
            frame,
            partial: None,
        };
        let except = RemoteEvent { except: SocketId::parse("12.34"), cached_for_ms: 1_800_000, ..event.clone() };
        let came = Change {
            by: one,
            version: 9,
            node: one,
            since: 8,
            user_id: "Budi \n 1".into(),
            user_info: Some(r#"{"name":"Budi"}"#.into()),
        };
        let went = Change { by: other, since: 0, user_info: None, ..came.clone() };
        let page = PageMessage { node: one, to: other, request: 5, text: r#"{"path":"history"}"#.into() };
        let what = Termination { node: one, request: 3, closed: 0, app: "app-id".into(), user_id: "Siti".into() };
        vec![
            Envelope::Event(event),
            Envelope::Event(except),
            Envelope::Member(came),
            Envelope::Member(went),
            Envelope::Count(one, 12),
            Envelope::Mark(one, 12),
            Envelope::Missed(MissedEvents { node: one, events: 3, since_ms: 9000, of_app: None }),
            Envelope::Missed(MissedEvents { node: one, events: 3, since_ms: 9000, of_app: Some("app-id".into()) }),
            Envelope::Hello(one, one),
            Envelope::Here(one, other),
            Envelope::Draining(one, one),
            Envelope::Gone(one, other),
            Envelope::Terminate(what.clone()),
            Envelope::Terminated(what),
            Envelope::Ask(page.clone()),
            Envelope::Answer(page),
        ]
    }

    #[test]
    fn what_is_written_can_be_read() {
        for sample in samples() {
            assert_eq!(Envelope::decode(&sample.encode().into()), Ok(sample));
        }
    }

    #[test]
    fn an_event_with_figures_reserves_little_more_than_its_bytes() {
        let key = |key: u32| {
            format!(
                r#"{{"key":"{key}","count":100,"sum":1.5,"compensation":0.0,"min":1.5,"max":1.5,"first":1.5,"last":1.5,"from":1,
                "to":1,"first_at":1,"last_at":1,"skipped":0,"values":[{}]}}"#,
                ["1.5"; 100].join(",")
            )
        };
        let keys: Vec<String> = (0..100).map(key).collect();
        let partial = serde_json::from_str(&format!(r#"{{"event":"e","keys":[{}]}}"#, keys.join(","))).unwrap();
        let Envelope::Event(event) = samples().remove(0) else { panic!() };
        let event = RemoteEvent { partial: Some(Arc::new(partial)), ..event };
        let bytes = event.encode();
        assert!(bytes.capacity() <= bytes.len() + HEAD_MAX, "{} for {}", bytes.capacity(), bytes.len());
        assert!(bytes.len() <= event.encoding().len_max());
        assert!(Envelope::decode(&bytes.into()) == Ok(Envelope::Event(event)));
    }

    #[test]
    fn whatever_is_cut_or_longer_is_refused() {
        for sample in samples() {
            let bytes = sample.encode();
            for end in 0..bytes.len() {
                let cut = Bytes::copy_from_slice(&bytes[..end]);
                assert_eq!(Envelope::decode(&cut), Err(EnvelopeError::Malformed), "{sample:?} {end}");
            }
            let longer = [&bytes[..], b"x"].concat().into();
            assert_eq!(Envelope::decode(&longer), Err(EnvelopeError::Malformed), "{sample:?}");
        }
    }

    #[test]
    fn a_number_that_nobody_can_have_counted_is_refused() {
        let node = "0123456789abcdef";
        for text in [
            format!("gema/1 member {node} 9007199254740993 {node} 1 1 2\na{{}}"),
            format!("gema/1 member {node} 1 {node} 9007199254740993 1 2\na{{}}"),
            format!("gema/1 member {node} 18446744073709551615 {node} 1 1 2\na{{}}"),
            format!("gema/1 event {node} 18446744073709551615 1 - 0 4\n\u{81}\u{2}{{}}"),
            format!("gema/1 count {node} 16777217\n"),
            format!("gema/1 missed {node} 9007199254740993 1 0\n"),
            format!("gema/1 missed {node} 1 9007199254740993 0\n"),
        ] {
            assert_eq!(Envelope::decode(&text.clone().into()), Err(EnvelopeError::Malformed), "{text}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        assert_eq!(Envelope::decode(&Bytes::from_static(b"gema/2 event x\n")), Err(EnvelopeError::Version));
        assert_eq!(Envelope::decode(&Bytes::from_static(b"gema/ event x\n")), Err(EnvelopeError::Malformed));
        assert_eq!(Envelope::decode(&Bytes::from_static(b"{}\n")), Err(EnvelopeError::Malformed));
    }

    #[test]
    fn a_frame_that_is_not_one_text_frame_with_an_object_is_refused() {
        let event = |frame: &[u8]| {
            let head = format!("gema/1 event 0123456789abcdef 1 1 - 0 {}\n", frame.len());
            Envelope::decode(&[head.as_bytes(), frame].concat().into())
        };
        assert!(event(b"\x81\x02{}").is_ok());
        for frame in
            [&b"\x81\x03{}"[..], b"\x82\x02{}", b"\x01\x02{}", b"\x81\x82\0\0\0\0{}", b"\x81\x02{x", b"\x81\x02[]", b""]
        {
            assert_eq!(event(frame), Err(EnvelopeError::Malformed), "{frame:?}");
        }
    }
}
