//! Flight recordings of simulated servers: exact, and sensitive to what is changed.

use replica::recording::{Ending, Mismatch, Reel, ReplayError, Report, replay};
use sim::plan::{Options, Plan};
use sim::seals::Seal;
use sim::world;
use wire::ids::NodeId;

fn run(me: NodeId, reels: &[Reel], seal: &Seal) -> Report {
    replay(me, reels, seal.clone(), |_| {}).expect("a recording")
}

/// Offsets of all frames of a kind in a reel.
fn frames(reel: &Reel, kind: u8) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    while at < reel.bytes.len() {
        let length = reel.bytes[at..at + 4].try_into().expect("four bytes");
        if reel.bytes[at + 4] == kind {
            found.push(at);
        }
        at += (8 + u32::from_le_bytes(length) as usize).next_multiple_of(8);
    }
    found
}

const INPUT: u8 = 3;
/// Of [`consensus::Input`], in an image.
const DURABLE: u8 = 6;
const VOTE: u8 = 7;

/// Inputs of one kind, by the offset behind its tag.
fn inputs(reel: &Reel, tag: u8) -> Vec<usize> {
    let inputs = frames(reel, INPUT).into_iter().map(|at| at + 8 + 8);
    let tagged = inputs.filter(|at| reel.bytes[*at] == tag);
    tagged.map(|at| at + 1).collect()
}

#[test]
fn replays_come_to_the_same_from_boot_and_from_the_middle() {
    let (mut from_boot, mut from_middle, mut states) = (0, 0, 0);
    for seed in [7, 15, 23, 31, 39, 71, 103, 135] {
        for (me, reels, seal) in world::run_for_recordings(&Plan::new(seed, Options::default())) {
            let report = match replay(me, &reels, seal.clone(), |_| {}) {
                // More to remember than a small reel holds.
                Err(ReplayError::NoImage) => continue,
                report => report.expect("a recording"),
            };
            assert_eq!(report.mismatch, None, "seed {seed} replica {me}");
            assert_eq!(report.ending, Ending::Whole);
            if report.from_boot {
                from_boot += 1;
            } else {
                from_middle += 1;
            }
            states += report.states_compared;
            // The newest reel alone: always from an image on the way, but for the first.
            let newest = &reels[reels.len() - 1..];
            if let Ok(report) = replay(me, newest, seal.clone(), |_| {}) {
                assert_eq!(report.mismatch, None);
                from_middle += u64::from(!report.from_boot);
            }
        }
    }
    assert!(
        from_boot > 0 && from_middle > 0 && states > 0,
        "{from_boot} {from_middle} {states}"
    );
}

#[test]
fn a_changed_input_is_noticed() {
    let recordings = world::run_for_recordings(&Plan::new(31, Options::default()));
    let (me, reels, seal) = &recordings[0];
    let reel = &reels[..1];
    let changed = |at: usize, change: &dyn Fn(&mut [u8])| {
        let mut reel = reel.to_vec();
        change(&mut reel[0].bytes[at..]);
        run(*me, &reel, seal).mismatch
    };
    // What is durable a little later than it was: votes wait.
    let durable = inputs(&reel[0], DURABLE);
    let mut noticed = 0;
    for at in &durable {
        let found = changed(*at, &|bytes| {
            let position = u64::from_le_bytes(bytes[..8].try_into().expect("a position"));
            bytes[..8].copy_from_slice(&(position.saturating_sub(4096)).to_le_bytes());
        });
        noticed += usize::from(found.is_some());
    }
    assert!(
        2 * noticed > durable.len(),
        "{noticed} of {}",
        durable.len()
    );
    // Votes for other blocks: quorums are not met when they were.
    let votes = inputs(&reel[0], VOTE);
    let mut noticed = 0;
    for at in votes.iter().take(60) {
        // from u16, view u64, slot u64, digest.
        let found = changed(at + 18, &|bytes| bytes[0] ^= 1);
        noticed += usize::from(found.is_some());
    }
    assert!(
        4 * noticed > votes.len().min(60),
        "{noticed} of {}",
        votes.len()
    );
}

#[test]
fn changed_outcomes_and_states_are_noticed_where_they_are() {
    let recordings = world::run_for_recordings(&Plan::new(31, Options::default()));
    let (me, reels, seal) = &recordings[0];
    let outcomes = frames(&reels[0], 4);
    let mut changed = reels.clone();
    changed[0].bytes[outcomes[5] + 8 + 8] ^= 1;
    let found = run(*me, &changed, seal).mismatch;
    assert!(matches!(found, Some(Mismatch::Outcome { number: 5, .. })));
}
