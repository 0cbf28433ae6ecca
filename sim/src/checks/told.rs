//! What clients were told, held against the decided log and real time (G6).

use client::{Failure, Way};

use super::{Check, Judge};
use crate::linear::{self, Checked, History};
use crate::model::Answer;
use crate::user::{Asked, Ended, User};

impl Judge {
    /// A client was told a result.
    pub fn ended(&mut self, ended: &Ended) -> Check {
        if self.beyond {
            return Ok(());
        }
        let (asked, slot) = (&ended.asked, ended.slot);
        let name = format!("client {} sequence {}", ended.client, asked.sequence);
        let told = match &ended.result {
            Ok(told) => told,
            Err(Failure::ResultLost) => return self.lost(ended),
            // §9.3: EXPIRED leaves outcomes unknown; it is said only where sessions are evicted.
            Err(Failure::Expired) if self.evicts => {
                let open = (None, u64::MAX);
                record(&mut self.history, asked, open, &asked.ask.unknown());
                return Ok(());
            }
            Err(failure) => return Err(format!("{name}: {failure}")),
        };
        let parts = asked.ask.told(told, &self.keys);
        let returned = (Some(ended.ended_ns), slot.0);
        record(&mut self.history, asked, returned, &parts);
        self.acknowledged += 1;
        if ended.way == Way::Fenced {
            return self.fenced(ended, told);
        }
        self.acknowledged_slot = self.acknowledged_slot.max(slot);
        match self
            .model
            .answer(&ended.client, ended.session, asked.sequence)
        {
            Some((at, answer)) if *at == slot && answer == told => {}
            expected => {
                return Err(format!(
                    "{name} was told {told:?} from slot {slot}, the decided log says {expected:?}"
                ));
            }
        }
        if slot < asked.after {
            return Err(format!(
                "real time: {name} was executed in slot {slot}, asked after an answer from slot {}",
                asked.after
            ));
        }
        Ok(())
    }

    /// §9.6: some state, no older than what anyone had been told of when the read was asked, answers
    /// this. Which state that was is not told, and the slot in the completion is not believed.
    fn fenced(&mut self, ended: &Ended, told: &Answer) -> Check {
        let asked = &ended.asked;
        match self.model.read_since(&asked.ask, told, asked.after) {
            Some(slot) => {
                self.acknowledged_slot = self.acknowledged_slot.max(slot);
                Ok(())
            }
            None => Err(format!(
                "fenced read: client {} was told {told:?} of {:?}; no state from slot {} to {} \
                 says so",
                ended.client,
                asked.ask,
                asked.after,
                self.model.slot()
            )),
        }
    }

    /// Sessions keep long results as digests only (§9.3): whoever asks late learns that the
    /// operation was executed, and no more.
    fn lost(&mut self, ended: &Ended) -> Check {
        let asked = &ended.asked;
        let returned = match asked.ask {
            // Executed, or refused: as good as unknown.
            crate::ask::Ask::Txn(..) => (None, u64::MAX),
            _ => (Some(ended.ended_ns), ended.slot.0),
        };
        record(&mut self.history, asked, returned, &asked.ask.unknown());
        let name = (&ended.client, ended.session, asked.sequence);
        match self.model.answer(name.0, name.1, name.2) {
            Some((_, answer)) if answer.is_long() => {
                self.results_lost += 1;
                Ok(())
            }
            answer => Err(format!(
                "{name:?} has no result, the decided log says {answer:?}"
            )),
        }
    }

    /// Whether some order of what the users saw is one that registers allow, when the run is over.
    pub fn linearizable(&mut self, users: &[User]) -> Result<Checked, String> {
        for asked in users.iter().flat_map(User::open) {
            let open = (None, u64::MAX);
            record(&mut self.history, asked, open, &asked.ask.unknown());
        }
        self.history.check(linear::STATES_MAX)
    }
}

/// What the checker of linearizability is to know of an operation; without an end, it stays open.
fn record(
    history: &mut History,
    asked: &Asked,
    (return_ns, hint): (Option<u64>, u64),
    parts: &[crate::ask::KeyPart],
) {
    let parts = parts
        .iter()
        .map(|(key, step, seen)| (&key[..], *step, *seen));
    history.record(asked.asked_ns, return_ns, hint, parts);
}
