//! Operations in flight of one thread: when they were meant to leave, and what they were.

/// One operation, from its submission to its completion.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFlight {
    /// When it was meant to leave.
    pub intended_ns: u64,
    /// Meant for the measured window.
    pub measured: bool,
    pub is_put: bool,
    pub key: u64,
    /// Names the value that a put writes.
    pub number: u64,
    pub client: u32,
}

/// A slab of fixed size: taking and giving back never allocates.
#[derive(Debug)]
pub struct Operations {
    slots: Vec<InFlight>,
    free: Vec<u32>,
}

impl Operations {
    pub fn new(capacity: usize) -> Operations {
        assert!(u32::try_from(capacity).is_ok());
        Operations {
            slots: vec![InFlight::default(); capacity],
            free: (0..capacity as u32).rev().collect(),
        }
    }

    /// Whether another operation fits.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps `operation`; the tag finds it again. None when full.
    pub fn insert(&mut self, operation: InFlight) -> Option<u64> {
        let index = self.free.pop()?;
        self.slots[index as usize] = operation;
        Some(u64::from(index))
    }

    /// Tags of all operations in flight.
    pub fn tags(&self) -> Vec<u64> {
        let mut waits = vec![true; self.slots.len()];
        for index in &self.free {
            waits[*index as usize] = false;
        }
        (0..self.slots.len())
            .filter(|&index| waits[index])
            .map(|index| index as u64)
            .collect()
    }

    /// Ends the operation of `tag`, which [`Operations::insert`] gave out.
    pub fn remove(&mut self, tag: u64) -> InFlight {
        let operation = self.slots[tag as usize];
        self.free.push(tag as u32);
        assert!(self.free.len() <= self.slots.len(), "a tag ended twice");
        operation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let mut operations = Operations::new(2);
        let first = operations.insert(InFlight::default()).unwrap();
        let second = operations
            .insert(InFlight {
                number: 5,
                ..InFlight::default()
            })
            .unwrap();
        assert!(!operations.has_room());
        assert_eq!(operations.insert(InFlight::default()), None);
        assert_eq!(operations.tags(), [first, second]);
        assert_eq!(operations.remove(second).number, 5);
        assert_eq!(operations.tags(), [first]);
        assert_eq!(operations.in_flight(), 1);
        operations.remove(first);
        assert!(operations.has_room());
    }
}
