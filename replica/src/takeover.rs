//! Taking the state over from others, and giving it to them (K4): the driver of a transfer on the
//! execution side, and the answers to FETCH-STATE.
//!
//! A transfer that is complete is installed at once, and from then on results are those of the
//! installed state. The ordering side learns of it only when a snapshot of exactly this state is
//! durable ([`crate::saving`]): before that a crash would leave a log with a gap and no state (K1).
//!
//! Where the table has a copy on disk, the state goes there bucket by bucket, and memory holds little
//! of it. It takes the place of the copy at once, with the last of it, and then of what is in memory;
//! while the last step is on its way to the disk nothing is executed.
//!
//! Blocks are still asked for meanwhile. When execution gets past the checkpoint by them, the
//! transfer is dropped. A replica that serves can be unable to show the checkpoint that is asked
//! for. It names another one, with its certificate when it has that whole; or the next one, which an
//! idle cluster never reaches. Blocks help then, as long as they are retained; a replica that knows of one which they
//! cannot help any more keeps every checkpoint until the next ([`crate::ordering::Output::KeepNewest`]).

use std::cmp::Reverse;
use std::sync::Arc;

use storage::machine::StateMachine;
use wire::certificates::CheckpointCertificate;
use wire::ids::{Instant, NodeId, Slot};
use wire::limits::REPLICAS_MAX;
use wire::state::{Chunk, Part};

use crate::allowance::{Allowance, Rate};
use crate::execution::Execution;
use crate::transfer::{Options, Progress, Transfer};

/// What one peer is served in a second, and at once, in bytes. Whoever asks faster is paced by what an
/// answer costs at least, without debts: a correct replica asks several buckets at a time, and takes
/// one that does not answer for silent.
pub const SERVED: Rate = Rate {
    per_s: 64 << 20,
    at_once: 2 << 20,
    debt: 0,
};
/// The least that an answer counts for.
const ANSWER_COST_BYTES: u64 = 1024;
/// Answers put together at the link at once are few: questions are too.
const OPTIONS: Options = Options {
    per_peer: 4,
    window: 12,
    timeout_ns: 200_000_000,
};
/// Offers kept, the highest: correct replicas keep nothing much older than the newest.
const OFFERS_MAX: usize = 8;
/// When every peer sent something false: pause before all are believed again.
const STUCK_NS: u64 = 1_000_000_000;

/// Counts of what happened here, for gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakeoverCounts {
    pub begun: u64,
    /// Begun again for another checkpoint.
    pub restarted: u64,
    /// Dropped because blocks were faster.
    pub overtaken: u64,
    pub installed: u64,
    /// Answers to others.
    pub served: u64,
    /// CHUNKs that nobody asked for, or that were false.
    pub refused: u64,
    /// Bytes of those that were taken, and of answers to others.
    pub taken_bytes: u64,
    pub served_bytes: u64,
}

/// An answer to FETCH-STATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The checkpoint that can be shown instead of the one asked for: its certificate is with the
    /// copy, or with who saves states.
    pub elsewhere: Option<Slot>,
}

/// A transfer under way.
#[derive(Debug)]
struct UnderWay {
    certificate: Arc<CheckpointCertificate>,
    transfer: Transfer,
    /// All peers are banned: begin anew then.
    stuck_until: Option<Instant>,
    /// When something of it came last, or it was asked for first.
    moved_at: Option<Instant>,
}

impl UnderWay {
    fn new(certificate: Arc<CheckpointCertificate>, transfer: Transfer) -> UnderWay {
        UnderWay {
            certificate,
            transfer,
            stuck_until: None,
            moved_at: None,
        }
    }

