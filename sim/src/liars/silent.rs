//! BYZ3: sends nothing, or only to one.

use wire::ids::NodeId;

use super::{Context, Liar, Spoken};
use crate::network::End;
use crate::random::Random;

/// Hears everyone and speaks to one at most.
#[derive(Clone, Copy, Debug)]
pub struct Silent {
    /// Who still hears it.
    pub confidant: Option<End>,
}

impl Silent {
    /// To nobody, or to one other replica.
    pub fn draw(nodes: usize, me: NodeId, random: &mut Random) -> Silent {
        let other = (me.index() + random.within(1, nodes as u64 - 1) as usize) % nodes;
        Silent {
            confidant: random.chance(500).then_some(End(other)),
        }
    }
}

impl Liar for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let heard = self.confidant == Some(spoken.to);
        heard.then_some(spoken).into_iter().collect()
    }
}
