//! What time demands: sessions opened and lost, retransmissions, operations given up.

use wire::header::Kind;
use wire::ids::{Instant, Sequence, Slot};
use wire::request::{
    FLAG_ALL_FULL, FLAG_READ_ONLY, RequestFields, RequestView, encode_open, encode_request,
};

use super::Client;
use super::replies::BUSY_ATTEMPTS_MAX;
use crate::bundles::Bundle;
use crate::links::Links;
use crate::options::{Completion, Failure, Outbox};
use crate::reads::Due;
use crate::session::{Opening, Session};
use crate::window::Window;

/// Retransmissions that one tick sends at most: an overloaded cluster is not sent a storm.
const RETRIES_PER_TICK_MAX: usize = 16;
/// Times a request is sent again for the bytes of a result before they count as lost.
const FULL_ATTEMPTS_MAX: u32 = 4;

impl Client {
    /// Opens a session as soon as b+1 replicas have named a slot.
    pub(super) fn advance_session(&mut self, now: Instant, out: &mut impl Outbox) {
        if !matches!(self.session, Session::Linking) {
            return;
        }
        let Some(reference) = self.slots.trusted_slot() else {
            return;
        };
        self.open_session(now, reference, out);
    }

    fn open_session(&mut self, now: Instant, reference: Slot, out: &mut impl Outbox) {
        let mut frame = Vec::new();
        encode_open(&mut frame, *self.links.identity(), reference);
        self.links.sign(&mut frame);
        let opening = Opening::new(
            frame,
            self.links.replicas(),
            self.quorum,
            now.after_ns(self.pacer.pause_ns(1)),
        );
        self.links
            .send_frame(Kind::Open, self.leader(), false, &opening.frame, out);
        self.session = Session::Opening(opening);
    }

    pub(super) fn close_held(&mut self, now: Instant, out: &mut impl Outbox) {
        if self.open.held || self.open.operations.count() >= self.options.bundle_max {
            self.close(now, out);
        }
    }

    /// The session is gone: everything sent in it has an unknown outcome. Opens a new one.
    pub(super) fn session_expired(&mut self, now: Instant, out: &mut impl Outbox) {
        self.counters.expired += 1;
        for id in self.bundles.ids() {
            self.give_up_bundle(id, Failure::Expired, out);
        }
        self.bundles.settle();
        self.session = Session::Linking;
        self.advance_session(now, out);
    }

    fn give_up_bundle(&mut self, id: u64, failure: Failure, out: &mut impl Outbox) {
        self.give_up_some(id, failure, |_, _| true, out);
    }

    /// Replicas keep long results as digests only: after a few rounds the bytes will not come.
    fn give_up_lost_results(&mut self, id: u64, out: &mut impl Outbox) {
        self.give_up_some(id, Failure::ResultLost, Window::lacks_bytes, out);
    }

    fn give_up_some(
        &mut self,
        id: u64,
        failure: Failure,
        which: impl Fn(&Window, u64) -> bool,
        out: &mut impl Outbox,
    ) {
        let Some(bundle) = self.bundles.get(id) else {
            return;
        };
        let (first, count, sent) = (bundle.first, bundle.count, bundle.sent);
        for sequence in first..first + u64::from(count) {
            if !which(&self.window, sequence) {
                continue;
            }
            if let Some((tag, bundle)) = self.window.give_up(sequence) {
                self.bundles.ended_one(bundle);
                out.complete(Completion {
                    tag,
                    sequence: Sequence(sequence),
                    slot: Slot(0),
                    result: Err(failure),
                    replies: 0,
                    way: self.reads.way_of(sequence),
                    sent,
                });
            }
        }
    }

