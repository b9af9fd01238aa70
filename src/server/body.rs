//! A request's body, and what was not read of it when there is an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use parking_lot::Mutex;

/// What is left of a body is read for the sake of the next request if it is no more than this, …
const REST_BYTES_MAX: u64 = 64 * 1024;
/// … and comes within this time.
const REST_TIME: Duration = Duration::from_millis(100);

/// What was not read of the body of a connection's present request.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(Arc<Mutex<Rest>>);

#[derive(Debug, Default)]
struct Rest {
    body: Option<Incoming>,
    is_left: bool,
}

/// A body that leaves behind what nobody wants to read of it.
#[derive(Debug)]
pub(super) struct Watched {
    body: Option<Incoming>,
    unread: Unread,
}

impl Unread {
    /// The present request's body.
    pub(super) fn watch(&self, body: Incoming) -> Watched {
        Watched { body: Some(body), unread: self.clone() }
    }

    /// Reads what is short and on its way already; a client that waits to be asked for it is not asked any more. False
    /// when something is left.
    pub(super) async fn read(&self, waits: bool) -> bool {
        let Some(mut body) = self.0.lock().body.take() else { return true };
        let is_short = body.size_hint().upper().is_some_and(|rest| rest <= REST_BYTES_MAX);
        let rest = async { while body.frame().await.is_some() {} };
        let is_read = is_short && !waits && tokio::time::timeout(REST_TIME, rest).await.is_ok();
        self.0.lock().is_left = !is_read;
        is_read
    }

    /// Whether the connection ends with something left, which still comes.
    pub(super) fn is_left(&self) -> bool {
        self.0.lock().is_left
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.unread.0.lock().body = Some(body);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if frame.is_none() {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
