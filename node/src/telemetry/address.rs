//! An address that one thread writes and others read, without a lock.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Marks an IPv4 address, and one that is there at all, in the third word.
const IS_V4: u64 = 1 << 16;
const IS_SET: u64 = 1 << 17;
/// A writer holds the cell for some nanoseconds, unless it was preempted just then.
const READS_MAX: usize = 1000;

/// Holds an address or none. One writer; a reader that meets it reads again. IPv6 scopes are not
/// kept.
#[derive(Debug, Default)]
pub struct AddressCell {
    /// Odd while the words change.
    version: AtomicU64,
    words: [AtomicU64; 3],
}

impl AddressCell {
    /// Overwrites the address. Only ever called by one thread.
    pub fn set(&self, address: Option<SocketAddr>) {
        let words = pack(address);
        let unchanged = self
            .words
            .iter()
            .zip(words)
            .all(|(cell, word)| cell.load(Ordering::Relaxed) == word);
        if unchanged {
            return;
        }
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// The address; none also when the writer keeps changing it.
    pub fn get(&self) -> Option<SocketAddr> {
        for _ in 0..READS_MAX {
            let before = self.version.load(Ordering::Acquire);
            let words = self
                .words
                .each_ref()
                .map(|word| word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.version.load(Ordering::Relaxed) {
                return unpack(words);
            }
            std::hint::spin_loop();
        }
        None
    }
}

fn pack(address: Option<SocketAddr>) -> [u64; 3] {
    let Some(address) = address else {
        return [0; 3];
    };
    let (ip, family) = match address.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), IS_V4),
        IpAddr::V6(ip) => (ip, 0),
    };
    let bits = u128::from(ip);
    let rest = u64::from(address.port()) | family | IS_SET;
    [(bits >> 64) as u64, bits as u64, rest]
}

fn unpack([high, low, rest]: [u64; 3]) -> Option<SocketAddr> {
    if rest & IS_SET == 0 {
        return None;
    }
    let ip = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
    let ip = match ip.to_ipv4_mapped() {
        Some(ip) if rest & IS_V4 != 0 => IpAddr::V4(ip),
        _ => IpAddr::V6(ip),
    };
    Some(SocketAddr::new(ip, rest as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        let cell = AddressCell::default();
        assert_eq!(cell.get(), None);
        for text in ["10.0.0.1:7100", "[::1]:1", "[::ffff:10.0.0.1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            cell.set(Some(address));
            assert_eq!(cell.get(), Some(address));
        }
        cell.set(None);
        assert_eq!(cell.get(), None);
    }

    #[test]
    fn a_reader_never_sees_half_of_an_address() {
        let cell = AddressCell::default();
        let address = |number: u8| SocketAddr::from(([number; 16], u16::from(number)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for step in 0..20_000u32 {
                    cell.set(Some(address(step as u8)));
                }
            });
            for _ in 0..20_000 {
                let Some(seen) = cell.get() else { continue };
                assert_eq!(seen, address(seen.port() as u8));
            }
        });
    }
}
