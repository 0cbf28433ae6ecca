//! Linearizability of one key at a time, after Wing and Gong with Lowe's memo.
//!
//! A [`History`] collects what clients asked and were told, with virtual times, and splits it by
//! key: linearizability is local, so a history holds when the history of every key does. A
//! transaction or scan is split into what it says of each key; that each key's part holds is
//! necessary, and the judge's replay of the decided log covers the rest. [`check`] searches for an
//! order of one key's operations that a register allows: calls are lifted out of a list of calls and
//! returns in the order in which they take effect, and put back when a return stands in the way.
//! What only reads, and fits, takes effect at once: that is never wrong and spares most of the search.
//!
//! An operation whose end nobody saw stays open for ever: it may take effect at any time after its
//! call, or never. The work is bounded; a search that was given up is [`Verdict::Unknown`], which
//! nothing here treats as a pass.

use std::collections::{BTreeMap, HashSet};

/// Stands for a value by its hash; values of the simulator's users are unique.
pub type Content = u64;

/// States that the search of one key may visit.
pub const STATES_MAX: usize = 50_000;

/// The content that stands for some bytes.
pub fn content(bytes: &[u8]) -> Content {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
}

/// What is done to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Put(Content),
    Get,
    Delete,
    /// Writes the value iff the key holds `expected`, `None` for absent.
    Cas {
        expected: Option<Content>,
        value: Content,
    },
}

/// What was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Done,
    Absent,
    Value(Content),
    Mismatch(Option<Content>),
    /// It was executed; the result is lost.
    Anything,
}

impl Step {
    /// The state after the step, if `seen` is what a register in `state` answers.
    fn apply(self, state: Option<Content>, seen: Seen) -> Option<Option<Content>> {
        let (after, answer) = match self {
            Step::Put(value) => (Some(value), Seen::Done),
            Step::Get => (state, state.map_or(Seen::Absent, Seen::Value)),
            Step::Delete if state.is_some() => (None, Seen::Done),
            Step::Delete => (None, Seen::Absent),
            Step::Cas { expected, value } if state == expected => (Some(value), Seen::Done),
            Step::Cas { .. } => (state, Seen::Mismatch(state)),
        };
        (seen == Seen::Anything || seen == answer).then_some(after)
    }

    /// Whether it can change the key.
    fn writes(self) -> bool {
        self != Step::Get
    }
}

/// One operation on one key; several steps take effect at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub steps: Vec<(Step, Seen)>,
    pub call_ns: u64,
    /// `None`: nobody saw it end.
    pub return_ns: Option<u64>,
    /// Where somebody says that it took effect. Tried first, trusted in nothing.
    pub hint: u64,
}

impl Operation {
    /// Whether its answer says that it changed nothing, and that is the answer of this state. Such
    /// an operation takes effect now if it can: it is in nobody's way.
    fn fits_unchanged(&self, state: Option<Content>) -> bool {
        let reads = |(step, seen): &(Step, Seen)| match step {
            Step::Put(_) => false,
            Step::Get => true,
            Step::Delete => *seen == Seen::Absent,
            Step::Cas { .. } => matches!(seen, Seen::Mismatch(_)),
        };
        self.return_ns.is_some() && self.steps.iter().all(reads) && self.apply(state).is_some()
    }

    fn apply(&self, state: Option<Content>) -> Option<Option<Content>> {
        let open = self.return_ns.is_none();
        self.steps.iter().try_fold(state, |state, (step, seen)| {
            step.apply(state, if open { Seen::Anything } else { *seen })
        })
    }

    /// An open operation that writes nothing says nothing.
    fn matters(&self) -> bool {
        self.return_ns.is_some() || self.steps.iter().any(|(step, _)| step.writes())
    }
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order; so many states were visited.
    Linearizable { states: usize },
    /// There is none. No order gets past the end of this operation.
    Violation { stuck: usize },
    /// The search was given up after so many states.
    Unknown { states: usize },
}

/// One end of an operation in the list.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    /// The entry of the return; `None` in a return, and in a call without one.
    back: Option<usize>,
    is_call: bool,
}

/// Calls and returns in the order of time, doubly linked; entry 0 is the head.
struct List {
    entries: Vec<Entry>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// Ends the list.
const END: usize = 0;

impl List {
    fn new(operations: &[Operation]) -> List {
        let mut ends = Vec::with_capacity(2 * operations.len());
        for (index, operation) in operations.iter().enumerate() {
            if operation.matters() {
                ends.push((operation.call_ns, false, index));
                // At equal times calls come first: what touches, overlaps.
                ends.extend(operation.return_ns.map(|at| (at, true, index)));
            }
        }
        ends.sort_unstable();
        let head = Entry {
            operation: usize::MAX,
            back: None,
            is_call: false,
        };
        let mut entries = vec![head];
        let mut calls = vec![END; operations.len()];
        for (_, is_return, operation) in ends {
            let at = entries.len();
            if is_return {
                entries[calls[operation]].back = Some(at);
            } else {
                calls[operation] = at;
            }
            entries.push(Entry {
                operation,
                back: None,
                is_call: !is_return,
            });
        }
        let count = entries.len();
        List {
            entries,
            next: (0..count).map(|at| (at + 1) % count).collect(),
            previous: (0..count).map(|at| (at + count - 1) % count).collect(),
        }
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }

