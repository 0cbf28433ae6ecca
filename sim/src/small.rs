//! Small scope: every state that four replicas can reach, one of them a liar, in a few views and
//! slots (protocol §14), breadth-first, with the product's own core.
//!
//! A state is what each correct replica is in; nothing that was sent is ever lost, so what exists
//! follows from that ([`soup`]). In each step something happens to one replica: any message that
//! exists arrives, it proposes, or it leaves its view. The liar says whatever its key allows: two
//! blocks for each slot, every vote and acknowledgement to anyone, every view change for which
//! certificates exist, every choice of view changes as a new leader. Writing, verification and
//! execution take no time, and time stands still: who loses patience is a choice of the search.
//!
//! # What is left out, and why that is sound
//!
//! * Events that change nothing are not steps. Votes of one view for one block arrive together, and
//!   once they move something: who waits with them loses nothing, for votes are cumulative (N3).
//! * A view change matters to its new leader only, others get those that a NEW-VIEW names with it.
//! * Certificates bear the signatures of all: who signed one changes nothing. Single
//!   acknowledgements travel with [`Options::acks`] alone.
//! * Not looked at: restarts, checkpoints, DECIDED claims (they follow from votes that exist).

mod catalogue;
mod replica;
mod soup;

use std::time::{Duration, Instant};

use self::catalogue::{Catalogue, Event, N};
use self::replica::{Local, Locals, QuickMap};
use self::soup::{Beliefs, Soup, When, soup};
use crate::canaries::Canary;

/// How far a search goes.
#[derive(Clone, Debug)]
pub struct Options {
    pub liar: Option<usize>,
    /// Slots in which blocks are proposed.
    pub slots: u64,
    /// Views that can be installed; the view changes for the next one are checked as well.
    pub views: u8,
    /// States at most.
    pub states_max: usize,
    /// Acknowledgements arrive one by one as well, not as certificates alone.
    pub acks: bool,
    pub canary: Option<Canary>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            liar: Some(0),
            slots: 1,
            views: 2,
            states_max: 10_000_000,
            acks: false,
            canary: None,
        }
    }
}

/// How far a search is, or came.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub states: usize,
    /// States that are expanded.
    pub expanded: usize,
    pub transitions: u64,
    pub depth: u32,
    /// Different states of single replicas.
    pub locals: usize,
    pub elapsed: Duration,
    /// There is nothing left to look at.
    pub exhausted: bool,
    /// What is wrong, and the shortest way there.
    pub violation: Option<(String, Vec<String>)>,
}

impl Report {
    /// For people.
    pub fn line(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let verdict = match (&self.violation, self.exhausted) {
            (Some(_), _) => "VIOLATION",
            (None, true) => "exhausted, holds",
            (None, false) => "bound hit, holds so far",
        };
        format!(
            "{} states, {} transitions, depth {}, {} states of single replicas, {seconds:.1} s, \
             {:.0} states/s: {verdict}",
            self.states,
            self.transitions,
            self.depth,
            self.locals,
            self.states as f64 / seconds.max(1e-9),
        )
    }
}

/// Replica states by replica; the liar has none.
type State = [u32; N];
const ABSENT: u32 = u32::MAX;

struct Search<'a> {
    options: &'a Options,
    beliefs: Beliefs,
    catalogue: Catalogue,
    locals: Locals,
    soups: QuickMap<State, u32>,
    list: Vec<Soup>,
    known: QuickMap<State, ()>,
    states: Vec<State>,
    /// From which state, and by which event at which replica.
    origins: Vec<(u32, u32)>,
    report: Report,
}

