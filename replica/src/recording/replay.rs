//! The recorded inputs once more, through the same core.
//!
//! The signer of a replay makes no signature: it hands out those that were recorded, in order, so
//! whatever depends on one (the name of an own view change) comes out as it was. What is compared
//! for each input is the number of effects and a fold of all of them, votes, proposals, wishes,
//! decisions and records alike; at the end of a reel also the whole state.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use consensus::image::{BadImage, Fold, Image, Sink, Source, judge};
use consensus::{Config, Core, Effect, Input, Outbox, Summary};
use thiserror::Error;
use wire::ids::{Instant, NodeId, Signature, Slot};
use wire::seal::{Compound, Rules, Signer, Statement, Verifier};

use super::{FRAME_HEADER_BYTES, FrameKind, Reel};
use crate::recorder::{Setting, put_outcome};

/// Why a recording cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    #[error("the recording holds no reel with a whole image of the core")]
    NoImage,
    #[error("reel {reel}: the frame at byte {at} is malformed")]
    Frame { reel: u64, at: usize },
    #[error("reel {reel}: the image of the core cannot be read: {BadImage}")]
    Image { reel: u64 },
    #[error("reels {first} and {second} do not follow each other")]
    Gap { first: u64, second: u64 },
}

/// One input and what it led to in the replay.
#[derive(Debug)]
pub struct Step<'a> {
    /// From 0, over all reels.
    pub number: u64,
    pub at: Instant,
    pub input: &'a Input,
    pub effects: &'a [Effect],
    /// After it.
    pub summary: Summary,
}

/// What the replay did otherwise than the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Of the effects, or of the signatures that were asked for.
    Outcome {
        number: u64,
        at: Instant,
        recorded_effects: u64,
        replayed_effects: u64,
    },
    /// The state at the beginning of this reel.
    State { reel: u64 },
    /// The core panicked, and in the recording it did not.
    Panicked { number: u64, at: Instant },
}

/// How the recording ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After an input that was dealt with.
    Whole,
    /// Within this input: the process ended while the core had it.
    InInput { number: u64, panicked_again: bool },
}

/// What a replay came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the first input of the process; otherwise from an image on the way.
    pub from_boot: bool,
    pub config: Config,
    pub start: Summary,
    pub end: Summary,
    pub inputs: u64,
    pub effects: u64,
    /// Images on the way that were equal to the replayed state.
    pub states_compared: u64,
    /// The first one; the replay ends there.
    pub mismatch: Option<Mismatch>,
    pub ending: Ending,
}

/// Hands out recorded signatures.
#[derive(Debug)]
struct Recorded {
    me: NodeId,
    next: RefCell<VecDeque<Signature>>,
    missing: Cell<bool>,
}

impl Signer for Recorded {
    fn me(&self) -> NodeId {
        self.me
    }

    fn sign(&self, _: &Statement) -> Signature {
        self.next.borrow_mut().pop_front().unwrap_or_else(|| {
            self.missing.set(true);
            Signature([0; 64])
        })
    }
}

struct Frames<'a> {
    reel: &'a Reel,
    at: usize,
}

impl<'a> Frames<'a> {
    fn next(&mut self) -> Result<Option<(FrameKind, &'a [u8])>, ReplayError> {
        let malformed = ReplayError::Frame {
            reel: self.reel.number,
            at: self.at,
        };
        let rest = &self.reel.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (header, rest) = rest
            .split_first_chunk::<FRAME_HEADER_BYTES>()
            .ok_or(malformed.clone())?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = FrameKind::of(header[4]).ok_or(malformed.clone())?;
        let content = rest.get(..length).ok_or(malformed)?;
        let whole = (FRAME_HEADER_BYTES + length).next_multiple_of(8);
        if whole > self.reel.bytes.len() - self.at {
            return Err(ReplayError::Frame {
                reel: self.reel.number,
                at: self.at,
            });
        }
        self.at += whole;
        Ok(Some((kind, content)))
    }

