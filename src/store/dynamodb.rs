//! Apps in DynamoDB, under the names of attributes that Soketi has.
//! `worker` queries with it.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use serde_json::Value as Json;
use tokio::sync::OnceCell;

use crate::aws;
use crate::aws::AwsError;
use crate::aws::BoundedAnswer;
use crate::aws::Place;
use crate::aws::Remedy;
use crate::config;
use crate::store::Row;
use crate::store::query::Column;
use crate::store::query::Driver;
use crate::store::query::Query;

/// The index of the table that finds an app by its key.
const INDEX: &str = "AppKeyIndex";
/// The attributes under which Soketi has what other databases have in columns.
const IDENTITY: [(&str, &str); 3] = [("AppId", "id"), ("AppKey", "key"), ("AppSecret", "secret")];
/// Requests of one query at once: the service answers each in milliseconds, and reads of single items are all that
/// Soketi's policy allows.
const REQUESTS_AT_ONCE: usize = 8;
/// Attempts at one request, within the time of a lookup.
const ATTEMPTS: u32 = 3;
/// No app has this id or key, and DynamoDB takes no empty one.
const NOBODY: &str = " ";

const REMEDIES: &[Remedy] = &[
    ("ResourceNotFound", "correct dynamodb.table, dynamodb.region or dynamodb.endpoint, or create the table"),
    ("AccessDenied", "allow dynamodb:GetItem on the table and dynamodb:Query on its index AppKeyIndex"),
    ("ProvisionedThroughputExceeded", "raise the table's read capacity, or app_store.cache_seconds"),
];
const NO_INDEX: &str = "add the global secondary index AppKeyIndex to the table: partition key AppKey, all attributes";
const NO_TABLE_OF_APPS: &str = "the table needs the partition key AppId, a string, and no sort key";

pub(super) struct Dynamodb {
    options: config::Dynamodb,
    attempt_max: Duration,
    /// Made at the first query, on the runtime of the worker.
    client: OnceCell<Client>,
}

impl Dynamodb {
    pub(super) fn new(options: &config::Dynamodb, time_max: Duration) -> Self {
        // An attempt that hangs leaves time for another one, over a new connection.
        Self { options: options.clone(), attempt_max: time_max.mul_f64(0.45), client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        let client = async || {
            let place = Place { region: &self.options.region, endpoint: &self.options.endpoint };
            let settings = aws::settings(place, self.attempt_max, ATTEMPTS).await;
            let settings = aws_sdk_dynamodb::config::Builder::from(&settings).interceptor(BoundedAnswer);
            Client::from_conf(settings.build())
        };
        self.client.get_or_init(client).await
    }

    /// The row with this id. The empty id asks whether the table and its index are there.
    async fn by_id(&self, id: &str) -> Result<Option<Row>, AwsError> {
        let id = if id.is_empty() { NOBODY } else { id };
        if id == NOBODY {
            self.by_key(NOBODY).await?;
        }
        let get = self.client().await.get_item().table_name(&self.options.table);
        let found = get.key("AppId", AttributeValue::S(id.to_owned())).send().await.map_err(|error| explain(&error))?;
        Ok(found.item.map(row))
    }

    async fn by_key(&self, key: &str) -> Result<Vec<Row>, AwsError> {
        let query = self.client().await.query().table_name(&self.options.table).index_name(INDEX);
        let query = query.key_condition_expression("AppKey = :key");
        // Two apps with one key are a mistake, and more of them tell no more of it.
        let query = query.expression_attribute_values(":key", AttributeValue::S(key.to_owned())).limit(2);
        let found = query.send().await.map_err(|error| explain(&error))?;
        Ok(found.items.unwrap_or_default().into_iter().map(row).collect())
    }
}

impl Driver for Dynamodb {
    type Error = AwsError;

