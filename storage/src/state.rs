//! The state as it was at a checkpoint, while later transactions already change it (K1, K4).
//!
//! The state is cut into the buckets of `wire::state`. Each holder of items ([`Bucketed`]: the
//! table, the client sessions) freezes all of them at once, in no time, and then preserves old
//! versions of just those items that are written while somebody may still look at the frozen
//! state: [`Versions`]. [`Checkpoints`] hashes the frozen buckets in slices between blocks, and
//! hands out their bytes to replicas that lag behind.
//!
//! The canonical bytes of a bucket are two sections, each its length in bytes (u64, little-endian)
//! and its items: first the machine's, then the sessions'. A holder's items have one order and one
//! encoding, so the same items are the same bytes on every replica.
//!
//! Costs: freezing 4096 bytes of marks; a write, one comparison when its item was written since
//! the freeze, and once for each item up to a copy of it. Hashing reads every item of the buckets
//! that were modified: 0.2-0.5 us an entry when the table exceeds the caches. The smallest unit of
//! hashing is one bucket.

mod bucket_set;
mod checkpoints;
mod kept;
mod pins;
mod versions;

use thiserror::Error;
use wire::state::{Bucket, Leaf};

pub use bucket_set::BucketSet;
pub use checkpoints::{Checkpoints, InstallFailed, Tree};
pub use pins::{Hold, Pinned, Unserved};
pub use versions::{Versions, View};

/// The bytes of a bucket are not what a correct replica writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("bucket {} is malformed", bucket.number())]
pub struct Malformed {
    pub bucket: Bucket,
}

/// A holder of items that are cut into buckets, and that can be seen as they were at a freeze.
///
/// Whoever implements it embeds a [`Versions`], stamps each item with its generation when the item
/// is written, and tells it of each first write since the last freeze, before the write.
pub trait Bucketed {
    fn versions(&self) -> &Versions;

    fn versions_mut(&mut self) -> &mut Versions;

    /// Appends the items of `bucket` as `view` shows them, in their one order and encoding. A holder
    /// may read them from a disk first.
    fn write_bucket(&mut self, view: View, bucket: Bucket, out: &mut Vec<u8>);

    /// Whether `items` are what [`Bucketed::write_bucket`] could have written for this bucket.
    fn check_bucket(&self, bucket: Bucket, items: &[u8]) -> Result<(), Malformed>;

    /// Replaces what the bucket holds now by items that passed [`Bucketed::check_bucket`].
    fn replace_bucket(&mut self, bucket: Bucket, items: &[u8]);
}

/// All holders of the state of one replica.
pub struct Parts<'a> {
    /// None for a machine without state.
    pub machine: Option<&'a mut dyn Bucketed>,
    pub sessions: &'a mut dyn Bucketed,
}

/// Bytes of the length in front of a section.
const SECTION_HEAD_BYTES: usize = size_of::<u64>();
const EMPTY_BUCKET: [u8; 2 * SECTION_HEAD_BYTES] = [0; 2 * SECTION_HEAD_BYTES];

/// The bytes of a bucket that holds nothing.
pub fn empty_bucket() -> &'static [u8] {
    &EMPTY_BUCKET
}

/// The leaf of a bucket that holds nothing.
pub fn empty_leaf() -> Leaf {
    Leaf::of(&EMPTY_BUCKET)
}

impl Parts<'_> {
    fn each(&mut self, mut visit: impl FnMut(&mut dyn Bucketed)) {
        if let Some(machine) = &mut self.machine {
            visit(*machine);
        }
        visit(self.sessions);
    }

    fn any(&self, holds: impl Fn(&Versions) -> bool) -> bool {
        self.machine
            .as_ref()
            .is_some_and(|machine| holds(machine.versions()))
            || holds(self.sessions.versions())
    }

    /// Buckets written since the last freeze.
    fn dirty(&self) -> BucketSet {
        let mut dirty = self.sessions.versions().dirty();
        if let Some(machine) = &self.machine {
            dirty.add_all(&machine.versions().dirty());
        }
        dirty
    }

    /// Bytes of preserved versions.
    fn kept_bytes(&self) -> u64 {
        let machine = self.machine.as_ref();
        machine.map_or(0, |machine| machine.versions().kept_bytes())
            + self.sessions.versions().kept_bytes()
    }

    /// Appends the canonical bytes of a bucket.
    fn write_bucket(&mut self, view: View, bucket: Bucket, out: &mut Vec<u8>) {
        section(out, |out| {
            if let Some(machine) = &mut self.machine {
                machine.write_bucket(view, bucket, out);
            }
        });
        section(out, |out| self.sessions.write_bucket(view, bucket, out));
    }

    /// Whether these are the bytes of a bucket that the holders can take.
    pub fn check_bucket(&self, bucket: Bucket, bytes: &[u8]) -> Result<(), Malformed> {
        let (machine, sessions) = sections(bytes).ok_or(Malformed { bucket })?;
        match &self.machine {
            Some(holder) => holder.check_bucket(bucket, machine)?,
            None if machine.is_empty() => {}
            None => return Err(Malformed { bucket }),
        }
        self.sessions.check_bucket(bucket, sessions)
    }

    /// `bytes` passed [`Parts::check_bucket`].
    fn replace_bucket(&mut self, bucket: Bucket, bytes: &[u8]) {
        let (machine, sessions) = sections(bytes).expect("checked before");
        if let Some(holder) = &mut self.machine {
            holder.replace_bucket(bucket, machine);
        }
        self.sessions.replace_bucket(bucket, sessions);
    }
}

fn section(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; SECTION_HEAD_BYTES]);
    write(out);
    let length = (out.len() - start - SECTION_HEAD_BYTES) as u64;
    out[start..start + SECTION_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// The bytes of a bucket of these items of the machine and of the sessions.
pub fn join(machine: &[u8], sessions: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * SECTION_HEAD_BYTES + machine.len() + sessions.len());
    section(&mut bytes, |out| out.extend_from_slice(machine));
    section(&mut bytes, |out| out.extend_from_slice(sessions));
    bytes
}

/// The two sections of a bucket, which must fill `bytes`: the machine's items and the sessions'. None
/// when they do not.
pub fn sections(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (machine, rest) = split_section(bytes)?;
    let (sessions, rest) = split_section(rest)?;
    rest.is_empty().then_some((machine, sessions))
}

fn split_section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_split_as_they_were_joined() {
        let mut bytes = join(b"machine", b"sessions");
        assert_eq!(sections(&bytes), Some((&b"machine"[..], &b"sessions"[..])));
        for length in 0..bytes.len() {
            assert_eq!(sections(&bytes[..length]), None);
        }
        bytes.push(0);
        assert_eq!(sections(&bytes), None);
        assert_eq!(sections(empty_bucket()), Some((&[][..], &[][..])));
        assert_eq!(sections(&[0xff; 16]), None);
    }
}
