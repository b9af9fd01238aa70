//! Webhook events and the bodies of webhook requests (Pusher protocol, "Webhooks").
//! `registry` records events, `webhook` sends them.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::protocol::json::quote;
use crate::protocol::socket_id::SocketId;

/// The header with the key whose secret signs the body.
pub const KEY_HEADER: &str = "X-Pusher-Key";
/// The header with the body's signature.
pub const SIGNATURE_HEADER: &str = "X-Pusher-Signature";

/// The kinds of events, as the operator selects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A channel has its first subscription.
    ChannelOccupied,
    /// A channel has lost its last subscription.
    ChannelVacated,
    /// A user has joined a presence channel.
    MemberAdded,
    /// A user's last connection has left a presence channel.
    MemberRemoved,
    /// A client has sent an event.
    ClientEvent,
    /// A subscriber has found a cache channel empty.
    CacheMiss,
    /// The number of subscribers has changed.
    SubscriptionCount,
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(pub u8);

impl Kinds {
    /// Whether the kind is in the set.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u8))
    }
}

/// An event on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The channel has its first subscription.
    ChannelOccupied,
    /// The channel has lost its last subscription.
    ChannelVacated,
    /// This user has joined.
    MemberAdded(Arc<str>),
    /// This user has left.
    MemberRemoved(Arc<str>),
    /// A client has sent an event.
    ClientEvent(Box<ClientEvent>),
    /// A subscriber has found the cache channel empty.
    CacheMiss,
    /// The number of subscribers now.
    SubscriptionCount(usize),
}

/// An event that a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEvent {
    /// The event's name.
    pub name: String,
    /// A JSON string with its quotes, as subscribers get it.
    pub data: String,
    /// The sending connection.
    pub socket_id: SocketId,
    /// The sender's user id, on a presence channel.
    pub user_id: Option<Arc<str>>,
}

impl Event {
    /// The kind of the event.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ChannelOccupied => Kind::ChannelOccupied,
            Self::ChannelVacated => Kind::ChannelVacated,
            Self::MemberAdded(_) => Kind::MemberAdded,
            Self::MemberRemoved(_) => Kind::MemberRemoved,
            Self::ClientEvent(_) => Kind::ClientEvent,
            Self::CacheMiss => Kind::CacheMiss,
            Self::SubscriptionCount(_) => Kind::SubscriptionCount,
        }
    }

    /// The event as JSON, as in a request's body.
    ///
    /// ```
    /// use gema::protocol::webhook::Event;
    /// assert_eq!(
    ///     Event::MemberAdded("10".into()).encode("presence-foobar"),
    ///     r#"{"name":"member_added","channel":"presence-foobar","user_id":"10"}"#
    /// );
    /// ```
    pub fn encode(&self, channel: &str) -> String {
        let mut out = br#"{"name":"#.to_vec();
        serde_json::to_writer(&mut out, &self.kind()).expect("a name always becomes JSON");
        field(&mut out, "channel", channel);
        match self {
            Self::ChannelOccupied | Self::ChannelVacated | Self::CacheMiss => (),
            Self::MemberAdded(user_id) | Self::MemberRemoved(user_id) => field(&mut out, "user_id", user_id),
            Self::SubscriptionCount(count) => {
                out.extend_from_slice(format!(r#","subscription_count":{count}"#).as_bytes());
            }
            Self::ClientEvent(event) => {
                field(&mut out, "event", &event.name);
                out.extend_from_slice(br#","data":"#);
                out.extend_from_slice(event.data.as_bytes());
                field(&mut out, "socket_id", &event.socket_id.to_string());
                if let Some(user_id) = &event.user_id {
                    field(&mut out, "user_id", user_id);
                }
            }
        }
        out.push(b'}');
        String::from_utf8(out).expect("JSON is UTF-8")
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(format!(r#","{name}":"#).as_bytes());
    quote(out, value);
}

/// The body with these events, as [`Event::encode`] wrote them. `time_ms` is in milliseconds since 1970.
pub fn body<T: AsRef<str>>(time_ms: u64, events: &[T]) -> String {
    let mut body = format!(r#"{{"time_ms":{time_ms},"events":["#);
    for (index, event) in events.iter().enumerate() {
        body.push_str(if index == 0 { "" } else { "," });
        body.push_str(event.as_ref());
    }
    body.push_str("]}");
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::signature::Signer;

    // G-292
    #[test]
    fn the_published_signatures_are_reproduced() {
        let member = Event::MemberAdded("10".into()).encode("presence-foobar");
        let occupied = |channel: &str| Event::ChannelOccupied.encode(channel);
        let client_event = Event::ClientEvent(Box::new(ClientEvent {
            name: "client-typing".to_owned(),
            data: r#""{\"on\":true}""#.to_owned(),
            socket_id: SocketId::parse("1234.1234").unwrap(),
            user_id: Some("10".into()),
        }));
        for (events, signature) in [
            (vec![occupied("project-3")], "73654ae6d45e9562503ac8d017e634454e3e309c82b32e49c67677dde9e798b3"),
            (
                vec![member, occupied("presence-foobar")],
                "b61260af5f880468d4f667a0b0c436ca5a1bd9cf39b0d0e1133754c40dff8fa2",
            ),
            (
                vec![client_event.encode("presence-foobar")],
                "4a33ae7206f2bb7cf594bb43923ec7bcfcdab8a435bd22d174bdaf8bf85102ab",
            ),
        ] {
            let body = body(1_327_078_148_132, &events);
            assert_eq!(Signer::new(SECRET).sign(&[body.as_bytes()]), signature, "{body}");
        }
    }

    const SECRET: &[u8] = b"7ad3773142a6692b25b8";

    #[test]
    fn what_a_client_chose_is_quoted() {
        let event = Event::MemberRemoved("a\"b\n".into());
        assert_eq!(
            event.encode("presence-x"),
            r#"{"name":"member_removed","channel":"presence-x","user_id":"a\"b\n"}"#
        );
        assert_eq!(
            Event::SubscriptionCount(7).encode("x"),
            r#"{"name":"subscription_count","channel":"x","subscription_count":7}"#
        );
    }
}
