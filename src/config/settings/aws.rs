//! Where AWS' services are. Credentials are no settings: AWS' own variables, profiles and roles have them.

use reqwest::Url;

use crate::config::fault::FaultList;
use crate::config::settings::section;

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
