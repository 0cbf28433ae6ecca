//! Puts messages together that come in parts, for liars that read or change them.

use std::collections::BTreeMap;

use wire::header::{Fragment, Kind};
use wire::limits::GRAIN_BYTES;

use crate::network::End;

/// Incomplete messages that are remembered.
const PARTIAL_MAX: usize = 64;

type Pieces = BTreeMap<u16, Vec<u8>>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Parts {
    /// By the other end, kind and name.
    partial: BTreeMap<(End, u8, u64), Pieces>,
}

impl Parts {
    /// Takes a part in; the whole message when it was the last one.
    pub fn take(
        &mut self,
        other: End,
        kind: Kind,
        fragment: Fragment,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        if body.len() >= fragment.total as usize {
            return Some(body.to_vec());
        }
        let name = (other, kind as u8, fragment.message);
        if self.partial.len() >= PARTIAL_MAX && !self.partial.contains_key(&name) {
            self.partial.pop_first();
        }
        let pieces = self.partial.entry(name).or_default();
        pieces.insert(fragment.offset_grains, body.to_vec());
        let held = pieces.values().map(Vec::len).sum::<usize>();
        if held < fragment.total as usize {
            return None;
        }
        let pieces = self.partial.remove(&name)?;
        let mut whole = Vec::with_capacity(held);
        for (offset, piece) in pieces {
            if usize::from(offset) * GRAIN_BYTES != whole.len() {
                return None;
            }
            whole.extend(piece);
        }
        Some(whole)
    }
}
