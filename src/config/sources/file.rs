//! A file of the operator: its format, its values with their lines, and names with dots as groups.
//! `sources` calls it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use config::{Map, Value, ValueKind};

use crate::config::fault::Fault;
use crate::config::origin::Origin;
use crate::config::sources::javascript;
use crate::config::sources::toml;
use crate::config::sources::yaml;

/// More parts than any name has, and far from the end of the stack.
const NAME_PARTS_MAX: usize = 64;

/// The settings of a file; each value knows its file and line. `variables` are for `process.env`.
pub(in crate::config) fn read(file: &Path, variables: &BTreeMap<String, String>) -> Result<Map<String, Value>, Fault> {
    let name = file.display().to_string();
    if name.trim_start().starts_with('{') {
        // It may hold a secret, so nothing of it is repeated.
        return Err(Fault::new("--config", "must name a file; write into one what stands there"));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(&name, &error))?;
    settings(file, &text, variables)
}

/// The settings in a file's text, by the extension of its name: each value with its line, and names with dots as groups.
pub fn settings(file: &Path, text: &str, variables: &BTreeMap<String, String>) -> Result<Map<String, Value>, Fault> {
    let name = file.display().to_string();
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let settings = match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::read(&name, text),
        Some("yaml" | "yml") => yaml::read(&name, text),
        // To Soketi the extension says nothing.
        _ => javascript::read(&name, text, variables),
    };
    regroup(settings?).map_err(|fault| Fault::new(name, format!(": {fault}")))
}

/// Whether nobody but gema reads files of that format.
pub(in crate::config) fn is_ours_alone(file: &Path) -> bool {
    matches!(file.extension().and_then(|extension| extension.to_str()), Some("toml" | "yaml" | "yml"))
}

/// Why a file cannot be read, and what to do if nothing else is wrong with it.
pub(in crate::config) fn unreadable(name: &str, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; the user that gema runs as (1000 in its image) must be allowed to",
        _ => "",
    };
    Fault::new(name, format!("cannot be read: {error}{remedy}"))
}

/// Names such as `adapter.redis.prefix` as the groups that they mean, at every depth.
fn regroup(settings: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut groups = Map::new();
    // Always in the same order, so that the same fault is told.
    let settings: BTreeMap<String, Value> = settings.into_iter().collect();
    for (name, mut value) in settings {
        if name.matches('.').count() >= NAME_PARTS_MAX {
            return Err(format!("a name has more than {NAME_PARTS_MAX} parts"));
        }
        let names: Vec<&str> = if name.split('.').any(str::is_empty) { vec![&name] } else { name.split('.').collect() };
        value.kind = match value.kind {
            ValueKind::Table(table) => ValueKind::Table(regroup(table)?),
            ValueKind::Array(items) => ValueKind::Array(items.into_iter().map(regroup_item).collect::<Result<_, _>>()?),
            kind => kind,
        };
        let origin = value.origin().map(str::to_owned);
        let (first, rest) = names.split_first().unwrap_or((&"", &[]));
        let nested = rest.iter().rev().fold(value, |inner, name| {
            Value::new(origin.as_ref(), ValueKind::Table(Map::from([((*name).to_owned(), inner)])))
        });
        put(&mut groups, first, nested, first)?;
    }
    Ok(groups)
}

fn regroup_item(mut item: Value) -> Result<Value, String> {
    if let ValueKind::Table(table) = item.kind {
        item.kind = ValueKind::Table(regroup(table)?);
    }
    Ok(item)
}

/// Adds a value at `place`, which may have been given another part of it.
fn put(groups: &mut Map<String, Value>, name: &str, value: Value, place: &str) -> Result<(), String> {
    let Some(before) = groups.get_mut(name) else {
        groups.insert(name.to_owned(), value);
        return Ok(());
    };
    let twice = || {
        let [one, other] = [&*before, &value]
            .map(|value| Origin::of_itself(value).map_or_else(|| "somewhere".to_owned(), |origin| origin.to_string()));
        format!("{place} is given twice (in {one} and {other}); keep one")
    };
    let twice = twice();
    match (&mut before.kind, value.kind) {
        (ValueKind::Table(before), ValueKind::Table(table)) => {
            for (name, value) in table {
                put(before, &name, value, &format!("{place}.{name}"))?;
            }
            Ok(())
        }
        (ValueKind::Array(items), ValueKind::Table(table)) => put_members(items, table, place),
        (ValueKind::Table(table), ValueKind::Array(mut items)) => {
            put_members(&mut items, std::mem::take(table), place)?;
            before.kind = ValueKind::Array(items);
            Ok(())
        }
        _ => Err(twice),
    }
}

