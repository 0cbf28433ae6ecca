//! A scripted client: the product's own [`client::Client`] and what it is told to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Completion, Failure, Options, Outbox, Secret, Way};
use wire::committee::Committee;
use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId, Slot};

use crate::ask::{Ask, If};
use crate::model::Answer;
use crate::plan::{MS, S, UserPlan};
use crate::random::Random;

/// Operations are given up only after every deadline of a run.
const TIMEOUT_NS: u64 = 1000 * S;

/// An operation that a client took.
#[derive(Clone, Debug)]
pub struct Asked {
    /// 0 for a fenced read, until it is ordered.
    pub sequence: Sequence,
    /// Highest slot that any user had been answered from when this one was asked.
    pub after: Slot,
    pub counter: bool,
    pub asked_ns: u64,
    pub ask: Ask,
}

/// One operation of a script, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripted {
    pub at_ns: u64,
    pub ask: Ask,
    /// A read with a fence.
    pub fenced: bool,
}

/// The end of an operation.
#[derive(Clone, Debug)]
pub struct Ended {
    pub client: PublicKey,
    pub session: SessionId,
    pub asked: Asked,
    pub slot: Slot,
    pub way: Way,
    pub ended_ns: u64,
    pub result: Result<Answer, Failure>,
}

/// What a client wants done.
#[derive(Debug, Default)]
pub struct Mail {
    pub datagrams: Vec<(NodeId, Vec<u8>)>,
    completions: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    tag: u64,
    sequence: Sequence,
    slot: Slot,
    way: Way,
    result: Result<Answer, Failure>,
}

impl Outbox for Mail {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        self.datagrams.push((to, datagram.to_vec()));
    }

    fn complete(&mut self, completion: Completion<'_>) {
        self.completions.push(Told {
            tag: completion.tag,
            sequence: completion.sequence,
            slot: completion.slot,
            way: completion.way,
            result: completion.result.map(Answer::parse),
        });
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
    /// Reads that ended by their fence, without the order.
    fenced: u64,
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
            fenced: 0,
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

    /// Reads that ended by their fence, without the order.
    pub fn fenced(&self) -> u64 {
        self.fenced
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
        for told in mail.completions.drain(..) {
            let asked = self.open.remove(&told.tag);
            let mut asked = asked.expect("one completion for each tag");
            asked.sequence = asked.sequence.max(told.sequence);
            self.fenced += u64::from(told.way == Way::Fenced && told.result.is_ok());
            let Told {
                slot, way, result, ..
            } = told;
            if asked.counter {
                self.counting = false;
                self.counted += u64::from(result == Ok(Answer::Done));
            }
            ended.push(Ended {
                client: *self.client.identity(),
                session: self.client.session().unwrap_or_default(),
                asked,
                slot,
                way,
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
            let Some((sequence, counter, ask)) = taken else {
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
                    ask,
                },
            );
        }
    }

    /// The next operation, once the client has taken it: its sequence, whether it counts, and what
    /// it is.
    fn submit(&mut self, now: Instant, tag: u64, mail: &mut Mail) -> Option<(Sequence, bool, Ask)> {
        let (counter, fenced, ask) = match self.script.get(tag as usize) {
            Some(scripted) => (false, scripted.fenced, scripted.ask.clone()),
            None => self.draw(tag),
        };
        let client = &mut self.client;
        let sequence = match (&ask, ask.operation()) {
            (_, Some(operation)) if fenced => {
                let taken = client.read_fenced(now, &operation, tag, mail);
                taken.ok().map(|()| Sequence(0))?
            }
            (_, Some(operation)) => client.submit(now, &operation, tag, mail).ok()?,
            (Ask::Txn(conditions, asks), None) => {
                let conditions = conditions.iter().map(If::condition).collect::<Vec<_>>();
                let operations = asks.iter().filter_map(Ask::operation).collect::<Vec<_>>();
                let taken = client.submit_txn(now, &conditions, &operations, tag, mail);
                taken.ok()?
            }
            (_, None) => unreachable!("only transactions come in parts"),
        };
        self.counting |= counter;
        Some((sequence, counter, ask))
    }

    /// Whether it counts, whether it is a fenced read, and what it is.
    fn draw(&mut self, tag: u64) -> (bool, bool, Ask) {
        let random = &mut self.random;
        if !self.counting && random.chance(300) {
            let key = format!("counter {}", self.number).into_bytes();
            let expected = (self.counted > 0).then(|| self.counted.to_le_bytes().to_vec());
            let value = (self.counted + 1).to_le_bytes().to_vec();
            return (true, false, Ask::Cas(key, expected, value));
        }
        let key = key_of(random.below(self.keys));
        // Values are unique.
        let mut value = format!("user {} operation {tag} ", self.number).into_bytes();
        let bytes = random.below(self.plan.value_bytes_max) as usize;
        value.resize(value.len().max(bytes), b'.');
        match random.below(16) {
            0..=5 => (false, false, Ask::Put(key, value)),
            6..=8 => (false, false, Ask::Get(key)),
            9..=11 => (false, true, Ask::Get(key)),
            12 => (false, false, Ask::Delete(key)),
            13 => (false, false, Ask::Cas(key, None, value)),
            14 => {
                let limit = random.within(1, self.keys + 1) as u32;
                let (from, to) = (key_of(random.below(self.keys)), b"key :".to_vec());
                (false, random.chance(700), Ask::Scan(from, to, limit))
            }
            _ => {
                let other = key_of(random.below(self.keys));
                let condition = if random.chance(500) {
                    If::Absent(other.clone())
                } else {
                    If::Present(other.clone())
                };
                let mut second = value.clone();
                second.push(b'2');
                // Two results of the largest size fit.
                let asks = vec![
                    Ask::Put(key, value),
                    Ask::Get(other.clone()),
                    if random.chance(500) {
                        Ask::Delete(other)
                    } else {
                        Ask::Put(other, second)
                    },
                ];
                (false, false, Ask::Txn(vec![condition], asks))
            }
        }
    }
}

/// The name of a key that users fight for; they sort as their numbers do.
pub fn key_of(number: u64) -> Vec<u8> {
    format!("key {number}").into_bytes()
}
