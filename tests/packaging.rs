//! The files for systemd, PM2, Supervisor and Docker say what gema understands, and what they start serves.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere, its helpers included")]

use std::collections::HashMap;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use gema::config::ClusterDriver;
use gema::config::load;
use ipnet::IpNet;
use serde_json::Value as Json;
use yaml_rust2::Yaml;
use yaml_rust2::YamlLoader;

#[path = "../build.rs"]
#[expect(dead_code, reason = "its main is for builds")]
mod build;

/// Where the files have the program and its configuration.
const PROGRAM: &str = "/usr/local/bin/gema";
const CONFIG: &str = "/etc/gema/gema.toml";

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A folder of the test's own, with a configuration for free ports.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("packaging-{test}"));
    fs::create_dir_all(&folder).unwrap();
    let config = "[server]\nhost = \"127.0.0.1\"\nport = 0\n[metrics]\nport = 0\n[log]\nformat = \"json\"\n";
    fs::write(folder.join("gema.toml"), config).unwrap();
    folder
}

/// Runs a shipped command line until it is ready, then stops it by the shipped signal.
fn serves(test: &str, line: &str, environment: &[(String, String)], signal: &str) {
    let config = folder(test).join("gema.toml");
    let line = line.replace(PROGRAM, env!("CARGO_BIN_EXE_gema")).replace(CONFIG, config.to_str().unwrap());
    let mut words = line.split(' ');
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .env_clear()
        .envs(environment.iter().cloned())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = log.any(|line| serde_json::from_str::<Json>(&line.unwrap()).unwrap()["message"] == "ready");
    let _ = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    let status = child.wait().unwrap();
    assert!(ready && status.success(), "{line}: {status}");
}

/// The values of `key = value` lines.
fn values(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn systemds_unit_starts_the_server() {
    let unit = shipped("config/gema.service");
    let values = values(&unit);
    // A name without a path, which systemd finds in /usr/local/bin and in /usr/bin, where the package has it.
    let command = format!("ExecStart={}", values["ExecStart"]);
    let absolute = command.replace("=gema ", &format!("={PROGRAM} "));
    serves("systemd", absolute.trim_start_matches("ExecStart="), &[], "TERM");
    // Longer than the time that `config/example.toml` gives the server to leave.
    let example = load(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml")], []).unwrap();
    assert!(values["TimeoutStopSec"].parse::<f64>().unwrap() > example.config.server.drain_seconds.0);
    let file = folder("systemd").join("gema.service");
    fs::write(&file, unit.replace(&command, &absolute.replace(PROGRAM, env!("CARGO_BIN_EXE_gema")))).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&file).output() {
        Ok(told) => assert!(
            told.status.success() && !String::from_utf8_lossy(&told.stderr).contains("gema.service"),
            "{}",
            String::from_utf8_lossy(&told.stderr)
        ),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}

#[test]
fn supervisors_file_starts_the_server() {
    let text = shipped("config/supervisor.conf");
    let values = values(&text);
    let pairs = values["environment"].split(',').map(|pair| pair.split_once('=').unwrap());
    let environment: Vec<_> =
        pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect();
    assert_eq!(environment.len(), 3);
    serves("supervisor", values["command"], &environment, values["stopsignal"]);
}

/// PM2 stops by SIGINT.
#[test]
fn pm2s_file_starts_the_server() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ecosystem.config.js");
    let print = format!("console.log(JSON.stringify(require({:?})))", file.to_str().unwrap());
    let printed = match Command::new("node").args(["-e", &print]).output() {
        Ok(printed) => printed,
        // Without Node the official clients, which come later, tell.
        Err(error) => return assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    };
    let json: Json = serde_json::from_slice(&printed.stdout).unwrap();
    let app = &json["apps"][0];
    let environment = app["env"].as_object().unwrap().iter();
    let environment: Vec<_> =
        environment.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    let line = format!("{} {}", app["script"].as_str().unwrap(), app["args"].as_str().unwrap());
    serves("pm2", &line, &environment, "INT");
    assert_eq!((&app["interpreter"], &app["exec_mode"]), (&"none".into(), &"fork".into()));
}

/// `tests/long/deb/run` builds it and installs it.
#[test]
fn the_debian_package_has_what_there_is_and_protects_settings() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Json = serde_json::from_slice(&metadata.stdout).unwrap();
    let package = &metadata["packages"][0]["metadata"]["deb"];
    let manual = folder("deb").join("manual");
    let _ = fs::remove_dir_all(&manual);
    let written = Command::new(env!("CARGO_BIN_EXE_gema")).arg("manual").arg(&manual).env_clear().status().unwrap();
    assert!(written.success());
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let mut settings = Vec::new();
    for asset in package["assets"].as_array().unwrap() {
        let [source, target, mode] = [0, 1, 2].map(|part| text(&asset[part]));
        let made =
            source.strip_prefix("target/release/manual/").map(|name| manual.join(name.replace('*', "gema-check")));
        let file = made.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(&source));
        assert!(file.exists() || source == "target/release/gema", "{source}");
        if target.starts_with("etc/") {
            let name = file.file_name().unwrap().to_str().unwrap();
            settings.push(if target.ends_with('/') { format!("/{target}{name}") } else { format!("/{target}") });
            assert!(name != "gema.env" || mode == "600", "others may read secrets");
        }
    }
    let protected: Vec<_> = package["conf-files"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(settings, protected);
    let units = &package["systemd-units"];
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(text(&units["unit-scripts"])).join("gema.service").exists());
    let unit = shipped("config/gema.service");
    for name in &settings {
        assert!(unit.contains(name), "the unit does not read {name}");
    }
}

