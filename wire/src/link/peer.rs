//! One replica as the endpoint of another knows it: keys, boots, counters and its address.

use std::net::SocketAddr;

use super::LinkKeys;
use crate::ids::Boot;
use crate::reject::Reject;
use crate::replay::ReplayWindow;

#[derive(Debug)]
pub(super) struct Peer {
    /// Where to send.
    pub address: SocketAddr,
    /// None for ourselves.
    pub keys: Option<LinkKeys>,
    /// What it said to this process of ours.
    pub heard: ReplayWindow,
    /// The highest boot it said it has while it did not name ours. Whoever recorded an earlier boot
    /// can play that back to a process that has heard nothing else, so this only rises, and what
    /// the present process says replaces it.
    pub claimed: Boot,
    pub counter: u64,
    taken: u64,
    elsewhere: Option<SocketAddr>,
}

/// What was heard of one replica on its link. Loss between two readings of the same boot is one
/// minus the growth of `taken` over the growth of `end`: the sender counts every datagram once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// The boot that `end` belongs to; 0 when the peer has not yet named this process of ours.
    pub boot: Boot,
    /// Datagrams taken from the peer since our start, of all its boots.
    pub taken: u64,
    /// One more than the highest counter taken of `boot`.
    pub end: u64,
    /// Source of the newest datagram, when that is not where we send. A hint: see [`super`].
    pub elsewhere: Option<SocketAddr>,
}

impl Peer {
    pub fn new(address: SocketAddr, keys: Option<LinkKeys>) -> Peer {
        Peer {
            address,
            keys,
            heard: ReplayWindow::new(),
            claimed: Boot(0),
            counter: 0,
            taken: 0,
            elsewhere: None,
        }
    }

    pub fn boot(&self) -> Boot {
        self.heard.boot().max(self.claimed)
    }

    /// Takes a datagram whose MAC holds and that names our boot, once. Its source counts only if
    /// it is newer than all before it: what somebody held back says nothing about the present.
    pub fn take(&mut self, source: SocketAddr, boot: Boot, counter: u64) -> Result<(), Reject> {
        let newest = boot > self.heard.boot() || counter >= self.heard.end();
        self.heard.accept(boot, counter)?;
        self.taken += 1;
        if newest {
            self.elsewhere = (source != self.address).then_some(source);
        }
        Ok(())
    }

    pub fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
        self.elsewhere = None;
    }

    pub fn counts(&self) -> PeerCounts {
        PeerCounts {
            boot: self.heard.boot(),
            taken: self.taken,
            end: self.heard.end(),
            elsewhere: self.elsewhere,
        }
    }
}
