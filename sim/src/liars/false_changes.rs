//! BYZ4: view changes that are forged, stale, or describe less or other things than its replica did.

use wire::certificates::{NewViewCertificate, Signatures};
use wire::header::Kind;
use wire::ids::{NodeId, Signature, View};
use wire::view_change::{ViewChange, signed_body, split_signed};

use super::branches::signed;
use super::{Context, Heard, Liar, Parts, Spoken};
use crate::random::Random;

/// See the module's documentation.
pub struct FalseChanges {
    /// Another lie for every receiver, or one for all.
    two_faced: bool,
    ways: Vec<u64>,
    parts: Parts,
    /// An older view change of its own.
    stale: Option<ViewChange>,
    /// Tip signatures of others' view changes: claims that can be adopted.
    claims: Vec<ViewChange>,
    heard: Parts,
}

impl FalseChanges {
    /// It denies everything that it voted for and committed to.
    pub fn denying() -> FalseChanges {
        FalseChanges::of(vec![1])
    }

    /// It was in a view that nobody certified.
    pub fn pretending() -> FalseChanges {
        FalseChanges::of(vec![5])
    }

    fn of(ways: Vec<u64>) -> FalseChanges {
        FalseChanges {
            two_faced: false,
            ways,
            parts: Parts::default(),
            stale: None,
            claims: Vec::new(),
            heard: Parts::default(),
        }
    }

    /// A few ways of lying of all.
    pub fn draw(random: &mut Random) -> FalseChanges {
        let ways = (0..WAYS).filter(|_| random.chance(400)).collect::<Vec<_>>();
        FalseChanges {
            two_faced: random.chance(500),
            ways: if ways.is_empty() { vec![1, 2] } else { ways },
            parts: Parts::default(),
            stale: None,
            claims: Vec::new(),
            heard: Parts::default(),
        }
    }

    fn lie(&self, context: &mut Context<'_>, mut message: ViewChange, way: u64) -> Vec<u8> {
        let authentic = context.authentic;
        let random = &mut *context.random;
        match way {
            // A bad signature.
            0 => return signed_body(&Signature([7; 64]), &message.encode()),
            // Nothing was voted.
            1 => clear(&mut message),
            // No certificate for what it committed to.
            2 => message.quorum = None,
            // The newest checkpoint is not known; the suffix does not reach down to the older one.
            3 => {
                message.checkpoint = None;
                clear(&mut message);
            }
            // It was in a lower view, of which there needs to be no proof.
            4 => {
                (message.installed, message.certificate) = (View(0), None);
                clear(&mut message);
            }
            // It was in a higher view, which nobody certified.
            5 if message.view.0 > message.installed.0 + 1 => {
                message.installed = View(message.view.0 - 1);
                let mut acks = Signatures::new();
                for id in 0..authentic.nodes() as u16 {
                    acks.add(NodeId(id), Signature([9; 64]));
                }
                let base = authentic.rules().genesis;
                message.certificate = Some(NewViewCertificate {
                    view: message.installed,
                    base,
                    acks,
                });
                message.checkpoint = None;
                clear(&mut message);
            }
            // What it said in an older view change.
            6 => {
                if let Some(stale) = &self.stale {
                    let view = message.view;
                    message = stale.clone();
                    message.view = view;
                }
            }
            // What another replica claims.
            _ => {
                let same = |claim: &&ViewChange| claim.view == message.view;
                let claims = self.claims.iter().filter(same).collect::<Vec<_>>();
                if !claims.is_empty() {
                    message = (*random.pick(&claims)).clone();
                    message.replica = authentic.me();
                }
            }
        }
        signed(authentic, &message)
    }
}

const WAYS: u64 = 8;

fn clear(message: &mut ViewChange) {
    message.suffix.clear();
    message.tip_signature = Signature([0; 64]);
    message.quorum = None;
}

impl Liar for FalseChanges {
    fn name(&self) -> &'static str {
        "false-changes"
    }

    fn on_hear(&mut self, _: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        if heard.kind == Kind::ViewChange
            && let Some(whole) = self
                .heard
                .take(heard.from, heard.kind, heard.fragment, heard.body)
            && let Ok((_, body)) = split_signed(&whole)
            && let Ok(claim) = ViewChange::decode(body)
        {
            self.claims.push(claim);
            if self.claims.len() > 16 {
                self.claims.remove(0);
            }
        }
        true
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        if spoken.kind != Kind::ViewChange {
            return vec![spoken];
        }
        let Spoken {
            to, kind, fragment, ..
        } = spoken;
        let Some(whole) = self.parts.take(to, kind, fragment, &spoken.body) else {
            return Vec::new();
        };
        let message = split_signed(&whole).and_then(|(_, body)| ViewChange::decode(body));
        let Ok(message) = message else {
            return vec![spoken];
        };
        if message.replica != context.me {
            // Another's, which somebody asked for.
            return context.authentic.say_long(
                NodeId(to.0 as u16),
                (kind, spoken.view, spoken.slot),
                &whole,
            );
        }
        let turn = message.view.0 + if self.two_faced { to.0 as u64 } else { 0 };
        let way = self.ways[turn as usize % self.ways.len()];
        let said = self.lie(context, message.clone(), way);
        if self
            .stale
            .as_ref()
            .is_none_or(|stale| stale.view.0 + 2 < message.view.0)
        {
            self.stale = Some(message);
        }
        let route = (kind, spoken.view, spoken.slot);
        context
            .authentic
            .say_long(NodeId(to.0 as u16), route, &said)
    }
}
