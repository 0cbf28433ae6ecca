//! What the words of a peer say about it: how alive it looks, how far away it is, what gets lost.

use wire::ids::{Boot, Instant};

use crate::telemetry::PeerState;

/// Turns the age of a peer's last word into up, suspect or down. Downwards at once; upwards only
/// after words have come for half of `suspect_after` (from suspect) or all of it (from down), so
/// that a bad link does not flicker. The first word ever makes it up at once.
#[derive(Debug)]
pub struct StateMeter {
    suspect_after_ns: u64,
    down_after_ns: u64,
    state: PeerState,
    was_up: bool,
    fresh_since: Option<Instant>,
}

impl StateMeter {
    pub fn new(suspect_after_ns: u64, down_after_ns: u64) -> StateMeter {
        StateMeter {
            suspect_after_ns,
            down_after_ns,
            state: PeerState::Down,
            was_up: false,
            fresh_since: None,
        }
    }

    /// Looks again; call it several times in `suspect_after`. `last_word`: none when never heard.
    pub fn update(&mut self, now: Instant, last_word: Option<Instant>) -> PeerState {
        let age_ns = last_word.map_or(u64::MAX, |at| now.since_ns(at));
        if age_ns >= self.suspect_after_ns {
            self.fresh_since = None;
            if age_ns >= self.down_after_ns {
                self.state = PeerState::Down;
            } else if self.state == PeerState::Up {
                self.state = PeerState::Suspect;
            }
            return self.state;
        }
        let since = *self.fresh_since.get_or_insert(now);
        let wanted_ns = match self.state {
            PeerState::Up => 0,
            _ if !self.was_up => 0,
            PeerState::Suspect => self.suspect_after_ns / 2,
            PeerState::Down => self.suspect_after_ns,
        };
        if now.since_ns(since) >= wanted_ns {
            self.state = PeerState::Up;
            self.was_up = true;
        }
        self.state
    }

    pub fn state(&self) -> PeerState {
        self.state
    }
}

/// Round trip, smoothed as in RFC 6298: each sample counts for an eighth.
#[derive(Debug, Default)]
pub struct RoundTrip(Option<u64>);

impl RoundTrip {
    pub fn sample(&mut self, nanoseconds: u64) {
        self.0 = Some(match self.0 {
            None => nanoseconds,
            Some(smoothed) => smoothed - smoothed / 8 + nanoseconds / 8,
        });
    }

    /// Nanoseconds; none before the first answer.
    pub fn smoothed_ns(&self) -> Option<u64> {
        self.0
    }

    /// Another address, another way.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// What a link counted so far, as [`wire::link::PeerCounts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkReading {
    pub boot: Boot,
    pub taken: u64,
    pub end: u64,
}

const LOSS_SAMPLES: usize = 10;
/// Between two samples; so the window is 10 s long.
const LOSS_SAMPLE_NS: u64 = 1_000_000_000;
/// Fewer datagrams than this say nothing.
const SENT_MIN: u64 = 10;
/// More than a link carries in a second: a peer that lies may count as it likes.
const SAMPLE_MAX: u64 = 1 << 32;

/// Share of the datagrams sent in the last ten seconds that did not come: gaps in the authentic
/// counters. What comes late, up to a second, counts as lost and then as found.
#[derive(Debug, Default)]
pub struct LossMeter {
    last: LinkReading,
    last_at: Instant,
    /// (taken, sent) of each second.
    window: [(u64, u64); LOSS_SAMPLES],
    next: usize,
}

impl LossMeter {
    /// Looks again; samples by itself once a second.
    pub fn update(&mut self, now: Instant, reading: LinkReading) {
        if now.since_ns(self.last_at) < LOSS_SAMPLE_NS {
            return;
        }
        let sample = if reading.boot == self.last.boot && reading.boot != Boot(0) {
            let since = |now: u64, last: u64| now.saturating_sub(last).min(SAMPLE_MAX);
            (
                since(reading.taken, self.last.taken),
                since(reading.end, self.last.end),
            )
        } else {
            // A new process counts anew; what it sent before we heard it was not lost.
            self.window = [(0, 0); LOSS_SAMPLES];
            (0, 0)
        };
        self.window[self.next] = sample;
        self.next = (self.next + 1) % LOSS_SAMPLES;
        self.last = reading;
        self.last_at = now;
    }

