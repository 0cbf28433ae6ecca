//! RECONFIG: what the operator wants of the next epoch (protocol §10).
//!
//! A change names the epoch that it follows, so that it is executed once or never. It is an operation
//! of a request that the operator signs as a client; whoever else asks is refused when it is executed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::committee::{Committee, CommitteeError, CommitteeParts, Member, Origin, ParameterError};
use crate::committee::{Parameters, Preset};
use crate::ids::{Epoch, NodeId, PublicKey, Slot};
use crate::reject::Reject;

/// Bytes of a change on the wire and in the state.
pub const CHANGE_BYTES: usize = 72;

const ADD: u8 = 1;
const REMOVE: u8 = 2;
const REPLACE: u8 = 3;

/// What happens to the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It gets the next id.
    Add {
        public_key: PublicKey,
        address: SocketAddr,
    },
    /// Those with higher ids move down by one.
    Remove { id: NodeId },
    /// Another key, and so another replica, under the same id.
    Replace {
        id: NodeId,
        public_key: PublicKey,
        address: SocketAddr,
    },
}

/// The next epoch: its members, and which faults they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch that it ends.
    pub epoch: Epoch,
    pub members: MemberChange,
    /// (b, u, p); none: what the preset settles for as many members, or the same where it settles
    /// nothing.
    pub faults: Option<[u8; 3]>,
}

/// The bytes of a change.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ChangeBody {
    /// 0: no change.
    kind: u8,
    has_faults: u8,
    faults: [u8; 3],
    reserved: u8,
    id: U16,
    epoch: U64,
    public_key: [u8; 32],
    /// One of version 4 as `::ffff:a.b.c.d`.
    address: [u8; 16],
    port: U16,
    reserved_end: [u8; 6],
}

const _: () = assert!(size_of::<ChangeBody>() == CHANGE_BYTES);

/// Why a change makes no committee.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    #[error("it follows epoch {asked}, and this is epoch {now}")]
    OtherEpoch { asked: Epoch, now: Epoch },
    #[error("there is no member {0}")]
    NoMember(NodeId),
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    #[error(transparent)]
    Committee(#[from] CommitteeError),
}

impl ChangeBody {
    pub const NONE: ChangeBody = ChangeBody {
        kind: 0,
        has_faults: 0,
        faults: [0; 3],
        reserved: 0,
        id: U16::new(0),
        epoch: U64::new(0),
        public_key: [0; 32],
        address: [0; 16],
        port: U16::new(0),
        reserved_end: [0; 6],
    };

    pub fn encode(change: &Change) -> ChangeBody {
        let none = (NodeId(0), PublicKey([0; 32]), None);
        let (kind, (id, key, address)) = match change.members {
            MemberChange::Add {
                public_key,
                address,
            } => (ADD, (NodeId(0), public_key, Some(address))),
            MemberChange::Remove { id } => (REMOVE, (id, none.1, none.2)),
            MemberChange::Replace {
                id,
                public_key,
                address,
            } => (REPLACE, (id, public_key, Some(address))),
        };
        let octets = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        ChangeBody {
            kind,
            has_faults: u8::from(change.faults.is_some()),
            faults: change.faults.unwrap_or_default(),
            reserved: 0,
            id: U16::new(id.0),
            epoch: U64::new(change.epoch.0),
            public_key: key.0,
            address: address.map_or([0; 16], octets),
            port: U16::new(address.map_or(0, |address| address.port())),
            reserved_end: [0; 6],
        }
    }

    /// Refuses every encoding but the one that [`ChangeBody::encode`] writes.
    pub fn decode(&self) -> Result<Change, Reject> {
        let ip = Ipv6Addr::from(self.address).to_canonical();
        let (id, address) = (NodeId(self.id.get()), SocketAddr::new(ip, self.port.get()));
        let public_key = PublicKey(self.public_key);
        let change = Change {
            epoch: Epoch(self.epoch.get()),
            members: match self.kind {
                ADD => MemberChange::Add {
                    public_key,
                    address,
                },
                REMOVE => MemberChange::Remove { id },
                REPLACE => MemberChange::Replace {
                    id,
                    public_key,
                    address,
                },
                _ => return Err(Reject::OperationMalformed),
            },
            faults: (self.has_faults != 0).then_some(self.faults),
        };
        match ChangeBody::encode(&change) == *self {
            true => Ok(change),
            false => Err(Reject::OperationMalformed),
        }
    }
}

