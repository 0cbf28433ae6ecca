//! The two seals of the simulator: real Ed25519, or one that does next to no public-key work.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use wire::committee::Committee;
use wire::ids::{Digest, NodeId, Signature};
use wire::keys::NodeSecret;
use wire::reject::Reject;
use wire::request::RequestView;
use wire::seal::{
    Ed25519Signer, Ed25519Verifier, FakeSeal, Signer, Statement, Verifier, request_digest,
};

/// How much cryptography a run does.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Statements of replicas carry simulated signatures; a client's signature is judged once.
    #[default]
    Core,
    /// Ed25519 everywhere, as in production.
    Full,
}

/// What was found out about clients' signatures, for all replicas of a world.
#[derive(Debug)]
pub struct Judged {
    verifier: Ed25519Verifier,
    cluster: wire::ids::ClusterId,
    known: RefCell<BTreeMap<(Signature, Digest), Result<(), Reject>>>,
}

impl Judged {
    pub fn new(committee: &Committee) -> Judged {
        Judged {
            verifier: Ed25519Verifier::new(committee),
            cluster: committee.cluster(),
            known: RefCell::default(),
        }
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        let name = (*request.signature(), request_digest(self.cluster, request));
        *self
            .known
            .borrow_mut()
            .entry(name)
            .or_insert_with(|| self.verifier.request(request))
    }
}

/// The seal of one replica.
#[derive(Clone)]
pub enum Seal {
    Core(FakeSeal, Rc<Judged>),
    Full(Ed25519Signer, Rc<Judged>),
}

impl Seal {
    pub fn new(
        profile: Profile,
        committee: &Committee,
        me: NodeId,
        secret: &NodeSecret,
        judged: &Rc<Judged>,
    ) -> Seal {
        let judged = Rc::clone(judged);
        match profile {
            Profile::Core => Seal::Core(FakeSeal::new(committee, me), judged),
            Profile::Full => {
                let signer = Ed25519Signer::new(committee, secret).expect("the member's own key");
                Seal::Full(signer, judged)
            }
        }
    }
}

impl Signer for Seal {
    fn me(&self) -> NodeId {
        match self {
            Seal::Core(seal, _) => seal.me(),
            Seal::Full(signer, _) => signer.me(),
        }
    }

    fn sign(&self, statement: &Statement) -> Signature {
        match self {
            Seal::Core(seal, _) => seal.sign(statement),
            Seal::Full(signer, _) => signer.sign(statement),
        }
    }
}

impl Verifier for Seal {
    fn member(
        &self,
        by: NodeId,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), Reject> {
        match self {
            Seal::Core(seal, _) => seal.member(by, statement, signature),
            Seal::Full(_, judged) => judged.verifier.member(by, statement, signature),
        }
    }

    fn request(&self, request: &RequestView<'_>) -> Result<(), Reject> {
        match self {
            Seal::Core(_, judged) => judged.request(request),
            Seal::Full(_, judged) => judged.verifier.request(request),
        }
    }
}
