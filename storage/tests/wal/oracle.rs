//! What must come of a damaged log, told from what was written.
//!
//! Nothing here looks at a checksum or follows a hash: a header is one of this log if it equals, byte
//! for byte, one that was sealed, and a record is whole if all its bytes are those that were sealed.
//! The rules are those of the protocol (R5): what a later intact header shows to have been
//! acknowledged is never cut; what none shows is cut where the first loss is, and not before.

use std::collections::HashMap;

use storage::record::{HEADER_BYTES, SECTOR_BYTES};
use storage::wal::Cause;
use storage::{Kind, Sealed, Verdict, recover};
use wire::bytes::HeapShared;
use wire::ids::Position;

use crate::log::{Disk, Log, geometry, identity};

/// A record as it was sealed, and what its header says.
pub struct Mark {
    pub kind: Kind,
    pub start: Position,
    pub end: Position,
    pub durable_before: Position,
    pub low: Position,
    pub segment: u32,
    pub offset: usize,
    /// Header and body.
    pub bytes: Vec<u8>,
}

impl Mark {
    fn of(sealed: &Sealed<HeapShared>) -> Mark {
        let field = |at: usize| {
            let bytes = sealed.shared[at..at + 8].try_into().unwrap();
            u64::from_le_bytes(bytes)
        };
        let body_bytes = u32::from_le_bytes(sealed.shared[80..84].try_into().unwrap()) as usize;
        Mark {
            kind: sealed.kind,
            start: sealed.start,
            end: sealed.end,
            durable_before: Position(field(64)),
            low: Position(field(72)),
            segment: sealed.segment,
            offset: sealed.offset_in_segment as usize,
            bytes: sealed.shared[..HEADER_BYTES + body_bytes].to_vec(),
        }
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        self.bytes[..HEADER_BYTES].try_into().unwrap()
    }

    /// Whether this header names that one as the one before it.
    fn follows(&self, before: &Mark) -> bool {
        self.bytes[88..104] == blake3::hash(&before.header()).as_bytes()[..16]
    }

    fn sequence(&self) -> u64 {
        geometry().sequence_of(self.start)
    }
}

/// How recovery must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    Cut {
        from: Position,
        cause: Cause,
    },
    Damaged {
        position: Position,
        kind: Option<Kind>,
        end: Option<Position>,
        floor: Position,
        cause: Cause,
    },
}

impl Outcome {
    pub fn is_damage(&self) -> bool {
        matches!(self, Outcome::Damaged { .. })
    }
}

/// The records that must come back, by their places in [`Oracle::live`], and how it must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub first: usize,
    pub end: usize,
    pub outcome: Outcome,
}

impl Expected {
    /// The same outcome and the same records; where nothing comes back, no place is the same.
    pub fn is(&self, other: &Expected) -> bool {
        let nothing = |of: &Expected| of.first == of.end;
        let places = |of: &Expected| (of.first, of.end);
        self.outcome == other.outcome
            && (nothing(self) && nothing(other) || places(self) == places(other))
    }
}

/// What stands in a sector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The first sector of a record that was sealed, by its place in [`Oracle::marks`].
    Header(usize),
    Foreign,
    /// Not a header, but a part of one of this log.
    Torn,
    Other,
}

pub struct Oracle {
    /// Everything ever sealed.
    pub marks: Vec<Mark>,
    /// The log as it is, by places in `marks`: what recovery of an undamaged disk may deliver.
    pub live: Vec<usize>,
    headers: HashMap<[u8; HEADER_BYTES], usize>,
    /// Headers of other logs that a test puts on this disk.
    pub foreign: Vec<[u8; HEADER_BYTES]>,
}

impl Oracle {
    pub fn of(log: &Log) -> Oracle {
        let marks = log.sealed.iter().map(Mark::of).collect::<Vec<_>>();
        let last = |start| marks.iter().rposition(|mark| mark.start == start).unwrap();
        let live = log
            .history
            .iter()
            .map(|record| last(record.start))
            .collect();
        let headers = marks.iter().enumerate();
        let headers = headers
            .map(|(index, mark)| (mark.header(), index))
            .collect();
        Oracle {
            marks,
            live,
            headers,
            foreign: Vec::new(),
        }
    }

    pub fn mark(&self, live: usize) -> &Mark {
        &self.marks[self.live[live]]
    }

