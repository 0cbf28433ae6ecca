//! Records of the log, and messages too long for one datagram.

use consensus::{Large, Recipient, Record};
use storage::record::Kind as RecordKind;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};
use wire::header::Kind;
use wire::ids::{Digest, Instant, Position, Signature, Slot, View};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};
use wire::messages::{LeaseRecord, PlaceRecord};
use wire::seal::{Signer, Statement, Verifier};
use wire::view_change::signed_body;
use zerocopy::IntoBytes;

use super::{Ordering, Output};

/// Records that wait for room. A replica whose log is full for so many views ends; it could say
/// nothing anyway.
const UNWRITTEN_MAX: usize = 1024;

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// Writes what the core wants written, and tells it where it ends. A record that finds no room
    /// waits for it, and what comes later waits behind it: a block record that overtook a SKIP would
    /// not count at the next start (R2).
    pub(super) fn write(&mut self, now: Instant, record: Record) {
        assert!(
            self.unwritten.len() < UNWRITTEN_MAX,
            "the log has had no room for {UNWRITTEN_MAX} records"
        );
        self.unwritten.push_back(record);
        if self.unwritten.len() == 1 {
            self.write_waiting(now);
        }
    }

    pub(super) fn write_waiting(&mut self, now: Instant) {
        while let Some(record) = self.unwritten.front() {
            let (kind, body) = encode(record);
            // V3: how far up the base may lie is counted from what is executed here, and others count on
            // it: a restart remembers that with the acknowledgement.
            let remembers = matches!(record, Record::Ack(_));
            if remembers && self.decided_counted > self.decided_recorded && !self.record_decided() {
                return;
            }
            let Some(end) = self.record(kind, &body) else {
                return;
            };
            self.unwritten.pop_front();
            self.drive_nested(now, consensus::Input::Recorded { end });
        }
    }

    /// Seals a record and hands it to the journal; `None` when the log or a pool has no room.
    pub(super) fn record(&mut self, kind: RecordKind, body: &[u8]) -> Option<Position> {
        self.writer.fits(kind, body.len()).ok()?;
        let small = RECORD_HEADER_BYTES + body.len() <= SECTOR_BYTES;
        let mut buffer = if small {
            self.sector_buffers.take()?
        } else {
            self.long_buffers.take()?
        };
        buffer[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body.len()].copy_from_slice(body);
        let sealed = self.writer.seal(kind, buffer, body.len()).ok()?;
        let end = sealed.end;
        self.outputs.push_back(Output::Append(sealed));
        Some(end)
    }

    pub(super) fn tell(&mut self, to: Recipient, message: &Large) {
        let none = Slot(0);
        let (kind, view, slot, body) = match message {
            Large::ViewChange(vc) => {
                let body = signed_body(&vc.signature, &vc.message.encode());
                (Kind::ViewChange, vc.message.view, none, body)
            }
            Large::NewView(nv) => {
                let body = signed_body(&nv.signature, &nv.message.encode());
                (Kind::NewView, nv.message.view, none, body)
            }
            Large::WishCertificate(found) => {
                (Kind::WishCertificate, found.view, none, found.encode())
            }
            Large::NewViewCertificate(found) => {
                let slot = found.base.slot;
                (Kind::NewViewCertificate, found.view, slot, found.encode())
            }
            Large::CheckpointCertificate(found) => {
                let slot = found.header.slot();
                let body = found.encode();
                (Kind::CheckpointCertificate, View(0), slot, body)
            }
        };
        let name = Digest(*blake3::hash(&body).as_bytes());
        self.send_long(to, kind, view, slot, name, &body);
    }

    /// Copies a body into a long buffer and sends it from there; dropped when none is free, for
    /// everything of this kind is repeated.
    pub(super) fn send_long(
        &mut self,
        to: Recipient,
        kind: Kind,
        view: View,
        slot: Slot,
        digest: Digest,
        body: &[u8],
    ) {
        if !self.is_started() {
            return;
        }
        let Some(mut buffer) = self.long_buffers.take() else {
            return;
        };
        buffer[..body.len()].copy_from_slice(body);
        let message = buffer.freeze().slice(0..body.len());
        self.outputs.push_back(Output::SendLong {
            to,
            kind,
            view,
            slot,
            digest,
            message,
            grains: None,
        });
    }
}

/// A record as it is written.
pub(super) fn encode(record: &Record) -> (RecordKind, Vec<u8>) {
    let place = |view, slot, digest, signature| {
        PlaceRecord::new(view, slot, digest, signature)
            .as_bytes()
            .to_vec()
    };
    match record {
        Record::ViewChange(vc) => {
            let body = signed_body(&vc.signature, &vc.message.encode());
            (RecordKind::ViewChange, body)
        }
        Record::NewView(nv) => {
            let body = signed_body(&nv.signature, &nv.message.encode());
            (RecordKind::NewView, body)
        }
        Record::Ack(ack) => match ack.statement {
            Statement::NewViewAck {
                view,
                base_slot,
                base,
            } => (RecordKind::Ack, place(view, base_slot, base, ack.signature)),
            _ => unreachable!("acknowledgements acknowledge"),
        },
        Record::Install(certificate) => (RecordKind::Install, certificate.encode()),
        Record::Skip { view, place: skip } => {
            let none = Signature([0; 64]);
            let body = place(*view, skip.slot, skip.digest, none);
            (RecordKind::Skip, body)
        }
        Record::Commit(quorum) => (RecordKind::Commit, quorum.encode()),
        Record::Lease { view, slot } => {
            let body = LeaseRecord::new(*view, *slot, Slot(0));
            (RecordKind::Lease, body.as_bytes().to_vec())
        }
        Record::Checkpoint(certificate) => {
            (RecordKind::CheckpointCertificate, certificate.encode())
        }
    }
}
