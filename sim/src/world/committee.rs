//! The committee of a world.

use wire::committee::{Committee, CommitteeParts, Member, Parameters, Preset, VoteAuthentication};
use wire::ids::{ClusterId, NodeId};
use wire::keys::NodeSecret;
use wire::seal::Rules;

use crate::network::End;
use crate::plan::Plan;
use crate::random::Random;

/// Members with drawn keys, of the plan's shape.
pub(super) fn drawn(plan: &Plan, random: &mut Random) -> (Committee, Vec<NodeSecret>) {
    let secrets = (0..plan.options.nodes)
        .map(|_| NodeSecret::generate(&random.bytes()).expect("a drawn secret is good"))
        .collect::<Vec<_>>();
    let members = secrets.iter().enumerate().map(|(index, secret)| Member {
        id: NodeId(index as u16),
        public_key: secret.public_key(),
        address: End(index).address(),
    });
    let shape = plan.options.shape();
    let members = members.collect::<Vec<_>>();
    let usual = Preset::Balanced.parameters(shape.n);
    let parameters = Parameters {
        n: shape.n,
        b: shape.b,
        u: shape.u,
        p: shape.p,
    };
    let preset = match (shape.exclusion, shape.b.cmp(&shape.u)) {
        (false, _) => Preset::Strict,
        (_, std::cmp::Ordering::Less) => Preset::CrashHeavy,
        (_, std::cmp::Ordering::Greater) => Preset::SafetyHeavy,
        (_, std::cmp::Ordering::Equal) => Preset::Balanced,
    };
    let first = if usual.is_ok() {
        Preset::Balanced
    } else {
        Preset::Latency
    };
    let mut parts = CommitteeParts::with_preset(ClusterId([7; 16]), members, first)
        .expect("a size that can be judged");
    (parts.preset, parts.parameters) = (preset, parameters);
    if plan.votes_by_mac {
        parts.vote_authentication = VoteAuthentication::Mac;
    }
    let committee = Committee::new(parts);
    (committee.expect("drawn members are good"), secrets)
}

/// What long messages of this world are measured by.
pub(super) fn rules(plan: &Plan, committee: &Committee) -> Rules {
    let shape = plan.options.shape();
    Rules {
        n: shape.n,
        slow: shape.slow,
        view_change: shape.change,
        window: 2 * plan.interval,
        epoch: committee.epoch(),
        genesis: committee.genesis(),
    }
}
