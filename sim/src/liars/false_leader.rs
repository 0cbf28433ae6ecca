//! BYZ4, A13: the leader of a new view that chooses badly: a base that its choice does not lead to,
//! two choices for two halves, or the choice that hides the deepest claim.

use std::collections::BTreeMap;

use wire::header::Kind;
use wire::ids::{Digest, NodeId, View};
use wire::seal::{CheckedViewChange, sign_new_view};
use wire::view_change::{NewView, ViewChange, signed_body, split_signed};

use super::{Context, Heard, Liar, Parts, Spoken};
use crate::network::End;
use crate::random::Random;
use crate::seals::Seal;

/// How it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A base that its choice does not lead to.
    WrongBase,
    /// The choice that hides the deepest claim.
    Hides,
    /// Two choices for two halves.
    TwoChoices,
    /// A good choice, for half of the others only.
    OnlyHalf,
}

/// See the module's documentation.
pub struct FalseLeader {
    way: Way,
    heard: Parts,
    sent: Parts,
    changes: BTreeMap<(View, NodeId), CheckedViewChange>,
}

impl FalseLeader {
    /// One way for good.
    pub fn draw(random: &mut Random) -> FalseLeader {
        let ways = [Way::WrongBase, Way::Hides, Way::TwoChoices, Way::OnlyHalf];
        FalseLeader::choosing(*random.pick(&ways))
    }

    /// This way.
    pub fn choosing(way: Way) -> FalseLeader {
        FalseLeader {
            way,
            heard: Parts::default(),
            sent: Parts::default(),
            changes: BTreeMap::new(),
        }
    }

    fn learn(&mut self, context: &Context<'_>, whole: &[u8]) {
        let checked = split_signed(whole).and_then(|(signature, body)| {
            let message = ViewChange::decode(body)?;
            context.authentic.compound().view_change(message, signature)
        });
        if let Ok(checked) = checked {
            let name = (checked.message.view, checked.message.replica);
            self.changes.entry(name).or_insert(checked.into_inner());
            if self.changes.len() > 64 {
                self.changes.pop_first();
            }
        }
    }

    /// As few view changes as may be, without those that claim most.
    fn hide(&self, context: &Context<'_>, view: View) -> Option<NewView> {
        let mut known = self.changes.iter();
        let mut known = known
            .by_ref()
            .filter(|((at, _), _)| *at == view)
            .map(|(_, change)| change)
            .collect::<Vec<_>>();
        known.sort_by_key(|change| (change.message.installed, change.tip().slot));
        let quorums = context.authentic.quorums();
        known.truncate(quorums.view_change());
        known.sort_by_key(|change| change.message.replica);
        let rules = context.authentic.rules();
        let selected = consensus::select(quorums, rules.genesis, |v| rules.leader(v), &known)?;
        let chosen = known
            .iter()
            .map(|change| (change.message.replica, change.digest));
        Some(NewView {
            view,
            base: selected.base,
            chosen: chosen.collect(),
        })
    }
}

fn signed(seal: &Seal, message: NewView) -> Vec<u8> {
    let signed = sign_new_view(seal, message).into_inner();
    signed_body(&signed.signature, &signed.message.encode())
}

impl Liar for FalseLeader {
    fn name(&self) -> &'static str {
        "false-leader"
    }

    fn on_hear(&mut self, context: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        if heard.kind == Kind::ViewChange
            && let Some(whole) = self
                .heard
                .take(heard.from, heard.kind, heard.fragment, heard.body)
        {
            self.learn(context, &whole);
        }
        true
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let Spoken {
            to, kind, fragment, ..
        } = spoken;
        if kind == Kind::ViewChange {
            let own = self.sent.take(End(to.0), kind, fragment, &spoken.body);
            if let Some(own) = own {
                self.learn(context, &own);
            }
            return vec![spoken];
        }
        if kind != Kind::NewView {
            return vec![spoken];
        }
        let Some(whole) = self.sent.take(to, kind, fragment, &spoken.body) else {
            return Vec::new();
        };
        let message = split_signed(&whole).and_then(|(_, body)| NewView::decode(body));
        let Ok(message) = message else {
            return vec![spoken];
        };
        let authentic = context.authentic;
        let half = to.0.is_multiple_of(2);
        let said = match self.way {
            Way::WrongBase => {
                let mut wrong = message;
                wrong.base.digest = Digest([5; 32]);
                Some(signed(authentic.seal_of(), wrong))
            }
            Way::OnlyHalf if half => return Vec::new(),
            Way::OnlyHalf => None,
            Way::TwoChoices if half => None,
            Way::Hides | Way::TwoChoices => {
                let hidden = self.hide(context, message.view);
                hidden.map(|hidden| signed(authentic.seal_of(), hidden))
            }
        };
        let route = (kind, spoken.view, spoken.slot);
        authentic.say_long(NodeId(to.0 as u16), route, &said.unwrap_or(whole))
    }
}