    /// The image with which the reel begins; `None` if it is not whole.
    fn image(&mut self) -> Result<Option<Vec<u8>>, ReplayError> {
        let mut image = Vec::new();
        loop {
            match self.next()? {
                Some((FrameKind::ImagePart, part)) => image.extend_from_slice(part),
                Some((FrameKind::ImageEnd, fold)) => {
                    let mut found = Fold::default();
                    // Folded in the parts in which it was written.
                    let mut parts = Frames {
                        reel: self.reel,
                        at: 0,
                    };
                    while let Some((FrameKind::ImagePart, part)) = parts.next()? {
                        found.put(part);
                    }
                    let equal = fold == found.finish().to_le_bytes();
                    return if equal {
                        Ok(Some(image))
                    } else {
                        Err(ReplayError::Image {
                            reel: self.reel.number,
                        })
                    };
                }
                _ => return Ok(None),
            }
        }
    }
}

/// The judge for what images of this configuration hold.
fn judge_for<V: Verifier + Clone>(image: &[u8], verifier: V) -> Result<Compound<V>, BadImage> {
    let none = Rules {
        n: 1,
        slow: 1,
        view_change: 1,
        window: 1,
        epoch: wire::ids::Epoch(0),
        genesis: wire::certificates::Place::NONE,
    };
    let mut blank = judge(verifier.clone(), none);
    let config = Config::take(&mut Source::new(image, &mut blank))?;
    Ok(judge(verifier, Core::<Recorded>::rules(&config)))
}

struct Player<V> {
    core: Core<Recorded>,
    judge: Compound<V>,
    out: Outbox,
    report: Report,
}

