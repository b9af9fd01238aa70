//! The operator's page on the metrics port.

use serde::{Deserialize, Serialize};

use crate::config::fault::FaultList;
use crate::config::settings::values::Secret;

/// Characters of a token at least: one that is guessed at 5 attempts a minute holds for longer than any server.
const TOKEN_CHARS_MIN: usize = 16;

/// The operator's page on the metrics port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dashboard {
    /// Lets a viewer in. Without it and `operator_token` there is no page.
    pub token: Secret,
    /// Lets an operator in, who may also publish, disconnect, drain and change the log.
    pub operator_token: Secret,
    /// Whether the page shows the data of events and members.
    pub payloads: bool,
}

impl Dashboard {
    /// Whether there is a page.
    pub fn is_on(&self) -> bool {
        !(self.token.is_empty() && self.operator_token.is_empty())
    }

    pub(in crate::config) fn validate(&self, faults: &mut FaultList) {
        for (key, token) in [("dashboard.token", &self.token), ("dashboard.operator_token", &self.operator_token)] {
            let chars = token.expose_text().chars().count();
            faults.add_if(
                !token.is_empty() && chars < TOKEN_CHARS_MIN,
                key,
                format!(
                    "has {chars} characters; give it {TOKEN_CHARS_MIN} or more, such as openssl rand -hex 16 prints"
                ),
            );
            faults.add_if(
                !token.is_trimmed(),
                key,
                "begins or ends with white space, which nobody can type into the page; remove it",
            );
        }
        faults.add_if(
            !self.token.is_empty() && self.token == self.operator_token,
            "dashboard.operator_token",
            "is the same as dashboard.token, so each viewer would be an operator; give it another value",
        );
    }
}
