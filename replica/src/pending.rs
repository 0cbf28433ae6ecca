//! Requests that wait at a replica which does not order them (§9.4): one of each client, and one more
//! for each replica that stands up for the client. They are forwarded to the leader, then to all;
//! while one waits, the leader is on trial (T1, T2). At the leader wait requests that it has ordered
//! once already.
//!
//! What is held stays until it is executed, or until execution says that it cannot be any more: that
//! is asked before each step, for a client may give up at any time what others stand up for. Nothing
//! that comes later takes its place, and what one source says keeps nothing out that another one
//! does: an old request from a liar, or the client's own frames, hide nothing by which the leader is
//! judged.
//!
//! Whoever sends garbage gains nothing: what a block has executed, whatever came of it, waits no
//! more, and every correct leader puts every verified request into a block.

use std::collections::{BTreeMap, BTreeSet};

use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId};
use wire::request::RequestView;

/// Clients, and bytes of their requests, of one source at most; the newest are not taken.
const CLIENTS_MAX: usize = 4096;
const BYTES_MAX: usize = 8 << 20;
/// Requests handled in one turn.
const TURN_MAX: usize = 64;

/// What names a request, for execution to say whether any part of it is still to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub client: PublicKey,
    pub session: SessionId,
    pub first: Sequence,
    pub count: u16,
    /// It moves the window of its session before it executes (9.3).
    pub acked: Sequence,
    pub open: bool,
}

impl Question {
    fn about(request: &RequestView<'_>) -> Question {
        Question {
            client: *request.client(),
            session: request.session(),
            first: request.first_sequence(),
            count: request.count() as u16,
            acked: request.acked_low(),
            open: request.is_open(),
        }
    }
}

/// What comes next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Execution is to be asked whether it is still open.
    Ask,
    /// It was asked; again at that time, for nothing may hang on one answer.
    Asked,
    /// It is open.
    Act,
}

#[derive(Debug)]
struct Item {
    request: Question,
    frame: Vec<u8>,
    step: Step,
    /// When the step is due.
    at: Instant,
    /// Since when the leader owes an answer: it was forwarded then for the first time.
    since: Option<Instant>,
    /// When it was last forwarded.
    sent: Option<Instant>,
    /// All have it.
    spread: bool,
    /// It was open after T_req, at that time.
    overdue: Option<Instant>,
}

/// What is due for one waiting request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask execution whether it is still to be executed.
    Recheck(Question),
    /// Send the frame to the leader, or to all.
    Forward { frame: Vec<u8>, to_all: bool },
}

/// How long each step may take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// T_fwd: from arrival to the leader.
    pub forward_ns: u64,
    /// T_req: from there to a wish for another leader.
    pub request_ns: u64,
}

impl Patience {
    /// Between two steps: the network may have lost what was sent.
    fn again_ns(self) -> u64 {
        self.request_ns / 8
    }
}

/// Who stands up for a request: a replica, or the client alone.
type Source = Option<NodeId>;

/// The order is that of the keys, the same in every run.
type Key = (PublicKey, Source);

/// What items of one source take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    items: usize,
    bytes: usize,
}