/// Runs what the reels hold. `each` sees every step, in order; the first mismatch ends the replay.
pub fn replay<V: Verifier + Clone>(
    me: NodeId,
    reels: &[Reel],
    verifier: V,
    mut each: impl FnMut(&Step<'_>),
) -> Result<Report, ReplayError> {
    let mut player: Option<Player<V>> = None;
    let mut last = 0;
    for reel in reels {
        let mut frames = Frames { reel, at: 0 };
        let Some(image) = frames.image()? else {
            // The newest one, whose image was not finished: nothing follows it.
            break;
        };
        let bad = |_| ReplayError::Image { reel: reel.number };
        match &mut player {
            None => {
                let mut judge = judge_for(&image, verifier.clone()).map_err(bad)?;
                let signer = Recorded {
                    me,
                    next: RefCell::default(),
                    missing: Cell::new(false),
                };
                let mut source = Source::new(&image, &mut judge);
                let core = Core::take_image(signer, &mut source).map_err(bad)?;
                source.end().map_err(bad)?;
                player = Some(Player::new(core, judge, reel.number == 0));
            }
            Some(player) => {
                if reel.number != last + 1 {
                    let (first, second) = (last, reel.number);
                    return Err(ReplayError::Gap { first, second });
                }
                let mut own = Vec::new();
                player.core.put_image(&mut own);
                if own != image {
                    let state = Mismatch::State { reel: reel.number };
                    player.report.mismatch = Some(state);
                } else {
                    player.report.states_compared += 1;
                }
            }
        }
        last = reel.number;
        if let Some(player) = &mut player {
            player.run(&mut frames, &mut each)?;
        }
    }
    player
        .map(|player| player.report)
        .ok_or(ReplayError::NoImage)
}

impl<V: Verifier> Player<V> {
    fn new(core: Core<Recorded>, judge: Compound<V>, from_boot: bool) -> Player<V> {
        let summary = core.summary();
        let report = Report {
            from_boot,
            config: *core.config(),
            start: summary,
            end: summary,
            inputs: 0,
            effects: 0,
            states_compared: 0,
            mismatch: None,
            ending: Ending::Whole,
        };
        Player {
            core,
            judge,
            out: Outbox::new(),
            report,
        }
    }

    fn run(
        &mut self,
        frames: &mut Frames<'_>,
        each: &mut impl FnMut(&Step<'_>),
    ) -> Result<(), ReplayError> {
        while self.report.mismatch.is_none() && self.report.ending == Ending::Whole {
            let malformed = ReplayError::Frame {
                reel: frames.reel.number,
                at: frames.at,
            };
            match frames.next()? {
                None => break,
                Some((FrameKind::Set, content)) => {
                    let mut source = Source::new(content, &mut self.judge);
                    let setting = take_setting(&mut source).map_err(|_| malformed)?;
                    setting.apply(&mut self.core, &mut self.out);
                    self.out.drain().for_each(drop);
                    self.report.end = self.core.summary();
                }
                Some((FrameKind::Input, content)) => {
                    let mut source = Source::new(content, &mut self.judge);
                    let (at, input) = take_input(&mut source).map_err(|_| malformed.clone())?;
                    match frames.next()? {
                        None => self.last(at, input, each),
                        Some((FrameKind::Outcome, outcome)) => {
                            if outcome.len() < 16 || !(outcome.len() - 16).is_multiple_of(64) {
                                return Err(malformed);
                            }
                            self.step(at, input, outcome, each);
                        }
                        Some(_) => return Err(malformed),
                    }
                }
                Some(_) => return Err(malformed),
            }
        }
        Ok(())
    }

    /// True when the core took the input without a panic.
    fn handle(&mut self, at: Instant, input: Input) -> bool {
        let (core, out) = (&mut self.core, &mut self.out);
        catch_unwind(AssertUnwindSafe(|| core.handle(at, input, out))).is_ok()
    }

    fn show(&mut self, at: Instant, input: &Input, each: &mut impl FnMut(&Step<'_>)) {
        let effects = self.out.effects();
        let summary = self.core.summary();
        each(&Step {
            number: self.report.inputs,
            at,
            input,
            effects,
            summary,
        });
        self.report.inputs += 1;
        self.report.effects += effects.len() as u64;
        self.report.end = summary;
    }

    fn step(
        &mut self,
        at: Instant,
        input: Input,
        outcome: &[u8],
        each: &mut impl FnMut(&Step<'_>),
    ) {
        let number = self.report.inputs;
        let (counted, signatures) = outcome.split_at(16);
        let signer = self.core.signer();
        let mut next = signer.next.borrow_mut();
        for signature in signatures.as_chunks::<64>().0 {
            next.push_back(Signature(*signature));
        }
        drop(next);
        if !self.handle(at, input.clone()) {
            self.report.mismatch = Some(Mismatch::Panicked { number, at });
            return;
        }
        let mut own = Vec::new();
        put_outcome(self.out.effects(), &mut own);
        let signer = self.core.signer();
        let signed_alike = signer.next.borrow().is_empty() && !signer.missing.get();
        if own != counted || !signed_alike {
            let mut recorded_effects = [0; 8];
            recorded_effects.copy_from_slice(&counted[..8]);
            self.report.mismatch = Some(Mismatch::Outcome {
                number,
                at,
                recorded_effects: u64::from_le_bytes(recorded_effects),
                replayed_effects: self.out.effects().len() as u64,
            });
        }
        self.show(at, &input, each);
        self.out.drain().for_each(drop);
    }

    /// The input in which the process ended: its signatures are not recorded.
    fn last(&mut self, at: Instant, input: Input, each: &mut impl FnMut(&Step<'_>)) {
        let number = self.report.inputs;
        let panicked_again = !self.handle(at, input.clone());
        self.report.ending = Ending::InInput {
            number,
            panicked_again,
        };
        self.show(at, &input, each);
        self.out.drain().for_each(drop);
    }
}

fn take_input<V: Verifier>(source: &mut Source<'_, V>) -> Result<(Instant, Input), BadImage> {
    let taken = Image::take(source)?;
    source.end()?;
    Ok(taken)
}

fn take_setting<V: Verifier>(source: &mut Source<'_, V>) -> Result<Setting, BadImage> {
    let (kind, value) = <(u8, u64)>::take(source)?;
    let on = value == 1;
    let setting = match kind {
        0 => Setting::LogFull(on),
        1 => Setting::Started(on),
        2 => Setting::Pending(Image::take(source)?, on),
        3 => Setting::RetainedFrom(Slot(value)),
        4 => Setting::ForgetRivals,
        5 => Setting::Served(value, Image::take(source)?),
        6 => Setting::Recall(on),
        7 => Setting::LastSlot(Slot(value)),
        _ => return Err(BadImage),
    };
    source.end()?;
    Ok(setting)
}
