//! Signature checks, off the ordering path; any number of instances.
//!
//! Expected cost: one strict Ed25519 verification a request (19-29 us) and one a block header; where
//! COMMITs are sent, one a vote and one a COMMIT as well. The predicate of `verify_strict` is the
//! only judge, on every path. What a peer may have checked here is bounded by an account that fills
//! with time; it pays for each bad signature many times over (§9.1, BYZ6). Votes that move it
//! forward in the window cost it nothing: there are as many as slots. What blocks cost it is known to
//! the ordering half, which has them judged.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{BlockCheck, Input};
use wire::block::{BlockHeader, BlockView};
use wire::bytes::{Buffers, SharedBytes};
use wire::certificates::{CheckpointCertificate, NewViewCertificate, Place, WishCertificate};
use wire::header::{Kind, client_prefix};
use wire::ids::{Digest, Instant, NodeId, Signature, Slot, View};
use wire::limits::{REPLICAS_MAX, WINDOW};
use wire::messages::{self, EvidenceBody, SignedHeader};
use wire::reject::Reject;
use wire::request::RequestView;
use wire::seal::{self, Compound, Rules, Statement, Verified, Verifier, in_range};
use wire::view_change::{NewView, ViewChange, split_signed};

use crate::allowance::{Allowance, Rate};
use crate::blocks::Raw;
use crate::ordering;
use crate::peer::PeerMessage;

/// Signatures that a peer may have checked for its words, apart from votes: about a tenth of a
/// processor. A view change of a large committee takes a few thousand at once.
const WORDS: Rate = Rate {
    per_s: 4096,
    at_once: 8192,
    debt: 8192,
};
/// The same for clients' requests that it forwards. What is refused is sent again.
const FORWARDS: Rate = WORDS;
/// Reading so many bytes costs as much as one signature.
const BYTES_OF_ONE: u64 = 2048;
/// A bad signature costs as much as so many good ones.
const COST_OF_BAD: u64 = 32;
/// Bad signatures that are checked of one client. Its link is its own, so nobody else's are counted.
const CLIENT: Rate = Rate {
    per_s: 8,
    at_once: 8,
    debt: 0,
};
/// Clients that sent one not long ago, and are remembered. Each has greeted under its own key.
const CLIENTS_MAX: usize = 4096;

/// Something to verify.
pub enum Job<Bu: Buffers> {
    /// A client's datagram: one request frame.
    Request(Bu::Shared),
    /// An appended PROPOSE.
    Proposed { place: Place, message: Bu::Shared },
    /// A BLOCK of some replica.
    Fetched(Offer<Bu>),
    /// A client's request that a replica forwards.
    Forwarded { from: NodeId, body: Bu::Shared },
    /// A message of a replica that carries signatures.
    Message {
        from: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        body: Bu::Shared,
    },
}

/// A BLOCK to judge.
pub struct Offer<Bu: Buffers> {
    pub from: NodeId,
    pub place: Place,
    pub raw: Raw<Bu::Unique>,
    /// It may do without its leader's signature.
    pub vouched: bool,
}

/// What came of it.
pub enum Verdict<Bu: Buffers> {
    Request(Verified<Bu::Shared>),
    /// `unsigned`: this copy bears no signature of its leader, which was found after so many checks.
    Fetched {
        from: NodeId,
        place: Place,
        raw: Verified<Raw<Bu::Unique>>,
        unsigned: Option<u64>,
    },
    /// A BLOCK that is refused, after so many checks of signatures.
    Unfit {
        from: NodeId,
        place: Place,
        reject: Reject,
        checks: u64,
        /// Its header, if the leader signed that.
        unsound: Option<SignedHeader>,
    },
    /// A request that another replica stands up for.
    Forwarded {
        from: NodeId,
        request: Verified<Bu::Shared>,
    },
    /// For the core.
    Agreement(Input),
    /// Two headers that a leader signed.
    Evidence(Box<EvidenceBody>),
    Rejected(Reject),
}

impl<Bu: Buffers> Verdict<Bu> {
    /// What the ordering half is told of it, and what is to be counted as refused.
    pub fn told(self) -> (Option<ordering::Input<Bu>>, Option<Reject>) {
        use ordering::Input as Told;
        let told = match self {
            Verdict::Request(request) => Told::Request(request),
            Verdict::Forwarded { from, request } => Told::Forwarded { from, request },
            Verdict::Agreement(input) => Told::Agreement(input),
            Verdict::Evidence(body) => Told::Evidence(body),
            Verdict::Fetched {
                from,
                place,
                raw,
                unsigned,
            } => Told::Fetched {
                from,
                place,
                raw,
                unsigned,
            },
            Verdict::Unfit {
                from,
                place,
                reject,
                checks,
                unsound,
            } => {
                let unfit = Told::Unfit {
                    from,
                    place,
                    checks,
                    unsound,
                };
                return (Some(unfit), Some(reject));
            }
            Verdict::Rejected(reject) => return (None, Some(reject)),
        };
        (Some(told), None)
    }
}

