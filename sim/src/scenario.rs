//! A small language for tests that want one certain run instead of many random ones.
//!
//! A [`Scenario`] is written from top to bottom in the order of time: [`Scenario::at_ms`] moves the
//! clock on (0 is the start of all processes), and everything after it happens, begins, or is
//! expected at that time. Without a word the network is whole (50 to 70 us), disks take 150 us, all
//! clocks are true and nobody asks anything. The judge watches as in random seeds: any violation
//! fails the scenario unless it is the one that [`Scenario::expect_violation`] names.
//!
//! ```
//! use sim::scenario::{Scenario, kind};
//! use wire::header::Kind;
//!
//! Scenario::new(4)
//!     .seed(1)
//!     // No vote of replica 2 reaches replica 0.
//!     .when(kind(Kind::Vote).from(2).to(0)).drop()
//!     .at_ms(5).client(0).put("key", "value")
//!     .at_ms(10).crash(1)
//!     .at_ms(60).restart(1)
//!     .at_ms(200).expect_answered(0).expect_value("key", "value")
//!     .run()
//!     .unwrap();
//! ```
//!
//! **Datagrams.** [`Scenario::when`] takes a [`Filter`] over the decoded header: kind, sender,
//! receiver, view, slot; [`Filter::first`] and [`Filter::skip`] count matches. Rules hold from the
//! time at which they stand until [`Filter::until_ms`], or for ever; the first rule that matches a
//! datagram decides: [`When::drop`], [`When::hold_until_ms`], [`When::delay_us`],
//! [`When::duplicate`], [`When::redirect`], [`When::corrupt`]. [`Scenario::partition`] and
//! [`Scenario::heal`] are rules too, and come last.
//!
//! **Lies.** [`When::mutate`] and [`When::lie`] make their sender a liar: what it says is changed
//! before it is sealed, so links accept it, and the judge no longer counts that replica (see
//! [`crate::liars`]). [`When::lie`] may return several datagrams, to anyone, with statements signed
//! by the liar: an equivocating leader is one closure. [`Scenario::liar`] seats a named liar.
//!
//! **Processes.** [`Scenario::crash`], [`Scenario::restart`], [`Scenario::crash_between_effects`],
//! [`Scenario::pause_for_ms`], [`Scenario::crash_all`], [`Scenario::restart_all`].
//!
//! **Clients.** [`Scenario::client`] asks one thing at the present time; answers are checked by the
//! judge, and may be expected with [`Scenario::expect_answered`].
//!
//! **Expectations** hold at the present time, or from then on for a while. [`Scenario::run`] ends at
//! the last time that was named, and returns the first expectation that was not met.
//! [`Scenario::expect_settled_within_ms`] ends the scenario as random seeds end: everyone up, caught
//! up, and every operation answered.

mod clients;
pub mod director;
mod expect;
mod filter;
mod processes;

use wire::ids::{Slot, View};

pub use self::clients::Client;
use self::director::{Check, Deed, Director, Rule, Told};
use self::filter::Party;
pub use self::filter::{Filter, any, kind};
use crate::canaries::Canary;
use crate::faults::FaultSet;
use crate::faults::draw::{ClockPlan, Damage, FaultPlan, Harm, Pause, StepCrash, Stop};
use crate::liars::clients::ClientKind;
use crate::liars::{Context, Liar, LiarKind, Spoken};
use crate::network::LinkFaults;
use crate::plan::{self, BEGIN_NS, Blow, Crash, DiskPlan, MS, Options, Plan, US, UserPlan};
use crate::shapes::SHAPES;
use crate::user::Scripted;
use crate::world::{Outcome, World};

/// A rule that lacks its verb.
#[must_use]
pub struct When {
    scenario: Scenario,
    filter: Filter,
}

impl When {
    fn rule(mut self, deed: Deed) -> Scenario {
        let rule = self.scenario.rule_of(&self.filter, deed);
        self.scenario.rules.push(rule);
        self.scenario
    }

    /// They are lost.
    pub fn drop(self) -> Scenario {
        self.rule(Deed::Drop)
    }

    /// They arrive at this time at the earliest, in any order.
    pub fn hold_until_ms(self, ms: u64) -> Scenario {
        self.rule(Deed::Hold(BEGIN_NS + ms * MS))
    }

    /// They take so much longer.
    pub fn delay_us(self, us: u64) -> Scenario {
        self.rule(Deed::Delay(us * US))
    }

    /// They arrive so many times in all, a little apart.
    pub fn duplicate(self, copies: u64) -> Scenario {
        self.rule(Deed::Copies(copies))
    }

