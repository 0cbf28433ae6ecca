//! Requests of clients: into the leader's next block, or waiting for the leader (N1, §9.4).

use consensus::Recipient;
use wire::block::BlockView;
use wire::bytes::{Buffers, SharedBytes};
use wire::certificates::Place;
use wire::header::Kind;
use wire::ids::{Digest, Instant, NodeId, Slot, View};
use wire::limits::{EAGER_BLOCKS, IN_FLIGHT};
use wire::request::{RequestView, checked_requests};
use wire::seal::{Signer, Statement, Verified, Verifier};

use super::{Ordering, Output};
use crate::batch::Opens;
use crate::pending::Due;

/// Block buffers that requests which wait here leave to blocks and to the log.
const SPARE_BUFFERS: usize = 128;

/// What an OPEN is known by.
fn opens_by(request: &RequestView<'_>) -> Option<Opens> {
    let opens = request.is_open();
    opens.then(|| (*request.client(), request.reference_slot()))
}

impl<Bu: Buffers, S: Signer, V: Verifier> Ordering<Bu, S, V> {
    /// A request of a client, or one that another replica `forwarded`. Those go first and wait in a
    /// share of that replica's own, since it holds this one to it (T2): neither an overload nor a liar
    /// that forwards without end costs an honest leader its view.
    pub(super) fn on_request(
        &mut self,
        now: Instant,
        request: Verified<Bu::Shared>,
        forwarded: Option<NodeId>,
    ) {
        let bytes = request.into_inner();
        let Ok(view) = RequestView::parse(&bytes) else {
            return;
        };
        let summary = self.core.summary();
        if summary.leader != self.config.me || summary.barred {
            self.wait(now, &view, forwarded);
            return;
        }
        let (client, first) = (*view.client(), view.first_sequence());
        let signature = *view.signature();
        if self.log_full.is_some() {
            self.outputs.push_back(Output::Busy {
                client,
                first,
                log_full: true,
            });
            self.counts.busy += 1;
            return;
        }
        // A repeated OPEN is ordered again: it changes nothing and is answered by all replicas.
        if !view.is_open() && self.seen.note(&signature) {
            self.counts.duplicates += 1;
            self.outputs.push_back(Output::Resend {
                client,
                session: view.session(),
                first,
                count: view.count() as u16,
            });
            // It may have been ordered before its session took it (outside the window, or without
            // the session): then execution says that it still waits, and it is ordered again.
            self.wait(now, &view, forwarded);
            return;
        }
        let opens = opens_by(&view);
        let buffers = &mut self.block_buffers;
        let taken = match forwarded {
            Some(from) => self.batch.push_forwarded(now, from, bytes, opens, buffers),
            None => self.batch.push(now, bytes, opens, buffers),
        };
        if !taken {
            self.seen.forget(&signature);
            self.counts.busy += 1;
            self.outputs.push_back(Output::Busy {
                client,
                first,
                log_full: false,
            });
        }
    }

    /// N1: sends when no own block is undecided (`EAGER_BLOCKS`) and no request is about to come out
    /// of verification, when a block is full, or when the oldest request has waited for tau.
    pub(super) fn propose_if_due(&mut self, now: Instant) {
        if !self.is_started() {
            return;
        }
        while let Some(parent) = self.core.proposal_parent() {
            // Requests wait without an open block when no buffer was free for one.
            self.batch.refill(&mut self.block_buffers);
            let eager = self.core.undecided() < EAGER_BLOCKS && !self.more_expected;
            let padding = eager && self.padding.wants(parent.slot.next());
            if !padding && !self.batch.due(now, eager) {
                return;
            }
            let Some(closed) = self.batch.close(&mut self.block_buffers) else {
                return;
            };
            let view = self.core.summary().view;
            let slot = parent.slot.next();
            let time_ns = now.0.saturating_add(self.config.wall_offset_ns);
            let header = closed.header(self.config.epoch, view, slot, time_ns, parent.digest);
            let digest = header.digest();
            let statement = Statement::Propose { view, slot, digest };
            let signature = self.core.signer().sign(&statement);
            let raw = closed.seal(header, signature);
            self.offered = Some((Place { slot, digest }, raw));
            self.counts.proposed_blocks += 1;
            if self.proposed_at.len() < 2 * IN_FLIGHT as usize {
                self.proposed_at.push_back((slot, now));
            }
            self.drive(
                now,
                consensus::Input::Own {
                    header,
                    signature,
                    digest,
                },
            );
            self.note_log_room();
        }
    }

    fn wait(&mut self, now: Instant, view: &RequestView<'_>, source: Option<NodeId>) {
        let patience = self.patience();
        self.pending.push(now, view, source, patience);
    }

    /// A new view has a new leader: what waits is his, and if that is this replica, its own.
    pub(super) fn on_view(&mut self, now: Instant) {
        self.counts.view_changes += 1;
        self.proposed_at.clear();
        self.batch.clear();
        self.seen.clear();
        self.pending.new_leader(now);
    }

    fn order_frame(&mut self, now: Instant, frame: &[u8]) {
        if self.block_buffers.free() < SPARE_BUFFERS {
            return;
        }
        let Some(mut buffer) = self.block_buffers.take() else {
            return;
        };
        buffer[..frame.len()].copy_from_slice(frame);
        let shared = wire::bytes::UniqueBytes::freeze(buffer).slice(0..frame.len());
        let Ok(view) = RequestView::parse(frame) else {
            return;
        };
        let (me, signature) = (self.config.me, *view.signature());
        let opens = opens_by(&view);
        let buffers = &mut self.block_buffers;
        if self.batch.push_forwarded(now, me, shared, opens, buffers) {
            self.seen.note(&signature);
        }
    }

    /// T_fwd, T_req: forwards what waits, and tells the core how long the leader owes an answer.
    pub(super) fn tend_pending(&mut self, now: Instant) {
        if self.pending.is_empty() {
            self.core.set_pending(None, false);
            return;
        }
        let patience = self.patience();
        for due in self.pending.due(now, patience) {
            match due {
                Due::Recheck(question) => self.outputs.push_back(Output::Recheck(question)),
                Due::Forward { frame, .. } if self.may_propose() => self.order_frame(now, &frame),
                Due::Forward { frame, to_all } => {
                    let to = if to_all {
                        Recipient::All
                    } else {
                        Recipient::One(self.core.summary().leader)
                    };
                    let name = Digest(*blake3::hash(&frame).as_bytes());
                    self.send_long(to, Kind::Forward, View(0), Slot(0), name, &frame);
                }
            }
        }
        let overdue = self.pending.is_overdue();
        self.core.set_pending(self.pending.oldest(), overdue);
    }

    /// Requests of executed blocks wait no more.
    pub(super) fn settle_pending(&mut self, first: Slot, last: Slot) {
        if self.pending.is_empty() {
            return;
        }
        for slot in (first.0..=last.0).map(Slot) {
            let digest = self.core.digest_at(slot);
            let place = digest.map(|digest| Place { slot, digest });
            let message = place.and_then(|place| self.blocks.get(place));
            let Some(Ok(block)) = message.map(|message| BlockView::frame(message)) else {
                continue;
            };
            for request in checked_requests(block.payload) {
                self.pending.executed(&request);
            }
        }
    }
}
