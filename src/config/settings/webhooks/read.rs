//! Reads one webhook as somebody wrote it, tolerantly, and reports faults in sentences.
//!
//! PHP writes an empty group as `[]`, and a list from which something was removed as `{"1": …}`; panels write `null`
//! for what is empty, and add fields of their own.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json::Value as Json;
use serde_json::json;

use crate::config::fault::{Fault, Subject};
use crate::config::settings::aws::NO_AWS;
use crate::config::settings::values::boolean;
use crate::config::settings::webhooks::{ALL_KINDS, FIELDS};
use crate::config::suggest::{did_you_mean, snake_case};
use crate::protocol::webhook::Kind;

/// A webhook under our names, and what in it has no effect.
#[derive(Debug)]
pub(in crate::config) struct Written {
    /// Fits a [`Webhook`](super::Webhook).
    pub(in crate::config) webhook: Json,
    /// About names that look like misspelled settings or events.
    pub(in crate::config) typos: Vec<Fault>,
    /// About names that are of no use here.
    pub(in crate::config) foreign: Vec<Fault>,
}

/// One item of a list of webhooks, or what is wrong with it.
pub(in crate::config) fn read(place: &Subject, item: Json) -> Result<Written, Fault> {
    let Json::Object(fields) = item else {
        return Err(place.fault("must be a webhook: a group of settings with url and event_types"));
    };
    Reader { place, typos: Vec::new(), foreign: Vec::new() }.webhook(fields)
}

/// The items of a list, also of one that PHP has made a group with numbers for names.
pub(in crate::config) fn items(list: Json) -> Option<Vec<Json>> {
    match list {
        Json::Array(items) => Some(items),
        Json::Null => Some(Vec::new()),
        Json::Object(fields) => {
            let numbered = fields.into_iter().map(|(name, item)| Some((name.parse::<u32>().ok()?, item)));
            let mut items: Vec<(u32, Json)> = numbered.collect::<Option<_>>()?;
            items.sort_by_key(|(number, _)| *number);
            Some(items.into_iter().map(|(_, item)| item).collect())
        }
        _ => None,
    }
}

struct Reader<'a> {
    place: &'a Subject,
    typos: Vec<Fault>,
    foreign: Vec<Fault>,
}

