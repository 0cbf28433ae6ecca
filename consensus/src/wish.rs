//! Y1-Y5: wishing for another view. Safety never depends on it.
//!
//! A wish is derived anew in every turn from the reasons that last: a leader without progress, a
//! proof against it, its own resignation, a view change that does not come to an end, or b + 1
//! others. Wishing does not stop voting, so one starved replica cannot be pushed out of quorums.

use std::sync::Arc;

use wire::canary::{planted, reach};
use wire::certificates::{Wish, WishCertificate};
use wire::ids::{Boot, Instant, NodeId, Signature, View};
use wire::limits::IN_FLIGHT;
use wire::seal::{Signed, Signer, Statement, Verified};

use crate::core::Core;
use crate::image::image;
use crate::input::{Effect, Large, Outbox, Recipient};
use crate::pace::Look;
use crate::peers::PeerWish;
use crate::quorum::reached_by;

/// A wish is repeated after this pause, which doubles up to the longest.
const PAUSE_NS_MIN: u64 = 4_000_000;
const PAUSE_NS_MAX: u64 = 64_000_000;
/// For how long a withdrawal is repeated.
const WITHDRAWAL_NS: u64 = 1_000_000_000;

/// Why this replica wishes for another view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WishReason {
    /// T1: nothing was decided for too long.
    Progress,
    /// T2: a request waits for too long.
    Request,
    /// T3: the leader is proven to lie.
    Evidence,
    /// Y5: the leader resigned.
    Resigned,
    /// T4: the leader serves worse than it could.
    Pace,
    /// T5: a view change takes too long.
    Change,
    /// Y2: b + 1 others wish.
    Others,
}

impl WishReason {
    pub const ALL: [WishReason; 7] = [
        WishReason::Progress,
        WishReason::Request,
        WishReason::Evidence,
        WishReason::Resigned,
        WishReason::Pace,
        WishReason::Change,
        WishReason::Others,
    ];

    /// As it is called in metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            WishReason::Progress => "no-progress",
            WishReason::Request => "request-waits",
            WishReason::Evidence => "evidence",
            WishReason::Resigned => "resigned",
            WishReason::Pace => "slow-leader",
            WishReason::Change => "change-takes-long",
            WishReason::Others => "others-wish",
        }
    }
}

/// The own wish, or its withdrawal.
#[derive(Clone, Copy, Debug)]
struct OwnWish {
    view: View,
    counter: u64,
    signature: Signature,
    resend_at: Instant,
    pause_ns: u64,
    /// Set on a withdrawal: when it stops being repeated.
    until: Option<Instant>,
}
image!(OwnWish {
    view,
    counter,
    signature,
    resend_at,
    pause_ns,
    until
});

/// What this replica wishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishing {
    counter: u64,
    own: Option<OwnWish>,
    /// The leader of this view has resigned.
    resigned: Option<View>,
    /// When, and how long after the last time, a resignation is repeated.
    resign_at: Option<Instant>,
    resign_pause_ns: u64,
    /// Wishes so far, by reason.
    pub counts: [u64; WishReason::ALL.len()],
    /// Of the stage.
    pub certificate: Option<Arc<WishCertificate>>,
}
image!(Wishing {
    counter,
    own,
    resigned,
    resign_at,
    resign_pause_ns,
    counts,
    certificate
});

impl Wishing {
    /// Whether this replica wishes for another view now.
    pub(crate) fn is_wishing(&self) -> bool {
        self.own.is_some_and(|own| own.until.is_none())
    }
}

impl<S: Signer> Core<S> {
    pub(crate) fn on_wish(
        &mut self,
        now: Instant,
        by: NodeId,
        view: View,
        (boot, counter): (Boot, u64),
        signature: Signature,
    ) {
        let wish = PeerWish {
            view,
            boot,
            counter,
            signature,
            heard_at: now,
        };
        let held = &mut self.peers[by.index()].wish;
        if held.is_none_or(|held| (held.boot, held.counter) <= (boot, counter)) {
            *held = Some(wish);
        }
    }

    pub(crate) fn on_resign(&mut self, by: NodeId, view: View) {
        if by == self.leader(view) && view == self.installed {
            reach("leader-resigned");
            self.wishing.resigned = Some(view);
        }
    }

    /// Y3: a certificate of others does as well.
    pub(crate) fn on_wish_certificate(
        &mut self,
        now: Instant,
        certificate: Verified<WishCertificate>,
        out: &mut Outbox,
    ) {
        // R6: a VIEW-CHANGE would count. The certificate comes again.
        if certificate.view > self.stage && !self.is_recalling() {
            let view = certificate.view;
            self.wishing.certificate = Some(Arc::new(certificate.into_inner()));
            self.enter(now, view, out);
        }
    }