    /// They go to another replica instead.
    pub fn redirect(self, node: usize) -> Scenario {
        self.rule(Deed::Redirect(node))
    }

    /// Bits flip on the way: links must refuse them.
    pub fn corrupt(self) -> Scenario {
        self.rule(Deed::Corrupt)
    }

    /// Their sender, which [`Filter::from`] must name, is a liar that changes them before they are
    /// sealed.
    pub fn mutate(self, mut change: impl FnMut(&mut Spoken) + 'static) -> Scenario {
        self.lie(move |_, mut spoken| {
            change(&mut spoken);
            vec![spoken]
        })
    }

    /// Their sender, which [`Filter::from`] must name, is a liar that says this instead.
    pub fn lie(
        mut self,
        say: impl FnMut(&mut Context<'_>, Spoken) -> Vec<Spoken> + 'static,
    ) -> Scenario {
        let Some(Party::Replica(liar)) = self.filter.from else {
            panic!("a lie needs a liar: name it with from(..)");
        };
        let rule = self.scenario.rule_of(&self.filter, Deed::Pass);
        let told = Told {
            rule,
            say: Box::new(say),
        };
        self.scenario.lies.push((liar, told));
        self.scenario
    }
}

/// See the module's documentation.
pub struct Scenario {
    nodes: usize,
    /// Index into [`SHAPES`].
    shape: usize,
    interval: u64,
    sessions_max: usize,
    segment_bytes: u64,
    segments_max: u32,
    snapshot_log_bytes: u64,
    seed: u64,
    now_ns: u64,
    ends_ns: u64,
    rules: Vec<Rule>,
    partitions: Vec<Rule>,
    lies: Vec<(usize, Told)>,
    liars: Vec<(usize, LiarKind)>,
    clients: Vec<ClientKind>,
    seated: Vec<(usize, Box<dyn Liar>)>,
    canary: Option<Canary>,
    checks: Vec<(u64, Check)>,
    scripts: Vec<Vec<Scripted>>,
    crashes: Vec<(usize, u64)>,
    restarts: Vec<(usize, u64)>,
    steps: Vec<StepCrash>,
    damages: Vec<Damage>,
    pauses: Vec<Pause>,
    clocks: Vec<ClockPlan>,
    votes_by_mac: bool,
    batch_delay_ns: u64,
    leases: bool,
    careless: bool,
    write_us: u64,
    stops: Vec<Stop>,
    violation: Option<String>,
    settles: bool,
    trace: bool,
}

/// Until nobody restarts it.
const FOR_EVER_NS: u64 = 1 << 60;

impl Scenario {
    /// So many replicas in their usual committee, nothing else.
    pub fn new(nodes: usize) -> Scenario {
        Scenario::shaped(&nodes.to_string())
    }

    /// With a checkpoint every `slots`.
    pub fn checkpoint_every(mut self, slots: u64) -> Scenario {
        self.interval = slots;
        self
    }

    /// A snapshot at every checkpoint, so that older blocks are soon not served any more.
    pub fn release_log(mut self) -> Scenario {
        self.snapshot_log_bytes = 0;
        self
    }

    /// Logs of so many segments that hold little more than the largest block each; two are a reserve.
    /// A snapshot is made when `snapshot_log_bytes` are in use.
    pub fn small_log(mut self, segments: u32, snapshot_log_bytes: u64) -> Scenario {
        self.segment_bytes = 288 << 10;
        self.segments_max = segments;
        self.snapshot_log_bytes = snapshot_log_bytes;
        self
    }

    /// The committee of this name; see [`SHAPES`].
    pub fn shaped(name: &str) -> Scenario {
        let shape = SHAPES.iter().position(|shape| shape.name == name);
        let shape = shape.unwrap_or_else(|| panic!("no committee is named {name}"));
        Scenario {
            nodes: SHAPES[shape].n,
            shape,
            interval: wire::limits::CHECKPOINT_INTERVAL,
            sessions_max: wire::limits::SESSIONS_MAX,
            snapshot_log_bytes: u64::MAX,
            segment_bytes: 1 << 20,
            segments_max: 64,
            seed: 0,
            now_ns: BEGIN_NS,
            ends_ns: BEGIN_NS,
            rules: Vec::new(),
            partitions: Vec::new(),
            lies: Vec::new(),
            liars: Vec::new(),
            clients: Vec::new(),
            seated: Vec::new(),
            canary: None,
            checks: Vec::new(),
            scripts: Vec::new(),
            crashes: Vec::new(),
            restarts: Vec::new(),
            steps: Vec::new(),
            damages: Vec::new(),
            pauses: Vec::new(),
            clocks: Vec::new(),
            votes_by_mac: SHAPES[shape].votes_by_mac,
            batch_delay_ns: 0,
            leases: false,
            careless: false,
            write_us: 150,
            stops: Vec::new(),
            violation: None,
            settles: false,
            trace: false,
        }
    }

