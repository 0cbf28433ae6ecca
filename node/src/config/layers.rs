//! Flag over environment over file over default, and which of them each value came from.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use super::settings::{self, SETTINGS, Setting};
use super::value::{Value, nearest};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(String),
    Environment(String),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "flag --{flag}"),
            Origin::Environment(variable) => write!(f, "environment {variable}"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// What is wrong in a configuration; the text names the place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    #[error(
        "cannot read {path}: {reason}. `hippo testnet --output DIR` writes one per node, `hippo config sample` prints one"
    )]
    Unreadable { path: String, reason: String },
    #[error("{place}: {reason}")]
    Syntax { place: String, reason: String },
    #[error("{place}: unknown {what} `{name}`{hint}")]
    Unknown {
        place: String,
        what: &'static str,
        name: String,
        hint: String,
    },
    #[error("{place}: `{name}`: {reason}")]
    Invalid {
        place: String,
        name: String,
        reason: String,
    },
    #[error("{place}: `{name}` is missing and has no default")]
    Missing { place: String, name: String },
}

/// One setting's value and origin.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub setting: &'static Setting,
    pub value: Value,
    pub origin: Origin,
}

/// All settings, each with the value of the uppermost layer that has it.
#[derive(Clone, Debug)]
pub struct Layers {
    pub path: PathBuf,
    pub chosen: Vec<Chosen>,
}

