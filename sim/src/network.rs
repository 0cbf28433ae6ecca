//! The simulated network: each directed link loses, doubles, delays and reorders by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::plan::{MS, S, US};
use crate::random::Random;

/// One end of links: replicas come first, then users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End(pub usize);

impl End {
    pub fn address(self) -> SocketAddr {
        let host = Ipv4Addr::new(10, 0, (self.0 >> 8) as u8, self.0 as u8);
        SocketAddr::new(IpAddr::V4(host), 7000)
    }

    pub fn at(address: SocketAddr) -> Option<End> {
        match address.ip() {
            IpAddr::V4(host) if address.port() == 7000 => {
                let [_, _, high, low] = host.octets();
                Some(End(usize::from(high) << 8 | usize::from(low)))
            }
            _ => None,
        }
    }
}

/// The manners of one directed link while faults last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFaults {
    pub loss_per_mille: u32,
    pub double_per_mille: u32,
    pub delay_ns: u64,
    /// Uniform on top of the delay: reorders.
    pub jitter_ns: u64,
    /// Datagrams in a thousand that take another ten milliseconds or more.
    pub straggle_per_mille: u32,
    /// Datagrams in a thousand that begin a burst: up to 20 ms in which nothing passes.
    pub burst_per_mille: u32,
    /// Datagrams in a thousand that arrive with flipped bits.
    pub corrupt_per_mille: u32,
    /// 0: as fast as it gets.
    pub bytes_per_s: u64,
    /// What waits for a slow link at most; more is lost.
    pub queue_bytes: u64,
}

impl LinkFaults {
    /// A whole link.
    pub const WHOLE: LinkFaults = LinkFaults {
        loss_per_mille: 0,
        double_per_mille: 0,
        delay_ns: 50 * US,
        jitter_ns: 20 * US,
        straggle_per_mille: 0,
        burst_per_mille: 0,
        corrupt_per_mille: 0,
        bytes_per_s: 0,
        queue_bytes: 0,
    };

    pub fn draw(random: &mut Random, loss_per_mille_max: u32) -> LinkFaults {
        let upto = |random: &mut Random, most: u32| random.below(u64::from(most) + 1) as u32;
        LinkFaults {
            loss_per_mille: upto(random, loss_per_mille_max),
            double_per_mille: upto(random, loss_per_mille_max / 2),
            delay_ns: *random.pick(&[20 * US, 100 * US, 100 * US, MS]),
            jitter_ns: *random.pick(&[US, 50 * US, 500 * US, 5 * MS]),
            straggle_per_mille: upto(random, loss_per_mille_max / 4),
            ..LinkFaults::WHOLE
        }
    }
}

/// For some time nothing passes from one end to another, or to and from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub end: usize,
    /// `None`: to all.
    pub to: Option<usize>,
    pub both_ways: bool,
    pub from_ns: u64,
    pub until_ns: u64,
}

impl Cut {
    pub fn draw(random: &mut Random, ends: usize, from_ns: u64, until_ns: u64) -> Cut {
        let begin = random.within(from_ns, until_ns);
        Cut {
            end: random.below(ends as u64) as usize,
            to: random
                .chance(500)
                .then(|| random.below(ends as u64) as usize),
            both_ways: random.chance(500),
            from_ns: begin,
            until_ns: random.within(begin, until_ns),
        }
    }

    fn stops(&self, now_ns: u64, from: End, to: End) -> bool {
        let hits = |a: End, b: End| a.0 == self.end && self.to.is_none_or(|to| to == b.0);
        (self.from_ns..self.until_ns).contains(&now_ns)
            && (hits(from, to) || self.both_ways && hits(to, from))
    }
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Arrived with flipped bits.
    pub corrupted: u64,
    /// Lost in a burst, to a full queue, to a cut; each is counted under `lost` too.
    pub lost_in_bursts: u64,
    pub lost_to_queues: u64,
    pub lost_to_cuts: u64,
}

/// The arrival of one copy of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at_ns: u64,
    /// Seeds the choice of flipped bits; `None`: as it was sent.
    pub spoiled: Option<u64>,
}

/// What a link remembers.
#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    /// Nothing passes before this time.
    burst_until_ns: u64,
    /// The queue of a slow link is empty then.
    busy_until_ns: u64,
}

/// All links of a world.
#[derive(Debug)]
pub struct Network {
    links: Vec<Vec<LinkFaults>>,
    states: Vec<Vec<LinkState>>,
    cuts: Vec<Cut>,
    heal_ns: u64,
    random: Random,
    pub counts: Counts,
}

impl Network {
    pub fn new(
        links: Vec<Vec<LinkFaults>>,
        cuts: Vec<Cut>,
        heal_ns: u64,
        random: Random,
    ) -> Network {
        Network {
            states: links
                .iter()
                .map(|row| vec![LinkState::default(); row.len()])
                .collect(),
            links,
            cuts,
            heal_ns,
            random,
            counts: Counts::default(),
        }
    }

