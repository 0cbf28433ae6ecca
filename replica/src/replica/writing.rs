//! Records on their way to the disk.

use std::sync::Arc;

use storage::machine::StateMachine;
use storage::wal::{JournalFailed, PushError, Sealed, Token};
use thiserror::Error;
use wire::bytes::Buffers;
use wire::certificates::CheckpointCertificate;
use wire::ids::Instant;
use wire::seal::{Signer, Statement, Verifier};

use super::{Effect, Replica};
use crate::ordering;

/// Why a process must end.
#[derive(Debug, Error)]
pub enum Halted {
    /// The log is in doubt.
    #[error(transparent)]
    Journal(#[from] JournalFailed),
    /// R6.
    #[error("another replica holds a statement of this one that its log does not know: {0:?}")]
    DiskLost(Statement),
    /// G2: no failure.
    #[error("the epoch is over: its last state, at slot {}, is certified and durable", .0.header.slot())]
    EpochOver(Arc<CheckpointCertificate>),
}

impl<Bu, S, V, M> Replica<Bu, S, V, M>
where
    Bu: Buffers + Clone,
    S: Signer,
    V: Verifier + Clone,
    M: StateMachine,
{
    pub(super) fn append(&mut self, sealed: Sealed<Bu::Shared>, out: &mut Vec<Effect<Bu::Shared>>) {
        if !self.overflow.is_empty() {
            self.overflow.push_back(sealed);
            return;
        }
        match self.journal.push(sealed) {
            Ok(()) => {}
            Err(PushError::Full(sealed)) => self.overflow.push_back(sealed),
            Err(PushError::Failed(failed)) => self.halt(failed.into(), out),
        }
    }

    pub(super) fn write_next(&mut self, out: &mut Vec<Effect<Bu::Shared>>) {
        if let Some(batch) = self.journal.next_batch() {
            out.push(Effect::Write {
                segment: batch.segment,
                offset: batch.offset,
                parts: batch
                    .parts
                    .iter()
                    .map(|sealed| sealed.shared.clone())
                    .collect(),
                token: batch.token.raw(),
            });
        }
    }

    pub(super) fn on_written(
        &mut self,
        now: Instant,
        token: u64,
        result: Result<(), i32>,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        match self.journal.complete(Token::from_raw(token), result) {
            Ok(durable) => {
                self.ordering.handle(now, ordering::Input::Durable(durable));
                for sealed in std::mem::take(&mut self.overflow) {
                    self.append(sealed, out);
                }
            }
            Err(failed) => self.halt(failed.into(), out),
        }
    }

    /// Writes the marker of a clean stop; false when it cannot be written now. Nothing but the disk's
    /// word is taken in from then on, and the process may end when [`Replica::is_stopped`].
    pub fn stop(&mut self, now: Instant, out: &mut Vec<Effect<Bu::Shared>>) -> bool {
        self.stopping = self.ordering.stop();
        self.work(now, out);
        self.stopping.is_some()
    }

    /// Whether the marker of a clean stop was written.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether the marker of a clean stop is durable.
    pub fn is_stopped(&self) -> bool {
        let durable = self.ordering.durable();
        self.stopping.is_some_and(|end| end <= durable)
    }

    /// Records on their way to the disk, in the order of the log.
    pub fn unwritten(&self) -> impl Iterator<Item = &Sealed<Bu::Shared>> {
        self.journal.unwritten().chain(&self.overflow)
    }

    /// Nothing follows it.
    pub(super) fn halt(&mut self, why: Halted, out: &mut Vec<Effect<Bu::Shared>>) {
        if !std::mem::replace(&mut self.halted, true) {
            out.push(Effect::Halt(why));
        }
    }
}
