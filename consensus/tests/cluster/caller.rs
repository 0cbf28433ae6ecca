//! What the caller of a core does: starts and restarts it, carries its effects out, executes.

use std::collections::VecDeque;
use std::sync::Arc;

use consensus::quorum::Quorums;
use consensus::{BlockCheck, Config, Core, Effect, Evidence, Input, Large, Recovered, Source, Way};
use wire::block::BlockHeader;
use wire::certificates::{CheckpointCertificate, Place};
use wire::ids::{Boot, Digest, Epoch, Instant, NodeId, Slot, View};
use wire::messages::{EVIDENCE_INVALID_PAYLOAD, SignedHeader};
use wire::seal::{FakeSeal, Statement, Verifier};

use crate::disk::Entry;
use crate::world::{
    Event, INVALID, K, MS, Message, Shape, World, genesis, is_valid_payload, place_of,
};

impl World {
    // ---- starts and ends of processes

    pub fn start(&mut self, id: NodeId) {
        let n = self.shape.n;
        let replica = &mut self.replicas[id.index()];
        assert!(replica.core.is_none());
        replica.boot += 1;
        let seal = self.seals[id.index()].clone();
        let (recovered, chain) = replica
            .disk
            .recover(replica.boot, |signed| is_good(&seal, n, signed));
        let recovered = if replica.boot == 1 {
            Recovered {
                durable_position: recovered.durable_position,
                ..Recovered::blank(genesis())
            }
        } else {
            recovered
        };
        replica.bytes.clear();
        for entry in replica.disk.entries() {
            if let Entry::Block(_, signed) = entry {
                replica.bytes.insert(place_of(&signed.header), *signed);
            }
        }
        replica.chain = chain;
        replica.executed = recovered.decided.slot.0;
        replica.executing = false;
        replica.wake = u64::MAX;
        replica.decided_at = self.now;
        let low = recovered
            .checkpoint
            .map_or(0, |known| known.header.slot().0);
        let slot = recovered.decided.slot;
        let retained = recovered.retained_from;
        let config = self.config(id.0);
        let mut core = Core::new(config, seal, recovered, Instant(self.now));
        core.set_retained_from(retained);
        self.replicas[id.index()].core = Some(core);
        self.input(id, Input::Executed { slot });
        for slot in (low + 1..=slot.0)
            .filter(|slot| slot.is_multiple_of(K))
            .map(Slot)
        {
            let root = root(&self.replicas[id.index()].chain, slot);
            self.input(id, Input::Root { slot, root });
        }
    }

    pub fn crash(&mut self, id: NodeId) {
        let luck = self.random(101);
        let replica = &mut self.replicas[id.index()];
        if replica.core.take().is_some() {
            replica.disk.crash(luck);
        }
    }

    pub fn restart(&mut self, id: NodeId) {
        self.crash(id);
        self.start(id);
    }

    /// From now on scripted by the test.
    pub fn corrupt(&mut self, id: NodeId) {
        self.replicas[id.index()].core = None;
        self.replicas[id.index()].lies = true;
    }

    pub fn live(&self) -> impl Iterator<Item = NodeId> + use<> {
        let live = self
            .ids()
            .filter(|id| self.replicas[id.index()].core.is_some());
        live.collect::<Vec<_>>().into_iter()
    }

    /// Live and telling the truth.
    pub fn correct(&self) -> impl Iterator<Item = NodeId> + use<> {
        let correct = self.live().filter(|id| !self.replicas[id.index()].lies);
        correct.collect::<Vec<_>>().into_iter()
    }

    // ---- one turn of one replica

    pub fn input(&mut self, at: NodeId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut out = self.outbox.take().expect("one turn at a time");
        while let Some(input) = inputs.pop_front() {
            let offered = match &input {
                Input::Block {
                    header, signature, ..
                }
                | Input::Own {
                    header, signature, ..
                } => Some(SignedHeader {
                    header: *header,
                    signature: *signature,
                }),
                _ => None,
            };
            let (load, now, limit) = (self.load, self.now, self.overdue);
            let scarce = self.scarce > 0 && self.random(100) < self.scarce;
            let replica = &mut self.replicas[at.index()];
            let Some(core) = &mut replica.core else { break };
            let overdue = load && now.saturating_sub(replica.decided_at) > limit || replica.starved;
            core.set_pending(load.then_some(Instant(replica.decided_at)), overdue);
            core.handle(Instant(now), input, &mut out);
            if scarce {
                core.forget_rivals(&mut out);
            }
            let effects = out.drain().collect::<Vec<_>>();
            for effect in effects {
                // A worse copy of the same block may have been forgotten just before.
                if let Some(signed) = offered
                    && effect.keeps(place_of(&signed.header))
                {
                    let replica = &mut self.replicas[at.index()];
                    replica.bytes.insert(place_of(&signed.header), signed);
                }
                self.carry_out(at, effect, &mut inputs);
            }
            if inputs.is_empty()
                && let Some(own) = self.proposal(at)
            {
                inputs.push_back(own);
            }
        }
        self.outbox = Some(out);
        self.plan_wake(at);
    }

