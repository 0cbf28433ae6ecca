//! Requests on their way: the signed bytes, kept until the last of their operations has ended,
//! and when to send them again.

use std::collections::VecDeque;

use wire::ids::Instant;

/// One signed request.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub first: u64,
    pub count: u16,
    /// Operations without a result.
    pub waiting: u16,
    pub read_only: bool,
    /// The signed frame; empty once nothing waits.
    pub frame: Vec<u8>,
    /// The first time, and the last.
    pub sent: Instant,
    pub sent_again: Instant,
    pub next_retry: Instant,
    pub deadline: Instant,
    /// Times sent.
    pub attempts: u32,
    /// The leader answered Busy since the last sending.
    pub busy: bool,
    /// The quorum agreed on a digest whose bytes are missing: ask all replicas for them.
    pub wants_full: bool,
}

/// Bundles by id, in the order of their sequences. Finished ones leave from the front; frames
/// are reused.
#[derive(Debug)]
pub(crate) struct Bundles {
    list: VecDeque<Bundle>,
    /// Id of the front.
    base: u64,
    spare: Vec<Vec<u8>>,
    /// No bundle needs attention before this.
    wake: Instant,
}

/// Frames kept for reuse.
const SPARE_MAX: usize = 64;

impl Bundles {
    /// Room for `capacity` bundles; more are never in flight than operations.
    pub(crate) fn new(capacity: usize) -> Bundles {
        Bundles {
            list: VecDeque::with_capacity(capacity + 1),
            base: 0,
            spare: Vec::with_capacity(SPARE_MAX),
            wake: Instant(u64::MAX),
        }
    }

    /// The id of the next bundle to be pushed.
    pub(crate) fn next_id(&self) -> u64 {
        self.base + self.list.len() as u64
    }

    /// An empty frame, with memory from an earlier one when there is one.
    pub(crate) fn spare_frame(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(crate) fn push(&mut self, bundle: Bundle) {
        self.wake = self.wake.min(bundle.next_retry).min(bundle.deadline);
        self.list.push_back(bundle);
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Bundle> {
        self.list
            .get(usize::try_from(id.checked_sub(self.base)?).ok()?)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Bundle> {
        self.list
            .get_mut(usize::try_from(id.checked_sub(self.base)?).ok()?)
    }

    /// The bundle that holds `sequence`.
    pub(crate) fn holding(&mut self, sequence: u64) -> Option<&mut Bundle> {
        let at = self
            .list
            .partition_point(|bundle| bundle.first + u64::from(bundle.count) <= sequence);
        self.list
            .get_mut(at)
            .filter(|bundle| bundle.first <= sequence && bundle.waiting > 0)
    }

    /// Ids of all bundles, oldest first.
    pub(crate) fn ids(&self) -> std::ops::Range<u64> {
        self.base..self.next_id()
    }

    /// One operation of bundle `id` ended. Returns when the bundle was first sent, and last.
    pub(crate) fn ended_one(&mut self, id: u64) -> Option<(Instant, Instant)> {
        let bundle = self.get_mut(id)?;
        assert!(bundle.waiting > 0, "an operation ended twice");
        bundle.waiting -= 1;
        let sent = (bundle.sent, bundle.sent_again);
        if bundle.waiting == 0 {
            let frame = std::mem::take(&mut bundle.frame);
            self.reuse(frame);
            while self.list.front().is_some_and(|front| front.waiting == 0) {
                self.list.pop_front();
                self.base += 1;
            }
        }
        Some(sent)
    }

    fn reuse(&mut self, mut frame: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            frame.clear();
            self.spare.push(frame);
        }
    }

    /// When the next retry or deadline is due.
    pub(crate) fn wake(&self) -> Instant {
        if self.list.is_empty() {
            Instant(u64::MAX)
        } else {
            self.wake
        }
    }

    /// Attention is due no later than `at`.
    pub(crate) fn wake_by(&mut self, at: Instant) {
        self.wake = self.wake.min(at);
    }

    /// All that waits for replies is sent again at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for bundle in &mut self.list {
            bundle.next_retry = bundle.next_retry.min(now);
        }
        self.wake_by(now);
    }

    /// Recomputes [`Bundles::wake`] after a round of retries.
    pub(crate) fn settle(&mut self) {
        self.wake = self
            .list
            .iter()
            .filter(|bundle| bundle.waiting > 0)
            .map(|bundle| bundle.next_retry.min(bundle.deadline))
            .min()
            .unwrap_or(Instant(u64::MAX));
    }
}

