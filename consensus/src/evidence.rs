//! Which pairs of headers prove that a leader lied (N9, E1). Pure functions over verified headers.

use wire::messages::{
    EVIDENCE_EQUIVOCATION, EVIDENCE_IMPROPER, EVIDENCE_INVALID_PAYLOAD, SignedHeader,
};

use crate::input::Evidence;

impl Evidence {
    /// Whether the two headers contradict each other as their kind says; the caller has verified
    /// that the leader of their view signed both.
    pub fn is_proof(&self) -> bool {
        let (first, second) = (&self.first.header, &self.second.header);
        let same_place = |a: &SignedHeader, b: &SignedHeader| {
            (a.header.epoch(), a.header.view(), a.header.slot())
                == (b.header.epoch(), b.header.view(), b.header.slot())
        };
        match self.kind {
            EVIDENCE_EQUIVOCATION => {
                same_place(&self.first, &self.second) && first.digest() != second.digest()
            }
            // The header right above the second one in its view, but not its child: the leader
            // signed a second block for the parent's slot as well, for this one has some parent.
            EVIDENCE_IMPROPER => {
                first.view() == second.view()
                    && second.slot().0.checked_add(1) == Some(first.slot().0)
                    && first.parent != second.digest()
            }
            // The payload stands in the log record; a receiver checks it there.
            EVIDENCE_INVALID_PAYLOAD => same_place(&self.first, &self.second),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::block::{BlockHeader, payload_digest};
    use wire::ids::{Digest, Epoch, Signature, Slot, View};

    use super::*;

    /// A leader that lies may sign any slot.
    #[test]
    fn slots_at_the_end_of_their_range_prove_nothing() {
        let signed = |slot| SignedHeader {
            header: BlockHeader::new(
                Epoch(0),
                View(1),
                Slot(slot),
                0,
                Digest([1; 32]),
                payload_digest(&[]),
            ),
            signature: Signature([0; 64]),
        };
        let evidence = |first, second| Evidence {
            kind: EVIDENCE_IMPROPER,
            first: signed(first),
            second: signed(second),
        };
        assert!(evidence(8, 7).is_proof());
        assert!(!evidence(0, u64::MAX).is_proof());
    }
}
