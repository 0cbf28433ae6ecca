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
