//! A disk, a judge of signatures, and sizes.

use std::cell::Cell;
use std::io;

use replica::agreement::quorum::Quorums;
use replica::execution::{Execution, Replies};
use replica::recovery::{RestartError, Restarted, restart};
use replica::verifying::Verifying;
use storage::machine::Noop;
use storage::{Geometry, Identity, LogId, SegmentInfo, SegmentSource};
use wire::bytes::HeapBuffers;
use wire::certificates::Place;
use wire::ids::{ClusterId, Digest, Epoch, NodeId, PublicKey, Signature, Slot};
use wire::limits::BLOCK_BUFFER_BYTES;
use wire::reject::Reject;
use wire::request::RequestView;
use wire::seal::{Rules, Statement, Verifier};

pub const GENESIS: Digest = Digest([9; 32]);
pub const GENESIS_PLACE: Place = Place {
    slot: Slot(0),
    digest: GENESIS,
};
pub const GOOD: Signature = Signature([1; 64]);
pub const BAD: Signature = Signature([2; 64]);

pub struct Disk(pub Vec<Vec<u8>>);

impl SegmentSource for Disk {
    fn segments(&self) -> Vec<SegmentInfo> {
        let info = |(index, bytes): (usize, &Vec<u8>)| SegmentInfo {
            index: index as u32,
            bytes: bytes.len() as u64,
        };
        self.0.iter().enumerate().map(info).collect()
    }

    fn read(&mut self, segment: u32, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.0[segment as usize][offset as usize..][..into.len()]);
        Ok(())
    }
}

thread_local! {
    /// Signatures of members that this test had judged.
    static JUDGED: Cell<u64> = const { Cell::new(0) };
}

pub fn judged() -> u64 {
    JUDGED.get()
}

/// Takes GOOD for every member's signature.
#[derive(Clone)]
pub struct Judge;

impl Verifier for Judge {
    fn member(&self, _: NodeId, _: &Statement, signature: &Signature) -> Result<(), Reject> {
        JUDGED.set(JUDGED.get() + 1);
        if *signature == GOOD {
            Ok(())
        } else {
            Err(Reject::BadSignature)
        }
    }

    fn request(&self, _: &RequestView<'_>) -> Result<(), Reject> {
        Ok(())
    }
}

#[derive(Default)]
pub struct Said(pub Vec<Vec<u8>>);

impl Replies for Said {
    fn reply(&mut self, _: &PublicKey, _: Slot, body: &[u8]) {
        self.0.push(body.to_vec());
    }

    fn read_reply(&mut self, _: &PublicKey, _: Slot, body: [&[u8]; 2]) {
        self.0.push(body.concat());
    }
}

pub const GEOMETRY: Geometry = Geometry {
    segment_bytes: 8 << 20,
    segments_max: 2,
    reserve_bytes: 4 << 20,
};

pub const IDENTITY: Identity = Identity {
    cluster: ClusterId([1; 16]),
    node: NodeId(1),
    log: LogId([3; 16]),
};

pub const QUORUMS: Quorums = Quorums {
    n: 4,
    b: 1,
    u: 1,
    p: 1,
    exclusion: true,
};

pub const RULES: Rules = Rules {
    n: 4,
    slow: 3,
    view_change: 3,
    window: 128,
    epoch: Epoch(0),
    genesis: GENESIS_PLACE,
};

pub fn buffers() -> HeapBuffers {
    HeapBuffers {
        bytes_each: BLOCK_BUFFER_BYTES,
    }
}

/// Member 1 of four starts over what is on the disk.
pub fn start_on(
    disk: &mut Disk,
    geometry: &Geometry,
) -> Result<Restarted<HeapBuffers>, RestartError> {
    restart(
        IDENTITY.node,
        &QUORUMS,
        disk,
        geometry,
        &IDENTITY,
        GENESIS_PLACE,
        &mut Execution::new(IDENTITY.node, 4, Noop, 1400),
        &mut Verifying::new(Judge, RULES),
        &mut buffers(),
        None,
    )
}
