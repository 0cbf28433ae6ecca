//! Clients alone against the cluster, or it against them.

use sim::canaries::Canary;
use sim::liars::{Censor, Context, Heard, Liar, Spoken};
use sim::network::End;
use sim::plan::{BEGIN_NS, MS};
use sim::scenario::{Scenario, any, kind};
use wire::header::Kind;
use wire::ids::{NodeId, Slot, View};

use crate::{borne, load};

/// A32: a client that no leader hears is forwarded, and served.
#[test]
fn a32_requests_reach_followers_only() {
    let attack = || {
        let scenario = Scenario::new(4).when(any().from_client(0).to(0)).drop();
        let scenario = load(scenario, 2, 100, 10);
        scenario.at_ms(200).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// §9.3: a client whose first answers are lost learns of its session from any b+1 replicas.
#[test]
fn a28_the_answers_to_an_open_are_lost() {
    let attack = || {
        Scenario::new(4)
            .when(kind(Kind::Reply).to_client(0).until_ms(300))
            .drop()
            .at_ms(2)
            .client(0)
            .put("a", "1")
            .when(any().from(0).to_client(0))
            .drop()
            .at_ms(300)
            .expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// A28: the same request comes again and again, also late; it runs once.
#[test]
fn a28_a_request_is_replayed() {
    let attack = || {
        let scenario = Scenario::new(4)
            .when(kind(Kind::Request))
            .duplicate(4)
            .when(kind(Kind::Reply).to_client(0).until_ms(150))
            .drop();
        let scenario = load(scenario, 2, 100, 5);
        scenario.at_ms(200).expect_settled_within_ms(10_000)
    };
    borne(attack, &[]);
}

/// Keeps every frame of a client that it hears, and stands up for all of them again and again.
#[derive(Default)]
struct Hoarder {
    frames: Vec<Vec<u8>>,
    turns: usize,
    to: Vec<u16>,
    /// Between two forwards.
    pause_ns: u64,
    next_ns: u64,
}

impl Liar for Hoarder {
    fn name(&self) -> &'static str {
        "hoarder"
    }

    fn on_hear(&mut self, _: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        let asked = matches!(heard.kind, Kind::Request | Kind::Open);
        if asked && !self.frames.iter().any(|held| held == heard.body) {
            self.frames.push(heard.body.to_vec());
        }
        true
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        let mut said = Vec::new();
        if self.frames.is_empty() || context.now_ns < self.next_ns {
            return said;
        }
        self.next_ns = context.now_ns + self.pause_ns;
        self.turns += 1;
        let frame = &self.frames[self.turns * 7 % self.frames.len()];
        for to in self.to.iter().copied().map(NodeId) {
            let place = (Kind::Forward, View(0), Slot(0));
            said.extend(context.authentic.say_long(to, place, frame));
        }
        said
    }
}

/// Serves everybody until it is told not to, and then hides what one client wants behind what that
/// client was served long ago.
struct Hider {
    censor: Censor,
    hoarder: Hoarder,
    deaf_from_ns: u64,
}

impl Liar for Hider {
    fn name(&self) -> &'static str {
        "hider"
    }

    fn on_hear(&mut self, context: &mut Context<'_>, heard: &Heard<'_>) -> bool {
        let hears = self.censor.on_hear(context, heard);
        if context.now_ns >= self.deaf_from_ns {
            return hears;
        }
        self.hoarder.on_hear(context, heard)
    }

    fn on_send(&mut self, _: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        vec![spoken]
    }

    fn on_turn(&mut self, context: &mut Context<'_>) -> Vec<Spoken> {
        if context.now_ns < self.deaf_from_ns {
            return Vec::new();
        }
        self.hoarder.on_turn(context)
    }
}

/// A28, BYZ10: a leader stands up for old requests of the client that it ignores. That takes no place
/// from the new ones, by which followers judge it (§9.4).
#[test]
fn a28_a_censor_hides_a_request_behind_old_ones() {
    let attack = || {
        let hider = Hider {
            censor: Censor::of(End(4)),
            hoarder: Hoarder {
                pause_ns: MS / 5,
                to: vec![1, 2, 3],
                ..Hoarder::default()
            },
            deaf_from_ns: BEGIN_NS + 200 * MS,
        };
        let scenario = load(Scenario::new(4).seat(0, hider), 2, 150, 4);
        let scenario = scenario.at_ms(210).client(0).put("wanted", "1");
        // Others are served, so that T1 has nothing to say.
        let scenario = (220..3_000).step_by(20).fold(scenario, |scenario, ms| {
            scenario.at_ms(ms).client(1).put("other", format!("{ms}"))
        });
        scenario
            .at_ms(3_000)
            .expect_value("wanted", "1")
            .expect_settled_within_ms(5_000)
    };
    borne(attack, &[]);
}

/// A28: five clients share room for three sessions, so each is evicted between its two turns. A liar
/// sends their old OPENs and REQUESTs once more, of sessions that are gone: nothing of them is
/// executed a second time (the judge runs the log through its own sessions), and most are served: an
/// old OPEN of who has no session takes one from somebody else.
#[test]
fn a28_what_evicted_clients_said_is_replayed() {
    let attack = || {
        let hoarder = Hoarder {
            pause_ns: 2_000_000,
            to: vec![0, 1],
            ..Hoarder::default()
        };
        let scenario = Scenario::new(4)
            .sessions(3)
            .when(kind(Kind::Open).to(3))
            .duplicate(2)
            .seat(3, hoarder);
        // Who gets no answer asks all, and the liar hears it.
        let scenario = (0..5).fold(scenario, |scenario, client| {
            scenario
                .when(kind(Kind::Request).from_client(client).to(0).first(1))
                .drop()
        });
        let scenario = (0..60).fold(scenario, |scenario, turn| {
            let client = turn / 6 % 5;
            let key = format!("key {}", turn % 3);
            scenario
                .at_ms(5 + 40 * turn as u64)
                .client(client)
                .put(key, format!("{turn}"))
        });
        scenario
            .at_ms(2_500)
            .expect_executed_at_least(25)
            .expect_view(0, 0)
            .expect_settled_within_ms(10_000)
    };
    borne(attack, &[Canary::Localevict]);
}

/// A quorum is counted by replicas.
#[test]
fn votes_count_once() {
    let attack = || {
        let scenario = load(Scenario::new(4), 2, 40, 4);
        scenario.at_ms(100).expect_settled_within_ms(1_000)
    };
    borne(attack, &[Canary::Lowquorum, Canary::Samevoter]);
}

/// CLI5: requests wait for a block, and no vote makes way for them.
#[test]
fn votes_do_not_make_way_for_clients() {
    let attack = || {
        let scenario = Scenario::new(4).batch_delay_us(1_000);
        let scenario = (2..22).fold(scenario, |scenario, ms| {
            let scenario = scenario.at_ms(ms);
            (0..8).fold(scenario, |scenario, client| {
                scenario
                    .client(client)
                    .put(format!("key {client}"), format!("{ms}"))
            })
        });
        let scenario = scenario.at_ms(30).expect_none_refused(0);
        scenario.expect_settled_within_ms(20_000)
    };
    borne(attack, &[Canary::Shedvotes]);
}
