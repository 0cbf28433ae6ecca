//! Datagrams in: what the link admits goes to the ring of the stage that wants it.

use std::net::SocketAddr;

use platform::driver::{Driver, Outgoing};
use platform::pool;
use replica::admission::{Admission, Standing};
use replica::blocks::Raw;
use replica::ordering::Input;
use replica::peer::{PeerMessage, is_verified};
use replica::verifying::{Job, body_of};
use wire::bytes::{SharedBytes, UniqueBytes};
use wire::header::Kind;
use wire::ids::{Instant, NodeId, PublicKey, Slot, View};
use wire::limits::{IN_FLIGHT, RECORD_HEADER_BYTES, WINDOW};
use wire::link::{Body, FromClient, FromPeer, Incoming, ShortDatagram};
use wire::reject::Reject;
use wire::request::RequestView;

use super::super::execute::{ExecuteInput, StateInput};
use super::Net;
use crate::buffers::{Bytes, Pooled};
use crate::discovery::Arrived;
use crate::telemetry::LogFull;

/// So many block buffers are kept free from blocks that others send to be judged, and from proposals:
/// what waits in the ring holds buffers that the rest needs. Fewer than those at which rivals of
/// needed blocks are dropped, or nothing would ever make room.
const KEPT_FROM_OFFERED: usize = 3 * IN_FLIGHT as usize / 2;
const KEPT_FROM_PROPOSED: usize = IN_FLIGHT as usize / 2;
const _: () = assert!(KEPT_FROM_OFFERED < replica::ordering::SCARCE_BUFFERS);

impl Net {
    /// One receive: a datagram, or several of `segment` bytes each that the kernel joined.
    pub fn received(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &pool::Shared,
        segment: usize,
        driver: &mut dyn Driver,
    ) {
        let each = if segment == 0 {
            data.len().max(1)
        } else {
            segment
        };
        let mut start = 0;
        loop {
            let end = (start + each).min(data.len());
            let datagram = Bytes(data.slice(start..end));
            if let Some(arrived) = Arrived::recognise(now, from, &datagram) {
                if self.to_discovery.push(arrived).is_err() {
                    self.shared.telemetry.rejects.count(Reject::QueueFull);
                }
            } else {
                match self.endpoint.receive(now, from, &datagram) {
                    Ok(Some(incoming)) => self.route(now, incoming, driver),
                    Ok(None) => {}
                    Err(reject) => self.shared.telemetry.rejects.count(reject),
                }
            }
            start = end;
            if start >= data.len() {
                return;
            }
        }
    }

    fn route(&mut self, now: Instant, incoming: Incoming<Pooled>, driver: &mut dyn Driver) {
        let outcome = match incoming {
            Incoming::Respond { to, datagram } => self.respond(to, &datagram, driver),
            Incoming::Peer(message) => self.hear_peer(message.into_inner()),
            Incoming::Client(message) => self.hear_client(now, message.into_inner(), driver),
        };
        if let Err(reject) = outcome {
            self.shared.telemetry.rejects.count(reject);
        }
    }

    fn respond(
        &mut self,
        to: SocketAddr,
        datagram: &ShortDatagram,
        driver: &mut dyn Driver,
    ) -> Result<(), Reject> {
        let mut buffer = self.send_pool.take().ok_or(Reject::NoBuffer)?;
        let bytes: &[u8] = datagram;
        buffer[..bytes.len()].copy_from_slice(bytes);
        let head = buffer.freeze().slice(0..bytes.len());
        let head_each = head.len();
        self.submit(
            driver,
            Outgoing {
                to,
                head,
                head_each,
                body: None,
                body_each: 0,
            },
        );
        Ok(())
    }

    fn hear_peer(&mut self, message: FromPeer<Pooled>) -> Result<(), Reject> {
        let FromPeer {
            from,
            kind,
            view,
            slot,
            body,
        } = message;
        if kind.is_block() {
            let Body::Assembled(buffer, message_bytes) = body else {
                return Err(Reject::BodyMalformed);
            };
            let raw = Raw {
                buffer,
                message_bytes,
            };
            let kept = if kind == Kind::Propose {
                KEPT_FROM_PROPOSED
            } else {
                KEPT_FROM_OFFERED
            };
            if self.block_pool.free() < kept {
                return Err(Reject::NoBuffer);
            }
            if kind == Kind::Propose {
                if u64::from(from.0) != view.0 % u64::from(self.replicas) {
                    return Err(Reject::NotLeader);
                }
                let input = Input::Proposed { from, raw };
                return self.to_order.push(input).map_err(|_| Reject::QueueFull);
            }
            // Those that nobody can have asked for need not wait for the ordering stage, which knows.
            let committed = self.shared.telemetry.order.committed_slot.get();
            if slot.0 <= committed {
                return Err(Reject::AlreadyHeld);
            }
            if slot.0 > committed + WINDOW {
                return Err(Reject::OutsideWindow);
            }
            let input = Input::Offered { from, raw };
            return self.to_order.push(input).map_err(|_| Reject::QueueFull);
        }
        if is_verified(kind, self.votes_verified) || kind == Kind::Forward {
            let body = body_of(body);
            let job = if kind == Kind::Forward {
                // Clients that nobody forwards for come first.
                if self.to_verify.queued() >= self.client_share {
                    return Err(Reject::QueueFull);
                }
                Job::Forwarded { from, body }
            } else {
                Job::Message {
                    from,
                    kind,
                    view,
                    slot,
                    body,
                }
            };
            return self.to_verify.push(job).map_err(|_| Reject::QueueFull);
        }
        if kind == Kind::Chunk {
            // They fill the pool of long messages; unasked ones may not.
            if !self.shared.telemetry.transfers.active.get() {
                return Err(Reject::NotAsked);
            }
            let body = body_of(body);
            let input = StateInput::Chunk { from, body };
            return self.to_states.push(input).map_err(|_| Reject::QueueFull);
        }
        let message = PeerMessage::decode(kind, view, slot, body.bytes())?;
        if let PeerMessage::FetchState { slot, part } = message {
            let input = StateInput::Fetch { from, slot, part };
            return self.to_states.push(input).map_err(|_| Reject::QueueFull);
        }
        let input = Input::Peer { from, message };
        self.to_order.push(input).map_err(|_| Reject::QueueFull)
    }

