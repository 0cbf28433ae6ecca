//! A scripted client: the product's own [`client::Client`] and what it is told to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Completion, Failure, Options, Outbox, Secret};
use wire::committee::Committee;
use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId, Slot};
use wire::ops::Operation;

use crate::linear::{self, History, Seen, Step};
use crate::model::Answer;
use crate::plan::{MS, S, UserPlan};
use crate::random::Random;

/// Operations are given up only after every deadline of a run.
const TIMEOUT_NS: u64 = 1000 * S;

/// An operation that a client took.
#[derive(Clone, Debug)]
pub struct Asked {
    pub sequence: Sequence,
    /// Highest slot that any user had been answered from when this one was asked.
    pub after: Slot,
    pub counter: bool,
    pub asked_ns: u64,
    pub key: Vec<u8>,
    pub step: Step,
}

impl Asked {
    /// What the checker of linearizability is to know of it; without an end, it stays open.
    pub fn record(&self, history: &mut History, ended: Option<(u64, Slot, Seen)>) {
        let (return_ns, hint, seen) = match ended {
            Some((at_ns, slot, seen)) => (Some(at_ns), slot.0, seen),
            None => (None, u64::MAX, Seen::Anything),
        };
        let part = (&self.key[..], self.step, seen);
        history.record(self.asked_ns, return_ns, hint, [part]);
    }
}

/// One operation of a script, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Put(Vec<u8>, Vec<u8>),
    Get(Vec<u8>),
    Delete(Vec<u8>),
    /// Key, what it must hold, what it holds then.
    Cas(Vec<u8>, Option<Vec<u8>>, Vec<u8>),
}

impl Ask {
    fn operation(&self) -> Operation<'_> {
        match self {
            Ask::Put(key, value) => Operation::Put { key, value },
            Ask::Get(key) => Operation::Get { key },
            Ask::Delete(key) => Operation::Delete { key },
            Ask::Cas(key, expected, value) => Operation::Cas {
                key,
                expected: expected.as_deref(),
                value,
            },
        }
    }
}

/// An operation and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripted {
    pub at_ns: u64,
    pub ask: Ask,
}

/// What was seen in an answer.
pub fn seen(answer: &Answer) -> Seen {
    match answer {
        Answer::Done => Seen::Done,
        Answer::Absent => Seen::Absent,
        Answer::Value(value) => Seen::Value(linear::content(value)),
        Answer::Mismatch(found) => Seen::Mismatch(found.as_deref().map(linear::content)),
        Answer::Other => Seen::Anything,
    }
}

/// The step of an operation on one key; the users ask for nothing else.
fn step_of(operation: &Operation<'_>) -> (Vec<u8>, Step) {
    match *operation {
        Operation::Put { key, value } => (key.to_vec(), Step::Put(linear::content(value))),
        Operation::Get { key } => (key.to_vec(), Step::Get),
        Operation::Delete { key } => (key.to_vec(), Step::Delete),
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            let step = Step::Cas {
                expected: expected.map(linear::content),
                value: linear::content(value),
            };
            (key.to_vec(), step)
        }
        Operation::Txn(_) | Operation::Scan { .. } => unreachable!("users ask for one key"),
    }
}

/// The end of an operation.
#[derive(Clone, Debug)]
pub struct Ended {
    pub client: PublicKey,
    pub session: SessionId,
    pub asked: Asked,
    pub slot: Slot,
    pub ended_ns: u64,
    pub result: Result<Answer, Failure>,
}

/// What a client wants done.
#[derive(Debug, Default)]
pub struct Mail {
    pub datagrams: Vec<(NodeId, Vec<u8>)>,
    completions: Vec<(u64, Slot, Result<Answer, Failure>)>,
}

impl Outbox for Mail {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        self.datagrams.push((to, datagram.to_vec()));
    }

    fn complete(&mut self, completion: Completion<'_>) {
        let result = completion.result.map(Answer::parse);
        self.completions
            .push((completion.tag, completion.slot, result));
    }
}

/// One user.
pub struct User {
    number: usize,
    plan: UserPlan,
    keys: u64,
    client: Client,
    random: Random,
    asked: u32,
    next_ask: Instant,
    open: BTreeMap<u64, Asked>,
    /// Increments of the own counter that were acknowledged; its value is this number.
    counted: u64,
    counting: bool,
    /// Asked in this order instead of what is drawn.
    script: Vec<Scripted>,
}

impl User {
    pub fn new(
        number: usize,
        plan: UserPlan,
        keys: u64,
        committee: &Arc<Committee>,
        mut random: Random,
    ) -> User {
        let secret = Secret::generate(&random.bytes()).expect("a drawn secret is good");
        let options = Options {
            bundle_max: plan.bundle_max,
            linger_ns: plan.linger_ns,
            in_flight_max: plan.in_flight_max,
            timeout_ns: TIMEOUT_NS,
            seed: random.draw(),
            ..Options::default()
        };
        let client = Client::new(Arc::clone(committee), &secret, options);
        User {
            number,
            plan,
            keys,
            client: client.expect("the plan's options are in range"),
            random,
            asked: 0,
            next_ask: Instant(plan.begins_ns),
            open: BTreeMap::new(),
            counted: 0,
            counting: false,
            script: Vec::new(),
        }
    }

