//! Exactly-once (protocol §9.3): replicated sessions of clients.
//!
//! Everything here is part of the state: the same blocks give the same sessions on all replicas,
//! evictions included, for nothing depends on a local clock or on hash order. Checkpoints see the
//! sessions by bucket, as [`Bucketed`] has it.

mod items;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use storage::state::{Bucketed, CellItems, Malformed, Versions, View};
use wire::canary::planted;
use wire::ids::{Digest, PublicKey, Sequence, SessionId, Slot};
use wire::limits::{CACHED_RESULT_BYTES_MAX, OPEN_LIFETIME_SLOTS, SESSION_WINDOW, SESSIONS_MAX};
use wire::reply::{Answer, result_digest};
use wire::state::{Bucket, Cell, CellMask};

/// A remembered result.
#[derive(Clone, Copy, Debug)]
struct Cached {
    slot: Slot,
    length: u8,
    /// The result itself, or its digest when `length` says so.
    bytes: [u8; CACHED_RESULT_BYTES_MAX],
}

/// Value of `length` when the bytes are a digest, and when nothing was executed.
const IS_DIGEST: u8 = 254;
const NOT_EXECUTED: u8 = 255;
const _: () = assert!(CACHED_RESULT_BYTES_MAX < IS_DIGEST as usize);

/// One client's session.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    /// Everything up to here was answered; replays of it are STALE.
    low: u64,
    /// Slot of the last execution; the least recent one is evicted first.
    last_slot: Slot,
    /// Cell of sequence s: s mod M; valid for s in (low, low + M].
    cached: Vec<Cached>,
    /// Generation of the last write; not part of the state.
    stamp: u32,
}

/// What to do with one transaction of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Execute,
    /// Executed before; its cached answer can be sent again.
    Repeat,
    /// Below the window: executed or given up long ago.
    Stale,
    /// Above the window: not executed; the client sent more than it may.
    TooFar,
}

impl Session {
    fn new(id: SessionId, slot: Slot) -> Session {
        let nothing = Cached {
            slot: Slot(0),
            length: NOT_EXECUTED,
            bytes: [0; 64],
        };
        Session {
            id,
            low: 0,
            last_slot: slot,
            cached: vec![nothing; SESSION_WINDOW as usize],
            stamp: 0,
        }
    }

    fn index(sequence: u64) -> usize {
        (sequence % SESSION_WINDOW) as usize
    }

    /// low := max(low, min(acked_low, first - 1)); cells that leave the window are freed.
    pub fn acknowledge(&mut self, acked: Sequence, first: Sequence) {
        let low = acked.0.min(first.0.saturating_sub(1));
        if low <= self.low {
            return;
        }
        let freed = (low - self.low).min(SESSION_WINDOW);
        for sequence in low - freed + 1..=low {
            self.cached[Session::index(sequence)].length = NOT_EXECUTED;
        }
        self.low = low;
    }

    pub fn decide(&self, sequence: Sequence) -> Decision {
        if sequence.0 <= self.low {
            Decision::Stale
        } else if sequence.0 - self.low > SESSION_WINDOW {
            Decision::TooFar
        } else if self.cached[Session::index(sequence.0)].length == NOT_EXECUTED
            || planted("bothrun")
        {
            Decision::Execute
        } else {
            Decision::Repeat
        }
    }

    /// Whether a request that begins at `first` and acknowledges so much would execute this one now.
    pub fn would_execute(&self, acked: Sequence, first: Sequence, sequence: Sequence) -> bool {
        let low = self.low.max(acked.0.min(first.0.saturating_sub(1)));
        // Above the present window nothing was executed yet.
        let new = || sequence.0 - self.low > SESSION_WINDOW;
        sequence.0 > low
            && sequence.0 - low <= SESSION_WINDOW
            && (new() || self.decide(sequence) == Decision::Execute)
    }