/// Manual pages and completions name each command and each of its options.
#[test]
fn the_manual_has_each_command() {
    let folder = folder("manual");
    let run = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_gema")).args(arguments).env_clear().output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    run(&["manual", folder.to_str().unwrap()]);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let help = run(&["--help"]);
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().lines();
    let commands: Vec<&str> = listed.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.len() > 4 && !commands.contains(&"manual"), "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let page = read(&format!("gema-{command}.1"));
        let help = run(&[command, "--help"]);
        let options: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
        for option in options.iter().map(|option| option.trim_matches(|letter: char| !letter.is_ascii_lowercase())) {
            let escaped = option.replace('-', "\\-");
            assert!(page.contains(&format!("\\-\\-{escaped}")), "{command}: {option}");
            for name in ["gema.bash", "_gema", "gema.fish"] {
                assert!(read(name).contains(option), "{name}: {option}");
            }
        }
    }
    let sourced = format!(". {} && complete -p gema", folder.join("gema.bash").display());
    let bash = Command::new("bash").args(["-euc", &sourced]).output().unwrap();
    assert!(bash.status.success(), "{}", String::from_utf8_lossy(&bash.stderr));
}

#[test]
fn compose_names_what_there_is_and_gema_understands_its_variables() {
    let text = shipped("compose.yaml");
    let file = &YamlLoader::load_from_str(&text).unwrap()[0];
    let services = file["services"].as_hash().unwrap();
    let mut names: Vec<&str> = services.keys().map(|name| name.as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["gema-1", "gema-2", "nginx", "redis"]);
    let nginx = shipped("config/nginx.conf");
    for name in ["gema-1", "gema-2"] {
        assert!(nginx.contains(&format!("server {name}:6001 ")), "{name}");
        let gema = Service { own: &file["services"][name], shared: &file["x-gema"] };
        let environment = gema.get("environment").as_hash().unwrap().iter();
        let environment: Vec<(String, String)> =
            environment.map(|(name, value)| (text_of(name), text_of(value))).collect();
        let loaded = load(&[], environment).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.warnings, []);
        let grace = gema.get("stop_grace_period").as_str().unwrap().trim_end_matches('s').parse::<f64>().unwrap();
        assert!(grace > loaded.config.server.drain_seconds.0);
        assert_eq!(loaded.config.redis.host, "redis");
        assert_eq!(gema.get("build").as_str(), Some("."));
    }
    let mounts: Vec<_> = file["services"]["nginx"]["volumes"].as_vec().unwrap().iter().map(text_of).collect();
    assert_eq!(
        mounts,
        ["./config/nginx-main.conf:/etc/nginx/nginx.conf:ro", "./config/nginx.conf:/etc/nginx/conf.d/default.conf:ro"]
    );
}

