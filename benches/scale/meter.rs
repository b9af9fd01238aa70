//! Asks Redis how many commands it has carried out and how many bytes have gone in and out, and takes off the
//! background: the leases that every node renews.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use redis::Connection;
use redis::cmd;

/// The command that only the renewal of a lease uses, once for each.
const RENEWAL: &str = "zadd";
/// The commands of this program.
const OWN: &[&str] = &["info", "config|resetstat", "client|list"];

/// Connections to all servers of a run.
pub(crate) struct Meter {
    servers: Vec<Connection>,
    /// Bytes of this meter's questions, and of the answers.
    own: (u64, u64),
}

/// The sums of all servers at one moment, without the bytes of the meter.
#[derive(Debug)]
pub(crate) struct Reading {
    at: Instant,
    calls: BTreeMap<String, u64>,
    bytes_in: u64,
    bytes_out: u64,
}

/// Commands, and bytes into and out of Redis.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cost {
    /// Commands, those within scripts included.
    pub(crate) commands: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

/// The cost of the renewals of leases, from a quiet time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Background {
    of_a_renewal: Cost,
    /// Of all nodes, in a second.
    pub(crate) in_a_second: Cost,
}

impl Meter {
    pub(crate) fn connect(ports: &[u16]) -> Result<Self> {
        let connect = |port: &u16| {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
            client.get_connection().context("Redis cannot be reached")
        };
        Ok(Self { servers: ports.iter().map(connect).collect::<Result<_>>()?, own: (0, 0) })
    }

    pub(crate) fn read(&mut self) -> Result<Reading> {
        let mut sum = Reading::of_new_servers();
        let mut answers = 0;
        for server in &mut self.servers {
            let question = cmd("INFO").arg("all").take();
            let text: String = question.query(server)?;
            let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            sum.bytes_in += number("total_net_input_bytes:").context("no bytes in")?;
            sum.bytes_out += number("total_net_output_bytes:").context("no bytes out")?;
            self.own.0 += question.get_packed_command().len() as u64;
            answers += (format!("${}\r\n\r\n", text.len()).len() + text.len()) as u64;
            for line in text.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
                let (name, rest) = line.split_once(":calls=").context("no calls")?;
                let calls: u64 = rest.split(',').next().unwrap_or_default().parse()?;
                *sum.calls.entry(name.to_owned()).or_default() += calls;
            }
        }
        sum.bytes_in = sum.bytes_in.saturating_sub(self.own.0);
        sum.bytes_out = sum.bytes_out.saturating_sub(self.own.1);
        // The servers count an answer when they have sent it, which is later.
        self.own.1 += answers;
        Ok(sum)
    }

    /// Connections of nodes to all servers.
    pub(crate) fn connections(&mut self) -> Result<usize> {
        let mut count = 0;
        for server in &mut self.servers {
            let list: String = cmd("CLIENT").arg("LIST").query(server)?;
            // One is this program's own.
            count += list.lines().count().saturating_sub(1);
        }
        Ok(count)
    }

    /// Runs a command on the server that has its key.
    pub(crate) fn run_anywhere(&mut self, words: &[&str]) -> Result<()> {
        let run = |server: &mut Connection| cmd(words[0]).arg(&words[1..]).exec(server);
        let outcomes: Vec<_> = self.servers.iter_mut().map(run).collect();
        ensure!(outcomes.iter().any(Result::is_ok), "{words:?}: {outcomes:?}");
        Ok(())
    }

    /// Waits until nodes publish nothing for a while.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        const QUIET: Duration = Duration::from_millis(100);
        const PATIENCE: Duration = Duration::from_secs(60);
        let (mut before, end) = (self.read()?, Instant::now() + PATIENCE);
        loop {
            ensure!(Instant::now() < end, "nodes still publish after {PATIENCE:?}");
            tokio::time::sleep(QUIET).await;
            let after = self.read()?;
            if after.published_since(&before) == 0 {
                return Ok(());
            }
            before = after;
        }
    }

    /// Measures the renewals of leases in a time in which nothing else happens.
    pub(crate) async fn background(&mut self, time: Duration) -> Result<Background> {
        self.quiet().await?;
        let before = self.read()?;
        tokio::time::sleep(time).await;
        let after = self.read()?;
        let (cost, seconds) = (after.since(&before), (after.at - before.at).as_secs_f64());
        let renewals = after.calls_since(&before, RENEWAL).max(1) as f64;
        Ok(Background { of_a_renewal: cost.divided_by(renewals), in_a_second: cost.divided_by(seconds) })
    }

    /// The cost of one of these events, which have happened since. They have renewed so many leases themselves.
    pub(crate) async fn cost(
        &mut self,
        before: &Reading,
        (events, own_renewals): (usize, usize),
        background: &Background,
    ) -> Result<Cost> {
        // The last messages may still be under way.
        self.quiet().await?;
        let after = self.read()?;
        let renewals = after.calls_since(before, RENEWAL).saturating_sub(own_renewals as u64) as f64;
        let (all, of_one) = (after.since(before), background.of_a_renewal);
        let rest = |all: f64, of_one: f64| (all - renewals * of_one).max(0.0);
        let cost = Cost {
            commands: rest(all.commands, of_one.commands),
            bytes_in: rest(all.bytes_in, of_one.bytes_in),
            bytes_out: rest(all.bytes_out, of_one.bytes_out),
        };
        Ok(cost.divided_by(events as f64))
    }
}

impl Reading {
    /// The reading of servers that have just started.
    pub(crate) fn of_new_servers() -> Self {
        Self { at: Instant::now(), calls: BTreeMap::new(), bytes_in: 0, bytes_out: 0 }
    }

    fn calls_since(&self, before: &Self, name: &str) -> u64 {
        let calls = |reading: &Self| reading.calls.get(name).copied().unwrap_or_default();
        calls(self).saturating_sub(calls(before))
    }

    /// Messages that were published, by all nodes.
    pub(crate) fn published_since(&self, before: &Self) -> u64 {
        self.calls_since(before, "publish") + self.calls_since(before, "spublish")
    }

    pub(crate) fn since(&self, before: &Self) -> Cost {
        let others = self.calls.keys().filter(|name| !OWN.contains(&name.as_str()));
        Cost {
            commands: others.map(|name| self.calls_since(before, name)).sum::<u64>() as f64,
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in) as f64,
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out) as f64,
        }
    }
}

impl Cost {
    fn divided_by(self, by: f64) -> Self {
        Self { commands: self.commands / by, bytes_in: self.bytes_in / by, bytes_out: self.bytes_out / by }
    }
}
