//! What must hold at certain times of a scenario.

use wire::ids::{Slot, View};

use super::Scenario;
use super::director::Check;
use crate::plan::MS;

impl Scenario {
    /// By now some honest replica has decided this slot.
    pub fn expect_decided(self, slot: u64) -> Scenario {
        self.check(Check::Decided(None, Slot(slot)))
    }

    /// By now this replica has decided this slot in its present process.
    pub fn expect_decided_by(self, node: usize, slot: u64) -> Scenario {
        self.check(Check::Decided(Some(node), Slot(slot)))
    }

    /// By now no honest replica has decided this slot.
    pub fn expect_undecided(self, slot: u64) -> Scenario {
        self.check(Check::Undecided(Slot(slot)))
    }

    /// By now this replica is in this view.
    pub fn expect_view(self, node: usize, view: u64) -> Scenario {
        self.check(Check::View(node, View(view)))
    }

    /// By now everything that this client asked is answered.
    pub fn expect_answered(self, client: usize) -> Scenario {
        self.check(Check::Answered(client))
    }

    /// By now exactly so many reads of this client ended by their fence, without the order.
    pub fn expect_fenced(self, client: usize, reads: u64) -> Scenario {
        self.check(Check::Fenced(client, reads))
    }

    /// By now this replica's present process has refused so many datagrams at least.
    pub fn expect_refused(self, node: usize, least: u64) -> Scenario {
        self.check(Check::Refused(node, least))
    }

    /// By now this replica has found that its disk was put back, and has ended (R6).
    pub fn expect_lost(self, node: usize) -> Scenario {
        self.check(Check::Lost(node))
    }

    /// By now this replica's present process has refused no datagram.
    pub fn expect_none_refused(self, node: usize) -> Scenario {
        self.check(Check::NoneRefused(node))
    }

    /// By now the decided log has executed so many operations.
    pub fn expect_executed(self, operations: u64) -> Scenario {
        self.check(Check::Executed(operations..=operations))
    }

    /// By now it has executed so many operations at least.
    pub fn expect_executed_at_least(self, operations: u64) -> Scenario {
        self.check(Check::Executed(operations..=u64::MAX))
    }

    /// The table of the decided log holds this now.
    pub fn expect_value(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Scenario {
        let (key, value) = (key.as_ref().into(), value.as_ref().into());
        self.check(Check::Value(key, value))
    }

    /// From now on, some client is answered within this time.
    pub fn expect_progress_within_ms(mut self, ms: u64) -> Scenario {
        let until_ns = self.now_ns + ms * MS;
        let name = self.checks.len();
        self.checks.push((self.now_ns, Check::Remember(name)));
        self.checks.push((until_ns, Check::Progress(name, true)));
        self.ends_ns = self.ends_ns.max(until_ns);
        self
    }

    /// From now on, nothing is decided for this time.
    pub fn expect_no_progress_for_ms(mut self, ms: u64) -> Scenario {
        let until_ns = self.now_ns + ms * MS;
        let name = self.checks.len();
        self.checks.push((self.now_ns, Check::Remember(name)));
        self.checks.push((until_ns, Check::Progress(name, false)));
        self.ends_ns = self.ends_ns.max(until_ns);
        self
    }

    /// The run ends with a violation that holds this text.
    pub fn expect_violation(mut self, text: &str) -> Scenario {
        self.violation = Some(text.to_owned());
        self
    }

    /// From now on, within this time everyone is up, caught up, and every operation is answered.
    pub fn expect_settled_within_ms(mut self, ms: u64) -> Scenario {
        self.settles = true;
        self.ends_ns = self.ends_ns.max(self.now_ns + ms * MS);
        self
    }
}
