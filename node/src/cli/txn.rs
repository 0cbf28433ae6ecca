//! `hippo txn`: conditions and operations, executed together or not at all.

use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use client::blocking::{TxnOutcome, TxnPart};
use serde_json::{Map, Value, json};
use wire::ops::{Condition, Operation};

use super::kv::{Caller, fields, insert_bytes, refusal};
use super::output::show_bytes;
use crate::exit::{Exit, Outcome};

#[derive(Debug, Args)]
pub struct TxnArgs {
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    caller: Caller,
}

/// Conditions and operations, each in the order of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    conditions: Vec<(Test, String, String)>,
    operations: Vec<(Action, String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equals,
    Absent,
    Present,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Put,
    Get,
    Delete,
}

const TESTS: [(&str, &str, Test, &str); 3] = [
    (
        "if",
        "KEY=VALUE",
        Test::Equals,
        "Only if the key holds the value",
    ),
    (
        "if-absent",
        "KEY",
        Test::Absent,
        "Only if the key is absent",
    ),
    ("if-present", "KEY", Test::Present, "Only if the key exists"),
];
const ACTIONS: [(&str, &str, Action, &str); 3] = [
    ("put", "KEY=VALUE", Action::Put, "Write the value"),
    ("get", "KEY", Action::Get, "Read the value"),
    ("delete", "KEY", Action::Delete, "Remove the key"),
];

fn argument(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .action(ArgAction::Append)
        .help(format!("{help}; may be given again"))
}

impl Args for Parts {
    fn augment_args(command: Command) -> Command {
        let tests = TESTS.map(|(name, value, _, help)| argument(name, value, help));
        let actions = ACTIONS.map(|(name, value, _, help)| argument(name, value, help));
        command
            .args(tests.map(|test| test.help_heading("Conditions (all must hold)")))
            .args(actions.map(|action| action.help_heading("Operations (in this order)")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Parts::augment_args(command)
    }
}

impl FromArgMatches for Parts {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Parts, Error> {
        let conditions = in_order(matches, TESTS)?;
        let operations = in_order(matches, ACTIONS)?;
        if operations.is_empty() {
            return Err(Error::raw(
                ErrorKind::MissingRequiredArgument,
                "a transaction needs at least one of --put, --get and --delete\n",
            ));
        }
        Ok(Parts {
            conditions,
            operations,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Parts::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Repeated flags of several names in the order in which they were written.
fn in_order<T: Copy>(
    matches: &ArgMatches,
    names: [(&'static str, &'static str, T, &'static str); 3],
) -> Result<Vec<(T, String, String)>, Error> {
    let mut found = Vec::new();
    for (name, shape, kind, _) in names {
        let indices = matches.indices_of(name).into_iter().flatten();
        let values = matches.get_many::<String>(name).into_iter().flatten();
        for (index, text) in indices.zip(values) {
            let (key, value) = if shape.contains('=') {
                text.split_once('=').ok_or_else(|| {
                    let message = format!("--{name} {text}: expected {shape}\n");
                    Error::raw(ErrorKind::ValueValidation, message)
                })?
            } else {
                (text.as_str(), "")
            };
            found.push((index, (kind, key.to_owned(), value.to_owned())));
        }
    }
    found.sort_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, part)| part).collect())
}

pub fn run(args: &TxnArgs) -> Outcome {
    let conditions: Vec<Condition<'_>> = args
        .parts
        .conditions
        .iter()
        .map(|(test, key, value)| {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            match test {
                Test::Equals => Condition::Equals { key, value },
                Test::Absent => Condition::Absent { key },
                Test::Present => Condition::Present { key },
            }
        })
        .collect();
    let operations: Vec<Operation<'_>> = args
        .parts
        .operations
        .iter()
        .map(|(action, key, value)| {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            match action {
                Action::Put => Operation::Put { key, value },
                Action::Get => Operation::Get { key },
                Action::Delete => Operation::Delete { key },
            }
        })
        .collect();
    let mut connection = args.caller.connect()?;
    let answer = connection.txn(&conditions, &operations).map_err(refusal)?;
    match &answer.value {
        TxnOutcome::Done(results) => {
            let named: Vec<(&str, &TxnPart)> = args
                .parts
                .operations
                .iter()
                .map(|(_, key, _)| key.as_str())
                .zip(results)
                .collect();
            let objects: Vec<Value> = named.iter().map(|(key, part)| object(key, part)).collect();
            let object = json!({ "done": true, "slot": answer.slot.0, "results": objects });
            let mut text = format!("done in slot {}\n", answer.slot);
            for (key, part) in &named {
                match part {
                    TxnPart::Value(value) => {
                        text.push_str(&format!("{key} = {}\n", show_bytes(value)));
                    }
                    TxnPart::Absent => text.push_str(&format!("{key} was absent\n")),
                    TxnPart::Done | TxnPart::Mismatch(_) => {}
                }
            }
            args.caller.print(fields(object), text.as_bytes());
            Ok(Exit::Ok)
        }
        TxnOutcome::Refused(index) => {
            let key = args.parts.conditions.get(*index).map(|(_, key, _)| key);
            let object = json!({
                "done": false, "slot": answer.slot.0, "condition": index, "key": key,
            });
            let name = key.cloned().unwrap_or_default();
            let text = format!("nothing done: condition {index} (on key {name}) does not hold\n");
            args.caller.print(fields(object), text.as_bytes());
            Ok(Exit::Absent)
        }
    }
}

fn object(key: &str, part: &TxnPart) -> Value {
    let mut object = Map::new();
    object.insert("key".to_owned(), key.into());
    match part {
        TxnPart::Done => {
            object.insert("done".to_owned(), true.into());
        }
        TxnPart::Absent => {
            object.insert("found".to_owned(), false.into());
        }
        TxnPart::Value(value) => insert_bytes(&mut object, "value", value),
        TxnPart::Mismatch(held) => {
            object.insert("done".to_owned(), false.into());
            insert_bytes(&mut object, "held", held.as_deref().unwrap_or_default());
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Parts, Error> {
        let command = Parts::augment_args(Command::new("txn"));
        let args = std::iter::once(&"txn").chain(args);
        Parts::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn the_order_of_the_command_line_is_kept() {
        let parts = parse(&[
            "--put",
            "a=1",
            "--if",
            "k=v=w",
            "--delete",
            "b",
            "--put",
            "c=",
            "--if-absent",
            "k2",
            "--get",
            "a",
        ])
        .unwrap();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            parts.operations,
            [
                (Action::Put, text("a"), text("1")),
                (Action::Delete, text("b"), text("")),
                (Action::Put, text("c"), text("")),
                (Action::Get, text("a"), text("")),
            ]
        );
        assert_eq!(
            parts.conditions,
            [
                (Test::Equals, text("k"), text("v=w")),
                (Test::Absent, text("k2"), text("")),
            ]
        );
    }

    #[test]
    fn shapes_are_checked() {
        assert!(parse(&["--put", "a"]).is_err());
        assert!(parse(&["--if", "a=b"]).is_err());
        assert!(parse(&["--get", "a"]).is_ok());
    }
}
