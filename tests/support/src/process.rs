//! The program itself, started as an operator would.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::PATIENCE;

/// A running `gema` with Soketi's default app. Ends with the test.
pub struct Process {
    pub child: Child,
    pub log: Log,
    pub address: SocketAddr,
    pub metrics_address: SocketAddr,
}

impl Process {
    /// Starts it on free ports with these environment variables and waits until it is ready.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_with(&[], variables).await
    }

    /// The same with words on the command line.
    pub async fn start_with(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command.args(words);
        Self::run(command, variables).await
    }

    /// One that may have only so many files and sockets open.
    pub async fn start_with_files(files: usize) -> Self {
        Self::start_with_files_and(files, &[]).await
    }

    /// The same with these environment variables.
    pub async fn start_with_files_and(files: usize, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\"")]).arg(program());
        Self::run(command, variables).await
    }

    async fn run(mut command: Command, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .env_clear()
            .envs([("GEMA_SERVER_HOST", "127.0.0.1"), ("GEMA_SERVER_PORT", "0"), ("GEMA_LOG_FORMAT", "json")])
            .envs([("GEMA_METRICS_HOST", "127.0.0.1"), ("GEMA_METRICS_PORT", "0")])
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Log::default();
        tokio::spawn(log.clone().read(child.stdout.take().unwrap()));
        let ready = log.line("ready").await;
        let address = |field: &str| ready[field].as_str().unwrap().parse().unwrap();
        Self { child, address: address("address"), metrics_address: address("metrics_address"), log }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends any signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id().expect("the process is there"), name);
    }

    /// Waits for the end, which must be one without an error; returns the line that says how it went.
    pub async fn stopped(mut self) -> Value {
        let stopped = self.log.line("stopped").await;
        let status = timeout(PATIENCE, self.child.wait()).await.expect("the process does not end").unwrap();
        assert!(status.success(), "{status}");
        stopped
    }
}

/// The program that cargo has built for the tests: `target/debug/gema` for `target/debug/deps/it-…`. Cargo names it only
/// to the tests themselves.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).expect("cargo puts tests into a folder of their own").join("gema")
}

/// Sends a signal, such as `STOP`, to a process.
pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(status.success(), "{name} cannot be sent to {pid}");
}

/// The same to a whole group of processes, by the number of its first one.
pub fn signal_group(group: u32, name: &str) {
    let words = [&format!("-{name}"), "--", &format!("-{group}")];
    let status = std::process::Command::new("kill").args(words).status().unwrap();
    assert!(status.success(), "{name} cannot be sent to the group {group}");
}

/// What a process has logged. It is read at once, so that nobody waits for room in the pipe.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Value>>>);

impl Log {
    async fn read(self, stdout: ChildStdout) {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            self.0.lock().unwrap().push(line);
        }
    }

    /// All there is so far.
    pub fn lines(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// The first line with this message.
    pub async fn line(&self, message: &str) -> Value {
        self.find(|line| line["message"] == message).await
    }

    /// The first line about this cause.
    pub async fn about(&self, cause: &str) -> Value {
        self.find(|line| line["cause"] == cause).await
    }

    /// The first line that is like this. What happens is told before it is in the log.
    pub async fn find(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            if let Some(line) = lines.iter().find(|line| is_it(line)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "the line is not among these: {lines:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
