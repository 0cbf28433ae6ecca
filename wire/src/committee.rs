//! Who the replicas are, what faults they stand, and everything else on which they must agree.
//!
//! A [`Committee`] exists only in checked form: keys are strong and distinct, ids run from 0 without
//! gaps, the parameters satisfy C1-C7 of protocol §1.1. Its digest (`config_digest` of protocol §2)
//! covers all of it but addresses, and is bound into every link key and every replica's signature,
//! so that replicas with different committee files cannot even talk to each other.

mod file;
mod parameters;

use std::net::SocketAddr;

pub use file::CommitteeError;
pub use parameters::{Condition, ParameterError, Parameters, Preset};

use crate::certificates::Place;
use crate::ids::{ClusterId, Digest, Epoch, NodeId, PublicKey, Slot};
use crate::keys::{KeyError, check_public_key};
use crate::limits;

/// Whether the equivocating leader's own view change counts (protocol §1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It does not; C7 holds.
    On,
    /// Every one counts; C7' holds.
    Off,
}

/// What carries a vote (protocol §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteAuthentication {
    Signature,
    /// Only where F = q.
    Mac,
}

/// What proves that a client made its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// An Ed25519 signature on every request datagram.
    Signature,
}

/// What decided transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMachine {
    /// The key-value table.
    Kv,
    /// Nothing: ordering alone.
    Noop,
}

/// Which clients may speak to the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Every key, after a cookie.
    Any,
    /// Only these, in ascending order; strangers are dropped in silence.
    List(Vec<PublicKey>),
}

impl Admission {
    pub fn admits(&self, client: &PublicKey) -> bool {
        match self {
            Admission::Any => true,
            Admission::List(keys) => keys.binary_search(client).is_ok(),
        }
    }
}

/// One replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub public_key: PublicKey,
    /// Where it listens; not covered by the digest.
    pub address: SocketAddr,
}

/// Where an epoch begins when that is not slot 0 with an empty state: behind the last checkpoint of the
/// epoch before (G2), or with the state of a snapshot that was restored into a new cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// A checkpoint's.
    pub slot: Slot,
    /// Digest of the block there.
    pub block: Digest,
    /// Root of the state there: whoever has a state of this root needs no certificate.
    pub state_root: Digest,
}

/// What a committee is made of, before it is checked by [`Committee::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitteeParts {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub members: Vec<Member>,
    pub preset: Preset,
    pub parameters: Parameters,
    pub admission: Admission,
    pub operator: Option<PublicKey>,
    pub client_authentication: ClientAuthentication,
    pub vote_authentication: VoteAuthentication,
    pub state_machine: StateMachine,
    /// None: slot 0, with an empty state.
    pub origin: Option<Origin>,
}

impl CommitteeParts {
    /// The default configuration over these members.
    pub fn with_preset(
        cluster: ClusterId,
        members: Vec<Member>,
        preset: Preset,
    ) -> Result<CommitteeParts, ParameterError> {
        let parameters = preset.parameters(members.len())?;
        Ok(CommitteeParts::with_parameters(
            cluster, members, preset, parameters,
        ))
    }

    /// The same with parameters that are checked later, by [`Committee::new`].
    pub fn with_parameters(
        cluster: ClusterId,
        members: Vec<Member>,
        preset: Preset,
        parameters: Parameters,
    ) -> CommitteeParts {
        CommitteeParts {
            cluster,
            epoch: Epoch(0),
            parameters,
            members,
            preset,
            admission: Admission::Any,
            operator: None,
            client_authentication: ClientAuthentication::Signature,
            vote_authentication: VoteAuthentication::Signature,
            state_machine: StateMachine::Kv,
            origin: None,
        }
    }
}

/// A checked committee and its digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committee {
    parts: CommitteeParts,
    digest: Digest,
}

