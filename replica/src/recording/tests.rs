use std::net::{Ipv4Addr, SocketAddr};

use wire::committee::{CommitteeParts, Member, Preset};
use wire::ids::ClusterId;
use wire::keys::NodeSecret;
use wire::seal::Ed25519Verifier;

use super::*;
use consensus::image::{Fold, Sink};

fn recording() -> Recording {
    let members = (0..4u16).map(|id| Member {
        id: NodeId(id),
        public_key: NodeSecret::generate(&[id as u8 + 1; 32])
            .unwrap()
            .public_key(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000 + id)),
    });
    let parts =
        CommitteeParts::with_preset(ClusterId([7; 16]), members.collect(), Preset::Balanced);
    Recording {
        description: Description {
            node: NodeId(2),
            boot: 3,
            program: "hippo 1".to_owned(),
            reason: "panicked at a = b".to_owned(),
            wall_offset_ns: 12,
            committee: Committee::new(parts.unwrap()).unwrap(),
        },
        reels: vec![
            Reel {
                number: 4,
                bytes: vec![1; 40],
            },
            Reel {
                number: 5,
                bytes: Vec::new(),
            },
        ],
    }
}

#[test]
fn a_file_round_trips_and_every_damage_has_a_name() {
    let recording = recording();
    let file = recording.encode();
    assert_eq!(Recording::decode(&file), Ok(recording));
    for length in 0..file.len() {
        let error = Recording::decode(&file[..length]).unwrap_err();
        assert!(matches!(
            error,
            RecordingError::Truncated(_) | RecordingError::Digest
        ));
    }
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        let error = Recording::decode(&bad).unwrap_err();
        match at {
            0..8 => assert_eq!(error, RecordingError::Magic),
            8..12 => assert!(matches!(error, RecordingError::Version(_))),
            _ => assert_eq!(error, RecordingError::Digest),
        }
    }
}

#[test]
fn lines_in_a_reason_stay_one_field() {
    let mut recording = recording();
    recording.description.reason = "a\nnode = 0\n\nb".to_owned();
    let back = Recording::decode(&recording.encode()).unwrap();
    assert_eq!(back.description.node, NodeId(2));
    assert_eq!(back.description.reason, "a node = 0  b");
}

#[test]
fn frames_that_are_none_are_refused() {
    let recording = recording();
    let verifier = Ed25519Verifier::new(&recording.description.committee);
    let run = |bytes: Vec<u8>| {
        let reel = Reel { number: 0, bytes };
        replay(NodeId(2), &[reel], verifier.clone(), |_| {}).unwrap_err()
    };
    assert_eq!(run(Vec::new()), ReplayError::NoImage);
    assert!(matches!(run(vec![1; 40]), ReplayError::Frame { at: 0, .. }));
    let frame = |kind: u8, content: &[u8]| {
        let mut bytes = (content.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&[kind, 0, 0, 0]);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    assert_eq!(run(frame(3, &[0; 9])), ReplayError::NoImage);
    assert_eq!(run(frame(1, &[0; 9])), ReplayError::NoImage);
    let whole = [frame(1, &[0; 9]), frame(2, &[0; 8])].concat();
    assert_eq!(run(whole), ReplayError::Image { reel: 0 });
    let mut fold = Fold::default();
    fold.put(&[0; 9]);
    let short = [frame(1, &[0; 9]), frame(2, &fold.finish().to_le_bytes())].concat();
    assert_eq!(run(short), ReplayError::Image { reel: 0 });
}
