//! Records that only this crate writes and reads.

use consensus::Standing;
use wire::certificates::Place;
use wire::ids::{Boot, Digest, Epoch, Slot, View};
use wire::messages::Durability;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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

/// Log record: what this replica had done in its views when older records were let go (K2). The
/// certificate of the installed view, and own words about a view that is being entered, stand right
/// before it as records of their own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StandingRecord {
    boot: U32,
    flags: U32,
    epoch: U64,
    started_in: U64,
    stage: U64,
    installed: U64,
    tip_slot: U64,
    tip: Digest,
}

const _: () = assert!(size_of::<StandingRecord>() == 80);

const VOTING_STOPPED: u32 = 1;
const DIVERGED: u32 = 2;
/// The durability of the process stands in the bits from here on.
const DURABILITY_SHIFT: u32 = 8;

impl StandingRecord {
    /// All but `standing` repeats the START record of the process.
    pub fn new(
        boot: Boot,
        epoch: Epoch,
        started_in: View,
        durability: Durability,
        standing: &Standing,
    ) -> StandingRecord {
        let voting_stopped = VOTING_STOPPED * u32::from(standing.voting_stopped);
        let diverged = DIVERGED * u32::from(standing.diverged);
        StandingRecord {
            boot: U32::new(boot.0),
            flags: U32::new(voting_stopped | diverged | durability.number() << DURABILITY_SHIFT),
            epoch: U64::new(epoch.0),
            started_in: U64::new(started_in.0),
            stage: U64::new(standing.stage.0),
            installed: U64::new(standing.installed.0),
            tip_slot: U64::new(standing.tip.slot.0),
            tip: standing.tip.digest,
        }
    }

    pub fn boot(&self) -> Boot {
        Boot(self.boot.get())
    }

    /// Epoch and stage in which the process that wrote this had started (R4).
    pub fn started_in(&self) -> (Epoch, View) {
        (Epoch(self.epoch.get()), View(self.started_in.get()))
    }

    pub fn stage(&self) -> View {
        View(self.stage.get())
    }

    pub fn installed(&self) -> View {
        View(self.installed.get())
    }

    /// End of the chain of own block records, or of the last jump, in the installed view.
    pub fn tip(&self) -> Place {
        Place {
            slot: Slot(self.tip_slot.get()),
            digest: self.tip,
        }
    }

    /// `None`: a newer version wrote it.
    pub fn durability(&self) -> Option<Durability> {
        Durability::of_number(self.flags.get() >> DURABILITY_SHIFT)
    }

    pub fn voting_stopped(&self) -> bool {
        self.flags.get() & VOTING_STOPPED != 0
    }

    /// K3.
    pub fn diverged(&self) -> bool {
        self.flags.get() & DIVERGED != 0
    }
}