/// Searches; `note` hears of progress now and then.
pub fn run(options: &Options, note: &mut dyn FnMut(&Report)) -> Report {
    Canary::plant(options.canary);
    let begin = Instant::now();
    let mut catalogue = Catalogue::new();
    let liar = options.liar.unwrap_or(0);
    let beliefs = Beliefs {
        acks_needed: catalogue.acks_needed(),
        fake_views: catalogue.believes_without_certificate(liar),
    };
    let mut search = Search {
        options,
        beliefs,
        catalogue,
        locals: Locals::new(options.slots),
        soups: QuickMap::default(),
        list: Vec::new(),
        known: QuickMap::default(),
        states: Vec::new(),
        origins: Vec::new(),
        report: Report::default(),
    };
    if let Err((state, what)) = search.search(begin, note) {
        let way = search.way(state);
        search.report.violation = Some((what, way));
    }
    Canary::plant(None);
    search.report.elapsed = begin.elapsed();
    search.report.locals = search.locals.list.len();
    search.report
}

impl Search<'_> {
    /// An error is a violation in, or in a step from, a state.
    fn search(
        &mut self,
        begin: Instant,
        note: &mut dyn FnMut(&Report),
    ) -> Result<(), (usize, String)> {
        let mut first = [ABSENT; N];
        for (me, local) in first.iter_mut().enumerate() {
            if self.options.liar != Some(me) {
                let made = self.locals.first(me, &mut self.catalogue);
                *local = made.map_err(|what| (0, what))?;
            }
        }
        self.found(first, (0, u32::MAX));
        let propose = self.catalogue.event(Event::Propose);
        let (mut at, mut level_end) = (0, 1);
        while at < self.states.len() {
            if self.states.len() >= self.options.states_max {
                return Ok(());
            }
            if at == level_end {
                self.report.depth += 1;
                level_end = self.states.len();
            }
            let state = self.states[at];
            let soup = self.soup_of(&state).map_err(|what| (at, what))?;
            self.check(&state, soup).map_err(|what| (at, what))?;
            for (me, number) in state.into_iter().enumerate() {
                if number == ABSENT {
                    continue;
                }
                let local = self.locals.list[number as usize];
                if local.proposes {
                    self.step(at, me, propose)?;
                }
                for index in 0..self.list[soup].chances[me].len() {
                    let chance = self.list[soup].chances[me][index];
                    if matters(&local, chance.when) {
                        self.step(at, me, chance.event)?;
                    }
                }
            }
            at += 1;
            if at.is_multiple_of(4096) {
                self.report.expanded = at;
                self.report.elapsed = begin.elapsed();
                self.report.locals = self.locals.list.len();
                note(&self.report);
            }
        }
        self.report.exhausted = true;
        Ok(())
    }

    fn step(&mut self, at: usize, me: usize, event: u32) -> Result<(), (usize, String)> {
        let state = self.states[at];
        let next = self.locals.step(state[me], event, &mut self.catalogue);
        let next = next.map_err(|what| {
            let last = self
                .catalogue
                .describe(self.catalogue.events[event as usize]);
            (at, format!("{what}, when r{me} {last}"))
        })?;
        if next != state[me] {
            let mut successor = state;
            successor[me] = next;
            self.report.transitions += 1;
            self.found(successor, (at as u32, event << 2 | me as u32));
        }
        Ok(())
    }

    fn found(&mut self, state: State, origin: (u32, u32)) {
        if self.known.insert(state, ()).is_none() {
            self.states.push(state);
            self.origins.push(origin);
            self.report.states = self.states.len();
        }
    }

    fn soup_of(&mut self, state: &State) -> Result<usize, String> {
        let said = state.map(|local| match local {
            ABSENT => ABSENT,
            local => self.locals.list[local as usize].said,
        });
        if let Some(known) = self.soups.get(&said) {
            return Ok(*known as usize);
        }
        let words = said.map(|said| match said {
            ABSENT => None,
            said => Some(&self.locals.said[said as usize]),
        });
        let made = soup(self.options, self.beliefs, words, &mut self.catalogue)?;
        self.list.push(made);
        let number = self.list.len() as u32 - 1;
        self.soups.insert(said, number);
        Ok(number as usize)
    }

    /// N4: what a replica decided is final by the global log.
    fn check(&self, state: &State, soup: usize) -> Result<(), String> {
        for (me, local) in state
            .iter()
            .enumerate()
            .filter(|(_, local)| **local != ABSENT)
        {
            let decided = self.locals.list[*local as usize].decided;
            if self.list[soup].finals.binary_search(&decided).is_err() {
                let name = self.catalogue.name(decided);
                return Err(format!("N4: r{me} decided {name}, no quorum voted for it"));
            }
        }
        Ok(())
    }

    /// The steps to a state, for people.
    fn way(&self, state: usize) -> Vec<String> {
        let mut steps = Vec::new();
        let mut at = state;
        while self
            .origins
            .get(at)
            .is_some_and(|(_, step)| *step != u32::MAX)
        {
            let (from, step) = self.origins[at];
            let (event, me) = ((step >> 2) as usize, step & 3);
            let text = self.catalogue.describe(self.catalogue.events[event]);
            let before = self.locals.list[self.states[from as usize][me as usize] as usize];
            let after = self.locals.list[self.states[at][me as usize] as usize];
            let before = &self.locals.said[before.said as usize];
            let after = &self.locals.said[after.said as usize];
            let votes = after
                .votes
                .iter()
                .filter(|vote| !before.votes.contains(vote));
            let votes = votes.map(|(view, block)| {
                format!(", votes {} in view {view}", self.catalogue.name(*block))
            });
            steps.push(format!("r{me} {text}{}", votes.collect::<String>()));
            at = from as usize;
        }
        steps.reverse();
        steps
    }
}

