//! A replica as its log left it: the chain is rebuilt, decided blocks are executed again, and the
//! undecided end is verified, so that its votes can be exchanged again (R2, R4).
//!
//! Recovery writes nothing and can be repeated. It runs before any stage starts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use consensus::{RecordAs, Recovered, RecoveredBlock};
use storage::machine::StateMachine;
use storage::record::{Identity, Kind as RecordKind};
use storage::wal::{Damaged, Geometry, Recovery, SegmentSource, Tail, Verdict, Writer, recover};
use thiserror::Error;
use wire::block::BlockView;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};
use wire::canary::planted;
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate};
use wire::ids::{Boot, Digest, Epoch, NodeId, PublicKey, Slot, View};
use wire::limits::{BLOCK_BUFFER_BYTES, RECORD_HEADER_BYTES, SECTOR_BYTES, WINDOW};
use wire::messages::{CleanStopRecord, PlaceRecord, StartRecord};
use wire::seal::{Compound, Signed, Statement, Verifier};
use wire::view_change::{NewView, ViewChange, split_signed};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::blocks::{Ledger, Location, message_in_record};
use crate::execution::{Execution, Replies};
use crate::verifying::Verifying;

/// Log record: every slot up to this one is decided. Saves verifying those blocks at restart.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DecidedRecord {
    slot: U64,
    pub digest: Digest,
}

const _: () = assert!(size_of::<DecidedRecord>() == 40);

