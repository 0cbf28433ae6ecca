//! What arrives: greetings, replies, Busy, read replies.

use wire::ids::{Instant, NodeId, Sequence, Slot, View};
use wire::limits::SESSION_WINDOW;
use wire::reply::{Answer, BUSY_LOG_FULL, BUSY_QUEUE, BusyBody, Run};

use super::Client;
use crate::bundles::{Bundles, Pacer};
use crate::links::Heard;
use crate::options::{Completion, Counters, Failure, Outbox, Pushback};
use crate::reads::Reads;
use crate::session::Session;
use crate::window::{Claim, Verdict, Window};

/// Claims of one reply that are looked at: an honest one never holds more.
const CLAIMS_PER_REPLY_MAX: u64 = 2 * SESSION_WINDOW;
/// A Busy is heeded with a pause of at least and at most this.
const BUSY_PAUSE_NS_MIN: u64 = 1_000_000;
const BUSY_PAUSE_NS_MAX: u64 = 100_000_000;
/// Sendings after which a request goes to all replicas, Busy or not.
pub(super) const BUSY_ATTEMPTS_MAX: u32 = 4;

impl Client {
    /// Takes one datagram. Its sender is known by its seal, never by its address.
    pub fn receive(&mut self, now: Instant, datagram: &[u8], out: &mut impl Outbox) {
        if Client::is_epoch_end(datagram) {
            return self.learn_successor(datagram);
        }
        let Client {
            links,
            session,
            slots,
            views,
            window,
            bundles,
            reads,
            pacer,
            counters,
            pushback,
            ..
        } = self;
        let heard = match links.receive(now, datagram, out) {
            Ok(heard) => heard,
            Err(_) => return,
        };
        match heard {
            Heard::Nothing => {}
            Heard::Welcome { node, slot, view } => {
                slots.note(node, slot.0);
                views.note(node, view.0);
                self.resume_after_renewal(now);
                self.advance_session(now, out);
            }
            Heard::Reply { node, view, reply } => {
                views.note(node, view.0);
                if let Session::Opening(opening) = session {
                    let opened = reply.runs().any(|run| run.answer == Answer::Opened);
                    if opened && opening.answered(node, reply.session) {
                        self.session = Session::Open(reply.session);
                        self.close_held(now, out);
                    }
                    return;
                }
                if session.id() != Some(reply.session) {
                    counters.strays += 1;
                    return;
                }
                let mut expired = false;
                let mut claims = 0;
                for run in reply.runs() {
                    slots.note(node, run.slot.0);
                    claims += u64::from(run.count).min(SESSION_WINDOW);
                    if claims > CLAIMS_PER_REPLY_MAX {
                        break;
                    }
                    let mut judge = Judge {
                        now,
                        node,
                        window,
                        bundles,
                        pacer,
                        reads,
                        counters,
                        expired: &mut expired,
                    };
                    judge.run(&run, out);
                    if expired {
                        break;
                    }
                }
                if expired {
                    self.session_expired(now, out);
                }
            }
            Heard::Busy { node, view, busy } => {
                views.note(node, view.0);
                counters.busy += 1;
                if node != links.leader(View(views.trusted().unwrap_or(0))) {
                    return;
                }
                let opening = matches!(session, Session::Opening(_));
                if opening || bundles.holding(busy.first_sequence().0).is_some() {
                    *pushback = match busy.reason {
                        BUSY_QUEUE => Some((now, Pushback::QueueFull)),
                        BUSY_LOG_FULL => Some((now, Pushback::LogFull)),
                        _ => Some((now, Pushback::NotReady)),
                    };
                }
                Self::busy(now, bundles, pacer, &busy);
            }
            Heard::ReadReply { node, reply } => {
                let known = reads.answered(now, node, &reply, |ended| {
                    out.complete(Completion {
                        tag: ended.tag,
                        sequence: Sequence(0),
                        slot: ended.slot,
                        result: Ok(ended.result),
                        replies: ended.replies,
                        way: ended.way,
                        sent: ended.sent,
                    });
                });
                counters.strays += u64::from(!known);
                self.order_hopeless_reads(now, out);
            }
        }
    }

