//! NATS as gema's configuration names it: whether it lets gema in, passes messages on, and has JetStream.
//! `doctor` runs it where the configuration is known. It stores nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::doctor::cause::Cause;
use crate::cli::doctor::report::Step;
use crate::config::ClusterDriver;
use crate::config::Config;
use crate::nats::connection::NatsConnection;
use crate::nats::connection::with_causes;
use crate::nats::error::NatsError;
use crate::nats::error::NatsErrorKind;
use crate::nats::subjects::Subjects;
use crate::nats::subscriber::Subscriber;
use crate::nats::wire::Message;

const STEP: &str = "nats";
/// How long a message to itself may take.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// Tests NATS, if the nodes meet in it.
pub(super) async fn check(config: &Config) -> Option<Step> {
    let place = config.nats.place();
    let tried = match config.cluster.driver {
        ClusterDriver::Nats => try_all(config).await,
        _ => return None,
    };
    Some(match tried {
        Ok(None) => Step::passed(STEP, format!("{place} does what gema needs")),
        Ok(Some(cause)) => Step::failed(STEP, cause, place),
        Err(error) => failed(&error, &place),
    })
}

/// Does what gema does: listens to a subject of its own, publishes there, and asks JetStream. Returns what is missing.
async fn try_all(config: &Config) -> Result<Option<Cause>, NatsError> {
    let (options, lost) = (&config.nats, CancellationToken::new());
    let subject = format!("{}.doctor", Subjects::new(&config.cluster.name, &options.prefix).start());
    let heard = Arc::new(Notify::new());
    let pass_on = {
        let heard = Arc::clone(&heard);
        move |_: &Message<'_>| heard.notify_one()
    };
    let subscriber = Subscriber::open_on(&Handle::current(), options, "doctor", lost.clone(), pass_on).await?;
    let connection = NatsConnection::open(options, "doctor", lost).await?;
    subscriber.subscribe(&subject, 1);
    subscriber.settled().await?;
    connection.publish(subject, Bytes::new()).await?;
    if timeout(ROUND_TRIP, heard.notified()).await.is_err() {
        return Ok(Some(Cause::NatsRights));
    }
    let stream = connection.context().stream_names().next().await.transpose();
    stream.map(|_| None).map_err(|error| NatsError::of("asking JetStream", with_causes(&error)))
}

fn failed(error: &NatsError, place: &str) -> Step {
    let cause = match error.kind() {
        Some(NatsErrorKind::NoJetStream) => Cause::NatsNoJetStream,
        Some(NatsErrorKind::Password) => Cause::NatsPassword,
        Some(NatsErrorKind::Rights) => Cause::NatsRights,
        Some(NatsErrorKind::Unreachable) => Cause::NatsUnreachable,
        Some(NatsErrorKind::Certificate | NatsErrorKind::Full | NatsErrorKind::TooManyCopies) | None => {
            Cause::NatsFailed
        }
    };
    let advice = error.advice().map_or(String::new(), |advice| format!("; {advice}"));
    Step::failed(STEP, cause, format!("{place}: {}{advice}", error.0.replace(char::is_control, " ")))
}
