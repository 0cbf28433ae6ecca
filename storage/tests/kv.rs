//! What the key-value state machine answers and does.

use storage::{Kv, MemTable, Noop, StateMachine};
use wire::limits::{RESULT_BYTES_MAX, SCAN_ENTRIES_MAX};
use wire::ops::{Condition, Operation, OperationsBuilder, Outcome, ResultBuffer, operations};

struct Machine {
    kv: Kv<MemTable>,
    out: ResultBuffer,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            kv: Kv::new(MemTable::new([5, 6])),
            out: ResultBuffer::new(),
        }
    }

    /// Through the codec, as decided operations come.
    fn apply(&mut self, operation: Operation<'_>) -> Outcome<'_> {
        let mut builder = OperationsBuilder::new();
        builder.push(&operation);
        self.apply_bytes(builder)
    }

    fn txn(&mut self, conditions: &[Condition<'_>], parts: &[Operation<'_>]) -> Outcome<'_> {
        let mut builder = OperationsBuilder::new();
        builder.push_txn(conditions, parts);
        self.apply_bytes(builder)
    }

    fn apply_bytes(&mut self, builder: OperationsBuilder) -> Outcome<'_> {
        let (bytes, count) = builder.finish();
        wire::ops::check(&bytes, count).unwrap();
        let operation = operations(&bytes).next().unwrap();
        self.out.clear();
        self.kv.apply(&operation, &mut self.out);
        assert!(self.out.bytes().len() <= RESULT_BYTES_MAX);
        Outcome::parse(self.out.bytes()).unwrap()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        assert_eq!(self.apply(Operation::Put { key, value }), Outcome::Done);
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.kv.table().value(key)
    }
}

fn results<'a>(outcome: Outcome<'a>) -> Vec<Outcome<'a>> {
    match outcome {
        Outcome::TxnDone(results) => results.collect(),
        other => panic!("not done: {other:?}"),
    }
}

#[test]
fn put_get_delete() {
    let mut machine = Machine::new();
    assert_eq!(machine.apply(Operation::Get { key: b"k" }), Outcome::Absent);
    machine.put(b"k", b"1");
    machine.put(b"k", b"");
    assert_eq!(
        machine.apply(Operation::Get { key: b"k" }),
        Outcome::Value(b"")
    );
    assert_eq!(
        machine.apply(Operation::Delete { key: b"k" }),
        Outcome::Done
    );
    assert_eq!(
        machine.apply(Operation::Delete { key: b"k" }),
        Outcome::Absent
    );
    assert_eq!((machine.kv.keys(), machine.kv.bytes()), (0, 0));
}

#[test]
fn cas_compares_value_or_absence() {
    let mut machine = Machine::new();
    let cas = |expected, value| Operation::Cas {
        key: b"k",
        expected,
        value,
    };
    assert_eq!(
        machine.apply(cas(Some(b"0"), b"1")),
        Outcome::Mismatch(None)
    );
    assert_eq!(machine.apply(cas(None, b"1")), Outcome::Done);
    assert_eq!(
        machine.apply(cas(None, b"2")),
        Outcome::Mismatch(Some(b"1"))
    );
    assert_eq!(machine.apply(cas(Some(b"1"), b"2")), Outcome::Done);
    assert_eq!(
        machine.apply(cas(Some(b""), b"3")),
        Outcome::Mismatch(Some(b"2"))
    );
    assert_eq!(machine.get(b"k"), Some(&b"2"[..]));
}

#[test]
fn txn_does_all_or_nothing() {
    let mut machine = Machine::new();
    machine.put(b"a", b"1");
    let parts = [
        Operation::Put {
            key: b"b",
            value: b"2",
        },
        Operation::Delete { key: b"a" },
        Operation::Get { key: b"a" },
    ];
    let holds = Condition::Equals {
        key: b"a",
        value: b"1",
    };
    let fails = Condition::Present { key: b"b" };
    assert_eq!(machine.txn(&[holds, fails], &parts), Outcome::TxnRefused(1));
    assert_eq!(
        (machine.get(b"a"), machine.get(b"b")),
        (Some(&b"1"[..]), None)
    );
    let absent = Condition::Absent { key: b"b" };
    let done = results(machine.txn(&[holds, absent], &parts));
    assert_eq!(done, [Outcome::Done, Outcome::Done, Outcome::Absent]);
    assert_eq!(
        (machine.get(b"a"), machine.get(b"b")),
        (None, Some(&b"2"[..]))
    );
}

#[test]
fn txn_operations_see_those_before_them() {
    let mut machine = Machine::new();
    let cas = |expected, value| Operation::Cas {
        key: b"k",
        expected,
        value,
    };
    let parts = [
        Operation::Delete { key: b"k" },
        Operation::Put {
            key: b"k",
            value: b"1",
        },
        cas(Some(b"2"), b"x"),
        cas(Some(b"1"), b"2"),
        Operation::Get { key: b"k" },
        cas(None, b"y"),
        Operation::Delete { key: b"k" },
        Operation::Get { key: b"k" },
        cas(None, b"3"),
        // Conditions look at the state before; operations at what was done.
        Operation::Get { key: b"k" },
    ];
    let done = results(machine.txn(&[Condition::Absent { key: b"k" }], &parts));
    assert_eq!(
        done,
        [
            Outcome::Absent,
            Outcome::Done,
            Outcome::Mismatch(Some(b"1")),
            Outcome::Done,
            Outcome::Value(b"2"),
            Outcome::Mismatch(Some(b"2")),
            Outcome::Done,
            Outcome::Absent,
            Outcome::Done,
            Outcome::Value(b"3"),
        ]
    );
    assert_eq!(machine.get(b"k"), Some(&b"3"[..]));
}

