//! Redis in the ways that [`crate::redis_server`] has not: several servers together, Sentinels, and any settings.
//! Everything ends with the test.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::process::signal;
use crate::redis_server::free_port;

/// Longer than any of these programs needs to begin, or to agree with others.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the server as soon as the test is gone, however it went, and removes its folder.
const GUARD: &str = r#"
    trap '' INT TERM
    folder=$1; shift
    redis-server "$@" </dev/null >"$folder/log" 2>&1 & redis=$!
    echo $redis
    cat >/dev/null
    kill -KILL $redis 2>/dev/null
    wait $redis 2>/dev/null
    rm -rf "$folder"
"#;

/// One server.
pub struct Server {
    pub port: u16,
    /// Before each command of the test.
    pub login: Vec<String>,
    guard: Child,
    pid: u32,
}

impl Server {
    /// Starts it with these lines of configuration beside those that every test needs.
    pub fn start(lines: &[&str]) -> Self {
        let server = Self::spawn(free_port(), lines, &["--save", "", "--appendonly", "no"]);
        server.answers();
        server
    }

    fn spawn(port: u16, lines: &[&str], options: &[&str]) -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("gema-kinds-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let own = format!("port {port}\nbind 127.0.0.1\ndir {0}\n{1}\n", folder.display(), lines.join("\n"));
        let configuration = folder.join("redis.conf");
        fs::write(&configuration, own).unwrap();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&folder)
            .arg(&configuration)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Self { port, login: Vec::new(), guard, pid: pid.trim().parse().unwrap() }
    }

    /// Waits until it answers.
    fn answers(&self) {
        until("a server answers", || self.cli(&["PING"]).contains("PONG") || self.cli(&["PING"]).contains("NOAUTH"));
    }

    /// What `redis-cli` says to one command.
    pub fn cli(&self, command: &[&str]) -> String {
        cli(self.port, &self.login, command)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it at once, as SIGKILL does.
    pub fn kill(&self) {
        signal(self.pid, "KILL");
    }

    /// It answers nobody any more, but its connections stay.
    pub fn pause(&self) {
        signal(self.pid, "STOP");
    }

    pub fn resume(&self) {
        signal(self.pid, "CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Three masters, and perhaps a replica of the first.
pub struct RedisCluster {
    pub masters: Vec<Server>,
    pub replica: Option<Server>,
}

impl RedisCluster {
    pub fn start() -> Self {
        Self::begin(false)
    }

    pub fn with_replica() -> Self {
        Self::begin(true)
    }

    fn begin(with_replica: bool) -> Self {
        let masters: Vec<Server> = (0..3).map(|_| Self::member()).collect();
        let cluster = Self { masters, replica: with_replica.then(Self::member) };
        let mut create = vec!["--cluster", "create"];
        let addresses: Vec<String> = cluster.masters.iter().map(Server::address).collect();
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        let said = cluster.masters[0].cli(&create);
        assert!(said.contains("All 16384 slots covered"), "{said}");
        if let Some(replica) = &cluster.replica {
            let first = &cluster.masters[0];
            replica.cli(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), &first.bus_port()]);
            until("a replica is accepted", || replica.cli(&["CLUSTER", "REPLICATE", &first.id()]).contains("OK"));
            until("a replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        }
        for server in cluster.masters.iter().chain(&cluster.replica) {
            until("a Redis Cluster agrees", || {
                let known = server.cli(&["CLUSTER", "SLOTS"]);
                server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && cluster.masters.iter().all(|other| known.contains(&other.port.to_string()))
            });
        }
        cluster
    }

    /// One master that has everything, with these lines of configuration and this password.
    pub fn lone(lines: &[&str], password: &str) -> Server {
        let bus = format!("cluster-port {}", free_port());
        let own = format!("requirepass \"{password}\"");
        let mut all = vec!["cluster-enabled yes", &bus, &own];
        all.extend(lines);
        let server = Server::start(&all).let_in(password);
        assert_eq!(server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).trim(), "OK");
        until("a Redis Cluster agrees", || server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        server
    }

    fn member() -> Server {
        let bus = format!("cluster-port {}", free_port());
        Server::start(&["cluster-enabled yes", "cluster-node-timeout 1000", &bus])
    }

    /// For `redis.cluster_nodes`.
    pub fn nodes(&self) -> String {
        self.masters.iter().map(Server::address).collect::<Vec<_>>().join(",")
    }

    /// The number of the slot of a topic or key, and of the master that has it.
    pub fn slot_of(&self, name: &str) -> (u16, usize) {
        let slot: u16 = self.masters[0].cli(&["CLUSTER", "KEYSLOT", name]).trim().parse().unwrap();
        let owner = self.masters.iter().position(|master| master.owns(slot)).expect("somebody has this slot");
        (slot, owner)
    }

    /// Moves a slot with all its keys as `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_to_move(slot, from, to);
        self.finish_moving(slot, from, to);
    }

    /// From now on new keys of this slot belong to the other master.
    pub fn begin_to_move(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.masters[from], &self.masters[to], slot.to_string());
        assert_eq!(to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from.id()]).trim(), "OK");
        assert_eq!(from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to.id()]).trim(), "OK");
    }

    pub fn finish_moving(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.masters[from], &self.masters[to], slot.to_string());
        loop {
            let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let port = to.port.to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys);
            assert_eq!(from.cli(&migrate).trim(), "OK");
        }
        for server in [to, from] {
            assert_eq!(server.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to.id()]).trim(), "OK");
        }
    }
}

