//! `hippo status` and `hippo health`: what all nodes of a network say of themselves.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::network::{self, Endpoint, NetworkArgs};
use super::output::{Format, Rows, print};
use crate::admin::Status;
use crate::admin::health::State;
use crate::config::value::{parse_duration_ns, show_bytes};
use crate::exit::{Exit, Outcome};
use crate::prepare::quorum_of;
use crate::telemetry::PeerState;

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Ask twice, this far apart, and print the commit rate
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ns)]
    interval: Option<u64>,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// Ask only this node whether it is ready
    #[arg(long, value_name = "N")]
    node: Option<u16>,
}

type Answers = Vec<Result<Status, String>>;

pub fn status(args: &StatusArgs) -> Outcome {
    let committee = args.network.committee()?;
    let endpoints = args.network.endpoints(committee.n())?;
    let asked = Instant::now();
    let mut answers = network::statuses(&endpoints);
    let mut rates = vec![None; answers.len()];
    if let Some(interval_ns) = args.interval {
        thread::sleep(Duration::from_nanos(interval_ns));
        let seconds = asked.elapsed().as_secs_f64();
        let later = network::statuses(&endpoints);
        for ((rate, before), after) in rates.iter_mut().zip(&answers).zip(&later) {
            if let (Ok(before), Ok(after)) = (before, after)
                && before.boot == after.boot
            {
                let committed = after
                    .committed_transactions
                    .saturating_sub(before.committed_transactions);
                *rate = Some((committed as f64 / seconds) as u64);
            }
        }
        answers = later;
    }
    print(table(&endpoints, &answers, &rates, args.output));
    let verdict = judge(&answers, quorum_of(&committee));
    if args.output == Format::Table {
        print(format!("\n{}\n", verdict.text));
    }
    Ok(verdict.exit)
}

pub fn health(args: &HealthArgs) -> Outcome {
    let committee = args.network.committee()?;
    let endpoints = args.network.endpoints(committee.n())?;
    if let Some(node) = args.node {
        let Some(endpoint) = endpoints.get(usize::from(node)) else {
            return Err(crate::exit::Refusal::usage(format!(
                "there is no node {node}: the committee has {}",
                endpoints.len()
            )));
        };
        return Ok(match network::get(endpoint.address, "/readyz") {
            Ok((200, _)) => {
                print("ready\n");
                Exit::Ok
            }
            Ok((_, reason)) => {
                print(reason);
                Exit::Unhealthy
            }
            Err(reason) => {
                print(format!("node {node} is down: {reason}\n"));
                Exit::Unhealthy
            }
        });
    }
    let verdict = judge(&network::statuses(&endpoints), quorum_of(&committee));
    print(format!("{}\n", verdict.text));
    Ok(verdict.exit)
}

fn table(
    endpoints: &[Endpoint],
    answers: &Answers,
    rates: &[Option<u64>],
    format: Format,
) -> String {
    let mut rows = Rows::new(&[
        "node",
        "state",
        "view",
        "leader",
        "committed_slot",
        "executed_slot",
        "transactions",
        "tps",
        "log_used",
        "log_max",
        "boot",
        "peers_up",
        "reason",
    ]);
    let size = |bytes: u64| match format {
        Format::Table => Value::from(show_bytes(bytes)),
        _ => Value::from(bytes),
    };
    for ((endpoint, answer), rate) in endpoints.iter().zip(answers).zip(rates) {
        match answer {
            Ok(status) => rows.push(vec![
                endpoint.node.into(),
                status.state.clone().into(),
                status.view.into(),
                status.leader.into(),
                status.committed_slot.into(),
                status.executed_slot.into(),
                status.committed_transactions.into(),
                rate.map_or(Value::Null, Value::from),
                size(status.log.used_bytes),
                size(status.log.max_bytes),
                status.boot.into(),
                up_of(status).into(),
                status.reason.clone().into(),
            ]),
            Err(reason) => {
                let mut row = vec![Value::Null; 13];
                row[0] = endpoint.node.into();
                row[1] = "down".into();
                row[12] = reason.clone().into();
                rows.push(row);
            }
        }
    }
    rows.render(format)
}

/// Peers that this node calls up.
fn up_of(status: &Status) -> usize {
    let up = PeerState::Up.name();
    let peers = status.peers.iter();
    peers.filter(|peer| peer.state == up).count()
}

struct Verdict {
    exit: Exit,
    text: String,
}

