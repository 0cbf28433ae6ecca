//! Datagrams out: messages are cut into parts and sealed for each recipient.

use consensus::Recipient;
use storage::machine::StateMachine;
use wire::bytes::Buffers;
use wire::header::{Fragment, HEADER_BYTES, Kind, parts};
use wire::ids::{NodeId, PublicKey, Sequence, Slot, View};
use wire::limits::{GRAIN_BYTES, GRAINS_MAX};
use wire::link::BodyHash;
use wire::reply::BusyBody;
use wire::seal::{Signer, Verifier};
use zerocopy::IntoBytes;

use super::{BUSY_RETRY_US, Effect, Replica};
use crate::peer::{Grains, PeerMessage, SMALL_BODY_BYTES_MAX};

impl<Bu, S, V, M> Replica<Bu, S, V, M>
where
    Bu: Buffers + Clone,
    S: Signer,
    V: Verifier + Clone,
    M: StateMachine,
{
    pub(super) fn recipients(
        &self,
        to: Recipient,
    ) -> impl Iterator<Item = NodeId> + use<Bu, S, V, M> {
        let range = match to {
            Recipient::All => 0..self.replicas,
            Recipient::One(id) => id.0..id.0 + 1,
        };
        let me = self.me;
        range.map(NodeId).filter(move |id| *id != me)
    }

    /// Of a block whose first fragments came from the asked replica only the others are wanted.
    pub(super) fn ask_for_the_rest(&self, to: Recipient, message: &mut PeerMessage) {
        let Recipient::One(id) = to else { return };
        let PeerMessage::FetchBlock { digest, grains, .. } = message else {
            return;
        };
        if let Some(missing) = self.endpoint.missing(id, Kind::Propose, digest.prefix()) {
            let missing = *missing.words();
            *grains = Some(Grains {
                count: GRAINS_MAX as u16,
                missing,
            });
        }
    }

    pub(super) fn send_small(
        &mut self,
        to: Recipient,
        message: &PeerMessage,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let mut body = [0; SMALL_BODY_BYTES_MAX];
        let (kind, view, slot) = message.route();
        let length = message.encode(&mut body);
        let body = &body[..length];
        let hash = BodyHash::of(body);
        for id in self.recipients(to) {
            self.send_part(
                id,
                (kind, view, slot),
                Fragment::whole(body),
                body,
                &hash,
                out,
            );
        }
    }

    pub(super) fn send_long(
        &mut self,
        to: NodeId,
        (kind, view, slot, name): (Kind, View, Slot, u64),
        message: &[u8],
        grains: Option<&Grains>,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        for (offset_grains, range) in parts(message.len(), self.endpoint.datagram_bytes()) {
            if grains.is_some_and(|grains| !any_missing(grains, range.start, range.end)) {
                continue;
            }
            let part = &message[range];
            let total = message.len() as u32;
            let fragment = Fragment {
                message: name,
                offset_grains,
                total,
            };
            let hash = BodyHash::of(part);
            self.send_part(to, (kind, view, slot), fragment, part, &hash, out);
        }
    }

    fn send_part(
        &mut self,
        to: NodeId,
        (kind, view, slot): (Kind, View, Slot),
        fragment: Fragment,
        part: &[u8],
        hash: &BodyHash,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let Some(address) = self.endpoint.peer_address(to) else {
            return;
        };
        let mut head = [0; HEADER_BYTES];
        let bytes = part.len();
        self.endpoint
            .seal_peer_hashed(to, kind, view, slot, fragment, bytes, hash, &mut head);
        out.push(Effect::Send {
            to: address,
            datagram: [&head, part].concat(),
        });
    }

    pub(super) fn busy(
        &mut self,
        client: &PublicKey,
        first: Sequence,
        reason: u8,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let body = BusyBody::new(first, BUSY_RETRY_US, reason);
        self.reply_number += 1;
        self.send_client(client, Kind::Busy, Slot(0), body.as_bytes(), out);
    }

    pub(super) fn send_client(
        &mut self,
        client: &PublicKey,
        kind: Kind,
        slot: Slot,
        body: &[u8],
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let (view, number) = (self.ordering.summary().view, self.reply_number);
        for (offset_grains, range) in parts(body.len(), self.endpoint.datagram_bytes()) {
            let part = &body[range];
            let fragment = if part.len() == body.len() {
                Fragment::whole(body)
            } else {
                let total = body.len() as u32;
                Fragment {
                    message: number,
                    offset_grains,
                    total,
                }
            };
            let mut head = [0; HEADER_BYTES];
            let sealed = self
                .endpoint
                .seal_client(client, kind, view, slot, number, fragment, part, &mut head);
            let Some(to) = sealed else { return };
            out.push(Effect::Send {
                to,
                datagram: [&head, part].concat(),
            });
        }
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
