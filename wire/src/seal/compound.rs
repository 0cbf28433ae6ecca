//! Messages that carry many signatures: certificates, VIEW-CHANGE, NEW-VIEW.
//!
//! Quorum sizes are the caller's ([`Rules`]); that room counts them in one place. Certificates that
//! were found good are remembered by digest: in a view change all replicas carry the same ones.

use super::{Signer, Statement, Verified, Verifier};
use crate::block::BlockHeader;
use crate::canary::planted;
use crate::certificates::{
    CheckpointCertificate, NewViewCertificate, Place, QuorumCertificate, Signatures,
    WishCertificate, expand,
};
use crate::committee::Committee;
use crate::ids::{Digest, Epoch, NodeId, Signature, Slot, View};
use crate::limits::{SLOT_MAX, VIEW_MAX, WINDOW};
use crate::messages::Held;
use crate::reject::Reject;
use crate::view_change::{NewView, ViewChange};

/// What certificates are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub n: usize,
    /// q.
    pub slow: usize,
    /// V = n - u.
    pub view_change: usize,
    /// W: slots above a checkpoint in which votes are sent; [`WINDOW`] at most.
    pub window: u64,
    pub epoch: Epoch,
    /// G_e: no certificate of the epoch is for it or a lower slot.
    pub genesis: Place,
}

impl Rules {
    pub fn of(committee: &Committee) -> Rules {
        let parameters = committee.parameters();
        Rules {
            n: committee.n(),
            slow: parameters.slow(),
            view_change: parameters.view_change(),
            window: WINDOW,
            epoch: committee.epoch(),
            genesis: committee.genesis(),
        }
    }
}

/// Why a state is one of this cluster's.
#[derive(Clone, Copy, Debug)]
pub enum StateProof {
    /// The epoch begins with it.
    Origin,
    Certified(Verified<CheckpointCertificate>),
}

impl StateProof {
    /// None where the committee alone proves it.
    pub fn certificate(&self) -> Option<CheckpointCertificate> {
        match self {
            StateProof::Origin => None,
            StateProof::Certified(certificate) => Some(**certificate),
        }
    }
}

impl Rules {
    /// leader(v) = v mod n.
    pub fn leader(&self, view: View) -> NodeId {
        NodeId((view.0 % self.n as u64) as u16)
    }
}

/// Remembers certificates that were found good.
const REMEMBERED: usize = 32;

/// Kinds of certificates that are remembered. The bytes of one may be those of another as well.
#[derive(Clone, Copy)]
enum Certified {
    Quorum,
    NewView,
    Checkpoint,
}

impl Certified {
    fn name(self, encoded: &[u8]) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self as u8]).update(encoded);
        Digest(*hasher.finalize().as_bytes())
    }
}

/// A judge of compound messages: a verifier, the rules, and what it found good before.
#[derive(Debug)]
pub struct Compound<V> {
    verifier: V,
    rules: Rules,
    /// See [`Compound::with_origin`].
    origin_root: Option<Digest>,
    good: Vec<Digest>,
    next: usize,
    /// Signatures checked so far.
    pub signatures: u64,
}

/// A well-formed view change (V-WF), with what was computed on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedViewChange {
    pub message: ViewChange,
    pub signature: Signature,
    pub digest: Digest,
    pub anchor: Place,
    /// Of the suffix, ascending: slots above the anchor's.
    pub headers: Vec<(BlockHeader, Digest)>,
}

impl CheckedViewChange {
    /// The statement of its author in it.
    pub fn held(&self) -> Held {
        let (view, digest) = (self.message.view, self.digest);
        Held {
            statement: Statement::ViewChange { view, digest },
            signature: self.signature,
        }
    }

    /// The deepest block that the replica claims; the anchor when it claims none.
    pub fn tip(&self) -> Place {
        let last = self.headers.last();
        last.map_or(self.anchor, |(header, digest)| Place {
            slot: header.slot(),
            digest: *digest,
        })
    }

    /// Digest of the claimed chain at `slot`, from the anchor to the tip.
    pub fn digest_at(&self, slot: Slot) -> Option<Digest> {
        match slot.0.checked_sub(self.anchor.slot.0)? {
            0 => Some(self.anchor.digest),
            above => self
                .headers
                .get(above as usize - 1)
                .map(|(_, digest)| *digest),
        }
    }
}

/// A NEW-VIEW whose leader's signature holds. What it chose is judged by the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNewView {
    pub message: NewView,
    pub signature: Signature,
}

impl<V: Verifier> Compound<V> {
    pub fn new(verifier: V, rules: Rules) -> Compound<V> {
        assert!(rules.window <= WINDOW, "suffixes fit their message");
        Compound {
            verifier,
            rules,
            origin_root: None,
            good: vec![Digest::ZERO; REMEMBERED],
            next: 0,
            signatures: 0,
        }
    }

