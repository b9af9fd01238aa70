//! Lists connections for the operator, a slice of the table at a time.
//! The shard calls it for a question in its inbox.

use crate::registry::address::Address;
use crate::registry::connections::ConnectionQuery;
use crate::registry::connections::ConnectionSlice;
use crate::shard::Shard;
use crate::shard::connection::index_of;

/// Connections that one question looks at, at least: some tens of microseconds.
const SLICE_MIN: usize = 512;
/// Slices of a large table. Each passes over those before it, so that many small ones would cost the square of the table.
const SLICES_MAX: usize = 32;

impl Shard {
    /// Answers about a slice of the connections.
    pub(super) fn list(&self, query: ConnectionQuery) {
        let ConnectionQuery { wanted, from, limit, reply } = query;
        let mut slice = ConnectionSlice::default();
        let slice_length = (self.connections.len() / SLICES_MAX).max(SLICE_MIN);
        let mut rest = self.connections.iter().skip_while(|(slot, _)| index_of(*slot) < from);
        for (slot, connection) in rest.by_ref().take(slice_length) {
            let Some(session) = connection.session().filter(|session| session.matches(&wanted)) else { continue };
            slice.total += 1;
            if slice.found.len() < limit {
                let mut info = session.info(Address { shard: self.index as u16, slot });
                info.age_seconds = u64::from(self.wheel.now().saturating_sub(connection.opened));
                info.waiting_bytes = connection.outbox.load().bytes;
                slice.found.push(info);
            }
        }
        slice.next = rest.next().map(|(slot, _)| index_of(slot));
        // The asker may have gone.
        let _ = reply.send(slice);
    }
}
