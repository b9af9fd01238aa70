//! An answer of AWS within bounds: no longer and no deeper than any that there is, whoever answers.
//! Each client has it as an interceptor.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use aws_sdk_dynamodb::config::ConfigBag;
use aws_sdk_dynamodb::config::Intercept;
use aws_sdk_dynamodb::config::RuntimeComponents;
use aws_sdk_dynamodb::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hyper::body::Body;
use hyper::body::Frame;

/// Two of DynamoDB's largest items, or SQS' largest batch, with each byte escaped.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// DynamoDB nests 32 values, each of which is a group within a group here. AWS' own code reads them one within the
/// other, so a deep answer would use up the stack.
const DEPTH_MAX: usize = 128;

/// Ends answers beyond the bounds with an error.
#[derive(Debug)]
pub(crate) struct BoundedAnswer;

impl Intercept for BoundedAnswer {
    fn name(&self) -> &'static str {
        "BoundedAnswer"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let inner = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(BoundedBody { inner, bytes: 0, nesting: Nesting::default() });
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer is longer or deeper than any of AWS")]
struct TooMuch;

struct BoundedBody {
    inner: SdkBody,
    bytes: usize,
    nesting: Nesting,
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let data = data.cloned().unwrap_or_default();
        self.bytes += data.len();
        if self.bytes > BYTES_MAX || self.nesting.after(&data) > DEPTH_MAX {
            return Poll::Ready(Some(Err(TooMuch.into())));
        }
        Poll::Ready(frame)
    }
}

/// How deep a text of JSON is nested so far.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    deepest: usize,
    in_text: bool,
    is_escaped: bool,
}

impl Nesting {
    /// The deepest nesting after these bytes.
    fn after(&mut self, bytes: &[u8]) -> usize {
        for byte in bytes {
            match byte {
                _ if std::mem::take(&mut self.is_escaped) => (),
                b'\\' if self.in_text => self.is_escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => {
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                }
                b'}' | b']' if !self.in_text => self.depth = self.depth.saturating_sub(1),
                _ => (),
            }
        }
        self.deepest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_counts_groups_and_lists_but_not_what_texts_contain() {
        for (text, depth) in
            [(r"{}", 1), (r#"{"a":["{[\"[{",{}]}"#, 3), ("[[],[[]],[]]", 3), (r#""\\\"[" [ "#, 1), ("]]]]", 0)]
        {
            let mut nesting = Nesting::default();
            let all = text.as_bytes().chunks(2).map(|part| nesting.after(part)).last();
            assert_eq!(all, Some(depth), "{text}");
        }
    }
}