/// One verifier.
pub struct Verifying<V: Verifier> {
    verifier: V,
    compound: Compound<V>,
    signatures: u64,
    peers: Vec<Account>,
    /// By the front of the client's key.
    clients: BTreeMap<u64, Allowance>,
    /// Slots up to here are decided.
    decided: Slot,
}

/// A block whose requests and leader's signature hold, or why not.
type BlockOutcome<Bu> = Result<Verified<Raw<<Bu as Buffers>::Unique>>, Reject>;

/// What one peer may still have checked.
struct Account {
    words: Allowance,
    forwards: Allowance,
    /// Highest slots of its votes and COMMITs that cost it nothing.
    free: [Slot; 2],
}

impl<V: Verifier + Clone> Verifying<V> {
    pub fn new(verifier: V, rules: Rules) -> Verifying<V> {
        Verifying {
            compound: Compound::new(verifier.clone(), rules),
            verifier,
            signatures: 0,
            peers: (0..REPLICAS_MAX).map(|_| Account::new()).collect(),
            clients: BTreeMap::new(),
            decided: Slot(0),
        }
    }

    /// The epoch begins with a state of this root, if not with the empty one.
    pub fn with_origin(mut self, root: Option<Digest>) -> Verifying<V> {
        self.compound = self.compound.with_origin(root);
        self
    }

    /// Slots up to this one are decided.
    pub fn note_decided(&mut self, slot: Slot) {
        self.decided = self.decided.max(slot);
    }

    /// Signatures checked so far.
    pub fn signatures(&self) -> u64 {
        self.signatures + self.compound.signatures
    }

    /// Judge of compound messages, for reading them back from the log.
    pub fn compound(&mut self) -> &mut Compound<V> {
        &mut self.compound
    }

    /// Does one job.
    pub fn handle<Bu: Buffers>(&mut self, now: Instant, job: Job<Bu>) -> Verdict<Bu> {
        match job {
            Job::Request(bytes) => match self.request(now, bytes) {
                Ok(verified) => Verdict::Request(verified),
                Err(reject) => Verdict::Rejected(reject),
            },
            Job::Proposed { place, message } => match self.block(&message) {
                Ok((signature, found)) => Verdict::Agreement(Input::Checked {
                    place,
                    signature,
                    found,
                }),
                Err(reject) => Verdict::Rejected(reject),
            },
            Job::Fetched(offer) => {
                let Offer { from, place, .. } = offer;
                let header = header_of(offer.raw.message());
                let (counted, outcome) = self.fetched(offer);
                match outcome {
                    Ok(raw) => Verdict::Fetched {
                        from,
                        place,
                        raw,
                        unsigned: (!counted.leader_signed).then_some(counted.checks),
                    },
                    Err(reject) => Verdict::Unfit {
                        from,
                        place,
                        reject,
                        checks: counted.checks,
                        unsound: header.filter(|_| counted.leader_signed),
                    },
                }
            }
            Job::Forwarded { from, body } => match self.forwarded(now, from, body) {
                Ok(request) => Verdict::Forwarded { from, request },
                Err(reject) => Verdict::Rejected(reject),
            },
            Job::Message {
                from,
                kind,
                view,
                slot,
                body,
            } => match self.words::<Bu>(now, from, (kind, view, slot), &body) {
                Ok(verdict) => verdict,
                Err(reject) => Verdict::Rejected(reject),
            },
        }
    }