impl DecidedRecord {
    pub fn new(slot: Slot, digest: Digest) -> DecidedRecord {
        DecidedRecord {
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
    /// Messages of the undecided blocks, and where their records lie.
    pub undecided: Vec<(Place, Bu::Shared, Location)>,
    /// Records of evidence in the log.
    pub evidence: u64,
}

/// A block of the log and where it lies.
#[derive(Clone, Copy)]
struct Known {
    block: RecoveredBlock,
    location: Location,
}

/// The records as they tell the story, in the order of the log (R2).
struct Walk<'a, V> {
    compound: &'a mut Compound<V>,
    /// Whose log it is.
    recovered_by: NodeId,
    boot: u32,
    restarted_in: Option<(Epoch, View)>,
    clean_boot: Option<Boot>,
    recovered: Recovered,
    /// Blocks by place: those that may still matter, a window of slots.
    blocks: BTreeMap<Place, Known>,
    /// Blocks of the log in its order, by place.
    order: VecDeque<Place>,
    evidence: u64,
    ledger: Ledger,
    failed: Option<RestartError>,
}

impl<V: Verifier> Walk<'_, V> {
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
            RecordKind::Block => self.block(entry, RecordAs::Vote),
            RecordKind::FetchedBlock => self.block(entry, RecordAs::Fetched),
            RecordKind::Decided => DecidedRecord::read_from_bytes(entry.body)
                .ok()
                .map(|decided| self.decided(&decided)),
            RecordKind::Evidence => {
                self.evidence += 1;
                Some(())
            }
            RecordKind::ViewChange => self.view_change(entry.body),
            RecordKind::NewView => self.new_view(entry.body),
            RecordKind::Ack => self.ack(entry.body),
            RecordKind::Install => self.install(entry.body),
            RecordKind::Skip => self.skip(entry.body),
            RecordKind::Commit => self.commit(entry.body),
            RecordKind::CheckpointCertificate => self.checkpoint(entry.body),
            // Written by later versions of this protocol only.
            RecordKind::Lease | RecordKind::Epoch => None,
        };
        if outcome.is_none() && self.failed.is_none() {
            self.failed = Some(malformed);
        }
    }

    fn block(&mut self, entry: &storage::wal::Entry<'_>, kind: RecordAs) -> Option<()> {
        let view = BlockView::frame(entry.body).ok()?;
        let header = view.prefix.header;
        let digest = header.digest();
        let sectors = (entry.end.0 - entry.position.0) / SECTOR_BYTES as u64;
        let block = RecoveredBlock {
            header,
            signature: view.prefix.signature,
            digest,
            kind,
            end: entry.end,
        };
        let place = block.place();
        let known = Known {
            block,
            location: (entry.position, sectors as u32),
        };
        // A fetched block may have become a vote later: its second record counts.
        if self.blocks.insert(place, known).is_none() {
            self.order.push_back(place);
        }
        let recovered = &mut self.recovered;
        let extends = kind == RecordAs::Vote
            && !planted("amnesia")
            && header.view() == recovered.installed
            && header.parent == recovered.tip.digest
            && place.slot == recovered.tip.slot.next();
        if extends {
            recovered.tip = place;
        } else if kind == RecordAs::Vote
            && header.view() == recovered.installed
            && recovered.stage == recovered.installed
        {
            // The first block of this slot proved invalid, and this one came in its place.
            recovered.voting_stopped = true;
        }
        while self.order.len() > 4 * WINDOW as usize {
            let oldest = self.order.pop_front();
            // Whatever is not settled after so many blocks never will be.
            if let Some(oldest) = oldest
                && oldest.slot <= self.recovered.decided.slot
            {
                self.blocks.remove(&oldest);
            }
        }
        Some(())
    }

    /// The chain from what was decided before up to this block is decided.
    fn decided(&mut self, record: &DecidedRecord) {
        let place = Place {
            slot: record.slot(),
            digest: record.digest,
        };
        self.settle(place);
    }

    fn settle(&mut self, place: Place) {
        let before = self.recovered.decided;
        let off_chain = RestartError::DecisionOffChain {
            slot: place.slot,
            digest: place.digest,
        };
        if place.slot <= before.slot {
            if place.slot == before.slot && place != before {
                self.failed = Some(off_chain);
            }
            return;
        }
        let mut next = place;
        while next.slot > before.slot {
            let Some(known) = self.blocks.get(&next) else {
                self.failed = Some(off_chain);
                return;
            };
            self.ledger
                .note(next.slot, known.location.0, known.location.1);
            next = Place {
                slot: Slot(next.slot.0 - 1),
                digest: known.block.header.parent,
            };
        }
        if next == before {
            self.recovered.decided = place;
        } else {
            self.failed = Some(off_chain);
        }
    }

    fn view_change(&mut self, body: &[u8]) -> Option<()> {
        let (signature, body) = split_signed(body).ok()?;
        let message = ViewChange::decode(body).ok()?;
        let checked = self.compound.view_change(message, signature).ok()?;
        let view = checked.message.view;
        if view > self.recovered.stage {
            self.recovered.stage = view;
            self.recovered.view_change = Some(Arc::new(checked));
            (self.recovered.new_view, self.recovered.ack) = (None, None);
        }
        Some(())
    }

    fn new_view(&mut self, body: &[u8]) -> Option<()> {
        let (signature, body) = split_signed(body).ok()?;
        let message = NewView::decode(body).ok()?;
        let checked = self.compound.new_view(message, signature).ok()?;
        if checked.message.view == self.recovered.stage {
            self.recovered.new_view = Some(Arc::new(checked));
        }
        Some(())
    }

    fn ack(&mut self, body: &[u8]) -> Option<()> {
        let record = PlaceRecord::read_from_bytes(body).ok()?;
        let statement = Statement::NewViewAck {
            view: record.view(),
            base_slot: record.slot(),
            base: record.digest,
        };
        let by = self.recovered_by;
        let signed = Signed {
            by,
            statement,
            signature: record.signature,
        };
        let signed = self.compound.signed(signed).ok()?;
        if record.view() == self.recovered.stage {
            self.recovered.ack = Some(signed);
        }
        Some(())
    }

    fn install(&mut self, body: &[u8]) -> Option<()> {
        let certificate = NewViewCertificate::decode(body).ok()?;
        let certificate = self.compound.new_view_certificate(certificate).ok()?;
        let recovered = &mut self.recovered;
        if certificate.view > recovered.installed {
            recovered.installed = certificate.view;
            recovered.stage = recovered.stage.max(certificate.view);
            recovered.tip = certificate.base;
            recovered.certificate = Some(certificate.into_inner());
            recovered.quorum = None;
            recovered.voting_stopped = false;
            if recovered.stage == recovered.installed {
                recovered.view_change = None;
                (recovered.new_view, recovered.ack) = (None, None);
            }
        }
        Some(())
    }

    fn skip(&mut self, body: &[u8]) -> Option<()> {
        let record = PlaceRecord::read_from_bytes(body).ok()?;
        if record.view() == self.recovered.installed && !planted("losejump") {
            self.recovered.tip = Place {
                slot: record.slot(),
                digest: record.digest,
            };
        }
        Some(())
    }

    fn commit(&mut self, body: &[u8]) -> Option<()> {
        let quorum = QuorumCertificate::decode(body).ok()?;
        let quorum = self.compound.quorum_certificate(quorum).ok()?;
        if quorum.view == self.recovered.installed {
            self.recovered.quorum = Some(quorum.into_inner());
        }
        Some(())
    }

    /// The certified block is final, and everything up to it was executed here when this was
    /// written.
    fn checkpoint(&mut self, body: &[u8]) -> Option<()> {
        let certificate = CheckpointCertificate::decode(body).ok()?;
        let certificate = self.compound.checkpoint_certificate(certificate).ok()?;
        self.settle(certificate.place());
        self.recovered.checkpoint = Some(certificate.into_inner());
        Some(())
    }
}

