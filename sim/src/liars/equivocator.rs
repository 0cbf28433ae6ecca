//! BYZ1: a leader that builds two branches and tells each replica of one of them. Its votes, and the
//! view changes that it sends later, claim what suits the hearer, or the branch that fewer know.

use wire::header::Kind;
use wire::ids::NodeId;
use wire::view_change::{ViewChange, split_signed};

use super::{Branches, Context, Liar, Parts, Spoken};
use crate::plan::{BEGIN_NS, MS};
use crate::random::Random;

/// See the module's documentation.
pub struct Equivocator {
    /// Who is told of the other branch.
    deceived: Vec<bool>,
    /// The other branch begins at this time; before, it is honest.
    from_ns: u64,
    /// Datagrams in a thousand that are told to the deceived although they are the replica's own.
    slips_per_mille: u32,
    /// View changes claim the other branch.
    claims_other: bool,
    branches: Branches,
    parts: Parts,
}

impl Equivocator {
    /// These hear of the other branch from the start, and view changes claim it.
    pub fn telling(nodes: usize, deceived: &[usize]) -> Equivocator {
        Equivocator {
            deceived: (0..nodes).map(|end| deceived.contains(&end)).collect(),
            from_ns: 0,
            slips_per_mille: 0,
            claims_other: true,
            branches: Branches::default(),
            parts: Parts::default(),
        }
    }

    /// As [`Equivocator::telling`], honest before this time of a scenario.
    pub fn telling_from_ms(nodes: usize, deceived: &[usize], ms: u64) -> Equivocator {
        Equivocator {
            from_ns: BEGIN_NS + ms * MS,
            ..Equivocator::telling(nodes, deceived)
        }
    }

    /// Some hear of the other branch, sooner or later.
    pub fn draw(nodes: usize, me: NodeId, random: &mut Random) -> Equivocator {
        let mut deceived = (0..nodes).map(|_| random.chance(500)).collect::<Vec<_>>();
        deceived[(me.index() + 1) % nodes] = true;
        Equivocator {
            deceived,
            from_ns: BEGIN_NS + random.below(400) * MS,
            slips_per_mille: *random.pick(&[0, 0, 50]),
            claims_other: random.chance(700),
            branches: Branches::default(),
            parts: Parts::default(),
        }
    }
}

impl Liar for Equivocator {
    fn name(&self) -> &'static str {
        "equivocator"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let deceived = self.deceived.get(spoken.to.0).copied().unwrap_or(false);
        let authentic = context.authentic;
        let other = match spoken.kind {
            Kind::Propose | Kind::Block => {
                let other = self.branches.propose(authentic, &spoken, |time| time + 1);
                other.filter(|_| deceived && context.now_ns >= self.from_ns)
            }
            Kind::Vote | Kind::Commit if deceived => self.branches.vote(authentic, &spoken),
            Kind::ViewChange if self.claims_other => {
                let Spoken {
                    to, kind, fragment, ..
                } = spoken;
                let whole = self.parts.take(to, kind, fragment, &spoken.body);
                let Some(whole) = whole else {
                    return Vec::new();
                };
                let claimed = split_signed(&whole).and_then(|(_, body)| ViewChange::decode(body));
                let claimed = claimed.ok();
                let claimed = claimed.and_then(|vc| self.branches.view_change(authentic, vc));
                let route = (kind, spoken.view, spoken.slot);
                let said = claimed.unwrap_or(whole);
                return authentic.say_long(NodeId(to.0 as u16), route, &said);
            }
            _ => None,
        };
        if context.random.chance(self.slips_per_mille) {
            return vec![spoken];
        }
        vec![other.unwrap_or(spoken)]
    }
}