    /// A client that sent bad signatures is heard no more for a while (§9.1).
    fn request<B: SharedBytes>(&mut self, now: Instant, bytes: B) -> Result<Verified<B>, Reject> {
        let client = client_prefix(RequestView::parse(&bytes)?.client());
        let known = self.clients.get_mut(&client);
        if known.is_some_and(|account| account.left(now, CLIENT) <= 0) {
            return Err(Reject::RateLimited);
        }
        self.signatures += 1;
        let outcome = seal::verify_request(&self.verifier, bytes);
        if outcome.as_ref().err() == Some(&Reject::BadSignature) {
            if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
                let full = CLIENT.at_once as i64;
                self.clients
                    .retain(|_, known| known.left(now, CLIENT) < full);
                if self.clients.len() >= CLIENTS_MAX {
                    self.clients.pop_first();
                }
            }
            let account = self.clients.entry(client);
            let account = account.or_insert_with(|| Allowance::new(CLIENT));
            account.left(now, CLIENT);
            account.charge(1, CLIENT);
        }
        outcome
    }

    /// What it took, and what came of it. What was decided since it came is not looked at.
    fn fetched<Bu: Buffers>(&mut self, offer: Offer<Bu>) -> (Count, BlockOutcome<Bu>) {
        let Offer {
            place,
            raw,
            vouched,
            ..
        } = offer;
        if place.slot <= self.decided {
            return (Count::default(), Err(Reject::AlreadyHeld));
        }
        let rules = *self.compound.rules();
        let leader = |view| rules.leader(view);
        let counted = Counted::new(&self.verifier);
        let outcome = seal::verify_block(&counted, leader, raw, |raw| raw.message(), vouched);
        let mut count = counted.count.get();
        // To read one takes as long as a signature, whatever is wrong with it.
        count.checks = count.checks.max(1);
        self.signatures += count.checks;
        (count, outcome)
    }

    fn forwarded<B: SharedBytes>(
        &mut self,
        now: Instant,
        from: NodeId,
        body: B,
    ) -> Result<Verified<B>, Reject> {
        if self.peers[from.index()].forwards.left(now, FORWARDS) <= 0 {
            return Err(Reject::RateLimited);
        }
        self.signatures += 1;
        let outcome = seal::verify_request(&self.verifier, body);
        let cost = 1 + cost_of_bad(&outcome);
        let account = &mut self.peers[from.index()];
        account.forwards.charge(cost, FORWARDS);
        outcome
    }

    fn words<Bu: Buffers>(
        &mut self,
        now: Instant,
        from: NodeId,
        (kind, view, slot): (Kind, View, Slot),
        body: &[u8],
    ) -> Result<Verdict<Bu>, Reject> {
        if self.peers[from.index()].words.left(now, WORDS) <= 0 {
            return Err(Reject::RateLimited);
        }
        let before = self.signatures();
        let outcome = self.message::<Bu>(from, kind, view, slot, body);
        let checks = self.signatures() - before;
        let account = &mut self.peers[from.index()];
        if outcome.is_err() || !account.is_free(kind, slot, self.decided) {
            let cost = checks.max(1) + body.len() as u64 / BYTES_OF_ONE;
            account.words.charge(cost + cost_of_bad(&outcome), WORDS);
        }
        outcome
    }

    fn message<Bu: Buffers>(
        &mut self,
        from: NodeId,
        kind: Kind,
        view: View,
        slot: Slot,
        body: &[u8],
    ) -> Result<Verdict<Bu>, Reject> {
        let compound = &mut self.compound;
        let input = match kind {
            Kind::ViewChange => {
                let (signature, body) = split_signed(body)?;
                let checked = compound.view_change(ViewChange::decode(body)?, signature)?;
                Input::ViewChange(Arc::new(checked))
            }
            Kind::NewView => {
                let (signature, body) = split_signed(body)?;
                let checked = compound.new_view(NewView::decode(body)?, signature)?;
                Input::NewView(Arc::new(checked))
            }
            Kind::WishCertificate => {
                let certificate = WishCertificate::decode(body)?;
                Input::WishCertificate(Box::new(compound.wish_certificate(certificate)?))
            }
            Kind::NewViewCertificate => {
                let certificate = NewViewCertificate::decode(body)?;
                Input::NewViewCertificate(Box::new(compound.new_view_certificate(certificate)?))
            }
            Kind::CheckpointCertificate => {
                let certificate = CheckpointCertificate::decode(body)?;
                Input::CheckpointCertificate(Box::new(
                    compound.checkpoint_certificate(certificate)?,
                ))
            }
            Kind::Evidence => {
                let body: &EvidenceBody = messages::parse(body)?;
                self.evidence(body)?;
                return Ok(Verdict::Evidence(Box::new(*body)));
            }
            _ => {
                let message = PeerMessage::decode(kind, view, slot, body)?;
                let signed = message.signed(from).ok_or(Reject::UnknownKind)?;
                let signed = compound.signed(signed)?;
                match signed.statement {
                    Statement::Vote { view, slot, digest } => Input::Vote {
                        from,
                        vote: wire::block::BlockRef { view, slot, digest },
                        signature: signed.signature,
                    },
                    _ => Input::Signed(signed),
                }
            }
        };
        Ok(Verdict::Agreement(input))
    }

    /// Whether the leader of their view signed both headers (N9).
    pub fn evidence(&mut self, evidence: &EvidenceBody) -> Result<(), Reject> {
        for signed in [&evidence.first, &evidence.second] {
            let header = &signed.header;
            in_range(header.view(), header.slot())?;
            if header.epoch() != self.compound.rules().epoch {
                return Err(Reject::WrongEpoch);
            }
            let statement = Statement::Propose {
                view: header.view(),
                slot: header.slot(),
                digest: header.digest(),
            };
            self.signatures += 1;
            let leader = self.compound.rules().leader(header.view());
            self.verifier
                .member(leader, &statement, &signed.signature)?;
        }
        Ok(())
    }

    /// N2: the leader's signature, which is returned, and every request's form and signature.
    pub fn block(&mut self, message: &[u8]) -> Result<(Signature, BlockCheck), Reject> {
        let view = BlockView::frame(message)?;
        let (prefix, rules) = (view.prefix, *self.compound.rules());
        let leader = |view| rules.leader(view);
        let counted = Counted::new(&self.verifier);
        let found = if seal::check_block(&counted, leader, &view).is_ok() {
            BlockCheck::Good
        } else if counted.count.get().leader_signed {
            BlockCheck::InvalidPayload
        } else {
            BlockCheck::ForeignSignature
        };
        self.signatures += counted.count.get().checks;
        Ok((prefix.signature, found))
    }

    /// Every request's form and signature alone.
    pub fn payload_is_valid(&self, message: &[u8]) -> bool {
        let view = BlockView::frame(message);
        view.is_ok_and(|view| seal::check_payload(&self.verifier, &view).is_ok())
    }

    pub fn leader_signed(&self, header: &BlockHeader, signature: &Signature) -> bool {
        let rules = *self.compound.rules();
        let leader = |view| rules.leader(view);
        seal::check_leader(&self.verifier, leader, header, signature).is_ok()
    }
}

