//! What one client asks in a scenario.

use super::Scenario;
use crate::user::{Ask, Scripted};

/// A client that is about to ask.
#[must_use]
pub struct Client {
    pub(super) scenario: Scenario,
    pub(super) client: usize,
}

impl Client {
    fn ask(mut self, ask: Ask) -> Scenario {
        let scripts = &mut self.scenario.scripts;
        if scripts.len() <= self.client {
            scripts.resize_with(self.client + 1, Vec::new);
        }
        scripts[self.client].push(Scripted {
            at_ns: self.scenario.now_ns,
            ask,
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
