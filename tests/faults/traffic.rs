//! What goes on while something fails: numbered events in both directions, and a room whose members change.

use std::ops::Range;
use std::time::Duration;

use support::client::Client;
use support::node::ANSWERED_MAX;
use support::node::BACK_MAX;
use support::node::GONE_MAX;
use support::node::Node;
use support::node::eventually;
use support::node::in_time;
use support::node::know_each_other;
use support::observer::Observer;
use support::sequence::Flow;
use support::sequence::Listener;

pub const ROOM: &str = "presence-room";
pub const NUMBERS: &str = "numbers";

/// Between two events of a publisher.
pub const PAUSE: Duration = Duration::from_millis(5);

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A publisher and a listener on each of two nodes.
pub struct Traffic {
    flows: [Flow; 2],
    listeners: [Listener; 2],
}

/// Sources by node.
const SOURCES: [&str; 2] = ["one", "two"];

impl Traffic {
    pub async fn start(nodes: &[Node; 2]) -> Self {
        let listeners = [nodes[0].listener(NUMBERS, 2).await, nodes[1].listener(NUMBERS, 2).await];
        let flow = async |node: usize| nodes[node].publisher(NUMBERS, SOURCES[node]).await.flow(PAUSE);
        let flows = [flow(0).await, flow(1).await];
        let traffic = Self { flows, listeners };
        traffic.goes_on().await;
        traffic
    }

    pub async fn goes_on(&self) {
        for flow in &self.flows {
            flow.goes_on(20).await;
        }
    }

    /// Ends it: on both nodes everything that was accepted has arrived, in order, once. Returns how many events
    /// were refused.
    pub async fn arrives(self) -> usize {
        self.arrives_but([0..0, 0..0]).await
    }

    /// The same where those of these numbers may be missing, by their source.
    pub async fn arrives_but(self, lost: [Range<u64>; 2]) -> usize {
        self.goes_on().await;
        let mut publishers = Vec::new();
        for flow in self.flows {
            let mut publisher = flow.stop().await;
            publisher.end().await;
            publishers.push(publisher);
        }
        for listener in self.listeners {
            let (_, heard) = listener.heard().await;
            for ((publisher, source), lost) in publishers.iter().zip(SOURCES).zip(&lost) {
                let missing = heard.missing(source, &publisher.accepted);
                assert!(missing.iter().all(|number| lost.contains(number)), "{missing:?} of {source:?} are missing");
                if !missing.is_empty() {
                    println!("{} events of {source:?} are missing, as they may, of {lost:?}", missing.len());
                }
            }
        }
        publishers.iter().map(|publisher| publisher.refused.len()).sum()
    }
}

/// Members who stay on each node, one of the first who leaves and one of the second who comes while Redis is away.
pub struct Room {
    observers: [Observer; 2],
    _staying: [Client; 2],
    leaver: Option<Client>,
    comer: Option<Client>,
}

impl Room {
    pub async fn start(nodes: &[Node; 2]) -> Self {
        let [here, there] = nodes;
        let room = Self {
            observers: [Observer::start(here, ROOM, "here").await, Observer::start(there, ROOM, "there").await],
            _staying: [here.member(ROOM, "ada").await, there.member(ROOM, "bob").await],
            leaver: Some(here.member(ROOM, "leaver").await),
            comer: None,
        };
        for observer in &room.observers {
            observer.sees(&names(&["here", "there", "ada", "bob", "leaver"]), BACK_MAX).await;
        }
        room
    }

    pub async fn changes(&mut self, nodes: &[Node; 2]) {
        self.leaver.take().expect("the room changes once").close().await;
        self.comer = Some(in_time("a join", ANSWERED_MAX, nodes[1].member(ROOM, "comer")).await);
    }

    /// Everybody sees the truth in the end and was told no more than what has changed.
    pub async fn is_right(&self, nodes: &[Node; 2]) {
        let everybody = names(&["ada", "bob", "comer", "here", "there"]);
        for (observer, node) in self.observers.iter().zip(nodes) {
            // Somebody whom Redis does not know any more may be of a node that is about to come back.
            observer.sees(&everybody, GONE_MAX).await;
            eventually("the list is right", BACK_MAX, async || node.users(ROOM).await == everybody).await;
            eventually("connections are counted", BACK_MAX, async || node.subscriptions(ROOM).await == 5).await;
            assert_eq!(observer.news_of("leaver").1, 1);
            assert_eq!(observer.news_of("comer"), (1, 0));
            for staying in ["ada", "bob", "here", "there"] {
                assert_eq!(observer.news_of(staying).1, 0, "{staying} has not been away");
            }
        }
    }
}

pub async fn all_know(nodes: &[Node; 2], up: bool, patience: Duration) {
    for node in nodes {
        node.bus_is(up, patience).await;
        let ready = node.ready().await;
        assert_eq!((ready.status, ready.body.contains("degraded")), (200, !up), "{}", ready.body);
    }
}

/// Waits until events cross in both directions.
pub async fn together_again(nodes: &[Node; 2]) {
    know_each_other(nodes).await;
    nodes[0].reaches(&nodes[1], "x").await;
    nodes[1].reaches(&nodes[0], "x").await;
}
