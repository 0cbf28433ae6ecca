//! What the decided log means, said again in the simplest way: the judge's state machine.
//!
//! It shares the codec with the product and nothing else: sessions are a set of executed
//! (client, session, sequence), the table is a `BTreeMap`.

use std::collections::{BTreeMap, BTreeSet};

use wire::block::BlockView;
use wire::ids::{PublicKey, Sequence, SessionId, Slot};
use wire::ops::{self, Operation, Outcome};
use wire::request::{RequestView, checked_requests};

/// A result, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Absent,
    Value(Vec<u8>),
    Mismatch(Option<Vec<u8>>),
    /// Something that the users of the simulator never ask for.
    Other,
}

impl Answer {
    /// What a client was told.
    pub fn parse(bytes: &[u8]) -> Answer {
        match Outcome::parse(bytes) {
            Ok(Outcome::Done) => Answer::Done,
            Ok(Outcome::Absent) => Answer::Absent,
            Ok(Outcome::Value(value)) => Answer::Value(value.to_vec()),
            Ok(Outcome::Mismatch(found)) => Answer::Mismatch(found.map(<[u8]>::to_vec)),
            _ => Answer::Other,
        }
    }
}

#[derive(Debug, Default)]
struct Session {
    id: SessionId,
    low: u64,
    executed: BTreeSet<u64>,
}

/// Requests that a session remembers, restated.
const WINDOW: u64 = 1024;

/// The state after the decided blocks up to some slot.
#[derive(Debug, Default)]
pub struct Model {
    slot: u64,
    table: BTreeMap<Vec<u8>, Vec<u8>>,
    sessions: BTreeMap<PublicKey, Session>,
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
    pub fn new() -> Model {
        let mut model = Model::default();
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
        Ok(())
    }

    fn note_history(&mut self) {
        let entries = self.table.iter().map(|(key, value)| (&key[..], &value[..]));
        self.history.push((table_hash(entries), self.transactions));
    }

    fn open(&mut self, request: &RequestView<'_>, slot: Slot, index: u16) {
        if request.reference_slot() <= slot {
            self.sessions
                .entry(*request.client())
                .or_insert_with(|| Session {
                    id: SessionId::opened_at(slot, index),
                    ..Session::default()
                });
        }
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
            let answer = apply(&mut self.table, &operation);
            self.answers
                .insert((client, id, Sequence(sequence)), (slot, answer));
        }
    }
}

fn apply(table: &mut BTreeMap<Vec<u8>, Vec<u8>>, operation: &Operation<'_>) -> Answer {
    match *operation {
        Operation::Put { key, value } => {
            table.insert(key.to_vec(), value.to_vec());
            Answer::Done
        }
        Operation::Get { key } => match table.get(key) {
            Some(value) => Answer::Value(value.clone()),
            None => Answer::Absent,
        },
        Operation::Delete { key } => match table.remove(key) {
            Some(_) => Answer::Done,
            None => Answer::Absent,
        },
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            let found = table.get(key).cloned();
            if found.as_deref() == expected {
                table.insert(key.to_vec(), value.to_vec());
                Answer::Done
            } else {
                Answer::Mismatch(found)
            }
        }
        Operation::Txn(_) | Operation::Scan { .. } => Answer::Other,
    }
}