/// Replies of blocks that are executed again go nowhere: the clients ask again if they care.
struct Nowhere;

impl Replies for Nowhere {
    fn reply(&mut self, _: &PublicKey, _: Slot, _: &[u8]) {}
}

/// Reads the log, executes what it knows to be decided, verifies the rest.
pub fn restart<Bu, Src, M, V>(
    me: NodeId,
    source: &mut Src,
    geometry: &Geometry,
    identity: &Identity,
    genesis: Digest,
    execution: &mut Execution<M>,
    verifying: &mut Verifying<V>,
    block_buffers: &mut Bu,
) -> Result<Restarted<Bu>, RestartError>
where
    Bu: Buffers,
    Src: SegmentSource,
    M: StateMachine,
    V: Verifier + Clone,
{
    let records_max = geometry.max_bytes() / SECTOR_BYTES as u64;
    let mut walk = Walk {
        compound: verifying.compound(),
        recovered_by: me,
        boot: 0,
        restarted_in: None,
        clean_boot: None,
        recovered: Recovered::blank(genesis),
        blocks: BTreeMap::new(),
        order: VecDeque::new(),
        evidence: 0,
        ledger: Ledger::new(records_max as usize),
        failed: None,
    };
    let recovery = recover(source, geometry, identity, &mut |entry| walk.visit(&entry))?;
    if let Some(failed) = walk.failed {
        return Err(failed);
    }
    let Walk {
        boot,
        restarted_in,
        clean_boot,
        mut recovered,
        blocks,
        order,
        evidence,
        ledger,
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
        source,
        places: &places,
        record: vec![0; BLOCK_BUFFER_BYTES],
    };
    let decided = recovered.decided.slot;
    for slot in (1..=decided.0).map(Slot) {
        let location = ledger.locate(slot);
        let message = reader.message(location, slot, block_buffers)?;
        execution.execute(slot, &message, &mut Nowhere);
    }
    let undecided = order.iter().filter(|place| place.slot > decided);
    let undecided = undecided.copied().collect::<Vec<_>>();
    let mut messages = Vec::with_capacity(undecided.len());
    let mut refused = None;
    for place in &undecided {
        if block_buffers.free() < 2 {
            return Err(RestartError::TooManyUndecided {
                blocks: undecided.len(),
                buffers: messages.len(),
            });
        }
        let location = blocks[place].location;
        let message = reader.message(Some(location), place.slot, block_buffers)?;
        if verifying.block(&message).is_err() {
            refused = refused.min(Some(*place)).or(Some(*place));
            continue;
        }
        messages.push((*place, message, location));
    }
    let good = |place: &Place| messages.iter().any(|(known, ..)| known == place);
    if refused.is_some() {
        // Appended before its signatures were checked, and they do not hold: as when the check
        // fails in a running replica, the branch is left and no vote follows in this view (N2,
        // R2). A good copy may be fetched into its place.
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
    recovered.blocks = order
        .iter()
        .filter(|place| place.slot <= decided || good(place))
        .map(|place| blocks[place].block)
        .collect();
    Ok(Restarted {
        boot: Boot(boot + 1),
        recovered,
        ledger,
        tail: recovery.tail.clone(),
        verdict: recovery.verdict,
        clean: clean_boot == Some(Boot(boot)) && boot > 0,
        recovery,
        undecided: messages,
        evidence,
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
        location: Option<Location>,
        slot: Slot,
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
