//! Checkpoints against a reference that keeps everything in a `BTreeMap` and hashes all of it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use storage::state::{Bucketed, Checkpoints, Hold, InstallFailed, Parts, Unserved};
use storage::{MemTable, Table};
use wire::ids::{Digest, Instant, Slot};
use wire::state::{Bucket, Cell, Leaf, Node, Part, StateHead, Summary};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a checkpoint should be, computed in the plainest way; the formats stand here once more on
/// purpose.
#[derive(Clone, Debug, Default)]
struct Reference {
    machine: Entries,
    sessions: Entries,
}

impl Reference {
    /// The content of the cells of a bucket.
    fn cells(&self, bucket: u16) -> BTreeMap<u8, Vec<u8>> {
        let mut cells: BTreeMap<u8, [Vec<u8>; 2]> = BTreeMap::new();
        for (at, entries) in [&self.machine, &self.sessions].into_iter().enumerate() {
            for (key, value) in entries {
                let cell = Cell::of_key(key);
                if cell.bucket().number() == bucket {
                    let items = &mut cells.entry(cell.index()).or_default()[at];
                    items.extend((key.len() as u16).to_le_bytes());
                    items.extend((value.len() as u32).to_le_bytes());
                    items.extend(key);
                    items.extend(value);
                }
            }
        }
        let content = |[machine, sessions]: [Vec<u8>; 2]| {
            let length = (machine.len() as u64).to_le_bytes();
            [&length[..], &machine, &sessions].concat()
        };
        let cells = cells.into_iter();
        cells
            .map(|(index, items)| (index, content(items)))
            .collect()
    }

    fn bucket(&self, bucket: u16) -> Vec<u8> {
        let cells = self.cells(bucket).into_iter();
        let bytes = cells.map(|(index, content)| {
            let length = (content.len() as u64).to_le_bytes();
            [&[index][..], &length, &content].concat()
        });
        bytes.collect::<Vec<_>>().concat()
    }

    fn digest(&self, bucket: u16) -> [u8; 32] {
        let key = blake3::derive_key("hippodrome/1/state-cell", &[]);
        let (mut digests, mut held) = (Vec::new(), [0; 32]);
        for (index, content) in self.cells(bucket) {
            digests.extend(blake3::keyed_hash(&key, &content).as_bytes());
            held[usize::from(index) / 8] |= 1 << (index % 8);
        }
        digests.extend(held);
        blake3::derive_key("hippodrome/1/state-bucket", &digests)
    }

    fn root(&self, slot: u64) -> Digest {
        // Hashing every entry for every bucket would take minutes: first the buckets in use.
        let used: std::collections::BTreeSet<u16> = self
            .machine
            .keys()
            .chain(self.sessions.keys())
            .map(|key| Bucket::of_key(key).number())
            .collect();
        let mut top = Vec::new();
        for number in [slot, 10 * slot, 100 * slot, 0] {
            top.extend(number.to_le_bytes());
        }
        // No change is pending.
        top.extend([0; 72]);
        for node in 0..64 {
            let mut leaves = Vec::new();
            for bucket in node * 64..(node + 1) * 64 {
                let empty = Reference::default();
                let of = if used.contains(&bucket) { self } else { &empty };
                leaves.extend(of.digest(bucket));
                leaves.extend((of.bucket(bucket).len() as u64).to_le_bytes());
            }
            top.extend(blake3::derive_key("hippodrome/1/state-node", &leaves));
        }
        Digest(blake3::derive_key("hippodrome/1/state-root", &top))
    }
}

fn head(slot: u64) -> StateHead {
    StateHead::new(Slot(slot), 10 * slot, 100 * slot)
}

/// Two tables, one in the place of the sessions: they implement the same trait.
struct State {
    machine: MemTable,
    sessions: MemTable,
    checkpoints: Checkpoints,
}

impl State {
    fn new(seed: u64, keys: usize) -> State {
        State {
            machine: MemTable::with_capacity([seed, 7], keys),
            sessions: MemTable::new([7, seed]),
            checkpoints: Checkpoints::new(),
        }
    }

