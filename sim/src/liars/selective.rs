//! BYZ3: says some kinds of things only to some.

use wire::header::Kind;

use super::{Context, Liar, Spoken};
use crate::random::Random;

/// See the module's documentation.
pub struct Selective {
    /// For each end and kind whether it is said; clients share the last row.
    says: Vec<Vec<bool>>,
}

impl Selective {
    /// Each kind to about half.
    pub fn draw(nodes: usize, random: &mut Random) -> Selective {
        let part = *random.pick(&[300, 500, 800]);
        let row = |random: &mut Random| Kind::ALL.iter().map(|_| random.chance(part)).collect();
        Selective {
            says: (0..=nodes).map(|_| row(random)).collect(),
        }
    }
}

impl Liar for Selective {
    fn name(&self) -> &'static str {
        "selective"
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let row = &self.says[spoken.to.0.min(self.says.len() - 1)];
        let kind = Kind::ALL.iter().position(|kind| *kind == spoken.kind);
        let said = kind.is_none_or(|kind| row[kind]);
        said.then_some(spoken).into_iter().collect()
    }
}
