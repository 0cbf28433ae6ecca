//! Signatures: what they bind, what the judge refuses, and vectors computed elsewhere.

mod support;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::{Digest as _, Sha512, Verifier as _, VerifyingKey};
use support::{client_secret, committee, parts, secret};
use wire::block::{BlockHeader, BlockPrefix, payload_digest};
use wire::certificates::{
    CertifiedVote, CheckpointCertificate, CompactHeader, Place, QuorumCertificate, expand,
};
use wire::committee::Committee;
use wire::ids::{
    Boot, ClusterId, Digest, Epoch, NodeId, PublicKey, Sequence, SessionId, Signature, Slot, View,
};
use wire::keys::NodeSecret;
use wire::ops::{Operation, OperationsBuilder};
use wire::reject::Reject;
use wire::request::{RequestFields, RequestView, encode_open, encode_request, set_signature};
use wire::seal::{
    self, ClientSigner, Compound, Domain, Ed25519ClientSigner, Ed25519Signer, Ed25519Verifier,
    FakeClientSigner, FakeSeal, Rules, Signed, Signer, Statement, Verifier, request_digest,
    sign_request, verify, verify_block, verify_request,
};
use zerocopy::IntoBytes;

const CLUSTER: ClusterId = ClusterId([0xc0; 16]);

fn statements() -> Vec<Statement> {
    let (view, slot, digest) = (View(1), Slot(2), Digest([3; 32]));
    let (base_slot, base) = (slot, digest);
    vec![
        Statement::Propose { view, slot, digest },
        Statement::Vote { view, slot, digest },
        Statement::Commit { view, slot, digest },
        Statement::Wish {
            view,
            boot: Boot(4),
            counter: 5,
        },
        Statement::Resign { view },
        Statement::ViewChange { view, digest },
        Statement::NewView {
            view,
            base_slot,
            base,
            digest,
        },
        Statement::NewViewAck {
            view,
            base_slot,
            base,
        },
        Statement::Checkpoint {
            slot,
            chain: digest,
            root: digest,
        },
    ]
}

fn signer(id: usize) -> Ed25519Signer {
    Ed25519Signer::new(&committee(4), &secret(id)).unwrap()
}

/// Computed by independent implementations of BLAKE3 and Ed25519.
#[test]
fn a_vote_has_known_bytes() {
    let domain = Domain::of(&committee(4));
    let vote = statements()[1];
    assert_eq!(
        format!("{:#}", domain.statement_digest(&vote)),
        "0b313b4ff0a225b0094ecc334a9c5219a7bcd7b324e6262ea09107bb443edc49"
    );
    assert_eq!(
        format!("{:#}", signer(1).sign(&vote)),
        "68d67d21b185bb7944418fe625824839a4cd39259b779d9d8a85fa9508c367aa\
         5ef55d2bd723f8775570ec9deb8b702d63bb28137f678aeddab98faac734b401"
    );
}

#[test]
fn an_open_has_known_bytes() {
    let signer = Ed25519ClientSigner::new(CLUSTER, &client_secret(9));
    let mut frame = Vec::new();
    encode_open(&mut frame, signer.client(), Slot(77));
    sign_request(&signer, &mut frame).unwrap();
    assert_eq!(
        format!("{:#}", RequestView::parse(&frame).unwrap().signature()),
        "da3a8b3df23a0989db93c6aefdd590081a865c197fa039423b81fd6e38bc9d50\
         9b9c6672472e00c6b80812d7682d7a1f7a4277753c7865c049a48ffd8a6e9a00"
    );
}

fn binds_everything(signer: &impl Signer, verifier: &impl Verifier, foreign: &impl Verifier) {
    for statement in statements() {
        let made = seal::sign(signer, statement).into_inner();
        assert_eq!(made.by, NodeId(1));
        assert!(verify(verifier, made).is_ok());
        let other = |changed: Signed| verify(verifier, changed).map(|_| ()).unwrap_err();
        for by in [0, 2, 3] {
            let by = NodeId(by);
            assert_eq!(other(Signed { by, ..made }), Reject::BadSignature);
        }
        for by in [NodeId(4), NodeId::CLIENT] {
            assert_eq!(other(Signed { by, ..made }), Reject::NotInCommittee);
        }
        for statement in statements() {
            if statement != made.statement {
                assert_eq!(other(Signed { statement, ..made }), Reject::BadSignature);
            }
        }
        for byte in 0..64 {
            let mut changed = made;
            changed.signature.0[byte] ^= 1;
            assert_eq!(other(changed), Reject::BadSignature);
        }
        assert_eq!(verify(foreign, made), Err(Reject::BadSignature));
    }
}

