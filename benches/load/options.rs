//! The options of the command line.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::process::Process;
use crate::publisher::Pace;
use crate::signature::Signer;
use crate::target::Target;
use crate::viewers::Viewers;

/// No run lasts longer, whatever is asked for.
const SECONDS_MAX: f64 = 600.0;
/// Short against what a fan-out takes, long enough for the server's next batch to pile up.
const CLOSED_LOOP_NAP_US: u64 = 200;
/// Each subscriber remembers what it got by key and connection.
const KEYS_MAX: usize = 1000;
/// More connections than any machine of ours takes.
const CONNECTIONS_MAX: usize = 500_000;

/// Measures a Pusher-protocol server from outside; prints one line of JSON.
#[derive(Parser)]
#[command(name = "load")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

/// The scenario to measure.
#[derive(Subcommand)]
pub(crate) enum Scenario {
    /// Subscribers on some channels; publishing at a rate or within a window.
    Fanout(FanOptions),
    /// Fanout with 1,000 connections and 10,000 events/s over 100 channels. `--channels 1` is the extreme.
    Firehose(FanOptions),
    /// POST as fast as answers come.
    Publish(FanOptions),
    /// Fanout with one subscriber more, which stops reading.
    Slow(FanOptions),
    /// Fanout of JSON of 2 KB, to plain and to compressed subscribers in turns; the server needs
    /// connections.compression
    Compression(FanOptions),
    /// A flood over 100 keys on a channel with a flow rule and on one without, in turns, to many subscribers and to one;
    /// the server needs the rule that docs/measured.md names
    Flow(FanOptions),
    /// Fanout against the bare loop of `send`: what no server on this machine can beat.
    Floor(FanOptions),
    /// Connects and subscribes as fast as it goes; memory of each connection.
    Connect(ConnectOptions),
    /// Users join one presence channel at once, then leave at once.
    Presence(PresenceOptions),
    /// Pairs on private channels; ping-pong, or at a rate.
    ClientEvents(ClientEventsOptions),
    /// Connects, subscribes, stays a little and leaves, at a rate; then compares memory and channels.
    Churn(ChurnOptions),
    /// Known users are cut off, miss events and come back at once; the server needs the history rule that
    /// docs/measured.md names
    Storm(StormOptions),
    /// Hostile or unlucky clients: flood, burst, pings, rejoin, bodies.
    Abuse(AbuseOptions),
    /// The bare loop itself.
    #[command(hide = true)]
    FloorServer(FloorServerOptions),
}

/// Which server, and how to look at it.
#[derive(Args, Clone)]
pub(crate) struct ServerOptions {
    /// Loopback addresses only. Overrules --host and --port.
    #[arg(long)]
    url: Option<String>,
    /// Publishes to another node of the same cluster, or as Laravel's redis broadcaster in a Redis, such as
    /// redis://127.0.0.1:6379/laravel_database_ with the prefix; everybody listens at --url.
    #[arg(long)]
    publish_to: Option<String>,
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    host: Ipv4Addr,
    #[arg(long, default_value_t = 6001)]
    port: u16,
    #[arg(long, default_value = "app-id")]
    app_id: String,
    #[arg(long, default_value = "app-key")]
    key: String,
    #[arg(long, default_value = "app-secret")]
    secret: String,
    /// Reads CPU and memory of this process and its children.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// Stands in the output.
    #[arg(long, default_value = "")]
    pub(crate) label: String,
    /// WebSocket handshakes at a time.
    #[arg(long, default_value_t = 256)]
    pub(crate) inflight: usize,
    /// Seconds after which connecting is given up.
    #[arg(long, default_value_t = 60)]
    pub(crate) limit_s: u64,
    /// Viewers of the operator's page who read the live log meanwhile.
    #[arg(long, default_value_t = 0)]
    pub(crate) viewers: usize,
    /// The metrics port, for the viewers.
    #[arg(long, default_value_t = 9601)]
    metrics_port: u16,
    /// The token of the operator's page, for the viewers.
    #[arg(long, default_value = "")]
    dashboard_token: String,
}

impl ServerOptions {
    /// Where to send the load.
    pub(crate) fn target(&self) -> Result<Target> {
        self.target_at(self.url.as_deref())
    }

    /// Where to publish.
    pub(crate) fn publish_target(&self) -> Result<Target> {
        self.target_at(self.publish_to.as_deref().or(self.url.as_deref()))
    }

    fn target_at(&self, url: Option<&str>) -> Result<Target> {
        let address = match url {
            Some(url) => address(url).with_context(|| format!("the URL {url} is not understood"))?,
            None => SocketAddrV4::new(self.host, self.port),
        };
        ensure!(address.ip().is_loopback(), "{address}: this tool loads only servers on its own machine");
        ensure!(self.inflight > 0, "--inflight must be at least 1");
        let redis_prefix = url.and_then(|url| url.strip_prefix("redis://")?.split_once('/')).map(|(_, prefix)| prefix);
        let signer = Signer::new(&self.app_id, &self.key, &self.secret);
        Ok(Target { address, signer, redis_prefix: redis_prefix.map(str::to_owned) })
    }

