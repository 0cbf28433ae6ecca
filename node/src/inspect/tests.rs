//! A committee whose members sign, for the tests of this room.

use replica::verifying::Verifying;
use wire::committee::{Committee, CommitteeParts, Member, Preset};
use wire::ids::{ClusterId, Epoch, NodeId, Signature};
use wire::keys::NodeSecret;
use wire::limits::WINDOW;
use wire::seal::{Ed25519Signer, Ed25519Verifier, Rules, Signer, Statement};

pub const CLUSTER: ClusterId = ClusterId([1; 16]);
pub const ME: NodeId = NodeId(2);

fn secret(node: u16) -> NodeSecret {
    NodeSecret::generate(&[node as u8 + 1; 32]).unwrap()
}

fn committee() -> Committee {
    let members = (0..4).map(|node| Member {
        id: NodeId(node),
        public_key: secret(node).public_key(),
        address: ([127, 0, 0, 1], 7000 + node).into(),
    });
    let parts = CommitteeParts::with_preset(CLUSTER, members.collect(), Preset::Balanced);
    Committee::new(parts.unwrap()).unwrap()
}

pub fn verifying() -> Verifying<Ed25519Verifier> {
    let committee = committee();
    let rules = Rules {
        n: 4,
        slow: 3,
        view_change: 3,
        window: WINDOW,
        epoch: Epoch(0),
        genesis: committee.genesis(),
    };
    Verifying::new(Ed25519Verifier::new(&committee), rules)
}

pub fn sign(node: u16, statement: &Statement) -> Signature {
    let signer = Ed25519Signer::new(&committee(), &secret(node)).unwrap();
    signer.sign(statement)
}