    fn plan_wake(&mut self, at: NodeId) {
        let replica = &mut self.replicas[at.index()];
        let Some(core) = &replica.core else { return };
        let mut due = core.wake_at().0;
        if self.load {
            due = due.min(
                replica
                    .decided_at
                    .saturating_add(self.overdue)
                    .max(self.now),
            );
            if core.proposal_parent().is_some() && core.undecided() < self.depth {
                due = due.min(replica.proposed_at + self.pace);
            }
        }
        // A caller does not spin: a reason that stays due is looked at again a little later.
        let due = due.max(self.now + MS / 2);
        if due < replica.wake || replica.wake <= self.now {
            replica.wake = due;
            let boot = replica.boot;
            self.schedule(due - self.now, Event::Wake(at, boot));
        }
    }

    fn proposal(&mut self, at: NodeId) -> Option<Input> {
        let (load, now, pace, depth) = (self.load, self.now, self.pace, self.depth);
        let replica = &mut self.replicas[at.index()];
        let core = replica.core.as_ref()?;
        if !load || now < replica.proposed_at + pace || core.undecided() >= depth {
            return None;
        }
        let parent = core.proposal_parent()?;
        replica.proposed_at = now;
        let view = core.summary().view;
        self.payload += 1;
        let mut payload = [1; 32];
        payload[1..9].copy_from_slice(&self.payload.to_le_bytes());
        if self.poison && replica.lies {
            payload[0] = INVALID;
        }
        let header = BlockHeader::new(
            Epoch(0),
            view,
            parent.slot.next(),
            now,
            parent.digest,
            Digest(payload),
        );
        let signed = self.sign_header(at, header);
        let place = place_of(&header);
        self.judge.proposed(at, signed);
        self.replicas[at.index()].bytes.insert(place, signed);
        self.send_all(at, Message::Block(Source::Proposed, signed));
        Some(Input::Own {
            header,
            signature: signed.signature,
            digest: place.digest,
        })
    }

