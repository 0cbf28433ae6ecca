//! A second end of a replica's links, for whoever speaks in its name.

use std::collections::BTreeMap;

use consensus::quorum::Quorums;
use wire::block::{BlockHeader, BlockPrefix, BlockView};
use wire::committee::Committee;
use wire::header::{Direction, Fragment, HEADER_BYTES, Header, Kind, parts};
use wire::ids::{Boot, Digest, Instant, NodeId, PublicKey, Signature, Slot, View};
use wire::keys::NodeSecret;
use wire::limits::BLOCK_PREFIX_BYTES;
use wire::link::{BLOCK_REASSEMBLY, Endpoint, EndpointConfig, MESSAGE_REASSEMBLY};
use wire::seal::{Compound, Rules, Signer, Statement};
use zerocopy::IntoBytes;

use super::Spoken;
use crate::buffers::{Pool, Shared};
use crate::network::End;
use crate::seals::Seal;

/// What the second end is made of: all of it is the replica's own.
pub struct Origin<'a> {
    pub committee: &'a Committee,
    pub me: NodeId,
    pub secret: &'a NodeSecret,
    pub seal: Seal,
    pub boot: Boot,
    pub datagram_bytes: usize,
    pub cookie_secret: [u8; 32],
    pub rules: Rules,
    pub quorums: Quorums,
}

/// See the module's documentation.
pub struct Authentic {
    nodes: usize,
    rules: Rules,
    quorums: Quorums,
    endpoint: Endpoint<Pool>,
    seal: Seal,
    /// Which client speaks from where.
    clients: BTreeMap<End, PublicKey>,
}

impl Authentic {
    /// One for each process: the boot is part of every datagram.
    pub fn new(origin: Origin<'_>) -> Authentic {
        let config = EndpointConfig {
            me: origin.me,
            committee: origin.committee,
            secret: origin.secret,
            boot: origin.boot,
            datagram_bytes: origin.datagram_bytes,
            cookie_secret: origin.cookie_secret,
            blocks: BLOCK_REASSEMBLY,
            messages: MESSAGE_REASSEMBLY,
        };
        // Nothing is put together here: messages in parts are not handed in.
        let none = Pool::new(0, 0);
        let endpoint = Endpoint::new(&config, none.clone(), none);
        Authentic {
            nodes: origin.committee.n(),
            rules: origin.rules,
            quorums: origin.quorums,
            endpoint: endpoint.expect("the replica has such an endpoint itself"),
            seal: origin.seal,
            clients: BTreeMap::new(),
        }
    }

    /// Whose name it speaks in.
    pub fn me(&self) -> NodeId {
        self.endpoint.me()
    }

    /// Replicas of the committee.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// A signature of the replica whose name this is.
    pub fn sign(&self, statement: &Statement) -> Signature {
        self.seal.sign(statement)
    }

    /// The key of the replica whose name this is.
    pub fn seal_of(&self) -> &Seal {
        &self.seal
    }

    /// Hears what arrives at the replica: the boots of peers and the links of clients.
    pub fn hears(&mut self, now: Instant, from: End, datagram: &Shared) {
        let Ok((header, kind, _)) = Header::split(datagram) else {
            return;
        };
        if kind.direction() == Direction::ToNode {
            self.clients.insert(from, header.client_route().client);
        }
        if header.is_whole() && !kind.is_block() {
            // What it refuses, the replica refuses too.
            let _ = self.endpoint.receive(now, from.address(), datagram);
        }
    }

    /// A datagram of the replica in the clear.
    pub fn open(&self, to: End, datagram: &[u8]) -> Option<Spoken> {
        let (header, kind, body) = Header::split(datagram).ok()?;
        let (view, slot, number) = match kind.direction() {
            Direction::BetweenNodes => {
                let route = header.peer_route();
                (route.view(), route.slot(), 0)
            }
            _ => {
                let route = header.reply_route();
                (route.view(), route.slot(), route.number())
            }
        };
        Some(Spoken {
            to,
            kind,
            view,
            slot,
            number,
            fragment: header.fragment(),
            body: body.to_vec(),
            spoiled: false,
            original: datagram.to_vec(),
        })
    }

