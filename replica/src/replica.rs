//! One whole server as one object: link, verification, ordering, log and execution joined by plain
//! queues, without a thread. The simulator runs it; the node runs the same parts on pinned threads.
//!
//! A call of [`Replica::handle`] takes one input and then works until nothing is left to do, or
//! until the [`Pace`] is used up; [`Replica::wake_at`] is due at once in that case. Effects leave in
//! the order in which they arose. After [`Effect::Halt`] the object does nothing any more.

mod executing;
mod incoming;
mod outgoing;
mod setup;
mod writing;

pub use setup::{Pace, Setup};
pub use writing::Halted;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use consensus::{Core, Summary};
use storage::machine::StateMachine;
use storage::wal::{Journal, Sealed, SegmentSource, Verdict, Writer};
use thiserror::Error;
use wire::bytes::Buffers;
use wire::header::{HEADER_BYTES, Kind};
use wire::ids::{Boot, Instant, NodeId, Position, PublicKey, Sequence, SessionId, Slot};
use wire::link::{BLOCK_REASSEMBLY, Endpoint, EndpointConfig, LinkError, MESSAGE_REASSEMBLY};
use wire::reply::{BUSY_LOG_FULL, BUSY_QUEUE};
use wire::seal::{Signer, Verifier};
use wire::state::Part;

use crate::admission::Followed;
use crate::execution::{Execution, Replies, Work};
use crate::ordering::{self, Ordering, OrderingConfig, Output, ReadBack};
use crate::reads::Reads;
use crate::recorder::Tape;
use crate::recovery::{RestartError, Saved, restart};
use crate::saving::{Piece, Saving};
use crate::takeover::Takeover;
use crate::verify_queue::VerifyQueue;
use crate::verifying::{Job, Verifying};

/// Signature checks that wait at most; beyond, clients are told Busy and blocks are asked for again.
const JOBS_MAX: usize = 1024;
/// Blocks on their way to execution: a window of decided ones can be handed over at once.
const EXECUTE_MAX: usize = 2 * wire::limits::WINDOW as usize;
/// Bytes of a checkpoint that are hashed between two blocks.
const HASH_BYTES: usize = 64 * 1024;
/// Incomplete messages are looked through this often.
const HOUSEKEEPING_NS: u64 = 5_000_000;
/// How soon a client that was told Busy may ask again.
const BUSY_RETRY_US: u32 = 2_000;

/// What arrives.
#[derive(Debug)]
pub enum Input<Sh> {
    Datagram {
        from: SocketAddr,
        bytes: Sh,
    },
    /// The write in flight and its flush ended; the error is an errno.
    Written {
        token: u64,
        result: Result<(), i32>,
    },
    /// What an [`Effect::Read`] asked for; `None` when it failed.
    Record {
        read: ReadBack,
        record: Option<Sh>,
    },
    /// So many log segments exist now.
    Granted {
        segments: u32,
    },
    /// The oldest unanswered [`Effect::Snapshot`] was carried out; the error is an errno.
    PieceWritten {
        result: Result<(), i32>,
    },
    Tick,
}

/// What the machine must do.
#[derive(Debug)]
pub enum Effect<Sh> {
    Send {
        to: SocketAddr,
        datagram: Vec<u8>,
    },
    /// Write the parts end to end, flush, and answer [`Input::Written`]. One is in flight at most.
    Write {
        segment: u32,
        offset: u64,
        parts: Vec<Sh>,
        token: u64,
    },
    Read(ReadBack),
    /// A step of writing a snapshot file; all but an abort are answered by [`Input::PieceWritten`].
    Snapshot(Piece),
    /// The process must end.
    Halt(Halted),
}

/// Why a replica does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] RestartError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("flushing the log failed with errno {0}")]
    Flush(i32),
}

/// A client's work for execution.
enum Query<Sh> {
    Resend(PublicKey, SessionId, Sequence, u16),
    Read(PublicKey, Sh),
    /// FETCH-STATE and CHUNK of other replicas.
    FetchState(NodeId, Slot, Part),
    Chunk(NodeId, Sh),
}

/// Replies on their way from execution to the link.
#[derive(Default)]
struct ReplyQueue {
    replies: Vec<(PublicKey, Slot, Kind, Vec<u8>)>,
}

impl Replies for ReplyQueue {
    fn reply(&mut self, client: &PublicKey, slot: Slot, body: &[u8]) {
        self.replies
            .push((*client, slot, Kind::Reply, body.to_vec()));
    }

    fn read_reply(&mut self, client: &PublicKey, slot: Slot, body: [&[u8]; 2]) {
        self.replies
            .push((*client, slot, Kind::ReadReply, body.concat()));
    }
}