#[test]
fn txn_with_too_large_results_does_nothing() {
    let mut machine = Machine::new();
    machine.put(b"big", &[1; 60_000]);
    let put = Operation::Put {
        key: b"a",
        value: b"1",
    };
    let get = Operation::Get { key: b"big" };
    assert_eq!(machine.txn(&[], &[put, get, get]), Outcome::TooLarge);
    assert_eq!(machine.get(b"a"), None);
    // Not even by the few bytes of results without a value.
    machine.put(b"rest", &vec![2; RESULT_BYTES_MAX - 60_000 - 1 - 2 * 5]);
    let rest = Operation::Get { key: b"rest" };
    assert_eq!(results(machine.txn(&[], &[get, rest])).len(), 2);
    assert_eq!(machine.txn(&[], &[get, rest, put]), Outcome::TooLarge);
    assert_eq!(machine.get(b"a"), None);
    assert_eq!(results(machine.txn(&[], &[put, get])).len(), 2);
}

#[test]
fn scans_are_ordered_and_bounded() {
    let mut machine = Machine::new();
    for number in (0..3_000_u32).rev() {
        machine.put(&number.to_be_bytes(), b"v");
    }
    let mut scan = |from: u32, to: &[u8], limit| {
        let from = from.to_be_bytes();
        let Outcome::Entries(entries) = machine.apply(Operation::Scan {
            from: &from,
            to,
            limit,
        }) else {
            panic!("not entries")
        };
        let numbers: Vec<u32> = entries
            .map(|(key, _)| u32::from_be_bytes(key.try_into().unwrap()))
            .collect();
        (numbers, entries.more)
    };
    let ten = 10_u32.to_be_bytes();
    assert_eq!(scan(7, &ten, 5), (vec![7, 8, 9], false));
    assert_eq!(scan(7, &ten, 3), (vec![7, 8, 9], false));
    assert_eq!(scan(7, &ten, 2), (vec![7, 8], true));
    assert_eq!(scan(7, &ten, 0), (vec![], true));
    assert_eq!(scan(10, &ten, 5), (vec![], false));
    assert_eq!(scan(11, &ten, 5), (vec![], false));
    assert_eq!(scan(2_998, b"", 5), (vec![2_998, 2_999], false));
    let (numbers, more) = scan(0, b"", SCAN_ENTRIES_MAX as u32);
    assert_eq!((numbers.len(), more), (SCAN_ENTRIES_MAX, true));

    machine.put(&5_u32.to_be_bytes(), &[1; 65_536]);
    machine.put(&6_u32.to_be_bytes(), &[1; 65_536]);
    let Outcome::Entries(entries) = machine.apply(Operation::Scan {
        from: b"",
        to: b"",
        limit: 100,
    }) else {
        panic!("not entries")
    };
    assert!(entries.more);
    assert_eq!(
        entries.count(),
        6,
        "stops before the result grows too large"
    );
}

#[test]
fn reads_never_write() {
    let mut machine = Machine::new();
    machine.put(b"k", b"1");
    let mut builder = OperationsBuilder::new();
    for operation in [
        Operation::Put {
            key: b"k",
            value: b"2",
        },
        Operation::Delete { key: b"k" },
        Operation::Cas {
            key: b"k",
            expected: Some(b"1"),
            value: b"2",
        },
    ] {
        builder.push(&operation);
    }
    builder.push_txn(
        &[],
        &[
            Operation::Get { key: b"k" },
            Operation::Put {
                key: b"k",
                value: b"2",
            },
        ],
    );
    let refused = builder.count();
    builder.push(&Operation::Get { key: b"k" });
    builder.push(&Operation::Scan {
        from: b"",
        to: b"",
        limit: 9,
    });
    builder.push_txn(
        &[Condition::Present { key: b"k" }],
        &[Operation::Get { key: b"k" }],
    );
    for (index, operation) in operations(builder.bytes()).enumerate() {
        let mut read = ResultBuffer::new();
        assert_eq!(machine.kv.read(&operation, &mut read), index >= refused);
        assert_eq!(read.bytes().is_empty(), index < refused);
        if index >= refused {
            // The same as when it is ordered.
            let mut applied = ResultBuffer::new();
            machine.kv.apply(&operation, &mut applied);
            assert_eq!(read.bytes(), applied.bytes());
        }
    }
    assert_eq!(machine.get(b"k"), Some(&b"1"[..]));
}

#[test]
fn noop_answers_done() {
    let mut out = ResultBuffer::new();
    Noop.apply(
        &Operation::Put {
            key: b"k",
            value: b"v",
        },
        &mut out,
    );
    assert_eq!(Outcome::parse(out.bytes()), Ok(Outcome::Done));
}
