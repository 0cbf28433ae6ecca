//! Four cores over a lossy, reordering network of messages; the caller's part is played here.

use std::collections::{BTreeMap, VecDeque};

use consensus::quorum::Quorums;
use consensus::{Config, Core, Effect, Input, Outbox, Recipient, Recovered, Source};
use wire::block::{BlockHeader, BlockRef};
use wire::ids::{Digest, Epoch, Instant, NodeId, Position, Signature, Slot, View};
use wire::messages::Status;

const N: usize = 4;
const GENESIS: Digest = Digest([9; 32]);

#[derive(Clone, Debug)]
enum Message {
    Block(Source, BlockHeader),
    Vote(BlockRef),
    Status(Status),
    Decided(Slot, Digest),
    FetchBlock(Slot, Digest, Slot),
    FetchRange(Slot, u64),
}

struct Replica {
    core: Core,
    /// Every block whose bytes this replica has, by slot.
    blocks: BTreeMap<Slot, BlockHeader>,
    /// Log records not yet durable.
    log_end: u64,
    decided: Vec<Digest>,
    crashed: bool,
}

struct Cluster {
    now: u64,
    random: u64,
    loss_percent: u64,
    replicas: Vec<Replica>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    /// What the leader sends instead of its block to one replica, for one slot.
    bait: Option<(NodeId, Slot)>,
    /// Withholds its votes, and names in each STATUS a block that does not exist, right above what
    /// the receiver has decided.
    liar: Option<NodeId>,
    /// The copy of this slot that the leader sends this replica bears a bad signature; the
    /// verifier says so only when the block is decided there.
    bad_copy: Option<(NodeId, Slot)>,
    /// Payload number of the next own block; makes digests differ.
    payload: u8,
    evidence: usize,
}

fn config(me: u16) -> Config {
    Config {
        me: NodeId(me),
        quorums: Quorums::new(N, 1, 1, 1).unwrap(),
        epoch: Epoch(0),
        genesis: GENESIS,
        blocks_held_max: 192,
    }
}

