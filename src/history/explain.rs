//! History rules in sentences, for the operator.
//! `cli` prints and logs them.

use crate::history::rule::HistoryRule;
use crate::history::rule::HistoryRules;
use crate::history::rule::Replay;
use crate::protocol::channel::Access;
use crate::protocol::channel::ChannelName;

impl HistoryRules {
    /// The rule of a channel in a sentence, and whose events it keeps.
    pub fn explain(&self, channel: &ChannelName) -> String {
        let Some(rule) = self.of_channel(channel) else {
            return "no history rule; a user who was cut off misses the events until the page is back".to_owned();
        };
        let kind = channel.kind();
        let known = match kind.access {
            _ if kind.presence => "every member is known",
            Access::Signed => "a user is known who has signed in, or whose user_id is in the signed channel_data",
            _ => "a user is known who has signed in",
        };
        format!("{}; {known}", rule.explain())
    }
}

impl HistoryRule {
    /// The rule in a sentence.
    ///
    /// ```
    /// use gema::history::rule::HistoryRule;
    /// let rule: HistoryRule = serde_json::from_str(r#"{"match":"orders.*","seconds":120}"#).unwrap();
    /// assert_eq!(
    ///     rule.explain(),
    ///     "history rule orders.* keeps the events of each channel for 120 s, at most 1000 events and 1048576 bytes: \
    ///      a known user who was cut off gets those that are missing"
    /// );
    /// ```
    pub fn explain(&self) -> String {
        let Self { pattern, seconds, events_max, bytes_max, replay } = self;
        let everybody = match replay {
            Replay::Returning => String::new(),
            Replay::Last(1) => "; everybody else who joins gets the last event".to_owned(),
            Replay::Last(count) => format!("; everybody else who joins gets the last {count} events"),
        };
        format!(
            "history rule {pattern} keeps the events of each channel for {seconds} s, at most {events_max} events and \
             {bytes_max} bytes: a known user who was cut off gets those that are missing{everybody}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_explained_for_each_kind_of_channel() {
        let rules = r#"[{"match":"a","seconds":5,"replay":{"last":10}},{"match":"b","seconds":5,"replay":{"last":1}}]"#;
        let rules = HistoryRules::new(&serde_json::from_str::<Vec<_>>(rules).unwrap());
        let explained = |name: &str| rules.explain(&ChannelName::parse(name, 200).unwrap());
        let of_a = "history rule a keeps the events of each channel for 5 s, at most 1000 events and 1048576 bytes: a \
                    known user who was cut off gets those that are missing; everybody else who joins gets the last 10 events";
        assert_eq!(explained("a"), format!("{of_a}; a user is known who has signed in"));
        assert_eq!(explained("presence-a"), format!("{of_a}; every member is known"));
        let signed = "a user is known who has signed in, or whose user_id is in the signed channel_data";
        assert_eq!(explained("private-encrypted-A"), explained("private-a"));
        assert_eq!(explained("private-a"), format!("{of_a}; {signed}"));
        assert!(explained("b").contains("; everybody else who joins gets the last event; "));
        for none in ["c", "#server-to-user-1"] {
            assert!(explained(none).starts_with("no history rule; "), "{none}");
        }
    }
}
