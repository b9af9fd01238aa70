//! Request bodies, and the rest of a body that a handler did not read.
//! `listen` wraps each body, so that an early response is not lost in a reset.

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

/// The rest of a body is read, so that the connection can go on, if it is at most this large …
const REST_BYTES_MAX: u64 = 64 * 1024;
/// … and comes within this time.
const REST_TIME: Duration = Duration::from_millis(100);

/// The unread rest of the body of a connection's present request.
#[derive(Debug, Clone, Default)]
pub(super) struct UnreadBody(Arc<Mutex<Rest>>);

#[derive(Debug, Default)]
struct Rest {
    body: Option<Incoming>,
    is_left: bool,
}

/// A body that leaves its unread rest in `unread`.
#[derive(Debug)]
pub(super) struct WatchedBody {
    body: Option<Incoming>,
    unread: UnreadBody,
}

impl UnreadBody {
    /// Wraps the present request's body.
    pub(super) fn watch(&self, body: Incoming) -> WatchedBody {
        WatchedBody { body: Some(body), unread: self.clone() }
    }

    /// Reads a short rest that is on its way. A client that waits for `100 Continue` is not asked for it. False when
    /// something is left.
    pub(super) async fn read(&self, waits: bool) -> bool {
        let Some(mut body) = self.0.lock().body.take() else { return true };
        let is_short = body.size_hint().upper().is_some_and(|rest| rest <= REST_BYTES_MAX);
        let rest = async { while body.frame().await.is_some() {} };
        let is_read = is_short && !waits && tokio::time::timeout(REST_TIME, rest).await.is_ok();
        self.0.lock().is_left = !is_read;
        is_read
    }

    /// Whether a rest is left, which the client may still send.
    pub(super) fn is_left(&self) -> bool {
        self.0.lock().is_left
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            self.unread.0.lock().body = Some(body);
        }
    }
}

impl Body for WatchedBody {
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
