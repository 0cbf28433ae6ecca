//! Datagrams out: headers are sealed into send buffers, bodies leave from where they are.

use platform::driver::{Driver, Outgoing};
use replica::agreement::Recipient;
use replica::ordering::Output;
use replica::peer::{Grains, PeerMessage, SMALL_BODY_BYTES_MAX};
use wire::header::{Fragment, HEADER_BYTES, Kind, fragment_bytes};
use wire::ids::{Digest, NodeId, PublicKey, Sequence, Slot, View};
use wire::limits::{GRAIN_BYTES, GRAINS_MAX};
use wire::link::BodyHash;
use wire::reject::Reject;
use wire::reply::{BUSY_LOG_FULL, BUSY_QUEUE, BusyBody};
use zerocopy::IntoBytes;

use super::super::execute::{Reply, Sent, StateSent};
use super::{BATCH_BYTES, BATCH_DATAGRAMS, BUSY_RETRY_US, MESSAGES_PER_TURN, Net, NetInput};
use crate::buffers::Bytes;

/// One broadcast's small messages lie side by side in one send buffer.
const SMALL_BYTES_MAX: usize = HEADER_BYTES + SMALL_BODY_BYTES_MAX;

impl Net {
    /// Moves what other stages want sent into the driver; true when there was something.
    pub fn send_turn(&mut self, driver: &mut dyn Driver) -> bool {
        let mut moved = 0;
        while let Some(outgoing) = self.postponed.pop_front() {
            if let Err(outgoing) = driver.send(outgoing) {
                self.postponed.push_front(outgoing);
                return false;
            }
        }
        while moved < MESSAGES_PER_TURN && self.postponed.is_empty() {
            let Some(NetInput::Order(output)) = self.from_order.pop() else {
                break;
            };
            moved += 1;
            match output {
                Output::Send { to, mut message } => {
                    self.ask_for_the_rest(to, &mut message);
                    self.send_small(driver, to, &message);
                }
                Output::SendLong {
                    to,
                    kind,
                    view,
                    slot,
                    digest,
                    message,
                    grains,
                } => {
                    self.send_long(driver, to, (kind, view, slot, digest), &message, grains);
                }
                Output::Busy {
                    client,
                    first,
                    log_full,
                } => {
                    let reason = if log_full { BUSY_LOG_FULL } else { BUSY_QUEUE };
                    self.busy(driver, &client, first, reason);
                }
                _ => unreachable!("the ordering stage sends messages only"),
            }
        }
        while moved < MESSAGES_PER_TURN && self.postponed.is_empty() {
            let Some(sent) = self.from_execute.pop() else {
                break;
            };
            moved += 1;
            match sent {
                Sent::Reply(reply) => self.send_reply(driver, reply),
                Sent::State(StateSent::Small { to, message }) => {
                    self.send_small(driver, Recipient::One(to), &message);
                }
                Sent::State(StateSent::Long {
                    to,
                    kind,
                    slot,
                    digest,
                    message,
                }) => {
                    let place = (kind, View(0), slot, digest);
                    self.send_long(driver, Recipient::One(to), place, &message, None);
                }
            }
        }
        self.to_order.wake();
        self.to_execute.wake();
        self.to_states.wake();
        self.to_verify.wake();
        moved > 0
    }

    /// Queues a send; what the driver has no room for waits, and stops this stage from taking more.
    pub(super) fn submit(&mut self, driver: &mut dyn Driver, outgoing: Outgoing) {
        if !self.postponed.is_empty() {
            self.postponed.push_back(outgoing);
        } else if let Err(outgoing) = driver.send(outgoing) {
            self.postponed.push_back(outgoing);
        }
    }

    fn recipients(&self, to: Recipient) -> std::ops::Range<u16> {
        match to {
            Recipient::All => 0..self.replicas,
            Recipient::One(id) => id.0..id.0 + 1,
        }
    }

    /// A fetched block of which the asked replica has already sent fragments: only the others are
    /// wanted.
    fn ask_for_the_rest(&self, to: Recipient, message: &mut PeerMessage) {
        let Recipient::One(id) = to else { return };
        let PeerMessage::FetchBlock { digest, grains, .. } = message else {
            return;
        };
        let name = digest.prefix();
        let partial = self.endpoint.missing(id, Kind::Propose, name);
        if let Some(missing) = partial {
            *grains = Some(Grains {
                count: GRAINS_MAX as u16,
                missing: *missing.words(),
            });
        }
    }