/// See the module's documentation.
pub struct Replica<Bu: Buffers, S: Signer, V: Verifier, M: StateMachine> {
    me: NodeId,
    replicas: u16,
    waiting_max: usize,
    pace: Pace,
    endpoint: Endpoint<Bu>,
    verifying: Verifying<V>,
    ordering: Ordering<Bu, S, V>,
    journal: Journal<Bu::Shared>,
    execution: Execution<M>,
    reads: Reads,
    takeover: Takeover,
    saving: Saving,
    /// The body of a CHUNK on its way out.
    chunk: Vec<u8>,
    /// Blocks to verify; and what came by the network, words before requests.
    verify_queue: VerifyQueue<Bu>,
    word_jobs: VecDeque<Job<Bu>>,
    request_jobs: VecDeque<Job<Bu>>,
    execute: VecDeque<(Slot, Bu::Shared)>,
    queries: VecDeque<Query<Bu::Shared>>,
    replies: ReplyQueue,
    /// Records that the journal's queue had no room for.
    overflow: VecDeque<Sealed<Bu::Shared>>,
    /// End of the marker of a clean stop.
    stopping: Option<Position>,
    reply_number: u64,
    housekept_at: Instant,
    halted: bool,
    now: Instant,
    votes_verified: bool,
    followed: Followed,
    rejected: u64,
    verdict: Verdict,
}

