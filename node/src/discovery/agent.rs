//! Discovery at work: the ring from the net stage, two sockets, the clock.
//!
//! One turn every 20 ms on the control thread, so nothing of this can be kept busy by a flood: what
//! comes faster than a turn takes is dropped, here or by the kernel. Round trips do not suffer from
//! the wait, since both ends subtract it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use platform::group;
use wire::beacon::Addresses;
use wire::committee::Committee;
use wire::ids::{Boot, Epoch, Instant, NodeId};
use wire::keys::NodeSecret;
use wire::succession;

use super::core::{Core, Observation, Sends, Setup, Target};
use super::links::Links;
use super::meter::LinkReading;
use super::{Arrived, RING_DEPTH};
use crate::config::Config;
use crate::epochs;
use crate::exit::{Exit, ExitContext, Refusal};
use crate::prepare::quorum_of;
use crate::stages::links::Inlet;
use crate::telemetry::{PeerState, Telemetry};

/// Between two turns; half of the shortest interval.
pub const PAUSE: Duration = Duration::from_millis(50);
/// Datagrams of the group taken in one turn.
const GROUP_DATAGRAMS: usize = 64;
/// Answers taken in one turn.
const ANSWERS: usize = 8;

/// The sockets of discovery, opened before the node starts so that it can still refuse.
#[derive(Debug)]
pub struct Sockets {
    sender: UdpSocket,
    /// From which links are asked for and told.
    links: UdpSocket,
    /// None without beacons.
    group: Option<UdpSocket>,
}

impl Sockets {
    /// `listen` is where the net stage listens.
    pub fn open(config: &Config, listen: SocketAddr) -> Result<Sockets, Refusal> {
        let discovery = &config.discovery;
        let interface = discovery.interface.unwrap_or(match listen.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
        if discovery.beacon && listen.is_ipv6() {
            return Err(Refusal::preflight(format!(
                "discovery.beacon: beacons are IPv4, but this node listens on {listen}. Set \
                 discovery.beacon = false: peers still tell each other one by one"
            )));
        }
        let group = discovery
            .beacon
            .then(|| group::listen(discovery.group, interface))
            .transpose()
            .or_exit(Exit::Preflight, "discovery.group, discovery.interface")?;
        let sender = group::sender(listen.ip(), interface)
            .or_exit(Exit::Preflight, "discovery.interface")?;
        let links = UdpSocket::bind((listen.ip(), 0)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let links = links.or_exit(Exit::Preflight, "cannot open a socket beside the main one")?;
        Ok(Sockets {
            sender,
            links,
            group,
        })
    }
}

/// What an [`Agent`] is made of.
pub struct Parts<'a> {
    pub config: &'a Config,
    pub committee: &'a Committee,
    pub secret: &'a NodeSecret,
    pub me: NodeId,
    pub boot: Boot,
    pub listen: SocketAddr,
    pub sockets: Sockets,
    pub from_net: Inlet<Arrived>,
    pub telemetry: Arc<Telemetry>,
    pub now: Instant,
    /// Told when the node's epoch is found to have ended without it.
    pub later_epoch: mpsc::Sender<Epoch>,
}

/// Finds and watches the peers of one node.
pub struct Agent {
    core: Core,
    sockets: Sockets,
    group_address: SocketAddrV4,
    from_net: Inlet<Arrived>,
    telemetry: Arc<Telemetry>,
    /// Port, when the node listens on all addresses and must find out which one to tell.
    wildcard: Option<u16>,
    members: Vec<SocketAddr>,
    look_ns: u64,
    look_at: Instant,
    sends: Sends,
    links: Links,
    data: PathBuf,
    later_epoch: mpsc::Sender<Epoch>,
    is_over: bool,
}

impl Agent {
    pub fn new(parts: Parts<'_>) -> Agent {
        let discovery = &parts.config.discovery;
        let members: Vec<SocketAddr> = parts
            .committee
            .members()
            .iter()
            .filter(|member| member.id != parts.me)
            .map(|member| member.address)
            .collect();
        let wildcard = (discovery.advertise.is_none() && parts.listen.ip().is_unspecified())
            .then_some(parts.listen.port());
        let told = match wildcard {
            Some(port) => route_source(&members, port),
            None => Some(discovery.advertise.unwrap_or(parts.listen)),
        };
        let committed = parts.committee.member(parts.me);
        let addresses = [told, committed.map(|member| member.address)]
            .into_iter()
            .flatten()
            .find_map(|address| Addresses::new(address, None).ok())
            .unwrap_or_else(|| {
                // Nobody can be told anything true; peers keep what their files say.
                let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
                Addresses::new(nowhere, None).expect("a unicast address")
            });
        let setup = Setup {
            me: parts.me,
            committee: parts.committee,
            secret: parts.secret,
            boot: parts.boot,
            listen: parts.listen,
            addresses,
            follow: discovery.follow,
            beacon: discovery.beacon,
            interval_ns: discovery.interval_ns,
            suspect_after_ns: discovery.suspect_after_ns,
            down_after_ns: discovery.down_after_ns,
        };
        Agent {
            core: Core::new(&setup, parts.now),
            sockets: parts.sockets,
            group_address: discovery.group,
            from_net: parts.from_net,
            telemetry: parts.telemetry,
            wildcard,
            members,
            look_ns: discovery.interval_ns,
            look_at: parts.now,
            sends: Sends::default(),
            links: Links::new(
                parts.committee.clone(),
                parts.me,
                quorum_of(parts.committee),
            ),
            data: parts.config.node.data.clone(),
            later_epoch: parts.later_epoch,
            is_over: false,
        }
    }

