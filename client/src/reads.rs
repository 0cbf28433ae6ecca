//! Reads that take no part in the order (protocol §9.6): by link MAC alone, without a signature.
//!
//! A stale read asks one replica and believes it. A fenced read asks all, and its result is
//! accepted when R = n-q+b+1 distinct replicas of this epoch answered with the same result. Of each
//! replica only the newest answer counts, so a liar neither votes twice nor fills memory. Which slot
//! they answered at plays no part: correct replicas are at different ones.

use wire::canary::planted;
use wire::ids::{Digest, Epoch, Instant, NodeId, Slot};
use wire::ops::{Operation, OperationsBuilder};
use wire::read::{Freshness, ReadReplyView, ReadView, encode_read};

use crate::bundles::Pacer;
use crate::options::{SubmitError, Way};

/// Reads in flight at most.
const READS_MAX: usize = 256;
/// Times a fenced read is sent before it is ordered instead.
const FENCED_ATTEMPTS_MAX: u32 = 3;

/// Answers to a fenced read.
#[derive(Debug)]
struct Answers {
    /// The newest of each replica: what it says, and the slot at which it says it.
    newest: Vec<Option<(Digest, Slot)>>,
    /// Bytes that came whole, and their digest.
    held: Option<(Digest, Vec<u8>)>,
    /// R replicas agree on a result whose bytes nobody sent: all are asked for them.
    wants_full: bool,
    /// No R equal answers can come any more, or they took too long.
    hopeless: bool,
}

#[derive(Debug)]
enum Asked {
    One(NodeId),
    All(Answers),
}

#[derive(Debug)]
pub(crate) struct Read {
    pub tag: u64,
    pub sent: Instant,
    number: u64,
    asked: Asked,
    body: Vec<u8>,
    attempts: u32,
    next_retry: Instant,
    deadline: Instant,
}

impl Read {
    /// What it reads.
    pub(crate) fn operation(&self) -> Option<Operation<'_>> {
        Some(ReadView::parse(&self.body).ok()?.operation)
    }
}

/// What became due.
pub(crate) enum Due<'a> {
    Again(NodeId, &'a [u8]),
    GivenUp { tag: u64, sent: Instant, way: Way },
}

/// The end of a read.
pub(crate) struct Ended<'a> {
    pub tag: u64,
    pub sent: Instant,
    pub slot: Slot,
    pub result: &'a [u8],
    pub replies: u32,
    pub way: Way,
}

#[derive(Debug)]
pub(crate) struct Reads {
    list: Vec<Read>,
    replicas: usize,
    /// R and b+1.
    needed: usize,
    one_correct: usize,
    epoch: Epoch,
    next_number: u64,
    operation: OperationsBuilder,
    all_full: bool,
    /// Sequences of reads that were fenced and are ordered now.
    ordered: Vec<u64>,
}

