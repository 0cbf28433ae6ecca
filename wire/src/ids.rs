//! Identifiers and counters of the protocol, each its own type so that they cannot be mixed up.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Index of a replica in the committee, 0..n-1. `NodeId::CLIENT` marks a client's datagram.
    NodeId(u16)
);
number!(
    /// Epoch of the committee; grows by one with each reconfiguration (protocol §10).
    Epoch(u64)
);
number!(
    /// View: the reign of one leader (protocol §1).
    View(u64)
);
number!(
    /// Height of a block in the log; genesis is slot 0.
    Slot(u64)
);
number!(
    /// Count of process starts of a replica, from 1 (protocol §4).
    Boot(u32)
);
number!(
    /// Byte offset in a replica's endless write-ahead log; always a multiple of a sector.
    Position(u64)
);
number!(
    /// Monotonic time in nanoseconds, supplied by whoever drives the pure half.
    Instant(u64)
);
number!(
    /// Session id: `(slot << 16) | index` of the OPEN that created it (protocol §9.3).
    SessionId(u64)
);
number!(
    /// A client's request number within its session, from 1.
    Sequence(u64)
);

impl NodeId {
    /// The sender field of a datagram that comes from a client.
    pub const CLIENT: NodeId = NodeId(u16::MAX);

    /// As an index into per-replica arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Slot {
    /// The slot above.
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }
}

impl Instant {
    /// This instant moved forward by `nanoseconds`, saturating.
    pub fn after_ns(self, nanoseconds: u64) -> Instant {
        Instant(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds since `earlier`, 0 when `earlier` is later.
    pub fn since_ns(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl SessionId {
    /// The id of the session that the `index`-th item of the block at `slot` opens.
    pub fn opened_at(slot: Slot, index: u16) -> SessionId {
        SessionId((slot.0 << 16) | u64::from(index))
    }

    /// The slot of the OPEN that created this session.
    pub fn opened_in(self) -> Slot {
        Slot(self.0 >> 16)
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        /// The first eight bytes in hexadecimal; `{:#}` prints all of them.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let shown = if f.alternate() { self.0.len() } else { self.0.len().min(8) };
                for byte in &self.0[..shown] {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    };
}

bytes_id!(
    /// Random name of a cluster, fixed at its creation.
    ClusterId, 16
);
bytes_id!(
    /// A BLAKE3 digest.
    Digest, 32
);
bytes_id!(
    /// An Ed25519 public key; a client *is* its key.
    PublicKey, 32
);
bytes_id!(
    /// An Ed25519 signature.
    Signature, 64
);

impl Digest {
    /// All zero: stands for "none" where a digest is optional.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The first eight bytes as a number; names a message in fragment headers.
    pub fn prefix(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }
}

/// Parses `2 * N` hexadecimal digits.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let id = ClusterId([0xab; 16]);
        assert_eq!(parse_hex::<16>(&format!("{id:#}")), Some(id.0));
        assert_eq!(parse_hex::<16>("zz"), None);
        assert_eq!(parse_hex::<1>("+1"), None);
    }

    #[test]
    fn session_id_names_its_birth() {
        assert_eq!(SessionId::opened_at(Slot(3), 7).0, (3 << 16) | 7);
    }
}
