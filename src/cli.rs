//! The command line: `start`, `check`, `config`, `health`, `doctor` and `manual`. On SIGHUP a running server loads its configuration again.
//! `main` calls it.

pub mod doctor;
mod health;
mod invocation;
mod manual;
mod options;
mod page;
mod rules;

use self::health::{health, ready_url};
use self::invocation::{Invocation, invocation};
use self::options::{StartOptions, with_ignored};

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::config;
use crate::config::Config;
use crate::config::Faults;
use crate::config::Limits;
use crate::config::Loaded;
use crate::config::OptionValue;
use crate::dashboard;
use crate::flow::rules::FlowRules;
use crate::history::rule::HistoryRules;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelKind;
use crate::protocol::channel::ChannelName;
use crate::server::Drained;
use crate::server::Server;
use crate::telemetry;
use crate::tls;
use crate::tls::Certificates;
use crate::watch::Watch;
use crate::watch::verbosity::Verbosity;

/// A WebSocket server that speaks the Pusher protocol. Answers to the names soketi and soketi-pm2, too.
#[derive(Debug, Parser)]
#[command(version = env!("GEMA_VERSION"))]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A TOML, YAML or JSON file, or a soketi.config.js; given several times, later files win. SOKETI_* and GEMA_*
    /// variables win over files, those of the environment over those in .env.
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the server; so does no command at all.
    Start {
        /// Makes a token for the operator's page of this run, and prints the page's URL with it.
        #[arg(long)]
        dashboard: bool,
        #[command(flatten)]
        options: StartOptions,
    },
    /// Names every mistake in files and variables; exit code 1 if there is one.
    Check {
        /// Prints what each app's rules decide for this channel, too.
        #[arg(long = "channel", value_name = "NAME")]
        channels: Vec<String>,
        /// Prints what flow rules make of this event on each of the channels.
        #[arg(long = "event", value_name = "NAME", requires = "channels")]
        events: Vec<String>,
        /// Refuses what Soketi ignores, too: variables and keys that nobody reads.
        #[arg(long)]
        strict: bool,
    },
    /// Prints every value and who set it, without secrets.
    Config,
    /// Asks a running server whether it is ready; exit code 0 if it is.
    Health {
        /// The URL to ask; by default /ready on the configured port.
        #[arg(long)]
        url: Option<String>,
    },
    /// Finds out why events do not arrive, and names the cause and the fix of each fault; exit code 1 if there is one.
    ///
    /// It tests Laravel's .env, the address, TLS, the proxy, the app, the clocks, Redis and the limit of open files.
    Doctor(doctor::Options),
    /// Writes the manual pages, and the completions of bash, zsh and fish, into a folder.
    #[command(hide = true)]
    Manual {
        /// The folder; made if it is missing.
        folder: PathBuf,
    },
}

