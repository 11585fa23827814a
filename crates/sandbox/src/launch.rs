//! The launcher: restricts itself and becomes the program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use thiserror::Error;

use crate::policy::Policy;
use crate::{files, limits, syscalls};

/// Exit code of a launcher that could not restrict itself. These three are those of `env`.
pub const EXIT_NOT_ISOLATED: u8 = 125;
/// Exit code of a launcher that could not run the program.
pub const EXIT_NOT_RUN: u8 = 126;
/// Exit code of a launcher that did not find the program.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Why a launcher did not become its program.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The arguments are not a policy, `--` and a program.
    #[error("expected a policy, -- and a program: {0}")]
    Arguments(String),
    /// The parent ended before the launcher could say that it wants to end with it.
    #[error("the parent is gone")]
    Orphan,
    /// Something of the policy cannot be had here.
    #[error("cannot {what}: {reason}")]
    Restrict {
        /// What was to be done.
        what: &'static str,
        /// Why it cannot be.
        reason: String,
    },
    /// The program cannot be run.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl LaunchError {
    /// An error of [`LaunchError::Restrict`].
    pub(crate) fn restrict(what: &'static str, reason: impl ToString) -> Self {
        Self::Restrict { what, reason: reason.to_string() }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Orphan | Self::Restrict { .. } => EXIT_NOT_ISOLATED,
            Self::Run { source, .. } if source.kind() == io::ErrorKind::NotFound => EXIT_NOT_FOUND,
            Self::Run { .. } => EXIT_NOT_RUN,
        }
    }
}

/// Becomes the program that `arguments` name behind a policy and `--`. Returns only if that fails, with the reason on
/// stderr.
///
/// To be called by a process that has done nothing else yet: it must have a single thread.
pub fn launch(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let error = match become_program(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("the function was not started: {error}");
    ExitCode::from(error.exit_code())
}

enum Never {}

fn become_program(arguments: impl IntoIterator<Item = OsString>) -> Result<Never, LaunchError> {
    let mut arguments = arguments.into_iter();
    let missing = |what: &str| LaunchError::Arguments(format!("there is no {what}"));
    let policy = arguments.next().ok_or_else(|| missing("policy"))?;
    let policy: Policy = serde_json::from_slice(policy.as_encoded_bytes())
        .map_err(|error| LaunchError::Arguments(format!("the policy cannot be read: {error}")))?;
    if arguments.next().is_none_or(|separator| separator != "--") {
        return Err(missing("--"));
    }
    let program: PathBuf = arguments.next().ok_or_else(|| missing("program"))?.into();
    restrict(&policy)?;
    let source = Command::new(&program).args(arguments).exec();
    Err(LaunchError::Run { program, source })
}

/// The order matters: what opens files comes before what takes files away, and the filter of system calls, under
/// which the rest might not be possible, is last.
fn restrict(policy: &Policy) -> Result<(), LaunchError> {
    if let Some(parent) = policy.parent {
        limits::die_with(parent)?;
    }
    limits::close_inherited_files();
    for group in &policy.cgroups {
        std::fs::write(group, "0")
            .map_err(|error| LaunchError::restrict("join a cgroup", format!("{}: {error}", group.display())))?;
    }
    limits::set(policy.open_files)?;
    if let Some(allowed) = &policy.files {
        files::restrict(allowed)?;
    }
    if policy.refuse_system_calls {
        syscalls::restrict()?;
    }
    Ok(())
}