    fn slot(&self) -> Slot {
        self.certificate.header.slot()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Takeover {
    others: Vec<NodeId>,
    under_way: Option<UnderWay>,
    /// Other checkpoints that some replica says it can show, descending, and those that had their
    /// turn since the newest was asked for. Anyone may send an old certificate, so that none is
    /// believed for longer than the others.
    offers: Vec<Arc<CheckpointCertificate>>,
    tried: Vec<Slot>,
    allowances: [Allowance; REPLICAS_MAX],
    counts: TakeoverCounts,
    /// All of the state was handed to the disk; what is asked for meanwhile comes after it.
    sealed: bool,
    next: Option<Arc<CheckpointCertificate>>,
}

impl Takeover {
    /// `replicas`: members of the committee.
    pub fn new(me: NodeId, replicas: usize) -> Takeover {
        let others = (0..replicas as u16).map(NodeId).filter(|id| *id != me);
        Takeover {
            others: others.collect(),
            under_way: None,
            offers: Vec::new(),
            tried: Vec::new(),
            allowances: [Allowance::new(SERVED); REPLICAS_MAX],
            counts: TakeoverCounts::default(),
            sealed: false,
            next: None,
        }
    }

    pub fn counts(&self) -> TakeoverCounts {
        self.counts
    }

    /// How far the transfer under way is.
    pub fn progress(&self) -> Option<Progress> {
        let under_way = self.under_way.as_ref();
        under_way.map(|under_way| under_way.transfer.progress())
    }

    /// Takes the state of this certificate over, or goes over to it from an older one.
    pub fn begin<M: StateMachine>(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        execution: &mut Execution<M>,
    ) {
        let slot = certificate.header.slot();
        if slot <= execution.executed() {
            return;
        }
        if self.sealed {
            self.next = Some(certificate);
            return;
        }
        let transfer = match self.under_way.take() {
            Some(older) if older.slot() >= slot => {
                self.under_way = Some(older);
                return;
            }
            Some(older) => {
                self.counts.restarted += 1;
                older.transfer.restart(slot, certificate.root)
            }
            None => {
                self.counts.begun += 1;
                self.transfer_of(&certificate, execution)
            }
        };
        self.tried.clear();
        self.under_way = Some(UnderWay::new(certificate, transfer));
    }

    fn transfer_of<M: StateMachine>(
        &self,
        certificate: &CheckpointCertificate,
        execution: &mut Execution<M>,
    ) -> Transfer {
        let (slot, root) = (certificate.header.slot(), certificate.root);
        if execution.has_copy() {
            return Transfer::stream(slot, root, &self.others, OPTIONS);
        }
        Transfer::new(slot, root, execution.leaves(), &self.others, OPTIONS)
    }

    /// The stream under way, and of which state it is.
    pub(crate) fn stream(&mut self) -> Option<(&Arc<CheckpointCertificate>, &mut Transfer)> {
        let under_way = self.under_way.as_mut()?;
        Some((&under_way.certificate, &mut under_way.transfer))
    }

    /// Everything of the stream under way was handed to the disk, and cannot be taken back.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
    }

    /// The state that was streamed is the one that is executed on.
    pub(crate) fn adopted<M: StateMachine>(&mut self, execution: &mut Execution<M>) {
        self.counts.installed += 1;
        self.under_way = None;
        self.unseal(execution);
    }

    /// The disk did not take the stream: it begins again.
    pub(crate) fn stream_failed<M: StateMachine>(&mut self, execution: &mut Execution<M>) {
        if let Some(under_way) = self.under_way.take() {
            let (slot, root) = (under_way.slot(), under_way.certificate.root);
            let transfer = under_way.transfer.restart(slot, root);
            self.under_way = Some(UnderWay::new(under_way.certificate, transfer));
        }
        self.unseal(execution);
    }

    fn unseal<M: StateMachine>(&mut self, execution: &mut Execution<M>) {
        self.sealed = false;
        if let Some(certificate) = self.next.take() {
            self.begin(certificate, execution);
        }
    }

    /// Another certificate than the newest: of a checkpoint that some replica says it can show. The
    /// first one is followed when nothing has come yet, later ones in turn.
    pub fn offer<M: StateMachine>(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        execution: &Execution<M>,
    ) {
        let slot = certificate.header.slot();
        let Some(under_way) = &self.under_way else {
            return;
        };
        if slot <= execution.executed() || slot == under_way.slot() {
            return;
        }
        let nothing_came = under_way.transfer.progress().nodes == 0;
        self.keep_offer(certificate);
        if nothing_came && self.tried.is_empty() {
            self.go_over(execution.executed());
        }
    }

    fn keep_offer(&mut self, certificate: Arc<CheckpointCertificate>) {
        let slot = |offer: &Arc<CheckpointCertificate>| offer.header.slot();
        if !self
            .offers
            .iter()
            .any(|known| slot(known) == slot(&certificate))
        {
            self.offers.push(certificate);
            self.offers
                .sort_unstable_by_key(|offer| Reverse(slot(offer)));
            self.offers.truncate(OFFERS_MAX);
        }
    }

    /// A checkpoint of which nothing comes for so long makes way for another one: every replica was
    /// asked for it, one after the other, and those that are silent took a timeout each.
    fn patience_ns(&self) -> u64 {
        (self.others.len() as u64 + 1) * OPTIONS.timeout_ns
    }

    /// Goes over to the highest checkpoint on offer that had no turn yet; when all had theirs, they
    /// begin again.
    fn go_over(&mut self, executed: Slot) {
        let Some(current) = self.under_way.as_ref().map(UnderWay::slot) else {
            return;
        };
        self.offers.retain(|offer| offer.header.slot() > executed);
        let tried = |slot: &Slot| self.tried.contains(slot) || *slot == current;
        let slots = self.offers.iter().map(|offer| offer.header.slot());
        if slots.clone().all(|slot| tried(&slot)) {
            self.tried.clear();
        }
        let untried = |slot: &Slot| !self.tried.contains(slot) && *slot != current;
        let Some(at) = slots
            .map(Some)
            .position(|slot| slot.is_some_and(|slot| untried(&slot)))
        else {
            return;
        };
        let certificate = self.offers.remove(at);
        let slot = certificate.header.slot();
        let older = self.under_way.take().expect("it is under way");
        self.counts.restarted += 1;
        self.tried.extend([current, slot]);
        let transfer = older.transfer.restart(slot, certificate.root);
        self.under_way = Some(UnderWay::new(certificate, transfer));
        self.keep_offer(older.certificate);
    }

    /// Takes the body of a CHUNK in.
    pub fn on_chunk(&mut self, now: Instant, from: NodeId, body: &[u8]) {
        let mut is_part = false;
        let taken = match (&mut self.under_way, Chunk::decode(body)) {
            (Some(under_way), Ok(chunk)) => {
                is_part = matches!(chunk, Chunk::Part { .. });
                under_way.transfer.handle(now, from, &chunk).is_ok()
            }
            _ => false,
        };
        if taken {
            // That a peer shows another one is no reason to wait any longer.
            if let Some(under_way) = self.under_way.as_mut().filter(|_| is_part) {
                under_way.moved_at = Some(now);
            }
            self.counts.taken_bytes += body.len() as u64;
        } else {
            self.counts.refused += 1;
        }
    }

    /// Goes on with the transfer: asks through `send`, gives up what is not answered. When all of
    /// it is here, it is installed, and its certificate returned: have a snapshot of it made.
    pub fn poll<M: StateMachine>(
        &mut self,
        now: Instant,
        execution: &mut Execution<M>,
        send: &mut impl FnMut(NodeId, Slot, Part),
    ) -> Option<Arc<CheckpointCertificate>> {
        if self.sealed {
            return None;
        }
        let patience_ns = self.patience_ns();
        self.drop_overtaken(execution);
        let under_way = self.under_way.as_mut()?;
        if under_way.transfer.is_stuck() {
            let until = *under_way.stuck_until.get_or_insert(now.after_ns(STUCK_NS));
            if now < until {
                return None;
            }
            let certificate = Arc::clone(&under_way.certificate);
            let transfer = self.transfer_of(&certificate, execution);
            self.under_way = Some(UnderWay::new(certificate, transfer));
        }
        let is_stream = execution.has_copy();
        let under_way = self.under_way.as_mut()?;
        if !is_stream && under_way.transfer.is_complete() {
            // Blocks that executed since may have changed what was not asked for.
            under_way.transfer.rebase(execution.leaves());
        }
        if is_stream || !under_way.transfer.is_complete() {
            if under_way.transfer.is_held_up() {
                under_way.moved_at = Some(now);
            }
            let moved_at = *under_way.moved_at.get_or_insert(now);
            if now.since_ns(moved_at) >= patience_ns && !self.offers.is_empty() {
                self.go_over(execution.executed());
            }
            if let Some(under_way) = &mut self.under_way {
                under_way.moved_at.get_or_insert(now);
                under_way.transfer.poll(now, send);
            }
            return None;
        }
        let UnderWay {
            certificate,
            transfer,
            ..
        } = self.under_way.take()?;
        let installation = transfer.finish();
        // A bucket that no correct replica writes cannot have a certified hash.
        execution
            .install(&installation)
            .expect("I11: a certified state can be installed");
        self.counts.installed += 1;
        Some(certificate)
    }

    /// Ends a transfer when blocks were faster.
    pub(crate) fn drop_overtaken<M: StateMachine>(&mut self, execution: &Execution<M>) {
        let executed = execution.executed();
        let is_overtaken = |under_way: &UnderWay| under_way.slot() <= executed;
        if self.under_way.as_ref().is_some_and(is_overtaken) {
            self.counts.overtaken += 1;
            // What was asked for before it may still be ahead.
            self.tried.clear();
            self.go_over(executed);
        }
        if self.under_way.as_ref().is_some_and(is_overtaken) {
            self.under_way = None;
        }
    }

    /// When [`Takeover::poll`] has something to do if nothing arrives before.
    pub fn wake_at(&self) -> Option<Instant> {
        let under_way = self.under_way.as_ref().filter(|_| !self.sealed)?;
        match under_way.stuck_until {
            Some(until) => Some(until),
            None if under_way.transfer.is_stuck() => Some(Instant(0)),
            None => under_way.transfer.wake_at(),
        }
    }

    /// Whether [`Takeover::poll`] has something to do now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| {
            under_way.transfer.can_be_installed() || self.wake_at().is_some_and(|at| at <= now)
        })
    }

    /// Answers FETCH-STATE(slot, part) of `from` with the body of a CHUNK in `out`; nothing when
    /// there is no answer, or the peer asks for too much. When it is to be told of another
    /// checkpoint, it needs the certificate of that one, too.
    pub fn serve<M: StateMachine>(
        &mut self,
        now: Instant,
        from: NodeId,
        (slot, part): (Slot, Part),
        execution: &mut Execution<M>,
        out: &mut Vec<u8>,
    ) -> Option<Served> {
        let allowance = &mut self.allowances[from.index()];
        if allowance.left(now, SERVED) < ANSWER_COST_BYTES as i64 {
            return None;
        }
        let answered = execution.fetch_state(now, slot, part, out);
        let cost = (out.len() as u64).max(ANSWER_COST_BYTES);
        allowance.charge(cost, SERVED);
        if answered {
            self.counts.served += 1;
            self.counts.served_bytes += out.len() as u64;
        }
        answered.then(|| Served {
            elsewhere: execution.shows_instead_of(slot),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use storage::machine::Noop;
    use wire::block::BlockHeader;
    use wire::certificates::Signatures;
    use wire::ids::{Digest, Epoch, View};

    use super::*;

    #[test]
    fn a_peer_is_served_as_much_as_it_is_allowed_and_others_are_not_hurt() {
        let me = NodeId(0);
        let mut execution = Execution::new(me, 4, Noop, 1400);
        let mut takeover = Takeover::new(me, 4);
        let mut out = Vec::new();
        let now = Instant(1);
        let asked = (Slot(4), Part::Summary);
        let mut answers = 0;
        while takeover
            .serve(now, NodeId(1), asked, &mut execution, &mut out)
            .is_some()
        {
            answers += 1;
        }
        assert_eq!(answers, SERVED.at_once / ANSWER_COST_BYTES);
        let other = takeover.serve(now, NodeId(2), asked, &mut execution, &mut out);
        assert_eq!(other, Some(Served { elsewhere: None }));
        let later = now.after_ns(1_000_000_000);
        let again = takeover.serve(later, NodeId(1), asked, &mut execution, &mut out);
        assert!(again.is_some());
        assert_eq!(takeover.counts().served, answers + 2);
    }

    fn certificate(slot: u64) -> Arc<CheckpointCertificate> {
        let (view, digest) = (View(0), Digest([1; 32]));
        let header = BlockHeader::new(Epoch(0), view, Slot(slot), 0, digest, digest);
        Arc::new(CheckpointCertificate {
            header,
            root: digest,
            signatures: Signatures::new(),
        })
    }

    /// A liar names a checkpoint that nobody shows any more, as often as it likes: those that correct
    /// replicas name have their turns.
    #[test]
    fn every_checkpoint_on_offer_has_its_turn() {
        let mut execution = Execution::new(NodeId(0), 4, Noop, 1400);
        let mut takeover = Takeover::new(NodeId(0), 4);
        takeover.begin(certificate(224), &mut execution);
        let mut turns = Vec::new();
        for round in 0..7 {
            let now = Instant(1 + round * takeover.patience_ns());
            let mut asked = BTreeSet::new();
            let mut send = |_, slot, _| {
                asked.insert(slot);
            };
            let _ = takeover.poll(now, &mut execution, &mut send);
            turns.extend(asked);
            // A peer that always says that it shows another one gains no time for this one.
            let mut elsewhere = Vec::new();
            Chunk::Elsewhere { slot: Slot(1) }.encode(&mut elsewhere);
            takeover.on_chunk(
                now.after_ns(takeover.patience_ns() / 2),
                NodeId(1),
                &elsewhere,
            );
            for slot in [184, 176, 216, 184] {
                takeover.offer(certificate(slot), &execution);
            }
        }
        let expected = [224, 184, 216, 176, 224, 216, 184].map(Slot);
        assert_eq!(turns, expected);
        for slot in (300..400).step_by(8) {
            takeover.offer(certificate(slot), &execution);
        }
        assert_eq!(takeover.offers.len(), OFFERS_MAX);
    }

    /// Replicas that are silent take their time in each turn; those after them are asked all the same.
    #[test]
    fn each_turn_asks_every_replica() {
        let mut execution = Execution::new(NodeId(6), 7, Noop, 1400);
        let mut takeover = Takeover::new(NodeId(6), 7);
        takeover.begin(certificate(224), &mut execution);
        let mut asked = BTreeSet::new();
        for step in 0..100 {
            let mut send = |to, slot, _| {
                asked.insert((slot, to));
            };
            let now = Instant(1 + step * 100_000_000);
            let _ = takeover.poll(now, &mut execution, &mut send);
            takeover.offer(certificate(184), &execution);
        }
        for slot in [224, 184].map(Slot) {
            let all = (0..6).map(NodeId).all(|to| asked.contains(&(slot, to)));
            assert!(all, "{slot}: {asked:?}");
        }
    }

    /// The first offer is followed at once, and nothing that lies below what is executed.
    #[test]
    fn offers_need_a_transfer_and_a_use() {
        let mut execution = Execution::new(NodeId(0), 4, Noop, 1400);
        let mut takeover = Takeover::new(NodeId(0), 4);
        takeover.offer(certificate(216), &execution);
        assert!(takeover.offers.is_empty() && takeover.progress().is_none());
        takeover.begin(certificate(224), &mut execution);
        takeover.offer(certificate(0), &execution);
        assert!(takeover.offers.is_empty());
        takeover.offer(certificate(216), &execution);
        assert_eq!(takeover.progress().map(|now| now.slot), Some(Slot(216)));
        takeover.offer(certificate(208), &execution);
        assert_eq!(takeover.progress().map(|now| now.slot), Some(Slot(216)));
        // A newer one than all of them is asked for first again.
        takeover.begin(certificate(232), &mut execution);
        assert_eq!(takeover.progress().map(|now| now.slot), Some(Slot(232)));
    }
}
