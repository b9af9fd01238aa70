//! A Redis of the tests' own: it can be killed, paused, locked and emptied without harming anybody else.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::net::TcpListener;
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
use redis::AsyncConnectionConfig;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tokio::sync::OnceCell;

use crate::client::PATIENCE;
use crate::process::signal;

/// Ports below those that Linux gives to outgoing connections. While Redis is away nobody else can come to sit on
/// its port, and a client that tries to connect to it cannot get that very port as its own end.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Starts Redis and ends it, and removes its folder, as soon as the test process is gone, however it went: then
/// nobody holds the other end of the standard input any more.
const GUARD: &str = r#"
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
    role: Role,
    running: Option<Running>,
}

enum Role {
    /// With further arguments.
    Server(Vec<String>),
    /// Watches the server on this port under the name `mymaster`.
    Sentinel(u16),
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
        loop {
            let mut redis = Self::absent(password);
            // Somebody else may have taken the port in between.
            if redis.try_start().await {
                return redis;
            }
        }
    }

    /// A Redis that does not run yet, with a port of its own.
    pub fn absent(password: &str) -> Self {
        Self { port: free_port(), password: password.to_owned(), role: Role::Server(Vec::new()), running: None }
    }

    /// A copy of another one.
    pub async fn start_replica(of: u16) -> Self {
        Self::start_as(|| Role::Server(["--replicaof", "127.0.0.1", &of.to_string()].map(str::to_owned).into())).await
    }

    /// A Sentinel of a server, which it has found; one alone may decide.
    pub async fn start_sentinel(of: u16) -> Self {
        Self::start_as(|| Role::Sentinel(of)).await
    }

    /// So many servers that share the slots of a Redis Cluster.
    pub async fn start_slots(count: usize) -> Vec<Self> {
        const SLOTS: usize = 16_384;
        let mut servers = Vec::new();
        let mut meet = Vec::new();
        for index in 0..count {
            let bus = free_port().to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus].map(str::to_owned);
            let server = Self::start_as(|| Role::Server(arguments.to_vec())).await;
            let (first, last) = (index * SLOTS / count, (index + 1) * SLOTS / count - 1);
            server.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            meet.push((server.port.to_string(), bus));
            servers.push(server);
        }
        for (port, bus) in &meet[1..] {
            servers[0].run::<()>(&["CLUSTER", "MEET", "127.0.0.1", port, bus]).await;
        }
        for server in &servers {
            let known = format!("cluster_known_nodes:{count}\r\n");
            server.says(&["CLUSTER", "INFO"], &["cluster_state:ok\r\n", &known]).await;
        }
        servers
    }

    async fn start_as(role: impl Fn() -> Role) -> Self {
        loop {
            let mut redis = Self { role: role(), ..Self::absent("") };
            if redis.try_start().await {
                return redis;
            }
        }
    }

    /// Waits until the answer to a command has all of these texts. A Sentinel may cut the connection meanwhile.
    pub async fn says(&self, command: &[&str], texts: &[&str]) {
        let until = Instant::now() + PATIENCE * 3;
        loop {
            let answer = self.try_run::<String>(command).await.unwrap_or_default();
            if texts.iter().all(|text| answer.contains(text)) {
                return;
            }
            assert!(Instant::now() < until, "{command:?}: no {texts:?} in {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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

    /// Ends it at once, as SIGKILL does.
    pub fn kill(&mut self) {
        assert!(self.running.take().is_some(), "Redis is not running");
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

    /// The same where Redis may refuse it.
    pub async fn try_run<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.try_connection().await?).await
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
        let (port, place) = (self.port.to_string(), folder.to_str().unwrap());
        let arguments = match &self.role {
            Role::Server(more) => {
                let own = ["--bind", "127.0.0.1", "--port", &port, "--dir", place, "--save", "", "--appendonly", "no"];
                let locks = ["--requirepass", &self.password];
                own.iter().chain(&locks).map(|word| (*word).to_owned()).chain(more.iter().cloned()).collect()
            }
            Role::Sentinel(of) => {
                // It writes into its configuration what it finds out.
                let file = format!("{place}/sentinel.conf");
                let watch = format!("sentinel monitor mymaster 127.0.0.1 {of} 1\n");
                let times = "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n";
                fs::write(&file, format!("bind 127.0.0.1\nport {port}\ndir {place}\n{watch}{times}")).unwrap();
                vec![file, "--sentinel".to_owned()]
            }
        };
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh", place])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Running { guard, pid: pid.trim().parse().expect("redis-server is installed; tests/run does it") }
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

fn free_port() -> u16 {
    std::iter::repeat_with(|| rand::random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .unwrap()
}
