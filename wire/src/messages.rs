//! Bodies of the messages between replicas, and of the log's own records.
//!
//! View and slot of a message stand in the datagram header. Every body has one fixed layout.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::canary::planted;
use crate::ids::{Boot, Digest, Epoch, Signature, Slot, View};
use crate::limits::GRAINS_MAX;
use crate::reject::Reject;
use crate::seal::Statement;

/// Words of a bitmap over the grains of a message.
pub const GRAIN_WORDS: usize = GRAINS_MAX.div_ceil(64);

/// Reads a body that must fill `bytes` exactly.
pub fn parse<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Result<&T, Reject> {
    T::ref_from_bytes(bytes).map_err(|_| Reject::BodyMalformed)
}

/// VOTE(view, slot, digest), cumulative (N3).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VoteBody {
    pub digest: Digest,
    pub signature: Signature,
}

const _: () = assert!(size_of::<VoteBody>() == 96);

/// WISH(view, boot, counter) (Y1). A lower or equal view than the installed one withdraws.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct WishBody {
    boot: U32,
    reserved: U32,
    counter: U64,
    pub signature: Signature,
}

const _: () = assert!(size_of::<WishBody>() == 80);

impl WishBody {
    pub fn new(boot: Boot, counter: u64, signature: Signature) -> WishBody {
        WishBody {
            boot: U32::new(boot.0),
            reserved: U32::new(0),
            counter: U64::new(counter),
            signature,
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<&WishBody, Reject> {
        let body: &WishBody = parse(bytes)?;
        if body.reserved.get() != 0 && !planted("twoforms") {
            return Err(Reject::ReservedNotZero);
        }
        Ok(body)
    }

    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }

    pub fn counter(&self) -> u64 {
        self.counter.get()
    }
}

/// CHECKPOINT(slot, chain digest, state root) (K1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CheckpointBody {
    pub chain: Digest,
    pub root: Digest,
    pub signature: Signature,
}

const _: () = assert!(size_of::<CheckpointBody>() == 128);

/// Log record of an own NV-ACK (V3), and of a jump (N2) with a zero signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PlaceRecord {
    view: U64,
    slot: U64,
    pub digest: Digest,
    pub signature: Signature,
}

const _: () = assert!(size_of::<PlaceRecord>() == 112);

impl PlaceRecord {
    pub fn new(view: View, slot: Slot, digest: Digest, signature: Signature) -> PlaceRecord {
        PlaceRecord {
            view: U64::new(view.0),
            slot: U64::new(slot.0),
            digest,
            signature,
        }
    }

    pub fn view(&self) -> View {
        View(self.view.get())
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }
}

/// DECIDED(slot, digest) without a certificate; a learner counts b+1 of them (N7).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DecidedBody {
    pub digest: Digest,
}

/// STATUS: where a replica stands. Drives every repair of protocol §11.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StatusBody {
    stage: U64,
    installed: U64,
    committed: U64,
    pub committed_digest: Digest,
    voted_slot: U64,
    pub voted_digest: Digest,
    checkpoint: U64,
    /// Lowest slot whose block this replica can still send.
    retained_from: U64,
    lease: U64,
    flags: U32,
    /// One of the `HELD_` kinds; with none the four fields behind it are zero.
    held_kind: U32,
    held_view: U64,
    held_slot: U64,
    held_digest: Digest,
    held_signature: Signature,
}

const _: () = assert!(size_of::<StatusBody>() == 240);

const HELD_NONE: u32 = 0;
const HELD_VOTE: u32 = 1;
const HELD_COMMIT: u32 = 2;
const HELD_ACK: u32 = 3;
const HELD_VIEW_CHANGE: u32 = 4;

/// A statement that the sender of a STATUS holds of its receiver, with the receiver's signature (R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// VOTE, COMMIT, NV-ACK or VIEW-CHANGE.
    pub statement: Statement,
    pub signature: Signature,
}