    fn send_small(&mut self, driver: &mut dyn Driver, to: Recipient, message: &PeerMessage) {
        let mut body = [0; SMALL_BODY_BYTES_MAX];
        let (kind, view, slot) = message.route();
        let length = message.encode(&mut body);
        let body = &body[..length];
        let each = HEADER_BYTES + length;
        let hash = BodyHash::of(body);
        let me = self.shared.me;
        let others = self.recipients(to).map(NodeId).filter(|id| *id != me);
        let mut others = others.peekable();
        // Large committees take several buffers.
        while others.peek().is_some() {
            let Some(mut buffer) = self.send_pool.take() else {
                self.shared.telemetry.rejects.count(Reject::NoBuffer);
                return;
            };
            let mut copies = [None; wire::limits::REPLICAS_MAX];
            let mut used = 0;
            let per_buffer = (buffer.len() / SMALL_BYTES_MAX).min(copies.len());
            for id in others.by_ref().take(per_buffer) {
                let Some(address) = self.endpoint.peer_address(id) else {
                    continue;
                };
                let datagram = &mut buffer[used * each..(used + 1) * each];
                let (head, rest) = datagram.split_at_mut(HEADER_BYTES);
                rest.copy_from_slice(body);
                let Ok(head) = head.try_into() else { continue };
                let fragment = Fragment::whole(body);
                self.endpoint
                    .seal_peer_hashed(id, kind, view, slot, fragment, length, &hash, head);
                copies[used] = Some(address);
                used += 1;
            }
            let shared = buffer.freeze();
            for (index, address) in copies[..used].iter().enumerate() {
                let Some(to) = *address else { continue };
                let head = shared.slice(index * each..(index + 1) * each);
                self.submit(
                    driver,
                    Outgoing {
                        to,
                        head,
                        head_each: each,
                        body: None,
                        body_each: 0,
                    },
                );
            }
        }
    }

    /// A long message, mostly PROPOSE or BLOCK: headers from the send pool, the body from the block buffer, no copy. Each
    /// fragment is hashed once for all recipients.
    fn send_long(
        &mut self,
        driver: &mut dyn Driver,
        to: Recipient,
        (kind, view, slot, digest): (Kind, View, Slot, Digest),
        message: &Bytes,
        grains: Option<Grains>,
    ) {
        let each = fragment_bytes(self.datagram_bytes);
        let per_batch = BATCH_DATAGRAMS.min((BATCH_BYTES / (HEADER_BYTES + each)).max(1));
        let mut begin = 0;
        while begin < message.len() {
            let end = (begin + per_batch * each).min(message.len());
            if grains.is_none_or(|grains| any_missing(&grains, begin, end)) {
                let mut hashes = [None; BATCH_DATAGRAMS];
                for (hash, start) in hashes.iter_mut().zip((begin..end).step_by(each)) {
                    *hash = Some(BodyHash::of(&message[start..(start + each).min(end)]));
                }
                let me = self.shared.me;
                for id in self.recipients(to).map(NodeId).filter(|id| *id != me) {
                    let seal = (kind, view, slot, digest.prefix());
                    self.send_fragments(driver, id, seal, message, begin..end, each, &hashes);
                }
            }
            begin = end;
        }
    }

    fn send_fragments(
        &mut self,
        driver: &mut dyn Driver,
        id: NodeId,
        (kind, view, slot, name): (Kind, View, Slot, u64),
        message: &Bytes,
        range: std::ops::Range<usize>,
        each: usize,
        hashes: &[Option<BodyHash>; BATCH_DATAGRAMS],
    ) {
        let Some(to) = self.endpoint.peer_address(id) else {
            return;
        };
        let Some(mut heads) = self.send_pool.take() else {
            self.shared.telemetry.rejects.count(Reject::NoBuffer);
            return;
        };
        let mut used = 0;
        for (start, hash) in range.clone().step_by(each).zip(hashes.iter().flatten()) {
            let length = each.min(range.end - start);
            let fragment = Fragment {
                message: name,
                offset_grains: (start / GRAIN_BYTES) as u16,
                total: message.len() as u32,
            };
            let Ok(head) = (&mut heads[used..used + HEADER_BYTES]).try_into() else {
                return;
            };
            self.endpoint
                .seal_peer_hashed(id, kind, view, slot, fragment, length, hash, head);
            used += HEADER_BYTES;
        }
        let head = heads.freeze().slice(0..used);
        let body = Some(message.0.slice(range));
        let outgoing = Outgoing {
            to,
            head,
            head_each: HEADER_BYTES,
            body,
            body_each: each,
        };
        self.submit(driver, outgoing);
    }