impl Reader<'_> {
    fn webhook(mut self, fields: Map<String, Json>) -> Result<Written, Fault> {
        let (mut known, mut of_function) = (Map::new(), BTreeMap::new());
        for (name, value) in fields {
            let field = snake_case(&name);
            // As with Soketi, empty is not set.
            if value.is_null() {
                continue;
            }
            // Soketi's documents have the region of a function beside it.
            if field.starts_with("lambda") || field == "region" {
                if !is_empty(&value) {
                    of_function.insert(field, (name, value));
                }
            } else if FIELDS.contains(&&*field) {
                known.insert(field, value);
            } else {
                self.unknown("", &name, &FIELDS, "of a webhook");
            }
        }
        let function = match of_function.remove("lambda_function") {
            Some((name, value)) if !known.contains_key("url") => {
                known.insert("url".to_owned(), "".into());
                self.function(&name, &value, of_function)?
            }
            function => {
                for (name, _) in function.into_iter().chain(of_function.into_values()) {
                    let because = if name == "region" { "there is no function" } else { "url is set" };
                    self.foreign.push(self.field(&name).fault(format!("has no effect, because {because}")));
                }
                Json::Null
            }
        };
        let mut take = |field: &str, why: &str| {
            let missing = || self.field(field).fault(format!("is missing; {why}"));
            known.remove(field).ok_or_else(missing)
        };
        let url = take("url", "say where the events go")?;
        let event_types = take("event_types", "list the events, such as [\"channel_occupied\"]")?;
        let url = url.as_str().ok_or_else(|| self.must("url", "text in quotes"))?.trim();
        let webhook = json!({
            "url": url,
            "lambda": function,
            "event_types": self.event_types(event_types)?,
            "filter": self.filter(known.remove("filter").unwrap_or_default())?,
            "headers": self.headers(known.remove("headers").unwrap_or_default())?,
        });
        Ok(Written { webhook, typos: self.typos, foreign: self.foreign })
    }

    /// A function of AWS Lambda, with the settings for it.
    fn function(
        &mut self,
        name: &str,
        value: &Json,
        mut others: BTreeMap<String, (String, Json)>,
    ) -> Result<Json, Fault> {
        const NAMES: [&str; 3] = ["async", "region", "client_options"];
        let field = self.field(name);
        if !cfg!(feature = "aws") {
            return Err(field.fault(format!("is not there: {NO_AWS}; or give the function a URL and set url")));
        }
        let function = value.as_str().ok_or_else(|| self.must(name, "text in quotes"))?.trim();
        let region = others.remove("region").map_or(Json::Null, |(_, region)| region);
        let mut known = json!({ "region": region }).as_object().cloned().unwrap_or_default();
        let (_, lambda) = others.remove("lambda").unwrap_or_default();
        for (name, value) in self.group("lambda", lambda, "{ \"region\": \"us-east-1\" }")? {
            match snake_case(&name) {
                field if !NAMES.contains(&&*field) => self.unknown("lambda.", &name, &NAMES, "of a function"),
                _ if is_empty(&value) => (),
                field => drop(known.insert(field, value)),
            }
        }
        for (name, _) in others.into_values() {
            self.unknown("", &name, &["lambda_function", "lambda"], "of a webhook");
        }
        let options = self.client_options(known.remove("client_options").unwrap_or_default())?;
        let asynchronous = known.get("async").map_or(Some(false), |word| boolean(&text(word)?));
        let asynchronous = asynchronous.ok_or_else(|| self.must("lambda.async", "true or false"))?;
        let word = |name: &str, otherwise: &str| match options.get(name).or_else(|| known.get(name)) {
            None | Some(Json::Null) => Ok(otherwise.to_owned()),
            Some(value) => text(value).ok_or_else(|| self.must(&format!("lambda.{name}"), "text in quotes")),
        };
        let keys = ["access_key_id", "secret_access_key"];
        let given = keys.iter().filter(|name| options.contains_key(**name)).count();
        if given == 1 {
            let must = "must have both of accessKeyId and secretAccessKey, or none for the server's credentials";
            return Err(self.field("lambda.client_options").fault(must));
        }
        let [id, secret] = keys.map(|name| word(name, ""));
        let credentials =
            json!({ "access_key_id": id?, "secret_access_key": secret?, "session_token": word("session_token", "")? });
        Ok(json!({
            "name": function,
            "asynchronous": asynchronous,
            "region": word("region", "us-east-1")?,
            "endpoint": word("endpoint", "")?,
            "credentials": (given == 2).then_some(credentials),
        }))
    }

    /// The options of AWS' client that gema has, too. Credentials may be in a group of their own.
    fn client_options(&mut self, options: Json) -> Result<Map<String, Json>, Fault> {
        const NAMES: [&str; 5] = ["region", "endpoint", "access_key_id", "secret_access_key", "session_token"];
        let mut known = Map::new();
        for (name, value) in self.group("lambda.client_options", options, "{ \"region\": \"us-east-1\" }")? {
            let field = snake_case(&name);
            if field == "credentials" {
                known.extend(self.client_options(value)?);
            } else if !NAMES.contains(&&*field) {
                self.unknown("lambda.client_options.", &name, &NAMES, "that gema has for a function");
            } else if !is_empty(&value) {
                known.insert(field, value);
            }
        }
        Ok(known)
    }

    fn event_types(&mut self, list: Json) -> Result<Vec<Kind>, Fault> {
        let list = match list {
            Json::String(text) => serde_json::from_str(&text)
                .unwrap_or_else(|_| text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()),
            list => list,
        };
        let wrong = || self.must("event_types", "a list of events, such as [\"channel_occupied\"]");
        let mut kinds = Vec::new();
        for item in items(list).ok_or_else(wrong)?.into_iter().filter(|item| !item.is_null()) {
            match serde_json::from_value::<Kind>(item.clone()) {
                Ok(kind) if kinds.contains(&kind) => (),
                Ok(kind) => kinds.push(kind),
                Err(_) => self.unknown_event(&item),
            }
        }
        Ok(kinds)
    }

    fn unknown_event(&mut self, item: &Json) {
        let name = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
        let known: Vec<String> = ALL_KINDS.iter().filter_map(|kind| Some(json!(kind).as_str()?.to_owned())).collect();
        let others = format!("it is passed over; there are {}", known.join(", "));
        let meant = did_you_mean(&name, known.iter().map(String::as_str), &others);
        let shown: String = name.chars().take(64).collect();
        let fault = self.field("event_types").fault(format!("has {shown:?}, which is no event of a webhook; {meant}"));
        if meant == others { &mut self.foreign } else { &mut self.typos }.push(fault);
    }

    fn filter(&mut self, filter: Json) -> Result<Json, Fault> {
        const NAMES: [&str; 2] = ["channel_name_starts_with", "channel_name_ends_with"];
        let mut known = Map::new();
        for (name, value) in self.group("filter", filter, "{ \"channel_name_starts_with\": \"presence-\" }")? {
            let field = snake_case(&name);
            if !NAMES.contains(&&*field) {
                self.unknown("filter.", &name, &NAMES, "of a filter");
            } else if !value.is_null() {
                let text = text(&value).ok_or_else(|| self.must(&format!("filter.{name}"), "text in quotes"))?;
                known.insert(field, text.into());
            }
        }
        Ok(known.into())
    }

    fn headers(&self, headers: Json) -> Result<Json, Fault> {
        let mut set = Map::new();
        for (name, value) in self.group("headers", headers, "{ \"X-Mine\": \"value\" }")? {
            // A panel's line that nobody has filled in is none.
            if value.is_null() || (name.is_empty() && is_empty(&value)) {
                continue;
            }
            let text = text(&value).ok_or_else(|| self.must(&format!("headers.{name}"), "text in quotes"))?;
            set.insert(name, text.into());
        }
        Ok(set.into())
    }

    /// The members of a group, which may be empty in any way.
    fn group(&self, field: &str, value: Json, such_as: &str) -> Result<Map<String, Json>, Fault> {
        match value {
            Json::Object(members) => Ok(members),
            empty if is_empty(&empty) => Ok(Map::new()),
            _ => Err(self.must(field, &format!("a group of settings, such as {such_as}"))),
        }
    }

    fn must(&self, field: &str, must: &str) -> Fault {
        self.field(field).fault(format!("must be {must}"))
    }

    fn field(&self, field: &str) -> Subject {
        Subject { key: format!("{}.{field}", self.place.key), origin: self.place.origin.clone() }
    }

    fn unknown(&mut self, group: &str, name: &str, known: &[&str], of: &str) {
        let known: Vec<String> = known.iter().map(|known| self.field(&format!("{group}{known}")).key).collect();
        let subject = self.field(&format!("{group}{name}"));
        match &*did_you_mean(&subject.key, known.iter().map(String::as_str), "") {
            "" => self.foreign.push(subject.fault(format!("is not a setting {of} and has no effect"))),
            meant => self.typos.push(subject.fault(format!("is not a setting {of}; {meant}"))),
        }
    }
}

