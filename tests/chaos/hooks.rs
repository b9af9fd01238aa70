//! What the applications' other side gets.

use serde_json::Value;
use support::receiver::Received;
use tokio::sync::mpsc::UnboundedReceiver;

use gema::protocol::signature::Signer;

use crate::history::Name;
use crate::history::Recorder;
use crate::history::What;
use crate::publisher;
use crate::world::APPS;

/// Takes down all requests.
pub async fn take(mut requests: UnboundedReceiver<Received>, recorder: Recorder) {
    while let Some(request) = requests.recv().await {
        match posted(&request) {
            Some(all) => all.into_iter().for_each(|what| recorder.record(what)),
            None => recorder.fault(format!("a webhook that cannot be: {} {}", request.head, request.body)),
        }
    }
}

/// The events of a request, if it is signed by the app that it is for.
fn posted(request: &Received) -> Option<Vec<What>> {
    let path = request.head.split(' ').nth(1)?.strip_prefix('/')?;
    let app = APPS.iter().position(|app| app.id == path)?;
    let signature = Signer::new(APPS[app].secret.as_bytes()).sign(&[request.body.as_bytes()]);
    let signed = request.header("X-Pusher-Key")? == APPS[app].key && request.header("X-Pusher-Signature")? == signature;
    let body: Value = serde_json::from_str(&request.body).ok().filter(|_| signed)?;
    let one = |hook: &Value| {
        let kind = Name::from(hook["name"].as_str()?);
        let event = match &*kind {
            "client_event" => Some(publisher::event(app, hook["data"].as_str()?)?),
            _ => None,
        };
        // That of a client event only says who has sent it.
        let user = hook["user_id"].as_str().filter(|_| event.is_none()).map(Name::from);
        Some(What::Posted { app, kind, channel: hook["channel"].as_str()?.into(), user, event })
    };
    body["events"].as_array()?.iter().map(one).collect()
}
