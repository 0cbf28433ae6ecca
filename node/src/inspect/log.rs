//! The log, record by record.

use storage::record::{Identity, Kind};
use storage::wal::{
    BodyFound, Cause, Damaged, Examined, Found, Geometry, Recovery, SegmentSource, Verdict,
    examine, recover,
};
use wire::ids::Position;

use super::records::{RecordJudge, Signatures, Told};

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    /// A check failed that recovery does not pass over.
    Damaged,
    /// Behind the end of the log: never acknowledged, and overwritten after the next start.
    Cut,
    /// A block whose leader or clients did not sign it: what a liar sends is recorded before it is
    /// verified, and nobody votes for it then. The disk is not to blame.
    Unsound,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Damaged => "damaged",
            State::Cut => "cut",
            State::Unsound => "unsound",
        }
    }
}

/// A record, or a place where one should be, and the result of every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub position: Position,
    pub segment: Option<u32>,
    pub kind: Option<Kind>,
    pub slot: Option<u64>,
    pub view: Option<u64>,
    /// Of the body; of a place without a record, those up to the next.
    pub bytes: u64,
    pub header: &'static str,
    pub place: &'static str,
    pub body: &'static str,
    pub chain: &'static str,
    /// Whether the body is one of its kind.
    pub form: &'static str,
    pub signatures: &'static str,
    pub state: State,
    pub note: String,
}

impl Row {
    /// Whether some check failed.
    pub fn failed(&self) -> bool {
        let failed = |result| !["ok", "-", "first", "unchecked"].contains(&result);
        let checks = [self.header, self.place, self.body, self.chain, self.form];
        failed(self.signatures) || checks.into_iter().any(failed)
    }
}

/// What a log holds, all rows counted.
#[derive(Debug)]
pub struct Report {
    /// Of recovery, the one that a start goes through.
    pub verdict: Result<Recovery, Damaged>,
    pub examined: Examined,
    /// Records whose header is intact.
    pub records: u64,
    /// Of these, with headers and padding.
    pub bytes: u64,
    pub damaged: u64,
    pub cut: u64,
    pub unsound: u64,
    /// Bytes in which no record was found, and something should be.
    pub skipped_bytes: u64,
}

impl Report {
    /// Whether more is wrong than a torn tail that was never acknowledged.
    pub fn is_damaged(&self) -> bool {
        self.verdict.is_err() || self.damaged > 0
    }

    /// What recovery says, in words.
    pub fn verdict_text(&self) -> String {
        let mut text = self.recovery_text();
        for found in &self.examined.segments {
            if found.is_foreign {
                let index = found.info.index;
                text += &format!("; segment file {index} belongs to another cluster, node or log");
            }
        }
        text
    }

    fn recovery_text(&self) -> String {
        match &self.verdict {
            Err(damaged) => format!("refused: {damaged}"),
            Ok(Recovery {
                verdict: Verdict::CutTail { from, cause },
                ..
            }) => format!(
                "torn tail: cut at position {from} ({cause}); nothing behind it was ever \
                 acknowledged"
            ),
            Ok(recovery) => format!("clean, ends at position {}", recovery.flushed().position()),
        }
    }
}

/// Reads the whole log three times: once for the verdict, once for an overview, once for the rows.
/// `show` gets every row, in the order of the log.
pub fn inspect<S: SegmentSource>(
    source: &mut S,
    geometry: &Geometry,
    identity: &Identity,
    judge: &mut RecordJudge,
    show: &mut dyn FnMut(Row),
) -> Report {
    let verdict = recover(source, geometry, identity, &mut |_| {});
    let end = verdict.as_ref().ok();
    let end = end.map(|recovery| recovery.flushed().position());
    let (mut records, mut bytes, mut skipped_bytes) = (0, 0, 0);
    let (mut damaged, mut cut, mut unsound) = (0, 0, 0);
    let examined = examine(source, geometry, identity, &mut |found| {
        let row = row(&found, end, judge);
        if let Some(end) = found.end() {
            records += 1;
            bytes += end.0 - found.position.0;
        }
        skipped_bytes += found.skipped_bytes;
        match row.state {
            State::Good => {}
            State::Damaged => damaged += 1,
            State::Cut => cut += 1,
            State::Unsound => unsound += 1,
        }
        show(row);
    });
    Report {
        verdict,
        examined,
        records,
        bytes,
        damaged,
        cut,
        unsound,
        skipped_bytes,
    }
}