#[test]
fn a_statement_binds_type_fields_signer_and_domain() {
    let mut foreign = parts(4);
    foreign.epoch = Epoch(1);
    let foreign = Committee::new(foreign).unwrap();
    binds_everything(
        &signer(1),
        &Ed25519Verifier::new(&committee(4)),
        &Ed25519Verifier::new(&foreign),
    );
    binds_everything(
        &FakeSeal::new(&committee(4), NodeId(1)),
        &FakeSeal::new(&committee(4), NodeId(0)),
        &FakeSeal::new(&foreign, NodeId(0)),
    );
}

#[test]
fn only_a_member_signs() {
    let stranger = NodeSecret::generate(&[99; 32]).unwrap();
    let error = Ed25519Signer::new(&committee(4), &stranger).unwrap_err();
    assert_eq!(error.key, stranger.public_key());
}

fn request(client: PublicKey) -> Vec<u8> {
    let mut operations = OperationsBuilder::new();
    operations.push(&Operation::Put {
        key: b"key",
        value: b"value",
    });
    let fields = RequestFields {
        session: SessionId(1),
        first_sequence: Sequence(2),
        acked_low: Sequence(1),
        flags: 0,
        count: 1,
    };
    let mut frame = Vec::new();
    encode_request(&mut frame, client, fields, operations.bytes());
    frame
}

fn every_byte_is_signed(signer: &impl ClientSigner, verifier: &impl Verifier) {
    let mut frame = request(signer.client());
    sign_request(signer, &mut frame).unwrap();
    let verified = verify_request(verifier, &frame[..]).unwrap();
    assert_eq!(&verified[..], &frame[..]);
    for at in 0..frame.len() {
        let mut changed = frame.clone();
        changed[at] ^= 1;
        assert!(verify_request(verifier, &changed[..]).is_err(), "byte {at}");
    }
}

#[test]
fn a_request_is_signed_whole() {
    let real = Ed25519ClientSigner::new(CLUSTER, &client_secret(9));
    every_byte_is_signed(&real, &Ed25519Verifier::new(&committee(4)));
    let fake = FakeClientSigner {
        cluster: CLUSTER,
        client: PublicKey([9; 32]),
    };
    every_byte_is_signed(&fake, &FakeSeal::new(&committee(4), NodeId(0)));
    let mut frame = request(PublicKey([8; 32]));
    assert_eq!(sign_request(&fake, &mut frame), Err(Reject::BadSignature));
}

/// Epoch and committee may change under a client's request, the cluster may not.
#[test]
fn a_request_survives_a_reconfiguration() {
    let client = Ed25519ClientSigner::new(CLUSTER, &client_secret(9));
    let mut frame = request(client.client());
    sign_request(&client, &mut frame).unwrap();
    let judged = |cluster, epoch| {
        let mut parts = parts(4);
        parts.cluster = cluster;
        parts.epoch = epoch;
        let verifier = Ed25519Verifier::new(&Committee::new(parts).unwrap());
        verify_request(&verifier, &frame[..]).map(|_| ())
    };
    assert_eq!(judged(CLUSTER, Epoch(7)), Ok(()));
    let foreign = ClusterId([0xc1; 16]);
    assert_eq!(judged(foreign, Epoch(0)), Err(Reject::BadSignature));
}

#[test]
fn a_block_needs_its_leader_and_every_client() {
    let committee = committee(4);
    let verifier = Ed25519Verifier::new(&committee);
    let client = Ed25519ClientSigner::new(CLUSTER, &client_secret(9));
    let mut payload = request(client.client());
    sign_request(&client, &mut payload).unwrap();
    let build = |payload: &[u8], by: usize| {
        let digest = payload_digest(payload);
        let parent = committee.genesis().digest;
        let header = BlockHeader::new(Epoch(0), View(5), Slot(1), 0, parent, digest);
        let statement = Statement::Propose {
            view: View(5),
            slot: Slot(1),
            digest: header.digest(),
        };
        let signature = signer(by).sign(&statement);
        let prefix = BlockPrefix::new(header, signature, payload.len());
        let mut bytes = prefix.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    };
    let leader_of = |view: View| NodeId((view.0 % 4) as u16);
    let judged = |bytes: Vec<u8>| {
        verify_block(&verifier, leader_of, bytes, |bytes| &bytes[..], false).map(|_| ())
    };
    assert_eq!(judged(build(&payload, 1)), Ok(()));
    assert_eq!(judged(build(&payload, 2)), Err(Reject::BadSignature));
    let mut unsigned = payload.clone();
    set_signature(&mut unsigned, &Signature([0; 64]));
    assert_eq!(judged(build(&unsigned, 1)), Err(Reject::BadSignature));
    let mut swapped = build(&payload, 1);
    let last = swapped.len() - 1;
    swapped[last] ^= 1;
    assert_eq!(judged(swapped), Err(Reject::PayloadDigestMismatch));
}

