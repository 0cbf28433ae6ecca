//! A replica as its log left it: the chain is rebuilt, decided blocks are executed again, and the
//! undecided end is verified, so that its votes can be exchanged again (R2, R4).
//!
//! Recovery writes nothing and can be repeated. It runs before any stage starts.

mod records;
mod saved;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use consensus::quorum::Quorums;
use consensus::{BlockCheck, Recovered, RecoveredBlock};
use storage::machine::StateMachine;
use storage::record::{Identity, Kind as RecordKind};
use storage::wal::{
    Damaged, Geometry, Recovery, SegmentSource, Tail, Verdict, Window, Writer, recover_around,
};
use thiserror::Error;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};
use wire::canary::planted;
use wire::certificates::Place;
use wire::ids::{Boot, Digest, NodeId, Position, PublicKey, Slot};
use wire::limits::{BLOCK_BUFFER_BYTES, RECORD_HEADER_BYTES, SECTOR_BYTES, WINDOW};
use wire::seal::Verifier;

use crate::blocks::{Location, message_in_record};
use crate::execution::{Execution, Replies};
use crate::flush;
use crate::ledger::Ledger;
use crate::ordering::release::keeps_newest_from_start;
use crate::verifying::Verifying;

pub use records::{DecidedRecord, StandingRecord};
pub use saved::{Saved, SavedUnusable};
use walk::{Known, Walk};

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
        position: Position,
    },
    #[error("the table on disk cannot be used: {0}")]
    TableUnusable(SavedUnusable),
    #[error("snapshot {name} was begun to be installed, and cannot be: {reason}")]
    HalfInstalled { name: String, reason: SavedUnusable },
    #[error("the log begins in the middle, and no record says where this replica stood")]
    Unstated,
    #[error(
        "the last process of this directory (boot {boot}) ran with durability = none and did not \
         stop cleanly: what it said to the others is lost, and a node that forgot its votes must \
         never vote again under its key (R5). Treat the disk as lost: restore this member as a new \
         one; a cluster that was only measured is written anew with `hippo testnet`"
    )]
    LostWithoutDurability { boot: u32 },
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
    /// Messages of the undecided blocks, and where their records lie.
    pub undecided: Vec<(Place, Bu::Shared, Location)>,
    /// Blocks whose bytes rotted (R5): this replica is silent, and gets what it lacks from others.
    pub lost_blocks: u64,
    /// The log was let go behind a state that is not on this disk any more. The same follows.
    pub lacks_state: bool,
    /// Records of evidence in the log.
    pub evidence: u64,
    /// Slot of the snapshot that this start began from.
    pub snapshot: Option<Slot>,
    /// That is a file, and the table's copy on disk, from which others are shown the state, is blank.
    pub lacks_copy: bool,
    /// Snapshots that could not be used, by name; an older one, or the log alone, did instead.
    pub unusable: Vec<(String, SavedUnusable)>,
}

/// Replies of blocks that are executed again go nowhere: the clients ask again if they care.
struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}

    fn read_reply(&mut self, _: &PublicKey, _: Slot, _: [&[u8]; 2]) {}
}

