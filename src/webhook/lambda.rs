//! Webhooks to functions of AWS Lambda: the same body and headers as for a URL, as the function's event.
//! `client` calls it. Only in builds with the feature `aws`.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::Credentials;
use aws_sdk_lambda::config::Region;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde_json::Value as Json;
use tokio::sync::OnceCell;

use crate::aws;
use crate::aws::AwsError;
use crate::aws::BoundedAnswer;
use crate::aws::Place;
use crate::aws::Remedy;
use crate::config::Function;
use crate::config::Secret;
use crate::webhook::endpoint::Request;
use crate::webhook::guard;

const REMEDIES: &[Remedy] = &[
    ("ResourceNotFound", "correct lambda_function or lambda.region of the webhook, or create the function"),
    ("AccessDenied", "allow lambda:InvokeFunction on the function"),
];
/// Each function has a place of its own.
const ANY: Place<'_> = Place { region: "us-east-1", endpoint: "" };
/// Errors that the same request meets again.
const FINAL: [&str; 3] = ["RequestTooLarge", "InvalidRequestContent", "UnsupportedMediaType"];

/// Why a function did not accept a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvokeError {
    #[error("{0}")]
    Refused(AwsError),
    #[error("the function fails: {0}")]
    Failed(String),
    #[error(transparent)]
    Private(#[from] guard::PrivateAddress),
}

impl InvokeError {
    /// Whether the same request fails again, however often it is sent.
    pub(super) fn is_final(&self) -> bool {
        let code = if let Self::Refused(error) = self { error.code.as_deref() } else { None };
        code.is_some_and(|code| FINAL.iter().any(|known| code.starts_with(known)))
    }
}

/// Invokes functions.
#[derive(Debug)]
pub(super) struct Functions {
    timeout: Duration,
    public_only: bool,
    /// Made at the first invocation.
    settings: OnceCell<SdkConfig>,
}

impl Functions {
    pub(super) fn new(timeout: Duration, public_only: bool) -> Self {
        Self { timeout, public_only, settings: OnceCell::new() }
    }

    /// Invokes a function once, and returns the status. A function that fails has not accepted the request.
    pub(super) async fn invoke(
        &self,
        function: &Function,
        headers: &[(String, String)],
        request: &Request,
    ) -> Result<u16, InvokeError> {
        if self.public_only && !function.endpoint.is_empty() {
            return Err(guard::PrivateAddress.into());
        }
        let kind = if function.asynchronous { InvocationType::Event } else { InvocationType::RequestResponse };
        let invoke = self.client(function).await.invoke().function_name(&function.name).invocation_type(kind);
        let answer = invoke.payload(Blob::new(payload(&request.body, headers))).send().await;
        let answer = answer.map_err(|error| InvokeError::Refused(AwsError::new(&error, REMEDIES)))?;
        match answer.function_error() {
            Some(error) => Err(InvokeError::Failed(error.chars().take(64).collect())),
            None => Ok(u16::try_from(answer.status_code()).unwrap_or(200)),
        }
    }

    /// A client for the function's place. All share connections and credentials, unless the webhook has some.
    async fn client(&self, function: &Function) -> Client {
        let settings = async || aws::settings(ANY, self.timeout, 1).await;
        let settings = self.settings.get_or_init(settings).await;
        let mut own = aws_sdk_lambda::config::Builder::from(settings)
            .region(Region::new(function.region.clone()))
            .interceptor(BoundedAnswer);
        if !function.endpoint.is_empty() {
            own = own.endpoint_url(&function.endpoint);
        }
        if let Some(keys) = &function.credentials {
            let token = Some(&keys.session_token).filter(|token| !token.is_empty()).map(Secret::expose_text);
            let (id, secret) = (keys.access_key_id.as_str(), keys.secret_access_key.expose_text());
            own = own.credentials_provider(Credentials::new(id, secret, token.map(str::to_owned), None, "webhook"));
        }
        Client::from_conf(own.build())
    }
}

/// The function's event. The body is JSON already, and stays to the byte what was signed.
fn payload(body: &[u8], headers: &[(String, String)]) -> Vec<u8> {
    let headers: serde_json::Map<String, Json> =
        headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    [br#"{"payload":"#, body, br#","headers":"#, Json::Object(headers).to_string().as_bytes(), b"}"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_event_has_the_body_as_it_was_signed() {
        let headers = [("X-Pusher-Key".to_owned(), "k\"".to_owned())];
        let payload = payload(br#"{"time_ms":1,"events":[]}"#, &headers);
        assert_eq!(
            String::from_utf8(payload).unwrap(),
            r#"{"payload":{"time_ms":1,"events":[]},"headers":{"X-Pusher-Key":"k\""}}"#
        );
    }
}
