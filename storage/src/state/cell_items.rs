//! Items of one holder in cells of one bucket, and the bytes of a bucket that several holders make.

use wire::state::{CELL_HEAD_BYTES, cells, write_cell};

/// Bytes in front of the machine's items in the content of a cell: how many these are.
const SECTION_HEAD_BYTES: usize = size_of::<u64>();

/// Items in the order of their cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellItems {
    bytes: Vec<u8>,
    /// Cells that have items, and where these begin.
    starts: Vec<(u8, usize)>,
}

impl CellItems {
    /// Nothing.
    pub fn new() -> CellItems {
        CellItems::default()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Where an item of a cell is to be appended. Cells ascend.
    pub fn of_cell(&mut self, index: u8) -> &mut Vec<u8> {
        let last = self.starts.last().map(|(last, _)| *last);
        assert!(last.is_none_or(|last| last <= index), "cells ascend");
        if last != Some(index) {
            self.starts.push((index, self.bytes.len()));
        }
        &mut self.bytes
    }

    /// All items.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The items of each cell that has any.
    pub fn cells(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let ends = self.starts.iter().skip(1).map(|(_, start)| *start);
        let ends = ends.chain([self.bytes.len()]);
        let pairs = self.starts.iter().zip(ends);
        pairs.map(|((index, start), end)| (*index, &self.bytes[*start..end]))
    }

    /// Appends them cell by cell, as [`CellItems::decode`] reads them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len() + CELL_HEAD_BYTES * self.starts.len());
        for (index, items) in self.cells() {
            write_cell(index, items, out);
        }
    }

    /// Reads what must fill `bytes`; none if that is not what was encoded.
    pub fn decode(bytes: &[u8]) -> Option<CellItems> {
        let mut items = CellItems::new();
        for cell in cells(bytes) {
            let (index, content) = cell?;
            items.of_cell(index).extend_from_slice(content);
        }
        Some(items)
    }
}

/// Calls `visit` with the content of each cell in which one of the two has something.
pub(super) fn each_cell(
    machine: &CellItems,
    sessions: &CellItems,
    content: &mut Vec<u8>,
    mut visit: impl FnMut(u8, &[u8]),
) {
    let mut of_machine = machine.cells().peekable();
    let mut of_sessions = sessions.cells().peekable();
    let index_of = |(index, _): &(u8, &[u8])| *index;
    loop {
        let next = [
            of_machine.peek().map(index_of),
            of_sessions.peek().map(index_of),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            return;
        };
        let items = |(_, items)| items;
        let machine = of_machine.next_if(|(index, _)| *index == next);
        let sessions = of_sessions.next_if(|(index, _)| *index == next);
        let machine: &[u8] = machine.map_or(&[], items);
        content.clear();
        content.extend_from_slice(&(machine.len() as u64).to_le_bytes());
        content.extend_from_slice(machine);
        content.extend_from_slice(sessions.map_or(&[], items));
        visit(next, content);
    }
}

/// The bytes of a bucket of these items of the machine and of the sessions.
pub fn join(machine: &CellItems, sessions: &CellItems) -> Vec<u8> {
    let heads = SECTION_HEAD_BYTES + CELL_HEAD_BYTES;
    let cells = machine.starts.len() + sessions.starts.len();
    let bytes = machine.bytes.len() + sessions.bytes.len() + heads * cells;
    let (mut out, mut content) = (Vec::with_capacity(bytes), Vec::new());
    each_cell(machine, sessions, &mut content, |index, content| {
        write_cell(index, content, &mut out);
    });
    out
}

/// Items of the machine and of the sessions in the content of a cell. None when it is no such
/// content.
pub(super) fn sections(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = content.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
        .filter(|(machine, sessions)| !(machine.is_empty() && sessions.is_empty()))
}

/// The items of a bucket, which must fill `bytes`: the machine's and the sessions'. None when they do
/// not.
pub fn split(bytes: &[u8]) -> Option<(CellItems, CellItems)> {
    let (mut machine, mut sessions) = (CellItems::new(), CellItems::new());
    for cell in cells(bytes) {
        let (index, content) = cell?;
        let (of_machine, of_sessions) = sections(content)?;
        if !of_machine.is_empty() {
            machine.of_cell(index).extend_from_slice(of_machine);
        }
        if !of_sessions.is_empty() {
            sessions.of_cell(index).extend_from_slice(of_sessions);
        }
    }
    Some((machine, sessions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(cells: &[(u8, &str)]) -> CellItems {
        let mut items = CellItems::new();
        for (index, text) in cells {
            items.of_cell(*index).extend_from_slice(text.as_bytes());
        }
        items
    }

    #[test]
    fn a_bucket_splits_as_it_was_joined() {
        let machine = items(&[(0, "a"), (7, "b"), (7, "c"), (255, "d")]);
        let sessions = items(&[(7, "s"), (9, "t")]);
        assert!(
            machine
                .cells()
                .eq([(0, &b"a"[..]), (7, &b"bc"[..]), (255, &b"d"[..])])
        );
        let mut bytes = join(&machine, &sessions);
        assert_eq!(split(&bytes), Some((machine.clone(), sessions)));
        bytes.push(0);
        assert_eq!(split(&bytes), None);
        assert_eq!(split(&[]), Some((CellItems::new(), CellItems::new())));
        let mut encoded = Vec::new();
        machine.encode(&mut encoded);
        assert_eq!(CellItems::decode(&encoded), Some(machine));
        encoded.pop();
        assert_eq!(CellItems::decode(&encoded), None);
    }

    #[test]
    fn a_cell_without_items_is_none() {
        let mut bytes = Vec::new();
        write_cell(3, &[0; SECTION_HEAD_BYTES], &mut bytes);
        assert_eq!(split(&bytes), None);
        bytes.clear();
        write_cell(3, b"short", &mut bytes);
        assert_eq!(split(&bytes), None);
        bytes.clear();
        write_cell(3, &[0xff; 20], &mut bytes);
        assert_eq!(split(&bytes), None);
    }
}