    /// Asks what a script says, as many operations as the plan has.
    pub fn follow(&mut self, script: Vec<Scripted>) {
        assert_eq!(script.len(), self.plan.operations as usize);
        self.next_ask = script
            .first()
            .map_or(self.next_ask, |next| Instant(next.at_ns));
        self.script = script;
    }

    pub fn identity(&self) -> PublicKey {
        *self.client.identity()
    }

    /// Everything was asked and answered.
    pub fn is_done(&self) -> bool {
        self.asked == self.plan.operations && self.open.is_empty()
    }

    pub fn unanswered(&self) -> usize {
        self.open.len() + (self.plan.operations - self.asked) as usize
    }

    /// Own counter: its key and the value that it must have while nothing is under way.
    pub fn counter(&self) -> (Vec<u8>, u64, bool) {
        (
            format!("counter {}", self.number).into_bytes(),
            self.counted,
            self.counting,
        )
    }

    pub fn wake_at(&self) -> Instant {
        let client = self.client.wake_at().unwrap_or(Instant(u64::MAX));
        let client = client.max(Instant(self.plan.begins_ns));
        if self.wants_to_ask() {
            client.min(self.next_ask)
        } else {
            client
        }
    }

    fn wants_to_ask(&self) -> bool {
        self.asked < self.plan.operations
            && self.open.len() < self.plan.in_flight_max
            && self.client.has_room()
    }

    pub fn receive(&mut self, now: Instant, datagram: &[u8], mail: &mut Mail) {
        self.client.receive(now, datagram, mail);
    }

    pub fn tick(&mut self, now: Instant, mail: &mut Mail) {
        self.client.tick(now, mail);
    }

    /// Takes completions out of the mail, until there are none.
    pub fn ended(&mut self, now: Instant, mail: &mut Mail) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (tag, slot, result) in mail.completions.drain(..) {
            let asked = self.open.remove(&tag).expect("one completion for each tag");
            if asked.counter {
                self.counting = false;
                self.counted += u64::from(result == Ok(Answer::Done));
            }
            ended.push(Ended {
                client: *self.client.identity(),
                session: self.client.session().unwrap_or_default(),
                asked,
                slot,
                ended_ns: now.0,
                result,
            });
        }
        ended
    }

    /// Operations that were asked and not answered so far.
    pub fn open(&self) -> impl Iterator<Item = &Asked> {
        self.open.values()
    }

    /// Asks as much as the plan and the client allow. `after`: see [`Asked::after`].
    pub fn ask(&mut self, now: Instant, after: Slot, mail: &mut Mail) {
        while now >= self.next_ask && self.wants_to_ask() {
            let tag = u64::from(self.asked);
            let taken = self.submit(now, tag, mail);
            let pause_ns = self
                .random
                .within(self.plan.think_ns / 2, self.plan.think_ns * 3 / 2);
            let Some((sequence, counter, (key, step))) = taken else {
                self.next_ask = now.after_ns(MS);
                return;
            };
            self.next_ask = now.after_ns(pause_ns);
            self.asked += 1;
            if let Some(next) = self.script.get(self.asked as usize) {
                self.next_ask = Instant(next.at_ns);
            }
            self.open.insert(
                tag,
                Asked {
                    sequence,
                    after,
                    counter,
                    asked_ns: now.0,
                    key,
                    step,
                },
            );
        }
    }

    fn submit(
        &mut self,
        now: Instant,
        tag: u64,
        mail: &mut Mail,
    ) -> Option<(Sequence, bool, (Vec<u8>, Step))> {
        if let Some(scripted) = self.script.get(tag as usize) {
            let operation = scripted.ask.operation();
            let sequence = self.client.submit(now, &operation, tag, mail).ok()?;
            return Some((sequence, false, step_of(&operation)));
        }
        let random = &mut self.random;
        if !self.counting && random.chance(300) {
            let key = format!("counter {}", self.number).into_bytes();
            let expected = (self.counted > 0).then(|| self.counted.to_le_bytes());
            let operation = Operation::Cas {
                key: &key,
                expected: expected.as_ref().map(|bytes| &bytes[..]),
                value: &(self.counted + 1).to_le_bytes(),
            };
            let sequence = self.client.submit(now, &operation, tag, mail).ok()?;
            self.counting = true;
            return Some((sequence, true, step_of(&operation)));
        }
        let key = format!("key {}", random.below(self.keys)).into_bytes();
        // Values are unique.
        let mut value = format!("user {} operation {tag} ", self.number).into_bytes();
        let bytes = random.below(self.plan.value_bytes_max) as usize;
        value.resize(value.len().max(bytes), b'.');
        let operation = match random.below(10) {
            0..=4 => Operation::Put {
                key: &key,
                value: &value,
            },
            5..=7 => Operation::Get { key: &key },
            8 => Operation::Delete { key: &key },
            _ => Operation::Cas {
                key: &key,
                expected: None,
                value: &value,
            },
        };
        let sequence = self.client.submit(now, &operation, tag, mail).ok()?;
        Some((sequence, false, step_of(&operation)))
    }
}
