//! What happened in a run, kept for pictures: messages with both of their ends, and marks.

use wire::header::{Direction, Header, Kind};
use wire::ids::{Slot, View};

use crate::network::End;

/// Messages and marks that are kept at most, each.
const KEPT_MAX: usize = 50_000;

/// Times of the world between which things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from_ns: u64,
    pub until_ns: u64,
}

impl Window {
    /// From the beginning to the end.
    pub const ALL: Window = Window {
        from_ns: 0,
        until_ns: u64::MAX,
    };

    /// Whether a time lies in it.
    pub fn has(&self, at_ns: u64) -> bool {
        (self.from_ns..=self.until_ns).contains(&at_ns)
    }
}

/// One datagram, or one copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub from: End,
    pub to: End,
    pub kind: Kind,
    pub view: View,
    pub slot: Slot,
    pub sent_ns: u64,
    /// `None`: it was lost.
    pub arrives_ns: Option<u64>,
    pub spoiled: bool,
}

/// Something that happens at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Starts,
    Crashes,
    Pauses,
    Resumes,
    /// Everything up to this slot is on the disk.
    Durable(Slot),
    Decides(Slot),
    Enters(View),
    Answered(Slot),
}

/// One mark on a lifeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at_ns: u64,
    pub end: End,
    pub what: What,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Record {
    pub window: Window,
    pub messages: Vec<Message>,
    pub marks: Vec<Mark>,
    /// What did not fit.
    pub left_out: u64,
}

impl Record {
    /// An empty record of a window.
    pub fn new(window: Window) -> Record {
        Record {
            window,
            messages: Vec::new(),
            marks: Vec::new(),
            left_out: 0,
        }
    }

    /// The last time at which anything was sent or happened.
    pub fn end_ns(&self) -> u64 {
        let sent = self.messages.iter().map(|message| message.sent_ns);
        let marks = self.marks.iter().map(|mark| mark.at_ns);
        sent.chain(marks).max().unwrap_or(0)
    }

    /// A copy of a datagram is on its way, or lost.
    pub fn sent(
        &mut self,
        ends: (End, End),
        datagram: &[u8],
        sent_ns: u64,
        arrives_ns: Option<u64>,
        spoiled: bool,
    ) {
        let arrives = arrives_ns.is_some_and(|at| self.window.has(at));
        if !arrives && !self.window.has(sent_ns) {
            return;
        }
        let Ok((header, kind, _)) = Header::split(datagram) else {
            return;
        };
        if self.messages.len() >= KEPT_MAX {
            self.left_out += 1;
            return;
        }
        let (view, slot) = match kind.direction() {
            Direction::BetweenNodes => (header.peer_route().view(), header.peer_route().slot()),
            Direction::ToClient => (header.reply_route().view(), header.reply_route().slot()),
            Direction::ToNode => (View(0), Slot(0)),
        };
        self.messages.push(Message {
            from: ends.0,
            to: ends.1,
            kind,
            view,
            slot,
            sent_ns,
            arrives_ns,
            spoiled,
        });
    }

    /// Something happened at an end.
    pub fn mark(&mut self, at_ns: u64, end: End, what: What) {
        // Who is up when the window begins follows from what came before.
        let lasts = matches!(
            what,
            What::Starts | What::Crashes | What::Pauses | What::Resumes
        );
        if !lasts && !self.window.has(at_ns) {
            return;
        }
        if self.marks.len() >= KEPT_MAX {
            self.left_out += 1;
            return;
        }
        self.marks.push(Mark { at_ns, end, what });
    }
}
