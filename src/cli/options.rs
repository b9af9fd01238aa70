//! The options of `gema start`: those of Reverb's `reverb:start` and laravel-websockets' `websockets:serve`, and what
//! becomes of Soketi's.
//! `cli` parses them.

use crate::config::Fault;
use crate::config::Faults;
use crate::config::Loaded;
use crate::config::OptionValue;

/// Options that set something, and those that other servers have.
#[derive(Debug, Default, clap::Args)]
pub(super) struct StartOptions {
    /// Address of the main port: server.host.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Main port, for WebSockets and the HTTP API: server.port.
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Put before every path, such as /ws: server.path_prefix.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Logs each connection, too: log.level = "debug".
    #[arg(long)]
    debug: bool,
    /// The name for which Reverb looks for a certificate.
    #[arg(long, hide = true)]
    hostname: Option<String>,
    /// Of laravel-websockets.
    #[arg(long, hide = true)]
    disable_statistics: bool,
    /// Of laravel-websockets.
    #[arg(long, hide = true)]
    statistics_interval: Option<String>,
}

impl StartOptions {
    /// The settings that they give. An empty one gives none.
    pub(super) fn values(&self) -> Vec<OptionValue> {
        let path = self.path.as_ref().map(|path| format!("/{}", path.trim_matches('/'))).filter(|path| path != "/");
        let level = self.debug.then(|| "debug".to_owned());
        [
            ("--host", "server.host", self.host.clone()),
            ("--port", "server.port", self.port.clone()),
            ("--path", "server.path_prefix", path),
            ("--debug", "log.level", level),
        ]
        .into_iter()
        .filter_map(|(option, key, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some(OptionValue { option, key, value })
        })
        .collect()
    }

    /// A warning for each option without an effect.
    pub(super) fn warnings(&self) -> Vec<Fault> {
        let statistics = "has no effect, because gema's figures are its metrics, on metrics.port";
        let hostname = "has no effect, because gema answers to every name and takes no certificate of Herd or Valet; for \
                        TLS set SOKETI_SSL_CERT and SOKETI_SSL_KEY";
        [
            ("--hostname", self.hostname.is_some(), hostname),
            ("--disable-statistics", self.disable_statistics, statistics),
            ("--statistics-interval", self.statistics_interval.is_some(), statistics),
        ]
        .into_iter()
        .filter(|(_, is_given, _)| *is_given)
        .map(|(option, _, text)| Fault::new(option, text))
        .collect()
    }
}

/// Warns about options that Soketi ignores. One that names an app is a fault if the default app would be served
/// instead.
pub(super) fn with_ignored(mut loaded: Loaded, options: &[String]) -> Result<Loaded, Faults> {
    let app = loaded.config.with_public_secret();
    let mut faults = Vec::new();
    for option in options {
        let names_app = ["app-id", "app-key", "app-secret"].iter().any(|name| option.ends_with(name));
        match app.as_ref().filter(|_| names_app) {
            Some(app) => faults.push(Fault::new(
                option,
                format!(
                    "names an app where none is read, and app {app:?} with the secret that everybody knows would \
                 be served; set SOKETI_DEFAULT_APP_ID, SOKETI_DEFAULT_APP_KEY and SOKETI_DEFAULT_APP_SECRET"
                ),
            )),
            None => loaded.warnings.push(Fault::new(
                option,
                "has no effect, as with Soketi, which takes --config alone; set the variable instead, such as \
                 SOKETI_PORT",
            )),
        }
    }
    if faults.is_empty() { Ok(loaded) } else { Err(Faults { faults, good: Box::new(loaded) }) }
}
