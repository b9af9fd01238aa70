//! The part of a snapshot that Redis stores, seen from one node: what it takes over, and what it stores.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use gema::flow::channel::ChannelFlow;
use gema::flow::channel::Received;
use gema::flow::channel::StoredEvent;
use gema::flow::rule::At;
use gema::flow::rule::FlowRule;
use gema::protocol::channel::ChannelName;
use gema::protocol::envelope::NodeId;
use gema::protocol::envelope::Origin;
use gema::protocol::event;
use gema::protocol::event::Event;
use gema::protocol::frame::Frame;
use gema::protocol::partial::Finite;
use gema::protocol::partial::Partial;
use gema::protocol::partial::PartialKey;

use crate::history::MS;
use crate::run::instant;
use crate::run::now;

const CHANNEL: &str = "flood";
const SECOND: u64 = 1000 * MS;
const NOTHING: [u64; 0] = [];
const CONFLATE: &str = r#"{"match":"*","conflate":{"key":"k","window_ms":10000},"snapshot":{"max_age_seconds":600}}"#;

/// A node, which hears others.
struct Node {
    flow: ChannelFlow,
    own: NodeId,
    other: NodeId,
    third: NodeId,
}

fn node(rule: &str) -> Node {
    let rule: FlowRule = serde_json::from_str(rule).unwrap();
    let channel = ChannelName::parse(CHANNEL, 200).unwrap();
    let [own, other, third] = [(); 3].map(|()| NodeId::random());
    let flow = ChannelFlow::new(&channel, vec![Arc::new(rule)], Some(At::Delivery), instant(0)).stored_by(own);
    Node { flow, own, other, third }
}

