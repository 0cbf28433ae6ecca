//! The event-driven client: one key, one session, no clock and no socket.

use std::sync::Arc;

use wire::committee::Committee;
use wire::header::Kind;
use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId, Slot, View};
use wire::limits::{
    KEY_BYTES_MAX, REQUEST_BYTES_MAX, SCAN_ENTRIES_MAX, SESSION_WINDOW, TXN_PARTS_MAX,
    VALUE_BYTES_MAX,
};
use wire::ops::{Condition, Operation, OperationsBuilder};
use wire::reply::{Answer, BusyBody, Run};
use wire::request::{
    FLAG_ALL_FULL, FLAG_READ_ONLY, REQUEST_HEAD_BYTES, RequestFields, RequestView, encode_open,
    encode_request,
};

use crate::bundles::{Bundle, Bundles, Pacer};
use crate::links::{Heard, Links};
use crate::options::{Completion, Counters, Dissemination, Failure, Options, Outbox, SubmitError};
use crate::reads::Reads;
use crate::session::{Hints, Opening, Session};
use crate::window::{Claim, Verdict, Window};

/// Retransmissions that one tick sends at most: an overloaded cluster is not sent a storm.
const RETRIES_PER_TICK_MAX: usize = 16;
/// Claims of one reply that are looked at: an honest one never holds more.
const CLAIMS_PER_REPLY_MAX: u64 = 2 * SESSION_WINDOW;
/// Times a request is sent again for the bytes of a result before they count as lost.
const FULL_ATTEMPTS_MAX: u32 = 4;
/// A Busy asks for a pause of at most this.
const BUSY_PAUSE_NS_MAX: u64 = 100_000_000;

/// The open bundle: operations that have not been signed yet. They already have sequences.
#[derive(Debug)]
struct OpenBundle {
    operations: OperationsBuilder,
    first: u64,
    opened: Instant,
    writes: bool,
    /// Closed, and waiting for a session.
    held: bool,
}

/// A client of one cluster. Time arrives as an argument, datagrams leave through an [`Outbox`].
///
/// Every operation submitted ends in exactly one completion. A result is accepted only when b+1
/// distinct replicas sent equal authentic replies, so at least one of them is correct.
#[derive(Debug)]
pub struct Client {
    options: Options,
    links: Links,
    session: Session,
    slots: Hints,
    views: Hints,
    window: Window,
    open: OpenBundle,
    bundles: Bundles,
    reads: Reads,
    pacer: Pacer,
    quorum: usize,
    counters: Counters,
}

fn encoded_bytes(operation: &Operation<'_>) -> usize {
    const HEAD_BYTES: usize = 12;
    HEAD_BYTES
        + match operation {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Get { key } | Operation::Delete { key } => key.len(),
            Operation::Cas {
                key,
                expected,
                value,
            } => key.len() + value.len() + expected.map_or(0, <[u8]>::len),
            Operation::Scan { from, to, .. } => from.len() + to.len() + 4,
            Operation::Txn(_) => REQUEST_BYTES_MAX,
        }
}

/// Checks the bounds that the encoder asserts and the replicas enforce.
pub(crate) fn check_operation(operation: &Operation<'_>) -> Result<(), SubmitError> {
    let key_fits = |key: &[u8]| {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            Err(SubmitError::KeyLength)
        } else {
            Ok(())
        }
    };
    let value_fits = |value: &[u8]| {
        if value.len() > VALUE_BYTES_MAX {
            Err(SubmitError::ValueTooLong)
        } else {
            Ok(())
        }
    };
    match operation {
        Operation::Put { key, value } => key_fits(key).and_then(|()| value_fits(value)),
        Operation::Get { key } | Operation::Delete { key } => key_fits(key),
        Operation::Cas {
            key,
            expected,
            value,
        } => {
            key_fits(key)?;
            value_fits(value)?;
            value_fits(expected.unwrap_or_default())?;
            if encoded_bytes(operation) + REQUEST_HEAD_BYTES > REQUEST_BYTES_MAX {
                return Err(SubmitError::TooLarge);
            }
            Ok(())
        }
        Operation::Scan { from, to, limit } => {
            if from.len() > KEY_BYTES_MAX || to.len() > KEY_BYTES_MAX {
                return Err(SubmitError::KeyLength);
            }
            if *limit as usize > SCAN_ENTRIES_MAX {
                return Err(SubmitError::ScanLimit);
            }
            Ok(())
        }
        Operation::Txn(_) => Ok(()),
    }
}

