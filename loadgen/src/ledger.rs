//! What completions add up to: figures, counts, history.

use client::{Completion, Failure, Outbox, Way};
use wire::ids::{Instant, NodeId, Sequence, Slot};
use wire::ops::Outcome;

use crate::histograms::{Interval, record};
use crate::history::{HistoryWriter, Line};
use crate::keys::{Values, key};
use crate::operations::{InFlight, Operations};
use crate::port::Port;

/// The state that a completion changes, apart from the clients that report it.
pub struct Ledger {
    pub operations: Operations,
    pub interval: Box<Interval>,
    pub measured: Box<Interval>,
    /// Start and end of the measured window.
    pub window: (u64, u64),
    pub values: Values,
    pub history: Option<HistoryWriter>,
    pub history_failed: bool,
    pub first_client: usize,
}

/// Where a client's effects go during one call.
pub struct Effects<'a> {
    pub now: Instant,
    pub ledger: &'a mut Ledger,
    pub port: &'a mut Port,
}

impl Outbox for Effects<'_> {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        self.port.send(to, datagram);
    }

    fn complete(&mut self, completion: Completion<'_>) {
        self.ledger.complete(self.now, &completion);
    }
}

impl Ledger {
    /// Whether the instant lies in the measured window.
    pub fn in_window(&self, at_ns: u64) -> bool {
        (self.window.0..self.window.1).contains(&at_ns)
    }

    fn complete(&mut self, now: Instant, completion: &Completion<'_>) {
        let operation = self.operations.remove(completion.tag);
        let answered = match completion.result {
            Ok(result) => match Outcome::parse(result) {
                Ok(Outcome::Done) => operation.is_put,
                Ok(Outcome::Value(_) | Outcome::Absent) => !operation.is_put,
                _ => false,
            },
            Err(_) => false,
        };
        let in_window = self.in_window(now.0);
        if answered {
            let latency = now.0.saturating_sub(operation.intended_ns);
            self.interval.counts.answered += 1;
            self.measured.counts.answered += u64::from(in_window);
            record(&mut self.interval.latency, latency);
            if operation.measured {
                self.measured.counts.answered_measured += 1;
                record(&mut self.measured.latency, latency);
                record(
                    &mut self.measured.service_time,
                    now.since_ns(completion.sent),
                );
            }
        } else {
            let timed_out = completion.result == Err(Failure::Timeout);
            for figures in [&mut self.interval, &mut self.measured] {
                if timed_out {
                    figures.counts.timeouts += 1;
                } else {
                    figures.counts.rejected += 1;
                }
            }
        }
        if self.history.is_some() {
            self.write_history(now, &operation, completion, answered);
        }
    }

    /// Whatever is still in flight when the drain has ended was never answered.
    pub fn give_up_rest(&mut self) {
        let now = crate::plan::now();
        for tag in self.operations.tags() {
            self.complete(
                now,
                &Completion {
                    tag,
                    sequence: Sequence(0),
                    slot: Slot(0),
                    result: Err(Failure::Timeout),
                    replies: 0,
                    way: Way::Ordered,
                    sent: now,
                },
            );
        }
    }

    fn write_history(
        &mut self,
        now: Instant,
        operation: &InFlight,
        completion: &Completion<'_>,
        answered: bool,
    ) {
        let Some(history) = &mut self.history else {
            return;
        };
        let value = operation
            .is_put
            .then(|| self.values.value(operation.number));
        let result = match completion.result.map(Outcome::parse) {
            Ok(Ok(Outcome::Value(found))) => Some(found),
            _ => None,
        };
        let line = Line {
            client: self.first_client + operation.client as usize,
            op: if operation.is_put { "put" } else { "get" },
            key: &key(operation.key),
            value,
            call_ns: operation.intended_ns,
            return_ns: completion.result.is_ok().then_some(now.0),
            ok: answered,
            result,
            slot: completion.result.is_ok().then_some(completion.slot.0),
        };
        self.history_failed |= history.write(&line).is_err();
    }
}
