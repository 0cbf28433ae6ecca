//! The clients with which a replica has a link: a bounded table, least recently heard out first.
//!
//! All memory is taken at construction. Lookup is open addressing under a secret hash, so that keys
//! cannot be chosen to collide; the order of eviction depends on nothing but what was heard.

use std::net::SocketAddr;

use super::LinkKeys;
use crate::ids::PublicKey;

/// Stands for "no slot".
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Client {
    pub key: PublicKey,
    /// Where it proved to receive.
    pub address: SocketAddr,
    pub keys: LinkKeys,
    /// Neighbours in the order of hearing.
    older: u32,
    newer: u32,
}

#[derive(Debug)]
pub(super) struct ClientTable {
    clients: Vec<Client>,
    capacity: usize,
    /// Slot by hash; a power of two, at least twice the capacity.
    index: Vec<u32>,
    multipliers: [u64; 8],
    oldest: u32,
    newest: u32,
    evicted: u64,
}

impl ClientTable {
    /// `secret` must be unknown to clients.
    pub fn new(capacity: usize, secret: &[u8; 32]) -> ClientTable {
        assert!(capacity > 0 && capacity < NONE as usize / 4);
        let mut bytes = [0; 64];
        blake3::Hasher::new_keyed(secret)
            .update(b"client table")
            .finalize_xof()
            .fill(&mut bytes);
        let mut multipliers = [0; 8];
        for (multiplier, eight) in multipliers.iter_mut().zip(bytes.chunks_exact(8)) {
            *multiplier = u64::from_le_bytes(std::array::from_fn(|at| eight[at]));
        }
        ClientTable {
            clients: Vec::with_capacity(capacity),
            capacity,
            index: vec![NONE; (2 * capacity).next_power_of_two()],
            multipliers,
            oldest: NONE,
            newest: NONE,
            evicted: 0,
        }
    }

    /// Multilinear hashing over 32-bit words: universal under secret multipliers.
    fn home(&self, key: &PublicKey) -> usize {
        let mut sum = 0u64;
        for (word, multiplier) in key.0.chunks_exact(4).zip(&self.multipliers) {
            let word = u32::from_le_bytes(std::array::from_fn(|at| word[at]));
            sum = sum.wrapping_add(multiplier.wrapping_mul(u64::from(word)));
        }
        (sum >> 32) as usize & (self.index.len() - 1)
    }

    /// Place in the index of `key`, or of the free place where it would go.
    fn place(&self, key: &PublicKey) -> usize {
        let mask = self.index.len() - 1;
        let mut at = self.home(key);
        while self.index[at] != NONE && self.clients[self.index[at] as usize].key != *key {
            at = (at + 1) & mask;
        }
        at
    }

    pub fn find(&self, key: &PublicKey) -> Option<usize> {
        let slot = self.index[self.place(key)];
        (slot != NONE).then_some(slot as usize)
    }

    pub fn get(&self, slot: usize) -> &Client {
        &self.clients[slot]
    }

    /// Notes that this client was heard just now, from this address.
    pub fn heard(&mut self, slot: usize, address: SocketAddr) {
        self.clients[slot].address = address;
        if self.newest != slot as u32 {
            self.unlink(slot);
            self.link_newest(slot);
        }
    }

    /// Adds a client that is not in the table; the one not heard for longest gives way.
    pub fn insert(&mut self, key: PublicKey, address: SocketAddr, keys: LinkKeys) -> usize {
        assert!(self.find(&key).is_none(), "a client is linked once");
        let client = Client {
            key,
            address,
            keys,
            older: NONE,
            newer: NONE,
        };
        let slot = if self.clients.len() < self.capacity {
            self.clients.push(client);
            self.clients.len() - 1
        } else {
            let slot = self.oldest as usize;
            self.remove_from_index(slot);
            self.unlink(slot);
            self.clients[slot] = client;
            self.evicted += 1;
            slot
        };
        let at = self.place(&key);
        self.index[at] = slot as u32;
        self.link_newest(slot);
        slot
    }

    /// Takes a slot out of the index and moves up those that were displaced by it.
    fn remove_from_index(&mut self, slot: usize) {
        let mask = self.index.len() - 1;
        let mut hole = self.place(&self.clients[slot].key);
        assert_eq!(self.index[hole], slot as u32);
        let mut at = (hole + 1) & mask;
        while self.index[at] != NONE {
            let home = self.home(&self.clients[self.index[at] as usize].key);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.index[hole] = NONE;
    }

    fn unlink(&mut self, slot: usize) {
        let (older, newer) = (self.clients[slot].older, self.clients[slot].newer);
        match older {
            NONE => self.oldest = newer,
            _ => self.clients[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.clients[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, slot: usize) {
        self.clients[slot].older = self.newest;
        self.clients[slot].newer = NONE;
        match self.newest {
            NONE => self.oldest = slot as u32,
            newest => self.clients[newest as usize].newer = slot as u32,
        }
        self.newest = slot as u32;
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Clients that gave way since construction.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn keys() -> LinkKeys {
        LinkKeys {
            send: Zeroizing::new([0; 32]),
            receive: Zeroizing::new([0; 32]),
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    proptest! {
        /// Against a list in the order of hearing.
        #[test]
        fn agrees_with_a_list(
            capacity in 1usize..9,
            steps in proptest::collection::vec((0u8..20, 1u16..9), 1..300),
        ) {
            let mut table = ClientTable::new(capacity, &[1; 32]);
            let mut list: Vec<(PublicKey, u16)> = Vec::new();
            for (name, port) in steps {
                let key = PublicKey([name; 32]);
                match table.find(&key) {
                    Some(slot) => table.heard(slot, address(port)),
                    None => {
                        table.insert(key, address(port), keys());
                    }
                }
                list.retain(|(other, _)| *other != key);
                list.push((key, port));
                if list.len() > capacity {
                    list.remove(0);
                }
                prop_assert_eq!(table.len(), list.len());
                for name in 0..20 {
                    let key = PublicKey([name; 32]);
                    let found = table.find(&key).map(|slot| table.get(slot).address);
                    let expected = list.iter().find(|(other, _)| *other == key);
                    prop_assert_eq!(found, expected.map(|(_, port)| address(*port)));
                }
            }
        }
    }
}