impl Cluster {
    fn new(loss_percent: u64, seed: u64) -> Cluster {
        let replica = |me| Replica {
            core: Core::new(config(me), Recovered::blank(GENESIS), Instant(0)),
            blocks: BTreeMap::new(),
            log_end: 0,
            decided: vec![GENESIS],
            crashed: false,
        };
        Cluster {
            now: 0,
            random: seed | 1,
            loss_percent,
            replicas: (0..N as u16).map(replica).collect(),
            network: VecDeque::new(),
            bait: None,
            liar: None,
            bad_copy: None,
            payload: 0,
            evidence: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn send(&mut self, from: NodeId, to: NodeId, mut message: Message) {
        if self.liar == Some(from) {
            match &mut message {
                Message::Vote(_) => return,
                Message::Status(status) => {
                    status.voted_slot = Slot(self.decided(to.index()) as u64 + 1);
                    status.voted_digest = Digest([self.random() as u8; 32]);
                }
                _ => {}
            }
        }
        if self.random() % 100 >= self.loss_percent {
            self.network.push_back((from, to, message));
        }
    }

    fn others(from: NodeId) -> impl Iterator<Item = NodeId> {
        (0..N as u16).map(NodeId).filter(move |id| *id != from)
    }

    fn propose(&mut self) {
        let leader = NodeId(0);
        if self.replicas[0].crashed {
            return;
        }
        let Some((slot, parent)) = self.replicas[0].core.proposal_parent() else {
            return;
        };
        self.payload = self.payload.wrapping_add(1);
        let block =
            |payload| BlockHeader::new(Epoch(0), View(0), slot, 0, parent, Digest([payload; 32]));
        let header = block(self.payload);
        self.replicas[0].blocks.insert(slot, header);
        for to in Cluster::others(leader) {
            let baited = self.bait == Some((to, slot));
            let sent = if baited {
                block(self.payload.wrapping_add(100))
            } else {
                header
            };
            self.send(leader, to, Message::Block(Source::Proposed, sent));
        }
        let signature = Signature([0; 64]);
        self.input(
            leader,
            Input::Own {
                header,
                signature,
                digest: header.digest(),
            },
        );
    }

    fn input(&mut self, at: NodeId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Outbox::new();
            let now = Instant(self.now);
            let offered = match &input {
                Input::Block { header, .. } => Some(*header),
                _ => None,
            };
            self.replicas[at.index()].core.handle(now, input, &mut out);
            for effect in out.drain().collect::<Vec<_>>() {
                self.carry_out(at, offered, effect, &mut inputs);
            }
        }
    }

    fn carry_out(
        &mut self,
        at: NodeId,
        offered: Option<BlockHeader>,
        effect: Effect,
        inputs: &mut VecDeque<Input>,
    ) {
        let replica = &mut self.replicas[at.index()];
        if let Some(header) = offered
            && effect.keeps(header.slot())
        {
            replica.blocks.insert(header.slot(), header);
        }
        match effect {
            Effect::Append {
                slot,
                digest,
                verify,
            } => {
                assert_eq!(replica.blocks[&slot].digest(), digest);
                replica.log_end += 4096;
                inputs.push_back(Input::Appended {
                    slot,
                    end: Position(replica.log_end),
                });
                inputs.push_back(Input::Durable {
                    position: Position(replica.log_end),
                });
                if self.bad_copy == Some((at, slot)) {
                    return;
                }
                if verify {
                    inputs.push_back(Input::Checked {
                        slot,
                        digest,
                        valid: true,
                    });
                }
            }
            Effect::Final { slot, .. } => {
                if let Some((victim, bad)) = self.bad_copy
                    && victim == at
                    && bad <= slot
                {
                    self.bad_copy = None;
                    let digest = replica.blocks[&bad].digest();
                    inputs.push_back(Input::Checked {
                        slot: bad,
                        digest,
                        valid: false,
                    });
                }
                for decided in replica.decided.len() as u64..=slot.0 {
                    let digest = replica.blocks[&Slot(decided)].digest();
                    replica.decided.push(digest);
                }
                inputs.push_back(Input::Executed { slot });
            }
            Effect::Vote { to, vote } => self.deliver(at, to, Message::Vote(vote)),
            Effect::Status { to, status } => self.deliver(at, to, Message::Status(status)),
            Effect::Decided { to, slot } => {
                let digest = replica.decided[slot.0 as usize];
                self.send(at, to, Message::Decided(slot, digest));
            }
            Effect::FetchBlock {
                to,
                slot,
                digest,
                have,
            } => {
                self.send(at, to, Message::FetchBlock(slot, digest, have));
            }
            Effect::FetchRange { to, first, count } => {
                self.send(at, to, Message::FetchRange(first, count));
            }
            Effect::Blocks {
                to,
                first,
                last,
                newest_first,
            } => {
                let mut blocks: Vec<_> = replica
                    .blocks
                    .range(first..=last)
                    .map(|(_, header)| *header)
                    .collect();
                if newest_first {
                    blocks.reverse();
                }
                for header in blocks {
                    self.send(at, to, Message::Block(Source::Fetched, header));
                }
            }
            Effect::Evidence(evidence) => {
                assert!(evidence.is_proof());
                replica.core.evidence_stored();
                self.evidence += 1;
            }
            Effect::Forget { slot } => {
                replica.blocks.remove(&slot);
            }
            Effect::Hold { .. } | Effect::Refuse { .. } | Effect::Grains { .. } => {}
        }
    }

    fn deliver(&mut self, from: NodeId, to: Recipient, message: Message) {
        match to {
            Recipient::One(to) => self.send(from, to, message),
            Recipient::All => {
                for to in Cluster::others(from) {
                    self.send(from, to, message.clone());
                }
            }
        }
    }

    /// Delivers one random message, or lets a millisecond pass.
    fn step(&mut self) {
        self.now += 10_000;
        if self.network.is_empty() || self.random().is_multiple_of(32) {
            self.now += 200_000;
            for id in (0..N as u16).map(NodeId) {
                if !self.replicas[id.index()].crashed {
                    self.input(id, Input::Tick);
                }
            }
            return;
        }
        let at = (self.random() % self.network.len().min(6) as u64) as usize;
        let (from, to, message) = self.network.remove(at).unwrap();
        if self.replicas[to.index()].crashed {
            return;
        }
        let input = match message {
            Message::Block(source, header) => Input::Block {
                from,
                source,
                header,
                signature: Signature([0; 64]),
                digest: header.digest(),
            },
            Message::Vote(vote) => Input::Vote { from, vote },
            Message::Status(status) => Input::Status {
                from,
                view: View(0),
                status,
            },
            Message::Decided(slot, digest) => Input::Decided { from, slot, digest },
            Message::FetchBlock(slot, digest, have) => Input::FetchBlock {
                from,
                slot,
                digest,
                have,
                grains: false,
            },
            Message::FetchRange(first, count) => Input::FetchRange { from, first, count },
        };
        self.input(to, input);
        self.check_agreement();
    }

    fn check_agreement(&self) {
        for pair in self.replicas.windows(2) {
            let both = pair[0].decided.len().min(pair[1].decided.len());
            assert_eq!(pair[0].decided[..both], pair[1].decided[..both]);
        }
    }

    fn decided(&self, id: usize) -> usize {
        self.replicas[id].decided.len() - 1
    }

    fn run_until(&mut self, blocks: usize, ids: &[usize]) {
        for _ in 0..2_000_000 {
            if ids.iter().all(|id| self.decided(*id) >= blocks) {
                return;
            }
            if self.decided(0) < blocks {
                self.propose();
            }
            self.step();
        }
        let decided: Vec<_> = (0..N).map(|id| self.decided(id)).collect();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for (from, to, message) in &self.network {
            let kind = format!("{message:?}")
                .split('(')
                .next()
                .unwrap_or_default()
                .to_owned();
            *kinds.entry(format!("{from}->{to} {kind}")).or_default() += 1;
        }
        eprintln!("now {} ns, network: {kinds:?}", self.now);
        let summaries: Vec<_> = self.replicas.iter().map(|r| r.core.summary()).collect();
        panic!("no progress to {blocks}: {decided:?} {summaries:?}");
    }
}

#[test]
fn decides_without_faults() {
    let mut cluster = Cluster::new(0, 1);
    cluster.run_until(500, &[0, 1, 2, 3]);
}

#[test]
fn decides_under_loss_and_reordering() {
    for seed in 1..20 {
        let mut cluster = Cluster::new(30, seed * 7919);
        cluster.run_until(200, &[0, 1, 2, 3]);
    }
}

#[test]
fn one_crashed_follower_does_not_stop_three_and_catches_up_from_far_behind() {
    let mut cluster = Cluster::new(5, 77);
    cluster.replicas[3].crashed = true;
    cluster.run_until(3000, &[0, 1, 2]);
    cluster.replicas[3].crashed = false;
    cluster.run_until(3000, &[0, 1, 2, 3]);
    cluster.run_until(3100, &[0, 1, 2, 3]);
}

#[test]
fn two_crashed_of_four_decide_nothing() {
    let mut cluster = Cluster::new(0, 5);
    cluster.run_until(10, &[0, 1, 2, 3]);
    cluster.replicas[2].crashed = true;
    cluster.replicas[3].crashed = true;
    for _ in 0..5_000 {
        cluster.step();
    }
    let before = cluster.decided(0);
    for _ in 0..20_000 {
        cluster.propose();
        cluster.step();
    }
    assert_eq!(cluster.decided(0), before);
}

#[test]
fn an_equivocating_leader_is_accused_and_its_victim_learns_the_decision() {
    for seed in 1..20 {
        let mut cluster = Cluster::new(2, seed * 104_729);
        cluster.run_until(20, &[0, 1, 2, 3]);
        let bait_slot = cluster.replicas[0].core.proposal_parent().unwrap().0;
        cluster.bait = Some((NodeId(2), bait_slot));
        cluster.run_until(60, &[0, 1, 2, 3]);
        assert!(cluster.evidence > 0, "seed {seed}: nobody holds evidence");
    }
}

#[test]
fn a_restarted_leader_proposes_nothing_in_its_old_view() {
    let recovered = Recovered {
        restarted_in: Some((Epoch(0), View(0))),
        ..Recovered::blank(GENESIS)
    };
    let core = Core::new(config(0), recovered, Instant(0));
    assert_eq!(core.proposal_parent(), None);
    assert!(core.summary().barred);
    assert!(
        Core::new(config(0), Recovered::blank(GENESIS), Instant(0))
            .proposal_parent()
            .is_some()
    );
}

#[test]
fn false_hints_of_a_silent_voter_do_not_stop_repair() {
    for seed in 1..10 {
        let mut cluster = Cluster::new(20, seed * 6151);
        cluster.liar = Some(NodeId(3));
        cluster.run_until(200, &[0, 1, 2]);
    }
}

/// The digest that is voted does not bind the leader's signature.
#[test]
fn a_bad_signature_on_a_decided_block_changes_nothing() {
    let mut cluster = Cluster::new(0, 3);
    cluster.run_until(20, &[0, 1, 2, 3]);
    let slot = cluster.replicas[0].core.proposal_parent().unwrap().0;
    cluster.bad_copy = Some((NodeId(1), slot));
    cluster.run_until(slot.0 as usize, &[0, 1, 2, 3]);
    assert_eq!(cluster.bad_copy, None);
    // Its votes count again: the others cannot do without them.
    cluster.replicas[2].crashed = true;
    cluster.run_until(slot.0 as usize + 40, &[0, 1, 3]);
}

#[test]
fn questions_with_extreme_numbers_are_answered_or_ignored() {
    let mut cluster = Cluster::new(0, 9);
    cluster.run_until(20, &[0, 1, 2, 3]);
    let (from, digest) = (NodeId(3), cluster.replicas[1].decided[20]);
    for (slot, have) in [(20, u64::MAX), (20, 0), (u64::MAX, u64::MAX)] {
        cluster.input(
            NodeId(1),
            Input::FetchBlock {
                from,
                slot: Slot(slot),
                digest,
                have: Slot(have),
                grains: false,
            },
        );
    }
    for (first, count) in [(u64::MAX, u64::MAX), (20, u64::MAX), (0, 1)] {
        let first = Slot(first);
        cluster.input(NodeId(1), Input::FetchRange { from, first, count });
    }
    cluster.run_until(30, &[0, 1, 2, 3]);
}