/// The header of a block with its leader's signature, nothing of it checked.
fn header_of(message: &[u8]) -> Option<SignedHeader> {
    let prefix = BlockView::frame(message).ok()?.prefix;
    Some(SignedHeader {
        header: prefix.header,
        signature: prefix.signature,
    })
}

fn cost_of_bad<T>(outcome: &Result<T, Reject>) -> u64 {
    match outcome {
        Err(Reject::BadSignature) => COST_OF_BAD,
        _ => 0,
    }
}

/// Counts what it is asked about one block.
struct Counted<'a, V> {
    verifier: &'a V,
    count: Cell<Count>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    checks: u64,
    /// A replica's signature was good: a block bears one, its leader's.
    leader_signed: bool,
}

impl<'a, V> Counted<'a, V> {
    fn new(verifier: &'a V) -> Counted<'a, V> {
        Counted {
            verifier,
            count: Cell::default(),
        }
    }
}

impl<V: Verifier> Verifier for Counted<'_, V> {
    fn member(&self, by: NodeId, said: &Statement, signature: &Signature) -> Result<(), Reject> {
        let (checks, outcome) = (
            self.count.get().checks + 1,
            self.verifier.member(by, said, signature),
        );
        let leader_signed = outcome.is_ok();
        self.count.set(Count {
            checks,
            leader_signed,
        });
        outcome
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        let mut count = self.count.get();
        count.checks += 1;
        self.count.set(count);
        self.verifier.request(request)
    }
}

impl Account {
    fn new() -> Account {
        Account {
            words: Allowance::new(WORDS),
            forwards: Allowance::new(FORWARDS),
            free: [Slot(0); 2],
        }
    }

    /// Whether a good message of this kind costs nothing: a vote further on in the window.
    fn is_free(&mut self, kind: Kind, slot: Slot, decided: Slot) -> bool {
        let which = match kind {
            Kind::Vote => 0,
            Kind::Commit => 1,
            _ => return false,
        };
        let free = slot > self.free[which] && slot.0 <= decided.0 + WINDOW;
        if free {
            self.free[which] = slot;
        }
        free
    }
}

/// The body of a message of a replica, however it came.
pub fn body_of<Bu: Buffers>(body: wire::link::Body<Bu>) -> Bu::Shared {
    use wire::bytes::UniqueBytes;
    use wire::limits::RECORD_HEADER_BYTES;
    match body {
        wire::link::Body::Whole(bytes) => bytes,
        wire::link::Body::Assembled(buffer, length) => buffer
            .freeze()
            .slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length),
    }
}

#[cfg(test)]
mod tests;
