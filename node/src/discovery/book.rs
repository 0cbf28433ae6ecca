//! The address book: where each peer is, and where it may be.
//!
//! A claim brings candidates, if it is of a higher incarnation than all before it. A candidate, or
//! with less right a hint, becomes the address when the peer has answered there; nothing else moves
//! a peer. An address that the newest claim confirms is kept.

use std::net::SocketAddr;

use wire::beacon::{ADDRESSES_MAX, Addresses, Incarnation};
use wire::ids::NodeId;
use wire::reject::Reject;

use crate::telemetry::AddressSource;

/// Addresses to ask one peer at, at most: the current one, candidates, hint, configured.
pub const ASKED_MAX: usize = ADDRESSES_MAX + 3;

#[derive(Debug)]
struct Entry {
    configured: SocketAddr,
    current: SocketAddr,
    source: AddressSource,
    incarnation: Incarnation,
    candidates: [Option<SocketAddr>; ADDRESSES_MAX],
    candidate_source: AddressSource,
    hint: Option<SocketAddr>,
}

/// See the [module](self) documentation.
#[derive(Debug)]
pub struct Book {
    follow: bool,
    listen: SocketAddr,
    entries: Vec<Entry>,
}

impl Book {
    /// `listen` is where this node listens: it can send to addresses of that family alone, and to
    /// loopback only from there. With `follow` off the configured addresses stay for ever.
    pub fn new(configured: &[SocketAddr], listen: SocketAddr, follow: bool) -> Book {
        let entries = configured.iter().map(|address| Entry {
            configured: *address,
            current: *address,
            source: AddressSource::Configured,
            incarnation: Incarnation::default(),
            candidates: [None; ADDRESSES_MAX],
            candidate_source: AddressSource::Configured,
            hint: None,
        });
        Book {
            follow,
            listen,
            entries: entries.collect(),
        }
    }

    /// Where to send to this peer.
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.entries.get(node.index()).map(|entry| entry.current)
    }

    /// Who said so.
    pub fn source(&self, node: NodeId) -> AddressSource {
        let entry = self.entries.get(node.index());
        entry.map_or(AddressSource::Configured, |entry| entry.source)
    }

    /// Takes an authentic claim. True when there are new candidates, at which the peer should be
    /// asked. An older claim than the last is refused; one of the same incarnation changes nothing.
    pub fn claim(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        addresses: &Addresses,
        source: AddressSource,
    ) -> Result<bool, Reject> {
        let (follow, listen) = (self.follow, self.listen);
        let entry = self
            .entries
            .get_mut(node.index())
            .ok_or(Reject::NotInCommittee)?;
        if incarnation < entry.incarnation {
            return Err(Reject::StaleIncarnation);
        }
        if incarnation == entry.incarnation || !follow {
            return Ok(false);
        }
        let mut candidates = [None; ADDRESSES_MAX];
        let mut usable = addresses
            .iter()
            .filter(|address| is_usable(listen, *address));
        candidates.fill_with(|| usable.next());
        if candidates == [None; ADDRESSES_MAX] {
            return Err(Reject::BadAddress);
        }
        entry.incarnation = incarnation;
        if candidates.contains(&Some(entry.current)) {
            entry.candidates = [None; ADDRESSES_MAX];
            return Ok(false);
        }
        entry.candidates = candidates;
        entry.candidate_source = source;
        Ok(true)
    }

    /// The source of a fresh datagram on the link of this peer, or none: a place to ask at.
    pub fn hint(&mut self, node: NodeId, address: Option<SocketAddr>) {
        let listen = self.listen;
        if let Some(entry) = self.entries.get_mut(node.index())
            && self.follow
        {
            entry.hint = address.filter(|address| {
                is_usable(listen, *address)
                    && *address != entry.current
                    && !entry.candidates.contains(&Some(*address))
            });
        }
    }

    /// Where a claim that waits for an answer says the peer is.
    pub fn candidate(&self, node: NodeId) -> Option<SocketAddr> {
        let entry = self.entries.get(node.index())?;
        entry.candidates.iter().flatten().next().copied()
    }

    /// Where to ask this peer, the current address first. `silent`: it does not answer there.
    pub fn to_ask(&self, node: NodeId, silent: bool) -> [Option<SocketAddr>; ASKED_MAX] {
        let mut asked = [None; ASKED_MAX];
        let Some(entry) = self.entries.get(node.index()) else {
            return asked;
        };
        asked[0] = Some(entry.current);
        asked[1..=ADDRESSES_MAX].copy_from_slice(&entry.candidates);
        if silent {
            asked[ADDRESSES_MAX + 1] = entry.hint;
            let known = entry.current == entry.configured
                || entry.candidates.contains(&Some(entry.configured));
            asked[ADDRESSES_MAX + 2] = (!known).then_some(entry.configured);
        }
        asked
    }

    /// The peer answered at `address` what it was asked there. Returns true when it moved.
    pub fn answered(&mut self, node: NodeId, address: SocketAddr, silent: bool) -> bool {
        let Some(entry) = self.entries.get_mut(node.index()) else {
            return false;
        };
        let source = if address == entry.current || !self.follow {
            return false;
        } else if entry.candidates.contains(&Some(address)) {
            entry.candidate_source
        } else if silent && entry.hint == Some(address) {
            AddressSource::Link
        } else if silent && entry.configured == address {
            AddressSource::Configured
        } else {
            return false;
        };
        entry.current = address;
        entry.source = if address == entry.configured {
            AddressSource::Configured
        } else {
            source
        };
        entry.candidates = [None; ADDRESSES_MAX];
        entry.hint = None;
        true
    }
}