/// Whether there is nothing in a value, in whatever way it says so.
fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::String(text) => text.trim().is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// Text, or what stands for it without quotes.
fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(_) | Json::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::origin::Origin;
    use crate::config::settings::webhooks::Webhook;

    fn written(item: Json) -> Result<Written, Fault> {
        let origin = Some(Origin::line("f", 1));
        read(&Subject { key: "apps.0.webhooks.0".to_owned(), origin }, item)
    }

    fn webhook(item: Json) -> Webhook {
        serde_json::from_value(written(item).unwrap().webhook).unwrap()
    }

    #[test]
    fn each_mistake_has_its_remedy() {
        let with = |field: &str, value: Json| json!({ "url": "http://x", "event_types": [], field: value });
        for (item, says) in [
            (json!(1), " (from f:1) must be a webhook: a group of settings with url and event_types"),
            (json!({ "event_types": [] }), ".url (from f:1) is missing; say where the events go"),
            (
                json!({ "url": "http://x", "event_types": null }),
                ".event_types (from f:1) is missing; list the events, such as [\"channel_occupied\"]",
            ),
            (with("url", json!(["hush"])), ".url (from f:1) must be text in quotes"),
            (
                with("event_types", json!(true)),
                ".event_types (from f:1) must be a list of events, such as [\"channel_occupied\"]",
            ),
            (
                with("filter", json!(["zzz"])),
                ".filter (from f:1) must be a group of settings, such as { \"channel_name_starts_with\": \"presence-\" }",
            ),
            (
                with("filter", json!({ "channelNameEndsWith": ["a"] })),
                ".filter.channelNameEndsWith (from f:1) must be text in quotes",
            ),
            (
                with("headers", json!(["hush"])),
                ".headers (from f:1) must be a group of settings, such as { \"X-Mine\": \"value\" }",
            ),
            (with("headers", json!({ "X": { "hush": 1 } })), ".headers.X (from f:1) must be text in quotes"),
        ] {
            assert_eq!(written(item).unwrap_err(), format!("apps.0.webhooks.0{says}"));
        }
    }

    #[cfg(not(feature = "aws"))]
    #[test]
    fn a_function_needs_a_build_with_aws() {
        let lambda = written(json!({ "lambda_function": "f", "event_types": [] })).unwrap_err().to_string();
        assert!(lambda.contains("build with `cargo build --release --features aws`"), "{lambda}");
        assert!(lambda.contains("give the function a URL"), "{lambda}");
    }

    #[cfg(feature = "aws")]
    #[test]
    fn a_function_comes_with_soketis_settings() {
        let item = json!({ "lambda_function": " f ", "event_types": [], "lambda": { "async": "true", "region": "eu-west-1",
            "clientOptions": { "endpoint": "http://x:1", "maxRetries": 3,
                "credentials": { "accessKeyId": "i", "secretAccessKey": "hush" } } } });
        let Written { webhook, foreign, .. } = written(item).unwrap();
        let function = serde_json::from_value::<Webhook>(webhook).unwrap().lambda.unwrap();
        assert_eq!((function.name.as_str(), function.asynchronous, function.region.as_str()), ("f", true, "eu-west-1"));
        let keys = function.credentials.unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.expose()), ("i", &b"hush"[..]));
        assert_eq!(function.endpoint, "http://x:1");
        assert_eq!(foreign.len(), 1, "{foreign:?}");
        assert!(foreign[0].subject.key.ends_with("lambda.client_options.maxRetries"), "{foreign:?}");
        // As Soketi's documents have it.
        let function = webhook_of(&json!({ "region": "eu-west-1" })).lambda.unwrap();
        assert_eq!((function.region.as_str(), function.asynchronous, function.credentials), ("eu-west-1", false, None));
        for (more, says) in [
            (json!({ "lambda": { "async": "perhaps" } }), "lambda.async (from f:1) must be true or false"),
            (json!({ "lambda": "hush" }), "lambda (from f:1) must be a group"),
            (
                json!({ "lambda": { "client_options": { "accessKeyId": "hush" } } }),
                "lambda.client_options (from f:1) must have both",
            ),
        ] {
            let fault = written(function_with(&more)).unwrap_err().to_string();
            assert!(fault.contains(says) && !fault.contains("hush"), "{fault}");
        }
    }

    #[cfg(feature = "aws")]
    fn function_with(more: &Json) -> Json {
        let mut item = json!({ "lambda_function": "f", "event_types": [] });
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    }

    #[cfg(feature = "aws")]
    fn webhook_of(more: &Json) -> Webhook {
        webhook(function_with(more))
    }

    #[test]
    fn what_is_misspelled_is_told_from_what_is_foreign() {
        let item = json!({
            "id": 7, "urls": "x", "url": "http://x", "lambda": { "async": true }, "lambda_function": "",
            "event_types": ["occupied", "cache_miss", "cache_miss", "queue_drained", 7],
            "filter": { "starts_with": "a", "tenant": 1 },
        });
        let Written { typos, foreign, .. } = written(item.clone()).unwrap();
        let place = "apps.0.webhooks.0";
        let other = "which is no event of a webhook; it is passed over; there are channel_occupied, channel_vacated, \
                     member_added, member_removed, client_event, cache_miss, subscription_count";
        assert_eq!(
            typos,
            [
                format!("{place}.urls (from f:1) is not a setting of a webhook; did you mean {place}.url?"),
                format!(
                    "{place}.event_types (from f:1) has \"occupied\", which is no event of a webhook; \
                     did you mean channel_occupied?"
                ),
                format!(
                    "{place}.filter.starts_with (from f:1) is not a setting of a filter; \
                     did you mean {place}.filter.channel_name_starts_with?"
                ),
            ]
        );
        assert_eq!(
            foreign,
            [
                format!("{place}.id (from f:1) is not a setting of a webhook and has no effect"),
                format!("{place}.lambda (from f:1) has no effect, because url is set"),
                format!("{place}.event_types (from f:1) has \"queue_drained\", {other}"),
                format!("{place}.event_types (from f:1) has \"7\", {other}"),
                format!("{place}.filter.tenant (from f:1) is not a setting of a filter and has no effect"),
            ]
        );
        assert_eq!(webhook(item).event_types, [Kind::CacheMiss]);
    }

    #[test]
    fn both_spellings_are_understood() {
        let webhook = webhook(
            json!({ "url": "http://x", "eventTypes": ["cache_miss"], "filter": { "channelNameStartsWith": "a" } }),
        );
        assert_eq!((webhook.event_types, webhook.filter.matches("ab")), (vec![Kind::CacheMiss], true));
    }

    #[test]
    fn what_php_and_panels_write_for_nothing_is_nothing() {
        for nothing in [json!(null), json!([]), json!({}), json!("")] {
            let item = json!({ "url": " http://x\n", "event_types": { "1": "cache_miss", "3": "client_event" },
                "filter": nothing, "headers": nothing, "lambda_function": nothing });
            let webhook = webhook(item);
            assert_eq!(webhook.url.expose_text(), "http://x");
            assert_eq!(webhook.event_types, [Kind::CacheMiss, Kind::ClientEvent]);
            assert!(webhook.filter.matches("any") && webhook.headers.is_empty());
        }
        let webhook = webhook(json!({ "url": "http://x", "event_types": "[\"cache_miss\",null]",
            "filter": { "channel_name_starts_with": null, "channel_name_ends_with": 7 },
            "headers": { "X": null, "": "", "Y": 1, "Z": true } }));
        assert_eq!(webhook.event_types, [Kind::CacheMiss]);
        assert!(webhook.filter.matches("a7") && !webhook.filter.matches("a"));
        assert_eq!(webhook.headers.keys().collect::<Vec<_>>(), ["Y", "Z"]);
    }
}
