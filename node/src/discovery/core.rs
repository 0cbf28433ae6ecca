//! What to send to find and watch peers, and what to make of what comes. No clock, no socket.
//!
//! Every interval each peer is asked at its address, and where else it may be; a peer that is not up
//! is sent our beacon as well, at its configured and at its present address. A new claim of a peer
//! that moves is passed on once to all others, so that it is enough if one node hears it.

use std::net::SocketAddr;

use wire::beacon::{
    Addresses, BEACON_BYTES, Beacon, BeaconEar, Claim, Heard, Incarnation, sign_beacon,
};
use wire::committee::Committee;
use wire::ids::{Boot, Instant, NodeId};
use wire::keys::NodeSecret;
use wire::link::{Echo, Probe, ProbeLinks};
use wire::reject::Reject;

use super::DATAGRAM_BYTES_MAX;
use super::book::Book;
use super::meter::{LinkReading, LossMeter, RoundTrip, StateMeter};
use crate::telemetry::{AddressSource, PeerState};

/// Questions to one peer whose answers are still taken.
const OPEN_QUESTIONS: usize = 16;
/// A peer that has not answered at its address for so many intervals is silent there.
const SILENT_INTERVALS: u64 = 3;
/// What one peer may cause in a second: answers, and questions at once at addresses that it claims.
/// A good one needs a few; a bad one must not make this node send more than that.
const ANSWERS_PER_SECOND: u32 = 64;
const CLAIMS_PER_SECOND: u32 = 4;
const SECOND_NS: u64 = 1_000_000_000;
/// Sends that wait at most; more are not made, which loses no more than the network may.
pub const SENDS_MAX: usize = 256;

/// How discovery is set up.
#[derive(Debug)]
pub struct Setup<'a> {
    pub me: NodeId,
    pub committee: &'a Committee,
    pub secret: &'a NodeSecret,
    /// That of the endpoint.
    pub boot: Boot,
    /// Where the net stage listens.
    pub listen: SocketAddr,
    /// What peers are told.
    pub addresses: Addresses,
    pub follow: bool,
    /// Send beacons to the group.
    pub beacon: bool,
    pub interval_ns: u64,
    pub suspect_after_ns: u64,
    pub down_after_ns: u64,
}

/// What the hot threads know of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation {
    /// The last authentic word of the protocol.
    pub last_word: Option<Instant>,
    /// The highest boot that its link showed.
    pub boot: Boot,
    pub link: LinkReading,
    /// Source of its newest fresh datagram, when we send elsewhere.
    pub elsewhere: Option<SocketAddr>,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    pub address: SocketAddr,
    pub source: AddressSource,
    pub state: PeerState,
    pub round_trip_ns: Option<u64>,
    pub loss_ppm: Option<u64>,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Group,
    Address(SocketAddr),
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    pub to: Target,
    bytes: [u8; DATAGRAM_BYTES_MAX],
    length: usize,
}

impl Sending {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Datagrams to be sent, [`SENDS_MAX`] at most.
#[derive(Debug, Default)]
pub struct Sends(Vec<Sending>);

impl Sends {
    fn push(&mut self, to: Target, datagram: &[u8]) {
        if self.0.len() < SENDS_MAX {
            let mut bytes = [0; DATAGRAM_BYTES_MAX];
            bytes[..datagram.len()].copy_from_slice(datagram);
            let length = datagram.len();
            self.0.push(Sending { to, bytes, length });
        }
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Sending> {
        self.0.drain(..)
    }
}

#[derive(Clone, Copy, Debug)]
struct Question {
    number: u64,
    address: SocketAddr,
    at: Instant,
}

#[derive(Debug)]
struct Track {
    questions: [Option<Question>; OPEN_QUESTIONS],
    next: usize,
    /// When it last answered at its present address.
    answered_at: Instant,
    /// Of the second that began at `spent_at`.
    answers_spent: u32,
    claims_spent: u32,
    spent_at: Instant,
    round_trip: RoundTrip,
    loss: LossMeter,
    state: StateMeter,
}

impl Track {
    fn of_this_second(&mut self, now: Instant) -> &mut Track {
        if now.since_ns(self.spent_at) >= SECOND_NS {
            self.spent_at = now;
            self.answers_spent = 0;
            self.claims_spent = 0;
        }
        self
    }
}

/// See the [module](self) documentation.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    committee: Committee,
    secret: NodeSecret,
    claim: Claim,
    own_beacon: Beacon,
    ear: BeaconEar,
    probes: ProbeLinks,
    book: Book,
    tracks: Vec<Track>,
    follow: bool,
    beacon: bool,
    interval_ns: u64,
    round_at: Instant,
}

impl Core {
    pub fn new(setup: &Setup<'_>, now: Instant) -> Core {
        let Setup { committee, me, .. } = *setup;
        let claim = Claim {
            node: me,
            incarnation: Incarnation {
                boot: setup.boot,
                counter: 0,
            },
            addresses: setup.addresses,
        };
        let members = committee.members().iter();
        let configured: Vec<SocketAddr> = members.map(|member| member.address).collect();
        let tracks = configured.iter().map(|_| Track {
            questions: [None; OPEN_QUESTIONS],
            next: 0,
            answered_at: now,
            answers_spent: 0,
            claims_spent: 0,
            spent_at: now,
            round_trip: RoundTrip::default(),
            loss: LossMeter::default(),
            state: StateMeter::new(setup.suspect_after_ns, setup.down_after_ns),
        });
        let own_beacon = sign_beacon(committee, setup.secret, &claim);
        let mut ear = BeaconEar::new(committee, me);
        ear.set_own(own_beacon);
        Core {
            me,
            committee: committee.clone(),
            secret: setup.secret.clone(),
            claim,
            own_beacon,
            ear,
            probes: ProbeLinks::new(committee, me, setup.secret, setup.boot),
            book: Book::new(&configured, setup.listen, setup.follow),
            tracks: tracks.collect(),
            follow: setup.follow,
            beacon: setup.beacon,
            interval_ns: setup.interval_ns,
            round_at: now,
        }
    }

