//! The connections of known users on a channel: how far each has confirmed its events, and from where one that returns
//! goes on. `channel` keeps them; a shard confirms.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use indexmap::IndexSet;
use parking_lot::Mutex;

use crate::history::log::Position;
use crate::history::totals::CountedPlace;
use crate::history::totals::HistoryTotals;
use crate::protocol::socket_id::SocketId;

/// Places that are kept for one user: as many tabs as may be cut off at once.
const LEFT_MAX: usize = 64;
/// Open connections of one user that are looked at when another one joins.
const OPEN_MAX: usize = 64;
/// A client that lives answers sooner, as far as it gets anything at all.
const SILENCE: Duration = Duration::from_secs(3);

/// How far the client of a connection has confirmed the events of one channel.
#[derive(Debug)]
pub struct Reader {
    /// The last event that it was sent when it joined.
    joined_at: AtomicU64,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    confirmed: Place,
    /// When the client was asked to confirm, if it has not answered.
    asked_at: Option<Instant>,
}

/// A place in the events of a channel, and when it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The last event that arrived.
    pub position: Position,
    /// When that was known.
    pub since: Instant,
}

/// The connections of known users.
#[derive(Debug)]
pub(super) struct Readers {
    open: HashMap<SocketId, Open>,
    users: HashMap<Arc<str>, Places>,
    of_app: Arc<HistoryTotals>,
}

#[derive(Debug)]
struct Open {
    user: Arc<str>,
    reader: Arc<Reader>,
    taken: Taken,
    written: Written,
    /// Redis may have moved the place of an earlier connection to this one, and its answer was lost.
    is_unsure: bool,
}

/// The state of a place that the other nodes know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// None.
    Nothing,
    /// The connection has everything that the node has reported for all its connections.
    Follows,
    /// The connection has everything up to this shared number.
    At(u64),
}

/// Whether another connection of the user has gone on from the place of this one, which was still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    No,
    /// The other one has got everything up to here. This one may be another tab, which lives.
    UpTo(Place),
    /// This one had not answered for long: it is cut off, unless it confirms more than this.
    Silent(Position),
}

/// The connections of a user, and the places of those that were cut off.
#[derive(Debug, Default)]
struct Places {
    open: IndexSet<SocketId>,
    left: Vec<Left>,
}

#[derive(Debug)]
struct Left {
    socket_id: SocketId,
    place: Place,
    at: Instant,
    written: bool,
    /// As in [`Open`].
    is_unsure: bool,
    /// Another connection has gone on from here, and this one has confirmed nothing since: most likely it was cut off
    /// before. The place counts only if there is no other, or each return would bring what the last one brought.
    is_doubtful: bool,
    _counted: CountedPlace,
}

/// A place that differs from that which the other nodes know.
#[derive(Debug, Clone, Copy)]
pub(super) enum Differing<'a> {
    /// Of an open connection, which has everything that the node reports or not.
    Open { user: &'a Arc<str>, socket_id: SocketId, place: Place, written: Written, follows: bool },
    /// Of one that was cut off.
    Left { user: &'a Arc<str>, socket_id: SocketId, place: Place, is_unsure: bool },
}

/// The place from which a connection goes on, and the connection that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predecessor {
    pub(super) socket_id: SocketId,
    pub(super) place: Place,
}

impl Reader {
    fn new(joined_at: Position, confirmed: Place) -> Arc<Self> {
        let joined_at = AtomicU64::new(joined_at);
        Arc::new(Self { joined_at, progress: Mutex::new(Progress { confirmed, asked_at: None }) })
    }

    /// The last event that it was sent when it joined.
    pub fn joined_at(&self) -> Position {
        self.joined_at.load(Ordering::Relaxed)
    }

    /// Events have got other places, so many further on.
    fn shift(&self, by: u64) {
        self.joined_at.fetch_add(by, Ordering::Relaxed);
        self.progress.lock().confirmed.position += by;
    }

    /// The client has been asked to confirm what it was sent.
    pub fn ask(&self, now: Instant) {
        self.progress.lock().asked_at.get_or_insert(now);
    }

