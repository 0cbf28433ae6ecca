//! The client against scripted replicas: loss, duplicates, reordering, and one liar among four.

mod fake;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;

use client::{Client, Completion, Failure, Options, Outbox, Secret, SubmitError, Way};
use fake::FakeCluster;
use proptest::prelude::*;
use wire::ids::{Instant, NodeId, Sequence};
use wire::ops::{Operation, Outcome};

const CLIENT: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

/// How the network treats datagrams, in percent and nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    duplicates: u64,
    delay_ns_max: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flight {
    ToNode(NodeId, Vec<u8>),
    ToClient(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    result: Result<Vec<u8>, Failure>,
    replies: u32,
    way: Way,
}

/// Datagrams in the air and the completions that came.
struct Air {
    now: Instant,
    flights: BinaryHeap<Reverse<(Instant, u64, Flight)>>,
    count: u64,
    random: u64,
    weather: Weather,
    ended: BTreeMap<u64, Vec<Ended>>,
}

impl Air {
    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    fn fly(&mut self, make: impl Fn() -> Flight) {
        let copies = 1 + u64::from(self.draw(100) < self.weather.duplicates);
        for _ in 0..copies {
            if self.draw(100) < self.weather.loss {
                continue;
            }
            let delay = 10_000 + self.draw(self.weather.delay_ns_max);
            self.count += 1;
            self.flights
                .push(Reverse((self.now.after_ns(delay), self.count, make())));
        }
    }
}

impl Outbox for Air {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        self.fly(|| Flight::ToNode(to, datagram.to_vec()));
    }

    fn complete(&mut self, completion: Completion<'_>) {
        self.ended.entry(completion.tag).or_default().push(Ended {
            result: completion.result.map(<[u8]>::to_vec),
            replies: completion.replies,
            way: completion.way,
        });
    }
}

struct World {
    client: Client,
    cluster: FakeCluster,
    air: Air,
}

fn addresses() -> Vec<SocketAddr> {
    (0..4)
        .map(|id| ([127, 0, 0, 1], 7000 + id).into())
        .collect()
}

impl World {
    fn new(seed: u64, weather: Weather, options: Options, datagram_bytes: usize) -> World {
        let committee = Arc::new(fake::committee(&addresses()));
        let secret = Secret::generate(&[77; 32]).unwrap();
        World {
            cluster: FakeCluster::new(&committee, datagram_bytes, seed),
            client: Client::new(committee, &secret, options).unwrap(),
            air: Air {
                now: Instant(1_000_000),
                flights: BinaryHeap::new(),
                count: 0,
                random: seed | 1,
                weather,
                ended: BTreeMap::new(),
            },
        }
    }

    /// Runs until `done`, at most `limit_ns` more of simulated time; whether `done` held.
    fn run_until(&mut self, limit_ns: u64, done: impl Fn(&Client, &Air) -> bool) -> bool {
        let end = self.air.now.after_ns(limit_ns);
        while !done(&self.client, &self.air) {
            let flight = self.air.flights.peek().map(|Reverse((at, ..))| *at);
            let wake = self.client.wake_at();
            let next = match (flight, wake) {
                (Some(flight), Some(wake)) => flight.min(wake),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return false,
            };
            if next > end {
                self.air.now = end;
                return false;
            }
            self.air.now = self.air.now.max(next);
            let now = self.air.now;
            if flight.is_some_and(|at| at <= now) {
                if let Some(Reverse((_, _, flight))) = self.air.flights.pop() {
                    self.arrive(flight);
                }
            } else {
                self.client.tick(now, &mut self.air);
                // Time must move even when nothing was due.
                self.air.now = now.after_ns(1_000);
            }
        }
        true
    }

    fn arrive(&mut self, flight: Flight) {
        let now = self.air.now;
        match flight {
            Flight::ToNode(node, bytes) => {
                let mut out = Vec::new();
                self.cluster
                    .receive(now, node, CLIENT.into(), &bytes, &mut out);
                for sent in out {
                    self.air.fly(|| Flight::ToClient(sent.bytes.clone()));
                }
            }
            Flight::ToClient(bytes) => self.client.receive(now, &bytes, &mut self.air),
        }
    }

    fn submit(&mut self, operation: &Operation<'_>, tag: u64) -> Result<(), SubmitError> {
        let now = self.air.now;
        self.client
            .submit(now, operation, tag, &mut self.air)
            .map(|_| ())
    }

    fn connect(&mut self) {
        assert!(self.run_until(20_000_000_000, |client, _| client.is_ready()));
    }

