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
                    && first.slot().0 == second.slot().0 + 1
                    && first.parent != second.digest()
            }
            // The payload stands in the log record; a receiver checks it there.
            EVIDENCE_INVALID_PAYLOAD => same_place(&self.first, &self.second),
            _ => false,
        }
    }
}