/// Verifiers keep decompressed keys of clients, many clients to a place.
#[test]
fn clients_that_share_a_place_of_the_key_cache_are_told_apart() {
    let verifier = Ed25519Verifier::new(&committee(4));
    let clients: Vec<_> = (1..=255)
        .map(|seed| Ed25519ClientSigner::new(CLUSTER, &client_secret(seed)))
        .collect();
    let place = |client: &Ed25519ClientSigner| {
        let key = client.client().0;
        u16::from_le_bytes([key[8], key[9]]) % 1024
    };
    let pair = clients.iter().enumerate().find_map(|(at, one)| {
        let other = clients[at + 1..].iter();
        other
            .clone()
            .find(|other| place(other) == place(one))
            .map(|other| (one, other))
    });
    let (one, other) = pair.expect("255 keys at 1,024 places");
    for _ in 0..2 {
        for (signer, owner) in [(one, one), (other, other), (one, other), (other, one)] {
            let mut frame = request(owner.client());
            let signed = ClientSigner::sign(signer, &RequestView::parse(&frame).unwrap());
            set_signature(&mut frame, &signed);
            let valid = verify_request(&verifier, &frame[..]).is_ok();
            assert_eq!(valid, std::ptr::eq(signer, owner));
        }
    }
}

/// The group order, little-endian: s + L is the same scalar, not reduced.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn an_unreduced_scalar_is_refused() {
    let verifier = Ed25519Verifier::new(&committee(4));
    let made = seal::sign(&signer(1), statements()[1]).into_inner();
    let mut second = made;
    let mut carry = 0u16;
    for (at, byte) in ORDER.iter().enumerate() {
        carry += u16::from(made.signature.0[32 + at]) + u16::from(*byte);
        second.signature.0[32 + at] = carry as u8;
        carry >>= 8;
    }
    assert_ne!(second, made);
    assert_eq!(verify(&verifier, second), Err(Reject::BadSignature));
}

/// Under a key of small order a signature with s = 0 and R of small order holds for the plain check
/// whenever the torsion parts cancel; `verify_strict` refuses all of them.
#[test]
fn weak_client_keys_sign_nothing() {
    let verifier = Ed25519Verifier::new(&committee(4));
    for key in EIGHT_TORSION {
        for point in EIGHT_TORSION {
            let mut frame = request(PublicKey(key.compress().0));
            let mut signature = Signature([0; 64]);
            signature.0[..32].copy_from_slice(&point.compress().0);
            set_signature(&mut frame, &signature);
            assert!(verify_request(&verifier, &frame[..]).is_err());
        }
    }
    let mut frame = request(PublicKey([2; 32]));
    set_signature(&mut frame, &Signature([2; 64]));
    assert!(verify_request(&verifier, &frame[..]).is_err());
}

/// A crafted pair that a check with cofactor accepts and one without refuses: R has a torsion part.
#[test]
fn a_torsion_part_in_r_is_refused() {
    let verifier = Ed25519Verifier::new(&committee(4));
    let secret = Scalar::from_bytes_mod_order([5; 32]);
    let client = PublicKey(EdwardsPoint::mul_base(&secret).compress().0);
    let nonce = Scalar::from_bytes_mod_order([6; 32]);
    let forged = |torsion: EdwardsPoint| {
        let mut frame = request(client);
        let digest = request_digest(CLUSTER, &RequestView::parse(&frame).unwrap());
        let point = (EdwardsPoint::mul_base(&nonce) + torsion).compress().0;
        let s = nonce + challenge(&point, &client.0, &digest.0) * secret;
        let mut signature = Signature([0; 64]);
        signature.0[..32].copy_from_slice(&point);
        signature.0[32..].copy_from_slice(s.as_bytes());
        set_signature(&mut frame, &signature);
        verify_request(&verifier, &frame[..]).map(|_| ())
    };
    assert_eq!(forged(EIGHT_TORSION[0]), Ok(()), "the craft itself works");
    for torsion in &EIGHT_TORSION[1..] {
        assert_eq!(forged(*torsion), Err(Reject::BadSignature));
    }
}

