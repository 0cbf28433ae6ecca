//! Snapshots made while blocks execute: of the next checkpoint when the log has grown (K2), and of
//! a state that was taken over (K1).
//!
//! A table that keeps a copy of its own on disk has that brought up to date instead of a file; and a
//! state that comes from others goes there as it comes.
//!
//! The state is pinned, written piece by piece, and let go when the file is durable. The machine
//! acknowledges every piece; a few wait for it at most. One snapshot is under way at most.

use std::collections::VecDeque;
use std::sync::Arc;

use storage::machine::StateMachine;
use storage::state::{Hold, Pinned, Unserved};
use wire::certificates::CheckpointCertificate;
use wire::ids::{ClusterId, Instant, NodeId, Slot};

use crate::execution::Execution;
use crate::flush::{FlushWriter, Next, StreamWriter, adopt};
use crate::snapshot::{SnapshotFailed, SnapshotWriter};
use crate::takeover::Takeover;

/// Pieces that wait for the machine.
const PIECES_MAX: usize = 4;
/// Frames are joined until a piece has this many bytes.
const PIECE_BYTES_MIN: usize = 64 * 1024;
/// Certificates that are remembered, the one of the pinned checkpoint for as long as it is pinned.
const CERTIFICATES_MAX: usize = 4;
/// Pause after a failure, when the state was taken over and the snapshot must be made.
const RETRY_NS: u64 = 1_000_000_000;

/// A step of writing a snapshot file. The machine answers each but `Abort`, in order, with whether
/// it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Begin a new file, for the state at this slot, beside the one there is.
    Begin { slot: Slot },
    /// Append.
    Bytes(Vec<u8>),
    /// Make it durable, give it its name, make that durable, remove older ones; then answer.
    End,
    /// Remove what was begun. Nothing of it will be answered.
    Abort,
}

/// What came of a snapshot.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is durable.
    Saved(Arc<CheckpointCertificate>),
    /// It is durable, and the state was taken over: now the ordering side may know.
    TakenOver(Arc<CheckpointCertificate>),
    /// There is none.
    Failed,
}

/// Where a state goes: into a file of its own, or into the copy that the table keeps.
#[derive(Debug)]
enum Writer {
    File(SnapshotWriter),
    Table(FlushWriter),
    /// A state that comes from others.
    Stream(StreamWriter),
}

impl Writer {
    fn slot(&self) -> Slot {
        match self {
            Writer::File(writer) => writer.slot(),
            Writer::Table(writer) => writer.slot(),
            Writer::Stream(writer) => writer.slot(),
        }
    }

    /// Appends what comes next.
    fn next<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        takeover: &mut Takeover,
        out: &mut Vec<u8>,
    ) -> Result<Next, SnapshotFailed> {
        let more = match self {
            Writer::File(writer) => writer.next(execution, out)?,
            Writer::Table(writer) => writer.next(execution, out)?,
            Writer::Stream(writer) => {
                takeover.drop_overtaken(execution);
                let stream = takeover.stream();
                let started = stream.filter(|(_, transfer)| transfer.is_started());
                let (_, transfer) = started.ok_or(Unserved::NotPinned)?;
                return Ok(writer.next(execution, transfer, out));
            }
        };
        Ok(if more { Next::Bytes } else { Next::End })
    }
}

#[derive(Debug)]
struct File {
    certificate: Arc<CheckpointCertificate>,
    taken_over: bool,
    writer: Writer,
    begun: bool,
    ended: bool,
    unanswered: usize,
}

impl File {
    fn new(certificate: Arc<CheckpointCertificate>, writer: Writer, taken_over: bool) -> File {
        File {
            certificate,
            taken_over,
            writer,
            begun: false,
            ended: false,
            unanswered: 0,
        }
    }
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The checkpoint at this slot is pinned; its certificate is not here, or it is not hashed.
    Waiting(Slot),
    Writing(Box<File>),
    /// It failed, and must be made.
    Retrying(Arc<CheckpointCertificate>, Instant),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Saving {
    cluster: ClusterId,
    me: NodeId,
    stage: Stage,
    certified: VecDeque<Arc<CheckpointCertificate>>,
    outcomes: VecDeque<Outcome>,
    /// Slot of the newest snapshot.
    saved: Slot,
    /// A stream failed, and none begins before.
    stream_after: Instant,
}

impl Saving {
    /// `saved`: slot of the snapshot that there is.
    pub fn new(cluster: ClusterId, me: NodeId, saved: Slot) -> Saving {
        Saving {
            cluster,
            me,
            stage: Stage::Idle,
            certified: VecDeque::with_capacity(CERTIFICATES_MAX),
            outcomes: VecDeque::with_capacity(2),
            saved,
            stream_after: Instant(0),
        }
    }