    /// Other keys, other jitter.
    pub fn seed(self, seed: u64) -> Scenario {
        Scenario { seed, ..self }
    }

    /// Prints every event.
    pub fn trace(self) -> Scenario {
        let trace = true;
        Scenario { trace, ..self }
    }

    /// What follows is at this time.
    pub fn at_ms(mut self, ms: u64) -> Scenario {
        let now_ns = BEGIN_NS + ms * MS;
        assert!(
            now_ns >= self.now_ns,
            "time goes on: at_ms({ms}) is earlier"
        );
        self.now_ns = now_ns;
        self.ends_ns = self.ends_ns.max(now_ns);
        self
    }

    fn rule_of(&self, filter: &Filter, deed: Deed) -> Rule {
        let end = |party: Party| party.end(self.nodes);
        Rule {
            kind: filter.kind,
            from: filter.from.map(end),
            to: filter.to.map(end),
            view: filter.view.map(View),
            slots: filter.slots.map(|(first, last)| (Slot(first), Slot(last))),
            from_ns: self.now_ns,
            until_ns: filter.until_ns.unwrap_or(u64::MAX),
            skip: filter.skip,
            left: filter.first.unwrap_or(u64::MAX),
            deed,
        }
    }

    /// What is to become of the datagrams of a filter.
    pub fn when(self, filter: Filter) -> When {
        When {
            scenario: self,
            filter,
        }
    }

    /// From now on replicas of different groups hear nothing of each other; clients reach all.
    pub fn partition(mut self, groups: &[&[usize]]) -> Scenario {
        let group = |node: usize| groups.iter().position(|group| group.contains(&node));
        for from in 0..self.nodes {
            for to in (0..self.nodes).filter(|to| group(*to) != group(from)) {
                let rule = self.rule_of(&any().from(from).to(to), Deed::Drop);
                self.partitions.push(rule);
            }
        }
        self
    }

    /// Ends partitions.
    pub fn heal(mut self) -> Scenario {
        let now_ns = self.now_ns;
        for rule in &mut self.partitions {
            rule.until_ns = rule.until_ns.min(now_ns);
        }
        self
    }

    /// The process of a replica ends; what it had not flushed may be lost.
    pub fn crash(mut self, node: usize) -> Scenario {
        self.crashes.push((node, self.now_ns));
        self
    }

    /// A crashed replica starts again.
    pub fn restart(mut self, node: usize) -> Scenario {
        self.restarts.push((node, self.now_ns));
        self
    }

    /// All processes end.
    pub fn crash_all(self) -> Scenario {
        (0..self.nodes).fold(self, Scenario::crash)
    }

    /// All crashed replicas start again.
    pub fn restart_all(self) -> Scenario {
        (0..self.nodes).fold(self, Scenario::restart)
    }

    /// The disk of a replica is put back to what it is now when the replica starts the next time.
    pub fn restore_later(mut self, node: usize) -> Scenario {
        self.damages.push(Damage {
            node,
            at_ns: self.now_ns,
            harm: Harm::Rollback,
        });
        self
    }

    /// Votes bear no signatures: links alone authenticate them (N4).
    pub fn votes_by_mac(mut self) -> Scenario {
        self.votes_by_mac = true;
        self
    }

    /// So long a request waits at the leader while a block is undecided.
    pub fn batch_delay_us(mut self, us: u64) -> Scenario {
        self.batch_delay_ns = us * US;
        self
    }

    fn clock(&mut self, node: usize) -> &mut ClockPlan {
        let true_time = ClockPlan {
            rate_per_mille: 1000,
            jumps: Vec::new(),
            wall_offset_ns: 0,
        };
        self.clocks.resize(self.nodes, true_time);
        &mut self.clocks[node]
    }

    /// The monotonic clock of a replica jumps forward now.
    pub fn clock_jumps_by_ms(mut self, node: usize, ms: u64) -> Scenario {
        let now_ns = self.now_ns;
        self.clock(node).jumps.push((now_ns, ms * MS));
        self
    }

    /// The wall clock of a replica is so much ahead.
    pub fn wall_clock_ahead_by_s(mut self, node: usize, seconds: u64) -> Scenario {
        self.clock(node).wall_offset_ns = seconds * plan::S;
        self
    }

    /// A replica lies from the start in a way that has a name.
    pub fn liar(mut self, node: usize, kind: LiarKind) -> Scenario {
        self.liars.push((node, kind));
        self
    }