    fn with<T>(&mut self, run: impl FnOnce(&mut Checkpoints, &mut Parts<'_>) -> T) -> T {
        let mut parts = Parts {
            machine: Some(&mut self.machine),
            sessions: &mut self.sessions,
        };
        run(&mut self.checkpoints, &mut parts)
    }

    fn checkpoint(&mut self, slot: u64) -> Digest {
        self.with(|checkpoints, parts| {
            checkpoints.begin(head(slot), parts);
            checkpoints.finish(parts);
        });
        let mut last = None;
        while let Some((of, root)) = self.checkpoints.take_root() {
            last = (of == Slot(slot)).then_some(root);
        }
        last.unwrap()
    }

    fn part(&mut self, slot: u64, part: Part) -> Result<Vec<u8>, Unserved> {
        let mut out = Vec::new();
        self.with(|checkpoints, parts| checkpoints.serve(Slot(slot), part, parts, &mut out))?;
        Ok(out)
    }

    /// Every bucket of the pinned checkpoint, verified against its root.
    fn pinned_buckets(&mut self, slot: u64, root: Digest) -> Vec<Vec<u8>> {
        let summary = self.part(slot, Part::Summary).unwrap();
        let summary = Summary::parse(&summary).unwrap().clone();
        assert_eq!(summary.root(), root);
        let mut buckets = Vec::new();
        for (index, digest) in summary.nodes.iter().enumerate() {
            let node = self.part(slot, Part::Node(index as u8)).unwrap();
            let node = Node::parse(&node).unwrap().clone();
            assert_eq!(node.digest(), *digest);
            for leaf in node.leaves {
                let bucket = Bucket::new(buckets.len() as u16).unwrap();
                let mut bytes = Vec::new();
                for index in 0..leaf.pieces() as u32 {
                    bytes.extend(self.part(slot, Part::Piece { bucket, index }).unwrap());
                }
                assert_eq!(Leaf::of(&bytes), Some(leaf));
                buckets.push(bytes);
            }
        }
        buckets
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        session: bool,
        key: usize,
        value_bytes: usize,
        byte: u8,
    },
    Delete {
        session: bool,
        key: usize,
    },
    Begin,
    Work(usize),
    Pin,
    Release,
    LookAtPin,
    Relieve(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let value_bytes = prop_oneof![6 => 0..100_usize, 1 => 0..3000_usize];
    prop_oneof![
        12 => (any::<bool>(), 0..44_usize, value_bytes, any::<u8>()).prop_map(
            |(session, key, value_bytes, byte)| Step::Put { session, key, value_bytes, byte }
        ),
        6 => (any::<bool>(), 0..44_usize).prop_map(|(session, key)| Step::Delete { session, key }),
        2 => Just(Step::Begin),
        4 => (0..4000_usize).prop_map(Step::Work),
        1 => Just(Step::Pin),
        1 => Just(Step::Release),
        1 => Just(Step::LookAtPin),
        1 => (0..2000_u64).prop_map(Step::Relieve),
    ]
}

/// Keys of which many share a bucket, and some a cell.
fn keys() -> &'static [Vec<u8>] {
    static KEYS: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
        let wanted = [0, 63, 64, 2000, 4095];
        let mut found = vec![0; wanted.len()];
        let mut crowded = 0;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for number in 0_u32.. {
            let key = [&b"key"[..], &number.to_le_bytes()].concat();
            let cell = Cell::of_key(&key);
            let at = wanted
                .iter()
                .position(|wanted| *wanted == cell.bucket().number());
            // Eight of each bucket, of the last one four more in a single cell.
            if let Some(at) = at.filter(|at| found[*at] < 8) {
                found[at] += 1;
                keys.push(key);
            } else if at == Some(4) && cell.index() == 77 && crowded < 4 {
                crowded += 1;
                keys.push(key);
            }
            if keys.len() == 8 * wanted.len() + 4 {
                break;
            }
        }
        keys
    });
    &KEYS
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn roots_and_pins_are_those_of_the_reference(
        steps in prop::collection::vec(step(), 1..200),
        seed in any::<u64>(),
    ) {
        let mut state = State::new(seed, 0);
        let mut now = Reference::default();
        let mut frozen: BTreeMap<u64, Reference> = BTreeMap::new();
        let mut slot = 0;
        for step in steps {
            match step {
                Step::Put { session, key, value_bytes, byte } => {
                    let (key, value) = (&keys()[key], vec![byte; value_bytes]);
                    let (table, entries) = if session {
                        (&mut state.sessions, &mut now.sessions)
                    } else {
                        (&mut state.machine, &mut now.machine)
                    };
                    table.put(key, &value);
                    entries.insert(key.clone(), value);
                }
                Step::Delete { session, key } => {
                    let (table, entries) = if session {
                        (&mut state.sessions, &mut now.sessions)
                    } else {
                        (&mut state.machine, &mut now.machine)
                    };
                    table.delete(&keys()[key]);
                    entries.remove(&keys()[key]);
                }
                Step::Begin => {
                    slot += 1;
                    frozen.insert(slot, now.clone());
                    state.with(|checkpoints, parts| checkpoints.begin(head(slot), parts));
                }
                Step::Work(budget) => {
                    state.with(|checkpoints, parts| checkpoints.work(budget, parts));
                }
                Step::Pin => {
                    let pinned = state.with(|checkpoints, parts| {
                        checkpoints.pin(Hold::Until(Instant(1)), Slot(slot + 1), parts)
                    });
                    prop_assert!(!pinned.ready || pinned.slot.0 <= slot);
                }
                Step::Release => state.with(|checkpoints, parts| checkpoints.release(parts)),
                Step::Relieve(most) => {
                    state.with(|checkpoints, parts| checkpoints.relieve(most, parts));
                    let kept = state.machine.versions().kept_bytes()
                        + state.sessions.versions().kept_bytes();
                    prop_assert!(kept <= most);
                }
                Step::LookAtPin => {
                    let pinned = state.checkpoints.pinned().filter(|pinned| pinned.ready);
                    if let Some(pinned) = pinned {
                        let expected = &frozen[&pinned.slot.0];
                        let root = expected.root(pinned.slot.0);
                        let buckets = state.pinned_buckets(pinned.slot.0, root);
                        for number in [0, 1, 63, 64, 2000, 4095] {
                            prop_assert_eq!(&buckets[usize::from(number)], &expected.bucket(number));
                        }
                    }
                }
            }
            while let Some((of, root)) = state.checkpoints.take_root() {
                prop_assert_eq!(root, frozen[&of.0].root(of.0), "slot {}", of);
            }
        }
        state.with(|checkpoints, parts| checkpoints.finish(parts));
        if let Some((of, root)) = state.checkpoints.take_root() {
            prop_assert_eq!(of, Slot(slot));
            prop_assert_eq!(root, frozen[&slot].root(slot));
        }
        let root = state.checkpoint(slot + 1);
        prop_assert_eq!(root, now.root(slot + 1));
    }

    #[test]
    fn neither_order_nor_seed_nor_size_matters(
        mut entries in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..40),
            prop::collection::vec(any::<u8>(), 0..200),
            0..300,
        ),
        seeds in any::<[u64; 2]>(),
    ) {
        let mut one = State::new(seeds[0], 0);
        let mut other = State::new(seeds[1], 5000);
        for (key, value) in &entries {
            one.machine.put(key, value);
        }
        // Another way to the same state: larger values, keys that go again, checkpoints between.
        for (key, value) in entries.iter().rev() {
            other.machine.put(key, &[value.clone(), vec![0; 5000]].concat());
            other.machine.put(&[&key[..], b"!"].concat(), value);
        }
        other.checkpoint(1);
        let extra: Vec<_> = entries.keys().map(|key| [&key[..], b"!"].concat()).collect();
        for key in extra {
            if !entries.contains_key(&key) {
                other.machine.delete(&key);
            }
        }
        for (key, value) in &entries {
            other.machine.put(key, value);
        }
        prop_assert_eq!(one.checkpoint(2), other.checkpoint(2));
        if let Some((_, value)) = entries.iter_mut().next() {
            value.push(0);
        }
        let reference = Reference { machine: entries, sessions: Entries::new() };
        let equal = reference.machine.is_empty();
        prop_assert_eq!(one.checkpoint(3) == reference.root(3), equal);
    }
}