    /// Submits `count` puts and gets as room allows, and runs until all have ended.
    fn load(&mut self, count: u64, value: &[u8]) {
        let mut next = 0;
        while next < count {
            let key = format!("key {}", next % 16);
            let operation = if next % 3 == 0 {
                Operation::Get {
                    key: key.as_bytes(),
                }
            } else {
                Operation::Put {
                    key: key.as_bytes(),
                    value,
                }
            };
            match self.submit(&operation, next) {
                Ok(()) => next += 1,
                Err(SubmitError::WindowFull | SubmitError::NotReady) => {
                    let before = self.air.ended.len();
                    self.run_until(20_000_000_000, |_, air| air.ended.len() > before);
                }
                Err(error) => panic!("{error}"),
            }
        }
        let now = self.air.now;
        self.client.flush(now, &mut self.air);
        let all = count as usize;
        self.run_until(60_000_000_000, |_, air| air.ended.len() == all);
    }
}

const CALM: Weather = Weather {
    loss: 0,
    duplicates: 0,
    delay_ns_max: 100_000,
};

fn options() -> Options {
    Options {
        bundle_max: 8,
        in_flight_max: 64,
        timeout_ns: 10_000_000_000,
        seed: 5,
        ..Options::default()
    }
}

#[test]
fn operations_complete_with_their_results() {
    let mut world = World::new(1, CALM, options(), 1472);
    world.connect();
    world.load(100, b"value");
    assert_eq!(world.air.ended.len(), 100);
    for (tag, ended) in &world.air.ended {
        assert_eq!(ended.len(), 1);
        let result = ended[0].result.as_ref().unwrap();
        assert!(ended[0].replies >= 2);
        match Outcome::parse(result).unwrap() {
            Outcome::Done => assert_ne!(tag % 3, 0),
            Outcome::Value(value) => assert_eq!(value, b"value"),
            Outcome::Absent => assert_eq!(tag % 3, 0),
            other => panic!("{other:?}"),
        }
    }
    let counters = world.client.counters();
    assert_eq!((counters.retransmissions, counters.wrong_replies), (0, 0));
    assert_eq!(world.cluster.bad_signatures, 0);
    assert_eq!(world.client.in_flight(), 0);
}

#[test]
fn large_results_come_in_fragments() {
    let mut world = World::new(2, CALM, options(), 1472);
    world.connect();
    let value = vec![7; 20_000];
    world
        .submit(
            &Operation::Put {
                key: b"k",
                value: &value,
            },
            1,
        )
        .unwrap();
    world.submit(&Operation::Get { key: b"k" }, 2).unwrap();
    assert!(world.run_until(5_000_000_000, |_, air| air.ended.len() == 2));
    let result = world.air.ended[&2][0].result.clone().unwrap();
    assert_eq!(Outcome::parse(&result), Ok(Outcome::Value(&value)));
}

#[test]
fn one_replica_alone_is_never_believed() {
    let mut world = World::new(3, CALM, options(), 1472);
    world.connect();
    world.cluster.silent = vec![NodeId(0), NodeId(1), NodeId(2)];
    world.load(20, b"value");
    assert_eq!(world.air.ended.len(), 20);
    for ended in world.air.ended.values() {
        assert_eq!(ended[0].result, Err(Failure::Timeout));
    }
    // It was executed nevertheless, once: the outcome was unknown, not "no".
    assert_eq!(world.cluster.executed_twice, 0);
}

#[test]
fn no_session_without_a_quorum() {
    let mut world = World::new(4, CALM, options(), 1472);
    world.cluster.silent = vec![NodeId(0), NodeId(1), NodeId(2)];
    // Greetings are answered by the links themselves; replies are not.
    assert!(!world.run_until(5_000_000_000, |client, _| client.is_ready()));
    world.submit(&Operation::Get { key: b"k" }, 1).unwrap();
    assert!(world.run_until(20_000_000_000, |_, air| air.ended.len() == 1));
    assert_eq!(world.air.ended[&1][0].result, Err(Failure::Timeout));
}

/// A leader that lies, or a recording of what an honest one once said.
#[test]
fn refusals_without_end_hold_no_request_back() {
    let mut world = World::new(6, CALM, options(), 1472);
    world.connect();
    world.cluster.deaf_leader = true;
    let put = Operation::Put {
        key: b"k",
        value: b"v",
    };
    world.submit(&put, 1).unwrap();
    let now = world.air.now;
    world.client.flush(now, &mut world.air);
    let client = *world.client.identity();
    for _ in 0..40 {
        for busy in world.cluster.say_busy(&client, Sequence(1)) {
            let now = world.air.now;
            world.client.receive(now, &busy.bytes, &mut world.air);
        }
        if world.run_until(50_000_000, |_, air| air.ended.contains_key(&1)) {
            break;
        }
    }
    let ended = world
        .air
        .ended
        .get(&1)
        .expect("the others have it within 2 s");
    assert!(ended[0].result.is_ok());
}