impl Held {
    fn parts(&self) -> (u32, View, Slot, Digest) {
        match self.statement {
            Statement::Vote { view, slot, digest } => (HELD_VOTE, view, slot, digest),
            Statement::Commit { view, slot, digest } => (HELD_COMMIT, view, slot, digest),
            Statement::NewViewAck {
                view,
                base_slot,
                base,
            } => (HELD_ACK, view, base_slot, base),
            Statement::ViewChange { view, digest } => (HELD_VIEW_CHANGE, view, Slot(0), digest),
            // Of no use to its author: nothing of the kind is kept.
            _ => (HELD_NONE, View(0), Slot(0), Digest::ZERO),
        }
    }
}

/// The sender has not heard us since its start: answer with a STATUS at once.
pub const STATUS_HELLO: u32 = 1;
/// The sender's log is full: it votes no more (until snapshots release space).
pub const STATUS_LOG_FULL: u32 = 2;
/// The sender is silent (R3): it gives no vote before a checkpoint at its lease is certified.
pub const STATUS_SILENT: u32 = 4;

const STATUS_FLAGS: u32 = STATUS_HELLO | STATUS_LOG_FULL | STATUS_SILENT;

/// The fields of a STATUS as numbers of their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub stage: View,
    pub installed: View,
    pub committed: Slot,
    pub committed_digest: Digest,
    pub voted_slot: Slot,
    pub voted_digest: Digest,
    pub checkpoint: Slot,
    pub retained_from: Slot,
    /// L of R3: no own vote is for a slot above; zero without leases.
    pub lease: Slot,
    pub flags: u32,
    /// The highest statement of the receiver that the sender holds (R6).
    pub held: Option<Held>,
}

impl Status {
    /// L, while the sender is silent (R3).
    pub fn silent_until(&self) -> Option<Slot> {
        (self.flags & STATUS_SILENT != 0).then_some(self.lease)
    }
}

impl StatusBody {
    pub fn encode(status: &Status) -> StatusBody {
        let none = (HELD_NONE, View(0), Slot(0), Digest::ZERO);
        let (kind, view, slot, digest) = status.held.map_or(none, |held| held.parts());
        let signature = status.held.filter(|_| kind != HELD_NONE);
        let signature = signature.map_or(Signature([0; 64]), |held| held.signature);
        StatusBody {
            stage: U64::new(status.stage.0),
            installed: U64::new(status.installed.0),
            committed: U64::new(status.committed.0),
            committed_digest: status.committed_digest,
            voted_slot: U64::new(status.voted_slot.0),
            voted_digest: status.voted_digest,
            checkpoint: U64::new(status.checkpoint.0),
            retained_from: U64::new(status.retained_from.0),
            lease: U64::new(status.lease.0),
            flags: U32::new(status.flags),
            held_kind: U32::new(kind),
            held_view: U64::new(view.0),
            held_slot: U64::new(slot.0),
            held_digest: digest,
            held_signature: signature,
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Status, Reject> {
        let body: &StatusBody = parse(bytes)?;
        if body.flags.get() & !STATUS_FLAGS != 0 {
            return Err(Reject::ReservedNotZero);
        }
        Ok(Status {
            stage: View(body.stage.get()),
            installed: View(body.installed.get()),
            committed: Slot(body.committed.get()),
            committed_digest: body.committed_digest,
            voted_slot: Slot(body.voted_slot.get()),
            voted_digest: body.voted_digest,
            checkpoint: Slot(body.checkpoint.get()),
            retained_from: Slot(body.retained_from.get()),
            lease: Slot(body.lease.get()),
            flags: body.flags.get(),
            held: body.held()?,
        })
    }

    fn held(&self) -> Result<Option<Held>, Reject> {
        let view = View(self.held_view.get());
        let (slot, digest) = (Slot(self.held_slot.get()), self.held_digest);
        let blank = (slot, digest) == (Slot(0), Digest::ZERO);
        let statement = match self.held_kind.get() {
            HELD_NONE => {
                let signed = self.held_signature != Signature([0; 64]);
                let nothing = blank && view == View(0) && !signed;
                return nothing.then_some(None).ok_or(Reject::ReservedNotZero);
            }
            HELD_VOTE => Statement::Vote { view, slot, digest },
            HELD_COMMIT => Statement::Commit { view, slot, digest },
            HELD_ACK => Statement::NewViewAck {
                view,
                base_slot: slot,
                base: digest,
            },
            HELD_VIEW_CHANGE if slot == Slot(0) => Statement::ViewChange { view, digest },
            _ => return Err(Reject::BodyMalformed),
        };
        let signature = self.held_signature;
        Ok(Some(Held {
            statement,
            signature,
        }))
    }
}

/// FETCH-BLOCK(digest, slot, have_slot): the block at the header's slot, and its ancestors above
/// `have_slot`, newest first; or only the marked grains of that one block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FetchBlockBody {
    pub digest: Digest,
    have_slot: U64,
    /// Zero: whole blocks.
    grain_count: U16,
    reserved: [u8; 6],
    /// Bit i set: grain i is missing.
    missing: [U64; GRAIN_WORDS],
}

const _: () = assert!(size_of::<FetchBlockBody>() == 48 + 8 * GRAIN_WORDS);

impl FetchBlockBody {
    /// Asks for whole blocks down to above `have_slot`.
    pub fn whole(digest: Digest, have_slot: Slot) -> FetchBlockBody {
        FetchBlockBody {
            digest,
            have_slot: U64::new(have_slot.0),
            grain_count: U16::new(0),
            reserved: [0; 6],
            missing: [U64::new(0); GRAIN_WORDS],
        }
    }

