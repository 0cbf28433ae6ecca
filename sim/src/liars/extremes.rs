//! BYZ5: views and slots at the ends of their range, well signed.

use wire::block::{BlockHeader, payload_digest};
use wire::header::Kind;
use wire::ids::{Boot, Digest, NodeId, Slot, View};
use wire::messages::{
    CheckpointBody, EvidenceBody, FetchBlockBody, FetchRangeBody, Held, SignedHeader, Status,
    StatusBody, WishBody,
};
use wire::seal::Statement;
use wire::view_change::ViewChange;
use zerocopy::IntoBytes;

use super::branches::signed;
use super::{Authentic, Context, Liar, Spoken};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct Extremes {
    pause_ns: u64,
    next_ns: u64,
}

impl Extremes {
    /// More or less often.
    pub fn draw(random: &mut Random) -> Extremes {
        Extremes {
            pause_ns: random.within(2, 40) * MS,
            next_ns: 0,
        }
    }
}

fn number(random: &mut Random) -> u64 {
    let near = random.below(5);
    let most = wire::limits::VIEW_MAX;
    let high = [u64::MAX, most, most + 1, wire::limits::SLOT_MAX, 1 << 32, 3];
    random.pick(&high).wrapping_sub(near)
}

/// One of the views that a replica leads: early, or at the end of their range.
fn round(authentic: &Authentic, random: &mut Random) -> u64 {
    if random.chance(500) {
        random.below(8)
    } else {
        number(random) / authentic.nodes() as u64
    }
}

/// A header of a view that the liar leads.
fn header(authentic: &Authentic, round: u64, random: &mut Random) -> BlockHeader {
    let n = authentic.nodes() as u64;
    let view = View((round * n).wrapping_add(u64::from(authentic.me().0)));
    let slot = Slot(number(random));
    let (time_ns, parent) = (random.draw(), Digest(random.bytes()));
    BlockHeader::new(
        authentic.rules().epoch,
        view,
        slot,
        time_ns,
        parent,
        payload_digest(&[]),
    )
}

fn signed_header(authentic: &Authentic, header: BlockHeader) -> SignedHeader {
    let signature = authentic.sign(&Statement::Propose {
        view: header.view(),
        slot: header.slot(),
        digest: header.digest(),
    });
    SignedHeader { header, signature }
}

fn one(context: &mut Context<'_>, to: NodeId) -> Vec<Spoken> {
    let authentic = context.authentic;
    let random = &mut *context.random;
    let (view, slot) = (View(number(random)), Slot(number(random)));
    let digest = Digest(random.bytes());
    let word = |statement: &Statement| [&digest.0[..], &authentic.sign(statement).0[..]].concat();
    let (kind, body) = match random.below(11) {
        0 => (Kind::Vote, word(&Statement::Vote { view, slot, digest })),
        1 => (
            Kind::Commit,
            word(&Statement::Commit { view, slot, digest }),
        ),
        2 => {
            let (base_slot, base) = (slot, digest);
            let ack = Statement::NewViewAck {
                view,
                base_slot,
                base,
            };
            (Kind::NewViewAck, word(&ack))
        }
        3 => {
            let (boot, counter) = (Boot(u32::MAX), number(random));
            let statement = Statement::Wish {
                view,
                boot,
                counter,
            };
            let body = WishBody::new(boot, counter, authentic.sign(&statement));
            (Kind::Wish, body.as_bytes().to_vec())
        }
        4 => {
            let status = Status {
                stage: view,
                installed: View(number(random)),
                committed: slot,
                committed_digest: digest,
                voted_slot: Slot(number(random)),
                voted_digest: digest,
                checkpoint: Slot(number(random)),
                retained_from: Slot(number(random)),
                lease: Slot(number(random)),
                flags: random.below(4) as u32,
                held: random.chance(500).then(|| Held {
                    statement: Statement::Vote { view, slot, digest },
                    signature: authentic.sign(&Statement::Vote { view, slot, digest }),
                }),
            };
            (
                Kind::Status,
                StatusBody::encode(&status).as_bytes().to_vec(),
            )
        }
        5 => {
            let fetch = FetchBlockBody::whole(digest, Slot(number(random)));
            (Kind::FetchBlock, fetch.as_bytes().to_vec())
        }
        6 => {
            let fetch = FetchRangeBody::new(number(random));
            (Kind::FetchRange, fetch.as_bytes().to_vec())
        }
        7 => {
            let round = round(authentic, random);
            let [first, second] =
                [(); 2].map(|()| signed_header(authentic, header(authentic, round, random)));
            let evidence = EvidenceBody::new(random.within(1, 3) as u8, first, second);
            (Kind::Evidence, evidence.as_bytes().to_vec())
        }
        8 => {
            let round = round(authentic, random);
            let header = header(authentic, round, random);
            let kind = *random.pick(&[Kind::Propose, Kind::Block]);
            let route = (kind, header.view(), header.slot());
            return authentic.say_long(to, route, authentic.prefix(header, 0).as_bytes());
        }
        9 => {
            let (chain, root) = (digest, digest);
            let statement = Statement::Checkpoint { slot, chain, root };
            let signature = authentic.sign(&statement);
            let body = CheckpointBody {
                chain,
                root,
                signature,
            };
            (Kind::Checkpoint, body.as_bytes().to_vec())
        }
        _ => {
            let messages = (0..8).map(|_| ViewChange {
                view: View(random.draw() >> random.within(2, 60)),
                replica: authentic.me(),
                installed: View(0),
                certificate: None,
                checkpoint: None,
                suffix: Vec::new(),
                tip_signature: wire::ids::Signature([0; 64]),
                quorum: None,
            });
            let said = messages.flat_map(|message| {
                let route = (Kind::ViewChange, message.view, Slot(0));
                authentic.say_long(to, route, &signed(authentic, &message))
            });
            return said.collect();
        }
    };
    vec![authentic.say(to, kind, view, slot, body)]
}

impl Liar for Extremes {
    fn name(&self) -> &'static str {
        "extremes"
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        if context.now_ns < self.next_ns {
            return Vec::new();
        }
        self.next_ns = context.now_ns + self.pause_ns;
        let others = context.authentic.others().collect::<Vec<_>>();
        others.into_iter().flat_map(|to| one(context, to)).collect()
    }
}