    /// The epoch begins with a state of this root, if not with the empty one.
    pub fn with_origin(mut self, root: Option<Digest>) -> Compound<V> {
        self.origin_root = root;
        self
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn known(&self, digest: &Digest) -> bool {
        self.good.contains(digest)
    }

    fn remember(&mut self, digest: Digest) {
        self.good[self.next] = digest;
        self.next = (self.next + 1) % REMEMBERED;
    }

    fn member(
        &mut self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject> {
        if by.index() >= self.rules.n {
            return Err(Reject::NotInCommittee);
        }
        self.signatures += 1;
        self.verifier.member(by, statement, signature)
    }

    /// `need` distinct members signed one statement. All signatures must hold: one value has one
    /// judgement, whatever is counted.
    fn all(
        &mut self,
        need: usize,
        statement: &Statement,
        signatures: &Signatures,
    ) -> Result<(), Reject> {
        if signatures.count() < need {
            return Err(Reject::TooFewSignatures);
        }
        for (by, signature) in signatures.iter() {
            self.member(by, statement, signature)?;
        }
        Ok(())
    }

    /// A statement of one replica.
    pub fn signed(&mut self, signed: super::Signed) -> Result<Verified<super::Signed>, Reject> {
        self.member(signed.by, &signed.statement, &signed.signature)?;
        Ok(Verified(signed))
    }

    /// NVcert: q acknowledgements of one base.
    pub fn new_view_certificate(
        &mut self,
        certificate: NewViewCertificate,
    ) -> Result<Verified<NewViewCertificate>, Reject> {
        in_range(certificate.view, certificate.base.slot)?;
        if certificate.view == View(0) {
            return Err(Reject::WrongView);
        }
        let name = Certified::NewView.name(&certificate.encode());
        if !self.known(&name) {
            let need = if planted("qack") {
                2 * self.rules.slow - self.rules.n
            } else {
                self.rules.slow
            };
            self.all(need, &certificate.statement(), &certificate.acks)?;
            self.remember(name);
        }
        Ok(Verified(certificate))
    }

    /// CkptCert: q equal states; accept nothing below q.
    pub fn checkpoint_certificate(
        &mut self,
        certificate: CheckpointCertificate,
    ) -> Result<Verified<CheckpointCertificate>, Reject> {
        let header = &certificate.header;
        in_range(header.view(), header.slot())?;
        if header.epoch() != self.rules.epoch || header.slot() <= self.rules.genesis.slot {
            return Err(Reject::WrongEpoch);
        }
        let name = Certified::Checkpoint.name(&certificate.encode());
        if !self.known(&name) {
            self.all(
                self.rules.slow,
                &certificate.statement(),
                &certificate.signatures,
            )?;
            self.remember(name);
        }
        Ok(Verified(certificate))
    }

    /// Why a state with this certificate counts: that holds, or it is the very state that the epoch
    /// begins with, which was certified in the epoch before, if ever.
    pub fn state(&mut self, certificate: CheckpointCertificate) -> Result<StateProof, Reject> {
        let slot = certificate.header.slot();
        if slot == self.rules.genesis.slot && self.origin_root == Some(certificate.root) {
            return Ok(StateProof::Origin);
        }
        self.checkpoint_certificate(certificate)
            .map(StateProof::Certified)
    }

    /// WC: V wishes.
    pub fn wish_certificate(
        &mut self,
        certificate: WishCertificate,
    ) -> Result<Verified<WishCertificate>, Reject> {
        in_range(certificate.view, Slot(0))?;
        if certificate.wishes.len() < self.rules.view_change {
            return Err(Reject::TooFewSignatures);
        }
        for wish in &certificate.wishes {
            self.member(wish.by, &wish.statement(), &wish.signature)?;
        }
        Ok(Verified(certificate))
    }

    /// QC: q votes of one view on one chain, at or above the block.
    pub fn quorum_certificate(
        &mut self,
        certificate: QuorumCertificate,
    ) -> Result<Verified<QuorumCertificate>, Reject> {
        self.check_quorum(&certificate)?;
        Ok(Verified(certificate))
    }

    fn check_quorum(&mut self, certificate: &QuorumCertificate) -> Result<(), Reject> {
        in_range(certificate.view, certificate.block.slot)?;
        if certificate.votes.len() < self.rules.slow {
            return Err(Reject::TooFewSignatures);
        }
        let name = Certified::Quorum.name(&certificate.encode());
        if self.known(&name) {
            return Ok(());
        }
        let (epoch, view) = (self.rules.epoch, certificate.view);
        let above = expand(epoch, view, certificate.block, &certificate.above);
        let above = above.collect::<Vec<_>>();
        for vote in &certificate.votes {
            let place = match usize::from(vote.above).checked_sub(1) {
                None => certificate.block,
                Some(index) => {
                    let (header, digest) = above.get(index).ok_or(Reject::BodyMalformed)?;
                    Place {
                        slot: header.slot(),
                        digest: *digest,
                    }
                }
            };
            let statement = Statement::Vote {
                view,
                slot: place.slot,
                digest: place.digest,
            };
            self.member(vote.by, &statement, &vote.signature)?;
        }
        self.remember(name);
        Ok(())
    }

    /// V-WF: a view change that can be counted. Certificates before signatures of one replica.
    pub fn view_change(
        &mut self,
        message: ViewChange,
        signature: Signature,
    ) -> Result<Verified<CheckedViewChange>, Reject> {
        let rules = self.rules;
        in_range(message.view, Slot(0))?;
        if message.view <= message.installed
            || message.certificate.is_some() != (message.installed > View(0))
        {
            return Err(Reject::WrongView);
        }
        let digest = message.digest();
        let statement = Statement::ViewChange {
            view: message.view,
            digest,
        };
        self.member(message.replica, &statement, &signature)?;
        if let Some(certificate) = message.certificate {
            if certificate.view != message.installed {
                return Err(Reject::WrongView);
            }
            if !planted("fakeview") {
                self.new_view_certificate(certificate)?;
            }
        }
        let mut low = rules.genesis.slot;
        if let Some(checkpoint) = message.checkpoint {
            low = checkpoint.header.slot();
            self.checkpoint_certificate(checkpoint)?;
        }
        let anchor = message.anchor(rules.genesis);
        let headers = message.headers(rules.epoch, anchor).collect::<Vec<_>>();
        let checked = CheckedViewChange {
            digest,
            signature,
            anchor,
            headers,
            message,
        };
        let tip = checked.tip();
        if checked.headers.is_empty() {
            if checked.message.tip_signature != Signature([0; 64]) {
                return Err(Reject::BodyMalformed);
            }
        } else {
            if tip.slot.0 > low.0 + rules.window {
                return Err(Reject::OutsideWindow);
            }
            let installed = checked.message.installed;
            let statement = Statement::Propose {
                view: installed,
                slot: tip.slot,
                digest: tip.digest,
            };
            let leader = rules.leader(installed);
            self.member(leader, &statement, &checked.message.tip_signature)?;
        }
        if let Some(quorum) = &checked.message.quorum {
            if quorum.view != checked.message.installed
                || checked.digest_at(quorum.block.slot) != Some(quorum.block.digest)
            {
                return Err(Reject::BodyMalformed);
            }
            let quorum = quorum.clone();
            self.check_quorum(&quorum)?;
        }
        Ok(Verified(checked))
    }

    /// NEW-VIEW: signed by the leader of its view, names enough view changes.
    pub fn new_view(
        &mut self,
        message: NewView,
        signature: Signature,
    ) -> Result<Verified<SignedNewView>, Reject> {
        in_range(message.view, message.base.slot)?;
        let few = usize::from(planted("vcsmall"));
        if message.chosen.len() + few < self.rules.view_change
            || message
                .chosen
                .iter()
                .any(|(author, _)| author.index() >= self.rules.n)
        {
            return Err(Reject::TooFewSignatures);
        }
        let leader = self.rules.leader(message.view);
        self.member(leader, &message.statement(), &signature)?;
        Ok(Verified(SignedNewView { message, signature }))
    }
}

/// Makes an own view change; it is well formed because our own state is.
pub fn sign_view_change(
    signer: &impl Signer,
    rules: &Rules,
    message: ViewChange,
) -> Verified<CheckedViewChange> {
    let digest = message.digest();
    let statement = Statement::ViewChange {
        view: message.view,
        digest,
    };
    let anchor = message.anchor(rules.genesis);
    let headers = message.headers(rules.epoch, anchor).collect();
    Verified(CheckedViewChange {
        digest,
        signature: signer.sign(&statement),
        anchor,
        headers,
        message,
    })
}

/// Makes an own NEW-VIEW.
pub fn sign_new_view(signer: &impl Signer, message: NewView) -> Verified<SignedNewView> {
    let signature = signer.sign(&message.statement());
    Verified(SignedNewView { message, signature })
}

/// Gathers verified statements that say the same into a certificate's signatures.
pub fn gather<'a>(statements: impl IntoIterator<Item = &'a Verified<super::Signed>>) -> Signatures {
    let mut signatures = Signatures::new();
    for signed in statements {
        signatures.add(signed.by, signed.signature);
    }
    signatures
}

/// Views and slots of peers stay far from the ends of their range, so sums never overflow.
pub fn in_range(view: View, slot: Slot) -> Result<(), Reject> {
    if view.0 > VIEW_MAX {
        Err(Reject::WrongView)
    } else if slot.0 > SLOT_MAX {
        Err(Reject::WrongSlot)
    } else {
        Ok(())
    }
}
