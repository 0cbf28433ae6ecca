//! A flight recording as a file, and its replay.
//!
//! Everything little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 8 | `HIPPOREC` |
//! | 4 | version of this format, [`VERSION`] |
//! | 4 | bytes of the description, then the description: lines, and the committee file |
//! | 4 | reels, oldest first; for each: number u64, bytes u64, frames |
//! | 32 | BLAKE3 of all that |
//!
//! A frame is the length of its content (u32), its kind (u8), three zero bytes, its content, and zeros
//! up to a multiple of eight bytes, see [`FrameKind`]. Keys that sign are not in it. Requests are not in it either.

mod replay;

use std::fmt::Write as _;

use thiserror::Error;
use wire::committee::Committee;
use wire::ids::NodeId;

pub use replay::{Ending, Mismatch, ReplayError, Report, Step, replay};

/// Changes with the form of a file, of an image, an input or an effect.
pub const VERSION: u32 = 7;
const MAGIC: &[u8; 8] = b"HIPPOREC";
const DIGEST_BYTES: usize = 32;
pub(crate) const FRAME_HEADER_BYTES: usize = 8;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A part of the image of a core.
    ImagePart = 1,
    /// The image is whole; its fold.
    ImageEnd = 2,
    /// A time and an input.
    Input = 3,
    /// Effects of the input before, counted and folded, and the signatures made for them.
    Outcome = 4,
    /// What the caller set beside inputs.
    Set = 5,
}

impl FrameKind {
    fn of(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [ImagePart, ImageEnd, Input, Outcome, Set]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One piece of a tape: an image and what followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reel {
    /// The reel that begins when the process starts is 0.
    pub number: u64,
    pub bytes: Vec<u8>,
}

/// Who recorded, and why it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub node: NodeId,
    pub boot: u32,
    /// The program that wrote it; only the same one is sure to replay it.
    pub program: String,
    pub reason: String,
    /// Wall clock minus the clock of the recorded times, in nanoseconds.
    pub wall_offset_ns: u64,
    pub committee: Committee,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub description: Description,
    pub reels: Vec<Reel>,
}

/// Why a file is not a recording that can be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordingError {
    #[error("not a flight recording: the file does not begin with HIPPOREC")]
    Magic,
    #[error(
        "a recording of format {0}, this program reads format {VERSION}: use hippo-sim of the \
             version that recorded"
    )]
    Version(u32),
    #[error("the recording is cut off or damaged: its digest is wrong")]
    Digest,
    #[error("the recording is cut off: {0} bytes")]
    Truncated(usize),
    #[error("the recording's description is unreadable: {0}")]
    Description(String),
    #[error("the recording's reels do not fill the file")]
    Reels,
}

impl Recording {
    pub fn encode(&self) -> Vec<u8> {
        let Description {
            node,
            boot,
            program,
            reason,
            wall_offset_ns,
            committee,
        } = &self.description;
        let mut text = String::new();
        for (key, value) in [
            ("node", node.to_string()),
            ("boot", boot.to_string()),
            ("wall_offset_ns", wall_offset_ns.to_string()),
            ("program", one_line(program)),
            ("reason", one_line(reason)),
        ] {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push('\n');
        text.push_str(&committee.to_toml());
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&(self.reels.len() as u32).to_le_bytes());
        for reel in &self.reels {
            bytes.extend_from_slice(&reel.number.to_le_bytes());
            bytes.extend_from_slice(&(reel.bytes.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&reel.bytes);
        }
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    pub fn decode(file: &[u8]) -> Result<Recording, RecordingError> {
        let truncated = || RecordingError::Truncated(file.len());
        if file.get(..8).ok_or_else(truncated)? != MAGIC {
            return Err(RecordingError::Magic);
        }
        let version = number(file.get(8..12).ok_or_else(truncated)?) as u32;
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        let (content, digest) = file
            .split_last_chunk::<DIGEST_BYTES>()
            .ok_or_else(truncated)?;
        if blake3::hash(content).as_bytes() != digest {
            return Err(RecordingError::Digest);
        }
        let mut rest = content.get(12..).ok_or_else(truncated)?;
        let mut take = |count: u64| {
            let count = usize::try_from(count).map_err(|_| RecordingError::Reels)?;
            let (taken, after) = rest.split_at_checked(count).ok_or(RecordingError::Reels)?;
            rest = after;
            Ok(taken)
        };
        let length = number(take(4)?);
        let description = describe(take(length)?)?;
        let count = number(take(4)?);
        let mut reels = Vec::new();
        for _ in 0..count {
            let (number_of, length) = (number(take(8)?), number(take(8)?));
            let bytes = take(length)?.to_vec();
            reels.push(Reel {
                number: number_of,
                bytes,
            });
        }
        if !rest.is_empty() {
            return Err(RecordingError::Reels);
        }
        Ok(Recording { description, reels })
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn describe(bytes: &[u8]) -> Result<Description, RecordingError> {
    let bad = |what: &str| RecordingError::Description(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| bad("not text"))?;
    let (head, committee) = text.split_once("\n\n").ok_or_else(|| bad("no committee"))?;
    let find = |key: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(" = "));
        let found = lines.find(|(found, _)| *found == key);
        found.map(|(_, value)| value).ok_or_else(|| bad(key))
    };
    let committee = Committee::parse(committee).map_err(|error| bad(&error.to_string()))?;
    let node = NodeId(find("node")?.parse().map_err(|_| bad("node"))?);
    if node.index() >= committee.n() {
        return Err(bad("node"));
    }
    Ok(Description {
        node,
        boot: find("boot")?.parse().map_err(|_| bad("boot"))?,
        program: find("program")?.to_owned(),
        reason: find("reason")?.to_owned(),
        wall_offset_ns: find("wall_offset_ns")?
            .parse()
            .map_err(|_| bad("wall_offset_ns"))?,
        committee,
    })
}

#[cfg(test)]
mod tests;
