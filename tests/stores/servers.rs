//! Databases of the tests' own: they can be killed and paused without harming anybody else.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use gema::config::Config;
use gema::config::Secret;
use gema::config::StoreDriver;
use gema::config::Tls;
use sqlx::ConnectOptions;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgConnection;
use support::redis_server::free_port;
use tokio::sync::OnceCell;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server and ends it, and removes its folder, as soon as the test process is gone, however it went: then
/// nobody holds the other end of the standard input any more.
const GUARD: &str = r#"
    trap '' INT TERM
    folder=$1; signal=$2; shift 2
    "$@" </dev/null >>"$folder/log" 2>&1 & server=$!
    echo $server
    cat >/dev/null
    kill -CONT $server 2>/dev/null
    kill -$signal $server 2>/dev/null
    wait $server 2>/dev/null
    rm -rf "$folder"
"#;

/// Users with the password, on every start anew.
const MYSQL_USERS: &str = "CREATE DATABASE IF NOT EXISTS main;\n\
    CREATE OR REPLACE USER root@localhost IDENTIFIED BY 'password';\n\
    CREATE OR REPLACE USER root@127.0.0.1 IDENTIFIED BY 'password';\n\
    GRANT ALL ON *.* TO root@localhost;\n\
    GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mysql,
    Postgres,
}

pub const KINDS: [Kind; 2] = [Kind::Mysql, Kind::Postgres];

static MYSQL: OnceCell<Server> = OnceCell::const_new();
static POSTGRES: OnceCell<Server> = OnceCell::const_new();