/// The cluster serves when at least a slow quorum serves, its leader among them.
fn judge(answers: &Answers, quorum: usize) -> Verdict {
    let serving = |answer: &Result<Status, String>| matches!(answer, Ok(status) if status.state == State::Serving.name());
    let count = answers.iter().filter(|answer| serving(answer)).count();
    let dead: Vec<String> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.is_err())
        .map(|(node, _)| node.to_string())
        .collect();
    let mut lines = Vec::new();
    if !dead.is_empty() {
        lines.push(format!("down: node {}", dead.join(", ")));
    }
    let newest = answers.iter().flatten().max_by_key(|status| status.view);
    let leader = newest.map(|status| usize::from(status.leader));
    let leader_answer = leader.and_then(|leader| answers.get(leader));
    let stopped = answers
        .iter()
        .flatten()
        .find(|status| status.state == State::StoppedLeader.name());
    let silent = answers
        .iter()
        .flatten()
        .find(|status| status.state == State::StoppedSilent.name());
    let exit = if let Some(status) = silent
        && count < quorum
    {
        lines.push(status.reason.clone());
        Exit::Unhealthy
    } else if let (Some(leader), Some(Err(_))) = (leader, leader_answer) {
        lines.push(format!(
            "leader {leader} is down: the others are about to replace it"
        ));
        Exit::Unhealthy
    } else if let Some(Ok(status)) = leader_answer
        && status.state != State::Serving.name()
    {
        // Nothing commits without the leader, whatever the others can do.
        lines.push(status.reason.clone());
        Exit::Unhealthy
    } else if let Some(status) = stopped
        && count < quorum
    {
        lines.push(status.reason.clone());
        Exit::Unhealthy
    } else if count < quorum {
        lines.push(format!(
            "{count} of {} nodes serve, {quorum} are needed to commit",
            answers.len()
        ));
        Exit::Unhealthy
    } else {
        lines.push(format!("serving: {count} of {} nodes", answers.len()));
        Exit::Ok
    };
    Verdict {
        exit,
        text: lines.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: u16, state: State) -> Result<Status, String> {
        Ok(Status {
            node,
            state: state.name().to_owned(),
            ..Status::default()
        })
    }

    fn all(state: State) -> Answers {
        (0..4).map(|node| answer(node, state)).collect()
    }

    #[test]
    fn healthy_with_one_follower_down() {
        let mut answers = all(State::Serving);
        answers[3] = Err("refused".to_owned());
        let verdict = judge(&answers, 3);
        assert_eq!(verdict.exit, Exit::Ok);
        assert_eq!(verdict.text, "down: node 3\nserving: 3 of 4 nodes");
    }

    #[test]
    fn a_dead_leader_is_named() {
        let mut answers = all(State::StoppedLeader);
        answers[0] = Err("refused".to_owned());
        let verdict = judge(&answers, 3);
        assert_eq!(verdict.exit, Exit::Unhealthy);
        assert!(
            verdict
                .text
                .contains("leader 0 is down: the others are about to replace it")
        );
    }

    #[test]
    fn a_leader_that_may_not_propose_is_unhealthy_alone() {
        let mut answers = all(State::Serving);
        answers[0] = Ok(Status {
            state: State::StoppedLeader.name().to_owned(),
            reason: "leader 0 restarted".to_owned(),
            ..Status::default()
        });
        let verdict = judge(&answers, 3);
        assert_eq!(verdict.exit, Exit::Unhealthy);
        assert_eq!(verdict.text, "leader 0 restarted");
    }

    #[test]
    fn too_many_silent_nodes_are_said_first() {
        let mut answers = all(State::StoppedSilent);
        for status in answers.iter_mut().flatten() {
            status.reason = "nothing commits: silent".to_owned();
        }
        answers[0] = Err("refused".to_owned());
        let verdict = judge(&answers, 3);
        assert_eq!(verdict.exit, Exit::Unhealthy);
        assert!(verdict.text.contains("nothing commits: silent"));
    }

    #[test]
    fn too_few_serve() {
        let mut answers = all(State::Serving);
        answers[1] = answer(1, State::LogFull);
        answers[2] = Err("refused".to_owned());
        let verdict = judge(&answers, 3);
        assert_eq!(verdict.exit, Exit::Unhealthy);
        assert!(verdict.text.contains("2 of 4 nodes serve, 3 are needed"));
        let nobody: Answers = (0..4).map(|_| Err("refused".to_owned())).collect();
        let verdict = judge(&nobody, 3);
        assert_eq!(verdict.exit, Exit::Unhealthy);
        assert!(verdict.text.contains("down: node 0, 1, 2, 3"));
    }

    #[test]
    fn rows_for_programs_have_plain_numbers() {
        let endpoints: Vec<Endpoint> = (0..2)
            .map(|node| Endpoint {
                node,
                address: "127.0.0.1:1".parse().unwrap(),
            })
            .collect();
        let answers = vec![answer(0, State::Serving), Err("refused".to_owned())];
        let text = table(&endpoints, &answers, &[Some(7), None], Format::Json);
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[0]["tps"], 7);
        assert_eq!(rows[0]["log_used"], 0);
        assert_eq!(rows[1]["state"], "down");
        assert_eq!(rows[1]["reason"], "refused");
    }
}
