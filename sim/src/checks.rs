//! The judge: sees everything, trusts nobody, and restates what must hold in its own numbers.

use std::collections::BTreeMap;

use client::Failure;
use storage::record::{self, Decoded, Identity, Kind as RecordKind};
use storage::table::Table;
use wire::block::BlockView;
use wire::header::{Header, Kind};
use wire::ids::{Digest, NodeId, Slot};
use wire::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};

use crate::buffers::Shared;
use crate::linear::{self, Checked, History, Seen};
use crate::model::{Answer, Model, table_hash};
use crate::node::{Node, Server};
use crate::plan::Scenario;
use crate::user::{self, Ended, User};

/// Results of this length, its first byte not counted, are no longer kept whole; restated.
const CACHED_BYTES: usize = 64;

/// Votes that decide, by number of replicas; a table on purpose.
const VOTES: [(usize, usize); 2] = [(4, 3), (5, 4)];

/// Whether the simulator can judge clusters of this size.
pub fn judges(nodes: usize) -> bool {
    VOTES.iter().any(|(n, _)| *n == nodes)
}

/// What is known of one replica over all of its processes.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Highest slot whose block record was flushed.
    durable: Slot,
    /// What it flushed for each slot, last.
    held: BTreeMap<Slot, Digest>,
    /// Highest slot that it decided in the present process, and ever.
    decided: Slot,
    decided_ever: Slot,
    executed: Slot,
    /// An earlier process of this replica sent anything to a peer.
    spoke_before: bool,
    /// The number of the present process, and of the last one that sent anything.
    boot: u32,
    boot_spoken: u32,
    /// A liar: nothing that it says or holds counts.
    faulty: bool,
}

/// See the module's documentation.
pub struct Judge {
    votes_needed: usize,
    known: Vec<Known>,
    /// The one digest of each slot, from votes, records and decisions; from decisions alone when a
    /// leader may say one thing to one replica and another to the next.
    digests: BTreeMap<Slot, Digest>,
    prefixes: BTreeMap<Slot, u64>,
    blocks: BTreeMap<(Slot, Digest), Vec<u8>>,
    decided: Slot,
    model: Model,
    acknowledged: u64,
    results_lost: u64,
    /// Highest slot of an acknowledged operation.
    acknowledged_slot: Slot,
    /// What the records of a write under way hold, by replica.
    writing: Vec<Vec<(Slot, Digest)>>,
    /// What clients asked and were told; says nothing of slots but where to look first.
    history: History,
}

type Check = Result<(), String>;