    /// Words of the liar's own to a replica, in one datagram.
    pub fn say(&self, to: NodeId, kind: Kind, view: View, slot: Slot, body: Vec<u8>) -> Spoken {
        Spoken {
            to: End(to.index()),
            kind,
            view,
            slot,
            number: 0,
            fragment: Fragment::whole(&body),
            body,
            spoiled: false,
            original: Vec::new(),
        }
    }

    /// A long message of the liar's own to a replica, in as many datagrams as it takes.
    pub fn say_long(
        &self,
        to: NodeId,
        (kind, view, slot): (Kind, View, Slot),
        message: &[u8],
    ) -> Vec<Spoken> {
        let name = *blake3::hash(message).as_bytes();
        let cut = parts(message.len(), self.endpoint.datagram_bytes());
        let spoken = cut.map(|(offset_grains, range)| Spoken {
            fragment: Fragment {
                message: Digest(name).prefix(),
                offset_grains,
                total: message.len() as u32,
            },
            ..self.say(to, kind, view, slot, message[range].to_vec())
        });
        spoken.collect()
    }

    /// Everyone else.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        let me = self.me();
        let all = (0..self.nodes as u16).map(NodeId);
        all.filter(move |id| *id != me)
    }

    /// What view changes and certificates are measured by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Quorums of the committee.
    pub fn quorums(&self) -> &Quorums {
        &self.quorums
    }

    /// A judge of long messages.
    pub fn compound(&self) -> Compound<Seal> {
        Compound::new(self.seal.clone(), self.rules)
    }

    /// The header signed as a block of this leader, in front of so many bytes of payload.
    pub fn prefix(&self, header: BlockHeader, payload_bytes: usize) -> BlockPrefix {
        let signature = self.sign(&Statement::Propose {
            view: header.view(),
            slot: header.slot(),
            digest: header.digest(),
        });
        BlockPrefix::new(header, signature, payload_bytes)
    }

    /// Another block for the same slot, signed as the first: the same payload at another time. This
    /// is what a leader that equivocates says to some. `None` for what is not a whole block.
    pub fn another_block(&self, propose: &Spoken) -> Option<Spoken> {
        let block = BlockView::frame(&propose.body).ok()?;
        let first = &block.prefix.header;
        let header = BlockHeader::new(
            first.epoch(),
            first.view(),
            first.slot(),
            first.time_ns() + 1,
            first.parent,
            first.payload,
        );
        let prefix = self.prefix(header, block.payload.len());
        let mut other = propose.clone();
        other.body[..BLOCK_PREFIX_BYTES].copy_from_slice(prefix.as_bytes());
        other.fragment.message = header.digest().prefix();
        Some(other)
    }

    /// The datagram that its receiver takes for the replica's; none for one that cannot be: to the
    /// replica itself, or to a client without a link.
    pub fn seal(&mut self, spoken: &Spoken) -> Option<Vec<u8>> {
        let Spoken {
            to,
            kind,
            view,
            slot,
            fragment,
            ref body,
            ..
        } = *spoken;
        let mut head = [0; HEADER_BYTES];
        if kind.direction() == Direction::BetweenNodes {
            let peer = NodeId(to.0 as u16);
            if to.0 >= self.nodes || peer == self.me() {
                return None;
            }
            self.endpoint
                .seal_peer(peer, kind, view, slot, fragment, body, &mut head);
        } else if spoken.original.get(HEADER_BYTES..) == Some(&body[..]) {
            // Links to clients count nothing: what was sealed stays good.
            return Some(spoken.original.clone());
        } else {
            let client = *self.clients.get(&to)?;
            let number = spoken.number;
            self.endpoint
                .seal_client(&client, kind, view, slot, number, fragment, body, &mut head)?;
        }
        let mut datagram = head.to_vec();
        datagram.extend_from_slice(body);
        if spoken.spoiled
            && let Some(last) = datagram.last_mut()
        {
            // More bits than the network flips, which might flip them back.
            *last ^= 0xff;
        }
        Some(datagram)
    }
}
