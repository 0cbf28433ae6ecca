//! Flight recordings of simulated servers: their replay must come to the same, in every run that
//! records, whatever the faults were.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use replica::recorder::Tape;
use replica::recording::{Reel, ReplayError, Report, replay};
use wire::ids::NodeId;
use wire::seal::Verifier;

/// Two reels, shared by a server and by who reads them.
#[derive(Clone, Debug)]
pub struct Reels {
    reel_bytes: usize,
    reels: Arc<Mutex<Vec<Reel>>>,
}

impl Reels {
    pub fn new(reel_bytes: usize) -> Reels {
        Reels {
            reel_bytes,
            reels: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Reel>> {
        self.reels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept now.
    pub fn kept(&self) -> Vec<Reel> {
        self.lock().clone()
    }

    /// Runs it again. A core that has much to remember may fit no reel as small as these are: then
    /// there is nothing to run.
    pub fn check(&self, me: NodeId, verifier: impl Verifier + Clone) -> Result<(), String> {
        let told = |what: String| format!("recording of replica {me}: {what}");
        let report = replay(me, &self.kept(), verifier, |_| {});
        match report {
            Ok(Report { mismatch: None, .. }) | Err(ReplayError::NoImage) => Ok(()),
            Ok(Report {
                mismatch: Some(found),
                ..
            }) => Err(told(format!("{found:?}"))),
            Err(error) => Err(told(error.to_string())),
        }
    }
}

impl Tape for Reels {
    fn begin(&mut self) {
        let mut reels = self.lock();
        let number = reels.last().map_or(0, |last| last.number + 1);
        if reels.len() == 2 {
            reels.remove(0);
        }
        let bytes = Vec::new();
        reels.push(Reel { number, bytes });
    }

    fn room(&self) -> usize {
        let used = self.lock().last().map_or(0, |last| last.bytes.len());
        self.reel_bytes - used
    }

    fn put(&mut self, frame: &[u8]) {
        let mut reels = self.lock();
        let last = reels.last_mut().expect("a reel was begun");
        last.bytes.extend_from_slice(frame);
        assert!(last.bytes.len() <= self.reel_bytes, "the frame fits");
    }
}
