//! Roots of random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;
use replica::execution::Execution;
use storage::machine::Noop;
use storage::state::Hold;
use wire::ids::{Instant, NodeId, SessionId, Slot};
use wire::ops::Operation;
use wire::state::Part;

use crate::model::{Deed, Model, value};
use crate::world::{INTERVAL, Said, block, client, open, request, run, server, to_checkpoint};

#[derive(Clone, Debug)]
pub enum Item {
    Open(u8),
    /// The next sequences of a client, or earlier ones again.
    Request {
        client: u8,
        repeat: bool,
        acknowledge: bool,
        skip: u64,
        deeds: Vec<Deed>,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Block { time_ns: u64, items: Vec<Item> },
    Work(usize),
    Pin,
}

fn deed() -> impl Strategy<Value = Deed> {
    let key = 0..30_u8;
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, byte)| Deed::Put(key, byte)),
        2 => key.clone().prop_map(Deed::Get),
        2 => key.prop_map(Deed::Delete),
    ]
}

pub fn item() -> impl Strategy<Value = Item> {
    let skip = prop_oneof![6 => Just(0_u64), 1 => 1..20_u64, 1 => 900..1300_u64];
    prop_oneof![
        1 => (0..6_u8).prop_map(Item::Open),
        4 => (
            0..6_u8,
            prop::bool::weighted(0.2),
            any::<bool>(),
            skip,
            prop::collection::vec(deed(), 1..6),
        )
            .prop_map(|(client, repeat, acknowledge, skip, deeds)| Item::Request {
                client, repeat, acknowledge, skip, deeds,
            }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u32>(), prop::collection::vec(item(), 0..4)).prop_map(|(time, items)| {
            Step::Block { time_ns: u64::from(time) * 30, items }
        }),
        4 => (0..3000_usize).prop_map(Step::Work),
        1 => Just(Step::Pin),
    ]
}

/// Clients that keep to their sequences, over the model and in bytes.
#[derive(Default)]
pub struct Clients {
    next: BTreeMap<u8, u64>,
}

impl Clients {
    /// The payload of a block, which the model executes.
    pub fn payload(&mut self, model: &mut Model, time_ns: u64, items: &[Item]) -> Vec<u8> {
        model.begin(time_ns);
        let mut payload = Vec::new();
        let mut opens = 0;
        for item in items {
            match item {
                Item::Open(number) => {
                    open(&mut payload, client(*number), Slot(0));
                    model.open(client(*number), opens);
                    opens += 1;
                }
                Item::Request {
                    client: number,
                    repeat,
                    acknowledge,
                    skip,
                    deeds,
                } => {
                    let next = self.next.entry(*number).or_insert(1);
                    let first = if *repeat {
                        next.saturating_sub(2).max(1)
                    } else {
                        *next + skip
                    };
                    let acked = if *acknowledge { first - 1 } else { 0 };
                    *next = (*next).max(first + deeds.len() as u64);
                    let id = model
                        .sessions
                        .get(&client(*number))
                        .map_or(0, |session| session.id);
                    let parts: Vec<_> = deeds
                        .iter()
                        .map(|deed| match deed {
                            Deed::Put(key, byte) => (vec![*key], Some(value(*byte)), true),
                            Deed::Get(key) => (vec![*key], None, false),
                            Deed::Delete(key) => (vec![*key], None, true),
                        })
                        .collect();
                    let operations: Vec<_> = parts
                        .iter()
                        .map(|(key, value, writes)| match (value, writes) {
                            (Some(value), _) => Operation::Put { key, value },
                            (None, true) => Operation::Delete { key },
                            (None, false) => Operation::Get { key },
                        })
                        .collect();
                    let of = client(*number);
                    request(&mut payload, of, SessionId(id), first, acked, &operations);
                    model.request(of, first, acked, deeds);
                }
            }
        }
        payload
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn roots_are_those_of_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let (mut server, mut model) = (server(1), Model::default());
        let mut clients = Clients::default();
        let mut expected = BTreeMap::new();
        let mut told = 0;
        for step in steps {
            match step {
                Step::Block { time_ns, items } => {
                    let payload = clients.payload(&mut model, time_ns, &items);
                    run(&mut server, time_ns, &payload);
                    prop_assert_eq!(server.time_ns(), model.time_ns);
                    if model.slot.is_multiple_of(INTERVAL) {
                        expected.insert(model.slot, model.root());
                    }
                }
                Step::Work(budget) => {
                    server.work(budget);
                }
                Step::Pin => {
                    server.pin(Hold::Until(Instant(1)));
                }
            }
            while let Some((slot, root)) = server.take_root() {
                prop_assert_eq!(Some(&root), expected.get(&slot.0));
                told += 1;
            }
        }
        while server.work(1) {}
        told += u64::from(server.take_root().is_some());
        prop_assert_eq!(told, model.slot / INTERVAL);
    }
}