    /// Remembers the result of an executed transaction.
    pub fn remember(&mut self, sequence: Sequence, slot: Slot, result: &[u8]) {
        debug_assert_eq!(self.decide(sequence), Decision::Execute);
        let cell = &mut self.cached[Session::index(sequence.0)];
        cell.slot = slot;
        if result.len() <= CACHED_RESULT_BYTES_MAX {
            cell.length = result.len() as u8;
            cell.bytes[..result.len()].copy_from_slice(result);
        } else {
            cell.length = IS_DIGEST;
            cell.bytes[..32].copy_from_slice(&result_digest(result).0);
        }
    }

    /// The cached answer of an executed transaction and the slot that executed it.
    pub fn recall(&self, sequence: Sequence) -> Option<(Slot, Answer<'_>)> {
        if self.decide(sequence) != Decision::Repeat {
            return None;
        }
        let cell = &self.cached[Session::index(sequence.0)];
        let answer = if cell.length == IS_DIGEST {
            let mut digest = [0; 32];
            digest.copy_from_slice(&cell.bytes[..32]);
            Answer::Digest(Digest(digest))
        } else {
            Answer::Full(&cell.bytes[..usize::from(cell.length)])
        };
        Some((cell.slot, answer))
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    /// S_max.
    max: usize,
    by_client: HashMap<PublicKey, Session>,
    /// The eviction order: last executed slot, then id.
    by_age: BTreeSet<(Slot, SessionId, PublicKey)>,
    by_cell: BTreeSet<(Cell, PublicKey)>,
    versions: Versions,
}

impl Sessions {
    pub fn new() -> Sessions {
        Sessions {
            max: SESSIONS_MAX,
            by_client: HashMap::new(),
            by_age: BTreeSet::new(),
            by_cell: BTreeSet::new(),
            versions: Versions::new(),
        }
    }

    /// With S_max = `max` instead of `SESSIONS_MAX`; the same on all replicas.
    pub fn with_max(mut self, max: usize) -> Sessions {
        assert!(0 < max && max <= SESSIONS_MAX && self.is_empty());
        self.max = max;
        self
    }

    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Executes an OPEN at (slot, index): the id of the client's session, new or old; `None` when
    /// the OPEN is outside its lifetime.
    pub fn open(
        &mut self,
        client: &PublicKey,
        reference: Slot,
        slot: Slot,
        index: u16,
    ) -> Option<SessionId> {
        if reference > slot || slot.0 > reference.0.saturating_add(OPEN_LIFETIME_SLOTS) {
            return None;
        }
        if let Some(session) = self.by_client.get(client) {
            return Some(session.id);
        }
        if self.by_client.len() >= self.max
            && let Some((_, _, mut oldest)) = self.by_age.first().copied()
        {
            if planted("localevict") {
                // The order of a hash map is each process's own.
                oldest = self.by_client.keys().next().copied().unwrap_or(oldest);
            }
            self.remove(&oldest);
        }
        let id = SessionId::opened_at(slot, index);
        self.add(client, Session::new(id, slot));
        Some(id)
    }

    /// Whether the client has a session.
    pub fn has(&self, client: &PublicKey) -> bool {
        self.by_client.contains_key(client)
    }

    /// The client's session, if it has one.
    pub fn id_of(&self, client: &PublicKey) -> Option<SessionId> {
        self.by_client.get(client).map(|session| session.id)
    }

    /// The client's session when `id` is the current one.
    pub fn current(&self, client: &PublicKey, id: SessionId) -> Option<&Session> {
        self.by_client
            .get(client)
            .filter(|session| session.id == id)
    }

    /// The client's session when `id` is the current one, to be changed.
    pub fn current_mut(&mut self, client: &PublicKey, id: SessionId) -> Option<&mut Session> {
        let session = self.by_client.get_mut(client)?;
        if session.id != id {
            return None;
        }
        preserve(&mut self.versions, client, session);
        Some(session)
    }

    /// Notes that the client's session executed something at `slot`.
    pub fn touch(&mut self, client: &PublicKey, slot: Slot) {
        let Some(session) = self.by_client.get_mut(client) else {
            return;
        };
        if session.last_slot != slot {
            preserve(&mut self.versions, client, session);
            self.by_age
                .remove(&(session.last_slot, session.id, *client));
            session.last_slot = slot;
            self.by_age.insert((slot, session.id, *client));
        }
    }