/// Values from the command line, by setting.
pub type Flags = Vec<(&'static Setting, String)>;

impl Layers {
    /// Merges the layers. `environment` is the process's environment, or a test's.
    pub fn merge(
        path: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Layers, ConfigError> {
        let mut found: Vec<Option<(String, Origin)>> = vec![None; SETTINGS.len()];
        for (setting, value, origin) in file(path, text)? {
            found[place_of(setting)] = Some((value, origin));
        }
        for (setting, value, origin) in variables(environment)? {
            found[place_of(setting)] = Some((value, origin));
        }
        for (setting, value) in flags {
            let origin = Origin::Flag(setting.flag());
            found[place_of(setting)] = Some((value.clone(), origin));
        }
        let mut chosen = Vec::with_capacity(SETTINGS.len());
        for (setting, found) in SETTINGS.iter().zip(found) {
            let default = setting
                .default
                .map(|default| (default.to_owned(), Origin::Default));
            let Some((text, origin)) = found.or(default) else {
                return Err(ConfigError::Missing {
                    place: path.display().to_string(),
                    name: setting.name(),
                });
            };
            let value = setting
                .kind
                .parse(&text)
                .map_err(|reason| ConfigError::Invalid {
                    place: origin.to_string(),
                    name: setting.name(),
                    reason,
                })?;
            chosen.push(Chosen {
                setting,
                value,
                origin,
            });
        }
        Ok(Layers {
            path: path.to_owned(),
            chosen,
        })
    }

    /// The value of a setting that the table has.
    pub fn get(&self, section: &str, key: &str) -> &Chosen {
        self.chosen
            .iter()
            .find(|chosen| chosen.setting.section == section && chosen.setting.key == key)
            .expect("a setting of the table")
    }
}

fn place_of(setting: &Setting) -> usize {
    SETTINGS
        .iter()
        .position(|row| std::ptr::eq(row, setting) || row.name() == setting.name())
        .expect("a row of the table")
}

type Found = Vec<(&'static Setting, String, Origin)>;

fn file(path: &Path, text: &str) -> Result<Found, ConfigError> {
    let place = |at: usize| format!("{}:{}", path.display(), line_of(text, at));
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: place(error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    for (section, content) in table.get_ref().iter() {
        let name: &str = section.get_ref();
        let at = section.span().start;
        if !settings::sections().any(|known| known == name) {
            return Err(unknown(place(at), "section", name, settings::sections()));
        }
        let Some(content) = content.get_ref().as_table() else {
            return Err(ConfigError::Syntax {
                place: place(at),
                reason: format!("`{name}` is a section: write `[{name}]`"),
            });
        };
        for (key, value) in content.iter() {
            let at = key.span().start;
            let key: &str = key.get_ref();
            let Some(setting) = settings::find(name, key) else {
                let keys = SETTINGS
                    .iter()
                    .filter(|setting| setting.section == name)
                    .map(|setting| setting.key);
                return Err(unknown(place(at), "key", key, keys));
            };
            let text_of_value = plain(value.get_ref()).ok_or_else(|| ConfigError::Invalid {
                place: place(at),
                name: setting.name(),
                reason: format!("{} is not a value for it", value.get_ref().type_str()),
            })?;
            let origin = Origin::File {
                path: path.to_owned(),
                line: line_of(text, at),
            };
            found.push((setting, text_of_value, origin));
        }
    }
    Ok(found)
}

/// A value as text, for the one parser of all layers.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> =
                items.iter().map(|item| plain(item.get_ref())).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

fn variables(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Found, ConfigError> {
    let mut found = Vec::new();
    for (variable, value) in environment {
        let Some(setting) = SETTINGS
            .iter()
            .find(|setting| setting.variable() == variable)
        else {
            let of_a_section = settings::sections()
                .any(|section| variable.starts_with(&format!("HIPPO_{}_", section.to_uppercase())));
            if of_a_section {
                let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
                let known = known.iter().map(String::as_str);
                return Err(unknown(
                    "environment".to_owned(),
                    "variable",
                    &variable,
                    known,
                ));
            }
            continue;
        };
        found.push((setting, value, Origin::Environment(variable)));
    }
    Ok(found)
}

fn unknown<'a>(
    place: String,
    what: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> ConfigError {
    let known: Vec<&str> = known.collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; known are {}", known.join(", ")),
    };
    ConfigError::Unknown {
        place,
        what,
        name: name.to_owned(),
        hint,
    }
}

/// The line, from 1, in which the byte `at` lies.
fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(text: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<Layers, String> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Layers::merge(Path::new("node.toml"), text, environment, flags)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_uppermost_layer_wins() {
        let text = "[node]\nid = 2\n\n[threads]\nidle = \"spin\"\ncores = [0, 3]\n";
        let idle = settings::find("threads", "idle").unwrap();
        let from_file = merge(text, &[], &vec![]).unwrap();
        let chosen = from_file.get("threads", "idle");
        assert_eq!(chosen.origin.to_string(), "node.toml:5");
        assert_eq!(
            from_file.get("threads", "cores").value,
            Value::Cores(vec![0, 3])
        );
        assert_eq!(from_file.get("storage", "flush").origin, Origin::Default);

        let variable = [("HIPPO_THREADS_IDLE", "block")];
        let from_environment = merge(text, &variable, &vec![]).unwrap();
        let chosen = from_environment.get("threads", "idle");
        assert_eq!(chosen.value, Value::Text("block".to_owned()));
        assert_eq!(chosen.origin.to_string(), "environment HIPPO_THREADS_IDLE");

        let flags = vec![(idle, "spin-yield".to_owned())];
        let from_flag = merge(text, &variable, &flags).unwrap();
        let chosen = from_flag.get("threads", "idle");
        assert_eq!(chosen.value, Value::Text("spin-yield".to_owned()));
        assert_eq!(chosen.origin.to_string(), "flag --threads-idle");
    }

    #[test]
    fn unknown_names_are_placed_and_guessed() {
        let error = merge(
            "[node]\nid = 1\n[storage]\n\nsegmnt_bytes = 1\n",
            &[],
            &vec![],
        );
        assert_eq!(
            error.unwrap_err(),
            "node.toml:5: unknown key `segmnt_bytes`; did you mean `segment_bytes`?"
        );
        let error = merge("[nodes]\nid = 1\n", &[], &vec![]).unwrap_err();
        assert_eq!(
            error,
            "node.toml:1: unknown section `nodes`; did you mean `node`?"
        );
        let error = merge("[node]\nid = 1\n", &[("HIPPO_STORAGE_DIRCT", "1")], &vec![]);
        assert!(
            error
                .unwrap_err()
                .contains("did you mean `HIPPO_STORAGE_DIRECT`?")
        );
        assert!(merge("[node]\nid = 1\n", &[("HIPPO_NETWORK", "dir")], &vec![]).is_ok());
    }

    #[test]
    fn wrong_values_are_placed() {
        let error = merge(
            "[node]\nid = 1\n[storage]\nflush = \"never\"\n",
            &[],
            &vec![],
        );
        assert_eq!(
            error.unwrap_err(),
            "node.toml:4: `storage.flush`: expected one of dsync, fdatasync, got `never`"
        );
        let error = merge("", &[], &vec![]).unwrap_err();
        assert_eq!(error, "node.toml: `node.id` is missing and has no default");
        let error = merge("[node]\nid = \n", &[], &vec![]).unwrap_err();
        assert!(error.starts_with("node.toml:2: "), "{error}");
        let error = merge("node = 3\n", &[], &vec![]).unwrap_err();
        assert!(error.contains("write `[node]`"), "{error}");
    }
}
