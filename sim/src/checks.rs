//! The judge: sees everything, trusts nobody, and restates what must hold in its own numbers.

mod leases;
mod records;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::block::BlockView;
use wire::certificates::Place;
use wire::header::{Direction, Header, Kind};
use wire::ids::{Boot, Digest, NodeId, Position, Slot, View};
use wire::request::checked_requests;
use wire::seal::{Rules, Verifier};
use wire::view_change::{ViewChange, split_signed};

use crate::agreement::Agreement;
use crate::bases::Bases;
use crate::linear::History;
use crate::model::{Model, table_hash};
use crate::network::End;
use crate::node::{Node, Server};
use crate::plan::{Plan, Scenario};
use crate::seals::Seal;
use crate::shapes::Shape;
use crate::user::{User, key_of};
use leases::{Leases, Told};
use records::Written;

/// What is known of one replica over all of its processes.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Highest slot whose block record was flushed.
    durable: Slot,
    /// Records on their way to the disk, and the end of the last that was seen.
    sealed: VecDeque<Written>,
    sealed_end: Position,
    /// What the records of the write under way will make durable.
    writing: Vec<Written>,
    leases: Leases,
    /// Own view changes that it has made, by their hashes.
    changes: BTreeSet<[u8; 32]>,
    /// Highest slot with a certificate that its disk has confirmed.
    certified_on_disk: Slot,
    /// The same with those that its disk has not confirmed, and the snapshot that it began from.
    certified: Slot,
    /// Highest slot that it decided in the present process, and ever.
    decided: Slot,
    decided_ever: Slot,
    executed: Slot,
    /// The number of the present process, and of the last one that sent anything.
    boot: u32,
    boot_spoken: u32,
    /// Highest slot that the present process voted for.
    voted: Slot,
    /// Since when it holds requests that it may not order.
    hoards_since: Option<u64>,
    /// A liar: nothing that it says or holds counts.
    faulty: bool,
}

/// A replica has heard its clock by then, whatever jumps and whoever is paused.
const HOARDS_NS: u64 = 2_000_000_000;

/// See the module's documentation.
pub struct Judge {
    known: Vec<Known>,
    agreement: Agreement,
    bases: Bases,
    /// W.
    window: u64,
    /// Block messages that somebody wrote, until they are final and executed by the model.
    blocks: BTreeMap<(Slot, Digest), Vec<u8>>,
    /// The model has executed everything up to here.
    decided: Slot,
    model: Model,
    seal: Seal,
    acknowledged: u64,
    results_lost: u64,
    /// Highest slot of an acknowledged operation.
    acknowledged_slot: Slot,
    /// What clients asked and were told; says nothing of slots but where to look first.
    history: History,
    /// There may be more clients than sessions.
    evicts: bool,
    /// The keys that users fight for, in order.
    keys: Vec<Vec<u8>>,
    /// More replicas lie than the committee bears (BYZ19): nothing is promised but that honest
    /// processes stay up within their memory, or halt.
    beyond: bool,
    /// Votes leave within leases.
    leases: bool,
    /// Highest slot with a certificate on some honest disk.
    certified: Slot,
    /// u
    faults_borne: usize,
}

type Check = Result<(), String>;

impl Judge {
    /// Judges a committee of this shape, and the users of a plan; `seal` judges signatures.
    pub fn new(shape: &'static Shape, seal: Seal, rules: Rules, plan: &Plan) -> Judge {
        Judge {
            known: vec![Known::default(); shape.n],
            agreement: Agreement::new(shape, rules.genesis, plan.leases || plan.careless),
            bases: Bases::new(shape, seal.clone(), rules),
            window: rules.window,
            blocks: BTreeMap::new(),
            decided: Slot(0),
            model: Model::new(plan.sessions_max),
            seal,
            evicts: plan.sessions_max < wire::limits::SESSIONS_MAX,
            acknowledged: 0,
            results_lost: 0,
            acknowledged_slot: Slot(0),
            history: History::default(),
            keys: (0..plan.keys).map(key_of).collect(),
            beyond: false,
            leases: plan.leases,
            certified: Slot(0),
            faults_borne: shape.u,
        }
    }