#[test]
fn a_machine_without_state_has_checkpoints_of_its_sessions() {
    let mut execution = Execution::new(NodeId(0), 4, Noop, 1400)
        .with_checkpoint_interval(2)
        .with_genesis_time(77);
    let mut payload = Vec::new();
    open(&mut payload, client(0), Slot(0));
    let mut model = Model {
        time_ns: 77,
        ..Model::default()
    };
    for slot in [Slot(1), Slot(2)] {
        execution.execute(slot, &block(slot, 99, &payload), &mut Said::default());
        model.begin(99);
        model.open(client(0), 0);
    }
    assert!(execution.is_hashing());
    while execution.work(1) {}
    assert_eq!(execution.take_root(), Some((Slot(2), model.root())));
    assert_eq!(execution.last_checkpoint(), Some((Slot(2), model.root())));
    assert_eq!(execution.take_root(), None);
}

#[test]
fn too_much_to_keep_ends_the_pin() {
    let (mut server, next) = crate::world::filled(1, 300, 1000);
    server = server.with_preserved_bytes_max(100_000);
    let (slot, _) = to_checkpoint(&mut server);
    let pinned = server.pin(Hold::Open);
    assert_eq!((pinned.slot, pinned.ready), (slot, true));
    let mut out = Vec::new();
    let next = crate::world::put(&mut server, next, 0..50, 1000, 2);
    assert_eq!(server.serve(slot, Part::Summary, &mut out), Ok(()));
    crate::world::put(&mut server, next, 50..150, 1000, 2);
    assert!(server.serve(slot, Part::Summary, &mut out).is_err());
}

#[test]
fn skipped_checkpoints_change_no_later_root() {
    let (mut one, next) = crate::world::filled(1, 300, 10);
    let (mut other, mut silent) = (server(2), server(3));
    other.skip_checkpoints(one.executed());
    silent.skip_checkpoints(Slot(1 << 40));
    for server in [&mut other, &mut silent] {
        let mut payload = Vec::new();
        open(&mut payload, client(0), Slot(0));
        run(server, 1, &payload);
        let mut next = 1;
        for first in [0, 100, 200] {
            next = crate::world::put(server, next, first..first + 100, 10, 1);
        }
        assert!(!server.is_hashing());
    }
    assert_eq!(one.executed(), Slot(INTERVAL));
    assert!(one.is_hashing());
    for server in [&mut one, &mut other, &mut silent] {
        crate::world::put(server, next, 5..9, 10, 2);
    }
    assert_eq!(to_checkpoint(&mut one), to_checkpoint(&mut other));
    for _ in 0..INTERVAL {
        run(&mut silent, 1, &[]);
    }
    assert!(!silent.is_hashing() && silent.take_root().is_none());
}

/// T4, §9.4: what a leader has executed a second time serves nobody.
#[test]
fn work_is_what_was_new() {
    let mut server = server(1);
    let mut opens = Vec::new();
    open(&mut opens, client(0), Slot(0));
    let session = SessionId::opened_at(Slot(1), 0);
    let put = Operation::Put {
        key: b"k",
        value: b"v",
    };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    request(&mut one, client(0), session, 1, 0, &[put]);
    request(&mut two, client(0), session, 1, 0, &[put, put]);
    let mut work = |payload: &[u8]| {
        let slot = server.executed().next();
        let work = server.execute(slot, &block(slot, 1, payload), &mut Said::default());
        (work.opened, work.operations, work.bytes)
    };
    assert_eq!(work(&opens), (true, 0, 0));
    assert_eq!(work(&opens), (false, 0, 0), "the session is there");
    assert_eq!(work(&one), (false, 1, one.len() as u64));
    assert_eq!(work(&one), (false, 0, 0));
    assert_eq!(work(&two), (false, 1, two.len() as u64 / 2), "half is new");
}