    /// Asks for the marked ones of `grain_count` grains.
    pub fn grains(
        digest: Digest,
        have_slot: Slot,
        grain_count: u16,
        missing: &[u64; GRAIN_WORDS],
    ) -> FetchBlockBody {
        FetchBlockBody {
            grain_count: U16::new(grain_count),
            missing: missing.map(U64::new),
            ..FetchBlockBody::whole(digest, have_slot)
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<&FetchBlockBody, Reject> {
        let body: &FetchBlockBody = parse(bytes)?;
        if body.reserved != [0; 6] {
            return Err(Reject::ReservedNotZero);
        }
        if usize::from(body.grain_count.get()) > GRAINS_MAX {
            return Err(Reject::BodyMalformed);
        }
        Ok(body)
    }

    pub fn have_slot(&self) -> Slot {
        Slot(self.have_slot.get())
    }

    /// Grains of the message as the asker sees it; zero when it asks for whole blocks.
    pub fn grain_count(&self) -> usize {
        usize::from(self.grain_count.get())
    }

    pub fn missing(&self) -> [u64; GRAIN_WORDS] {
        self.missing.map(U64::get)
    }
}

/// FETCH-RANGE(from, count): DECIDED and BLOCK ascending from the header's slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FetchRangeBody {
    count: U64,
}

impl FetchRangeBody {
    pub fn new(count: u64) -> FetchRangeBody {
        FetchRangeBody {
            count: U64::new(count),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.get()
    }
}

/// SILENT(boot, L): a replica that may have forgotten votes says no word that counts before a
/// checkpoint at L or above is certified (R3). L is the slot of the datagram's header. STATUS repeats
/// it, and says when it is over.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SilentBody {
    boot: U32,
    reserved: U32,
}

impl SilentBody {
    pub fn new(boot: Boot) -> SilentBody {
        SilentBody {
            boot: U32::new(boot.0),
            reserved: U32::new(0),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Boot, Reject> {
        let body: &SilentBody = parse(bytes)?;
        if body.reserved.get() != 0 {
            return Err(Reject::ReservedNotZero);
        }
        Ok(Boot(body.boot.get()))
    }
}

/// Which votes wait for the disk (§7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// All of them (R2).
    #[default]
    Sync,
    /// None within a lease that is on the disk; who then ends uncleanly is silent for a while (R3).
    Lease,
    /// Nothing does. An unclean end is a lost disk (R5). For benchmarks.
    None,
}

impl Durability {
    /// All of them, by rising carelessness.
    pub const ALL: [Durability; 3] = [Durability::Sync, Durability::Lease, Durability::None];

