//! The simulated network: each directed link loses, doubles, delays and reorders by itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::plan::{MS, US};
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
#[derive(Clone, Copy, Debug)]
pub struct LinkFaults {
    pub loss_per_mille: u32,
    pub double_per_mille: u32,
    pub delay_ns: u64,
    /// Uniform on top of the delay: reorders.
    pub jitter_ns: u64,
    /// Datagrams in a thousand that take another ten milliseconds or more.
    pub straggle_per_mille: u32,
}

impl LinkFaults {
    /// A whole link.
    pub const WHOLE: LinkFaults = LinkFaults {
        loss_per_mille: 0,
        double_per_mille: 0,
        delay_ns: 50 * US,
        jitter_ns: 20 * US,
        straggle_per_mille: 0,
    };

    pub fn draw(random: &mut Random, loss_per_mille_max: u32) -> LinkFaults {
        let upto = |random: &mut Random, most: u32| random.below(u64::from(most) + 1) as u32;
        LinkFaults {
            loss_per_mille: upto(random, loss_per_mille_max),
            double_per_mille: upto(random, loss_per_mille_max / 2),
            delay_ns: *random.pick(&[20 * US, 100 * US, 100 * US, MS]),
            jitter_ns: *random.pick(&[US, 50 * US, 500 * US, 5 * MS]),
            straggle_per_mille: upto(random, loss_per_mille_max / 4),
        }
    }
}

/// For some time nothing passes from one end to another, or to and from all others.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Counts {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
}

/// All links of a world.
#[derive(Debug)]
pub struct Network {
    links: Vec<Vec<LinkFaults>>,
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
            links,
            cuts,
            heal_ns,
            random,
            counts: Counts::default(),
        }
    }

    /// When the copies of a datagram sent now arrive; none if it is lost.
    pub fn send(&mut self, now_ns: u64, from: End, to: End) -> [Option<u64>; 2] {
        self.counts.sent += 1;
        let link = if now_ns >= self.heal_ns {
            LinkFaults::WHOLE
        } else {
            self.links[from.0][to.0]
        };
        let cut = self.cuts.iter().any(|cut| cut.stops(now_ns, from, to));
        let random = &mut self.random;
        if random.chance(link.loss_per_mille) || cut && now_ns < self.heal_ns {
            self.counts.lost += 1;
            return [None, None];
        }
        let mut arrival = || {
            let straggles = random.chance(link.straggle_per_mille);
            let late = if straggles {
                random.within(10 * MS, 200 * MS)
            } else {
                0
            };
            Some(now_ns + link.delay_ns + random.below(link.jitter_ns + 1) + late)
        };
        let first = arrival();
        let second = arrival();
        let doubled = random.chance(link.double_per_mille);
        self.counts.doubled += u64::from(doubled);
        [first, second.filter(|_| doubled)]
    }
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
        assert_eq!(network.send(9, End(0), End(1)), [None, None]);
        assert!(network.send(10, End(0), End(1))[0].is_some());
    }
}