    /// When and how the copies of a datagram sent now arrive; none if it is lost.
    pub fn send(&mut self, now_ns: u64, from: End, to: End, bytes: usize) -> [Option<Arrival>; 2] {
        self.counts.sent += 1;
        if now_ns >= self.heal_ns {
            let link = LinkFaults::WHOLE;
            let at_ns = now_ns + link.delay_ns + self.random.below(link.jitter_ns + 1);
            let spoiled = None;
            return [Some(Arrival { at_ns, spoiled }), None];
        }
        let link = self.links[from.0][to.0];
        let state = &mut self.states[from.0][to.0];
        let random = &mut self.random;
        if link.burst_per_mille > 0 && random.chance(link.burst_per_mille) {
            let burst_until_ns = now_ns + random.within(MS, 20 * MS);
            state.burst_until_ns = state.burst_until_ns.max(burst_until_ns);
        }
        let cut = self.cuts.iter().any(|cut| cut.stops(now_ns, from, to));
        let bursts = now_ns < state.burst_until_ns;
        let mut queued_ns = 0;
        let mut full = false;
        if link.bytes_per_s > 0 {
            let nanoseconds = |bytes: u64| bytes * S / link.bytes_per_s;
            let wait_ns = state.busy_until_ns.saturating_sub(now_ns);
            full = wait_ns > nanoseconds(link.queue_bytes);
            if !full {
                queued_ns = wait_ns + nanoseconds(bytes as u64);
                state.busy_until_ns = now_ns + queued_ns;
            }
        }
        self.counts.lost_to_cuts += u64::from(cut);
        self.counts.lost_in_bursts += u64::from(bursts);
        self.counts.lost_to_queues += u64::from(full);
        if random.chance(link.loss_per_mille) || cut || bursts || full {
            self.counts.lost += 1;
            return [None, None];
        }
        let mut arrival = || {
            let straggles = random.chance(link.straggle_per_mille);
            let late_ns = if straggles {
                random.within(10 * MS, 200 * MS)
            } else {
                0
            };
            let spoils = random.chance(link.corrupt_per_mille);
            Some(Arrival {
                at_ns: now_ns
                    + queued_ns
                    + link.delay_ns
                    + random.below(link.jitter_ns + 1)
                    + late_ns,
                spoiled: spoils.then(|| random.draw()),
            })
        };
        let first = arrival();
        let second = arrival();
        let doubled = random.chance(link.double_per_mille);
        self.counts.doubled += u64::from(doubled);
        let arrivals = [first, second.filter(|_| doubled)];
        let spoiled = arrivals.iter().flatten().filter(|a| a.spoiled.is_some());
        self.counts.corrupted += spoiled.count() as u64;
        arrivals
    }
}

/// The datagram with one to three flipped bits.
pub fn spoil(datagram: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = datagram.to_vec();
    let flips = random.within(1, 3);
    // Never the same bit twice: that would be no change.
    let mut flipped = Vec::new();
    while flipped.len() < flips as usize && !bytes.is_empty() {
        let bit = random.below(8 * bytes.len() as u64) as usize;
        if !flipped.contains(&bit) {
            flipped.push(bit);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_ends() {
        for end in [0, 3, 255, 256, 700].map(End) {
            assert_eq!(End::at(end.address()), Some(end));
        }
    }

    #[test]
    fn faults_end_when_the_network_heals() {
        let bad = LinkFaults {
            loss_per_mille: 1000,
            ..LinkFaults::WHOLE
        };
        let mut network = Network::new(vec![vec![bad; 2]; 2], Vec::new(), 10, Random::new(1));
        assert_eq!(network.send(9, End(0), End(1), 100), [None, None]);
        assert!(network.send(10, End(0), End(1), 100)[0].is_some());
    }

    fn one_link(link: LinkFaults, cuts: Vec<Cut>) -> Network {
        Network::new(vec![vec![link; 2]; 2], cuts, u64::MAX, Random::new(7))
    }

    #[test]
    fn a_slow_link_queues_and_then_loses() {
        let slow = LinkFaults {
            bytes_per_s: 1_000_000,
            queue_bytes: 10_000,
            jitter_ns: 0,
            ..LinkFaults::WHOLE
        };
        let mut network = one_link(slow, Vec::new());
        let sent = (0..100).filter_map(|_| network.send(0, End(0), End(1), 1000)[0]);
        let sent = sent.map(|arrival| arrival.at_ns).collect::<Vec<_>>();
        // Ten in the queue and one on the wire, a millisecond each.
        assert_eq!(sent.len(), 11);
        assert_eq!(sent[10] - sent[0], 10 * MS);
        assert_eq!(network.counts.lost_to_queues, 89);
        assert!(network.send(20 * MS, End(0), End(1), 1000)[0].is_some());
    }

    #[test]
    fn a_burst_loses_everything_for_a_while() {
        let bursty = LinkFaults {
            burst_per_mille: 1000,
            ..LinkFaults::WHOLE
        };
        let mut network = one_link(bursty, Vec::new());
        assert_eq!(network.send(0, End(0), End(1), 100), [None, None]);
        assert_eq!(network.counts.lost_in_bursts, 1);
    }

    #[test]
    fn a_directed_cut_stops_one_direction_in_its_time() {
        let cut = Cut {
            end: 0,
            to: Some(1),
            both_ways: false,
            from_ns: 10,
            until_ns: 20,
        };
        let mut network = one_link(LinkFaults::WHOLE, vec![cut]);
        let mut passes = |now, from, to| network.send(now, End(from), End(to), 1)[0].is_some();
        assert!(passes(9, 0, 1) && !passes(10, 0, 1) && passes(10, 1, 0) && passes(20, 0, 1));
    }

    #[test]
    fn spoiled_datagrams_differ() {
        for seed in 0..100 {
            assert_ne!(spoil(&[0; 3], seed), [0; 3]);
        }
    }
}
