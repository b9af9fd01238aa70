//! The addresses to test, and the app to test them with.
//! `doctor` gathers them from `--url`, Laravel's `.env` and gema's configuration.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use anyhow::Context;
use anyhow::bail;
use reqwest::Url;

use crate::cli::doctor::laravel::Laravel;
use crate::cli::doctor::names::Names;
use crate::config::Config;
use crate::config::Secret;

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// `--url`.
    Option,
    /// Laravel's variables that begin with this.
    Laravel(&'static str),
    /// gema's own configuration.
    Configuration,
}

/// An address of the server, or of the proxy before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Before `/app` and `/apps`; empty for none.
    pub(super) prefix: String,
    pub(super) source: Source,
}

/// The addresses, as far as they differ.
#[derive(Debug)]
pub(super) struct Targets {
    /// Where pages connect.
    pub(super) pages: Target,
    /// Where Laravel publishes; `None` if it is the same address.
    pub(super) laravel: Option<Target>,
}

/// The app's identity, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    pub(super) id: Option<String>,
    pub(super) key: Option<String>,
    /// The key of the pages.
    pub(super) page_key: Option<String>,
    pub(super) secret: Option<Secret>,
    /// Laravel names them.
    pub(super) are_laravels: bool,
}

impl Target {
    /// Reads `--url`.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let parsed = Url::parse(&whole).with_context(|| format!("--url {url}"))?;
        let tls = match parsed.scheme() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => bail!("--url {url}: it must begin with https://, http://, wss:// or ws://"),
        };
        let host =
            parsed.host_str().filter(|host| !host.is_empty()).with_context(|| format!("--url {url}: no host"))?;
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: parsed.port_or_known_default().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            prefix: parsed.path().trim_end_matches('/').to_owned(),
            source: Source::Option,
        })
    }

    /// The address in Laravel's variables that begin with `start`. Port and scheme have Laravel's defaults.
    fn of_laravel(laravel: &Laravel, start: &'static str) -> Option<Self> {
        let host = laravel.get(&format!("{start}_HOST"))?.to_owned();
        let tls = laravel.get(&format!("{start}_SCHEME")).is_none_or(|scheme| scheme == "https");
        let port = laravel.get(&format!("{start}_PORT")).and_then(|port| port.parse().ok());
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        // gema serves below this path. Laravel publishes there with `options.path` in its configuration.
        let path = laravel.get("REVERB_SERVER_PATH").filter(|_| start.contains("REVERB")).unwrap_or_default();
        let path = path.trim_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Some(Self { host, port, tls, prefix, source: Source::Laravel(start) })
    }

    /// The address of this configuration's server.
    fn of_config(config: &Config) -> Self {
        let host = match config.server.host {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        Self {
            host: host.to_string(),
            port: config.server.port,
            tls: config.tls.is_enabled(),
            prefix: config.server.path_prefix.clone(),
            source: Source::Configuration,
        }
    }

    /// `host:port`, as the header `Host` has it.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let is_default = self.port == if self.tls { 443 } else { 80 };
        if is_default { host } else { format!("{host}:{}", self.port) }
    }

    /// The address as a URL.
    pub(super) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.prefix)
    }

    fn is_same_place(&self, other: &Self) -> bool {
        let place = |target: &Self| {
            let host = if target.host == "localhost" { "127.0.0.1" } else { &target.host };
            (host.to_owned(), target.port, target.tls, target.prefix.clone())
        };
        place(self) == place(other)
    }
}

impl Targets {
    /// `--url` is where pages connect; Laravel's address is where it publishes. One stands for the other where it is
    /// missing, and gema's configuration for both.
    pub(super) fn gather(url: Option<Target>, laravel: Option<&Laravel>, config: &Config) -> Self {
        let of = |start| laravel.and_then(|laravel| Target::of_laravel(laravel, start));
        let (publishes, pages) = match laravel.map(Laravel::names).unwrap_or_default() {
            Names::Pusher => (of("PUSHER"), of("VITE_PUSHER").or_else(|| of("MIX_PUSHER"))),
            Names::Reverb => (internal(laravel).or_else(|| of("REVERB")), of("VITE_REVERB").or_else(|| of("REVERB"))),
        };
        let pages = url.or(pages).or_else(|| publishes.clone());
        let pages = pages.unwrap_or_else(|| Target::of_config(config));
        let laravel = publishes.filter(|publishes| !publishes.is_same_place(&pages));
        Self { pages, laravel }
    }
}

/// The address behind the proxy, by names that applications have in common.
fn internal(laravel: Option<&Laravel>) -> Option<Target> {
    let laravel = laravel.filter(|laravel| laravel.get("REVERB_INTERNAL_PORT").is_some())?;
    Target::of_laravel(laravel, "REVERB_INTERNAL")
}

impl Credentials {
    /// Laravel's, or those of the first app of the configuration. `config` is `None` where none was found.
    pub(super) fn gather(laravel: Option<&Laravel>, config: Option<&Config>) -> Self {
        if let Some(laravel) = laravel.filter(|laravel| laravel.of_app("APP_KEY").is_some()) {
            let start = laravel.names().start();
            let of_page = |tool: &str| laravel.get(&format!("{tool}_{start}_APP_KEY")).map(str::to_owned);
            let key = laravel.of_app("APP_KEY").map(str::to_owned);
            let page_key = of_page("VITE").or_else(|| of_page("MIX")).or_else(|| key.clone());
            return Self {
                id: laravel.of_app("APP_ID").map(str::to_owned),
                key,
                page_key,
                secret: laravel.secret(),
                are_laravels: true,
            };
        }
        let app = config.and_then(|config| config.apps().into_iter().find(|app| app.enabled));
        app.and_then(|app| {
            let pair = app.keys.into_iter().next()?;
            let key = Some(pair.key);
            Some(Self { id: Some(app.id), page_key: key.clone(), key, secret: Some(pair.secret), are_laravels: false })
        })
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let read = |url: &str| Target::parse(url).map(|target| target.url()).ok();
        assert_eq!(read("https://ws.example.com").as_deref(), Some("https://ws.example.com"));
        assert_eq!(read("ws.example.com").as_deref(), Some("https://ws.example.com"));
        assert_eq!(read("ws://10.0.0.1:6001/live/").as_deref(), Some("http://10.0.0.1:6001/live"));
        assert_eq!(read("http://[::1]:6001").as_deref(), Some("http://[::1]:6001"));
        assert_eq!(read("ftp://ws.example.com"), None);
    }
}
