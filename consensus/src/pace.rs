//! T4: a leader that serves, though worse than it could, and never so badly that T1 fires.
//!
//! Only time with a backlog is judged: a request that this replica forwarded to the leader waits for
//! longer than a few commits take. A leader puts forwarded requests first into its next block, and sends
//! that when the one before it is decided at the latest; so a healthy one under any load shows
//! little backlog, and none at all of it with long pauses between proposals.
//!
//! What is measured is this replica's alone and decides about nothing but its wish: others follow
//! b + 1 of these, and a view is left by them once in [`VIEW_NS_MIN`] at most.

use std::collections::VecDeque;

use wire::canary::reach;
use wire::ids::{Instant, Slot, View};

use crate::image::image;

/// A new leader is not judged for so long: it fetches, fills its caches, takes over what waits.
const GRACE_NS: u64 = 2_000_000_000;
/// T_minview: a view is not left by T4 sooner, and one replica wishes so once in this time.
const VIEW_NS_MIN: u64 = 5_000_000_000;
/// The leader is judged once in this time, and is slow after so many bad verdicts in a row: a pause
/// of the machine of up to a second spoils two.
const WINDOW_NS: u64 = 1_000_000_000;
const BAD_WINDOWS: u32 = 3;
/// A request that waits for longer, in multiples of tau, is backlog. A leader that has ordered it once
/// already, before it was due, lies on it for T_fwd, which is tau at most; then it needs a commit.
const BACKLOG: u64 = 2;
/// Backlog must have lasted for this part of a window.
const BACKLOG_SHARE: u64 = 4;
/// A turn that comes later says something of this replica, not of the leader.
const TURN_NS_MAX: u64 = 100_000_000;
/// A wish is withdrawn after so long if it moved nothing; those of others overlap with it.
const WISH_NS: u64 = 2_000_000_000;
/// Pauses between proposals that are borne, in multiples of tau.
const GAP: u64 = 5;
/// theta = 9/10.
const THETA: (u64, u64) = (9, 10);

/// What a turn shows of the leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The leader is another replica, and no other view is being entered.
    pub judged: bool,
    /// What is decided waits for this replica alone. Such time counts neither for the leader nor
    /// against it: the window stands still, and nothing new is wished.
    pub behind: bool,
    /// Since when the oldest forwarded request waits.
    pub oldest: Option<Instant>,
    /// Highest block on the branch.
    pub top: Slot,
    /// See [`Pace::new`]; none while too few commits were measured.
    pub tau_ns: Option<u64>,
}

/// Time with a backlog, and what was executed in it.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    waiting_ns: u64,
    bytes: u64,
    operations: u64,
}

image!(Served {
    waiting_ns,
    bytes,
    operations
});

/// What a leader sustained with a backlog, per second.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes: u64,
    operations: u64,
}

image!(Rate { bytes, operations });

impl Served {
    fn rate(&self) -> Rate {
        let per_s = |count: u64| {
            let scaled = u128::from(count) * 1_000_000_000;
            (scaled / u128::from(self.waiting_ns.max(1))) as u64
        };
        Rate {
            bytes: per_s(self.bytes),
            operations: per_s(self.operations),
        }
    }
}