impl Server {
    fn id(&self) -> String {
        self.cli(&["CLUSTER", "MYID"]).trim().to_owned()
    }

    fn bus_port(&self) -> String {
        let nodes = self.cli(&["CLUSTER", "NODES"]);
        let own = nodes.lines().find(|line| line.contains("myself")).unwrap();
        own.split(['@', ' ', ',']).nth(2).unwrap().to_owned()
    }

    fn owns(&self, slot: u16) -> bool {
        let nodes = self.cli(&["CLUSTER", "NODES"]);
        let own = nodes.lines().find(|line| line.contains("myself")).unwrap();
        own.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse::<u16>().unwrap()).contains(&slot)
        })
    }
}

/// A master with a replica, and a Sentinel that watches them.
pub struct Watched {
    pub master: Server,
    pub replica: Server,
    pub sentinel: Server,
}

impl Watched {
    /// All three ask for this password, unless it is empty.
    pub fn start(password: &str, sentinel_password: &str) -> Self {
        let (own, others) = (format!("requirepass \"{password}\""), format!("masterauth \"{password}\""));
        let master = Server::start(&[&own, &others]).let_in(password);
        let follow = format!("replicaof 127.0.0.1 {}", master.port);
        let replica = Server::start(&[&own, &others, &follow]).let_in(password);
        until("a replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        let watch = format!("sentinel monitor shop 127.0.0.1 {} 1", master.port);
        let login = format!("sentinel auth-pass shop {password}");
        let own = format!("requirepass \"{sentinel_password}\"");
        let mut lines = vec![&*own, &watch, "sentinel down-after-milliseconds shop 1000"];
        lines.push("sentinel failover-timeout shop 5000");
        if !password.is_empty() {
            lines.push(&login);
        }
        let sentinel = Server::spawn(free_port(), &lines, &["--sentinel"]).let_in(sentinel_password);
        sentinel.answers();
        until("a Sentinel knows the replica", || {
            sentinel.cli(&["SENTINEL", "replicas", "shop"]).contains(&replica.port.to_string())
        });
        Self { master, replica, sentinel }
    }

    /// Whether the Sentinel takes the master for well, and no failover is under way.
    pub fn is_settled(&self) -> bool {
        let state = self.sentinel.cli(&["SENTINEL", "MASTER", "shop"]);
        !["_down", "failover_in_progress"].iter().any(|flag| state.contains(flag))
    }

    /// The port of the master by the Sentinel's word.
    pub fn named(&self) -> u16 {
        let named = self.sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"]);
        named.lines().nth(1).and_then(|port| port.trim().parse().ok()).unwrap_or_else(|| panic!("{named}"))
    }
}

impl Server {
    /// From now on the test's own commands come with this password.
    fn let_in(mut self, password: &str) -> Self {
        if !password.is_empty() {
            self.login = ["-a", password, "--no-auth-warning"].map(str::to_owned).to_vec();
        }
        self
    }
}

fn cli(port: u16, login: &[String], command: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(login).args(command).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