    /// One turn: takes what came, does what is due, sends, and shows what changed. `now` is read
    /// again for each datagram, since what a turn takes is part of a round trip.
    pub fn turn(&mut self, now: impl Fn() -> Instant) {
        for _ in 0..RING_DEPTH {
            let Some(arrived) = self.from_net.pop() else {
                break;
            };
            if arrived.is_ask() {
                self.tell_link(now(), arrived.from, arrived.bytes());
                continue;
            }
            self.hear(now(), arrived.at, arrived.bytes(), false);
            self.send();
        }
        self.hear_group(&now);
        let start = now();
        self.look_for_own_address(start);
        let observed: Vec<Observation> = self.telemetry.peers.iter().map(observe).collect();
        self.core.tick(start, &observed, &mut self.sends);
        self.send();
        self.show();
        self.look_for_link(start);
    }

    fn tell_link(&mut self, now: Instant, to: SocketAddr, ask: &[u8]) {
        self.telemetry.discovery.received.add(1);
        let epoch = match self.links.answer(now, ask) {
            Ok(epoch) => epoch,
            Err(reject) => return self.telemetry.rejects.count(reject),
        };
        // Of an epoch that has not ended, as of one that this node never saw, there is none.
        let Ok(link) = epochs::kept(&self.data, epoch) else {
            return;
        };
        if let Some(answer) = succession::encode_answer(&link) {
            self.send_link(&answer, to);
        }
    }

    fn look_for_link(&mut self, now: Instant) {
        let peers = self.telemetry.whereabouts.iter();
        let up = peers
            .filter(|peer| peer.state.get() == PeerState::Up)
            .count();
        if let Some((id, ask)) = self.links.question(now, up)
            && let Some(sight) = self.core.sight(id)
        {
            self.send_link(&ask, sight.address);
        }
        // One byte more, so that what is too long shows.
        let mut bytes = [0; succession::ASK_BYTES + 1];
        for _ in 0..ANSWERS {
            let Ok((length, _)) = self.sockets.links.recv_from(&mut bytes) else {
                return;
            };
            if self.is_over {
                continue;
            }
            let Some((link, next)) = self.links.learn(&bytes[..length]) else {
                continue;
            };
            match epochs::keep(&self.data, link.certificate.header.epoch(), &link) {
                Ok(()) => {
                    self.is_over = true;
                    // A node that is ending needs no word of it.
                    let _ = self.later_epoch.send(next.epoch());
                }
                Err(error) => tracing::error!("the end of the epoch cannot be kept: {error}"),
            }
        }
    }

