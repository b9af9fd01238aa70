//! A NATS of the tests' own: it can be ended, killed, paused, locked and emptied without harming anybody else.

use std::fs;
use std::io;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use gema::config::ClusterDriver;
use gema::config::Config;
use gema::config::Secret;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::client::PATIENCE;
use crate::process::signal;
use crate::redis_server::free_port;

/// Starts NATS and ends it, and removes its folder, as soon as the test process is gone, however it went: then nobody
/// holds the other end of the standard input any more. A NATS that has ended before leaves its folder to the test.
const GUARD: &str = r#"
    PATH=$PATH:/usr/sbin
    command -v nats-server >/dev/null || exit
    trap '' INT TERM
    folder=$1; shift
    nats-server "$@" </dev/null >/dev/null 2>&1 & nats=$!
    echo $nats
    cat >/dev/null
    if kill -KILL $nats 2>/dev/null; then
        wait $nats 2>/dev/null
        rm -rf "$folder"
    fi
"#;

/// The NATS for all tests that do not disturb it.
static SHARED: OnceCell<TestNats> = OnceCell::const_new();

/// A nats-server with JetStream on a port of the loopback. Ends with the test.
pub struct TestNats {
    port: u16,
    /// The token that lets in; empty for none.
    pub token: String,
    folder: PathBuf,
    /// Further words on its command line.
    words: Vec<String>,
    running: Option<Running>,
}

struct Running {
    guard: Child,
    pid: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Drop for TestNats {
    fn drop(&mut self) {
        self.running = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl TestNats {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with a token.
    pub async fn start_with(token: &str) -> Self {
        Self::start_like(token, &[]).await
    }

    /// One with a token, and with these words on its command line.
    pub async fn start_like(token: &str, words: &[&str]) -> Self {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let mut nats = Self::absent(token);
            nats.words = words.iter().map(|&word| word.to_owned()).collect();
            // Somebody else may have taken the port in between.
            if nats.try_start().await {
                return nats;
            }
        }
        panic!("nats-server does not start on any of {TRIES} ports");
    }

    /// A NATS that does not run yet, with a port of its own.
    pub fn absent(token: &str) -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("gema-nats-{}-{number}", std::process::id()));
        Self { port: free_port(), token: token.to_owned(), folder, words: Vec::new(), running: None }
    }

    /// The one that all tests of this process share.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, empty, on its own port.
    pub async fn restart(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        self.restart_as_it_was().await;
    }

    /// The same with what was in it.
    pub async fn restart_as_it_was(&mut self) {
        assert!(self.try_start().await, "nats-server does not start");
    }

    /// Starts it, empty; from now on only this token lets anybody in.
    pub async fn restart_with(&mut self, token: &str) {
        token.clone_into(&mut self.token);
        self.restart().await;
    }

    /// Ends it as an operator would: what it has confirmed it has delivered.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    /// Ends it at once. It may have confirmed something that it has delivered to nobody.
    pub fn crash(&mut self) {
        self.end("KILL");
    }

    fn end(&mut self, name: &str) {
        let running = self.running.take().expect("NATS is not running");
        signal(running.pid, name);
        let until = Instant::now() + PATIENCE;
        // Its guard may have noticed, and then there is nothing any more.
        while fs::read_to_string(format!("/proc/{}/stat", running.pid)).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < until, "nats-server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It answers nobody any more, but its connections stay.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// A connection of the test.
    pub async fn connection(&self) -> NatsClient {
        self.try_connection().await.expect("NATS lets the test in")
    }

    pub async fn try_connection(&self) -> io::Result<NatsClient> {
        NatsClient::open(self.port, &self.token).await
    }

    /// Makes this NATS the one between the nodes of a cluster.
    pub fn configure(&self, config: &mut Config, cluster: &str) {
        config.cluster.driver = ClusterDriver::Nats;
        config.cluster.name = cluster.to_owned();
        config.nats.servers = vec![format!("127.0.0.1:{}", self.port)];
        config.nats.token = Secret::new(&self.token);
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().expect("NATS is not running").pid
    }

    async fn try_start(&mut self) -> bool {
        assert!(self.running.is_none(), "NATS runs already");
        let (running, name) = self.spawn();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(client) = NatsClient::connect(self.port).await {
                let is_own = client.info["server_name"] == *name;
                self.running = Some(running).filter(|_| is_own);
                return is_own;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    /// With the name by which it is known from other servers.
    fn spawn(&self) -> (Running, String) {
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        fs::create_dir_all(&self.folder).unwrap();
        let name = format!("gema-{}-{}", std::process::id(), STARTS.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(&self.folder);
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--name", &name]);
        command.arg("--jetstream").arg("--store_dir").arg(&self.folder).args(&self.words);
        if !self.token.is_empty() {
            command.args(["--auth", &self.token]);
        }
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        io::BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = pid.trim().parse().expect("nats-server is missing; tests/run installs it");
        (Running { guard, pid }, name)
    }
}

/// A connection that publishes.
#[derive(Debug)]
pub struct NatsClient {
    stream: BufReader<TcpStream>,
    /// The server's first words, about itself.
    pub info: Value,
}

impl NatsClient {
    async fn open(port: u16, token: &str) -> io::Result<Self> {
        let mut client = Self::connect(port).await?;
        let options = json!({ "verbose": false, "pedantic": false, "name": "test", "auth_token": token });
        client.stream.write_all(format!("CONNECT {options}\r\n").as_bytes()).await?;
        client.round_trip().await?;
        Ok(client)
    }

    async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let mut client = Self { stream: BufReader::new(stream), info: Value::Null };
        let line = client.line().await?;
        let info = line.strip_prefix("INFO ").ok_or_else(|| io::Error::other(line.clone()))?;
        client.info = serde_json::from_str(info)?;
        Ok(client)
    }

    /// Publishes a message, and waits until the server has it.
    pub async fn publish(&mut self, subject: &str, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(format!("PUB {subject} {}\r\n", message.len()).as_bytes()).await?;
        self.stream.write_all(message).await?;
        self.stream.write_all(b"\r\n").await?;
        self.round_trip().await
    }

    async fn round_trip(&mut self) -> io::Result<()> {
        self.stream.write_all(b"PING\r\n").await?;
        loop {
            match &*self.line().await? {
                "PONG" => return Ok(()),
                "PING" => self.stream.write_all(b"PONG\r\n").await?,
                line if line.starts_with("INFO ") => (),
                line => return Err(io::Error::other(line)),
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read.map(|_| line.trim_end().to_owned()),
        }
    }
}
