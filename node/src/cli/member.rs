//! `hippo member`: who belongs to the cluster, and where one node sees them.

mod change;

use clap::{Args, Subcommand};
use serde_json::Value;
use wire::committee::Committee;

use super::network::{self, NetworkArgs};
use super::output::{Format, Rows, print};
use crate::admin::Status;
use crate::admin::status::PeerStatus;
use crate::config::value::show_ns;
use crate::exit::{Exit, Outcome, Refusal};

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Print all members as one node sees them: address, state, round trip, loss
    ///
    /// Keys and configured addresses come from the committee file; the rest is what the asked node
    /// says. Exits 5 when no node answers; the committee file's part is printed all the same.
    List(ListArgs),
    /// Add a member; it votes as soon as it has the state
    ///
    /// Make its key first (`hippo key generate`); when this is done, give it the new committee file and
    /// `hippo recover`, then start it.
    Add(change::AddArgs),
    /// Remove a member; members with higher ids move down by one
    Remove(change::RemoveArgs),
    /// Put another key, and so another node, in the place of a member: for a lost disk, see `hippo recover`
    Replace(change::ReplaceArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Ask this node [default: the first one that answers]
    #[arg(long, value_name = "N")]
    node: Option<u16>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub fn run(command: &MemberCommand) -> Outcome {
    match command {
        MemberCommand::List(args) => list(args),
        MemberCommand::Add(args) => change::add(args),
        MemberCommand::Remove(args) => change::remove(args),
        MemberCommand::Replace(args) => change::replace(args),
    }
}

fn list(args: &ListArgs) -> Outcome {
    let committee = args.network.committee()?;
    let mut endpoints = args.network.endpoints(committee.n())?;
    if let Some(node) = args.node {
        endpoints.retain(|endpoint| endpoint.node == node);
        if endpoints.is_empty() {
            return Err(Refusal::usage(format!(
                "there is no node {node}: the committee has {}",
                committee.n()
            )));
        }
    }
    let answer = endpoints
        .iter()
        .find_map(|endpoint| network::status(endpoint).ok());
    print(table(&committee, answer.as_ref(), args.output));
    if answer.is_some() {
        return Ok(Exit::Ok);
    }
    let asked = match args.node {
        Some(node) => format!("node {node} does not answer"),
        None => "no node answers".to_owned(),
    };
    Err(Refusal::new(
        Exit::Unhealthy,
        format!("{asked}: where members are is not known. `hippo status` says why"),
    ))
}

fn table(committee: &Committee, status: Option<&Status>, format: Format) -> String {
    let mut rows = Rows::new(&[
        "member",
        "public_key",
        "configured",
        "address",
        "source",
        "state",
        "boot",
        "round_trip_ns",
        "loss",
        "last_word_age_ns",
        "committed_slot",
        "seen_by",
    ]);
    let seen_by = status.map_or(Value::Null, |status| status.node.into());
    for member in committee.members() {
        let id = member.id.0;
        let key = match format {
            Format::Table => member.public_key.to_string(),
            _ => format!("{:#}", member.public_key),
        };
        let mut row = vec![id.into(), key.into(), member.address.to_string().into()];
        match status {
            Some(status) if status.node == id => {
                row.extend([Value::Null, Value::Null, "asked".into(), status.boot.into()]);
                row.extend([Value::Null, Value::Null, Value::Null]);
                row.push(status.committed_slot.into());
            }
            Some(status) => match status.peers.iter().find(|peer| peer.id == id) {
                Some(peer) => row.extend(seen(peer, format)),
                None => row.extend(vec![Value::Null; 8]),
            },
            None => row.extend(vec![Value::Null; 8]),
        }
        row.push(seen_by.clone());
        rows.push(row);
    }
    rows.render(format)
}

fn seen(peer: &PeerStatus, format: Format) -> [Value; 8] {
    // People need no more than microseconds.
    let duration = |nanoseconds: Option<u64>| match (nanoseconds, format) {
        (None, _) => Value::Null,
        (Some(nanoseconds), Format::Table) => show_ns(nanoseconds / 1000 * 1000).into(),
        (Some(nanoseconds), _) => nanoseconds.into(),
    };
    let loss = match (peer.loss, format) {
        (None, _) => Value::Null,
        (Some(loss), Format::Table) => format!("{:.1}%", loss * 100.0).into(),
        (Some(loss), _) => loss.into(),
    };
    [
        peer.address.clone().into(),
        peer.address_source.clone().into(),
        peer.state.clone().into(),
        peer.boot.into(),
        duration(peer.round_trip_ns),
        loss,
        duration(peer.last_word_age_ns),
        peer.committed_slot.into(),
    ]
}

#[cfg(test)]
mod tests {
    use wire::committee::{CommitteeParts, Member, Preset};
    use wire::ids::{ClusterId, NodeId};
    use wire::keys::NodeSecret;

    use super::*;

    fn committee() -> Committee {
        let members = (0..4).map(|id| Member {
            id: NodeId(id),
            public_key: NodeSecret::generate(&[id as u8 + 1; 32])
                .unwrap()
                .public_key(),
            address: ([127, 0, 0, 1], 7100 + id).into(),
        });
        let members = members.collect();
        let parts = CommitteeParts::with_preset(ClusterId([1; 16]), members, Preset::Balanced);
        Committee::new(parts.unwrap()).unwrap()
    }

    #[test]
    fn members_are_listed_with_and_without_an_answer() {
        let peer = PeerStatus {
            id: 1,
            address: "127.0.0.1:9".to_owned(),
            address_source: "beacon".to_owned(),
            state: "up".to_owned(),
            round_trip_ns: Some(123_456),
            loss: Some(0.25),
            ..PeerStatus::default()
        };
        let status = Status {
            node: 0,
            peers: vec![peer],
            ..Status::default()
        };
        let text = table(&committee(), Some(&status), Format::Json);
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["state"], "asked");
        assert_eq!(rows[1]["address"], "127.0.0.1:9");
        assert_eq!(rows[1]["configured"], "127.0.0.1:7101");
        assert_eq!(
            (&rows[1]["round_trip_ns"], &rows[1]["loss"]),
            (&123_456.into(), &0.25.into())
        );
        assert_eq!(rows[2]["state"], Value::Null);
        let text = table(&committee(), Some(&status), Format::Table);
        assert!(text.contains("123us") && text.contains("25.0%"), "{text}");
        let text = table(&committee(), None, Format::Csv);
        assert!(text.lines().count() == 5 && text.ends_with(",\n"), "{text}");
    }
}