    /// The records that lie in a sector of the undamaged disk, as a place in `live`, and which of
    /// its sectors it is.
    pub fn owner(&self, segment: u32, sector: usize) -> Option<(usize, usize)> {
        let at = sector * SECTOR_BYTES;
        (0..self.live.len()).rev().find_map(|live| {
            let mark = self.mark(live);
            let length = (mark.end.0 - mark.start.0) as usize;
            let within =
                mark.segment == segment && (mark.offset..mark.offset + length).contains(&at);
            within.then(|| (live, (at - mark.offset) / SECTOR_BYTES))
        })
    }

    fn content(&self, sector: &[u8], expected: Option<Position>) -> Content {
        let header: [u8; HEADER_BYTES] = sector[..HEADER_BYTES].try_into().unwrap();
        if header == [0; HEADER_BYTES] {
            return Content::Other;
        }
        if let Some(index) = self.headers.get(&header) {
            return Content::Header(*index);
        }
        if self.foreign.contains(&header) {
            return Content::Foreign;
        }
        // As the format says: the magic, the name of the log, the position.
        let position = expected.map(|position| position.0.to_le_bytes());
        let ours = header[..4] == *b"HWAL"
            || header[32..48] == identity().log.0
            || position.is_some_and(|position| header[56..64] == position);
        if ours { Content::Torn } else { Content::Other }
    }

    /// What must come of this disk.
    pub fn expect(&self, disk: &Disk) -> Expected {
        let sectors = geometry().segment_bytes as usize / SECTOR_BYTES;
        let segments = disk.segments.len();
        // Headers where they belong: they say what was acknowledged and which file is which.
        let mut seen = Vec::new();
        let (mut torn_first, mut refused) = (false, false);
        for (segment, bytes) in disk.segments.iter().enumerate() {
            for sector in 0..sectors {
                match self.content(&bytes[sector * SECTOR_BYTES..], None) {
                    Content::Header(index) if self.marks[index].offset == sector * SECTOR_BYTES => {
                        seen.push((segment, index));
                    }
                    Content::Torn if sector == 0 => torn_first = true,
                    Content::Foreign if sector == 0 => refused = true,
                    _ => {}
                }
            }
        }
        let newest = seen.iter().map(|(_, index)| self.marks[*index].start).max();
        let of_all = |field: fn(&Mark) -> Position| {
            let fields = seen.iter().map(|(_, index)| field(&self.marks[*index]));
            fields.max().unwrap_or(Position(0))
        };
        let floor = of_all(|mark| mark.durable_before);
        let low = of_all(|mark| mark.low);
        let mut stretches = vec![None; segments];
        for (segment, index) in &seen {
            let mark = &self.marks[*index];
            stretches[*segment] = stretches[*segment].max(Some((mark.sequence(), mark.start)));
        }
        let is_whole = |segment: usize, mark: &Mark| {
            disk.segments[segment][mark.offset..][..mark.bytes.len()] == mark.bytes[..]
        };
        // Where two files claim a stretch, the one that has most of it, and of equal ones the one that
        // goes furthest.
        let holding = |position: Position| {
            let sequence = geometry().sequence_of(position);
            (0..segments)
                .filter(|segment| stretches[*segment].is_some_and(|(held, _)| held == sequence))
                .max_by_key(|segment| {
                    let whole = self.live.iter().filter(|index| {
                        let mark = &self.marks[**index];
                        mark.sequence() == sequence && is_whole(*segment, mark)
                    });
                    (whole.count(), stretches[*segment], *segment)
                })
        };

        let of = |live: usize| &self.marks[self.live[live]];
        let first = (0..self.live.len()).find(|live| of(*live).start >= low);
        let first = first.unwrap_or(self.live.len());
        let mut end = first;
        if refused {
            return Expected {
                first,
                end,
                outcome: Outcome::Damaged {
                    position: low,
                    kind: None,
                    end: None,
                    floor,
                    cause: Cause::HeaderForeign,
                },
            };
        }
        while end < self.live.len()
            && holding(of(end).start).is_some_and(|segment| is_whole(segment, of(end)))
        {
            end += 1;
        }
        // What is looked at is where the last good record ends, unless the first record of the next
        // segment says by its header that it follows.
        let here = match end.checked_sub(1).filter(|_| end > first) {
            None => low,
            Some(last) => {
                let after = of(last).end;
                let next = geometry().start_of(geometry().sequence_of(after) + 1);
                let shown = holding(next).is_some_and(|segment| {
                    match self.content(&disk.segments[segment], None) {
                        Content::Header(index) => {
                            let mark = &self.marks[index];
                            mark.start == next && mark.follows(of(last))
                        }
                        _ => false,
                    }
                });
                if shown { next } else { after }
            }
        };
        let mut damaged = None;
        let cause = match holding(here) {
            None => Cause::SegmentMissing,
            Some(segment) => {
                let offset = geometry().offset_of(here) as usize;
                match self.content(&disk.segments[segment][offset..], Some(here)) {
                    Content::Header(index) => {
                        let mark = &self.marks[index];
                        if mark.offset != offset || mark.start > here {
                            Cause::HeaderMisplaced
                        } else if mark.start < here {
                            Cause::HeaderMissing
                        } else {
                            damaged = Some(mark);
                            if is_whole(segment, mark) {
                                Cause::Unlinked
                            } else {
                                Cause::BodyTorn
                            }
                        }
                    }
                    Content::Foreign => Cause::HeaderForeign,
                    Content::Torn => Cause::HeaderTorn,
                    Content::Other => Cause::HeaderMissing,
                }
            }
        };
        let nothing = matches!(cause, Cause::HeaderMissing | Cause::SegmentMissing);
        let outcome = if here < floor {
            Outcome::Damaged {
                position: here,
                kind: damaged.map(|mark| mark.kind),
                end: damaged.map(|mark| mark.end),
                floor,
                cause,
            }
        } else if !nothing {
            Outcome::Cut { from: here, cause }
        } else if torn_first || newest.is_some_and(|newest| newest >= here) {
            Outcome::Cut {
                from: here,
                cause: Cause::Leftovers,
            }
        } else {
            Outcome::Clean
        };
        Expected {
            first,
            end,
            outcome,
        }
    }