    /// This node listens elsewhere from now on: a higher incarnation, told at the next tick.
    pub fn set_addresses(&mut self, now: Instant, addresses: Addresses) {
        if addresses == self.claim.addresses {
            return;
        }
        self.claim.addresses = addresses;
        self.claim.incarnation.counter += 1;
        self.own_beacon = sign_beacon(&self.committee, &self.secret, &self.claim);
        self.ear.set_own(self.own_beacon);
        self.round_at = now;
    }

    /// What is due: watches every peer, and sends once an interval. Call it several times in
    /// `suspect_after`. `observed` is by node id.
    pub fn tick(&mut self, now: Instant, observed: &[Observation], out: &mut Sends) {
        for id in self.members() {
            let Some(seen) = observed.get(id.index()) else {
                continue;
            };
            let track = &mut self.tracks[id.index()];
            track.state.update(now, seen.last_word);
            track.loss.update(now, seen.link);
            self.ear.set_boot_min(id, seen.boot);
            self.book.hint(id, seen.elsewhere);
        }
        if now < self.round_at {
            return;
        }
        self.round_at = now.after_ns(self.interval_ns);
        self.announce(out);
        for id in self.members() {
            self.ask(now, id, out);
        }
    }

    /// Takes one datagram that arrived at `arrived`. `from_group`: by way of the group, where
    /// questions to one node have no place.
    pub fn hear(
        &mut self,
        now: Instant,
        arrived: Instant,
        datagram: &[u8],
        from_group: bool,
        out: &mut Sends,
    ) -> Result<(), Reject> {
        if datagram.starts_with(&wire::link::PROBE_MAGIC) {
            if from_group {
                return Err(Reject::WrongDirection);
            }
            let probe = self.probes.hear(datagram)?.into_inner();
            return self.hear_probe(now, arrived, &probe, out);
        }
        if !self.follow {
            return Ok(());
        }
        let Heard::New(claim) = self.ear.hear(now, datagram)? else {
            return Ok(());
        };
        if self.take_claim(now, &claim, AddressSource::Beacon, out)? {
            for other in self.members().filter(|other| *other != claim.node) {
                if let Some(address) = self.book.address(other) {
                    out.push(Target::Address(address), datagram);
                }
            }
        }
        Ok(())
    }

    /// What is known of a peer; none of ourselves and of strangers.
    pub fn sight(&self, id: NodeId) -> Option<Sight> {
        if id == self.me {
            return None;
        }
        let track = self.tracks.get(id.index())?;
        Some(Sight {
            address: self.book.address(id)?,
            source: self.book.source(id),
            state: track.state.state(),
            round_trip_ns: track.round_trip.smoothed_ns(),
            loss_ppm: track.loss.loss_ppm(),
        })
    }

    /// Signatures checked since the start.
    pub fn signature_checks(&self) -> u64 {
        self.ear.checks()
    }

    fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.me;
        let all = (0..self.tracks.len() as u16).map(NodeId);
        all.filter(move |id| *id != me)
    }