fn is_write(operation: &Operation<'_>) -> bool {
    !matches!(operation, Operation::Get { .. } | Operation::Scan { .. })
}

impl Client {
    /// A client of `committee` whose identity is `secret` (an Ed25519 secret key). Sends nothing
    /// before the first [`Client::tick`].
    ///
    /// Errors: a setting out of its range.
    pub fn new(
        committee: Arc<Committee>,
        secret: &crate::Secret,
        options: Options,
    ) -> Result<Client, crate::ConfigError> {
        options.check().map_err(crate::ConfigError)?;
        let replicas = committee.n();
        let quorum = committee.b() + 1;
        let links = Links::new(&committee, secret, &options);
        Ok(Client {
            links,
            session: Session::Linking,
            slots: Hints::new(replicas, quorum),
            views: Hints::new(replicas, quorum),
            window: Window::new(
                wire::limits::SESSION_WINDOW as usize,
                replicas,
                quorum,
                options.first_sequence.0,
            ),
            open: OpenBundle {
                operations: OperationsBuilder::new(),
                first: options.first_sequence.0,
                opened: Instant(0),
                writes: false,
                held: false,
            },
            bundles: Bundles::new(options.in_flight_max),
            reads: Reads::new(),
            pacer: Pacer::new(
                options.broadcast_after_ns,
                options.retry_pause_max_ns,
                options.seed,
            ),
            quorum,
            counters: Counters::default(),
            options,
        })
    }

    /// The key that names this client.
    pub fn identity(&self) -> &PublicKey {
        self.links.identity()
    }

    /// Whether a session is open, so that bundles leave at once.
    pub fn is_ready(&self) -> bool {
        matches!(self.session, Session::Open(_))
    }

    /// The session, once it is open.
    pub fn session(&self) -> Option<SessionId> {
        self.session.id()
    }

    /// Replicas with which a link stands.
    pub fn links_up(&self) -> usize {
        self.links.up_count()
    }