    /// Recovers, without copies: which of the live records came back, and how it ended. Panics when
    /// anything comes back that is not the next live record.
    pub fn recover(&self, disk: &mut Disk) -> Expected {
        let mut first = None;
        let mut end = 0;
        let recovery = recover(disk, &geometry(), &identity(), &mut |entry| {
            let from = first.get_or_insert_with(|| {
                let found =
                    (0..self.live.len()).find(|live| self.mark(*live).start == entry.position);
                end = found.expect("a record came back that is not in the log");
                end
            });
            assert!(
                *from <= end && end < self.live.len(),
                "more came back than the log holds"
            );
            let mark = self.mark(end);
            assert!(
                (entry.kind, entry.position, entry.end) == (mark.kind, mark.start, mark.end)
                    && entry.body == mark.body(),
                "another record came back than the one written at {}",
                mark.start
            );
            end += 1;
        });
        let outcome = match recovery {
            Ok(recovery) => {
                assert_eq!(recovery.records, (end - first.unwrap_or(end)) as u64);
                match recovery.verdict {
                    Verdict::Clean => Outcome::Clean,
                    Verdict::CutTail { from, cause } => Outcome::Cut { from, cause },
                }
            }
            Err(damaged) => Outcome::Damaged {
                position: damaged.position,
                kind: damaged.kind,
                end: damaged.end,
                floor: damaged.floor,
                cause: damaged.cause,
            },
        };
        Expected {
            first: first.unwrap_or(end),
            end,
            outcome,
        }
    }

    /// Recovers and compares with what must come of this disk.
    pub fn check(&self, disk: &mut Disk, what: &dyn Fn() -> String) -> Expected {
        let expected = self.expect(disk);
        let found = self.recover(disk);
        let same = found.is(&expected);
        assert!(same, "{}: found {found:?}, expected {expected:?}", what());
        self.is_sound(&expected, what);
        expected
    }

    /// Whether two files hold the same stretch and go equally far.
    pub fn has_twins(&self, disk: &Disk) -> bool {
        let newest = disk.segments.iter().map(|bytes| {
            let headers = bytes
                .chunks(SECTOR_BYTES)
                .enumerate()
                .filter_map(|(at, sector)| match self.content(sector, None) {
                    Content::Header(index) if self.marks[index].offset == at * SECTOR_BYTES => {
                        Some(self.marks[index].start)
                    }
                    _ => None,
                });
            headers.max()
        });
        let mut newest = newest.flatten().collect::<Vec<_>>();
        newest.sort_unstable();
        newest.windows(2).any(|two| two[0] == two[1])
    }

    /// R5, once more and in other words: where a log goes on, nothing is lost that a header on the
    /// disk shows to have been acknowledged. As the expectation itself is checked here, so is the
    /// oracle.
    fn is_sound(&self, expected: &Expected, what: &dyn Fn() -> String) {
        if expected.outcome.is_damage() {
            return;
        }
        let kept = expected.first..expected.end;
        let shown = kept.map(|live| self.mark(live).durable_before).max();
        let lost = (expected.end..self.live.len()).map(|live| self.mark(live).start);
        for start in lost {
            assert!(shown <= Some(start), "{}: {start} was acknowledged", what());
        }
    }
}