fn frame(key: &str, value: u64) -> Frame {
    event::published(CHANNEL, "reading", &serde_json::to_string(&format!(r#"{{"k":"{key}","v":{value}}}"#)).unwrap())
}

fn origin(node: NodeId, number: u64) -> Origin {
    Origin { node, number: NonZeroU64::new(number).unwrap() }
}

/// The values of events.
fn values<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Vec<u64> {
    let value = |frame: &Frame| {
        let (_, data) = event::name_and_data(frame).unwrap();
        serde_json::from_str::<serde_json::Value>(&data).unwrap()["v"].as_u64().unwrap()
    };
    frames.into_iter().map(value).collect()
}

impl Node {
    /// Takes an event, whose number is its value. Returns what is delivered.
    fn publish(&mut self, by: NodeId, key: &str, value: u64, at: u64) -> Vec<u64> {
        let event = Event { origin: Some(origin(by, value)), ..Event::new(frame(key, value), None, instant(at)) };
        let mut out = Vec::new();
        self.flow.publish(&event, now(at), &mut out);
        values(out.iter().map(|event| &event.frame))
    }

    fn run(
        &mut self,
        at: u64,
        f: impl FnOnce(&mut ChannelFlow, gema::flow::thinning::Now, &mut Vec<Event>),
    ) -> Vec<u64> {
        let mut out = Vec::new();
        f(&mut self.flow, now(at), &mut out);
        values(out.iter().map(|event| &event.frame))
    }

    /// Takes over one event, which another node has delivered at `since`.
    fn restore(
        &mut self,
        by: NodeId,
        (key, value): (&str, u64),
        since: u64,
        received: (u64, u64),
        at: u64,
    ) -> Vec<u64> {
        let (field, frame) = (format!("k\0reading\0{key}"), frame(key, value));
        let stored = StoredEvent { field, origin: origin(by, value), since: instant(since), frame };
        let received = Received { unlinked_at: Some(instant(received.0)), since: instant(received.1) };
        let events = self.flow.restore(vec![stored], received, instant(at));
        values(events.iter().map(|event| &event.frame))
    }

    /// What this node stores now, and a second later.
    fn stores(&mut self) -> Vec<u64> {
        let mut events = self.flow.take_unstored(usize::MAX);
        events.extend(self.flow.take_unstored(usize::MAX));
        values(events.iter().map(|event| &event.frame))
    }
}

#[test]
fn what_was_pending_before_a_lost_link_is_older_than_what_was_missed() {
    let mut node = node(CONFLATE);
    let (other, third) = (node.other, node.third);
    assert_eq!(node.publish(third, "a", 1, 0), [1]);
    assert_eq!(node.publish(third, "a", 2, SECOND), NOTHING);
    // The link is lost at 2 s. Another node accepts the next value at 3 s, and the link is back at 4 s.
    let received = (2 * SECOND, 4 * SECOND);
    assert_eq!(node.run(4 * SECOND + 1, ChannelFlow::flush), [2]);
    assert_eq!(node.restore(other, ("a", 9), 3 * SECOND, received, 5 * SECOND), [9]);
    assert_eq!(node.stores(), NOTHING);
    assert_eq!(values(&node.flow.snapshot(instant(6 * SECOND))), [9]);
}

#[test]
fn what_comes_out_between_the_two_steps_of_a_fetch_is_as_old_as_it_came() {
    let mut node = node(CONFLATE);
    let (other, third) = (node.other, node.third);
    node.publish(third, "a", 1, 0);
    node.publish(third, "a", 2, SECOND);
    assert_eq!(node.run(10 * SECOND, ChannelFlow::run_due), [2]);
    assert_eq!(node.restore(other, ("a", 9), 8 * SECOND, (7 * SECOND, 9 * SECOND), 11 * SECOND), [9]);
}

#[test]
fn own_events_that_waited_for_the_link_come_after_what_others_have_published() {
    let mut node = node(CONFLATE);
    let (own, other) = (node.own, node.other);
    let received = (2 * SECOND, 5 * SECOND);
    assert_eq!(node.publish(own, "a", 1, 3 * SECOND), [1]);
    assert_eq!(node.publish(own, "b", 2, SECOND), [2]);
    assert_eq!(node.stores(), [1, 2]);
    assert_eq!(node.restore(other, ("a", 8), 4 * SECOND, received, 6 * SECOND), NOTHING);
    // The other nodes get it now, and it is stored again.
    assert_eq!(node.stores(), [1, 2]);
    assert_eq!(node.restore(other, ("b", 9), 4 * SECOND, received, 6 * SECOND), [9]);
    assert_eq!(node.stores(), [1]);
}

#[test]
fn an_event_that_another_node_stores_while_it_is_pending_here_is_stored_in_the_end() {
    let mut node = node(CONFLATE);
    let (own, other) = (node.own, node.other);
    assert_eq!(node.publish(own, "a", 1, 0), [1]);
    // The other node delivers and stores it at once. Then this one stores its own event in its place.
    assert_eq!(node.publish(other, "a", 2, SECOND / 2), NOTHING);
    assert_eq!(node.stores(), [1]);
    assert_eq!(node.run(10 * SECOND, ChannelFlow::run_due), [2]);
    assert_eq!(node.stores(), [2]);
    assert_eq!(node.publish(other, "a", 3, 21 * SECOND), [3]);
    assert_eq!(node.stores(), NOTHING);
}

#[test]
fn nothing_older_is_stored_in_the_place_of_what_is_pending() {
    let mut node = node(CONFLATE);
    let (other, third) = (node.other, node.third);
    let received = (0, SECOND);
    assert_eq!(node.publish(third, "a", 1, 2 * SECOND), [1]);
    assert_eq!(node.publish(other, "a", 2, 3 * SECOND), NOTHING);
    assert_eq!(node.restore(other, ("a", 2), 3 * SECOND, received, 4 * SECOND), NOTHING);
    assert_eq!(node.stores(), NOTHING);
    assert_eq!(node.run(12 * SECOND, ChannelFlow::run_due), [2]);
    assert_eq!(node.stores(), [2]);
}

#[test]
fn what_redis_has_brought_does_not_come_out_of_its_window_again() {
    let mut node = node(CONFLATE);
    let (other, third) = (node.other, node.third);
    assert_eq!(node.publish(third, "a", 1, 0), [1]);
    // The link is back at 2 s.
    assert_eq!(node.publish(other, "a", 2, 3 * SECOND), NOTHING);
    assert_eq!(node.restore(other, ("a", 2), 3 * SECOND, (SECOND, 2 * SECOND), 5 * SECOND), [2]);
    assert_eq!(node.run(10 * SECOND, ChannelFlow::run_due), NOTHING);
    assert_eq!(node.publish(other, "a", 3, 11 * SECOND), NOTHING);
    assert_eq!(node.run(20 * SECOND, ChannelFlow::run_due), [3]);
}

#[test]
fn an_event_that_was_forgotten_for_want_of_room_does_not_come_back() {
    let mut node = node(&CONFLATE.replace(r#"{"match""#, r#"{"keys_max":2,"match""#));
    let (other, third) = (node.other, node.third);
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        node.publish(third, key, value, value * SECOND);
    }
    let received = (0, 4 * SECOND);
    assert_eq!(node.restore(third, ("a", 1), SECOND, received, 5 * SECOND), NOTHING);
    assert_eq!(node.restore(other, ("d", 4), 3 * SECOND, received, 5 * SECOND), [4]);
}

#[test]
fn what_a_node_that_has_gone_delivered_long_ago_is_not_stored_again() {
    for (seconds, stored) in [(29, vec![1]), (30, vec![])] {
        let mut node = node(CONFLATE);
        let other = node.other;
        node.publish(other, "a", 1, 0);
        node.flow.on_node_gone(other, instant(0) + Duration::from_secs(seconds));
        assert_eq!(node.stores(), stored, "{seconds}");
    }
}

#[test]
fn figures_of_more_keys_than_a_rule_sends_are_an_event() {
    let one = Finite::new(1.0).unwrap();
    let key = |key: usize| PartialKey {
        key: key.to_string(),
        count: 1,
        sum: Some(one),
        compensation: None,
        min: one,
        max: one,
        first: one,
        last: one,
        from: 1,
        to: 1,
        first_at: 1,
        last_at: 1,
        skipped: 0,
        values: Vec::new(),
    };
    for (emit, keys, is_merged) in [("each", 1, true), ("each", 2, false), ("map", 3, true), ("map", 4, false)] {
        let mut node = node(&format!(
            r#"{{"match":"*","at":"ingest","keys_max":3,
            "aggregate":{{"key":"k","value":"v","window_ms":1000,"emit":"{emit}"}}}}"#
        ));
        let partial = Partial { event: "reading".to_owned(), keys: (0..keys).map(key).collect() };
        let event = Event { partial: Some(Arc::new(partial)), ..Event::new(frame("0", 1), None, instant(0)) };
        let mut out = Vec::new();
        node.flow.publish(&event, now(0), &mut out);
        assert_eq!(out.is_empty(), is_merged, "{emit} {keys}");
    }
}
