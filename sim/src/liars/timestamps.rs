//! BYZ13: a leader whose time hints jump to the ends of time.

use wire::header::Kind;

use super::{Branches, Context, Liar, Spoken};
use crate::random::Random;

/// See the module's documentation.
pub struct Timestamps {
    hints: Vec<u64>,
    branches: Branches,
}

impl Timestamps {
    /// Always this hint.
    pub fn hinting(time_ns: u64) -> Timestamps {
        Timestamps {
            hints: vec![time_ns],
            branches: Branches::default(),
        }
    }

    /// The same hint always, or many.
    pub fn draw(random: &mut Random) -> Timestamps {
        let hints = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63];
        let count = random.within(1, 3);
        Timestamps {
            hints: (0..count).map(|_| *random.pick(&hints)).collect(),
            branches: Branches::default(),
        }
    }
}

impl Liar for Timestamps {
    fn name(&self) -> &'static str {
        "timestamps"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let hint = *context.random.pick(&self.hints);
        let authentic = context.authentic;
        let said = match spoken.kind {
            Kind::Propose | Kind::Block => self.branches.propose(authentic, &spoken, |_| hint),
            Kind::Vote | Kind::Commit => self.branches.vote(authentic, &spoken),
            _ => None,
        };
        vec![said.unwrap_or(spoken)]
    }
}
