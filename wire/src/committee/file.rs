//! `committee.toml`: the committee as people and commands read and write it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Deserialize;

use super::{
    Admission, ClientAuthentication, CommitteeParts, Member, Origin, ParameterError, Parameters,
    Preset, StateMachine, VoteAuthentication,
};
use crate::ids::{ClusterId, Digest, Epoch, NodeId, PublicKey, Slot, parse_hex};
use crate::keys::KeyError;
use crate::limits::{REPLICAS_MAX, SESSIONS_MAX};

/// Longest file that is read: every client of a full admission list, twice over.
pub const FILE_BYTES_MAX: usize = 256 * SESSIONS_MAX;

/// Why a committee is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitteeError {
    #[error("committee file: line {line}: {message}{}", hint(.nearest))]
    Syntax {
        line: usize,
        message: String,
        /// The known key that looks most like an unknown one.
        nearest: Option<String>,
    },
    #[error("committee file: {bytes} bytes, at most {FILE_BYTES_MAX} are read")]
    TooLong { bytes: usize },
    #[error("committee file: {field} = \"{value}\": expected {expected}")]
    Value {
        field: String,
        value: String,
        expected: &'static str,
    },
    #[error("committee of {0} members: 1 to {REPLICAS_MAX} are possible")]
    Size(usize),
    #[error("parameters for n = {n}, but {members} members")]
    MemberCount { n: usize, members: usize },
    #[error("member {id} stands at place {place}: ids run from 0 without gaps, in order")]
    MemberOrder { id: NodeId, place: usize },
    #[error("member {id}: public_key: {error}")]
    MemberKey { id: NodeId, error: KeyError },
    #[error("members {a} and {b} have the same public_key")]
    DuplicateKey { a: NodeId, b: NodeId },
    #[error("members {a} and {b} have the same address {address}")]
    DuplicateAddress {
        a: NodeId,
        b: NodeId,
        address: SocketAddr,
    },
    #[error("{0}")]
    Parameters(ParameterError),
    #[error("vote_authentication = \"mac\" needs F = q; here F = {fast}, q = {slow}")]
    MacNeedsNoSlowPath { fast: usize, slow: usize },
    #[error("admission lists {0} keys, at most {SESSIONS_MAX} are possible")]
    AdmissionTooLong(usize),
    #[error("admission: key {key:#}: {error}")]
    AdmissionKey { key: PublicKey, error: KeyError },
    #[error("operator: {0}")]
    OperatorKey(KeyError),
    #[error("origin: no epoch begins behind slot {0}")]
    OriginSlot(Slot),
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    #[serde(default)]
    epoch: u64,
    preset: Option<String>,
    b: Option<usize>,
    u: Option<usize>,
    p: Option<usize>,
    admission: Option<AdmissionField>,
    operator: Option<String>,
    client_authentication: Option<String>,
    vote_authentication: Option<String>,
    state_machine: Option<String>,
    origin: Option<OriginTable>,
    member: Vec<MemberTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginTable {
    slot: u64,
    block: String,
    state_root: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AdmissionField {
    Word(String),
    Keys(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    id: u16,
    public_key: String,
    address: String,
}

fn value(field: &str, value: &str, expected: &'static str) -> CommitteeError {
    CommitteeError::Value {
        field: field.to_owned(),
        value: value.chars().take(100).collect(),
        expected,
    }
}

fn key(field: &str, text: &str) -> Result<PublicKey, CommitteeError> {
    parse_hex(text)
        .map(PublicKey)
        .ok_or_else(|| value(field, text, "64 hexadecimal digits"))
}

/// Reads the file; what it says is checked by [`super::Committee::new`].
pub(super) fn parse(text: &str) -> Result<CommitteeParts, CommitteeError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(CommitteeError::TooLong { bytes: text.len() });
    }
    let file: File = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    let members = file
        .member
        .iter()
        .map(member)
        .collect::<Result<Vec<_>, _>>()?;
    let (preset, parameters) = parameters(&file)?;
    let cluster = parse_hex(&file.cluster)
        .map(ClusterId)
        .ok_or_else(|| value("cluster", &file.cluster, "32 hexadecimal digits"))?;
    Ok(CommitteeParts {
        cluster,
        epoch: Epoch(file.epoch),
        members,
        preset,
        parameters,
        admission: match &file.admission {
            None => Admission::Any,
            Some(AdmissionField::Word(word)) if word == "any" => Admission::Any,
            Some(AdmissionField::Word(word)) => {
                return Err(value("admission", word, "\"any\" or a list of public keys"));
            }
            Some(AdmissionField::Keys(keys)) => Admission::List(
                keys.iter()
                    .map(|text| key("admission", text))
                    .collect::<Result<_, _>>()?,
            ),
        },
        operator: match &file.operator {
            None => None,
            Some(text) => Some(key("operator", text)?),
        },
        client_authentication: match file.client_authentication.as_deref() {
            None | Some("signature") => ClientAuthentication::Signature,
            Some(other) => return Err(value("client_authentication", other, "\"signature\"")),
        },
        vote_authentication: match file.vote_authentication.as_deref() {
            None | Some("signature") => VoteAuthentication::Signature,
            Some("mac") => VoteAuthentication::Mac,
            Some(other) => {
                let expected = "\"signature\" or \"mac\"";
                return Err(value("vote_authentication", other, expected));
            }
        },
        state_machine: match file.state_machine.as_deref() {
            None | Some("kv") => StateMachine::Kv,
            Some("noop") => StateMachine::Noop,
            Some(other) => return Err(value("state_machine", other, "\"kv\" or \"noop\"")),
        },
        origin: file.origin.as_ref().map(origin).transpose()?,
    })
}

