//! What recovery does with what it finds where a record should start.

use super::Cause;

/// What stands where a record should start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Intact,
    Torn,
    /// Blank, garbage, or an intact record of an earlier lap.
    Absent,
    NoSegment,
    Foreign,
    Misplaced,
    Newer,
    Unreadable,
}

/// What follows an intact header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Good,
    Torn,
    Unreadable,
    /// There is no intact header to speak of a body.
    Unknown,
}

/// Whether the header names the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    Linked,
    Broken,
}

/// Whether the next segment starts with a record that names the last good header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continues,
    Ends,
}

/// Whether what should be here was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Yes,
    No,
    /// Parts of the disk cannot be read; a proof may be among them.
    Unclear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// A good record.
    Accept,
    /// The record did not fit into this segment.
    NextSegment,
    /// The log ends here and nothing else is here.
    End,
    /// The log ends here and what is here was never acknowledged.
    Cut(Cause),
    Refuse(Cause),
}

/// The decision table of recovery.
pub(super) fn decide(head: Head, body: Body, chain: Chain, next: Next, spoken: Spoken) -> Decision {
    use Decision::{Accept, Cut, End, NextSegment, Refuse};
    let cause = match (head, body, chain) {
        (Head::Intact, Body::Good, Chain::Linked) => return Accept,
        (Head::Intact, Body::Good, Chain::Broken) => Cause::Unlinked,
        (Head::Intact, Body::Torn | Body::Unknown, _) => Cause::BodyTorn,
        (Head::Intact, Body::Unreadable, _) | (Head::Unreadable, _, _) => Cause::Unreadable,
        (Head::Torn, _, _) => Cause::HeaderTorn,
        (Head::Absent, _, _) => Cause::HeaderMissing,
        (Head::NoSegment, _, _) => Cause::SegmentMissing,
        (Head::Foreign, _, _) => Cause::HeaderForeign,
        (Head::Misplaced, _, _) => Cause::HeaderMisplaced,
        (Head::Newer, _, _) => Cause::HeaderNewer,
    };
    match (cause, next, spoken) {
        (_, Next::Continues, _) => NextSegment,
        (_, Next::Ends, Spoken::Yes) => Refuse(cause),
        (_, Next::Ends, Spoken::Unclear) => Refuse(Cause::Unreadable),
        // Neither can come from a torn write.
        (Cause::HeaderNewer | Cause::Unreadable, Next::Ends, Spoken::No) => Refuse(cause),
        (Cause::HeaderMissing | Cause::SegmentMissing, Next::Ends, Spoken::No) => End,
        (_, Next::Ends, Spoken::No) => Cut(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: [Head; 8] = [
        Head::Intact,
        Head::Torn,
        Head::Absent,
        Head::NoSegment,
        Head::Foreign,
        Head::Misplaced,
        Head::Newer,
        Head::Unreadable,
    ];
    const BODIES: [Body; 4] = [Body::Good, Body::Torn, Body::Unreadable, Body::Unknown];

    fn table() -> impl Iterator<Item = (Head, Body, Chain, Next, Spoken, Decision)> {
        HEADS.into_iter().flat_map(|head| {
            BODIES.into_iter().flat_map(move |body| {
                [Chain::Linked, Chain::Broken]
                    .into_iter()
                    .flat_map(move |chain| {
                        [Next::Continues, Next::Ends]
                            .into_iter()
                            .flat_map(move |next| {
                                [Spoken::Yes, Spoken::No, Spoken::Unclear].into_iter().map(
                                    move |spoken| {
                                        (
                                            head,
                                            body,
                                            chain,
                                            next,
                                            spoken,
                                            decide(head, body, chain, next, spoken),
                                        )
                                    },
                                )
                            })
                    })
            })
        })
    }

    #[test]
    fn nothing_acknowledged_is_ever_cut() {
        for (head, body, chain, next, spoken, decision) in table() {
            let good = (head, body, chain) == (Head::Intact, Body::Good, Chain::Linked);
            match decision {
                Decision::Accept => assert!(good),
                Decision::NextSegment => assert!(!good && next == Next::Continues),
                Decision::End | Decision::Cut(_) => assert!(!good && spoken == Spoken::No),
                Decision::Refuse(_) => assert!(!good && next == Next::Ends),
            }
        }
    }

    #[test]
    fn what_no_tear_can_make_is_refused() {
        for (head, body, _, next, _, decision) in table() {
            let unreadable = head == Head::Unreadable
                || (head == Head::Intact && body == Body::Unreadable)
                || head == Head::Newer;
            if unreadable && next == Next::Ends {
                assert!(matches!(decision, Decision::Refuse(_)));
            }
        }
    }
}