    /// A client that lies joins the others.
    pub fn lying_client(mut self, kind: ClientKind) -> Scenario {
        self.clients.push(kind);
        self
    }

    /// A replica lies from the start in this way.
    pub fn seat(mut self, node: usize, liar: impl Liar + 'static) -> Scenario {
        self.seated.push((node, Box::new(liar)));
        self
    }

    /// A bug is planted; see [`crate::canaries`].
    pub fn canary(mut self, canary: Canary) -> Scenario {
        self.canary = Some(canary);
        self
    }

    /// A client asks something now.
    pub fn client(self, client: usize) -> Client {
        Client {
            scenario: self,
            client,
        }
    }

    fn check(mut self, check: Check) -> Scenario {
        self.checks.push((self.now_ns, check));
        self
    }

    /// Runs it: the outcome, or what was expected and did not happen.
    pub fn run(self) -> Result<Outcome, String> {
        let (outcome, unmet) = self.run_inner();
        match unmet {
            Some(unmet) => Err(unmet),
            None => Ok(outcome),
        }
    }

    /// The plan and director of this scenario, joined and run.
    fn run_inner(mut self) -> (Outcome, Option<String>) {
        let plan = self.plan();
        let expected = self.violation.take();
        self.rules.append(&mut self.partitions);
        let director = Director {
            rules: self.rules,
            checks: self.checks,
            remembered: Vec::new(),
            settles: self.settles,
            copies: 0,
        };
        let world = World::directed(plan, director, self.scripts, (self.lies, self.seated));
        let outcome = world.run();
        let unmet = match (&outcome.violation, expected) {
            (None, None) => None,
            (Some(found), Some(text)) if found.contains(&text) => None,
            (Some(found), None) => Some(found.clone()),
            (found, Some(text)) => Some(format!("expected a violation {text:?}, got {found:?}")),
        };
        (outcome, unmet)
    }

    fn plan(&self) -> Plan {
        let blows = self.crashes.iter().map(|(node, at_ns)| {
            let restarts = self
                .restarts
                .iter()
                .filter(|(n, at)| n == node && at > at_ns);
            let restart = restarts.map(|(_, at)| at - at_ns).min();
            Blow {
                at_ns: *at_ns,
                mid_write: None,
                crashes: vec![Crash {
                    node: *node,
                    after_ns: 0,
                    down_ns: restart.unwrap_or(FOR_EVER_NS),
                }],
            }
        });
        let users = self.scripts.iter().map(|script| UserPlan {
            operations: script.len() as u32,
            in_flight_max: 64,
            bundle_max: 1,
            linger_ns: 0,
            value_bytes_max: 64,
            begins_ns: BEGIN_NS,
            think_ns: 0,
        });
        let users = users.collect::<Vec<_>>();
        let ends = self.nodes + users.len() + self.clients.len();
        let demands = if self.settles {
            plan::Scenario::Followers
        } else {
            plan::Scenario::Story
        };
        Plan {
            seed: self.seed,
            options: Options {
                nodes: self.nodes,
                shape: self.shape,
                faults: FaultSet::NONE,
                trace: self.trace,
                canary: self.canary,
                ..Options::default()
            },
            scenario: demands,
            heal_ns: self.now_ns,
            deadline_ns: self.ends_ns + 1,
            blows: blows.collect(),
            calm_ns: u64::MAX,
            disk: DiskPlan {
                write_ns: self.write_us * US,
                jitter_ns: 10 * US,
                stalls_per_mille: 0,
                segment_bytes: self.segment_bytes,
                segments_max: self.segments_max,
                snapshot_log_bytes: self.snapshot_log_bytes,
                atom_bytes: wire::limits::SECTOR_BYTES,
            },
            users,
            keys: 1,
            datagram_bytes: 1472,
            batch_delay_ns: self.batch_delay_ns,
            votes_by_mac: self.votes_by_mac,
            held_blocks: plan::HELD_BLOCKS,
            table_memory_bytes: None,
            leases: self.leases,
            careless: self.careless,
            interval: self.interval,
            sessions_max: self.sessions_max,
            transfer_beyond: 2 * self.interval,
            pace: (usize::MAX, usize::MAX),
            lag_ns: US,
            links: vec![vec![LinkFaults::WHOLE; ends]; ends],
            cuts: Vec::new(),
            faults: FaultPlan {
                steps: self.steps.clone(),
                damages: self.damages.clone(),
                pauses: self.pauses.clone(),
                clocks: self.clocks.clone(),
                liars: self.liars.clone(),
                clients: self.clients.clone(),
                stops: self.stops.clone(),
                ..FaultPlan::default()
            },
        }
    }
}