    fn hear_client(
        &mut self,
        now: Instant,
        message: FromClient<Pooled>,
        driver: &mut dyn Driver,
    ) -> Result<(), Reject> {
        let FromClient { client, kind, body } = message;
        match kind {
            Kind::Request | Kind::Open => self.request(now, &client, whole(body), driver),
            Kind::Read => {
                if self.to_execute.queued() >= self.client_share {
                    return Err(Reject::QueueFull);
                }
                let input = ExecuteInput::Read {
                    client,
                    body: whole(body),
                };
                self.to_execute.push(input).map_err(|_| Reject::QueueFull)
            }
            _ => Err(Reject::UnknownKind),
        }
    }

    /// Says Busy, or answers what was executed, before any signature work; or has it verified.
    fn request(
        &mut self,
        now: Instant,
        client: &PublicKey,
        bytes: Bytes,
        driver: &mut dyn Driver,
    ) -> Result<(), Reject> {
        let view = RequestView::parse(&bytes)?;
        if view.client() != client {
            return Err(Reject::BadSignature);
        }
        let (session, first, count) = (view.session(), view.first_sequence(), view.count() as u16);
        let open = view.is_open();
        let telemetry = self.shared.telemetry.clone();
        let waiting = telemetry.order.pending_transactions.get() as usize;
        let standing = Standing {
            is_leader: telemetry.order.is_leader.get(),
            may_propose: telemetry.order.may_propose.get(),
            log_full: telemetry.log.full.get() != LogFull::No,
            queues_full: self.to_verify.queued() >= self.client_share
                || self.to_verify.room() == 0
                || waiting >= self.client_share,
        };
        match standing.admit() {
            Admission::Verify => self
                .to_verify
                .push(Job::Request(bytes))
                .map_err(|_| Reject::QueueFull),
            Admission::Refuse(reason) => {
                self.busy(driver, client, first, reason);
                Err(Reject::QueueFull)
            }
            Admission::Resend { busy } => {
                if let Some(reason) = busy {
                    self.busy(driver, client, first, reason);
                }
                let room = self.to_verify.queued() < self.client_share;
                if busy.is_none() && room && self.followed.may_admit(now, client) {
                    // A follower stands up for its clients.
                    let job = Job::Request(bytes);
                    self.to_verify.push(job).map_err(|_| Reject::QueueFull)?;
                }
                if open {
                    return Ok(());
                }
                let input = ExecuteInput::Resend {
                    client: *client,
                    session,
                    first,
                    count,
                };
                self.to_execute.push(input).map_err(|_| Reject::QueueFull)
            }
        }
    }

    /// Now and then: what a WELCOME tells, messages that never became whole, and peers that moved.
    pub fn housekeeping(&mut self, now: Instant) {
        let telemetry = &self.shared.telemetry;
        let view = View(telemetry.order.view.get());
        self.endpoint
            .set_progress(view, Slot(telemetry.execute.executed_slot.get()));
        for (id, peer) in (0..).map(NodeId).zip(&telemetry.peers) {
            peer.boot.set(u64::from(self.endpoint.peer_boot(id).0));
            let counts = self.endpoint.peer_counts(id);
            peer.link_boot.set(u64::from(counts.boot.0));
            peer.link_taken.set(counts.taken);
            peer.link_end.set(counts.end);
            peer.elsewhere.set(counts.elsewhere);
        }
        let moves = telemetry.discovery.moves.get();
        if moves != self.moves_seen {
            self.moves_seen = moves;
            for (id, shown) in (0..).map(NodeId).zip(&telemetry.whereabouts) {
                if let Some(address) = shown.address.get() {
                    self.endpoint.set_peer_address(id, address);
                }
            }
        }
        self.endpoint.expire(now);
    }
}

/// A client's message as shared bytes.
fn whole(body: Body<Pooled>) -> Bytes {
    match body {
        Body::Whole(bytes) => bytes,
        Body::Assembled(buffer, length) => buffer
            .freeze()
            .slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length),
    }
}
