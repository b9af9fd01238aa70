//! Questions between the pages of a cluster's nodes, over the bus.
//! `state`, `history`, `connections` and `act` ask; `Dashboard::run_with_others` answers.

use std::time::Duration;
use std::time::Instant;

use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::poll_fn;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::dashboard::Dashboard;
use crate::dashboard::answer::Failure;
use crate::dashboard::connections;
use crate::protocol::envelope::NodeId;
use crate::protocol::envelope::PageMessage;
use crate::registry::connections::Wanted;

/// Questions that are answered at once, so that a long search does not hold up the others.
const ANSWERS_AT_ONCE: usize = 16;
/// How long an answer may take. Nobody waits for it longer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The answer of a node whose own settings let no operator act.
const NO_OPERATOR: &str = "no_operator_token";

impl Dashboard {
    /// Answers the questions of other pages, without end.
    pub(super) async fn answer_all(&self, cluster: &Cluster, mut questions: mpsc::Receiver<PageMessage>) {
        let answer = async |question: PageMessage| {
            let asked = serde_json::from_str(&question.text).unwrap_or_default();
            if let Ok(answer) = timeout(ANSWER_TIME, self.answer_other(question.node, &asked)).await {
                cluster.answer_page(&question, &answer.to_string());
            }
        };
        poll_fn(|context| questions.poll_recv(context)).for_each_concurrent(ANSWERS_AT_ONCE, answer).await;
    }

    /// The answer to another page, which has checked the role of whoever asks.
    async fn answer_other(&self, asker: NodeId, asked: &Value) -> Value {
        let limit = asked["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default();
        match asked["path"].as_str().unwrap_or_default() {
            // The other node's settings must not decide what may be done to this one.
            "close" | "drain" if self.config.dashboard.operator_token.is_empty() => json!({ "refused": NO_OPERATOR }),
            "state" => self.own_state(),
            "history" => self.own_history(asked["range"].as_str().unwrap_or_default()),
            "connections" => {
                let wanted: Wanted = serde_json::from_value(asked["wanted"].clone()).unwrap_or_default();
                self.own_connections(wanted, limit.min(connections::CONNECTIONS_MAX)).await
            }
            "close" => {
                let (app, socket) = (asked["app"].as_str(), asked["socket"].as_str());
                let closed = match app.zip(socket) {
                    Some((app, socket)) => self.close_own_socket(app, socket.to_owned()).await,
                    None => 0,
                };
                if closed > 0 {
                    tracing::info!(by = %asker, "an operator of another node closes connections");
                }
                json!({ "closed": closed })
            }
            "drain" => {
                tracing::info!(by = %asker, "an operator of another node drains this one");
                self.drain.cancel();
                json!({ "node": self.id() })
            }
            _ => Value::Null,
        }
    }

    /// Asks the page of another node. The answer is an object.
    pub(super) async fn ask(&self, node: &str, question: &Value) -> Result<Value, Failure> {
        let none = || Failure::not_found("There is no such node. State lists the ids of all nodes.");
        let id = NodeId::parse(node).ok_or_else(none)?;
        let cluster = self.node().cluster().ok_or_else(none)?;
        if !self.nodes.lock().is_known(id) {
            return Err(none());
        }
        let answer = cluster.ask_page(id, &question.to_string()).await;
        let answer = answer.and_then(|text| serde_json::from_str(&text).ok()).filter(Value::is_object);
        let answer: Value = answer.ok_or_else(|| {
            let text = "This node does not answer. It hangs, or has no dashboard.token of its own.";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(2)
        })?;
        match answer["refused"] == NO_OPERATOR {
            true => Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!("Node {node} lets no operator act: its own dashboard.operator_token is empty. Set it there."),
            )),
            false => Ok(answer),
        }
    }

    /// Asks the pages of all other nodes at once. Returns the answers, and the nodes that gave none with the reason.
    pub(super) async fn ask_all(&self, question: &Value) -> (Vec<Value>, Vec<(String, Failure)>) {
        let nodes = self.nodes.lock().asked(Instant::now());
        let ask = async |node: NodeId| (node, self.ask(&node.to_string(), question).await);
        let (mut answers, mut failed) = (Vec::new(), Vec::new());
        for (node, answer) in join_all(nodes.into_iter().map(ask)).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(failure) => failed.push((node.to_string(), failure)),
            }
        }
        (answers, failed)
    }
}
