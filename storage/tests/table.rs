//! The table in memory against a `BTreeMap`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage::{MemTable, Table};

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: Vec<u8>,
        value_bytes: usize,
        byte: u8,
    },
    Delete {
        key: Vec<u8>,
    },
    Scan {
        from: Vec<u8>,
        to: Option<Vec<u8>>,
        limit: usize,
    },
}

/// Few enough keys that they meet again, some of them prefixes of others.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(0..4_u8, 1..5),
        (0..2000_u16).prop_map(|number| number.to_be_bytes().to_vec()),
        (0..20_u8).prop_map(|number| [&b"a common prefix of many bytes "[..], &[number]].concat()),
        Just(vec![0xff; 1024]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let value_bytes =
        prop_oneof![8 => 0..300_usize, 2 => 0..5000_usize, 1 => Just(65_536), 1 => 0..65_536_usize];
    prop_oneof![
        8 => (key(), value_bytes, any::<u8>())
            .prop_map(|(key, value_bytes, byte)| Step::Put { key, value_bytes, byte }),
        3 => key().prop_map(|key| Step::Delete { key }),
        1 => (key(), prop::option::of(key()), 0..50_usize)
            .prop_map(|(from, to, limit)| Step::Scan { from, to, limit }),
    ]
}

fn scan(
    table: &mut MemTable,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    table.scan(from, to, limit, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        true
    });
    entries
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_table_is_a_sorted_map(
        steps in prop::collection::vec(step(), 1..600),
        seed in any::<[u64; 2]>(),
    ) {
        let mut table = MemTable::new(seed);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put { key, value_bytes, byte } => {
                    let value = vec![byte; value_bytes];
                    table.put(&key, &value);
                    model.insert(key.clone(), value);
                    prop_assert_eq!(table.get(&key), model.get(&key).map(Vec::as_slice));
                }
                Step::Delete { key } => {
                    prop_assert_eq!(table.delete(&key), model.remove(&key).is_some());
                    prop_assert_eq!(table.get(&key), None);
                }
                Step::Scan { from, to, limit } => {
                    let inside = |key: &[u8]| to.as_deref().is_none_or(|to| key < to);
                    let expected: Vec<_> = model
                        .range(from.clone()..)
                        .take_while(|(key, _)| inside(key))
                        .take(limit)
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    prop_assert_eq!(scan(&mut table, &from, to.as_deref(), limit), expected);
                }
            }
            prop_assert_eq!(table.len(), model.len() as u64);
        }
        let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
        prop_assert_eq!(table.bytes(), bytes as u64);
        for (key, value) in &model {
            prop_assert_eq!(table.get(key), Some(value.as_slice()));
        }
        let all: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(scan(&mut table, b"", None, usize::MAX), all);
    }
}

/// Many keys: the index grows, leaves split and merge.
#[test]
fn a_large_table_keeps_its_order() {
    let mut table = MemTable::new([3, 4]);
    let key = |number: u32| number.wrapping_mul(2_654_435_761).to_be_bytes();
    table.scan(b"", None, 1, &mut |_, _| true);
    for number in 0..50_000 {
        table.put(&key(number), &number.to_le_bytes());
    }
    for number in (0..50_000).filter(|number| number % 50 != 0) {
        assert!(table.delete(&key(number)));
    }
    let mut kept: Vec<u32> = (0..50_000).filter(|number| number % 50 == 0).collect();
    kept.sort_by_key(|number| key(*number));
    let expected: Vec<_> = kept
        .iter()
        .map(|number| (key(*number).to_vec(), number.to_le_bytes().to_vec()))
        .collect();
    assert_eq!(scan(&mut table, b"", None, usize::MAX), expected);
}

#[test]
fn a_fixed_key_set_keeps_its_memory() {
    let mut table = MemTable::new([1, 2]);
    let write_all = |table: &mut MemTable, round: usize| {
        for number in 0..10_000_u32 {
            table.put(
                &number.to_be_bytes(),
                &vec![7; 100 + (number as usize + round) % 28],
            );
        }
    };
    // Sizes vary within a block after the first rounds have found the largest.
    for round in 0..28 {
        write_all(&mut table, round);
    }
    let before = table.allocated_bytes();
    for round in 0..60 {
        write_all(&mut table, round);
    }
    assert_eq!(table.allocated_bytes(), before);
    // Deleted and written again: the blocks come back.
    for number in 0..10_000_u32 {
        table.delete(&number.to_be_bytes());
    }
    write_all(&mut table, 0);
    assert_eq!(table.allocated_bytes(), before);
}

#[test]
fn the_seed_changes_nothing_visible() {
    let fill = |seed| {
        let mut table = MemTable::new(seed);
        for number in 0..5_000_u32 {
            table.put(
                &number.wrapping_mul(40_503).to_le_bytes(),
                &number.to_le_bytes(),
            );
        }
        scan(&mut table, b"", None, usize::MAX)
    };
    assert_eq!(fill([0, 0]), fill([u64::MAX, 12345]));
}
