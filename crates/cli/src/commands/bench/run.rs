//! A real `peerless train` as a child process, and its ledgers afterwards.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::PeerStatus;
use peerless_protocol::RunSpec;
use peerless_store::{Ledger, RoundRecord, ledger_path};

/// A finished run in a directory that goes with this value.
pub(super) struct FinishedRun {
    run: RunDirectory,
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
        Ok(Self { run: RunDirectory::open(&directory)?, _guard: guard })
    }

    /// What was trained.
    pub(super) fn spec(&self) -> &RunSpec {
        self.run.spec()
    }

    /// The last status of each peer.
    pub(super) fn statuses(&self) -> anyhow::Result<Vec<PeerStatus>> {
        let mut statuses = Vec::new();
        for (_, path) in self.run.peers()? {
            statuses.extend(PeerStatus::read(&path)?);
        }
        Ok(statuses)
    }

    /// The rounds that each peer has applied, by the peer's name.
    pub(super) fn rounds(&self) -> anyhow::Result<Vec<(String, Vec<RoundRecord>)>> {
        let peers = self.run.peers()?.into_iter();
        peers
            .map(|(name, path)| {
                let ledger = Ledger::open_read_only(&ledger_path(&path))?;
                Ok((name, ledger.rounds(0, u32::MAX)?))
            })
            .collect()
    }
}
