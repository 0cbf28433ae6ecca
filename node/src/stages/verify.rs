//! Ed25519 verification: any number of instances, each with its own links.

use replica::ordering::Input;
use replica::verify_queue::VerifyQueue;
use replica::verifying::{Job, Verifying};
use wire::ids::{Instant, Slot};
use wire::seal::Ed25519Verifier;

use super::links::{Inlet, Outlet};
use super::{ORDER_ROOM_MIN, Shared};
use crate::buffers::Pooled;
use crate::telemetry::Stage;

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
    /// What waits of the ordering stage's.
    pub blocks: VerifyQueue<Pooled>,
    pub shared: Shared,
}

impl Verify {
    fn next_job(&mut self) -> Option<Job<Pooled>> {
        while let Some(job) = self.from_order.pop() {
            self.blocks.push(job);
        }
        let from_net = &mut self.from_net;
        self.blocks.next(|| from_net.pop())
    }

    /// Jobs that wait.
    fn queued(&self) -> usize {
        self.blocks.len() + self.from_order.queued() + self.from_net.queued()
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
            let spent = self.verifying.signatures();
            let verdict = self.verifying.handle(now, job);
            self.blocks.done(self.verifying.signatures() - spent);
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
