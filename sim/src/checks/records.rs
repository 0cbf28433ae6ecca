//! The records of all logs, from their making to the disk's word.

use replica::recovery::DecidedRecord;
use storage::record::{self, Decoded, Identity, Kind as RecordKind};
use wire::block::BlockView;
use wire::certificates::{CheckpointCertificate, NewViewCertificate};
use wire::ids::{Digest, Epoch, NodeId, Slot, View};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};
use wire::messages::{self, EvidenceBody, LeaseRecord, PlaceRecord, StartRecord};
use wire::view_change::{ViewChange, split_signed};

use super::leases::Told;
use super::{Check, Judge};
use crate::buffers::Shared;
use crate::node::Node;

/// What a record makes durable.
#[derive(Clone, Debug)]
pub(super) enum Written {
    Nothing,
    Lease(Told),
    /// Its slot, its name, and whether the record is a vote (R2).
    Block(Slot, Digest, bool),
    Decided(Slot, Digest),
    Start(u32, View),
    Jump(View, Slot),
    /// View, installed view, tip, and the signed message.
    Change(View, View, (Slot, Digest), Vec<u8>),
}

impl Judge {
    /// A replica made records; what they stand for may be said before they are written (R3).
    pub fn seals(&mut self, node: &Node, identity: &Identity) -> Check {
        let (from, Some(server)) = (node.id, &node.server) else {
            return Ok(());
        };
        if self.is_faulty(from) {
            return Ok(());
        }
        let snapshot = node.disk.saved();
        for sealed in server.unwritten() {
            if sealed.end <= self.known[from.index()].sealed_end {
                continue;
            }
            let part = &sealed.shared;
            let Decoded::Intact(header) = record::decode(&part[..SECTOR_BYTES], identity, None)
            else {
                return Err(format!("{from} writes a record that cannot be read"));
            };
            let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_bytes as usize;
            let written = self.record(from, header.kind, &part[body])?;
            if let Written::Block(_, digest, _) = written {
                self.agreement.written(from, digest);
            }
            let known = &mut self.known[from.index()];
            if let Written::Lease(told) = written {
                known.leases.written(told);
                if let Told::Certified(slot) = told {
                    known.certified = known.certified.max(slot);
                }
            }
            if let Written::Decided(slot, digest) = written
                && slot > known.certified.max(snapshot)
                && !self.agreement.has_written(from, digest)
            {
                return Err(format!(
                    "R5: the log of {from} says that slot {slot} is decided, and its block is not in it"
                ));
            }
            known.sealed.push_back(written);
            known.sealed_end = sealed.end;
        }
        Ok(())
    }

    /// A replica hands its oldest records to its disk.
    pub fn writes(&mut self, from: NodeId, parts: &[Shared]) -> Check {
        self.known[from.index()].writing.clear();
        if self.is_faulty(from) {
            return Ok(());
        }
        let known = &mut self.known[from.index()];
        if known.sealed.len() < parts.len() {
            return Err(format!("{from} writes a record that it has not made"));
        }
        known.writing = known.sealed.drain(..parts.len()).collect();
        Ok(())
    }

    fn record(&mut self, from: NodeId, kind: RecordKind, body: &[u8]) -> Result<Written, String> {
        let malformed = |reject| format!("{from} writes a malformed {kind:?}: {reject:?}");
        let written = match kind {
            RecordKind::Block | RecordKind::FetchedBlock => {
                let block = BlockView::parse(body).map_err(malformed)?.prefix.header;
                let place = (block.slot(), block.digest());
                self.agreement.learn(&block);
                if block.slot() > self.decided {
                    self.blocks.entry(place).or_insert_with(|| body.to_vec());
                }
                Written::Block(place.0, place.1, kind == RecordKind::Block)
            }
            RecordKind::Start => {
                let start: &StartRecord = messages::parse(body).map_err(malformed)?;
                Written::Start(start.boot().0, start.stage())
            }
            RecordKind::Skip => {
                let skip: &PlaceRecord = messages::parse(body).map_err(malformed)?;
                Written::Jump(skip.view(), skip.slot())
            }
            RecordKind::ViewChange => {
                let (_, message) = split_signed(body).map_err(malformed)?;
                let change = ViewChange::decode(message).map_err(malformed)?;
                // Said before, it is only written again when older records are let go (K2).
                let known = &mut self.known[from.index()];
                if known.changes.insert(*blake3::hash(body).as_bytes()) {
                    known.leases.may_speak("a new view change")?;
                }
                let genesis = self.agreement.genesis();
                let anchor = change.anchor(genesis);
                let last = change.headers(Epoch(0), anchor).last();
                let tip = last.map_or((anchor.slot, anchor.digest), |(header, digest)| {
                    (header.slot(), digest)
                });
                Written::Change(change.view, change.installed, tip, body.to_vec())
            }
            RecordKind::Install => {
                let certificate = NewViewCertificate::decode(body).map_err(malformed)?;
                self.agreement.certified(&certificate)?;
                Written::Nothing
            }
            RecordKind::Evidence => {
                let evidence: &EvidenceBody = messages::parse(body).map_err(malformed)?;
                let view = evidence.first.header.view();
                self.agreement.accuses(from, view)?;
                Written::Nothing
            }
            RecordKind::Lease => {
                let lease: &LeaseRecord = messages::parse(body).map_err(malformed)?;
                Written::Lease(Told::Lease(lease.slot()))
            }
            RecordKind::Decided => {
                let decided: &DecidedRecord = messages::parse(body).map_err(malformed)?;
                Written::Decided(decided.slot(), decided.digest)
            }
            RecordKind::CleanStop => Written::Lease(Told::Stop),
            RecordKind::CheckpointCertificate => {
                let certificate = CheckpointCertificate::decode(body).map_err(malformed)?;
                Written::Lease(Told::Certified(certificate.header.slot()))
            }
            _ => Written::Nothing,
        };
        Ok(written)
    }

    /// The disk said that the write is durable.
    pub fn written(&mut self, from: NodeId) -> Check {
        let known = &mut self.known[from.index()];
        for written in known.writing.drain(..) {
            match written {
                Written::Block(slot, digest, as_vote) => {
                    known.durable = known.durable.max(slot);
                    self.agreement.durable(from, digest, as_vote);
                }
                Written::Start(boot, stage) => {
                    known.leases.durable(Told::Start);
                    self.agreement.started(from, boot, stage);
                }
                Written::Nothing | Written::Decided(..) => {}
                Written::Lease(told) => {
                    known.leases.durable(told);
                    if let Told::Certified(slot) = told {
                        known.certified_on_disk = known.certified_on_disk.max(slot);
                        self.certified = self.certified.max(slot);
                    }
                }
                Written::Jump(view, slot) => self.agreement.jumped(from, view, slot),
                Written::Change(view, installed, tip, signed) => {
                    self.agreement.changes(from, view, installed, tip)?;
                    self.bases.exists(&signed, &mut self.agreement)?;
                }
            }
        }
        Ok(())
    }
}