    /// The leader has no room for a bundle: try it again, there, after the pause it asks for.
    fn busy(now: Instant, bundles: &mut Bundles, pacer: &mut Pacer, busy: &BusyBody) {
        let Some(bundle) = bundles.holding(busy.first_sequence().0) else {
            return;
        };
        // A liar cannot hold a request back: each sending is refused once, and after a few of them
        // all replicas have it.
        if bundle.busy || bundle.attempts > BUSY_ATTEMPTS_MAX {
            return;
        }
        let asked_ns = u64::from(busy.retry_after_us()) * 1000;
        // Each refusal doubles the pause, or refusals and repetitions would keep each other busy.
        let grown_ns =
            asked_ns.clamp(BUSY_PAUSE_NS_MIN, BUSY_PAUSE_NS_MAX) << (bundle.attempts - 1);
        let at = now.after_ns(pacer.jitter(grown_ns.min(BUSY_PAUSE_NS_MAX)));
        bundle.next_retry = at;
        bundle.busy = true;
        bundles.wake_by(at);
    }
}

/// What one run of a reply does to the operations in flight.
struct Judge<'a> {
    now: Instant,
    node: NodeId,
    window: &'a mut Window,
    bundles: &'a mut Bundles,
    pacer: &'a mut Pacer,
    reads: &'a mut Reads,
    counters: &'a mut Counters,
    expired: &'a mut bool,
}

impl Judge<'_> {
    fn run(&mut self, run: &Run<'_>, out: &mut impl Outbox) {
        let (bytes, complete) = match &run.answer {
            Answer::Full(result) => (Some(*result), false),
            Answer::Digest(_) => (None, false),
            Answer::Stale | Answer::Expired => (None, true),
            Answer::Opened => return,
        };
        let executed = !complete;
        let claim = Claim {
            // Replicas notice at different slots that a request is stale or its session gone.
            slot: if executed { run.slot } else { Slot(0) },
            digest: run.answer.digest(),
        };
        let sequences = self
            .window
            .clamp(run.first_sequence.0, u64::from(run.count));
        self.counters.strays += u64::from(sequences.is_empty());
        for sequence in sequences {
            match self
                .window
                .claim(sequence, self.node, claim, bytes, complete)
            {
                Verdict::Open | Verdict::Late => {}
                Verdict::Unknown => self.counters.strays += 1,
                Verdict::LateWrong => self.counters.wrong_replies += u64::from(executed),
                Verdict::NeedsResult => self.wants_full(sequence),
                Verdict::Accepted {
                    tag,
                    bundle,
                    slot,
                    replies,
                    wrong,
                    ..
                } => {
                    self.counters.wrong_replies += u64::from(wrong);
                    let sent = self.ended(bundle);
                    let result = match run.answer {
                        Answer::Stale => Err(Failure::Stale),
                        Answer::Expired => {
                            *self.expired = true;
                            Err(Failure::Expired)
                        }
                        _ => Ok(self.window.result(sequence)),
                    };
                    out.complete(Completion {
                        tag,
                        sequence: Sequence(sequence),
                        slot,
                        result,
                        replies,
                        way: self.reads.way_of(sequence),
                        sent,
                    });
                    self.window.release_result(sequence);
                }
            }
        }
    }

    fn wants_full(&mut self, sequence: u64) {
        let at = self.now.after_ns(self.pacer.pause_ns(1));
        if let Some(bundle) = self.bundles.holding(sequence) {
            bundle.wants_full = true;
            bundle.next_retry = bundle.next_retry.min(at);
            self.bundles.wake_by(at);
        }
    }

    /// Notes the end of one operation of `bundle`; returns when it was first sent.
    fn ended(&mut self, bundle: u64) -> Instant {
        let Some((first, last)) = self.bundles.ended_one(bundle) else {
            return self.now;
        };
        self.pacer.measured(self.now.since_ns(last));
        first
    }
}