#[test]
fn an_expired_session_leaves_outcomes_unknown_and_a_new_one_is_opened() {
    let mut world = World::new(5, CALM, options(), 1472);
    world.connect();
    let first = world.client.session();
    world.load(10, b"value");
    world.cluster.expire_sessions();
    world
        .submit(
            &Operation::Put {
                key: b"k",
                value: b"v",
            },
            100,
        )
        .unwrap();
    let now = world.air.now;
    world.client.flush(now, &mut world.air);
    assert!(world.run_until(5_000_000_000, |_, air| air.ended.contains_key(&100)));
    assert_eq!(world.air.ended[&100][0].result, Err(Failure::Expired));
    world.connect();
    assert_ne!(world.client.session(), first);
    world
        .submit(
            &Operation::Put {
                key: b"k",
                value: b"v",
            },
            101,
        )
        .unwrap();
    assert!(world.run_until(5_000_000_000, |_, air| air.ended.contains_key(&101)));
    assert!(world.air.ended[&101][0].result.is_ok());
    assert_eq!(world.client.counters().expired, 1);
}

#[test]
fn a_stale_read_asks_one_replica_and_needs_no_session() {
    let mut world = World::new(6, CALM, options(), 1472);
    world.cluster.table.insert(b"k".to_vec(), b"v".to_vec());
    world.cluster.silent = vec![NodeId(0), NodeId(1), NodeId(3)];
    world.run_until(1_000_000_000, |client, _| client.is_linked(NodeId(2)));
    let now = world.air.now;
    let get = Operation::Get { key: b"k" };
    world
        .client
        .read_stale(now, NodeId(2), &get, 1, &mut world.air)
        .unwrap();
    assert!(world.run_until(1_000_000_000, |_, air| air.ended.len() == 1));
    let ended = &world.air.ended[&1][0];
    assert_eq!(ended.replies, 1);
    assert_eq!(
        Outcome::parse(ended.result.as_ref().unwrap()),
        Ok(Outcome::Value(b"v"))
    );
    let put = Operation::Put {
        key: b"k",
        value: b"",
    };
    let refused = world
        .client
        .read_stale(now, NodeId(2), &put, 2, &mut world.air);
    assert_eq!(refused, Err(SubmitError::NotARead));
    let refused = world.client.read_fenced(now, &put, 2, &mut world.air);
    assert_eq!(refused, Err(SubmitError::NotARead));
}

/// A get with a fence, and how it ended.
fn fenced(world: &mut World, tag: u64) -> (Vec<u8>, u32, Way) {
    let now = world.air.now;
    let get = Operation::Get { key: b"k" };
    let client = &mut world.client;
    client.read_fenced(now, &get, tag, &mut world.air).unwrap();
    assert!(world.run_until(5_000_000_000, |_, air| air.ended.contains_key(&tag)));
    let ended = &world.air.ended[&tag][0];
    let value = match Outcome::parse(ended.result.as_ref().unwrap()) {
        Ok(Outcome::Value(value)) => value.to_vec(),
        other => panic!("{other:?}"),
    };
    (value, ended.replies, ended.way)
}

#[test]
fn a_fenced_read_needs_three_of_four_equal_answers() {
    let mut world = World::new(8, CALM, options(), 1472);
    world.cluster.table.insert(b"k".to_vec(), b"v".to_vec());
    world.connect();
    // One replica is silent, or behind, or lies: three others agree.
    for (tag, silent) in [(1, vec![NodeId(1)]), (2, vec![])] {
        world.cluster.behind = if tag == 2 { vec![NodeId(0)] } else { vec![] };
        world.cluster.silent = silent;
        assert_eq!(fenced(&mut world, tag), (b"v".to_vec(), 3, Way::Fenced));
    }
    assert_eq!(world.client.counters().fenced_reads_ordered, 0);
    // Two that differ leave no three: the order decides.
    world.cluster.behind = vec![NodeId(1), NodeId(2)];
    let (value, replies, way) = fenced(&mut world, 3);
    assert_eq!((value, way), (b"v".to_vec(), Way::FencedThenOrdered));
    assert!(replies >= 2);
    let counters = world.client.counters();
    assert_eq!(
        (counters.fenced_reads, counters.fenced_reads_ordered),
        (3, 1)
    );
    // So do two that say nothing, after the read was asked a few times.
    world.cluster.behind.clear();
    world.cluster.silent = vec![NodeId(2), NodeId(3)];
    assert_eq!(fenced(&mut world, 4).2, Way::FencedThenOrdered);
    assert_eq!(world.client.in_flight(), 0);
}

