//! Prometheus and its `promtool`, of Debian's package `prometheus`.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use support::client::PATIENCE;
use support::http;
use support::pace;
use yaml_rust2::YamlLoader;

use crate::alerts::Rules;
use crate::board::Board;
use crate::promql::asked;
use crate::served::Nodes;
use crate::served::with_a_database;
use crate::shipped;

/// What `promtool check metrics` says of names that Soketi has. They stay: panels of others ask for them.
const SOKETIS: [(&str, &str); 9] = [
    ("soketi_socket_received_bytes", "counter metrics should have \"_total\" suffix"),
    ("soketi_socket_transmitted_bytes", "counter metrics should have \"_total\" suffix"),
    ("soketi_http_received_bytes", "counter metrics should have \"_total\" suffix"),
    ("soketi_http_transmitted_bytes", "counter metrics should have \"_total\" suffix"),
    ("soketi_horizontal_adapter_sent_requests", "counter metrics should have \"_total\" suffix"),
    ("soketi_horizontal_adapter_received_requests", "counter metrics should have \"_total\" suffix"),
    ("soketi_horizontal_adapter_received_responses", "counter metrics should have \"_total\" suffix"),
    ("soketi_horizontal_adapter_resolved_promises", "counter metrics should have \"_total\" suffix"),
    ("soketi_horizontal_adapter_uncomplete_promises", "counter metrics should have \"_total\" suffix"),
];

/// Series that the nodes of these tests do not have: they have no database, and every reader keeps up.
const NOT_HERE: [&str; 2] = ["gema_app_store_", "gema_drops_total"];

/// The traffic has requests with a wrong secret.
const FIRES: &str = r#"ALERTS{alertname="GemaApiRefused",alertstate="firing",app_id="app-id"}"#;

/// A folder of the test's own, empty.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("monitoring-{test}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs it in the project's folder; returns whether it is content, and all that it says.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is in Debian's package prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), said)
}

