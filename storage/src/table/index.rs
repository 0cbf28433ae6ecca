//! Hash index from keys to addresses: open addressing, linear probing, no tombstones.
//!
//! Cut into shards by the hash, each of which doubles alone when it is three quarters full. A
//! table of a million keys so pauses for 10 us a thousand times instead of for 10 ms at once: four
//! nodes execute the same transactions, and their pauses would fall on the same moment.
//!
//! The hash is keyed by a seed of this process, so that clients, who choose the keys, cannot aim at
//! one chain. Nothing visible depends on it.

use super::arena::{Address, Arena};

/// 8 bytes, eight to a cache line. The tag is the hash: its low bits are the home position, so
/// growing needs no keys; its high bits chose the shard.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: u32,
    address: Address,
}

const EMPTY: Slot = Slot {
    tag: 0,
    address: Address::NONE,
};
const SHARD_BITS: u32 = 10;
const SHARD_SLOTS_MIN: usize = 16;

#[derive(Debug)]
pub(super) struct Index {
    seed: [u64; 2],
    shards: Vec<Shard>,
    used: usize,
}

#[derive(Debug)]
struct Shard {
    /// A power of two, never full.
    slots: Vec<Slot>,
    used: usize,
}

/// Where a key is, or would be put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    slot: usize,
    tag: u32,
    pub(super) address: Address,
}

impl Index {
    /// Room for `keys` keys without growing, but for rare shards that chance fills first.
    pub(super) fn new(seed: [u64; 2], keys: usize) -> Index {
        let each = keys >> SHARD_BITS;
        let slots = (each / 5 * 8 + 1).next_power_of_two().max(SHARD_SLOTS_MIN);
        let shard = || Shard {
            slots: vec![EMPTY; slots],
            used: 0,
        };
        Index {
            seed,
            shards: (0..1 << SHARD_BITS).map(|_| shard()).collect(),
            used: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|shard| shard.slots.len()).sum();
        (slots * size_of::<Slot>() + size_of_val(&self.shards[..])) as u64
    }

    /// The address is `NONE` when the key is absent.
    pub(super) fn find(&self, key: &[u8], arena: &Arena) -> Found {
        let tag = self.hash(key);
        let slots = &self.shards[shard_of(tag)].slots;
        let mask = slots.len() - 1;
        let mut slot = tag as usize & mask;
        loop {
            let Slot { tag: held, address } = slots[slot];
            if address == Address::NONE || (held == tag && arena.key(address) == key) {
                return Found { slot, tag, address };
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The address at a key's home place: mostly its own, if it is held.
    pub(super) fn home(&self, tag: u32) -> Address {
        let slots = &self.shards[shard_of(tag)].slots;
        slots[tag as usize & (slots.len() - 1)].address
    }

    /// Sets the address of a key that was just looked up.
    pub(super) fn set(&mut self, found: Found, address: Address) {
        let shard = &mut self.shards[shard_of(found.tag)];
        shard.slots[found.slot] = Slot {
            tag: found.tag,
            address,
        };
        if found.address == Address::NONE {
            self.used += 1;
            shard.used += 1;
            if shard.used * 4 > shard.slots.len() * 3 {
                shard.grow();
            }
        }
    }

    /// Removes a key that was just looked up and is present.
    pub(super) fn remove(&mut self, found: Found) {
        self.used -= 1;
        self.shards[shard_of(found.tag)].remove(found.slot);
    }

    /// Every address, in no order that anyone may see.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.shards
            .iter()
            .flat_map(|shard| &shard.slots)
            .map(|slot| slot.address)
            .filter(|address| *address != Address::NONE)
    }

    /// Multiply-and-fold over 16 bytes at a time, as in wyhash.
    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        let [first, second] = self.seed;
        let mut state = first ^ key.len() as u64;
        let mut words = key.chunks_exact(16);
        for pair in &mut words {
            let (low, high) = pair.split_at(8);
            state = fold(word(low) ^ state, word(high) ^ second);
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let (low, high) = rest.split_at(rest.len().min(8));
            state = fold(word(low) ^ state, word(high) ^ second);
        }
        fold(state ^ second, first ^ 0x9e37_79b9_7f4a_7c15) as u32
    }
}

fn shard_of(tag: u32) -> usize {
    (tag >> (u32::BITS - SHARD_BITS)) as usize
}

impl Shard {
    /// Empties a slot: moves later slots of the chain back.
    fn remove(&mut self, slot: usize) {
        let mask = self.slots.len() - 1;
        let mut hole = slot;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let slot = self.slots[next];
            if slot.address == Address::NONE {
                break;
            }
            let home = slot.tag as usize & mask;
            // Only back to a place that its own probe passes.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = next;
            }
        }
        self.slots[hole] = EMPTY;
        self.used -= 1;
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 2 - 1;
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; mask + 1]);
        for moved in old {
            if moved.address == Address::NONE {
                continue;
            }
            let mut slot = moved.tag as usize & mask;
            while self.slots[slot].address != Address::NONE {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = moved;
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        Err(_) => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(padded)
        }
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
