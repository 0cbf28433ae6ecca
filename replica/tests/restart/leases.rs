//! What a log says was forgotten, whatever the next process is told (R3, R5).

use replica::recovery::RestartError;
use storage::record::Kind;
use storage::{Writer, recover};
use wire::bytes::Buffers;
use wire::ids::{Boot, Epoch, Slot, View};
use wire::limits::RECORD_HEADER_BYTES;
use wire::messages::{CleanStopRecord, Durability, LeaseRecord, StartRecord};
use zerocopy::IntoBytes;

use crate::world::{Disk, GEOMETRY, IDENTITY, buffers, start_on};

use Durability::{Lease, None as Nothing, Sync};

/// A record of a story.
#[derive(Clone, Copy, Debug)]
enum Told {
    Start(u32, Durability),
    Lease(u64),
    /// A lease that is told again, with what is owed.
    Again(u64, u64),
    Stop(u32),
}

/// Whether the newest process ended cleanly, the highest lease, and what may be forgotten.
fn ends(story: &[Told]) -> Result<(bool, u64, u64), RestartError> {
    let mut disk = Disk(vec![vec![0; GEOMETRY.segment_bytes as usize]; 2]);
    let blank = recover(&mut disk, &GEOMETRY, &IDENTITY, &mut |_| {}).unwrap();
    let mut writer = Writer::new(GEOMETRY, IDENTITY, blank.tail);
    for told in story {
        let lease = |slot, owed| LeaseRecord::new(View(0), Slot(slot), Slot(owed));
        let (kind, body) = match *told {
            Told::Start(boot, durability) => {
                let start = StartRecord::new(Boot(boot), Epoch(0), View(0), durability);
                (Kind::Start, start.as_bytes().to_vec())
            }
            Told::Lease(slot) => (Kind::Lease, lease(slot, 0).as_bytes().to_vec()),
            Told::Again(slot, owed) => (Kind::Lease, lease(slot, owed).as_bytes().to_vec()),
            Told::Stop(boot) => {
                let stop = CleanStopRecord::new(Boot(boot));
                (Kind::CleanStop, stop.as_bytes().to_vec())
            }
        };
        let mut buffer = buffers().take().unwrap();
        buffer[RECORD_HEADER_BYTES..][..body.len()].copy_from_slice(&body);
        let sealed = writer.seal(kind, buffer, body.len()).unwrap();
        let offset = sealed.offset_in_segment as usize;
        disk.0[sealed.segment as usize][offset..][..sealed.shared.len()]
            .copy_from_slice(&sealed.shared);
    }
    let restarted = start_on(&mut disk, &GEOMETRY)?;
    let recovered = &restarted.recovered;
    Ok((restarted.clean, recovered.lease.0, recovered.forgotten.0))
}

#[test]
fn every_story_of_leases_and_markers() {
    use Told::{Again, Lease as Leased, Start, Stop};
    for (story, expected) in [
        (&[][..], (false, 0, 0)),
        (&[Start(1, Lease)], (false, 0, 0)),
        (&[Start(1, Lease), Leased(8)], (false, 8, 8)),
        (&[Start(1, Lease), Leased(8), Leased(12)], (false, 12, 12)),
        (&[Start(1, Lease), Leased(8), Stop(1)], (true, 8, 0)),
        // A marker is the last word of its process, or none.
        (&[Start(1, Lease), Stop(1), Leased(8)], (false, 8, 8)),
        // It counts for one start (A27).
        (
            &[Start(1, Lease), Leased(8), Stop(1), Start(2, Lease)],
            (false, 8, 8),
        ),
        // That start is of its own: whatever runs next with the disk has forgotten nothing.
        (
            &[Start(1, Lease), Leased(8), Stop(1), Start(2, Sync)],
            (false, 8, 0),
        ),
        // What an earlier process forgot is forgotten, in every durability and after every stop.
        (&[Start(1, Lease), Leased(8), Start(2, Sync)], (false, 8, 8)),
        (
            &[Start(1, Lease), Leased(8), Start(2, Sync), Stop(2)],
            (true, 8, 8),
        ),
        (
            &[Start(1, Lease), Leased(8), Start(2, Lease), Stop(2)],
            (true, 8, 8),
        ),
        // As a group says it again when older records are let go (K2).
        (&[Start(5, Lease), Again(9, 4), Stop(5)], (true, 9, 4)),
        (&[Start(1, Nothing), Stop(1)], (true, 0, 0)),
        (&[Start(1, Nothing), Stop(1), Start(2, Sync)], (false, 0, 0)),
    ] {
        assert_eq!(ends(story).unwrap(), expected, "{story:?}");
    }
    for story in [
        &[Start(1, Nothing)][..],
        &[Start(1, Nothing), Stop(1), Leased(8)],
        &[Start(1, Lease), Stop(1), Start(2, Nothing)],
    ] {
        let refused = ends(story);
        let lost = matches!(refused, Err(RestartError::LostWithoutDurability { .. }));
        assert!(lost, "{story:?}");
    }
}