    /// Wishes, withdraws, repeats; enters a view for which enough wish.
    pub(crate) fn wish_if_due(&mut self, now: Instant, out: &mut Outbox) {
        self.resign_if_due(now, out);
        self.look_at_pace(now);
        let desired = self.desired_view(now);
        let own = self.wishing.own.filter(|own| own.until.is_none());
        match (own, desired) {
            (Some(own), Some((view, _))) if own.view == view => {}
            (None, None) => {}
            (_, Some((view, reason))) => {
                self.wishing.counts[reason as usize] += 1;
                self.wish(now, view, None);
            }
            (Some(_), None) => {
                reach("wish-withdrawn");
                let until = now.after_ns(WITHDRAWAL_NS);
                self.wish(now, self.installed, Some(until));
            }
        }
        self.repeat_wish(now, out);
        self.gather_wishes(now, out);
    }

    /// Requests of so many bytes were executed, with so many operations (T4).
    pub fn note_executed(&mut self, bytes: u64, operations: u64) {
        self.pace.served(bytes, operations);
    }

    /// T4: how the leader serves what waits here.
    fn look_at_pace(&mut self, now: Instant) {
        let leads = self.leader(self.installed) == self.config.me;
        let tau_ns = self.timers.commit_ns();
        // What is decided waits for this replica alone: for the state that it takes over, or for the
        // execution of more blocks than a leader may have under way.
        let behind = self.decided.slot.0 - self.executed.0 > IN_FLIGHT;
        let look = Look {
            judged: !leads && self.stage == self.installed,
            behind: behind || self.transferring.is_some(),
            oldest: self.pending_since,
            top: self.branch.top().slot,
            tau_ns: tau_ns.map(|tau_ns| tau_ns.max(self.config.batch_delay_ns)),
        };
        self.pace.look(now, look);
    }

    /// The view that the reasons of this moment ask for.
    fn desired_view(&self, now: Instant) -> Option<(View, WishReason)> {
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        // G1: nothing can be decided any more, and no request be executed, before the next epoch.
        let ending = self.is_ending();
        let reason = if self.stage > self.installed {
            is_over(self.timers.change_deadline).then_some(WishReason::Change)
        } else if self.accused == Some(self.installed) {
            Some(WishReason::Evidence)
        } else if self.wishing.resigned == Some(self.installed) {
            Some(WishReason::Resigned)
        } else if ending {
            None
        } else if self.request_overdue {
            Some(WishReason::Request)
        } else if is_over(self.progress_deadline()) {
            Some(WishReason::Progress)
        } else {
            self.pace.wishes().then_some(WishReason::Pace)
        };
        let next = reason.map(|reason| (View(self.stage.0 + 1), reason));
        // Y2: b + 1 others include a correct one.
        let lifetime_ns = self.timers.wish_lifetime_ns();
        let fresh = self.peers.iter().filter_map(|peer| peer.wish);
        let fresh = fresh.filter(|wish| now.since_ns(wish.heard_at) <= lifetime_ns);
        let rank = self.config.quorums.one_correct() - usize::from(planted("onewish"));
        let followed = View(reached_by(rank, fresh.map(|wish| wish.view.0)));
        let followed = (followed > self.stage).then_some(followed);
        if followed > next.map(|(view, _)| view) {
            reach("wish-followed");
            return followed.map(|view| (view, WishReason::Others));
        }
        next
    }

    /// T1: when patience with the leader ends; `None` while nothing is pending.
    pub(crate) fn progress_deadline(&self) -> Option<Instant> {
        if self.stage > self.installed {
            return None;
        }
        let oldest = self.branch.place_at(self.decided.slot.next());
        let block = oldest.and_then(|place| self.tree.get(place));
        let block = block.map(|entry| entry.linked_at);
        // The leader owes blocks up to the end of the epoch, requests or not.
        let owed = self.epoch_end.filter(|(last, _)| *last > self.decided.slot);
        let reasons = [block, self.pending_since, owed.map(|(_, since)| since)];
        let pending = reasons.into_iter().flatten().min()?;
        Some(self.timers.progress_deadline(pending))
    }

    fn wish(&mut self, now: Instant, view: View, until: Option<Instant>) {
        self.wishing.counter += 1;
        let (boot, counter) = (self.config.boot, self.wishing.counter);
        let signature = self.signer.sign(&Statement::Wish {
            view,
            boot,
            counter,
        });
        self.wishing.own = Some(OwnWish {
            view,
            counter,
            signature,
            resend_at: now,
            pause_ns: PAUSE_NS_MIN,
            until,
        });
    }

