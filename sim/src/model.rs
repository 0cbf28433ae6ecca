//! What the decided log means, said again in the simplest way: the judge's state machine.
//!
//! It shares the codec with the product and nothing else: sessions are a set of executed
//! (client, session, sequence), the table is a `BTreeMap`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use wire::block::BlockView;
use wire::change::ChangeAnswer;
use wire::ids::{PublicKey, Sequence, SessionId, Slot};
use wire::ops::{self, Condition, Operation, Outcome};
use wire::request::{RequestView, checked_requests};

use crate::ask::{Ask, text};

/// A result, owned.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Absent,
    Value(Vec<u8>),
    Mismatch(Option<Vec<u8>>),
    Entries {
        entries: Vec<(Vec<u8>, Vec<u8>)>,
        more: bool,
    },
    Txn(Vec<Answer>),
    /// The condition of this index did not hold.
    Refused(u16),
    /// Something that the users of the simulator never ask for.
    Other,
}

impl Answer {
    /// What a client was told.
    pub fn parse(bytes: &[u8]) -> Answer {
        Outcome::parse(bytes).map_or(Answer::Other, Answer::of)
    }

    fn of(outcome: Outcome<'_>) -> Answer {
        match outcome {
            Outcome::Done => Answer::Done,
            Outcome::Absent => Answer::Absent,
            Outcome::Value(value) => Answer::Value(value.to_vec()),
            Outcome::Mismatch(found) => Answer::Mismatch(found.map(<[u8]>::to_vec)),
            Outcome::Entries(entries) => Answer::Entries {
                more: entries.more,
                entries: entries
                    .map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .collect(),
            },
            Outcome::TxnDone(parts) => Answer::Txn(parts.map(Answer::of).collect()),
            Outcome::TxnRefused(index) => Answer::Refused(index),
            Outcome::TooLarge => Answer::Other,
        }
    }

    /// Whether sessions no longer keep a result of this length whole (§9.3), restated.
    pub fn is_long(&self) -> bool {
        const CACHED_BYTES: usize = 64;
        let bytes = match self {
            Answer::Value(value) | Answer::Mismatch(Some(value)) => 1 + value.len(),
            Answer::Entries { entries, .. } => {
                let entries = entries.iter();
                1 + entries.map(|(k, v)| 6 + k.len() + v.len()).sum::<usize>()
            }
            // The parts, each with its length.
            Answer::Txn(parts) => {
                let long = |part: &Answer| match part {
                    Answer::Value(value) | Answer::Mismatch(Some(value)) => 5 + value.len(),
                    _ => 5,
                };
                1 + parts.iter().map(long).sum::<usize>()
            }
            _ => 1,
        };
        bytes > CACHED_BYTES
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done => f.write_str("done"),
            Answer::Absent => f.write_str("absent"),
            Answer::Value(value) => write!(f, "value {}", text(value)),
            Answer::Mismatch(found) => {
                write!(f, "mismatch {:?}", found.as_deref().map(text))
            }
            Answer::Entries { entries, more } => {
                let shown = entries.iter().map(|(key, value)| (text(key), text(value)));
                write!(f, "entries {:?}, more {more}", shown.collect::<Vec<_>>())
            }
            Answer::Txn(parts) => write!(f, "all of {parts:?}"),
            Answer::Refused(index) => write!(f, "condition {index} does not hold"),
            Answer::Other => f.write_str("something else"),
        }
    }
}

#[derive(Debug, Default)]
struct Session {
    id: SessionId,
    /// Slot of the OPEN, or of the last request that executed something.
    last_slot: u64,
    low: u64,
    executed: BTreeSet<u64>,
}

/// Requests that a session remembers, restated.
const WINDOW: u64 = 1024;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// From which slots on a key held what.
type Versions = Vec<(u64, Option<Vec<u8>>)>;

/// Bytes of a result at most, restated.
const RESULT_BYTES: usize = 96 * 1024;

