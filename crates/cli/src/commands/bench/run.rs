//! A real `peerless train` as a child process, and its ledgers afterwards.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use peerless_peer::run_directory::RunDirectory;
use peerless_store::{Ledger, RoundRecord, ledger_path};

/// A finished run in a directory that goes with this value.
pub(super) struct FinishedRun {
    directory: PathBuf,
    _guard: tempfile::TempDir,
}

impl FinishedRun {
    /// Trains with these flags.
    pub(super) fn train(flags: &[String]) -> anyhow::Result<Self> {
        let guard = tempfile::tempdir().context("cannot make a temporary directory")?;
        let directory = guard.path().join("run");
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        let mut command = Command::new(program);
        command.args(["train", "--end-with-watcher", "--run-dir"]).arg(&directory).args(flags);
        let output = command.stderr(Stdio::piped()).output().context("cannot start the run")?;
        let talk = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the run failed ({}):\n{talk}", output.status);
        Ok(Self { directory, _guard: guard })
    }

    /// The rounds that each peer has applied, by the peer's name.
    pub(super) fn rounds(&self) -> anyhow::Result<Vec<(String, Vec<RoundRecord>)>> {
        let run = RunDirectory::open(&self.directory)?;
        let peers = run.peers()?.into_iter();
        peers
            .map(|(name, path)| {
                let ledger = Ledger::open_read_only(&ledger_path(&path))?;
                Ok((name, ledger.rounds(0, u32::MAX)?))
            })
            .collect()
    }
}