    fn repeat_wish(&mut self, now: Instant, out: &mut Outbox) {
        let Some(own) = &mut self.wishing.own else {
            return;
        };
        if own.until.is_some_and(|until| now >= until) {
            self.wishing.own = None;
            return;
        }
        if now < own.resend_at {
            return;
        }
        own.resend_at = now.after_ns(own.pause_ns);
        own.pause_ns = (2 * own.pause_ns).min(PAUSE_NS_MAX);
        let signed = Signed {
            by: self.config.me,
            statement: Statement::Wish {
                view: own.view,
                boot: self.config.boot,
                counter: own.counter,
            },
            signature: own.signature,
        };
        out.push(Effect::Say {
            to: Recipient::All,
            signed,
        });
    }

    /// Y3: V distinct wishes for a view above the stage make a certificate.
    fn gather_wishes(&mut self, now: Instant, out: &mut Outbox) {
        let lifetime_ns = self.timers.wish_lifetime_ns();
        let me = self.config.me;
        let own = self.wishing.own.filter(|own| own.until.is_none());
        let own = own.map(|own| Wish {
            by: me,
            view: own.view,
            boot: self.config.boot,
            counter: own.counter,
            signature: own.signature,
        });
        let others = (0..).map(NodeId).zip(&self.peers);
        let others = others.filter_map(|(by, peer)| {
            let wish = peer.wish.filter(|_| by != me)?;
            let fresh = now.since_ns(wish.heard_at) <= lifetime_ns;
            fresh.then_some(Wish {
                by,
                view: wish.view,
                boot: wish.boot,
                counter: wish.counter,
                signature: wish.signature,
            })
        });
        let need = self.config.quorums.view_change();
        let stage = self.stage;
        let views = own.into_iter().chain(others.clone());
        let view = View(reached_by(need, views.map(|wish| wish.view.0)));
        if view <= stage || self.is_recalling() {
            return;
        }
        let mut wishes = own.into_iter().chain(others).collect::<Vec<_>>();
        wishes.retain(|wish| wish.view >= view);
        wishes.sort_by_key(|wish| wish.by);
        wishes.truncate(need);
        let certificate = Arc::new(WishCertificate { view, wishes });
        self.wishing.certificate = Some(Arc::clone(&certificate));
        out.push(Effect::Tell {
            to: Recipient::All,
            message: Large::WishCertificate(certificate),
        });
        self.enter(now, view, out);
    }

    /// Y5: a leader that may not propose hands its view over; so does one that stops.
    fn resign_if_due(&mut self, now: Instant, out: &mut Outbox) {
        let view = self.installed;
        let leads = self.leader(view) == self.config.me && self.stage == view;
        // K3: whoever votes no more proposes no more.
        if !leads || self.may_lead() && !self.stopping && !self.diverged {
            return;
        }
        self.wishing.resigned = Some(view);
        if self.wishing.resign_at.is_none_or(|at| now >= at) {
            // As wishes are: the first one after a restart meets links that do not know it yet.
            let pause_ns = self.wishing.resign_pause_ns;
            let pause_ns = pause_ns.clamp(PAUSE_NS_MIN, PAUSE_NS_MAX);
            self.wishing.resign_at = Some(now.after_ns(pause_ns));
            self.wishing.resign_pause_ns = 2 * pause_ns;
            let statement = Statement::Resign { view };
            let signed = Signed {
                by: self.config.me,
                statement,
                signature: self.signer.sign(&statement),
            };
            out.push(Effect::Say {
                to: Recipient::All,
                signed,
            });
        }
    }

    /// A wish for a view that is reached has done its work.
    pub(crate) fn forget_wish(&mut self, reached: View) {
        if self.wishing.own.is_some_and(|own| own.view <= reached) {
            self.wishing.own = None;
        }
        if self
            .wishing
            .certificate
            .as_ref()
            .is_some_and(|certificate| certificate.view < reached)
        {
            self.wishing.certificate = None;
        }
    }

    /// When wishing next needs a turn.
    pub(crate) fn wish_wake_at(&self) -> Instant {
        let never = Instant(u64::MAX);
        let own = self.wishing.own.map_or(never, |own| own.resend_at);
        let wishes = self.wishing.own.is_some_and(|own| own.until.is_none());
        let (change, progress) = if wishes {
            (never, never)
        } else {
            let change = self.timers.change_deadline.unwrap_or(never);
            (change, self.progress_deadline().unwrap_or(never))
        };
        own.min(change).min(progress)
    }
}