/// The state after the decided blocks up to some slot.
#[derive(Debug, Default)]
pub struct Model {
    slot: u64,
    table: Contents,
    /// What each key held from which slot on.
    versions: BTreeMap<Vec<u8>, Versions>,
    /// Keys that the present block may have changed.
    touched: Vec<Vec<u8>>,
    sessions: BTreeMap<PublicKey, Session>,
    sessions_max: usize,
    answers: BTreeMap<(PublicKey, SessionId, Sequence), (Slot, Answer)>,
    /// By slot, from 0 on: hash of the table, and transactions executed so far.
    history: Vec<([u8; 32], u64)>,
    transactions: u64,
}

/// The hash that stands for a table.
pub fn table_hash<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (key, value) in entries {
        for part in [key, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    *hasher.finalize().as_bytes()
}

impl Model {
    /// `sessions_max`: S_max.
    pub fn new(sessions_max: usize) -> Model {
        let mut model = Model {
            sessions_max,
            ..Model::default()
        };
        model.note_history();
        model
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot)
    }

    /// Hash of the table and number of transactions after a slot.
    pub fn at(&self, slot: Slot) -> Option<([u8; 32], u64)> {
        self.history.get(slot.0 as usize).copied()
    }

    /// Where and with which result a transaction was executed.
    pub fn answer(
        &self,
        client: &PublicKey,
        session: SessionId,
        sequence: Sequence,
    ) -> Option<&(Slot, Answer)> {
        self.answers.get(&(*client, session, sequence))
    }

    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.table.get(key).map(Vec::as_slice)
    }

    /// Executes the block of the next slot; an error says what no honest leader proposes.
    pub fn execute(&mut self, message: &[u8]) -> Result<(), String> {
        let block = BlockView::parse(message).map_err(|reject| format!("{reject:?}"))?;
        let slot = block.prefix.header.slot();
        if slot.0 != self.slot + 1 {
            return Err(format!("block {slot} after {}", self.slot));
        }
        self.slot = slot.0;
        let mut opened = 0;
        for request in checked_requests(block.payload) {
            if request.is_open() {
                self.open(&request, slot, opened);
                opened += 1;
            } else {
                self.request(&request, slot);
            }
        }
        self.note_history();
        self.note_versions();
        Ok(())
    }

    fn note_versions(&mut self) {
        let slot = self.slot;
        for key in self.touched.split_off(0) {
            let now = self.table.get(&key).cloned();
            let versions = self.versions.entry(key).or_default();
            versions.push((slot, now));
        }
    }

    /// What a read answers after the block of a slot.
    fn read_at(&self, ask: &Ask, slot: u64) -> Answer {
        let at = |versions: &Versions| {
            let before = versions.partition_point(|(since, _)| *since <= slot);
            before
                .checked_sub(1)
                .and_then(|last| versions[last].1.clone())
        };
        match ask {
            Ask::Get(key) => match self.versions.get(key).and_then(at) {
                Some(value) => Answer::Value(value),
                None => Answer::Absent,
            },
            Ask::Scan(from, to, limit) => {
                let there = |(key, versions)| Some((Vec::clone(key), at(versions)?));
                let table = self.versions.iter().filter_map(there).collect();
                scan(&table, from, to, *limit)
            }
            _ => Answer::Other,
        }
    }

    /// The first slot, no earlier than `from`, after whose block a read answers this.
    pub fn read_since(&self, ask: &Ask, answer: &Answer, from: Slot) -> Option<Slot> {
        let mut slots = (from.0..=self.slot).map(Slot);
        slots.find(|slot| self.read_at(ask, slot.0) == *answer)
    }

    fn note_history(&mut self) {
        let entries = self.table.iter().map(|(key, value)| (&key[..], &value[..]));
        self.history.push((table_hash(entries), self.transactions));
    }

    fn open(&mut self, request: &RequestView<'_>, slot: Slot, index: u16) {
        let client = *request.client();
        if request.reference_slot() > slot || self.sessions.contains_key(&client) {
            return;
        }
        if self.sessions.len() >= self.sessions_max {
            let age = |(key, held): (&PublicKey, &Session)| (held.last_slot, held.id, *key);
            let oldest = self.sessions.iter().map(age).min();
            oldest.and_then(|(_, _, key)| self.sessions.remove(&key));
        }
        let session = Session {
            id: SessionId::opened_at(slot, index),
            last_slot: slot.0,
            ..Session::default()
        };
        self.sessions.insert(client, session);
    }

    fn request(&mut self, request: &RequestView<'_>, slot: Slot) {
        let (client, id) = (*request.client(), request.session());
        let first = request.first_sequence().0;
        let Some(session) = self
            .sessions
            .get_mut(&client)
            .filter(|session| session.id == id)
        else {
            return;
        };
        session.low = session.low.max(request.acked_low().0.min(first - 1));
        for (sequence, operation) in (first..).zip(ops::operations(request.operation_bytes())) {
            let fits = sequence > session.low && sequence <= session.low + WINDOW;
            if !fits || !session.executed.insert(sequence) {
                continue;
            }
            self.transactions += 1;
            session.last_slot = slot.0;
            let answer = apply(&mut self.table, &mut self.touched, &operation);
            self.answers
                .insert((client, id, Sequence(sequence)), (slot, answer));
        }
    }
}

