//! SELECT (protocol §6.1): the base of a new view, from the view changes that its leader chose.
//!
//! A pure function, used alike by the leader and by everyone who checks it. Whatever was decided in
//! a lower view is on the chain of what it returns, for every admissible choice.

use std::cmp::Reverse;

use wire::certificates::Place;
use wire::ids::{NodeId, Slot, View};
use wire::seal::CheckedViewChange;

use crate::quorum::Quorums;

/// What SELECT made of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    pub base: Place,
    /// Highest view that any of the chosen had installed.
    pub installed: View,
    /// The chosen prove that the leader of `installed` signed two chains.
    pub conflict: bool,
}

/// The base that these view changes, of distinct replicas and all for one view, lead to; `None`
/// when there are too few of them.
///
/// # Panics
///
/// When two candidates are not on one chain: more replicas lie than the committee stands (I10).
pub fn select(
    quorums: &Quorums,
    genesis: Place,
    leader: impl Fn(View) -> NodeId,
    chosen: &[&CheckedViewChange],
) -> Option<Selected> {
    // 1: who was in the highest view. All of them share its base, which is certified.
    let installed = chosen.iter().map(|vc| vc.message.installed).max()?;
    let highest = chosen.iter().copied();
    let highest = highest.filter(|vc| vc.message.installed == installed);
    let highest = highest.collect::<Vec<_>>();
    // 2: the deepest checkpoint of all.
    let checkpoints = chosen.iter().filter_map(|vc| vc.message.checkpoint);
    let checkpoint = checkpoints.map(|found| found.place()).max();
    // 3: two chains of one view prove that its leader lied; it is not counted.
    let conflict = highest.iter().enumerate().any(|(index, one)| {
        let others = highest[index + 1..].iter();
        others.into_iter().any(|other| contradict(one, other))
    });
    let excluded = (conflict && quorums.exclusion).then(|| leader(installed));
    let counts = |vc: &CheckedViewChange| Some(vc.message.replica) != excluded;
    let counted = chosen.iter().filter(|vc| counts(vc)).count();
    if counted < quorums.view_change() {
        return None;
    }
    // 4: the deepest block that is certified.
    let base = highest.first()?.message.certificate;
    let base = base.map_or(genesis, |certificate| certificate.base);
    let certified = highest.iter().filter_map(|vc| vc.message.quorum.as_ref());
    let start = checkpoint
        .into_iter()
        .chain([base])
        .chain(certified.map(|quorum| quorum.block))
        .min_by_key(|place| Reverse(place.slot))?;
    // 5: blocks that nearly all of the counted claim.
    let linked = highest.iter().copied().filter(|vc| {
        counts(vc) && vc.tip().slot > start.slot && vc.digest_at(start.slot) == Some(start.digest)
    });
    let linked = linked.collect::<Vec<_>>();
    let missing_at_most = quorums.missing_at_most(usize::from(excluded.is_some()));
    let claims = |place: Place| {
        let claim = |vc: &&&CheckedViewChange| vc.digest_at(place.slot) == Some(place.digest);
        linked.iter().filter(claim).count()
    };
    let candidate_on = |chain: &CheckedViewChange| {
        let slots = (start.slot.0 + 1..=chain.tip().slot.0).rev().map(Slot);
        let mut places = slots.filter_map(|slot| {
            let digest = chain.digest_at(slot)?;
            Some(Place { slot, digest })
        });
        places.find(|place| counted - claims(*place) <= missing_at_most)
    };
    // 6: the deepest of them.
    let candidates = linked
        .iter()
        .filter_map(|chain| Some((candidate_on(chain)?, *chain)));
    let candidates = candidates.collect::<Vec<_>>();
    let Some((deepest, chain)) = candidates.iter().max_by_key(|(place, _)| place.slot) else {
        return Some(Selected {
            base: start,
            installed,
            conflict,
        });
    };
    for (place, _) in &candidates {
        assert_eq!(
            chain.digest_at(place.slot),
            Some(place.digest),
            "I10: two candidates on different chains: more than {} replicas lie",
            quorums.b
        );
    }
    Some(Selected {
        base: *deepest,
        installed,
        conflict,
    })
}

/// Whether two view changes of one installed view claim different blocks for some slot above both
/// of their anchors. Chains that agree at the highest common slot agree below it.
fn contradict(one: &CheckedViewChange, other: &CheckedViewChange) -> bool {
    let slot = one.tip().slot.min(other.tip().slot);
    slot > one.anchor.slot.max(other.anchor.slot) && one.digest_at(slot) != other.digest_at(slot)
}