/// Adds to members of a list by their number, as in `apps.0.id`.
fn put_members(items: &mut [Value], members: Map<String, Value>, place: &str) -> Result<(), String> {
    for (number, value) in members {
        let place = format!("{place}.{number}");
        let item = number.parse().ok().and_then(|index: usize| items.get_mut(index));
        match (item.map(|item| &mut item.kind), value.kind) {
            (Some(ValueKind::Table(item)), ValueKind::Table(fields)) => {
                for (name, value) in fields {
                    put(item, &name, value, &format!("{place}.{name}"))?;
                }
            }
            _ => return Err(format!("{place} is no group of settings in a list that is given elsewhere")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regrouped(text: &str) -> Result<String, String> {
        let settings = javascript::read("f", text, &BTreeMap::new())?;
        let groups = regroup(settings)?;
        Ok(shown(&Value::new(None, ValueKind::Table(groups))))
    }

    /// A value in a fixed order, with its line.
    fn shown(value: &Value) -> String {
        match &value.kind {
            ValueKind::Table(table) => {
                let sorted: BTreeMap<_, _> = table.iter().collect();
                let fields = sorted.into_iter().map(|(name, value)| format!("{name}:{}", shown(value)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }
            ValueKind::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
            kind => format!("{kind}@{}", Origin::of_itself(value).unwrap()),
        }
    }

    #[test]
    fn dotted_and_nested_names_meet() {
        let text = "{\"adapter.redis.prefix\": \"a\",\n\"adapter\": {\"redis\": {\"clusterMode\": true}, \"driver\": \"redis\"},\n\
                    \"adapter.redis\": {\"requestsTimeout\": 1}}";
        let redis = "redis:{clusterMode:true@f:2,prefix:a@f:1,requestsTimeout:1@f:3}";
        assert_eq!(regrouped(text).unwrap(), format!("{{adapter:{{driver:redis@f:2,{redis}}}}}"));
    }

    #[test]
    fn members_of_a_list_have_numbers() {
        let text = "{\"apps\": [{\"id\": \"a\"}, {\"id\": \"b\"}], \"apps.1.key\": \"k\"}";
        assert_eq!(regrouped(text).unwrap(), "{apps:[{id:a@f:1},{id:b@f:1,key:k@f:1}]}");
        let text = "{\"list\": {\"apps.0.key\": \"k\"}, \"list.apps\": [{\"id\": \"a\"}]}";
        assert_eq!(regrouped(text).unwrap(), "{list:{apps:[{id:a@f:1,key:k@f:1}]}}");
        assert_eq!(regrouped("{\"apps.0.id\": \"a\"}").unwrap(), "{apps:{0:{id:a@f:1}}}");
        let far = regrouped("{\"apps\": [], \"apps.1.key\": \"k\"}").unwrap_err();
        assert_eq!(far, "apps.1 is no group of settings in a list that is given elsewhere");
    }

    #[test]
    fn what_is_given_twice_is_named_with_both_lines() {
        let twice = regrouped("{\"a\": {\"b\": 1},\n\"a.b\": 2}").unwrap_err();
        assert_eq!(twice, "a.b is given twice (in f:1 and f:2); keep one");
        assert_eq!(regrouped("{\"a\": 1,\n\"a.b\": 2}").unwrap_err(), "a is given twice (in f:1 and f:2); keep one");
    }

    #[test]
    fn a_name_without_end_is_refused() {
        let far = regrouped(&format!("{{\"a{}\": 1}}", ".a".repeat(100_000))).unwrap_err();
        assert_eq!(far, "a name has more than 64 parts");
    }

    #[test]
    fn odd_names_keep_their_dots() {
        assert_eq!(regrouped("{\"\": 1, \"a..b\": 2, \".\": 3}").unwrap(), "{:1@f:1,.:3@f:1,a..b:2@f:1}");
    }
}