    async fn rows(&self, query: &Query) -> Result<Vec<Row>, AwsError> {
        if query.column == Column::Key {
            let mut rows = Vec::new();
            for key in &query.texts {
                rows.extend(self.by_key(key).await?);
            }
            return Ok(rows);
        }
        // Futures made by a loop: those of a closure over references are not `Send` in every compiler's eyes.
        let mut lookups = Vec::with_capacity(query.texts.len());
        for id in &query.texts {
            lookups.push(self.by_id(id));
        }
        let mut found = stream::iter(lookups).buffer_unordered(REQUESTS_AT_ONCE);
        let mut rows = Vec::new();
        while let Some(row) = found.try_next().await? {
            rows.extend(row);
        }
        Ok(rows)
    }
}

fn explain<E, R>(error: &SdkError<E, R>) -> AwsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let error = AwsError::new(error, REMEDIES);
    match error.code.as_deref() {
        Some("ValidationException" | "ResourceNotFoundException") if error.mentions("index") => {
            error.with_remedy(NO_INDEX)
        }
        Some("ValidationException") => error.with_remedy(NO_TABLE_OF_APPS),
        _ => error,
    }
}

/// An item as a row: Soketi's names of what identifies an app count, and not others that mean the same.
fn row(item: std::collections::HashMap<String, AttributeValue>) -> Row {
    let is_identity = |name: &str| {
        let name = name.replace('_', "").to_ascii_lowercase();
        IDENTITY.iter().any(|(_, column)| *column == name.trim_start_matches("app"))
    };
    let mut row = Row::new();
    for (name, value) in item {
        match IDENTITY.iter().find(|(attribute, _)| *attribute == name) {
            Some((_, column)) => drop(row.insert((*column).to_owned(), json(value))),
            None if is_identity(&name) => (),
            None => drop(row.insert(name, json(value))),
        }
    }
    row
}

/// A value as JSON. Soketi reads a binary one as text.
fn json(value: AttributeValue) -> Json {
    let text = |bytes: &[u8]| Json::from(String::from_utf8_lossy(bytes));
    let number = |number: String| serde_json::from_str(&number).unwrap_or_else(|_| number.into());
    match value {
        AttributeValue::S(string) => string.into(),
        AttributeValue::N(digits) => number(digits),
        AttributeValue::Bool(truth) => truth.into(),
        AttributeValue::B(bytes) => text(bytes.as_ref()),
        AttributeValue::L(items) => items.into_iter().map(json).collect(),
        AttributeValue::M(members) => members.into_iter().map(|(name, value)| (name, json(value))).collect(),
        AttributeValue::Ss(strings) => strings.into_iter().map(Json::from).collect(),
        AttributeValue::Ns(numbers) => numbers.into_iter().map(number).collect(),
        AttributeValue::Bs(all) => all.iter().map(|bytes| text(bytes.as_ref())).collect(),
        // Null, and kinds that there are not yet.
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::primitives::Blob;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_becomes_a_row_whatever_its_types() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let item = HashMap::from([
            ("AppId".to_owned(), AttributeValue::N("7".to_owned())),
            ("id".to_owned(), AttributeValue::S("other".to_owned())),
            ("AppSecret".to_owned(), AttributeValue::S("hush".to_owned())),
            ("EnableClientMessages".to_owned(), AttributeValue::B(Blob::new("true"))),
            ("Enabled".to_owned(), AttributeValue::Bool(false)),
            ("MaxConnections".to_owned(), AttributeValue::N("1e400".to_owned())),
            ("Webhooks".to_owned(), AttributeValue::L(vec![AttributeValue::M(HashMap::new())])),
            ("AllowedOrigins".to_owned(), AttributeValue::Ss(texts(&["a.example"]))),
            ("Numbers".to_owned(), AttributeValue::Ns(texts(&["1", "x"]))),
            ("Nothing".to_owned(), AttributeValue::Null(true)),
        ]);
        assert_eq!(
            Json::Object(row(item)),
            json!({
                "id": 7, "secret": "hush", "EnableClientMessages": "true", "Enabled": false, "MaxConnections": "1e400",
                "Webhooks": [{}], "AllowedOrigins": ["a.example"], "Numbers": [1, "x"], "Nothing": null,
            })
        );
    }
}
