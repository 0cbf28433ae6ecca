//! Ed25519 verification: any number of instances, each with its own links.

use std::collections::VecDeque;

use replica::ordering::Input;
use replica::verifying::{Job, Verdict, Verifying};
use wire::ids::{Instant, Slot};
use wire::seal::Ed25519Verifier;

use super::links::{Inlet, Outlet};
use super::{ORDER_ROOM_MIN, Shared};
use crate::buffers::Pooled;
use crate::telemetry::Stage;

/// Jobs of one turn: about 100 us of work, so that a stage on the same thread is not starved.
const JOBS_PER_TURN: usize = 4;

/// Whose turn it is.
#[derive(Default)]
pub struct Turns {
    /// Fetched blocks that wait.
    fetched: VecDeque<Job<Pooled>>,
    after_fetched: bool,
    /// Signatures that jobs of the network may take before the next fetched block.
    owed: u64,
    /// Taken so far by all.
    signatures: u64,
}

/// One verifier thread's stage.
pub struct Verify {
    pub verifying: Verifying<Ed25519Verifier>,
    pub from_net: Inlet<Job<Pooled>>,
    pub from_order: Inlet<Job<Pooled>>,
    pub to_order: Outlet<Input<Pooled>>,
    pub turns: Turns,
    pub shared: Shared,
}

impl Verify {
    /// The next job. Proposed blocks come before all else: a vote waits for them. Fetched ones, of
    /// which a replica that lags has many, take turns with what came by the network: as many
    /// signatures for these as the last one had.
    fn next_job(&mut self) -> Option<Job<Pooled>> {
        while let Some(job) = self.from_order.pop() {
            if !matches!(job, Job::Fetched { .. }) {
                return Some(job);
            }
            // As many as the ordering stage has judged at a time.
            self.turns.fetched.push_back(job);
        }
        let spent = self.verifying.signatures() - self.turns.signatures;
        self.turns.signatures = self.verifying.signatures();
        if std::mem::take(&mut self.turns.after_fetched) {
            self.turns.owed = spent;
        } else {
            self.turns.owed = self.turns.owed.saturating_sub(spent.max(1));
        }
        let of_net = |verify: &mut Verify| verify.from_net.pop();
        let of_order = |verify: &mut Verify| {
            let job = verify.turns.fetched.pop_front()?;
            verify.turns.after_fetched = true;
            Some(job)
        };
        if self.turns.owed > 0 {
            of_net(self).or_else(|| of_order(self))
        } else {
            of_order(self).or_else(|| of_net(self))
        }
    }

    /// Jobs that wait.
    fn queued(&self) -> usize {
        self.turns.fetched.len() + self.from_order.queued() + self.from_net.queued()
    }

    /// Does a few jobs; true when there was one.
    pub fn turn(&mut self, now: Instant) -> bool {
        let decided = self.shared.telemetry.order.committed_slot.get();
        self.verifying.note_decided(Slot(decided));
        let mut done = 0;
        while done < JOBS_PER_TURN && self.to_order.room() > ORDER_ROOM_MIN {
            let Some(job) = self.next_job() else { break };
            done += 1;
            // Told before the result is handed over: the ordering stage waits for what is left.
            let left = self.queued();
            let telemetry = &self.shared.telemetry;
            telemetry.queue_depth.of(Stage::Verify).set(left as u64);
            let input = match self.verifying.handle(now, job) {
                Verdict::Request(request) => Input::Request(request),
                Verdict::Forwarded { from, request } => Input::Forwarded { from, request },
                Verdict::Agreement(input) => Input::Agreement(input),
                Verdict::Evidence(body) => Input::Evidence(body),
                Verdict::Fetched { from, place, raw } => Input::Fetched { from, place, raw },
                Verdict::Unfit {
                    from,
                    place,
                    reject,
                } => {
                    telemetry.verify.failures.add(1);
                    telemetry.rejects.count(reject);
                    Input::Unfit { from, place }
                }
                Verdict::Rejected(reject) => {
                    telemetry.verify.failures.add(1);
                    telemetry.rejects.count(reject);
                    continue;
                }
            };
            if self.to_order.push(input).is_err() {
                unreachable!("room was checked");
            }
        }
        if done > 0 {
            let signatures = self.verifying.signatures();
            self.shared.telemetry.verify.signatures.set(signatures);
        }
        self.to_order.wake();
        done > 0
    }
}
