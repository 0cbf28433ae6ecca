//! Ed25519 verification: any number of instances, each with its own links.

mod turns;

use replica::fair::Fair;
use replica::ordering::Input;
use replica::verifying::{Job, Verifying};
use wire::ids::{Instant, Slot};
use wire::seal::Ed25519Verifier;

use super::links::{Inlet, Outlet};
use super::{ORDER_ROOM_MIN, Shared};
use crate::buffers::Pooled;
use crate::telemetry::Stage;
pub use turns::Turns;

/// Jobs of one turn, and signatures after which none is begun: about 100 us of work unless it is a
/// block, so that a stage on the same thread is not starved.
const JOBS_PER_TURN: usize = 4;
const SIGNATURES_PER_TURN: u64 = 8;

/// One verifier thread's stage.
pub struct Verify {
    pub verifying: Verifying<Ed25519Verifier>,
    pub from_net: Inlet<Job<Pooled>>,
    pub from_order: Inlet<Job<Pooled>>,
    pub to_order: Outlet<Input<Pooled>>,
    /// Fetched blocks that wait.
    pub fetched: Fair<Job<Pooled>>,
    pub turns: Turns,
    pub shared: Shared,
}

impl Verify {
    /// The next job. Proposed blocks come before all else: a vote waits for them. Fetched ones, of
    /// which a replica that lags has many, take turns with what came by the network.
    fn next_job(&mut self) -> Option<Job<Pooled>> {
        while let Some(job) = self.from_order.pop() {
            let Job::Fetched { from, .. } = &job else {
                return Some(job);
            };
            // As many as the ordering stage has judged at a time.
            self.fetched.push(from.index(), job);
        }
        let signatures = self.verifying.signatures();
        let of_network = |verify: &mut Verify| {
            let job = verify.from_net.pop()?;
            verify.turns.begin_network(signatures);
            Some(job)
        };
        let of_fetched = |verify: &mut Verify| {
            let job = verify.fetched.pop()?;
            verify.turns.begin_fetched(signatures);
            Some(job)
        };
        if self.turns.is_of_network(signatures) {
            of_network(self).or_else(|| of_fetched(self))
        } else {
            of_fetched(self).or_else(|| of_network(self))
        }
    }

    /// Jobs that wait.
    fn queued(&self) -> usize {
        self.fetched.len() + self.from_order.queued() + self.from_net.queued()
    }

    /// Does a few jobs; true when there was one.
    pub fn turn(&mut self, now: Instant) -> bool {
        let decided = self.shared.telemetry.order.committed_slot.get();
        self.verifying.note_decided(Slot(decided));
        let (mut done, before) = (0, self.verifying.signatures());
        while done < JOBS_PER_TURN
            && self.verifying.signatures() - before < SIGNATURES_PER_TURN
            && self.to_order.room() > ORDER_ROOM_MIN
        {
            let Some(job) = self.next_job() else { break };
            done += 1;
            // Told before the result is handed over: the ordering stage waits for what is left.
            let left = self.queued();
            let telemetry = &self.shared.telemetry;
            telemetry.queue_depth.of(Stage::Verify).set(left as u64);
            let (fetched, spent) = (
                matches!(job, Job::Fetched { .. }),
                self.verifying.signatures(),
            );
            let verdict = self.verifying.handle(now, job);
            if fetched {
                self.fetched.settle(self.verifying.signatures() - spent);
            }
            let (told, refused) = verdict.told();
            if let Some(reject) = refused {
                telemetry.verify.failures.add(1);
                telemetry.rejects.count(reject);
            }
            let Some(input) = told else { continue };
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
