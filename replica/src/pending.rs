//! Requests that wait at a replica which does not order them (§9.4): one of each client, and one more
//! for each replica that stands up for the client. They are forwarded to the leader, then to all;
//! while one waits, the leader is on trial (T1, T2). At the leader wait requests that it has ordered
//! once already.
//!
//! What is held stays until it is executed, or until execution says that it cannot be any more: that
//! is asked before each step, for a client may give up at any time what others stand up for. What one
//! source says takes no place from what another one does: an old request from a liar, or the client's
//! own frames, hide nothing by which the leader is judged. Only the client itself may name a lower
//! request than before: a leader that serves what followers happen to hold, and nothing else, is left
//! for the lowest.
//!
//! Whoever sends garbage gains nothing: what a block has executed, whatever came of it, waits no
//! more, and every correct leader puts every verified request into a block.

use std::collections::{BTreeMap, BTreeSet};

use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId};
use wire::request::RequestView;

/// Clients of one source at most, and bytes of their requests beyond those that each may have; the
/// newest are not taken. Whoever fills the bytes keeps no small request out.
const CLIENTS_MAX: usize = 4096;
const BYTES_EACH: usize = 2048;
const BYTES_MAX: usize = 8 << 20;
/// Requests handled in one turn.
const TURN_MAX: usize = 64;
/// An OPEN waits for so many T_req at most, however many others are served in between.
const OPEN_PATIENCE: u64 = 8;

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
    /// It was open after T_req.
    overdue: bool,
}

