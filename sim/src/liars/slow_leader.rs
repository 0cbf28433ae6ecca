//! BYZ11, A17: a leader that takes its time with every proposal, just under what others bear.

use wire::header::{Direction, Kind};

use super::{Context, Liar, Spoken};
use crate::plan::MS;
use crate::random::Random;

/// See the module's documentation.
pub struct SlowLeader {
    delay_ns: u64,
    /// What it says to replicas leaves together, once in each delay.
    paces: bool,
    waiting: Vec<(u64, Spoken)>,
}

impl SlowLeader {
    /// Each proposal so much later.
    pub fn by_ms(delay_ms: u64) -> SlowLeader {
        SlowLeader {
            delay_ns: delay_ms * MS,
            paces: false,
            waiting: Vec::new(),
        }
    }

    /// Words to replicas leave together, once in so much time.
    pub fn pacing_ms(pause_ms: u64) -> SlowLeader {
        SlowLeader {
            paces: true,
            ..SlowLeader::by_ms(pause_ms)
        }
    }

    /// From a little to more than anybody bears.
    pub fn draw(random: &mut Random) -> SlowLeader {
        SlowLeader::by_ms(*random.pick(&[5, 20, 45, 100, 700, 990]))
    }
}

/// Proposals that wait at most.
const WAITING_MAX: usize = 4096;

impl Liar for SlowLeader {
    fn name(&self) -> &'static str {
        "slow-leader"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let held = if self.paces {
            // Its votes and answers would bring the proposal as well.
            spoken.kind.direction() == Direction::BetweenNodes
        } else {
            spoken.kind == Kind::Propose
        };
        if !held || self.waiting.len() >= WAITING_MAX {
            return vec![spoken];
        }
        let at_ns = if self.paces {
            context.now_ns.next_multiple_of(self.delay_ns)
        } else {
            context.now_ns + self.delay_ns
        };
        self.waiting.push((at_ns, spoken));
        Vec::new()
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        let due = |(at, _): &(u64, Spoken)| *at <= context.now_ns;
        let ready = self.waiting.iter().take_while(|item| due(item)).count();
        self.waiting
            .drain(..ready)
            .map(|(_, spoken)| spoken)
            .collect()
    }
}