    /// When [`Client::tick`] should be called next, if nothing happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        let mut wake = self.bundles.wake().min(self.reads.wake());
        if self.open.operations.count() > 0 {
            // Held bundles, too, must not wait for a session for ever.
            let patience = if self.open.held {
                self.options.timeout_ns
            } else {
                self.options.linger_ns
            };
            wake = wake.min(self.open.opened.after_ns(patience));
        }
        if let Session::Opening(opening) = &self.session {
            wake = wake.min(opening.next_retry);
        }
        wake = wake.min(self.links.wake());
        (wake != Instant(u64::MAX)).then_some(wake)
    }

    /// Does what time demands: closes a bundle that lingered, retransmits, gives up, greets.
    pub fn tick(&mut self, now: Instant, out: &mut impl Outbox) {
        let waiting = self.window.waiting() > 0 || !self.is_ready();
        self.links.tick(now, waiting, out);
        self.ask_for_successor(now, waiting, out);
        self.advance_session(now, out);
        if let Session::Opening(opening) = &mut self.session
            && now >= opening.next_retry
        {
            opening.attempts += 1;
            opening.next_retry = now.after_ns(self.pacer.pause_ns(opening.attempts));
            // A retry names a newer slot, should the first have been too old or too new.
            let attempts = opening.attempts;
            let mut frame = std::mem::take(&mut opening.frame);
            if attempts.is_multiple_of(8)
                && let Some(reference) = self.slots.trusted_slot()
            {
                frame.clear();
                encode_open(&mut frame, *self.links.identity(), reference);
                self.links.sign(&mut frame);
            }
            self.links
                .send_frame(Kind::Open, self.leader(), true, &frame, out);
            if let Session::Opening(opening) = &mut self.session {
                opening.frame = frame;
            }
        }
        if self.open.operations.count() > 0 {
            let age_ns = now.since_ns(self.open.opened);
            if !self.open.held && age_ns >= self.options.linger_ns {
                self.close(now, out);
            }
            if self.open.held && age_ns >= self.options.timeout_ns {
                self.give_up_open(now, out);
            }
        }
        if now >= self.bundles.wake() {
            self.retry(now, out);
        }
        let (links, reads, pacer) = (&mut self.links, &mut self.reads, &mut self.pacer);
        reads.tick(now, pacer, |read| match read {
            Due::Again(node, body) => links.send_read(node, body, out),
            Due::GivenUp { tag, sent, way } => out.complete(Completion {
                tag,
                sequence: Sequence(0),
                slot: Slot(0),
                result: Err(Failure::Timeout),
                replies: 0,
                way,
                sent,
            }),
        });
        self.order_hopeless_reads(now, out);
    }

    /// No session came in time: the operations were never sent.
    fn give_up_open(&mut self, now: Instant, out: &mut impl Outbox) {
        let count = self.open.operations.count() as u64;
        self.open.operations.clear();
        self.open.held = false;
        for sequence in self.open.first..self.open.first + count {
            if let Some((tag, _)) = self.window.give_up(sequence) {
                out.complete(Completion {
                    tag,
                    sequence: Sequence(sequence),
                    slot: Slot(0),
                    result: Err(Failure::Timeout),
                    replies: 0,
                    way: self.reads.way_of(sequence),
                    sent: now,
                });
            }
        }
    }

    fn retry(&mut self, now: Instant, out: &mut impl Outbox) {
        let mut retries = 0;
        let leader = self.leader();
        for id in self.bundles.ids() {
            let Some(bundle) = self.bundles.get_mut(id) else {
                continue;
            };
            if bundle.waiting == 0 {
                continue;
            }
            if now >= bundle.deadline {
                self.give_up_bundle(id, Failure::Timeout, out);
                continue;
            }
            if now < bundle.next_retry || retries >= RETRIES_PER_TICK_MAX {
                continue;
            }
            if bundle.attempts >= FULL_ATTEMPTS_MAX {
                self.give_up_lost_results(id, out);
            }
            let Some(bundle) = self.bundles.get_mut(id).filter(|bundle| bundle.waiting > 0) else {
                continue;
            };
            retries += 1;
            self.counters.retransmissions += 1;
            bundle.attempts += 1;
            bundle.sent_again = now;
            bundle.next_retry = now.after_ns(self.pacer.pause_ns(bundle.attempts));
            if bundle.wants_full || bundle.attempts > 3 {
                bundle.wants_full = false;
                resign_all_full(&mut self.links, bundle);
            }
            let everyone = !(bundle.busy && bundle.attempts <= BUSY_ATTEMPTS_MAX);
            bundle.busy = false;
            self.links
                .send_frame(Kind::Request, leader, everyone, &bundle.frame, out);
        }
        self.bundles.settle();
    }
}

/// Asks every replica for the whole results; the operations stay the same.
fn resign_all_full(links: &mut Links, bundle: &mut Bundle) {
    let Ok(view) = RequestView::parse(&bundle.frame) else {
        return;
    };
    if view.all_full() {
        return;
    }
    let fields = RequestFields {
        session: view.session(),
        first_sequence: view.first_sequence(),
        acked_low: view.acked_low(),
        flags: FLAG_ALL_FULL | if bundle.read_only { FLAG_READ_ONLY } else { 0 },
        count: bundle.count,
    };
    let mut frame = Vec::with_capacity(bundle.frame.len());
    encode_request(
        &mut frame,
        *links.identity(),
        fields,
        view.operation_bytes(),
    );
    links.sign(&mut frame);
    bundle.frame = frame;
}
