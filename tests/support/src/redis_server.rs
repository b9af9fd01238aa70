//! A Redis of the tests' own: it can be killed, paused, locked and emptied without harming anybody else.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use gema::config::ClusterDriver;
use gema::config::Config;
use gema::config::Secret;
use redis::AsyncConnectionConfig;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;

use crate::client::PATIENCE;
use crate::process::signal;

/// Ports below those that Linux gives to outgoing connections. While Redis is away nobody else can come to sit on
/// its port, and a client that tries to connect to it cannot get that very port as its own end.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Starts Redis and ends it, and removes its folder, as soon as the test process is gone, however it went: then
/// nobody holds the other end of the standard input any more.
const GUARD: &str = r#"
    command -v redis-server >/dev/null || exit
    trap '' INT TERM
    folder=$1; shift
    redis-server "$@" </dev/null >/dev/null & redis=$!
    echo $redis
    cat >/dev/null
    kill -KILL $redis
    wait $redis 2>/dev/null
    rm -rf "$folder"
"#;

/// The Redis for all tests that do not disturb it.
static SHARED: OnceCell<TestRedis> = OnceCell::const_new();

/// A redis-server on a port of the loopback, with nothing on disk. Ends with the test.
pub struct TestRedis {
    port: u16,
    /// Empty for none.
    pub password: String,
    /// Further words of the command line.
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

impl TestRedis {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with a password.
    pub async fn start_with(password: &str) -> Self {
        Self::start_like(password, &[]).await
    }

    /// The same with further words on its command line.
    pub async fn start_like(password: &str, words: &[&str]) -> Self {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let mut redis = Self::absent(password);
            redis.words = words.iter().map(|&word| word.to_owned()).collect();
            // Somebody else may have taken the port in between.
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("redis-server does not start on any of {TRIES} ports");
    }

    /// A Redis that does not run yet, with a port of its own.
    pub fn absent(password: &str) -> Self {
        Self { port: free_port(), password: password.to_owned(), words: Vec::new(), running: None }
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
        assert!(self.try_start().await, "redis-server does not start");
    }

    /// The same; from now on only this password lets anybody in.
    pub async fn restart_with(&mut self, password: &str) {
        password.clone_into(&mut self.password);
        self.restart().await;
    }

    /// Ends it at once, and saves nothing. It ends between two rounds of its loop, if it answers at all: a SIGKILL in
    /// the middle of one may come after it has confirmed an event and before it delivers it, which nobody could notice.
    pub fn kill(&mut self) {
        assert!(self.running.is_some(), "Redis is not running");
        let _ = self.shut_down();
        self.running = None;
    }

    /// Waits until it has ended, for ten seconds at most.
    fn shut_down(&self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, self.port).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if !self.password.is_empty() {
            write!(stream, "AUTH {}\r\n", self.password)?;
        }
        write!(stream, "SHUTDOWN NOSAVE NOW\r\n")?;
        let mut answers = [0; 256];
        while stream.read(&mut answers)? > 0 {}
        Ok(())
    }

    /// It answers nobody any more, but its connections stay.
    pub fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    pub fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// A connection of the test.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.expect("Redis lets the test in")
    }

    pub async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let password = if self.password.is_empty() { String::new() } else { format!(":{}@", self.password) };
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Runs one command, such as `["CONFIG", "SET", "maxmemory", "1"]`.
    pub async fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        run(&mut self.connection().await, command).await
    }

    /// What `INFO commandstats` says: calls by command, in capitals, those within scripts included.
    pub async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run(&["INFO", "commandstats"]).await;
        let start = format!("cmdstat_{}:calls=", command.to_lowercase());
        let line = stats.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// Makes this Redis the one between the nodes of a cluster.
    pub fn configure(&self, config: &mut Config, cluster: &str) {
        config.cluster.driver = ClusterDriver::Redis;
        config.cluster.name = cluster.to_owned();
        self.point(config);
    }

    /// Makes this Redis the one of a node.
    pub fn point(&self, config: &mut Config) {
        config.redis.host = "127.0.0.1".to_owned();
        config.redis.port = self.port;
        config.redis.password = Secret::new(&self.password);
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().expect("Redis is not running").pid
    }

    async fn try_start(&mut self) -> bool {
        assert!(self.running.is_none(), "Redis runs already");
        let running = self.spawn();
        let pid = running.pid;
        self.running = Some(running);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Ok(mut connection) = self.try_connection().await {
                let info: String = run(&mut connection, &["INFO", "server"]).await;
                if info.contains(&format!("process_id:{pid}\r\n")) {
                    return true;
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.running = None;
        false
    }

    fn spawn(&self) -> Running {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder: PathBuf = std::env::temp_dir().join(format!("gema-redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&folder)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"])
            .arg(&folder)
            .args(["--save", "", "--appendonly", "no", "--requirepass", &self.password])
            .args(&self.words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Running { guard, pid: pid.trim().parse().expect("redis-server is missing; tests/run installs it") }
    }
}

/// Runs one command on a connection.
pub async fn run<T: FromRedisValue>(connection: &mut MultiplexedConnection, command: &[&str]) -> T {
    let mut words = redis::cmd(command[0]);
    words.arg(&command[1..]);
    words.query_async(connection).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A cluster's name that no other test has.
pub fn cluster_name() -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// One of these ports that nobody has at the moment, and that no other test of this process gets.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap();
    let port = std::iter::repeat_with(|| rand::random_range(PORTS))
        .find(|port| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .unwrap();
    taken.insert(port);
    port
}