impl Committee {
    /// Checks everything; see [`CommitteeError`] for what can be wrong.
    pub fn new(mut parts: CommitteeParts) -> Result<Committee, CommitteeError> {
        check_members(&parts.members)?;
        if parts.parameters.n != parts.members.len() {
            return Err(CommitteeError::MemberCount {
                n: parts.parameters.n,
                members: parts.members.len(),
            });
        }
        parts.preset.check(&parts.parameters)?;
        parts.parameters.check(parts.preset.exclusion())?;
        if parts.vote_authentication == VoteAuthentication::Mac {
            let (fast, slow) = (parts.parameters.fast(), parts.parameters.slow());
            if fast != slow {
                return Err(CommitteeError::MacNeedsNoSlowPath { fast, slow });
            }
        }
        if let Admission::List(keys) = &mut parts.admission {
            if keys.len() > limits::SESSIONS_MAX {
                return Err(CommitteeError::AdmissionTooLong(keys.len()));
            }
            for key in keys.iter() {
                check_public_key(key)
                    .map_err(|error| CommitteeError::AdmissionKey { key: *key, error })?;
            }
            keys.sort_unstable();
            keys.dedup();
        }
        if let Some(operator) = &parts.operator {
            check_public_key(operator).map_err(CommitteeError::OperatorKey)?;
        }
        if let Some(origin) = parts.origin
            && !(1..=ORIGIN_SLOT_MAX).contains(&origin.slot.0)
        {
            return Err(CommitteeError::OriginSlot(origin.slot));
        }
        let digest = config_digest(&parts);
        Ok(Committee { parts, digest })
    }

    /// Reads the text of `committee.toml`.
    pub fn parse(text: &str) -> Result<Committee, CommitteeError> {
        file::parse(text).and_then(Committee::new)
    }

    /// The text of a `committee.toml` that [`Committee::parse`] reads back.
    pub fn to_toml(&self) -> String {
        file::to_toml(&self.parts)
    }

    /// `config_digest` of protocol §2: everything but addresses.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// First bytes of the digest; stands in every datagram.
    pub fn cluster_key(&self) -> [u8; 8] {
        self.digest.prefix().to_le_bytes()
    }

    /// G_e of protocol §2: the first block of the epoch stands on it. Its digest is H("genesis",
    /// config_digest), which covers the block and the state at an origin.
    pub fn genesis(&self) -> Place {
        Place {
            slot: self.parts.origin.map_or(Slot(0), |origin| origin.slot),
            digest: Digest(blake3::derive_key("hippodrome/1/genesis", &self.digest.0)),
        }
    }

    /// Root of the state with which the epoch begins; None for the empty one of slot 0.
    pub fn origin_root(&self) -> Option<Digest> {
        self.parts.origin.map(|origin| origin.state_root)
    }

    pub fn cluster(&self) -> ClusterId {
        self.parts.cluster
    }

    pub fn epoch(&self) -> Epoch {
        self.parts.epoch
    }

    /// The replicas, by id.
    pub fn members(&self) -> &[Member] {
        &self.parts.members
    }

    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.parts.members.get(id.index())
    }

    /// The replica that has this key.
    pub fn find(&self, key: &PublicKey) -> Option<NodeId> {
        let member = self
            .members()
            .iter()
            .find(|member| member.public_key == *key)?;
        Some(member.id)
    }

    pub fn parameters(&self) -> Parameters {
        self.parts.parameters
    }

    /// Replicas.
    pub fn n(&self) -> usize {
        self.parts.parameters.n
    }

    /// Byzantine replicas under which safety holds.
    pub fn b(&self) -> usize {
        self.parts.parameters.b
    }

    pub fn preset(&self) -> Preset {
        self.parts.preset
    }

    pub fn exclusion(&self) -> Exclusion {
        self.parts.preset.exclusion()
    }

    pub fn admission(&self) -> &Admission {
        &self.parts.admission
    }

    pub fn operator(&self) -> Option<&PublicKey> {
        self.parts.operator.as_ref()
    }

    pub fn client_authentication(&self) -> ClientAuthentication {
        self.parts.client_authentication
    }

    pub fn vote_authentication(&self) -> VoteAuthentication {
        self.parts.vote_authentication
    }

    pub fn state_machine(&self) -> StateMachine {
        self.parts.state_machine
    }

    pub fn parts(&self) -> &CommitteeParts {
        &self.parts
    }

    /// Names of the fields in which two committees differ, as `committee.toml` spells them; none
    /// when they are equal.
    pub fn difference(&self, other: &Committee) -> Option<Vec<String>> {
        let (a, b) = (&self.parts, &other.parts);
        let mut names = Vec::new();
        let mut note = |name: &str, differs: bool| {
            if differs {
                names.push(name.to_owned());
            }
        };
        note("cluster", a.cluster != b.cluster);
        note("epoch", a.epoch != b.epoch);
        note("preset", a.preset != b.preset);
        note("b", a.parameters.b != b.parameters.b);
        note("u", a.parameters.u != b.parameters.u);
        note("p", a.parameters.p != b.parameters.p);
        note("admission", a.admission != b.admission);
        note("operator", a.operator != b.operator);
        note(
            "client_authentication",
            a.client_authentication != b.client_authentication,
        );
        note(
            "vote_authentication",
            a.vote_authentication != b.vote_authentication,
        );
        note("state_machine", a.state_machine != b.state_machine);
        note("origin", a.origin != b.origin);
        note("member (their number)", a.members.len() != b.members.len());
        for (left, right) in a.members.iter().zip(&b.members) {
            let id = left.id;
            note(
                &format!("member {id} public_key"),
                left.public_key != right.public_key,
            );
            note(
                &format!("member {id} address"),
                left.address != right.address,
            );
        }
        (!names.is_empty()).then_some(names)
    }
}

