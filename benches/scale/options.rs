//! The options of the command line, and what follows from them.

use std::fmt;

use clap::Parser;
use clap::ValueEnum;

/// Files of one node: its connections to three masters, and what its runtime needs.
const FILES_OF_A_NODE: u64 = 2 * 3 + 2;
/// Files of everything else.
const FILES_OF_THE_REST: u64 = 200;

/// Counts what a cluster costs Redis: commands and bytes of each event, by nodes, channels, members and apps.
///
/// Starts redis-server by itself and runs all nodes in this process: the server's own code of apps, channels and
/// cluster, without ports and sockets for clients. The exponent in the last column says how a figure grows: 0 not at
/// all, 1 like the nodes (channels, members, apps), 2 like their square.
///
/// Figures do not depend on how the program is built, times do.
#[derive(Parser)]
#[command(name = "scale")]
pub(crate) struct Options {
    /// Numbers of nodes, such as 2,10,50.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(2..=500))]
    nodes: Vec<u64>,
    /// One Redis, or a Redis Cluster of three masters. If it is left out: both, the second one with few sizes; with
    /// --quick only the first one.
    #[arg(long)]
    redis: Option<Kind>,
    /// Few and small sizes: less than a minute.
    #[arg(long)]
    quick: bool,
}

/// A kind of Redis.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    Alone,
    Cluster,
}

/// The quantity that grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Axis {
    Nodes,
    Channels,
    Members,
    Apps,
}

/// The sizes to measure on one kind of Redis.
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) axes: Vec<(Axis, Vec<usize>)>,
    pub(crate) storm_nodes: usize,
}

impl Plan {
    /// The plans that follow from the options. Sizes for which there are too few files are left out, and that is said.
    pub(crate) fn all(options: &Options, files: u64) -> Vec<Self> {
        let kinds = match (options.redis, options.quick) {
            (Some(kind), _) => vec![kind],
            (None, true) => vec![Kind::Alone],
            (None, false) => vec![Kind::Alone, Kind::Cluster],
        };
        kinds.into_iter().map(|kind| Self::of(kind, options, files)).collect()
    }

    fn of(kind: Kind, options: &Options, files: u64) -> Self {
        let is_short = options.quick || options.redis.is_none() && kind == Kind::Cluster;
        let mut nodes: Vec<usize> = match (options.nodes.is_empty(), options.quick, is_short) {
            (false, ..) => options.nodes.iter().map(|&nodes| nodes as usize).collect(),
            (true, true, _) => vec![2, 10],
            (true, false, true) => vec![2, 10, 50, 100],
            (true, false, false) => vec![2, 5, 10, 20, 50, 100, 200],
        };
        nodes.sort_unstable();
        // All sizes run at the same time, each with and without counted subscribers.
        let nodes_max = (files.saturating_sub(FILES_OF_THE_REST) / FILES_OF_A_NODE / 2) as usize;
        while nodes.len() > 1 && nodes.iter().sum::<usize>() > nodes_max {
            println!("cut: {files} files are not enough for {} nodes", nodes.pop().unwrap_or_default());
        }
        let storm_nodes = nodes.iter().copied().filter(|&nodes| nodes <= 100).max().unwrap_or(2);
        let mut axes = vec![(Axis::Nodes, nodes)];
        if options.quick {
            axes.push((Axis::Members, vec![10, 100]));
        } else if !is_short {
            axes.push((Axis::Channels, vec![10, 100, 1000, 10_000]));
            axes.push((Axis::Members, vec![10, 100, 1000, 10_000]));
            axes.push((Axis::Apps, vec![1, 10, 100, 1000]));
        }
        Self { kind, axes, storm_nodes }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "One Redis",
            Self::Cluster => "A Redis Cluster of three masters",
        })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nodes => "nodes",
            Self::Channels => "channels",
            Self::Members => "members",
            Self::Apps => "apps",
        })
    }
}
