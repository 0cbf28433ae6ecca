//! A replica as its log left it: the chain is rebuilt, decided blocks are executed again, and the
//! undecided end is verified, so that its votes can be exchanged again (R2, R4).
//!
//! Recovery writes nothing and can be repeated. It runs before any stage starts.

use std::collections::VecDeque;

use consensus::{Recovered, RecoveredBlock};
use storage::machine::StateMachine;
use storage::record::{Identity, Kind as RecordKind};
use storage::wal::{Damaged, Geometry, Recovery, SegmentSource, Tail, Verdict, Writer, recover};
use thiserror::Error;
use wire::block::BlockView;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};
use wire::ids::{Boot, Digest, Epoch, PublicKey, Slot, View};
use wire::limits::{BLOCK_BUFFER_BYTES, RECORD_HEADER_BYTES, SECTOR_BYTES, WINDOW};
use wire::messages::{CleanStopRecord, StartRecord};
use wire::seal::Verifier;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::blocks::{Ledger, message_in_record};
use crate::execution::{Execution, Replies};
use crate::verifying::Verifying;

/// Log record: every slot up to this one is decided. Saves verifying those blocks at restart.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommitRecord {
    slot: U64,
    pub digest: Digest,
}

const _: () = assert!(size_of::<CommitRecord>() == 40);

impl CommitRecord {
    pub fn new(slot: Slot, digest: Digest) -> CommitRecord {
        CommitRecord {
            slot: U64::new(slot.0),
            digest,
        }
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }
}

/// Why a log that reads well does not make a replica.
#[derive(Debug, Error)]
pub enum RestartError {
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error("the log says that slot {slot} was decided as {digest}, yet its chain says otherwise")]
    DecisionOffChain { slot: Slot, digest: Digest },
    #[error("a record of kind {kind:?} at position {position} has a malformed body")]
    Malformed {
        kind: RecordKind,
        position: wire::ids::Position,
    },
    #[error("the block at slot {slot} cannot be read back from the log: {reason}")]
    Unreadable { slot: Slot, reason: String },
    #[error("{blocks} undecided blocks in the log are more than the {buffers} block buffers hold")]
    TooManyUndecided { blocks: usize, buffers: usize },
}

/// What a start needs.
pub struct Restarted<Bu: Buffers> {
    pub boot: Boot,
    pub recovered: Recovered,
    pub ledger: Ledger,
    pub tail: Tail,
    pub verdict: Verdict,
    /// The durable end of what was read; flush the files first (see [`Recovery::flushed`]).
    pub recovery: Recovery,
    /// The last stop was clean.
    pub clean: bool,
    /// Messages of the undecided blocks at the end, by slot.
    pub undecided: Vec<(Slot, Bu::Shared)>,
    /// Records of evidence in the log.
    pub evidence: u64,
}

/// The chain as the records tell it.
struct Walk {
    boot: u32,
    restarted_in: Option<(Epoch, View)>,
    clean_boot: Option<Boot>,
    /// The newest blocks, up to a window of them.
    blocks: VecDeque<RecoveredBlock>,
    tip: Slot,
    tip_digest: Digest,
    decided: Slot,
    decided_digest: Digest,
    voting_stopped: bool,
    evidence: u64,
    ledger: Ledger,
    failed: Option<RestartError>,
}

impl Walk {
    fn visit(&mut self, entry: &storage::wal::Entry<'_>) {
        if self.failed.is_some() {
            return;
        }
        let malformed = RestartError::Malformed {
            kind: entry.kind,
            position: entry.position,
        };
        let outcome = match entry.kind {
            RecordKind::Start => StartRecord::read_from_bytes(entry.body).ok().map(|start| {
                self.boot = self.boot.max(start.boot().0);
                self.restarted_in = self.restarted_in.max(Some((start.epoch(), start.stage())));
            }),
            RecordKind::CleanStop => CleanStopRecord::read_from_bytes(entry.body)
                .ok()
                .map(|stop| self.clean_boot = Some(stop.boot())),
            RecordKind::Block | RecordKind::FetchedBlock => self.block(entry),
            RecordKind::Commit => CommitRecord::read_from_bytes(entry.body)
                .ok()
                .map(|commit| self.commit(&commit)),
            RecordKind::Evidence => {
                self.evidence += 1;
                Some(())
            }
            // Written by later versions of this protocol only.
            _ => None,
        };
        if outcome.is_none() && self.failed.is_none() {
            self.failed = Some(malformed);
        }
    }

    fn block(&mut self, entry: &storage::wal::Entry<'_>) -> Option<()> {
        let view = BlockView::frame(entry.body).ok()?;
        let header = view.prefix.header;
        let slot = header.slot();
        if slot <= self.tip {
            // The first block of this slot proved invalid, or its branch lost: the chain was cut
            // back below it, and this replica votes no more in the view (R2, N2).
            self.voting_stopped = true;
            while self.tip >= slot {
                self.blocks.pop_back()?;
                self.tip = Slot(self.tip.0 - 1);
            }
            self.tip_digest = self
                .blocks
                .back()
                .map_or(header.parent, |block| block.digest);
        }
        if slot != self.tip.next() || header.parent != self.tip_digest {
            return None;
        }
        let digest = header.digest();
        let sectors = (entry.end.0 - entry.position.0) / SECTOR_BYTES as u64;
        self.ledger.note(slot, entry.position, sectors as u32);
        self.blocks.push_back(RecoveredBlock {
            header,
            signature: view.prefix.signature,
            digest,
            end: entry.end,
        });
        if self.blocks.len() > WINDOW as usize {
            self.blocks.pop_front();
        }
        (self.tip, self.tip_digest) = (slot, digest);
        Some(())
    }