fn check_members(members: &[Member]) -> Result<(), CommitteeError> {
    if members.is_empty() || members.len() > limits::REPLICAS_MAX {
        return Err(CommitteeError::Size(members.len()));
    }
    for (place, member) in members.iter().enumerate() {
        let id = member.id;
        if id.index() != place {
            return Err(CommitteeError::MemberOrder { id, place });
        }
        check_public_key(&member.public_key)
            .map_err(|error| CommitteeError::MemberKey { id, error })?;
        for other in &members[..place] {
            if other.public_key == member.public_key {
                return Err(CommitteeError::DuplicateKey { a: other.id, b: id });
            }
            if other.address == member.address {
                return Err(CommitteeError::DuplicateAddress {
                    a: other.id,
                    b: id,
                    address: member.address,
                });
            }
        }
    }
    Ok(())
}

/// No cluster reaches it; what is added to it stays a number.
const ORIGIN_SLOT_MAX: u64 = 1 << 56;

/// H("committee", fixed layout): numbers little-endian, lists behind their u32 length, an absent
/// operator as 32 zero bytes (no valid key), an absent origin as nothing.
fn config_digest(parts: &CommitteeParts) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("hippodrome/1/committee");
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
    };
    let count = |length: usize| (length as u32).to_le_bytes();
    put(&parts.cluster.0);
    put(&parts.epoch.0.to_le_bytes());
    put(&count(parts.members.len()));
    for member in &parts.members {
        put(&member.public_key.0);
    }
    let Parameters { n: _, b, u, p } = parts.parameters;
    for number in [b, u, p] {
        put(&count(number));
    }
    put(&[
        match parts.preset.exclusion() {
            Exclusion::On => 1,
            Exclusion::Off => 0,
        },
        match parts.vote_authentication {
            VoteAuthentication::Signature => 1,
            VoteAuthentication::Mac => 2,
        },
        match parts.client_authentication {
            ClientAuthentication::Signature => 1,
        },
        match parts.state_machine {
            StateMachine::Kv => 1,
            StateMachine::Noop => 2,
        },
    ]);
    for limit in AGREED_LIMITS {
        put(&limit.to_le_bytes());
    }
    put(&parts.operator.map_or([0; 32], |key| key.0));
    match &parts.admission {
        Admission::Any => put(&[0; 5]),
        Admission::List(keys) => {
            put(&[1]);
            put(&count(keys.len()));
            for key in keys {
                put(&key.0);
            }
        }
    }
    if let Some(origin) = &parts.origin {
        put(&origin.slot.0.to_le_bytes());
        put(&origin.block.0);
        put(&origin.state_root.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Limits on which replicas must agree, in the order of the digest.
const AGREED_LIMITS: [u64; 16] = [
    limits::CHECKPOINT_INTERVAL,
    limits::WINDOW,
    limits::SESSION_WINDOW,
    limits::SESSIONS_MAX as u64,
    limits::CACHED_RESULT_BYTES_MAX as u64,
    limits::OPEN_LIFETIME_SLOTS,
    limits::BLOCK_PAYLOAD_BYTES_MAX as u64,
    limits::REQUEST_BYTES_MAX as u64,
    limits::BUNDLE_MAX as u64,
    limits::KEY_BYTES_MAX as u64,
    limits::VALUE_BYTES_MAX as u64,
    limits::TXN_PARTS_MAX as u64,
    limits::SCAN_ENTRIES_MAX as u64,
    limits::RESULT_BYTES_MAX as u64,
    limits::GRAIN_BYTES as u64,
    limits::STATE_BUCKETS as u64,
];

impl From<ParameterError> for CommitteeError {
    fn from(error: ParameterError) -> CommitteeError {
        CommitteeError::Parameters(error)
    }
}

impl CommitteeError {
    /// The key's own fault, where there is one.
    pub fn key_error(&self) -> Option<KeyError> {
        match self {
            CommitteeError::MemberKey { error, .. }
            | CommitteeError::AdmissionKey { error, .. }
            | CommitteeError::OperatorKey(error) => Some(*error),
            _ => None,
        }
    }
}