#[test]
fn a_checkpoint_survives_whatever_comes_after_it() {
    let mut state = State::new(1, 0);
    let mut reference = Reference::default();
    for number in 0..3000_u32 {
        let (key, value) = (number.to_be_bytes().to_vec(), vec![1; 20]);
        state.machine.put(&key, &value);
        reference.machine.insert(key, value);
    }
    let expected = reference.root(1);
    state.with(|checkpoints, parts| checkpoints.begin(head(1), parts));
    let mut slices = 0;
    for number in 0..6000_u32 {
        let key = number.to_be_bytes();
        if number % 3 == 0 {
            state.machine.delete(&key);
        }
        if number % 3 != 1 {
            state.machine.put(&key, &[2; 200]);
        }
        if number % 8 == 0 && state.with(|checkpoints, parts| checkpoints.work(1, parts)) {
            slices += 1;
        }
    }
    state.with(|checkpoints, parts| checkpoints.finish(parts));
    assert!(slices > 500, "{slices}");
    assert_eq!(state.checkpoints.take_root(), Some((Slot(1), expected)));
    assert_eq!(state.checkpoints.take_root(), None);
}

#[test]
fn a_quiet_replica_serves_its_last_checkpoint_and_a_busy_one_its_next() {
    let mut state = State::new(1, 0);
    state.machine.put(b"k", b"1");
    state.checkpoint(4);
    // New keys do not spoil the last checkpoint, old ones do.
    state.machine.put(b"new", b"1");
    let until = |nanoseconds| Hold::Until(Instant(nanoseconds));
    let pinned = state.with(|checkpoints, parts| checkpoints.pin(until(9), Slot(8), parts));
    assert_eq!((pinned.slot, pinned.ready), (Slot(4), true));
    state.machine.put(b"k", b"2");
    let piece = Part::Piece {
        bucket: Bucket::of_key(b"k"),
        index: 0,
    };
    let bytes = state.part(4, piece).unwrap();
    assert!(bytes.ends_with(b"k1"), "{bytes:?}");
    assert_eq!(state.part(8, piece), Err(Unserved::Elsewhere(Slot(4))));
    let beyond = Part::Piece {
        bucket: Bucket::of_key(b"k"),
        index: 1,
    };
    assert_eq!(state.part(4, beyond), Err(Unserved::NoSuchPart));
    state.with(|checkpoints, parts| checkpoints.expire(Instant(8), parts));
    assert!(state.checkpoints.pinned().is_some());
    state.with(|checkpoints, parts| checkpoints.expire(Instant(9), parts));
    assert_eq!(state.part(4, piece), Err(Unserved::NotPinned));

    let pinned = state.with(|checkpoints, parts| checkpoints.pin(until(9), Slot(8), parts));
    assert_eq!((pinned.slot, pinned.ready), (Slot(8), false));
    assert_eq!(state.part(8, piece), Err(Unserved::Elsewhere(Slot(8))));
    state.with(|checkpoints, parts| checkpoints.begin(head(8), parts));
    assert_eq!(state.part(8, piece), Err(Unserved::NotReady));
    state.with(|checkpoints, parts| checkpoints.finish(parts));
    assert!(state.part(8, piece).is_ok());
    state.with(|checkpoints, parts| checkpoints.overtaken(Slot(15), 8, parts));
    assert!(state.part(8, piece).is_ok());
    state.with(|checkpoints, parts| checkpoints.pin(Hold::Open, Slot(16), parts));
    state.with(|checkpoints, parts| checkpoints.overtaken(Slot(16), 8, parts));
    assert!(state.part(8, piece).is_ok(), "a file is being written");
    state.with(|checkpoints, parts| checkpoints.close(Instant(9), parts));
    assert_eq!(state.checkpoints.pinned(), None);
}

