//! What users ask, owned, and what an answer says of each key that it names.

use std::fmt;

use wire::ops::{Condition, Operation};

use crate::linear::{self, Seen, Step};
use crate::model::Answer;

/// One operation.
#[derive(Clone, PartialEq, Eq)]
pub enum Ask {
    Put(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Delete(Vec<u8>),
    /// Key, what it must hold, what it holds then.
    Cas(Vec<u8>, Option<Vec<u8>>, Vec<u8>),
    /// From, to, entries at most.
    Scan(Vec<u8>, Vec<u8>, u32),
    /// All of these iff all conditions hold; neither scans nor transactions.
    Txn(Vec<If>, Vec<Ask>),
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum If {
    Equals(Vec<u8>, Vec<u8>),
    Absent(Vec<u8>),
    Present(Vec<u8>),
}

/// A key, what is done to it, and what was told of it.
pub type KeyPart = (Vec<u8>, Step, Seen);

impl If {
    pub fn condition(&self) -> Condition<'_> {
        match self {
            If::Equals(key, value) => Condition::Equals { key, value },
            If::Absent(key) => Condition::Absent { key },
            If::Present(key) => Condition::Present { key },
        }
    }

    /// What is known of the key when the condition held.
    fn held(&self) -> Option<KeyPart> {
        match self {
            If::Equals(key, value) => {
                let seen = Seen::Value(linear::content(value));
                Some((key.clone(), Step::Get, seen))
            }
            If::Absent(key) => Some((key.clone(), Step::Get, Seen::Absent)),
            // It holds something: no register can be asked for that.
            If::Present(_) => None,
        }
    }

    /// What is known of the key when the condition did not hold.
    fn failed(&self) -> Option<KeyPart> {
        match self {
            If::Present(key) => Some((key.clone(), Step::Get, Seen::Absent)),
            If::Equals(..) | If::Absent(_) => None,
        }
    }
}

impl Ask {
    /// As the client takes it; `None` for a transaction, which it takes in parts.
    pub fn operation(&self) -> Option<Operation<'_>> {
        Some(match self {
            Ask::Put(key, value) => Operation::Put { key, value },
            Ask::Get(key) => Operation::Get { key },
            Ask::Delete(key) => Operation::Delete { key },
            Ask::Cas(key, expected, value) => Operation::Cas {
                key,
                expected: expected.as_deref(),
                value,
            },
            Ask::Scan(from, to, limit) => Operation::Scan {
                from,
                to,
                limit: *limit,
            },
            Ask::Txn(..) => return None,
        })
    }

    /// Key and step, for what is about one key.
    fn step(&self) -> Option<(&Vec<u8>, Step)> {
        match self {
            Ask::Put(key, value) => Some((key, Step::Put(linear::content(value)))),
            Ask::Get(key) => Some((key, Step::Get)),
            Ask::Delete(key) => Some((key, Step::Delete)),
            Ask::Cas(key, expected, value) => {
                let step = Step::Cas {
                    expected: expected.as_deref().map(linear::content),
                    value: linear::content(value),
                };
                Some((key, step))
            }
            Ask::Scan(..) | Ask::Txn(..) => None,
        }
    }

    /// What may have happened to each key when nobody knows how it ended.
    pub fn unknown(&self) -> Vec<KeyPart> {
        let single = |ask: &Ask| {
            let (key, step) = ask.step()?;
            Some((key.clone(), step, Seen::Anything))
        };
        match self {
            Ask::Txn(_, asks) => asks.iter().filter_map(single).collect(),
            ask => single(ask).into_iter().collect(),
        }
    }

    /// What an answer says of each key. `keys` are those that exist at times, in order: a scan says
    /// of each in its range that it is there or not.
    pub fn told(&self, answer: &Answer, keys: &[Vec<u8>]) -> Vec<KeyPart> {
        match (self, answer) {
            (Ask::Scan(from, to, _), Answer::Entries { entries, more }) => {
                let end = entries.last().filter(|_| *more).map(|(key, _)| key);
                let covered = |key: &&Vec<u8>| {
                    *key >= from
                        && (to.is_empty() || *key < to)
                        && (!more || end.is_some_and(|end| *key <= end))
                };
                let absent = |key: &&Vec<u8>| !entries.iter().any(|(there, _)| there == *key);
                let absent = keys.iter().filter(covered).filter(absent);
                let absent = absent.map(|key| (key.clone(), Step::Get, Seen::Absent));
                let there = entries.iter().map(|(key, value)| {
                    let seen = Seen::Value(linear::content(value));
                    (key.clone(), Step::Get, seen)
                });
                there.chain(absent).collect()
            }
            (Ask::Txn(conditions, asks), Answer::Txn(answers)) => {
                let parts = asks.iter().zip(answers);
                let parts = parts.flat_map(|(ask, answer)| ask.told(answer, keys));
                conditions
                    .iter()
                    .filter_map(If::held)
                    .chain(parts)
                    .collect()
            }
            (Ask::Txn(conditions, _), Answer::Refused(index)) => {
                let index = usize::from(*index);
                let held = conditions.iter().take(index).filter_map(If::held);
                held.chain(conditions.get(index).and_then(If::failed))
                    .collect()
            }
            (ask, answer) => {
                let part = |(key, step): (&Vec<u8>, _)| (key.clone(), step, seen(answer));
                ask.step().map(part).into_iter().collect()
            }
        }
    }
}