/// A server on a port of the loopback. Ends with the test.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    folder: PathBuf,
    guards: Vec<Child>,
    pid: u32,
    /// Words for its command line.
    more: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for mut guard in self.guards.drain(..) {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

impl Server {
    /// The one that all tests of this process share.
    pub async fn shared(kind: Kind) -> &'static Self {
        let cell = if kind == Kind::Mysql { &MYSQL } else { &POSTGRES };
        cell.get_or_init(|| async move {
            let folder = folder();
            let made = folder.clone();
            tokio::task::spawn_blocking(move || kind.initialize(&made)).await.unwrap();
            Self::on(kind, folder).await
        })
        .await
    }

    /// One that a test may disturb, empty.
    pub async fn own(kind: Kind) -> Self {
        let template = Self::shared(kind).await.folder.join("template");
        let folder = folder();
        run(Command::new("cp").arg("-a").arg(template).arg(folder.join("data")));
        kind.give(&folder);
        Self::on(kind, folder).await
    }

    /// The same, with this certificate.
    pub async fn own_over_tls(kind: Kind, tls: &Tls) -> Self {
        let template = Self::shared(kind).await.folder.join("template");
        let folder = folder();
        run(Command::new("cp").arg("-a").arg(template).arg(folder.join("data")));
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
        fs::copy(&tls.cert_path, &certificate).unwrap();
        fs::copy(&tls.key_path, &key).unwrap();
        run(Command::new("chmod").args(["600", &key]));
        kind.give(&folder);
        let more = match kind {
            Kind::Mysql => vec![format!("--ssl-cert={certificate}"), format!("--ssl-key={key}")],
            Kind::Postgres => ["ssl=on", &format!("ssl_cert_file={certificate}"), &format!("ssl_key_file={key}")]
                .iter()
                .flat_map(|setting| ["-c", setting].map(str::to_owned))
                .collect(),
        };
        Self::with(kind, folder, more).await
    }

    async fn on(kind: Kind, folder: PathBuf) -> Self {
        Self::with(kind, folder, Vec::new()).await
    }

    async fn with(kind: Kind, folder: PathBuf, more: Vec<String>) -> Self {
        let mut server = Self { kind, port: free_port(), folder, guards: Vec::new(), pid: 0, more };
        server.restart().await;
        server
    }

    /// Starts it again with what it held.
    pub async fn restart(&mut self) {
        let command = self.kind.command(&self.folder, self.port);
        let signal = if self.kind == Kind::Mysql { "KILL" } else { "QUIT" };
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&self.folder)
            .arg(signal)
            .args(command)
            .args(&self.more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        self.pid = pid.trim().parse().unwrap();
        self.guards.push(guard);
        let until = Instant::now() + PATIENCE;
        while !self.answers().await {
            assert!(Instant::now() < until, "{:?} does not start: {}", self.kind, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn answers(&self) -> bool {
        match self.kind {
            Kind::Mysql => self.mysql().connect().await.is_ok(),
            Kind::Postgres => self.postgres().connect().await.is_ok(),
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        signal(self.pid, if self.kind == Kind::Mysql { "KILL" } else { "QUIT" });
        while Path::new(&format!("/proc/{}/exe", self.pid)).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It answers nobody any more, but its connections stay.
    pub fn pause(&self) {
        for pid in self.processes() {
            signal(pid, "STOP");
            // Its threads stop when they next come by.
            while !threads(pid).iter().all(|state| *state == 'T') {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub fn resume(&self) {
        self.processes().iter().for_each(|pid| signal(*pid, "CONT"));
    }

    /// The server's own, and those that it has made.
    fn processes(&self) -> Vec<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        std::iter::once(self.pid).chain(children).collect()
    }

    /// Does what a statement, or several, say.
    pub async fn run(&self, sql: &str) {
        self.session().await.run(sql).await;
    }

    pub async fn session(&self) -> Session {
        match self.kind {
            Kind::Mysql => Session::Mysql(self.mysql().connect().await.unwrap()),
            Kind::Postgres => Session::Postgres(self.postgres().connect().await.unwrap()),
        }
    }

    /// Waits until a statement that asks by this column waits for a lock.
    pub async fn until_waiting(&self, column: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let waiting: i64 = match self.session().await {
                Session::Mysql(mut session) => {
                    let statement = format!(
                        "SELECT COUNT(*) FROM information_schema.processlist \
                         WHERE state LIKE '%lock%' AND info LIKE '%`{column}` IN%'"
                    );
                    sqlx::query_scalar(&statement).fetch_one(&mut session).await.unwrap()
                }
                Session::Postgres(mut session) => {
                    let statement = format!(
                        "SELECT COUNT(*) FROM pg_stat_activity \
                         WHERE wait_event_type = 'Lock' AND query LIKE '%\"{column}\"::text = ANY%'"
                    );
                    sqlx::query_scalar(&statement).fetch_one(&mut session).await.unwrap()
                }
            };
            if waiting > 0 {
                return;
            }
            assert!(Instant::now() < until, "no statement waits that asks by {column}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The statement that fits this kind of server.
    pub async fn run_either(&self, mysql: &str, postgres: &str) {
        self.run(if self.kind == Kind::Mysql { mysql } else { postgres }).await;
    }

    /// A configuration whose apps are in this table here.
    pub fn config(&self, table: &str) -> Config {
        let mut config = Config::default();
        config.app_store.timeout_seconds = gema::config::Seconds(30.0);
        (config.mysql.port, config.postgres.port) = (self.port, self.port);
        (config.mysql.table, config.postgres.table) = (table.to_owned(), table.to_owned());
        config.postgres.database = "postgres".to_owned();
        config.app_store.driver = match self.kind {
            Kind::Mysql => StoreDriver::Mysql,
            Kind::Postgres => StoreDriver::Postgres,
        };
        config
    }

    fn mysql(&self) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new().host("127.0.0.1").port(self.port).username("root");
        options.password("password").database("main")
    }

    fn postgres(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(self.port).username("postgres");
        options.password("password").database("postgres")
    }
}

/// A connection of the test.
pub enum Session {
    Mysql(MySqlConnection),
    Postgres(PgConnection),
}

impl Session {
    pub async fn run(&mut self, sql: &str) {
        let done = match self {
            Self::Mysql(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop),
            Self::Postgres(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop),
        };
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Sets the password of the configured user.
pub fn set_password(config: &mut Config, password: &str) {
    config.mysql.password = Secret::new(password);
    config.postgres.password = Secret::new(password);
}

impl Kind {
    /// Makes the files of a server, and a copy of them for others.
    fn initialize(self, folder: &Path) {
        let data = folder.join("data");
        match self {
            Self::Mysql => {
                fs::write(folder.join("users.sql"), MYSQL_USERS).unwrap();
                let mut command = Command::new("mariadb-install-db");
                command.args(["--no-defaults", "--skip-test-db", "--skip-name-resolve"]);
                command.arg("--auth-root-authentication-method=normal").args(as_root("--user=root"));
                run(command.arg(format!("--datadir={}", data.display())));
            }
            Self::Postgres => {
                let password = folder.join("password");
                fs::write(&password, "password\n").unwrap();
                self.give(folder);
                let mut command = Command::new(as_postgres().next().unwrap());
                command.args(as_postgres().skip(1)).arg(postgres_program("initdb")).arg("-D").arg(&data);
                command.args(["-N", "-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
                run(command.arg("--pwfile").arg(password));
            }
        }
        run(Command::new("cp").arg("-a").arg(&data).arg(folder.join("template")));
    }

    /// Postgres never runs as root, so its files are somebody else's.
    fn give(self, folder: &Path) {
        match self {
            Self::Mysql => fs::write(folder.join("users.sql"), MYSQL_USERS).unwrap(),
            Self::Postgres if is_root() => run(Command::new("chown").args(["-R", "postgres"]).arg(folder)),
            Self::Postgres => (),
        }
    }

    fn command(self, folder: &Path, port: u16) -> Vec<String> {
        let place = folder.display();
        match self {
            Self::Mysql => [
                "mariadbd --no-defaults --bind-address=127.0.0.1 --skip-name-resolve --skip-log-bin",
                "--innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=16M",
                &format!("--datadir={place}/data --socket={place}/socket --init-file={place}/users.sql --port={port}"),
            ]
            .iter()
            .flat_map(|words| words.split(' '))
            .map(str::to_owned)
            .chain(as_root("--user=root").map(str::to_owned))
            .collect(),
            Self::Postgres => as_postgres()
                .map(str::to_owned)
                .chain([postgres_program("postgres"), "-D".to_owned(), format!("{place}/data")])
                .chain(["-F", "-h", "127.0.0.1", "-k", "", "-p"].map(str::to_owned))
                .chain([port.to_string()])
                .collect(),
        }
    }
}

/// Debian keeps most of them off the PATH.
fn postgres_program(name: &str) -> String {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = folders.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|program| program.exists());
    found.sort();
    found.pop().map_or_else(|| name.to_owned(), |program| program.display().to_string())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn as_root(option: &str) -> impl Iterator<Item = &str> {
    Some(option).filter(|_| is_root()).into_iter()
}

/// What comes before a command of Postgres.
fn as_postgres() -> impl Iterator<Item = &'static str> {
    let words: &[&str] = match is_root() {
        true => &["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"],
        false => &["env"],
    };
    words.iter().copied()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said} {}", String::from_utf8_lossy(&output.stdout));
}

fn signal(pid: u32, name: &str) {
    // A process that a server had made may have gone.
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output().unwrap();
}

/// The states of a process' threads, as `proc(5)` has them.
fn threads(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

fn folder() -> PathBuf {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("gema-stores-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}