    fn add(&mut self, client: &PublicKey, mut session: Session) {
        let cell = Cell::of_client(client);
        self.versions.added(cell);
        session.stamp = self.versions.generation();
        self.by_age.insert((session.last_slot, session.id, *client));
        self.by_cell.insert((cell, *client));
        self.by_client.insert(*client, session);
    }

    fn remove(&mut self, client: &PublicKey) {
        let Some(mut session) = self.by_client.remove(client) else {
            return;
        };
        preserve(&mut self.versions, client, &mut session);
        self.by_age
            .remove(&(session.last_slot, session.id, *client));
        self.by_cell.remove(&(Cell::of_client(client), *client));
    }

    /// Clients with sessions in a bucket, in the order of cells and keys.
    fn clients(&self, bucket: Bucket) -> impl Iterator<Item = &(Cell, PublicKey)> {
        let first = (Cell::new(bucket, 0), PublicKey([0; 32]));
        let last = (Cell::new(bucket, u8::MAX), PublicKey([0xff; 32]));
        self.by_cell.range(first..=last)
    }
}

/// Whose sessions the items of a bucket are; ends at the first malformed one.
pub fn clients_of(items: &[u8]) -> impl Iterator<Item = PublicKey> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let (client, _, after) = items::read(rest)?;
        rest = after;
        Some(client)
    })
}

/// The session is about to change, or to go. Cheap when it did since the last checkpoint.
fn preserve(versions: &mut Versions, client: &PublicKey, session: &mut Session) {
    let generation = versions.generation();
    if session.stamp != generation {
        let cell = Cell::of_client(client);
        versions.overwritten(cell, session.stamp, |out| session.write(client, out));
        session.stamp = generation;
    }
}

impl Bucketed for Sessions {
    fn versions(&self) -> &Versions {
        &self.versions
    }

    fn versions_mut(&mut self) -> &mut Versions {
        &mut self.versions
    }

    fn write_cells(&mut self, view: View, bucket: Bucket, mask: &CellMask, out: &mut CellItems) {
        let preserved = self.versions.preserved(view, bucket);
        let preserved = preserved.filter(|(index, _)| mask.contains(*index));
        let mut preserved: BTreeMap<(u8, PublicKey), &[u8]> = preserved
            .flat_map(|(index, items)| {
                items::split_all(items).map(move |(client, item)| ((index, client), item))
            })
            .collect();
        let clients = self
            .clients(bucket)
            .map(|(cell, client)| (cell.index(), client));
        let clients = clients.filter(|(index, _)| mask.contains(*index));
        let unchanged = clients.filter_map(|(index, client)| {
            let session = &self.by_client[client];
            self.versions
                .shows(view, session.stamp)
                .then_some((index, client, session))
        });
        for (index, client, session) in unchanged {
            // What was preserved of clients in between comes first.
            let above = preserved.split_off(&(index, *client));
            for ((index, _), item) in &preserved {
                out.of_cell(*index).extend_from_slice(item);
            }
            preserved = above;
            session.write(client, out.of_cell(index));
        }
        for ((index, _), item) in &preserved {
            out.of_cell(*index).extend_from_slice(item);
        }
    }