    fn send_link(&self, datagram: &[u8], to: SocketAddr) {
        let counters = &self.telemetry.discovery;
        match self.sockets.links.send_to(datagram, to) {
            Ok(_) => counters.sent.add(1),
            Err(_) => counters.send_errors.add(1),
        }
    }

    fn hear(&mut self, now: Instant, arrived: Instant, datagram: &[u8], from_group: bool) {
        self.telemetry.discovery.received.add(1);
        let heard = self
            .core
            .hear(now, arrived, datagram, from_group, &mut self.sends);
        if let Err(reject) = heard {
            self.telemetry.rejects.count(reject);
        }
    }

    fn hear_group(&mut self, now: &impl Fn() -> Instant) {
        // One byte more, so that what is too long shows.
        let mut bytes = [0; super::DATAGRAM_BYTES_MAX + 1];
        for _ in 0..GROUP_DATAGRAMS {
            let Some(socket) = &self.sockets.group else {
                return;
            };
            let Ok((length, _)) = socket.recv_from(&mut bytes) else {
                return;
            };
            let now = now();
            self.hear(now, now, &bytes[..length], true);
        }
    }

    fn look_for_own_address(&mut self, now: Instant) {
        if let Some(port) = self.wildcard
            && now >= self.look_at
        {
            self.look_at = now.after_ns(self.look_ns);
            let found = route_source(&self.members, port);
            let found = found.and_then(|address| Addresses::new(address, None).ok());
            if let Some(addresses) = found {
                self.core.set_addresses(now, addresses);
            }
        }
    }

    fn send(&mut self) {
        let counters = &self.telemetry.discovery;
        for sending in self.sends.drain() {
            let to = match sending.to {
                Target::Group => SocketAddr::V4(self.group_address),
                Target::Address(address) => address,
            };
            match self.sockets.sender.send_to(sending.bytes(), to) {
                Ok(_) => counters.sent.add(1),
                Err(_) => counters.send_errors.add(1),
            }
        }
    }

    /// Copies what is known into the telemetry, and says what is news.
    fn show(&mut self) {
        let telemetry = &*self.telemetry;
        telemetry
            .discovery
            .signature_checks
            .set(self.core.signature_checks());
        let mut moved = false;
        for (id, shown) in (0..).map(NodeId).zip(&telemetry.whereabouts) {
            let Some(sight) = self.core.sight(id) else {
                continue;
            };
            let before = shown.address.get();
            if before != Some(sight.address) {
                shown.address.set(Some(sight.address));
                // The first is that of the committee file, which the net stage has.
                if let Some(before) = before {
                    moved = true;
                    let source = sight.source.name();
                    tracing::info!(
                        "peer {id} moved from {before} to {} ({source})",
                        sight.address
                    );
                }
            }
            if shown.state.get() != sight.state {
                tracing::info!("peer {id} at {} is {}", sight.address, sight.state.name());
            }
            shown.source.set(sight.source);
            shown.state.set(sight.state);
            shown.round_trip_ns.set(sight.round_trip_ns.unwrap_or(0));
            shown.loss_known.set(sight.loss_ppm.is_some());
            shown.loss_ppm.set(sight.loss_ppm.unwrap_or(0));
        }
        if moved {
            telemetry.discovery.moves.add(1);
        }
    }
}

fn observe(peer: &crate::telemetry::Peer) -> Observation {
    let last_word_ns = peer.last_heard_ns.get();
    Observation {
        last_word: (last_word_ns != 0).then_some(Instant(last_word_ns)),
        boot: Boot(peer.boot.get() as u32),
        link: LinkReading {
            boot: Boot(peer.link_boot.get() as u32),
            taken: peer.link_taken.get(),
            end: peer.link_end.get(),
        },
        elsewhere: peer.elsewhere.get(),
    }
}

/// The address of this machine from which packets to the peers leave.
fn route_source(peers: &[SocketAddr], port: u16) -> Option<SocketAddr> {
    let sources = peers.iter().filter_map(|peer| group::source_towards(*peer));
    let mut sources = sources.map(|ip| SocketAddr::new(ip, port));
    sources.next()
}
