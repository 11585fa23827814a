//! Processes beside a run that is trained here, each of its own so that nothing it does reaches this one.

use std::process::{Child, Command, Stdio};

use anyhow::Context;

use super::peers::Launch;

/// Starts this program once more for the run, with a pipe for stdin: the process is to end when that does, since it does
/// however this one ends.
pub(super) fn spawn(launch: &Launch, subcommand: &str, flags: &[&str], stdout: Stdio) -> anyhow::Result<Child> {
    let mut command = Command::new(&launch.program);
    command.arg(subcommand).arg(&launch.run).arg("--end-with-parent").args(flags);
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::inherit());
    // Ctrl-C in a terminal is for this process, which ends the others.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))
}