fn origin(table: &OriginTable) -> Result<Origin, CommitteeError> {
    let digest = |field: &str, text: &str| {
        parse_hex(text)
            .map(Digest)
            .ok_or_else(|| value(field, text, "64 hexadecimal digits"))
    };
    Ok(Origin {
        slot: Slot(table.slot),
        block: digest("origin block", &table.block)?,
        state_root: digest("origin state_root", &table.state_root)?,
    })
}

fn member(table: &MemberTable) -> Result<Member, CommitteeError> {
    let id = table.id;
    let address = table.address.parse().map_err(|_| {
        value(
            &format!("member {id} address"),
            &table.address,
            "an IP address and port, as 10.0.0.7:4100",
        )
    })?;
    Ok(Member {
        id: NodeId(id),
        public_key: key(&format!("member {id} public_key"), &table.public_key)?,
        address,
    })
}

fn parameters(file: &File) -> Result<(Preset, Parameters), CommitteeError> {
    let preset = match &file.preset {
        None => Preset::default(),
        Some(name) => Preset::parse(name).ok_or_else(|| {
            let expected = "balanced, latency, crash-heavy, safety-heavy or strict";
            value("preset", name, expected)
        })?,
    };
    let n = file.member.len();
    let parameters = match (file.b, file.u, file.p) {
        (Some(b), Some(u), Some(p)) => Parameters { n, b, u, p },
        (b, u, p) if preset.is_explicit() || n == 0 || n > REPLICAS_MAX => {
            if preset.is_explicit() {
                return Err(ParameterError::NotGiven(preset).into());
            }
            // Refused for its size by the check that follows.
            let (b, u, p) = (b.unwrap_or(0), u.unwrap_or(0), p.unwrap_or(0));
            Parameters { n, b, u, p }
        }
        (b, u, p) => {
            let settled = preset.parameters(n)?;
            Parameters {
                n,
                b: b.unwrap_or(settled.b),
                u: u.unwrap_or(settled.u),
                p: p.unwrap_or(settled.p),
            }
        }
    };
    Ok((preset, parameters))
}

/// Turns the parser's error into one with a line and, for an unknown key, a hint.
fn syntax(text: &str, error: &toml::de::Error) -> CommitteeError {
    let before = error
        .span()
        .and_then(|span| text.get(..span.start))
        .unwrap_or("");
    let message = error.message();
    let nearest = message.strip_prefix("unknown field `").and_then(|rest| {
        let mut quoted = rest.split('`').step_by(2);
        let unknown = quoted.next()?;
        quoted
            .filter(|known| !known.is_empty())
            .map(|known| (edit_distance(unknown, known), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len().div_ceil(2))
            .map(|(_, known)| known.to_owned())
    });
    CommitteeError::Syntax {
        line: before.matches('\n').count() + 1,
        message: message.trim().chars().take(400).collect(),
        nearest,
    }
}

/// Insertions, deletions and replacements that turn one word into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// Writes the file, every field spelled out.
pub(super) fn to_toml(parts: &CommitteeParts) -> String {
    let mut out = String::new();
    let Parameters { n: _, b, u, p } = parts.parameters;
    let mut line = |args: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{args}");
    };
    line(format_args!(
        "# What all replicas and clients of one cluster share."
    ));
    line(format_args!("cluster = \"{:#}\"", parts.cluster));
    line(format_args!("epoch = {}", parts.epoch));
    line(format_args!("preset = \"{}\"", parts.preset));
    line(format_args!("b = {b}"));
    line(format_args!("u = {u}"));
    line(format_args!("p = {p}"));
    match &parts.admission {
        Admission::Any => line(format_args!("admission = \"any\"")),
        Admission::List(keys) => {
            line(format_args!("admission = ["));
            for key in keys {
                line(format_args!("    \"{key:#}\","));
            }
            line(format_args!("]"));
        }
    }
    if let Some(operator) = &parts.operator {
        line(format_args!("operator = \"{operator:#}\""));
    }
    match parts.client_authentication {
        ClientAuthentication::Signature => {
            line(format_args!("client_authentication = \"signature\""));
        }
    }
    line(format_args!(
        "vote_authentication = \"{}\"",
        match parts.vote_authentication {
            VoteAuthentication::Signature => "signature",
            VoteAuthentication::Mac => "mac",
        }
    ));
    line(format_args!(
        "state_machine = \"{}\"",
        match parts.state_machine {
            StateMachine::Kv => "kv",
            StateMachine::Noop => "noop",
        }
    ));
    if let Some(origin) = &parts.origin {
        line(format_args!(
            "\n# This epoch begins with the state behind this slot."
        ));
        line(format_args!("[origin]"));
        line(format_args!("slot = {}", origin.slot));
        line(format_args!("block = \"{:#}\"", origin.block));
        line(format_args!("state_root = \"{:#}\"", origin.state_root));
    }
    for member in &parts.members {
        line(format_args!("\n[[member]]"));
        line(format_args!("id = {}", member.id));
        line(format_args!("public_key = \"{:#}\"", member.public_key));
        line(format_args!("address = \"{}\"", member.address));
    }
    out
}
