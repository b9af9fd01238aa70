//! `gema doctor`: tests the way of an event from where Laravel or the operator stands, and names the cause and the fix
//! of each fault. It publishes nothing that a subscriber could see.
//! `cli` runs it. Data flows one way: gathered addresses and app, then the steps, then the report.

mod api;
mod cause;
mod certificate;
mod exchange;
mod files;
mod ingest;
mod laravel;
mod names;
mod nats;
mod redis;
mod report;
mod route;
mod socket;
mod target;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

pub use cause::Cause;

use crate::cli::doctor::laravel::Laravel;
use crate::cli::doctor::report::Report;
use crate::cli::doctor::report::Step;
use crate::cli::doctor::report::Subject;
use crate::cli::doctor::route::Route;
use crate::cli::doctor::socket::Page;
use crate::cli::doctor::target::Credentials;
use crate::cli::doctor::target::Target;
use crate::cli::doctor::target::Targets;
use crate::config;
use crate::config::App;
use crate::config::Config;
use crate::config::Faults;
use crate::config::Loaded;
use crate::config::Origin;

/// The options of `gema doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The address that pages use, such as https://ws.example.com; by default that of .env or of the configuration.
    #[arg(long)]
    url: Option<String>,
    /// Laravel's .env; by default the one in the working directory.
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
    /// The origin of the pages, such as https://shop.example; by default that of APP_URL.
    #[arg(long)]
    origin: Option<String>,
    /// Tests the idle timeout of the proxy, too: keeps a connection silent for as long as clients are.
    #[arg(long)]
    patient: bool,
    /// Prints JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Everything that is known before the first step.
struct Case {
    laravel: Option<Laravel>,
    /// gema's configuration, or the defaults.
    config: Config,
    /// The configuration was found here.
    has_config: bool,
    apps: Vec<App>,
}

/// Runs all steps. The exit code is 1 if one has failed.
pub(super) fn run(options: &Options, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_right = runtime.block_on(examine(options, files))?;
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(options: &Options, files: &[PathBuf]) -> anyhow::Result<bool> {
    let url = options.url.as_deref().map(Target::parse).transpose()?;
    let (case, steps) = gather(options, files);
    let mut report = Report::new(options.json, case.laravel.as_ref().map(Laravel::names).unwrap_or_default());
    report.add(steps)?;
    let Targets { pages, laravel } = Targets::gather(url, case.laravel.as_ref(), &case.config);
    let credentials = Credentials::gather(case.laravel.as_ref(), case.has_config.then_some(&case.config));
    let is_shared = laravel.is_none();
    let of_laravel = laravel.as_ref().filter(|laravel| laravel.host == pages.host).map(|laravel| laravel.port);
    let ports: Vec<u16> = case.has_config.then_some(case.config.server.port).into_iter().chain(of_laravel).collect();

    report.begin(Subject::new(pages.url(), if is_shared { "both" } else { "pages" }))?;
    let (steps, route) = route::find(pages, &ports).await;
    report.add(steps)?;
    report.add(check_page(route.as_ref(), options, &case, &credentials).await)?;
    if is_shared {
        report.add(check_api(route.as_ref(), &credentials, &case.apps).await)?;
    }
    if let Some(target) = laravel {
        report.begin(Subject::new(target.url(), "laravel"))?;
        let (steps, route) = route::find(target, &ports).await;
        report.add(steps)?;
        report.add(check_api(route.as_ref(), &credentials, &case.apps).await)?;
    }

    report.begin(Subject::default())?;
    if case.has_config {
        report.add(redis::check(&case.config, &case.apps).await)?;
        report.add(nats::check(&case.config).await)?;
        report.add(ingest::check(&case.config, case.laravel.as_ref()).await)?;
        report.add([files::check(&case.config)])?;
    } else {
        let reason = "gema's configuration is not known here; --config names it";
        report.add(["redis", "ingest", "files"].map(|name| Step::skipped(name, reason)))?;
    }
    Ok(report.end()?)
}

/// Reads Laravel's `.env` and gema's configuration.
fn gather(options: &Options, files: &[PathBuf]) -> (Case, Vec<Step>) {
    let environment: BTreeMap<String, String> = config::process_environment().into_iter().collect();
    let (laravel, mut steps) = Laravel::read(options.env.as_ref(), &environment);
    let (loaded, faults) = match config::load_in(Path::new("."), files, environment) {
        Ok(loaded) => (Box::new(loaded), Vec::new()),
        Err(Faults { faults, good }) => (good, faults),
    };
    // Without Laravel, PUSHER_APP_ID and the like are gema's.
    let has_config = !files.is_empty() || is_set(&loaded) || laravel.is_none() && !loaded.origins.is_empty();
    if let Some(laravel) = &laravel {
        steps.extend(laravel.check(has_config.then(|| loaded.config.ingest.is_on())));
    }
    steps.push(match faults.first() {
        _ if !has_config => Step::skipped("config", "gema's configuration is not known here; --config names it"),
        Some(fault) => Step::failed("config", Cause::ConfigurationFaults, fault.to_string()),
        None => Step::passed("config", "gema's configuration has no faults"),
    });
    let apps = if has_config { loaded.config.apps() } else { Vec::new() };
    (Case { laravel, config: loaded.config, has_config, apps }, steps)
}

/// Whether a variable of gema or Soketi is set. Laravel's own variables do not tell that gema's configuration is here.
fn is_set(loaded: &Loaded) -> bool {
    loaded.origins.values().any(|origin| match origin {
        Origin::Line { .. } | Origin::Option(_) => true,
        Origin::Variable(name) | Origin::VariableInLine { name, .. } => {
            name.starts_with("GEMA_") || name.starts_with("SOKETI_")
        }
    })
}

async fn check_page(route: Option<&Route>, options: &Options, case: &Case, credentials: &Credentials) -> Vec<Step> {
    let Some(route) = route else {
        return ["upgrade", "connect", "origin", "idle"].map(no_connection).to_vec();
    };
    let origin = options.origin.clone().or_else(|| case.laravel.as_ref()?.page_origin());
    let ids = credentials.id.iter().cloned().chain(case.apps.iter().map(|app| app.id.clone())).collect();
    let keys = case.apps.iter().flat_map(|app| &app.keys).map(|pair| pair.key.clone()).collect();
    let key = credentials.page_key.as_deref();
    socket::check(route, &Page { key, origin: origin.as_deref(), ids, keys, is_patient: options.patient }).await
}

async fn check_api(route: Option<&Route>, credentials: &Credentials, apps: &[App]) -> Vec<Step> {
    match route {
        Some(route) => api::check(route, credentials, apps).await,
        None => ["apps", "signature", "clock", "ready"].map(no_connection).to_vec(),
    }
}

fn no_connection(name: &'static str) -> Step {
    Step::skipped(name, "there is no connection to test it on")
}
