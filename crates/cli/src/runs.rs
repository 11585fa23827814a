//! Run directories on this machine, and the peers in them.

use std::path::{Path, PathBuf};

use anyhow::Context;
pub(crate) use peerless_peer::local::{LocalPeer, PEER_COMMAND};
use peerless_peer::run_directory::{RunDirectory, RunDirectoryError};
use peerless_protocol::{PeerId, RunSpec};
use peerless_store::{Checkpoint, Checkpoints, DEFAULT_KEPT_CHECKPOINTS, Ledger, checkpoints_path, ledger_path};

use crate::failure::{Advise, advised, code};

/// Where runs are put and looked for, below the working directory.
pub(crate) const RUNS: &str = "runs";

/// Opens the run directory that was named, else the newest one below [`RUNS`].
pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<RunDirectory> {
    match path {
        Some(path) => open_named(path),
        None => {
            newest()?.context("there is no run in runs/").hint("name a run directory, or start one: peerless train")
        }
    }
}

fn open_named(path: &Path) -> anyhow::Result<RunDirectory> {
    let opened = RunDirectory::open(path);
    match opened {
        Err(RunDirectoryError::NotARun { .. }) => opened.hint("`peerless runs list` shows the runs that are here"),
        other => Ok(other?),
    }
}

fn newest() -> anyhow::Result<Option<RunDirectory>> {
    Ok(list(Path::new(RUNS))?.into_iter().filter_map(|(_, run)| run.ok()).next_back())
}

/// What is in each run directory below `folder`, oldest first; those that cannot be read at the end.
pub(crate) fn list(folder: &Path) -> anyhow::Result<Vec<(PathBuf, Result<RunDirectory, RunDirectoryError>)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut runs = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        match RunDirectory::open(&path) {
            Err(RunDirectoryError::NotARun { .. }) => {}
            run => runs.push((path, run)),
        }
    }
    let age = |run: &Result<RunDirectory, _>| run.as_ref().map_or(u64::MAX, RunDirectory::created_unix_us);
    runs.sort_by(|(path, run), (other_path, other)| (age(run), path).cmp(&(age(other), other_path)));
    Ok(runs)
}

/// The directory that a new run gets: `runs/MODEL-DATASET-ID`, with a number if that is taken.
pub(crate) fn free_directory(spec: &RunSpec) -> PathBuf {
    let base = default_directory(spec);
    let numbered = |number: u32| PathBuf::from(format!("{}-{number}", base.display()));
    if !base.exists() {
        return base;
    }
    (2..).map(numbered).find(|path| !path.exists()).unwrap_or(base)
}

/// `runs/MODEL-DATASET-ID`.
pub(crate) fn default_directory(spec: &RunSpec) -> PathBuf {
    Path::new(RUNS).join(format!("{}-{}-{}", spec.model, spec.dataset.name, spec.id().short()))
}

/// The peers that were started in a run directory.
pub(crate) fn peers(run: &RunDirectory) -> anyhow::Result<Vec<LocalPeer>> {
    let peers = run.peers()?.into_iter();
    peers.map(|(name, directory)| Ok(LocalPeer::read(name, directory)?)).collect()
}

/// The newest state that any peer of a run has on disk for good.
pub(crate) fn newest_checkpoint(run: &RunDirectory) -> anyhow::Result<(PathBuf, Checkpoint)> {
    let mut newest: Option<(PathBuf, Checkpoint)> = None;
    for (_, directory) in run.peers()? {
        let found = Checkpoints::new(&checkpoints_path(&directory), DEFAULT_KEPT_CHECKPOINTS).load_newest()?;
        for skipped in found.skipped {
            crate::output::label("warning", &format!("{} is damaged: {}", skipped.path.display(), skipped.reason));
        }
        let round = newest.as_ref().map(|(_, checkpoint)| checkpoint.reference.round);
        if let Some(candidate) = found.checkpoint.filter(|(_, found)| Some(found.reference.round) > round) {
            newest = Some(candidate);
        }
    }
    newest.ok_or_else(|| {
        let hint = format!("go on with it: peerless train --resume {}", run.path().display());
        advised(anyhow::anyhow!("{} has no checkpoint yet", run.path().display()), code::ERROR, Some(hint))
    })
}

/// What a peer has done since the run began, over all its processes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeerTotals {
    pub(crate) contributions: u64,
    pub(crate) backup_units: u64,
    pub(crate) invocations: u64,
    pub(crate) cold_starts: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    pub(crate) refused: u64,
    /// Largest resident set of a function, in bytes.
    pub(crate) function_memory: u64,
}

/// Reads a peer's totals from its ledger, which survives what its process does not.
pub(crate) fn totals(directory: &Path, peer: &PeerId) -> anyhow::Result<PeerTotals> {
    let ledger = Ledger::open_read_only(&ledger_path(directory))?;
    let invocations = ledger.invocation_totals()?;
    Ok(PeerTotals {
        contributions: ledger.accepted_contributions(peer)?,
        backup_units: ledger.backup_units()?,
        invocations: invocations.invocations,
        cold_starts: invocations.cold_starts,
        failed: invocations.failed,
        retried: invocations.retried,
        refused: ledger.refused()?,
        function_memory: invocations.peak_memory_bytes,
    })
}

/// Contributions of a peer to the rounds in another one's ledger.
pub(crate) fn contributions(directory: &Path, of: &PeerId) -> anyhow::Result<u64> {
    Ok(Ledger::open_read_only(&ledger_path(directory))?.accepted_contributions(of)?)
}
