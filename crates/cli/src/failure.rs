//! What a command that fails tells: an exit code, the reason and, where there is one, a way out.

use std::fmt;

/// Exit codes; [`HELP`] shows them to users.
pub(crate) mod code {
    /// Anything without a code of its own.
    pub(crate) const ERROR: u8 = 1;
    /// The command line makes no sense. Also clap's code.
    pub(crate) const USAGE: u8 = 2;
    /// Every peer is gone before the run is over.
    pub(crate) const RUN_FAILED: u8 = 3;
    /// A dataset is missing, damaged or another one than the run's.
    pub(crate) const DATA: u8 = 4;
    /// Another process has the address or the directory.
    pub(crate) const IN_USE: u8 = 5;
    /// Peers ended with different states.
    pub(crate) const DIVERGED: u8 = 6;
    /// A simulated run violated an invariant.
    pub(crate) const VIOLATED: u8 = 7;
    /// A run is not what its records must be.
    pub(crate) const NOT_VERIFIED: u8 = 8;
    /// The budget pays for no further round.
    pub(crate) const BUDGET: u8 = 9;
    /// A worker was lost of which all are needed.
    pub(crate) const WORKER_LOST: u8 = 10;
    /// Ctrl-C or SIGTERM.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// The exit codes for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    success
  1    error
  2    wrong usage
  3    every peer failed or was killed before the run was over
  4    a dataset is missing, damaged or not the run's
  5    another process uses the address or the directory
  6    peers ended with different states
  7    a simulated run violated an invariant
  8    a run did not pass verification
  9    the budget is used up before the run is over
  10   another worker of an all-reduce was lost (`peer start` only)
  130  interrupted";

/// An error with an exit code and a hint. Its text and its causes are those of the error inside.
#[derive(Debug)]
struct Advised {
    code: u8,
    hint: Option<String>,
    error: anyhow::Error,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// An error with an exit code and a hint.
pub(crate) fn advised(error: impl Into<anyhow::Error>, code: u8, hint: Option<String>) -> anyhow::Error {
    anyhow::Error::new(Advised { code, hint, error: error.into() })
}

/// Gives the error of a result an exit code and a hint.
pub(crate) trait Advise<T> {
    /// Sets the exit code.
    fn code(self, code: u8) -> anyhow::Result<T>;
    /// Says what can be done; the exit code is [`code::ERROR`].
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn code(self, code: u8) -> anyhow::Result<T> {
        self.map_err(|error| advised(error, code, None))
    }

    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| advised(error, code::ERROR, Some(hint.into())))
    }
}

/// The exit code of an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Advised>().map_or(code::ERROR, |advised| advised.code)
}

/// The hint that an error carries.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<Advised>()?.hint.as_deref()
}

/// The error and its causes in one line. A cause that the text before it already says, as libraries
/// that quote their source do, is not repeated.
pub(crate) fn message(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn code_and_hint_survive_added_context_and_the_cause_is_said_once() {
        let inner: Result<(), _> = Err(std::io::Error::other("no space"));
        let error = inner.hint("make room").context("cannot write: no space").unwrap_err();
        assert_eq!((exit_code(&error), hint(&error)), (code::ERROR, Some("make room")));
        assert_eq!(message(&error), "cannot write: no space");
    }

    #[test]
    fn an_error_without_advice_has_the_general_code() {
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!((exit_code(&error), hint(&error), message(&error).as_str()), (1, None, "outer: inner"));
    }
}
