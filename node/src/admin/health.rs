//! Judges a node by its own numbers: what it serves, and why not.

use wire::ids::{Instant, NodeId};
use wire::messages::Durability;

use super::Source;
use crate::telemetry::{LogFull, Phase, Telemetry};

/// A peer that was not heard for this long is down. Idle replicas speak every 100 ms.
pub const SILENCE_NS: u64 = 1_000_000_000;
/// A hot thread without a turn for this long hangs.
const HANG_NS: u64 = 5_000_000_000;
/// So long after the start, a peer that was never heard is not yet called down.
const GRACE_NS: u64 = 3_000_000_000;

/// What the node can do, as `status.json` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Serving,
    /// Nothing new commits: the leader is down, or restarted within its view.
    StoppedLeader,
    /// This node may have forgotten votes and gives none; the others go on (R3).
    Silent,
    /// Nothing new commits: more nodes are silent or down than the committee bears (R3).
    StoppedSilent,
    /// New transactions are refused, reads go on.
    LogFull,
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Serving => "serving",
            State::StoppedLeader => "stopped-leader",
            State::Silent => "silent",
            State::StoppedSilent => "stopped-silent",
            State::LogFull => "log-full",
            State::Failed => "failed",
        }
    }
}

/// Whether a peer was heard lately.
pub fn is_up(telemetry: &Telemetry, peer: NodeId, now: Instant) -> bool {
    if peer == telemetry.node {
        return true;
    }
    let heard = telemetry
        .peers
        .get(peer.index())
        .map_or(0, |peer| peer.last_heard_ns.get());
    heard != 0 && now.since_ns(Instant(heard)) < SILENCE_NS
}

/// The state and, where there is something to say, the reason.
pub fn judge(source: &Source) -> (State, String) {
    let telemetry = &*source.telemetry;
    let now = (source.now)();
    match telemetry.phase.get() {
        Phase::Starting => return (State::Starting, "reading the log".to_owned()),
        Phase::Stopping => return (State::Failed, "the node is stopping".to_owned()),
        Phase::Failed => return (State::Failed, "a hot thread gave up".to_owned()),
        Phase::Serving => {}
    }
    if let Some(found) = silence(telemetry, now, source.faults) {
        return found;
    }
    if let Some(reason) = stopped_leader(telemetry, now) {
        return (State::StoppedLeader, reason);
    }
    match telemetry.log.full.get() {
        LogFull::No => {}
        full => return (State::LogFull, full.name().to_owned()),
    }
    let heard = heard(source, now);
    if heard < source.quorum && now.since_ns(telemetry.started) > GRACE_NS {
        let reason = format!(
            "hears {heard} of {} nodes, itself included; {} are needed to commit",
            telemetry.peers.len(),
            source.quorum
        );
        return (State::Serving, reason);
    }
    let careless = telemetry.durability.get() == Some(&Durability::None);
    let warning = if careless { NO_DURABILITY } else { "" };
    (State::Serving, warning.to_owned())
}

/// Said wherever a node without durability says something of itself.
pub const NO_DURABILITY: &str = "durability = none: nothing waits for the disk. For benchmarks \
    alone; a node that does not stop cleanly has lost its disk and refuses to start again";