/// Whoever else is on the network, or comes through Docker's gateway, is believed nothing; and a node that is made
/// anew is where nginx, which asks for names once, knows it.
#[test]
fn compose_gives_nginx_and_the_nodes_addresses_that_stay_and_trusts_nginx_alone() {
    let text = shipped("compose.yaml");
    let file = &YamlLoader::load_from_str(&text).unwrap()[0];
    let network = &file["networks"]["default"]["ipam"]["config"][0];
    let [subnet, given]: [IpNet; 2] =
        ["subnet", "ip_range"].map(|name| network[name].as_str().unwrap().parse().unwrap());
    let address = |name: &str| -> IpAddr {
        let networks = &file["services"][name]["networks"];
        networks["default"]["ipv4_address"].as_str().expect(name).parse().unwrap()
    };
    let own = ["nginx", "gema-1", "gema-2"].map(address);
    for (n, address) in own.iter().enumerate() {
        assert!(subnet.contains(address) && !given.contains(address), "{address}");
        assert!(!own[..n].contains(address), "{address}");
    }
    let trusted = text_of(&file["x-gema"]["environment"]["GEMA_SERVER_TRUSTED_PROXIES"]);
    assert_eq!(trusted, own[0].to_string());
}

/// Compose puts the variables of its second file over those of the first.
#[test]
fn compose_with_nats_gives_the_nodes_the_nats_that_it_starts() {
    let [base, over] =
        ["compose.yaml", "compose.nats.yaml"].map(|name| YamlLoader::load_from_str(&shipped(name)).unwrap().remove(0));
    let pairs = |environment: &Yaml| -> Vec<(String, String)> {
        environment.as_hash().unwrap().iter().map(|(name, value)| (text_of(name), text_of(value))).collect()
    };
    for name in ["gema-1", "gema-2"] {
        let mut environment: HashMap<_, _> = pairs(&base["x-gema"]["environment"]).into_iter().collect();
        environment.extend(pairs(&over["services"][name]["environment"]));
        let loaded = load(&[], environment).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.config.cluster.driver, ClusterDriver::Nats);
        assert_eq!(loaded.config.nats.servers, ["nats:4222"]);
        assert_eq!(over["services"][name]["depends_on"][0].as_str(), Some("nats"));
    }
    assert_eq!(over["services"]["nats"]["command"][0].as_str(), Some("-js"));
}

/// A service that takes over what several have in common.
struct Service<'a> {
    own: &'a Yaml,
    shared: &'a Yaml,
}

impl Service<'_> {
    fn get(&self, name: &str) -> &Yaml {
        assert_eq!(&self.own["<<"], self.shared);
        if self.own[name].is_badvalue() { &self.shared[name] } else { &self.own[name] }
    }
}

/// A scalar, as Docker hands it on; `${NAME:?why}` is filled in.
fn text_of(value: &Yaml) -> String {
    let text = value.as_str().expect("numbers and truth values are quoted");
    // Each with something of its own, as an operator would.
    let name = text.strip_prefix("${").and_then(|text| text.split([':', '}']).next());
    name.unwrap_or(text).to_owned()
}

/// What the image is built from is all there, and in it.
#[test]
fn the_dockerfile_copies_what_the_build_needs() {
    let text = shipped("Dockerfile");
    let copied: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
    let from_context = copied.iter().filter(|line| !line.starts_with("--from"));
    let sources: Vec<&str> = from_context.flat_map(|line| line.rsplit_once(' ').unwrap().0.split(' ')).collect();
    for source in &sources {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{source}");
    }
    let ignored = shipped(".dockerignore");
    for needed in [".cargo", "Cargo.toml", "Cargo.lock", "build.rs", "src", "benches", "config", "tests/support"] {
        assert!(sources.contains(&needed), "{needed}");
        assert!(ignored.lines().any(|line| line == format!("!{needed}")), "{needed}");
    }
    for name in ["soketi", "soketi-pm2", "node", "wget", "curl", "pm2"] {
        assert!(
            text.contains(&format!("ln -s gema {name} ")) || text.contains(&format!("ln -s gema {name}\n")),
            "{name}"
        );
    }
}