impl<Bu, S, V, M> Replica<Bu, S, V, M>
where
    Bu: Buffers + Clone,
    S: Signer,
    V: Verifier + Clone,
    M: StateMachine,
{
    /// First boot and every later one: reads the log, makes what was read durable with `flush`,
    /// and goes on where it ended. `saved` is the newest snapshot file, if there is one. The START
    /// record leaves with the first [`Replica::handle`].
    pub fn start<Src: SegmentSource>(
        now: Instant,
        mut setup: Setup<'_, Bu, S, V, M>,
        source: &mut Src,
        saved: Option<Saved<'_>>,
        flush: impl FnOnce(&mut Src) -> Result<(), i32>,
    ) -> Result<Self, StartError> {
        let (me, committee) = (setup.me, setup.committee);
        let replicas = committee.n();
        let reply_bytes = setup.datagram_bytes - HEADER_BYTES;
        let execution = Execution::new(me, replicas, setup.machine, reply_bytes);
        let execution = execution.with_sessions_max(setup.sessions_max);
        let execution = execution.with_committee(Arc::new(committee.clone()));
        let mut execution = execution.with_checkpoint_interval(setup.interval);
        let mut core = consensus::Config {
            me,
            quorums: setup.quorums,
            epoch: committee.epoch(),
            genesis: committee.genesis(),
            boot: Boot(0),
            blocks_held_max: setup.blocks_held_max,
            interval: setup.interval,
            patience_ns_min: setup.patience_ns_min,
            replaces_slow_leaders: setup.replaces_slow_leaders,
            batch_delay_ns: setup.batch.delay_ns,
            sign_votes: setup.sign_votes,
            transfer_beyond: setup.transfer_beyond,
            durability: setup.durability,
        };
        let mut verifying = Verifying::new(setup.verifier.clone(), Core::<S>::rules(&core))
            .with_origin(committee.origin_root());
        let restarted = restart(
            me,
            &setup.quorums,
            source,
            &setup.geometry,
            &setup.identity,
            committee.genesis(),
            &mut execution,
            &mut verifying,
            &mut setup.blocks,
            saved,
        )?;
        flush(source).map_err(StartError::Flush)?;
        let durable = restarted.recovery.flushed();
        let endpoint = Endpoint::new(
            &EndpointConfig {
                me,
                committee,
                secret: setup.secret,
                boot: restarted.boot,
                datagram_bytes: setup.datagram_bytes,
                cookie_secret: setup.cookie_secret,
                blocks: BLOCK_REASSEMBLY,
                messages: MESSAGE_REASSEMBLY,
            },
            setup.blocks.clone(),
            setup.messages,
        )?;
        core.boot = restarted.boot;
        let mut ordering = Ordering::new(
            OrderingConfig {
                me,
                epoch: committee.epoch(),
                boot: restarted.boot,
                batch: setup.batch,
                interval: setup.interval,
                snapshot_log_bytes: setup.snapshot_log_bytes,
                durability: setup.durability,
                wall_offset_ns: setup.wall_offset_ns,
            },
            Core::new(core, setup.signer, restarted.recovered, now),
            restarted.ledger,
            Writer::new(setup.geometry, setup.identity, restarted.tail),
            setup.blocks,
            setup.sectors,
            setup.longs,
            setup.verifier,
        );
        ordering.note_last(execution.last_slot());
        ordering.resume(now, durable, restarted.snapshot, restarted.undecided);
        if restarted.lacks_copy {
            ordering.save_early();
        }
        if setup.recalls {
            ordering.recall(restarted.clean);
        }
        let saved = restarted.snapshot.unwrap_or(Slot(0));
        let mut saving = Saving::new(committee.cluster(), me, saved);
        if let Some(certificate) = ordering.core().checkpoint() {
            saving.certified(certificate.clone(), execution.pinned());
        }
        Ok(Replica {
            me,
            replicas: replicas as u16,
            waiting_max: setup.batch.waiting_max,
            pace: setup.pace,
            endpoint,
            verifying,
            ordering,
            journal: Journal::new(setup.journal, durable.position()),
            execution,
            reads: Reads::new(me, replicas, committee.epoch()),
            takeover: Takeover::new(me, replicas),
            saving,
            chunk: Vec::new(),
            verify_queue: VerifyQueue::new(committee.n()),
            word_jobs: VecDeque::new(),
            request_jobs: VecDeque::new(),
            execute: VecDeque::new(),
            queries: VecDeque::new(),
            replies: ReplyQueue::default(),
            overflow: VecDeque::new(),
            stopping: None,
            reply_number: 0,
            housekept_at: now,
            halted: false,
            now,
            votes_verified: setup.quorums.has_slow_path(),
            followed: Followed::new(),
            rejected: 0,
            verdict: restarted.verdict,
        })
    }

    /// Takes one input in and leaves what follows from it in `out`.
    pub fn handle(
        &mut self,
        now: Instant,
        input: Input<Bu::Shared>,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        if self.halted {
            return;
        }
        self.now = now;
        match input {
            Input::Datagram { from, bytes } => self.on_datagram(now, from, &bytes, out),
            Input::Written { token, result } => self.on_written(now, token, result, out),
            Input::Record { read, record } => {
                let input = match record {
                    Some(record) => ordering::Input::Record { read, record },
                    None => ordering::Input::ReadDropped,
                };
                self.ordering.handle(now, input);
            }
            Input::Granted { segments } => {
                self.ordering
                    .handle(now, ordering::Input::Granted { segments });
            }
            Input::PieceWritten { result } => self.piece_written(now, result.is_ok(), out),
            Input::Tick => {}
        }
        if self.halted {
            return;
        }
        if now >= self.ordering.wake_at() {
            self.ordering.handle(now, ordering::Input::Tick);
        }
        self.work(now, out);
        self.housekeeping(now);
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Instant {
        let waits = !self.verify_queue.is_empty()
            || !self.word_jobs.is_empty()
            || !self.request_jobs.is_empty()
            || !self.execute.is_empty()
            || !self.queries.is_empty();
        if waits {
            Instant(0)
        } else {
            self.ordering.wake_at().min(self.state_wake_at())
        }
    }

    /// Moves everything from queue to queue until nothing moves or the pace is used up.
    fn work(&mut self, now: Instant, out: &mut Vec<Effect<Bu::Shared>>) {
        let mut pace = self.pace;
        loop {
            let mut moved = false;
            while let Some(output) = self.ordering.next_output() {
                moved = true;
                self.carry_out(output, out);
                if self.halted {
                    // A vote that a lease allows does not wait for the log, and must not follow its end.
                    return;
                }
            }
            self.write_next(out);
            if pace.verifications > 0 {
                let (words, requests) = (&mut self.word_jobs, &mut self.request_jobs);
                let network = || words.pop_front().or_else(|| requests.pop_front());
                if let Some(job) = self.verify_queue.next(network) {
                    pace.verifications -= 1;
                    moved = true;
                    self.verify(now, job);
                }
            }
            if pace.executions > 0 && !self.saving.is_switching() {
                if let Some((slot, message)) = self.execute.pop_front() {
                    pace.executions -= 1;
                    moved = true;
                    // What a state that was taken over holds already is not executed again.
                    let work = if slot > self.execution.executed() {
                        self.execution.execute(slot, &message, &mut self.replies)
                    } else {
                        Work::default()
                    };
                    let input = ordering::Input::Executed { slot, work };
                    self.ordering.handle(now, input);
                } else if let Some(query) = self.queries.pop_front() {
                    pace.executions -= 1;
                    moved = true;
                    self.answer(now, query, out);
                }
            }
            moved |= self.hash(now);
            moved |= self.tend_state(now, out);
            self.reads.executed(&mut self.execution, &mut self.replies);
            for (client, slot, kind, body) in std::mem::take(&mut self.replies.replies) {
                self.reply_number += 1;
                self.send_client(&client, kind, slot, &body, out);
            }
            if !moved {
                return;
            }
        }
    }

    fn verify(&mut self, now: Instant, job: Job<Bu>) {
        self.verifying.note_decided(self.ordering.summary().decided);
        let before = self.verifying.signatures();
        let verdict = self.verifying.handle(now, job);
        self.verify_queue.done(self.verifying.signatures() - before);
        let (told, refused) = verdict.told();
        self.rejected += u64::from(refused.is_some());
        if let Some(input) = told {
            self.ordering.handle(now, input);
        }
    }

    fn carry_out(&mut self, output: Output<Bu>, out: &mut Vec<Effect<Bu::Shared>>) {
        match output {
            Output::Send { to, mut message } => {
                self.ask_for_the_rest(to, &mut message);
                self.send_small(to, &message, out);
            }
            Output::SendLong {
                to,
                kind,
                view,
                slot,
                digest,
                message,
                grains,
            } => {
                let place = (kind, view, slot, digest.prefix());
                for id in self.recipients(to) {
                    self.send_long(id, place, &message, grains.as_ref(), out);
                }
            }
            Output::Append(sealed) => self.append(sealed, out),
            Output::Verify { place, message } => {
                // Bounded by the window of blocks whose bytes are held.
                self.verify_queue.push(Job::Proposed { place, message });
            }
            // Bounded by the ordering half.
            Output::Judge(offer) => self.verify_queue.push(Job::Fetched(offer)),
            Output::Recheck(question) => {
                let input = ordering::Input::Rechecked {
                    question,
                    waits: self.execution.waits(&question),
                };
                self.ordering.handle(self.now, input);
            }
            Output::Stable(slot) => self.execution.stable(slot),
            Output::Certified(certificate) => {
                let pinned = self.execution.pinned();
                self.saving.certified(certificate, pinned);
            }
            Output::Offered(certificate) => self.takeover.offer(certificate, &self.execution),
            Output::Save { full } => self.saving.want(full, &mut self.execution),
            Output::KeepNewest(keep) => self.execution.keep_newest(keep),
            Output::Transfer(certificate) => self.takeover.begin(certificate, &mut self.execution),
            Output::Diverged { .. } => {}
            Output::EpochOver(certificate) => self.halt(Halted::EpochOver(certificate), out),
            Output::DiskLost(found) => self.halt(Halted::DiskLost(found), out),
            Output::Execute { slot, message } => {
                assert!(
                    self.execute.len() < EXECUTE_MAX,
                    "decided blocks lie in the window"
                );
                self.execute.push_back((slot, message));
            }
            Output::Read(read) => out.push(Effect::Read(read)),
            Output::Resend {
                client,
                session,
                first,
                count,
            } => {
                // Lost answers are asked for again.
                let _ = self.query(Query::Resend(client, session, first, count));
            }
            Output::Busy {
                client,
                first,
                log_full,
            } => {
                let reason = if log_full { BUSY_LOG_FULL } else { BUSY_QUEUE };
                self.busy(&client, first, reason, out);
            }
            Output::Refused(_) => self.rejected += 1,
        }
    }

    fn housekeeping(&mut self, now: Instant) {
        self.endpoint
            .set_progress(self.ordering.summary().view, self.execution.executed());
        if now.since_ns(self.housekept_at) >= HOUSEKEEPING_NS {
            self.housekept_at = now;
            self.execution.expire(now);
            self.endpoint.expire(now);
        }
    }

    pub fn summary(&self) -> Summary {
        self.ordering.summary()
    }

    /// Records what the core is told and answers; before the first [`Replica::handle`].
    pub fn record_to(&mut self, tape: Box<dyn Tape>) {
        self.ordering.record_to(tape);
    }

    pub fn ordering(&self) -> &Ordering<Bu, S, V> {
        &self.ordering
    }

    pub fn execution(&self) -> &Execution<M> {
        &self.execution
    }

    /// The READs of this process.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The transfers of this process.
    pub fn takeover(&self) -> &Takeover {
        &self.takeover
    }

    pub fn boot(&self) -> Boot {
        self.endpoint.boot()
    }

    /// How the log ended when this process read it.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Everything of a peer or client that was refused so far.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Everything that waits in a queue of this object now; for bounds.
    pub fn queued(&self) -> usize {
        self.verify_queue.len()
            + self.word_jobs.len()
            + self.request_jobs.len()
            + self.execute.len()
            + self.queries.len()
            + self.reads.waiting()
            + self.overflow.len()
            + self.journal.queued()
    }
}