impl Judge {
    pub fn new(nodes: usize) -> Judge {
        let votes_needed = VOTES
            .iter()
            .find(|(n, _)| *n == nodes)
            .map(|(_, votes)| *votes);
        Judge {
            votes_needed: votes_needed.expect("a size that can be judged"),
            known: vec![Known::default(); nodes],
            digests: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            decided: Slot(0),
            model: Model::new(),
            acknowledged: 0,
            results_lost: 0,
            acknowledged_slot: Slot(0),
            writing: vec![Vec::new(); nodes],
            history: History::default(),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Operations of which a client learned only that they were executed.
    pub fn results_lost(&self) -> u64 {
        self.results_lost
    }

    pub fn acknowledged_slot(&self) -> Slot {
        self.acknowledged_slot
    }

    pub fn decided(&self) -> Slot {
        self.decided
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// From now on this replica counts as faulty.
    pub fn distrust(&mut self, id: NodeId) {
        self.known[id.index()].faulty = true;
    }

    fn is_faulty(&self, id: NodeId) -> bool {
        self.known[id.index()].faulty
    }

    /// Up to where a replica's blocks are on its disk.
    pub fn durable(&self, id: NodeId) -> Slot {
        self.known[id.index()].durable
    }

    /// Whether the present process of a replica has sent anything to a peer.
    pub fn spoke(&self, id: NodeId) -> bool {
        let known = &self.known[id.index()];
        known.boot_spoken == known.boot
    }

    /// A process started and has read its log; `whole` says that the disk was not taken away.
    pub fn started(&mut self, node: &Node, whole: bool) -> Check {
        let known = &mut self.known[node.id.index()];
        known.spoke_before = known.boot_spoken > 0;
        (known.decided, known.executed) = (Slot(0), Slot(0));
        self.writing[node.id.index()].clear();
        if self.is_faulty(node.id) {
            return Ok(());
        }
        let known = &mut self.known[node.id.index()];
        let Some(server) = &node.server else {
            return Ok(());
        };
        known.boot = server.boot().0;
        let summary = server.summary();
        known.durable = known.durable.max(summary.linked);
        if whole && known.boot <= known.boot_spoken {
            let boot = known.boot;
            return Err(format!(
                "R4: replica {} speaks in boot {boot} again",
                node.id
            ));
        }
        self.handled(node)
    }

    /// A datagram leaves a replica.
    pub fn sends(&mut self, from: NodeId, datagram: &[u8]) -> Check {
        let Ok((header, kind, body)) = Header::split(datagram) else {
            return Err(format!("replica {from} sent a malformed datagram"));
        };
        let slot = header.peer_route().slot();
        let known = &mut self.known[from.index()];
        known.boot_spoken = known.boot;
        let restarted = known.spoke_before;
        match kind {
            Kind::Vote => {
                let digest = body.first_chunk().copied().map(Digest);
                let digest = digest.ok_or_else(|| format!("short vote of {from}"))?;
                self.said(slot, digest, &format!("vote of {from}"))?;
                let known = &self.known[from.index()];
                if slot > known.durable {
                    let durable = known.durable;
                    return Err(format!(
                        "R2: {from} votes for slot {slot} while {durable} is durable"
                    ));
                }
                Ok(())
            }
            Kind::Propose => {
                if restarted {
                    return Err(format!("R4: restarted {from} proposes slot {slot}"));
                }
                let name = header.fragment().message;
                match self.prefixes.insert(slot, name) {
                    Some(other) if other != name => {
                        Err(format!("I9: {from} proposes two blocks for slot {slot}"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// A vote or record names a digest: one for each slot while nobody lies.
    fn said(&mut self, slot: Slot, digest: Digest, what: &str) -> Check {
        if self.known.iter().any(|known| known.faulty) {
            return Ok(());
        }
        self.same_digest(slot, digest, what)
    }

    fn same_digest(&mut self, slot: Slot, digest: Digest, what: &str) -> Check {
        match self.digests.insert(slot, digest) {
            Some(other) if other != digest => Err(format!(
                "agreement: {what} names {digest} for slot {slot}, others {other}"
            )),
            _ => Ok(()),
        }
    }

    /// A replica hands records to its disk.
    pub fn writes(&mut self, from: NodeId, identity: &Identity, parts: &[Shared]) -> Check {
        self.writing[from.index()].clear();
        if self.is_faulty(from) {
            return Ok(());
        }
        for part in parts {
            let Decoded::Intact(header) = record::decode(&part[..SECTOR_BYTES], identity, None)
            else {
                return Err(format!("{from} writes a record that cannot be read"));
            };
            if !matches!(header.kind, RecordKind::Block | RecordKind::FetchedBlock) {
                continue;
            }
            let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_bytes as usize;
            let message = &part[body];
            let block = BlockView::parse(message)
                .map_err(|reject| format!("{from} writes a malformed block: {reject:?}"))?;
            let block = block.prefix.header;
            let (slot, digest) = (block.slot(), block.digest());
            self.said(slot, digest, &format!("record of {from}"))?;
            self.blocks
                .entry((slot, digest))
                .or_insert_with(|| message.to_vec());
            self.writing[from.index()].push((slot, digest));
        }
        Ok(())
    }

    /// The disk said that the write is durable.
    pub fn written(&mut self, from: NodeId) {
        let known = &mut self.known[from.index()];
        for (slot, digest) in self.writing[from.index()].drain(..) {
            known.durable = known.durable.max(slot);
            known.held.insert(slot, digest);
        }
    }

    /// A replica handled an event.
    pub fn handled(&mut self, node: &Node) -> Check {
        if self.is_faulty(node.id) {
            return Ok(());
        }
        node.check_memory()?;
        let Some(server) = &node.server else {
            return Ok(());
        };
        self.decisions(node.id, server)?;
        self.execution(node.id, server)
    }

    fn decisions(&mut self, id: NodeId, server: &Server) -> Check {
        let summary = server.summary();
        let from = self.known[id.index()].decided;
        for slot in (from.0 + 1..=summary.decided.0).map(Slot) {
            let digest = if slot == summary.decided {
                summary.decided_digest
            } else {
                // After a restart only the newest part of the chain is in memory.
                match server.ordering().core().digest_at(slot) {
                    Some(digest) => digest,
                    None => continue,
                }
            };
            self.same_digest(slot, digest, &format!("decision of {id}"))?;
        }
        let known = &mut self.known[id.index()];
        known.decided = summary.decided;
        known.decided_ever = known.decided_ever.max(summary.decided);
        if summary.decided <= self.decided {
            return Ok(());
        }
        // G1: new decisions need a quorum of replicas that hold the block on their disks.
        // A liar's vote may be among them; what it holds is not to be relied upon.
        let honest = self.known.iter().filter(|known| !known.faulty);
        let liars = self.known.len() - honest.clone().count();
        let holders = honest
            .filter(|known| {
                let held = known.held.get(&summary.decided);
                known.durable >= summary.decided
                    && held.is_none_or(|digest| *digest == summary.decided_digest)
            })
            .count();
        if holders + liars < self.votes_needed {
            return Err(format!(
                "G1: {id} decides slot {} which {holders} replicas hold, not {}",
                summary.decided, self.votes_needed
            ));
        }
        // The chain of the newest block leads down to what was decided before.
        let mut chain = Vec::new();
        let mut digest = summary.decided_digest;
        for slot in (self.decided.0 + 1..=summary.decided.0).rev().map(Slot) {
            self.same_digest(slot, digest, &format!("chain of {id}"))?;
            let message = self.blocks.get(&(slot, digest));
            let block = message.and_then(|message| BlockView::frame(message).ok());
            let Some(block) = block else {
                return Err(format!(
                    "{id} decides slot {slot}, which nobody has written"
                ));
            };
            chain.push((slot, digest));
            digest = block.prefix.header.parent;
        }
        if self.decided > Slot(0) {
            self.same_digest(self.decided, digest, &format!("chain of {id}"))?;
        }
        for block in chain.iter().rev() {
            self.model.execute(&self.blocks[block])?;
        }
        self.decided = summary.decided;
        Ok(())
    }

    fn execution(&mut self, id: NodeId, server: &Server) -> Check {
        let execution = server.execution();
        let executed = execution.executed();
        if executed == self.known[id.index()].executed {
            return Ok(());
        }
        self.known[id.index()].executed = executed;
        let Some((expected, transactions)) = self.model.at(executed) else {
            return Err(format!(
                "{id} executed slot {executed} before it was decided"
            ));
        };
        if execution.transactions() != transactions {
            return Err(format!(
                "exactly once: {id} executed {} transactions up to slot {executed}, the model {}",
                execution.transactions(),
                transactions
            ));
        }
        if hash_of(server) != expected {
            return Err(format!(
                "{id} has another table than the model at slot {executed}"
            ));
        }
        Ok(())
    }

    /// A client was told a result by b+1 replicas.
    pub fn ended(&mut self, ended: &Ended) -> Check {
        let Ended {
            client,
            session,
            asked,
            slot,
            ended_ns,
            result,
        } = ended;
        let sequence = asked.sequence;
        let seen = result.as_ref().map_or(Seen::Anything, user::seen);
        asked.record(&mut self.history, Some((*ended_ns, *slot, seen)));
        let told = match result {
            Ok(told) => told,
            Err(Failure::ResultLost) => return self.lost(ended),
            Err(failure) => {
                return Err(format!("client {client} sequence {sequence}: {failure}"));
            }
        };
        self.acknowledged += 1;
        self.acknowledged_slot = self.acknowledged_slot.max(*slot);
        match self.model.answer(client, *session, sequence) {
            Some((at, answer)) if at == slot && answer == told => {}
            expected => {
                return Err(format!(
                    "client {client} sequence {sequence} was told {told:?} from slot {slot}, the \
                     decided log says {expected:?}"
                ));
            }
        }
        if *slot < asked.after {
            return Err(format!(
                "real time: client {client} sequence {sequence} was executed in slot {slot}, \
                 asked after an answer from slot {}",
                asked.after
            ));
        }
        Ok(())
    }

    /// Sessions keep long results as digests only (§9.3): whoever asks late learns that the
    /// operation was executed, and no more.
    fn lost(&mut self, ended: &Ended) -> Check {
        let name = (&ended.client, ended.session, ended.asked.sequence);
        match self.model.answer(name.0, name.1, name.2) {
            Some((_, Answer::Value(value) | Answer::Mismatch(Some(value))))
                if value.len() >= CACHED_BYTES =>
            {
                self.results_lost += 1;
                Ok(())
            }
            answer => Err(format!(
                "{name:?} has no result, the decided log says {answer:?}"
            )),
        }
    }

    /// Whether some order of what the users saw is one that registers allow, when the run is over.
    pub fn linearizable(&mut self, users: &[User]) -> Result<Checked, String> {
        for asked in users.iter().flat_map(User::open) {
            asked.record(&mut self.history, None);
        }
        self.history.check(linear::STATES_MAX)
    }

    /// Whether nothing is left to wait for.
    pub fn settled(&self, scenario: Scenario, nodes: &[Node], users: &[User]) -> bool {
        let up = nodes.iter().all(|node| node.server.is_some());
        let honest = self.known.iter().filter(|known| !known.faulty);
        let furthest = honest.clone().map(|known| known.executed).max();
        let caught_up = honest.clone().all(|known| {
            known.executed >= self.acknowledged_slot && Some(known.executed) == furthest
        });
        let done = !scenario.demands_progress() || users.iter().all(User::is_done);
        up && caught_up && done
    }

    /// Everything that must hold when the run has settled, or its time is up.
    pub fn finish(&self, scenario: Scenario, nodes: &[Node], users: &[User]) -> Check {
        for (node, known) in nodes.iter().zip(&self.known) {
            if known.faulty {
                continue;
            }
            let Some(server) = &node.server else {
                return Err(format!("replica {} is not up in the end", node.id));
            };
            if known.executed < self.acknowledged_slot {
                return Err(format!(
                    "durability: replica {} has executed slot {}, slot {} was acknowledged; {:?}",
                    node.id,
                    known.executed,
                    self.acknowledged_slot,
                    server.summary()
                ));
            }
        }
        if !scenario.demands_progress() {
            return Ok(());
        }
        for (number, user) in users.iter().enumerate() {
            if !user.is_done() {
                let waiting = user.unanswered();
                return Err(format!(
                    "liveness: user {number} waits for {waiting} operations"
                ));
            }
            let (key, counted, _) = user.counter();
            let held = self.model.value(&key).map(|bytes| {
                bytes
                    .first_chunk()
                    .copied()
                    .map_or(u64::MAX, u64::from_le_bytes)
            });
            if held.unwrap_or(0) != counted {
                return Err(format!(
                    "exactly once: user {number} counted {counted}, the table holds {held:?}"
                ));
            }
        }
        Ok(())
    }
}

fn hash_of(server: &Server) -> [u8; 32] {
    let mut entries = Vec::new();
    let table = server.execution().machine().table();
    table.scan(&[], None, usize::MAX, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        true
    });
    table_hash(entries.iter().map(|(key, value)| (&key[..], &value[..])))
}