/// What silent nodes mean for this one and for the cluster (R3), when there are any.
pub fn silence(telemetry: &Telemetry, now: Instant, faults: usize) -> Option<(State, String)> {
    let ids = || (0..telemetry.peers.len()).map(|id| NodeId(id as u16));
    let until = |id: NodeId| telemetry.peers[id.index()].silent_until.get();
    let is_silent = |id: &NodeId| until(*id) > 0 && is_up(telemetry, *id, now);
    let silent = ids().filter(is_silent).collect::<Vec<_>>();
    if silent.is_empty() {
        return None;
    }
    let early = now.since_ns(telemetry.started) <= GRACE_NS;
    let is_down = |id: &NodeId| !is_up(telemetry, *id, now) && !early;
    let down = ids().filter(is_down).collect::<Vec<_>>();
    let named = silent
        .iter()
        .map(|id| format!("node {id} until slot {}", until(*id)));
    let named = named.collect::<Vec<_>>().join(", ");
    if silent.len() + down.len() > faults {
        let down = match &down[..] {
            [] => String::new(),
            down => format!(
                ", and {} down",
                down.iter()
                    .map(|id| format!("node {id}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let reason = format!(
            "nothing commits: silent after an unclean end under durability = lease: {named}{down}; \
             the committee bears {faults} such nodes at once (R3). Nothing wrong was answered. Start \
             what is down; nodes whose silence ends with a checkpoint that others hold speak again \
             by themselves, beyond that no safe way leads on"
        );
        return Some((State::StoppedSilent, reason));
    }
    let own = telemetry.order.silent_until.get();
    (own > 0).then(|| {
        let at = telemetry.order.checkpoint_slot.get();
        let reason = format!(
            "silent until a checkpoint at slot {own} is certified: votes may be forgotten, or the state \
             is gone (R3, R5; the log of the start says which); its checkpoint is slot {at}"
        );
        (State::Silent, reason)
    })
}

fn heard(source: &Source, now: Instant) -> usize {
    (0..source.telemetry.peers.len())
        .filter(|id| is_up(&source.telemetry, NodeId(*id as u16), now))
        .count()
}

fn stopped_leader(telemetry: &Telemetry, now: Instant) -> Option<String> {
    let order = &telemetry.order;
    let leader = NodeId(order.leader.get() as u16);
    if order.is_leader.get() {
        return (!order.may_propose.get()).then(|| restarted(leader));
    }
    let peer = telemetry.peers.get(leader.index())?;
    let never_heard = peer.last_heard_ns.get() == 0;
    if never_heard && now.since_ns(telemetry.started) < GRACE_NS {
        return None;
    }
    if !is_up(telemetry, leader, now) {
        return Some(format!(
            "leader {leader} is down: the others are about to replace it"
        ));
    }
    None
}

fn restarted(leader: NodeId) -> String {
    format!(
        "leader {leader} restarted within its view and may not propose in it again (R4): it hands \
         over to the next"
    )
}

/// Whether the process is worth keeping.
pub fn alive(telemetry: &Telemetry, now: Instant) -> Result<(), String> {
    if telemetry.phase.get() == Phase::Failed {
        return Err("a hot thread gave up".to_owned());
    }
    for (stage, beat) in telemetry.heartbeat_ns.iter() {
        let beat = beat.get();
        if beat != 0 && now.since_ns(Instant(beat)) > HANG_NS {
            return Err(format!("stage {} hangs", stage.name()));
        }
    }
    Ok(())
}

/// Whether a client should be sent here.
pub fn ready(source: &Source) -> Result<(), String> {
    let (state, reason) = judge(source);
    if state != State::Serving {
        return Err(format!("{}: {reason}", state.name()));
    }
    if heard(source, (source.now)()) < source.quorum {
        return Err(format!("no quorum: {reason}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW_NS: u64 = 100_000_000_000;

    fn now() -> Instant {
        Instant(NOW_NS)
    }

    fn source(node: u16) -> Source {
        let telemetry = Arc::new(Telemetry::new(NodeId(node), 4, Instant(1)));
        telemetry.phase.set(Phase::Serving);
        for peer in &telemetry.peers {
            peer.last_heard_ns.set(NOW_NS - 1000);
            peer.boot.set(1);
        }
        telemetry.order.may_propose.set(true);
        Source {
            telemetry,
            members: vec!["127.0.0.1:1".parse().unwrap(); 4],
            quorum: 3,
            faults: 1,
            committee: crate::inspect::tests::shared_committee(),
            now,
        }
    }

    #[test]
    fn a_whole_cluster_serves() {
        let source = source(1);
        assert_eq!(judge(&source), (State::Serving, String::new()));
        assert_eq!(ready(&source), Ok(()));
        source.telemetry.phase.set(Phase::Starting);
        assert_eq!(judge(&source).0, State::Starting);
    }

    #[test]
    fn a_silent_leader_stops_the_cluster() {
        let source = source(1);
        source.telemetry.peers[0]
            .last_heard_ns
            .set(NOW_NS - SILENCE_NS);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::StoppedLeader);
        assert_eq!(
            reason,
            "leader 0 is down: the others are about to replace it"
        );
        assert!(ready(&source).is_err());
    }

    #[test]
    fn a_restarted_leader_hands_over() {
        let follower = source(2);
        follower.telemetry.peers[0].boot.set(2);
        assert_eq!(judge(&follower).0, State::Serving);
        let leader = source(0);
        leader.telemetry.order.is_leader.set(true);
        assert_eq!(judge(&leader).0, State::Serving);
        leader.telemetry.order.may_propose.set(false);
        let (state, reason) = judge(&leader);
        assert_eq!(state, State::StoppedLeader);
        assert!(reason.contains("R4"));
    }

    #[test]
    fn a_full_log_and_a_lost_quorum_are_told_apart() {
        let source = source(1);
        source.telemetry.log.full.set(LogFull::NoSpace);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::LogFull);
        assert!(reason.contains("no space for a new WAL segment"));
        source.telemetry.log.full.set(LogFull::No);
        source.telemetry.peers[2].last_heard_ns.set(0);
        assert_eq!(ready(&source), Ok(()));
        source.telemetry.peers[3].last_heard_ns.set(0);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::Serving);
        assert!(reason.contains("hears 2 of 4"), "{reason}");
        assert!(ready(&source).is_err());
    }

    #[test]
    fn silent_nodes_are_named_and_too_many_stop_the_cluster() {
        let source = source(1);
        let telemetry = &source.telemetry;
        telemetry.peers[2].silent_until.set(2048);
        assert_eq!(judge(&source).0, State::Serving);
        telemetry.peers[2].silent_until.set(0);
        telemetry.peers[1].silent_until.set(4096);
        telemetry.order.silent_until.set(4096);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::Silent);
        assert!(reason.contains("slot 4096"), "{reason}");
        assert!(ready(&source).is_err());
        // Another one is dead, or silent too.
        telemetry.peers[3].last_heard_ns.set(0);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::StoppedSilent);
        assert!(
            reason.contains("node 1 until slot 4096, and node 3 down"),
            "{reason}"
        );
        telemetry.peers[3].last_heard_ns.set(NOW_NS - 1000);
        telemetry.peers[3].silent_until.set(2048);
        let (state, reason) = judge(&source);
        assert_eq!(state, State::StoppedSilent);
        assert!(reason.contains("node 3 until slot 2048;"), "{reason}");
    }

    #[test]
    fn no_durability_is_said() {
        let source = source(1);
        source.telemetry.durability.set(Durability::None).unwrap();
        let (state, reason) = judge(&source);
        assert_eq!(state, State::Serving);
        assert!(reason.contains("benchmarks"));
    }

    #[test]
    fn a_hanging_stage_is_named() {
        let source = source(1);
        assert_eq!(alive(&source.telemetry, now()), Ok(()));
        let journal = crate::telemetry::Stage::Journal;
        let beat = source.telemetry.heartbeat_ns.of(journal);
        beat.set(NOW_NS - 10);
        assert_eq!(alive(&source.telemetry, now()), Ok(()));
        beat.set(NOW_NS - HANG_NS - 1);
        let error = alive(&source.telemetry, now()).unwrap_err();
        assert_eq!(error, "stage journal hangs");
    }
}
