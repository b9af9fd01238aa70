//! How the figures grow: with nodes, channels, members and apps, one of them at a time.

use anyhow::Result;
use futures_util::future::try_join;
use futures_util::future::try_join_all;

use crate::fit::Table;
use crate::fleet::Fleet;
use crate::options::Axis;
use crate::options::Kind;
use crate::servers::Servers;
use crate::steps::FEW;
use crate::steps::Laboratory;

/// Nodes where something else than nodes grows.
const NODES: usize = 5;
/// A channel on the first two nodes.
const NARROW: &str = "orders";
/// A channel on all nodes.
const WIDE: &str = "announcements";
/// A presence channel on the first two nodes.
const ROOM: &str = "presence-room";

/// Measures all sizes of an axis and prints its table. Most of the time is waiting, so all sizes run at once, each with
/// a Redis of its own.
pub(crate) async fn run(kind: Kind, axis: Axis, sizes: &[usize]) -> Result<()> {
    eprintln!("{kind}: {sizes:?} {axis}");
    let measured = sizes.iter().map(async |&size| {
        let servers = Servers::start(kind).await;
        let mut table = Table::default();
        match axis {
            Axis::Nodes => {
                let mut of_counted = Table::default();
                let with_counts = async { counted(Servers::start(kind).await, size, &mut of_counted).await };
                try_join(by_nodes(servers, size, &mut table), with_counts).await?;
                table.append(of_counted);
            }
            Axis::Channels => by_channels(servers, size, &mut table).await?,
            Axis::Members => by_members(servers, size, &mut table).await?,
            Axis::Apps => by_apps(servers, size, &mut table).await?,
        }
        anyhow::Ok(table)
    });
    let mut all = Table::default();
    try_join_all(measured).await?.into_iter().for_each(|table| all.append(table));
    all.print(axis, sizes);
    Ok(())
}

/// Channels that nobody has.
fn new_channels() -> Vec<String> {
    (0..20).map(|channel| format!("new-{channel}")).collect()
}

async fn by_nodes(servers: Servers, nodes: usize, table: &mut Table) -> Result<()> {
    let mut fleet = Fleet::start(servers, (nodes, 1), false).await?;
    let narrow = (0..FEW).map(|node| (node, NARROW.to_owned(), String::new()));
    let wide = (0..nodes).map(|node| (node, WIDE.to_owned(), String::new()));
    let members = (0..20).map(|user| (user % FEW, ROOM.to_owned(), format!("user-{user}")));
    fleet.join(narrow.chain(wide).chain(members)).await?;
    let all: Vec<usize> = (0..nodes).collect();
    let mut laboratory = Laboratory::new(fleet, table, nodes).await?;
    laboratory.add_connections()?;
    laboratory.add_quiet_second();
    laboratory.publish("publish, two nodes listen", NARROW, &[0, 1]).await?;
    laboratory.publish("publish, all nodes listen", WIDE, &all).await?;
    laboratory.join_and_leave(("join", "leave"), NARROW).await?;
    laboratory.join_and_leave(("join of a presence channel", "leave of a presence channel"), ROOM).await?;
    laboratory.open_and_close(("first join on a node", "last leave on a node"), (0, &new_channels())).await?;
    laboratory.ask_counts(NARROW, ROOM).await?;
    laboratory.ask_channels().await?;
    laboratory.ask_nodes().await?;
    laboratory.start_and_stop().await?;
    // A node with ten members on one channel.
    laboratory.fleet.add(1).await?;
    let members = (0..10).map(|user| (nodes, "presence-last".to_owned(), format!("user-{user}")));
    laboratory.fleet.join(members).await?;
    laboratory.crash().await?;
    laboratory.fleet.end().await;
    Ok(())
}

/// Like the above where subscribers hear how many they are, which costs more.
async fn counted(servers: Servers, nodes: usize, table: &mut Table) -> Result<()> {
    let mut fleet = Fleet::start(servers, (nodes, 1), true).await?;
    fleet.join((0..FEW).map(|node| (node, NARROW.to_owned(), String::new()))).await?;
    let mut laboratory = Laboratory::new(fleet, table, nodes).await?;
    laboratory.join_and_leave(("join, subscribers are counted", "leave, subscribers are counted"), NARROW).await?;
    let names = ("first join on a node, subscribers are counted", "last leave on a node, subscribers are counted");
    laboratory.open_and_close(names, (0, &new_channels())).await?;
    laboratory.fleet.end().await;
    Ok(())
}

async fn by_channels(servers: Servers, channels: usize, table: &mut Table) -> Result<()> {
    let mut fleet = Fleet::start(servers, (NODES, 1), false).await?;
    let narrow = (0..FEW).map(|node| (node, NARROW.to_owned(), String::new()));
    let room = [(0, ROOM.to_owned(), "user".to_owned())];
    // Half of them have members.
    let names = (0..channels)
        .map(|channel| if channel % 2 == 0 { format!("c-{channel}") } else { format!("presence-{channel}") });
    let spread = names.enumerate().map(|(place, name)| (NODES - 1 - place / 2 % 2, name, "user".to_owned()));
    fleet.join(narrow.chain(room).chain(spread)).await?;
    let mut laboratory = Laboratory::new(fleet, table, channels).await?;
    laboratory.add_quiet_second();
    laboratory.publish("publish, two nodes listen", NARROW, &[0, 1]).await?;
    laboratory.join_and_leave(("join", "leave"), NARROW).await?;
    laboratory.open_and_close(("first join on a node", "last leave on a node"), (0, &new_channels())).await?;
    laboratory.ask_counts(NARROW, ROOM).await?;
    laboratory.ask_channels().await?;
    laboratory.start_and_stop().await?;
    laboratory.crash().await?;
    laboratory.fleet.end().await;
    Ok(())
}

async fn by_members(servers: Servers, members: usize, table: &mut Table) -> Result<()> {
    let mut fleet = Fleet::start(servers, (NODES, 1), false).await?;
    // The node before the last one has none.
    let homes = [0, 1, 2, NODES - 1];
    let narrow = (0..FEW).map(|node| (node, NARROW.to_owned(), String::new()));
    let room = (0..members).map(|user| (homes[user % homes.len()], ROOM.to_owned(), format!("user-{user}")));
    fleet.join(narrow.chain(room)).await?;
    let mut laboratory = Laboratory::new(fleet, table, members).await?;
    laboratory.publish("publish, four nodes listen", ROOM, &homes).await?;
    laboratory.join_and_leave(("join of a presence channel", "leave of a presence channel"), ROOM).await?;
    let names = ("first join of a presence channel on a node", "last leave of a presence channel on a node");
    laboratory.open_and_close(names, (NODES - 2, &[ROOM.to_owned()])).await?;
    laboratory.ask_counts(NARROW, ROOM).await?;
    laboratory.crash().await?;
    laboratory.fleet.end().await;
    Ok(())
}

async fn by_apps(servers: Servers, apps: usize, table: &mut Table) -> Result<()> {
    let mut fleet = Fleet::start(servers, (NODES, apps), false).await?;
    let narrow = (0..FEW).map(|node| (node, NARROW.to_owned(), String::new()));
    fleet.join(narrow).await?;
    let mut laboratory = Laboratory::new(fleet, table, apps).await?;
    laboratory.add_quiet_second();
    laboratory.publish("publish, two nodes listen", NARROW, &[0, 1]).await?;
    laboratory.join_and_leave(("join", "leave"), NARROW).await?;
    laboratory.ask_channels().await?;
    laboratory.start_and_stop().await?;
    laboratory.crash().await?;
    laboratory.fleet.end().await;
    Ok(())
}