    fn commit(&mut self, commit: &CommitRecord) {
        let (slot, digest) = (commit.slot(), commit.digest);
        let at = self
            .blocks
            .iter()
            .rev()
            .find(|block| block.header.slot() == slot);
        match at {
            Some(block) if block.digest == digest && slot >= self.decided => {
                (self.decided, self.decided_digest) = (slot, digest);
            }
            _ => self.failed = Some(RestartError::DecisionOffChain { slot, digest }),
        }
    }
}

/// Replies of blocks that are executed again go nowhere: the clients ask again if they care.
struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}
}

/// Reads the log, executes what it knows to be decided, verifies the rest.
pub fn restart<Bu, Src, M, V>(
    source: &mut Src,
    geometry: &Geometry,
    identity: &Identity,
    genesis: Digest,
    execution: &mut Execution<M>,
    verifying: &Verifying<V>,
    block_buffers: &mut Bu,
) -> Result<Restarted<Bu>, RestartError>
where
    Bu: Buffers,
    Src: SegmentSource,
    M: StateMachine,
    V: Verifier,
{
    let records_max = geometry.max_bytes() / SECTOR_BYTES as u64;
    let mut walk = Walk {
        boot: 0,
        restarted_in: None,
        clean_boot: None,
        blocks: VecDeque::new(),
        tip: Slot(0),
        tip_digest: genesis,
        decided: Slot(0),
        decided_digest: genesis,
        voting_stopped: false,
        evidence: 0,
        ledger: Ledger::new(records_max as usize),
        failed: None,
    };
    let recovery = recover(source, geometry, identity, &mut |entry| walk.visit(&entry))?;
    if let Some(failed) = walk.failed {
        return Err(failed);
    }
    let places = Writer::new(*geometry, *identity, recovery.tail.clone());
    let mut reader = Reader {
        source,
        places: &places,
        record: vec![0; BLOCK_BUFFER_BYTES],
    };
    for slot in (1..=walk.decided.0).map(Slot) {
        let message = reader.message(&walk.ledger, slot, block_buffers)?;
        execution.execute(slot, &message, &mut Nowhere);
    }
    let mut undecided = Vec::new();
    let mut refused = None;
    for block in &walk.blocks {
        let slot = block.header.slot();
        if slot <= walk.decided {
            continue;
        }
        if block_buffers.free() < 2 {
            let blocks = (walk.tip.0 - walk.decided.0) as usize;
            return Err(RestartError::TooManyUndecided {
                blocks,
                buffers: undecided.len(),
            });
        }
        let message = reader.message(&walk.ledger, slot, block_buffers)?;
        if verifying.block(&message).is_err() {
            refused = Some(slot);
            break;
        }
        undecided.push((slot, message));
    }
    if let Some(slot) = refused {
        // Appended before its signatures were checked, and they do not hold: as when the check
        // fails in a running replica, the branch is left and no vote follows in this view (N2,
        // R2). A good copy may be fetched into its place.
        walk.voting_stopped = true;
        walk.blocks.retain(|block| block.header.slot() < slot);
    }
    Ok(Restarted {
        boot: Boot(walk.boot + 1),
        recovered: Recovered {
            restarted_in: walk.restarted_in,
            decided: walk.decided,
            decided_digest: walk.decided_digest,
            blocks: walk.blocks.into(),
            voting_stopped: walk.voting_stopped,
            durable_position: recovery.flushed().position(),
        },
        ledger: walk.ledger,
        tail: recovery.tail.clone(),
        verdict: recovery.verdict,
        clean: walk.clean_boot == Some(Boot(walk.boot)) && walk.boot > 0,
        recovery,
        undecided,
        evidence: walk.evidence,
    })
}

/// Reads single records back.
struct Reader<'a, Src> {
    source: &'a mut Src,
    places: &'a Writer,
    record: Vec<u8>,
}

impl<Src: SegmentSource> Reader<'_, Src> {
    fn message<Bu: Buffers>(
        &mut self,
        ledger: &Ledger,
        slot: Slot,
        buffers: &mut Bu,
    ) -> Result<Bu::Shared, RestartError> {
        let unreadable = |reason: &str| RestartError::Unreadable {
            slot,
            reason: reason.to_owned(),
        };
        let (start, sectors) = ledger
            .locate(slot)
            .ok_or_else(|| unreadable("no such record"))?;
        let (segment, offset) = self
            .places
            .locate(start)
            .ok_or_else(|| unreadable("its segment was recycled"))?;
        let bytes = sectors as usize * SECTOR_BYTES;
        let record = self
            .record
            .get_mut(..bytes)
            .ok_or_else(|| unreadable("too long"))?;
        self.source
            .read(segment, offset, record)
            .map_err(|error| unreadable(&error.to_string()))?;
        let (message_bytes, _) = message_in_record(record, slot)
            .ok_or_else(|| unreadable("the record holds another block"))?;
        let mut buffer = buffers
            .take()
            .ok_or_else(|| unreadable("no free block buffer"))?;
        buffer[..bytes].copy_from_slice(record);
        let message = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + message_bytes;
        Ok(buffer.freeze().slice(message))
    }
}