#[test]
fn an_installation_changes_all_or_nothing() {
    let mut source = State::new(1, 0);
    let mut target = State::new(2, 0);
    for number in 0..200_u8 {
        source.machine.put(&[number], &[number; 30]);
        target.machine.put(&[number], &[number; 30]);
    }
    source.machine.put(b"only here", b"1");
    target.machine.put(b"only there", b"1");
    source.sessions.put(b"session", b"1");
    let root = source.checkpoint(5);
    target.checkpoint(5);
    source.with(|checkpoints, parts| checkpoints.pin(Hold::Open, Slot(9), parts));
    let buckets = source.pinned_buckets(5, root);
    let summary = source.checkpoints.last().unwrap().clone();
    let leaf = |bucket: Bucket| Leaf::of(&buckets[bucket.index()]).unwrap();
    let own = target.with(|checkpoints, parts| checkpoints.present(parts));
    let mut replaced: Vec<(Bucket, Vec<u8>)> = Bucket::all()
        .filter(|bucket| own[bucket.index()] != Some(leaf(*bucket)))
        .map(|bucket| (bucket, buckets[bucket.index()].clone()))
        .collect();
    assert_eq!(replaced.len(), 3);
    let install = |target: &mut State, replaced: &[(Bucket, Vec<u8>)]| {
        target.with(|checkpoints, parts| checkpoints.install(&summary, leaf, replaced, parts))
    };

    let (first, good) = replaced[0].clone();
    replaced[0].1.push(0);
    let refused = install(&mut target, &replaced);
    assert!(matches!(refused, Err(InstallFailed::Malformed(of)) if of.bucket == first));
    replaced[0].1 = good;
    target.machine.put(&[9], b"modified since");
    let moved = install(&mut target, &replaced);
    assert_eq!(moved, Err(InstallFailed::Moved(Bucket::of_key(&[9]))));
    assert_eq!(target.machine.get(b"only there"), Some(&b"1"[..]));
    target.machine.put(&[9], &[9; 30]);

    assert_eq!(install(&mut target, &replaced), Ok(()));
    assert_eq!(target.checkpoints.take_root(), None);
    assert_eq!(target.machine.get(b"only there"), None);
    assert_eq!(target.machine.get(b"only here"), Some(&b"1"[..]));
    assert_eq!(target.sessions.get(b"session"), Some(&b"1"[..]));
    assert_eq!(source.machine.bytes(), target.machine.bytes());
    assert_eq!(target.checkpoint(6), source.checkpoint(6));
}