    /// More lie than are borne: only memory and staying up are judged from now on.
    pub fn expect_too_many_liars(&mut self) {
        self.beyond = true;
    }

    /// What was decided, by the global log.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
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

    /// The highest slot that some honest replica knows to be decided; what was said may have decided
    /// more, with or without a liar's help.
    pub fn known_decided(&self) -> Slot {
        let honest = self.known.iter().filter(|known| !known.faulty);
        let decided = honest.map(|known| known.decided_ever).max();
        decided.unwrap_or_default()
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// From now on this replica counts as faulty.
    pub fn distrust(&mut self, id: NodeId) {
        self.known[id.index()].faulty = true;
        self.agreement.distrust(id);
        self.bases.distrust(id);
    }

    /// The same, in the middle of a run.
    pub fn turned(&mut self, id: NodeId) -> Check {
        self.distrust(id);
        self.agreement.recount()?;
        self.execute_final()
    }

    /// A datagram of a liar leaves: no fact, but its view changes can be chosen.
    pub fn overhears(&mut self, from: NodeId, to: End, datagram: &[u8]) -> Check {
        let Judge {
            bases, agreement, ..
        } = self;
        bases.overhears(from, to, datagram, agreement)
    }

    fn is_faulty(&self, id: NodeId) -> bool {
        self.beyond || self.known[id.index()].faulty
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
    /// `lacks`: its disk lost blocks, or the state.
    pub fn started(&mut self, node: &Node, whole: bool, lacks: bool) -> Check {
        let known = &mut self.known[node.id.index()];
        (known.decided, known.executed, known.voted) = (Slot(0), Slot(0), Slot(0));
        known.hoards_since = None;
        let mut written = std::mem::take(&mut known.writing);
        known.sealed.clear();
        known.sealed_end = Position(0);
        if self.is_faulty(node.id) {
            return Ok(());
        }
        let known = &mut self.known[node.id.index()];
        let Some(server) = &node.server else {
            return Ok(());
        };
        known.boot = server.boot().0;
        let pending = written.iter().filter_map(|written| match written {
            Written::Lease(told) => Some(*told),
            Written::Start(..) => Some(Told::Start),
            _ => None,
        });
        let snapshot = node.disk.saved();
        let certified = known.certified_on_disk.max(snapshot);
        known.certified = certified;
        known
            .leases
            .started(certified, &pending.collect::<Vec<_>>());
        self.agreement.restarted(node.id);
        if whole && known.boot <= known.boot_spoken {
            let boot = known.boot;
            return Err(format!(
                "R4: replica {} speaks in boot {boot} again",
                node.id
            ));
        }
        let core = server.ordering().core();
        let (held, linked) = (core.retained_from(), server.summary().linked);
        for slot in (held.0..=linked.0).map(Slot) {
            if let Some(digest) = core.digest_at(slot) {
                let as_vote = slot <= core.tip().slot;
                self.agreement.durable(node.id, digest, as_vote);
            }
        }
        // A flush that nobody heard of may have reached the disk.
        for written in written.drain(..) {
            if let Written::Block(slot, digest, as_vote) = written
                && core.has_written(Place { slot, digest })
            {
                self.agreement.durable(node.id, digest, as_vote);
            }
        }
        let (tip, view) = (core.tip().slot, server.summary().view);
        let jumped = self.agreement.jumped_to(node.id, view);
        let voted = self.agreement.voted_to(node.id, view);
        if lacks {
            // R5: what it no longer knows to have said it owes in silence.
            let (said, window) = (voted.max(jumped), self.window);
            let leases = &mut self.known[node.id.index()].leases;
            leases.forgot(said, window);
        } else if tip < jumped {
            return Err(format!(
                "N2: {} starts at slot {tip} of view {view}, its tip had jumped to slot {jumped}",
                node.id
            ));
        }
        // R2: without leases a vote left after its record was durable. What is decided here needs none,
        // and an emptied disk is for the replica to find out (R6).
        let begun = !lacks && !self.leases && server.boot() > Boot(1);
        if begun && voted > tip.max(server.summary().decided) {
            return Err(format!(
                "R2: {} starts at slot {tip} of view {view}, it had voted for slot {voted}",
                node.id
            ));
        }
        // The COMMIT of the log counts at this replica before it is repeated.
        let committing = core.committing().map(|place| (place.slot, place.digest));
        if let Some(place) = committing {
            let view = server.summary().view;
            self.agreement.commits(node.id, view, place)?;
            self.execute_final()?;
        }
        self.handled(node, 0)
    }

    /// A datagram leaves a replica. What liars send is no fact.
    pub fn sends(&mut self, from: NodeId, datagram: &[u8]) -> Check {
        let Ok((header, kind, body)) = Header::split(datagram) else {
            return Err(format!("replica {from} sent a malformed datagram"));
        };
        let known = &mut self.known[from.index()];
        known.boot_spoken = known.boot;
        if self.is_faulty(from) || kind.direction() != Direction::BetweenNodes {
            return Ok(());
        }
        let route = header.peer_route();
        let (view, slot) = (route.view(), route.slot());
        let digest = || {
            let digest = body.first_chunk().copied().map(Digest);
            digest.ok_or_else(|| format!("short {kind:?} of {from}"))
        };
        match kind {
            Kind::Vote => {
                self.may_vote(from, "VOTE", slot)?;
                let known = &mut self.known[from.index()];
                known.voted = known.voted.max(slot);
                self.agreement.votes(from, view, (slot, digest()?))?;
                self.final_in(view)?;
            }
            Kind::Commit => {
                self.may_vote(from, "COMMIT", slot)?;
                self.agreement.commits(from, view, (slot, digest()?))?;
                self.final_in(view)?;
            }
            Kind::Checkpoint => self.agreement.checkpoints(from, (slot, digest()?))?,
            Kind::NewViewAck => {
                self.known[from.index()].leases.may_speak("NV-ACK")?;
                let decided = self.known[from.index()].decided_ever;
                let base = (slot, digest()?);
                self.agreement.acknowledges(from, view, base, decided)?;
            }
            Kind::ViewChange => {
                // Others' are passed on; one of several fragments is judged by its record.
                let own = split_signed(body).and_then(|(_, body)| ViewChange::decode(body));
                if own.is_ok_and(|change| change.replica == from) {
                    self.known[from.index()].leases.may_speak("VIEW-CHANGE")?;
                }
            }
            Kind::Propose => {
                let name = header.fragment().message;
                self.agreement.proposes(from, view, slot, name)?;
            }
            _ => {}
        }
        self.execute_final()
    }

    /// G2, the other way round: words of a view may come late.
    fn final_in(&self, view: View) -> Check {
        match self.agreement.by_view().get(&view) {
            Some(place) => self.bases.finalized(view, *place, &self.agreement),
            None => Ok(()),
        }
    }

    /// A replica handled an event.
    pub fn handled(&mut self, node: &Node, now_ns: u64) -> Check {
        if self.known[node.id.index()].faulty {
            return Ok(());
        }
        node.check_memory()?;
        if self.beyond {
            return Ok(());
        }
        let Some(server) = &node.server else {
            return Ok(());
        };
        let (said, low) = (self.known[node.id.index()].voted, server.summary().low);
        if said.0 > low.0 + self.window {
            return Err(format!(
                "I3: {} votes for slot {said}, its checkpoint is slot {low}",
                node.id
            ));
        }
        self.hoards(node.id, server, now_ns)?;
        self.decisions(node.id, server)?;
        self.execution(node.id, server)
    }

    /// Requests hold buffers that messages of a view change need: one that leads no more lets go of
    /// them.
    fn hoards(&mut self, id: NodeId, server: &Server, now_ns: u64) -> Check {
        let since = &mut self.known[id.index()].hoards_since;
        if server.ordering().may_propose() || server.ordering().depth() == 0 {
            *since = None;
            return Ok(());
        }
        let since = *since.get_or_insert(now_ns);
        if now_ns - since > HOARDS_NS {
            return Err(format!("buffers: {id} may not propose and holds requests"));
        }
        Ok(())
    }

    fn decisions(&mut self, id: NodeId, server: &Server) -> Check {
        let summary = server.summary();
        let from = self.known[id.index()].decided;
        // The core may have decided by an own COMMIT that has not left it yet.
        let decided = server.ordering().decided();
        for slot in (from.0 + 1..=decided.0).map(Slot) {
            let digest = if slot == summary.decided {
                summary.decided_digest
            } else {
                // After a restart only the newest part of the chain is in memory.
                match server.ordering().core().digest_at(slot) {
                    Some(digest) => digest,
                    None => continue,
                }
            };
            self.agreement.decides(id, (slot, digest))?;
        }
        let known = &mut self.known[id.index()];
        known.decided = decided;
        known.decided_ever = known.decided_ever.max(decided);
        Ok(())
    }

    /// The model executes what is final.
    fn execute_final(&mut self) -> Check {
        while let Some(digest) = self.agreement.final_at(self.decided.next()) {
            let slot = self.decided.next();
            let Some(message) = self.blocks.get(&(slot, digest)) else {
                return Err(format!("slot {slot} is final, and nobody has written it"));
            };
            self.model.execute(message)?;
            let block = BlockView::frame(message).expect("the model has read it");
            let forged = |request| self.seal.request(&request).is_err();
            if checked_requests(block.payload).any(forged) {
                return Err(format!("slot {slot} holds what no client signed (BYZ12)"));
            }
            self.decided = slot;
            self.blocks.retain(|(at, _), _| *at > slot);
        }
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

    /// Whether nothing is left to wait for.
    pub fn settled(&self, scenario: Scenario, nodes: &[Node], users: &[User]) -> bool {
        let up = nodes.iter().all(|node| node.server.is_some());
        let honest = self.known.iter().filter(|known| !known.faulty);
        let furthest = honest.clone().map(|known| known.executed).max();
        let caught_up = honest.clone().all(|known| {
            known.executed >= self.acknowledged_slot && Some(known.executed) == furthest
        });
        let done = !scenario.demands_progress() || users.iter().all(User::is_done);
        let spoken = self.wrongly_silent().is_none();
        up && (self.beyond || caught_up && done && spoken)
    }

    /// Everything that must hold when the run has settled, or its time is up.
    pub fn finish(&self, scenario: Scenario, nodes: &[Node], users: &[User]) -> Check {
        if self.is_wedged(nodes) {
            return Ok(());
        }
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
        if self.beyond || !scenario.demands_progress() {
            return Ok(());
        }
        if let Some(silent) = self.wrongly_silent() {
            let leases = &self.known[silent].leases;
            let servers = nodes.iter().filter_map(|node| node.server.as_ref());
            let summaries = servers.map(Server::summary).collect::<Vec<_>>();
            return Err(format!(
                "liveness: replica {silent} stays silent; {leases:?} {summaries:#?}"
            ));
        }
        for (number, user) in users.iter().enumerate() {
            if !user.is_done() {
                let waiting = user.unanswered();
                let open = user.open().next();
                let first = open.map(|asked| (asked.sequence, &asked.ask));
                let stands = nodes.iter().map(stands).collect::<String>();
                return Err(format!(
                    "liveness: user {number} waits for {waiting} operations, first {first:?}{stands}"
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
    server
        .execution()
        .machine()
        .table()
        .visit(&mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            true
        });
    table_hash(entries.iter().map(|(key, value)| (&key[..], &value[..])))
}

/// A line on where a replica stands.
fn stands(node: &Node) -> String {
    let Some(server) = &node.server else {
        return "\n  a replica that is down".to_string();
    };
    let now = server.summary();
    format!(
        "\n  replica: view {} stage {} linked {} voted {} decided {} executed {} low {} leader {}{}{}",
        now.view.0,
        now.stage.0,
        now.linked.0,
        now.voted.0,
        now.decided.0,
        now.executed.0,
        now.low.0,
        now.leader.0,
        if now.barred { " barred" } else { "" },
        if now.voting_stopped {
            " votes no more"
        } else {
            ""
        },
    )
}
