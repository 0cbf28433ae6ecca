//! The flight recorder: the last inputs of the core, with times, and a digest of what each led to.
//!
//! A *reel* begins with an image of the whole core and goes on with every input after it. When it is
//! full the next one begins, over the one before the last: so a tape of two reels always holds one
//! from which the present can be computed. What is recorded is the core of the agreement, not
//! payloads: digests, votes, messages and verdicts; of execution only what it told the core.
//!
//! Cost, on the thread that orders: an input is copied twice (60 to 250 bytes), its effects are
//! folded into one number at about a nanosecond for eight bytes, and nothing is locked. A new reel
//! costs an image, see [`Recorder::begin`]. Memory is taken once; only messages of view changes
//! that are larger than the scratch could make it grow, by their own bound.

use std::ops::Deref;

use consensus::image::{Fold, Image, Sink};
use consensus::{Core, Effect, Input, Outbox};
use wire::ids::{Instant, Slot};
use wire::seal::Signer;

use crate::recording::{FRAME_HEADER_BYTES, FrameKind};

/// Room that is left for what an input leads to: its digest, and signatures.
const OUTCOME_BYTES_MAX: usize = 8 * 1024;
/// An image is put on the tape in parts of this many bytes.
const PART_BYTES: usize = 16 * 1024;
/// A view change with its suffix over a whole window fits.
const SCRATCH_BYTES: usize = 256 * 1024;

/// Where the recorder writes; others may read it at the same time.
pub trait Tape: Send {
    /// Begins the next reel over the oldest.
    fn begin(&mut self);

    /// Bytes that still fit the reel.
    fn room(&self) -> usize;

    /// Appends a whole frame of whole 8-byte words, which fits; it is there or not, never in part.
    fn put(&mut self, frame: &[u8]);
}

/// What the caller sets beside inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    LogFull(bool),
    Started(bool),
    Pending(Option<Instant>, bool),
    RetainedFrom(Slot),
    /// Not settings: told anew each time.
    ForgetRivals,
    /// Bytes and operations.
    Served(u64, u64),
    Recall(bool),
    LastSlot(Slot),
}

impl Setting {
    pub(crate) fn put(&self, into: &mut Vec<u8>) {
        match *self {
            Setting::LogFull(on) => (0u8, u64::from(on)).put(into),
            Setting::Started(on) => (1u8, u64::from(on)).put(into),
            Setting::Pending(since, overdue) => {
                (2u8, u64::from(overdue), since).put(into);
            }
            Setting::RetainedFrom(slot) => (3u8, slot.0).put(into),
            Setting::ForgetRivals => (4u8, 0u64).put(into),
            Setting::Served(bytes, operations) => (5u8, bytes, operations).put(into),
            Setting::Recall(clean) => (6u8, u64::from(clean)).put(into),
            Setting::LastSlot(slot) => (7u8, slot.0).put(into),
        }
    }

    pub(crate) fn apply<S: Signer>(self, core: &mut Core<S>, out: &mut Outbox) {
        match self {
            Setting::LogFull(full) => core.set_log_full(full),
            Setting::Started(started) => core.set_started(started),
            Setting::Pending(since, overdue) => core.set_pending(since, overdue),
            Setting::RetainedFrom(slot) => core.set_retained_from(slot),
            Setting::ForgetRivals => core.forget_rivals(out),
            Setting::Served(bytes, operations) => core.note_executed(bytes, operations),
            Setting::Recall(clean) => core.recall(clean),
            Setting::LastSlot(slot) => core.set_last_slot(slot),
        }
    }
}

/// Writes what a core is told, and what it answered.
pub struct Recorder {
    tape: Box<dyn Tape>,
    scratch: Vec<u8>,
    /// What was set last, by the order of [`Setting`]: repetitions are not written.
    set: [Option<Setting>; 4],
    /// An image did not fit a reel: nothing more is recorded.
    given_up: bool,
}

impl Recorder {
    fn new(tape: Box<dyn Tape>) -> Recorder {
        Recorder {
            tape,
            scratch: Vec::with_capacity(SCRATCH_BYTES),
            set: [None; 4],
            given_up: false,
        }
    }

    /// A reel with the core as it is now. An image has about 200 bytes for each known block: less
    /// than a millisecond and a megabyte in the default window, once in many seconds under load.
    fn begin<S: Signer>(&mut self, core: &Core<S>) {
        self.tape.begin();
        let mut parts = Parts {
            tape: &mut *self.tape,
            frame: &mut self.scratch,
            fold: Fold::default(),
            fits: true,
        };
        open_frame(parts.frame);
        core.put_image(&mut parts);
        parts.flush();
        let (fold, fits) = (parts.fold.finish(), parts.fits);
        self.given_up = !fits;
        open_frame(&mut self.scratch);
        fold.put(&mut self.scratch);
        self.put(FrameKind::ImageEnd);
    }

    fn put(&mut self, kind: FrameKind) {
        close_frame(&mut self.scratch, kind);
        if self.scratch.len() > self.tape.room() {
            self.given_up = true;
        }
        if !self.given_up {
            self.tape.put(&self.scratch);
        }
    }

    /// Begins a reel when this frame, and what follows from it, might not fit.
    fn put_or_turn<S: Signer>(
        &mut self,
        core: &Core<S>,
        kind: FrameKind,
        write: impl Fn(&mut Vec<u8>),
    ) {
        if self.given_up {
            return;
        }
        open_frame(&mut self.scratch);
        write(&mut self.scratch);
        if self.scratch.len() + OUTCOME_BYTES_MAX > self.tape.room() {
            self.begin(core);
            open_frame(&mut self.scratch);
            write(&mut self.scratch);
        }
        self.put(kind);
    }