    fn send_reply(&mut self, driver: &mut dyn Driver, reply: Reply) {
        let Reply {
            client,
            slot,
            read,
            mut buffer,
            body_bytes,
        } = reply;
        let kind = if read { Kind::ReadReply } else { Kind::Reply };
        let view = View(self.shared.telemetry.order.view.get());
        self.reply_number += 1;
        let number = self.reply_number;
        let whole = HEADER_BYTES + body_bytes;
        if whole <= self.datagram_bytes {
            let (head, body) = buffer[..whole].split_at_mut(HEADER_BYTES);
            let Ok(head) = head.try_into() else { return };
            let fragment = Fragment::whole(body);
            let sealed = self
                .endpoint
                .seal_client(&client, kind, view, slot, number, fragment, body, head);
            let Some(to) = sealed else { return };
            let head = buffer.freeze().slice(0..whole);
            self.submit(
                driver,
                Outgoing {
                    to,
                    head,
                    head_each: whole,
                    body: None,
                    body_each: 0,
                },
            );
            return;
        }
        let each = fragment_bytes(self.datagram_bytes);
        let body = buffer.freeze().slice(HEADER_BYTES..whole);
        let mut begin = 0;
        while begin < body.len() {
            let per_batch = BATCH_DATAGRAMS.min((BATCH_BYTES / (HEADER_BYTES + each)).max(1));
            let end = (begin + per_batch * each).min(body.len());
            let Some(mut heads) = self.send_pool.take() else {
                return;
            };
            let (mut used, mut address) = (0, None);
            for start in (begin..end).step_by(each) {
                let part = &body[start..(start + each).min(end)];
                let fragment = Fragment {
                    message: number,
                    offset_grains: (start / GRAIN_BYTES) as u16,
                    total: body.len() as u32,
                };
                let Ok(head) = (&mut heads[used..used + HEADER_BYTES]).try_into() else {
                    return;
                };
                address = self
                    .endpoint
                    .seal_client(&client, kind, view, slot, number, fragment, part, head);
                used += HEADER_BYTES;
            }
            let Some(to) = address else { return };
            let head = heads.freeze().slice(0..used);
            let part = Some(body.slice(begin..end));
            let outgoing = Outgoing {
                to,
                head,
                head_each: HEADER_BYTES,
                body: part,
                body_each: each,
            };
            self.submit(driver, outgoing);
            begin = end;
        }
    }

    pub(super) fn busy(
        &mut self,
        driver: &mut dyn Driver,
        client: &PublicKey,
        first: Sequence,
        reason: u8,
    ) {
        let Some(mut buffer) = self.send_pool.take() else {
            return;
        };
        let body = BusyBody::new(first, BUSY_RETRY_US, reason);
        let whole = HEADER_BYTES + size_of::<BusyBody>();
        let (head, rest) = buffer[..whole].split_at_mut(HEADER_BYTES);
        rest.copy_from_slice(body.as_bytes());
        let Ok(head) = head.try_into() else { return };
        self.reply_number += 1;
        let fragment = Fragment::whole(rest);
        let (view, number) = (
            View(self.shared.telemetry.order.view.get()),
            self.reply_number,
        );
        let sealed = self.endpoint.seal_client(
            client,
            Kind::Busy,
            view,
            Slot(0),
            number,
            fragment,
            rest,
            head,
        );
        let Some(to) = sealed else { return };
        let head = buffer.freeze().slice(0..whole);
        self.submit(
            driver,
            Outgoing {
                to,
                head,
                head_each: whole,
                body: None,
                body_each: 0,
            },
        );
    }
}

/// Whether any grain of `begin..end` is marked.
fn any_missing(grains: &Grains, begin: usize, end: usize) -> bool {
    (begin / GRAIN_BYTES..end.div_ceil(GRAIN_BYTES)).any(|grain| {
        grains
            .missing
            .get(grain / 64)
            .is_some_and(|word| word >> (grain % 64) & 1 == 1)
    })
}