/// How long to wait for replies: from the measured round trip, as TCP does (RFC 6298), never
/// below the configured floor. Unlike there every answer is a sample, from the first sending on:
/// were those of repeated requests left out (Karn's rule), a slow cluster would never be noticed,
/// and be buried under repetitions.
#[derive(Debug)]
pub(crate) struct Pacer {
    floor_ns: u64,
    pause_max_ns: u64,
    smoothed_ns: f64,
    variation_ns: f64,
    random: u64,
}

impl Pacer {
    pub(crate) fn new(floor_ns: u64, pause_max_ns: u64, seed: u64) -> Pacer {
        Pacer {
            floor_ns,
            pause_max_ns: pause_max_ns.max(floor_ns),
            smoothed_ns: 0.0,
            variation_ns: 0.0,
            random: seed ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A request was answered so long after it was last sent. From its first sending on, the time
    /// would hold the pauses themselves: where the leader hears of requests only by their second
    /// sending, each pause would make the next one longer.
    pub(crate) fn measured(&mut self, round_trip_ns: u64) {
        let sample = round_trip_ns as f64;
        if self.smoothed_ns == 0.0 {
            self.smoothed_ns = sample;
            self.variation_ns = sample / 2.0;
        } else {
            self.variation_ns += 0.25 * ((sample - self.smoothed_ns).abs() - self.variation_ns);
            self.smoothed_ns += 0.125 * (sample - self.smoothed_ns);
        }
    }

    /// The pause before sending for the `attempts + 1`-th time: doubling, bounded, jittered by a
    /// quarter so that clients do not march in step.
    pub(crate) fn pause_ns(&mut self, attempts: u32) -> u64 {
        let measured = self.smoothed_ns + 4.0 * self.variation_ns;
        // Bounded also where losses made the measured times long: each lost reply would make the
        // next pause longer, without end.
        let base = (measured as u64).clamp(self.floor_ns, self.pause_max_ns);
        let grown = base
            .saturating_mul(1 << attempts.saturating_sub(1).min(16))
            .min(self.pause_max_ns);
        self.jitter(grown)
    }

    /// `nanoseconds` plus up to a quarter of it.
    pub(crate) fn jitter(&mut self, nanoseconds: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        nanoseconds
            .saturating_add(((u128::from(nanoseconds / 4) * u128::from(self.random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(first: u64, count: u16, retry: u64) -> Bundle {
        Bundle {
            first,
            count,
            waiting: count,
            read_only: false,
            frame: vec![1; 10],
            sent: Instant(0),
            sent_again: Instant(0),
            next_retry: Instant(retry),
            deadline: Instant(1000),
            attempts: 1,
            busy: false,
            wants_full: false,
        }
    }

    #[test]
    fn bundles_leave_from_the_front_and_give_their_frames_back() {
        let mut bundles = Bundles::new(4);
        for (first, retry) in [(1, 50), (3, 40), (5, 60)] {
            bundles.push(bundle(first, 2, retry));
        }
        assert_eq!(bundles.wake(), Instant(40));
        assert_eq!(bundles.holding(4).unwrap().first, 3);
        assert!(bundles.holding(7).is_none());
        for _ in 0..2 {
            bundles.ended_one(1).unwrap();
        }
        assert_eq!(bundles.ids(), 0..3);
        assert!(bundles.holding(3).is_none());
        for _ in 0..2 {
            bundles.ended_one(0).unwrap();
        }
        assert_eq!(bundles.ids(), 2..3);
        assert!(bundles.spare_frame().capacity() >= 10);
        bundles.settle();
        assert_eq!(bundles.wake(), Instant(60));
        assert!(bundles.ended_one(0).is_none());
    }

    #[test]
    fn pauses_double_stay_bounded_and_follow_the_round_trip() {
        let mut pacer = Pacer::new(100, 1000, 1);
        for attempts in 1..40 {
            let pause = pacer.pause_ns(attempts);
            let plain = (100u64 << (attempts - 1).min(10)).min(1000);
            assert!((plain..=plain + plain / 4).contains(&pause));
        }
        pacer.measured(200);
        assert!(
            pacer.pause_ns(1) >= 600,
            "smoothed time and four variations"
        );
        for _ in 0..100 {
            pacer.measured(1_000_000);
        }
        assert!(
            pacer.pause_ns(1) <= 1250,
            "losses do not make pauses grow without end"
        );
    }
}