/// `gema --version` tells the commit, without git.
#[test]
fn a_build_finds_its_commit_wherever_git_keeps_it() {
    let folder = folder("commit").join("repository");
    let _ = fs::remove_dir_all(&folder);
    let (one, other) = ("0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef");
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let found = |root: &str| build::commit(&folder.join(root), &mut |_| ());
    assert_eq!(found("."), None, "there is no repository");
    write(".git/HEAD", &format!("{one}\n"));
    assert_eq!(found(".").as_deref(), Some(one));
    write(".git/HEAD", "ref: refs/heads/main\n");
    assert_eq!(found("."), None, "there is no commit");
    write(
        ".git/packed-refs",
        &format!("# pack-refs with: peeled\n{other} refs/heads/other-main\n{one} refs/heads/main\n"),
    );
    assert_eq!(found(".").as_deref(), Some(one));
    write(".git/refs/heads/main", &format!("{other}\n"));
    assert_eq!(found(".").as_deref(), Some(other));
    write("tree/.git", "gitdir: ../.git/worktrees/tree\n");
    write(".git/worktrees/tree/HEAD", "ref: refs/heads/side\n");
    write(".git/worktrees/tree/commondir", "../..\n");
    write(".git/refs/heads/side", &format!("{one}\n"));
    assert_eq!(found("tree").as_deref(), Some(one));
    write(".git/HEAD", "ref: $(touch here)\n");
    assert_eq!(found("."), None);
}

/// The workflows' jobs with their steps.
fn jobs(file: &str) -> Vec<(String, Vec<Yaml>)> {
    let parsed = YamlLoader::load_from_str(&shipped(file)).unwrap();
    let jobs = parsed[0]["jobs"].as_hash().expect(file);
    let steps = |job: &Yaml| job["steps"].as_vec().cloned().unwrap_or_default();
    jobs.iter().map(|(name, job)| (name.as_str().unwrap().to_owned(), steps(job))).collect()
}

const WORKFLOWS: [&str; 2] = [".github/workflows/ci.yml", ".github/workflows/release.yml"];

#[test]
fn the_workflows_run_what_contributors_run_and_build_the_image_of_the_dockerfile() {
    let runs = |file: &str, line: &str| {
        jobs(file).iter().flat_map(|(_, steps)| steps).any(|step| {
            let script = step["run"].as_str().unwrap_or_default();
            script.lines().any(|own| own.trim_start().starts_with(line))
        })
    };
    assert!(runs(WORKFLOWS[0], ".ci/run"));
    assert!(runs(WORKFLOWS[1], "docker build "));
    let release = YamlLoader::load_from_str(&shipped(WORKFLOWS[1])).unwrap();
    assert_eq!(release[0]["jobs"]["ci"]["uses"].as_str(), Some("./.github/workflows/ci.yml"));
    // Nothing is built before the tests have passed.
    assert_eq!(release[0]["jobs"]["build"]["needs"].as_str(), Some("ci"));
    for job in ["build", "publish"] {
        let minutes = &release[0]["jobs"][job]["timeout-minutes"];
        assert!(minutes.as_i64().is_some(), "{job}");
    }
}

/// A tag can be moved to another commit.
#[test]
fn actions_are_pinned_to_a_commit() {
    let mut count = 0;
    for (job, steps) in WORKFLOWS.into_iter().flat_map(jobs) {
        for action in steps.iter().filter_map(|step| step["uses"].as_str()) {
            let (_, commit) = action.split_once('@').expect(action);
            assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{job}: {action}");
            count += 1;
        }
    }
    assert!(count > 3, "{count}");
}

/// A file that moves takes the documents for contributors along.
#[test]
fn contributors_documents_link_to_files_that_exist() {
    for (file, least) in [
        ("CONTRIBUTING.md", 20),
        ("SECURITY.md", 1),
        ("examples/chat/README.md", 3),
        ("examples/clinics/README.md", 3),
        ("examples/firehose/README.md", 3),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(file).parent().unwrap().to_owned();
        let text = shipped(file);
        let links: Vec<&str> = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()).collect();
        assert!(links.len() >= least, "{file}: {links:?}");
        for link in links {
            assert!(folder.join(link).exists(), "{file}: {link}");
        }
    }
}

