//! The ends that ask: honest users and what follows from their answers, and clients that lie.

use wire::ids::{Instant, NodeId, PublicKey};

use super::{Event, World};
use crate::liars::clients::{ClientKind, Line, LyingClient};
use crate::network::End;
use crate::plan::{BEGIN_NS, MS, US};
use crate::probes::Probe;
use crate::random::Random;
use crate::record::What;
use crate::user::{Mail, User};

/// A client that lies: its keys, and what it says with them.
pub(super) struct Stranger {
    liar: Box<dyn LyingClient>,
    lines: Vec<Line>,
    random: Random,
    next_ns: u64,
}

impl World {
    /// Everything that follows from what a user was told or asked.
    pub(super) fn mail(&mut self, user: usize, mut mail: Mail) -> Result<(), String> {
        loop {
            let ended = self.users[user].ended(Instant(self.now), &mut mail);
            let quiet = ended.is_empty();
            for ended in &ended {
                self.mark(End(self.nodes.len() + user), What::Answered(ended.slot));
                self.judge.ended(ended)?;
            }
            let after = self.judge.acknowledged_slot();
            self.users[user].ask(Instant(self.now), after, &mut mail);
            if quiet {
                break;
            }
        }
        let from = End(self.nodes.len() + user);
        for (to, datagram) in std::mem::take(&mut mail.datagrams) {
            self.send(from, End(to.index()), datagram);
        }
        self.wake_user(user);
        Ok(())
    }

    pub(super) fn wake_user(&mut self, user: usize) {
        let due = self.users[user].wake_at().0.max(self.now + US);
        if due < self.user_wakes[user] {
            self.user_wakes[user] = due;
            self.at(due, Event::WakeUser { user });
        }
    }

    /// A datagram reaches a user, or a client that lies.
    pub(super) fn answered(&mut self, user: usize, datagram: &[u8]) -> Result<(), String> {
        let now = Instant(self.now);
        if user < self.users.len() {
            let mut mail = Mail::default();
            self.users[user].receive(now, datagram, &mut mail);
            return self.mail(user, mail);
        }
        let stranger = user - self.users.len();
        let lines = &mut self.strangers[stranger].lines;
        let _ = lines.iter_mut().any(|line| line.receive(now, datagram));
        self.strangers_say(stranger);
        Ok(())
    }

    /// Lets the plan's lying clients in.
    pub(super) fn let_strangers_in(&mut self) {
        for kind in self.plan.faults.clients.clone() {
            self.let_in(kind);
        }
    }

    fn let_in(&mut self, kind: ClientKind) {
        let stranger = self.strangers.len();
        let mut random = Random::new(self.plan.seed ^ 0xc11e_0000 ^ stranger as u64);
        let liar = kind.make(&mut random);
        let lines = (0..liar.keys()).map(|_| Line::new(&self.committee, &mut random));
        let lines = lines.collect();
        self.strangers.push(Stranger {
            liar,
            lines,
            random,
            next_ns: BEGIN_NS + 20 * MS,
        });
        self.at(BEGIN_NS + MS, Event::WakeStranger { stranger });
    }

    /// A lying client has its turn; it ends when the faults do.
    pub(super) fn wake_stranger(&mut self, stranger: usize) {
        if self.now >= self.plan.heal_ns {
            return;
        }
        let others = self.users.iter().map(User::identity);
        let others = others.collect::<Vec<PublicKey>>();
        let now = self.now;
        let Stranger {
            liar,
            lines,
            random,
            next_ns,
        } = &mut self.strangers[stranger];
        lines.iter_mut().for_each(|line| line.tick(Instant(now)));
        if now >= *next_ns && !others.is_empty() {
            *next_ns = now + liar.turn(lines, &others, random).max(US);
            self.probes.hit(Probe::ClientLied);
        }
        let due = self.strangers[stranger].next_ns.min(now + 5 * MS);
        self.strangers_say(stranger);
        self.at(due.max(now + US), Event::WakeStranger { stranger });
    }

    fn strangers_say(&mut self, stranger: usize) {
        let from = End(self.nodes.len() + self.users.len() + stranger);
        let lines = &mut self.strangers[stranger].lines;
        let sent = lines.iter_mut().flat_map(Line::take_sent);
        for (to, datagram) in sent.collect::<Vec<_>>() {
            self.send(from, End(NodeId(to as u16).index()), datagram);
        }
    }
}
