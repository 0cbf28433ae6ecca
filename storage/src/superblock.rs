//! The superblock binds a directory to one cluster, one node and one key.
//!
//! Two copies of 4 KiB, written one after the other, so that one torn or rotten copy costs nothing.
//! `format` is the only way to make the first one; starting a node never does.

use thiserror::Error;
use wire::ids::{ClusterId, Digest, Epoch, NodeId, PublicKey};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::record::{Identity, LogId, SECTOR_BYTES};
use crate::wal::{Geometry, GeometryError};

/// Bytes of one copy: a sector.
pub const SUPERBLOCK_BYTES: usize = SECTOR_BYTES;
/// Version of the superblock's own layout.
pub const VERSION: u32 = 1;
/// Version of everything else in the directory.
pub const DIRECTORY_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"HIPPOSUP";

/// What a directory is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub directory_version: u32,
    /// Grows by one with each rewrite; the higher valid copy counts.
    pub sequence: u64,
    pub cluster: ClusterId,
    pub node: NodeId,
    pub public_key: PublicKey,
    /// Of the committee the directory was formatted for.
    pub committee: Digest,
    /// Secret name of the log, 16 random bytes.
    pub log: LogId,
    pub geometry: Geometry,
    /// Of the committee: a directory never goes back to an earlier one.
    pub epoch: Epoch,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    version: U32,
    directory_version: U32,
    sequence: U64,
    cluster: [u8; 16],
    node: U16,
    reserved_a: [u8; 6],
    public_key: [u8; 32],
    committee: [u8; 32],
    log: [u8; 16],
    segment_bytes: U64,
    segments_max: U32,
    reserved_b: [u8; 4],
    reserve_bytes: U64,
    epoch: U64,
    reserved_c: [u8; SUPERBLOCK_BYTES - 164],
    crc: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == SUPERBLOCK_BYTES);
const CRC_AT: usize = SUPERBLOCK_BYTES - 4;

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    A,
    B,
}

impl std::fmt::Display for Twin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Twin::A => "A",
            Twin::B => "B",
        })
    }
}

/// A superblock and what is left to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub superblock: Superblock,
    /// This copy is damaged, missing or older: write [`Superblock::format`] to it again and report.
    pub repair: Option<Twin>,
}

/// Why a directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SuperblockError {
    #[error(
        "the data directory is not formatted. Format a new one with `hippo testnet` or \
         `hippo recover`; starting a node never formats"
    )]
    NotFormatted,
    #[error(
        "both copies of the superblock are damaged: it cannot be known whose directory this is. \
         Keep it, check the disk, and rejoin as a new member with `hippo recover`"
    )]
    BothDamaged,
    #[error(
        "the data directory has format {found}, this program knows up to {known}: it was written \
         by a newer version; start that version"
    )]
    Newer { found: u32, known: u32 },
    #[error("the data directory holds an impossible log geometry: {0}")]
    Geometry(GeometryError),
}

/// Who opens the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub public_key: PublicKey,
}

/// The directory belongs to somebody else. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    #[error(
        "foreign data directory: it belongs to cluster {found:#}, the committee file names cluster \
         {expected:#}. Point `directory` at this cluster's data, or use that cluster's committee file"
    )]
    Cluster {
        found: ClusterId,
        expected: ClusterId,
    },
    #[error(
        "foreign data directory: it belongs to node {found}, this is node {expected}. Point \
         `directory` at this node's own data; two nodes must never share one"
    )]
    Node { found: NodeId, expected: NodeId },
    #[error(
        "foreign key: the data directory belongs to key {found:#}, the configured key is \
         {expected:#}. Use the key this directory was formatted with; a new key joins as a new \
         member with a new directory"
    )]
    Key {
        found: PublicKey,
        expected: PublicKey,
    },
}

/// What one copy turned out to be.
enum Judged {
    Good(Superblock),
    Blank,
    Damaged,
    Newer(u32),
    BadGeometry(GeometryError),
}

