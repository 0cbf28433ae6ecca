//! BYZ8: wrong state roots in CHECKPOINTs, wrong results in replies, wrong claims of decisions.

use wire::header::{Direction, Fragment, Kind};
use wire::ids::Digest;
use wire::messages::{self, CheckpointBody};
use wire::seal::Statement;
use zerocopy::{FromBytes, IntoBytes};

use super::{Context, Liar, Spoken};
use crate::random::Random;

/// See the module's documentation.
pub struct WrongStates {
    per_mille: u32,
}

impl WrongStates {
    /// Sometimes or always.
    pub fn draw(random: &mut Random) -> WrongStates {
        WrongStates {
            per_mille: *random.pick(&[200, 1000]),
        }
    }
}

impl Liar for WrongStates {
    fn name(&self) -> &'static str {
        "wrong-states"
    }

    fn on_send(&mut self, context: &mut Context<'_>, mut spoken: Spoken) -> Vec<Spoken> {
        if !context.random.chance(self.per_mille) {
            return vec![spoken];
        }
        match spoken.kind {
            Kind::Checkpoint => {
                if let Ok(said) = messages::parse::<CheckpointBody>(&spoken.body) {
                    let (slot, chain, root) = (spoken.slot, said.chain, Digest([6; 32]));
                    let statement = Statement::Checkpoint { slot, chain, root };
                    let body = CheckpointBody {
                        chain,
                        root,
                        signature: context.authentic.sign(&statement),
                    };
                    spoken.body = body.as_bytes().to_vec();
                    spoken.fragment = Fragment::whole(&spoken.body);
                }
            }
            Kind::Decided => {
                if let Ok(claim) = messages::DecidedBody::mut_from_bytes(&mut spoken.body) {
                    claim.digest = Digest([8; 32]);
                }
                spoken.fragment = Fragment::whole(&spoken.body);
            }
            Kind::Reply | Kind::ReadReply
                if spoken.kind.direction() == Direction::ToClient
                    && spoken.fragment.total as usize == spoken.body.len() =>
            {
                // The results stand at the end.
                if let Some(last) = spoken.body.last_mut() {
                    *last ^= 1;
                }
                spoken.fragment = Fragment::whole(&spoken.body);
            }
            _ => {}
        }
        vec![spoken]
    }
}
