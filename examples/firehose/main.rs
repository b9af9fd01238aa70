//! A flood of readings, and what a flow rule makes of it: gema, a publisher and a page in one process.
//!
//! `cargo run --release --example firehose`, then open the address that it prints. Read `gema.toml` for the rule.

mod page;
mod publisher;

use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use anyhow::anyhow;
use clap::Parser;
use gema::config::load;
use gema::server::Server;

use crate::page::Page;
use crate::publisher::Publisher;

/// Publishes a flood of readings and draws it twice: as it comes, and with a flow rule.
#[derive(Parser)]
struct Options {
    /// Readings per second, of all sensors together
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Sensors
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    sensors: u32,
    /// Ends by itself after so many seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The page's port; 0 for a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// The app of `gema.toml`.
struct App {
    id: String,
    key: String,
    secret: Vec<u8>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/firehose/gema.toml");
    let config = load(&[file], []).map_err(|faults| anyhow!("{faults}"))?.config;
    let entry = config.apps.first().ok_or_else(|| anyhow!("gema.toml has no app"))?;
    let app = App { id: entry.id.clone(), key: entry.key.clone(), secret: entry.secret.expose().to_vec() };

    let server = Server::start(&config).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
    println!("http://{}", listener.local_addr()?);
    let published = Arc::new(AtomicU64::new(0));
    let page = Page::new(app.key.clone(), server.address().port(), Arc::clone(&published));
    thread::spawn(move || page.serve(&listener));
    let publisher = Publisher::new(server.address(), app, (options.rate, options.sensors), published);
    // Both threads end with the process.
    let publishing = thread::spawn(move || publisher.run());

    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        () = tokio::time::sleep(Duration::from_secs(options.seconds)) => (),
    }
    if publishing.is_finished() {
        publishing.join().map_err(|_| anyhow!("the publisher panicked"))??;
    }
    server.drain().await;
    Ok(())
}
