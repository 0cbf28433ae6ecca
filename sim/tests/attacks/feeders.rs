//! A leader that feeds one replica alone.

use sim::liars::{Context, Liar, Spoken};
use sim::network::End;
use sim::plan::{BEGIN_NS, MS};
use sim::scenario::{Scenario, any, kind};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::header::Kind;
use wire::ids::{NodeId, Slot, View};
use wire::seal::Statement;
use zerocopy::{FromBytes, IntoBytes};

use crate::load;

const FAVOURITE: NodeId = NodeId(1);
const LEFT_OUT: End = End(3);
/// As many blocks as a replica holds, and one.
const BLOCKS: u64 = 193;
const BEGINS_NS: u64 = BEGIN_NS + 30 * MS;
const ENDS_NS: u64 = BEGIN_NS + 60 * MS;

/// Leads view 0: shows the favourite alone that a block is decided, then sends it many more, resigns,
/// and is silent.
#[derive(Default)]
struct Feeder {
    /// The block that the favourite decides.
    head: Option<BlockHeader>,
    resigned: bool,
}

impl Liar for Feeder {
    fn name(&self) -> &'static str {
        "feeder"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        if context.now_ns < BEGINS_NS {
            return vec![spoken];
        }
        let to_favourite = spoken.to == End(FAVOURITE.index());
        let passes = match spoken.kind {
            Kind::Propose => {
                let (prefix, _) = BlockPrefix::ref_from_prefix(&spoken.body).unwrap();
                let head = *self.head.get_or_insert(prefix.header);
                head.slot() == spoken.slot && spoken.to != LEFT_OUT
            }
            Kind::Vote | Kind::Status => to_favourite,
            _ => false,
        };
        let says = passes && context.now_ns < ENDS_NS;
        says.then_some(spoken).into_iter().collect()
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        let Some(head) = self.head else {
            return Vec::new();
        };
        let authentic = context.authentic;
        if context.now_ns >= ENDS_NS && !self.resigned {
            self.resigned = true;
            let view = View(0);
            let body = authentic.sign(&Statement::Resign { view }).0.to_vec();
            let resign = |to| authentic.say(to, Kind::Resign, view, Slot(0), body.clone());
            return authentic.others().map(resign).collect();
        }
        if context.now_ns < BEGINS_NS + 10 * MS || self.resigned {
            return Vec::new();
        }
        let mut said = Vec::new();
        let mut parent = head;
        for _ in 1..BLOCKS {
            let (epoch, view, slot) = (head.epoch(), head.view(), parent.slot().next());
            let payload = payload_digest(&[]);
            parent = BlockHeader::new(epoch, view, slot, head.time_ns(), parent.digest(), payload);
            let message = authentic.prefix(parent, 0);
            let route = (Kind::Propose, view, slot);
            said.extend(authentic.say_long(FAVOURITE, route, message.as_bytes()));
        }
        said
    }
}

/// V3: a base that one replica alone claims is one that all others can hold.
#[test]
fn a_leader_feeds_one_replica_alone_and_resigns() {
    let scenario = load(Scenario::new(4).seat(0, Feeder::default()), 2, 30, 2);
    let scenario = scenario.at_ms(30);
    // Nobody else learns of the decision, or gives the block on, before the view ends.
    let unheard = |scenario: Scenario, to| {
        let votes = scenario.when(kind(Kind::Vote).to(to).until_ms(100)).drop();
        votes.when(kind(Kind::Block).to(to).until_ms(100)).drop()
    };
    let scenario = unheard(unheard(scenario, 2), 3);
    let scenario = scenario.when(any().from(0).to(3).until_ms(60)).drop();
    let scenario = load(scenario, 32, 400, 4);
    let settled = scenario.at_ms(400).expect_settled_within_ms(10_000);
    settled.run().unwrap();
}
