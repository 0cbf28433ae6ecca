//! The links of ended epochs, asked for and told (protocol G3). Pure.
//!
//! A node that was away while the committee changed hears nobody: the others speak under the next epoch.
//! So a node that lacks a quorum asks one member after the other what ended its epoch. An answer proves
//! itself; checking one costs q signatures, so few are looked at for each question.

use wire::committee::Committee;
use wire::ids::{Epoch, Instant, NodeId};
use wire::reject::Reject;
use wire::succession::{self, ASK_BYTES, EpochLink};

/// Links told in a second, each read from a file and 5 KiB long at most.
const ANSWERS_PER_SECOND: u64 = 64;
/// A quorum is lacking for so long before anybody is asked.
const PATIENCE_NS: u64 = 1_000_000_000;
const ASK_INTERVAL_NS: u64 = 250_000_000;
/// Answers looked at for each question.
const LOOKS: u32 = 4;

/// What a node knows of the epochs' ends while it runs in one of them.
pub struct Links {
    committee: Committee,
    me: NodeId,
    others_needed: usize,
    second: u64,
    answers: u64,
    lacking_since: Option<Instant>,
    ask_at: Instant,
    asked: usize,
    looks: u32,
}

impl Links {
    /// `quorum`: q, with the node itself.
    pub fn new(committee: Committee, me: NodeId, quorum: usize) -> Links {
        Links {
            committee,
            me,
            others_needed: quorum.saturating_sub(1),
            second: 0,
            answers: 0,
            lacking_since: None,
            ask_at: Instant(0),
            asked: 0,
            looks: 0,
        }
    }

    /// Whom to ask now, if it is time, with so many peers up.
    pub fn question(&mut self, now: Instant, up: usize) -> Option<(NodeId, [u8; ASK_BYTES])> {
        if up >= self.others_needed {
            self.lacking_since = None;
            return None;
        }
        let since = *self.lacking_since.get_or_insert(now);
        if now < since.after_ns(PATIENCE_NS) || now < self.ask_at {
            return None;
        }
        self.ask_at = now.after_ns(ASK_INTERVAL_NS);
        self.looks = LOOKS;
        let n = self.committee.n();
        self.asked = (self.asked + 1) % n;
        if self.asked == self.me.index() {
            self.asked = (self.asked + 1) % n;
        }
        let ask = succession::encode_ask(self.committee.cluster(), self.committee.epoch());
        Some((NodeId(self.asked as u16), ask))
    }

    /// The epoch whose link is to be told to who sent this ask. None was kept of one that has not ended.
    pub fn answer(&mut self, now: Instant, ask: &[u8]) -> Result<Epoch, Reject> {
        let epoch = succession::decode_ask(ask, self.committee.cluster())?;
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            (self.second, self.answers) = (second, 0);
        }
        if self.answers >= ANSWERS_PER_SECOND {
            return Err(Reject::RateLimited);
        }
        self.answers += 1;
        Ok(epoch)
    }

    /// The next committee and what proves it, from an answer. None: nobody was asked, or it is no proof.
    pub fn learn(&mut self, datagram: &[u8]) -> Option<(EpochLink, Committee)> {
        self.looks = self.looks.checked_sub(1)?;
        let link = succession::decode_answer(datagram).ok()?;
        let next = link.follow(&self.committee).ok()?;
        Some((link, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new(crate::discovery::core::tests::committee(), NodeId(1), 3)
    }

    fn ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_node_without_a_quorum_asks_one_after_the_other() {
        let mut links = links();
        assert!(links.question(ms(0), 2).is_none());
        assert!(links.question(ms(100), 1).is_none());
        assert!(links.question(ms(1_050), 1).is_none());
        let asked: Vec<u16> = (0..40)
            .filter_map(|turn| links.question(ms(1_100 + turn * 50), 0))
            .map(|(id, _)| id.0)
            .collect();
        assert_eq!(asked, [2, 3, 0, 2, 3, 0, 2, 3]);
        assert!(links.question(ms(9_000), 2).is_none());
        assert!(links.question(ms(9_050), 1).is_none(), "patience anew");
    }

    #[test]
    fn answers_are_limited_and_only_for_this_cluster() {
        let mut links = links();
        let ask = succession::encode_ask(links.committee.cluster(), Epoch(5));
        for _ in 0..ANSWERS_PER_SECOND {
            assert_eq!(links.answer(ms(10), &ask), Ok(Epoch(5)));
        }
        assert_eq!(links.answer(ms(20), &ask), Err(Reject::RateLimited));
        assert_eq!(links.answer(ms(1_000), &ask), Ok(Epoch(5)));
        assert!(links.answer(ms(1_000), b"HPA1").is_err());
    }

    #[test]
    fn nothing_is_learned_from_nonsense_or_unasked() {
        let mut links = links();
        assert!(links.learn(b"HPL1").is_none());
        assert_eq!(links.looks, 0);
        assert!(links.question(ms(0), 0).is_none());
        assert!(links.question(ms(2_000), 0).is_some());
        assert!(links.learn(b"HPL1").is_none());
        assert_eq!(links.looks, LOOKS - 1);
    }
}