fn seen(answer: &Answer) -> Seen {
    match answer {
        Answer::Done => Seen::Done,
        Answer::Absent => Seen::Absent,
        Answer::Value(value) => Seen::Value(linear::content(value)),
        Answer::Mismatch(found) => Seen::Mismatch(found.as_deref().map(linear::content)),
        Answer::Entries { .. } | Answer::Txn(_) | Answer::Refused(_) | Answer::Other => {
            Seen::Anything
        }
    }
}

/// Bytes as people read them: values of users are text, and long ones are padded.
pub fn text(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]);
    match bytes.len() {
        0..=SHOWN => format!("{shown:?}"),
        more => format!("{shown:?} and so on, {more} bytes"),
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Put(key, value) => write!(f, "put {} {}", text(key), text(value)),
            Ask::Get(key) => write!(f, "get {}", text(key)),
            Ask::Delete(key) => write!(f, "delete {}", text(key)),
            Ask::Cas(key, held, value) => {
                let held = held.as_deref().map(text);
                write!(f, "cas {} {held:?} {}", text(key), text(value))
            }
            Ask::Scan(from, to, limit) => write!(f, "scan {} {} {limit}", text(from), text(to)),
            Ask::Txn(conditions, asks) => write!(f, "if {conditions:?} then {asks:?}"),
        }
    }
}

impl fmt::Debug for If {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            If::Equals(key, value) => write!(f, "{} is {}", text(key), text(value)),
            If::Absent(key) => write!(f, "{} is absent", text(key)),
            If::Present(key) => write!(f, "{} is there", text(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Seen {
        Seen::Value(linear::content(text.as_bytes()))
    }

    #[test]
    fn a_scan_tells_of_every_key_in_its_range() {
        let keys = ["a", "b", "c", "d"].map(|key| key.as_bytes().to_vec());
        let scan = Ask::Scan(b"a".to_vec(), b"d".to_vec(), 10);
        let entries = vec![(b"b".to_vec(), b"1".to_vec())];
        let whole = Answer::Entries {
            entries: entries.clone(),
            more: false,
        };
        let told = scan.told(&whole, &keys);
        let expected = [
            (b"b".to_vec(), Step::Get, value("1")),
            (b"a".to_vec(), Step::Get, Seen::Absent),
            (b"c".to_vec(), Step::Get, Seen::Absent),
        ];
        assert_eq!(told, expected);
        let cut = Answer::Entries {
            entries,
            more: true,
        };
        assert_eq!(scan.told(&cut, &keys), expected[..2]);
    }

    #[test]
    fn a_transaction_tells_of_its_conditions_and_parts() {
        let key = |name: &str| name.as_bytes().to_vec();
        let txn = Ask::Txn(
            vec![If::Equals(key("a"), key("1")), If::Absent(key("b"))],
            vec![Ask::Put(key("c"), key("2")), Ask::Get(key("c"))],
        );
        let step = Step::Put(linear::content(b"2"));
        let done = Answer::Txn(vec![Answer::Done, Answer::Value(key("2"))]);
        let told = txn.told(&done, &[]);
        let expected = [
            (key("a"), Step::Get, value("1")),
            (key("b"), Step::Get, Seen::Absent),
            (key("c"), step, Seen::Done),
            (key("c"), Step::Get, value("2")),
        ];
        assert_eq!(told, expected);
        assert_eq!(txn.told(&Answer::Refused(1), &[]), expected[..1]);
        assert_eq!(txn.told(&Answer::Refused(0), &[]), []);
        assert_eq!(txn.unknown()[0], (key("c"), step, Seen::Anything));
    }
}