    /// A snapshot is wanted: of the checkpoint that is pinned, or else of the next one. A log that is
    /// `full` waits for no transfer of an older one.
    pub fn want<M: StateMachine>(&mut self, full: bool, execution: &mut Execution<M>) {
        // The one under way will do.
        if !matches!(self.stage, Stage::Idle) {
            return;
        }
        let saved = self.saved;
        let is_of_no_use = |pinned: Option<Pinned>| pinned.is_some_and(|kept| kept.slot <= saved);
        if full && is_of_no_use(execution.pinned()) {
            execution.end_transfers();
        }
        if is_of_no_use(execution.pinned()) {
            // Kept for a transfer, and of no use a second time: the next checkpoint may do.
            self.outcomes.push_back(Outcome::Failed);
        } else {
            let pinned = execution.pin(Hold::Open);
            self.stage = Stage::Waiting(pinned.slot);
        }
    }

    /// A checkpoint is stable here; this one is pinned.
    pub fn certified(&mut self, certificate: Arc<CheckpointCertificate>, pinned: Option<Pinned>) {
        if self.certified.len() == CERTIFICATES_MAX {
            let pinned = pinned.map(|pinned| pinned.slot);
            let slot = |held: &Arc<CheckpointCertificate>| Some(held.header.slot());
            let oldest = self.certified.iter().position(|held| slot(held) != pinned);
            self.certified.remove(oldest.unwrap_or(0));
        }
        self.certified.push_back(certificate);
    }

    /// The certificate of the checkpoint at `slot`, if it is remembered.
    pub fn certificate_of(&self, slot: Slot) -> Option<&Arc<CheckpointCertificate>> {
        self.certified
            .iter()
            .find(|held| held.header.slot() == slot)
    }

    /// The state of this certificate was just installed: a snapshot of it comes before all else.
    pub fn taken_over<M: StateMachine>(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        execution: &mut Execution<M>,
        out: &mut impl FnMut(Piece),
    ) {
        // Installing has let go of what was pinned.
        self.abort(execution, out);
        let pinned = execution.pin(Hold::Open);
        assert_eq!(
            (pinned.slot, pinned.ready),
            (certificate.header.slot(), true),
            "an installed state can be seen whole"
        );
        self.certified(Arc::clone(&certificate), Some(pinned));
        self.begin(certificate, true, execution);
    }

    fn abort<M: StateMachine>(
        &mut self,
        execution: &mut Execution<M>,
        out: &mut impl FnMut(Piece),
    ) {
        execution.flush_abort();
        if let Stage::Writing(file) = &self.stage
            && file.begun
        {
            out(Piece::Abort);
        }
        self.stage = Stage::Idle;
    }

    fn begin<M: StateMachine>(
        &mut self,
        certificate: Arc<CheckpointCertificate>,
        taken_over: bool,
        execution: &mut Execution<M>,
    ) {
        let place = certificate.place();
        let (root, encoded) = (certificate.root, certificate.encode());
        let writer = if execution.has_copy() {
            Writer::Table(FlushWriter::new(&certificate))
        } else {
            let writer = SnapshotWriter::new(self.cluster, self.me, place.slot, place.digest, root);
            Writer::File(writer.with_certificate(encoded))
        };
        self.stage = Stage::Writing(Box::new(File::new(certificate, writer, taken_over)));
    }

    /// Goes on: at most one piece. True when there was something to do.
    pub fn turn<M: StateMachine>(
        &mut self,
        now: Instant,
        execution: &mut Execution<M>,
        takeover: &mut Takeover,
        out: &mut impl FnMut(Piece),
    ) -> bool {
        if self.begin_stream(now, execution, takeover) {
            return true;
        }
        match &mut self.stage {
            Stage::Idle => false,
            &mut Stage::Waiting(slot) => {
                let pinned = execution.pinned().filter(|pinned| pinned.slot == slot);
                let found = self.certificate_of(slot);
                let newest = self.certified.back().map_or(Slot(0), |c| c.header.slot());
                match (pinned, found) {
                    (Some(pinned), Some(found)) if pinned.ready => {
                        let found = Arc::clone(found);
                        self.begin(found, false, execution);
                        true
                    }
                    // Given up for lack of memory, or passed over by a newer certificate.
                    (None, _) => self.fail(now, execution),
                    (Some(_), None) if newest > slot => self.fail(now, execution),
                    _ => false,
                }
            }
            Stage::Retrying(certificate, at) => {
                if now < *at {
                    return false;
                }
                let certificate = Arc::clone(certificate);
                self.begin(certificate, true, execution);
                true
            }
            Stage::Writing(file) => {
                if file.unanswered >= PIECES_MAX || file.ended {
                    return false;
                }
                file.unanswered += 1;
                if !file.begun {
                    file.begun = true;
                    let slot = file.writer.slot();
                    out(Piece::Begin { slot });
                    return true;
                }
                let mut bytes = Vec::new();
                loop {
                    match file.writer.next(execution, takeover, &mut bytes) {
                        Ok(Next::Bytes) if bytes.len() < PIECE_BYTES_MIN => {}
                        Ok(Next::Bytes) => break,
                        Ok(Next::Nothing) if bytes.is_empty() => {
                            file.unanswered -= 1;
                            return false;
                        }
                        Ok(Next::Nothing) => break,
                        Ok(Next::End) => {
                            file.ended = true;
                            if let Writer::Stream(_) = &file.writer {
                                takeover.seal();
                            }
                            break;
                        }
                        // The pin was given up, or this replica has diverged (K3).
                        Err(_) => {
                            self.abort(execution, out);
                            return self.fail(now, execution);
                        }
                    }
                }
                let ended = file.ended;
                if !bytes.is_empty() {
                    file.unanswered += usize::from(ended);
                    out(Piece::Bytes(bytes));
                }
                if ended {
                    out(Piece::End);
                }
                true
            }
        }
    }