/// Keys and R with every torsion part, R of small order, encodings that are not canonical: one
/// predicate, however it is computed.
#[test]
fn the_judge_agrees_with_verify_strict() {
    let verifier = Ed25519Verifier::new(&committee(4));
    let judged = |key: PublicKey, nonce: Scalar, point: [u8; 32], secret: Scalar| {
        let mut frame = request(key);
        let digest = request_digest(CLUSTER, &RequestView::parse(&frame).unwrap()).0;
        let s = nonce + challenge(&point, &key.0, &digest) * secret;
        let mut signature = Signature([0; 64]);
        signature.0[..32].copy_from_slice(&point);
        signature.0[32..].copy_from_slice(s.as_bytes());
        set_signature(&mut frame, &signature);
        let ours = verify_request(&verifier, &frame[..]).is_ok();
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        let key = VerifyingKey::from_bytes(&key.0).ok();
        let strict = key.is_some_and(|key| key.verify_strict(&digest, &signature).is_ok());
        assert_eq!(ours, strict, "{point:02x?} under {key:?}");
        (
            strict,
            key.is_some_and(|key| key.verify(&digest, &signature).is_ok()),
        )
    };
    let mut valid = 0;
    let mut valid_but_weak = 0;
    for seed in 1..=16 {
        let secret = Scalar::from_bytes_mod_order([seed; 32]);
        let nonce = Scalar::from_bytes_mod_order([seed + 100; 32]);
        for (secret, nonce) in [
            (secret, nonce),
            (secret, Scalar::ZERO),
            (Scalar::ZERO, nonce),
            (Scalar::ZERO, Scalar::ZERO),
        ] {
            for of_key in EIGHT_TORSION {
                let key = (EdwardsPoint::mul_base(&secret) + of_key).compress().0;
                for of_r in EIGHT_TORSION {
                    let point = (EdwardsPoint::mul_base(&nonce) + of_r).compress().0;
                    let (strict, plain) = judged(PublicKey(key), nonce, point, secret);
                    valid += usize::from(strict);
                    valid_but_weak += usize::from(plain && !strict);
                }
            }
        }
        // p + 1 and p, with either sign: other encodings of points of small order.
        for low in [0xed, 0xee] {
            for high in [0x7f, 0xff] {
                let mut point = [0xff; 32];
                (point[0], point[31]) = (low, high);
                let key = EdwardsPoint::mul_base(&secret).compress().0;
                judged(PublicKey(key), Scalar::ZERO, point, secret);
                judged(PublicKey(point), nonce, key, Scalar::ZERO);
            }
        }
    }
    assert!(
        valid > 16 && valid_but_weak > 16,
        "{valid} {valid_but_weak}"
    );
}

/// Ed25519's challenge: SHA-512 of R, A and the message, as a scalar.
fn challenge(point: &[u8; 32], key: &[u8; 32], message: &[u8; 32]) -> Scalar {
    let hash = Sha512::new()
        .chain_update(point)
        .chain_update(key)
        .chain_update(message)
        .finalize();
    let mut wide = [0; 64];
    wide.copy_from_slice(&hash);
    Scalar::from_bytes_mod_order_wide(&wide)
}

/// The bytes of a certificate of votes may be those of a certificate of a state as well, by chance or by
/// choice of a time. That the one was found good says nothing of the other.
#[test]
fn the_bytes_of_votes_certify_no_state() {
    let committee = committee(4);
    let seals = [0, 1, 2].map(|by| FakeSeal::new(&committee, NodeId(by)));
    // The view stands where a state's epoch does, and the digest where its slot does: both in range.
    let (epoch, view) = (Epoch(1), View(1));
    let mut digest = Digest([0; 32]);
    digest.0[0] = 7;
    let rules = Rules {
        n: 4,
        slow: 3,
        view_change: 3,
        window: 64,
        epoch,
        genesis: Place {
            slot: Slot(0),
            digest: Digest([9; 32]),
        },
    };
    let slot = Slot(5);
    let block = Place { slot, digest };
    // As many bytes as twelve signatures of a state; the second header's time names who signed.
    let above = (0..16).map(|index: u64| {
        let (slot, time_ns) = (Slot(6 + index), 0x0fff << 32);
        let payload = payload_digest(&[]);
        CompactHeader::of(&BlockHeader::new(
            epoch,
            view,
            slot,
            time_ns,
            block.digest,
            payload,
        ))
    });
    let above = above.collect::<Vec<_>>();
    let (_, digest) = expand(epoch, view, block, &above).last().unwrap();
    let slot = Slot(21);
    let votes = seals.iter().zip(0..).map(|(seal, by)| CertifiedVote {
        by: NodeId(by),
        above: 16,
        signature: seal.sign(&Statement::Vote { view, slot, digest }),
    });
    let quorum = QuorumCertificate {
        view,
        block,
        votes: votes.collect(),
        above,
    };
    let bytes = quorum.encode();
    let mut compound = Compound::new(seals[0].clone(), rules);
    compound.quorum_certificate(quorum).unwrap();
    let state = CheckpointCertificate::decode(&bytes).unwrap();
    assert_eq!(state.signatures.count(), 12);
    assert!(compound.checkpoint_certificate(state).is_err());
}