#[tokio::test]
async fn promtool_finds_no_fault_in_the_text_of_the_metrics_but_soketis_names() {
    let nodes = Nodes::start().await;
    nodes.traffic().await;
    let mut found = Vec::new();
    for text in nodes.texts().await.into_iter().chain([with_a_database()]) {
        let (_, said) = promtool(&["check", "metrics"], &text);
        let soketis = SOKETIS.map(|(name, fault)| format!("{name} {fault}"));
        let others: Vec<&str> = said.lines().filter(|line| !soketis.iter().any(|own| own == line)).collect();
        assert!(others.is_empty(), "{others:?}");
        found.extend(said.lines().map(str::to_owned));
    }
    for (name, fault) in SOKETIS {
        assert!(found.contains(&format!("{name} {fault}")), "promtool does not mind {name} any more");
    }
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules() {
    let (is_good, said) = promtool(&["check", "config", "config/prometheus.yml"], "");
    let rules = Rules::shipped();
    assert!(is_good && said.contains(&format!("SUCCESS: {} rules found", rules.all)), "{said}");
}

/// Both files, and the one that docs/monitoring.md has for Prometheus and Grafana.
#[test]
fn prometheus_reads_the_nodes_of_compose() {
    let compose = shipped("compose.yaml");
    let text = shipped("config/prometheus.yml");
    let targets = text.split("- targets: [").last().unwrap().split(']').next().unwrap();
    for target in targets.split(", ").map(|target| target.trim_matches('"')) {
        let (node, port) = target.split_once(':').unwrap();
        assert!(compose.contains(&format!("\n  {node}:\n")), "{node}");
        assert_eq!(port.parse(), Ok(gema::config::Config::default().metrics.port));
    }
    let document = shipped("docs/monitoring.md");
    let block = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let beside = YamlLoader::load_from_str(block).unwrap().remove(0);
    let mounts = beside["services"]["prometheus"]["volumes"].as_vec().unwrap().iter().map(|own| own.as_str().unwrap());
    let files: Vec<&str> = mounts.filter_map(|own| own.strip_prefix("./")?.split(':').next()).collect();
    assert_eq!(files, ["config/prometheus.yml", "config/alerts.yaml"]);
}

#[test]
fn each_alert_fires_in_its_case_and_not_otherwise() {
    let (is_good, said) = promtool(&["test", "rules", "tests/monitoring/alerts.yaml"], "");
    assert!(is_good, "{said}");
}

/// A Prometheus on the loopback, with the shipped files. Ends with the test, or with its process.
struct Prometheus {
    guard: Child,
    address: SocketAddr,
}

/// Ends Prometheus when the standard input ends, which it does with the process of the test.
const GUARD: &str = r#"
    trap '' INT TERM
    prometheus "$@" </dev/null 2>&1 & prometheus=$!
    cat >/dev/null
    kill -KILL $prometheus
    wait $prometheus 2>/dev/null
"#;

impl Prometheus {
    /// Reads these nodes each second.
    async fn start(test: &str, nodes: &[SocketAddr]) -> Self {
        let folder = folder(test);
        let targets: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
        let mut text = shipped("config/prometheus.yml");
        for (shipped, own) in [
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            (r#""gema-1:9601", "gema-2:9601""#, &*targets.join(", ")),
        ] {
            assert!(text.contains(shipped), "{shipped}");
            text = text.replace(shipped, own);
        }
        fs::write(folder.join("prometheus.yml"), text).unwrap();
        fs::write(folder.join("alerts.yaml"), shipped("config/alerts.yaml")).unwrap();
        let of = |name: &str, file: &Path| format!("--{name}={}", file.display());
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh", "--web.listen-address=127.0.0.1:0"])
            .arg(of("config.file", &folder.join("prometheus.yml")))
            .arg(of("storage.tsdb.path", &folder.join("data")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(guard.stdout.take().unwrap()).lines().map(Result::unwrap);
        let listens = |line: String| -> Option<SocketAddr> {
            let address = line.contains("Listening on").then(|| line.split("address=").nth(1))??;
            address.split(' ').next()?.trim_matches('"').parse().ok()
        };
        let address = log.find_map(listens).expect("prometheus, of Debian's package, listens");
        // Its log goes on.
        std::thread::spawn(move || log.for_each(drop));
        let prometheus = Self { guard, address };
        let until = pace::now() + PATIENCE;
        while http::request(address, "GET", "/-/ready", &[], b"").await.status != 200 {
            assert!(pace::now() < until, "Prometheus does not become ready");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        prometheus
    }

    /// How many series a query finds.
    async fn found(&self, query: &str) -> usize {
        let counted = format!("count({query})");
        let body = form_urlencoded::Serializer::new(String::new()).append_pair("query", &counted).finish();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let answer = http::request(self.address, "POST", "/api/v1/query", &form, body.as_bytes()).await.json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        // One sample, or none if nothing is found.
        answer["data"]["result"][0]["value"][1].as_str().map_or(0, |count| count.parse().unwrap())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

#[tokio::test]
async fn each_query_of_the_board_finds_something_and_an_alert_fires() {
    let nodes = Nodes::start().await;
    let prometheus = Prometheus::start("board", &nodes.server.metrics_addresses()).await;
    let board = Board::shipped();
    let is_here = |query: &String| {
        let metrics = asked(query).selectors;
        !metrics.iter().any(|selector| NOT_HERE.iter().any(|start| selector.metric.starts_with(start)))
    };
    let (mut missing, absent): (Vec<String>, Vec<String>) = board.queries().partition(is_here);
    for query in absent {
        assert_eq!(prometheus.found(&query).await, 0, "{query} can be asked for like the others");
    }
    assert!(missing.len() > 60, "{missing:?}");
    let until = pace::now() + 4 * PATIENCE;
    loop {
        nodes.traffic().await;
        let mut still = Vec::new();
        for query in missing {
            if prometheus.found(&query).await == 0 {
                still.push(query);
            }
        }
        missing = still;
        if missing.is_empty() && prometheus.found(FIRES).await > 0 {
            break;
        }
        assert!(pace::now() < until, "nothing is found for {missing:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
