//! Takes the steps of a measurement. Each is a number of equal events on a fleet, with its cost in Redis.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use futures_util::future::join_all;
use gema::protocol::channel::ChannelName;
use gema::protocol::request::InfoRequest;

use crate::fit::Table;
use crate::fleet::Fleet;
use crate::fleet::until;
use crate::meter::Background;
use crate::meter::Cost;
use crate::meter::Meter;
use crate::meter::Reading;

/// How long the background is measured: two renewals of each node.
const QUIET_TIME: Duration = Duration::from_secs(4);
/// A link of this age removes crashed nodes.
const LINK_AGE: Duration = Duration::from_secs(11);
/// Nodes that listen to a channel which most nodes do not have.
pub(crate) const FEW: usize = 2;

/// A fleet, what has been measured on it, and how.
pub(crate) struct Laboratory<'a> {
    pub(crate) fleet: Fleet,
    meter: Meter,
    background: Background,
    table: &'a mut Table,
    size: usize,
    since: Instant,
}

impl<'a> Laboratory<'a> {
    /// Measures the quiet time first.
    pub(crate) async fn new(fleet: Fleet, table: &'a mut Table, size: usize) -> Result<Self> {
        let (mut meter, since) = (fleet.servers.meter()?, Instant::now());
        let background = meter.background(QUIET_TIME).await?;
        Ok(Self { fleet, meter, background, table, size, since })
    }

    pub(crate) fn add_quiet_second(&mut self) {
        self.table.add("a quiet second, all nodes", self.size, self.background.in_a_second);
    }

    pub(crate) fn add_connections(&mut self) -> Result<()> {
        let commands = self.meter.connections()? as f64;
        self.table.add("connections to Redis", self.size, Cost { commands, ..Cost::default() });
        Ok(())
    }

    fn begin(&mut self) -> Result<Reading> {
        self.meter.read()
    }

    async fn end(&mut self, name: &'static str, before: &Reading, events: usize) -> Result<()> {
        self.end_with(name, before, (events, 0)).await
    }

    async fn end_with(&mut self, name: &'static str, before: &Reading, counts: (usize, usize)) -> Result<()> {
        let cost = self.meter.cost(before, counts, &self.background).await?;
        self.table.add(name, self.size, cost);
        Ok(())
    }

    pub(crate) async fn publish(&mut self, name: &'static str, channel: &str, listeners: &[usize]) -> Result<()> {
        const EVENTS: usize = 50;
        let before = self.begin()?;
        self.fleet.publish(0, channel, (EVENTS, listeners)).await?;
        self.end(name, &before, EVENTS).await
    }

    /// Users of their own join a channel on one node, and leave it, while others stay there: one after the other, since
    /// those that come together cost less.
    pub(crate) async fn join_and_leave(
        &mut self,
        (join, leave): (&'static str, &'static str),
        channel: &str,
    ) -> Result<()> {
        const EVENTS: usize = 10;
        let before = self.begin()?;
        for user in 0..EVENTS {
            self.fleet.join([(0, channel.to_owned(), format!("guest-{user}"))].into_iter()).await?;
        }
        self.end(join, &before, EVENTS).await?;
        let before = self.begin()?;
        for mut client in self.fleet.take_clients(EVENTS) {
            self.fleet.nodes[0].unsubscribe(&mut client, channel);
            self.fleet.settle().await?;
        }
        self.end(leave, &before, EVENTS).await
    }

    /// Connections join channels that nobody on their node has, and leave them again.
    pub(crate) async fn open_and_close(
        &mut self,
        (open, close): (&'static str, &'static str),
        (node, channels): (usize, &[String]),
    ) -> Result<()> {
        let known = self.fleet.nodes[node].channels();
        let before = self.begin()?;
        self.fleet.join(channels.iter().map(|channel| (node, channel.clone(), "opener".to_owned()))).await?;
        self.end(open, &before, channels.len()).await?;
        let before = self.begin()?;
        for (mut client, channel) in self.fleet.take_clients(channels.len()).into_iter().zip(channels) {
            self.fleet.nodes[node].unsubscribe(&mut client, channel);
        }
        // A node listens for some seconds longer.
        until("idle channels are closed", || self.fleet.nodes[node].channels() == known).await?;
        self.fleet.settle().await?;
        self.end(close, &before, channels.len()).await
    }

