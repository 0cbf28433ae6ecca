//! What carries a scenario out: rules over datagrams, checks at certain times, and lies.

use std::ops::RangeInclusive;

use wire::header::{Direction, Header, Kind};
use wire::ids::{Slot, View};

use crate::liars::{Context, Liar, Spoken};
use crate::network::{End, spoil};
use crate::plan::US;

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Nothing: it goes on.
    Pass,
    Drop,
    /// It arrives at this time of the world at the earliest.
    Hold(u64),
    Delay(u64),
    Copies(u64),
    Redirect(usize),
    Corrupt,
}

/// A filter and its deed, with ends and times of the world.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub kind: Option<Kind>,
    pub from: Option<usize>,
    pub to: Option<usize>,
    pub view: Option<View>,
    pub slots: Option<(Slot, Slot)>,
    pub from_ns: u64,
    pub until_ns: u64,
    pub skip: u64,
    pub left: u64,
    pub deed: Deed,
}

/// A datagram as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub now_ns: u64,
    pub from: End,
    pub to: End,
    pub kind: Kind,
    pub view: View,
    pub slot: Slot,
}

/// View and slot, where a kind has them.
pub(crate) fn place(header: &Header, kind: Kind) -> (View, Slot) {
    match kind.direction() {
        Direction::BetweenNodes => (header.peer_route().view(), header.peer_route().slot()),
        Direction::ToClient => (header.reply_route().view(), header.reply_route().slot()),
        Direction::ToNode => (View(0), Slot(0)),
    }
}

impl Rule {
    /// Whether the rule is about this datagram; counts it if so.
    fn takes(&mut self, seen: &Sighting) -> bool {
        let fits = (self.from_ns..self.until_ns).contains(&seen.now_ns)
            && self.kind.is_none_or(|kind| kind == seen.kind)
            && self.from.is_none_or(|from| from == seen.from.0)
            && self.to.is_none_or(|to| to == seen.to.0)
            && self.view.is_none_or(|view| view == seen.view)
            && self
                .slots
                .is_none_or(|(first, last)| (first..=last).contains(&seen.slot));
        if !fits || self.left == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.left -= 1;
        true
    }
}

/// Something that must hold at a time.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Decided(Option<usize>, Slot),
    Undecided(Slot),
    View(usize, View),
    /// This replica is up, and silent or not.
    Silent(usize, bool),
    Answered(usize),
    /// So many reads of this client ended by their fence.
    Fenced(usize, u64),
    /// So many datagrams at least were refused by this replica.
    Refused(usize, u64),
    /// This replica has found that its disk was put back.
    Lost(usize),
    NoneRefused(usize),
    Executed(RangeInclusive<u64>),
    Value(Vec<u8>, Vec<u8>),
    /// Note where things stand, under this name.
    Remember(usize),
    /// Since then there was progress, or none.
    Progress(usize, bool),
}

/// Where things stood: operations answered, and slots decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub name: usize,
    pub answered: u64,
    pub decided: Slot,
}

/// Says what becomes of every datagram.
#[derive(Debug)]
pub(crate) struct Director {
    pub rules: Vec<Rule>,
    pub checks: Vec<(u64, Check)>,
    pub remembered: Vec<Standing>,
    /// The scenario ends as random seeds do.
    pub settles: bool,
    /// Seeds what `Corrupt` flips.
    pub copies: u64,
}

/// A datagram that is to leave: to whom, when at the earliest, and whether bits were flipped.
pub(crate) struct Leaves {
    pub to: End,
    pub not_before: u64,
    pub datagram: Vec<u8>,
    pub spoiled: bool,
}

impl Director {
    /// What leaves instead of a datagram.
    pub(crate) fn pass(&mut self, now_ns: u64, ends: (End, End), datagram: Vec<u8>) -> Vec<Leaves> {
        let (from, to) = ends;
        let deed = match Header::split(&datagram) {
            Ok((header, kind, _)) => {
                let (view, slot) = place(header, kind);
                let seen = Sighting {
                    now_ns,
                    from,
                    to,
                    kind,
                    view,
                    slot,
                };
                let mut deeds = self.rules.iter_mut();
                deeds
                    .find_map(|rule| rule.takes(&seen).then_some(rule.deed))
                    .unwrap_or(Deed::Pass)
            }
            Err(_) => Deed::Pass,
        };
        let leaves = |to, not_before| Leaves {
            to,
            not_before,
            datagram: datagram.clone(),
            spoiled: false,
        };
        match deed {
            Deed::Pass => vec![leaves(to, 0)],
            Deed::Drop => Vec::new(),
            Deed::Hold(until_ns) => vec![leaves(to, until_ns)],
            Deed::Delay(ns) => vec![leaves(to, now_ns + 50 * US + ns)],
            Deed::Copies(copies) => (0..copies)
                .map(|copy| leaves(to, now_ns + 50 * US * (copy + 1)))
                .collect(),
            Deed::Redirect(node) => vec![leaves(End(node), 0)],
            Deed::Corrupt => {
                self.copies += 1;
                vec![Leaves {
                    datagram: spoil(&datagram, self.copies),
                    spoiled: true,
                    ..leaves(to, 0)
                }]
            }
        }
    }
}

/// What a liar says in place of what it would.
pub(crate) type Say = Box<dyn FnMut(&mut Context<'_>, Spoken) -> Vec<Spoken>>;

/// A lie of a scenario: about which datagrams, and what is said.
pub(crate) struct Told {
    pub rule: Rule,
    pub say: Say,
}

/// A liar whose lies a scenario wrote.
pub(crate) struct Scripted {
    pub lies: Vec<Told>,
}

impl Liar for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn on_send(&mut self, context: &mut Context<'_>, spoken: Spoken) -> Vec<Spoken> {
        let seen = Sighting {
            now_ns: context.now_ns,
            from: End(context.me.index()),
            to: spoken.to,
            kind: spoken.kind,
            view: spoken.view,
            slot: spoken.slot,
        };
        let lie = self
            .lies
            .iter_mut()
            .find_map(|lie| lie.rule.takes(&seen).then_some(lie));
        match lie {
            Some(lie) => (lie.say)(context, spoken),
            None => vec![spoken],
        }
    }
}
