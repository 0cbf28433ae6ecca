//! One flag for each row of the table of settings.

use std::sync::LazyLock;

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::Flags;
use crate::config::settings::{SETTINGS, Setting};

/// Settings given on the command line; they win over environment and file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub flags: Flags,
}

/// Names of the flags, in the order of the table.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(Setting::flag).collect());

fn argument(setting: &'static Setting, flag: &'static str) -> Arg {
    let default = match setting.default {
        Some(default) => format!(" [default: {default}]"),
        None => String::new(),
    };
    Arg::new(flag)
        .long(flag)
        .value_name("VALUE")
        .help_heading("Settings (flag > environment > file > default)")
        .hide_short_help(true)
        .help(format!(
            "{}{default} [env: {}]",
            setting.help,
            setting.variable()
        ))
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let rows = SETTINGS.iter().zip(FLAGS.iter());
        command.args(rows.map(|(setting, flag)| argument(setting, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Overrides::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Overrides, Error> {
        let flags = SETTINGS.iter().filter_map(|setting| {
            let value = matches.get_one::<String>(&setting.flag())?;
            Some((setting, value.clone()))
        });
        Ok(Overrides {
            flags: flags.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Overrides::from_arg_matches(matches)?;
        Ok(())
    }
}
