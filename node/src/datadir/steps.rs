//! From the hot thread that executes to the one that writes what it hands out, and back.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use platform::waker::Waker;
use replica::saving::Piece;

use crate::stages::Switch;
use crate::stages::links::{Inlet, Outlet, link};

/// How soon the thread sees that the node has ended.
const PAUSE: Duration = Duration::from_millis(50);
/// Steps on their way; four wait for an answer at most, beside those of files given up.
const STEPS: usize = 64;
/// An error without a number.
pub(super) const EIO: i32 = 5;

/// A step of writing, and the file that it belongs to: files are counted, so that nothing of one
/// that was given up is taken for an answer about the next.
#[derive(Debug)]
pub(super) struct Step {
    pub file: u64,
    pub piece: Piece,
}

#[derive(Debug)]
struct Answer {
    file: u64,
    result: Result<(), i32>,
}

/// The hot end: hands steps over and takes answers, and never waits.
pub struct SnapshotSteps {
    steps: Outlet<Step>,
    answers: Inlet<Answer>,
    thread: Thread,
    file: u64,
    failure: Arc<OnceLock<String>>,
}

/// The other end, which carries them out.
pub(super) struct Taken {
    steps: Inlet<Step>,
    answers: Outlet<Answer>,
    stopped: Arc<Switch>,
}

impl SnapshotSteps {
    /// Starts a thread of this name, which works until no step comes any more; `waker` is of the
    /// thread that hears the answers. Whoever sets `failure` ends the process.
    pub(super) fn start(
        name: &str,
        failure: Arc<OnceLock<String>>,
        stopped: Arc<Switch>,
        waker: Waker,
        work: impl FnOnce(Taken) + Send + 'static,
    ) -> io::Result<SnapshotSteps> {
        let (steps, taken) = link(STEPS, None);
        let (answering, answers) = link(STEPS, Some(waker));
        let taken = Taken {
            steps: taken,
            answers: answering,
            stopped,
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let handle = thread.spawn(move || work(taken))?;
        Ok(SnapshotSteps {
            steps,
            answers,
            thread: handle.thread().clone(),
            file: 0,
            failure,
        })
    }

    /// Why this process has to end, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether so many more steps find room.
    pub fn has_room(&self, steps: usize) -> bool {
        self.steps.room() >= steps
    }

    /// Hands a step over; the caller made sure of the room.
    pub fn push(&mut self, piece: Piece) {
        let file = self.file;
        if piece == Piece::Abort {
            self.file += 1;
        }
        if self.steps.push(Step { file, piece }).is_err() {
            unreachable!("room was checked");
        }
        self.thread.unpark();
    }

    /// The answer to the oldest unanswered step of the file under way.
    pub fn next_answer(&mut self) -> Option<Result<(), i32>> {
        while let Some(answer) = self.answers.pop() {
            if answer.file == self.file {
                return Some(answer.result);
            }
        }
        None
    }

    #[cfg(test)]
    pub(super) fn answers_waiting(&self) -> usize {
        self.answers.queued()
    }
}

impl Taken {
    /// Waits for the next step; none once the node has ended. While there is none, `idle` is called
    /// some times in a second.
    pub fn next(&mut self, mut idle: impl FnMut()) -> Option<Step> {
        while !self.stopped.get() {
            if let Some(step) = self.steps.pop() {
                return Some(step);
            }
            thread::park_timeout(PAUSE);
            idle();
        }
        None
    }

    /// Answers a step. As many answers wait as steps were unanswered.
    pub fn answer(&mut self, file: u64, result: Result<(), i32>) {
        if self.answers.push(Answer { file, result }).is_ok() {
            self.answers.wake();
        }
    }
}
