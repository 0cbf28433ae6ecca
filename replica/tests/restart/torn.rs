//! What a replica has said is remembered, whatever a power cut left of the log (R2, R4, R5), and a
//! log that no longer shows it does not make a replica.
//!
//! Each record of the story comes with what was said on its word. Once the record is acknowledged,
//! every later start either remembers that or refuses, or asks the others (R6).

use std::sync::atomic::{AtomicU64, Ordering};

use replica::recovery::{DecidedRecord, RestartError, Restarted, StandingRecord};
use storage::record::{HEADER_BYTES, Kind, SECTOR_BYTES};
use storage::wal::{Cause, Journal, JournalLimits};
use storage::{Geometry, Tail, Verdict, Writer};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::bytes::{HeapBuffers, HeapUnique};
use wire::certificates::{CertifiedVote, NewViewCertificate, Place, QuorumCertificate, Signatures};
use wire::ids::{Boot, Digest, Epoch, NodeId, Position, Signature, Slot, View};
use wire::messages::{CleanStopRecord, Durability, LeaseRecord, PlaceRecord, StartRecord};
use wire::view_change::{NewView, ViewChange, signed_body};
use zerocopy::IntoBytes;

use crate::released::standing;
use crate::world::{Disk, GENESIS, GOOD, IDENTITY, start_on};

const SMALL: Geometry = Geometry {
    segment_bytes: 10 * SECTOR_BYTES as u64,
    segments_max: 4,
    reserve_bytes: 0,
};

/// What was said on the word of a record.
#[derive(Clone, Debug)]
enum Said {
    Nothing,
    Started(u32),
    Voted(View, Place),
    Leased(u64),
    Decided(u64),
    ChangedTo(View),
    Proposed(View),
    Acknowledged(View, Place),
    Installed(View),
    Committed(View, Place),
    /// The end of its process.
    Stopped,
}

impl Said {
    /// Whether a start knows that this was said. Words of a lower view give way to a higher one.
    fn is_known(&self, found: &Restarted<HeapBuffers>) -> bool {
        let known = &found.recovered;
        let left = |view: View| known.stage > view || known.installed >= view;
        match self {
            Said::Nothing | Said::Stopped => true,
            Said::Started(boot) => {
                found.boot.0 > *boot && known.restarted_in == Some((Epoch(0), known.stage))
            }
            Said::Voted(view, place) => {
                let here = known.installed == *view;
                let on_chain = known.tip == *place || known.tip.slot > place.slot;
                known.installed > *view || here && on_chain
            }
            Said::Leased(slot) => known.lease >= Slot(*slot) && known.forgotten >= Slot(*slot),
            Said::Decided(slot) => known.decided.slot >= Slot(*slot),
            Said::ChangedTo(view) => {
                let own = known.view_change.as_ref();
                left(*view)
                    || known.stage == *view && own.is_some_and(|own| own.message.view == *view)
            }
            Said::Proposed(view) => {
                let own = known.new_view.as_ref();
                left(*view) || own.is_some_and(|own| own.message.view == *view)
            }
            Said::Acknowledged(view, base) => {
                left(*view) || known.ack.is_some_and(|ack| ack.acked_base() == Some(*base))
            }
            Said::Installed(view) => {
                let certificate = known.certificate.map(|certificate| certificate.view);
                known.installed >= *view && certificate == Some(known.installed)
            }
            Said::Committed(view, place) => {
                let deepest = known.quorum.as_ref().map(|quorum| quorum.block);
                known.installed > *view || deepest == Some(*place)
            }
        }
    }
}

struct Told {
    kind: Kind,
    body: Vec<u8>,
    said: Said,
}