impl Item {
    /// Bytes that count against the share of its source.
    fn extra_bytes(&self) -> usize {
        self.frame.len().saturating_sub(BYTES_EACH)
    }
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

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pending {
    items: BTreeMap<Key, Item>,
    shares: BTreeMap<Source, Share>,
    /// When which item's step is due.
    steps: BTreeSet<(Instant, Key)>,
    /// Clocks that run, of requests and of OPENs, oldest first.
    clocks: [BTreeSet<(Instant, Key)>; 2],
    overdue: usize,
    /// When a session was last opened. That shows that the leader serves newcomers, and the clocks
    /// of all OPENs begin anew.
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

    /// Takes a verified request in, unless another one of its client and source waits already, or the
    /// source's share is full.
    pub fn push(
        &mut self,
        now: Instant,
        request: &RequestView<'_>,
        source: Source,
        patience: Patience,
    ) {
        let question = Question::about(request);
        let (key, frame) = ((question.client, source), request.bytes());
        if let Some(held) = self.items.get(&key) {
            let held = held.request;
            let lower = held.session == question.session && question.first < held.first;
            if held.open || question.open || !lower || source.is_some() {
                return;
            }
        }
        let held = self.items.get(&key).map(Item::extra_bytes);
        let share = self.shares.entry(source).or_default();
        let new = Share {
            items: share.items + usize::from(held.is_none()),
            bytes: share.bytes - held.unwrap_or(0) + frame.len().saturating_sub(BYTES_EACH),
        };
        if new.items > CLIENTS_MAX || new.bytes > BYTES_MAX {
            // What is held stays when the new one finds no room.
            return;
        }
        *share = new;
        self.lift(&key);
        let item = Item {
            request: question,
            frame: frame.to_vec(),
            step: Step::Ask,
            at: now.after_ns(patience.forward_ns),
            since: None,
            sent: None,
            spread: false,
            overdue: false,
        };
        self.put(key, item);
    }

    /// Puts an item where [`Pending::lift`] took one from, or a new one.
    fn put(&mut self, key: Key, item: Item) {
        self.steps.insert((item.at, key));
        let clocks = &mut self.clocks[usize::from(item.request.open)];
        clocks.extend(item.since.map(|at| (at, key)));
        self.overdue += usize::from(item.overdue);
        self.items.insert(key, item);
    }

    /// Takes an item out, to be changed and put back, or let go.
    fn lift(&mut self, key: &Key) -> Option<Item> {
        let item = self.items.remove(key)?;
        self.steps.remove(&(item.at, *key));
        if let Some(at) = item.since {
            self.clocks[usize::from(item.request.open)].remove(&(at, *key));
        }
        self.overdue -= usize::from(item.overdue);
        Some(item)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(item) = self.lift(key) {
            let share = self.shares.get_mut(&key.1).expect("it has an item");
            share.items -= 1;
            share.bytes -= item.extra_bytes();
        }
    }

    /// What waits of a client, by source.
    fn of(&self, client: PublicKey) -> impl Iterator<Item = (&Key, &Item)> {
        let last = Some(NodeId(u16::MAX));
        self.items.range((client, None)..=(client, last))
    }

    /// Some client got a session.
    pub fn opened(&mut self, now: Instant) {
        self.opened = now;
    }

    /// A request was in a block that is executed; so no part of it waits any more. An OPEN may be of
    /// any age, and an old one opens nothing: it stands for itself alone.
    pub fn executed(&mut self, request: &RequestView<'_>) {
        let until = (request.first_sequence().0).saturating_add(request.count() as u64);
        let is_done = |item: &Question| {
            if item.open || request.is_open() {
                return *item == Question::about(request);
            }
            let same = item.session == request.session();
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

    /// A new leader has everything before it (V5). Replicas that stood up for a request do so again.
    pub fn new_leader(&mut self, now: Instant) {
        self.items.retain(|(_, source), _| source.is_none());
        self.shares.retain(|source, _| source.is_none());
        self.restart(now);
    }

    /// What waits is judged anew.
    pub fn restart(&mut self, now: Instant) {
        for item in self.items.values_mut() {
            (item.step, item.at) = (Step::Ask, now);
            (item.since, item.sent) = (None, None);
            (item.spread, item.overdue) = (false, false);
        }
        self.clocks = Default::default();
        self.overdue = 0;
        self.steps = self.items.keys().map(|key| (now, *key)).collect();
    }

    /// What is due now, a bounded number of things.
    pub fn due(&mut self, now: Instant, patience: Patience) -> Vec<Due> {
        let mut due = Vec::new();
        for _ in 0..TURN_MAX {
            let Some(&(at, key)) = self.steps.first() else {
                break;
            };
            if at > now {
                break;
            }
            let mut item = self.lift(&key).expect("it has a step");
            if item.step == Step::Act {
                due.extend(self.act(now, &key, &mut item, patience));
                item.step = Step::Ask;
                item.at = now.after_ns(patience.again_ns().max(1));
            } else {
                due.push(Due::Recheck(item.request));
                item.step = Step::Asked;
                item.at = now.after_ns(patience.request_ns.max(1));
            }
            self.put(key, item);
        }
        due
    }

    /// The request is open.
    fn act(&self, now: Instant, key: &Key, item: &mut Item, patience: Patience) -> Option<Due> {
        let since = *item.since.get_or_insert(now);
        let served = if item.request.open {
            since.max(self.opened)
        } else {
            since
        };
        let waited_ns = now.since_ns(served);
        // Nobody waits behind others for ever.
        let late = waited_ns >= patience.request_ns
            || now.since_ns(since) >= OPEN_PATIENCE.saturating_mul(patience.request_ns);
        let half = late || waited_ns >= patience.request_ns / 2;
        let spreads = half && !item.spread;
        item.overdue = late;
        item.spread |= half;
        // One of the copies that wait for several sources is enough.
        let recent = |at| now.since_ns(at) < patience.again_ns();
        let copies = self.of(key.0).map(|(_, copy)| copy);
        let copies = copies.filter(|copy| copy.request == item.request);
        let (sent, spread) = copies.fold((false, false), |(sent, spread), copy| {
            (sent || copy.sent.is_some_and(recent), spread || copy.spread)
        });
        let to_all = spreads && !spread;
        if sent && !to_all {
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
        let [requests, opens] = [0, 1].map(|kind: usize| self.clocks[kind].first());
        let open = opens.map(|&(at, _)| at.max(self.opened));
        let request = requests.map(|&(at, _)| at);
        request.into_iter().chain(open).min()
    }

    /// T2: whether some request waits longer than T_req.
    pub fn is_overdue(&self) -> bool {
        self.overdue > 0
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
            self.pending.executed(&request);
        }

        fn is_empty(&self) -> bool {
            let pending = &self.pending;
            let clocks = pending.clocks.each_ref().map(BTreeSet::len);
            let bytes = pending.shares.values().map(|share| share.bytes);
            pending.is_empty()
                && clocks == [0, 0]
                && pending.overdue == 0
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

    /// Newcomers wait for their turn, and another one's shows that there are turns; for a while.
    #[test]
    fn an_open_of_another_client_gives_the_leader_time() {
        let mut story = Story::default();
        story.push(&open(1), None);
        for _ in 0..9 {
            story.run_until(story.now + 300);
            assert!(!story.is_overdue());
            story.pending.opened(Instant(story.now));
            let oldest = story.pending.oldest();
            assert_eq!(oldest, Some(Instant(story.now)));
        }
        story.run_until(story.now + 500);
        assert!(story.is_overdue());
        story.pending.opened(Instant(story.now));
        story.run_until(story.now + 60);
        assert!(story.is_overdue(), "it has waited long enough");
        story.executed(&open(1));
        assert!(story.is_empty());
    }

    /// An old OPEN changes nothing, however often a liar has it executed.
    #[test]
    fn a_repeated_open_gives_no_leader_time() {
        let mut story = Story::default();
        story.push(&open(1), None);
        for _ in 0..10 {
            story.run_until(story.now + 60);
            story.executed(&open(2));
            let mut old = Vec::new();
            encode_open(&mut old, PublicKey([1; 32]), wire::ids::Slot(7));
            story.executed(&old);
        }
        assert!(story.is_overdue());
    }

    /// Only the client itself can say that a lower request matters more.
    #[test]
    fn the_lowest_of_a_client_waits() {
        let (low, high) = (request(7, 5), request(7, 6));
        for source in [None, Some(NodeId(2))] {
            let mut story = Story::default();
            story.push(&high, source);
            story.run_until(20);
            story.push(&low, source);
            story.push(&high, source);
            story.push(&request(6, 1), source);
            story.run_until(500);
            assert!(story.is_overdue());
            let last = &story.sent.last().unwrap().1;
            assert_eq!(last == &low, source.is_none());
        }
    }

    #[test]
    fn a_new_leader_has_all_its_time() {
        let mut story = Story::default();
        let frame = request(7, 5);
        story.push(&frame, None);
        story.push(&frame, Some(NodeId(2)));
        story.run_until(500);
        assert!(story.is_overdue());
        story.pending.new_leader(Instant(500));
        assert_eq!(story.pending.len(), 1, "the others stand up for it again");
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
        let (items, bytes) = (CLIENTS_MAX, 0);
        story.pending.shares.insert(None, Share { items, bytes });
        story.push(&request(7, 5), None);
        assert!(story.pending.is_empty());
        story.push(&request(7, 5), Some(NodeId(1)));
        assert_eq!(story.pending.len(), 1);
        // Large requests keep no small one out.
        let (items, bytes) = (64, BYTES_MAX);
        story.pending.shares.insert(None, Share { items, bytes });
        story.push(&request(7, 5), None);
        assert_eq!(story.pending.len(), 2);
    }
}
