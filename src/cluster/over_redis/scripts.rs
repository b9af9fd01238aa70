//! The scripts that a link calls, and how events get into their arguments.
//! `link` loads them; `commands` and `history` call them.

use redis::RedisWrite;
use redis::ToRedisArgs;

use crate::protocol::envelope::Encoding;

/// The scripts of one link, by the hashes that Redis has given them.
#[derive(Debug, Clone)]
pub(super) struct Scripts {
    pub(super) member: String,
    pub(super) cache: String,
    pub(super) last_events: String,
    pub(super) append: String,
    pub(super) places: String,
    pub(super) lease: String,
    /// `PUBLISH` or `SPUBLISH`.
    pub(super) publish: &'static str,
}

/// Writes an event right into a command.
pub(super) struct Encoded<'a>(pub(super) &'a Encoding<'a>);

impl ToRedisArgs for Encoded<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        self.0.write_to(&mut out.writer_for_next_arg()).expect("a command takes every byte");
    }
}