    /// Whether a link with `node` stands.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.links.is_up(node)
    }

    /// Equal replies that make a result: b+1.
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// Operations and reads without a completion.
    pub fn in_flight(&self) -> usize {
        self.window.waiting() + self.reads.len()
    }

    /// Operations in the open bundle.
    pub fn open_operations(&self) -> usize {
        self.open.operations.count()
    }

    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.rejected_datagrams += self.links.rejected();
        counters
    }

    /// Whether [`Client::submit`] would take one more small operation.
    pub fn has_room(&self) -> bool {
        self.window.has_room()
            && self.window.waiting() < self.options.in_flight_max
            && !(self.open.held && self.open.operations.count() >= self.options.bundle_max)
    }

    /// Adds an operation to the open bundle. It ends in one completion that carries `tag`.
    ///
    /// The bundle is signed and sent when it is full, when its first operation has waited
    /// `linger_ns`, or by [`Client::flush`].
    pub fn submit(
        &mut self,
        now: Instant,
        operation: &Operation<'_>,
        tag: u64,
        out: &mut impl Outbox,
    ) -> Result<Sequence, SubmitError> {
        check_operation(operation)?;
        let bytes = encoded_bytes(operation);
        self.make_room(now, bytes, out)?;
        let sequence = self.admit(now, tag, is_write(operation));
        self.open.operations.push(operation);
        self.close_when_due(now, out);
        Ok(sequence)
    }

    /// As [`Client::submit`], for a transaction: all `operations` iff all `conditions` hold.
    pub fn submit_txn(
        &mut self,
        now: Instant,
        conditions: &[Condition<'_>],
        operations: &[Operation<'_>],
        tag: u64,
        out: &mut impl Outbox,
    ) -> Result<Sequence, SubmitError> {
        if conditions.len() > TXN_PARTS_MAX || operations.len() > TXN_PARTS_MAX {
            return Err(SubmitError::TooLarge);
        }
        let mut bytes = 14;
        for condition in conditions {
            let (key, value): (&[u8], &[u8]) = match *condition {
                Condition::Equals { key, value } => (key, value),
                Condition::Absent { key } | Condition::Present { key } => (key, &[]),
            };
            check_operation(&Operation::Put { key, value })?;
            bytes += 12 + key.len() + value.len();
        }
        for operation in operations {
            check_operation(operation)?;
            if matches!(operation, Operation::Txn(_) | Operation::Scan { .. }) {
                return Err(SubmitError::TooLarge);
            }
            bytes += encoded_bytes(operation);
        }
        if bytes + REQUEST_HEAD_BYTES > REQUEST_BYTES_MAX {
            return Err(SubmitError::TooLarge);
        }
        self.make_room(now, bytes, out)?;
        let sequence = self.admit(now, tag, true);
        self.open.operations.push_txn(conditions, operations);
        self.close_when_due(now, out);
        Ok(sequence)
    }

    /// Room for one more operation of `bytes`, closing the open bundle when that helps.
    fn make_room(
        &mut self,
        now: Instant,
        bytes: usize,
        out: &mut impl Outbox,
    ) -> Result<(), SubmitError> {
        if !self.window.has_room() || self.window.waiting() >= self.options.in_flight_max {
            return Err(SubmitError::WindowFull);
        }
        let used = REQUEST_HEAD_BYTES + self.open.operations.bytes().len();
        let full = self.open.operations.count() >= self.options.bundle_max
            || used + bytes > REQUEST_BYTES_MAX;
        if full && self.open.operations.count() > 0 {
            self.close(now, out);
            if self.open.operations.count() > 0 {
                return Err(SubmitError::NotReady);
            }
        }
        Ok(())
    }

    fn admit(&mut self, now: Instant, tag: u64, writes: bool) -> Sequence {
        let sequence = self.window.assign(tag, self.bundles.next_id());
        if self.open.operations.count() == 0 {
            self.open.first = sequence;
            self.open.opened = now;
            self.open.writes = false;
        }
        self.open.writes |= writes;
        Sequence(sequence)
    }

    fn close_when_due(&mut self, now: Instant, out: &mut impl Outbox) {
        if self.open.operations.count() >= self.options.bundle_max || self.options.linger_ns == 0 {
            self.close(now, out);
        }
    }

    /// Signs and sends the open bundle now, if it holds anything.
    pub fn flush(&mut self, now: Instant, out: &mut impl Outbox) {
        self.close(now, out);
    }

    fn close(&mut self, now: Instant, out: &mut impl Outbox) {
        let count = self.open.operations.count();
        if count == 0 {
            return;
        }
        let Some(session) = self.session.id() else {
            self.open.held = true;
            return;
        };
        self.open.held = false;
        let mut frame = self.bundles.spare_frame();
        let fields = RequestFields {
            session,
            first_sequence: Sequence(self.open.first),
            acked_low: Sequence(self.window.low().min(self.open.first - 1)),
            flags: (if self.open.writes { 0 } else { FLAG_READ_ONLY })
                | (if self.options.all_full {
                    FLAG_ALL_FULL
                } else {
                    0
                }),
            count: count as u16,
        };
        let client = *self.links.identity();
        encode_request(&mut frame, client, fields, self.open.operations.bytes());
        self.links.sign(&mut frame);
        self.open.operations.clear();

        let bundle = Bundle {
            first: self.open.first,
            count: count as u16,
            waiting: count as u16,
            read_only: !self.open.writes,
            frame,
            sent: now,
            next_retry: now.after_ns(self.pacer.pause_ns(1)),
            deadline: now.after_ns(self.options.timeout_ns),
            attempts: 1,
            busy: false,
            wants_full: false,
        };
        let everyone = self.options.dissemination == Dissemination::All;
        self.links
            .send_frame(Kind::Request, self.leader(), everyone, &bundle.frame, out);
        self.counters.bundles += 1;
        self.bundles.push(bundle);
    }

    /// The replica that leads, as far as b+1 replicas say.
    fn leader(&self) -> NodeId {
        self.links.leader(View(self.views.trusted().unwrap_or(0)))
    }

    /// Reads from the executed state of `node` alone: fast, possibly stale, and as trustworthy as
    /// that one replica. Takes get and scan.
    pub fn read_stale(
        &mut self,
        now: Instant,
        node: NodeId,
        operation: &Operation<'_>,
        tag: u64,
        out: &mut impl Outbox,
    ) -> Result<(), SubmitError> {
        check_operation(operation)?;
        if is_write(operation) {
            return Err(SubmitError::NotARead);
        }
        if !self.links.is_up(node) {
            return Err(SubmitError::NoSuchReplica);
        }
        let pause = self.pacer.pause_ns(1);
        let deadline = now.after_ns(self.options.timeout_ns);
        self.reads
            .add(now, node, operation, tag, now.after_ns(pause), deadline)
            .map(|body| self.links.send_read(node, body, out))
    }

    /// Fenced reads (protocol §9.6 b) are not served by this version.
    pub fn read_fenced(&mut self) -> Result<(), SubmitError> {
        Err(SubmitError::FencedUnsupported)
    }

    /// Takes one datagram. Its sender is known by its seal, never by its address.
    pub fn receive(&mut self, now: Instant, datagram: &[u8], out: &mut impl Outbox) {
        let Client {
            links,
            session,
            slots,
            views,
            window,
            bundles,
            reads,
            pacer,
            counters,
            options,
            ..
        } = self;
        let heard = match links.receive(now, datagram, out) {
            Ok(heard) => heard,
            Err(_) => return,
        };
        match heard {
            Heard::Nothing => {}
            Heard::Welcome { node, slot, view } => {
                slots.note(node, slot.0);
                views.note(node, view.0);
                self.advance_session(now, out);
            }
            Heard::Reply { node, view, reply } => {
                views.note(node, view.0);
                if let Session::Opening(opening) = session {
                    let opened = reply.runs().any(|run| run.answer == Answer::Opened);
                    if opened && opening.answered(node, reply.session) {
                        self.session = Session::Open(reply.session);
                        self.close_held(now, out);
                    }
                    return;
                }
                if session.id() != Some(reply.session) {
                    counters.strays += 1;
                    return;
                }
                let mut expired = false;
                let mut claims = 0;
                for run in reply.runs() {
                    slots.note(node, run.slot.0);
                    claims += u64::from(run.count).min(SESSION_WINDOW);
                    if claims > CLAIMS_PER_REPLY_MAX {
                        break;
                    }
                    let mut judge = Judge {
                        now,
                        node,
                        window,
                        bundles,
                        pacer,
                        counters,
                        expired: &mut expired,
                    };
                    judge.run(&run, out);
                    if expired {
                        break;
                    }
                }
                if expired {
                    self.session_expired(now, out);
                }
            }
            Heard::Busy { node, view, busy } => {
                views.note(node, view.0);
                counters.busy += 1;
                Self::busy(now, node, links, views, bundles, pacer, options, &busy);
            }
            Heard::ReadReply { node, head, result } => {
                reads.answered(node, head.number(), |read| {
                    out.complete(Completion {
                        tag: read.tag,
                        sequence: Sequence(0),
                        slot: head.executed(),
                        result: Ok(result),
                        replies: 1,
                        sent: read.sent,
                    });
                });
            }
        }
    }

    /// The leader has no room for a bundle: try it again, there, after the pause it asks for.
    fn busy(
        now: Instant,
        node: NodeId,
        links: &Links,
        views: &Hints,
        bundles: &mut Bundles,
        pacer: &mut Pacer,
        options: &Options,
        busy: &BusyBody,
    ) {
        if node != links.leader(View(views.trusted().unwrap_or(0))) {
            return;
        }
        let asked_ns = u64::from(busy.retry_after_us()) * 1000;
        let pause = pacer.jitter(asked_ns.clamp(100_000, BUSY_PAUSE_NS_MAX));
        let at = now.after_ns(pause);
        if let Some(bundle) = bundles.holding(busy.first_sequence().0) {
            // A liar cannot hold a request back: after the second sending all replicas have it.
            if bundle.attempts <= 2 || at < bundle.next_retry {
                bundle.next_retry = at.min(now.after_ns(options.retry_pause_max_ns));
                bundle.busy = true;
                bundles.wake_by(at);
            }
        }
    }

    /// Opens a session as soon as b+1 replicas have named a slot.
    fn advance_session(&mut self, now: Instant, out: &mut impl Outbox) {
        if !matches!(self.session, Session::Linking) {
            return;
        }
        let Some(reference) = self.slots.trusted_slot() else {
            return;
        };
        self.open_session(now, reference, out);
    }

    fn open_session(&mut self, now: Instant, reference: Slot, out: &mut impl Outbox) {
        let mut frame = Vec::new();
        encode_open(&mut frame, *self.links.identity(), reference);
        self.links.sign(&mut frame);
        let opening = Opening::new(
            frame,
            self.links.replicas(),
            self.quorum,
            now.after_ns(self.pacer.pause_ns(1)),
        );
        self.links
            .send_frame(Kind::Open, self.leader(), false, &opening.frame, out);
        self.session = Session::Opening(opening);
    }

    fn close_held(&mut self, now: Instant, out: &mut impl Outbox) {
        if self.open.held || self.open.operations.count() >= self.options.bundle_max {
            self.close(now, out);
        }
    }

    /// The session is gone: everything sent in it has an unknown outcome. Opens a new one.
    fn session_expired(&mut self, now: Instant, out: &mut impl Outbox) {
        self.counters.expired += 1;
        for id in self.bundles.ids() {
            self.give_up_bundle(id, Failure::Expired, out);
        }
        self.bundles.settle();
        self.session = Session::Linking;
        self.advance_session(now, out);
    }

    fn give_up_bundle(&mut self, id: u64, failure: Failure, out: &mut impl Outbox) {
        self.give_up_some(id, failure, |_, _| true, out);
    }

    /// Replicas keep long results as digests only: after a few rounds the bytes will not come.
    fn give_up_lost_results(&mut self, id: u64, out: &mut impl Outbox) {
        self.give_up_some(id, Failure::ResultLost, Window::lacks_bytes, out);
    }

    fn give_up_some(
        &mut self,
        id: u64,
        failure: Failure,
        which: impl Fn(&Window, u64) -> bool,
        out: &mut impl Outbox,
    ) {
        let Some(bundle) = self.bundles.get(id) else {
            return;
        };
        let (first, count, sent) = (bundle.first, bundle.count, bundle.sent);
        for sequence in first..first + u64::from(count) {
            if !which(&self.window, sequence) {
                continue;
            }
            if let Some((tag, bundle)) = self.window.give_up(sequence) {
                self.bundles.ended_one(bundle);
                out.complete(Completion {
                    tag,
                    sequence: Sequence(sequence),
                    slot: Slot(0),
                    result: Err(failure),
                    replies: 0,
                    sent,
                });
            }
        }
    }

    /// When [`Client::tick`] should be called next, if nothing happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        let mut wake = self.bundles.wake().min(self.reads.wake());
        if self.open.operations.count() > 0 {
            // Held bundles, too, must not wait for a session for ever.
            let patience = if self.open.held {
                self.options.timeout_ns
            } else {
                self.options.linger_ns
            };
            wake = wake.min(self.open.opened.after_ns(patience));
        }
        if let Session::Opening(opening) = &self.session {
            wake = wake.min(opening.next_retry);
        }
        wake = wake.min(self.links.wake());
        (wake != Instant(u64::MAX)).then_some(wake)
    }

    /// Does what time demands: closes a bundle that lingered, retransmits, gives up, greets.
    pub fn tick(&mut self, now: Instant, out: &mut impl Outbox) {
        let waiting = self.window.waiting() > 0 || !self.is_ready();
        self.links.tick(now, waiting, out);
        self.advance_session(now, out);
        if let Session::Opening(opening) = &mut self.session
            && now >= opening.next_retry
        {
            opening.attempts += 1;
            opening.next_retry = now.after_ns(self.pacer.pause_ns(opening.attempts));
            // A retry names a newer slot, should the first have been too old or too new.
            let attempts = opening.attempts;
            let mut frame = std::mem::take(&mut opening.frame);
            if attempts.is_multiple_of(8)
                && let Some(reference) = self.slots.trusted_slot()
            {
                frame.clear();
                encode_open(&mut frame, *self.links.identity(), reference);
                self.links.sign(&mut frame);
            }
            self.links
                .send_frame(Kind::Open, self.leader(), true, &frame, out);
            if let Session::Opening(opening) = &mut self.session {
                opening.frame = frame;
            }
        }
        if self.open.operations.count() > 0 {
            let age_ns = now.since_ns(self.open.opened);
            if !self.open.held && age_ns >= self.options.linger_ns {
                self.close(now, out);
            }
            if self.open.held && age_ns >= self.options.timeout_ns {
                self.give_up_open(now, out);
            }
        }
        if now >= self.bundles.wake() {
            self.retry(now, out);
        }
        let (links, reads, pacer) = (&mut self.links, &mut self.reads, &mut self.pacer);
        reads.tick(now, pacer, |read| match read {
            crate::reads::Due::Again(node, body) => links.send_read(node, body, out),
            crate::reads::Due::GivenUp { tag, sent } => out.complete(Completion {
                tag,
                sequence: Sequence(0),
                slot: Slot(0),
                result: Err(Failure::Timeout),
                replies: 0,
                sent,
            }),
        });
    }

    /// No session came in time: the operations were never sent.
    fn give_up_open(&mut self, now: Instant, out: &mut impl Outbox) {
        let count = self.open.operations.count() as u64;
        self.open.operations.clear();
        self.open.held = false;
        for sequence in self.open.first..self.open.first + count {
            if let Some((tag, _)) = self.window.give_up(sequence) {
                out.complete(Completion {
                    tag,
                    sequence: Sequence(sequence),
                    slot: Slot(0),
                    result: Err(Failure::Timeout),
                    replies: 0,
                    sent: now,
                });
            }
        }
    }

    fn retry(&mut self, now: Instant, out: &mut impl Outbox) {
        let mut retries = 0;
        let leader = self.leader();
        for id in self.bundles.ids() {
            let Some(bundle) = self.bundles.get_mut(id) else {
                continue;
            };
            if bundle.waiting == 0 {
                continue;
            }
            if now >= bundle.deadline {
                self.give_up_bundle(id, Failure::Timeout, out);
                continue;
            }
            if now < bundle.next_retry || retries >= RETRIES_PER_TICK_MAX {
                continue;
            }
            if bundle.attempts >= FULL_ATTEMPTS_MAX {
                self.give_up_lost_results(id, out);
            }
            let Some(bundle) = self.bundles.get_mut(id).filter(|bundle| bundle.waiting > 0) else {
                continue;
            };
            retries += 1;
            self.counters.retransmissions += 1;
            bundle.attempts += 1;
            bundle.next_retry = now.after_ns(self.pacer.pause_ns(bundle.attempts));
            if bundle.wants_full || bundle.attempts > 3 {
                bundle.wants_full = false;
                resign_all_full(&mut self.links, bundle);
            }
            let everyone = !(bundle.busy && bundle.attempts <= 2);
            bundle.busy = false;
            self.links
                .send_frame(Kind::Request, leader, everyone, &bundle.frame, out);
        }
        self.bundles.settle();
    }
}

