//! What exists in a state of the world: everything that correct replicas ever sent, and everything
//! that a liar could say beside that. Nothing is ever lost, so it is a function of what was said.
//!
//! Here are also the checks, on the global log of votes with literal quorums.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use consensus::quorum::Quorums;
use wire::ids::{NodeId, View};
use wire::seal::CheckedViewChange;

use super::Options;
use super::catalogue::{Block, Catalogue, Event, N, NONE, ROOT, leader};
use super::replica::Said;
use crate::bases;
use crate::shapes::SHAPES;

/// q = F = V at n = 4, b = u = p = 1.
const QUORUM: usize = 3;

/// One event that may happen to a replica while it is in a fitting view.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    pub event: u32,
    pub when: When,
}

/// Where a replica must stand for an event to matter.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Always,
    /// Not yet entered.
    Below(u8),
    /// Not yet installed, nothing higher entered.
    Uninstalled(u8),
    /// Entered, nothing acknowledged in it.
    Entering(u8),
}

/// See the module's documentation.
pub struct Soup {
    pub chances: [Vec<Chance>; N],
    /// Blocks that are final, and their ancestors.
    pub finals: Vec<Block>,
}

/// What the product would believe, found out once.
#[derive(Clone, Copy, Debug)]
pub struct Beliefs {
    pub acks_needed: usize,
    pub fake_views: bool,
}

struct Look<'a> {
    options: &'a Options,
    beliefs: Beliefs,
    said: [Option<&'a Said>; N],
    catalogue: &'a mut Catalogue,
}

/// Everything that exists where these words were said; an error is a violation.
pub fn soup(
    options: &Options,
    beliefs: Beliefs,
    said: [Option<&Said>; N],
    catalogue: &mut Catalogue,
) -> Result<Soup, String> {
    Look {
        options,
        beliefs,
        said,
        catalogue,
    }
    .look()
}

