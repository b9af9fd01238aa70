//! Where AWS' services are. Credentials of the server are no settings: AWS' own variables, profiles and roles have them.

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::config::fault::FaultList;
use crate::config::settings::section;
use crate::config::settings::values::{Seconds, Secret};

/// Why a setting that needs AWS is refused, in a build without it.
pub(in crate::config) const NO_AWS: &str =
    "this build has no AWS; build with `cargo build --release --features aws`, or use the image";

section! {
    /// A table of DynamoDB with the apps, as Soketi has it.
    pub struct Dynamodb {
        /// The table's name, or its ARN.
        pub table: String = "apps".to_owned(),
        /// The table's region.
        pub region: String = "us-east-1".to_owned(),
        /// Empty for AWS' own.
        pub endpoint: String = String::new(),
    }
}

section! {
    /// A queue of SQS through which webhooks go, as with Soketi.
    pub struct Sqs {
        /// The queue's URL. One whose name ends in `.fifo` keeps the events of an endpoint in order.
        pub queue_url: String = String::new(),
        /// The queue's region, unless its URL names one.
        pub region: String = "us-east-1".to_owned(),
        /// Empty for the host of the queue's URL.
        pub endpoint: String = String::new(),
        /// Messages that a node takes out of the queue at once.
        pub batch_size: u32 = 1 => 1..=10,
        /// The pause before a node asks the queue again.
        pub polling_wait_seconds: Seconds = Seconds(0.0) => 0.0..=60.0,
    }
}

/// A function of AWS Lambda that gets webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Its name or ARN.
    pub name: String,
    /// Whether AWS takes the event and calls the function later.
    pub asynchronous: bool,
    /// The function's region.
    pub region: String,
    /// Empty for AWS' own.
    pub endpoint: String,
    /// Credentials for this function; none for those of the server.
    pub credentials: Option<Credentials>,
}

/// Credentials that a webhook brings along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The key's name.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret,
    /// Of a role; empty for none.
    #[serde(default)]
    pub session_token: Secret,
}

impl Dynamodb {
    /// Where it is, for people.
    pub fn place(&self) -> String {
        let (table, region, endpoint) = (&self.table, &self.region, &self.endpoint);
        if endpoint.is_empty() { format!("table {table} in {region}") } else { format!("table {table} at {endpoint}") }
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        self.check_bounds("dynamodb", faults);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:/".contains(&byte);
        let table = &self.table;
        faults.add_if(
            !(3..=1024).contains(&table.len()) || !table.bytes().all(is_name),
            "dynamodb.table",
            format!("is {table:?}; it must be the name of a table, such as \"apps\", or its ARN"),
        );
        validate_place("dynamodb", &self.region, &self.endpoint, faults);
    }
}

