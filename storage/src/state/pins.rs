//! The one checkpoint that is kept whole, for replicas that lag behind and for a snapshot file.

use thiserror::Error;
use wire::ids::{Instant, Slot};
use wire::state::{Bucket, CellMask, PIECE_BYTES_MAX, Part, Summary};
use zerocopy::IntoBytes;

use super::{Parts, Scratch, Tree, View, join};

/// Who keeps a checkpoint, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A transfer to another replica.
    Until(Instant),
    /// A snapshot file, until it is released.
    Open,
    /// Whoever may ask soon, until the next checkpoint is begun.
    Newest,
}

/// The checkpoint that is, or will be, kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub slot: Slot,
    /// The checkpoint is hashed: its parts can be asked for.
    pub ready: bool,
}

/// Why a part of the state is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unserved {
    #[error("no checkpoint is pinned")]
    NotPinned,
    #[error("the pinned checkpoint is the one at slot {0}")]
    Elsewhere(Slot),
    #[error("the pinned checkpoint is not hashed yet")]
    NotReady,
    #[error("the checkpoint has no such part")]
    NoSuchPart,
}

/// Holders of the pin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holders {
    until: Instant,
    open: bool,
    newest: bool,
}

impl Holders {
    fn add(&mut self, hold: Hold) {
        match hold {
            Hold::Until(until) => self.until = self.until.max(until),
            Hold::Open => self.open = true,
            Hold::Newest => self.newest = true,
        }
    }

    const NONE: Holders = Holders {
        until: Instant(0),
        open: false,
        newest: false,
    };
}

/// At most one checkpoint is pinned.
#[derive(Debug)]
pub(super) enum Pin {
    Free,
    /// The next checkpoint will be pinned.
    Wanted {
        holders: Holders,
        slot: Slot,
    },
    Held(Box<Held>),
}

#[derive(Debug)]
pub(super) struct Held {
    slot: Slot,
    holders: Holders,
    /// None until the checkpoint is hashed.
    top: Option<(Summary, Tree)>,
    /// The bucket that was asked for last, for its further pieces.
    cached: Option<Bucket>,
    bytes: Vec<u8>,
    scratch: Scratch,
}

impl Pin {
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self, Pin::Wanted { .. })
    }

    /// The checkpoint of `slot` was frozen, and pinned if that was wanted.
    pub(super) fn begin(&mut self, slot: Slot) {
        if let Pin::Wanted { holders, .. } = self {
            *self = Pin::held(slot, *holders);
        }
    }

    /// The frozen checkpoint that nothing else is pinned for is pinned.
    pub(super) fn take(&mut self, slot: Slot) {
        debug_assert!(matches!(self, Pin::Free));
        *self = Pin::held(slot, Holders::NONE);
    }

    fn held(slot: Slot, holders: Holders) -> Pin {
        Pin::Held(Box::new(Held {
            slot,
            holders,
            top: None,
            cached: None,
            bytes: Vec::new(),
            scratch: Scratch::default(),
        }))
    }

    /// A checkpoint is hashed.
    pub(super) fn finished(&mut self, summary: &Summary, tree: &Tree) {
        if let Pin::Held(held) = self
            && held.slot == summary.head.slot()
        {
            held.top = Some((summary.clone(), tree.clone()));
        }
    }

    pub(super) fn hold(&mut self, hold: Hold, next: Slot) -> Pinned {
        if matches!(self, Pin::Free) {
            *self = Pin::Wanted {
                holders: Holders::NONE,
                slot: next,
            };
        }
        if let Pin::Wanted { holders, .. } = self {
            holders.add(hold);
        }
        if let Pin::Held(held) = self {
            held.holders.add(hold);
        }
        self.pinned().expect("wanted or held")
    }

    pub(super) fn pinned(&self) -> Option<Pinned> {
        match self {
            Pin::Free => None,
            Pin::Wanted { slot, .. } => Some(Pinned {
                slot: *slot,
                ready: false,
            }),
            Pin::Held(held) => Some(Pinned {
                slot: held.slot,
                ready: held.top.is_some(),
            }),
        }
    }

    /// Ends the hold of a snapshot file. True when nobody is left.
    pub(super) fn close(&mut self, now: Instant) -> bool {
        match self {
            Pin::Free => return false,
            Pin::Wanted { holders, .. } => holders.open = false,
            Pin::Held(held) => held.holders.open = false,
        }
        self.is_expired(now)
    }

    /// No transfer holds it any more.
    pub(super) fn end_transfers(&mut self) {
        if let Pin::Held(held) = self {
            held.holders.until = Instant(0);
        }
    }

    /// True when nobody is left.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        let holders = match self {
            Pin::Free => return false,
            Pin::Wanted { holders, .. } => holders,
            Pin::Held(held) => &held.holders,
        };
        !holders.open && !holders.newest && holders.until <= now
    }

    /// Whether the next checkpoint may take its place: nothing but [`Hold::Newest`] holds it.
    pub(super) fn may_move_on(&self, now: Instant) -> bool {
        match self {
            Pin::Held(held) => !held.holders.open && held.holders.until <= now,
            _ => false,
        }
    }

    /// Nobody may ask soon any more.
    pub(super) fn let_newest_go(&mut self) {
        match self {
            Pin::Free => {}
            Pin::Wanted { holders, .. } => holders.newest = false,
            Pin::Held(held) => held.holders.newest = false,
        }
    }

    /// True when a checkpoint at least `distance` slots above the pinned one is stable, and no
    /// snapshot file is being written.
    pub(super) fn is_overtaken(&self, stable: Slot, distance: u64) -> bool {
        match self {
            Pin::Held(held) => {
                !held.holders.open && stable.0.saturating_sub(held.slot.0) >= distance
            }
            _ => false,
        }
    }

    pub(super) fn serve(
        &mut self,
        slot: Slot,
        part: Part,
        parts: &mut Parts<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unserved> {
        let held = match self {
            Pin::Free => return Err(Unserved::NotPinned),
            Pin::Wanted { slot, .. } => return Err(Unserved::Elsewhere(*slot)),
            Pin::Held(held) => held,
        };
        if held.slot != slot {
            return Err(Unserved::Elsewhere(held.slot));
        }
        let Some((summary, tree)) = &held.top else {
            return Err(Unserved::NotReady);
        };
        match part {
            Part::Summary => out.extend_from_slice(summary.as_bytes()),
            Part::Node(index) => out.extend_from_slice(tree.node(usize::from(index)).as_bytes()),
            Part::Piece { bucket, index } => {
                let leaf = tree.leaf(bucket);
                let length = leaf.piece_bytes(index).ok_or(Unserved::NoSuchPart)?;
                if held.cached != Some(bucket) {
                    let read = &mut held.scratch;
                    parts.read_cells(View::Pinned, bucket, &CellMask::FULL, read);
                    held.bytes = join(&read.machine, &read.sessions);
                    held.cached = Some(bucket);
                    assert_eq!(
                        held.bytes.len() as u64,
                        leaf.bytes(),
                        "a pinned bucket stays as it was hashed"
                    );
                }
                let start = index as usize * PIECE_BYTES_MAX;
                out.extend_from_slice(&held.bytes[start..start + length]);
            }
        }
        Ok(())
    }
}