    fn check_cell(&self, cell: Cell, items: &[u8]) -> Result<(), Malformed> {
        let bucket = cell.bucket();
        let mut rest = items;
        let mut before = None;
        while !rest.is_empty() {
            let (client, _, after) = items::read(rest).ok_or(Malformed { bucket })?;
            if before >= Some(client) || Cell::of_client(&client) != cell {
                return Err(Malformed { bucket });
            }
            (before, rest) = (Some(client), after);
        }
        Ok(())
    }

    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]) {
        let clients: Vec<_> = self.clients(bucket).copied().collect();
        for (_, client) in clients {
            self.remove(&client);
        }
        let mut rest = items;
        while let Some((client, session, after)) = items::read(rest) {
            self.add(&client, session);
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::state::{Checkpoints, Parts};
    use wire::state::StateHead;

    use super::*;

    fn key(number: u16) -> PublicKey {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        PublicKey(key)
    }

    #[test]
    fn a_sequence_executes_once() {
        let mut session = Session::new(SessionId(1), Slot(1));
        assert_eq!(session.decide(Sequence(1)), Decision::Execute);
        session.remember(Sequence(1), Slot(4), b"r");
        assert_eq!(session.decide(Sequence(1)), Decision::Repeat);
        assert_eq!(
            session.recall(Sequence(1)),
            Some((Slot(4), Answer::Full(b"r")))
        );
        session.acknowledge(Sequence(1), Sequence(2));
        assert_eq!(session.decide(Sequence(1)), Decision::Stale);
        assert_eq!(
            session.decide(Sequence(1 + SESSION_WINDOW)),
            Decision::Execute
        );
        assert_eq!(
            session.decide(Sequence(2 + SESSION_WINDOW)),
            Decision::TooFar
        );
    }

    /// What a replica says of a request that waits is what its execution would come to.
    #[test]
    fn what_would_execute_is_what_executes() {
        let mut session = Session::new(SessionId(1), Slot(1));
        for sequence in [3, 5, 1000] {
            session.remember(Sequence(sequence), Slot(4), b"r");
        }
        session.acknowledge(Sequence(2), Sequence(4));
        let window = SESSION_WINDOW;
        let marks = [
            0,
            1,
            3,
            4,
            5,
            1000,
            window,
            window + 2,
            window + 3,
            u64::MAX,
        ];
        for (acked, first) in marks.iter().flat_map(|a| marks.map(|b| (*a, b))) {
            let mut after = session.clone();
            after.acknowledge(Sequence(acked), Sequence(first));
            for sequence in marks
                .iter()
                .flat_map(|mark| [*mark, mark.saturating_add(1)])
            {
                assert_eq!(
                    session.would_execute(Sequence(acked), Sequence(first), Sequence(sequence)),
                    after.decide(Sequence(sequence)) == Decision::Execute,
                    "acked {acked}, first {first}, {sequence}"
                );
            }
        }
        // A new process of the client begins far above the old one.
        assert!(session.would_execute(Sequence(1 << 50), Sequence(1 << 50), Sequence(1 << 50)));
    }

    #[test]
    fn the_highest_sequences_do_not_overflow() {
        let mut session = Session::new(SessionId(1), Slot(1));
        session.acknowledge(Sequence(u64::MAX), Sequence(u64::MAX - 1));
        assert_eq!(session.decide(Sequence(u64::MAX)), Decision::Execute);
        assert_eq!(session.decide(Sequence(1)), Decision::Stale);
    }

    #[test]
    fn the_window_never_moves_past_what_the_request_begins_with() {
        let mut session = Session::new(SessionId(1), Slot(1));
        session.acknowledge(Sequence(u64::MAX), Sequence(5));
        assert_eq!(session.decide(Sequence(4)), Decision::Stale);
        assert_eq!(session.decide(Sequence(5)), Decision::Execute);
        session.acknowledge(Sequence(10_000), Sequence(20_000));
        assert_eq!(session.decide(Sequence(10_001)), Decision::Execute);
    }

    #[test]
    fn long_results_are_kept_as_digests() {
        let mut session = Session::new(SessionId(1), Slot(1));
        session.remember(Sequence(1), Slot(4), &[7; 100]);
        let (_, answer) = session.recall(Sequence(1)).unwrap();
        assert_eq!(answer.digest(), Answer::Full(&[7; 100]).digest());
    }

    #[test]
    fn opens_are_idempotent_expire_and_evict_the_oldest() {
        let mut sessions = Sessions::new();
        let first = sessions.open(&key(0), Slot(0), Slot(1), 0);
        assert_eq!(sessions.open(&key(0), Slot(0), Slot(9), 3), first);
        assert_eq!(sessions.open(&key(1), Slot(5), Slot(4), 0), None);
        assert_eq!(
            sessions.open(&key(1), Slot(0), Slot(OPEN_LIFETIME_SLOTS + 1), 0),
            None
        );
        for number in 1..SESSIONS_MAX as u16 {
            sessions.open(&key(number), Slot(0), Slot(2), number);
        }
        sessions.touch(&key(0), Slot(50));
        sessions.open(&key(60_000), Slot(0), Slot(51), 0);
        assert_eq!(sessions.len(), SESSIONS_MAX);
        assert!(sessions.current(&key(0), first.unwrap()).is_some());
        assert!(
            sessions
                .current(&key(1), SessionId::opened_at(Slot(2), 1))
                .is_none()
        );
    }

    /// Clients whose sessions share a bucket.
    fn neighbours() -> Vec<PublicKey> {
        let bucket = Bucket::of_client(&key(0));
        let clients = (0..60_000).map(key);
        clients
            .filter(|client| Bucket::of_client(client) == bucket)
            .take(5)
            .collect()
    }

    fn opened(clients: &[PublicKey]) -> Sessions {
        let mut sessions = Sessions::new();
        for (index, client) in clients.iter().enumerate() {
            sessions.open(client, Slot(0), Slot(3), index as u16);
        }
        sessions
    }

    fn parts(sessions: &mut Sessions) -> Parts<'_> {
        Parts {
            machine: None,
            sessions,
        }
    }

    #[test]
    fn a_frozen_bucket_stays_in_order_whoever_changes() {
        let clients = neighbours();
        assert_eq!(clients.len(), 5);
        let head = StateHead::new(Slot(4), 0, 0);
        for changed in 0..1_u32 << clients.len() {
            let mut roots = Vec::new();
            for late in [false, true] {
                let mut sessions = opened(&clients);
                let mut checkpoints = Checkpoints::new();
                checkpoints.begin(head, &mut parts(&mut sessions));
                for (index, client) in clients.iter().enumerate().filter(|_| late) {
                    match index % 3 {
                        _ if changed & 1 << index == 0 => {}
                        0 => sessions.remove(client),
                        1 => sessions.touch(client, Slot(9)),
                        _ => {
                            let id = SessionId::opened_at(Slot(3), index as u16);
                            let session = sessions.current_mut(client, id).unwrap();
                            session.acknowledge(Sequence(7), Sequence(8));
                        }
                    }
                }
                checkpoints.finish(&mut parts(&mut sessions));
                roots.push(checkpoints.take_root());
            }
            assert_eq!(roots[0], roots[1], "{changed:05b}");
        }
    }

    #[test]
    fn replaced_sessions_are_evicted_in_the_same_order() {
        let clients = neighbours();
        let mut source = opened(&clients);
        for (client, slot) in clients.iter().zip([9, 4, 30, 4]) {
            source.touch(client, Slot(slot));
        }
        let bucket = Bucket::of_client(&clients[0]);
        let mut checkpoints = Checkpoints::new();
        checkpoints.begin(StateHead::new(Slot(40), 0, 0), &mut parts(&mut source));
        let mut items = CellItems::new();
        source.write_cells(View::Last, bucket, &CellMask::FULL, &mut items);
        for (index, bytes) in items.cells() {
            assert_eq!(source.check_cell(Cell::new(bucket, index), bytes), Ok(()));
            let foreign = Cell::new(bucket, index ^ 1);
            assert!(source.check_cell(foreign, bytes).is_err());
            let twice = [bytes, bytes].concat();
            assert!(source.check_cell(Cell::new(bucket, index), &twice).is_err());
        }
        let bytes = items.bytes();

        // Sessions of the same age and number, of other clients, are in the way.
        let mut target = opened(&[clients[4], key(1), clients[0], key(2)]);
        target.replace_bucket(bucket, bytes);
        target.remove(&key(1));
        target.remove(&key(2));
        assert_eq!(target.by_age, source.by_age);
        assert_eq!(target.by_cell, source.by_cell);
        assert_eq!(target.len(), source.len());
    }
}