    fn input<S: Signer>(&mut self, core: &Core<S>, now: Instant, input: &Input) {
        self.put_or_turn(core, FrameKind::Input, |frame| {
            now.put(frame);
            input.put(frame);
        });
    }

    fn outcome<S: Signer>(&mut self, core: &mut Core<S>, effects: &[Effect]) {
        open_frame(&mut self.scratch);
        put_outcome(effects, &mut self.scratch);
        let scratch = &mut self.scratch;
        core.signatures_made(|signature| signature.put(scratch));
        self.put(FrameKind::Outcome);
    }

    fn set<S: Signer>(&mut self, core: &Core<S>, setting: Setting) {
        let last = match setting {
            Setting::LogFull(_) => Some(&mut self.set[0]),
            Setting::Started(_) => Some(&mut self.set[1]),
            Setting::Pending(..) => Some(&mut self.set[2]),
            Setting::RetainedFrom(_) => Some(&mut self.set[3]),
            Setting::ForgetRivals
            | Setting::Served(..)
            | Setting::Recall(_)
            | Setting::LastSlot(_) => None,
        };
        if let Some(last) = last
            && last.replace(setting) == Some(setting)
        {
            return;
        }
        self.put_or_turn(core, FrameKind::Set, |frame| setting.put(frame));
    }
}

/// What is compared of the effects of one input: how many, and the fold of their images.
pub(crate) fn put_outcome(effects: &[Effect], into: &mut Vec<u8>) {
    let mut fold = Fold::default();
    effects.iter().for_each(|effect| effect.put(&mut fold));
    (effects.len() as u64, fold.finish()).put(into);
}

fn open_frame(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(FRAME_HEADER_BYTES, 0);
}

fn close_frame(frame: &mut Vec<u8>, kind: FrameKind) {
    let bytes = (frame.len() - FRAME_HEADER_BYTES) as u32;
    frame[..4].copy_from_slice(&bytes.to_le_bytes());
    frame[4] = kind as u8;
    // Whole words: a tape that several threads see is made of them.
    frame.resize(frame.len().next_multiple_of(8), 0);
}

/// An image on its way to the tape, in parts.
struct Parts<'a> {
    tape: &'a mut dyn Tape,
    frame: &'a mut Vec<u8>,
    fold: Fold,
    fits: bool,
}

impl Parts<'_> {
    fn flush(&mut self) {
        self.fold.put(&self.frame[FRAME_HEADER_BYTES..]);
        close_frame(self.frame, FrameKind::ImagePart);
        self.fits &= self.frame.len() + OUTCOME_BYTES_MAX <= self.tape.room();
        if self.fits {
            self.tape.put(self.frame);
        }
        open_frame(self.frame);
    }
}

impl Sink for Parts<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.frame.extend_from_slice(bytes);
        if self.frame.len() >= PART_BYTES {
            self.flush();
        }
    }
}

/// A core under a recorder. There is no other way to change it, so nothing is missed.
pub(crate) struct Recorded<S: Signer> {
    core: Core<S>,
    recorder: Option<Recorder>,
}

impl<S: Signer> Deref for Recorded<S> {
    type Target = Core<S>;

    fn deref(&self) -> &Core<S> {
        &self.core
    }
}

impl<S: Signer> Recorded<S> {
    pub(crate) fn new(core: Core<S>) -> Recorded<S> {
        Recorded {
            core,
            recorder: None,
        }
    }

    /// Records from now on.
    pub(crate) fn record_to(&mut self, tape: Box<dyn Tape>) {
        let mut recorder = Recorder::new(tape);
        self.core.note_signatures();
        recorder.begin(&self.core);
        self.recorder = Some(recorder);
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input, out: &mut Outbox) {
        let Some(recorder) = &mut self.recorder else {
            return self.core.handle(now, input, out);
        };
        let before = out.effects().len();
        recorder.input(&self.core, now, &input);
        self.core.handle(now, input, out);
        recorder.outcome(&mut self.core, &out.effects()[before..]);
    }

    fn set(&mut self, setting: Setting) {
        self.set_with(setting, &mut Outbox::without_room());
    }

    fn set_with(&mut self, setting: Setting, out: &mut Outbox) {
        if let Some(recorder) = &mut self.recorder {
            recorder.set(&self.core, setting);
        }
        setting.apply(&mut self.core, out);
    }

    /// See [`Core::forget_rivals`]. What it forgets shows in the state.
    pub(crate) fn forget_rivals(&mut self, out: &mut Outbox) {
        self.set_with(Setting::ForgetRivals, out);
    }

    pub(crate) fn note_executed(&mut self, bytes: u64, operations: u64) {
        self.set(Setting::Served(bytes, operations));
    }

    pub(crate) fn recall(&mut self, clean: bool) {
        self.set(Setting::Recall(clean));
    }

    pub(crate) fn set_last_slot(&mut self, slot: Slot) {
        self.set(Setting::LastSlot(slot));
    }

    pub(crate) fn set_log_full(&mut self, full: bool) {
        self.set(Setting::LogFull(full));
    }

    pub(crate) fn set_started(&mut self, started: bool) {
        self.set(Setting::Started(started));
    }

    pub(crate) fn set_pending(&mut self, since: Option<Instant>, overdue: bool) {
        self.set(Setting::Pending(since, overdue));
    }

    pub(crate) fn set_retained_from(&mut self, slot: Slot) {
        self.set(Setting::RetainedFrom(slot));
    }
}
