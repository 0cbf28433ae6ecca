//! The loop of one hot thread: a driver, the stages that run beside it, and how it idles.

use std::time::Duration;

use platform::clock;
use platform::driver::{Driver, Event, EventQueue};
use platform::idle::{Idle, Idler, Wait};
use platform::tripwire;
use wire::ids::Instant;

use super::execute::Execute;
use super::journal::JournalStage;
use super::net::Net;
use super::order::Order;
use super::verify::Verify;
use super::{Failure, Shared};
use crate::telemetry::Stage;

/// The stages of one thread; a thread runs those that are there.
#[derive(Default)]
pub struct Stages {
    pub net: Option<Net>,
    pub verify: Option<Verify>,
    pub order: Option<Order>,
    pub journal: Option<JournalStage>,
    pub execute: Option<Execute>,
}

/// One hot thread.
pub struct HotThread {
    pub driver: Box<dyn Driver>,
    pub events: EventQueue,
    pub stages: Stages,
    /// The order in which they are called.
    pub sequence: &'static [Stage],
    pub idle: Idle,
    pub shared: Shared,
}

/// Longest sleep: stop flags are looked at this often.
const SLEEP_NS_MAX: u64 = 20_000_000;
/// Between two publications of slow counters.
const PUBLISH_NS: u64 = 10_000_000;

impl HotThread {
    /// Runs until the node has stopped or failed.
    pub fn run(mut self) -> Result<(), Failure> {
        let mut idler = Idler::new(self.idle);
        let mut wait = Wait::No;
        let mut publish_at = 0;
        while !self.shared.stopped.get() {
            self.driver
                .turn(wait, &mut self.events)
                .map_err(Failure::Platform)?;
            let now = Instant(clock::now_ns());
            let mut progress = self.take_events(now)?;
            for stage in self.sequence {
                progress |= self.turn(*stage, now)?;
            }
            tripwire::enter(tripwire::NONE);
            if now.0 >= publish_at {
                publish_at = now.0 + PUBLISH_NS;
                self.publish(now);
            }
            wait = idler.next(progress, self.deadline_in(now));
        }
        self.publish(Instant(clock::now_ns()));
        Ok(())
    }

    fn take_events(&mut self, now: Instant) -> Result<bool, Failure> {
        let mut progress = false;
        while let Some(event) = self.events.pop() {
            progress = true;
            match event {
                Event::Received {
                    from,
                    data,
                    segment,
                } => {
                    tripwire::enter(Stage::Net as u8);
                    if let Some(net) = &mut self.stages.net {
                        net.received(now, from, &data, segment, &mut *self.driver);
                    }
                }
                Event::Written { token, result } => {
                    tripwire::enter(Stage::Journal as u8);
                    if let Some(journal) = &mut self.stages.journal {
                        journal.written(now.0, token, result)?;
                    }
                }
                Event::Read {
                    token,
                    buffer,
                    result,
                } => {
                    tripwire::enter(Stage::Journal as u8);
                    if let Some(journal) = &mut self.stages.journal {
                        journal.read_done(token, buffer, result);
                    }
                }
                // Counted by the driver; what was lost is repaired like any lost datagram.
                Event::SendFailed { .. } => {}
            }
        }
        Ok(progress)
    }

    fn turn(&mut self, stage: Stage, now: Instant) -> Result<bool, Failure> {
        tripwire::enter(stage as u8);
        let stages = &mut self.stages;
        let progress = match stage {
            Stage::Net => stages
                .net
                .as_mut()
                .is_some_and(|net| net.send_turn(&mut *self.driver)),
            Stage::Verify => stages
                .verify
                .as_mut()
                .is_some_and(|verify| verify.turn(now)),
            Stage::Order => match &mut stages.order {
                Some(order) => order.turn(now)?,
                None => false,
            },
            Stage::Journal => match &mut stages.journal {
                Some(journal) => journal.turn(now.0, &mut *self.driver)?,
                None => false,
            },
            Stage::Execute => match &mut stages.execute {
                Some(execute) => {
                    let progress = execute.turn(clock::now_ns);
                    if let Some(failure) = execute.duties.snapshots.failure() {
                        return Err(Failure::Snapshot(failure.to_owned()));
                    }
                    progress
                }
                None => false,
            },
        };
        Ok(progress)
    }

    fn deadline_in(&self, now: Instant) -> Duration {
        let order = self.stages.order.as_ref().map_or(SLEEP_NS_MAX, |order| {
            order.wake_at().since_ns(now).min(SLEEP_NS_MAX)
        });
        let execute = self
            .stages
            .execute
            .as_ref()
            .map_or(SLEEP_NS_MAX, |execute| execute.wake_at().since_ns(now));
        Duration::from_nanos(order.min(execute))
    }

    fn publish(&mut self, now: Instant) {
        if let Some(net) = &mut self.stages.net {
            net.housekeeping(now);
        }
        let telemetry = &self.shared.telemetry;
        let depth = |stage, items: usize| telemetry.queue_depth.of(stage).set(items as u64);
        let stages = &self.stages;
        if let Some(net) = &stages.net {
            depth(
                Stage::Net,
                net.from_order.queued() + net.from_execute.queued(),
            );
        }
        if let Some(order) = &stages.order {
            depth(Stage::Order, order.queued());
        }
        if let Some(journal) = &stages.journal {
            depth(Stage::Journal, journal.queued());
        }
        if let Some(execute) = &stages.execute {
            depth(
                Stage::Execute,
                execute.from_order.queued()
                    + execute.from_net.queued()
                    + execute.duties.from_net.queued(),
            );
        }
        for stage in self.sequence {
            telemetry.heartbeat_ns.of(*stage).set(now.0);
            telemetry
                .hot_allocations
                .of(*stage)
                .set(tripwire::allocations(*stage as u8));
        }
        let counters = self.driver.counters();
        if self.stages.net.is_some() {
            let io = &telemetry.io;
            io.received_datagrams.set(counters.received_datagrams);
            io.received_bytes.set(counters.received_bytes);
            io.sent_datagrams.set(counters.sent_datagrams);
            io.sent_bytes.set(counters.sent_bytes);
            io.send_errors.set(counters.send_errors);
            io.no_receive_buffer.set(counters.no_receive_buffer);
            io.rearmed.set(counters.rearmed);
            io.cq_overflows.set(counters.cq_overflows);
            io.kernel_drops.set(counters.kernel_drops);
            io.enters.set(counters.enters);
        }
    }
}