    pub(crate) async fn ask_counts(&mut self, channel: &str, presence: &str) -> Result<()> {
        const EVENTS: usize = 20;
        let app = self.fleet.nodes[0].app();
        let name = |name| ChannelName::parse(name, usize::MAX);
        let (channel, presence) = (name(channel)?, name(presence)?);
        let connections = InfoRequest { subscription_count: true, ..InfoRequest::default() };
        let before = self.begin()?;
        for _ in 0..EVENTS {
            app.channel_info(&channel, connections).await?;
        }
        self.end("question: connections of a channel", &before, EVENTS).await?;
        let users = InfoRequest { user_count: true, ..InfoRequest::default() };
        let before = self.begin()?;
        for _ in 0..EVENTS {
            app.publish_info(&presence, users).await;
        }
        self.end("question: number of users, by a publisher", &before, EVENTS).await?;
        let before = self.begin()?;
        for _ in 0..EVENTS {
            app.channel_users(&presence).await?;
        }
        self.end("question: users of a channel", &before, EVENTS).await
    }

    pub(crate) async fn ask_channels(&mut self) -> Result<()> {
        const EVENTS: usize = 5;
        let app = self.fleet.nodes[0].app();
        let before = self.begin()?;
        for _ in 0..EVENTS {
            app.channel_list("", InfoRequest::default()).await?;
        }
        self.end("question: all channels", &before, EVENTS).await
    }

    /// A user's connections are closed on all nodes; then a page asks all other nodes something.
    pub(crate) async fn ask_nodes(&mut self) -> Result<()> {
        const EVENTS: usize = 5;
        let app = self.fleet.nodes[0].app();
        let before = self.begin()?;
        for _ in 0..EVENTS {
            app.terminate("nobody").await?;
        }
        self.fleet.settle().await?;
        self.end("termination of a user", &before, EVENTS).await?;
        let others: Vec<_> = self.fleet.nodes[1..].iter().map(|node| Arc::clone(node.cluster())).collect();
        let answers = join_all(others.iter().map(async |node| {
            let mut questions = node.page_questions();
            for _ in 0..EVENTS {
                let question = questions.recv().await.expect("somebody asks");
                node.answer_page(&question, &"x".repeat(1024));
            }
        }));
        let asker = Arc::clone(self.fleet.nodes[0].cluster());
        let questions = async {
            for _ in 0..EVENTS {
                let asked = others.iter().map(|node| asker.ask_page(node.node(), "{}"));
                let late = join_all(asked).await.iter().filter(|answer| answer.is_none()).count();
                if late > 0 {
                    eprintln!("{late} of {} pages do not answer in time", others.len());
                }
            }
        };
        let before = self.begin()?;
        futures_util::future::join(answers, questions).await;
        self.fleet.settle().await?;
        self.end("a page asks all nodes for 1 KB each", &before, EVENTS).await
    }

    /// A node starts, and another one stops.
    pub(crate) async fn start_and_stop(&mut self) -> Result<()> {
        let before = self.begin()?;
        self.fleet.add(1).await?;
        self.end_with("start of a node", &before, (1, 1)).await?;
        let node = self.fleet.nodes.pop().expect("one has been added");
        let before = self.begin()?;
        node.stop().await;
        self.fleet.all_know_each_other().await?;
        self.end("stop of a node without clients", &before, 1).await
    }

    /// The last node crashes. Its lease is ended at once, so that nobody waits ten seconds for that.
    pub(crate) async fn crash(&mut self) -> Result<()> {
        tokio::time::sleep(LINK_AGE.saturating_sub(self.since.elapsed())).await;
        let node = self.fleet.nodes.pop().expect("there is a node");
        let id = node.cluster().node();
        node.crash().await;
        self.meter.run_anywhere(&["ZADD", "scale:{nodes}:leases", "0", &id.to_string()])?;
        let before = self.begin()?;
        self.fleet.all_know_each_other().await?;
        self.end("death of a node", &before, 1).await
    }
}
