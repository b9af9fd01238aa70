//! The program itself, started as an operator would.

use std::net::SocketAddr;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::io::Lines;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::PATIENCE;

/// A running `gema` with Soketi's default app. Ends with the test.
pub struct Process {
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
}

impl Process {
    /// Starts it on free ports with these environment variables and waits until it is ready.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gema"))
            .env_clear()
            .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_LOG_FORMAT", "json")])
            .envs([("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0")])
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = line(&mut log, "ready").await;
        let address = |field: &str| ready[field].as_str().unwrap().parse().unwrap();
        Self { child, address: address("address"), metrics_address: address("metrics_address"), log }
    }

    /// Sends SIGTERM.
    pub async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        let Output { status, .. } = Command::new("kill").args(["-TERM", &pid]).output().await.unwrap();
        assert!(status.success());
    }

    /// Waits for the end, which must be one without an error; returns the line that says how it went.
    pub async fn stopped(mut self) -> Value {
        let stopped = line(&mut self.log, "stopped").await;
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the process does not end").unwrap();
        assert!(status.success(), "{status}");
        stopped
    }
}

/// The next line of the log with this message.
async fn line(log: &mut Lines<BufReader<ChildStdout>>, message: &str) -> Value {
    loop {
        let next = timeout(PATIENCE, log.next_line()).await.unwrap_or_else(|_| panic!("no line {message:?}"));
        let line = next.unwrap().unwrap_or_else(|| panic!("the process ended without a line {message:?}"));
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if line["message"] == message {
            return line;
        }
    }
}