    /// Everything up to this place has arrived.
    pub fn confirm(&self, position: Position, now: Instant) {
        let mut progress = self.progress.lock();
        progress.asked_at = None;
        if position >= progress.confirmed.position {
            progress.confirmed = Place { position, since: now };
        }
    }

    /// No more than this is certain to have arrived, since a gap has to arrive first.
    pub(super) fn set_back(&self, place: Place) {
        self.progress.lock().confirmed = place;
    }

    /// The last event that is known to have arrived.
    pub fn confirmed(&self) -> Place {
        self.progress.lock().confirmed
    }

    /// Whether the client has left a question unanswered for so long that it may have got nothing since.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.progress.lock().asked_at.is_some_and(|asked_at| now.saturating_duration_since(asked_at) >= SILENCE)
    }
}

impl Readers {
    /// None so far. The places that connections leave count for the app.
    pub(super) fn new(of_app: Arc<HistoryTotals>) -> Self {
        Self { open: HashMap::new(), users: HashMap::new(), of_app }
    }

    /// Whether there is neither a connection nor a place.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether this connection is one of them.
    pub(super) fn has(&self, socket_id: SocketId) -> bool {
        self.open.contains_key(&socket_id)
    }

    /// Adds a connection that has been sent everything up to `last`, after `from`.
    pub(super) fn open(&mut self, user: &Arc<str>, socket_id: SocketId, from: Place, last: Position) -> Arc<Reader> {
        let reader = Reader::new(last, from);
        self.users.entry(Arc::clone(user)).or_default().open.insert(socket_id);
        let (user, taken, written) = (Arc::clone(user), Taken::No, Written::Nothing);
        self.open.insert(socket_id, Open { user, reader: Arc::clone(&reader), taken, written, is_unsure: false });
        reader
    }

    /// Takes the place of one connection of this user, which was cut off or is still open.
    pub(super) fn take_of(
        &mut self,
        user: &str,
        socket_id: SocketId,
        (last, now): (Position, Instant),
    ) -> Option<Predecessor> {
        if let Some(place) = self.open.get(&socket_id).and_then(Open::place) {
            return Some(self.taken(Predecessor { socket_id, place }, last, now));
        }
        let places = self.users.get_mut(user)?;
        let index = places.left.iter().position(|left| left.socket_id == socket_id)?;
        let place = places.left.swap_remove(index).place;
        self.forget_if_empty(user);
        Some(Predecessor { socket_id, place })
    }

    /// The connection, if it is one of them.
    pub(super) fn reader(&self, socket_id: SocketId) -> Option<Arc<Reader>> {
        self.open.get(&socket_id).map(|open| Arc::clone(&open.reader))
    }

    /// Redis may have moved an earlier place to this connection, or it is certain what it has done.
    pub(super) fn set_unsure(&mut self, socket_id: SocketId, is_unsure: bool) {
        if let Some(open) = self.open.get_mut(&socket_id) {
            open.is_unsure = is_unsure;
        }
    }

    /// Whether that is so.
    pub(super) fn is_unsure(&self, socket_id: SocketId) -> bool {
        self.open.get(&socket_id).is_some_and(|open| open.is_unsure)
    }

    /// The other nodes know this of the place of a connection.
    pub(super) fn set_written(&mut self, user: &str, socket_id: SocketId, written: Written) {
        if let Some(open) = self.open.get_mut(&socket_id) {
            open.written = written;
        } else if let Some(places) = self.users.get_mut(user) {
            places.left.iter_mut().filter(|left| left.socket_id == socket_id).for_each(|left| left.written = true);
        }
    }

    /// Events have got other places, so many further on.
    pub(super) fn shift(&mut self, by: u64) {
        for open in self.open.values_mut() {
            open.reader.shift(by);
            match &mut open.taken {
                Taken::No => (),
                Taken::UpTo(Place { position, .. }) | Taken::Silent(position) => *position += by,
            }
        }
        self.users.values_mut().flat_map(|places| &mut places.left).for_each(|left| left.place.position += by);
    }