impl Change {
    /// The committee of the next epoch, if it begins with this state.
    pub fn apply(&self, now: &Committee, origin: Origin) -> Result<Committee, ChangeError> {
        if self.epoch != now.epoch() {
            let asked = self.epoch;
            return Err(ChangeError::OtherEpoch {
                asked,
                now: now.epoch(),
            });
        }
        let mut members = now.members().to_vec();
        let place = |id: NodeId| match members_have(now, id) {
            true => Ok(id.index()),
            false => Err(ChangeError::NoMember(id)),
        };
        match self.members {
            MemberChange::Add {
                public_key,
                address,
            } => members.push(Member {
                id: NodeId(members.len() as u16),
                public_key,
                address,
            }),
            MemberChange::Remove { id } => {
                members.remove(place(id)?);
            }
            MemberChange::Replace {
                id,
                public_key,
                address,
            } => {
                members[place(id)?] = Member {
                    id,
                    public_key,
                    address,
                }
            }
        }
        for (place, member) in members.iter_mut().enumerate() {
            member.id = NodeId(place as u16);
        }
        let (preset, parameters) = self.faults_of(now, members.len())?;
        let parts = CommitteeParts {
            epoch: Epoch(now.epoch().0 + 1),
            members,
            preset,
            parameters,
            origin: Some(origin),
            ..now.parts().clone()
        };
        Ok(Committee::new(parts)?)
    }

    fn faults_of(&self, now: &Committee, n: usize) -> Result<(Preset, Parameters), ParameterError> {
        let preset = now.preset();
        if let Some(faults) = self.faults {
            let [b, u, p] = faults.map(usize::from);
            let given = Parameters { n, b, u, p };
            return Ok((Preset::of(&given)?, given));
        }
        match preset.is_explicit() || n == now.n() {
            true => Ok((
                preset,
                Parameters {
                    n,
                    ..now.parameters()
                },
            )),
            false => Ok((preset, preset.parameters(n)?)),
        }
    }
}

fn members_have(committee: &Committee, id: NodeId) -> bool {
    committee.member(id).is_some()
}

const ACCEPTED: u8 = 1;
const NOT_THE_OPERATOR: u8 = 2;
const PENDING: u8 = 3;
const REFUSED: u8 = 4;

/// What became of a RECONFIG when it was executed: the value of its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeAnswer {
    /// The epoch ends behind this slot (G1).
    Accepted {
        activation: Slot,
    },
    NotTheOperator,
    /// Another one waits until this slot.
    Pending {
        activation: Slot,
    },
    /// It makes no committee, or names another epoch.
    Refused,
}

impl ChangeAnswer {
    pub fn encode(self) -> [u8; 9] {
        let (code, slot) = match self {
            ChangeAnswer::Accepted { activation } => (ACCEPTED, activation),
            ChangeAnswer::NotTheOperator => (NOT_THE_OPERATOR, Slot(0)),
            ChangeAnswer::Pending { activation } => (PENDING, activation),
            ChangeAnswer::Refused => (REFUSED, Slot(0)),
        };
        let mut bytes = [code; 9];
        bytes[1..].copy_from_slice(&slot.0.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<ChangeAnswer> {
        let (&code, slot) = bytes.split_first()?;
        let activation = Slot(u64::from_le_bytes(slot.try_into().ok()?));
        Some(match code {
            ACCEPTED => ChangeAnswer::Accepted { activation },
            NOT_THE_OPERATOR => ChangeAnswer::NotTheOperator,
            PENDING => ChangeAnswer::Pending { activation },
            REFUSED => ChangeAnswer::Refused,
            _ => return None,
        })
    }
}

/// A change that was executed, and the last slot of its epoch (G1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub activation: Slot,
    pub change: Change,
}