#[cfg(test)]
mod tests {
    use wire::block::BlockHeader;
    use wire::certificates::{
        CheckpointCertificate, NewViewCertificate, QuorumCertificate, Signatures,
    };
    use wire::ids::{Digest, Epoch, Signature};
    use wire::view_change::ViewChange;

    use super::*;

    const GENESIS: Place = Place {
        slot: Slot(0),
        digest: Digest([0xee; 32]),
    };

    /// n, b, u, p, exclusion; V, and what may be missing without and with an excluded liar.
    const TABLE: [([usize; 4], bool, [usize; 3]); 6] = [
        ([4, 1, 1, 1], true, [3, 2, 1]),
        ([4, 1, 1, 0], false, [3, 1, 1]),
        ([4, 2, 0, 0], true, [4, 2, 1]),
        ([6, 1, 2, 1], true, [4, 2, 1]),
        ([7, 2, 2, 1], true, [5, 3, 2]),
        ([7, 1, 2, 2], true, [5, 3, 2]),
    ];

    fn random(state: &mut u64, below: u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 20) % below
    }

    fn header(view: u64, slot: u64, parent: Digest, mark: u8) -> BlockHeader {
        BlockHeader::new(
            Epoch(0),
            View(view),
            Slot(slot),
            0,
            parent,
            Digest([mark; 32]),
        )
    }

    /// A chain of one view above `base`.
    fn chain(view: u64, base: Place, mark: u8, length: u64) -> Vec<BlockHeader> {
        let mut parent = base.digest;
        let headers = (1..=length).map(|step| {
            let header = header(view, base.slot.0 + step, parent, mark);
            parent = header.digest();
            header
        });
        headers.collect()
    }

    fn place(header: &BlockHeader) -> Place {
        Place {
            slot: header.slot(),
            digest: header.digest(),
        }
    }

    /// Random, well-formed view changes for view 2: in each of the views 0 and 1 the leader made
    /// two chains, of which the first alone has certificates.
    fn choice(state: &mut u64, n: usize) -> Vec<CheckedViewChange> {
        let fork = |state: &mut u64, view: u64, base: Place| {
            let trunk = chain(view, base, 1, 5);
            let at = random(state, 5) as usize;
            let from = if at == 0 { base } else { place(&trunk[at - 1]) };
            let mut other = trunk[..at].to_vec();
            other.extend(chain(view, from, 2, 5 - at as u64));
            [trunk, other]
        };
        let zero = fork(state, 0, GENESIS);
        let base = place(&zero[0][random(state, 5) as usize]);
        let one = fork(state, 1, base);
        let newest = random(state, 3);
        let mut list = Vec::new();
        for replica in 0..n as u16 {
            if random(state, 5) == 0 {
                continue;
            }
            let installed = newest.min(random(state, 3)).min(1);
            let chains = if installed == 0 { &zero } else { &one };
            let ground = if installed == 0 { GENESIS } else { base };
            let certified = match random(state, 6) {
                0 => Some(zero[0][random(state, 2 + base.slot.0) as usize % 5]),
                1 if newest > 0 => Some(one[0][random(state, 3) as usize]),
                _ => None,
            };
            let certified = certified.filter(|header| {
                // One chain: what view 1 is based on, or below it.
                header.view() == View(1) || header.slot() <= base.slot
            });
            let anchor = certified.map_or(ground, |header| ground.max(place(&header)));
            let own = &chains[usize::from(random(state, 3) == 0)];
            let on_chain = anchor == ground || own.iter().any(|header| place(header) == anchor);
            let above = own.iter().filter(|header| header.slot() > anchor.slot);
            let length = random(state, 6) as usize;
            let headers = above
                .take(if on_chain { length } else { 0 })
                .map(|header| (*header, header.digest()))
                .collect::<Vec<_>>();
            let quorum = chains[0].iter().map(place).chain([anchor]).filter(|block| {
                let reported = headers.iter().any(|(header, _)| place(header) == *block);
                *block == anchor || reported
            });
            let quorum = quorum.collect::<Vec<_>>();
            let quorum =
                (random(state, 4) == 0).then(|| quorum[random(state, 64) as usize % quorum.len()]);
            let digest = Digest([replica as u8; 32]);
            list.push(CheckedViewChange {
                message: ViewChange {
                    view: View(2),
                    replica: NodeId(replica),
                    installed: View(installed),
                    certificate: (installed == 1).then_some(NewViewCertificate {
                        view: View(1),
                        base,
                        acks: Signatures::new(),
                    }),
                    checkpoint: certified.map(|header| CheckpointCertificate {
                        header,
                        root: Digest::ZERO,
                        signatures: Signatures::new(),
                    }),
                    suffix: Vec::new(),
                    tip_signature: Signature([0; 64]),
                    quorum: quorum.map(|block| QuorumCertificate {
                        view: View(installed),
                        block,
                        above: Vec::new(),
                        votes: Vec::new(),
                    }),
                },
                signature: Signature([0; 64]),
                digest,
                anchor,
                headers,
            });
        }
        list
    }

    /// §6.1 word by word, slot by slot.
    fn literal(
        n: usize,
        exclusion: bool,
        [change, missing, missing_excluded]: [usize; 3],
        set: &[CheckedViewChange],
    ) -> Option<(Place, View, bool)> {
        let slots = || (0..40).map(Slot);
        let said = |vc: &CheckedViewChange, slot: Slot| {
            if slot == vc.anchor.slot {
                return Some(vc.anchor.digest);
            }
            let found = vc.headers.iter().find(|(header, _)| header.slot() == slot);
            found.map(|(_, digest)| *digest)
        };
        let mut w = View(0);
        for vc in set {
            w = w.max(vc.message.installed);
        }
        let in_w = |vc: &CheckedViewChange| vc.message.installed == w;
        let mut conflict = false;
        for one in set.iter().filter(|vc| in_w(vc)) {
            for other in set.iter().filter(|vc| in_w(vc)) {
                for slot in slots() {
                    let inside = slot > one.anchor.slot && slot > other.anchor.slot;
                    if let (Some(a), Some(b)) = (said(one, slot), said(other, slot))
                        && inside
                        && a != b
                    {
                        conflict = true;
                    }
                }
            }
        }
        let liar = NodeId((w.0 % n as u64) as u16);
        let excluded = conflict && exclusion;
        let counts = |vc: &CheckedViewChange| !(excluded && vc.message.replica == liar);
        let size = set.iter().filter(|vc| counts(vc)).count();
        if size < change || set.is_empty() {
            return None;
        }
        let mut start: Option<Place> = None;
        let mut deeper = |place: Place| {
            if start.is_none_or(|known| place.slot > known.slot) {
                start = Some(place);
            }
        };
        for vc in set {
            if let Some(checkpoint) = &vc.message.checkpoint {
                deeper(place(&checkpoint.header));
            }
        }
        for vc in set.iter().filter(|vc| in_w(vc)) {
            deeper(vc.message.certificate.map_or(GENESIS, |known| known.base));
        }
        for vc in set.iter().filter(|vc| in_w(vc)) {
            if let Some(quorum) = &vc.message.quorum {
                deeper(quorum.block);
            }
        }
        let start = start?;
        let linked = |vc: &CheckedViewChange| {
            in_w(vc) && counts(vc) && said(vc, start.slot) == Some(start.digest)
        };
        let mut best = start;
        for slot in slots().filter(|slot| *slot > start.slot) {
            for claimed in set.iter().filter(|vc| linked(vc)) {
                let Some(digest) = said(claimed, slot) else {
                    continue;
                };
                let support = set
                    .iter()
                    .filter(|vc| linked(vc) && said(vc, slot) == Some(digest));
                let allowed = if excluded { missing_excluded } else { missing };
                if size - support.count() <= allowed {
                    assert!(
                        best.slot < slot || best == Place { slot, digest },
                        "one chain"
                    );
                    best = Place { slot, digest };
                }
            }
        }
        Some((best, w, conflict))
    }

    #[test]
    fn select_is_what_the_protocol_says_word_by_word() {
        let mut state = 0x5eed_u64;
        let mut seen = [0usize; 4];
        for ([n, b, u, p], exclusion, sizes) in TABLE {
            let quorums = Quorums::new(n, b, u, p, exclusion);
            for _ in 0..2_500 {
                let set = choice(&mut state, n);
                let parts = set.iter().collect::<Vec<_>>();
                let leader = |view: View| NodeId((view.0 % n as u64) as u16);
                let found = select(&quorums, GENESIS, leader, &parts);
                let found = found.map(|found| (found.base, found.installed, found.conflict));
                let expected = literal(n, exclusion, sizes, &set);
                assert_eq!(found, expected, "n={n} b={b} u={u} p={p}: {set:#?}");
                match expected {
                    None => seen[0] += 1,
                    Some((.., true)) => seen[1] += 1,
                    Some((_, View(1), _)) => seen[2] += 1,
                    Some(_) => seen[3] += 1,
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 300), "{seen:?}");
    }
}