impl Rate {
    /// Below theta of another in both counts. The protocol counts bytes; large values make for many
    /// of those, small ones for many operations, and neither says anything of the leader.
    fn is_worse_than(self, other: Rate) -> bool {
        let (part, of) = THETA;
        let below = |own: u64, others: u64| {
            u128::from(own) * u128::from(of) < u128::from(others) * u128::from(part)
        };
        below(self.bytes, other.bytes) && below(self.operations, other.operations)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    enabled: bool,
    /// n: so many views are remembered, and so many skipped after a failed change.
    views: usize,
    view: View,
    installed_at: Instant,
    seen_at: Instant,
    seen_top: Slot,
    /// At the last look some request waited for too long.
    backlogged: bool,
    window_from: Instant,
    window: Served,
    /// Proposals in the window. What comes within tau is one: a leader that lets many go together,
    /// now and then, pauses in between.
    proposals: u64,
    proposed_at: Instant,
    bad_windows: u32,
    /// The whole view.
    total: Served,
    /// Executed since the last look.
    served: Served,
    /// What earlier leaders sustained.
    past: VecDeque<(View, Rate)>,
    off_until: Option<View>,
    wished_at: Option<Instant>,
    wishes: bool,
}

image!(Pace {
    enabled,
    views,
    view,
    installed_at,
    seen_at,
    seen_top,
    backlogged,
    window_from,
    window,
    proposals,
    proposed_at,
    bad_windows,
    total,
    served,
    past,
    off_until,
    wished_at,
    wishes,
});

impl Pace {
    /// For a committee of `replicas`. Of tau the protocol says only what it is at the leader: the
    /// longest wait for a batch. A block also waits for the one before it (N1), so the tau by which
    /// a pause is judged is T_prog / 8, the p99 of a commit with the floor that T1 has, and never
    /// less than the batch delay: 5 tau lies well above what an honest leader needs, and below T1.
    pub fn new(enabled: bool, replicas: usize, view: View, now: Instant) -> Pace {
        Pace {
            enabled,
            views: replicas,
            view,
            installed_at: now,
            seen_at: now,
            seen_top: Slot(0),
            backlogged: false,
            window_from: now,
            window: Served::default(),
            proposals: 0,
            proposed_at: now,
            bad_windows: 0,
            total: Served::default(),
            served: Served::default(),
            past: VecDeque::with_capacity(replicas + 1),
            off_until: None,
            wished_at: None,
            wishes: false,
        }
    }

    /// Requests of so many bytes were executed, with so many operations. What is executed a second
    /// time serves nobody, however many blocks a leader fills with it.
    pub fn served(&mut self, bytes: u64, operations: u64) {
        self.served.bytes += bytes;
        self.served.operations += operations;
    }

    /// A view change came to nothing (T5). Whatever was slow then, it was not one leader alone: the
    /// next n views are not left for their pace.
    pub fn change_failed(&mut self, stage: View) {
        self.off_until = Some(View(stage.0 + self.views as u64));
    }

    /// A view is installed: its leader gets its time, and is measured by those before it.
    pub fn installed(&mut self, view: View, now: Instant) {
        // Less says little of what a leader sustains.
        if self.total.waiting_ns >= GRACE_NS {
            if self.past.len() == self.views {
                self.past.pop_front();
            }
            self.past.push_back((self.view, self.total.rate()));
        }
        (self.view, self.installed_at) = (view, now);
        self.total = Served::default();
        self.wishes = false;
        self.begin_window(now);
        self.bad_windows = 0;
    }

    fn begin_window(&mut self, now: Instant) {
        self.window_from = now;
        self.window = Served::default();
        self.proposals = 0;
    }

    /// Whether some leader of the last n views sustained more.
    fn is_worse_than_before(&self) -> bool {
        let (views, rate) = (self.views as u64, self.window.rate());
        let mut recent = self.past.iter();
        recent.any(|(view, past)| view.0 + views >= self.view.0 && rate.is_worse_than(*past))
    }

    /// Takes one turn into account.
    pub fn look(&mut self, now: Instant, look: Look) {
        let new = std::mem::take(&mut self.served);
        let since_ns = now.since_ns(self.seen_at);
        let proposed = look.top > self.seen_top;
        let was_backlogged = self.backlogged;
        (self.seen_at, self.seen_top) = (now, look.top);
        let Some(tau_ns) = look.tau_ns.filter(|_| self.enabled && look.judged) else {
            (self.backlogged, self.wishes, self.bad_windows) = (false, false, 0);
            return self.begin_window(now);
        };
        let borne_ns = BACKLOG * tau_ns;
        self.backlogged = look.oldest.is_some_and(|at| now.since_ns(at) > borne_ns);
        if now.since_ns(self.installed_at) < GRACE_NS {
            return self.begin_window(now);
        }
        if look.behind {
            self.backlogged = false;
            self.window_from = self.window_from.after_ns(since_ns);
            return self.age_wish(now);
        }
        if was_backlogged {
            for served in [&mut self.window, &mut self.total] {
                served.waiting_ns += since_ns.min(TURN_NS_MAX);
                served.bytes += new.bytes;
                served.operations += new.operations;
            }
        }
        if proposed && now.since_ns(self.proposed_at) >= tau_ns {
            self.proposals += 1;
            self.proposed_at = now;
        }
        let window_ns = now.since_ns(self.window_from);
        if window_ns >= WINDOW_NS {
            self.judge(tau_ns, window_ns);
            self.begin_window(now);
        }
        self.wish_if_due(now);
    }

