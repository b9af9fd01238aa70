//! A Redis restarts, and all nodes come back at once: how long it takes until all serve exactly, and what that costs.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use anyhow::ensure;
use gema::protocol::channel::ChannelName;
use gema::protocol::request::InfoRequest;

use crate::fit::grouped;
use crate::fleet::Fleet;
use crate::fleet::until;
use crate::meter::Reading;
use crate::node::SimulatedNode;
use crate::options::Kind;
use crate::servers::Servers;

/// A channel on all nodes.
const WIDE: &str = "announcements";
/// A presence channel with a user on each node.
const ROOM: &str = "presence-room";
/// Channels of each node's own.
const OWN_CHANNELS: usize = 20;
/// How long Redis is away.
const OUTAGE: Duration = Duration::from_secs(1);
/// Longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it and prints a line.
pub(crate) async fn run(kind: Kind, nodes: usize) -> Result<()> {
    eprintln!("{kind}: a storm of {nodes} nodes");
    let mut fleet = Fleet::start(Servers::start(kind).await, (nodes, 1), false).await?;
    let own = (0..nodes * OWN_CHANNELS).map(|place| (place % nodes, format!("own-{place}"), String::new()));
    let wide = (0..nodes).map(|node| (node, WIDE.to_owned(), String::new()));
    let members = (0..nodes).map(|node| (node, ROOM.to_owned(), format!("user-{node}")));
    fleet.join(own.chain(wide).chain(members)).await?;
    let before = match kind {
        Kind::Alone => Reading::of_new_servers(),
        Kind::Cluster => fleet.servers.meter()?.read()?,
    };
    let events: Vec<usize> = fleet.nodes.iter().map(events).collect();
    fleet.servers.stop();
    until("all links are lost", || fleet.nodes.iter().all(|node| !node.cluster().is_linked())).await?;
    let channel = ChannelName::parse(WIDE, usize::MAX)?;
    fleet.nodes.iter().for_each(|node| node.publish(&channel));
    tokio::time::sleep(OUTAGE).await;
    fleet.servers.restart().await;
    let began = Instant::now();
    until("all are linked", || fleet.nodes.iter().all(|node| node.cluster().is_linked())).await?;
    let linked = began.elapsed();
    for (node, before) in fleet.nodes.iter().zip(&events) {
        loop {
            let (counts, arrived) = (counts(node).await?, self::events(node) - before);
            if counts == [nodes; 2] && arrived >= nodes {
                break;
            }
            let seen = format!("connections and users {counts:?}, events {arrived}");
            ensure!(began.elapsed() < PATIENCE, "a node has not all of {nodes} after {PATIENCE:?}: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let exact = began.elapsed();
    let after = fleet.servers.meter()?.read()?;
    fleet.settle().await?;
    for (node, before) in fleet.nodes.iter().zip(&events) {
        ensure!(self::events(node) == before + nodes, "an event came twice");
    }
    let (cost, published) = (after.since(&before), after.published_since(&before));
    println!("\n| a storm of {nodes} nodes | |\n| --- | ---: |");
    println!("| all are linked | {:.1} s |", linked.as_secs_f64());
    println!("| all serve exactly | {:.1} s |", exact.as_secs_f64());
    println!("| commands | {} |", grouped(cost.commands));
    println!("| of them messages published | {} |", grouped(published as f64));
    println!("| bytes in | {} |", grouped(cost.bytes_in));
    println!("| bytes out | {} |", grouped(cost.bytes_out));
    fleet.end().await;
    Ok(())
}

fn events(node: &SimulatedNode) -> usize {
    node.received().events.load(Ordering::Relaxed)
}

/// The connections and the users on the channels that all nodes have, as a node knows them.
async fn counts(node: &SimulatedNode) -> Result<[usize; 2]> {
    let (app, channel, room) =
        (node.app(), ChannelName::parse(WIDE, usize::MAX)?, ChannelName::parse(ROOM, usize::MAX)?);
    let counted = InfoRequest { subscription_count: true, ..InfoRequest::default() };
    let connections = &app.publish_info(&channel, counted).await["subscription_count"];
    Ok([connections.as_u64().unwrap_or_default() as usize, app.channel_users(&room).await?.len()])
}