/// Whether a node that listens on `listen` should send there. A loopback address in a claim is that
/// of the claimant's machine, not ours.
fn is_usable(listen: SocketAddr, address: SocketAddr) -> bool {
    listen.is_ipv4() == address.is_ipv4()
        && (listen.ip().is_loopback() || !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use wire::ids::Boot;

    use super::*;

    const PEER: NodeId = NodeId(1);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn book() -> Book {
        let configured = [at("10.0.0.1:7"), at("10.0.0.2:7")];
        Book::new(&configured, configured[0], true)
    }

    fn incarnation(boot: u32, counter: u32) -> Incarnation {
        Incarnation {
            boot: Boot(boot),
            counter,
        }
    }

    fn claim(book: &mut Book, boot: u32, counter: u32, text: &str) -> Result<bool, Reject> {
        let addresses = Addresses::new(at(text), None).unwrap();
        let source = AddressSource::Beacon;
        book.claim(PEER, incarnation(boot, counter), &addresses, source)
    }

    #[test]
    fn a_claim_moves_a_peer_once_it_answered_there() {
        let mut book = book();
        assert_eq!(claim(&mut book, 2, 0, "10.0.0.9:7"), Ok(true));
        assert_eq!(book.address(PEER), Some(at("10.0.0.2:7")));
        assert_eq!(book.candidate(PEER), Some(at("10.0.0.9:7")));
        assert!(!book.answered(PEER, at("10.0.0.66:7"), true));
        assert!(book.answered(PEER, at("10.0.0.9:7"), false));
        assert_eq!(book.address(PEER), Some(at("10.0.0.9:7")));
        assert_eq!(book.source(PEER), AddressSource::Beacon);
        assert_eq!(book.candidate(PEER), None);
    }

    #[test]
    fn only_a_higher_incarnation_counts() {
        let mut book = book();
        assert_eq!(claim(&mut book, 2, 1, "10.0.0.2:7"), Ok(false));
        assert_eq!(claim(&mut book, 2, 1, "10.0.0.9:7"), Ok(false));
        for (boot, counter) in [(2, 0), (1, 9)] {
            let refused = claim(&mut book, boot, counter, "10.0.0.9:7");
            assert_eq!(refused, Err(Reject::StaleIncarnation));
        }
        assert_eq!(book.candidate(PEER), None);
        assert_eq!(claim(&mut book, 2, 2, "10.0.0.9:7"), Ok(true));
        // It changed its mind before it answered.
        assert_eq!(claim(&mut book, 3, 0, "10.0.0.2:7"), Ok(false));
        assert!(!book.answered(PEER, at("10.0.0.9:7"), false));
        let nobody = Addresses::new(at("10.0.0.1:7"), None).unwrap();
        let nobody = book.claim(NodeId(9), incarnation(1, 0), &nobody, AddressSource::Probe);
        assert_eq!(nobody, Err(Reject::NotInCommittee));
    }

    #[test]
    fn addresses_that_this_node_cannot_use_are_refused() {
        let mut book = book();
        for text in ["127.0.0.1:7", "[fd00::1]:7"] {
            assert_eq!(claim(&mut book, 2, 0, text), Err(Reject::BadAddress));
        }
        let both = Addresses::new(at("[fd00::1]:7"), Some(at("10.0.0.9:7"))).unwrap();
        let taken = book.claim(PEER, incarnation(2, 0), &both, AddressSource::Probe);
        assert_eq!(taken, Ok(true));
        assert_eq!(book.candidate(PEER), Some(at("10.0.0.9:7")));
        let local = at("127.0.0.1:7");
        let mut local = Book::new(&[local, at("127.0.0.1:8")], local, true);
        assert_eq!(claim(&mut local, 2, 0, "127.0.0.1:9"), Ok(true));
    }

    #[test]
    fn a_hint_counts_only_while_the_address_is_silent() {
        let mut book = book();
        book.hint(PEER, Some(at("10.0.0.9:7")));
        assert!(!book.answered(PEER, at("10.0.0.9:7"), false));
        assert!(!book.to_ask(PEER, false).contains(&Some(at("10.0.0.9:7"))));
        assert!(book.to_ask(PEER, true).contains(&Some(at("10.0.0.9:7"))));
        assert!(book.answered(PEER, at("10.0.0.9:7"), true));
        assert_eq!(book.source(PEER), AddressSource::Link);
        // And back to where the committee file says.
        assert!(book.to_ask(PEER, true).contains(&Some(at("10.0.0.2:7"))));
        assert!(book.answered(PEER, at("10.0.0.2:7"), true));
        assert_eq!(book.source(PEER), AddressSource::Configured);
    }

    #[test]
    fn a_book_that_does_not_follow_stays() {
        let configured = [at("10.0.0.1:7"), at("10.0.0.2:7")];
        let mut book = Book::new(&configured, configured[0], false);
        assert_eq!(claim(&mut book, 2, 0, "10.0.0.9:7"), Ok(false));
        book.hint(PEER, Some(at("10.0.0.9:7")));
        assert!(!book.answered(PEER, at("10.0.0.9:7"), true));
        assert_eq!(book.address(PEER), Some(configured[1]));
    }
}