fn apply(table: &mut Contents, touched: &mut Vec<Vec<u8>>, operation: &Operation<'_>) -> Answer {
    match *operation {
        Operation::Put { key, value } => {
            touched.push(key.to_vec());
            table.insert(key.to_vec(), value.to_vec());
            Answer::Done
        }
        Operation::Get { key } => match table.get(key) {
            Some(value) => Answer::Value(value.clone()),
            None => Answer::Absent,
        },
        Operation::Delete { key } => {
            touched.push(key.to_vec());
            match table.remove(key) {
                Some(_) => Answer::Done,
                None => Answer::Absent,
            }
        }
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            let found = table.get(key).cloned();
            if found.as_deref() == expected {
                touched.push(key.to_vec());
                table.insert(key.to_vec(), value.to_vec());
                Answer::Done
            } else {
                Answer::Mismatch(found)
            }
        }
        Operation::Scan { from, to, limit } => scan(table, from, to, limit),
        // Nobody is an operator here.
        Operation::Reconfigure(_) => Answer::Value(ChangeAnswer::NotTheOperator.encode().to_vec()),
        Operation::Txn(txn) => {
            let holds = |condition: Condition<'_>| match condition {
                Condition::Equals { key, value } => {
                    table.get(key).is_some_and(|held| held == value)
                }
                Condition::Absent { key } => !table.contains_key(key),
                Condition::Present { key } => table.contains_key(key),
            };
            if let Some(index) = txn.conditions().position(|condition| !holds(condition)) {
                return Answer::Refused(index as u16);
            }
            // The users ask for no more than fits a result.
            let parts = txn.operations();
            Answer::Txn(parts.map(|part| apply(table, touched, &part)).collect())
        }
    }
}

fn scan(table: &Contents, from: &[u8], to: &[u8], limit: u32) -> Answer {
    let within = |(key, _): &(&Vec<u8>, &Vec<u8>)| to.is_empty() || &key[..] < to;
    let range = table.range(from.to_vec()..).take_while(within);
    let (mut entries, mut bytes) = (Vec::new(), 1);
    for (key, value) in range {
        bytes += 6 + key.len() + value.len();
        if entries.len() == limit as usize || bytes > RESULT_BYTES {
            return Answer::Entries {
                entries,
                more: true,
            };
        }
        entries.push((key.clone(), value.clone()));
    }
    Answer::Entries {
        entries,
        more: false,
    }
}