impl Sqs {
    /// The region and the endpoint. The queue's URL names both, as a rule.
    ///
    /// ```
    /// let sqs = gema::config::Sqs {
    ///     queue_url: "https://sqs.eu-west-3.amazonaws.com/123456789012/gema.fifo".to_owned(),
    ///     ..Default::default()
    /// };
    /// assert_eq!(sqs.place(), ("eu-west-3".to_owned(), String::new()));
    /// ```
    pub fn place(&self) -> (String, String) {
        let url = Url::parse(&self.queue_url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let of_aws = host.strip_prefix("sqs.").and_then(|rest| Some(rest.split_once(".amazonaws.com")?.0));
        match of_aws.filter(|region| is_region(region)) {
            Some(region) => (region.to_owned(), self.endpoint.clone()),
            None if self.endpoint.is_empty() => {
                (self.region.clone(), url.map_or_else(String::new, |url| url.origin().ascii_serialization()))
            }
            None => (self.region.clone(), self.endpoint.clone()),
        }
    }

    /// Whether the queue keeps its groups in order.
    pub fn is_fifo(&self) -> bool {
        self.queue_url.ends_with(".fifo")
    }

    pub(in crate::config) fn validate(&self, is_selected: bool, faults: &mut FaultList) {
        self.check_bounds("sqs", faults);
        let url = &self.queue_url;
        let such_as = "such as https://sqs.us-east-1.amazonaws.com/123456789012/gema.fifo";
        faults.add_if(
            is_selected && url.is_empty(),
            "sqs.queue_url",
            format!("is empty; set it to the URL of the queue, {such_as}"),
        );
        faults.add_if(
            !url.is_empty() && !is_endpoint(url),
            "sqs.queue_url",
            format!("is {url:?}; it must be the URL of a queue, {such_as}"),
        );
        validate_place("sqs", &self.region, &self.endpoint, faults);
    }
}

impl Function {
    /// Adds a fault for each thing that no function has.
    pub(in crate::config) fn validate(&self, place: &str, faults: &mut FaultList) {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.$".contains(&byte);
        faults.add_if(
            !(1..=200).contains(&self.name.len()) || !self.name.bytes().all(is_letter),
            format!("{place}.lambda_function"),
            "must be the name or the ARN of a function of AWS Lambda",
        );
        faults.add_if(
            !is_region(&self.region),
            format!("{place}.lambda.region"),
            "must be the name of a region, such as us-east-1",
        );
        faults.add_if(
            !self.endpoint.is_empty() && !is_endpoint(&self.endpoint),
            format!("{place}.lambda.client_options.endpoint"),
            "must be a URL, such as http://localhost:3001",
        );
    }
}

/// Adds a fault if a region or an endpoint cannot be one.
pub(in crate::config) fn validate_place(section: &str, region: &str, endpoint: &str, faults: &mut FaultList) {
    faults.add_if(
        !is_region(region),
        format!("{section}.region"),
        format!("is {region:?}; it must be the name of a region, such as us-east-1"),
    );
    faults.add_if(
        !endpoint.is_empty() && !is_endpoint(endpoint),
        format!("{section}.endpoint"),
        format!("is {endpoint:?}; it must be a URL, such as http://localhost:8000, or empty for AWS' own"),
    );
}

/// A region becomes a part of a host's name.
fn is_region(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_letter)
}

fn is_endpoint(text: &str) -> bool {
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    is_http
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && Url::parse(text).is_ok_and(|url| url.port() != Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fault::sentences;

    #[test]
    fn a_queues_url_says_where_it_is() {
        for (queue_url, region, endpoint, place) in [
            ("https://sqs.eu-west-3.amazonaws.com/1/q", "us-east-1", "", ("eu-west-3", "")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "us-east-1", "", ("cn-north-1", "")),
            ("http://localhost:4566/1/q", "us-east-1", "", ("us-east-1", "http://localhost:4566")),
            ("http://x/1/q", "eu-west-1", "http://localhost:1", ("eu-west-1", "http://localhost:1")),
            ("", "us-east-1", "", ("us-east-1", "")),
        ] {
            let [queue_url, region, endpoint] = [queue_url, region, endpoint].map(str::to_owned);
            let sqs = Sqs { queue_url, region, endpoint, ..Sqs::default() };
            assert_eq!(sqs.place(), (place.0.to_owned(), place.1.to_owned()));
        }
    }

    #[test]
    fn a_name_that_aws_cannot_have_is_refused_with_its_key() {
        for (table, region, endpoint, key) in [
            ("apps", "eu-west-3", "http://localhost:8000", ""),
            ("arn:aws:dynamodb:us-east-1:123456789012:table/apps", "us-gov-east-1", "", ""),
            ("a", "us-east-1", "", "dynamodb.table is \"a\""),
            ("my apps", "us-east-1", "", "dynamodb.table is \"my apps\""),
            ("apps", "x.example/", "", "dynamodb.region is \"x.example/\""),
            ("apps", "", "", "dynamodb.region is \"\""),
            ("apps", "us-east-1", "localhost:8000", "dynamodb.endpoint is \"localhost:8000\""),
            ("apps", "us-east-1", "http://a b", "dynamodb.endpoint is \"http://a b\""),
        ] {
            let [table, region, endpoint] = [table, region, endpoint].map(str::to_owned);
            let mut faults = FaultList::default();
            Dynamodb { table, region, endpoint }.validate(&mut faults);
            let found = sentences(&faults.0);
            assert_eq!(found.len(), usize::from(!key.is_empty()), "{found:?}");
            assert!(found.iter().all(|fault| fault.starts_with(key)), "{found:?}");
        }
    }
}