/// Reads the log, executes what it knows to be decided, verifies the rest. Begins from the state in
/// the table's copy on disk, if it has one, else from the first snapshot of `saved` that can be used:
/// newest first. Where the log does not reach back to that, or lacks blocks, the replica is silent
/// (R3) until others have given it a newer state.
pub fn restart<'s, Bu, Src, M, V>(
    me: NodeId,
    quorums: &Quorums,
    source: &mut Src,
    geometry: &Geometry,
    identity: &Identity,
    genesis: Place,
    execution: &mut Execution<M>,
    verifying: &mut Verifying<V>,
    block_buffers: &mut Bu,
    saved: impl IntoIterator<Item = Saved<'s>>,
) -> Result<Restarted<Bu>, RestartError>
where
    Bu: Buffers,
    Src: SegmentSource,
    M: StateMachine,
    V: Verifier + Clone,
{
    let compound = verifying.compound();
    let mut unusable = Vec::new();
    let reopened = flush::reopen(execution, compound);
    let mut proof = reopened.map_err(RestartError::TableUnusable)?;
    let lacks_copy = proof.is_none() && execution.has_copy();
    for saved in saved.into_iter().take_while(|_| proof.is_none()) {
        let name = saved.name.clone();
        match saved.load(identity, compound, execution) {
            Ok(found) => {
                proof = Some(found);
                break;
            }
            // Of the execution nothing is known any more.
            Err(reason @ SavedUnusable::NotInstalled(_)) => {
                return Err(RestartError::HalfInstalled { name, reason });
            }
            Err(reason) => unusable.push((name, reason)),
        }
    }
    let certificate = proof.and_then(|proof| proof.certificate());
    let start = match certificate {
        Some(found) => found.place(),
        // An epoch that begins with a state, and that is not here.
        None if proof.is_none() && genesis.slot > Slot(0) => Place::NONE,
        None => genesis,
    };
    let first = Slot((start.slot.0 + 1).saturating_sub(2 * WINDOW).max(1));
    let ledger = Ledger::new(*geometry, first);
    let mut walk = Walk::new(compound, me, quorums, genesis, start, certificate, ledger);
    let recovery = recover_around(source, geometry, identity, &mut |found| match found {
        Ok(entry) => walk.visit(&entry),
        Err(hole) => walk.hole(hole),
    })?;
    walk.finish()?;
    if walk.lost {
        return Err(RestartError::LostWithoutDurability { boot: walk.boot });
    }
    let lacks_state = walk.lacks_state();
    let clean = walk.ended_cleanly() && walk.lost_blocks == 0 && !lacks_state;
    let settled = walk.settled();
    let Walk {
        boot,
        restarted_in,
        mut recovered,
        blocks,
        order,
        evidence,
        ledger,
        lost_blocks,
        ..
    } = walk;
    if let Some((epoch, stage)) = restarted_in.filter(|_| !planted("boot")) {
        // R4: whatever the log shows was entered may have been led.
        recovered.stage = recovered.stage.max(stage);
        recovered.restarted_in = Some((epoch, recovered.stage));
    }
    recovered.durable_position = recovery.flushed().position();
    let places = Writer::new(*geometry, *identity, recovery.tail.clone());
    let mut reader = Reader {
        window: Window::new(source, geometry),
        places: &places,
    };
    let decided = recovered.decided.slot;
    if let Some(known) = &recovered.checkpoint {
        // Those before it were certified already; the one itself may be asked for by others.
        execution.skip_checkpoints(Slot(known.header.slot().0 - 1));
    }
    let (retained_from, interval) = (recovered.retained_from, execution.checkpoint_interval());
    let keeps_newest = keeps_newest_from_start(retained_from, &places, interval);
    execution.keep_newest(keeps_newest);
    let certified = recovered.checkpoint.map(|known| known.header.slot());
    for slot in (start.slot.0 + 1..=decided.0).map(Slot) {
        let location = ledger.locate(slot);
        let message = reader.message(location, slot, Window::read, block_buffers)?;
        execution.execute(slot, &message, &mut Nowhere);
        if keeps_newest && certified == Some(slot) {
            // What is kept moves on to it, as it did when it was certified.
            while execution.work(usize::MAX) {}
            execution.stable(slot);
        }
    }
    let needed = needed_blocks(&recovered, settled, &blocks);
    let others = order.iter().rev().copied();
    let others = others.filter(|place| place.slot > settled && !needed.contains(place));
    let undecided = needed.iter().copied().chain(others).collect::<Vec<_>>();
    let mut messages = Vec::with_capacity(undecided.len());
    let mut signed = BTreeSet::new();
    let mut refused = None;
    for (index, place) in undecided.iter().enumerate() {
        if index >= needed.len() && block_buffers.free() < SPARE_BUFFERS {
            // Abandoned, most likely; whoever needs one asks others for it.
            break;
        }
        if block_buffers.free() < 2 {
            return Err(RestartError::TooManyUndecided {
                blocks: needed.len(),
                buffers: messages.len(),
            });
        }
        let location = blocks[place].location;
        let message = reader.message(
            Some(location),
            place.slot,
            Window::read_alone,
            block_buffers,
        )?;
        let found = verifying.block(&message).map(|(_, found)| found);
        let valid = match found {
            Ok(BlockCheck::Good) => signed.insert(*place),
            // Its digest binds the payload and not the signature. It may have been decided, and
            // voted for by a vote for what follows it, before that signature was looked at; the
            // leader's good one on a block above it vouches for it in a view change.
            Ok(BlockCheck::ForeignSignature) => verifying.payload_is_valid(&message),
            Ok(BlockCheck::InvalidPayload) | Err(_) => false,
        };
        if !valid {
            refused = refused.min(Some(*place)).or(Some(*place));
            continue;
        }
        messages.push((*place, message, location));
    }
    let read = messages.iter().map(|(place, ..)| *place);
    let read = read.collect::<BTreeSet<_>>();
    let good = |place: &Place| read.contains(place);
    if refused.is_some() {
        // Appended before its payload was checked, and that is invalid: as when the check fails in
        // a running replica, the branch is left and no vote follows in this view (N2, R2).
        let mut tip = recovered.tip;
        let mut deepest = tip;
        while tip.slot > decided
            && let Some(known) = blocks.get(&tip)
        {
            let parent = Place {
                slot: Slot(tip.slot.0 - 1),
                digest: known.block.header.parent,
            };
            if !good(&tip) {
                recovered.voting_stopped = true;
                deepest = parent;
            }
            tip = parent;
        }
        recovered.tip = deepest;
    }
    // What is decided was never verified by this process. Its payload holds, for others voted for
    // it; the leader's signature on this copy may not, and a view change must not show it then.
    let stable = recovered.checkpoint.as_ref();
    let stable = stable.map_or(Slot(0), |known| known.header.slot());
    let installed = recovered.installed;
    let is_signed = |block: &RecoveredBlock| {
        let header = &block.header;
        let shown = header.view() == installed && (stable..=decided).contains(&header.slot());
        signed.contains(&block.place())
            || shown && verifying.leader_signed(header, &block.signature)
    };
    let kept = order
        .iter()
        .filter(|place| place.slot <= decided || good(place));
    recovered.blocks = kept
        .map(|place| {
            let block = blocks[place].block;
            let signature_good = is_signed(&block);
            RecoveredBlock {
                signature_good,
                ..block
            }
        })
        .collect();
    Ok(Restarted {
        boot: Boot(boot + 1),
        recovered,
        ledger,
        tail: recovery.tail.clone(),
        verdict: recovery.verdict,
        clean,
        recovery,
        undecided: messages,
        lost_blocks,
        lacks_state,
        evidence,
        snapshot: proof.map(|_| start.slot),
        lacks_copy: lacks_copy && proof.is_some(),
        unusable,
    })
}