    /// How many connect at a time, and for how many seconds at most.
    pub(crate) fn pace(&self) -> (usize, u64) {
        (self.inflight, self.limit_s)
    }

    /// The server's process.
    pub(crate) fn process(&self) -> Result<Process> {
        if let Some(pid) = self.server_pid {
            ensure!(Path::new("/proc").join(pid.to_string()).exists(), "there is no process {pid}");
        }
        Ok(Process::new(self.server_pid))
    }

    /// Lets the viewers in.
    pub(crate) fn open_viewers(&self) -> Result<Viewers> {
        let host = *self.target()?.address.ip();
        Viewers::open(self.viewers, SocketAddrV4::new(host, self.metrics_port), &self.dashboard_token)
    }

    /// These options for another server on this machine, the floor.
    pub(crate) fn redirected(&self, port: u16, pid: u32) -> Self {
        Self {
            url: None,
            publish_to: None,
            host: Ipv4Addr::LOCALHOST,
            port,
            server_pid: Some(pid),
            viewers: 0,
            ..self.clone()
        }
    }
}

fn address(url: &str) -> Option<SocketAddrV4> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    host.replace("localhost", "127.0.0.1").parse().ok()
}

/// Options of all scenarios with a publisher. Those without a default here have one by scenario.
#[derive(Args, Clone)]
pub(crate) struct FanOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Subscribers, spread evenly over the channels: 1000; publish: 0; slow: 10
    #[arg(long)]
    subs: Option<usize>,
    /// 1; firehose: 100
    #[arg(long)]
    channels: Option<usize>,
    /// Keys of flow
    #[arg(long, default_value_t = 100)]
    keys: usize,
    /// Bytes of an event's data: 256; slow: 8192; compression: 2048
    #[arg(long)]
    payload: Option<usize>,
    /// Open loop: events a second, whatever the server does
    #[arg(long, conflicts_with = "window")]
    rate: Option<f64>,
    /// Closed loop: events published and not yet delivered to everybody: 16
    #[arg(long)]
    window: Option<u64>,
    /// Measured seconds: 5; slow: 10
    #[arg(long)]
    secs: Option<f64>,
    /// Seconds before measuring
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Publishing connections: 8; firehose, flow, publish: 32
    #[arg(long)]
    http_conns: Option<usize>,
    /// Events of one request
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// 0: a new connection for each request, as PHP-FPM makes
    #[arg(long, default_value_t = 1)]
    keep_alive: u8,
    /// Seconds without a delivery after which the rest counts as lost
    #[arg(long, default_value_t = 3.0)]
    drain: f64,
    /// The receiver looks at its sockets every so often instead of waiting in the poll; 0: it waits.
    /// 200 in a closed loop, 0 in an open one
    #[arg(long)]
    nap_us: Option<u64>,
    /// Runs the floor with the same options afterwards and adds `ratio_to_floor`
    #[arg(long)]
    pub(crate) compare_floor: bool,
    /// CPUs for the floor, as taskset takes them: the server's, if its id is given
    #[arg(long)]
    pub(crate) floor_cpus: Option<String>,
}

/// The settings of a scenario with a publisher, in full.
#[derive(Clone)]
pub(crate) struct Fan {
    pub(crate) scenario: &'static str,
    pub(crate) subs: usize,
    pub(crate) channels: usize,
    pub(crate) payload: usize,
    pub(crate) pace: Pace,
    pub(crate) secs: f64,
    pub(crate) warmup: f64,
    pub(crate) http_conns: usize,
    pub(crate) batch: u64,
    pub(crate) keep_alive: bool,
    pub(crate) drain: f64,
    pub(crate) nap_us: u64,
    /// Subscribers ask for compression.
    pub(crate) compressed: bool,
    /// Keys that the events have; 0 for none.
    pub(crate) keys: usize,
    /// The channels have a flow rule.
    pub(crate) ruled: bool,
}