fn matters(local: &Local, when: When) -> bool {
    match when {
        When::Always => true,
        When::Below(view) => local.stage < view,
        When::Uninstalled(view) => local.installed < view && local.stage <= view,
        When::Entering(view) => local.stage == view && local.installed < view && local.acked < view,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(options: Options) -> Report {
        run(&options, &mut |_| {})
    }

    #[test]
    fn one_view_and_the_choice_of_the_next_one_hold() {
        for liar in [Some(0), Some(1), None] {
            let report = search(Options {
                liar,
                views: 1,
                ..Options::default()
            });
            assert_eq!(report.violation, None, "liar {liar:?}");
            assert!(report.exhausted && report.states > 100, "{report:?}");
        }
    }

    /// A part of what `hippo-sim small` exhausts.
    #[test]
    fn two_views_hold_as_far_as_this_looks() {
        for (liar, acks) in [(0, false), (1, true), (3, false)] {
            let report = search(Options {
                liar: Some(liar),
                acks,
                states_max: 40_000,
                ..Options::default()
            });
            assert_eq!(report.violation, None, "liar {liar}");
        }
    }

    /// Protocol §14, the table of mutations: the liar is the leader of view 0, or of view 1.
    #[cfg(feature = "canary")]
    #[test]
    fn mutations_are_found() {
        let found = [
            (Canary::Noexcl, &[0, 1][..]),
            (Canary::Loose, &[0, 1]),
            (Canary::Thresh, &[0, 1]),
            (Canary::Maxtip, &[0, 1]),
            (Canary::Anyview, &[0]),
            (Canary::Fakeview, &[0, 1]),
            (Canary::Qack, &[1]),
            (Canary::Ackcommit, &[1]),
            (Canary::Voteafter, &[0, 1]),
            (Canary::Vcsmall, &[0, 1]),
            (Canary::Doublevote, &[0]),
            (Canary::Samevoter, &[0, 1]),
            (Canary::Mixviews, &[0, 1]),
        ];
        for (canary, liars) in found {
            for liar in liars {
                let report = search(Options {
                    liar: Some(*liar),
                    acks: canary == Canary::Ackcommit,
                    canary: Some(canary),
                    states_max: 500_000,
                    ..Options::default()
                });
                let name = canary.name();
                assert!(
                    report.violation.is_some(),
                    "{name}, liar {liar}: {report:?}"
                );
            }
        }
    }
}