impl Reads {
    /// `first_number`: above every number that an earlier process of this key used. Answers to an
    /// earlier question of the same number could be played again otherwise.
    pub(crate) fn new(
        replicas: usize,
        (needed, one_correct): (usize, usize),
        epoch: Epoch,
        first_number: u64,
        all_full: bool,
    ) -> Reads {
        assert!(one_correct <= needed && needed <= replicas);
        Reads {
            list: Vec::new(),
            replicas,
            needed,
            one_correct,
            epoch,
            next_number: first_number,
            operation: OperationsBuilder::new(),
            all_full,
            ordered: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Under another committee: fenced reads are ordered instead, those of one replica have failed.
    pub(crate) fn renew(
        &mut self,
        replicas: usize,
        (needed, one_correct): (usize, usize),
        epoch: Epoch,
    ) {
        for read in &mut self.list {
            match &mut read.asked {
                Asked::One(_) => read.deadline = Instant(0),
                Asked::All(answers) => {
                    answers.newest = vec![None; replicas];
                    answers.held = None;
                    answers.hopeless = true;
                }
            }
        }
        (self.replicas, self.epoch) = (replicas, epoch);
        (self.needed, self.one_correct) = (needed, one_correct);
    }

    /// R: equal answers that make a fenced result.
    pub(crate) fn needed(&self) -> usize {
        self.needed
    }

    /// Notes a read, of one replica or of all, and returns the body to send.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        node: Option<NodeId>,
        operation: &Operation<'_>,
        tag: u64,
        next_retry: Instant,
        deadline: Instant,
    ) -> Result<&[u8], SubmitError> {
        if self.list.len() >= READS_MAX {
            return Err(SubmitError::WindowFull);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.operation.clear();
        self.operation.push(operation);
        let (asked, freshness) = match node {
            Some(node) => (Asked::One(node), Freshness::Stale),
            None => {
                let answers = Answers {
                    newest: vec![None; self.replicas],
                    held: None,
                    wants_full: false,
                    hopeless: false,
                };
                (Asked::All(answers), Freshness::Fenced)
            }
        };
        let (all_full, bytes) = (self.all_full, self.operation.bytes());
        let mut body = Vec::new();
        encode_read(&mut body, number, self.epoch, freshness, all_full, bytes);
        self.list.push(Read {
            tag,
            sent: now,
            number,
            asked,
            body,
            attempts: 1,
            next_retry,
            deadline,
        });
        Ok(self.list.last().map_or(&[], |read| &read.body))
    }

    /// Takes an answer; a read that it completes ends. False: it answers nothing in flight.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        node: NodeId,
        reply: &ReadReplyView<'_>,
        end: impl FnOnce(&Ended<'_>),
    ) -> bool {
        let (needed, one_correct) = (self.needed, self.one_correct);
        let at = self.list.iter().position(|read| {
            let asked = match read.asked {
                Asked::One(asked) => asked == node,
                Asked::All(_) => node.index() < self.replicas,
            };
            read.number == reply.number && asked
        });
        let Some(at) = at.filter(|_| reply.epoch == self.epoch) else {
            return false;
        };
        let read = &mut self.list[at];
        let (tag, sent) = (read.tag, read.sent);
        let ended = match &mut read.asked {
            Asked::One(_) => reply.result.map(|result| Ended {
                tag,
                sent,
                slot: reply.executed,
                result,
                replies: 1,
                way: Way::Stale,
            }),
            Asked::All(answers) => {
                let accepted = answers.take(node, reply, (needed, one_correct));
                if answers.wants_full || answers.hopeless {
                    read.next_retry = now;
                }
                accepted.map(|(slot, replies)| Ended {
                    tag,
                    sent,
                    slot,
                    result: match (reply.result, &answers.held) {
                        (Some(result), _) => result,
                        (None, held) => held.as_ref().map_or(&[], |(_, bytes)| bytes),
                    },
                    replies,
                    way: Way::Fenced,
                })
            }
        };
        if let Some(ended) = ended {
            end(&ended);
            self.list.swap_remove(at);
        }
        true
    }

    /// Takes out one read that has no hope of R equal answers, to be ordered.
    pub(crate) fn take_hopeless(&mut self) -> Option<Read> {
        let at = self
            .list
            .iter()
            .position(|read| matches!(&read.asked, Asked::All(answers) if answers.hopeless))?;
        Some(self.list.swap_remove(at))
    }

    /// It could not be ordered now.
    pub(crate) fn put_back(&mut self, mut read: Read, next_retry: Instant) {
        read.next_retry = next_retry;
        self.list.push(read);
    }

    /// A fenced read was ordered, under this sequence.
    pub(crate) fn now_ordered(&mut self, sequence: u64) {
        self.ordered.push(sequence);
    }

    /// How the operation of this sequence, which has just ended, was asked.
    pub(crate) fn way_of(&mut self, sequence: u64) -> Way {
        let at = self.ordered.iter().position(|of| *of == sequence);
        match at {
            Some(at) => {
                self.ordered.swap_remove(at);
                Way::FencedThenOrdered
            }
            None => Way::Ordered,
        }
    }

    pub(crate) fn wake(&self) -> Instant {
        self.list
            .iter()
            .map(|read| read.next_retry.min(read.deadline))
            .min()
            .unwrap_or(Instant(u64::MAX))
    }

    /// Sends again what was not answered, and gives up what took too long.
    pub(crate) fn tick(&mut self, now: Instant, pacer: &mut Pacer, mut due: impl FnMut(Due<'_>)) {
        let (epoch, replicas) = (self.epoch, self.replicas);
        self.list.retain_mut(|read| {
            let way = match read.asked {
                Asked::One(_) => Way::Stale,
                Asked::All(_) => Way::Fenced,
            };
            if now >= read.deadline {
                let (tag, sent) = (read.tag, read.sent);
                due(Due::GivenUp { tag, sent, way });
                return false;
            }
            if now < read.next_retry {
                return true;
            }
            read.attempts += 1;
            read.next_retry = now.after_ns(pacer.pause_ns(read.attempts));
            match &mut read.asked {
                Asked::One(node) => due(Due::Again(*node, &read.body)),
                Asked::All(answers) => {
                    if answers.hopeless || read.attempts > FENCED_ATTEMPTS_MAX {
                        answers.hopeless = true;
                        return true;
                    }
                    let everyone = std::mem::take(&mut answers.wants_full);
                    if everyone {
                        ask_all_full(&mut read.body, epoch);
                    }
                    for node in (0..replicas as u16).map(NodeId) {
                        if everyone || answers.newest[node.index()].is_none() {
                            due(Due::Again(node, &read.body));
                        }
                    }
                }
            }
            true
        });
    }
}

/// The same question, with a whole result from everyone.
fn ask_all_full(body: &mut Vec<u8>, epoch: Epoch) {
    let Ok(view) = ReadView::parse(body) else {
        return;
    };
    let mut again = Vec::with_capacity(body.len());
    let (number, bytes) = (view.number, view.operation_bytes);
    encode_read(&mut again, number, epoch, Freshness::Fenced, true, bytes);
    *body = again;
}

impl Answers {
    /// Counts the newest answer of a replica. Accepted: the (b+1)-th highest slot among the equal
    /// ones, which a correct replica had executed, and their number.
    fn take(
        &mut self,
        node: NodeId,
        reply: &ReadReplyView<'_>,
        (needed, one_correct): (usize, usize),
    ) -> Option<(Slot, u32)> {
        self.newest[node.index()] = Some((reply.digest, reply.executed));
        let support = |digest: Digest| {
            let said = self.newest.iter().flatten();
            said.filter(|(said, _)| *said == digest || planted("mixreply"))
                .count()
        };
        if let Some(result) = reply.result {
            // The bytes of the most common answer are kept: there is one such place.
            let held = self.held.as_ref();
            if held.is_none_or(|(held, _)| support(*held) <= support(reply.digest)) {
                self.held = Some((reply.digest, result.to_vec()));
            }
        }
        let silent = self.newest.iter().filter(|said| said.is_none()).count();
        let needed = if planted("onereply") { 1 } else { needed };
        let equal = support(reply.digest);
        if equal < needed {
            let most = self.newest.iter().flatten().map(|(said, _)| support(*said));
            self.hopeless = most.max().unwrap_or(0) + silent < needed;
            return None;
        }
        if reply.result.is_none() && self.held.as_ref().map(|(of, _)| *of) != Some(reply.digest) {
            self.wants_full = true;
            return None;
        }
        let said = self.newest.iter().flatten();
        let equal_slots = said.filter(|(said, _)| *said == reply.digest);
        let mut slots = equal_slots.map(|(_, slot)| *slot).collect::<Vec<_>>();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        let slot = slots.get(one_correct - 1).copied().unwrap_or_default();
        Some((slot, equal as u32))
    }
}

#[cfg(test)]
mod tests;
