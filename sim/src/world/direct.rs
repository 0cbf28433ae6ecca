//! A world that follows a scenario instead of drawn faults.

use wire::ids::Slot;

use super::{Event, World};
use crate::liars::Liar;
use crate::plan::Plan;
use crate::scenario::director::{Check, Director, Scripted, Standing, Told};
use crate::user;

/// A liar and its replica.
type Seated = (usize, Box<dyn Liar>);

impl World {
    /// A world of a scenario's plan, under its director.
    pub(crate) fn directed(
        plan: Plan,
        director: Director,
        scripts: Vec<Vec<user::Scripted>>,
        (lies, seated): (Vec<(usize, Told)>, Vec<Seated>),
    ) -> World {
        let mut world = World::new(plan);
        for (user, script) in scripts.into_iter().enumerate() {
            world.users[user].follow(script);
            world.wake_user(user);
        }
        for (check, (at_ns, _)) in director.checks.iter().enumerate() {
            world.at(*at_ns, Event::Check { check });
        }
        world.director = Some(director);
        for (node, liar) in seated {
            world.seat(node, liar);
        }
        let mut by_liar = std::collections::BTreeMap::<usize, Vec<Told>>::new();
        for (liar, told) in lies {
            by_liar.entry(liar).or_default().push(told);
        }
        for (liar, lies) in by_liar {
            world.seat(liar, Box::new(Scripted { lies }));
        }
        world
    }

    fn standing(&self, name: usize) -> Standing {
        Standing {
            name,
            answered: self.judge.acknowledged(),
            decided: self.judge.known_decided(),
        }
    }

    /// One expectation of a scenario, whose time has come.
    pub(super) fn check(&mut self, check: usize) -> Result<(), String> {
        let Some(director) = &self.director else {
            return Ok(());
        };
        let check = director.checks[check].1.clone();
        let at_ms = (self.now - crate::plan::BEGIN_NS) as f64 / 1e6;
        let unmet = |text: String| Err(format!("expected at {at_ms} ms: {text}"));
        let decided = self.judge.known_decided();
        match check {
            Check::Decided(None, slot) if decided < slot => {
                unmet(format!("slot {slot} decided, only {decided} is"))
            }
            Check::Decided(Some(node), slot) => {
                let server = self.nodes[node].server.as_ref();
                let decided = server.map_or(Slot(0), |server| server.summary().decided);
                if decided < slot {
                    return unmet(format!("slot {slot} decided by {node}, only {decided} is"));
                }
                Ok(())
            }
            Check::Undecided(slot) if decided >= slot => {
                unmet(format!("slot {slot} undecided, {decided} is decided"))
            }
            Check::View(node, view) => {
                let server = self.nodes[node].server.as_ref();
                let found = server.map(|server| server.summary().view);
                if found != Some(view) {
                    return unmet(format!("replica {node} in view {view}, it is in {found:?}"));
                }
                Ok(())
            }
            Check::Silent(node, wanted) => {
                let server = self.nodes[node].server.as_ref();
                let until = server.map(|server| server.summary().silent_until);
                if until.is_none_or(|until| until.is_some() != wanted) {
                    let wanted = if wanted {
                        "silent"
                    } else {
                        "up and not silent"
                    };
                    return unmet(format!("replica {node} {wanted}, it is so until {until:?}"));
                }
                Ok(())
            }
            Check::Refused(node, least) => {
                let server = self.nodes[node].server.as_ref();
                let refused = server.map_or(0, |server| server.rejected());
                if refused < least {
                    return unmet(format!(
                        "{least} datagrams refused by {node}, not {refused}"
                    ));
                }
                Ok(())
            }
            Check::NoneRefused(node) => {
                let server = self.nodes[node].server.as_ref();
                match server.map_or(0, |server| server.rejected()) {
                    0 => Ok(()),
                    refused => unmet(format!("nothing refused by {node}, not {refused}")),
                }
            }
            Check::Lost(node) => {
                if !self.strikes.found_lost.contains(&node) {
                    return unmet(format!("replica {node} to find that its disk is lost"));
                }
                Ok(())
            }
            Check::Answered(user) => {
                let open = self.users[user].open().count();
                if open > 0 {
                    return unmet(format!(
                        "client {user} answered, {open} operations are open"
                    ));
                }
                Ok(())
            }
            Check::Fenced(user, reads) => {
                let fenced = self.users[user].fenced();
                if fenced != reads {
                    return unmet(format!(
                        "{reads} fenced reads of client {user}, not {fenced}"
                    ));
                }
                Ok(())
            }
            Check::Executed(operations) => {
                let executed = self.judge.model().at(self.judge.model().slot());
                let executed = executed.map_or(0, |(_, transactions)| transactions);
                if !operations.contains(&executed) {
                    let least = operations.start();
                    return unmet(format!("{least} operations executed, not {executed}"));
                }
                Ok(())
            }
            Check::Value(key, value) => {
                let held = self.judge.model().value(&key);
                if held != Some(&value[..]) {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let (key, value, held) = (text(&key), text(&value), held.map(text));
                    return unmet(format!("{key:?} holds {value:?}, not {held:?}"));
                }
                Ok(())
            }
            Check::Remember(name) => {
                let standing = self.standing(name);
                if let Some(director) = &mut self.director {
                    director.remembered.push(standing);
                }
                Ok(())
            }
            Check::Progress(name, wanted) => {
                let now = self.standing(name);
                let mut remembered = self.director.iter().flat_map(|d| &d.remembered);
                let then = remembered.find(|standing| standing.name == name);
                let Some(then) = then else {
                    return Ok(());
                };
                if wanted && now.answered == then.answered {
                    return unmet("progress, nobody was answered".to_owned());
                }
                if !wanted && now.decided > then.decided {
                    let (then, now) = (then.decided, now.decided);
                    return unmet(format!("no progress after slot {then}, {now} is decided"));
                }
                Ok(())
            }
            Check::Decided(..) | Check::Undecided(_) => Ok(()),
        }
    }
}