impl FanOptions {
    /// Fills in the scenario's defaults and checks.
    pub(crate) fn fan(&self, scenario: &'static str) -> Result<Fan> {
        let (subs, channels, http_conns, payload, secs, pace) = match scenario {
            "firehose" => (1000, 100, 32, 256, 5.0, Pace::Rate(10_000.0)),
            "flow" => (1000, 1, 32, 256, 5.0, Pace::Rate(10_000.0)),
            "publish" => (0, 1, 32, 256, 5.0, Pace::Answers),
            "slow" => (10, 1, 8, 8192, 10.0, Pace::Rate(1000.0)),
            "compression" => (1000, 1, 8, 2048, 5.0, Pace::Rate(50.0)),
            _ => (1000, 1, 8, 256, 5.0, Pace::Window(16)),
        };
        let pace = self.rate.map(Pace::Rate).or(self.window.map(Pace::Window)).unwrap_or(pace);
        let mut fan = Fan {
            scenario,
            subs: self.subs.unwrap_or(subs),
            channels: self.channels.unwrap_or(channels),
            payload: self.payload.unwrap_or(payload),
            pace,
            secs: self.secs.unwrap_or(secs),
            warmup: self.warmup,
            http_conns: self.http_conns.unwrap_or(http_conns),
            batch: self.batch,
            keep_alive: self.keep_alive != 0,
            drain: self.drain,
            nap_us: self.nap_us.unwrap_or(0),
            compressed: false,
            keys: if scenario == "flow" { self.keys } else { 0 },
            ruled: false,
        };
        if self.nap_us.is_none() && fan.subs > 0 && !matches!(pace, Pace::Rate(_)) {
            fan.nap_us = CLOSED_LOOP_NAP_US;
        }
        bounded(fan.subs, fan.warmup + fan.secs + fan.drain)?;
        ensure!(fan.channels > 0 && fan.subs.is_multiple_of(fan.channels), "--subs must be a multiple of --channels");
        let by_redis = self.server.publish_target()?.redis_prefix.is_some();
        ensure!(fan.batch == 1 || !by_redis, "Laravel publishes one event at a time in Redis; leave --batch out");
        ensure!(
            scenario != "flow" || ((1..=KEYS_MAX).contains(&fan.keys) && fan.channels == 1),
            "flow has one channel and 1 to {KEYS_MAX} --keys"
        );
        ensure!(fan.http_conns > 0 && fan.batch > 0, "--http-conns and --batch must be at least 1");
        Ok(fan)
    }
}

/// Refuses what would not end or not fit.
pub(crate) fn bounded(connections: usize, seconds: f64) -> Result<()> {
    ensure!(connections <= CONNECTIONS_MAX, "at most {CONNECTIONS_MAX} connections");
    ensure!((0.0..=SECONDS_MAX).contains(&seconds), "at most {SECONDS_MAX} seconds");
    Ok(())
}

/// Options of `connect`.
#[derive(Args)]
pub(crate) struct ConnectOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[arg(long, default_value_t = 10_000)]
    pub(crate) conns: usize,
    /// They are spread over so many
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// Seconds of silence after connecting
    #[arg(long, default_value_t = 2.0)]
    pub(crate) hold: f64,
    /// Broadcasts to everybody after that, since buffers are often made at first use
    #[arg(long, default_value_t = 0)]
    pub(crate) touch: u32,
    /// Asks for compression
    #[arg(long)]
    pub(crate) compression: bool,
}

/// Options of `presence`.
#[derive(Args)]
pub(crate) struct PresenceOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[arg(long, default_value_t = 1000)]
    pub(crate) users: usize,
}

/// Options of `client-events`.
#[derive(Args)]
pub(crate) struct ClientEventsOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[arg(long, default_value_t = 500)]
    pub(crate) pairs: usize,
    #[arg(long, default_value_t = 256)]
    pub(crate) payload: usize,
    /// Events a second over all pairs; without it each answers the other
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) secs: f64,
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warmup: f64,
}

/// Options of `churn`.
#[derive(Args)]
pub(crate) struct ChurnOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// Connections a second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) rate: f64,
    /// How long each stays subscribed
    #[arg(long, default_value_t = 200)]
    pub(crate) live_ms: u64,
    #[arg(long, default_value_t = 10.0)]
    pub(crate) secs: f64,
}

/// Options of `storm`.
#[derive(Args)]
pub(crate) struct StormOptions {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[arg(long, default_value_t = 10_000)]
    pub(crate) users: usize,
    /// Events that everybody misses
    #[arg(long, default_value_t = 1000)]
    pub(crate) events: u32,
    #[arg(long, default_value_t = 256)]
    pub(crate) payload: usize,
    /// The cluster's Redis, such as 127.0.0.1:6379: counts its scripts for each user that returns
    #[arg(long)]
    pub(crate) redis: Option<SocketAddrV4>,
}

/// Options of `abuse`.
#[derive(Args)]
pub(crate) struct AbuseOptions {
    /// The behaviour
    #[arg(value_enum)]
    pub(crate) what: Abuse,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    /// flood: 200; burst: 50; pings: 20; rejoin, bodies: 60
    #[arg(long)]
    pub(crate) conns: Option<usize>,
    #[arg(long, default_value_t = 5.0)]
    pub(crate) secs: f64,
}

/// The behaviour of the clients of `abuse`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Abuse {
    /// Send what is no message as fast as they can; how long publishing takes meanwhile
    Flood,
    /// One request with 99,000 bytes on 20 channels of each reader; what arrives
    Burst,
    /// Send empty pings and never read; memory
    Pings,
    /// One member joins and leaves a presence channel as fast as it can; what becomes of the observers
    Rejoin,
    /// Large bodies, all at once; memory a minute later
    Bodies,
}

impl Abuse {
    /// Connections, unless somebody says otherwise.
    pub(crate) fn conns(self) -> usize {
        match self {
            Self::Flood => 200,
            Self::Burst => 50,
            Self::Pings => 20,
            Self::Rejoin | Self::Bodies => 60,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Burst => "burst",
            Self::Pings => "pings",
            Self::Rejoin => "rejoin",
            Self::Bodies => "bodies",
        }
    }
}

/// Options of the floor's server.
#[derive(Args)]
pub(crate) struct FloorServerOptions {
    /// 0: any, printed on the first line
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
}