/// Asks every replica for the whole results; the operations stay the same.
fn resign_all_full(links: &mut Links, bundle: &mut Bundle) {
    let Ok(view) = RequestView::parse(&bundle.frame) else {
        return;
    };
    if view.all_full() {
        return;
    }
    let fields = RequestFields {
        session: view.session(),
        first_sequence: view.first_sequence(),
        acked_low: view.acked_low(),
        flags: FLAG_ALL_FULL | if bundle.read_only { FLAG_READ_ONLY } else { 0 },
        count: bundle.count,
    };
    let mut frame = Vec::with_capacity(bundle.frame.len());
    encode_request(
        &mut frame,
        *links.identity(),
        fields,
        view.operation_bytes(),
    );
    links.sign(&mut frame);
    bundle.frame = frame;
}

/// What one run of a reply does to the operations in flight.
struct Judge<'a> {
    now: Instant,
    node: NodeId,
    window: &'a mut Window,
    bundles: &'a mut Bundles,
    pacer: &'a mut Pacer,
    counters: &'a mut Counters,
    expired: &'a mut bool,
}

impl Judge<'_> {
    fn run(&mut self, run: &Run<'_>, out: &mut impl Outbox) {
        let (bytes, complete) = match &run.answer {
            Answer::Full(result) => (Some(*result), false),
            Answer::Digest(_) => (None, false),
            Answer::Stale | Answer::Expired => (None, true),
            Answer::Opened => return,
        };
        let executed = !complete;
        let claim = Claim {
            // Replicas notice at different slots that a request is stale or its session gone.
            slot: if executed { run.slot } else { Slot(0) },
            digest: run.answer.digest(),
        };
        let sequences = self
            .window
            .clamp(run.first_sequence.0, u64::from(run.count));
        self.counters.strays += u64::from(sequences.is_empty());
        for sequence in sequences {
            match self
                .window
                .claim(sequence, self.node, claim, bytes, complete)
            {
                Verdict::Open | Verdict::Late => {}
                Verdict::Unknown => self.counters.strays += 1,
                Verdict::LateWrong => self.counters.wrong_replies += u64::from(executed),
                Verdict::NeedsResult => self.wants_full(sequence),
                Verdict::Accepted {
                    tag,
                    bundle,
                    slot,
                    replies,
                    wrong,
                    ..
                } => {
                    self.counters.wrong_replies += u64::from(wrong);
                    let sent = self.ended(bundle);
                    let result = match run.answer {
                        Answer::Stale => Err(Failure::Stale),
                        Answer::Expired => {
                            *self.expired = true;
                            Err(Failure::Expired)
                        }
                        _ => Ok(self.window.result(sequence)),
                    };
                    out.complete(Completion {
                        tag,
                        sequence: Sequence(sequence),
                        slot,
                        result,
                        replies,
                        sent,
                    });
                    self.window.release_result(sequence);
                }
            }
        }
    }

    fn wants_full(&mut self, sequence: u64) {
        let at = self.now.after_ns(self.pacer.pause_ns(1));
        if let Some(bundle) = self.bundles.holding(sequence) {
            bundle.wants_full = true;
            bundle.next_retry = bundle.next_retry.min(at);
            self.bundles.wake_by(at);
        }
    }

    fn ended(&mut self, bundle: u64) -> Instant {
        match self.bundles.ended_one(bundle) {
            Some((sent, attempts)) => {
                if attempts == 1 {
                    self.pacer.measured(self.now.since_ns(sent));
                }
                sent
            }
            None => self.now,
        }
    }
}
