//! The table on disk: every entry, every hash up to the root, and who certified that.

use replica::flush::{CopyHead, sessions_note};
use replica::recovery::SavedUnusable;
use replica::sessions::clients_of;
use replica::verifying::Verifying;
use storage::state::CellItems;
use storage::table::{DiskFailed, DiskStore, entries};
use wire::ids::Digest;
use wire::seal::Ed25519Verifier;
use wire::state::Bucket;

use super::signers::{Signer, judge};

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error(transparent)]
    Unreadable(#[from] DiskFailed),
    #[error("what it says of its state: {0}")]
    Head(#[from] SavedUnusable),
    #[error("bucket {} is not the one in the tree", .0.number())]
    OtherBucket(Bucket),
    #[error("key {key:?} is in the order of keys and has no entry")]
    Astray { key: String },
    #[error("the order of keys names {named} of {entries} entries")]
    Unordered { named: u64, entries: u64 },
}

/// What a table holds, as far as it could be read.
#[derive(Debug, Default)]
pub struct Report {
    pub slot: Option<u64>,
    pub chain: Option<Digest>,
    pub root: Option<Digest>,
    pub signers: Vec<Signer>,
    /// Signatures that a certificate needs; none without a committee.
    pub signers_needed: Option<usize>,
    pub time_ns: Option<u64>,
    pub transactions: Option<u64>,
    /// Of all files.
    pub bytes: u64,
    pub files: u64,
    /// Sorted runs that wait to be merged.
    pub runs: u64,
    /// Good ones, and of these the ones that hold something.
    pub buckets: u64,
    pub buckets_used: u64,
    pub entries: u64,
    pub sessions: u64,
    /// The value of the key that was asked for.
    pub value: Option<Vec<u8>>,
    /// The first thing, and how many more.
    pub wrong: Option<Wrong>,
    pub more_wrong: u64,
}

/// Reads a table that nobody else writes to. Holds one bucket, and the keys of one read.
/// `verifying`: none without a committee.
pub fn inspect(
    store: &DiskStore,
    key: Option<&[u8]>,
    verifying: Option<Verifying<Ed25519Verifier>>,
) -> Report {
    let (files, runs) = store.tables();
    let mut report = Report {
        bytes: store.bytes(),
        files: files as u64,
        runs: runs as u64,
        ..Report::default()
    };
    if files == 0 {
        return report;
    }
    let head = CopyHead::read(|name| Ok::<_, Wrong>(store.read_note(name)?));
    let head = match head {
        Ok(head) => Some(report.head(head, verifying)),
        Err(wrong) => {
            report.add(wrong);
            None
        }
    };
    for bucket in Bucket::all() {
        match report.bucket(store, bucket, head.as_ref(), key) {
            Ok(()) => report.buckets += 1,
            Err(wrong) => report.add(wrong),
        }
    }
    if let Err(wrong) = report.order(store) {
        report.add(wrong);
    }
    report
}

impl Report {
    fn add(&mut self, wrong: Wrong) {
        match self.wrong {
            None => self.wrong = Some(wrong),
            Some(_) => self.more_wrong += 1,
        }
    }

    fn head(&mut self, head: CopyHead, verifying: Option<Verifying<Ed25519Verifier>>) -> CopyHead {
        let place = head.certificate.place();
        (self.slot, self.chain) = (Some(place.slot.0), Some(place.digest));
        self.root = Some(head.certificate.root);
        self.time_ns = Some(head.summary.head.time_ns());
        self.transactions = Some(head.summary.head.transactions());
        let judged = judge(&head.certificate, verifying);
        (self.signers, self.signers_needed) = (judged.signers, judged.needed);
        if let Err(reject) = judged.holds {
            self.add(SavedUnusable::Uncertified(reject).into());
        }
        head
    }

    fn bucket(
        &mut self,
        store: &DiskStore,
        bucket: Bucket,
        head: Option<&CopyHead>,
        key: Option<&[u8]>,
    ) -> Result<(), Wrong> {
        let mut items = CellItems::new();
        store.read_bucket(bucket, &mut items)?;
        let sessions = store.read_note(&sessions_note(bucket))?.unwrap_or_default();
        let sessions = CellItems::decode(&sessions).ok_or(Wrong::OtherBucket(bucket))?;
        self.buckets_used += u64::from(!items.is_empty() || !sessions.is_empty());
        self.entries += entries(items.bytes()).count() as u64;
        if let Some(key) = key
            && Bucket::of_key(key) == bucket
        {
            let found = entries(items.bytes()).find(|(found, _)| *found == key);
            self.value = found.map(|(_, value)| value.to_vec());
        }
        match head {
            Some(head) if !head.holds(bucket, &items, &sessions) => Err(Wrong::OtherBucket(bucket)),
            // Of what is not in the tree the form is not known either.
            None => Ok(()),
            Some(_) => {
                self.sessions += clients_of(sessions.bytes()).count() as u64;
                Ok(())
            }
        }
    }

    /// Scans go by the order of the keys: it must name every entry, and nothing else.
    fn order(&self, store: &DiskStore) -> Result<(), Wrong> {
        let (mut named, mut astray, mut failed) = (0, None, None);
        store.read_keys(&mut |key| match store.has_entry(key) {
            Ok(true) => {
                named += 1;
                true
            }
            Ok(false) => {
                astray = Some(String::from_utf8_lossy(key).into_owned());
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        match astray {
            Some(key) => Err(Wrong::Astray { key }),
            // What could not be read was not counted.
            None if self.wrong.is_none() && named != self.entries => Err(Wrong::Unordered {
                named,
                entries: self.entries,
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