    /// The other nodes may know nothing any more.
    pub(super) fn forget_written(&mut self) {
        self.open.values_mut().for_each(|open| open.written = Written::Nothing);
        self.users.values_mut().flat_map(|places| &mut places.left).for_each(|left| left.written = false);
    }

    /// The places that differ from those that the other nodes know. A connection follows the node that has confirmed
    /// everything up to `followed`.
    pub(super) fn differing(&self, followed: Position) -> impl Iterator<Item = Differing<'_>> {
        let open = self.open.iter().filter_map(move |(socket_id, open)| {
            let place = open.reader.confirmed();
            let follows = place.position >= followed;
            let is_known = follows && open.written == Written::Follows;
            (!is_known).then_some(Differing::Open {
                user: &open.user,
                socket_id: *socket_id,
                place,
                written: open.written,
                follows,
            })
        });
        let left = self.users.iter().flat_map(|(user, places)| places.left.iter().map(move |left| (user, left)));
        let left = left.filter(|(_, left)| !left.written).map(|(user, left)| Differing::Left {
            user,
            socket_id: left.socket_id,
            place: left.place,
            is_unsure: left.is_unsure,
        });
        left.chain(open)
    }

    /// Takes the oldest place from which a connection of this user may go on, a doubtful one only if there is no other.
    /// A connection that is still open may be cut off without the server knowing: its place counts as long as events
    /// after it are not confirmed.
    ///
    /// Places are forgotten after a time, and of the open connections only those count that `may_be_cut`.
    pub(super) fn take(
        &mut self,
        user: &str,
        last: Position,
        (time, now): (Duration, Instant),
        may_be_cut: impl Fn(&Reader) -> bool,
    ) -> Option<Predecessor> {
        let places = self.users.get_mut(user)?;
        places.forget_old(time, now);
        let oldest_left = |is_doubtful| {
            let left = places.left.iter().enumerate().filter(|(_, left)| left.is_doubtful == is_doubtful);
            let (index, left) = left.min_by_key(|(_, left)| left.place.position)?;
            Some((index, Predecessor { socket_id: left.socket_id, place: left.place }))
        };
        let unconfirmed = |socket_id: &SocketId, is_doubtful| {
            let open = self.open.get(socket_id).filter(|open| may_be_cut(&open.reader))?;
            let place = open.place().filter(|place| place.position < last && open.is_doubtful() == is_doubtful)?;
            Some(Predecessor { socket_id: *socket_id, place })
        };
        let oldest_open = |is_doubtful| {
            let open = places.open.iter().take(OPEN_MAX).filter_map(|socket_id| unconfirmed(socket_id, is_doubtful));
            open.min_by_key(|open| open.place.position)
        };
        let (left, open) = match (oldest_left(false), oldest_open(false)) {
            (None, None) => (oldest_left(true), oldest_open(true)),
            certain => certain,
        };
        match (left, open) {
            (Some((_, left)), Some(open)) if open.place.position < left.place.position => {
                Some(self.taken(open, last, now))
            }
            (Some((index, left)), _) => {
                places.left.swap_remove(index);
                self.forget_if_empty(user);
                Some(left)
            }
            (None, Some(open)) => Some(self.taken(open, last, now)),
            (None, None) => None,
        }
    }

    fn taken(&mut self, predecessor: Predecessor, last: Position, now: Instant) -> Predecessor {
        if let Some(open) = self.open.get_mut(&predecessor.socket_id) {
            open.taken = match open.reader.is_silent(now) {
                true => Taken::Silent(open.reader.confirmed().position),
                false => Taken::UpTo(Place { position: last, since: now }),
            };
        }
        predecessor
    }

    /// A connection has left. One that was cut off leaves its place, unless another has gone on from there. Returns its
    /// user, and how far it had got.
    pub(super) fn leave(&mut self, socket_id: SocketId, is_cut: bool, now: Instant) -> Option<(Arc<str>, Arc<Reader>)> {
        let open = self.open.remove(&socket_id)?;
        let places = self.users.get_mut(&open.user)?;
        places.open.swap_remove(&socket_id);
        if let Some((place, is_doubtful)) = open.place_if_cut(now).filter(|_| is_cut) {
            if places.left.len() == LEFT_MAX
                && let Some(newest) = (0..LEFT_MAX).max_by_key(|index| places.left[*index].place.position)
            {
                // The oldest place has everything that the others have.
                places.left.swap_remove(newest);
            }
            if let Some(counted) = self.of_app.count_place() {
                let is_unsure = open.is_unsure;
                let at = now;
                places.left.push(Left {
                    socket_id,
                    place,
                    at,
                    written: false,
                    is_unsure,
                    is_doubtful,
                    _counted: counted,
                });
            }
        }
        self.forget_if_empty(&open.user);
        Some((open.user, open.reader))
    }

    /// Forgets places that were left so long ago.
    pub(super) fn forget_old(&mut self, time: Duration, now: Instant) {
        self.users.retain(|_, places| {
            places.forget_old(time, now);
            !places.open.is_empty() || !places.left.is_empty()
        });
    }

    fn forget_if_empty(&mut self, user: &str) {
        if self.users.get(user).is_some_and(|places| places.open.is_empty() && places.left.is_empty()) {
            self.users.remove(user);
        }
    }
}

