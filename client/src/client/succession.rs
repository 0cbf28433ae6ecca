//! Following the cluster into its next epoch (protocol G3).
//!
//! When the members change, the replicas speak under another committee and this client hears nobody any
//! more. It asks them what ended the epoch that it knows; the answer proves itself by that epoch's keys.
//! The session and all that is in flight go on: they are part of the state, and requests name no epoch.

use std::sync::Arc;

use wire::committee::Committee;
use wire::ids::{Instant, NodeId};
use wire::succession::{ANSWER_MAGIC, decode_answer, encode_ask};

use super::Client;
use crate::links::Links;
use crate::options::Outbox;
use crate::session::{Hints, Session};

/// Fewer than b+1 replicas were heard for so long, while something was awaited.
const PATIENCE_NS: u64 = 1_000_000_000;
const ASK_INTERVAL_NS: u64 = 250_000_000;
/// Answers looked at for each ask: each may cost q signatures.
const LOOKS: u32 = 4;

/// What is known of the epoch's end: so far nothing.
#[derive(Debug, Default)]
pub(super) struct Succession {
    lacking_since: Option<Instant>,
    ask_at: Instant,
    asked: usize,
    looks: u32,
    /// Under a new committee, and not linked with b+1 of it yet.
    is_renewed: bool,
}

impl Client {
    /// The committee of the newest epoch that this client knows.
    pub fn committee(&self) -> &Arc<Committee> {
        &self.committee
    }

    /// Whether a datagram is for [`Client::receive`] though it names no client: what ended an epoch.
    pub fn is_epoch_end(datagram: &[u8]) -> bool {
        datagram.starts_with(&ANSWER_MAGIC)
    }

    /// Asks one replica after the other while something is awaited and too few are heard.
    pub(super) fn ask_for_successor(&mut self, now: Instant, waiting: bool, out: &mut impl Outbox) {
        let heard = self.links.heard_within(now, PATIENCE_NS);
        let succession = &mut self.succession;
        if !waiting || heard >= self.quorum {
            succession.lacking_since = None;
            return;
        }
        let since = *succession.lacking_since.get_or_insert(now);
        if now < since.after_ns(PATIENCE_NS) || now < succession.ask_at {
            return;
        }
        succession.ask_at = now.after_ns(ASK_INTERVAL_NS);
        succession.looks = LOOKS;
        succession.asked = (succession.asked + 1) % self.committee.n();
        let ask = encode_ask(self.committee.cluster(), self.committee.epoch());
        out.send(NodeId(succession.asked as u16), &ask);
    }

    /// Goes over to the next committee, if this proves which one that is.
    pub(super) fn learn_successor(&mut self, datagram: &[u8]) {
        let Some(looks) = self.succession.looks.checked_sub(1) else {
            return;
        };
        self.succession.looks = looks;
        let Ok(link) = decode_answer(datagram) else {
            return;
        };
        if let Ok(next) = link.follow(&self.committee) {
            self.renew(Arc::new(next));
        }
    }

    /// What counts replicas begins anew: under one id may now be another one.
    fn renew(&mut self, committee: Arc<Committee>) {
        let (replicas, quorum) = (committee.n(), committee.b() + 1);
        let rejected = self.links.rejected();
        self.counters.rejected_datagrams += rejected;
        self.links = Links::new(&committee, &self.secret, &self.options);
        self.slots = Hints::new(replicas, quorum);
        self.views = Hints::new(replicas, quorum);
        self.window.renew(replicas, quorum);
        let needed = (committee.parameters().fenced_read(), quorum);
        self.reads.renew(replicas, needed, committee.epoch());
        if matches!(self.session, Session::Opening(_)) {
            self.session = Session::Linking;
        }
        self.quorum = quorum;
        self.pushback = None;
        self.committee = committee;
        self.succession = Succession {
            is_renewed: true,
            ..Succession::default()
        };
    }

    /// Sends all that is in flight again as soon as a result may come of it.
    pub(super) fn resume_after_renewal(&mut self, now: Instant) {
        if self.succession.is_renewed && self.links.up_count() >= self.quorum {
            self.succession.is_renewed = false;
            self.bundles.hurry(now);
        }
    }
}
