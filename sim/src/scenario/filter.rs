//! Which datagrams a rule of a scenario is about.

use wire::header::Kind;

use crate::plan::{BEGIN_NS, MS};

/// Which datagrams a rule is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub(super) kind: Option<Kind>,
    pub(super) from: Option<Party>,
    pub(super) to: Option<Party>,
    pub(super) view: Option<u64>,
    pub(super) slots: Option<(u64, u64)>,
    pub(super) skip: u64,
    pub(super) first: Option<u64>,
    pub(super) until_ns: Option<u64>,
}

/// One end, by its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    Replica(usize),
    Client(usize),
}

impl Party {
    pub(super) fn end(self, nodes: usize) -> usize {
        match self {
            Party::Replica(node) => node,
            Party::Client(user) => nodes + user,
        }
    }
}

/// Datagrams of a kind.
pub fn kind(kind: Kind) -> Filter {
    Filter {
        kind: Some(kind),
        ..Filter::default()
    }
}

/// All datagrams.
pub fn any() -> Filter {
    Filter::default()
}

impl Filter {
    /// Sent by this replica.
    pub fn from(self, node: usize) -> Filter {
        let from = Some(Party::Replica(node));
        Filter { from, ..self }
    }

    /// Sent to this replica.
    pub fn to(self, node: usize) -> Filter {
        let to = Some(Party::Replica(node));
        Filter { to, ..self }
    }

    /// Sent by this client.
    pub fn from_client(self, client: usize) -> Filter {
        let from = Some(Party::Client(client));
        Filter { from, ..self }
    }

    /// Sent to this client.
    pub fn to_client(self, client: usize) -> Filter {
        let to = Some(Party::Client(client));
        Filter { to, ..self }
    }

    /// Of this view.
    pub fn view(self, view: u64) -> Filter {
        let view = Some(view);
        Filter { view, ..self }
    }

    /// Of this slot.
    pub fn slot(self, slot: u64) -> Filter {
        self.slots(slot, slot)
    }

    /// Of slots `first` to `last`.
    pub fn slots(self, first: u64, last: u64) -> Filter {
        let slots = Some((first, last));
        Filter { slots, ..self }
    }

    /// Not the first `count` that match.
    pub fn skip(self, skip: u64) -> Filter {
        Filter { skip, ..self }
    }

    /// Only the first `count` that match, after those skipped.
    pub fn first(self, count: u64) -> Filter {
        let first = Some(count);
        Filter { first, ..self }
    }

    /// Only before this time.
    pub fn until_ms(self, ms: u64) -> Filter {
        let until_ns = Some(BEGIN_NS + ms * MS);
        Filter { until_ns, ..self }
    }
}