    /// As it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Sync => "sync",
            Durability::Lease => "lease",
            Durability::None => "none",
        }
    }

    /// As records of the log spell it; a log that is older than the choice says sync.
    pub fn number(self) -> u32 {
        match self {
            Durability::Sync => 0,
            Durability::Lease => 1,
            Durability::None => 2,
        }
    }

    pub fn of_number(number: u32) -> Option<Durability> {
        match number {
            0 => Some(Durability::Sync),
            1 => Some(Durability::Lease),
            2 => Some(Durability::None),
            _ => None,
        }
    }
}

/// Log record LEASE(w, L): votes for slots up to L may leave without the disk (R3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LeaseRecord {
    view: U64,
    slot: U64,
    owed: U64,
}

const _: () = assert!(size_of::<LeaseRecord>() == 24);

impl LeaseRecord {
    /// `owed`: the slot up to which votes of an earlier process may be forgotten; zero for none.
    /// Told when older records are let go (K2).
    pub fn new(view: View, slot: Slot, owed: Slot) -> LeaseRecord {
        LeaseRecord {
            view: U64::new(view.0),
            slot: U64::new(slot.0),
            owed: U64::new(owed.0),
        }
    }

    pub fn view(&self) -> View {
        View(self.view.get())
    }

    pub fn slot(&self) -> Slot {
        Slot(self.slot.get())
    }

    pub fn owed(&self) -> Slot {
        Slot(self.owed.get())
    }
}

/// Log record START(boot, epoch, stage): durable before anything is sent (R4). It names the
/// durability of the process, which says what an unclean end of it may have lost (R3, R5).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StartRecord {
    boot: U32,
    durability: U32,
    epoch: U64,
    stage: U64,
}

const _: () = assert!(size_of::<StartRecord>() == 24);

impl StartRecord {
    pub fn new(boot: Boot, epoch: Epoch, stage: View, durability: Durability) -> StartRecord {
        StartRecord {
            boot: U32::new(boot.0),
            durability: U32::new(durability.number()),
            epoch: U64::new(epoch.0),
            stage: U64::new(stage.0),
        }
    }

    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }

    pub fn stage(&self) -> View {
        View(self.stage.get())
    }

    /// `None`: a newer version wrote it.
    pub fn durability(&self) -> Option<Durability> {
        Durability::of_number(self.durability.get())
    }
}

/// Log record CLEAN STOP(boot): counts only for boot + 1 (R3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CleanStopRecord {
    boot: U32,
}

impl CleanStopRecord {
    pub fn new(boot: Boot) -> CleanStopRecord {
        CleanStopRecord {
            boot: U32::new(boot.0),
        }
    }

    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }
}

/// Log record and message EVIDENCE (E1): two block prefixes that one leader signed; for an invalid
/// payload the second is the first again and the payload follows in the block record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EvidenceBody {
    pub kind: u8,
    reserved: [u8; 7],
    pub first: SignedHeader,
    pub second: SignedHeader,
}

/// A block header under its leader's signature.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SignedHeader {
    pub header: crate::block::BlockHeader,
    pub signature: Signature,
}

const _: () = assert!(size_of::<EvidenceBody>() == 328);

/// Two different headers for one view and slot.
pub const EVIDENCE_EQUIVOCATION: u8 = 1;
/// A header that no correct leader signs: wrong parent or slot.
pub const EVIDENCE_IMPROPER: u8 = 2;
/// A header whose payload is invalid.
pub const EVIDENCE_INVALID_PAYLOAD: u8 = 3;

impl EvidenceBody {
    pub fn new(kind: u8, first: SignedHeader, second: SignedHeader) -> EvidenceBody {
        EvidenceBody {
            kind,
            reserved: [0; 7],
            first,
            second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            stage: View(1),
            installed: View(2),
            committed: Slot(3),
            committed_digest: Digest([4; 32]),
            voted_slot: Slot(5),
            voted_digest: Digest([6; 32]),
            checkpoint: Slot(7),
            retained_from: Slot(8),
            lease: Slot(9),
            flags: STATUS_HELLO,
            held: None,
        }
    }

