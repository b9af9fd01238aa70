//! Where settings come from: files, `.env` and variables, under gema's names, Soketi's and Laravel's.
//! `load` merges the layers.

pub(super) mod dotenv;
pub(super) mod file;
mod javascript;
pub(super) mod laravel;
pub(super) mod reverb;
pub(super) mod soketi;
mod toml;
mod variable;
pub(super) mod variables;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use config::{Value, ValueKind};

use super::fault::{Fault, Subject};
use super::tree;
use super::tree::Group;

use reverb::Others;
use soketi::Translation;
use soketi::translate::translate;
use variable::Variable;

/// Everything that files and variables set.
#[derive(Default)]
pub(super) struct Sources {
    /// Each wins over those before it.
    pub(super) layers: Vec<Group>,
    /// Laravel's values, for keys that no layer sets.
    pub(super) fallbacks: Vec<(&'static str, Value)>,
    pub(super) files_have_apps: bool,
    /// The setting that makes Soketi look for a Redis Cluster, if there is one.
    pub(super) cluster_mode: Option<Subject>,
    /// Laravel's broadcaster, and the variable that names it.
    pub(super) broadcaster: Option<(String, Subject)>,
    /// Reverb's variables, which count only if no other source names the app.
    pub(super) reverb: Vec<Variable>,
    /// Settings that name an app where none is read, with the place where it belongs.
    pub(super) unread_apps: Vec<(Subject, &'static str)>,
    /// Why there may be more variables than we know of.
    pub(super) unreadable: Option<Fault>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
}

impl Sources {
    /// Reads the files, the environment, and `.env` if it is given.
    pub(super) fn read(files: &[PathBuf], environment: BTreeMap<String, String>, dotenv: Option<&Path>) -> Self {
        let mut sources = Self::default();
        let mut by_name = environment;
        let variable =
            |(name, value): (&String, &String)| Variable { name: name.clone(), value: value.clone(), line: None };
        let mut variables: Vec<Variable> = by_name.iter().map(variable).collect();
        for variable in dotenv.map(|path| sources.read_dotenv(path, &by_name)).unwrap_or_default() {
            by_name.insert(variable.name.clone(), variable.value.clone());
            variables.push(variable);
        }
        let (mut translations, mut own) = (Vec::new(), Vec::new());
        for file in files {
            match file::read(file, &by_name) {
                Ok(settings) => {
                    let (soketis, ours) = translate(settings, !file::is_ours_alone(file));
                    translations.push(soketis);
                    own.push(ours);
                }
                Err(fault) => sources.faults.push(fault),
            }
        }
        translations.push(variables::read(variables));
        sources.files_have_apps = own.iter().any(has_apps);
        // The last source that has the mode decides for all.
        let last = translations.iter_mut().rev().find_map(|translation| translation.cluster_mode.take());
        sources.cluster_mode = last.filter(|(mode, _)| *mode).map(|(_, subject)| subject);
        let is_nats = is_nats(&translations, &own);
        let mut own = own.into_iter();
        for mut translation in translations {
            translation.settle_name(is_nats);
            sources.add(translation);
            sources.layers.extend(own.next());
        }
        sources.warnings.sort_by_key(|warning| warning.unread);
        sources.warnings.splice(0..0, sources.unreadable.clone());
        sources
    }

    /// The variables of a `.env` that the environment lacks.
    fn read_dotenv(&mut self, path: &Path, environment: &BTreeMap<String, String>) -> Vec<Variable> {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Some call a folder so that has nothing to do with it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
                return vec![];
            }
            Err(error) => {
                self.unreadable = Some(file::unreadable(".env", &error));
                return vec![];
            }
        };
        let mut found = BTreeMap::new();
        for entry in dotenv::read(&text, environment, variables::is_read) {
            let (name, line) = (entry.name, Some(entry.line));
            match entry.value {
                _ if environment.contains_key(&name) => (),
                Ok(value) => drop(found.insert(name.clone(), Variable { name, value, line })),
                Err(text) if variables::is_read(&name) => {
                    self.faults.push(Variable { name, value: String::new(), line }.subject().fault(text));
                }
                Err(_) => (),
            }
        }
        found.into_values().collect()
    }

    /// The values of Reverb's variables beside those of `root`.
    pub(super) fn read_reverb(&self, root: &Group) -> Translation {
        let broadcaster = self.broadcaster.as_ref().map(|(broadcaster, _)| broadcaster.as_str());
        reverb::read(&self.reverb, &Others { root, fallbacks: &self.fallbacks, broadcaster })
    }

    fn add(&mut self, mut translation: Translation) {
        translation.settle_cluster_mode(self.cluster_mode.is_some());
        let Translation { values, fallbacks, broadcaster, reverb, faults, warnings, unread_apps, .. } = translation;
        // The crate `config` writes `apps[0].id`.
        let key = |key: String| match key.split('.').collect::<Vec<_>>()[..] {
            ["apps", index, field] => format!("apps[{index}].{field}"),
            _ => key,
        };
        self.layers.push(values.into_iter().map(|(name, value)| (key(name), value)).collect());
        self.fallbacks.extend(fallbacks);
        self.broadcaster = self.broadcaster.take().or(broadcaster);
        self.reverb.extend(reverb);
        self.faults.extend(faults);
        self.warnings.extend(warnings);
        self.unread_apps.extend(unread_apps);
    }
}

/// Whether the nodes meet in NATS: the last source that names a driver decides. `own` are the settings of files under
/// gema's names.
fn is_nats(translations: &[Translation], own: &[Group]) -> bool {
    let of = |(index, translation): (usize, &Translation)| {
        let own = own.get(index).and_then(|own| tree::setting(own, "cluster", "driver"));
        own.or_else(|| translation.values.get("cluster.driver")).map(|driver| driver.kind.to_string())
    };
    translations.iter().enumerate().rev().find_map(of).is_some_and(|driver| driver == "nats")
}

fn has_apps(settings: &Group) -> bool {
    matches!(settings.get("apps").map(|apps| &apps.kind), Some(ValueKind::Array(apps)) if !apps.is_empty())
}
