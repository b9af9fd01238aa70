//! The scale program: what a cluster of many nodes costs Redis, and how that grows.
//!
//! `cargo bench --bench scale` starts Redis itself, runs up to 200 nodes in this process, and counts in Redis. Read
//! `node` for what a simulated node is, `steps` for what is measured, then `axes` for how it grows.

#![expect(clippy::expect_used, reason = "a figure is wrong if anything at all fails")]

mod axes;
mod fit;
mod fleet;
mod meter;
mod node;
mod options;
mod servers;
mod steps;
mod storm;

use std::time::Instant;

use anyhow::Result;
use clap::Parser;

use crate::options::Options;
use crate::options::Plan;

fn main() -> Result<()> {
    // Cargo adds --bench to whatever is asked.
    let options = Options::parse_from(std::env::args().filter(|argument| argument != "--bench"));
    let files = rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let began = Instant::now();
    for plan in Plan::all(&options, files) {
        runtime.block_on(run(&plan))?;
    }
    println!("\n{:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

async fn run(plan: &Plan) -> Result<()> {
    println!("\n# {}", plan.kind);
    for (axis, sizes) in &plan.axes {
        axes::run(plan.kind, *axis, sizes).await?;
    }
    storm::run(plan.kind, plan.storm_nodes).await
}