/// Clocks that run, and those that ran out, each oldest first.
#[derive(Debug, Default)]
struct Clocks {
    since: BTreeSet<(Instant, Key)>,
    overdue: BTreeSet<(Instant, Key)>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pending {
    items: BTreeMap<Key, Item>,
    shares: BTreeMap<Source, Share>,
    steps: BTreeSet<(Instant, Key)>,
    requests: Clocks,
    opens: Clocks,
    /// When an OPEN was last executed. That shows that the leader serves newcomers, and the clocks of
    /// all OPENs begin anew.
    opened: Instant,
}

impl Pending {
    pub fn new() -> Pending {
        Pending::default()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes a verified request in, unless another one of its client and source waits already.
    pub fn push(
        &mut self,
        now: Instant,
        request: &RequestView<'_>,
        source: Source,
        patience: Patience,
    ) {
        let question = Question::about(request);
        let (key, frame) = ((question.client, source), request.bytes());
        let share = self.shares.entry(source).or_default();
        if self.items.contains_key(&key)
            || share.items == CLIENTS_MAX
            || share.bytes + frame.len() > BYTES_MAX
        {
            return;
        }
        let item = Item {
            request: question,
            frame: frame.to_vec(),
            step: Step::Ask,
            at: now.after_ns(patience.forward_ns),
            since: None,
            sent: None,
            spread: false,
            overdue: None,
        };
        share.items += 1;
        share.bytes += frame.len();
        self.put(key, item);
    }

    fn clocks(&mut self, request: &Question) -> &mut Clocks {
        if request.open {
            &mut self.opens
        } else {
            &mut self.requests
        }
    }

    /// Puts an item where [`Pending::lift`] took one from, or a new one.
    fn put(&mut self, key: Key, item: Item) {
        self.steps.insert((item.at, key));
        let clocks = self.clocks(&item.request);
        clocks.since.extend(item.since.map(|at| (at, key)));
        clocks.overdue.extend(item.overdue.map(|at| (at, key)));
        self.items.insert(key, item);
    }

    /// Takes an item out, to be changed and put back, or let go.
    fn lift(&mut self, key: &Key) -> Option<Item> {
        let item = self.items.remove(key)?;
        self.steps.remove(&(item.at, *key));
        let clocks = self.clocks(&item.request);
        if let Some(at) = item.since {
            clocks.since.remove(&(at, *key));
        }
        if let Some(at) = item.overdue {
            clocks.overdue.remove(&(at, *key));
        }
        Some(item)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(item) = self.lift(key) {
            let share = self.shares.get_mut(&key.1).expect("it has an item");
            share.items -= 1;
            share.bytes -= item.frame.len();
        }
    }

    /// What waits of a client, by source.
    fn of(&self, client: PublicKey) -> impl Iterator<Item = (&Key, &Item)> {
        let last = Some(NodeId(u16::MAX));
        self.items.range((client, None)..=(client, last))
    }

    /// A request was in a block that is executed; so no part of it waits any more.
    pub fn executed(&mut self, now: Instant, request: &RequestView<'_>) {
        if request.is_open() {
            self.opened = now;
        }
        let until = (request.first_sequence().0).saturating_add(request.count() as u64);
        let is_done = |item: &Question| {
            if item.open {
                return request.is_open();
            }
            let same = !request.is_open() && item.session == request.session();
            same && request.first_sequence() <= item.first && item.first.0 < until
        };
        let done = self.of(*request.client());
        let done = done.filter(|(_, item)| is_done(&item.request));
        for key in done.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    /// Execution's answer to a [`Due::Recheck`]. True for an OPEN that waits no more: its client has
    /// a session and does not know it.
    pub fn rechecked(&mut self, now: Instant, question: &Question, waits: bool) -> bool {
        let asked = self.of(question.client);
        let asked = asked.filter(|(_, item)| item.request == *question && item.step == Step::Asked);
        let keys = asked.map(|(key, _)| *key).collect::<Vec<_>>();
        for key in &keys {
            if !waits {
                self.remove(key);
            } else if let Some(item) = self.lift(key) {
                let (step, at) = (Step::Act, now);
                self.put(*key, Item { step, at, ..item });
            }
        }
        question.open && !waits && !keys.is_empty()
    }

    /// A new leader has everything before it (V5), or another state took the place of the own one:
    /// what waits is judged anew.
    pub fn restart(&mut self, now: Instant) {
        for item in self.items.values_mut() {
            (item.step, item.at) = (Step::Ask, now);
            (item.since, item.sent, item.overdue) = (None, None, None);
            item.spread = false;
        }
        (self.requests, self.opens) = (Clocks::default(), Clocks::default());
        self.steps = self.items.keys().map(|key| (now, *key)).collect();
    }

    /// What is due now, a bounded number of things.
    pub fn due(&mut self, now: Instant, patience: Patience) -> Vec<Due> {
        let mut due = Vec::new();
        while due.len() < TURN_MAX
            && let Some(&(at, key)) = self.steps.first()
            && at <= now
            && let Some(mut item) = self.lift(&key)
        {
            if item.step == Step::Act {
                due.extend(self.act(now, &key, &mut item, patience));
                item.step = Step::Ask;
            } else {
                due.push(Due::Recheck(item.request));
                item.step = Step::Asked;
            }
            item.at = now.after_ns(patience.again_ns().max(1));
            self.put(key, item);
        }
        due
    }

    /// The request is open.
    fn act(&self, now: Instant, key: &Key, item: &mut Item, patience: Patience) -> Option<Due> {
        let since = *item.since.get_or_insert(now);
        let since = if item.request.open {
            since.max(self.opened)
        } else {
            since
        };
        let waited_ns = now.since_ns(since);
        let late = waited_ns >= patience.request_ns;
        item.overdue = late.then_some(now);
        let to_all = !item.spread && waited_ns >= patience.request_ns / 2;
        item.spread |= to_all;
        // One of the copies that wait for several sources is enough.
        let copies = self.of(key.0).map(|(_, copy)| copy);
        let mut copies = copies.filter(|copy| copy.request == item.request);
        let recent = |at| now.since_ns(at) < patience.again_ns();
        if !to_all && copies.any(|copy| copy.sent.is_some_and(recent)) {
            return None;
        }
        item.sent = Some(now);
        Some(Due::Forward {
            frame: item.frame.clone(),
            to_all,
        })
    }

    /// When [`Pending::due`] has something to do.
    pub fn wake_at(&self) -> Instant {
        let first = self.steps.first();
        first.map_or(Instant(u64::MAX), |&(at, _)| at)
    }

    /// Since when the leader has owed an answer to the oldest request.
    pub fn oldest(&self) -> Option<Instant> {
        let first = |clocks: &Clocks| clocks.since.first().map(|&(at, _)| at);
        let open = first(&self.opens).map(|at| at.max(self.opened));
        first(&self.requests).into_iter().chain(open).min()
    }

    /// T2: whether some request waits longer than T_req.
    pub fn is_overdue(&self) -> bool {
        let open = self.opens.overdue.last();
        !self.requests.overdue.is_empty() || open.is_some_and(|&(at, _)| at > self.opened)
    }
}

#[cfg(test)]
mod tests {
    use wire::ops::{Operation, OperationsBuilder};
    use wire::request::{RequestFields, encode_open, encode_request};

    use super::*;

    const PATIENCE: Patience = Patience {
        forward_ns: 10,
        request_ns: 400,
    };
    const CLIENT: PublicKey = PublicKey([3; 32]);

    fn request(session: u64, first: u64) -> Vec<u8> {
        let fields = RequestFields {
            session: SessionId(session),
            first_sequence: Sequence(first),
            acked_low: Sequence(0),
            flags: 0,
            count: 1,
        };
        let mut operations = OperationsBuilder::new();
        operations.push(&Operation::Get { key: b"k" });
        let mut frame = Vec::new();
        encode_request(&mut frame, CLIENT, fields, operations.bytes());
        frame
    }

    fn open(client: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        encode_open(&mut frame, PublicKey([client; 32]), wire::ids::Slot(0));
        frame
    }

    /// A replica with what waits there, and execution, which knows which requests are open.
    #[derive(Default)]
    struct Story {
        pending: Pending,
        now: u64,
        closed: Vec<Vec<u8>>,
        /// When what was forwarded, to all or to the leader.
        sent: Vec<(u64, Vec<u8>, bool)>,
    }

    impl Story {
        fn push(&mut self, frame: &[u8], source: Source) {
            let view = RequestView::parse(frame).unwrap();
            let now = Instant(self.now);
            self.pending.push(now, &view, source, PATIENCE);
        }

        fn run_until(&mut self, until: u64) {
            while self.now < until {
                self.now += 1;
                let now = Instant(self.now);
                let due = self.pending.due(now, PATIENCE);
                assert!(due.is_empty() || self.pending.wake_at() >= now);
                for due in due {
                    match due {
                        Due::Recheck(question) => {
                            let mut closed = self.closed.iter();
                            let closed = closed.any(|frame| {
                                let request = RequestView::parse(frame).unwrap();
                                Question::about(&request) == question
                            });
                            self.pending.rechecked(now, &question, !closed);
                        }
                        Due::Forward { frame, to_all } => {
                            self.sent.push((self.now, frame, to_all));
                        }
                    }
                }
            }
        }

        fn is_overdue(&self) -> bool {
            self.pending.is_overdue()
        }

        fn executed(&mut self, frame: &[u8]) {
            let request = RequestView::parse(frame).unwrap();
            self.pending.executed(Instant(self.now), &request);
        }

        fn is_empty(&self) -> bool {
            let pending = &self.pending;
            let clocks = [&pending.requests, &pending.opens];
            let clocks = clocks.map(|clocks| clocks.since.len() + clocks.overdue.len());
            let bytes = pending.shares.values().map(|share| share.bytes);
            pending.is_empty()
                && clocks == [0, 0]
                && pending.steps.is_empty()
                && bytes.sum::<usize>() == 0
        }
    }

    #[test]
    fn what_waits_is_forwarded_then_spread_and_the_leader_judged_by_it() {
        let mut story = Story::default();
        let frame = request(7, 5);
        story.push(&frame, None);
        story.run_until(9);
        assert!(story.sent.is_empty() && story.pending.oldest().is_none());
        story.run_until(405);
        assert!(!story.is_overdue());
        assert!(story.sent.iter().all(|(_, sent, _)| *sent == frame));
        let spread = story.sent.iter().filter(|(.., to_all)| *to_all);
        let spread = spread.map(|(at, ..)| *at).collect::<Vec<_>>();
        assert!(matches!(spread[..], [200..=260]), "{spread:?}");
        assert_eq!(story.pending.oldest(), Some(Instant(story.sent[0].0)));
        story.run_until(480);
        assert!(story.is_overdue());
        story.executed(&frame);
        assert!(!story.is_overdue() && story.is_empty());
    }

    /// Neither a liar that stands up for what was executed long ago, nor the client's other frames.
    #[test]
    fn nothing_takes_the_place_of_what_waits() {
        let (old, wanted, bait) = (request(7, 1), request(7, 1025), request(u64::MAX, 1025));
        for early in [false, true] {
            let mut story = Story {
                closed: vec![old.clone(), bait.clone()],
                ..Story::default()
            };
            for now in 0..500 {
                story.run_until(now);
                if early {
                    story.push(&old, Some(NodeId(0)));
                }
                story.push(&wanted, None);
                story.push(&bait, None);
                story.push(&old, Some(NodeId(0)));
            }
            assert!(story.is_overdue());
            // What the client itself sends keeps nothing out that a replica stands up for.
            let mut story = Story {
                closed: vec![bait.clone()],
                ..Story::default()
            };
            for now in 0..100 {
                story.run_until(now);
                story.push(&bait, None);
                story.push(&wanted, Some(NodeId(2)));
            }
            assert!(story.sent.iter().all(|(_, frame, _)| *frame == wanted));
            assert!(!story.sent.is_empty());
        }
    }

    /// It moves the window of its session, or loses the session, when others stand up for it: no
    /// leader can order that any more.
    #[test]
    fn a_client_that_gives_up_puts_nobody_on_trial() {
        let frame = request(7, 5);
        for given_up_at in [5, 15, 100, 250, 399, 460] {
            let mut story = Story::default();
            story.push(&frame, None);
            story.run_until(given_up_at);
            story.closed.push(frame.clone());
            for _ in 0..1000 {
                let before = story.is_overdue();
                story.run_until(story.now + 1);
                assert!(before || !story.is_overdue(), "{given_up_at}");
            }
            assert!(story.is_empty(), "{given_up_at}");
        }
    }

    /// One copy for all who stand up for it, whenever each came; once executed, none is left.
    #[test]
    fn copies_of_several_sources_are_one_request() {
        let mut story = Story::default();
        let frame = request(7, 5);
        for (now, source) in [(0, None), (13, Some(NodeId(1))), (30, Some(NodeId(3)))] {
            story.run_until(now);
            story.push(&frame, source);
        }
        assert_eq!(story.pending.len(), 3);
        story.run_until(55);
        assert_eq!(story.sent.len(), 1);
        story.run_until(200);
        assert!((3..=4).contains(&story.sent.len()), "{:?}", story.sent);
        story.executed(&frame);
        assert!(story.is_empty());
    }

    /// Newcomers wait for their turn, and another one's shows that there are turns.
    #[test]
    fn an_open_of_another_client_gives_the_leader_time() {
        let mut story = Story::default();
        story.push(&open(1), None);
        for _ in 0..20 {
            story.run_until(story.now + 300);
            assert!(!story.is_overdue());
            story.executed(&open(2));
            let oldest = story.pending.oldest();
            assert_eq!(oldest, Some(Instant(story.now)));
        }
        story.run_until(story.now + 500);
        assert!(story.is_overdue());
        story.executed(&open(2));
        assert!(!story.is_overdue());
        story.executed(&open(1));
        assert!(story.is_empty());
    }

    #[test]
    fn a_new_leader_has_all_its_time() {
        let mut story = Story::default();
        let frame = request(7, 5);
        story.push(&frame, None);
        story.push(&frame, Some(NodeId(2)));
        story.run_until(500);
        assert!(story.is_overdue());
        story.pending.restart(Instant(500));
        assert!(!story.is_overdue() && story.pending.oldest().is_none());
        let before = story.sent.len();
        story.run_until(502);
        assert_eq!(story.sent.len(), before + 1, "at once, and once");
        story.run_until(880);
        assert!(!story.is_overdue());
        story.executed(&frame);
        assert!(story.is_empty());
    }

    #[test]
    fn the_room_of_one_source_is_not_that_of_another() {
        let mut story = Story::default();
        let full = Share {
            items: CLIENTS_MAX,
            bytes: 0,
        };
        story.pending.shares.insert(None, full);
        story.push(&request(7, 5), None);
        assert!(story.pending.is_empty());
        story.push(&request(7, 5), Some(NodeId(1)));
        assert_eq!(story.pending.len(), 1);
    }
}