/// Each word after `--test` is a suite, so that a line of CONTRIBUTING can be copied.
#[test]
fn contributing_names_suites_that_exist() {
    let text = shipped("CONTRIBUTING.md");
    let suites = text.split("--test ").skip(1).map(|rest| rest.split([' ', '`', '\n']).next().unwrap());
    let suites: Vec<&str> = suites.collect();
    assert!(suites.len() > 10, "{suites:?}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for suite in suites {
        let client = tests.join("clients").join(suite);
        let is_there = tests.join(format!("{suite}.rs")).exists() || tests.join(suite).join("main.rs").exists();
        assert!(is_there || client.exists(), "{suite}");
    }
}

/// `tests/run` with these arguments, where nginx is missing; `cargo` and `apt-get` only leave a line in a file.
fn tests_run(test: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = folder(test);
    let programs = folder.join("programs");
    let _ = fs::remove_dir_all(&programs);
    fs::create_dir_all(&programs).unwrap();
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists()).expect(name)
    };
    for name in ["bash", "dirname", "cat"] {
        std::os::unix::fs::symlink(found(name), programs.join(name)).unwrap();
    }
    let calls = folder.join("calls");
    fs::write(&calls, "").unwrap();
    for name in ["cargo", "apt-get"] {
        let file = programs.join(name);
        fs::write(&file, format!("#!/bin/bash\necho \"{name} $*\" >>'{}'\n", calls.display())).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(&file).status().unwrap().success());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
    let mut command = Command::new(script);
    command.args(arguments).env_clear().env("PATH", &programs).stdin(Stdio::null());
    let output = command.stderr(Stdio::null()).output().unwrap();
    (output.status.code(), fs::read_to_string(calls).unwrap())
}

#[test]
fn the_tests_install_nothing_unasked() {
    assert_eq!(tests_run("unasked", &[]), (Some(1), String::new()), "nobody can be asked");
    assert_eq!(tests_run("help", &["--help"]), (Some(0), String::new()));
    assert_eq!(tests_run("typo", &["--quik"]), (Some(2), String::new()));
    let (code, calls) = tests_run("quick", &["--quick"]);
    assert_eq!(code, Some(0));
    assert!(!calls.is_empty() && calls.lines().all(|call| call.starts_with("cargo test ")), "{calls}");
    // CI has nobody to ask.
    assert!(shipped(".ci/run").lines().any(|line| line == "tests/run --install"));
}

/// `tests/run --quick` is for a machine without Redis and nginx.
#[test]
fn the_quick_tests_leave_out_whatever_needs_other_programs() {
    let script = shipped("tests/run");
    let (_, list) = script.split_once("QUICK_SKIPS=(").unwrap();
    let skips: Vec<&str> = list.split(')').next().unwrap().split_whitespace().collect();
    assert!(skips.len() > 5, "{skips:?}");
    let tests = tests_of_it();
    let needs = |body: &str| {
        ["start_cluster", "TestRedis::", "TestNats::", "Bus::", "Nginx::"].iter().any(|need| body.contains(need))
    };
    let needy: Vec<&String> = tests.iter().filter(|(_, body)| needs(body)).map(|(name, _)| name).collect();
    assert!(needy.len() > 50, "{needy:?}");
    for name in needy {
        assert!(skips.iter().any(|skip| name.contains(skip)), "{name} needs another program: add it in tests/run");
    }
    for skip in skips {
        assert!(tests.iter().any(|(name, _)| name.contains(skip)), "{skip} is no test any more");
    }
}

/// The names and the bodies of the asynchronous tests of the suite `it`.
fn tests_of_it() -> Vec<(String, String)> {
    let mut tests = Vec::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it")).unwrap() {
        let path = file.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        for test in text.split("#[tokio::test").skip(1) {
            let name = test.split("fn ").nth(1).unwrap().split('(').next().unwrap();
            tests.push((format!("{module}::{name}"), test.split("\n}\n").next().unwrap().to_owned()));
        }
    }
    tests
}

#[test]
fn each_test_that_is_left_out_over_nats_is_there_and_has_a_reason() {
    let tests = tests_of_it();
    let list = shipped("tests/it/not_over_nats.txt");
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for line in lines {
        let (start, reason) = line.split_once(' ').expect(line);
        assert!(tests.iter().any(|(name, _)| name.starts_with(start)), "{start} is no test any more");
        assert!(reason.len() > 10, "{line}");
    }
}