    fn fail<M: StateMachine>(&mut self, now: Instant, execution: &mut Execution<M>) -> bool {
        self.stage = Stage::Idle;
        execution.close_snapshot(now);
        self.outcomes.push_back(Outcome::Failed);
        true
    }

    /// A state that comes from others goes before a snapshot of the own one that only waits.
    fn begin_stream<M: StateMachine>(
        &mut self,
        now: Instant,
        execution: &mut Execution<M>,
        takeover: &mut Takeover,
    ) -> bool {
        if now >= self.stream_after {
            self.stream_after = Instant(0);
        }
        if now < self.stream_after || !matches!(self.stage, Stage::Idle | Stage::Waiting(_)) {
            return false;
        }
        let stream = takeover.stream();
        let Some((certificate, transfer)) = stream.filter(|(_, transfer)| transfer.awaits_start())
        else {
            return false;
        };
        if let Stage::Waiting(_) = self.stage {
            self.fail(now, execution);
        }
        transfer.start_stream(&execution.copied_leaves());
        let table = execution.copy().expect("it is streamed to");
        let writer = Writer::Stream(StreamWriter::new(certificate, table));
        self.stage = Stage::Writing(Box::new(File::new(Arc::clone(certificate), writer, true)));
        true
    }

    /// The last step of a state that comes from others is on its way to the disk: nothing may be
    /// executed before that is answered.
    pub fn is_switching(&self) -> bool {
        match &self.stage {
            Stage::Writing(file) => file.ended && matches!(file.writer, Writer::Stream(_)),
            _ => false,
        }
    }

    /// The machine answers the oldest piece.
    pub fn answered<M: StateMachine>(
        &mut self,
        now: Instant,
        succeeded: bool,
        execution: &mut Execution<M>,
        takeover: &mut Takeover,
        out: &mut impl FnMut(Piece),
    ) {
        let Stage::Writing(file) = &mut self.stage else {
            return;
        };
        file.unanswered = file.unanswered.saturating_sub(1);
        let certificate = Arc::clone(&file.certificate);
        let is_stream = matches!(file.writer, Writer::Stream(_));
        match (succeeded, file.taken_over) {
            (false, true) if is_stream => {
                self.abort(execution, out);
                self.stream_after = now.after_ns(RETRY_NS);
                takeover.stream_failed(execution);
                self.outcomes.push_back(Outcome::Failed);
            }
            (false, false) => {
                self.abort(execution, out);
                self.fail(now, execution);
            }
            (false, true) => {
                // It stays pinned.
                self.abort(execution, out);
                self.stage = Stage::Retrying(certificate, now.after_ns(RETRY_NS));
            }
            (true, taken_over) => {
                if !file.ended || file.unanswered > 0 {
                    return;
                }
                match &file.writer {
                    Writer::File(_) => {}
                    Writer::Table(_) => execution.flush_end(now, Arc::clone(&certificate)),
                    Writer::Stream(_) => {
                        adopt(execution, Arc::clone(&certificate))
                            .expect("what was just made durable can be read");
                        takeover.adopted(execution);
                        self.certified(Arc::clone(&certificate), execution.pinned());
                    }
                }
                self.stage = Stage::Idle;
                execution.close_snapshot(now);
                self.saved = self.saved.max(certificate.header.slot());
                self.outcomes.push_back(if taken_over {
                    Outcome::TakenOver(certificate)
                } else {
                    Outcome::Saved(certificate)
                });
            }
        }
    }

    /// What came of a snapshot, each once.
    pub fn next_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// When [`Saving::turn`] has something to do if nothing else happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Retrying(_, at) => Some(*at),
            Stage::Idle if self.stream_after > Instant(0) => Some(self.stream_after),
            _ => None,
        }
    }
}