#[test]
fn long_results_of_fenced_reads_come_from_one_replica_or_are_asked_for() {
    let mut world = World::new(9, CALM, options(), 1472);
    let long = vec![7; 5_000];
    world.cluster.table.insert(b"k".to_vec(), long.clone());
    world.connect();
    assert_eq!(fenced(&mut world, 1), (long.clone(), 3, Way::Fenced));
    // The designated replica is silent: whole answers are asked of all.
    world.cluster.silent = vec![NodeId(0)];
    assert_eq!(fenced(&mut world, 2).0, long);
}

#[test]
fn a_fenced_read_of_a_client_without_quorum_ends() {
    let mut world = World::new(10, CALM, options(), 1472);
    world.connect();
    world.cluster.silent = vec![NodeId(1), NodeId(2), NodeId(3)];
    let now = world.air.now;
    let get = Operation::Get { key: b"k" };
    let client = &mut world.client;
    client.read_fenced(now, &get, 1, &mut world.air).unwrap();
    assert!(world.run_until(60_000_000_000, |_, air| air.ended.contains_key(&1)));
    assert_eq!(world.air.ended[&1][0].result, Err(Failure::Timeout));
    assert_eq!(world.client.in_flight(), 0);
}

#[test]
fn bounds_are_kept_and_named() {
    let mut world = World::new(7, CALM, options(), 1472);
    world.connect();
    let long = vec![0; 2000];
    let put = Operation::Put {
        key: &long,
        value: b"",
    };
    assert_eq!(world.submit(&put, 0), Err(SubmitError::KeyLength));
    let huge = vec![0; 70_000];
    let put = Operation::Put {
        key: b"k",
        value: &huge,
    };
    assert_eq!(world.submit(&put, 0), Err(SubmitError::ValueTooLong));
    for tag in 0..64 {
        world.submit(&Operation::Get { key: b"k" }, tag).unwrap();
    }
    let get = Operation::Get { key: b"k" };
    assert_eq!(world.submit(&get, 64), Err(SubmitError::WindowFull));
    assert!(!world.client.has_room());
    // Two of the largest values do not share a request.
    world.run_until(1_000_000_000, |client, _| client.in_flight() == 0);
    let value = vec![1; 65_536];
    for tag in 100..103 {
        world
            .submit(
                &Operation::Put {
                    key: b"k",
                    value: &value,
                },
                tag,
            )
            .unwrap();
    }
    let now = world.air.now;
    world.client.flush(now, &mut world.air);
    assert!(world.run_until(5_000_000_000, |client, _| client.in_flight() == 0));
    assert!((100..103).all(|tag| world.air.ended[&tag][0].result.is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the network and one liar do, each tag ends once, every accepted result is the
    /// true one with b+1 replies, and nothing is executed twice.
    #[test]
    fn each_tag_ends_once_and_only_truth_is_accepted(
        seed in any::<u64>(),
        loss in 0u64..30,
        duplicates in 0u64..40,
        delay_ns_max in 50_000u64..30_000_000,
        liar in 0u16..5,
        datagram_bytes in prop_oneof![Just(600usize), Just(1472), Just(65_507)],
        long in any::<bool>(),
    ) {
        let weather = Weather { loss, duplicates, delay_ns_max };
        let mut world = World::new(seed, weather, options(), datagram_bytes);
        world.cluster.liar = (liar < 4).then_some(NodeId(liar));
        world.connect();
        let value = vec![7u8; if long { 300 } else { 20 }];
        world.load(200, &value);
        prop_assert_eq!(world.air.ended.len(), 200);
        let mut accepted = 0;
        for (tag, ended) in &world.air.ended {
            prop_assert_eq!(ended.len(), 1, "tag {} ended more than once", tag);
            let Ok(result) = &ended[0].result else { continue };
            accepted += 1;
            prop_assert!(ended[0].replies >= 2);
            match Outcome::parse(result) {
                Ok(Outcome::Done) => prop_assert_ne!(tag % 3, 0),
                Ok(Outcome::Value(found)) => prop_assert_eq!(found, &value[..]),
                Ok(Outcome::Absent) => prop_assert_eq!(tag % 3, 0),
                other => prop_assert!(false, "a lie was accepted: {:?}", other),
            }
        }
        prop_assert_eq!(world.cluster.executed_twice, 0);
        prop_assert_eq!(world.cluster.bad_signatures, 0);
        prop_assert_eq!(world.client.in_flight(), 0);
        // Long results are kept as digests, so their bytes can be lost; nothing else may fail.
        let lost = world.air.ended.values().filter(|e| e[0].result == Err(Failure::ResultLost)).count();
        prop_assert!(accepted + lost == 200, "{} accepted, {} lost", accepted, lost);
        prop_assert!(long || lost == 0);
    }
}