impl Superblock {
    /// The bytes of one copy; both copies get the same.
    pub fn format(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut raw = RawSuperblock::new_zeroed();
        raw.magic = MAGIC;
        raw.version = U32::new(VERSION);
        raw.directory_version = U32::new(self.directory_version);
        raw.sequence = U64::new(self.sequence);
        raw.cluster = self.cluster.0;
        raw.node = U16::new(self.node.0);
        raw.public_key = self.public_key.0;
        raw.committee = self.committee.0;
        raw.log = self.log.0;
        raw.segment_bytes = U64::new(self.geometry.segment_bytes);
        raw.segments_max = U32::new(self.geometry.segments_max);
        raw.reserve_bytes = U64::new(self.geometry.reserve_bytes);
        raw.epoch = U64::new(self.epoch.0);
        raw.crc = U32::new(crc32fast::hash(&raw.as_bytes()[..CRC_AT]));
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads both copies; an absent file is an empty slice.
    pub fn load(copy_a: &[u8], copy_b: &[u8]) -> Result<Loaded, SuperblockError> {
        match (judge(copy_a), judge(copy_b)) {
            (Judged::Newer(found), _) | (_, Judged::Newer(found)) => Err(SuperblockError::Newer {
                found,
                known: VERSION.max(DIRECTORY_VERSION),
            }),
            (Judged::Good(a), Judged::Good(b)) => Ok(match a.sequence.cmp(&b.sequence) {
                std::cmp::Ordering::Less => Loaded {
                    superblock: b,
                    repair: Some(Twin::A),
                },
                std::cmp::Ordering::Equal => Loaded {
                    superblock: a,
                    repair: None,
                },
                std::cmp::Ordering::Greater => Loaded {
                    superblock: a,
                    repair: Some(Twin::B),
                },
            }),
            (Judged::Good(a), _) => Ok(Loaded {
                superblock: a,
                repair: Some(Twin::B),
            }),
            (_, Judged::Good(b)) => Ok(Loaded {
                superblock: b,
                repair: Some(Twin::A),
            }),
            (Judged::BadGeometry(error), _) | (_, Judged::BadGeometry(error)) => {
                Err(SuperblockError::Geometry(error))
            }
            (Judged::Blank, Judged::Blank) => Err(SuperblockError::NotFormatted),
            (Judged::Blank | Judged::Damaged, Judged::Blank | Judged::Damaged) => {
                Err(SuperblockError::BothDamaged)
            }
        }
    }

    /// Whether the directory belongs to who opens it; the first difference otherwise.
    pub fn check(&self, expected: &Expected) -> Result<(), Mismatch> {
        if self.cluster != expected.cluster {
            return Err(Mismatch::Cluster {
                found: self.cluster,
                expected: expected.cluster,
            });
        }
        if self.node != expected.node {
            return Err(Mismatch::Node {
                found: self.node,
                expected: expected.node,
            });
        }
        if self.public_key != expected.public_key {
            return Err(Mismatch::Key {
                found: self.public_key,
                expected: expected.public_key,
            });
        }
        Ok(())
    }

    /// Whose records the log holds.
    pub fn identity(&self) -> Identity {
        Identity {
            cluster: self.cluster,
            node: self.node,
            log: self.log,
        }
    }
}

fn judge(copy: &[u8]) -> Judged {
    if copy.iter().all(|byte| *byte == 0) {
        return Judged::Blank;
    }
    let Ok((raw, _)) = RawSuperblock::ref_from_prefix(copy) else {
        return Judged::Damaged;
    };
    let crc = crc32fast::hash(&raw.as_bytes()[..CRC_AT]);
    if raw.magic != MAGIC || crc != raw.crc.get() {
        return Judged::Damaged;
    }
    for (found, known) in [
        (raw.version.get(), VERSION),
        (raw.directory_version.get(), DIRECTORY_VERSION),
    ] {
        if found > known {
            return Judged::Newer(found);
        }
    }
    let reserved_used = raw
        .reserved_a
        .iter()
        .chain(&raw.reserved_b)
        .chain(&raw.reserved_c);
    if reserved_used.into_iter().any(|byte| *byte != 0) || raw.version.get() != VERSION {
        return Judged::Damaged;
    }
    let geometry = Geometry {
        segment_bytes: raw.segment_bytes.get(),
        segments_max: raw.segments_max.get(),
        reserve_bytes: raw.reserve_bytes.get(),
    };
    if let Err(error) = geometry.check() {
        return Judged::BadGeometry(error);
    }
    Judged::Good(Superblock {
        directory_version: raw.directory_version.get(),
        sequence: raw.sequence.get(),
        cluster: ClusterId(raw.cluster),
        node: NodeId(raw.node.get()),
        public_key: PublicKey(raw.public_key),
        committee: Digest(raw.committee),
        log: LogId(raw.log),
        geometry,
        epoch: Epoch(raw.epoch.get()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            epoch: Epoch(0),
            directory_version: DIRECTORY_VERSION,
            sequence: 4,
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            public_key: PublicKey([3; 32]),
            committee: Digest([4; 32]),
            log: LogId([5; 16]),
            geometry: Geometry {
                segment_bytes: 1 << 20,
                segments_max: 8,
                reserve_bytes: 1 << 16,
            },
        }
    }

    fn expected() -> Expected {
        Expected {
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            public_key: PublicKey([3; 32]),
        }
    }

    const BLANK: [u8; SUPERBLOCK_BYTES] = [0; SUPERBLOCK_BYTES];

    fn resum(bytes: &mut [u8]) {
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn both_copies_good() {
        let bytes = superblock().format();
        let loaded = Superblock::load(&bytes, &bytes);
        assert_eq!(
            loaded,
            Ok(Loaded {
                superblock: superblock(),
                repair: None
            })
        );
    }

    #[test]
    fn one_damaged_copy_is_tolerated_and_named() {
        let good = superblock().format();
        for at in [0, 9, 30, 100, 2000, SUPERBLOCK_BYTES - 1] {
            let mut bad = good;
            bad[at] ^= 4;
            let repair_a = Superblock::load(&bad, &good).unwrap();
            assert_eq!(
                repair_a,
                Loaded {
                    superblock: superblock(),
                    repair: Some(Twin::A)
                }
            );
            let repair_b = Superblock::load(&good, &bad).unwrap();
            assert_eq!(
                repair_b,
                Loaded {
                    superblock: superblock(),
                    repair: Some(Twin::B)
                }
            );
            assert_eq!(
                Superblock::load(&bad, &bad),
                Err(SuperblockError::BothDamaged)
            );
            assert_eq!(
                Superblock::load(&bad, &BLANK),
                Err(SuperblockError::BothDamaged)
            );
        }
        assert_eq!(Superblock::load(&good, &[]).unwrap().repair, Some(Twin::B));
        assert_eq!(
            Superblock::load(&good[..100], &good).unwrap().repair,
            Some(Twin::A)
        );
    }

    #[test]
    fn the_newer_copy_counts() {
        let old = superblock();
        let new = Superblock { sequence: 5, ..old };
        let loaded = Superblock::load(&old.format(), &new.format()).unwrap();
        assert_eq!(
            loaded,
            Loaded {
                superblock: new,
                repair: Some(Twin::A)
            }
        );
    }

    #[test]
    fn nothing_there_is_not_formatted() {
        assert_eq!(
            Superblock::load(&[], &[]),
            Err(SuperblockError::NotFormatted)
        );
        assert_eq!(
            Superblock::load(&BLANK, &[]),
            Err(SuperblockError::NotFormatted)
        );
    }

    #[test]
    fn newer_software_is_asked_for() {
        let newer = Superblock {
            epoch: Epoch(0),
            directory_version: 2,
            ..superblock()
        }
        .format();
        let refused = Err(SuperblockError::Newer { found: 2, known: 1 });
        assert_eq!(Superblock::load(&newer, &superblock().format()), refused);
        let mut newer = superblock().format();
        newer[8] = 9;
        resum(&mut newer);
        let refused = Err(SuperblockError::Newer { found: 9, known: 1 });
        assert_eq!(Superblock::load(&BLANK, &newer), refused);
    }

    #[test]
    fn reserved_bytes_and_geometry_are_checked() {
        let mut odd = superblock().format();
        odd[1000] = 1;
        resum(&mut odd);
        assert_eq!(
            Superblock::load(&odd, &odd),
            Err(SuperblockError::BothDamaged)
        );
        let geometry = Geometry {
            segment_bytes: 1000,
            segments_max: 8,
            reserve_bytes: 0,
        };
        let odd = Superblock {
            geometry,
            ..superblock()
        }
        .format();
        let refused = Err(SuperblockError::Geometry(GeometryError::SegmentNotSectors(
            1000,
        )));
        assert_eq!(Superblock::load(&odd, &odd), refused);
    }

    #[test]
    fn differences_are_named() {
        let bound = superblock();
        assert_eq!(bound.check(&expected()), Ok(()));
        let cluster = Expected {
            cluster: ClusterId([9; 16]),
            ..expected()
        };
        assert!(matches!(
            bound.check(&cluster),
            Err(Mismatch::Cluster { .. })
        ));
        let node = Expected {
            node: NodeId(3),
            ..expected()
        };
        assert!(matches!(bound.check(&node), Err(Mismatch::Node { .. })));
        let key = Expected {
            public_key: PublicKey([9; 32]),
            ..expected()
        };
        let error = bound.check(&key).unwrap_err();
        assert!(error.to_string().contains(&"03".repeat(32)));
    }
}