    /// Our beacon, to the group and to peers that are not up.
    fn announce(&self, out: &mut Sends) {
        if self.beacon {
            out.push(Target::Group, &self.own_beacon);
        }
        for id in self.members() {
            let track = &self.tracks[id.index()];
            if track.state.state() == PeerState::Up {
                continue;
            }
            let configured = self.committee.member(id).map(|member| member.address);
            let current = self.book.address(id);
            let known = [configured, current.filter(|_| current != configured)];
            for address in known.into_iter().flatten() {
                out.push(Target::Address(address), &self.own_beacon);
            }
        }
    }

    fn is_silent(&self, now: Instant, id: NodeId) -> bool {
        let silence_ns = now.since_ns(self.tracks[id.index()].answered_at);
        silence_ns >= SILENT_INTERVALS * self.interval_ns
    }

    /// Asks a peer wherever it may be.
    fn ask(&mut self, now: Instant, id: NodeId, out: &mut Sends) {
        let silent = self.is_silent(now, id);
        for address in self.book.to_ask(id, silent).into_iter().flatten() {
            let (number, bytes) = self.probes.seal(id, &self.claim, true, None);
            let track = &mut self.tracks[id.index()];
            track.questions[track.next] = Some(Question {
                number,
                address,
                at: now,
            });
            track.next = (track.next + 1) % OPEN_QUESTIONS;
            out.push(Target::Address(address), &bytes);
        }
    }

    /// True when the claim brought addresses at which the peer was then asked.
    fn take_claim(
        &mut self,
        now: Instant,
        claim: &Claim,
        source: AddressSource,
        out: &mut Sends,
    ) -> Result<bool, Reject> {
        let (id, incarnation) = (claim.node, claim.incarnation);
        let news = self.book.claim(id, incarnation, &claim.addresses, source)?;
        if !news {
            return Ok(false);
        }
        let track = self.tracks[id.index()].of_this_second(now);
        if track.claims_spent >= CLAIMS_PER_SECOND {
            // It is asked there in the next round.
            return Err(Reject::RateLimited);
        }
        track.claims_spent += 1;
        self.ask(now, id, out);
        Ok(true)
    }

    fn hear_probe(
        &mut self,
        now: Instant,
        arrived: Instant,
        probe: &Probe,
        out: &mut Sends,
    ) -> Result<(), Reject> {
        let id = probe.claim.node;
        let claimed = self.take_claim(now, &probe.claim, AddressSource::Probe, out);
        if let Some(echo) = probe.echo
            && echo.boot == self.claim.incarnation.boot
        {
            self.hear_answer(now, arrived, id, &echo);
        }
        if probe.asks {
            let track = self.tracks[id.index()].of_this_second(now);
            if track.answers_spent >= ANSWERS_PER_SECOND {
                return Err(Reject::RateLimited);
            }
            track.answers_spent += 1;
            let echo = Echo {
                boot: probe.claim.incarnation.boot,
                number: probe.number,
                held_ns: now.since_ns(arrived),
            };
            // A peer whose new address has not answered yet is told there and where it was, in
            // turn: it gets one answer for one question, and it may be at either.
            let address = match self.book.candidate(id) {
                Some(candidate) if !probe.number.is_multiple_of(2) => Some(candidate),
                _ => self.book.address(id),
            };
            let (_, bytes) = self.probes.seal(id, &self.claim, false, Some(echo));
            if let Some(address) = address {
                out.push(Target::Address(address), &bytes);
            }
        }
        claimed.map(|_| ())
    }

    fn hear_answer(&mut self, now: Instant, arrived: Instant, id: NodeId, echo: &Echo) {
        let silent = self.is_silent(now, id);
        let track = &mut self.tracks[id.index()];
        let answered = track
            .questions
            .iter_mut()
            .find(|question| question.is_some_and(|asked| asked.number == echo.number));
        let Some(question) = answered.and_then(Option::take) else {
            return;
        };
        if self.book.answered(id, question.address, silent) {
            track.round_trip.forget();
        }
        if self.book.address(id) == Some(question.address) {
            track.answered_at = now;
            // One that claims to have held it longer than it was away says nothing.
            if let Some(trip_ns) = arrived.since_ns(question.at).checked_sub(echo.held_ns) {
                track.round_trip.sample(trip_ns);
            }
        }
    }
}

const _: () = assert!(BEACON_BYTES <= DATAGRAM_BYTES_MAX);

#[cfg(test)]
pub(super) mod tests;
