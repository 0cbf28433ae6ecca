//! R2, §11: a leader that signs the last block of each stretch alone. It proposes nothing: when a stretch is
//! whole, it sends its blocks to each replica as if it had been asked for them, the last one first, and
//! those below it under signatures that are none. Each is vouched for by the one above, so they are voted
//! for and decided, and no correct replica ever has a signed copy.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use wire::block::BlockPrefix;
use wire::header::Kind;
use wire::ids::{Slot, View};
use wire::limits::GRAIN_BYTES;
use zerocopy::FromBytes;

use super::{Context, Liar, Spoken};
use crate::network::End;
use crate::random::Random;

/// Datagrams that are held back at most, for each replica.
const HELD_MAX: usize = 4096;

/// See the module's documentation.
pub struct EndSigner {
    stretch: u64,
    /// One that is sent nothing, and has to ask the others.
    left_out: Option<End>,
    held: BTreeMap<usize, Vec<Spoken>>,
}

impl EndSigner {
    /// Stretches of so many slots.
    pub fn of(stretch: u64, left_out: Option<usize>) -> EndSigner {
        EndSigner {
            stretch,
            left_out: left_out.map(End),
            held: BTreeMap::new(),
        }
    }

    /// Of a few slots, with or without one left out.
    pub fn draw(nodes: usize, random: &mut Random) -> EndSigner {
        let left_out = random.chance(500);
        let left_out = left_out.then(|| random.below(nodes as u64) as usize);
        EndSigner::of(random.within(2, 8), left_out)
    }

    fn is_end(&self, slot: Slot) -> bool {
        slot.0.is_multiple_of(self.stretch)
    }

    /// Only the first part of a block bears the signature.
    fn spoil(&self, spoken: &mut Spoken) {
        if self.is_end(spoken.slot) || spoken.fragment.offset_grains != 0 {
            return;
        }
        if let Ok((prefix, _)) = BlockPrefix::mut_from_prefix(&mut spoken.body) {
            prefix.signature.0[0] ^= 1;
        }
    }

    /// What is held for one replica, the newest block first.
    fn let_go(&mut self, to: End) -> Vec<Spoken> {
        let mut held = self.held.remove(&to.0).unwrap_or_default();
        held.sort_by_key(|spoken| Reverse(spoken.slot));
        for spoken in &mut held {
            spoken.kind = Kind::Block;
            self.spoil(spoken);
        }
        held
    }
}

impl Liar for EndSigner {
    fn name(&self) -> &'static str {
        "end-signer"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
        let (to, view) = (spoken.to, spoken.view);
        let of_own_view = |view: View| context.authentic.rules().leader(view) == context.me;
        let blocks = matches!(spoken.kind, Kind::Propose | Kind::Block) && to.0 < context.nodes;
        if !blocks || !of_own_view(view) {
            return vec![spoken];
        }
        if self.left_out == Some(to) {
            return Vec::new();
        }
        if spoken.kind == Kind::Block {
            self.spoil(&mut spoken);
            return vec![spoken];
        }
        let whole = spoken.fragment.offset_grains as usize * GRAIN_BYTES + spoken.body.len()
            >= spoken.fragment.total as usize;
        let ends = self.is_end(spoken.slot) && whole;
        let held = self.held.entry(to.0).or_default();
        held.retain(|other| other.view == view);
        held.push(spoken);
        if ends || held.len() >= HELD_MAX {
            return self.let_go(to);
        }
        Vec::new()
    }
}
