//! The log of one replica: records with positions, of which a crash keeps a prefix that holds at
//! least everything durable, and what a restart reads from it (R2).

use std::collections::HashMap;

use consensus::{Record, RecordAs, Recovered, RecoveredBlock};
use wire::certificates::Place;
use wire::ids::{Digest, Epoch, Position, Slot};
use wire::messages::SignedHeader;

use crate::world::{GENESIS, K, genesis, is_valid_payload, place_of};

#[derive(Clone, Debug)]
pub enum Entry {
    Block(RecordAs, SignedHeader),
    Record(Record),
    /// Execution reached this decided place.
    Decided(Place),
    Start,
}

#[derive(Debug, Default)]
pub struct Disk {
    entries: Vec<(u64, Entry)>,
    end: u64,
    pub durable: u64,
    pub flushing: bool,
    /// Digests of the chain up to the last state taken over; durable at once.
    pub snapshot: Vec<Digest>,
}

impl Disk {
    /// Every block record.
    pub fn blocks(&self) -> Vec<SignedHeader> {
        let entries = self.entries.iter().map(|(_, entry)| entry);
        let blocks = entries.filter_map(|entry| match entry {
            Entry::Block(_, signed) => Some(*signed),
            _ => None,
        });
        blocks.collect()
    }

    pub fn append(&mut self, entry: Entry) -> Position {
        self.end += 4096;
        self.entries.push((self.end, entry));
        Position(self.end)
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// Keeps what is durable and `luck` percent of what was only written.
    pub fn crash(&mut self, luck: u64) {
        let unsafe_tail = (self.end - self.durable) / 4096;
        self.end = self.durable + unsafe_tail * luck / 100 * 4096;
        let end = self.end;
        self.entries.retain(|(position, _)| *position <= end);
        self.durable = end;
        self.flushing = false;
    }

    /// What the log says, and the decided chain from slot 0.
    pub fn recover(
        &mut self,
        boot: u32,
        good: impl Fn(&SignedHeader) -> bool,
    ) -> (Recovered, Vec<Digest>) {
        let mut found = Recovered::blank(genesis());
        let mut headers: HashMap<Place, SignedHeader> = HashMap::new();
        let snapshot = Slot((self.snapshot.len() as u64).saturating_sub(1));
        if let Some(digest) = self.snapshot.last() {
            found.decided = Place {
                slot: snapshot,
                digest: *digest,
            };
        }
        for (end, entry) in &self.entries {
            match entry {
                Entry::Start => {}
                Entry::Decided(place) => found.decided = found.decided.max(*place),
                Entry::Block(kind, signed) => {
                    let place = place_of(&signed.header);
                    let proper = signed.header.view() == found.installed
                        && signed.header.parent == found.tip.digest
                        && place.slot == found.tip.slot.next();
                    if *kind == RecordAs::Vote && proper {
                        if is_valid_payload(&signed.header) {
                            found.tip = place;
                        } else {
                            found.voting_stopped = true;
                        }
                    }
                    headers.insert(place, *signed);
                    found.blocks.push(RecoveredBlock {
                        header: signed.header,
                        signature: signed.signature,
                        signature_good: good(signed),
                        digest: place.digest,
                        kind: *kind,
                        end: Position(*end),
                    });
                }
                Entry::Record(record) => match record {
                    Record::ViewChange(own) => {
                        found.stage = own.message.view;
                        found.view_change = Some(own.clone());
                    }
                    Record::NewView(own) => found.new_view = Some(own.clone()),
                    Record::Ack(own) => found.ack = Some(*own),
                    Record::Install(certificate) => {
                        (found.stage, found.installed) = (certificate.view, certificate.view);
                        found.tip = certificate.base;
                        found.certificate = Some(**certificate);
                        found.quorum = None;
                        found.voting_stopped = false;
                        (found.view_change, found.new_view, found.ack) = (None, None, None);
                    }
                    Record::Skip { view, place } => {
                        assert_eq!(*view, found.installed, "a jump in a view that is installed");
                        found.tip = *place;
                    }
                    // Votes wait for the disk here.
                    Record::Lease { .. } => {}
                    Record::Commit(quorum) => {
                        assert_eq!(quorum.view, found.installed);
                        found.quorum = Some((**quorum).clone());
                    }
                    Record::Checkpoint(certificate) => {
                        found.checkpoint = Some(**certificate);
                        found.decided = found.decided.max(certificate.place());
                    }
                },
            }
        }
        if let Some(new_view) = &found.new_view
            && new_view.message.view != found.stage
        {
            found.new_view = None;
        }
        if let Some(ack) = &found.ack
            && crate::judge::view_of_ack(ack) != found.stage
        {
            found.ack = None;
        }
        let mut chain = vec![Digest::ZERO; found.decided.slot.0 as usize + 1];
        let mut at = found.decided;
        while at.slot > snapshot {
            chain[at.slot.0 as usize] = at.digest;
            let parent = headers.get(&at).map(|signed| signed.header.parent);
            let digest = parent.expect("the log holds every decided block");
            at = Place {
                slot: Slot(at.slot.0 - 1),
                digest,
            };
        }
        match self.snapshot.len() {
            0 => chain[0] = GENESIS,
            known => chain[..known].copy_from_slice(&self.snapshot),
        }
        assert_eq!(chain[at.slot.0 as usize], at.digest, "one decided chain");
        let decided = found.decided;
        let ring = Slot(decided.slot.0.saturating_sub(2 * K));
        found.blocks.retain(|block| {
            let final_here = chain.get(block.place().slot.0 as usize) == Some(&block.digest);
            block.place().slot > ring && (final_here || is_valid_payload(&block.header))
        });
        found.retained_from = snapshot.next();
        found.restarted_in = (boot > 1).then_some((Epoch(0), found.stage));
        self.append(Entry::Start);
        self.durable = self.end;
        found.durable_position = Position(self.end);
        debug_assert!(found.tip.slot >= genesis().slot);
        (found, chain)
    }
}