    fn judge(&mut self, tau_ns: u64, window_ns: u64) {
        let backlog = self.window.waiting_ns >= WINDOW_NS / BACKLOG_SHARE;
        let pauses = window_ns > GAP * tau_ns * self.proposals;
        if backlog && (pauses || self.is_worse_than_before()) {
            self.bad_windows += 1;
        } else {
            self.bad_windows = 0;
        }
    }

    fn age_wish(&mut self, now: Instant) {
        if let Some(at) = self.wished_at {
            self.wishes &= now.since_ns(at) < WISH_NS;
        }
    }

    fn wish_if_due(&mut self, now: Instant) {
        if self.bad_windows == 0 {
            self.wishes = false;
        }
        self.age_wish(now);
        let recent = |at| now.since_ns(at) < VIEW_NS_MIN;
        if self.wished_at.is_some_and(recent) {
            return;
        }
        let off = self.off_until.is_some_and(|until| self.view <= until);
        let young = now.since_ns(self.installed_at) < VIEW_NS_MIN;
        if self.bad_windows >= BAD_WINDOWS && !off && !young {
            reach("leader-too-slow");
            self.wishes = true;
            self.wished_at = Some(now);
        }
    }

    /// Whether the leader is to be replaced for its pace.
    pub fn wishes(&self) -> bool {
        self.wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const TAU_NS: u64 = 5 * MS;

    /// A replica and its leader, millisecond by millisecond.
    struct Story {
        pace: Pace,
        now_ns: u64,
        top: u64,
        behind: bool,
        wishes: u32,
    }

    impl Story {
        fn new() -> Story {
            Story {
                pace: Pace::new(true, 4, View(0), Instant(0)),
                now_ns: 0,
                top: 0,
                behind: false,
                wishes: 0,
            }
        }

        /// One proposal of so many bytes every so many milliseconds, in operations of ten, while a
        /// request has waited for `waits_ms`, or none waits.
        fn run(&mut self, ms: u64, every_ms: u64, bytes: u64, waits_ms: Option<u64>) {
            self.run_with(ms, every_ms, (bytes, bytes / 10), waits_ms);
        }

        fn run_with(
            &mut self,
            ms: u64,
            every_ms: u64,
            (bytes, operations): (u64, u64),
            waits_ms: Option<u64>,
        ) {
            for _ in 0..ms {
                self.now_ns += MS;
                if (self.now_ns / MS).is_multiple_of(every_ms) {
                    self.top += 1;
                    self.pace.served(bytes, operations);
                }
                let now = Instant(self.now_ns);
                let oldest = waits_ms.map(|ms| Instant(self.now_ns.saturating_sub(ms * MS)));
                let wished = self.pace.wishes();
                self.pace.look(
                    now,
                    Look {
                        judged: true,
                        behind: self.behind,
                        oldest,
                        top: Slot(self.top),
                        tau_ns: Some(TAU_NS),
                    },
                );
                self.wishes += u32::from(self.pace.wishes() && !wished);
            }
        }

        fn install(&mut self, view: u64) {
            self.pace.installed(View(view), Instant(self.now_ns));
        }
    }

    #[test]
    fn pauses_with_a_backlog_are_a_reason_and_alone_they_are_not() {
        let mut story = Story::new();
        story.run(20_000, 200, 100, None);
        assert_eq!(story.wishes, 0, "nobody waits");
        // Each request is served within a commit.
        story.run(20_000, 200, 100, Some(4));
        story.run(20_000, 200, 100, Some(10));
        assert_eq!(story.wishes, 0, "nobody waits for long");
        story.run(20_000, 4, 100, Some(40));
        assert_eq!(story.wishes, 0, "the leader proposes as fast as it can");
        story.run(5_000, 40, 100, Some(40));
        assert_eq!(story.wishes, 1);
    }

    #[test]
    fn one_pause_of_the_machine_is_no_reason() {
        let mut story = Story::new();
        for _ in 0..20 {
            story.run(900, 500, 100, Some(40));
            story.run(1_600, 4, 100, None);
        }
        assert_eq!(story.wishes, 0);
    }

    #[test]
    fn wishes_are_rare_and_end() {
        let mut story = Story::new();
        story.run(4_900, 40, 100, Some(40));
        assert_eq!(story.wishes, 0, "the view is young");
        story.run(60_000, 40, 100, Some(40));
        assert!((11..=13).contains(&story.wishes), "{}", story.wishes);
        story.run(3_000, 4, 100, Some(40));
        assert!(!story.pace.wishes(), "it serves again");
    }

    #[test]
    fn a_leader_is_measured_by_those_before_it() {
        let mut story = Story::new();
        story.run(10_000, 4, 1_000, Some(40));
        story.install(1);
        story.run(10_000, 4, 950, Some(40));
        assert_eq!(story.wishes, 0, "nearly as good");
        story.run(5_000, 4, 800, Some(40));
        assert_eq!(story.wishes, 1, "worse");
        // Less load is no backlog.
        story.install(2);
        story.run(20_000, 4, 10, Some(3));
        assert_eq!(story.wishes, 1);
        // What was long ago is no measure.
        story.install(9);
        story.run(20_000, 4, 10, Some(40));
        assert_eq!(story.wishes, 1);
    }

    #[test]
    fn time_in_which_execution_lags_counts_neither_way() {
        let mut story = Story::new();
        story.behind = true;
        story.run(20_000, 40, 100, Some(40));
        assert_eq!(story.wishes, 0, "the leader is not what is waited for");
        // A slow leader sends a burst now and then.
        let mut story = Story::new();
        for _ in 0..10 {
            story.behind = false;
            story.run(1_500, 40, 100, Some(40));
            story.behind = true;
            story.run(5, 40, 100, Some(40));
        }
        assert!(story.wishes > 0);
        // The bursts come more often than windows end.
        let mut story = Story::new();
        for _ in 0..20 {
            story.behind = false;
            story.run(700, 40, 100, Some(40));
            story.behind = true;
            story.run(200, 40, 100, Some(40));
        }
        assert!(story.wishes > 0);
    }

    #[test]
    fn other_sizes_of_operations_are_not_the_leaders_doing() {
        let mut story = Story::new();
        let mut leader = |view, bytes, operations| {
            story.install(view);
            story.run_with(20_000, 4, (bytes, operations), Some(40));
            story.wishes
        };
        assert_eq!(leader(1, 40_000, 10), 0, "large values");
        assert_eq!(leader(2, 20_000, 200), 0, "small ones");
        assert_eq!(
            leader(3, 30_000, 30),
            0,
            "between: fewer bytes, fewer operations"
        );
        assert!(leader(4, 19_000, 100) == 0, "nearly as many bytes");
        assert!(
            leader(5, 17_000, 100) > 0,
            "less than the small ones in both counts"
        );
    }

    #[test]
    fn after_a_failed_change_n_views_are_left_alone() {
        let mut story = Story::new();
        story.pace.change_failed(View(3));
        for view in 4..=7 {
            story.install(view);
            story.run(20_000, 40, 100, Some(40));
        }
        assert_eq!(story.wishes, 0);
        story.install(8);
        story.run(10_000, 40, 100, Some(40));
        assert!(story.wishes > 0);
    }

    #[test]
    fn switched_off_it_says_nothing() {
        let mut story = Story::new();
        story.pace.enabled = false;
        story.run(20_000, 40, 100, Some(40));
        assert_eq!(story.wishes, 0);
    }
}