/// `end`: of the log that recovery accepts.
fn row(found: &Found<'_>, end: Option<Position>, judge: &mut RecordJudge) -> Row {
    let told = match (found.header, found.body) {
        (Some(header), BodyFound::Good(body)) => Some(judge.judge(header.kind, body)),
        _ => None,
    };
    let (header, place) = match found.wrong {
        None => ("ok", "ok"),
        Some(Cause::HeaderForeign) => ("ok", "foreign"),
        Some(Cause::HeaderMisplaced) => ("ok", "misplaced"),
        Some(Cause::HeaderNewer) => ("newer", "ok"),
        Some(Cause::Unreadable) => ("unreadable", "-"),
        Some(Cause::HeaderTorn) => ("damaged", "-"),
        Some(_) => ("missing", "-"),
    };
    let body = match found.body {
        BodyFound::Good(_) => "ok",
        BodyFound::Torn => "damaged",
        BodyFound::Unreadable => "unreadable",
        BodyFound::TooLong => "too long",
        BodyFound::Unknown => "-",
    };
    let chain = match found.linked {
        Some(true) => "ok",
        Some(false) => "broken",
        None if found.header.is_some() => "first",
        None => "-",
    };
    let signatures = told.map(|told| told.signatures);
    let is_cut = end.is_some_and(|end| found.position >= end);
    let state = match told.map(is_sound) {
        _ if is_cut => State::Cut,
        Some(true) if found.is_good() => State::Good,
        Some(false) if found.is_good() && signatures.is_some_and(blames_a_liar) => State::Unsound,
        _ => State::Damaged,
    };
    Row {
        position: found.position,
        segment: found.segment,
        kind: found.header.map(|header| header.kind),
        slot: told.and_then(|told| told.slot).map(|slot| slot.0),
        view: told.and_then(|told| told.view).map(|view| view.0),
        bytes: match found.header {
            Some(header) => u64::from(header.body_bytes),
            None => found.skipped_bytes,
        },
        header,
        place,
        body,
        chain,
        form: match told.map(|told| told.malformed.is_none()) {
            Some(true) => "ok",
            Some(false) => "malformed",
            None => "-",
        },
        signatures: match signatures {
            Some(Signatures::Good) => "ok",
            Some(Signatures::Unchecked) => "unchecked",
            Some(Signatures::Bad(_)) => "bad",
            Some(Signatures::BadOfLeader) => "leader's bad",
            Some(Signatures::BadOfRequests) => "a request's bad",
            Some(Signatures::None) | None => "-",
        },
        state,
        note: note(found, told),
    }
}

fn is_sound(told: Told) -> bool {
    let hold = matches!(
        told.signatures,
        Signatures::None | Signatures::Good | Signatures::Unchecked
    );
    told.malformed.is_none() && hold
}

fn blames_a_liar(signatures: Signatures) -> bool {
    matches!(
        signatures,
        Signatures::BadOfLeader | Signatures::BadOfRequests
    )
}

fn note(found: &Found<'_>, told: Option<Told>) -> String {
    let mut notes = Vec::new();
    if let Some(cause) = found.wrong {
        let bytes = found.skipped_bytes;
        notes.push(format!("{cause}; {bytes} bytes skipped to the next record"));
    }
    let signatures = told.map(|told| told.signatures);
    if let Some(reject) = told.and_then(|told| told.malformed) {
        notes.push(reject.name().to_owned());
    } else if let Some(Signatures::Bad(reject)) = signatures {
        notes.push(reject.name().to_owned());
    }
    notes.join("; ")
}

#[cfg(test)]
mod tests;