/// Blocks above what is settled on which own words stand: the chains of the tip, the base, and the base
/// that was proposed or acknowledged.
fn needed_blocks(
    recovered: &Recovered,
    settled: Slot,
    blocks: &BTreeMap<Place, Known>,
) -> BTreeSet<Place> {
    let base = recovered.certificate.map(|known| known.base);
    let proposed = recovered.new_view.as_ref().map(|own| own.message.base);
    let acked = recovered.ack.and_then(|ack| ack.acked_base());
    let mut needed = BTreeSet::new();
    for end in [Some(recovered.tip), base, proposed, acked]
        .into_iter()
        .flatten()
    {
        let mut next = end;
        while next.slot > settled
            && let Some(known) = blocks.get(&next)
            && needed.insert(next)
        {
            next = known.parent();
        }
    }
    needed
}

/// Block buffers that a restart leaves for what comes, before it reads blocks that nothing stands on.
const SPARE_BUFFERS: usize = 128;

/// One of the two ways of a window: from this offset of a segment, so many bytes.
type ReadIn<'a, Src> = for<'w> fn(&'w mut Window<'a, Src>, u32, u64, usize) -> Option<&'w [u8]>;

/// Reads single records back.
struct Reader<'a, Src> {
    window: Window<'a, Src>,
    places: &'a Writer,
}

impl<'a, Src: SegmentSource> Reader<'a, Src> {
    /// The message of a block.
    fn message<Bu: Buffers>(
        &mut self,
        location: Option<Location>,
        slot: Slot,
        read: ReadIn<'a, Src>,
        buffers: &mut Bu,
    ) -> Result<Bu::Shared, RestartError> {
        let unreadable = |reason: &str| RestartError::Unreadable {
            slot,
            reason: reason.to_owned(),
        };
        let (start, sectors) = location.ok_or_else(|| unreadable("no such record"))?;
        let (segment, offset) = self
            .places
            .locate(start)
            .ok_or_else(|| unreadable("its segment was recycled"))?;
        let bytes = sectors as usize * SECTOR_BYTES;
        if bytes > BLOCK_BUFFER_BYTES {
            return Err(unreadable("too long"));
        }
        let record = read(&mut self.window, segment, offset, bytes)
            .ok_or_else(|| unreadable("the disk does not give it"))?;
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