    /// Millionths; none while too little was sent.
    pub fn loss_ppm(&self) -> Option<u64> {
        let taken: u64 = self.window.iter().map(|sample| sample.0).sum();
        let sent: u64 = self.window.iter().map(|sample| sample.1).sum();
        (sent >= SENT_MIN).then(|| sent.saturating_sub(taken) * 1_000_000 / sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ms(milliseconds: u64) -> Instant {
        Instant(100 * SECOND + milliseconds * 1_000_000)
    }

    #[test]
    fn silence_lowers_at_once_and_words_raise_slowly() {
        let mut meter = StateMeter::new(SECOND, 5 * SECOND);
        assert_eq!(meter.update(ms(0), None), PeerState::Down);
        assert_eq!(meter.update(ms(100), Some(ms(100))), PeerState::Up);
        assert_eq!(meter.update(ms(1099), Some(ms(100))), PeerState::Up);
        assert_eq!(meter.update(ms(1100), Some(ms(100))), PeerState::Suspect);
        // One word in a second does not make it up again.
        assert_eq!(meter.update(ms(1200), Some(ms(1200))), PeerState::Suspect);
        assert_eq!(meter.update(ms(2200), Some(ms(1200))), PeerState::Suspect);
        assert_eq!(meter.update(ms(2300), Some(ms(2300))), PeerState::Suspect);
        assert_eq!(meter.update(ms(2800), Some(ms(2700))), PeerState::Up);
        assert_eq!(meter.update(ms(7700), Some(ms(2700))), PeerState::Down);
        assert_eq!(meter.update(ms(7800), Some(ms(7800))), PeerState::Down);
        assert_eq!(meter.update(ms(8790), Some(ms(8700))), PeerState::Down);
        assert_eq!(meter.update(ms(8800), Some(ms(8700))), PeerState::Up);
        assert_eq!(meter.state(), PeerState::Up);
    }

    #[test]
    fn the_round_trip_is_smoothed() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.smoothed_ns(), None);
        trip.sample(800);
        assert_eq!(trip.smoothed_ns(), Some(800));
        trip.sample(1600);
        assert_eq!(trip.smoothed_ns(), Some(900));
        for _ in 0..100 {
            trip.sample(1600);
        }
        assert!(trip.smoothed_ns().unwrap() > 1550);
    }

    #[test]
    fn loss_is_that_of_the_window_and_of_one_boot() {
        let mut meter = LossMeter::default();
        let reading = |boot, taken, end| LinkReading {
            boot: Boot(boot),
            taken,
            end,
        };
        meter.update(ms(0), reading(1, 10, 1000));
        assert_eq!(meter.loss_ppm(), None, "what came before is not known");
        meter.update(ms(1000), reading(1, 90, 1100));
        assert_eq!(meter.loss_ppm(), Some(200_000));
        meter.update(ms(1500), reading(1, 90, 9000));
        assert_eq!(meter.loss_ppm(), Some(200_000), "not yet sampled");
        for second in 2..12 {
            meter.update(
                ms(second * 1000),
                reading(1, 90 + second * 100, 1100 + second * 100),
            );
        }
        assert_eq!(meter.loss_ppm(), Some(0), "the window moved on");
        meter.update(ms(13_000), reading(2, 5000, 50));
        assert_eq!(meter.loss_ppm(), None);
    }

    /// The counters of a link are its sender's word.
    #[test]
    fn a_peer_that_counts_wildly_is_metered() {
        let mut meter = LossMeter::default();
        let reading = |taken, end| LinkReading {
            boot: Boot(1),
            taken,
            end,
        };
        meter.update(ms(0), reading(10, 10));
        for second in 1..=12 {
            meter.update(ms(second * 1_000), reading(10 + second, second << 59));
        }
        assert_eq!(meter.loss_ppm(), Some(999_999));
    }
}