impl Look<'_> {
    fn words(&self) -> impl Iterator<Item = (usize, &Said)> {
        let said = self.said.iter().enumerate();
        said.filter_map(|(by, said)| Some((by, (*said)?)))
    }

    fn lies(&self, replica: usize) -> bool {
        self.options.liar == Some(replica)
    }

    fn look(mut self) -> Result<Soup, String> {
        let committed = self.committed();
        for ((view, _), block) in &committed {
            for ((other, _), rival) in &committed {
                let catalogue = &*self.catalogue;
                if !catalogue.extends(*block, *rival) && !catalogue.extends(*rival, *block) {
                    return Err(format!(
                        "G1: {} is final in view {view}, {} in view {other}",
                        catalogue.name(*block),
                        catalogue.name(*rival)
                    ));
                }
            }
        }
        let certificates = self.certificates()?;
        let blocks = self.blocks(&certificates);
        let mut chances: [Vec<Chance>; N] = std::array::from_fn(|_| Vec::new());
        let mut offer =
            |to: usize, event: u32, when: When| chances[to].push(Chance { event, when });
        for view in 1..=self.options.views {
            let event = self.catalogue.event(Event::Enter(view));
            (0..N).for_each(|to| offer(to, event, When::Below(view)));
        }
        for block in &blocks {
            for fetched in [false, true] {
                let event = self.catalogue.event(Event::Block {
                    block: *block,
                    fetched,
                });
                let proposer = leader(self.catalogue.view(*block));
                let others = (0..N).filter(|to| fetched || *to != proposer);
                others.for_each(|to| offer(to, event, When::Always));
            }
        }
        for event in self.votes() {
            (0..N).for_each(|to| offer(to, event, When::Always));
        }
        for (view, base) in &certificates {
            let (view, base) = (*view, *base);
            let event = self.catalogue.event(Event::Certificate { view, base });
            (0..N).for_each(|to| offer(to, event, When::Uninstalled(view)));
        }
        if self.options.acks {
            for (by, view, base) in self.acks(&blocks) {
                let event = self.catalogue.event(Event::Ack {
                    by: by as u8,
                    view,
                    base,
                });
                let others = (0..N).filter(|to| *to != by);
                others.for_each(|to| offer(to, event, When::Uninstalled(view)));
            }
        }
        for view in 1..=self.options.views {
            let lies = self.false_changes(view, &certificates, &blocks);
            let chosen = self.choices(view, &lies, &committed)?;
            if view == self.options.views {
                break;
            }
            let boss = leader(view);
            if self.lies(boss) {
                let mut bases = Vec::new();
                for (choice, base) in chosen {
                    if bases.contains(&base) {
                        continue;
                    }
                    if let Some(number) = self.catalogue.lead(view, &choice, base) {
                        bases.push(base);
                        let event = self.catalogue.event(Event::NewView(number));
                        (0..N).for_each(|to| offer(to, event, When::Entering(view)));
                    }
                }
                continue;
            }
            let honest = self.words().filter(|(by, _)| *by != boss);
            let changes = honest.flat_map(|(_, said)| &said.changes).copied();
            let of_view = |number: &u16| {
                let change = &self.catalogue.changes[usize::from(*number)];
                change.message.view == View(u64::from(view))
            };
            let changes = changes.filter(of_view).chain(lies).collect::<Vec<_>>();
            for number in changes {
                let event = self.catalogue.event(Event::Change(number));
                offer(boss, event, When::Entering(view));
            }
            let led = self.said[boss].iter().flat_map(|said| &said.new_views);
            for number in led.copied().collect::<Vec<_>>() {
                let message = &self.catalogue.new_views[usize::from(number)].message;
                if message.view == View(u64::from(view)) {
                    let event = self.catalogue.event(Event::NewView(number));
                    let others = (0..N).filter(|to| *to != boss);
                    others.for_each(|to| offer(to, event, When::Entering(view)));
                }
            }
        }
        let mut finals = committed
            .values()
            .flat_map(|block| self.catalogue.chain(*block))
            .chain([ROOT])
            .collect::<Vec<_>>();
        finals.sort_unstable();
        finals.dedup();
        Ok(Soup { chances, finals })
    }

    /// The deepest final block of each view, and an incomparable one where there is one.
    fn committed(&self) -> BTreeMap<(u8, u8), Block> {
        let catalogue = &*self.catalogue;
        let liars = usize::from(self.options.liar.is_some());
        let mut found: BTreeMap<(u8, u8), Block> = BTreeMap::new();
        let voted = self.words().flat_map(|(_, said)| said.votes.iter());
        for (view, voted) in voted.copied().collect::<Vec<_>>() {
            for block in catalogue.chain(voted).filter(|block| *block != ROOT) {
                let supports = |said: &Said| {
                    let mut votes = said.votes.iter().filter(|(w, _)| *w == view);
                    votes.any(|(_, vote)| catalogue.extends(*vote, block))
                };
                let support = self.words().filter(|(_, said)| supports(said)).count() + liars;
                if support < QUORUM {
                    continue;
                }
                let held = found.entry((view, 0)).or_insert(block);
                if catalogue.extends(block, *held) {
                    *held = block;
                } else if !catalogue.extends(*held, block) {
                    found.insert((view, 1), block);
                }
                break;
            }
        }
        found
    }

    /// Bases that enough replicas acknowledged, in the product's eyes; G3 in the protocol's.
    fn certificates(&self) -> Result<Vec<(u8, Block)>, String> {
        let liars = usize::from(self.options.liar.is_some());
        let mut acks: BTreeMap<(u8, Block), usize> = BTreeMap::new();
        for (view, base) in self.words().flat_map(|(_, said)| said.acks.iter().copied()) {
            *acks.entry((view, base)).or_insert(liars) += 1;
        }
        let mut certified: Vec<(u8, Block)> = Vec::new();
        for ((view, base), count) in acks {
            if count >= QUORUM.min(self.beliefs.acks_needed) {
                if let Some((_, other)) = certified.iter().find(|(known, _)| *known == view) {
                    return Err(format!(
                        "G3: view {view} has the bases {} and {}",
                        self.catalogue.name(*other),
                        self.catalogue.name(base)
                    ));
                }
                certified.push((view, base));
            }
        }
        Ok(certified)
    }

    /// What was proposed, or may be by a liar.
    fn blocks(&mut self, certificates: &[(u8, Block)]) -> Vec<Block> {
        let mut blocks = self
            .words()
            .flat_map(|(_, said)| said.proposed.iter().copied())
            .collect::<Vec<_>>();
        for (view, base) in [(0, ROOT)].iter().chain(certificates) {
            if self.lies(leader(*view)) && *view < self.options.views {
                self.grow(*view, *base, &mut blocks);
            }
        }
        blocks
    }

    fn grow(&mut self, view: u8, parent: Block, blocks: &mut Vec<Block>) {
        if self.catalogue.slot(parent) >= self.options.slots {
            return;
        }
        for value in [1, 2] {
            let block = self.catalogue.block(view, parent, value);
            blocks.push(block);
            self.grow(view, block, blocks);
        }
    }

    /// For each view and block: the votes that cover it, all that exist at once.
    fn votes(&mut self) -> Vec<u32> {
        let mut targets = self
            .words()
            .flat_map(|(_, said)| said.votes.iter().copied())
            .collect::<Vec<_>>();
        targets.sort_unstable();
        targets.dedup();
        let mut events = Vec::new();
        for (view, target) in targets {
            for exact in [false, true] {
                let said: [Block; N] = std::array::from_fn(|by| {
                    if self.lies(by) {
                        return target;
                    }
                    let votes = self.said[by].iter().flat_map(|said| &said.votes);
                    let votes = votes.filter(|(w, _)| *w == view).map(|(_, vote)| *vote);
                    let covering = votes.filter(|vote| {
                        *vote == target || !exact && self.catalogue.extends(*vote, target)
                    });
                    covering
                        .max_by_key(|vote| self.catalogue.slot(*vote))
                        .unwrap_or(NONE)
                });
                let event = self.catalogue.event(Event::Votes { view, said });
                if !events.contains(&event) {
                    events.push(event);
                }
            }
        }
        events
    }

    /// Every acknowledgement that was, or may be, sent.
    fn acks(&self, blocks: &[Block]) -> Vec<(usize, u8, Block)> {
        let mut acks = Vec::new();
        for (by, said) in self.words() {
            acks.extend(said.acks.iter().map(|(view, base)| (by, *view, *base)));
        }
        if let Some(liar) = self.options.liar {
            for view in 1..self.options.views {
                let bases = blocks.iter().copied().chain([ROOT]);
                let bases = bases.filter(|base| *base == ROOT || self.catalogue.view(*base) < view);
                acks.extend(bases.map(|base| (liar, view, base)));
            }
        }
        acks
    }

    /// Every well-formed view change that a liar can make.
    fn false_changes(
        &mut self,
        view: u8,
        certificates: &[(u8, Block)],
        blocks: &[Block],
    ) -> Vec<u16> {
        let Some(liar) = self.options.liar else {
            return Vec::new();
        };
        let mut grounds = vec![(0, ROOT)];
        grounds.extend(certificates.iter().filter(|(w, _)| *w < view));
        if self.beliefs.fake_views {
            let bases = blocks.iter().copied().chain([ROOT]).collect::<Vec<_>>();
            for base in bases {
                grounds.extend((1..view).map(|w| (w, base)));
            }
        }
        let mut lies = Vec::new();
        for (installed, base) in grounds {
            let above = blocks.iter().copied().filter(|block| {
                let catalogue = &*self.catalogue;
                let proper = catalogue.chain(*block).take_while(|below| *below != base);
                catalogue.extends(*block, base)
                    && *block != base
                    && proper
                        .into_iter()
                        .all(|below| catalogue.view(below) == installed && below != ROOT)
            });
            for tip in above.chain([base]).collect::<Vec<_>>() {
                lies.extend(self.catalogue.lie(liar, view, installed, base, tip));
            }
        }
        lies.sort_unstable();
        lies.dedup();
        lies
    }

    /// G2, G4, G5, I10: what every choice of the view changes for one view leads to.
    fn choices(
        &self,
        view: u8,
        lies: &[u16],
        committed: &BTreeMap<(u8, u8), Block>,
    ) -> Result<Vec<(Vec<u16>, Block)>, String> {
        let catalogue = &*self.catalogue;
        let of_view = |number: &u16| {
            catalogue.changes[usize::from(*number)].message.view == View(u64::from(view))
        };
        let honest = self.words().filter_map(|(_, said)| {
            let mut changes = said.changes.iter().copied().filter(of_view);
            changes.next()
        });
        let honest = honest.collect::<Vec<_>>();
        let mut found = Vec::new();
        let lies = lies.iter().copied().map(Some).chain([None]);
        for lie in lies {
            for mask in 1..1u32 << honest.len() {
                let some = honest.iter().enumerate();
                let some = some.filter(|(index, _)| mask >> index & 1 == 1);
                let mut choice = some
                    .map(|(_, number)| *number)
                    .chain(lie)
                    .collect::<Vec<_>>();
                if choice.len() + 1 < QUORUM {
                    continue;
                }
                choice
                    .sort_by_key(|number| catalogue.changes[usize::from(*number)].message.replica);
                let parts = choice.iter().map(|n| &**catalogue.changes[usize::from(*n)]);
                let parts = parts.collect::<Vec<_>>();
                let base = self.select(view, &parts)?;
                let all = lie.is_none() && honest.len() >= QUORUM && mask + 1 == 1 << honest.len();
                let Some(base) = base else {
                    if all {
                        return Err(format!("G5: no base for view {view} without the liar"));
                    }
                    continue;
                };
                for ((lower, _), block) in committed {
                    if *lower < view && !catalogue.extends(base, *block) {
                        let choice = choice.iter().map(|n| catalogue.describe(Event::Change(*n)));
                        return Err(format!(
                            "G2: a choice for view {view} leads to {} and misses {}, final in view \
                             {lower}: {}",
                            catalogue.name(base),
                            catalogue.name(*block),
                            choice.collect::<Vec<_>>().join("; ")
                        ));
                    }
                }
                found.push((choice, base));
            }
        }
        Ok(found)
    }

    fn select(&self, view: u8, parts: &[&CheckedViewChange]) -> Result<Option<Block>, String> {
        let catalogue = &*self.catalogue;
        let genesis = catalogue.place(ROOT);
        let quorums = Quorums::new(N, 1, 1, 1, true);
        let of = |view: View| NodeId((view.0 % N as u64) as u16);
        let made = catch_unwind(AssertUnwindSafe(|| {
            consensus::select(&quorums, genesis, of, parts)
        }));
        let Ok(made) = made else {
            return Err(format!("I10: two candidates for view {view}"));
        };
        if let Some(selected) = made
            && selected.conflict
            && !self.lies(leader(selected.installed.0 as u8))
        {
            return Err(format!(
                "G4: the honest leader of view {} is excluded",
                selected.installed
            ));
        }
        let base = made.map(|selected| selected.base);
        if self.options.canary.is_none() {
            let stated = bases::literal(&SHAPES[0], genesis, parts)?;
            if stated != base {
                return Err(format!(
                    "G2: for view {view} the product selects {base:?}, the protocol {stated:?}"
                ));
            }
        }
        Ok(base.map(|base| catalogue.number(&base.digest)))
    }
}