    /// Takes a call and its return out.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(back) = self.entries[call].back {
            self.unlink(back);
        }
    }

    /// Puts them back; only the newest lift can be undone.
    fn unlift(&mut self, call: usize) {
        if let Some(back) = self.entries[call].back {
            self.relink(back);
        }
        self.relink(call);
    }
}

/// One choice of the search: what could take effect next, and what was tried of it.
struct Choice {
    before: Option<Content>,
    calls: Vec<usize>,
    tried: usize,
    lifted: Option<usize>,
}

impl Choice {
    /// The calls in front of the first return.
    fn new(list: &List, operations: &[Operation], before: Option<Content>) -> Choice {
        let mut calls = Vec::new();
        let mut at = list.next[END];
        while at != END && list.entries[at].is_call {
            if operations[list.entries[at].operation].fits_unchanged(before) {
                calls = vec![at];
                break;
            }
            calls.push(at);
            at = list.next[at];
        }
        calls.sort_by_key(|call| operations[list.entries[*call].operation].hint);
        Choice {
            before,
            calls,
            tried: 0,
            lifted: None,
        }
    }
}

/// Whether some order of the operations is one that a register, absent at first, allows.
pub fn check(operations: &[Operation], states_max: usize) -> Verdict {
    let mut list = List::new(operations);
    let ended = |index: usize| usize::from(operations[index].return_ns.is_some());
    let mut left = (0..operations.len()).map(ended).sum::<usize>();
    let mut done = vec![0u64; operations.len().div_ceil(64)];
    // Only asked whether it holds something: its order plays no part.
    let mut visited = HashSet::new();
    let mut choices = vec![Choice::new(&list, operations, None)];
    let (mut stuck_entry, mut stuck) = (END, 0);
    while left > 0 {
        let Some(choice) = choices.last_mut() else {
            return Verdict::Violation { stuck };
        };
        if let Some(call) = choice.lifted.take() {
            let index = list.entries[call].operation;
            done[index / 64] &= !(1 << (index % 64));
            left += ended(index);
            list.unlift(call);
        }
        let Some(&call) = choice.calls.get(choice.tried) else {
            // A return that no call in front of it can clear: an earlier choice was wrong.
            let mut blocks = list.next[END];
            while list.entries[blocks].is_call {
                blocks = list.next[blocks];
            }
            if blocks > stuck_entry {
                (stuck_entry, stuck) = (blocks, list.entries[blocks].operation);
            }
            choices.pop();
            continue;
        };
        choice.tried += 1;
        let index = list.entries[call].operation;
        let Some(after) = operations[index].apply(choice.before) else {
            continue;
        };
        let (word, bit) = (index / 64, 1 << (index % 64));
        done[word] |= bit;
        if !visited.insert((done.clone(), after)) {
            done[word] &= !bit;
            continue;
        }
        if visited.len() > states_max {
            return Verdict::Unknown { states: states_max };
        }
        choice.lifted = Some(call);
        left -= ended(index);
        list.lift(call);
        choices.push(Choice::new(&list, operations, after));
    }
    Verdict::Linearizable {
        states: visited.len(),
    }
}

/// What a check of a whole history came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub keys: u64,
    pub operations: u64,
    pub most_on_one_key: u64,
    pub states: u64,
    /// Keys whose search was given up: neither good nor bad.
    pub unknown: u64,
}

/// What clients asked and were told, by key.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<Vec<u8>, Vec<Operation>>,
}

impl History {
    /// Adds one operation: a key, a step and what was told of it for every key that it names.
    pub fn record<'a>(
        &mut self,
        call_ns: u64,
        return_ns: Option<u64>,
        hint: u64,
        parts: impl IntoIterator<Item = (&'a [u8], Step, Seen)>,
    ) {
        let mut by_key = BTreeMap::<&[u8], Vec<(Step, Seen)>>::new();
        for (key, step, seen) in parts {
            by_key.entry(key).or_default().push((step, seen));
        }
        for (key, steps) in by_key {
            let operation = Operation {
                steps,
                call_ns,
                return_ns,
                hint,
            };
            match self.keys.get_mut(key) {
                Some(operations) => operations.push(operation),
                None => drop(self.keys.insert(key.to_vec(), vec![operation])),
            }
        }
    }

    /// Checks every key; an error names the key and the operation that fits nowhere.
    pub fn check(&self, states_max: usize) -> Result<Checked, String> {
        let mut checked = Checked::default();
        for (key, operations) in &self.keys {
            checked.keys += 1;
            checked.operations += operations.len() as u64;
            checked.most_on_one_key = checked.most_on_one_key.max(operations.len() as u64);
            match check(operations, states_max) {
                Verdict::Linearizable { states } => checked.states += states as u64,
                Verdict::Unknown { states } => {
                    checked.states += states as u64;
                    checked.unknown += 1;
                }
                Verdict::Violation { stuck } => {
                    return Err(format!(
                        "linearizable: no order of the {} operations on {:?} allows {:?}",
                        operations.len(),
                        String::from_utf8_lossy(key),
                        operations.get(stuck),
                    ));
                }
            }
        }
        Ok(checked)
    }
}

#[cfg(test)]
mod tests;
