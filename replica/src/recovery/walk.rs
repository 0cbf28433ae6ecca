//! The records as they tell the story, in the order of the log (R2).
//!
//! A log whose older records were let go begins in the middle of the story: block records stand
//! there whose view, and whose place in the chain of own votes, is told only further on, by the
//! group of records that ends with STANDING. Up to that group they are noted and nothing is
//! concluded from them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use consensus::quorum::Quorums;
use consensus::{RecordAs, Recovered, RecoveredBlock};
use storage::record::Kind as RecordKind;
use storage::wal::Hole;
use wire::block::BlockView;
use wire::canary::planted;
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate};
use wire::ids::{Boot, Epoch, NodeId, Position, Slot, View};
use wire::limits::{SECTOR_BYTES, WINDOW};
use wire::messages::{CleanStopRecord, Durability, LeaseRecord, PlaceRecord, StartRecord};
use wire::seal::{Compound, Signed, Statement, Verified, Verifier};
use wire::view_change::{NewView, ViewChange, split_signed};
use zerocopy::FromBytes;

use super::{DecidedRecord, RestartError, StandingRecord};
use crate::blocks::Location;
use crate::ledger::Ledger;

/// A block of the log and where it lies.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub block: RecoveredBlock,
    pub location: Location,
}

impl Known {
    pub fn parent(&self) -> Place {
        Place {
            slot: Slot(self.block.header.slot().0 - 1),
            digest: self.block.header.parent,
        }
    }
}

/// See the module's documentation.
pub(super) struct Walk<'a, V> {
    compound: &'a mut Compound<V>,
    /// Whose log it is.
    recovered_by: NodeId,
    /// See [`Quorums::jumps_are_risky`].
    jumps_are_risky: bool,
    pub boot: u32,
    pub restarted_in: Option<(Epoch, View)>,
    /// The boot of a marker that nothing has followed.
    clean_boot: Option<Boot>,
    /// Of the newest process.
    durability: Durability,
    /// The newest process ended uncleanly, and ran without durability: what it said is lost (R5).
    pub lost: bool,
    pub recovered: Recovered,
    genesis: Place,
    /// What the snapshot holds: decided, whatever the log says of it.
    start: Place,
    /// Blocks up to the start were noted in the ledger.
    start_noted: bool,
    /// Where the replica stood is known: from the first record of a whole log on, else from the
    /// first STANDING.
    restated: bool,
    /// Blocks by place: those that may still matter, a window of slots.
    pub blocks: BTreeMap<Place, Known>,
    /// Blocks of the log in its order, by place, each once.
    pub order: VecDeque<Place>,
    pub evidence: u64,
    pub ledger: Ledger,
    pub failed: Option<RestartError>,
    /// Blocks whose bytes are gone (R5). What was voted with them is forgotten, and what stands on
    /// them leads nowhere.
    pub lost_blocks: u64,
    /// The highest block that is decided and cannot be executed here, for blocks below it are not there.
    unreached: Option<Place>,
    /// The highest checkpoint that this log knows to be certified.
    certified: Slot,
    /// Records seen.
    records: u64,
}