    #[test]
    fn status_round_trip_and_golden_bytes() {
        let body = StatusBody::encode(&status());
        assert_eq!(StatusBody::decode(body.as_bytes()), Ok(status()));
        let mut golden = Vec::new();
        for number in [1u64, 2, 3] {
            golden.extend(number.to_le_bytes());
        }
        golden.extend([4; 32]);
        golden.extend(5u64.to_le_bytes());
        golden.extend([6; 32]);
        for number in [7u64, 8, 9, 1] {
            golden.extend(number.to_le_bytes());
        }
        golden.extend([0; 112]);
        assert_eq!(body.as_bytes(), golden);
        golden[128] = 1;
        assert_eq!(StatusBody::decode(&golden), Err(Reject::ReservedNotZero));
        golden[124] = 9;
        assert_eq!(StatusBody::decode(&golden), Err(Reject::BodyMalformed));
        golden[124] = 1;
        let statement = Statement::Vote {
            view: View(1),
            slot: Slot(0),
            digest: Digest::ZERO,
        };
        let held = StatusBody::decode(&golden).unwrap().held;
        assert_eq!(held.map(|held| held.statement), Some(statement));
        golden.push(0);
        assert_eq!(StatusBody::decode(&golden), Err(Reject::BodyMalformed));
    }

    #[test]
    fn silence_is_told_by_status_and_by_a_word_of_its_own() {
        assert_eq!(status().silent_until(), None);
        let silent = Status {
            flags: STATUS_SILENT,
            ..status()
        };
        assert_eq!(silent.silent_until(), Some(Slot(9)));
        let body = StatusBody::encode(&silent);
        assert_eq!(StatusBody::decode(body.as_bytes()), Ok(silent));
        let mut unknown = StatusBody::encode(&silent);
        unknown.flags = U32::new(8);
        let unknown = StatusBody::decode(unknown.as_bytes());
        assert_eq!(unknown, Err(Reject::ReservedNotZero));
        let mut body = SilentBody::new(Boot(7));
        assert_eq!(SilentBody::decode(body.as_bytes()), Ok(Boot(7)));
        body.reserved = U32::new(1);
        assert!(SilentBody::decode(body.as_bytes()).is_err());
        assert!(SilentBody::decode(&[0; 7]).is_err());
    }

    #[test]
    fn a_start_names_its_durability() {
        for durability in [Durability::Sync, Durability::Lease, Durability::None] {
            let start = StartRecord::new(Boot(1), Epoch(0), View(2), durability);
            assert_eq!(start.durability(), Some(durability));
        }
        let mut golden = [0; 24];
        golden[0] = 3;
        golden[4] = 1;
        golden[16] = 2;
        let start = StartRecord::new(Boot(3), Epoch(0), View(2), Durability::Lease);
        assert_eq!(start.as_bytes(), golden);
        golden[4] = 3;
        let newer = StartRecord::read_from_bytes(&golden).unwrap();
        assert_eq!(newer.durability(), None);
        let lease = LeaseRecord::new(View(1), Slot(2), Slot(3));
        assert_eq!((lease.view(), lease.slot()), (View(1), Slot(2)));
        assert_eq!(lease.owed(), Slot(3));
    }

    #[test]
    fn fetch_round_trip() {
        let missing = std::array::from_fn(|word| word as u64);
        let body = FetchBlockBody::grains(Digest([1; 32]), Slot(4), 500, &missing);
        let decoded = FetchBlockBody::decode(body.as_bytes()).unwrap();
        assert_eq!((decoded.have_slot(), decoded.grain_count()), (Slot(4), 500));
        assert_eq!(decoded.missing(), missing);
        let too_many = FetchBlockBody::grains(Digest([1; 32]), Slot(4), 5000, &missing);
        assert!(FetchBlockBody::decode(too_many.as_bytes()).is_err());
    }
}
