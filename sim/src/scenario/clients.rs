//! What the clients of a scenario ask.

use super::Scenario;
use crate::ask::{Ask, If};
use crate::user::Scripted;

impl Scenario {
    /// With room for so few sessions.
    pub fn sessions(mut self, max: usize) -> Scenario {
        self.sessions_max = max;
        self
    }
}

/// A client that is about to ask.
#[must_use]
pub struct Client {
    pub(super) scenario: Scenario,
    pub(super) client: usize,
}

impl Client {
    fn ask(self, ask: Ask) -> Scenario {
        self.add(ask, false)
    }

    fn add(mut self, ask: Ask, fenced: bool) -> Scenario {
        let scripts = &mut self.scenario.scripts;
        if scripts.len() <= self.client {
            scripts.resize_with(self.client + 1, Vec::new);
        }
        scripts[self.client].push(Scripted {
            at_ns: self.scenario.now_ns,
            ask,
            fenced,
        });
        self.scenario
    }

    /// Writes a value.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Scenario {
        self.ask(Ask::Put(key.as_ref().into(), value.as_ref().into()))
    }

    /// Reads, in the order of the log.
    pub fn get(self, key: impl AsRef<[u8]>) -> Scenario {
        self.ask(Ask::Get(key.as_ref().into()))
    }

    /// Reads with a fence, without the order (§9.6 b).
    pub fn get_fenced(self, key: impl AsRef<[u8]>) -> Scenario {
        self.add(Ask::Get(key.as_ref().into()), true)
    }

    /// Reads the entries of `from..to`, in the order of the log.
    pub fn scan(self, from: &str, to: &str, limit: u32) -> Scenario {
        self.ask(Ask::Scan(from.into(), to.into(), limit))
    }

    /// Reads the entries of `from..to` with a fence.
    pub fn scan_fenced(self, from: &str, to: &str, limit: u32) -> Scenario {
        self.add(Ask::Scan(from.into(), to.into(), limit), true)
    }

    /// Does all of it iff all conditions hold.
    pub fn txn(self, conditions: Vec<If>, asks: Vec<Ask>) -> Scenario {
        self.ask(Ask::Txn(conditions, asks))
    }

    /// Removes a key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Scenario {
        self.ask(Ask::Delete(key.as_ref().into()))
    }

    /// Writes a value iff the key holds `expected`, `None` for absent.
    pub fn cas(self, key: &str, expected: Option<&str>, value: &str) -> Scenario {
        let expected = expected.map(|bytes| bytes.into());
        self.ask(Ask::Cas(key.into(), expected, value.into()))
    }
}