/// A process with leases that ends uncleanly, and one without that votes in view 0, leads view 1,
/// votes and jumps in it, enters view 2, and stops cleanly; and a third one that does nothing.
fn story() -> Vec<Told> {
    let mut story = Vec::new();
    let mut tell = |kind, body: &[u8], said| {
        let body = body.to_vec();
        story.push(Told { kind, body, said });
    };
    let start = |boot, durability| StartRecord::new(Boot(boot), Epoch(0), View(0), durability);
    let block = |view: u64, slot: u64, parent: Digest| {
        let payload = payload_digest(&[]);
        let header = BlockHeader::new(Epoch(0), View(view), Slot(slot), 0, parent, payload);
        let digest = header.digest();
        let place = Place {
            slot: Slot(slot),
            digest,
        };
        let body = BlockPrefix::new(header, GOOD, 0).as_bytes().to_vec();
        (body, place, Said::Voted(View(view), place))
    };

    tell(
        Kind::Start,
        start(1, Durability::Lease).as_bytes(),
        Said::Started(1),
    );
    let lease = LeaseRecord::new(View(0), Slot(64), Slot(0));
    tell(Kind::Lease, lease.as_bytes(), Said::Leased(64));
    let (body, first, said) = block(0, 1, GENESIS);
    tell(Kind::Block, &body, said);
    tell(
        Kind::Start,
        start(2, Durability::Sync).as_bytes(),
        Said::Started(2),
    );
    let (body, second, said) = block(0, 2, first.digest);
    tell(Kind::Block, &body, said);
    // Two sectors.
    tell(Kind::Evidence, &[7; 5000], Said::Nothing);
    let (body, base, said) = block(0, 3, second.digest);
    tell(Kind::Block, &body, said);
    let decided = DecidedRecord::new(second.slot, second.digest);
    tell(Kind::Decided, decided.as_bytes(), Said::Decided(2));

    let change = |view, certificate: Option<NewViewCertificate>| {
        let message = ViewChange {
            view: View(view),
            replica: IDENTITY.node,
            installed: certificate.map_or(View(0), |certificate| certificate.view),
            certificate,
            checkpoint: None,
            suffix: Vec::new(),
            tip_signature: Signature([0; 64]),
            quorum: None,
        };
        signed_body(&GOOD, &message.encode())
    };
    tell(Kind::ViewChange, &change(1, None), Said::ChangedTo(View(1)));
    let new_view = NewView {
        view: View(1),
        base,
        chosen: (0..3)
            .map(|id| (NodeId(id), Digest([id as u8; 32])))
            .collect(),
    };
    let body = signed_body(&GOOD, &new_view.encode());
    tell(Kind::NewView, &body, Said::Proposed(View(1)));
    let ack = PlaceRecord::new(View(1), base.slot, base.digest, GOOD);
    tell(Kind::Ack, ack.as_bytes(), Said::Acknowledged(View(1), base));
    let mut acks = Signatures::new();
    (0..3).for_each(|id| acks.add(NodeId(id), GOOD));
    let view = View(1);
    let certificate = NewViewCertificate { view, base, acks };
    tell(
        Kind::Install,
        &certificate.encode(),
        Said::Installed(View(1)),
    );
    let (body, fourth, said) = block(1, 4, base.digest);
    tell(Kind::Block, &body, said);
    let vote = |id| CertifiedVote {
        by: NodeId(id),
        above: 0,
        signature: GOOD,
    };
    let quorum = QuorumCertificate {
        view: View(1),
        block: fourth,
        above: Vec::new(),
        votes: (0..3).map(vote).collect(),
    };
    tell(
        Kind::Commit,
        &quorum.encode(),
        Said::Committed(View(1), fourth),
    );
    let jump = Place {
        slot: Slot(6),
        digest: Digest([6; 32]),
    };
    let skip = PlaceRecord::new(View(1), jump.slot, jump.digest, Signature([0; 64]));
    tell(Kind::Skip, skip.as_bytes(), Said::Voted(View(1), jump));
    let (body, last, said) = block(1, 7, jump.digest);
    tell(Kind::Block, &body, said.clone());
    let mut stands = standing(View(1), last, second);
    stands.installed = View(1);
    let durability = Durability::Sync;
    let standing = StandingRecord::new(Boot(2), Epoch(0), View(0), durability, &stands);
    tell(Kind::Standing, standing.as_bytes(), said);
    let body = change(2, Some(certificate));
    tell(Kind::ViewChange, &body, Said::ChangedTo(View(2)));
    tell(
        Kind::CleanStop,
        CleanStopRecord::new(Boot(2)).as_bytes(),
        Said::Stopped,
    );
    // Its marker says nothing of the next one.
    tell(
        Kind::Start,
        start(3, Durability::Sync).as_bytes(),
        Said::Started(3),
    );
    let stop = CleanStopRecord::new(Boot(3));
    tell(Kind::CleanStop, stop.as_bytes(), Said::Stopped);
    story
}

/// Where a record lies.
struct Lies {
    segment: usize,
    offset: usize,
    /// Of header and body.
    length: usize,
    start: Position,
    durable_before: Position,
}

struct Written {
    disk: Disk,
    records: Vec<Lies>,
    /// The write that is in flight: file, offset, sectors.
    in_flight: Vec<(usize, usize, Vec<u8>)>,
}