    fn carry_out(&mut self, at: NodeId, effect: Effect, inputs: &mut VecDeque<Input>) {
        let boot = self.replicas[at.index()].boot;
        let correct = !self.replicas[at.index()].lies;
        match effect {
            Effect::Append {
                place,
                kind,
                verify,
            } => {
                let replica = &mut self.replicas[at.index()];
                let signed = replica.bytes.get(&place).copied();
                let signed = signed
                    .unwrap_or_else(|| panic!("{at} appends a block without bytes: {place:?}"));
                let end = replica.disk.append(Entry::Block(kind, signed));
                inputs.push_back(Input::Appended { place, end });
                if verify {
                    self.verify(at, place, signed);
                }
                self.flush(at);
            }
            Effect::Hold { .. } | Effect::Refuse { .. } | Effect::Silent { .. } => {}
            Effect::Forget { place } => {
                let replica = &mut self.replicas[at.index()];
                let decided = replica.chain.get(place.slot.0 as usize);
                assert_ne!(decided, Some(&place.digest), "{at} forgets a decided block");
                replica.bytes.remove(&place);
            }
            Effect::Record(record) => {
                let end = self.replicas[at.index()].disk.append(Entry::Record(record));
                inputs.push_back(Input::Recorded { end });
                self.flush(at);
            }
            Effect::Say { to, signed } => {
                self.judge.said(at, &signed, correct);
                self.send_to(at, to, Message::Signed(signed));
            }
            Effect::Tell { to, message } => {
                let message = match message {
                    Large::ViewChange(found) => {
                        if found.message.replica == at && correct {
                            self.judge.changed(at, &found);
                        }
                        Message::ViewChange(Arc::new((found.message.clone(), found.signature)))
                    }
                    Large::NewView(found) => {
                        let leader = self.leader(found.message.view);
                        if leader == at && correct {
                            let Statement::NewView { digest, .. } = found.message.statement()
                            else {
                                unreachable!()
                            };
                            self.judge.led(at, found.message.view, digest);
                        }
                        Message::NewView(Arc::new((found.message.clone(), found.signature)))
                    }
                    Large::WishCertificate(found) => Message::WishCertificate(found),
                    Large::NewViewCertificate(found) => Message::NewViewCertificate(found),
                    Large::CheckpointCertificate(found) => Message::CheckpointCertificate(found),
                };
                self.send_to(at, to, message);
            }
            Effect::Status { to, status } => self.send_to(at, to, Message::Status(status)),
            Effect::Decided { to, slot } => {
                let digest = self.replicas[at.index()].chain[slot.0 as usize];
                self.send(at, to, Message::Decided(Place { slot, digest }));
            }
            Effect::FetchBlock { to, place, have } => {
                self.send(at, to, Message::FetchBlock(place, have))
            }
            Effect::FetchRange { to, first, count } => {
                self.send(at, to, Message::FetchRange(first, count))
            }
            Effect::FetchViewChange { to, digest } => {
                self.send(at, to, Message::FetchViewChange(digest))
            }
            Effect::Grains { .. } => unreachable!("blocks are whole here"),
            Effect::Ancestors {
                to,
                mut place,
                have,
            } => {
                while place.slot > have
                    && let Some(signed) = self.replicas[at.index()].bytes.get(&place).copied()
                {
                    self.send(at, to, Message::Block(Source::Fetched, signed));
                    place = Place {
                        slot: Slot(place.slot.0 - 1),
                        digest: signed.header.parent,
                    };
                }
            }
            Effect::Blocks { to, first, last } => {
                for slot in (first.0..=last.0).map(Slot) {
                    let digest = self.replicas[at.index()].chain[slot.0 as usize];
                    let held = self.replicas[at.index()].bytes.get(&Place { slot, digest });
                    if let Some(signed) = held.copied() {
                        self.send(at, to, Message::Block(Source::Fetched, signed));
                    }
                }
            }
            Effect::Final { place, way } => self.finalize(at, place, way),
            // V5: request timers restart.
            Effect::Installed { .. } => self.replicas[at.index()].decided_at = self.now,
            Effect::Evidence(evidence) => {
                self.replicas[at.index()].accusations += 1;
                // The turn is not over: others hear of it, and this replica by its own message.
                self.schedule(0, Event::Deliver(at, at, Message::Evidence(evidence)));
            }
            Effect::Stable { slot } => {
                let replica = &mut self.replicas[at.index()];
                let keep = Slot(slot.0.saturating_sub(2 * K));
                let chain = &replica.chain;
                replica.bytes.retain(|place, _| {
                    place.slot > keep || chain.get(place.slot.0 as usize).is_none()
                });
                if let Some(core) = &mut replica.core {
                    core.set_retained_from(keep.next());
                }
            }
            Effect::Transfer(certificate) => {
                self.replicas[at.index()].transfers += 1;
                self.schedule(self.install_ns, Event::Install(at, boot, certificate));
            }
            Effect::Diverged { slot, .. } => panic!("{at} diverges at {slot}"),
        }
    }