/// Runs the command.
pub fn run() -> ExitCode {
    let Invocation { arguments, ignored } = match invocation(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let arguments = Arguments::parse_from(arguments);
    let files = &arguments.config;
    let without_options = Command::Start { dashboard: false, options: StartOptions::default() };
    let done = match arguments.command.unwrap_or(without_options) {
        Command::Start { dashboard, options } => {
            let sources = Sources { files, options: options.values() };
            load(&sources)
                .and_then(|mut loaded| {
                    loaded.warnings.extend(options.warnings());
                    with_ignored(loaded, &ignored)
                })
                .map_err(Into::into)
                .and_then(|loaded| start(&sources, loaded, dashboard))
        }
        Command::Check { channels, events, strict } => load(&Sources::of(files))
            .and_then(|loaded| if strict { loaded.strict() } else { Ok(loaded) })
            .map_err(Into::into)
            .and_then(|loaded| check(&loaded, &channels, &events)),
        Command::Config => read(&Sources::of(files)).map_err(Into::into).and_then(|loaded| print(loaded.settings())),
        Command::Health { url: Some(url) } => health(&url),
        Command::Doctor(options) => doctor::run(&options, files),
        Command::Manual { folder } => manual::write(Arguments::command(), &folder),
        Command::Health { url: None } => {
            read(&Sources::of(files)).map_err(Into::into).and_then(|loaded| health(&ready_url(&loaded.config)?))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Where the command line says that settings come from, beside variables.
struct Sources<'a> {
    files: &'a [PathBuf],
    options: Vec<OptionValue>,
}

impl<'a> Sources<'a> {
    fn of(files: &'a [PathBuf]) -> Self {
        Self { files, options: Vec::new() }
    }
}

/// Loads the configuration, or returns all faults and warnings, with those of the certificate.
fn load(sources: &Sources<'_>) -> Result<Loaded, Faults> {
    let (good, mut faults) = match read(sources) {
        Ok(loaded) => (Box::new(loaded), Vec::new()),
        Err(Faults { faults, good }) => (good, faults),
    };
    faults.extend(tls::faults(&good.config.tls).into_iter().map(|fault| good.locate(fault)));
    if faults.is_empty() { Ok(*good) } else { Err(Faults { faults, good }) }
}

fn read(Sources { files, options }: &Sources<'_>) -> Result<Loaded, Faults> {
    config::load_with(Path::new("."), files, config::process_environment(), options)
}

fn check(loaded: &Loaded, channels: &[String], events: &[String]) -> anyhow::Result<ExitCode> {
    let tls = &loaded.config.tls;
    let certificates = tls.is_enabled().then(|| Certificates::load(tls)).transpose()?;
    let of_certificate = certificates.and_then(|certificates| Some(loaded.locate(certificates.warning()?)));
    let warnings = loaded.warnings.iter().chain(&of_certificate).map(|warning| format!("warning: {warning}"));
    let mut lines: Vec<String> = warnings.chain(["the configuration has no faults".to_owned()]).collect();
    lines.extend(loaded.explain_reverb());
    lines.extend(loaded.config.cluster.explain_outage());
    for app in loaded.config.apps() {
        let about = channels.iter().flat_map(|channel| explain(&app.limits, channel, events));
        lines.extend(about.map(|line| format!("{}: {line}", app.id)));
    }
    print(lines)
}

/// The decisions of an app's rules for a channel, and for events there.
fn explain(limits: &Limits, channel: &str, events: &[String]) -> Vec<String> {
    let length_max = limits.max_channel_name_length;
    let name = match ChannelName::parse(channel, length_max) {
        Ok(name) => name,
        Err(why) => return vec![format!("{channel}: refused ({why})")],
    };
    let flow_rules = FlowRules::new(&limits.flow_rules);
    let view = flow_rules.view(channel);
    let base = view.and_then(|(base, _)| ChannelName::parse(base, length_max).ok());
    let mut lines = Vec::new();
    if let Some((base, window)) = view {
        lines.push(format!("{channel}: it is {base} with a window of {window}"));
    }
    let of_policy = base.as_ref().unwrap_or(&name);
    let explained = limits.policy().explain(of_policy, length_max, &client_events(limits, of_policy));
    let is_raw = limits.raw_clients.channels.iter().any(|listed| listed == channel);
    lines.push(format!("{explained}{}", if is_raw { "; raw clients get it" } else { "" }));
    if events.is_empty() && !flow_rules.is_empty() {
        lines.extend(flow_rules.explain(&name).into_iter().map(|rule| format!("{channel}: {rule}")));
    }
    lines.extend(events.iter().map(|event| {
        let decision = flow_rules.explain_event(&name, event);
        format!("{channel}, event {event}: {decision}")
    }));
    let history_rules = HistoryRules::new(&limits.history_rules);
    lines.extend((!history_rules.is_empty()).then(|| format!("{channel}: {}", history_rules.explain(&name))));
    lines
}

/// Whether client events are possible on a channel, whatever its rule says.
fn client_events(limits: &Limits, channel: &ChannelName) -> Result<(), &'static str> {
    let kind = ChannelKind::of(channel.as_str());
    match () {
        () if !limits.enable_client_messages => Err("enable_client_messages is false"),
        () if kind.encrypted => Err("the channel is encrypted"),
        () if kind.access != Access::Signed && !limits.allow_public_client_events => {
            Err("the channel is public, and allow_public_client_events is false")
        }
        () => Ok(()),
    }
}

fn print(lines: impl IntoIterator<Item = impl Display>) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    for line in lines {
        match writeln!(output, "{line}") {
            // The reader has seen enough, as in `gema config | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves until a signal comes.
fn start(sources: &Sources<'_>, loaded: Loaded, with_page: bool) -> anyhow::Result<ExitCode> {
    // `loaded` stays as it was read, to be compared with what SIGHUP reads.
    let mut config = loaded.config.clone();
    let page = with_page.then(|| page::add_token(&mut config.dashboard));
    let dashboard = &config.dashboard;
    let watch = dashboard.is_on().then(|| Arc::new(Watch { payloads: dashboard.payloads, ..Watch::default() }));
    // Kept until the end, so that the last lines are written.
    let (_log, verbosity) = telemetry::init(&loaded.config.log, watch.clone())?;
    let process = Process { loaded, config, watch: watch.unwrap_or_default(), verbosity, page };
    // A token of this run is not in `loaded`.
    let of_page = (!process.loaded.config.dashboard.is_on()).then(|| process.config.warning_of_open_page()).flatten();
    for warning in process.loaded.warnings.iter().chain(&of_page) {
        warn!("{warning}");
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(sources, &process))
}

/// The configuration of a process and its log.
struct Process {
    /// As files and variables say.
    loaded: Loaded,
    /// As it is served: with the token of this run.
    config: Config,
    watch: Arc<Watch>,
    verbosity: Arc<Verbosity>,
    /// The token of the operator's page, if it was made for this run.
    page: Option<page::Token>,
}

async fn serve(sources: &Sources<'_>, process: &Process) -> anyhow::Result<ExitCode> {
    let config = &process.config;
    // Before the start, so that an early signal is not lost.
    let mut stop = Stop::listen()?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut server = Server::start_with(config, process.info()).await?;
    let (address, metrics_address) = (server.address(), server.metrics_address());
    let (workers, open_files, drain_requested) = (server.workers(), server.open_files(), server.drain_requested());
    let connections_max = config.connections.connections_max;
    if u64::try_from(connections_max).is_ok_and(|connections| connections >= open_files) {
        warn!(connections_max, open_files, "connections.connections_max is more than the limit of open files allows");
    }
    let name = Some(config.server.name.as_str()).filter(|name| !name.is_empty());
    info!(name, %address, %metrics_address, workers, open_files, "ready");
    if let Some(line) = process.loaded.explain_reverb() {
        info!("{line}");
    }
    rules::log(config);
    if let Some(token) = &process.page {
        token.print(metrics_address, &config.server.path_prefix);
    }
    let signal = loop {
        tokio::select! {
            signal = stop.signal() => break signal,
            _ = hang_up.recv() => reload(sources, process, &server).await,
            () = drain_requested.cancelled() => break "the operator's page",
            () = server.failed() => bail!("a worker has ended, though nobody asked for it"),
        }
    };
    info!(signal, "stopping");
    let Drained { connections, left, took } = server.drain().await;
    info!(connections, left, ?took, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Reads files and variables again. With a fault in them the server keeps its configuration.
async fn reload(sources: &Sources<'_>, process: &Process, server: &Server) {
    let started = &process.loaded;
    const UNCHANGED: &str = "the configuration has not changed, because the new one has faults";
    let new = match load(sources) {
        Ok(new) => new,
        Err(Faults { faults, .. }) => {
            for fault in faults {
                error!("{fault}");
            }
            return error!("{UNCHANGED}");
        }
    };
    if let Some(app) = new.config.with_public_secret().filter(|_| started.config.with_public_secret().is_none()) {
        // More likely a file or variable is missing than that this is meant.
        error!(
            app,
            "the app has Soketi's default secret, which everybody knows; give it one, or restart if it is meant"
        );
        return error!("{UNCHANGED}");
    }
    for warning in &new.warnings {
        warn!("{warning}");
    }
    let unchanged = started.needs_restart(&new);
    let keys = unchanged.join(", ");
    if !keys.is_empty() {
        warn!(keys, "these values have changed, but take effect with a restart only");
    }
    match server.reload(&new.config).await {
        Ok(()) => {
            process.verbosity.set_level(telemetry::level(new.config.log.level));
            server.show(process.settings(&new, &unchanged));
            info!("the configuration has been read anew");
            rules::log(&new.config);
        }
        Err(error) => {
            error!("{error}");
            error!("{UNCHANGED}");
        }
    }
}

impl Process {
    /// The part that the operator's page shows.
    fn info(&self) -> dashboard::ProcessInfo {
        dashboard::ProcessInfo {
            watch: Arc::clone(&self.watch),
            verbosity: Some(Arc::clone(&self.verbosity)),
            settings: self.settings(&self.loaded, &[]),
        }
    }

    /// The settings as the page shows them. Those in `unchanged` take effect with a restart only, and stay as they were
    /// at the start.
    fn settings(&self, new: &Loaded, unchanged: &[String]) -> dashboard::Settings {
        let kept = self.loaded.listed().into_iter().filter(|(key, ..)| unchanged.contains(key));
        let mut kept: BTreeMap<String, _> = kept.map(|row| (row.0.clone(), row)).collect();
        let mut listed = Vec::new();
        for row in new.listed() {
            listed.extend(if unchanged.contains(&row.0) { kept.remove(&row.0) } else { Some(row) });
        }
        listed.extend(kept.into_values());
        let warnings = new.warnings.iter().map(ToString::to_string).collect();
        dashboard::Settings { listed, warnings, app: new.config.apps().into_iter().next() }
    }
}

/// The signals that end the process.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the first signal.
    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
