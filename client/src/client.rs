//! The event-driven client: one key, one session, no clock and no socket.

mod operations;
mod reading;
mod replies;
mod succession;
mod timers;

use std::sync::Arc;

use wire::committee::Committee;
use wire::header::Kind;
use wire::ids::{Instant, NodeId, PublicKey, Sequence, SessionId, View};
use wire::limits::{REQUEST_BYTES_MAX, SESSION_WINDOW, TXN_PARTS_MAX};
use wire::ops::{Condition, Operation, OperationsBuilder};
use wire::request::{
    FLAG_ALL_FULL, FLAG_READ_ONLY, REQUEST_HEAD_BYTES, RequestFields, encode_request,
};

use crate::bundles::{Bundle, Bundles, Pacer};
use crate::links::Links;
use crate::options::{Counters, Dissemination, Options, Outbox, Pushback, SubmitError};
use crate::reads::Reads;
use crate::session::{Hints, Session};
use crate::window::Window;
use operations::{check_operation, encoded_bytes, is_simple, is_write};
use succession::Succession;

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

/// How long a word of the leader counts as its latest.
const PUSHBACK_NS: u64 = 2_000_000_000;

/// A client of one cluster. Time arrives as an argument, datagrams leave through an [`Outbox`].
///
/// Every operation submitted ends in exactly one completion. A result is accepted only when b+1
/// distinct replicas sent equal authentic replies, so at least one of them is correct.
#[derive(Debug)]
pub struct Client {
    options: Options,
    committee: Arc<Committee>,
    secret: crate::Secret,
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
    /// What the leader last said instead of an answer, and when.
    pushback: Option<(Instant, Pushback)>,
    succession: Succession,
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
                SESSION_WINDOW as usize,
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
            reads: Reads::new(
                replicas,
                (committee.parameters().fenced_read(), quorum),
                committee.epoch(),
                options.first_sequence.0,
                options.all_full,
            ),
            pacer: Pacer::new(
                options.broadcast_after_ns,
                options.retry_pause_max_ns,
                options.seed,
            ),
            quorum,
            counters: Counters::default(),
            pushback: None,
            succession: Succession::default(),
            secret: secret.clone(),
            committee,
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

    /// Why the leader ordered nothing new within the last two seconds, if it said so.
    pub fn pushback(&self, now: Instant) -> Option<Pushback> {
        let (at, pushback) = self.pushback?;
        (now.since_ns(at) < PUSHBACK_NS).then_some(pushback)
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
            if !is_simple(operation) {
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
        frame.reserve(REQUEST_HEAD_BYTES + self.open.operations.bytes().len());
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
            sent_again: now,
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
}
