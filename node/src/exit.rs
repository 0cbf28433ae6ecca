//! Exit codes of `hippo`, and errors that carry one.

use std::fmt;
use std::process::ExitCode;

/// Why the program ends; the number is what scripts see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Something failed that no other code names.
    Failure = 1,
    /// The command line or a configuration is wrong.
    Usage = 2,
    /// No quorum answered in time; the outcome may be unknown.
    NoQuorum = 3,
    /// The key is absent, or a condition did not hold.
    Absent = 4,
    /// The cluster does not serve.
    Unhealthy = 5,
    /// Data on this disk is damaged.
    Damaged = 6,
    /// The node refuses to start here.
    Preflight = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error and the exit code that it ends the program with.
#[derive(Debug)]
pub struct Refusal {
    pub exit: Exit,
    text: String,
}

/// What a command returns.
pub type Outcome = Result<Exit, Refusal>;

impl Refusal {
    /// One line: what is wrong, where, and what to do.
    pub fn new(exit: Exit, text: impl fmt::Display) -> Refusal {
        Refusal {
            exit,
            text: text.to_string(),
        }
    }

    pub fn preflight(text: impl fmt::Display) -> Refusal {
        Refusal::new(Exit::Preflight, text)
    }

    pub fn usage(text: impl fmt::Display) -> Refusal {
        Refusal::new(Exit::Usage, text)
    }

    pub fn failure(text: impl fmt::Display) -> Refusal {
        Refusal::new(Exit::Failure, text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<crate::config::ConfigError> for Refusal {
    fn from(error: crate::config::ConfigError) -> Refusal {
        Refusal::new(Exit::Usage, error)
    }
}

/// Turns any error into a refusal with a chosen code.
pub trait ExitContext<T> {
    /// `text` says what was tried; the error follows it.
    fn or_exit(self, exit: Exit, text: impl fmt::Display) -> Result<T, Refusal>;
}

impl<T, E: fmt::Display> ExitContext<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, text: impl fmt::Display) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::new(exit, format!("{text}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_manual() {
        let codes = [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::NoQuorum,
            Exit::Absent,
            Exit::Unhealthy,
            Exit::Damaged,
            Exit::Preflight,
        ];
        assert_eq!(codes.map(|code| code as u8), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn refusals_read_as_one_line() {
        let refused: Result<(), _> = Err("disk gone").or_exit(Exit::Damaged, "cannot read x");
        let refused = refused.unwrap_err();
        assert_eq!(refused.exit, Exit::Damaged);
        assert_eq!(refused.to_string(), "cannot read x: disk gone");
    }
}