    pub fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.shape.n as u64) as u16)
    }

    fn verify(&mut self, at: NodeId, place: Place, signed: SignedHeader) {
        let found = check(&self.seals[0], self.shape.n, &signed);
        let after = self.random(MS / 4);
        let boot = self.replicas[at.index()].boot;
        self.schedule(
            after,
            Event::Checked(at, boot, place, (signed.signature, found)),
        );
    }

    pub fn flush(&mut self, at: NodeId) {
        let after = MS / 20 + self.random(MS / 2);
        let replica = &mut self.replicas[at.index()];
        if !replica.disk.flushing && replica.disk.end() > replica.disk.durable {
            replica.disk.flushing = true;
            let event = Event::Durable(at, replica.boot, replica.disk.end());
            self.schedule(after, event);
        }
    }

    fn finalize(&mut self, at: NodeId, place: Place, way: Way) {
        let now = self.now;
        let replica = &mut self.replicas[at.index()];
        let first = replica.chain.len() as u64;
        assert!(place.slot.0 >= first, "{at} decides {place:?} again");
        replica
            .chain
            .resize(place.slot.0 as usize + 1, Digest::ZERO);
        let mut below = place;
        while below.slot.0 >= first {
            replica.chain[below.slot.0 as usize] = below.digest;
            let signed = replica.bytes.get(&below);
            let signed =
                signed.unwrap_or_else(|| panic!("{at} decides {below:?} without its bytes"));
            assert!(
                is_valid_payload(&signed.header),
                "{at} decides an invalid block"
            );
            below = Place {
                slot: Slot(below.slot.0 - 1),
                digest: signed.header.parent,
            };
        }
        assert_eq!(
            replica.chain[below.slot.0 as usize], below.digest,
            "{at}: I7"
        );
        replica.ways[way as usize] += place.slot.0 + 1 - first;
        replica.decided_at = now;
        replica.disk.append(Entry::Decided(place));
        if !replica.executing {
            replica.executing = true;
            let event = Event::Execute(at, replica.boot);
            let after = self.random(MS / 2);
            self.schedule(after, event);
        }
    }

    pub fn execute(&mut self, at: NodeId) {
        let replica = &mut self.replicas[at.index()];
        replica.executing = false;
        let last = replica.chain.len() as u64 - 1;
        let first = replica.executed + 1;
        if last < first {
            return;
        }
        for slot in (first..=last)
            .filter(|slot| *slot == last || slot.is_multiple_of(K))
            .map(Slot)
        {
            self.replicas[at.index()].executed = slot.0;
            self.input(at, Input::Executed { slot });
            if slot.0.is_multiple_of(K) {
                let root = root(&self.replicas[at.index()].chain, slot);
                self.input(at, Input::Root { slot, root });
            }
        }
    }

    pub fn install(&mut self, at: NodeId, certificate: Arc<CheckpointCertificate>) {
        let slot = certificate.header.slot();
        if self.replicas[at.index()].executed < slot.0 {
            let from = self
                .ids()
                .find(|id| self.replicas[id.index()].executed >= slot.0);
            let chain = self.replicas[from.expect("someone executed it").index()].chain
                [..=slot.0 as usize]
                .to_vec();
            assert_eq!(root(&chain, slot), certificate.root, "K4");
            let replica = &mut self.replicas[at.index()];
            if replica.chain.len() < chain.len() {
                replica.chain = chain.clone();
            }
            assert_eq!(replica.chain[slot.0 as usize], *chain.last().unwrap());
            replica.disk.snapshot = chain;
            replica.executed = slot.0;
            if let Some(core) = &mut replica.core {
                core.set_retained_from(slot.next());
            }
        }
        self.input(
            at,
            Input::Installed {
                certificate: Box::new(*certificate),
            },
        );
    }

    /// Verified, stored once, passed on, and heeded (N9).
    pub fn on_evidence(&mut self, at: NodeId, evidence: Evidence) {
        let view = evidence.first.header.view();
        let leader = NodeId((view.0 % self.shape.n as u64) as u16);
        let signed = [evidence.first, evidence.second];
        let signatures = signed.iter().all(|signed| {
            let again = self.sign_header(leader, signed.header);
            again.signature == signed.signature
        });
        let payload =
            evidence.kind != EVIDENCE_INVALID_PAYLOAD || !is_valid_payload(&evidence.first.header);
        if !(signatures && payload && evidence.is_proof()) {
            return;
        }
        assert!(
            self.replicas[leader.index()].lies,
            "G4: {leader} never lied in view {view}"
        );
        if !self.replicas[at.index()].accused.contains(&view) {
            self.replicas[at.index()].accused.push(view);
            self.send_all(at, Message::Evidence(evidence));
            self.input(at, Input::Evidence { view });
        }
    }
}

pub fn config(shape: &Shape, me: u16, boot: u32, transfer_beyond: u64) -> Config {
    Config {
        me: NodeId(me),
        quorums: Quorums::new(shape.n, shape.b, shape.u, shape.p, shape.exclusion),
        epoch: Epoch(0),
        genesis: genesis(),
        boot: Boot(boot),
        blocks_held_max: 128,
        interval: K,
        patience_ns_min: 10 * MS,
        replaces_slow_leaders: true,
        batch_delay_ns: 0,
        sign_votes: shape.fast > shape.slow,
        transfer_beyond,
        durability: wire::messages::Durability::Sync,
    }
}

fn is_good(seal: &FakeSeal, n: usize, signed: &SignedHeader) -> bool {
    check(seal, n, signed) == BlockCheck::Good
}

pub fn check(seal: &FakeSeal, n: usize, signed: &SignedHeader) -> BlockCheck {
    let header = &signed.header;
    let leader = NodeId((header.view().0 % n as u64) as u16);
    let statement = Statement::Propose {
        view: header.view(),
        slot: header.slot(),
        digest: header.digest(),
    };
    if seal.member(leader, &statement, &signed.signature).is_err() {
        BlockCheck::ForeignSignature
    } else if is_valid_payload(header) {
        BlockCheck::Good
    } else {
        BlockCheck::InvalidPayload
    }
}

/// The state is the chain itself.
fn root(chain: &[Digest], slot: Slot) -> Digest {
    wire::block::payload_digest(&chain[slot.0 as usize].0)
}