impl<'a, V: Verifier> Walk<'a, V> {
    /// `start`: genesis, or the place of a snapshot, with its certificate; below genesis where the
    /// state that the epoch begins with is not here.
    pub fn new(
        compound: &'a mut Compound<V>,
        recovered_by: NodeId,
        quorums: &Quorums,
        genesis: Place,
        start: Place,
        certificate: Option<CheckpointCertificate>,
        ledger: Ledger,
    ) -> Walk<'a, V> {
        let mut recovered = Recovered::blank(genesis);
        (recovered.decided, recovered.checkpoint) = (start, certificate);
        let certified = start.slot.max(genesis.slot);
        Walk {
            compound,
            recovered_by,
            jumps_are_risky: quorums.jumps_are_risky(),
            boot: 0,
            restarted_in: None,
            clean_boot: None,
            durability: Durability::Sync,
            lost: false,
            recovered,
            genesis,
            start,
            start_noted: false,
            restated: true,
            blocks: BTreeMap::new(),
            order: VecDeque::new(),
            evidence: 0,
            ledger,
            failed: None,
            lost_blocks: 0,
            unreached: (start < genesis).then_some(genesis),
            certified,
            records: 0,
        }
    }

    /// Ends the walk: what the log cannot show is an error, and what it still holds is counted.
    pub fn finish(&mut self) -> Result<(), RestartError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if !self.restated {
            return Err(RestartError::Unstated);
        }
        self.process_ended();
        if let Some(place) = self.unreached {
            // What was missing may have been written again further on.
            self.reach(place);
        }
        if self.lost_blocks > 0 || self.lacks_state() {
            self.forget_votes();
        }
        self.note_start();
        let mut retained = self.recovered.decided.slot.next();
        while retained > Slot(1) && self.ledger.locate(Slot(retained.0 - 1)).is_some() {
            retained = Slot(retained.0 - 1);
        }
        self.ledger.release(retained);
        self.recovered.retained_from = retained;
        Ok(())
    }

    /// R5, by the means of R3: a vote that the log no longer shows was for a slot up to W above the
    /// newest checkpoint that it knows to be certified (N2), as if that had been a lease. This replica
    /// is silent until a checkpoint there is certified: all that it may have voted for is then decided
    /// history, and whatever it lacks of that comes from others.
    fn forget_votes(&mut self) {
        let window = self.compound.rules().window;
        let recovered = &mut self.recovered;
        if !planted("loudholes") {
            let voted = Slot(self.certified.0 + window);
            recovered.forgotten = recovered.forgotten.max(voted);
        }
        let genesis = self.genesis;
        let base = recovered.certificate.map_or(genesis, |known| known.base);
        let decided = recovered.decided;
        let ground = base.max(decided);
        if self.lacks_state() || !self.descends(self.recovered.tip, ground) {
            // What is left of it cannot be shown to extend what was voted before, or stands on more
            // final blocks than a core remembers.
            self.recovered.tip = base;
        }
    }

    /// A block stood here.
    pub fn hole(&mut self, hole: Hole) {
        self.first(hole.position);
        self.lost_blocks += 1;
        self.clean_boot = None;
    }

    fn first(&mut self, position: Position) {
        if self.records == 0 {
            self.restated = position == Position(0);
        }
        self.records += 1;
    }

    pub fn visit(&mut self, entry: &storage::wal::Entry<'_>) {
        if self.failed.is_some() {
            return;
        }
        self.first(entry.position);
        let malformed = RestartError::Malformed {
            kind: entry.kind,
            position: entry.position,
        };
        if entry.kind != RecordKind::Start && !planted("oldmarker") {
            // The marker of a clean stop is the last word of its process, or none.
            self.clean_boot = None;
        }
        let outcome = match entry.kind {
            RecordKind::Start => StartRecord::read_from_bytes(entry.body)
                .ok()
                .and_then(|start| self.start(&start)),
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
            RecordKind::Standing => StandingRecord::read_from_bytes(entry.body)
                .ok()
                .and_then(|standing| self.standing(&standing)),
            RecordKind::Lease => LeaseRecord::read_from_bytes(entry.body)
                .ok()
                .map(|lease| self.lease(&lease)),
            // Written by later versions of this protocol only.
            RecordKind::Epoch => None,
        };
        if outcome.is_none() && self.failed.is_none() {
            self.failed = Some(malformed);
        }
    }

    fn start(&mut self, start: &StartRecord) -> Option<()> {
        self.process_ended();
        self.boot = self.boot.max(start.boot().0);
        self.restarted_in = self.restarted_in.max(Some((start.epoch(), start.stage())));
        self.durability = start.durability()?;
        Some(())
    }

    /// Whether the marker of a clean stop is the newest process's own.
    pub fn ended_cleanly(&self) -> bool {
        self.clean_boot == Some(Boot(self.boot)) && self.boot > 0
            || planted("oldmarker") && self.clean_boot.is_some()
    }

    /// The newest process has ended here. Unless its marker says that the log holds all that it
    /// said, what it said without the disk may be forgotten: with leases every vote up to L (R3).
    /// A marker counts for its own process alone: of what earlier ones forgot it says nothing.
    fn process_ended(&mut self) {
        if self.boot == 0 || self.ended_cleanly() {
            return;
        }
        match self.durability {
            Durability::Sync => {}
            Durability::Lease => {
                let recovered = &mut self.recovered;
                recovered.forgotten = recovered.forgotten.max(recovered.lease);
            }
            Durability::None => self.lost = true,
        }
    }

    /// L never falls, whatever the order of a group that says older records again.
    fn lease(&mut self, lease: &LeaseRecord) {
        let recovered = &mut self.recovered;
        recovered.lease = recovered.lease.max(lease.slot());
        recovered.forgotten = recovered.forgotten.max(lease.owed());
    }

    fn block(&mut self, entry: &storage::wal::Entry<'_>, kind: RecordAs) -> Option<()> {
        let view = BlockView::frame(entry.body).ok()?;
        let header = view.prefix.header;
        let digest = header.digest();
        let sectors = (entry.end.0 - entry.position.0) / SECTOR_BYTES as u64;
        let block = RecoveredBlock {
            header,
            signature: view.prefix.signature,
            signature_good: false,
            digest,
            kind,
            end: entry.end,
        };
        let place = block.place();
        let known = Known {
            block,
            location: (entry.position, sectors as u32),
        };
        self.ledger.appended(entry.position, place.slot);
        // A fetched block may have been written again, as a vote.
        if self.blocks.insert(place, known).is_none() {
            self.order.push_back(place);
        }
        self.prune();
        if !self.restated {
            return Some(());
        }
        let recovered = &mut self.recovered;
        let extends = kind == RecordAs::Vote
            && !planted("amnesia")
            && header.view() == recovered.installed
            && header.parent == recovered.tip.digest
            && place.slot == recovered.tip.slot.next();
        let again = place == recovered.tip;
        // Of what is stable nothing is told by records. They may stand behind a group that says where
        // the tip is, when a state was taken over while they waited for room.
        let stable = recovered
            .checkpoint
            .map_or(Slot(0), |known| known.header.slot());
        if extends {
            recovered.tip = place;
        } else if kind == RecordAs::Vote
            && self.lost_blocks == 0
            && !again
            && place.slot > stable
            && header.view() == recovered.installed
            && recovered.stage == recovered.installed
        {
            // The first block of this slot proved invalid, and this one came in its place.
            recovered.voting_stopped = true;
        }
        Some(())
    }

    /// What is settled is in the ledger.
    fn prune(&mut self) {
        while self.order.len() > 4 * WINDOW as usize {
            self.note_start();
            let settled = self.settled();
            let oldest = self.order.front().copied();
            let Some(oldest) = oldest.filter(|oldest| oldest.slot <= settled) else {
                return;
            };
            self.order.pop_front();
            self.blocks.remove(&oldest);
        }
    }

    /// Up to here everything is final, whether it can be executed here or not.
    pub fn settled(&self) -> Slot {
        let unreached = self.unreached.map_or(Slot(0), |place| place.slot);
        self.recovered.decided.slot.max(unreached)
    }

    /// The log was let go behind a state that is not here, or lacks what leads up to what it decided.
    pub fn lacks_state(&self) -> bool {
        self.unreached.is_some()
    }

    /// Blocks up to the start are of no use but to other replicas.
    fn note_start(&mut self) {
        if std::mem::replace(&mut self.start_noted, true) {
            return;
        }
        let mut next = self.start;
        while let Some(known) = self.blocks.get(&next) {
            let (position, sectors) = known.location;
            self.ledger.note(next.slot, position, sectors);
            next = known.parent();
        }
    }

    fn standing(&mut self, standing: &StandingRecord) -> Option<()> {
        self.boot = self.boot.max(standing.boot().0);
        self.restarted_in = self.restarted_in.max(Some(standing.started_in()));
        self.durability = standing.durability()?;
        let recovered = &mut self.recovered;
        if standing.installed() != recovered.installed {
            // The front of this group went with the segment before; a whole one follows, or the
            // log would not have been cut here.
            return (!self.restated).then_some(());
        }
        if standing.stage() > recovered.stage {
            recovered.stage = standing.stage();
            self.keep_words_of_stage();
        }
        let recovered = &mut self.recovered;
        recovered.tip = standing.tip();
        recovered.voting_stopped = standing.voting_stopped();
        recovered.diverged |= standing.diverged();
        self.restated = true;
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
        let known = self.unreached.unwrap_or(self.recovered.decided);
        if place.slot < known.slot || place == known {
            return;
        }
        let lowest = self.lowest_below(place, known.slot);
        if lowest.slot == known.slot && lowest != known {
            self.failed = Some(RestartError::DecisionOffChain {
                slot: place.slot,
                digest: place.digest,
            });
        } else if lowest != known || self.unreached.is_some() {
            // On a block that is not there it cannot be executed here, decided though it is.
            self.unreached = Some(place);
        } else {
            self.reach(place);
        }
    }

    /// Everything up to this block is decided, if known blocks lead down to what was decided before.
    fn reach(&mut self, place: Place) {
        let before = self.recovered.decided;
        if !self.descends(place, before) {
            return;
        }
        self.recovered.decided = place;
        let mut next = place;
        while let Some(known) = self.blocks.get(&next).filter(|_| next != before) {
            self.ledger
                .note(next.slot, known.location.0, known.location.1);
            next = known.parent();
        }
    }

    /// Where known blocks lead from `place` down to this slot; further up when one is missing.
    fn lowest_below(&self, place: Place, slot: Slot) -> Place {
        let mut next = place;
        while next.slot > slot
            && let Some(known) = self.blocks.get(&next)
        {
            next = known.parent();
        }
        next
    }

    /// Own words about views below the stage count no more.
    fn keep_words_of_stage(&mut self) {
        let recovered = &mut self.recovered;
        let stage = recovered.stage;
        let of = |ack: &Verified<Signed>| ack.acked_view() == Some(stage);
        recovered.ack = recovered.ack.filter(of);
        let new_view = recovered.new_view.take();
        recovered.new_view = new_view.filter(|nv| nv.message.view == stage);
        let own = recovered.view_change.take();
        recovered.view_change = own.filter(|own| own.message.view == stage);
    }

    fn view_change(&mut self, body: &[u8]) -> Option<()> {
        let (signature, body) = split_signed(body).ok()?;
        let message = ViewChange::decode(body).ok()?;
        let checked = self.compound.view_change(message, signature).ok()?;
        let view = checked.message.view;
        let recovered = &mut self.recovered;
        let entered = view > recovered.stage;
        // STANDING may have told of a stage before the own word about it was written.
        let told = view == recovered.stage
            && view > recovered.installed
            && recovered.view_change.is_none();
        if entered {
            recovered.stage = view;
            // What was said of this very view stands before a group that repeats this record.
            self.keep_words_of_stage();
        }
        if entered || told {
            self.recovered.view_change = Some(Arc::new(checked));
        }
        Some(())
    }

    /// Where the story begins in its middle, own words may stand before the view change that they
    /// follow, which is repeated in the group behind them.
    fn may_be_of_stage(&self, view: View) -> bool {
        let stage = self.recovered.stage;
        view == stage || !self.restated && view > stage
    }

    fn new_view(&mut self, body: &[u8]) -> Option<()> {
        let (signature, body) = split_signed(body).ok()?;
        let message = NewView::decode(body).ok()?;
        let checked = self.compound.new_view(message, signature).ok()?;
        if self.may_be_of_stage(checked.message.view) {
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
        if self.may_be_of_stage(record.view()) {
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
            let place = Place {
                slot: record.slot(),
                digest: record.digest,
            };
            // N2: the record does not say in which view the block was decided, so whoever is not
            // shown to have stayed on one chain votes no more in this view.
            // Nor is one whose votes may be forgotten (R3).
            let tip = self.recovered.tip;
            let whole = self.recovered.forgotten <= tip.slot && self.lost_blocks == 0;
            if self.jumps_are_risky && !(whole && self.descends(place, tip)) {
                self.recovered.voting_stopped = true;
            }
            self.recovered.tip = place;
        }
        Some(())
    }

    /// Whether known blocks lead from `place` down to `ancestor`.
    fn descends(&self, place: Place, ancestor: Place) -> bool {
        self.lowest_below(place, ancestor.slot) == ancestor
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
        self.certified = self.certified.max(certificate.header.slot());
        if self.recovered.decided.slot < certificate.header.slot() {
            return Some(());
        }
        let known = self.recovered.checkpoint.as_ref();
        if known.is_none_or(|known| known.header.slot() < certificate.header.slot()) {
            self.recovered.checkpoint = Some(certificate.into_inner());
        }
        Some(())
    }
}