impl Open {
    /// The place from which the user would go on; `None` if another connection has.
    fn place(&self) -> Option<Place> {
        let confirmed = self.reader.confirmed();
        match self.taken {
            Taken::Silent(position) if position == confirmed.position => None,
            Taken::UpTo(place) if place.position > confirmed.position => Some(place),
            _ => Some(confirmed),
        }
    }

    /// Whether another connection has gone on from here, and this one has confirmed nothing since.
    fn is_doubtful(&self) -> bool {
        matches!(self.taken, Taken::UpTo(place) if place.position > self.reader.confirmed().position)
    }

    /// The place that a connection leaves when it is cut off, and whether it is doubtful. A silent one whose place
    /// another connection has taken leaves none: it was cut off before.
    fn place_if_cut(&self, now: Instant) -> Option<(Place, bool)> {
        let place = self.place()?;
        let is_doubtful = self.is_doubtful();
        (!is_doubtful || !self.reader.is_silent(now)).then_some((place, is_doubtful))
    }
}

impl Places {
    /// Forgets what was left so long ago.
    fn forget_old(&mut self, time: Duration, now: Instant) {
        self.left.retain(|left| now.saturating_duration_since(left.at) <= time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_another_connection_took_is_the_last_choice() {
        let (now, time) = (Instant::now(), Duration::from_secs(60));
        let mut readers = Readers::new(Arc::default());
        let user: Arc<str> = "siti".into();
        let [first, second] = [SocketId::random(), SocketId::random()];
        let take = |readers: &mut Readers, last| readers.take("siti", last, (time, now), |_| true);

        readers.open(&user, first, Place { position: 0, since: now }, 0);
        let taken = take(&mut readers, 10).unwrap();
        assert_eq!(taken.socket_id, first);
        let reader = readers.open(&user, second, taken.place, 10);
        readers.leave(first, true, now);
        reader.confirm(20, now);
        readers.leave(second, true, now);

        let mut left = || take(&mut readers, 30).map(|left| (left.socket_id, left.place.position));
        assert_eq!(left(), Some((second, 20)));
        assert_eq!(left(), Some((first, 10)));
        assert_eq!(left(), None);
    }

    #[test]
    fn a_place_that_was_taken_is_the_last_choice_while_its_connection_is_open_as_well() {
        let (now, time) = (Instant::now(), Duration::from_secs(60));
        let mut readers = Readers::new(Arc::default());
        let user: Arc<str> = "siti".into();
        let [first, second] = [SocketId::random(), SocketId::random()];

        readers.open(&user, first, Place { position: 0, since: now }, 0);
        let taken = readers.take("siti", 10, (time, now), |_| true).unwrap();
        let reader = readers.open(&user, second, taken.place, 10);
        reader.confirm(20, now);
        readers.leave(second, true, now);

        let next = readers.take("siti", 30, (time, now), |_| true).unwrap();
        assert_eq!((next.socket_id, next.place.position), (second, 20));
    }
}