/// The first records each acknowledged before the next is sealed, the rest in one write that is not
/// finished. Where a segment ends, what is in the next one waits for its turn.
fn write(told: &[Told], acknowledged: usize) -> Written {
    let limits = JournalLimits {
        queued_max: 64,
        batch_parts_max: 64,
        batch_bytes_max: 1 << 20,
    };
    let mut disk = Disk(vec![vec![0; SMALL.segment_bytes as usize]; 4]);
    let mut writer = Writer::new(SMALL, IDENTITY, Tail::blank(4));
    let mut journal = Journal::new(limits, Position(0));
    let mut records = Vec::new();
    let mut durable = Position(0);
    for (at, told) in told.iter().enumerate() {
        let mut buffer =
            vec![0xee; (HEADER_BYTES + told.body.len()).next_multiple_of(SECTOR_BYTES)];
        buffer[HEADER_BYTES..][..told.body.len()].copy_from_slice(&told.body);
        let sealed = writer
            .seal(told.kind, HeapUnique(buffer), told.body.len())
            .unwrap();
        records.push(Lies {
            segment: sealed.segment as usize,
            offset: sealed.offset_in_segment as usize,
            length: HEADER_BYTES + told.body.len(),
            start: sealed.start,
            durable_before: durable,
        });
        assert!(journal.push(sealed).is_ok());
        if at < acknowledged {
            let batch = journal.next_batch().unwrap();
            let (token, file) = (batch.token, &mut disk.0[batch.segment as usize]);
            let bytes = &batch.parts[0].shared;
            file[batch.offset as usize..][..bytes.len()].copy_from_slice(bytes);
            let proof = journal.complete(token, Ok(())).unwrap();
            writer.acknowledge(proof);
            durable = proof.position();
        }
    }
    let mut in_flight = Vec::new();
    if let Some(batch) = journal.next_batch() {
        let bytes = batch.parts.iter().flat_map(|part| part.shared.to_vec());
        let bytes = bytes.collect::<Vec<_>>();
        for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let offset = batch.offset as usize + at * SECTOR_BYTES;
            in_flight.push((batch.segment as usize, offset, sector.to_vec()));
        }
    }
    Written {
        disk,
        records,
        in_flight,
    }
}

fn start(disk: &mut Disk) -> Result<Restarted<HeapBuffers>, RestartError> {
    start_on(disk, &SMALL)
}

/// Everything that these records were the word for is known, and the stop counts as clean only if
/// the marker is the last of them.
fn remembers(found: &Restarted<HeapBuffers>, told: &[Told], what: &str) {
    for (at, told) in told.iter().enumerate() {
        assert!(
            told.said.is_known(found),
            "{what}: record {at}, {:?}, is forgotten",
            told.said
        );
    }
    let stopped = matches!(told.last(), Some(last) if matches!(last.said, Said::Stopped));
    assert_eq!(found.clean, stopped, "{what}");
}

/// A block is lost: of what was voted, all that is not known is owed silence (R3), and the others are
/// asked (R6). Nothing else is forgotten.
fn remembers_or_is_silent(found: &Restarted<HeapBuffers>, told: &[Told], what: &str) {
    let recovered = &found.recovered;
    let stable = recovered
        .checkpoint
        .map_or(Slot(0), |known| known.header.slot());
    assert!(recovered.forgotten > stable && !found.clean, "{what}");
    for (at, told) in told.iter().enumerate() {
        let excused = match told.said {
            Said::Voted(_, place) => place.slot <= recovered.forgotten,
            // Others know what is decided.
            Said::Decided(_) | Said::Stopped => true,
            _ => false,
        };
        assert!(
            excused || told.said.is_known(found),
            "{what}: record {at}, {:?}, is forgotten",
            told.said
        );
    }
}

#[test]
fn each_record_of_the_story_says_something() {
    let story = story();
    let mut written = write(&story, story.len());
    remembers(&start(&mut written.disk).unwrap(), &story, "whole");
    // And without it that is not known, but for what another record says as well.
    for (at, told) in story.iter().enumerate() {
        let before = start(&mut write(&story[..at], at).disk).unwrap();
        let again = matches!(told.kind, Kind::Evidence | Kind::CleanStop | Kind::Standing);
        assert_eq!(told.said.is_known(&before), again, "record {at}");
    }
}

