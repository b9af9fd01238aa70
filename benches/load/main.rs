//! The load program: measures any Pusher-protocol server on this machine from outside.
//!
//! `cargo bench --bench load -- SCENARIO --server-pid PID …` prints one line of JSON. Read `options` for what can
//! be asked, `fanout` for the main scenario, then `publisher` and `subscribers` for its two threads.

mod abuse;
mod churn;
mod client;
mod client_events;
mod clock;
mod compression;
mod connect;
mod fanout;
mod floor;
mod floor_server;
mod flow;
mod frame;
mod histogram;
mod http;
mod hub;
mod mark;
mod meter;
mod options;
mod presence;
mod process;
mod publisher;
mod redis;
mod report;
mod signature;
mod storm;
mod subscribers;
mod target;
mod viewers;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use crate::options::{FanOptions, Options, Scenario};
use crate::report::Report;

fn main() -> Result<()> {
    // Cargo adds --bench to whatever is asked; `cargo test` runs the program with nothing at all.
    let arguments: Vec<String> = std::env::args().filter(|argument| argument != "--bench").collect();
    if arguments.len() < 2 {
        Options::command().print_help()?;
        return Ok(());
    }
    rlimit::increase_nofile_limit(u64::MAX)?;
    let report = match Options::parse_from(arguments).scenario {
        Scenario::Fanout(options) => fan(&options, "fanout")?,
        Scenario::Firehose(options) => fan(&options, "firehose")?,
        Scenario::Publish(options) => fan(&options, "publish")?,
        Scenario::Slow(options) => fan(&options, "slow")?,
        Scenario::Compression(options) => compression::run(&options.server, &options.fan("compression")?)?,
        Scenario::Flow(options) => flow::run(&options.server, &options.fan("flow")?)?,
        Scenario::Floor(options) => floor::run(&options, &options.fan("floor")?)?,
        Scenario::Connect(options) => connect::run(&options)?,
        Scenario::Presence(options) => presence::run(&options)?,
        Scenario::ClientEvents(options) => client_events::run(&options)?,
        Scenario::Churn(options) => churn::run(&options)?,
        Scenario::Storm(options) => storm::run(&options)?,
        Scenario::Abuse(options) => abuse::run(&options)?,
        Scenario::FloorServer(options) => return floor_server::run(options.port),
    };
    println!("{report}");
    Ok(())
}

fn fan(options: &FanOptions, scenario: &'static str) -> Result<Report> {
    let fan = options.fan(scenario)?;
    let mut report = fanout::run(&options.server, &fan)?;
    if options.compare_floor {
        floor::compare(options, &fan, &mut report)?;
    }
    Ok(report)
}