/// Every tear of up to three records in flight, after any part of the story: what was acknowledged
/// before is remembered, and so is what is whole behind it.
#[test]
fn no_tear_makes_a_replica_forget() {
    let story = story();
    let mut states = 0;
    for acknowledged in 0..story.len() {
        for count in 1..=3.min(story.len() - acknowledged) {
            let written = write(&story[..acknowledged + count], acknowledged);
            for subset in 0..1_u32 << written.in_flight.len() {
                let mut disk = Disk(written.disk.0.clone());
                for (at, (segment, offset, sector)) in written.in_flight.iter().enumerate() {
                    if subset & (1 << at) != 0 {
                        disk.0[*segment][*offset..][..SECTOR_BYTES].copy_from_slice(sector);
                    }
                }
                let what = format!("{count} records after {acknowledged}, {subset:04b}");
                let found = start(&mut disk).unwrap_or_else(|error| panic!("{what}: {error}"));
                let whole = (acknowledged..acknowledged + count).take_while(|at| {
                    let lies = &written.records[*at];
                    let first = written.in_flight.iter().position(|(segment, offset, _)| {
                        (*segment, *offset) == (lies.segment, lies.offset)
                    });
                    let sectors = lies.length.div_ceil(SECTOR_BYTES);
                    let mask = first.map(|first| ((1 << sectors) - 1) << first);
                    mask.is_some_and(|mask: u32| subset & mask == mask)
                });
                remembers(&found, &story[..acknowledged + whole.count()], &what);
                assert_eq!(
                    found.boot > Boot(1),
                    acknowledged > 0 || subset & 1 != 0,
                    "{what}"
                );
                states += 1;
            }
        }
    }
    assert_eq!(states, 284);
}

/// A flipped bit in what a story has written: none of it is forgotten. Where a later header shows
/// that it had been acknowledged, the log makes no replica any more, or one that is silent if it was
/// a block (R5); of the last record none does, and then the stop is no clean one and the others are asked (R6).
fn flipped(told: &[Told], bits: impl Fn(usize) -> Vec<usize> + Sync, from: usize) -> u64 {
    let written = write(told, told.len());
    let shown = written
        .records
        .iter()
        .map(|lies| lies.durable_before)
        .max()
        .unwrap();
    let states = AtomicU64::new(0);
    let flip = |at: usize| {
        let lies = &written.records[at];
        let mut disk = Disk(written.disk.0.clone());
        for bit in bits(lies.length) {
            let byte = lies.offset + bit / 8;
            let what = format!("{} records, record {at}, bit {bit}", told.len());
            disk.0[lies.segment][byte] ^= 1 << (bit % 8);
            let found = start(&mut disk);
            disk.0[lies.segment][byte] ^= 1 << (bit % 8);
            match found {
                Ok(found) if found.lost_blocks > 0 => {
                    let is_body = bit >= 8 * HEADER_BYTES;
                    assert!(told[at].kind == Kind::Block && is_body, "{what}");
                    assert!(lies.start < shown && found.lost_blocks == 1, "{what}");
                    remembers_or_is_silent(&found, told, &what);
                }
                Ok(found) => {
                    assert!(
                        lies.start >= shown,
                        "{what}: {:?} is forgotten",
                        told[at].said
                    );
                    assert_eq!(at + 1, told.len(), "{what}");
                    let cut = matches!(
                        found.verdict,
                        Verdict::CutTail {
                            // Of the last: the file was known by this header alone.
                            cause: Cause::HeaderTorn | Cause::BodyTorn | Cause::Leftovers,
                            ..
                        }
                    );
                    assert!(cut, "{what}: {:?}", found.verdict);
                    // A process whose START is all that it wrote has given no word that counts: each
                    // such word has a record of its own, which shows that START was acknowledged.
                    assert!(!found.clean || told[at].kind == Kind::Start, "{what}");
                    assert!(found.boot > Boot(1) || at == 0, "{what}");
                    remembers(&found, &told[..at], &what);
                }
                Err(RestartError::Damaged(damaged)) => {
                    let is_lost = told[at].kind == Kind::Block && bit >= 8 * HEADER_BYTES;
                    assert!(lies.start < shown && !is_lost, "{what}: {damaged}");
                }
                Err(error) => panic!("{what}: {error}"),
            }
            states.fetch_add(1, Ordering::Relaxed);
        }
    };
    let middle = (from + told.len()) / 2;
    std::thread::scope(|scope| {
        scope.spawn(|| (from..middle).for_each(flip));
        (middle..told.len()).for_each(flip);
    });
    states.into_inner()
}

#[test]
fn no_flipped_bit_makes_a_replica_forget() {
    let story = story();
    // A body of one byte over and over is as good as its first bytes.
    let states = flipped(&story, |length| (0..8 * length.min(900)).collect(), 0);
    assert!(states > 30_000, "{states}");
}

/// The same after any part of the story, in its last two records, one bit of each byte.
#[test]
fn no_flipped_byte_makes_any_part_of_a_story_forgotten() {
    let story = story();
    let mut states = 0;
    for end in 1..story.len() {
        let each = |length: usize| {
            (0..length.min(900))
                .map(|byte| 8 * byte + byte % 8)
                .collect()
        };
        states += flipped(&story[..end], each, end.saturating_sub(2));
    }
    assert!(states > 5_000, "{states}");
}
